"""How fast a Vocos could run here: its operations and bytes against what this machine does.

What is counted, while a call of the plain vocoder runs under torch's `FlopCounterMode`:

- products: 2 operations for each multiply-add of the convolutions and matrix products, without
  those of a filterbank that multiply a zero;
- transforms: 2.5 N log2 N operations for each real FFT of N samples, the usual count of half a
  complex FFT of 5 N log2 N (the FFTW convention);
- bytes: input, output and weights, once each. No implementation moves less.

The attainable time is the sum

    products / product rate + transforms / transform rate + bytes / copy rate

with the best rates that `RateMeter` measured on this device in the same run. The fraction is that
time over the measured one: 1 is the machine's limit, and 0.5 is twice the attainable time.

The rates are measured with the same threads as the cases, and again beside every case, so that a
first try on a busy machine does not stay the limit. Products have the shapes of a ConvNeXt block
(rows of frames, dim to intermediate and back), as a matrix product and as a convolution with a
kernel of length 1, which torch hands to different libraries. FFTs are real ones of the recipe's
length in both directions. A copy reads and writes more than the caches hold.

References:
    S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model",
    CACM 52(4), 2009, https://doi.org/10.1145/1498765.1498785: rates as ceilings.
    M. Frigo and S. G. Johnson, "The design and implementation of FFTW3", 2005,
    https://doi.org/10.1109/JPROC.2004.840301, and https://www.fftw.org/speed/: the count of an FFT.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from melcheck.benchmark.cases import Stage
from melcheck.speed.optimised import DTYPES, Precision, matmul_precision

if TYPE_CHECKING:
    from melcheck.vocoders.vocos import VocosVocoder

# Rows of the products, and frames of the transforms: within the caches and beyond them.
_ROWS = {"cpu": (256, 1024), "cuda": (4096, 65536)}
_FRAMES = {"cpu": (64, 256, 2048), "cuda": (4096, 65536)}
_COPIED_BYTES = {"cpu": 2**26, "cuda": 2**29}
_QUEUED = 10
_FIRST_REPEATS = 3
_REPEATS = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What one call has to do.

    Attributes:
        products: Operations of matrix products and convolutions, without the zeros of filterbanks.
        transforms: Operations of all FFTs.
        needed_bytes: Inputs, outputs and weights, once each.
    """

    products: float = 0.0
    transforms: float = 0.0
    needed_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Return the work of both, one after the other."""
        return Work(
            self.products + other.products,
            self.transforms + other.transforms,
            self.needed_bytes + other.needed_bytes,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """The best rates that were measured.

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


def attainable_seconds(work: Work, rates: Rates) -> float:
    """Return how long the work takes at the rates of the machine, in seconds."""
    return (
        work.products / rates.products_per_second
        + work.transforms / rates.transforms_per_second
        + work.needed_bytes / rates.copied_bytes_per_second
    )


def fraction(work: Work, rates: Rates, measured_seconds: float) -> float:
    """Return attainable time / measured time: 1 at the limit, 0.5 at twice the time.

    Raises:
        ValueError: A time that is not positive.
    """
    if not measured_seconds > 0:
        raise ValueError(f"measured_seconds must be above 0, got {measured_seconds}.")
    return attainable_seconds(work, rates) / measured_seconds


def count_work(
    vocoder: VocosVocoder, stage: Stage, value: Tensor, *, precision: Precision = "fp32"
) -> Work:
    """Count what a stage does with an input, by running it once.

    Args:
        vocoder: In plain torch, which counts each product and each FFT.
        stage: "encode", "decode" or "round_trip": the sum of encode, decode and encode.
        value: A waveform `[batch, samples]`; for "decode" a mel `[batch, n_mels, frames]`.
        precision: Decides the bytes of a weight; input and output are float32.
    """
    weights = sum(parameter.numel() for parameter in vocoder.model.parameters())
    weight_bytes = weights * DTYPES[precision].itemsize
    names = ("encode", "decode", "encode") if stage == "round_trip" else (stage,)
    total = Work()
    for name in names:
        call = vocoder.decode if name == "decode" else vocoder.encode
        counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
        with counter, _Decomposed():  # type: ignore[no-untyped-call]  # torch is
            result = call(value)
        counts = counter.get_flop_counts().get("Global", {})
        transforms = sum(counts.get(transform, 0) for transform in _TRANSFORMS)
        total += Work(
            products=sum(counts.values()) - transforms,
            transforms=transforms,
            needed_bytes=_bytes(value) + _bytes(result) + (weight_bytes if name == "decode" else 0),
        )
        value = result
    return total


class _Decomposed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Takes operations apart that are made of others, which are counted.

    In inference mode the counter of torch 2.4 sees the whole alone, and counts nothing.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            result = func.decompose(*args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _nonzero_products(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """Count a matrix product; the right matrix is a filterbank or the weights of a layer."""
    return 2 * left.shape[-2] * int(right.count_nonzero())


def _nonzero_products_added(_: Tensor, left: Tensor, right: Tensor, *__: Any, **___: Any) -> int:
    return _nonzero_products(left, right)


def _real_transforms(spectra: Tensor, dim: list[int], *_: Any, out_val: Tensor, **__: Any) -> float:
    """Count real FFTs, of a signal or back to one; the longer of the two is the signal."""
    [axis] = dim
    longer = max(spectra, out_val, key=lambda value: value.shape[axis])
    length = longer.shape[axis]
    return 2.5 * math.log2(length) * longer.numel()


_aten: Any = torch.ops.aten
_TRANSFORMS = (_aten._fft_r2c, _aten._fft_c2r)
_FORMULAS: dict[Any, Callable[..., float]] = {
    **dict.fromkeys((_aten.mm, _aten.bmm), _nonzero_products),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm), _nonzero_products_added),
    **dict.fromkeys(_TRANSFORMS, _real_transforms),
}
for _formula in _FORMULAS.values():
    _formula._get_raw = True  # type: ignore[attr-defined]  # takes tensors instead of shapes


class RateMeter:
    """Keeps the best rates of a run, by device, precision and number of threads.

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
    """A call that does a known amount, and its best rate."""

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
        frames_of_noise = torch.randn(frames, n_fft, device=device)
        yield _Trial(operations, torch.fft.rfft, frames_of_noise)
        yield _Trial(operations, torch.fft.irfft, torch.fft.rfft(frames_of_noise))


def _copy(device: torch.device) -> _Trial:
    source = torch.zeros(_COPIED_BYTES[device.type] // 4, device=device)
    target = torch.ones_like(source)  # pages that were never written would cost their first touch
    return _Trial(2.0 * _COPIED_BYTES[device.type], target.copy_, source)


def seconds_of(call: Callable[..., object], *operands: Tensor) -> float:
    """Return the seconds of one call, on CUDA until the device has done all of it."""
    device = operands[0].device
    synchronise(device)
    start = time.perf_counter()
    call(*operands)
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait for a CUDA device's queue; do nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_seconds_of(call: Callable[..., object], *operands: Tensor) -> float:
    """Return the seconds of a call that was made once before."""
    call(*operands)
    return seconds_of(call, *operands)
