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
# A block is damaged where its error reaches this share of the waveform's level, sound elsewhere.
_DAMAGED = 0.03
_DAMAGED_SHARE = 0.5
# A vocoder looks 27 frames to each side.
_REACH_BLOCKS = 29
_GRID_TOLERANCE_BLOCKS = 3

# Fewer bits leave 0.5 % (TF32) to 20 % (bfloat16) of a waveform; other weights leave more than it.
_ROUNDED = 0.35

_BANDS_HZ = 500
_KEPT = 0.1
_LOST = 0.2
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
        reference: What it should be: the file as written, or a healthy vocoder's output; `[samples]`
            or `[1, samples]`, floating point.
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
    checks: tuple[Callable[[], Explanation | None], ...] = (
        lambda: _rate(wanted, given, sample_rate, estimate_rate or sample_rate),
        lambda: _broken(wanted, given),
        lambda: _lag(wanted, given, sample_rate),
        lambda: _bandwidth(wanted, given, sample_rate),
        lambda: _located(wanted, given, sample_rate),
    )
    if len(wanted) == len(given):
        if bool(torch.isfinite(given).all()) and (estimate_rate or sample_rate) == sample_rate:
            if float((given - wanted).abs().max()) <= _SAME_SAMPLES:
                return None
            mixes: tuple[Callable[[], Explanation | None], ...] = (
                lambda: _mixed(given, channels),
                lambda: _level(wanted, given),
                lambda: _limits(wanted, given),
            )
            checks = (*checks[:2], *mixes, *checks[2:])
    for check in checks:
        found = check()
        if found is not None:
            return found
    share = _left(wanted, given)
    if share < _ROUNDED:
        return _explained("rounding", f"an error of {share:.1%} of the level, everywhere alike")
    return _explained("weights", f"an error of {share:.0%} of the level, which nothing explains")


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
    if claimed != rate:
        text = f"the header says {claimed} Hz, the samples are of {rate} Hz"
        if len(wanted) == len(given):
            return _explained("header-rate", text)
    for other in RATES:
        samples = math.ceil(len(wanted) * other / rate)
        if other == rate or abs(samples - len(given)) > 2 or not bool(torch.isfinite(given).all()):
            continue
        back = resampled(given.float(), other, rate).double()
        samples = min(len(back), len(wanted))
        both = torch.stack([back[:samples], wanted[:samples]])
        if float(torch.corrcoef(both)[0, 1]) > _RATE_CORRELATION:
            return _explained("sample-rate", f"{other} Hz samples taken for {rate} Hz")
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
        return _explained("dc-offset", f"a constant of {offset:+.4g}")
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
    wrapped = torch.remainder(scaled + 1, 2) - 1
    beyond = scaled.abs() > 1
    if beyond.any() and _left(wrapped, given) < _EXPLAINED:
        return _explained(
            "int16-wrap", f"{int(beyond.sum()):,} samples, after a gain of {gain:.3g}"
        )
    limit = float(given.abs().max())
    cut = scaled.clamp(-limit, limit)
    at_limit = int((given.abs() >= _AT_PEAK * limit).sum())
    if at_limit >= _CLIPPED_SAMPLES and _left(cut, given) < _EXPLAINED:
        return _explained("clipping", f"{at_limit:,} samples at {limit:.3g}")
    return None


def _lag(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain a delay, which the cross-correlation shows wherever else the ends differ."""
    length = 2 ** math.ceil(math.log2(len(wanted) + len(given)))
    spectra = torch.fft.rfft(given, length) * torch.fft.rfft(wanted, length).conj()
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
    """Explain bands that are missing, or images where none were."""
    samples = min(len(wanted), len(given))
    spectra = torch.fft.rfft(torch.stack([wanted[:samples], given[:samples]]))
    width = max(1, round(_BANDS_HZ * samples / rate))
    whole = spectra.shape[-1] // width * width
    error = (spectra[1] - spectra[0]).abs().square()[:whole].view(-1, width).sum(dim=1)
    power = spectra.abs().square()[:, :whole].view(2, -1, width).sum(dim=2)
    share = (error / power[0].clamp(min=1e-30)).sqrt()
    kept = share < _KEPT
    if not kept[0] or bool(kept.all()):
        return None
    first = int((~kept).nonzero()[0])
    # A filter falls over a few bands; above it there is nothing, or there are images.
    above = power[1, first + 2 :] / power[0, first + 2 :].clamp(min=1e-30)
    if len(above) and bool((above.sqrt() < _LOST).all()):
        return _explained("band-limited", f"nothing above {first * _BANDS_HZ:,} Hz")
    return None


def _located(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain an error that sits in some places only: on a grid, or at the end."""
    samples = min(len(wanted), len(given)) // _BLOCK_SAMPLES * _BLOCK_SAMPLES
    if samples < _FEWEST_BLOCKS * _BLOCK_SAMPLES:
        return None
    error = (given[:samples] - wanted[:samples]).view(-1, _BLOCK_SAMPLES).square().mean(dim=1)
    error = error.sqrt() / wanted.square().mean().sqrt().clamp(min=1e-30)
    worst = float(error.max())
    damaged = (error > _DAMAGED * max(worst, 1e-30)).nonzero()[:, 0].tolist()
    if worst < 1e-6 or not damaged or len(damaged) > _DAMAGED_SHARE * len(error):
        return None
    groups = _groups(damaged)
    times = ", ".join(f"{begin * _BLOCK_SAMPLES / rate:.2f}" for begin, _ in groups[:5])
    evidence = f"an error of up to {worst:.0%} of the level, at {times} s and nowhere else"
    if len(groups) == 1 and groups[0][1] >= len(error) - 2:
        return _explained("tail", evidence)
    # The strongest block of each group lies on the seam.
    peaks = [max(range(a, b + 1), key=lambda block: float(error[block])) for a, b in groups]
    gaps = [after - before for before, after in itertools.pairwise([0, *peaks])]
    if max(gaps) - min(gaps) <= _GRID_TOLERANCE_BLOCKS:
        return _explained("seams", f"{evidence}: every {sum(gaps) / len(gaps):.0f} frames")
    return _explained("places", evidence)


def _groups(blocks: list[int]) -> list[tuple[int, int]]:
    """Return runs of blocks as (first, last), those within a vocoder's reach taken together."""
    groups = [(blocks[0], blocks[0])]
    for block in blocks[1:]:
        if block - groups[-1][1] <= _GRID_TOLERANCE_BLOCKS:
            groups[-1] = (groups[-1][0], block)
        else:
            groups.append((block, block))
    return groups
