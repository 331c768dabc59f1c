"""Which stored mel belongs to which clip: by name, and by the folders above."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from melcheck.clips import AUDIO_SUFFIXES, Clip

__all__ = ["Matches", "match_mels"]

# Names that a preprocessing script puts around the stem of the audio: "mel-a.npy", "a.mel.npy",
# "ljspeech-mel-00001.npy" keeps its own.
_AFFIXES = re.compile(r"^(?:mel|spec)[-_.]|[-_.](?:mel|mels|spec|logmel)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Matches:
    """Which stored mels belong to which clips.

    Attributes:
        mels: The files of each clip, by the clip's name; no entry for a clip without.
        without_audio: Files that belong to none of the clips.
    """

    mels: dict[str, tuple[Path, ...]]
    without_audio: tuple[Path, ...]


def match_mels(files: Sequence[Path], clips: Iterable[Clip]) -> Matches:
    """Match the files of a cache with clips, by stem.

    A file matches the clip whose file has its stem, up to an audio suffix and `mel` in its name,
    and up to the normal form of Unicode. Where several clips or files share a stem, the folders
    above decide; a file that is as near to two clips belongs to neither.
    """
    by_stem: dict[str, list[Clip]] = {}
    for clip in clips:
        by_stem.setdefault(_normal(clip.path.stem), []).append(clip)
    mels: dict[str, tuple[Path, ...]] = {}
    without_audio = []
    nearness: dict[Path, int] = {}
    for file in files:
        candidates: list[Clip] = []
        for stem in _stems(file):
            candidates = by_stem.get(stem, [])
            if candidates:
                break
        scores = [_common_folders(file, clip.path) for clip in candidates]
        best = max(scores, default=-1)
        if scores.count(best) != 1:
            without_audio.append(file)
            continue
        nearness[file] = best
        name = candidates[scores.index(best)].name
        mels[name] = (*mels.get(name, ()), file)
    for name, found in mels.items():
        # speaker-1/a.npy and speaker-2/a.npy with a clip speaker-1/a.wav alone.
        nearest = max(nearness[file] for file in found)
        kept = tuple(file for file in found if nearness[file] == nearest)
        without_audio += [file for file in found if file not in kept]
        mels[name] = kept
    return Matches(mels, tuple(sorted(without_audio)))


def _normal(stem: str) -> str:
    return unicodedata.normalize("NFC", stem)


def _stems(file: Path) -> list[str]:
    """Return the stems of audio that a file may belong to, the most literal first."""
    stem = file.stem
    stems = [stem]
    if Path(stem).suffix.lower() in AUDIO_SUFFIXES:
        stem = Path(stem).stem
        stems.append(stem)
    stems.append(_AFFIXES.sub("", stem))
    return [_normal(each) for each in stems if each]


def _common_folders(file: Path, audio: Path) -> int:
    """Return how many folders above two files have the same names."""
    common = 0
    for one, other in zip(file.parts[-2::-1], audio.parts[-2::-1], strict=False):
        if _normal(one) != _normal(other):
            break
        common += 1
    return common
