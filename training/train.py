"""Train the embedded vocoder.

    python -m training.train DATA RUN

`DATA` is what `training.prepare` wrote. `RUN` receives `checkpoint.pt` (everything needed to go on:
the same command resumes), `losses.csv`, `losses.png`, and at the end `config.yaml` and
`model.safetensors`, which `load_vocoder("RUN")` loads. It trains on CUDA where there is one.

The rate rises over a short warm-up, stays, and falls to zero along a cosine over the last
`--decay` steps: a run that has not begun to fall can be resumed with more steps. The first
`--alone` steps compare the network's magnitudes with the original's, which is quick; the
others also decode them by the head's projections, and compare the waveform with the mel.
"""

# A script may print (T201).

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.models import VocosBackbone

from melcheck.recipes import VOCOS
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from training.beginning import begin
from training.crops import Crops
from training.losses import Losses, Objective

DIM = 160

CONFIG: dict[str, dict[str, Any]] = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {
            "sample_rate": VOCOS.sample_rate,
            "n_fft": VOCOS.n_fft,
            "hop_length": VOCOS.hop_length,
            "n_mels": VOCOS.n_mels,
            "padding": "center",
        },
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {
            "input_channels": VOCOS.n_mels,
            "dim": DIM,
            "intermediate_dim": 480,
            "num_layers": 3,
        },
    },
    "head": {
        "class_path": "melcheck.consistent_head.ConsistentISTFTHead",
        "init_args": {
            "dim": DIM,
            "n_fft": VOCOS.n_fft,
            "hop_length": VOCOS.hop_length,
            "padding": "center",
            "sample_rate": VOCOS.sample_rate,
            "n_mels": VOCOS.n_mels,
            "num_projections": 2,
            "num_quarter_projections": 6,
            "num_eighth_projections": 12,
        },
    },
}

SEED = 7
BATCH = 8
CROP_HOPS = 63
PEAK_RATE = 5e-4
WARM_UP_STEPS = 200
BETAS = (0.9, 0.99)
# Of the embedding and its norm. A log-mel has a mean of -6 and reaches a unit by 700 taps, so that
# a step of Adam moves every one of these weights alike and the output by nats: at the whole rate
# the error of 0.19 nats, with which the training begins, was 1.5 after 200 steps.
EMBEDDING_RATE = 0.01
MAX_GRADIENT_NORM = 1.0
MAX_FAILED = 5
AVERAGE_DECAY = 0.999
_AVERAGE_WARM_UP = 10
CHECKPOINT_SECONDS = 120.0
LOG_EVERY = 100


@dataclass(frozen=True, slots=True)
class _Training:
    objective: Objective
    average: AveragedModel
    optimizer: torch.optim.AdamW

    def state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "model": self.objective.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> int:
        self.objective.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


def build() -> Vocos:
    """Return the untrained model of `CONFIG`."""
    return Vocos(
        MelSpectrogramFeatures(**CONFIG["feature_extractor"]["init_args"]),
        VocosBackbone(**CONFIG["backbone"]["init_args"]),
        ConsistentISTFTHead(**CONFIG["head"]["init_args"]),
    )


def _groups(model: Vocos) -> list[dict[str, Any]]:
    slow = [*model.backbone.embed.parameters(), *model.backbone.norm.parameters()]
    apart = {id(parameter) for parameter in slow}
    others = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    return [{"params": others, "share": 1.0}, {"params": slow, "share": EMBEDDING_RATE}]


def rate(step: int, *, steps: int, decay: int) -> float:
    """Return the learning rate of a step: warm-up, plateau, cosine to zero."""
    if step < WARM_UP_STEPS:
        return PEAK_RATE * (step + 1) / WARM_UP_STEPS
    into = max(0, step - (steps - decay)) / max(decay, 1)
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * min(into, 1.0)))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: see the module."""
    parser = argparse.ArgumentParser(description="Train the embedded vocoder.")
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--decay", type=int, default=15_000, help="last steps, to rate 0")
    parser.add_argument("--alone", type=int, default=20_500, help="first steps, without decoding")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    given.run.mkdir(parents=True, exist_ok=True)
    crops = Crops.load(given.data, crop_samples=CROP_HOPS * VOCOS.hop_length, seed=SEED)
    model = build()
    checkpoint = given.run / "checkpoint.pt"
    if not checkpoint.exists():
        begin(model, crops)
    objective = Objective(model).to(given.device)
    training = _Training(
        objective,
        AveragedModel(model, avg_fn=_moving_average),
        torch.optim.AdamW(_groups(model), lr=PEAK_RATE, betas=BETAS, weight_decay=0.0, fused=True),
    )
    first = 0
    if checkpoint.exists():
        first = training.load(torch.load(checkpoint, map_location="cpu", weights_only=True))
    _train(training, crops, given, first)
    export(training.average.module, given.run)
    _draw(given.run)
    return 0


def _moving_average(average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
    """Forget quickly at first, so that a short training is not averaged with its beginning."""
    num = float(updates)
    decay = min(AVERAGE_DECAY, (1 + num) / (_AVERAGE_WARM_UP + num))
    return average.lerp(current, 1 - decay)


def _train(training: _Training, crops: Crops, given: argparse.Namespace, first: int) -> None:
    model = training.objective.model
    seen: list[Tensor] = []
    saved = time.monotonic()
    failed = 0
    progress = tqdm(
        range(first, given.steps), initial=first, total=given.steps, mininterval=5, unit="step"
    )
    for step in progress:
        for group in training.optimizer.param_groups:
            group["lr"] = group["share"] * rate(step, steps=given.steps, decay=given.decay)
        waveforms = crops.batch(step, BATCH).to(given.device)
        losses = training.objective(waveforms, through_projections=step >= given.alone)
        training.optimizer.zero_grad()
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        if math.isfinite(float(norm)):
            failed = 0
            training.optimizer.step()
            training.average.update_parameters(model)
            seen.append(torch.stack([getattr(losses, name).detach() for name in _NAMES]))
        else:
            # Unrolled projections divide by magnitudes: a rare batch has none.
            failed += 1
            tqdm.write(f"step {step}: the gradient is not finite, and is left out", file=sys.stderr)
            if failed == MAX_FAILED:
                raise FloatingPointError(f"{failed} gradients in a row must be finite, got none.")
        if seen and ((step + 1) % LOG_EVERY == 0 or step + 1 == given.steps):
            mean = torch.stack(seen).mean(dim=0).tolist()
            seen.clear()
            _log(given.run / "losses.csv", step + 1, mean)
            progress.set_postfix(bands=f"{mean[0]:.3f}", mel=f"{mean[4]:.3f}")
        if time.monotonic() - saved > CHECKPOINT_SECONDS or step + 1 == given.steps:
            partial = given.run / "checkpoint.partial"
            torch.save(training.state(step + 1), partial)
            partial.replace(given.run / "checkpoint.pt")
            saved = time.monotonic()


_NAMES = tuple(field.name for field in fields(Losses))


def _log(path: Path, step: int, mean: list[float]) -> None:
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", *_NAMES])
        writer.writerow([step, *(f"{value:.5f}" for value in mean)])


def _draw(run: Path) -> None:
    from matplotlib.figure import Figure

    with (run / "losses.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="step", ylabel="loss", yscale="log", title="Mean of 100 batches"
    )
    for name in _NAMES:
        # What the steps without decoding do not measure is 0.
        known = [row for row in rows if float(row[name])]
        if known:
            steps = [int(row["step"]) for row in known]
            axes.plot(steps, [float(row[name]) for row in known], label=name)
    figure.legend(loc="outside right upper")
    figure.savefig(run / "losses.png", dpi=100)


def export(model: nn.Module, run: Path) -> None:
    """Write `config.yaml` and `model.safetensors`: weights in fp16, window and filters in fp32."""
    parameters = dict(model.named_parameters())
    state = {
        name: (tensor.half() if name in parameters else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, run / "model.safetensors")
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
