"""Synthetic speech to train on, by Kokoro-82M, in voices that no fixture has.

Fixtures are spoken by jf_alpha, jm_kumo, jf_tebukuro and blends of them; training uses the two
others, their blends, and points beyond each of the two. Every sentence has its own seed: the same
index gives the same words and voice, whatever the number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from training.phonemes import english_like, japanese_like

if TYPE_CHECKING:
    from fixtures.make_clips import Kokoro


VOICES = ("jf_gongitsune", "jf_nezumi")

# Beyond 0 and 1 the style is extrapolated: further than this, the model begins to slur.
_MIX_RANGE = (-0.35, 1.35)
_SPEED_RANGE = (0.75, 1.3)
_WORDS_RANGE = (6, 16)
# The model takes 510 tokens with the two that enclose them; a style row exists for each length.
_MAX_TOKENS = 500


@dataclass(frozen=True, slots=True)
class Sentence:
    """What one sentence says and how.

    Attributes:
        index: Number of the sentence; with `seed` it decides all else.
        phonemes: In Kokoro's vocabulary.
        voices: Weight of each of `VOICES`; they add up to 1.
        speed: 2 is twice as fast.
    """

    index: int
    phonemes: str
    voices: dict[str, float]
    speed: float


def sentence(seed: int, index: int) -> Sentence:
    """Make up sentence number `index`."""
    rng = np.random.default_rng([seed, index])
    make = english_like if rng.random() < 0.6 else japanese_like
    phonemes = make(rng, num_words=int(rng.integers(*_WORDS_RANGE)))[:_MAX_TOKENS]
    mix = float(rng.uniform(*_MIX_RANGE))
    voices = {VOICES[0]: mix, VOICES[1]: 1 - mix}
    return Sentence(index, phonemes, voices, float(rng.uniform(*_SPEED_RANGE)))


def synthesise(
    folder: Path, *, seed: int, indices: Sequence[int], processes: int
) -> Iterator[tuple[Sentence, npt.NDArray[np.float32]]]:
    """Speak the sentences of the given numbers, in order.

    Args:
        folder: Folder of the unpacked Kokoro packages: see `fixtures.make_clips.Kokoro`.
        seed: Seed of the words and voices.
        indices: Numbers of sentences, about 6 s each.
        processes: Each keeps one core busy, at somewhat more than real time.

    Yields:
        A sentence and its speech, `[samples]` at 24 kHz, peak about 0.5.
    """
    sentences = [sentence(seed, index) for index in indices]
    with get_context("spawn").Pool(processes, _start, (folder,)) as pool:
        yield from zip(sentences, pool.imap(_speak, sentences), strict=True)


_kokoro: list[Kokoro] = []


def _start(folder: Path) -> None:
    # onnxruntime is needed to speak only, not to make up what is said.
    from fixtures.make_clips import Kokoro

    _kokoro.append(Kokoro(folder))


def _speak(said: Sentence) -> npt.NDArray[np.float32]:
    return _kokoro[0].say(said.phonemes, said.voices, speed=said.speed).astype(np.float32)
