"""Which pictures and which sound a page carries, so that it can be mailed and opens at once.

Everything is lossless as long as the page stays below its limit. Above it, what vocoders made
becomes MP3, then the originals; and then the clips that need the least attention go without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from melcheck.report.media import CaseMedia, Sound, lossy
from melcheck.report.model import CaseResult
from melcheck.report.store import Key

__all__ = ["PAGE_BYTES", "ClipMedia", "fit"]

PAGE_BYTES = 52_000_000
"""For pictures and sound in base64; the text of 200 clips takes another 3 MB."""


@dataclass(frozen=True, slots=True)
class ClipMedia:
    """What a page shows of one clip.

    Attributes:
        cases: Pictures and sound of each case.
        original: What went in, heard once for all of them; None for a clip without any.
    """

    cases: Mapping[Key, CaseMedia]
    original: Sound | None

    @property
    def size(self) -> int:
        """Bytes on the page."""
        total = 0 if self.original is None else len(self.original.data)
        for media in self.cases.values():
            pictures = (media.original, media.reconstructed, media.difference)
            total += sum(map(len, pictures)) + len(media.reconstructed_sound.data)
        return total


def fit(
    clips: Mapping[str, Iterable[CaseResult]],
    media: Mapping[Key, CaseMedia],
    *,
    limit: int = PAGE_BYTES,
) -> dict[str, ClipMedia]:
    """Return what to show of each clip, within `limit` bytes in all.

    Args:
        clips: The cases of each clip, the clips that matter most first.
        media: Pictures and sound of cases; those of some may be absent.
        limit: Bytes in base64.
    """
    shown = {}
    for clip, cases in clips.items():
        found = {case.key: media[case.key] for case in cases if case.key in media}
        first = next(iter(found.values()), None)
        shown[clip] = ClipMedia(found, None if first is None else first.original_sound)
    shrinking: tuple[Callable[[ClipMedia], ClipMedia], ...] = (_lossy_results, _lossy_original)
    for shrink in shrinking:
        if sum(each.size for each in shown.values()) > limit:
            shown = {clip: shrink(each) for clip, each in shown.items()}
    left = limit
    for clip, each in shown.items():
        if each.size > left:
            shown[clip] = ClipMedia({}, None)
        left -= shown[clip].size
    return shown


def _lossy_results(clip: ClipMedia) -> ClipMedia:
    cases = {
        key: dataclasses.replace(media, reconstructed_sound=lossy(media.reconstructed_sound))
        for key, media in clip.cases.items()
    }
    return ClipMedia(cases, clip.original)


def _lossy_original(clip: ClipMedia) -> ClipMedia:
    return ClipMedia(clip.cases, None if clip.original is None else lossy(clip.original))
