"""How far each stage of the loop may be from plain float32 on the CPU.

In full scale up to `resample`, nats off the floor for mels, and units of the reference's root mean
square for features and sound. `melcheck.stages` lists the stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "BF16_STAGES",
    "CONSISTENT_BF16_STAGES",
    "CONSISTENT_ROUNDING_STAGES",
    "CONSISTENT_STAGES",
    "STAGE_TOLERANCES",
    "StageTolerance",
]


@dataclass(frozen=True, slots=True)
class StageTolerance:
    """The largest deviations of one stage.

    In full scale up to `resample`, nats off the floor for mels, and units of the reference's root
    mean square for features and sound.

    Attributes:
        own: On the reference's input, where it can only round.
        carried: On what the candidate's earlier stages gave it.
    """

    own: float
    carried: float


# Measured in float32 against float64 on 1.5 s of six fixture clips (two voices, one with digital
# silence, drums, a sparse cowbell, a guitar) with the first embedded vocoder, a plain Vocos of
# 2.8 M parameters, and a random one of the official size, which bounds what another order of
# summation can do; given here is about three times the largest. Own: encode 5.8e-3 (the guitar,
# whose highest bands are all rounding), backbone 8.2e-5, head 2.0e-5, decode 5.4e-5. Carried:
# backbone 8.0e-3, head 5.0e-3, re-encode 1.2e-2. Mixing is one sum of two samples, resampling one
# of up to 100, and decoders of lossless files agree to the bit.
STAGE_TOLERANCES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "load": StageTolerance(0.0, 0.0),
        "mix": StageTolerance(1e-7, 1e-7),
        "resample": StageTolerance(1e-6, 1e-6),
        "encode": StageTolerance(2e-2, 2e-2),
        "backbone": StageTolerance(3e-4, 2.5e-2),
        "head": StageTolerance(6e-5, 2e-2),
        "decode": StageTolerance(2e-4, 2e-2),
        "re-encode": StageTolerance(2e-2, 4e-2),
    }
)
"""What each stage may deviate by in float32."""

# On the same clips, two snapshots of training a consistent head, and random weights. Its features stand
# beside the mel, next to which they are small. Measured with other orders of summation, own and
# carried: backbone 1.4e-6 both, head 1.5e-4 and 3.4e-4, re-encode 9.5e-7 and 1.5e-2.
CONSISTENT_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(4e-6, 4e-6),
        "head": StageTolerance(5e-4, 1e-3),
        "decode": StageTolerance(5e-4, 1e-3),
        "re-encode": StageTolerance(2e-2, 5e-2),
    }
)
"""Where it differs with a consistent head."""

# Measured against float64: backbone 1.0e-6 and 3.3e-3, head 5.1e-2 both (the drums), re-encode
# 5.8e-3 and 0.37.
CONSISTENT_ROUNDING_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(4e-6, 1e-2),
        "head": StageTolerance(0.15, 0.15),
        "decode": StageTolerance(0.15, 0.15),
        "re-encode": StageTolerance(2e-2, 1.1),
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

# Measured: backbone 4.4e-3, head 0 and 3.3e-3, re-encode 1.2e-2.
CONSISTENT_BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(1.5e-2, 1.5e-2),
        "head": StageTolerance(5e-4, 1e-2),
        "decode": StageTolerance(1e-2, 1e-2),
        "re-encode": StageTolerance(2e-2, 4e-2),
    }
)
"""The same, with a consistent head."""
