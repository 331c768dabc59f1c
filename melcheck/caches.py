"""The stored mels of a plan's clips, each compared with the mel that is extracted today.

pytest and the command line share this. What is wrong with a clip's mels is a failure of the clip,
also where there is none, or none that can be read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from melcheck.audio_notes import sound_info
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.stored_mels import (
    FreshMel,
    compare_stored,
    fresh_mel,
    likeness,
    name_of_mel,
)
from melcheck.files import error_text, one_line, place
from melcheck.mel_files import read_mel
from melcheck.plan import Plan

# Clips as long as a mel that belongs to another one; so many of them are looked at.
_AS_LONG_FRAMES = 2
_MOST_OWNERS = 32

# How well a mel follows its clip, whatever its recipe, and two clips at most: see `stored_mels`.
_OWN = 0.6
_CLEARLY = 0.15

_WORDS = {"missing": "no mel in the cache", "unreadable": "its mel cannot be read"}


@dataclass(frozen=True, slots=True)
class CacheResult:
    """The stored mels of one clip.

    Attributes:
        clip: The clip.
        problems: What is wrong, with cause and fix, a text for each mel; none where all are fresh.
        codes: The code of each problem: "missing", "unreadable", or as in `StoredMelResult`.
        notes: What should be known of mels that are fresh.
        files: The files that the problems are about, of a missing mel none.
    """

    clip: Clip
    problems: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def summary(self) -> str:
        """The clip and its codes, in a few words."""
        told = [_WORDS.get(code, code) for code in dict.fromkeys(self.codes)]
        return f"{self.clip.name}: {', '.join(told)}"

    @property
    def passed(self) -> bool:
        """Whether the clip has a mel, and each is the one that is extracted today."""
        return not self.problems


def check_cache(plan: Plan, clip: Clip) -> CacheResult:
    """Compare the stored mels of a clip with the one that is extracted today.

    Raises:
        ValueError: The plan has no cache.
    """
    if plan.stored is None:
        raise ValueError("no stored mels to look at. Name a folder with --mel-cache DIR.")
    paths = plan.stored.mels.get(clip.name, ())
    if not paths:
        return CacheResult(clip, (_missing(plan, clip),), ("missing",))
    try:
        fresh = mel_of_today(plan, clip)
    except (ValueError, OSError) as error:
        return CacheResult(clip, (error_text(error),), ("unreadable",), files=(clip.source,))
    problems, codes, notes, files = [], [], [], []
    for path in paths:
        try:
            stored = read_mel(path, finite=False)
        except (ValueError, OSError) as error:
            text, code = error_text(error), "unreadable"
        else:
            found = compare_stored(stored, fresh, owner=_owner(plan, clip))
            text, code = f"likely cause: {found}\n{stored}", found.code
            if found.fresh:
                notes += [f"{one_line(path)}: {found}"] if found.note else []
                continue
        problems.append(text)
        codes.append(code)
        files.append(path)
    return CacheResult(clip, tuple(problems), tuple(codes), tuple(notes), tuple(files))


def mel_of_today(plan: Plan, clip: Clip) -> FreshMel:
    """Return the mel of a whole clip, by the front end or by the vocoder's recipe.

    Raises:
        ValueError: The clip cannot be used, or what the front end raises.
        OSError: The clip cannot be read.
    """
    if clip.problem:
        raise ValueError(clip.problem)
    config = MelCheckConfig(clip.path, plan.recipe.sample_rate, None)
    audio = plan.load(config, min_samples=plan.recipe.min_samples)
    front_end = plan.frontend
    if front_end is None:
        return fresh_mel(audio.waveform[0], None, plan.recipe)
    return fresh_mel(audio.waveform[0], front_end.encode, plan.recipe, front_end=front_end.name)


def _missing(plan: Plan, clip: Clip) -> str:
    stem = Path(clip.path.stem)
    if plan.cache_pattern is not None:
        stem = Path(name_of_mel(plan.cache_pattern, clip))
    return (
        f"no mel called {one_line(stem)} in the cache. Extract the mel of {place(clip.source)}, "
        "or leave the clip out."
    )


def _owner(plan: Plan, clip: Clip) -> Callable[[Tensor], str]:
    """Return a function that names the clip of the plan that a mel belongs to, "" for none."""

    def owner(mel: Tensor) -> str:
        others = []
        for other in plan.clips:
            frames = None if other is clip else _frames(other.path, plan)
            if frames is not None and abs(frames - mel.shape[-1]) <= _AS_LONG_FRAMES:
                others.append(other)
        found: list[tuple[float, str]] = []
        for other in others[:_MOST_OWNERS]:
            try:
                found.append((likeness(mel, mel_of_today(plan, other).mel), other.name))
            except (ValueError, OSError):
                continue
        best, second, *_ = [*sorted(found, reverse=True), (0.0, ""), (0.0, "")]
        return best[1] if best[0] >= max(_OWN, second[0] + _CLEARLY) else ""

    return owner


def _frames(path: Path, plan: Plan) -> int | None:
    samples = _samples(path, plan.recipe.sample_rate)
    if samples is None or samples < plan.recipe.min_samples:
        return None
    return plan.recipe.frames(samples)


@functools.lru_cache(maxsize=65_536)
def _samples(path: Path, sample_rate: int) -> int | None:
    """Return how many samples a file has at a rate, by its header; None where that is not known."""
    import soundfile

    try:
        info = sound_info(path)
    except (soundfile.LibsndfileError, OSError):
        return None
    samples: int = round(info.duration * sample_rate)
    return samples
