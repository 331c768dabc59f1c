"""How a waveform lies in time against another: late, backwards, at another speed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from melcheck.diagnosis.explanations import Explanation, explanation
from melcheck.diagnosis.waveform_tests.direct import EXPLAINED, SAME_GAIN, left

__all__ = ["backwards", "drift", "lag"]

# A delay is read from at least so many samples; a part of a sample below this is none.
_FEWEST_SAMPLES = 256
_LEAST_PART = 0.02

# Segments that are sought again, each near where the one before was: up to 3 % faster or slower. A
# drift is named where it is this long, where the delays lie on a line, and where what is found is
# the same. Three voices of 3 s, at 1.0003 and 1.003 of their speed: 20 samples and more, a
# correlation with time of 0.998 and more, segments that agree to 0.98 and more. Of other weights
# and fewer bits (six clips, two vocoders) those that agree to 0.9 have a correlation of 0.72 at
# most, and those with one above 0.9 agree to 0.44 at most.
_SEGMENT_SAMPLES = 2048
_LARGEST_STEP_SAMPLES = 64
_FEWEST_SEGMENTS = 8
_QUIET_SHARE = 0.1
_LEAST_DRIFT_SAMPLES = 4.0
_STRAIGHT = 0.95
_AGREEMENT = 0.9


def backwards(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a waveform that runs backwards; both `[samples]`, as many."""
    # What is its own mirror image runs either way.
    rest = left(wanted.flip(0), given)
    if rest > min(EXPLAINED, left(wanted, given) / 2):
        return None
    return explanation(
        "time-flipped",
        f"reversed, it differs by {rest:.2%} of the level",
        title="the waveform runs backwards",
        fix="Reverse it: waveform.flip(-1).",
    )


def lag(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain a delay, which the cross-correlation shows wherever else the ends differ."""
    length = 2 ** math.ceil(math.log2(len(wanted) + len(given)))
    # A transform may blow up at its ends, which would drown all else.
    peak = float(wanted.abs().max())
    spectra = (
        torch.fft.rfft(given.clamp(-peak, peak), length) * torch.fft.rfft(wanted, length).conj()
    )
    correlation = torch.fft.irfft(spectra, length)
    reach = min(len(wanted), len(given)) // 2
    if reach < _FEWEST_SAMPLES:
        return None
    lags = torch.cat([correlation[:reach], correlation[-reach:]])
    best = int(lags.abs().argmax())
    late = best if best < reach else best - 2 * reach
    moved, kept = (given[late:], wanted) if late >= 0 else (given, wanted[-late:])
    samples = min(len(moved), len(kept))
    # The ends of an inverse transform differ with its padding.
    inner = slice(samples // 10, samples - samples // 10)
    kept, moved = kept[:samples][inner], moved[:samples][inner]
    gain = float(kept @ moved / kept.square().sum().clamp(min=1e-30))
    if not gain or left(gain * kept, moved) > EXPLAINED:
        found = _part_of_a_sample(kept, moved)
        if found is None:
            return None
        part, gain = found
        return _shifted(late + part, rate, f"{abs(late + part):.2f}", _after(gain))
    if late:
        return _shifted(late, rate, f"{abs(late)}", _after(gain))
    if len(wanted) == len(given):
        return None
    return explanation(
        "length",
        f"{len(given):,} samples where {len(wanted):,} are expected{_after(gain)}",
        title="the waveform is longer or shorter than it should be",
        fix="Look for trimming or padding on the way, and for frames that were dropped.",
    )


def _after(gain: float) -> str:
    return f", after a factor of {gain:.4g}" if abs(gain - 1) > SAME_GAIN else ""


def _shifted(late: float, rate: int, samples: str, factor: str) -> Explanation:
    word = "late" if late > 0 else "early"
    text = f"{samples} samples ({1000 * abs(late) / rate:.1f} ms) {word}{factor}"
    return explanation("shifted", text)


def _part_of_a_sample(wanted: Tensor, given: Tensor) -> tuple[float, float] | None:
    """Return the part of a sample by which one is late, and the factor beside; None for no delay.

    A delay of d turns the phase at the angular frequency w by -w d. The line through the phases of
    the cross-spectrum S, each weighed with |S|, has d = -sum(|S| w arg S) / sum(|S| w^2).
    """
    window = torch.hann_window(len(wanted), dtype=wanted.dtype)
    length = 2 * len(wanted)
    spectrum = torch.fft.rfft(window * wanted, length)
    cross = torch.fft.rfft(window * given, length) * spectrum.conj()
    angles = torch.linspace(0, math.pi, len(cross), dtype=wanted.dtype)
    weight = cross.abs() * angles
    late = float(-(weight * cross.angle()).sum() / (weight * angles).sum().clamp(min=1e-30))
    if not _LEAST_PART <= abs(late) < 1:
        return None
    delayed = torch.fft.irfft(spectrum * torch.exp(-1j * angles * late), length)[: len(wanted)]
    gain = float(delayed @ (window * given) / delayed.square().sum().clamp(min=1e-30))
    rest, unmoved = (left(gain * each, window * given) for each in (delayed, window * wanted))
    return (late, gain) if rest < min(EXPLAINED, unmoved / 2) else None


def drift(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain another speed: each segment is found again later, or earlier, than the one before.

    Args:
        wanted: `[samples]`, float64.
        given: Likewise.
    """
    late, places, agreement = 0, [], []
    reach, size = _LARGEST_STEP_SAMPLES, _SEGMENT_SAMPLES
    quiet = _QUIET_SHARE * float(wanted.square().mean().sqrt())
    for start in range(0, len(wanted) - size + 1, size):
        first = start + late - reach
        segment = wanted[start : start + size]
        if first < 0 or first + size + 2 * reach > len(given):
            continue
        if float(segment.square().mean().sqrt()) <= quiet:
            continue
        candidates = given[first : first + size + 2 * reach].unfold(0, size, 1)
        sizes = candidates.square().sum(dim=1).sqrt() * segment.norm()
        likeness = candidates @ segment / sizes.clamp(min=1e-30)
        best = int(likeness.argmax())
        late += best - reach
        places.append((float(start), float(late)))
        agreement.append(float(likeness[best]))
    if len(places) < _FEWEST_SEGMENTS:
        return None
    times, delays = torch.tensor(places, dtype=torch.float64).T
    centred = times - times.mean()
    slope = float(centred @ delays / centred.square().sum())
    straight = slope * float(centred.norm() / (delays - delays.mean()).norm().clamp(min=1e-30))
    if (
        abs(slope) * float(times[-1] - times[0]) < _LEAST_DRIFT_SAMPLES
        or abs(straight) < _STRAIGHT
        or float(torch.tensor(agreement).median()) < _AGREEMENT
    ):
        return None
    word = "late" if delays[-1] > 0 else "early"
    return explanation(
        "sample-rate",
        f"{1 / (1 + slope):.4f} times as fast: {abs(delays[-1]):.0f} samples {word} at the end",
        title="the waveform runs at another speed",
        fix="Resample by the exact ratio of the rates; look for a clock, or a rate rounded off.",
    )
