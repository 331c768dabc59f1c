"""Faults of the vocoder: weights, arithmetic, padding, chunks, batches, inverse transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from tests.faults.damage_vocoders import (
    chunked,
    half_backbone,
    head_gain,
    head_padding,
    head_padding_cut,
    int8,
    lost_gain,
    own_istft,
    padded_batch,
    raw_weights,
    reordered,
    reset,
    rounded_weights,
    short_chunks,
    tf32,
    transform,
)
from tests.faults.loops import Loop
from tests.faults.model import Bench, Fault, Severities

__all__ = ["VOCODER_FAULTS"]


def _vocoder_fault(
    name: str,
    row: int,
    tier: Literal["A", "B", "C"],
    source: str,
    inject: Callable[[Bench, Any], Loop],
    severities: Severities,
    *,
    cause: str | None = None,
    caught_by: tuple[str, ...] = ("decode", "golden-reconstructed"),
    reaches_reference: bool = False,
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="vocoder",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=caught_by,
        cause=cause,
        reaches_reference=reaches_reference,
    )


VOCODER_FAULTS: tuple[Fault, ...] = (
    _vocoder_fault(
        "batch-padding",
        20,
        "B",
        "hifi-gan #50",
        padded_batch,
        [("0", 0.0), ("-4", -4.0), ("-11.5", -11.5)],
        caught_by=("batch",),
        cause="tail",
    ),
    _vocoder_fault(
        "chunk-seams",
        21,
        "B",
        "hifi-gan #132",
        chunked,
        [("32", (32, 0)), ("64", (64, 0))],
        cause="seams",
    ),
    # Some context leaves so little of the seam that statistics of a whole mel need not show it.
    _vocoder_fault(
        "chunk-seams-in-context",
        21,
        "B",
        "hifi-gan #132",
        chunked,
        [("40", (40, 8)), ("64", (64, 8))],
        caught_by=("decode",),
        cause="seams",
    ),
    _vocoder_fault(
        "chunks-lose-samples",
        21,
        "B",
        "sglang-omni #1355",
        short_chunks,
        [("47", 47), ("64", 64)],
        caught_by=("shape", "decode"),
    ),
    _vocoder_fault(
        "weights-partly-loaded",
        22,
        "B",
        "F5-TTS #1292",
        reset,
        [
            ("one-layer", "backbone.convnext.2.dwconv"),
            ("one-block", "backbone.convnext.1"),
            ("head", "head.out"),
            ("backbone", "backbone"),
        ],
        cause="weights",
    ),
    _vocoder_fault(
        "half-precision",
        24,
        "B",
        "sglang-omni #1715",
        half_backbone,
        [("bfloat16", torch.bfloat16), ("float16", torch.float16)],
        caught_by=("decode",),
        cause="rounding",
    ),
    _vocoder_fault(
        "rounded-weights",
        24,
        "B",
        "ComfyUI #13219",
        rounded_weights,
        [("bfloat16", torch.bfloat16)],
    ),
    _vocoder_fault(
        "reversed-irfft",
        27,
        "B",
        "pytorch #126649",
        transform,
        [
            ("reversed", own_istft("squared", reverse=True)),
            ("conjugate", own_istft("squared", conjugate=True)),
        ],
    ),
    _vocoder_fault(
        "raw-for-averaged-weights",
        31,
        "B",
        "F5-TTS #895",
        raw_weights,
        [("1%", 0.01), ("5%", 0.05), ("20%", 0.2)],
    ),
    _vocoder_fault(
        "summation-order",
        32,
        "B",
        "vllm-omni #7231",
        reordered,
        [("random", None)],
        caught_by=("repeat",),
    ),
    _vocoder_fault(
        "half-precision-everywhere",
        24,
        "B",
        "ComfyUI #13219",
        half_backbone,
        [("bfloat16", torch.bfloat16)],
        caught_by=("golden-reconstructed",),
        reaches_reference=True,
    ),
    _vocoder_fault(
        "tf32",
        32,
        "B",
        "vllm-omni #7231",
        tf32,
        [("10-bits", 10)],
        caught_by=("decode",),
        cause="rounding",
    ),
    _vocoder_fault(
        "istft-envelope",
        46,
        "C",
        "kesha #718",
        transform,
        [("none", own_istft("none")), ("window", own_istft("window"))],
        cause="gain",
    ),
    _vocoder_fault(
        "istft-gain",
        46,
        "C",
        "tensorflow #16465",
        head_gain,
        [("half", 0.5), ("1.05", 1.05), ("2", 2.0)],
        cause="gain",
    ),
    _vocoder_fault(
        "exported-head",
        47,
        "C",
        "vocos #38",
        transform,
        [("half-window-late", own_istft("squared", late=512))],
        cause="shifted",
    ),
    # To a mel, one sample is nothing: as harmless as in what is read (tests/faults/test_benign.py).
    _vocoder_fault(
        "exported-head-one-late",
        47,
        "C",
        "vocos #38",
        transform,
        [("1-sample-late", own_istft("squared", late=1))],
        caught_by=("decode",),
        cause="shifted",
    ),
    _vocoder_fault(
        "exported-in-8-bits", 47, "C", "focalcodec #9", int8, [("head", "head.out"), ("all", "")]
    ),
    _vocoder_fault(
        "head-padding",
        48,
        "C",
        "vocos #18",
        head_padding,
        [("same", None)],
        caught_by=("preflight",),
    ),
    _vocoder_fault(
        "head-padding-cut",
        48,
        "C",
        "wavenext #4",
        head_padding_cut,
        [("same", None)],
        cause="shifted",
    ),
    _vocoder_fault(
        "weight-norm-lost",
        60,
        "C",
        "FlowSE #5",
        lost_gain,
        [("one-layer", "backbone.convnext.2.pwconv1.weight"), ("head", "head.out.weight")],
        cause="weights",
    ),
    _vocoder_fault(
        "output-inverted",
        64,
        "C",
        "by reasoning",
        head_gain,
        [("-1", -1.0)],
        caught_by=("decode",),
        cause="polarity",
    ),
)
"""Faults of the vocoder."""
