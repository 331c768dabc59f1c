"""Damage to a vocoder: its weights, arithmetic, chunks, batches and inverse transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from vocos import Vocos
from vocos.spectral_ops import ISTFT

from melcheck.recipes import VOCOS
from melcheck.vocoders.base import Vocoder, VocoderWrapper
from tests.faults.model import InjectionTarget, Project


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def reset(target: InjectionTarget, prefix: str) -> Project:
    """Load with strict=False a file that lacks these keys: they keep their first random values."""
    model = target.model
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(prefix)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, module in model.named_modules():
            fresh = getattr(module, "reset_parameters", None)
            if name.startswith(prefix) and fresh is not None:
                fresh()
    model.load_state_dict(kept, strict=False)
    return target.with_model(model)


def raw_weights(target: InjectionTarget, distance: float) -> Project:
    """Take the weights of the last step where their moving average is expected, or the reverse."""
    model = target.model
    generator = _generator()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(distance * parameter.std().nan_to_num() * noise)
    return target.with_model(model)


def rounded_weights(target: InjectionTarget, dtype: torch.dtype) -> Project:
    """Store the weights in fewer bits and load them back."""
    model = target.model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    return target.with_model(model)


def half_backbone(target: InjectionTarget, dtype: torch.dtype) -> Project:
    """Compute the backbone in fewer bits; the inverse transform exists in float32 only."""
    model = target.model
    backbone = model.backbone.to(dtype)

    @torch.inference_mode()
    def decode(mel: Tensor) -> Tensor:
        waveform: Tensor = model.head(backbone(mel.to(dtype)).float())
        return waveform

    return target.with_decoder(decode)


def tf32(target: InjectionTarget, mantissa_bits: int) -> Project:
    """Round what enters each product to the mantissa of TF32, as tensor cores do."""
    model = target.model
    dropped = 23 - mantissa_bits

    def rounded(values: Tensor) -> Tensor:
        bits = values.contiguous().view(torch.int32)
        return ((bits + (1 << (dropped - 1))) & ~((1 << dropped) - 1)).view(torch.float32)

    def before(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (rounded(inputs[0]), *inputs[1:])

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                module.weight.copy_(rounded(module.weight))
                module.register_forward_pre_hook(before)
    return target.with_model(model)


def reordered(target: InjectionTarget, _: None) -> Project:
    """Sum the products of each layer in a new order at each call, as atomic additions do."""
    model = target.model

    def reorder(module: nn.Module, inputs: tuple[Any, ...], _: Any) -> Tensor:
        weight = module.get_parameter("weight")
        order = torch.randperm(weight.shape[1])
        bias = module.get_parameter("bias")
        return nn.functional.linear(inputs[0][..., order], weight[:, order], bias)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(reorder)  # what a hook returns is the layer's result
    return target.with_model(model)


def lost_gain(target: InjectionTarget, name: str) -> Project:
    """Remove weight normalisation by keeping the direction v and losing the length g."""
    model = target.model
    weight = model.get_parameter(name)
    with torch.no_grad():
        weight.div_(weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)))
    return target.with_model(model)


def padded_batch(target: InjectionTarget, value: float) -> Project:
    """Pad the shorter mels of a batch with one value."""
    decode = target.vocoder.decode

    def decode_batch(mels: Sequence[Tensor]) -> list[Tensor]:
        longest = max(mel.shape[-1] for mel in mels)
        padded = [nn.functional.pad(mel, (0, longest - mel.shape[-1]), value=value) for mel in mels]
        waveforms = decode(torch.stack(padded))
        lengths = [VOCOS.num_samples(mel.shape[-1]) for mel in mels]
        return [waveforms[item, :length] for item, length in enumerate(lengths)]

    return dataclasses.replace(target.project, decode=decode, decode_batch=decode_batch)


def chunked(target: InjectionTarget, chunk: tuple[int, int]) -> Project:
    """Decode in chunks of so many frames, with too little context on each side."""
    frames, context = chunk
    decode = target.vocoder.decode
    hop = VOCOS.hop_length

    def decode_chunks(mel: Tensor) -> Tensor:
        total = mel.shape[-1]
        parts = []
        for begin in range(0, total - 1, frames):
            end = min(begin + frames, total - 1)
            first = max(0, begin - context)
            # A chunk of f frames gives (f - 1) hops, so that one frame more is needed.
            part = decode(mel[..., first : min(end + 1 + context, total)])
            parts.append(part[..., (begin - first) * hop : (end - first) * hop])
        return torch.cat(parts, dim=-1)

    return target.with_decoder(decode_chunks)


def short_chunks(target: InjectionTarget, frames: int) -> Project:
    """Join chunks as they come: each one is a hop shorter than its frames."""
    decode = target.vocoder.decode

    def decode_chunks(mel: Tensor) -> Tensor:
        chunks = torch.split(mel, frames, dim=-1)
        return torch.cat([decode(chunk) for chunk in chunks if chunk.shape[-1] > 1], dim=-1)

    return target.with_decoder(decode_chunks)


def _spectrum(model: Vocos, mel: Tensor) -> Tensor:
    """The complex spectrum that the model inverts in the end, `[batch, bins, frames]`."""
    return _head_spectrum(model.head, model.backbone(mel))


def _head_spectrum(head: nn.Module, features: Tensor) -> Tensor:
    """The spectrum that a head inverts: its own method where it retrieves phases."""
    spectrum = getattr(head, "spectrum", None)
    if spectrum is not None:
        retrieved: Tensor = spectrum(features).transpose(1, 2)
        return retrieved
    magnitude, phase = head.get_submodule("out")(features).transpose(1, 2).chunk(2, dim=1)
    # As `vocos.heads.ISTFTHead` builds it.
    return torch.polar(magnitude.exp().clip(max=1e2), phase)


def own_istft(
    envelope: Literal["squared", "window", "none"],
    *,
    reverse: bool = False,
    conjugate: bool = False,
    late: int = 0,
) -> Callable[[InjectionTarget], Project]:
    """Overlap and add by hand: frames times the window, summed, over an envelope.

    For x = sum_t w(n - tH) f_t(n) with f_t = w x, the sum is x sum_t w^2: that is what it must be
    divided by. At a hop of a quarter of the window sum w^2 = 1.5 and sum w = 2, so that no division
    gives 1.5 x, and the division by sum w gives 0.75 x.
    """

    def inject(target: InjectionTarget) -> Project:
        model = target.model
        window = torch.hann_window(VOCOS.win_length)

        def overlap_add(frames: Tensor) -> Tensor:
            length = (frames.shape[-1] - 1) * VOCOS.hop_length + VOCOS.n_fft
            added = nn.functional.fold(
                frames, (1, length), (1, VOCOS.n_fft), stride=(1, VOCOS.hop_length)
            )
            return added[:, 0, 0]

        @torch.inference_mode()
        def decode(mel: Tensor) -> Tensor:
            spectrum = _spectrum(model, mel)
            if conjugate:
                spectrum = spectrum.conj()
            frames = torch.fft.irfft(spectrum, n=VOCOS.n_fft, dim=1)
            if reverse:
                frames = frames.flip(1)
            added = overlap_add(frames * window[:, None])
            if envelope != "none":
                weight = window.square() if envelope == "squared" else window
                added = added / overlap_add(weight[:, None].expand_as(frames)).clip(min=1e-8)
            begin = VOCOS.pad_samples + late
            return nn.functional.pad(added, (0, late))[
                :, begin : begin + VOCOS.num_samples(mel.shape[-1])
            ]

        return target.with_decoder(decode)

    return inject


def transform(target: InjectionTarget, inject: Callable[[InjectionTarget], Project]) -> Project:
    """Write the inverse transform by hand; the severity is made by `own_istft`."""
    return inject(target)


def int8(target: InjectionTarget, name: str) -> Project:
    """Export with weights in 8 bits, one scale a tensor."""
    model = target.model
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.startswith(name) and parameter.dim() > 1:
                scale = parameter.abs().max() / 127
                parameter.copy_((parameter / scale).round() * scale)
    return target.with_model(model)


def _same_head(model: Vocos) -> Vocos:
    """Invert the head's spectrum with padding="same" in place of its own way."""
    inverse = ISTFT(VOCOS.n_fft, VOCOS.hop_length, VOCOS.win_length, padding="same")

    def invert(head: nn.Module, inputs: tuple[Any, ...], _: Any) -> Tensor:
        waveform: Tensor = inverse(_head_spectrum(head, inputs[0]))
        return waveform

    model.head.register_forward_hook(invert)  # what a hook returns is the head's result
    return model


def head_padding(target: InjectionTarget, _: None) -> Project:
    """Load the head with padding="same", which gives a hop more than is expected."""
    return target.with_model(_same_head(target.model))


def head_padding_cut(target: InjectionTarget, _: None) -> Project:
    """Cut what the other head gives to the length that is expected."""
    model = _same_head(target.model)
    return target.with_decoder(lambda mel: model.decode(mel)[:, : VOCOS.num_samples(mel.shape[-1])])


def head_gain(target: InjectionTarget, factor: float) -> Project:
    """Scale what the head gives."""
    decode = target.vocoder.decode
    return target.with_decoder(lambda mel: factor * decode(mel))


def half_everywhere(target: InjectionTarget, dtype: torch.dtype) -> Project:
    """Compute the reference's backbone in fewer bits, too, as a library would that changes."""
    changed = half_backbone(target, dtype)
    assert changed.decode is not None
    library = ChangedVocoder(target.vocoder, target.vocoder.encode, changed.decode)
    return dataclasses.replace(target.project, library=library)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ChangedVocoder(VocoderWrapper):
    """A vocoder whose halves are others."""

    inner: Vocoder
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
