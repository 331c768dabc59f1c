"""In which precisions matrices are multiplied, by the names that options and reports give them.

fp32    24 bits of mantissa, everywhere
tf32    float32 of which CUDA multiplies 11 bits
bf16    8 bits, with float32's range
fp16    11 bits, with a smaller range
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import torch

__all__ = ["DTYPES", "PRECISIONS", "Precision", "matmul_precision"]

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {
        "fp32": torch.float32,
        "tf32": torch.float32,
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
    }
)
"""What operands are stored as."""


@contextlib.contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Let float32 products and convolutions on CUDA take TF32 for "tf32", and for nothing else."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with cudnn.flags(
            enabled=cudnn.enabled,
            benchmark=cudnn.benchmark,
            deterministic=cudnn.deterministic,
            allow_tf32=precision == "tf32",
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
