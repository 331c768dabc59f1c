"""What the spectra of two waveforms tell of the one: missing bands, fewer bits, other weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from melcheck.explanations import Explanation, explanation

__all__ = ["arithmetic", "bandwidth"]

# With the embedded vocoder: float16, bfloat16 and TF32 leave 0.2 % to 9 % of a waveform, with a
# direction of 1.0 to 3.2; one layer, weights of 8 or 16 bits or 1 % off give 7 and more, and other
# damage leaves more than 30 %.
_ROUNDED = 0.2
_DIRECTED = 5.0
_TRANSFORM = 1024

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
    share = (error / power[0].clamp(min=1e-30)).sqrt()
    kept = share < _KEPT
    if not kept[0] or bool(kept.all()):
        return None
    falls = int((~kept).nonzero()[0])
    present = (power[1] >= _LOST**2 * power[0]) & (power[1] > _FAINT**2 * power[0].max())
    ends = int(present.nonzero()[-1]) + 1
    if ends >= len(kept) or ends > math.ceil(_TRANSITION * falls):
        return None
    text = f"it falls from {falls * _BANDS_HZ:,} Hz, and nothing is above {ends * _BANDS_HZ:,} Hz"
    return explanation("band-limited", text)


def arithmetic(wanted: Tensor, given: Tensor, *, share: float) -> Explanation:
    """Tell an error of rounding, which has no direction, from other weights, which have one.

    For each frequency, E = b R + noise is fitted over the frames, R the reference's spectrum and E
    the error's. Rounding gives b of the size of its standard error, so that |b|^2 over its variance
    is about 1; other weights answer the same sound with the same error, and give ten and more.
    """
    samples = min(len(wanted), len(given))
    window = torch.hann_window(_TRANSFORM, dtype=torch.float64)
    spectra = torch.stft(
        torch.stack([wanted[:samples], given[:samples]]),
        _TRANSFORM,
        _TRANSFORM,
        window=window,
        return_complex=True,
    )
    reference, error = spectra[0], spectra[1] - spectra[0]
    power = reference.abs().square()
    strength = power.sum(dim=1).clamp(min=1e-30)
    slope = (error * reference.conj()).sum(dim=1) / strength
    noise = (error - slope[:, None] * reference).abs().square()
    variance = (noise * power).sum(dim=1) / strength.square()
    direction = float((slope.abs().square() / variance.clamp(min=1e-30)).median())
    evidence = f"an error of {share:.1%} of the level"
    if share < _ROUNDED and direction < _DIRECTED:
        return explanation("rounding", f"{evidence}, without direction ({direction:.1f})")
    return explanation("weights", f"{evidence}, the same for the same sound ({direction:.1f})")
