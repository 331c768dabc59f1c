"""Decode a long mel in chunks that give the same waveform as the whole mel.

A sample depends on the mel within `Vocoder.context_frames` frames. A chunk that is decoded with so
many frames more on each side, which are cut off again, equals that stretch of the whole. Measured
on the CPU: equal to the bit with the 29 frames of the official configuration and the 98 of
Griffin-Lim; the embedded vocoder needs 80.

Retrieved phases begin with those of a pulse train at the pitch, which has turned through all frames
before: a chunk goes on where an earlier one, which knows some of the same frames, has been.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from melcheck.vocoders.base import Vocoder, VocoderWrapper, magnifies_rounding

ChunkDecoder = Callable[[Tensor, int], Tensor]
"""From a chunk of a mel, and the number of its first frame in the whole, to its waveform."""


def context_frames(vocoder: Vocoder) -> int:
    """Return how many frames to each side a decoded sample depends on.

    Raises:
        ValueError: The vocoder does not know.
    """
    frames: int | None = getattr(vocoder, "context_frames", None)
    if frames is None:
        raise ValueError(
            f"context must be given in frames for the vocoder {vocoder.info.name!r}, got None: "
            "on how many frames a sample depends cannot be derived from its parts."
        )
    return frames


def chunk_decoder(vocoder: Vocoder) -> ChunkDecoder:
    """Return what decodes the chunks of one mel, each `[batch, n_mels, frames]`, in their order.

    Each chunk must share frames with the one before: its context.
    """
    if not magnifies_rounding(vocoder):
        return lambda mel, _: vocoder.decode(mel)
    staged: Any = vocoder
    while isinstance(staged, VocoderWrapper) and not hasattr(staged, "run_head"):
        staged = staged.inner
    return _ChunksInOrder(staged)


class _ChunksInOrder:
    def __init__(self, vocoder: Any) -> None:
        self._vocoder = vocoder
        self._first_frame = 0
        self._turned: Tensor | None = None

    def __call__(self, mel: Tensor, first_frame: int) -> Tensor:
        features = self._vocoder.run_backbone(mel)
        turned: Tensor = self._vocoder.pulse_turns(features)
        if self._turned is not None:
            # In the middle of the frames that both chunks hold, neither is near its edge, where the
            # network sees less than the whole.
            known = self._turned[:, first_frame - self._first_frame :]
            middle = min(known.shape[1], turned.shape[1]) // 2
            turned = turned - turned[:, middle, None] + known[:, middle, None]
        self._first_frame, self._turned = first_frame, turned
        waveform: Tensor = self._vocoder.run_head(features, turned=turned)
        return waveform
