"""How far apart two computations of the same thing are: of a mel, of a waveform, of features.

What is compared here agrees but for rounding, or should: the measures are those of differences, not
of quality. Always `(reference, estimate)`; both may lie on different devices and have different
precisions, and are compared in float64 on the CPU. Other shapes, NaN or infinity in one of the two
give infinity, which no tolerance accepts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.metrics import FLOOR_TOLERANCE

__all__ = [
    "MelDeviation",
    "WaveformDeviation",
    "mel_deviation",
    "relative_deviation",
    "waveform_deviation",
]


@dataclass(frozen=True, slots=True)
class MelDeviation:
    """Of two log-mels, over the cells in which at least one of them is off the floor.

    Attributes:
        max_nats: The largest absolute difference; 0 where both are at the floor throughout.
        mean_nats: The mean absolute difference.
    """

    max_nats: float
    mean_nats: float


@dataclass(frozen=True, slots=True)
class WaveformDeviation:
    """Of two waveforms.

    Attributes:
        max_abs: The largest absolute difference, full scale 1.
        db: Energy of the difference against that of the reference, dB; -inf for identical ones.
    """

    max_abs: float
    db: float


def mel_deviation(reference: Tensor, estimate: Tensor, *, log_floor: float) -> MelDeviation:
    """Compare two log-mels of any one shape, nats; `log_floor` is that of their recipe."""
    pair = _comparable(reference, estimate)
    if pair is None:
        return MelDeviation(math.inf, math.inf)
    counted = torch.maximum(*pair) > log_floor + FLOOR_TOLERANCE
    differences = (pair[0] - pair[1]).abs()[counted]
    if not differences.numel():
        return MelDeviation(0.0, 0.0)
    return MelDeviation(differences.max().item(), differences.mean().item())


def waveform_deviation(reference: Tensor, estimate: Tensor) -> WaveformDeviation:
    """Compare two waveforms of any one shape, full scale 1."""
    pair = _comparable(reference, estimate)
    if pair is None:
        return WaveformDeviation(math.inf, math.inf)
    error, signal = (pair[0] - pair[1]), pair[0].norm().item()
    if not error.any():
        return WaveformDeviation(0.0, -math.inf)
    db = 20 * math.log10(error.norm().item() / signal) if signal else math.inf
    return WaveformDeviation(error.abs().max().item(), db)


def relative_deviation(reference: Tensor, estimate: Tensor) -> float:
    """Return the largest absolute difference, in units of the reference's root mean square."""
    pair = _comparable(reference, estimate)
    if pair is None:
        return math.inf
    largest = (pair[0] - pair[1]).abs().max().item()
    scale = pair[0].square().mean().sqrt().item()
    if largest == 0.0:
        return 0.0
    return largest / scale if scale else math.inf


def _comparable(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor] | None:
    if reference.shape != estimate.shape or not reference.numel():
        return None
    first, second = (tensor.detach().cpu().double() for tensor in (reference, estimate))
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        return None
    return first, second
