"""Other ways to compute the same loop: vocoders whose stages run elsewhere or differently.

Each function takes a Vocos and returns a vocoder of the same recipe that takes and returns float32
on the first one's device, so that only the computation in between differs. Those that keep each
stage's shapes show backbone and head too, so that a deviation can be followed to its stage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.diagnosis.stages import StagedVocoder
from melcheck.speed.chunked_decoding import chunk_decoder, context_frames
from melcheck.speed.optimised import Precision, optimise
from melcheck.vocoders.base import Vocoder, VocoderWrapper
from melcheck.vocoders.vocos import VocosVocoder


@dataclass(frozen=True, slots=True, eq=False)
class RoutedVocoder(VocoderWrapper):
    """A vocoder with every stage called through `route`.

    Attributes:
        inner: Vocoder whose stages they are.
        route: Function that takes a stage and its input, and returns the output.
        outside: Device of what goes in and comes out.
    """

    inner: StagedVocoder
    route: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
    outside: torch.device

    @property
    def device(self) -> torch.device:
        """Device of what goes in and comes out."""
        return self.outside

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of a waveform: see `Vocoder.encode`."""
        return self.route(self.inner.encode, waveform)

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of a log-mel: see `Vocoder.decode`."""
        return self.route(self.inner.decode, mel)

    def run_backbone(self, mel: Tensor) -> Tensor:
        """Return the backbone's features of a log-mel: see `VocosVocoder.run_backbone`."""
        return self.route(self.inner.run_backbone, mel)

    def run_head(self, features: Tensor) -> Tensor:
        """Return the head's waveform of features: see `VocosVocoder.run_head`."""
        return self.route(self.inner.run_head, features)


@dataclass(frozen=True, slots=True, eq=False)
class WholeVocoder(VocoderWrapper):
    """A Vocos whose encoding and decoding are replaced as wholes.

    Attributes:
        inner: Vocoder whose weights they use.
        encode: See `Vocoder.encode`.
        decode: See `Vocoder.decode`.
    """

    inner: VocosVocoder
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def in_float64(vocoder: VocosVocoder) -> Vocoder:
    """Compute each stage in float64: what is left is the rounding of the plain one."""
    model = copy.deepcopy(vocoder.model).double()
    inner = VocosVocoder(vocoder.info, vocoder.recipe, vocoder.device, model)
    return RoutedVocoder(
        inner, lambda stage, given: stage(given.double()).to(given.dtype), vocoder.device
    )


def on_device(
    vocoder: VocosVocoder, device: torch.device | str, *, optimised: Precision | None = None
) -> Vocoder:
    """Compute each stage on another device; optionally in a precision of `optimise`."""
    target = torch.device(device)
    model = copy.deepcopy(vocoder.model).to(target)
    moved = VocosVocoder(vocoder.info, vocoder.recipe, target, model)
    inner = moved if optimised is None else optimise(moved, precision=optimised)
    return RoutedVocoder(
        inner, lambda stage, given: stage(given.to(target)).to(given.device), vocoder.device
    )


def with_threads(vocoder: VocosVocoder, threads: int) -> Vocoder:
    """Compute each stage on so many threads of the CPU."""

    def route(stage: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return stage(given)
        finally:
            torch.set_num_threads(before)

    return RoutedVocoder(vocoder, route, vocoder.device)


def in_a_batch(vocoder: VocosVocoder, batch: int) -> Vocoder:
    """Compute each stage in a batch with quieter copies of the item, which comes last."""

    def route(stage: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        copies = [given * (number / batch) for number in range(batch)]
        return stage(torch.cat([*copies[1:], given]))[-len(given) :]

    return RoutedVocoder(vocoder, route, vocoder.device)


def in_a_padded_batch(vocoder: VocosVocoder, extra_seconds: float) -> Vocoder:
    """Encode and decode beside an item that is longer, padded to its length with silence.

    The last frames differ by design: where an item alone has an edge, here silence follows. See
    `melcheck.speed.chunked_decoding.context_frames`.
    """
    recipe = vocoder.recipe
    hops = round(extra_seconds * recipe.sample_rate / recipe.hop_length)

    def encode(waveform: Tensor) -> Tensor:
        batch = _beside_a_longer(waveform, hops * recipe.hop_length, silence=0.0)
        return vocoder.encode(batch)[:1, :, : recipe.frames(waveform.shape[-1])]

    def decode(mel: Tensor) -> Tensor:
        batch = _beside_a_longer(mel, hops, silence=recipe.log_floor)
        return vocoder.decode(batch)[:1, : recipe.num_samples(mel.shape[-1])]

    return WholeVocoder(vocoder, encode, decode)


def in_chunks(vocoder: VocosVocoder, frames: int) -> Vocoder:
    """Decode so many frames at a time, each chunk with the context that it depends on.

    See `melcheck.speed.chunked_decoding`; long audio is decoded so.
    """
    recipe, context = vocoder.recipe, context_frames(vocoder)

    def decode(mel: Tensor) -> Tensor:
        decode_chunk, last = chunk_decoder(vocoder), mel.shape[-1] - 1
        pieces = []
        for begin in range(0, last, frames):
            first, end = max(0, begin - context), min(begin + frames, last)
            decoded = decode_chunk(mel[..., first : end + 1 + context], first)
            offset = (begin - first) * recipe.hop_length
            pieces.append(decoded[:, offset : offset + (end - begin) * recipe.hop_length])
        return torch.cat(pieces, dim=-1)

    return WholeVocoder(vocoder, vocoder.encode, decode)


def _beside_a_longer(item: Tensor, extra: int, *, silence: float) -> Tensor:
    # The second item is as long as the batch: the first one, over again from its start.
    padded = torch.nn.functional.pad(item, (0, extra), value=silence)
    longer = torch.cat([item] * (1 + -(-extra // item.shape[-1])), dim=-1)
    return torch.cat([padded, longer[..., : padded.shape[-1]]])
