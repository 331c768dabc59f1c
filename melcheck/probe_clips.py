"""The probe clips of the handshake: synthetic audio that shows what speech hides.

A floor shows only in digital silence, padding only where the ends are loud, the highest bands only
in audio that reaches them. Each probe has all three: its first and last 60 ms are loud, 300 ms are
exact zeros, the rest holds noise at -80 dBFS under broadband noise, an impulse, a chirp to 12 kHz
and tones of at most 0.35, so that a head that limits magnitudes is not driven into its limit. The
lengths distinguish the ways of counting frames: 71,936 is a whole number of hops, 72,000 and
72,191 round up and down, 25,400 has as many frames as bands.

`probe_files` writes probes in the formats that recordings have, for the handshake of a loader.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

PROBE_LENGTHS = (71_936, 72_000, 72_191, 25_400)
"""Samples at 24 kHz."""

_RATE = 24_000
_EDGE_SECONDS = 0.06
_SILENCE_SECONDS = 0.3
_QUIET = 1e-4  # -80 dBFS
_LOUD = 0.1
_TONE = 0.3
_SEED = 20_240

TRIED_SECONDS = (28_000 / 24_000, 48_000 / 24_000)
"""Two lengths on which code of the user's is tried, to learn how it is called.

Their mels have 110 and 188 frames with Vocos, neither of which is a number of bands in use. At any
other recipe they still differ by what 20,000 samples make.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A clip with its name.

    Attributes:
        name: What it is.
        waveform: `[samples]`, float32, full scale +-1.
    """

    name: str
    waveform: Tensor


@functools.lru_cache(maxsize=8)
@torch.inference_mode(mode=False)
def probe(samples: int, *, sample_rate: int = _RATE) -> Tensor:
    """Return the probe of a length, `[samples]`, the same on every machine and call.

    Args:
        samples: At least half a second.
        sample_rate: Hz.

    Raises:
        ValueError: `samples` is below half a second.
    """
    if samples < sample_rate // 2:
        raise ValueError(f"samples must be at least {sample_rate // 2}, got {samples}.")
    generator = torch.Generator().manual_seed(_SEED + samples)
    noise = torch.randn(samples, generator=generator, dtype=torch.float64)
    seconds = torch.arange(samples, dtype=torch.float64) / sample_rate
    clip = _QUIET * noise
    duration = samples / sample_rate
    edge = round(_EDGE_SECONDS * sample_rate)
    parts = {"noise": (0.10, 0.30), "chirp": (0.30, 0.45), "tones": (0.62, 0.80)}
    for name, (begin, end) in parts.items():
        span = slice(round(begin * samples), round(end * samples))
        local = seconds[span] - seconds[span][0]
        # Syllables, so that each part has onsets and quiet frames.
        envelope = torch.sin(2 * math.pi * 4 * local).abs()
        if name == "noise":
            clip[span] += _LOUD * envelope * noise[span]
        elif name == "chirp":
            length = (end - begin) * duration
            phase = 2 * math.pi * (sample_rate / 2) * local.square() / (2 * length)
            clip[span] += _TONE * torch.sin(phase)
        else:
            tones = sum(torch.sin(2 * math.pi * hz * local) for hz in (220.0, 1_760.0, 7_040.0))
            clip[span] += _TONE / 3 * envelope * tones
    silence = round(0.47 * samples)
    clip[silence : silence + round(_SILENCE_SECONDS * sample_rate)] = 0.0
    clip[round(0.9 * samples)] += _TONE
    clip[:edge] += _LOUD * noise[:edge]
    clip[-edge:] += _LOUD * noise[-edge:]
    return clip.clamp(-0.35, 0.35).float()


def probes(*, sample_rate: int = _RATE) -> tuple[Probe, ...]:
    """Return a probe of each length."""
    return tuple(
        Probe(f"probe of {samples} samples", probe(samples, sample_rate=sample_rate))
        for samples in PROBE_LENGTHS
    )


@dataclass(frozen=True, slots=True)
class FileFormat:
    """The format of a probe file.

    Attributes:
        rate: Hz; None for the recipe's.
        channels: 1, or 2 whose mean is the probe.
        subtype: soundfile's name of how samples are stored.
        suffix: Of the file's name.
        peak: Largest sample, full scale 1; None as the probe is.
    """

    rate: int | None
    channels: int
    subtype: str
    suffix: str
    peak: float | None = None


FILE_FORMATS = (
    FileFormat(None, 1, "PCM_16", ".wav", peak=0.99),
    FileFormat(None, 2, "PCM_16", ".wav"),
    FileFormat(48_000, 1, "PCM_24", ".wav"),
    FileFormat(44_100, 2, "PCM_16", ".wav"),
    FileFormat(22_050, 1, "PCM_16", ".flac"),
    FileFormat(16_000, 1, "FLOAT", ".wav"),
    FileFormat(44_100, 1, "MPEG_LAYER_III", ".mp3"),
)
"""The formats of the probe files; the first is the plainest."""

_FILE_SECONDS = 1.2
_SIDE = 0.3
_SIDE_SAMPLES = 40


def probe_files(folder: Path, *, sample_rate: int = _RATE) -> tuple[Path, ...]:
    """Write a probe in each of `FILE_FORMATS` that soundfile can write.

    Args:
        folder: An existing folder.
        sample_rate: The recipe's rate, Hz.

    Returns:
        The files, named by their format: "24000-hz-mono-pcm_16.wav".
    """
    import soundfile

    paths = []
    for kind in FILE_FORMATS:
        # An older libsndfile of the system's writes no MP3.
        if not soundfile.check_format(kind.suffix[1:].upper(), kind.subtype):
            continue
        rate = kind.rate or sample_rate
        waveform = probe(round(_FILE_SECONDS * rate), sample_rate=rate)
        if kind.peak is not None:
            waveform = waveform * (kind.peak / waveform.abs().max())
        if kind.channels == 1:
            channels, layout = waveform[None], "mono"
        else:
            side = _SIDE * waveform.roll(_SIDE_SAMPLES)
            channels, layout = torch.stack([waveform + side, waveform - side]), "stereo"
        path = folder / f"{rate}-hz-{layout}-{kind.subtype.lower()}{kind.suffix}"
        soundfile.write(path, channels.T.numpy(), rate, subtype=kind.subtype)
        paths.append(path)
    return tuple(paths)
