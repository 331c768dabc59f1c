"""What an audit says to leave out: a list of the clips, and the source without them.

The source is written again in its own format and, but for the clips that are left out, byte for
byte: lines of text, rows of a table with all its columns, members of an archive with their
captions. Of a folder of audio it is a list of the files that stay. Each file is written whole or
not at all, and read as it is written, so that memory does not grow with it.
"""

from __future__ import annotations

import array
import bisect
import gzip
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from melcheck.audit.causes import code_of, fails
from melcheck.audit.model import Row
from melcheck.audit.sources import Source, SourceFile
from melcheck.columnar import filtered
from melcheck.files import one_line, plain_text, replacing
from melcheck.manifests import ManifestError, ManifestItem, is_audio, is_columnar, samples

_DESCRIPTIONS = ("state.json", "dataset_info.json", "dataset_dict.json")
_LONGEST_REASON = 300


class DropList:
    """The clips to leave out, in the order of the source.

    Attributes:
        indices: Their places in the source, rising; eight bytes each.
    """

    def __init__(self) -> None:
        self.indices = array.array("q")

    def __contains__(self, index: int) -> bool:
        place = bisect.bisect_left(self.indices, index)
        return place < len(self.indices) and self.indices[place] == index

    def __len__(self) -> int:
        return len(self.indices)

    def passing(self, rows: Iterable[Row], file: IO[str]) -> Iterator[Row]:
        """Yield rows, and note those that fail: name, file and why, a line each, between tabs.

        Args:
            rows: Of the clips, in the order of the source.
            file: Is written to.

        Raises:
            OSError: It cannot be written.
        """
        for row in rows:
            if fails(row):
                self.indices.append(row.index)
                why = ": ".join(text for text in (code_of(row), row.reason) if text)
                fields = (row.name, row.path, why[:_LONGEST_REASON])
                file.write("\t".join(map(_field, fields)) + "\n")
            yield row


def _field(text: str) -> str:
    return " ".join(plain_text(text).split())


def check_filtered(source: Source, path: Path) -> None:
    """Refuse a place for the filtered source before the work begins.

    Raises:
        ValueError: It is the source itself, or of another kind.
    """
    if not source.is_remote and path.exists() and path.samefile(source.text):
        raise ValueError(f"--filtered {one_line(path)} is the source itself. Name another file.")
    files = source.files()
    first, second = next(files, None), next(files, None)
    if first is None:
        return
    many = second is not None or _is_in_folder(source, first)
    if many and path.exists() and not path.is_dir():
        raise ValueError(f"--filtered {one_line(path)} must be a folder, as the source is one.")
    wanted = ".jsonl" if first.is_folder else "".join(first.path.suffixes[-2:])
    if not many and not path.name.lower().endswith(wanted.lower()):
        raise ValueError(
            f"--filtered {one_line(path)} must end in {wanted}, the format of "
            f"{'a list of files' if first.is_folder else 'the source'}. Name it so."
        )


def write_filtered(source: Source, dropped: DropList, path: Path) -> int:
    """Write a source without some of its clips, and return how many stay.

    Args:
        source: The source, which has not changed since it was read.
        dropped: The clips.
        path: A file; a folder where the source is one of archives or tables.

    Raises:
        OSError: A file cannot be read or written.
        ManifestError: The source cannot be read.
    """
    index = kept = 0
    for file in source.files():
        target = path
        if _is_in_folder(source, file):
            target = path / _relative(source, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            for name in _DESCRIPTIONS if not source.is_remote else ():
                for folder in {file.path.parent, Path(source.text).absolute()}:
                    beside = path / folder.relative_to(Path(source.text).absolute()) / name
                    if (folder / name).is_file() and not beside.exists():
                        shutil.copyfile(folder / name, beside)
        rows = _Rows(file, index, dropped)
        with replacing(target) as temporary:
            _write(file, rows, temporary, target.name.lower().endswith(".gz"))
            for _ in rows:  # what the format needed no more of
                pass
        index, kept = rows.index, kept + rows.kept
    return kept


class _Rows:
    """The rows of a file, each with whether it stays; a file that breaks off ends there."""

    def __init__(self, file: SourceFile, index: int, dropped: DropList) -> None:
        self._rows = self._read(file, dropped)
        self.index, self.kept = index, 0

    def __iter__(self) -> Iterator[tuple[ManifestItem | ManifestError, bool]]:
        return self._rows

    def _read(
        self, file: SourceFile, dropped: DropList
    ) -> Iterator[tuple[ManifestItem | ManifestError, bool]]:
        try:
            for row in file.rows():
                stays = self.index not in dropped and isinstance(row, ManifestItem)
                self.index += 1
                self.kept += stays
                yield row, stays
        except ManifestError:
            self.index += 1


def _write(file: SourceFile, rows: _Rows, path: Path, packed: bool) -> None:
    if file.is_folder:
        with path.open("w", encoding="utf-8") as list_file:
            for row, stays in rows:
                if stays and isinstance(row, ManifestItem):
                    list_file.write(f"{json.dumps({'audio_filepath': _absolute(row)})}\n")
    elif is_columnar(file.path):
        filtered(file.local(), (stays for _, stays in rows), path)
    elif file.path.suffix.lower() == ".tar":
        _write_archive(file.local(), rows, path)
    else:
        opened: Any = gzip.open if file.path.suffix.lower() == ".gz" else open
        written: Any = gzip.open if packed else open
        with opened(file.local(), "rb") as source, written(path, "wb") as target:
            _write_lines(source, rows, target)


def _absolute(item: ManifestItem) -> str:
    return item.address or str(item.path.absolute())


def _write_lines(source: IO[bytes], rows: _Rows, target: IO[bytes]) -> None:
    number = 0
    for row, stays in rows:
        first, last = row.lines
        while number < last:
            number += 1
            line = source.readline()
            if stays or number < first:
                target.write(line)


def _write_archive(source: Path, rows: _Rows, path: Path) -> None:
    """Copy the samples of an archive of which all audio stays, with all their members."""
    with tarfile.open(source, "r:") as old, tarfile.open(path, "w:", format=old.format) as new:
        left = iter(rows)
        found = samples(old)
        while (sample := _next(found)) is not None:
            audio = [member for member in sample if is_audio(PurePosixPath(member.name))]
            stay = [next(left, (None, False))[1] for _ in audio]
            if not all(stay):
                continue
            for member in sample:
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
                new.members = []  # type: ignore[attr-defined]


def _next(found: Iterator[list[tarfile.TarInfo]]) -> list[tarfile.TarInfo] | None:
    try:
        return next(found, None)
    except tarfile.TarError:  # cut short
        return None


def _is_in_folder(source: Source, file: SourceFile) -> bool:
    """Return whether a source is a folder of archives or tables."""
    if source.is_remote:
        return file.wanted.address != source.text
    return file.path != Path(source.text).absolute()


def _relative(source: Source, file: SourceFile) -> Path:
    if source.is_remote:
        base = source.text.rstrip("/") + "/"
        return Path(*PurePosixPath(file.wanted.address.removeprefix(base)).parts)
    return file.path.relative_to(Path(source.text).absolute())
