"""One audit from the source to the verdict: blocks of clips to the engine, rows into the table."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from melcheck._version import __version__
from melcheck.audit.causes import fails
from melcheck.audit.drop import DropList, check_filtered, write_filtered
from melcheck.audit.intervals import UntilDecided
from melcheck.audit.model import SCHEMA_VERSION, AuditItem, AuditSettings, Engine, Row
from melcheck.audit.page import write_page
from melcheck.audit.progress import Progress
from melcheck.audit.sources import Entry, Source, in_random_order, sample_of
from melcheck.audit.store import ROWS_PER_PART, AuditStore, WriteError
from melcheck.audit.verdict import CorpusVerdict, judge_corpus
from melcheck.files import plain, replacing, unwritten
from melcheck.manifests import ManifestItem

DROP_LIST = "drop.txt"
"""The list of the clips that fail, in the folder of an audit."""

# So that a lost worker loses little; and until it is decided, little is measured in vain.
_BLOCK_CLIPS, _BLOCK_CLIPS_WHEN_DRAWN = 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit does.

    Attributes:
        source: The corpus.
        output: Folder of the table and of what is written beside it.
        settings: What each row depends on.
        engine: What runs the workers.
        workers: How many; what 0 means is the engine's to say.
        sample: So many clips at random; None for all.
        until_decided: Whether clips are drawn at random until `limit` is decided.
        seed: Which clips are drawn.
        limit: Largest share of clips that may fail; None for none at all.
        filtered: Where the source is written again without the clips that fail; None for nowhere.
    """

    source: Source
    output: Path
    settings: AuditSettings
    engine: Engine
    workers: int = 1
    sample: int | None = None
    until_decided: bool = False
    seed: int = 0
    limit: float | None = None
    filtered: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What an audit has found.

    Attributes:
        verdict: The verdict.
        measured: How many clips this run measured; the others' rows are of earlier ones.
        dropped: How many clips `drop.txt` lists.
        kept: How many clips stay in the filtered source; None where there is none.
        page: The page; None where it could not be written.
        unwritten: What could not be written, in sentences.
    """

    verdict: CorpusVerdict
    measured: int
    dropped: int
    kept: int | None = None
    page: Path | None = None
    unwritten: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no clip fails, or with a limit whether the share is known to be no larger."""
        if self.verdict.limit is None:
            return not self.verdict.failures
        return self.verdict.decision == "below"


def settings_of(settings: AuditSettings) -> dict[str, Any]:
    """Return what rows of one table must share, as JSON can hold it."""
    found: dict[str, Any] = plain(settings)
    found["vocoder"] = settings.vocoder or "none"
    found["rules"] = [str(rule) for rule in settings.rules]
    del found["limit_seconds"]  # says nothing of a row that was finished
    if settings.cache is not None:
        found["cache"] = plain(settings.cache.absolute())
    return found


def run_audit(
    audit: Audit,
    progress: Progress,
    *,
    made_by: dict[str, object] | None = None,
    rows_per_part: int = ROWS_PER_PART,
) -> Finished:
    """Measure what is missing, judge, and write the table, the clips to drop and the page.

    What was measured before an error is kept, and another run goes on from there.

    Args:
        audit: What is done.
        progress: Is told of each clip.
        made_by: Recipe, weights and versions, for the metadata of the table.
        rows_per_part: After how many rows a part is written.

    Raises:
        StoreError: The folder cannot be used for this audit.
        ManifestError: The source cannot be read.
        PackageNeededError: A package is missing.
        WriteError: The table cannot be written; what is there is kept.
        OSError: The source cannot be read.
    """
    next(audit.source.entries(), None)  # what cannot be read at all makes no folder
    if audit.filtered is not None:
        check_filtered(audit.source, audit.filtered)
    source, settings = audit.source.identity(), settings_of(audit.settings)
    provenance = {
        "schema_version": SCHEMA_VERSION,
        "melcheck": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "source": source,
        "settings": settings,
        **(made_by or {}),
    }
    with AuditStore(
        audit.output,
        source=source,
        settings=settings,
        provenance=provenance,
        rows_per_part=rows_per_part,
    ) as store:
        run = _Run(audit, store, progress)
        try:
            run.measure()
        except BaseException:
            with contextlib.suppress(WriteError):  # the first error is the one to report
                store.flush()
            raise
        drawn = audit.sample is not None or audit.until_decided
        if not drawn:
            store.complete(run.size)
        dropped, problems = DropList(), []

        def judged(file: IO[str] | None) -> CorpusVerdict:
            rows = store.rows(run.indices if drawn else None)
            return judge_corpus(
                rows if file is None else dropped.passing(rows, file),
                limit=audit.limit,
                corpus_size=run.size,
                until=run.until,
            )

        try:
            with (
                replacing(audit.output / DROP_LIST) as temporary,
                temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
            ):
                verdict = judged(file)
        except OSError as error:  # the verdict needs no room
            problems.append(unwritten("the list of clips that fail", error))
            verdict = judged(None)
    page = kept = None
    try:
        items = _items_of(audit.source, {row.index for row in verdict.worst})
        page = write_page(audit.output, verdict, audit.settings, source=source, items=items)
    except OSError as error:
        problems.append(unwritten("the page", error))
    if audit.filtered is not None and not problems:
        try:
            kept = write_filtered(audit.source, dropped, audit.filtered)
        except OSError as error:
            problems.append(unwritten("the filtered source", error))
    return Finished(
        verdict=verdict,
        measured=run.measured,
        dropped=len(dropped),
        kept=kept,
        page=page,
        unwritten=tuple(problems),
    )


def _items_of(source: Source, indices: set[int]) -> dict[int, ManifestItem]:
    """Return the clips at these places of a source."""
    found: dict[int, ManifestItem] = {}
    for entry in source.entries() if indices else ():
        if entry.index in indices and isinstance(entry, AuditItem):
            found[entry.index] = entry.item
        if entry.index >= max(indices):
            break
    return found


class _Run:
    """The way of the clips of one run.

    Attributes:
        size: How many entries the source has, once that is known.
        indices: Which of them were drawn; empty where all are measured.
        measured: How many clips were measured.
        until: What decides when to stop; None where nothing does.
    """

    def __init__(self, audit: Audit, store: AuditStore, progress: Progress) -> None:
        self._audit, self._store, self._progress = audit, store, progress
        self.size = self.measured = 0
        self.indices = array.array("q")
        self.until: UntilDecided | None = None
        # Whether drawn clips fail, until those before them are known.
        self._failed: dict[int, bool] = {}
        self._counted = 0

    def measure(self) -> None:
        """Measure the clips that are missing.

        Raises as `run_audit` does.
        """
        audit, progress = self._audit, self._progress
        entries = self._entries()
        with progress.shown():
            found = audit.engine(self._blocks(entries), audit.settings, workers=audit.workers)
            for rows in found:
                self.measured += sum(row.outcome != "known" for row in rows)
                self._take(rows)
        self._store.flush()

    def _entries(self) -> Iterable[Entry]:
        audit, progress = self._audit, self._progress
        if audit.sample is not None:
            entries, self.size = sample_of(audit.source, audit.sample, seed=audit.seed)
            progress.total = len(entries)
            return self._drawn(entries)
        if audit.until_decided:
            drawn, self.size = in_random_order(audit.source, seed=audit.seed)
            self.until = UntilDecided(audit.limit or 0.0, self.size)
            return self._drawn(drawn)
        progress.total = audit.source.estimate()
        return self._all()

    def _all(self) -> Iterator[Entry]:
        for entry in self._audit.source.entries():
            self.size += 1
            yield entry

    def _drawn(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if self.until is not None and self.until.decision is not None:
                return
            self.indices.append(entry.index)
            yield entry

    def _blocks(self, entries: Iterable[Entry]) -> Iterator[list[AuditItem]]:
        clips = _BLOCK_CLIPS if self.until is None else _BLOCK_CLIPS_WHEN_DRAWN
        block: list[AuditItem] = []
        for entry in entries:
            if isinstance(entry, Row):  # a line that names no clip
                self.measured += 1
                self._take([entry])
                continue
            block.append(dataclasses.replace(entry, known_key=self._store.known_key(entry)))
            if len(block) == clips:
                yield block
                block = []
        if block:
            yield block

    def _take(self, rows: Iterable[Row]) -> None:
        found = self._store.add(rows)
        failed = {row.index: fails(row) for row in found}
        self._progress.add(len(failed), sum(failed.values()))
        if self.until is None:
            return
        self._failed |= failed
        # In the order in which they were drawn: clips that take longer may fail more often.
        while self._counted < len(self.indices):
            index = self.indices[self._counted]
            if index not in self._failed:
                return
            if self.until.decision is None:
                self.until.add(self._failed[index])
            del self._failed[index]
            self._counted += 1
