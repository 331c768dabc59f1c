"""What was done to a waveform on the way to a file or through a vocoder, given what it should be.

A mel cannot show all of it: a wrong rate in the header, samples that wrapped around, a seam. As in
`melcheck.diagnosis.diagnose`, each explanation is recomputed from the reference and named only
where next to nothing of the estimate is left over; wrong weights, which cannot be recomputed, only
where the error is correlated with the signal. Everything else is "unknown". The order is
`(reference, estimate)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from melcheck.audio import SILENT_PEAK
from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.recipe_search.audio_readings import RATES, resampled
from melcheck.diagnosis.recipe_search.mel_values import as_tensor
from melcheck.diagnosis.waveform_tests.direct import (
    AT_PEAK,
    EXPLAINED,
    FEWEST_SAMPLES,
    SAME_GAIN,
    backwards,
    bandwidth,
    drift,
    error_places,
    lag,
    left,
    non_finite,
    rounded,
    saturated,
    silent,
)
from melcheck.diagnosis.waveform_tests.fits import fitted
from melcheck.diagnosis.waveform_tests.other_weights import weights_or_unknown

SAME_SAMPLES = 2 / 32_768
"""A sample of a 16-bit file is off by half a step at most, and by one step more with dither."""

# A factor of 72 dB or more is one of integers: 32,768, or its inverse where they were scaled twice.
_INTEGER_GAIN = 4_000

# A square wave has nearly all samples at the peak, a clipped one these few.
_CLIPPED_SAMPLES = 3

# A gain is read where the reference is neither noise nor near full scale.
_QUIET_SHARE = 0.05
_LOUD_SHARE = 0.35

_RATE_CORRELATION = 0.98
# Resamplers round the last sample up, down or away.
_RATE_SLACK_SAMPLES = 2


def explain_waveform(
    reference: Tensor,
    estimate: Tensor,
    *,
    sample_rate: int,
    estimate_rate: int | None = None,
    channels: Tensor | None = None,
    tolerance: float = SAME_SAMPLES,
) -> Explanation | None:
    """Name what turned one waveform into the other.

    Args:
        reference: What it should be: the file as written, or a healthy vocoder's output;
            `[samples]` or `[1, samples]`, floating point.
        estimate: What it is, likewise.
        sample_rate: Hz of the reference.
        estimate_rate: Hz that the estimate's file claims; None for the same.
        channels: `[channels, samples]` that the reference is the mean of, where it was stereo.
        tolerance: By how much a sample may differ, full scale 1; the default is the rounding of 16
            bits, with dither.

    Returns:
        The cause, "unknown" where none is shown; None where no sample differs by more than
        `tolerance`.

    Raises:
        ValueError: One of them is not a single waveform, or is empty; or the reference, which is
            what it should be, holds NaN or infinite samples.
    """
    reference, estimate = as_tensor(reference, "reference"), as_tensor(estimate, "estimate")
    wanted = _single(reference, "reference")
    if not bool(torch.isfinite(wanted).all()):
        broken = int((~torch.isfinite(wanted)).sum())
        raise ValueError(
            f"reference must be finite, got {broken:,} NaN or infinite samples of {len(wanted):,}. "
            "Give the healthy waveform first and the one in question second."
        )
    if estimate.dim() == 2 and 1 < len(estimate) < estimate.shape[-1]:
        return explanation("channels", f"{len(estimate)} channels where one is expected")
    given = _single(estimate, "estimate")
    claimed = estimate_rate or sample_rate
    same_length = len(wanted) == len(given)
    same_format = same_length and claimed == sample_rate
    if same_format and float((given - wanted).abs().max()) <= tolerance:
        return None
    # Whether a check compares sample by sample, and the check.
    checks: tuple[tuple[bool, Callable[[], Explanation | None]], ...] = (
        (False, lambda: non_finite(given)),
        (False, lambda: _rate(wanted, given, sample_rate, claimed)),
        (True, lambda: _mixed(given, channels)),
        (False, lambda: saturated(given)),
        (True, lambda: _limits(wanted, given)),
        (True, lambda: _level(wanted, given)),
        # Behind the level: samples that were scaled down twice are next to silent, too.
        (False, lambda: silent(wanted, given)),
        (False, lambda: _nothing(wanted, given)),
        (True, lambda: _even_gain(wanted, given)),
        (True, lambda: backwards(wanted, given)),
        (False, lambda: lag(wanted, given, sample_rate)),
        (False, lambda: bandwidth(wanted, given, sample_rate)),
        (False, lambda: rounded(wanted, given)),
        (True, lambda: fitted(wanted, given)),
        (False, lambda: drift(wanted, given)),
        (False, lambda: error_places(wanted, given, sample_rate)),
    )
    for by_sample, check in checks:
        if (same_length or not by_sample) and (found := check()) is not None:
            return found
    return weights_or_unknown(wanted, given, share=left(wanted, given))


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


def _rate(wanted: Tensor, given: Tensor, rate: int, claimed: int) -> Explanation | None:
    if claimed != rate and len(wanted) == len(given):
        text = f"the header gives {claimed} Hz, the samples have {rate} Hz"
        return explanation("header-rate", text)
    for other in RATES:
        samples = math.ceil(len(wanted) * other / rate)
        if other == rate or abs(samples - len(given)) > _RATE_SLACK_SAMPLES:
            continue
        back = resampled(given.float(), other, rate).double()
        samples = min(len(back), len(wanted))
        if samples < FEWEST_SAMPLES:
            continue
        both = torch.stack([back[:samples], wanted[:samples]])
        if float(torch.corrcoef(both)[0, 1]) > _RATE_CORRELATION:
            if other == claimed:
                text = f"{other} Hz, as in its header, where {rate} Hz are expected"
            else:
                text = f"{other} Hz samples taken for {claimed} Hz"
            return explanation("sample-rate", text)
    return None


def _nothing(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Describe an estimate whose reference is silent: nothing can be recomputed from it."""
    peak = float(given.abs().max())
    if float(wanted.abs().max()) >= SILENT_PEAK:
        return None
    constant = float(given.mean())
    if float((given - constant).abs().max()) <= SAME_SAMPLES:
        return explanation("dc-offset", f"a constant of {constant:+.4g} where it should be silent")
    return explanation("unknown", f"a peak of {peak:.2g} where it should be silent")


def _mixed(given: Tensor, channels: Tensor | None) -> Explanation | None:
    if channels is None or channels.shape[-1] != len(given):
        return None
    for index, channel in enumerate(channels.double()):
        if left(channel, given) < EXPLAINED:
            return explanation("channel-dropped", f"channel {index} of {len(channels)} alone")
    if left(channels.double().sum(dim=0), given) < EXPLAINED:
        return explanation("stereo-sum", f"{len(channels)} channels added")
    return None


def _level(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a factor, a constant or both: a line through all samples, by least squares."""
    x, y = wanted - wanted.mean(), given - given.mean()
    if len(x) < FEWEST_SAMPLES or not float(x.square().sum()) > 0:
        return None
    gain = float(x @ y / x.square().sum())
    if gain == 0 or left(gain * x, y) > EXPLAINED:
        return None
    offset = float(given.mean() - gain * wanted.mean())
    if abs(offset) > SAME_SAMPLES * max(1.0, abs(gain)):
        factor = f", after a factor of {gain:.4g}" if abs(gain - 1) > SAME_GAIN else ""
        return explanation("dc-offset", f"a constant of {offset:+.4g}{factor}")
    if abs(gain + 1) < SAME_GAIN:
        return explanation("polarity", "a factor of -1")
    return _gain_of(gain) if abs(gain - 1) > SAME_GAIN else None


def _even_gain(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a factor that holds everywhere but at the ends, as of an overlap not divided out."""
    edge = len(wanted) // 10
    x, y = wanted[edge:-edge], given[edge:-edge]
    if len(x) < FEWEST_SAMPLES or not float(x.square().sum()) > 0:
        return None
    gain = float(x @ y / x.square().sum())
    even = abs(gain - 1) > SAME_GAIN and gain > 0 and left(gain * x, y) < EXPLAINED
    return _gain_of(gain) if even else None


def _gain_of(gain: float) -> Explanation:
    text = f"a factor of {gain:.4g} ({20 * math.log10(abs(gain)):+.2f} dB)"
    if not 1 / _INTEGER_GAIN < abs(gain) < _INTEGER_GAIN:
        how = "integers, not scaled to +-1" if abs(gain) > 1 else "integers scaled down twice"
        return explanation("int16-scale", f"{text}; {how}")
    return explanation(
        "gain", text, fix="Undo the level change, or leave loudness normalisation out."
    )


def _limits(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain samples beyond full scale: cut off, or wrapped around."""
    size = wanted.abs()
    peak = float(size.max())
    middle = (size > _QUIET_SHARE * peak) & (size < _LOUD_SHARE * peak)
    if int(middle.sum()) < FEWEST_SAMPLES:
        return None
    gain = float((given[middle] / wanted[middle]).median())
    scaled = gain * wanted
    beyond = scaled.abs() > 1
    unlimited = left(scaled, given)
    # Full scale and its opposite are one place on a circle.
    apart = torch.remainder(given - scaled + 1, 2) - 1
    if beyond.any() and left(scaled, scaled + apart) < min(EXPLAINED, unlimited / 2):
        return explanation(
            "int16-wrap", f"{int(beyond.sum()):,} samples, after a gain of {gain:.3g}"
        )
    limit = float(given.abs().max())
    cut = scaled.clamp(-limit, limit)
    at_limit = int((given.abs() >= AT_PEAK * limit).sum())
    if at_limit >= _CLIPPED_SAMPLES and left(cut, given) < min(EXPLAINED, unlimited / 2):
        return explanation("clipping", f"{at_limit:,} samples at {limit:.3g}")
    return None
