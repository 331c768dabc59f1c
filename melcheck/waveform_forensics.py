"""What was done to a waveform on the way to a file or through a vocoder, given what it should be.

A mel cannot show all of it: a header with another rate, samples that wrapped around, a seam. As in
`melcheck.forensics`, each explanation is recomputed from the reference and named only where next to
nothing of the estimate is left over. `(reference, estimate)` is the order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from melcheck.explanations import Explanation, explanation
from melcheck.inspection import as_tensor
from melcheck.sounds import RATES, resampled
from melcheck.waveform_places import located
from melcheck.waveform_spectra import arithmetic, bandwidth

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
# A factor is read from at least so many samples.
_FEWEST_SAMPLES = 256

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
    reference, estimate = as_tensor(reference, "reference"), as_tensor(estimate, "estimate")
    wanted = _single(reference, "reference")
    if estimate.dim() == 2 and 1 < len(estimate) < estimate.shape[-1]:
        return explanation("channels", f"{len(estimate)} channels where one is expected")
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
    checks.append(lambda: bandwidth(wanted, given, sample_rate))
    checks.append(lambda: located(wanted, given, sample_rate))
    for check in checks:
        found = check()
        if found is not None:
            return found
    return arithmetic(wanted, given, share=_left(wanted, given))


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


def _left(wanted: Tensor, given: Tensor) -> float:
    """Return the root mean square of the difference, as a share of what is wanted."""
    samples = min(len(wanted), len(given))
    wanted, given = wanted[:samples], given[:samples]
    level = wanted.square().mean().sqrt()
    return float((given - wanted).square().mean().sqrt() / level) if level > 0 else math.inf


def _rate(wanted: Tensor, given: Tensor, rate: int, claimed: int) -> Explanation | None:
    if claimed != rate and len(wanted) == len(given):
        text = f"the header says {claimed} Hz, the samples are of {rate} Hz"
        return explanation("header-rate", text)
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
            return explanation("sample-rate", text)
    return None


def _broken(wanted: Tensor, given: Tensor) -> Explanation | None:
    broken = int((~torch.isfinite(given)).sum())
    if broken:
        return explanation("non-finite", f"{broken:,} of {len(given):,} samples")
    peak = float(given.abs().max())
    if peak < _SILENT_PEAK < float(wanted.abs().max()):
        return explanation("silent-output", f"its peak is {peak:.1e}")
    share = float((given.abs() >= _AT_PEAK * peak).double().mean())
    if share > _SATURATED_SHARE:
        return explanation("saturated", f"{share:.1%} of the samples are at {peak:.3g}")
    return None


def _mixed(given: Tensor, channels: Tensor | None) -> Explanation | None:
    if channels is None or channels.shape[-1] != len(given):
        return None
    for index, channel in enumerate(channels.double()):
        if _left(channel, given) < _EXPLAINED:
            return explanation("channel-dropped", f"channel {index} of {len(channels)} alone")
    if _left(channels.double().sum(dim=0), given) < _EXPLAINED:
        return explanation("stereo-sum", f"{len(channels)} channels added")
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
        return explanation("dc-offset", f"a constant of {offset:+.4g}{factor}")
    if abs(gain + 1) < _SAME_GAIN:
        return explanation("polarity", "every sample has the other sign")
    return _gain_of(gain) if abs(gain - 1) > _SAME_GAIN else None


def _even_gain(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a factor that holds everywhere but at the ends, as of an overlap not divided out."""
    edge = len(wanted) // 10
    x, y = wanted[edge:-edge], given[edge:-edge]
    if len(x) < _FEWEST_SAMPLES or not float(x.square().sum()) > 0:
        return None
    gain = float(x @ y / x.square().sum())
    even = abs(gain - 1) > _SAME_GAIN and gain > 0 and _left(gain * x, y) < _EXPLAINED
    return _gain_of(gain) if even else None


def _gain_of(gain: float) -> Explanation:
    peak = "; integers, not scaled to +-1" if abs(gain) > _INTEGER_PEAK * 1_000 else ""
    text = f"a factor of {gain:.4g} ({20 * math.log10(abs(gain)):+.2f} dB){peak}"
    return explanation("int16-scale" if peak else "gain", text)


def _limits(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain samples beyond full scale: cut off, or wrapped around."""
    size = wanted.abs()
    peak = float(size.max())
    middle = (size > _QUIET_SHARE * peak) & (size < _LOUD_SHARE * peak)
    if int(middle.sum()) < _FEWEST_SAMPLES:
        return None
    gain = float((given[middle] / wanted[middle]).median())
    scaled = gain * wanted
    beyond = scaled.abs() > 1
    unlimited = _left(scaled, given)
    # Full scale and its opposite are one place on a circle.
    apart = torch.remainder(given - scaled + 1, 2) - 1
    if beyond.any() and _left(scaled, scaled + apart) < min(_EXPLAINED, unlimited / 2):
        return explanation(
            "int16-wrap", f"{int(beyond.sum()):,} samples, after a gain of {gain:.3g}"
        )
    limit = float(given.abs().max())
    cut = scaled.clamp(-limit, limit)
    at_limit = int((given.abs() >= _AT_PEAK * limit).sum())
    if at_limit >= _CLIPPED_SAMPLES and _left(cut, given) < min(_EXPLAINED, unlimited / 2):
        return explanation("clipping", f"{at_limit:,} samples at {limit:.3g}")
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
        return explanation("length", f"{len(given):,} samples where {len(wanted):,} are expected")
    word = "late" if late > 0 else "early"
    return explanation("shifted", f"{abs(late)} samples ({1000 * abs(late) / rate:.1f} ms) {word}")
