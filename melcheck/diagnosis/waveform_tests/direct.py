"""Direct tests of a waveform against its reference: each looks for one kind of damage.

Samples that are broken, silent, saturated or rounded; errors on the grid of chunks, at the end or
in some places; missing bands; delays, reversal and drift. `EXPLAINED` and `left` say when two
waveforms are equal.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from melcheck.audio import SILENT_PEAK
from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.waveform_tests.fits import BLOCK_SAMPLES

_QUIET_SHARE = 0.05
_FEWEST_BLOCKS = 12

# Between the seams of chunks with context enough, nothing but float32's rounding is left.
_HEALTHY_BLOCK = 1e-4
_HEALTHY_SAMPLES = 3e-6
_DAMAGED_SHARE = 0.8

# What float16 leaves of a file, 1.3e-4, is twice what it leaves of the blocks below the bound;
# where some places are wrong, the others have a hundredth of it and less.
_CONTRAST = 10.0

# One place is on every grid. Gaps between seams, of which silence may hide an end, may differ by
# this share, and silence hides half of them at most. Two places are as far apart as the first is
# from the start by chance too often: they must be so to a few blocks.
_FEWEST_SEAMS = 2
_SEEN_SHARE = 0.5
_GRID_TOLERANCE = 0.2
_TWO_SEAMS_TOLERANCE_BLOCKS = 2.0
_LISTED = 5

# The step of the error across an edge, against the median of its steps nearby: up to 10 where
# nothing was joined, 12 to 60 in at least two places where chunks of 32 frames were.
_JUMP = 10.0
_LARGE_JUMP = 15.0
_FEWEST_JUMPS = 2
_SHORTEST_CHUNK_BLOCKS = 8


def error_places(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain an error that sits in some places, or that is larger there: on a grid, or the end."""
    blocks = min(len(wanted), len(given)) // BLOCK_SAMPLES
    if blocks < _FEWEST_BLOCKS:
        return None
    samples = blocks * BLOCK_SAMPLES
    wanted, given = (each[:samples].view(blocks, BLOCK_SAMPLES) for each in (wanted, given))
    quiet = max(_QUIET_SHARE * float(wanted.square().mean().sqrt()), 1e-30)
    level = wanted.square().mean(dim=1).sqrt()
    size = (given - wanted).square().mean(dim=1).sqrt()
    damaged = size > _HEALTHY_BLOCK * level.clamp(min=quiet) + _HEALTHY_SAMPLES
    # A silent block that is not damaged is no evidence: there was nothing to damage.
    heard = level > quiet
    healthy = heard & ~damaged
    error = size / level.clamp(min=quiet)
    if not bool(damaged.any()):
        return None
    everywhere = int(healthy.sum()) < (1 - _DAMAGED_SHARE) * int(heard.sum())
    if everywhere or float(error[damaged].median()) < _CONTRAST * float(error[healthy].median()):
        return _jumps(given - wanted, rate)
    bad = damaged.nonzero().flatten().tolist()
    groups = runs(bad, lambda last, block: not bool(healthy[last:block].any()))
    times = ", ".join(f"{begin * BLOCK_SAMPLES / rate:.2f}" for begin, _ in groups[:_LISTED])
    evidence = f"an error of up to {float(error[damaged].max()):.2%} of the level, from {times} s"
    late = groups[0][0] >= blocks / 2
    if late and len(groups) == 1 and not bool(healthy[groups[0][1] :].any()):
        return explanation("tail", evidence)
    middles = [0.0, *((first + last) / 2 for first, last in groups)]
    gaps = [after - before for before, after in itertools.pairwise(middles)]
    tolerance = (
        _GRID_TOLERANCE * max(gaps) if len(groups) > _FEWEST_SEAMS else _TWO_SEAMS_TOLERANCE_BLOCKS
    )
    blocks_apart = sum(gaps) / len(gaps)
    seen = len(groups) >= max(_FEWEST_SEAMS, _SEEN_SHARE * int(blocks / blocks_apart))
    if seen and max(gaps) - min(gaps) <= tolerance:
        return explanation("seams", f"{evidence}, every {blocks_apart:.0f} blocks")
    return explanation("places", evidence)


def _jumps(difference: Tensor, rate: int) -> Explanation | None:
    """Explain jumps at the edges of blocks: chunks that each feel their ends, and do not meet."""
    steps = difference.flatten().diff().abs()
    edges = torch.arange(1, len(difference)) * BLOCK_SAMPLES - 1
    about = steps.unfold(0, BLOCK_SAMPLES, BLOCK_SAMPLES // 2)[1::2][: len(edges)]
    usual = about.median(dim=1).values.clamp(min=1e-9)
    ratio = steps[edges[: len(usual)]] / usual
    blocks = [int(block) + 1 for block in (ratio > _JUMP).nonzero()[:, 0]]
    if len(blocks) < _FEWEST_JUMPS or float(ratio.max()) < _LARGE_JUMP:
        return None
    chunk = math.gcd(*blocks)
    edges_of_chunks = len(difference) // chunk
    if chunk < _SHORTEST_CHUNK_BLOCKS or len(blocks) < _SEEN_SHARE * edges_of_chunks:
        return None
    times = ", ".join(f"{block * BLOCK_SAMPLES / rate:.2f}" for block in blocks[:_LISTED])
    return explanation("seams", f"{len(blocks)} jumps between neighbouring samples, at {times} s")


def runs(places: Iterable[int], joined: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Return runs of places as (first, last); `joined` tells whether two neighbours share one."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and joined(found[-1][1], place):
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return found


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


FEWEST_SAMPLES = 256
"""A delay, a factor or a rate is read from at least so many samples."""

# A part of a sample below this is none.
_LEAST_PART = 0.02

# Segments are located again, each near where the one before was: up to 3 % faster or slower. A
# drift is named where it is this long, the delays lie on a line, and the segments agree.
_SEGMENT_SAMPLES = 2048
_LARGEST_STEP_SAMPLES = 64
_FEWEST_SEGMENTS = 8
_QUIET_BLOCK_SHARE = 0.1
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
    if reach < FEWEST_SAMPLES:
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
    """Explain a different speed: each segment is found later, or earlier, than the one before."""
    late, places, agreement = 0, [], []
    reach, size = _LARGEST_STEP_SAMPLES, _SEGMENT_SAMPLES
    quiet = _QUIET_BLOCK_SHARE * float(wanted.square().mean().sqrt())
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
        title="the waveform runs at a different speed",
        fix="Resample by the exact ratio of the rates; look for a clock, or a rate rounded off.",
    )


EXPLAINED = 0.01
"""What is left of an explained waveform at most, as a share of its own root mean square.

Rounding to 16 bits leaves 1e-3 of a quiet one.
"""

SAME_GAIN = 1e-3
"""A factor this near to 1 is none."""

AT_PEAK = 0.999
"""Samples from this share of the peak on count as being at it."""

# A square wave has nearly all samples at the peak, a clipped one few.
_SATURATED_SHARE = 0.5

# Fewer bits than a file has, and the floats that are stored, the shorter fraction first. Integers
# are off by 1e-3 of a step at most where float32 held them.
_FILE_BITS = 16
_STEP_TOLERANCE = 1e-3
_SHORT_FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def left(reference: Tensor, estimate: Tensor) -> float:
    """Return the root mean square of the difference, as a share of the reference's.

    Only their common length counts. Infinite where the reference is silent.
    """
    samples = min(len(reference), len(estimate))
    wanted, given = reference[:samples], estimate[:samples]
    level = wanted.square().mean().sqrt()
    return float((given - wanted).square().mean().sqrt() / level) if level > 0 else math.inf


def non_finite(waveform: Tensor) -> Explanation | None:
    """Return how many samples are NaN or infinite; None where all are finite."""
    broken = int((~torch.isfinite(waveform)).sum())
    if not broken:
        return None
    return explanation("non-finite", f"{broken:,} of {waveform.numel():,} samples")


def silent(reference: Tensor, estimate: Tensor) -> Explanation | None:
    """Return that the estimate is silent where the reference is not; None otherwise."""
    wanted, peak = float(reference.abs().max()), float(estimate.abs().max())
    if not peak < SILENT_PEAK <= wanted:
        return None
    return explanation("silent-output", f"its peak is {peak:.1e} where {wanted:.2g} is expected")


def saturated(waveform: Tensor) -> Explanation | None:
    """Return that most samples are at the peak, of both signs; None otherwise."""
    peak = float(waveform.abs().max())
    share = float((waveform.abs() >= AT_PEAK * peak).double().mean())
    # A constant has them all on one side.
    if share <= _SATURATED_SHARE or not float(waveform.min()) < 0 < float(waveform.max()):
        return None
    return explanation("saturated", f"{share:.1%} of the samples are at {peak:.3g}")


def rounded(reference: Tensor, estimate: Tensor) -> Explanation | None:
    """Return what number every sample is, where not every one of the reference's is; or None."""
    for bits in range(1, _FILE_BITS):
        if is_integer(estimate, bits):
            coarser = not is_integer(reference, bits)
            return explanation("rounding", f"each sample has {bits} bits") if coarser else None
    for name, dtype in _SHORT_FLOATS.items():
        same = torch.equal(estimate.to(dtype).to(estimate), estimate)
        before = torch.equal(reference.to(dtype).to(reference), reference)
        if same and not before:
            return explanation("rounding", f"each sample is a {name}")
    return None


def is_integer(waveform: Tensor, bits: int) -> bool:
    """Return whether a waveform, `[samples]`, holds integers of so many bits as its steps."""
    steps = waveform * 2 ** (bits - 1)
    return float((steps - steps.round()).abs().max()) < _STEP_TOLERANCE
