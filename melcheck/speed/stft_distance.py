"""The multi-resolution STFT distance of `melcheck.metrics`, up to rounding, in half the time.

Spectra are computed in blocks of frames that stay in the processor's cache; magnitudes and their
ratio are taken in float32, one logarithm for each pair; a frame is summed in float32, and frames in
float64.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from melcheck.metrics import STFT_MAGNITUDE_FLOOR, STFT_WINDOW_LENGTHS, distance_of_sums

# Samples of a block, in frames that overlap.
_BLOCK_SAMPLES = 2**16


def stft_distance(reference: Tensor, estimate: Tensor) -> float:
    """Return what `RoundTrip.waveform_distance` does for one item.

    Args:
        reference: `[samples]`, float32.
        estimate: `[samples]`; the longer of the two is cut.

    Returns:
        The distance. Window lengths that do not fit are left out; NaN without any.
    """
    samples = min(len(reference), len(estimate))
    pair = torch.stack([reference[:samples], estimate[:samples]])
    sums = [_sums(pair, length) for length in STFT_WINDOW_LENGTHS if length <= samples]
    return float(distance_of_sums(torch.stack(sums))) if sums else math.nan


@functools.lru_cache(maxsize=8)
def _window(length: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(length, device=device)


def _sums(pair: Tensor, length: int) -> Tensor:
    """Return what `melcheck.metrics.stft_sums` does, for `[2, samples]`."""
    frames = pair.unfold(-1, length, length // 4)
    window = _window(length, pair.device)
    size = max(1, _BLOCK_SAMPLES // length)
    sums = torch.zeros(4, dtype=torch.float64, device=pair.device)
    for start in range(0, frames.shape[1], size):
        spectra = torch.view_as_real(torch.fft.rfft(frames[:, start : start + size] * window))
        power = torch.add(*spectra.square_().unbind(-1))
        gap = power.sqrt().diff(dim=0).square_().sum(dim=-1)
        loudness = power[:1].sum(dim=-1)
        floored = power.clamp_(min=STFT_MAGNITUDE_FLOOR**2)
        # ln R - ln E is half the logarithm of the ratio of powers.
        log_gap = torch.div(floored[:1], floored[1:]).log_().abs_().sum(dim=-1) / 2
        per_frame = torch.cat([gap, loudness, log_gap, torch.full_like(gap, power.shape[-1])])
        sums += per_frame.sum(dim=-1, dtype=torch.float64)
    return sums
