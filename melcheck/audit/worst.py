"""The worst clips of a corpus once more: their audio, and what the loop makes of it, to be shown.

An audit's table has figures alone. These few clips are decoded again when it ends, and what is
shown of them is kept, so that an audit after a change of a few clips decodes just what is new.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from melcheck.audio import load_audio
from melcheck.audit.model import AuditSettings, Row
from melcheck.audit.temporary import temporary_folder
from melcheck.clip_lists import with_files
from melcheck.clips import Clip
from melcheck.config import DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.files import error_text, replacing
from melcheck.manifests import ManifestItem
from melcheck.pipeline import MelPipeline
from melcheck.plan import Plan, load_plan
from melcheck.report.build import case_record
from melcheck.report.json_format import from_json, to_json
from melcheck.report.media import CaseMedia, Player, case_media, flac_player
from melcheck.report.model import CaseOutcome, CaseRecord
from melcheck.vocoders.base import Vocoder

SHOWN_SECONDS = 15.0
"""How much of a clip is shown at most, so that twenty of them fit on a page."""


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip of a page.

    Attributes:
        row: Its figures.
        record: The round trip of what is shown, for the axes of its maps; None without one.
        media: Its maps and audio; None without a round trip.
        original: Its audio where there is no round trip; None where there is, or nothing to play.
        problem: Why there is nothing to play or to see; "" where there is.
    """

    row: Row
    record: CaseRecord | None = None
    media: CaseMedia | None = None
    original: Player | None = None
    problem: str = ""

    @property
    def playable(self) -> bool:
        """Whether there is anything to play."""
        return self.media is not None or self.original is not None


def show_clips(
    rows: Sequence[Row],
    settings: AuditSettings,
    *,
    items: Mapping[int, ManifestItem] | None = None,
    kept: Path | None = None,
) -> list[ShownClip]:
    """Return clips with their audio and maps; one that cannot be shown says why.

    Args:
        rows: Their rows.
        settings: Those of the audit.
        items: By a row's index, the clip in its source, which a clip inside an archive or a table
            needs. Others are read from the file of the row.
        kept: Folder that what is shown is kept in, by the key of the row, and nothing else; None
            to keep nothing.
    """
    known = {
        row.index: clip
        for row in rows
        if kept is not None and (clip := _kept(kept, row)) is not None
    }
    new = _show([row for row in rows if row.index not in known], settings, items or {})
    if kept is not None:
        _keep(kept, {row.key for row in rows}, new.values())
    return [dataclasses.replace((known | new)[row.index], row=row) for row in rows]


def _show(
    rows: Sequence[Row], settings: AuditSettings, items: Mapping[int, ManifestItem]
) -> dict[int, ShownClip]:
    """Return clips by their index, decoded now."""
    shown = {}
    vocoder = None
    # Whatever the user's code raises: the verdict stands without.
    try:
        if rows and settings.vocoder is not None:
            vocoder = _vocoder(settings.vocoder, settings)
    except Exception as error:
        return {row.index: ShownClip(row, problem=error_text(error)) for row in rows}
    for row in rows:
        try:
            with temporary_folder() as folder:
                item = items.get(row.index)
                shown[row.index] = _shown(row, item, folder, vocoder, settings)
        except Exception as error:
            shown[row.index] = ShownClip(row, problem=error_text(error))
    return shown


def _kept(folder: Path, row: Row) -> ShownClip | None:
    """Return what an earlier run has shown of a clip; None where it has not, or it is damaged."""
    if not row.key.isalnum():
        return None
    try:
        return from_json(ShownClip, (folder / f"{row.key}.json").read_text("utf-8"))
    except Exception:  # of a file that anyone may have changed
        return None


def _keep(folder: Path, keys: Set[str], new: Iterable[ShownClip]) -> None:
    """Write what is new, and remove what is no longer shown; where that fails it is not kept."""
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.json"):
            if path.stem not in keys:
                path.unlink()
        for clip in new:
            if clip.row.key.isalnum() and clip.playable:
                with replacing(folder / f"{clip.row.key}.json") as temporary:
                    temporary.write_text(to_json(clip), "utf-8")


def _vocoder(name: str, settings: AuditSettings) -> Vocoder:
    plan = Plan(
        clips=(),
        vocoders=(name,),
        devices=(settings.device,),
        required=frozenset({name}),
        profile=settings.profile,
    )
    plan = load_plan(plan, frontend=settings.frontend)
    return plan.with_frontend(plan.vocoder(name, settings.device))


def _shown(
    row: Row,
    item: ManifestItem | None,
    folder: Path,
    vocoder: Vocoder | None,
    settings: AuditSettings,
) -> ShownClip:
    path, offset = Path(row.path), row.offset_seconds
    if item is not None and not item.is_file:
        # What is inside another file, or a part of one, becomes a file that begins with it.
        [clip] = with_files([Clip(row.name, item.path, "user", item=item)], folder)
        if clip.problem:
            return ShownClip(row, problem=clip.problem)
        path, offset = clip.path, 0.0
    measured = row.duration_seconds
    seconds = min(SHOWN_SECONDS, measured) if measured > 0 else SHOWN_SECONDS
    rate = DEFAULT_SAMPLE_RATE if vocoder is None else vocoder.recipe.sample_rate
    config = MelCheckConfig(path, rate, seconds, offset=offset)
    if vocoder is None:
        audio = load_audio(config, min_samples=1)
        return ShownClip(row, original=flac_player(audio.waveform[0], rate))
    trip = MelPipeline(config, vocoder=vocoder).round_trip()
    outcome: CaseOutcome = "failed" if row.outcome == "failed" else "passed"
    record = case_record(
        trip, clip=str(row.index), vocoder=settings.vocoder or "", outcome=outcome, path=path
    )
    return ShownClip(row, record, case_media(trip))
