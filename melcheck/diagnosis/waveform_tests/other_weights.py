"""Decide whether an error is correlated with the signal (wrong weights), or is rounding or noise.

Wrong weights are a different function of the same mel: similar frames get similar results, in time
with the reference, and the error has a direction. What shows none of this is "unknown", with its
figures. The bounds lie between what was measured on six clips with the embedded vocoder and with a
plain one of random weights; `tests/diagnosis/test_waveform.py` says what.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.waveform_tests.fits import BLOCK_SAMPLES, filtered_share
from melcheck.recipes import VOCOS, log_mel

# Shares of the level below which an error may be rounding, and directions from which it is not.
_ROUNDED = 0.2
_DIRECTED = 5.0
_LEAST_DIRECTED = 1.4
# What a filter leaves of the error: less for rooms and codecs, more for wrong weights.
_FILTERED = 0.45
# The likeness of frames, and how far it exceeds that of frames moved in time.
_LINKED = 0.7
_IN_TIME = 0.05
# The lean of the bands; what leans nowhere has 0.45.
_LEANING = 1.2
# Logarithms of the error's level, by block; white noise alone has 0.041.
_STEADY = 0.08

_TRANSFORM = 1024
# Two frames less than a transform apart see the same samples.
_FRAMES_APART = 10
_FRAMES_OVERLAPPING = 3
# Half a second, the shortest to compare in time; more than the most frames are thinned out.
_FEWEST_FRAMES = 48
_MOST_FRAMES = 512
_LOUD_NATS = 7.0
# The highest floor in use, 1e-5: nothing below it is compared.
_FLOOR_NATS = math.log(1e-5)


def weights_or_unknown(wanted: Tensor, given: Tensor, *, share: float) -> Explanation:
    """Name wrong weights, rounding or noise; "unknown" where none is shown."""
    evidence = f"an error of {share:.1%} of the level"
    lengths = ""
    if len(wanted) != len(given):
        lengths = f", {len(given):,} samples where {len(wanted):,} are expected"
        evidence += lengths
    samples = min(len(wanted), len(given))
    wanted, given = wanted[:samples], given[:samples]
    if samples < _FEWEST_FRAMES * VOCOS.hop_length:
        return explanation("unknown", f"{evidence}; samples in common: {samples:,}, too few")
    direction = _direction(wanted, given)
    if direction < _DIRECTED and _unsteadiness(given - wanted) < _STEADY:
        level = float((given - wanted).square().mean().sqrt())
        return explanation("noise", f"{evidence}: {level:.2g} throughout")
    if share < _ROUNDED and direction < _DIRECTED:
        return explanation("rounding", f"{evidence}, without direction ({direction:.1f})")
    mels = [
        log_mel(each[None].float())[0].double().clamp(min=_FLOOR_NATS) for each in (wanted, given)
    ]
    likeness, elsewhere = _likeness(*mels)
    lean = _lean(*mels)
    numbers = (
        f"direction {direction:.1f}, lean of the bands {lean:.1f}, likeness of frames "
        f"{likeness:.2f} in time and {elsewhere:.2f} out of it"
    )
    directed = direction >= (_DIRECTED if share < _ROUNDED else _LEAST_DIRECTED)
    # Weights do not change the number of samples.
    linked = not lengths and likeness > max(_LINKED, elsewhere + _IN_TIME)
    if not (directed and linked and lean >= _LEANING):
        return explanation("unknown", f"{evidence}; {numbers}")
    filtered = filtered_share(wanted, given)
    if filtered < _FILTERED:
        return explanation(
            "unknown", f"{evidence}; a filter leaves {filtered:.0%} of it; {numbers}"
        )
    return explanation("weights", f"{evidence}, correlated with the signal: {numbers}")


def _direction(wanted: Tensor, given: Tensor) -> float:
    """Return how much of the error has a direction, about 1 for none.

    For each frequency, E = b R + noise is fitted over the frames, R the reference's spectrum and E
    the error's. Rounding gives b of the size of its standard error, so that |b|^2 over its variance
    is about 1; an error that is the same for similar frames gives ten and more.
    """
    window = torch.hann_window(_TRANSFORM, dtype=torch.float64)
    spectra = torch.stft(
        torch.stack([wanted, given]), _TRANSFORM, _TRANSFORM, window=window, return_complex=True
    )
    reference, error = spectra[0], spectra[1] - spectra[0]
    power = reference.abs().square()
    strength = power.sum(dim=1).clamp(min=1e-30)
    slope = (error * reference.conj()).sum(dim=1) / strength
    noise = (error - slope[:, None] * reference).abs().square()
    variance = (noise * power).sum(dim=1) / strength.square()
    return float((slope.abs().square() / variance.clamp(min=1e-30)).median())


def _unsteadiness(error: Tensor) -> float:
    """Return the standard deviation of the logarithm of an error's level, block by block."""
    blocks = error[: len(error) // BLOCK_SAMPLES * BLOCK_SAMPLES].view(-1, BLOCK_SAMPLES)
    return float(blocks.square().mean(dim=1).sqrt().clamp(min=1e-30).log().std())


def _likeness(reference: Tensor, estimate: Tensor) -> tuple[float, float]:
    """Return how far frames alike in the one are alike in the other, and the most out of time.

    K and L hold the likeness of every two frames in either mel, centred; <K, L> / (|K| |L|) is 1
    where they agree. Moved in time against each other, frames meet others: by chance so much.
    """
    step = math.ceil(reference.shape[-1] / _MOST_FRAMES)
    first, second = (_likenesses(mel[:, ::step].T) for mel in (reference, estimate))
    size = float(first.norm() * second.norm())
    apart = math.ceil(_FRAMES_APART / step)
    if not size > 0:
        return 0.0, 0.0
    moved = [
        float((first * second.roll((lag, lag), (0, 1))).sum())
        for lag in range(apart, len(first) - apart)
    ]
    return float((first * second).sum()) / size, max(moved) / size


def _likenesses(frames: Tensor) -> Tensor:
    distances = torch.cdist(frames, frames).square()
    apart = distances[distances > 0]
    if not len(apart):
        return torch.zeros_like(distances)
    alike = torch.exp(-2 * distances / apart.median())
    return alike - alike.mean(dim=0) - alike.mean(dim=1, keepdim=True) + alike.mean()


def _lean(reference: Tensor, estimate: Tensor) -> float:
    """Return the square of a band's mean error over that of its standard error, the median's.

    Loud cells only: any noise lifts the quiet ones.
    """
    loud = (reference > reference.max() - _LOUD_NATS).double()
    count = loud.sum(dim=1)
    error = (estimate - reference) * loud
    mean = error.sum(dim=1) / count.clamp(min=1)
    spread = ((error - mean[:, None]).square() * loud).sum(dim=1) / count.clamp(min=1)
    # Frames that overlap do not count as several.
    squared = mean.square() * count / (_FRAMES_OVERLAPPING * spread).clamp(min=1e-30)
    heard = squared[count > _FRAMES_APART]
    return float(heard.median()) if len(heard) else 0.0
