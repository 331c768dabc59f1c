"""What this machine does at its best: matrix products, real FFTs, copies.

These are the ceilings of `roofline`. They are measured where and when the benchmark runs, with the
same threads, and the best of all repeats counts: what is slower was disturbed. `RateMeter` is asked
again beside every measurement, so that a disturbed first try does not stay the ceiling. Products
have the shapes of a ConvNeXt block (rows of frames, dim to intermediate and back), as a matrix
product and as a convolution of one tap, which torch hands to different libraries; FFTs are real
ones of the recipe's length in both directions; a copy reads and writes more than caches hold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from melcheck.speed.precisions import DTYPES, Precision, matmul_precision

__all__ = [
    "RateMeter",
    "Rates",
    "seconds_of",
    "warm_seconds_of",
]

# Rows of the products, and frames of the transforms: within the caches and beyond them.
_ROWS = {"cpu": (256, 1024), "cuda": (4096, 65536)}
_FRAMES = {"cpu": (64, 256, 2048), "cuda": (4096, 65536)}
_COPIED_BYTES = {"cpu": 2**26, "cuda": 2**29}
_QUEUED = 10
_FIRST_REPEATS = 3
_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Rates:
    """The best that was seen.

    Attributes:
        products_per_second: Operations of matrix products, 2 a multiply-add.
        transforms_per_second: Operations of real FFTs, 2.5 N log2 N each.
        copied_bytes_per_second: Bytes read plus bytes written.
    """

    products_per_second: float
    transforms_per_second: float
    copied_bytes_per_second: float

    def as_dict(self) -> dict[str, float]:
        """Return the rates by name."""
        return asdict(self)


class RateMeter:
    """Keeps the best rates that a run has seen, by device, precision and number of threads.

    At first several shapes are tried, each a few times; later only the one that was fastest.

    Args:
        widths: dim and intermediate of the products.
        n_fft: Length of the transforms.
    """

    def __init__(self, widths: tuple[int, int] = (512, 1536), n_fft: int = 1024) -> None:
        self.widths = widths
        self.n_fft = n_fft
        self._best: dict[tuple[str, Precision, int], list[_Trial]] = {}

    def rates(self, device: torch.device, precision: Precision) -> Rates:
        """Measure once more, and return the best so far."""
        key = (str(device), precision, torch.get_num_threads())
        with torch.inference_mode(), matmul_precision(precision):
            if key not in self._best:
                self._best[key] = [
                    max(trials, key=lambda trial: trial.repeated(_FIRST_REPEATS))
                    for trials in (
                        list(_products(self.widths, device, precision)),
                        list(_transforms(self.n_fft, device)),
                        [_copy(device)],
                    )
                ]
            return Rates(*(trial.repeated(_REPEATS) for trial in self._best[key]))


class _Trial:
    """A call of a known amount, and the best rate that it had."""

    def __init__(self, amount: float, call: Callable[..., object], *operands: Tensor) -> None:
        # On CUDA several are queued, so that launching one is hidden behind the one before.
        self._times = _QUEUED if operands[0].device.type == "cuda" else 1
        self._amount = amount * self._times
        self._once = call
        self._operands = operands
        self._rate = 0.0

    def _call(self, *operands: Tensor) -> None:
        for _ in range(self._times):
            self._once(*operands)

    def repeated(self, times: int) -> float:
        for _ in range(times):
            self._rate = max(
                self._rate, self._amount / warm_seconds_of(self._call, *self._operands)
            )
        return self._rate


def _products(
    widths: tuple[int, int], device: torch.device, precision: Precision
) -> Iterator[_Trial]:
    dtype = DTYPES[precision]
    for rows in _ROWS[device.type]:
        for inner, outer in (widths, widths[::-1]):
            operations = 2.0 * rows * inner * outer
            left = torch.randn(rows, inner, device=device).to(dtype)
            right = torch.randn(outer, inner, device=device).to(dtype)
            yield _Trial(operations, _multiply, left, right, left.new_empty(rows, outer))
            columns, taps = left.T[None].contiguous(), right[:, :, None]
            yield _Trial(operations, torch.nn.functional.conv1d, columns, taps)


def _multiply(left: Tensor, right: Tensor, result: Tensor) -> Tensor:
    return torch.mm(left, right.T, out=result)


def _transforms(n_fft: int, device: torch.device) -> Iterator[_Trial]:
    for frames in _FRAMES[device.type]:
        operations = 2.5 * n_fft * math.log2(n_fft) * frames
        sound = torch.randn(frames, n_fft, device=device)
        yield _Trial(operations, torch.fft.rfft, sound)
        yield _Trial(operations, torch.fft.irfft, torch.fft.rfft(sound))


def _copy(device: torch.device) -> _Trial:
    source = torch.zeros(_COPIED_BYTES[device.type] // 4, device=device)
    target = torch.ones_like(source)  # pages that were never written would cost their first touch
    return _Trial(2.0 * _COPIED_BYTES[device.type], target.copy_, source)


def seconds_of(call: Callable[..., object], *operands: Tensor) -> float:
    """Return the seconds of one call, by the clock or, on CUDA, by events on its stream."""
    device = operands[0].device
    if device.type == "cuda":
        begin, end = (_event() for _ in range(2))
        with torch.cuda.device(device):
            torch.cuda.synchronize()
            begin.record()
            call(*operands)
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) / 1000
    start = time.perf_counter()
    call(*operands)
    return time.perf_counter() - start


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def warm_seconds_of(call: Callable[..., object], *operands: Tensor) -> float:
    """Return the seconds of a call that was made once before."""
    call(*operands)
    return seconds_of(call, *operands)
