"""A Vocos' log-mel and backbone with the same weights and fewer passes over memory.

What is changed, none of it the mathematics:

- Arrays stay `[batch, frames, channels]` from the embedding to the head, depthwise convolutions
  included, so that no block transposes twice.
- A block's scale goes into its last layer: g * (W x + b) = (g W) x + g b.
- On processors the pointwise layers run through oneDNN with weights packed once, GELU in the same
  pass. torch would use MKL, which uses no AVX-512 on AMD's processors.
- Optionally these layers, which are nine tenths of the work, multiply in bfloat16 or float16; sums,
  norms, the residual stream and the head stay in float32.
- The log-mel is computed in blocks of frames that stay in the processor's cache, with magnitudes
  sqrt(re^2 + im^2) instead of `torch.abs`, which scales to survive values near the largest float.
- The filterbank, nearly all of it zeros, is cut into groups of neighbouring bands, each multiplied
  by its own bins alone.

Reference: H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.models import VocosBackbone
from vocos.modules import ConvNeXtBlock

from melcheck.recipes import filter_groups

# 1.2 MB for frames of 1,024 samples: blocks of 64 and of 564 frames were slower.
_BLOCK_FRAMES = 282

# As vocos clips it.
_FLOOR = 1e-7


class OptimisedMel:
    """The log-mel of a `MelSpectrogramFeatures`, equal up to rounding."""

    def __init__(self, extractor: MelSpectrogramFeatures) -> None:
        spectrogram = extractor.mel_spec.spectrogram
        self.n_fft = int(spectrogram.n_fft)
        self.hop_length = int(spectrogram.hop_length)
        # As `MelSpectrogramFeatures` pads: itself for "same", by torch.stft for "center".
        centred = extractor.padding == "center"
        self.edge = self.n_fft // 2 if centred else (self.n_fft - self.hop_length) // 2
        self.window: Tensor = spectrogram.window
        filters: Tensor = extractor.mel_spec.mel_scale.fb
        self.n_mels = filters.shape[1]
        self.groups = [
            (bins, bands, filters[bins, bands].contiguous())
            for bins, bands in filter_groups(filters)
        ]

    @torch.inference_mode()
    def __call__(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of a waveform; no gradient passes through.

        Shape:
            `[batch, samples]` -> `[batch, n_mels, frames]`
        """
        padded = nn.functional.pad(waveform[:, None], (self.edge, self.edge), mode="reflect")[:, 0]
        frames = padded.unfold(-1, self.n_fft, self.hop_length)
        mel = waveform.new_empty(len(waveform), self.n_mels, frames.shape[1])
        for item in range(len(waveform)):
            for start in range(0, frames.shape[1], _BLOCK_FRAMES):
                block = slice(start, start + _BLOCK_FRAMES)
                mel[item, :, block] = self._log_mel(frames[item, block]).T
        return mel

    def _log_mel(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self.window)
        energy = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        magnitude = energy.sqrt_()
        bands = frames.new_empty(len(frames), self.n_mels)
        for bins, some, filters in self.groups:
            bands[:, some] = magnitude[:, bins] @ filters
        return bands.clamp_(min=_FLOOR).log_()


Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Conv:
    """A convolution over the frames of `[batch, frames, channels]`."""

    weight: Tensor
    bias: Tensor
    padding: int
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv1d) -> _Conv:
        # [out, in, kernel] as a kernel of one column, in the layout of the input.
        weight = conv.weight.detach()[..., None].clone(memory_format=torch.channels_last)
        # As all of a backbone's convolutions pad: their output is as long as their input.
        return cls(weight, _bias(conv), conv.kernel_size[0] // 2, conv.groups)

    def __call__(self, x: Tensor) -> Tensor:
        # An image of `frames` rows and one column. The view spells out the strides by which
        # convolutions know a channels-last image; a mere transpose has others.
        batch, frames, channels = x.shape
        image = x.view(batch, frames, 1, channels).permute(0, 3, 1, 2)
        padding = (self.padding, 0)
        convolved = F.conv2d(image, self.weight, self.bias, padding=padding, groups=self.groups)
        return convolved[..., 0].transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _Block:
    conv: _Conv
    norm: _Norm
    widen: Linear
    narrow: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.widen(self.norm(self.conv(x)))).to(x.dtype)


class OptimisedBackbone:
    """A `VocosBackbone` in evaluation mode, equal up to rounding.

    The weights are copied, so that later changes to the model have no effect.

    Args:
        backbone: The trained backbone, on its device.
        dtype: Type of the pointwise layers' operands: `torch.float32`, `torch.bfloat16` or
            `torch.float16`.
    """

    def __init__(self, backbone: VocosBackbone, *, dtype: torch.dtype = torch.float32) -> None:
        self.embed = _Conv.of(backbone.embed)
        self.norm = _norm(backbone.norm)
        self.blocks = tuple(_block(block, dtype) for block in backbone.convnext)
        self.final_norm = _norm(backbone.final_layer_norm)

    @torch.inference_mode()
    def __call__(self, mel: Tensor) -> Tensor:
        """Return the features of a log-mel; no gradient passes through.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, dim]`
        """
        x = self.norm(self.embed(mel.transpose(1, 2).contiguous()))
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)


def packed_linear(
    weight: Tensor, bias: Tensor, *, dtype: torch.dtype, gelu: bool = False
) -> Linear:
    """Return `x -> x W^T + b` over the last dimension, followed by the exact GELU where asked.

    Where torch has oneDNN, weights on a processor are packed for it.

    Shape:
        weight `[out, in]`, bias `[out]`; the result maps `[..., in]` -> `[..., out]` in `dtype`
    """
    weight = weight.detach().to(dtype, copy=True).contiguous()
    bias = bias.detach().to(dtype, copy=True)
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        operators = torch.ops.mkldnn
        packed = operators._reorder_linear_weight(weight)
        activation, variant = ("gelu", "none") if gelu else ("none", "")

        def through_onednn(x: Tensor) -> Tensor:
            result: Tensor = operators._linear_pointwise(
                x.to(dtype), packed, bias, activation, [], variant
            )
            return result

        return through_onednn

    def through_torch(x: Tensor) -> Tensor:
        result = F.linear(x.to(dtype), weight, bias)
        return F.gelu(result) if gelu else result

    return through_torch


def _block(block: ConvNeXtBlock, dtype: torch.dtype) -> _Block:
    first: nn.Linear = block.pwconv1
    second: nn.Linear = block.pwconv2
    scale: Tensor = (
        second.bias.new_ones(second.out_features) if block.gamma is None else block.gamma
    )
    return _Block(
        conv=_Conv.of(block.dwconv),
        # Its scale and shift stay out of the layer after it: where they centre what varies about a
        # large constant, eight bits of mantissa would hold the constant.
        norm=_norm(block.norm),
        widen=packed_linear(first.weight, first.bias, dtype=dtype, gelu=True),
        narrow=packed_linear(second.weight * scale[:, None], second.bias * scale, dtype=dtype),
    )


def _norm(norm: nn.LayerNorm) -> _Norm:
    return _Norm(norm.weight.detach().clone(), norm.bias.detach().clone(), norm.eps)


def _bias(conv: nn.Conv1d) -> Tensor:
    if conv.bias is None:
        raise TypeError("a convolution of a Vocos backbone must have a bias, got none.")
    return conv.bias.detach().clone()
