"""What was done to a waveform on the way to a file or through a vocoder, given what it should be.

A mel cannot show all of it: a header with another rate, samples that wrapped around, a seam. As in
`melcheck.forensics`, each explanation is recomputed from the reference and named only where next to
nothing of the estimate is left over. `(reference, estimate)` is the order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from melcheck.causes import cause
from melcheck.loop_forensics import Explanation
from melcheck.sounds import RATES, resampled

__all__ = ["explain_waveform"]

# What is left of an explained waveform, as a share of its own root mean square. Rounding to 16 bits
# leaves 1e-3 of a quiet one.
_EXPLAINED = 0.01
# A sample of a 16-bit file is off by half a step, one step more with dither.
_SAME_SAMPLES = 2 / 32_768
_SAME_GAIN = 1e-3
_SILENT_PEAK = 1e-4
_INTEGER_PEAK = 4.0

# Samples at the peak: a square wave has nearly all of them there, a clipped one these few.
_AT_PEAK = 0.999
_SATURATED_SHARE = 0.5
_CLIPPED_SAMPLES = 3

# A gain is read where the reference is neither noise nor near full scale.
_QUIET_SHARE = 0.05
_LOUD_SHARE = 0.35

_LARGEST_LAG_SAMPLES = 4096
_BLOCK_SAMPLES = 256
_FEWEST_BLOCKS = 12
# Between the seams of chunks with context enough, nothing but float32's rounding is left.
_SOUND_BLOCK = 1e-4
_SOUND_SAMPLES = 3e-6
_DAMAGED_SHARE = 0.8
# Gaps between seams, of which silence may hide an end, may differ by this share.
_GRID_TOLERANCE = 0.2
_LISTED = 5
# The step of the error across an edge, against the median of its steps nearby: up to 10 where
# nothing was joined, 12 to 60 in at least two places where chunks of 32 frames were.
_JUMP = 10.0
_LARGE_JUMP = 15.0
_FEWEST_JUMPS = 2

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
_RATE_CORRELATION = 0.98


def explain_waveform(
    reference: Tensor,
    estimate: Tensor,
    *,
    sample_rate: int,
    estimate_rate: int | None = None,
    channels: Tensor | None = None,
) -> Explanation | None:
    """Name what made one waveform of another.

    Args:
        reference: What it should be: the file as written, or a healthy vocoder's output;
            `[samples]` or `[1, samples]`, floating point.
        estimate: What it is, likewise.
        sample_rate: Hz of the reference.
        estimate_rate: Hz that the estimate's file claims; None for the same.
        channels: `[channels, samples]` that the reference is the mean of, where it was stereo.

    Returns:
        The cause; None where both are the same up to the rounding of 16-bit samples.

    Raises:
        ValueError: One of them is not a single waveform, or is empty.
    """
    wanted = _single(reference, "reference")
    if estimate.dim() == 2 and 1 < len(estimate) < estimate.shape[-1]:
        return _explained("channels", f"{len(estimate)} channels where one is expected")
    given = _single(estimate, "estimate")
    claimed = estimate_rate or sample_rate
    checks: list[Callable[[], Explanation | None]] = [
        lambda: _rate(wanted, given, sample_rate, claimed),
        lambda: _broken(wanted, given),
    ]
    if len(wanted) == len(given):
        if claimed == sample_rate and float((given - wanted).abs().max()) <= _SAME_SAMPLES:
            return None
        checks.append(lambda: _mixed(given, channels))
        checks.append(lambda: _limits(wanted, given))
        checks.append(lambda: _level(wanted, given))
    checks.append(lambda: _lag(wanted, given, sample_rate))
    checks.append(lambda: _bandwidth(wanted, given, sample_rate))
    checks.append(lambda: _located(wanted, given, sample_rate))
    for check in checks:
        found = check()
        if found is not None:
            return found
    return _arithmetic(wanted, given)


def _single(waveform: Tensor, name: str) -> Tensor:
    flat = waveform.detach().cpu()
    if flat.dim() == 2 and len(flat) == 1:
        flat = flat[0]
    if flat.dim() != 1 or not flat.is_floating_point() or not len(flat):
        raise ValueError(
            f"{name} must be one waveform [samples], floating point, got {waveform.dtype} of shape "
            f"{list(waveform.shape)}. Pass the items of a batch one by one."
        )
    return flat.double()


def _explained(code: str, evidence: str) -> Explanation:
    known = cause(code)
    return Explanation(code, known.title, evidence, known.fix)


def _left(wanted: Tensor, given: Tensor) -> float:
    """Return the root mean square of the difference, as a share of what is wanted."""
    samples = min(len(wanted), len(given))
    wanted, given = wanted[:samples], given[:samples]
    level = wanted.square().mean().sqrt()
    return float((given - wanted).square().mean().sqrt() / level) if level > 0 else math.inf


def _rate(wanted: Tensor, given: Tensor, rate: int, claimed: int) -> Explanation | None:
    if claimed != rate and len(wanted) == len(given):
        text = f"the header says {claimed} Hz, the samples are of {rate} Hz"
        return _explained("header-rate", text)
    for other in RATES:
        samples = math.ceil(len(wanted) * other / rate)
        if other == rate or abs(samples - len(given)) > 2 or not bool(torch.isfinite(given).all()):
            continue
        back = resampled(given.float(), other, rate).double()
        samples = min(len(back), len(wanted))
        both = torch.stack([back[:samples], wanted[:samples]])
        if float(torch.corrcoef(both)[0, 1]) > _RATE_CORRELATION:
            if other == claimed:
                text = f"{other} Hz, as its header says, where {rate} Hz are expected"
            else:
                text = f"{other} Hz samples taken for {claimed} Hz"
            return _explained("sample-rate", text)
    return None


def _broken(wanted: Tensor, given: Tensor) -> Explanation | None:
    broken = int((~torch.isfinite(given)).sum())
    if broken:
        return _explained("non-finite", f"{broken:,} of {len(given):,} samples")
    peak = float(given.abs().max())
    if peak < _SILENT_PEAK < float(wanted.abs().max()):
        return _explained("silent-output", f"its peak is {peak:.1e}")
    share = float((given.abs() >= _AT_PEAK * peak).double().mean())
    if share > _SATURATED_SHARE:
        return _explained("saturated", f"{share:.1%} of the samples are at {peak:.3g}")
    return None


def _mixed(given: Tensor, channels: Tensor | None) -> Explanation | None:
    if channels is None or channels.shape[-1] != len(given):
        return None
    for index, channel in enumerate(channels.double()):
        if _left(channel, given) < _EXPLAINED:
            return _explained("channel-dropped", f"channel {index} of {len(channels)} alone")
    if _left(channels.double().sum(dim=0), given) < _EXPLAINED:
        return _explained("stereo-sum", f"{len(channels)} channels added")
    return None


def _level(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a factor, a constant or both: a line through all samples, by least squares."""
    x, y = wanted - wanted.mean(), given - given.mean()
    if not float(x.square().sum()) > 0:
        return None
    gain = float(x @ y / x.square().sum())
    if gain == 0 or _left(gain * x, y) > _EXPLAINED:
        return _even_gain(wanted, given)
    offset = float(given.mean() - gain * wanted.mean())
    if abs(offset) > _SAME_SAMPLES:
        factor = f", after a factor of {gain:.4g}" if abs(gain - 1) > _SAME_GAIN else ""
        return _explained("dc-offset", f"a constant of {offset:+.4g}{factor}")
    if abs(gain + 1) < _SAME_GAIN:
        return _explained("polarity", "every sample has the other sign")
    return _gain_of(gain) if abs(gain - 1) > _SAME_GAIN else None


def _even_gain(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a factor that holds everywhere but at the ends, as of an overlap not divided out."""
    edge = len(wanted) // 10
    x, y = wanted[edge:-edge], given[edge:-edge]
    if len(x) < _BLOCK_SAMPLES or not float(x.square().sum()) > 0:
        return None
    gain = float(x @ y / x.square().sum())
    even = abs(gain - 1) > _SAME_GAIN and gain > 0 and _left(gain * x, y) < _EXPLAINED
    return _gain_of(gain) if even else None


def _gain_of(gain: float) -> Explanation:
    peak = "; integers, not scaled to +-1" if abs(gain) > _INTEGER_PEAK * 1_000 else ""
    text = f"a factor of {gain:.4g} ({20 * math.log10(abs(gain)):+.2f} dB){peak}"
    return _explained("int16-scale" if peak else "gain", text)


def _limits(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain samples beyond full scale: cut off, or wrapped around."""
    size = wanted.abs()
    peak = float(size.max())
    middle = (size > _QUIET_SHARE * peak) & (size < _LOUD_SHARE * peak)
    if int(middle.sum()) < _BLOCK_SAMPLES:
        return None
    gain = float((given[middle] / wanted[middle]).median())
    scaled = gain * wanted
    beyond = scaled.abs() > 1
    unlimited = _left(scaled, given)
    # Full scale and its opposite are one place on a circle.
    apart = torch.remainder(given - scaled + 1, 2) - 1
    if beyond.any() and _left(scaled, scaled + apart) < min(_EXPLAINED, unlimited / 2):
        return _explained(
            "int16-wrap", f"{int(beyond.sum()):,} samples, after a gain of {gain:.3g}"
        )
    limit = float(given.abs().max())
    cut = scaled.clamp(-limit, limit)
    at_limit = int((given.abs() >= _AT_PEAK * limit).sum())
    if at_limit >= _CLIPPED_SAMPLES and _left(cut, given) < min(_EXPLAINED, unlimited / 2):
        return _explained("clipping", f"{at_limit:,} samples at {limit:.3g}")
    return None


def _lag(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain a delay, which the cross-correlation shows wherever else the ends differ."""
    length = 2 ** math.ceil(math.log2(len(wanted) + len(given)))
    # A transform may blow up at its ends, which would drown all else.
    peak = float(wanted.abs().max())
    spectra = (
        torch.fft.rfft(given.clamp(-peak, peak), length) * torch.fft.rfft(wanted, length).conj()
    )
    correlation = torch.fft.irfft(spectra, length)
    reach = min(_LARGEST_LAG_SAMPLES, len(wanted) // 2)
    lags = torch.cat([correlation[:reach], correlation[-reach:]])
    best = int(lags.argmax())
    late = best if best < reach else best - 2 * reach
    if late == 0 and len(wanted) == len(given):
        return None
    moved, kept = (given[late:], wanted) if late >= 0 else (given, wanted[-late:])
    samples = min(len(moved), len(kept))
    # The ends of an inverse transform differ with its padding.
    inner = slice(samples // 10, samples - samples // 10)
    if _left(kept[:samples][inner], moved[:samples][inner]) > _EXPLAINED:
        return None
    if late == 0:
        return _explained("length", f"{len(given):,} samples where {len(wanted):,} are expected")
    word = "late" if late > 0 else "early"
    return _explained("shifted", f"{abs(late)} samples ({1000 * abs(late) / rate:.1f} ms) {word}")


def _bandwidth(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
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
    return _explained("band-limited", text)


def _located(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain an error that sits in some places, or that is larger there: on a grid, or the end."""
    blocks = min(len(wanted), len(given)) // _BLOCK_SAMPLES
    if blocks < _FEWEST_BLOCKS:
        return None
    samples = blocks * _BLOCK_SAMPLES
    wanted, given = (each[:samples].view(blocks, _BLOCK_SAMPLES) for each in (wanted, given))
    quiet = max(_QUIET_SHARE * float(wanted.square().mean().sqrt()), 1e-30)
    level = wanted.square().mean(dim=1).sqrt()
    size = (given - wanted).square().mean(dim=1).sqrt()
    damaged = size > _SOUND_BLOCK * level.clamp(min=quiet) + _SOUND_SAMPLES
    # A block without sound that is not damaged says nothing: there was nothing to damage.
    heard = level > quiet
    sound = heard & ~damaged
    error = size / level.clamp(min=quiet)
    if int(sound.sum()) < (1 - _DAMAGED_SHARE) * int(heard.sum()):
        return _jumps(given - wanted, rate)
    groups = _groups(damaged.tolist(), sound.tolist())
    if not groups:
        return None
    times = ", ".join(f"{begin * _BLOCK_SAMPLES / rate:.2f}" for begin, _ in groups[:_LISTED])
    evidence = f"an error of up to {float(error[damaged].max()):.2%} of the level, from {times} s"
    if len(groups) == 1 and not bool(sound[groups[0][1] :].any()):
        return _explained("tail", evidence)
    middles = [0.0, *((first + last) / 2 for first, last in groups)]
    gaps = [after - before for before, after in itertools.pairwise(middles)]
    if max(gaps) - min(gaps) <= _GRID_TOLERANCE * max(gaps):
        blocks_apart = sum(gaps) / len(gaps)
        return _explained("seams", f"{evidence}, every {blocks_apart:.0f} blocks")
    return _explained("places", evidence)


def _jumps(difference: Tensor, rate: int) -> Explanation | None:
    """Explain jumps at the edges of blocks: chunks that each feel their ends, and do not meet.

    Args:
        difference: `[blocks, samples]`.
        rate: Hz.
    """
    steps = difference.flatten().diff().abs()
    edges = torch.arange(1, len(difference)) * _BLOCK_SAMPLES - 1
    about = steps.unfold(0, _BLOCK_SAMPLES, _BLOCK_SAMPLES // 2)[1::2][: len(edges)]
    usual = about.median(dim=1).values.clamp(min=1e-9)
    ratio = steps[edges[: len(usual)]] / usual
    blocks = [int(block) + 1 for block in (ratio > _JUMP).nonzero()[:, 0]]
    if len(blocks) < _FEWEST_JUMPS or float(ratio.max()) < _LARGE_JUMP:
        return None
    times = ", ".join(f"{block * _BLOCK_SAMPLES / rate:.2f}" for block in blocks[:_LISTED])
    return _explained("seams", f"{len(blocks)} jumps between neighbouring samples, at {times} s")


def _arithmetic(wanted: Tensor, given: Tensor) -> Explanation:
    """Tell an error of rounding, which has no direction, from other weights, which have one.

    For each frequency, E = b R + noise is fitted over the frames, R the reference's spectrum and E
    the error's. Rounding gives b of the size of its standard error, so that |b|^2 over its variance
    is about 1; other weights answer the same sound with the same error, and give ten and more.
    """
    samples = min(len(wanted), len(given))
    share = _left(wanted, given)
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
        return _explained("rounding", f"{evidence}, without direction ({direction:.1f})")
    return _explained("weights", f"{evidence}, the same for the same sound ({direction:.1f})")


def _groups(damaged: list[bool], sound: list[bool]) -> list[tuple[int, int]]:
    """Return runs of damaged blocks as (first, last), parted by sound ones."""
    groups: list[tuple[int, int]] = []
    parted = True
    for block, (bad, good) in enumerate(zip(damaged, sound, strict=True)):
        if bad and parted:
            groups.append((block, block))
        elif bad:
            groups[-1] = (groups[-1][0], block)
        parted = good or (parted and not bad)
    return groups
