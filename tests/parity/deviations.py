"""How far the stages of a variant may be from float32 on the CPU, and how far two waveforms are.

Measured in float32 against float64 on 1.5 s of six fixture clips (two voices, one with digital
silence, drums, a sparse cowbell, a guitar) with the first embedded vocoder, a plain Vocos of 2.8 M
parameters, and a random one of the official size, which bounds what another order of summation can
do; those of `melcheck.diagnosis.stages.STAGE_TOLERANCES` are about three times the largest. Own:
encode 5.8e-3 (the guitar, whose highest bands are all rounding), backbone 8.2e-5, head 2.0e-5,
decode 5.4e-5. Carried: backbone 8.0e-3, head 5.0e-3, re-encode 1.2e-2. Mixing is one sum of two
samples, resampling one of up to 100, and decoders of lossless files agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from melcheck.diagnosis.stages import RETRIEVED_STAGE_TOLERANCES, StageTolerance, comparable

CONSISTENT_STAGES: Mapping[str, StageTolerance] = RETRIEVED_STAGE_TOLERANCES
"""With a consistent head: on the first two of those clips, and with random weights."""

# Measured against float64: backbone 2.3e-5 (with AVX2 1.5e-4) and 6.0e-4, head 2.6e-3 and 1.9e-2,
# re-encode 3.9e-3 and 4.6e-2.
CONSISTENT_ROUNDING_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(4.5e-4, 2e-3),
        "head": StageTolerance(8e-3, 6e-2),
        "decode": StageTolerance(8e-3, 6e-2),
        "re-encode": StageTolerance(2e-2, 0.15),
    }
)
"""The same, where no operation need round as on the CPU."""

# Measured with the first embedded vocoder: backbone 0.23, head 2.0e-5 and 0.25, re-encode 0.5.
BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(0.7, 0.7),
        "head": StageTolerance(6e-5, 0.75),
        "decode": StageTolerance(0.75, 0.75),
        "re-encode": StageTolerance(2e-2, 1.5),
    }
)
"""What stages may deviate by with a backbone that multiplies in bf16."""

# Measured: backbone 2.1e-2, head 0 and 1.8, re-encode 9.5e-7 and 2.4: another sound.
CONSISTENT_BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(6.5e-2, 6.5e-2),
        "head": StageTolerance(1.7e-3, math.inf),
        "decode": StageTolerance(math.inf, math.inf),
        "re-encode": StageTolerance(2e-2, 8.7),
    }
)
"""The same, with a consistent head."""


@dataclass(frozen=True, slots=True)
class WaveformDeviation:
    """Of two waveforms.

    Attributes:
        max_abs: The largest absolute difference, full scale 1.
        db: Energy of the difference against that of the reference, dB; -inf for identical ones.
    """

    max_abs: float
    db: float


def waveform_deviation(reference: Tensor, estimate: Tensor) -> WaveformDeviation:
    """Compare two waveforms of any one shape, full scale 1."""
    pair = comparable(reference, estimate)
    if pair is None:
        return WaveformDeviation(math.inf, math.inf)
    error, signal = (pair[0] - pair[1]), pair[0].norm().item()
    if not error.any():
        return WaveformDeviation(0.0, -math.inf)
    db = 20 * math.log10(error.norm().item() / signal) if signal else math.inf
    return WaveformDeviation(error.abs().max().item(), db)
