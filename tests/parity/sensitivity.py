"""Print how far the embedded vocoder's head magnifies a small change of the network's output.

    python -m tests.parity.sensitivity

The features of each clip are changed at random, by 1e-7 and 1e-6 of their standard deviation, and
what comes of it is divided by that: of the waveform the root mean square by the waveform's, of its
log-mel the mean difference in nats, over all cells and over those within 60 dB of their frame's
loudest band. 1e-7 is less than a float32's last bit, so that what it makes is rounding anew.
Beside the whole head stand parts of it, and what the mel makes of changes of the samples alone.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.recipes import log_mel
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
CLIPS = (
    "austen-0870.flac",
    "kokoro-gap.flac",
    "kokoro-kumo-en.wav",
    "drums-clicks.flac",
    "guitar-stereo.flac",
)
SECONDS = 3.0
CHANGES = (1e-7, 1e-6)
SEEDS = 3
_NEAR_NATS = 6.9  # 60 dB
_OFF_THE_FLOOR_NATS = 3.0


def changed(values: Tensor, change: float, seed: int) -> Tensor:
    """Return values with noise of a share of their standard deviation."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    return values + change * values.std() * noise


def pairs(
    vocoder: VocosVocoder, head: ConsistentISTFTHead, features: Tensor, change: float, seed: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield what is measured: a waveform, and what it becomes by the change."""
    retrieval, moved = head.phase_retrieval, changed(features, change, seed)
    waveform = head(features)
    yield "the head", waveform, head(moved)
    pitch, turns, steps = retrieval.pitch_hz, retrieval.turns, retrieval.steps
    kept = pitch(retrieval.whole.spread(head.bands(features)))
    retrieval.turns, retrieval.steps = (0,) * len(turns), 0
    yield "its first phases alone", head(features), head(moved)
    # A function in place of the method: the pitch of the unchanged features.
    retrieval.pitch_hz = lambda _: kept  # type: ignore[assignment,method-assign]
    yield "the same, pitch kept", head(features), head(moved)
    retrieval.turns, retrieval.steps = turns, steps
    yield "the head, pitch kept", waveform, head(moved)
    retrieval.pitch_hz = pitch  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(seed)
    share = 1 + change * torch.randn(waveform.shape, generator=generator)
    yield "each sample by that share of itself", waveform, waveform * share


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    vocoder = load_vocoder("embedded")
    assert isinstance(vocoder, VocosVocoder)
    head = vocoder.model.head
    assert isinstance(head, ConsistentISTFTHead)
    found: dict[tuple[float, str], list[tuple[float, float, float]]] = {}
    for clip in CLIPS:
        audio = load_audio(MelCheckConfig(AUDIO / clip, target_duration=SECONDS))
        with torch.inference_mode():
            features = vocoder.run_backbone(vocoder.encode(audio.waveform))
            for change in CHANGES:
                for seed in range(SEEDS):
                    for name, before, after in pairs(vocoder, head, features, change, seed):
                        mels = [log_mel(each, vocoder.recipe) for each in (before, after)]
                        apart, level = (mels[0] - mels[1]).abs(), mels[0]
                        near = level > level.amax(dim=1, keepdim=True) - _NEAR_NATS
                        near &= level > vocoder.recipe.log_floor + _OFF_THE_FLOOR_NATS
                        wave = (before - after).norm() / before.norm()
                        figures = (wave, apart.mean(), apart[near].mean())
                        found.setdefault((change, name), []).append(
                            (figures[0].item(), figures[1].item(), figures[2].item())
                        )
    print("| change | of | waveform | mel | mel within 60 dB |")
    print("|---|---|---|---|---|")
    for (change, name), rows in sorted(found.items(), key=lambda item: item[0][0]):
        gains = [statistics.fmean(column) / change for column in zip(*rows, strict=True)]
        print(f"| {change:g} | {name} | {' | '.join(f'{gain:.0f}' for gain in gains)} |")


if __name__ == "__main__":
    main()
