"""The matrix of parity: every variant of the loop, with the tolerances that it owns."""

from __future__ import annotations

import functools
import math
from types import MappingProxyType

import torch

from melcheck.fast import optimise
from melcheck.parity import Deviations, Variant, is_guided
from melcheck.stages import StageTolerance
from melcheck.variants import (
    in_a_batch,
    in_a_padded_batch,
    in_chunks,
    in_float64,
    on_device,
    with_threads,
)
from melcheck.vocoders import VocoderUnavailable, VocosVocoder

__all__ = ["VARIANTS"]


def _without_whole_phases(vocoder: VocosVocoder) -> str:
    # Measured on the six clips: 3.9 dB. Each seam is a jump in phase.
    if not is_guided(vocoder):
        return ""
    return "a guided head counts phases from its first frame: in chunks it makes another sound"


def _without_bf16(vocoder: VocosVocoder) -> str:
    try:
        optimise(vocoder, precision="bf16")
    except VocoderUnavailable as error:
        return str(error).splitlines()[0]
    return ""


def _without_cuda(_vocoder: VocosVocoder) -> str:
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no CUDA device"


# Measured on 1.5 s of six fixture clips (two voices, one with digital silence, drums, a sparse
# cowbell, a guitar) with the first embedded vocoder and, for two seeds each, random weights of the
# official and of a guided configuration, on an x86 processor with AVX-512. The tolerance is three
# times the largest of them, ten decibels more for energy. `pytest -m parity` prints what it finds
# beside them.
_IDENTICAL = Deviations(0.0, 0.0, 0.0, 0.0, -math.inf)

# What float64 changes bounds what any other order of summation can. Measured 5.8e-3 (the encoder,
# where a guitar's highest bands lie 100 dB below its lowest), 4.3e-3, 4.5e-5, 3.7e-6, -110 dB.
_ROUNDING = Deviations(2e-2, 2e-2, 1.5e-4, 2e-5, -97.0)
# Measured 5.8e-3, 1.8, 3e-2, 1.3, -12 dB, the last four on the cowbell, after digital silence.
_GUIDED_ROUNDING = Deviations(2e-2, 6.0, 0.1, 4.0, -2.0)

# The same operations on the same numbers, summed in another order here and there. Measured, the
# largest of 1, 2 and 4 threads, batches, padded batches, chunks and optimised: 9.5e-7, 6.2e-3,
# 4.8e-5, 5.4e-6, -107 dB.
_REORDERED = Deviations(3e-6, 2e-2, 1.5e-4, 2e-5, -97.0)
# Measured 9.5e-7, 0.94, 2.4e-3, 0.19, -22 dB, with four threads on the drums and the pause.
_GUIDED_REORDERED = Deviations(3e-6, 3.0, 7e-3, 0.6, -12.0)

# Eight bits of mantissa in the backbone. Measured 9.5e-7, 0.5, 2.8e-3, 2.5e-2, -35 dB; features
# 0.23 of their RMS at most. Random guided weights, whose first details are small, deviate less.
_BF16 = Deviations(3e-6, 1.5, 1e-2, 8e-2, -25.0)
_GUIDED_BF16 = Deviations(3e-6, 3.0, 1e-2, 0.6, -12.0)
_BF16_STAGES = MappingProxyType(
    {
        "backbone": StageTolerance(0.7, 0.7),
        "head": StageTolerance(6e-5, 0.75),
        "decode": StageTolerance(0.75, 0.75),
        "re-encode": StageTolerance(2e-2, 1.5),
    }
)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="repeated",
        make=lambda vocoder: vocoder,
        plain=_IDENTICAL,
        guided=_IDENTICAL,
        repeats=4,
    ),
    Variant(name="float64", make=in_float64, plain=_ROUNDING, guided=_GUIDED_ROUNDING),
    *(
        Variant(
            name=f"threads-{count}",
            make=functools.partial(with_threads, threads=count),
            plain=_REORDERED,
            guided=_GUIDED_REORDERED,
        )
        for count in (1, 2, 4)
    ),
    Variant(
        name="batch-of-4",
        make=functools.partial(in_a_batch, batch=4),
        plain=_REORDERED,
        guided=_GUIDED_REORDERED,
    ),
    Variant(
        name="padded-batch",
        make=functools.partial(in_a_padded_batch, extra_seconds=0.7),
        plain=_REORDERED,
        guided=_GUIDED_REORDERED,
        cut=True,
    ),
    Variant(
        name="chunks",
        make=functools.partial(in_chunks, frames=40),
        plain=_REORDERED,
        guided=_GUIDED_ROUNDING,
        absent=_without_whole_phases,
    ),
    Variant(
        name="optimised-fp32",
        make=optimise,
        plain=_REORDERED,
        guided=_GUIDED_REORDERED,
    ),
    Variant(
        name="optimised-bf16",
        make=functools.partial(optimise, precision="bf16"),
        plain=_BF16,
        guided=_GUIDED_BF16,
        absent=_without_bf16,
        stages=_BF16_STAGES,
    ),
    # Not measured on a device: the bound that float64 gives.
    Variant(
        name="cuda",
        make=functools.partial(on_device, device="cuda"),
        plain=_ROUNDING,
        guided=_GUIDED_ROUNDING,
        device="cuda",
        absent=_without_cuda,
    ),
)
"""All ways to compute the loop that a user can select, or that a run may come to on its own."""
