"""Time the same encode and decode by other packages, in turns with melcheck's.

    pip install -e '.[peers]' && python -m benchmarks.peers

`vocos` called as its README calls it, librosa (encode), ONNX Runtime (decode of the same weights,
exported here) and Griffin-Lim (decode). The contenders take turns, call by call, so that a busy
machine disturbs all of them alike; the speed over eager is the median ratio over the turns. A
package that is absent is left out with the reason, and one whose result differs is never timed: see
`TOLERANCES`.

The exported graph ends at the complex spectrum; torch inverts the STFT, as it does in `vocos`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vocos.heads import ISTFTHead

from melcheck._version import __version__
from melcheck.benchmark.cases import MODES, PAPER_SIZE, RANDOM, Case, Stage, bench_vocoder, in_mode
from melcheck.benchmark.measure import make_inputs
from melcheck.benchmark.roofline import seconds_of
from melcheck.cli.output import Terminal
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder, full_float32

TOLERANCES = {"vocos": 1e-6, "librosa": 1e-4, "onnxruntime": 1e-4}
"""How far a peer's result may be from ours: largest difference over largest value.

Seen on the CPU: 0, 3e-6 and 3e-6, rounding; a wrong window, scale or padding is above 1e-2.
Griffin-Lim is another algorithm, and its result is not compared.
"""

# The same edges by NumPy's names.
_PAD_MODES: dict[str, Any] = {"reflect": "reflect", "constant": "constant", "replicate": "edge"}
_TURNS = (3, 30)
_MAX_MAGNITUDE = 1e2  # as in ISTFTHead
_OPSET = 17

Call = Callable[[Tensor], Tensor]
Maker = Callable[[VocosVocoder], Call]


class PeerAbsentError(RuntimeError):
    """A peer that cannot run here, with the reason."""


@dataclass(frozen=True, slots=True)
class PeerTimes:
    """One contender's calls.

    Attributes:
        case: What was computed; its mode is "peers/" and the contender's name.
        vocoder: Name of the weights.
        durations_seconds: Duration of each call.
        speedup: Median over the turns of eager's time / this one's: above 1, this one is faster.
        deviation: Largest difference from the reference over the largest value; None where it was
            not compared.
    """

    case: Case
    vocoder: str
    durations_seconds: tuple[float, ...]
    speedup: float
    deviation: float | None

    @property
    def p50_seconds(self) -> float:
        """The median call."""
        return statistics.median(self.durations_seconds)

    def as_dict(self) -> dict[str, object]:
        """Return everything but the single calls, for JSON."""
        return {
            "vocoder": self.vocoder,
            "stage": self.case.stage,
            "device": self.case.device,
            "batch": self.case.size.batch,
            "seconds": self.case.size.seconds,
            "precision": self.case.precision,
            "mode": self.case.mode,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "melcheck": __version__,
            "p50_seconds": self.p50_seconds,
            "x_real_time": self.case.size.audio_seconds / self.p50_seconds,
            "speedup_over_eager": self.speedup,
            "deviation": self.deviation,
        }

    def row(self) -> tuple[str, ...]:
        """Return the row of the table."""
        name, milliseconds = self.case.mode.removeprefix("peers/"), 1000 * self.p50_seconds
        ratio = f"{self.speedup:.2f}"
        return (name, self.case.stage, str(self.case.size), f"{milliseconds:.2f}", ratio)


def measure_peers(
    vocoder: VocosVocoder,
    case: Case,
    inputs: list[Tensor],
    *,
    seconds: float = 1.0,
    peers: Mapping[str, Mapping[Stage, Maker]] | None = None,
    tolerances: Mapping[str, float] = TOLERANCES,
    reference: str = "eager",
) -> tuple[list[PeerTimes], dict[str, str]]:
    """Time every mode of ours and every peer in turns.

    Args:
        vocoder: On the case's device.
        case: "encode" or "decode"; its mode does not matter.
        inputs: From `melcheck.benchmark.measure.make_inputs`.
        seconds: For about how long, within 3 to 30 turns.
        peers: Who else takes part; None takes `PEERS`, which compute in fp32.
        tolerances: How far each may be from the reference; who has none is not compared.
        reference: The mode of ours that results are compared with.

    Returns:
        The contenders, "eager" first, and for each one that was left out the reason.
    """
    contenders: dict[str, Call] = {
        mode: getattr(in_mode(vocoder, mode, case.precision), case.stage) for mode in MODES
    }
    absent: dict[str, str] = {}
    deviations: dict[str, float | None] = dict.fromkeys(contenders, 0.0)
    expected = contenders[reference](inputs[0])
    for name, stages in (PEERS if peers is None else peers).items():
        try:
            if case.stage not in stages:
                continue
            call = stages[case.stage](vocoder)
            deviations[name] = None
            if name in tolerances:
                # A peer may multiply in TF32 on CUDA, as it does by default: not while compared.
                with full_float32:
                    deviations[name] = _deviation(expected, call(inputs[0]))
                _hold(deviations[name], tolerances[name])
        except PeerAbsentError as error:
            absent[name] = str(error)
        else:
            contenders[name] = call
    once = sum(seconds_of(call, inputs[0]) for call in contenders.values())
    turns = max(_TURNS[0], min(_TURNS[1], round(seconds / once)))
    durations: dict[str, list[float]] = {name: [] for name in contenders}
    names, count = list(contenders), 0
    for turn in range(turns):
        # Each goes first in its turn: who follows another finds other things in the cache.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            count += 1
            durations[name].append(seconds_of(contenders[name], inputs[count % len(inputs)]))
    times = [
        PeerTimes(
            case=Case(case.stage, case.device, case.size, case.precision, f"peers/{name}"),
            vocoder=vocoder.info.name,
            durations_seconds=tuple(taken),
            speedup=statistics.median(
                eager / own for eager, own in zip(durations["eager"], taken, strict=True)
            ),
            deviation=deviations[name],
        )
        for name, taken in durations.items()
    ]
    return times, absent


def _deviation(reference: Tensor, estimate: Tensor) -> float:
    if reference.shape != estimate.shape:
        return float("inf")
    return float((reference - estimate).abs().max() / reference.abs().max())


def _hold(deviation: float | None, tolerance: float) -> None:
    if deviation is not None and not deviation <= tolerance:
        raise PeerAbsentError(
            f"its result differs from ours by {deviation:.1e} of the largest value, where "
            f"{tolerance:.0e} is allowed: not the same computation, so not timed"
        )


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise PeerAbsentError(f"the package {package} is not installed: pip install -e '.[peers]'")


def _on_the_cpu(vocoder: VocosVocoder, name: str) -> None:
    if vocoder.device.type != "cpu":
        raise PeerAbsentError(f"{name} is compared on the CPU, and this run is on {vocoder.device}")


def _vocos_encode(vocoder: VocosVocoder) -> Call:
    extractor: Call = vocoder.model.feature_extractor
    return extractor


def _vocos_decode(vocoder: VocosVocoder) -> Call:
    decode: Call = vocoder.model.decode
    return decode


def _librosa_encode(vocoder: VocosVocoder) -> Call:
    _on_the_cpu(vocoder, "librosa")
    _require("librosa")
    import librosa
    import numpy as np

    recipe = vocoder.recipe
    if recipe.padding != "center":
        raise PeerAbsentError(f"librosa has no padding {recipe.padding!r}")

    def encode(waveform: Tensor) -> Tensor:
        mel: Any = librosa.feature.melspectrogram(
            y=waveform.numpy(),
            sr=recipe.sample_rate,
            n_fft=recipe.n_fft,
            win_length=recipe.win_length,
            hop_length=recipe.hop_length,
            n_mels=recipe.n_mels,
            fmin=recipe.f_min,
            fmax=recipe.f_max,
            htk=recipe.mel_scale == "htk",
            norm=recipe.norm,
            power=recipe.power,
            pad_mode=_PAD_MODES[recipe.pad_mode],
        )
        return torch.from_numpy(np.log(np.maximum(mel, recipe.floor)))

    return encode


class _UpToSpectrum(nn.Module):
    """Backbone and head of a Vocos, up to the real and the imaginary part of the spectrum."""

    def __init__(self, backbone: nn.Module, out: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.out = out

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        log_magnitude, phase = self.out(self.backbone(mel)).transpose(1, 2).chunk(2, dim=1)
        magnitude = torch.clip(torch.exp(log_magnitude), max=_MAX_MAGNITUDE)
        return magnitude * torch.cos(phase), magnitude * torch.sin(phase)


def _onnx_decode(vocoder: VocosVocoder) -> Call:
    _on_the_cpu(vocoder, "onnxruntime")
    for package in ("onnx", "onnxruntime"):
        _require(package)
    model = vocoder.model
    if type(model.head) is not ISTFTHead:
        raise PeerAbsentError(
            f"the head {type(model.head).__name__} takes STFTs within, and is not exported"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        _exported(_UpToSpectrum(model.backbone, model.head.out), vocoder.recipe.n_mels),
        options,
        providers=["CPUExecutionProvider"],
    )

    @torch.inference_mode()
    def decode(mel: Tensor) -> Tensor:
        real, imaginary = session.run(None, {"mel": mel.numpy()})
        spectrum = torch.complex(torch.from_numpy(real), torch.from_numpy(imaginary))
        waveform: Tensor = model.head.istft(spectrum)
        return waveform

    return decode


def _exported(module: nn.Module, n_mels: int) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter by tracing is deprecated for the one that needs onnxscript; both give this
        # graph, and tracing needs one package less.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, n_mels, 32),),
            file,  # type: ignore[arg-type]  # takes a file, too
            input_names=["mel"],
            output_names=["real", "imaginary"],
            dynamic_axes={
                "mel": {0: "batch", 2: "frames"},
                "real": {0: "batch", 2: "frames"},
                "imaginary": {0: "batch", 2: "frames"},
            },
            opset_version=_OPSET,
            dynamo=False,
        )
    return file.getvalue()


def _griffin_lim_decode(vocoder: VocosVocoder) -> Call:
    griffin_lim = load_vocoder("griffin-lim", device=vocoder.device)
    if griffin_lim.recipe != vocoder.recipe:
        raise PeerAbsentError(
            "Griffin-Lim is made for the mel of Vocos, and this vocoder has a different one"
        )
    return griffin_lim.decode


PEERS: dict[str, dict[Stage, Maker]] = {
    "vocos": {"encode": _vocos_encode, "decode": _vocos_decode},
    "librosa": {"encode": _librosa_encode},
    "onnxruntime": {"decode": _onnx_decode},
    "griffin-lim": {"decode": _griffin_lim_decode},
}
"""Makes the function of each peer, by the peer's name and the stage."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Time encode and decode of 16 x 1 s, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--vocoder", default=RANDOM, help="a Vocos (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="time of each stage (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args(arguments)
    vocoder = bench_vocoder(options.vocoder, options.device)
    if not isinstance(vocoder, VocosVocoder):
        parser.error(f"--vocoder must be a Vocos, got {options.vocoder!r}.")
    found: list[PeerTimes] = []
    absent: dict[str, str] = {}
    stages: tuple[Stage, ...] = ("encode", "decode")
    for stage in stages:
        case = Case(stage, options.device, PAPER_SIZE, "fp32", "eager")
        times, missing = measure_peers(
            vocoder, case, make_inputs(vocoder, case), seconds=options.seconds
        )
        found += times
        absent |= missing
    rows = [peer.row() for peer in found]
    terminal = Terminal()
    terminal.print(
        terminal.table(("in turns", "stage", "size", "p50 ms", "speed over eager"), rows)
    )
    for name, reason in absent.items():
        terminal.print(f"left out: {name}: {reason}")
    if options.json is not None:
        content = {"peers": [peer.as_dict() for peer in found], "absent": absent}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
