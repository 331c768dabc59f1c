"""What the samples of a waveform tell by themselves: broken, silent, a square wave, rounded.

And when two waveforms count as one, the bounds that its neighbours share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from melcheck.diagnosis.explanations import Explanation, explanation

__all__ = [
    "AT_PEAK",
    "EXPLAINED",
    "SAME_GAIN",
    "SILENT_PEAK",
    "left",
    "non_finite",
    "rounded",
    "saturated",
    "silent",
]

EXPLAINED = 0.01
"""What is left of an explained waveform at most, as a share of its own root mean square.

Rounding to 16 bits leaves 1e-3 of a quiet one.
"""

SAME_GAIN = 1e-3
"""A factor this near to 1 is none."""

SILENT_PEAK = 1e-4
"""A waveform whose peak is below this is silent: -80 dB of full scale."""

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

    What one of them is longer by is not looked at. Infinite where the reference is silent.
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
        if _is_integer(estimate, bits):
            coarser = not _is_integer(reference, bits)
            return explanation("rounding", f"each sample has {bits} bits") if coarser else None
    for name, dtype in _SHORT_FLOATS.items():
        same = torch.equal(estimate.to(dtype).to(estimate), estimate)
        before = torch.equal(reference.to(dtype).to(reference), reference)
        if same and not before:
            return explanation("rounding", f"each sample is a {name}")
    return None


def _is_integer(waveform: Tensor, bits: int) -> bool:
    steps = waveform * 2 ** (bits - 1)
    return float((steps - steps.round()).abs().max()) < _STEP_TOLERANCE
