"""What the spectra of two waveforms tell of the one: bands that are missing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from melcheck.diagnosis.explanations import Explanation, explanation

__all__ = ["bandwidth"]

_BANDS_HZ = 500
_KEPT = 0.1
_LOST = 0.2
# Images that a resampler leaves of the loudest band are as faint as this against it.
_FAINT = 1e-3
# Where a resampler's filter has fallen, against where it begins to: 1.45 for torchaudio's default,
# the least steep in use. A line drawn between samples falls from the lowest bands on.
_TRANSITION = 1.5


def bandwidth(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain bands that are missing above some frequency, with no images in their place."""
    samples = min(len(wanted), len(given))
    # Ends that do not meet would leak into bands where there is next to nothing.
    window = torch.hann_window(samples, dtype=torch.float64)
    spectra = torch.fft.rfft(window * torch.stack([wanted[:samples], given[:samples]]))
    width = max(1, round(_BANDS_HZ * samples / rate))
    whole = spectra.shape[-1] // width * width
    error = (spectra[1] - spectra[0]).abs().square()[:whole].view(-1, width).sum(dim=1)
    power = spectra.abs().square()[:, :whole].view(2, -1, width).sum(dim=2)
    # Where there was next to nothing, nothing can be missing: rounding fills such bands.
    heard = power[0] > _FAINT**2 * power[0].max()
    kept = (error < _KEPT**2 * power[0]) | ~heard
    if not kept[0] or bool(kept.all()):
        return None
    falls = int((~kept).nonzero()[0])
    present = (power[1] >= _LOST**2 * power[0]) & (power[1] > _FAINT**2 * power[0].max())
    ends = int((present & heard).nonzero()[-1]) + 1
    if not bool(heard[ends:].any()) or ends > math.ceil(_TRANSITION * falls):
        return None
    text = f"it falls from {falls * _BANDS_HZ:,} Hz, and nothing is above {ends * _BANDS_HZ:,} Hz"
    return explanation("band-limited", text)
