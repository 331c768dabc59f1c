"""The same vocoder computed in less time: same weights and recipe, other order of operations.

`optimise(vocoder)` answers to the same calls as the `VocosVocoder` that it is made from, and may be
given to `MelPipeline` in its place. Results differ by rounding in fp32, and by that of the named
precision otherwise; `pytest -m parity` measures by how much. The gate runs the unmodified vocoder
unless a caller passes an optimised one.

Precisions of matrix products, by the names that options and reports give them:

fp32    24 bits of mantissa, everywhere
tf32    float32 of which CUDA multiplies 11 bits
bf16    8 bits, with float32's range
fp16    11 bits, with a smaller range
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.spectral_ops import ISTFT

from melcheck.process_state import float32_precision, set_float32_precision
from melcheck.speed.optimised_layers import OptimisedBackbone, OptimisedMel, packed_linear
from melcheck.vocoders.base import VocoderWrapper, check_mel, check_waveform
from melcheck.vocoders.overlap_add import overlap_add, synthesise
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VOCOS_MIN_FRAMES, VocosVocoder, full_float32
from melcheck.vocoders.weights import VocoderUnavailable

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
"""How operands are stored, by precision."""


@contextlib.contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Let float32 products and convolutions on CUDA take TF32 for "tf32", and for nothing else."""
    before = float32_precision()
    set_float32_precision(("high", True) if precision == "tf32" else ("highest", False))
    try:
        yield
    finally:
        set_float32_precision(before)


_CPU_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

# As in ISTFTHead.
_MAX_MAGNITUDE = 1e2


@dataclass(frozen=True, slots=True, eq=False)
class OptimisedVocos(VocoderWrapper):
    """A Vocos as `optimise` arranges it. See `melcheck.vocoders.base.Vocoder`.

    Attributes:
        inner: Vocoder that it was made from.
        precision: Precision in which the backbone's pointwise layers multiply.
        to_mel: `[batch, samples]` -> `[batch, n_mels, frames]`.
        backbone: `[batch, n_mels, frames]` -> `[batch, frames, features]`.
        head: `[batch, frames, features]` -> `[batch, samples]`.
    """

    inner: VocosVocoder
    precision: Precision
    to_mel: Callable[[Tensor], Tensor]
    backbone: Callable[[Tensor], Tensor]
    head: Callable[..., Tensor]

    @property
    def model(self) -> Vocos:
        """Vocos that it was made from."""
        return self.inner.model

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of a waveform: see `Vocoder.encode`. No gradient passes through."""
        check_waveform(waveform, self.recipe)
        with full_float32:
            return self.to_mel(waveform)

    @torch.inference_mode()
    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of a log-mel: see `VocosVocoder.decode`."""
        check_mel(mel, self.recipe, min_frames=VOCOS_MIN_FRAMES)
        return self.run_head(self.run_backbone(mel))

    def run_backbone(self, mel: Tensor) -> Tensor:
        """Return the backbone's output for a log-mel.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, features]`
        """
        with _multiplying(self.precision):
            return self.backbone(mel)

    @torch.inference_mode()
    def run_head(self, features: Tensor, *, turned: Tensor | None = None) -> Tensor:
        """Return the head's waveform for features; `turned` as in `VocosVocoder.run_head`.

        Shape:
            `[batch, frames, features]` -> `[batch, recipe.num_samples(frames)]`
        """
        with full_float32:
            resumed = () if turned is None else (turned,)
            return self.head(features, *resumed)

    def pulse_turns(self, features: Tensor) -> Tensor:
        """Return what `VocosVocoder.pulse_turns` returns."""
        return self.inner.pulse_turns(features)


def optimise(vocoder: VocosVocoder, *, precision: Precision = "fp32") -> OptimisedVocos:
    """Return the same vocoder with packed weights and fewer passes over memory.

    Weights are packed, hence copied: after a change to `vocoder.model`, optimise it again.

    Args:
        vocoder: A loaded Vocos: "official", "embedded", a directory, a repository.
        precision: Precision of the backbone's pointwise layers; all else is float32.
            "tf32" and "fp16" are for CUDA, "bf16" for processors that have it, and CUDA.

    Raises:
        TypeError: Another kind of vocoder.
        ValueError: No such precision.
        VocoderUnavailable: The device does not multiply in that precision.
    """
    if not isinstance(vocoder, VocosVocoder):
        raise TypeError(
            f"vocoder must be a VocosVocoder, got {type(vocoder).__name__}. Griffin-Lim and code "
            "of your own have no layers to optimise."
        )
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}.")
    check_precision(vocoder.device, precision)
    model = vocoder.model
    dtype = DTYPES[precision]
    with torch.inference_mode():
        backbone = OptimisedBackbone(model.backbone, dtype=dtype)
        head = _head(model.head)
    return OptimisedVocos(
        inner=vocoder,
        precision=precision,
        to_mel=_to_mel(model.feature_extractor, vocoder.device),
        backbone=backbone,
        head=head,
    )


def check_precision(device: torch.device, precision: Precision) -> None:
    """Raise where a device does not multiply in a precision.

    Raises:
        VocoderUnavailable: The precision, and why this device lacks it.
    """
    if device.type != "cpu":
        return
    if precision not in _CPU_PRECISIONS:
        raise VocoderUnavailable(
            f"precision must be 'fp32' or 'bf16' on {device}, got {precision!r}. It is for CUDA."
        )
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise VocoderUnavailable(
            "precision must be 'fp32' on this processor, got 'bf16', in which it cannot multiply "
            "(lscpu shows no avx512_bf16 or amx_bf16)."
        )


def _to_mel(extractor: MelSpectrogramFeatures, device: torch.device) -> Callable[[Tensor], Tensor]:
    # Blocks fit a processor's cache. A GPU is faster with few large operations.
    return OptimisedMel(extractor) if device.type == "cpu" else torch.inference_mode()(extractor)


def _head(head: ISTFTHead) -> Callable[..., Tensor]:
    if isinstance(head, ConsistentISTFTHead):
        retrieving: ConsistentISTFTHead = head
        if head.out.weight.device.type == "cpu":  # a GPU is faster with few large operations
            retrieving = copy.deepcopy(head)
            retrieving.phase_retrieval.reorder_()
        return retrieving
    # A head that pads "same", or whose hop does not divide its window, has another inverse: it runs
    # as it is.
    istft: ISTFT = head.istft
    usual = istft.padding == "center" and istft.n_fft % istft.hop_length == 0
    return _Head(head) if usual else head


class _Head:
    """An `ISTFTHead` with centred frames, equal up to rounding.

    Magnitude and phase become a complex number in one pass, and frames are added as whole arrays.
    """

    def __init__(self, head: ISTFTHead) -> None:
        self.out = packed_linear(head.out.weight, head.out.bias, dtype=torch.float32)
        self.window: Tensor = head.istft.window
        self.hop_length = int(head.istft.hop_length)

    def __call__(self, features: Tensor) -> Tensor:
        log_magnitude, phase = self.out(features).chunk(2, dim=-1)
        magnitude = torch.exp(log_magnitude).clamp_(max=_MAX_MAGNITUDE)
        edge = len(self.window) // 2
        spectrum = torch.polar(magnitude, phase.contiguous())
        sound = synthesise(spectrum, self.window, self.hop_length)[:, edge:-edge]
        squares = self.window.square().expand(1, features.shape[1], len(self.window))
        return sound / overlap_add(squares, self.hop_length)[:, edge:-edge]


def _multiplying(precision: Precision) -> AbstractContextManager[None]:
    return matmul_precision("tf32") if precision == "tf32" else full_float32
