"""The clips of a corpus, one after the other, from whatever holds them.

A source is a folder, a list (`melcheck.manifests`), or the address of either. It is read as it is
walked through, so that ten million lines need no more memory than a thousand, and as often as it is
asked for. A row that is no clip is a row of the table all the same, with what is wrong with it.

A source at an address may name what lies beside it, and other addresses. One of this machine names
files of this machine alone, unless addresses are allowed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from melcheck.audit.model import AuditItem, Row
from melcheck.files import one_line
from melcheck.manifests import (
    MANIFEST_SUFFIXES,
    ManifestError,
    ManifestItem,
    Wanted,
    is_audio,
    is_shard,
    list_files,
    quick_count,
    rows_of,
)
from melcheck.remote import copy_of, files_below, is_address, name_of

BY_FOLDER = "folder"
"""The value of `by` that takes the clip's folder for its group."""

# Ranks are drawn in rounds, each as many times larger than the one before.
_FIRST_ROUND, _GROWTH, _LARGEST_ROUND = 2048, 4, 65_536

Entry = AuditItem | Row
"""A clip, or the row of a line that is none."""


@dataclass(frozen=True, slots=True)
class Source:
    """A corpus that can be read again and again.

    Attributes:
        text: The path of a folder or a list, or its address.
        by: Column whose value is the clip's group, `BY_FOLDER`, or None for no groups.
        column: Which column or key of a list names the audio; None takes the usual ones.
        remote: Whether a list of this machine may name addresses.
    """

    text: str
    by: str | None = None
    column: str | None = None
    remote: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether it lies at an address."""
        return is_address(self.text)

    def identity(self) -> str:
        """Return what names the source wherever the command is started."""
        return self.text if self.is_remote else str(Path(self.text).absolute())

    def entries(self) -> Iterator[Entry]:
        """Yield the clips, and rows for the lines that are none, counted from 0 in their order.

        A file that breaks off is one such row, and the files after it are read.

        Raises:
            FileNotFoundError: There is no such file or folder.
            ManifestError: It cannot be read from its start, or has no column `by`.
            PackageNeededError: Its format or its address needs a package that is not installed.
            OSError: Its address cannot be reached.
        """
        index = 0
        for file in self.files():
            try:
                for row in file.rows():
                    yield self._entry(index, row, file)
                    index += 1
            except ManifestError as error:
                if not index:
                    raise
                yield _no_clip(index, error, file)
                index += 1
        if not index:
            told = one_line(Path(self.text))
            raise ManifestError(f"{told}: it names no clip. Name a folder of audio, or a list.")

    def estimate(self) -> int | None:
        """Return about how many clips there are, from what is quick to look at; None if nothing is.

        A text has one a line, a table its rows; an archive would have to be read.
        """
        if self.is_remote:
            return None
        counts = [quick_count(file.path) for file in self.files()]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def files(self) -> Iterator[SourceFile]:
        """Yield the files that hold the rows; a folder of audio is its own. Raises as `entries`."""
        values = () if self.by in (None, BY_FOLDER) else (str(self.by),)
        wanted = Wanted(self.column, values, remote=self.remote or self.is_remote)
        if self.is_remote:
            found = _remote_files(self.text, wanted)
        else:
            # Workers may run in another folder, and the next run may be started in one.
            path = Path(self.text).absolute()
            found = (SourceFile(path, wanted) for path in list_files(path))
        for file in found:
            if values and file.is_folder:
                raise ManifestError(
                    f"{file.shown}: a folder of audio has no column {self.by!r}. Take its folders "
                    f"as groups: --by {BY_FOLDER}."
                )
            yield file

    def _entry(self, index: int, row: ManifestItem | ManifestError, file: SourceFile) -> Entry:
        if isinstance(row, ManifestError):
            return _no_clip(index, row, file)
        if self.by is None:
            return AuditItem(index, row)
        if self.by == BY_FOLDER:
            return AuditItem(index, row, _folder_of(row, file))
        [value] = row.values
        if value is None and not index:
            raise ManifestError(
                f"{row.place or one_line(file.path)}: there is no {self.by!r}. Name a column or "
                f"key of the list with --by, or take --by {BY_FOLDER}."
            )
        return AuditItem(index, row, value or "")


def items_of(
    source: str, *, by: str | None = None, column: str | None = None, remote: bool = False
) -> Iterator[AuditItem]:
    """Yield the clips of a source; raises as `Source.entries` does."""
    for entry in Source(source, by, column, remote).entries():
        if isinstance(entry, AuditItem):
            yield entry


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source, or a folder of audio.

    Attributes:
        path: Where it lies on this machine; of one at an address only its name.
        wanted: What is read of it, and its address.
    """

    path: Path
    wanted: Wanted

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of audio."""
        return not self.path.name.lower().endswith(MANIFEST_SUFFIXES) and (
            bool(self.wanted.address) or self.path.is_dir()
        )

    @property
    def shown(self) -> str:
        """How messages name it."""
        return self.wanted.address or one_line(self.path)

    def local(self) -> Path:
        """Return the file, or a copy of it on this machine; raises as `Source.entries` does."""
        return copy_of(self.wanted.address) if self.wanted.address else self.path

    def rows(self) -> Iterator[ManifestItem | ManifestError]:
        """Yield its rows; raises as `Source.entries` does."""
        address = self.wanted.address
        if not address:
            yield from rows_of(self.path, self.wanted)
        elif self.is_folder:
            yield from _remote_folder(address)
        else:
            # Of Parquet only what is needed is fetched.
            path = self.path if self.path.suffix.lower() == ".parquet" else self.local()
            for row in rows_of(path, self.wanted):
                if isinstance(row, ManifestError):
                    yield ManifestError(str(row).replace(one_line(path), address))
                else:
                    yield _at(address, row, path)


def _at(address: str, item: ManifestItem, copy: Path) -> ManifestItem:
    """Return a clip of a list that was fetched, as one of its address."""
    place = item.place.replace(one_line(copy), address)
    if item.contained is None:
        return dataclasses.replace(item, place=place)
    path = Path(name_of(address))
    contained = dataclasses.replace(item.contained, file=path, address=address)
    return dataclasses.replace(item, place=place, path=path, address=address, contained=contained)


def _remote_files(address: str, wanted: Wanted) -> Iterator[SourceFile]:
    name = name_of(address)
    if name.lower().endswith(MANIFEST_SUFFIXES):
        yield SourceFile(Path(name), dataclasses.replace(wanted, address=address))
        return
    # As on this machine: a folder holds audio, or archives and tables directly in it.
    found = (each for each in files_below(address) if _is_of_use(each))
    first = next(found, None)
    if first is None or not is_shard(name_of(first)):
        yield SourceFile(Path(name), dataclasses.replace(wanted, address=address))
        return
    for each in itertools.chain([first], found):
        if is_shard(name_of(each)):
            name = name_of(each)
            yield SourceFile(Path(name), dataclasses.replace(wanted, address=each))


def _is_of_use(address: str) -> bool:
    name = name_of(address)
    return is_shard(name) or is_audio(PurePosixPath(name))


def _remote_folder(address: str) -> Iterator[ManifestItem]:
    base = address.rstrip("/") + "/"
    for each in files_below(address):
        name = PurePosixPath(each.removeprefix(base))
        if is_audio(name):
            yield ManifestItem(str(name.with_suffix("")), Path(name.name), address=each)


# Clips at random.


def sample_of(source: Source, count: int, *, seed: int = 0) -> tuple[list[Entry], int]:
    """Return `count` of the entries, chosen by their places and a seed, in order; and of how many.

    The source is read once, and no more than `count` of its entries are held.
    """
    chosen, size = _lowest(source, count, seed, above=(-1, -1))
    return sorted(chosen, key=lambda entry: entry.index), size


def in_random_order(source: Source, *, seed: int = 0) -> tuple[Iterator[Entry], int]:
    """Return all entries in a random order that the seed decides, and how many there are.

    Each entry has a rank, a hash of the seed and its place. The source is read once for the lowest
    ranks, and again for those above when they have been used up.
    """
    first, size = _lowest(source, _FIRST_ROUND, seed, above=(-1, -1))

    def drawn() -> Iterator[Entry]:
        batch, count, number = first, 0, _FIRST_ROUND
        while batch:
            yield from batch
            count += len(batch)
            number = min(_GROWTH * number, _LARGEST_ROUND)
            last = (_rank(seed, batch[-1].index), batch[-1].index)
            batch = _lowest(source, number, seed, above=last)[0] if count < size else []

    return drawn(), size


def _rank(seed: int, index: int) -> int:
    text = f"{seed}\n{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _lowest(
    source: Source, count: int, seed: int, *, above: tuple[int, int]
) -> tuple[list[Entry], int]:
    """Return the entries of the lowest ranks above one, in order of rank; and how many all are."""
    heap: list[tuple[int, int, Entry]] = []
    size = 0
    for entry in source.entries():
        size += 1
        rank = _rank(seed, entry.index)
        if (rank, entry.index) <= above:
            continue
        if len(heap) < count:
            heapq.heappush(heap, (-rank, -entry.index, entry))
        elif rank < -heap[0][0]:
            heapq.heapreplace(heap, (-rank, -entry.index, entry))
    return [entry for *_, entry in sorted(heap, key=lambda each: (-each[0], -each[1]))], size


def _no_clip(index: int, problem: ManifestError, file: SourceFile) -> Row:
    reason = str(problem)
    place = reason.partition(": ")[0]
    path = file.wanted.address or str(file.path)
    return Row(index=index, name=place, path=path, place=place, outcome="unreadable", reason=reason)


def _folder_of(item: ManifestItem, file: SourceFile) -> str:
    """Return the folder of a clip, relative to the source where it lies below that."""
    if item.contained is not None or item.address:
        return PurePosixPath(item.name).parent.as_posix()
    base = file.path if file.path.is_dir() else file.path.parent
    folder = item.path.parent
    return (folder.relative_to(base) if folder.is_relative_to(base) else folder).as_posix()
