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
    "GUIDED_BF16_STAGES",
    "GUIDED_STAGES",
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

# On the same clips, three snapshots of training a guided head. Its features stand beside the mel,
# next to which they are small. Measured with other orders of summation, own and carried: backbone
# 1.2e-7 and 5.0e-7, head 1.8e-3 and 6.9e-3, re-encode 9.5e-7 and 0.35.
GUIDED_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(4e-7, 1.5e-6),
        "head": StageTolerance(6e-3, 2e-2),
        "decode": StageTolerance(6e-3, 2e-2),
        "re-encode": StageTolerance(2e-2, 1.1),
    }
)
"""Where it differs with a guided head."""

# Measured against float64: backbone 8.3e-8 and 3.0e-3, head 0.11 and 0.10, re-encode 6.6e-3 and
# 0.95.
GUIDED_ROUNDING_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(4e-7, 1e-2),
        "head": StageTolerance(0.35, 0.35),
        "decode": StageTolerance(0.35, 0.35),
        "re-encode": StageTolerance(2e-2, 3.0),
    }
)
"""The same, where no operation need round as on the CPU."""

# With random weights of the official configuration: backbone 1.4e-3, head 5.3e-6 and 1.6e-3,
# re-encode 4.8e-7 and 0.098.
BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(4e-3, 4e-3),
        "head": StageTolerance(6e-5, 5e-3),
        "decode": StageTolerance(5e-3, 5e-3),
        "re-encode": StageTolerance(2e-2, 0.35),
    }
)
"""What stages may deviate by with a backbone that multiplies in bf16."""

# Measured: backbone 6.1e-4, head 0 and 1.1 (a phase of the cowbell turned), re-encode 0.76.
GUIDED_BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(2e-3, 2e-3),
        "head": StageTolerance(6e-3, 3.3),
        "decode": StageTolerance(3.3, 3.3),
        "re-encode": StageTolerance(2e-2, 2.3),
    }
)
"""The same, with a guided head."""
