"""Is a mel Kaldi's filterbank? It is no `MelRecipe`: its frames, window and triangles are its own.

Each frame of 25 ms loses its mean before its own pre-emphasis, the window is Hann's to the power of
0.85 ("povey"), the triangles are straight in mels, and samples mostly have the scale of int16.
Recognisers and speaker encoders take it, often less each band's mean in the clip; no vocoder does.

References:
    `fbank` of torchaudio 2.11, torchaudio/compliance/kaldi.py, which computes it here; it follows
    feat/feature-fbank.cc of Kaldi.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from melcheck.diagnosis.causes import Finding
from melcheck.diagnosis.recipe_search.audio_readings import resampled
from melcheck.diagnosis.recipe_search.mel_values import Prepared

_RATES = (8_000, 16_000)
_WINDOWS = ("povey", "hamming", "hanning")
_FRAME_MS, _SHIFT_MS = 25, 10
_FEWEST_BANDS = 4
# The energies' floor stays where it is, so that the scale is no mere offset.
_SCALES = {"int16's scale": 32_768.0, "+-1": 1.0}
# Another resampler changes the highest bands alone: all but a tenth of the cells must agree.
_MOST_CELLS = 0.9
_SAME_NATS = 0.01


@dataclass(frozen=True, slots=True)
class KaldiFit:
    """How a mel follows Kaldi's filterbank.

    Attributes:
        finding: What it is, with its options.
        residual: What is left of nine cells of ten at most, nats.
        slope: The mel's units per nat.
        offset: What was added, in the mel's unit.
    """

    finding: Finding
    residual: float
    slope: float
    offset: float


def kaldi_fit(prepared: Prepared, waveform: Tensor, sample_rate: int) -> KaldiFit | None:
    """Return how a mel follows Kaldi's filterbank of its audio; None where it does not.

    Args:
        prepared: The mel, `[n_mels, frames]`.
        waveform: `[samples]`.
        sample_rate: Its rate in Hz.
    """
    n_mels, frames = prepared.mel.shape
    if n_mels < _FEWEST_BANDS:
        return None
    for samples, rate, snip_edges in _readings(waveform, sample_rate, frames):
        for window, (scale, factor) in itertools.product(_WINDOWS, _SCALES.items()):
            own = _fbank(factor * samples, rate, n_mels, window=window, snip_edges=snip_edges)
            for less_means in (False, True):
                slope, offset, residual = _fitted(prepared, own, less_means=less_means)
                if residual < _SAME_NATS:
                    text = (
                        f"kaldi.fbank at {rate:,} Hz of samples of {scale}, num_mel_bins={n_mels}, "
                        f"window_type={window!r}, snip_edges={snip_edges}"
                        f"{_less_of(prepared) if less_means else ''}"
                    )
                    return KaldiFit(Finding("kaldi-fbank", text), residual, slope, offset)
    return None


def _readings(
    waveform: Tensor, sample_rate: int, frames: int
) -> Iterator[tuple[Tensor, int, bool]]:
    """Yield the audio, resampled and as it is, with the options that give so many frames."""
    for rate, source, snip_edges in itertools.product(_RATES, (True, False), (True, False)):
        count = math.ceil(len(waveform) * rate / sample_rate) if source else len(waveform)
        size, shift = rate * _FRAME_MS // 1000, rate * _SHIFT_MS // 1000
        found = 1 + (count - size) // shift if snip_edges else (count + shift // 2) // shift
        if found == frames and count >= size:
            samples = resampled(waveform, sample_rate, rate) if source else waveform
            yield samples, rate, snip_edges


def _fbank(samples: Tensor, rate: int, n_mels: int, *, window: str, snip_edges: bool) -> Tensor:
    import torchaudio.compliance.kaldi

    found: Tensor = torchaudio.compliance.kaldi.fbank(
        samples[None],
        sample_frequency=float(rate),
        num_mel_bins=n_mels,
        window_type=window,
        snip_edges=snip_edges,
    )
    return found.T


def _fitted(prepared: Prepared, own: Tensor, *, less_means: bool) -> tuple[float, float, float]:
    """Return slope, offset and what nine cells of ten leave at most, nats."""
    x, y = own.double(), prepared.mel.double()
    if less_means:
        x, y = (each - each.mean(dim=1, keepdim=True) for each in (x, y))
    x, y = x[prepared.usable], y[prepared.usable]
    if not len(x):
        return 1.0, 0.0, math.inf
    centred = x - x.mean()
    slope = float((centred * y).sum() / centred.square().sum().clamp(min=1e-9))
    offset = float((y - slope * x).mean())
    if slope <= 0:
        return 1.0, 0.0, math.inf
    left = ((y - offset) / slope - x).abs()
    return slope, offset, float(left.kthvalue(max(1, int(_MOST_CELLS * len(left)))).values)


def _less_of(prepared: Prepared) -> str:
    """Return what was subtracted of each band: its own mean leaves none."""
    own = float(prepared.mel.double().mean(dim=1).abs().max()) < _SAME_NATS
    return f", each band less {'its mean in the clip' if own else 'a constant, as of a corpus'}"
