"""Decoding a long mel in chunks, so that the result is that of the whole.

A sample depends on the mel within a reach of frames, which follows from the model. A chunk that is
decoded with that many more frames on each side, which are cut off again, equals that stretch of the
whole. The reach is a sum, for the official configuration 29 frames:

    convolutions          sum of (kernel - 1) / 2 * dilation   27 for eight blocks of kernel 7
    overlap of the STFT   ceil(n_fft / 2 / hop)                 2 for 1024 / 256
    a projection          ceil(n_fft / hop) - 1                 3 for 1024 / 256, each

The phases of a `ConsistentISTFTHead` advance with the number of the frame, counted from the first
of the clip: its chunks are decoded with that number.
"""

from __future__ import annotations

import math
from typing import Protocol, cast

from torch import Tensor, nn
from vocos import Vocos
from vocos.models import VocosBackbone

from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.griffin_lim import GriffinLimVocoder
from melcheck.vocoders.phase_head import ConsistentISTFTHead


class ChunkDecoder(Protocol):
    """Decodes the chunks of one mel, in order."""

    def __call__(self, mel: Tensor, first_frame: int) -> Tensor:
        """Return the waveform of a chunk, given the number of its first frame in the clip.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, recipe.num_samples(frames)]`
        """
        ...


def context_frames(vocoder: Vocoder) -> int:
    """Return how many frames to each side a decoded sample depends on.

    Raises:
        ValueError: The reach of this vocoder does not follow from its parts.
    """
    vocoder = _decoding(vocoder)
    recipe = vocoder.recipe
    overlap = math.ceil(recipe.n_fft / 2 / recipe.hop_length)
    step = math.ceil(recipe.n_fft / recipe.hop_length) - 1
    if isinstance(vocoder, GriffinLimVocoder):
        return vocoder.iterations * step + overlap
    model = getattr(vocoder, "model", None)
    if not isinstance(model, Vocos) or not isinstance(model.backbone, VocosBackbone):
        raise ValueError(
            f"context must be given in frames for the vocoder {vocoder.info.name!r}, got None: "
            "its reach does not follow from its parts."
        )
    head = model.head
    # Every rate has as many hops in a window.
    stages = head.consistency.stages if isinstance(head, ConsistentISTFTHead) else []
    steps = sum(turns for _, turns in stages)
    return _convolutions_reach(model.backbone) + steps * step + overlap


def chunk_decoder(vocoder: Vocoder) -> ChunkDecoder:
    """Return what decodes the chunks of one mel; a new one for each mel."""
    vocoder = _decoding(vocoder)
    head = getattr(getattr(vocoder, "model", None), "head", None)
    if isinstance(head, ConsistentISTFTHead):
        return _ConsistentChunks(cast(_Resuming, vocoder))
    return _LocalChunks(vocoder)


def magnifies_rounding(vocoder: Vocoder) -> bool:
    """Return whether rounding moves decoded samples by far more than itself."""
    return bool(getattr(_decoding(vocoder), "magnifies_rounding", False))


def _decoding(vocoder: Vocoder) -> Vocoder:
    # A user's front end wraps the vocoder that decodes.
    inner: Vocoder = getattr(vocoder, "vocoder", vocoder)
    return inner


def _convolutions_reach(backbone: nn.Module) -> int:
    # All of them are in series and keep the number of frames.
    return sum(
        layer.dilation[0] * (layer.kernel_size[0] - 1) // 2
        for layer in backbone.modules()
        if isinstance(layer, nn.Conv1d)
    )


class _LocalChunks:
    """A vocoder of which a chunk depends on nothing but its surroundings."""

    def __init__(self, vocoder: Vocoder) -> None:
        self._vocoder = vocoder

    def __call__(self, mel: Tensor, first_frame: int) -> Tensor:  # noqa: ARG002
        return self._vocoder.decode(mel)


class _Resuming(Protocol):
    """What a vocoder with a `ConsistentISTFTHead` offers beyond others."""

    def features(self, mel: Tensor) -> Tensor: ...

    def sound(self, features: Tensor, *, first_frame: int = 0) -> Tensor: ...


class _ConsistentChunks:
    """A vocoder whose head counts frames from the first of all."""

    def __init__(self, vocoder: _Resuming) -> None:
        self._vocoder = vocoder

    def __call__(self, mel: Tensor, first_frame: int) -> Tensor:
        return self._vocoder.sound(self._vocoder.features(mel), first_frame=first_frame)
