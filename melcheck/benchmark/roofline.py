"""How fast a Vocos could run here: its operations and bytes against what this machine does.

What is counted, from the modules' shapes, for a batch of sounds of one length:

- products: 2 operations for each multiply-add of the convolutions, linear layers and filterbanks,
  as torch executes them: a filterbank is a dense matrix there. Of these, those with a filter's zero
  are known (`skippable`) and belong to no limit;
- transforms: 2.5 N log2 N operations for a real FFT of N samples, the usual count of half a complex
  one of 5 N log2 N (the FFTW convention), one a frame in `encode` and in `decode`, and two more a
  frame, of its rate's length, for each projection of a `Consistency`;
- bytes: `needed_bytes` are each stage's input and output and the weights, once each: no
  implementation moves less. `moved_bytes` is what torch moves when it runs operator by operator,
  each reading its operands and writing its result; it explains a fraction and is no part of it.

The attainable time is the sum

    products / product rate + transforms / transform rate + needed bytes / copy rate

with the best rates that `melcheck.benchmark.roofline` saw on this device in the same run; the
fraction is that time over the measured one. Both are best cases of one machine in one run, so that
the fraction says how well it is used, and means the same on a fast machine as on a slow one.

References:
    S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model",
    CACM 52(4), 2009, https://doi.org/10.1145/1498765.1498785: rates as ceilings.
    M. Frigo and S. G. Johnson, "The design and implementation of FFTW3", 2005,
    https://doi.org/10.1109/JPROC.2004.840301, and https://www.fftw.org/speed/: the count of an FFT.

What this machine does at its best: matrix products, real FFTs, copies.

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
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from melcheck.speed.optimised import DTYPES, Precision, matmul_precision
from melcheck.vocoders.phase_head import ConsistentISTFTHead

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


Stage = Literal["encode", "decode", "round_trip"]
STAGES: tuple[Stage, ...] = ("encode", "decode", "round_trip")

_FLOAT_BYTES = 4
_WEIGHT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}

# Of `Consistency`: two in each projection, with the bands and bins of its rate.
_PRODUCTS_TO_CORRECT = 2


@dataclass(frozen=True, slots=True)
class Work:
    """What one call has to do.

    Attributes:
        products: Operations of all matrix products and convolutions, as torch executes them.
        skippable: Those among them that multiply a zero of a filterbank.
        transforms: Operations of all FFTs.
        needed_bytes: Inputs, outputs and weights, once each.
        moved_bytes: What plain torch moves, operator by operator.
    """

    products: float = 0.0
    skippable: float = 0.0
    transforms: float = 0.0
    needed_bytes: float = 0.0
    moved_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Return the work of both, one after the other."""
        return Work(
            self.products + other.products,
            self.skippable + other.skippable,
            self.transforms + other.transforms,
            self.needed_bytes + other.needed_bytes,
            self.moved_bytes + other.moved_bytes,
        )


def attainable_seconds(work: Work, rates: Rates) -> float:
    """Return how long the work takes at the rates that the machine showed, in seconds."""
    return (
        (work.products - work.skippable) / rates.products_per_second
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
    vocoder: VocosVocoder, stage: Stage, batch: int, samples: int, *, precision: Precision = "fp32"
) -> Work:
    """Count what a stage does with a batch of sounds.

    Args:
        vocoder: The official configuration, or any other with convolutions and linear layers in its
            backbone and one `out` and `istft` in its head.
        stage: "encode", "decode" (of the mel of such a sound) or "round_trip": audio -> mel ->
            audio -> mel, the sum of encode, decode and encode.
        batch: Number of sounds.
        samples: Of each sound.
        precision: Decides the bytes of a weight; what goes in and comes out is float32.
    """
    frames = vocoder.recipe.frames(samples)
    if stage == "encode":
        return _encode(vocoder, batch, samples, frames)
    decode = _decode(vocoder, batch, frames, _WEIGHT_BYTES[precision])
    if stage == "decode":
        return decode
    decoded = vocoder.recipe.num_samples(frames)
    return (
        _encode(vocoder, batch, samples, frames)
        + decode
        + _encode(vocoder, batch, decoded, vocoder.recipe.frames(decoded))
    )


def _fft(n_fft: int) -> float:
    return 2.5 * n_fft * math.log2(n_fft)


def _filter_products(filters: Tensor) -> tuple[float, float]:
    """Return the operations of one frame with a filterbank, and those of them with its zeros."""
    return 2.0 * filters.numel(), 2.0 * int((filters == 0).sum())


def _encode(vocoder: VocosVocoder, batch: int, samples: int, frames: int) -> Work:
    mel_spec = vocoder.model.feature_extractor.mel_spec
    n_fft, bands = mel_spec.n_fft, mel_spec.n_mels
    bins = n_fft // 2 + 1
    products, skippable = _filter_products(mel_spec.mel_scale.fb)
    total = batch * frames
    # Read + written, in values a frame: window, FFT (a complex value is two), absolute value,
    # filterbank, clip and logarithm; and the padding, once a sound.
    moved = 2 * n_fft + (n_fft + 2 * bins) + 3 * bins + (bins + bands) + 4 * bands
    return Work(
        products=total * products,
        skippable=total * skippable,
        transforms=total * _fft(n_fft),
        needed_bytes=_FLOAT_BYTES * batch * (samples + bands * frames),
        moved_bytes=_FLOAT_BYTES * (total * moved + batch * (2 * samples + n_fft)),
    )


def _decode(vocoder: VocosVocoder, batch: int, frames: int, weight_bytes: int) -> Work:
    model, recipe = vocoder.model, vocoder.recipe
    head, bands = model.head, recipe.n_mels
    total = batch * frames
    products = moved = 0.0
    for part in (model.backbone, head):
        for module in part.modules():
            products += _layer_products(module)
            moved += _layer_moves(module)
    weights = sum(p.numel() for part in (model.backbone, head) for p in part.parameters())
    n_fft, hop = head.istft.n_fft, recipe.hop_length
    bins = n_fft // 2 + 1
    # Exponential and clip, cosine and sine, three complex steps; inverse FFT, window, overlap-add.
    inverse = (2 * bins + n_fft) + 2 * n_fft + (n_fft + hop)
    moved += 4 * bins + 4 * bins + (3 + 5 + 5) * bins + inverse
    transforms, skippable = _fft(n_fft), 0.0
    if isinstance(head, ConsistentISTFTHead):
        long_enough = (frames - 1) * hop > n_fft // 2
        dense, zeros = _filter_products(head.phase_retrieval.filters)
        products += dense
        skippable += zeros
        moved += bins + bands + 4 * 3 * bins
        for rate, turns in head.phase_retrieval.stages:
            count = turns if long_enough else 0
            dense, zeros = _filter_products(rate.filters)
            products += count * _PRODUCTS_TO_CORRECT * dense
            skippable += count * _PRODUCTS_TO_CORRECT * zeros
            transforms += count * 2 * _fft(rate.n_fft)
            # Back, window, overlap-add; masked, mirrored, framed and windowed; forth; magnitudes,
            # their correction, momentum and direction.
            there = (2 * rate.bins + rate.n_fft) + 2 * rate.n_fft + (rate.n_fft + rate.hop_length)
            again = 4 * rate.hop_length + 2 * rate.n_fft + (rate.n_fft + 2 * rate.bins)
            corrected = 2 * (rate.bins + len(rate.bands)) + 26 * rate.bins
            moved += count * (there + again + corrected)
    return Work(
        products=total * products,
        skippable=total * skippable,
        transforms=total * transforms,
        needed_bytes=_FLOAT_BYTES * batch * (bands * frames + recipe.num_samples(frames))
        + weight_bytes * weights,
        moved_bytes=_FLOAT_BYTES * total * moved + weight_bytes * weights,
    )


def _layer_products(module: nn.Module) -> float:
    """Return the operations of a layer for one frame."""
    if isinstance(module, (nn.Linear, nn.Conv1d)):
        # [out, in] and [out, in / groups, kernel]: each value is used once a frame.
        return 2.0 * module.weight.numel()
    return 0.0


def _layer_moves(module: nn.Module) -> float:
    """Return the values that a layer reads and writes for one frame, weights apart."""
    if isinstance(module, nn.Linear):
        # The wider of a block's two layers also feeds GELU, which reads and writes as much.
        widened = module.out_features > module.in_features
        return module.in_features + (3 if widened else 1) * module.out_features
    if isinstance(module, nn.Conv1d):
        moved = module.in_channels + module.out_channels
        # A depthwise one begins a block, which ends with layer scale (2) and residual (3).
        return moved + (5 * module.out_channels if module.groups > 1 else 0)
    if isinstance(module, nn.LayerNorm):
        return 2.0 * math.prod(module.normalized_shape)
    return 0.0
