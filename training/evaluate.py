"""Measure vocoders side by side on speech that no training step saw.

    python -m training.evaluate --vocoder RUN --vocoder griffin-lim:128 --audio NAME=FOLDER

prints, in Markdown, one table per folder of audio: each vocoder's figures over its clips (the first
3 s of each), then the worst of the gates' three figures at peaks from -24 to -0.5 dBFS. `--speed`
adds the decoding speed beside the official configuration with random weights, both in one run.

PESQ and STOI come from `training.perceptual`: 4.64 and 1 for identical waveforms.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.audio import load_audio
from melcheck.clips import find_clips
from melcheck.config import MelCheckConfig
from melcheck.metrics import MelMetrics, compare, multi_resolution_stft_distance
from melcheck.recipes import VOCOS
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.griffin_lim import GriffinLimVocoder
from melcheck.vocoders.load import load_vocoder
from training.perceptual import pesq_wb, stoi

PEAKS_DBFS = (-24.0, -12.0, -6.0, -0.5)
_AT_THE_FLOOR = 1e-3
SPEED_FRAMES = 282
SPEED_PAIRS = 15


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """What one vocoder makes of one clip.

    Attributes:
        metrics: Metrics between the mel before and after.
        sounding: The same over the frames in which the original is not digital silence.
        stft: Distance of the waveforms' spectra at other window lengths.
        pesq: Wideband PESQ; NaN where it finds no speech.
        stoi: Short-time objective intelligibility.
    """

    metrics: MelMetrics
    sounding: MelMetrics
    stft: float
    pesq: float
    stoi: float


def open_vocoder(name: str) -> Vocoder:
    """Load a vocoder; `griffin-lim:128` is Griffin-Lim with that many iterations."""
    base, _, iterations = name.partition(":")
    if base != "griffin-lim" or not iterations:
        return load_vocoder(name)
    baseline = load_vocoder(base)
    if not isinstance(baseline, GriffinLimVocoder):
        raise TypeError(f"griffin-lim must be a GriffinLimVocoder, got {type(baseline).__name__}.")
    return dataclasses.replace(baseline, iterations=int(iterations))


def measure(vocoder: Vocoder, waveform: Tensor, *, with_perceptual: bool = True) -> Figures:
    """Run copy synthesis on a waveform `[1, samples]`, and compare."""
    mel = vocoder.encode(waveform)
    decoded = vocoder.decode(mel)
    again = vocoder.encode(decoded)
    frames = min(mel.shape[-1], again.shape[-1])
    mel, again = mel[..., :frames], again[..., :frames]
    reference = waveform[..., : decoded.shape[-1]]
    silent = (mel <= VOCOS.log_floor + _AT_THE_FLOOR).all(dim=1)
    heard = [math.nan, math.nan]
    if with_perceptual:
        heard = [
            score(reference[0], decoded[0], sample_rate=VOCOS.sample_rate)
            for score in (pesq_wb, stoi)
        ]
    return Figures(
        metrics=compare(mel, again, log_floor=VOCOS.log_floor)[0],
        sounding=compare(mel, again, log_floor=VOCOS.log_floor, mask=~silent)[0],
        stft=float(multi_resolution_stft_distance(reference, decoded)[0]),
        pesq=heard[0],
        stoi=heard[1],
    )


def decode_speed_ratio(vocoder: Vocoder) -> list[float]:
    """Return how many times faster 3 s decode than with the official sizes, pair by pair."""
    official = Vocos(
        MelSpectrogramFeatures(padding="center"),
        VocosBackbone(input_channels=100, dim=512, intermediate_dim=1536, num_layers=8),
        ISTFTHead(dim=512, n_fft=1024, hop_length=256, padding="center"),
    ).eval()
    mel = torch.randn(1, VOCOS.n_mels, SPEED_FRAMES, generator=torch.Generator().manual_seed(0)) - 5
    for decode in (official.decode, vocoder.decode) * 2:
        decode(mel)
    return [
        _seconds(official.decode, mel) / _seconds(vocoder.decode, mel) for _ in range(SPEED_PAIRS)
    ]


def _seconds(decode: Callable[[Tensor], Tensor], mel: Tensor) -> float:
    start = time.perf_counter()
    decode(mel)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: see the module."""
    parser = argparse.ArgumentParser(description="Measure vocoders side by side.")
    parser.add_argument("--vocoder", action="append", required=True, metavar="NAME")
    parser.add_argument("--audio", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clips", action="store_true", help="a row for each clip too")
    parser.add_argument("--peaks", action="store_true", help="the gates at other peaks")
    parser.add_argument("--speed", action="store_true")
    given = parser.parse_args(arguments)
    vocoders = {name: open_vocoder(name) for name in given.vocoder}
    for named in given.audio:
        title, _, folder = named.partition("=")
        waveforms = {
            clip.name: _load(clip.path, given.seconds) for clip in find_clips([Path(folder)])
        }
        print(f"\n### {title}: {len(waveforms)} clips\n")
        print("| vocoder | MAE | SNR (dB) | Pearson | PESQ-wb | STOI | STFT |")
        print("|---|---|---|---|---|---|---|")
        for name, vocoder in vocoders.items():
            rows = {clip: measure(vocoder, waveform) for clip, waveform in waveforms.items()}
            print(_row(name, rows.values()))
            if given.clips:
                for clip, figures in rows.items():
                    print(_row(f"— {clip}", [figures]))
        if given.peaks:
            _print_peaks(vocoders, waveforms)
    if given.speed:
        for name, vocoder in vocoders.items():
            ratios = sorted(decode_speed_ratio(vocoder))
            print(
                f"\n{name}: decodes {statistics.median(ratios):.2f} times as fast as the official "
                f"sizes ({ratios[0]:.2f} to {ratios[-1]:.2f}, {torch.get_num_threads()} threads)"
            )
    return 0


def _load(path: Path, seconds: float) -> Tensor:
    return load_audio(MelCheckConfig(path, VOCOS.sample_rate, seconds)).waveform


def _row(name: str, rows: Iterable[Figures]) -> str:
    every = list(rows)
    columns = (
        _spread([row.metrics.mae for row in every], 3),
        _spread([row.metrics.snr_db for row in every], 1),
        _spread([row.metrics.pearson for row in every], 4),
        _spread([row.pesq for row in every], 2),
        _spread([row.stoi for row in every], 3),
        _spread([row.stft for row in every], 3),
    )
    return f"| {name} | " + " | ".join(columns) + " |"


def _spread(values: list[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _print_peaks(vocoders: dict[str, Vocoder], waveforms: dict[str, Tensor]) -> None:
    print("\nWorst clip at each peak, over the frames that are not digital silence:\n")
    print("| vocoder | peak (dBFS) | MAE | SNR (dB) | Pearson |")
    print("|---|---|---|---|---|")
    for name, vocoder in vocoders.items():
        for peak_dbfs in PEAKS_DBFS:
            peak = 10 ** (peak_dbfs / 20)
            rows = [
                measure(
                    vocoder, waveform * (peak / waveform.abs().max()), with_perceptual=False
                ).sounding
                for waveform in waveforms.values()
            ]
            print(
                f"| {name} | {peak_dbfs:g} | {max(row.mae for row in rows):.3f} | "
                f"{min(row.snr_db for row in rows):.1f} | {min(row.pearson for row in rows):.4f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
