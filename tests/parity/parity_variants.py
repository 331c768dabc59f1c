"""The matrix of parity: every variant of the loop, with the tolerances that it owns."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch

from melcheck.diagnosis.stage_tolerances import (
    BF16_STAGES,
    CONSISTENT_BF16_STAGES,
    CONSISTENT_ROUNDING_STAGES,
    STAGE_TOLERANCES,
)
from melcheck.speed.optimised import check_precision, optimise
from melcheck.speed.precisions import PRECISIONS, Precision
from melcheck.vocoders.base import VocoderUnavailable, VocosVocoder
from tests.parity.matrix import Deviations, Variant
from tests.parity.variants import (
    in_a_batch,
    in_a_padded_batch,
    in_chunks,
    in_float64,
    on_device,
    with_threads,
)

__all__ = ["VARIANTS"]


def _without_bf16(vocoder: VocosVocoder) -> str:
    try:
        check_precision(vocoder.device, "bf16")
    except VocoderUnavailable as error:
        return str(error).splitlines()[0]
    return ""


def _without_cuda(_vocoder: VocosVocoder) -> str:
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no CUDA device"


def _on_cuda(optimised: Precision | None) -> Variant:
    # Not measured on a device. In float32, the bound that float64 gives; below that bf16's, which
    # has the fewest bits of the three.
    low = optimised in ("tf32", "bf16", "fp16")
    return Variant(
        name="cuda" if optimised is None else f"cuda-{optimised}",
        make=functools.partial(on_device, device="cuda", optimised=optimised),
        plain=_CUDA_LOW if low else _ROUNDING,
        consistent=_CONSISTENT_ROUNDING,
        device="cuda",
        absent=_without_cuda,
        stages=BF16_STAGES if low else STAGE_TOLERANCES,
        consistent_stages=CONSISTENT_BF16_STAGES if low else CONSISTENT_ROUNDING_STAGES,
    )


# Measured on 1.5 s of six fixture clips (two voices, one with digital silence, drums, a sparse
# cowbell, a guitar), on an x86 processor with AVX-512: `plain` with a trained Vocos of 2.8 M
# parameters and random weights of the official configuration, which magnify rounding fifty times
# less; `consistent` with the embedded vocoder and random weights in its configuration. The
# tolerance is three times the largest, ten decibels more for energy. `pytest -m parity` prints it.
_IDENTICAL = Deviations(0.0, 0.0, 0.0, 0.0, -math.inf)

# The same operations on the same numbers, summed in another order here and there. Measured, the
# largest of 1 and 4 threads, batches, padded batches, chunks and optimised: 9.5e-7, 6.2e-3,
# 4.9e-5, 5.4e-6, -107 dB.
_REORDERED = Deviations(3e-6, 2e-2, 1.5e-4, 2e-5, -97.0)
# Measured 9.5e-7, 0.36, 6.2e-4, 5.6e-3, -42 dB: projections magnify rounding.
_CONSISTENT_REORDERED = Deviations(3e-6, 1.1, 1.9e-3, 1.7e-2, -32.0)

# What float64 changes bounds what any other order of summation can. Measured 5.8e-3 (the encoder,
# where a guitar's highest bands lie 100 dB below its lowest), 4.3e-3, 4.5e-5, 3.7e-6, -110 dB: the
# decoder no more than above.
_ROUNDING = dataclasses.replace(_REORDERED, encoded_max_nats=2e-2)
# Measured 5.8e-3, 0.32, 1.4e-3, 7.7e-3, -39 dB.
_CONSISTENT_ROUNDING = Deviations(2e-2, 1.1, 4.2e-3, 2.3e-2, -29.0)

# Eight bits of mantissa in the backbone. Measured 9.5e-7, 0.50, 2.8e-3, 2.5e-2, -35 dB.
_BF16 = Deviations(3e-6, 1.5, 9e-3, 8e-2, -25.0)
# Measured 9.5e-7, 2.4, 2.6e-2, 0.21, -19 dB: as near to the mel, and another sound.
_CONSISTENT_BF16 = Deviations(3e-6, 7.2, 8e-2, 0.63, -9.0)

_CUDA_LOW = dataclasses.replace(_BF16, encoded_max_nats=2e-2)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="repeated",
        make=lambda vocoder: vocoder,
        plain=_IDENTICAL,
        consistent=_IDENTICAL,
        repeats=4,
    ),
    Variant(
        name="float64",
        make=in_float64,
        plain=_ROUNDING,
        consistent=_CONSISTENT_ROUNDING,
        consistent_stages=CONSISTENT_ROUNDING_STAGES,
    ),
    *(
        Variant(
            name=f"threads-{count}",
            make=functools.partial(with_threads, threads=count),
            plain=_REORDERED,
            consistent=_CONSISTENT_REORDERED,
        )
        for count in (1, 4)
    ),
    Variant(
        name="batch-of-4",
        make=functools.partial(in_a_batch, batch=4),
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
    ),
    Variant(
        name="padded-batch",
        make=functools.partial(in_a_padded_batch, extra_seconds=0.7),
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
        cut=True,
    ),
    Variant(
        name="chunks",
        make=functools.partial(in_chunks, frames=40),
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
    ),
    Variant(
        name="optimised-fp32",
        make=optimise,
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
    ),
    Variant(
        name="optimised-bf16",
        make=functools.partial(optimise, precision="bf16"),
        plain=_BF16,
        consistent=_CONSISTENT_BF16,
        absent=_without_bf16,
        stages=BF16_STAGES,
        consistent_stages=CONSISTENT_BF16_STAGES,
    ),
    *(_on_cuda(optimised) for optimised in (None, *PRECISIONS)),
)
"""All ways to compute the loop that a user can select, or that a run may come to on its own."""
