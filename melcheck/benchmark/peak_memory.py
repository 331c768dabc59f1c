"""How much memory a call takes at its peak, above what was in use before it.

On the CPU that is resident memory, from Linux' high-water mark; on CUDA, what torch's allocator
hands out.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["available_memory_mib", "peak_memory_mib"]

_MEBIBYTE = 2**20
_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/meminfo")


def peak_memory_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Make the call, and return the peak of its memory in MiB; None where the system keeps none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / _MEBIBYTE
    # Memory that was freed but not given back would be used again without being seen.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        # Linux: writing 5 resets the high-water mark of resident memory (proc(5)).
        (_PROCESS / "clear_refs").write_text("5")
        before_kib = _kib(_PROCESS / "status", "VmRSS")
    except OSError:
        call()
        return None
    call()
    return max(0, _kib(_PROCESS / "status", "VmHWM") - before_kib) / 1024


def available_memory_mib(device: torch.device) -> float | None:
    """Return how much memory a call may still take, in MiB; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + kept) / _MEBIBYTE
    try:
        return _kib(_MACHINE, "MemAvailable") / 1024
    except OSError:
        return None


def _kib(path: Path, field: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
