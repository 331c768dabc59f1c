"""The table of an audit on disk: a folder of Parquet files that is written as the rows come.

    audit.json                  which source, with which settings
    rows/part-000000.parquet    rows, with what made them in the file's metadata
    index.sqlite                where the row of each clip lies; made again where it is lost

A part is written whole or not at all and then stays as it is: a run that was killed goes on with
what is missing. Of two rows of one clip that of the newer part counts. A row is known by its key,
which is a hash of all that it depends on, so that a clip is measured again only where something of
that has changed, also where the list was sorted or its clips have moved to another folder. When a
run is complete, parts with rows that no longer count are written again without those.

Memory does not grow with the number of rows.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import sqlite3
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from melcheck.audit.model import COLUMNS, SCHEMA_VERSION, AuditItem, Outcome, Row
from melcheck.columnar import load_pyarrow
from melcheck.files import load_json, one_line, plain, read_bytes, replacing, short

METADATA_KEY = b"melcheck"
"""Where the metadata of a part has its provenance, as JSON."""

ROWS_FOLDER = "rows"
"""Folder of the parts."""

_DESCRIPTION, _INDEX = "audit.json", "index.sqlite"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_LARGEST_DESCRIPTION_BYTES = 2**20

_TEMPORARY = ".melcheck-"

ROWS_PER_PART = 8192
"""After how many rows a part is written."""

# A run that is killed loses at most this.
_SECONDS_PER_PART = 60.0
_CHUNK = 4096
_CACHED_PARTS = 8

# What tells whether an earlier row holds, and whether its clip fails.
_VERDICT = ("index", "key", "outcome", "broken_samples", "cache")

_OPTIONS = {
    "vocoder": "--vocoder",
    "device": "--device",
    "profile": "--profile",
    "frontend": "--frontend",
    "cache": "--cache",
    "cache_pattern": "--cache-pattern",
    "rules": "--threshold",
    "duration_seconds": "--duration",
}

_TABLES = """
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY, size INTEGER);
CREATE TABLE IF NOT EXISTS current (
    idx INTEGER PRIMARY KEY, part INTEGER, place INTEGER, described INTEGER, identity INTEGER);
CREATE TABLE IF NOT EXISTS known (identity INTEGER PRIMARY KEY, part INTEGER, place INTEGER);
"""


class StoreError(ValueError):
    """A folder that this audit cannot write to; the message says what to do."""


class WriteError(OSError):
    """The table cannot be written, as where the disk is full; what is there is kept."""


class AuditStore:
    """The rows of an audit. It holds the folder for itself until it is closed.

    Args:
        folder: The folder, which is made where it is missing.
        source: What names the source.
        settings: What each row depends on, as JSON can hold it.
        provenance: What made the rows, for the metadata of each part.
        rows_per_part: After how many rows a part is written.
        seconds_per_part: After how many seconds it is.
        clock: Tells seconds.

    Raises:
        StoreError: The folder is no audit, one of another source or with other settings, or
            another run writes to it.
        PackageNeededError: pyarrow is not installed.
        OSError: It cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        settings: Mapping[str, object],
        provenance: Mapping[str, object] | None = None,
        rows_per_part: int = ROWS_PER_PART,
        seconds_per_part: float = _SECONDS_PER_PART,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        load_pyarrow()
        self._folder = folder
        self._provenance = dict(provenance or {})
        self._rows_per_part, self._seconds_per_part = rows_per_part, seconds_per_part
        self._clock = clock
        self._pending: list[Row] = []
        self._since = 0.0
        self._asked: dict[int, _Candidate] = {}
        self._tables: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._verdicts: collections.OrderedDict[int, list[Row]] = collections.OrderedDict()
        self._rows: collections.OrderedDict[int, list[Row]] = collections.OrderedDict()
        _make_folder(folder)
        self._index = _opened_index(folder)
        try:
            _describe(folder, plain({"source": source, "settings": settings}))
        except BaseException:
            self.close()
            raise
        for left in (folder / ROWS_FOLDER).glob(f"{_TEMPORARY}*"):  # by a run that was killed
            left.unlink()
        with self._reported():
            self._take_in_parts()
        self._had_rows = len(self) > 0

    def __enter__(self) -> AuditStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free. What was added since the last part is lost: `flush` first."""
        self._index.close()

    def __len__(self) -> int:
        """Of how many clips there are rows, those that are not written yet left out."""
        [[count]] = self._index.execute("SELECT count(*) FROM current")
        return int(count)

    # What is known.

    def known_key(self, item: AuditItem) -> str:
        """Return the key of the row that an earlier run has of a clip; "" for none.

        Its index is looked at first, then its name: the list may have been written anew. A row
        that was not finished is none, nor one of a clip that could not be read: a decoder may have
        come.
        """
        if not self._had_rows:
            return ""
        described, identity = _described(item), _identity(item.item.name, item.item.offset_seconds)
        same = False
        query = "SELECT part, place, described FROM current WHERE idx = ? AND identity = ?"
        place = self._index.execute(query, (item.index, identity)).fetchone()
        if place is not None:
            same = place[2] == described
        else:
            query = "SELECT part, place FROM known WHERE identity = ?"
            place = self._index.execute(query, (identity,)).fetchone()
        if place is None:
            return ""
        part, number = place[:2]
        row = self._verdicts_of(part)[number]
        if not row.key or row.outcome in ("unfinished", "unreadable"):
            return ""
        self._asked[item.index] = _Candidate(part, number, None if same else item)
        return str(row.key)

    def add(self, rows: Iterable[Row]) -> list[Row]:
        """Take in rows, and return for each one that tells whether the clip fails.

        A row whose outcome is "known" stands for that whose key `known_key` gave; of that only the
        index and the columns that decide are returned.

        Raises:
            WriteError: A part cannot be written; the parts before it stay.
        """
        found: list[Row] = []
        for row in rows:
            asked = self._asked.pop(row.index, None)
            if row.outcome != "known":
                found.append(row)
                if not self._has(row):
                    self._append(row)
            elif asked is None:
                raise ValueError(f"row {row.index} is said to be known, and nothing was asked.")
            else:
                verdict = self._verdicts_of(asked.part)[asked.place]
                found.append(dataclasses.replace(verdict, index=row.index))
                if asked.item is not None:
                    self._append(self._moved(asked))
        return found

    def _has(self, row: Row) -> bool:
        """Return whether the row of a clip that cannot be read, such as a missing one, is there."""
        if row.key and row.outcome != "unreadable":
            return False
        query = "SELECT part, place FROM current WHERE idx = ?"
        found = self._index.execute(query, (row.index,)).fetchone()
        return found is not None and repr(self._rows_at(found[0], [found[1]])[0]) == repr(row)

    def _moved(self, asked: _Candidate) -> Row:
        # Where the list has moved, the rows of a part are asked for one after the other.
        rows = _cached(self._rows, asked.part, lambda: _rows_of(self._part(asked.part)), most=2)
        row = rows[asked.place]
        assert asked.item is not None
        item = asked.item.item
        return dataclasses.replace(
            row,
            index=asked.item.index,
            name=item.name,
            path=item.file,
            place=item.place,
            group=asked.item.group,
        )

    def _append(self, row: Row) -> None:
        if not self._pending:
            self._since = self._clock()
        self._pending.append(row)
        full = len(self._pending) >= self._rows_per_part
        if full or self._clock() - self._since >= self._seconds_per_part:
            self.flush()

    # Parts.

    def flush(self) -> None:
        """Write what was added since the last part.

        Raises:
            WriteError: It cannot be written; the rows wait for another try.
        """
        if not self._pending:
            return
        rows = sorted(self._pending, key=lambda row: row.index)
        [[last]] = self._index.execute("SELECT max(part) FROM parts")
        number = 0 if last is None else int(last) + 1
        with self._reported():
            _write_part(self._path(number), _table(rows), self._provenance)
        self._pending = []
        places = (
            (row.index, number, place, _described(row), _identity(row.name, row.offset_seconds))
            for place, row in enumerate(rows)
        )
        with self._reported():
            self._record(number, len(rows), places)

    def _path(self, part: int) -> Path:
        return self._folder / ROWS_FOLDER / f"part-{part:06d}.parquet"

    def _record(self, part: int, size: int, places: Iterable[tuple[int, ...]]) -> None:
        with self._index:
            self._index.execute("INSERT OR REPLACE INTO parts VALUES (?, ?)", (part, size))
            self._index.executemany(
                "INSERT INTO current VALUES (?, ?, ?, ?, ?) ON CONFLICT (idx) DO UPDATE SET "
                "part = excluded.part, place = excluded.place, described = excluded.described, "
                "identity = excluded.identity WHERE excluded.part >= part",
                places,
            )

    def _take_in_parts(self) -> None:
        """Bring the index up to the parts: those of a run that was killed, or all."""
        indexed = dict(self._index.execute("SELECT part, size FROM parts"))
        sizes = {}
        for path in sorted((self._folder / ROWS_FOLDER).iterdir()):
            if found := _PART.fullmatch(path.name):
                sizes[int(found[1])] = _rows_of_part(path)
        changed = sorted(
            part for part in {*indexed, *sizes} if indexed.get(part) != sizes.get(part)
        )
        if any(part in indexed for part in changed):  # its rows are no longer what they were
            self._index.executescript("DELETE FROM parts; DELETE FROM current; DELETE FROM known;")
            changed = sorted(sizes)
        for part in changed:
            names = ["index", "name", "path", "place", "group", "offset_seconds"]
            columns = _read_part(self._path(part), names).to_pydict()
            listed = zip(*(columns[name] for name in names), strict=True)
            places = (
                (
                    index,
                    part,
                    number,
                    _hashed(name, path, place, group, offset),
                    _identity(name, offset),
                )
                for number, (index, name, path, place, group, offset) in enumerate(listed)
            )
            self._record(part, sizes[part], places)
        with self._index:
            # In order, or a table of millions would be written all over.
            self._index.execute(
                "INSERT OR REPLACE INTO known SELECT identity, part, place FROM current "
                "ORDER BY identity"
            )

    def complete(self, count: int) -> None:
        """End a run that has walked through all of its source.

        Rows of clips that are no longer there, and those that newer ones stand for, are removed
        from the parts that have any.

        Args:
            count: How many entries the source has.

        Raises:
            WriteError: A part cannot be written; what is there stays.
        """
        self.flush()
        with self._reported():
            self._complete(count)

    def _complete(self, count: int) -> None:
        with self._index:
            self._index.execute("DELETE FROM current WHERE idx >= ?", (count,))
        live = dict(self._index.execute("SELECT part, count(*) FROM current GROUP BY part"))
        sizes = dict(self._index.execute("SELECT part, size FROM parts"))
        changed = [part for part, size in sizes.items() if live.get(part, 0) < size]
        if not changed:
            return
        self._index.execute("CREATE INDEX IF NOT EXISTS by_part ON current (part, place)")
        for part in changed:
            query = "SELECT idx, place FROM current WHERE part = ? ORDER BY place"
            kept = self._index.execute(query, (part,)).fetchall()
            with self._index:
                self._index.execute("DELETE FROM known")  # it may name places that are gone
                if not kept:
                    self._index.execute("DELETE FROM parts WHERE part = ?", (part,))
                    self._path(part).unlink(missing_ok=True)
                    continue
                table = _read_part(self._path(part))
                taken = table.take([place for _, place in kept])
                _write_part(self._path(part), taken, None)
                self._index.execute("UPDATE parts SET size = ? WHERE part = ?", (len(kept), part))
                self._index.executemany(
                    "UPDATE current SET place = ? WHERE idx = ?",
                    ((place, index) for place, (index, _) in enumerate(kept)),
                )
        self._index.execute("DROP INDEX by_part")
        for cache in (self._tables, self._verdicts, self._rows):
            cache.clear()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Say what to do where a part or the index cannot be written."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            number = error.errno if isinstance(error, OSError) else None
            reason = str(error) if number is None else os.strerror(number)
            raise WriteError(
                f"--output {one_line(self._folder)} cannot be written ({reason.rstrip('.')}). What "
                "was measured before is kept: make room, and start the same command again."
            ) from None

    # Rows.

    def rows(self, indices: Iterable[int] | None = None) -> Iterator[Row]:
        """Yield the rows of the clips, in the order of the source; those of the last parts too.

        Args:
            indices: Of which clips; None for all.
        """
        self.flush()
        for found in self._places(indices):
            by_part: dict[int, list[int]] = {}
            for part, place in found:
                by_part.setdefault(part, []).append(place)
            rows = [row for part, places in by_part.items() for row in self._rows_at(part, places)]
            yield from sorted(rows, key=lambda row: row.index)

    def _places(self, indices: Iterable[int] | None) -> Iterator[list[tuple[int, int]]]:
        if indices is None:
            last = -1
            query = "SELECT part, place, idx FROM current WHERE idx > ? ORDER BY idx LIMIT ?"
            while found := self._index.execute(query, (last, _CHUNK)).fetchall():
                yield [(part, place) for part, place, _ in found]
                last = found[-1][2]
            return
        ordered = np.fromiter(indices, np.int64)  # a list of as many numbers takes five times that
        ordered.sort()
        query = "SELECT part, place FROM current WHERE idx = ?"
        for begin in range(0, len(ordered), _CHUNK):
            chunk = ordered[begin : begin + _CHUNK].tolist()
            places = (self._index.execute(query, (index,)).fetchone() for index in chunk)
            yield [place for place in places if place is not None]

    def _rows_at(self, part: int, places: Sequence[int]) -> list[Row]:
        return _rows_of(self._part(part).take(places))

    def _part(self, part: int) -> Any:
        return _cached(self._tables, part, lambda: _read_part(self._path(part)))

    def _verdicts_of(self, part: int) -> list[Row]:
        """Return the rows of a part with their keys and what decides whether their clips fail."""

        def read() -> list[Row]:
            columns = _read_part(self._path(part), [*_VERDICT]).to_pydict()
            listed = zip(*(columns[name] for name in _VERDICT), strict=True)
            return [
                Row(name="", path="", **dict(zip(_VERDICT, values, strict=True)))
                for values in listed
            ]

        return _cached(self._verdicts, part, read)


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    """A row that may be that of a clip: where it lies, and the clip, unless that is the same."""

    part: int
    place: int
    item: AuditItem | None


_Value = typing.TypeVar("_Value")


def _cached(
    cache: collections.OrderedDict[int, _Value],
    part: int,
    read: Callable[[], _Value],
    *,
    most: int = _CACHED_PARTS,
) -> _Value:
    if part not in cache:
        while len(cache) >= most:
            cache.popitem(last=False)
        cache[part] = read()
    cache.move_to_end(part)
    return cache[part]


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of an audit's folder, part after part; of a run that is complete, each once.

    Raises:
        StoreError: It is no audit.
        PackageNeededError: pyarrow is not installed.
        OSError: It cannot be read.
    """
    parts = sorted(path for path in (folder / ROWS_FOLDER).glob("*") if _PART.fullmatch(path.name))
    if not parts:
        raise StoreError(f"{one_line(folder)}: no audit is there. Name the --output of one.")
    for path in parts:
        for batch in _read_part(path).to_batches(max_chunksize=_CHUNK):
            yield from _rows_of(batch)


def _rows_of(table: Any) -> list[Row]:
    columns = {name: table.column(name) for name in COLUMNS}
    values = {
        # Five times as fast as row by row, and for numbers five times again.
        name: column.to_numpy().tolist() if column.type in _numbers() else column.to_pylist()
        for name, column in columns.items()
    }
    values["notes"] = list(map(tuple, values["notes"]))
    return [
        Row(**dict(zip(values, each, strict=True))) for each in zip(*values.values(), strict=True)
    ]


# Files.


@functools.cache
def _numbers() -> tuple[Any, ...]:
    pyarrow = load_pyarrow()
    return pyarrow.int64(), pyarrow.float64()


@functools.cache
def _schema() -> Any:
    pyarrow = load_pyarrow()
    kinds = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        Outcome: pyarrow.string(),
        tuple[str, ...]: pyarrow.list_(pyarrow.string()),
    }
    hints = typing.get_type_hints(Row)
    return pyarrow.schema([pyarrow.field(name, kinds[hints[name]]) for name in COLUMNS])


def _table(rows: Sequence[Row]) -> Any:
    pyarrow = load_pyarrow()
    columns = []
    for field in _schema():
        values = [getattr(row, field.name) for row in rows]
        try:
            columns.append(pyarrow.array(values, field.type))
        except UnicodeError:  # the name of a file may hold bytes that are no UTF-8
            columns.append(pyarrow.array([_utf8(value) for value in values], field.type))
    return pyarrow.Table.from_arrays(columns, schema=_schema())


def _utf8(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_utf8, value))
    return value.encode("utf-8", "backslashreplace").decode()


def _write_part(path: Path, table: Any, provenance: Mapping[str, object] | None) -> None:
    if provenance is not None:
        described = json.dumps(plain(provenance), sort_keys=True)
        table = table.replace_schema_metadata({METADATA_KEY: described.encode()})
    with replacing(path) as temporary:
        load_pyarrow().parquet.write_table(table, temporary, compression="zstd")


def _read_part(path: Path, columns: list[str] | None = None) -> Any:
    pyarrow = load_pyarrow()
    try:
        return pyarrow.parquet.ParquetFile(path).read(columns=columns)
    except pyarrow.ArrowInvalid as error:
        raise _damaged(path, error) from None


def _rows_of_part(path: Path) -> int:
    pyarrow = load_pyarrow()
    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except pyarrow.ArrowInvalid as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> StoreError:
    reason = short(str(error).splitlines()[0])
    return StoreError(
        f"{one_line(path)}: it is no part of an audit's table ({reason}). Remove it; its clips are "
        "measured again."
    )


def provenance_of(path: Path) -> dict[str, Any]:
    """Return what made the rows of a part, from its metadata.

    Raises:
        StoreError: It is no part of an audit.
        OSError: It cannot be read.
    """
    pyarrow = load_pyarrow()
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        found: dict[str, Any] = load_json(metadata[METADATA_KEY])
    except (pyarrow.ArrowInvalid, KeyError, ValueError) as error:
        raise _damaged(path, error) from None
    return found


def _make_folder(folder: Path) -> None:
    is_audit = (folder / _DESCRIPTION).is_file()
    if not is_audit and folder.exists() and (not folder.is_dir() or _holds_other_files(folder)):
        raise StoreError(
            f"--output {one_line(folder)} must be a new folder, an empty one, or that of an audit, "
            f"got {'one with other files' if folder.is_dir() else 'a file'}. Name another."
        )
    (folder / ROWS_FOLDER).mkdir(parents=True, exist_ok=True)


def _describe(folder: Path, described: dict[str, Any]) -> None:
    """Begin an audit in a folder, or find the one that was begun there: one that has rows."""
    path, shown = folder / _DESCRIPTION, one_line(folder)
    described = {"schema_version": SCHEMA_VERSION, **described}
    if not path.is_file():
        _write_description(path, described)
        return
    try:
        found = load_json(read_bytes(path, max_bytes=_LARGEST_DESCRIPTION_BYTES))
        version, source, settings = (found[k] for k in ("schema_version", "source", "settings"))
        before = {key: settings.get(key) for key in described["settings"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"--output {shown}: its {_DESCRIPTION} is not that of an audit. Name another folder."
        ) from None
    if not any((folder / ROWS_FOLDER).iterdir()):
        _write_description(path, described)
        return
    other = "Name another folder for this one."
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"--output {shown}: its table has version {version}, and this melcheck writes version "
            f"{SCHEMA_VERSION}. {other}"
        )
    if source != described["source"]:
        raise StoreError(
            f"--output {shown} holds an audit of {source}, got {described['source']}. {other}"
        )
    for key, value in described["settings"].items():
        if before[key] != value:
            raise StoreError(
                f"--output {shown} holds an audit with {_OPTIONS.get(key, key)} "
                f"{_told(before[key])}, got {_told(value)}. {other}"
            )


def _write_description(path: Path, described: Mapping[str, object]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _holds_other_files(folder: Path) -> bool:
    # A run may have been killed between its first file and its description.
    own = (_TEMPORARY, _INDEX, ROWS_FOLDER)
    return any(not path.name.startswith(own) for path in folder.iterdir()) or any(
        (folder / ROWS_FOLDER).glob("*")
    )


def _told(value: object) -> str:
    return "unset" if value in (None, []) else str(value)


def _opened_index(folder: Path) -> sqlite3.Connection:
    path = folder / _INDEX
    for attempt in range(2):
        # Blocks are asked for by threads of an engine, one at a time.
        index = sqlite3.connect(path, timeout=0.0, check_same_thread=False)
        try:
            index.execute("PRAGMA locking_mode = EXCLUSIVE")
            index.executescript(f"BEGIN EXCLUSIVE; {_TABLES} COMMIT;")
            return index
        except sqlite3.OperationalError as error:
            index.close()
            if "locked" in str(error):
                raise StoreError(
                    f"--output {one_line(folder)}: another run writes to it now. Wait for its end, "
                    "or name another folder."
                ) from None
            raise OSError(f"{one_line(path)}: {error}.") from None
        except sqlite3.DatabaseError:
            index.close()
            if attempt:
                raise
            path.unlink()  # damaged, as by a power cut
    raise AssertionError


# Hashes.


def _described(clip: AuditItem | Row) -> int:
    if isinstance(clip, Row):
        return _hashed(clip.name, clip.path, clip.place, clip.group, clip.offset_seconds)
    item = clip.item
    return _hashed(item.name, item.file, item.place, clip.group, item.offset_seconds)


def _identity(name: str, offset_seconds: float) -> int:
    """Return what finds the earlier row of a clip, which its key then confirms."""
    return _hashed(name, offset_seconds)


def _hashed(*values: object) -> int:
    text = "\n".join(map(str, values)).encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)
