"""The lists in which trainers keep their clips, read row by row: which audio, and which part of it.

    folder                   audio files in it and below
    .csv .tsv .txt           `id|text` of LJ Speech, filelists `path|text`, tables with a header
    .jsonl .json .ndjson     one object a line: NeMo (`audio_filepath`, `offset`, `duration`),
                             cuts and recordings of Lhotse; also as .jsonl.gz
    .parquet .arrow          a column of paths, or of audio bytes; also a folder of
                             `datasets.Dataset.save_to_disk`
    .tar                     WebDataset: audio beside its captions

Memory does not grow with the number of rows, and audio inside a list is not read before it is
asked for. A list may name files and nothing else: no address, no command, and no code runs. Times
are seconds. Parquet and Arrow need pyarrow, `pip install 'melcheck[manifests]'`.

References:
    NeMo's manifests, the cut manifests of Lhotse, WebDataset's file format and `Audio` of Hugging
    Face's datasets, each as its own documentation has it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import itertools
import json
import math
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from melcheck.columnar import cell, columns, num_rows, rows
from melcheck.environment import PackageNeededError
from melcheck.files import one_line
from melcheck.remote import address_exists, is_address, read_part

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff"}
)
"""Suffixes of audio files in a folder. A file that is named itself may have any other."""

_TABLES = (".csv", ".tsv", ".txt")
_LINES = (".jsonl", ".json", ".ndjson")
_COLUMNAR = (".parquet", ".arrow")
_ARCHIVES = (".tar",)

MANIFEST_SUFFIXES = (*_TABLES, *_LINES, *(f"{suffix}.gz" for suffix in _LINES), *_COLUMNAR, ".tar")
"""What a list of clips ends in."""

# What trainers call the column of the audio, its name, and its place in a recording.
_AUDIO_NAMES = (
    "audio_filepath",
    "audio_path",
    "audio_file",
    "audio_filename",
    "audio",
    "wav_path",
    "wav_file",
    "wav_filename",
    "wav",
    "path",
    "filepath",
    "file_path",
    "file_name",
    "filename",
    "file",
)
_ID_NAMES = ("utt_id", "utterance_id", "uttid", "id", "key", "segment_id")
_OFFSET_NAMES = ("offset", "offset_seconds", "start", "start_seconds", "start_time")
_DURATION_NAMES = ("duration", "duration_seconds")

# Folders beside a table in which LJ Speech, Common Voice and others keep their audio.
_FOLDERS = ("", "wavs", "wav", "clips", "audio")
_GUESSED_SUFFIXES = ("", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")

_LONGEST_LINE_BYTES = 2**20
_LONGEST_NAME = 200
_LONGEST_PATH = 4096
_LARGEST_AUDIO_BYTES = 2**30
_BLOCK_BYTES = 2**20
# Of one sample of an archive.
_MOST_MEMBERS = 1000
_LONGEST_SECONDS = 366 * 24 * 3600.0

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_DAMAGE = (OSError, EOFError, ValueError, csv.Error, tarfile.TarError, zlib.error)


class ManifestError(ValueError):
    """A list of clips, or a row, that cannot be used; the message names file, line and fix.

    Attributes:
        lines: Those of the row, as `ManifestItem.lines`.
    """

    lines: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Contained:
    """Encoded audio inside of a list: where it lies.

    Attributes:
        file: The file that holds it.
        place: In an archive, the byte where it begins; in a table, its row, counted from 0.
        size: Bytes in an archive; 0 in a table.
        column: Its column; "" in an archive.
        suffix: Of its format, with the dot; "" where that is not known.
        address: Where `file` has to be fetched; "" for a file of this machine.
    """

    file: Path
    place: int
    size: int = 0
    column: str = ""
    suffix: str = ""
    address: str = ""

    def read(self) -> bytes:
        """Return the encoded audio.

        Raises:
            ManifestError: The file has changed, or holds none there.
        """
        try:
            if not self.column:
                if self.address:
                    content = read_part(self.address, self.place, self.size)
                else:
                    with self.file.open("rb") as file:
                        file.seek(self.place)
                        content = file.read(self.size)
                if len(content) == self.size:
                    return content
            else:
                content = cell(self.address or self.file, self.column, self.place)
                if content:
                    return content
        except _DAMAGE as error:
            raise _broken(self.file, error) from None
        raise ManifestError(
            f"{one_line(self.file)}: no audio at {self.place}. The file was cut short or has "
            "changed since it was read: write it again."
        )


@dataclass(frozen=True, slots=True)
class ManifestItem:
    """One clip of a list.

    Attributes:
        name: Its id, or its path without the suffix, relative to the list where it lies below it.
        path: The audio file, or the file that contains it. It may not exist.
        place: Where the list names it, such as "train.jsonl, line 17"; "" in a folder.
        offset_seconds: Where it begins in the audio.
        duration_seconds: How much of it is meant; None for all that follows.
        contained: Where its audio lies inside of `path`; None where `path` is the audio.
        address: Where the audio, or what contains it, has to be fetched; then `path` is only the
            name of that. "" for a file of this machine.
        values: What the columns hold that were asked for, in their order; None where the list has
            no such column.
        lines: The first and the last line of a text, or row of a table, that hold it, counted from
            1; (0, 0) in folders and archives.
    """

    name: str
    path: Path
    place: str = ""
    offset_seconds: float = 0.0
    duration_seconds: float | None = None
    contained: Contained | None = None
    address: str = ""
    values: tuple[str | None, ...] = ()
    lines: tuple[int, int] = (0, 0)

    @property
    def file(self) -> str:
        """The address or the path of the audio, or of what contains it."""
        return self.address or str(self.path)

    @property
    def is_file(self) -> bool:
        """Whether the clip is the whole of `path`, which is a file of this machine."""
        return self.contained is None and self.whole and not self.address

    @property
    def whole(self) -> bool:
        """Whether all of the audio is meant."""
        return not self.offset_seconds and self.duration_seconds is None


BadRow = Callable[[ManifestError], object]


def is_manifest(path: Path) -> bool:
    """Return whether a path is a list of clips.

    A file is by its suffix; a folder where it is a saved dataset, or holds archives or files of
    columns and no audio beside them.
    """
    if path.is_dir():
        return _is_saved(path) or (bool(_shards(path)) and next(_folder(path), None) is None)
    return path.name.lower().endswith(MANIFEST_SUFFIXES)


def read_manifest(
    path: Path, *, column: str | None = None, bad_row: BadRow | None = None
) -> Iterator[ManifestItem]:
    """Yield the clips of a list or a folder, in its order.

    A relative path in a list is looked for in the list's folder, in the folders `wavs`, `clips` and
    `audio` beside it, and in the folders above. One that is found nowhere is yielded all the same.

    Args:
        path: A folder, or a file that ends in one of `MANIFEST_SUFFIXES`.
        column: Which column or key names the audio; None takes the usual ones.
        bad_row: Called with what is wrong with a row, which is then left out; None raises it.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ManifestError: The file cannot be read, or a row cannot be used and `bad_row` is None.
        PackageNeededError: Parquet or Arrow without pyarrow.
    """
    rows = (row for file in list_files(path) for row in rows_of(file, Wanted(column)))
    for row in rows:
        if isinstance(row, ManifestItem):
            yield row
        elif bad_row is None:
            raise row
        else:
            bad_row(row)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read of a list.

    Attributes:
        column: Which column or key names the audio; None takes the usual ones.
        values: Columns or keys whose text each clip brings with it.
        address: Of the list, where what is read is a copy of it, or for Parquet and Arrow only its
            name; "" for a file of this machine. What it names lies beside it or at addresses.
        remote: Whether a list of this machine may name addresses, too.
    """

    column: str | None = None
    values: tuple[str, ...] = ()
    address: str = ""
    remote: bool = False


def list_files(path: Path) -> Iterator[Path]:
    """Yield the files that hold the rows of a list, in order; a folder of audio is its own.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ManifestError: A saved dataset does not say which its files are.
    """
    if not path.exists():
        raise FileNotFoundError(f"{one_line(path)}: no such file or folder. Check the path.")
    try:
        if path.is_dir() and _is_saved(path):
            yield from _saved(path)
        elif path.is_dir() and is_manifest(path):
            yield from _shards(path)
        else:
            yield path
    except ManifestError:
        raise
    except _DAMAGE as error:
        raise _broken(path, error) from None


def rows_of(path: Path, wanted: Wanted) -> Iterator[ManifestItem | ManifestError]:
    """Yield the rows of one of `list_files`: clips, and what is wrong with rows that are none.

    Raises:
        ManifestError: The file cannot be read, from there on.
        PackageNeededError: Parquet or Arrow without pyarrow, or an address without fsspec.
    """
    try:
        name = path.name.lower()
        if path.is_dir():
            yield from _folder(path)
            return
        if not name.endswith(MANIFEST_SUFFIXES):
            raise ManifestError(
                f"{one_line(path)}: a list of clips must end in {', '.join(MANIFEST_SUFFIXES)}, "
                f"got {path.suffix!r}."
            )
        if name.endswith(_TABLES):
            yield from _table(path, wanted)
        elif name.endswith(_COLUMNAR):
            yield from _columnar(path, wanted)
        elif name.endswith(_ARCHIVES):
            yield from _archive(path, wanted)
        else:
            yield from _json_lines(path, wanted)
    except (ManifestError, PackageNeededError):
        raise
    except _DAMAGE as error:
        raise _broken(path, error) from None


def quick_count(path: Path) -> int | None:
    """Return about how many rows one of `list_files` has, from what is quick to look at.

    A text has one a line, a table says how many it has, a folder is walked through; None for an
    archive and for what is compressed.
    """
    name = path.name.lower()
    if path.is_dir():
        return sum(1 for _ in _folder(path))
    if name.endswith(_COLUMNAR):
        return num_rows(path)
    if name.endswith((*_ARCHIVES, ".gz")):
        return None
    with path.open("rb") as file:
        blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
        return sum(block.count(b"\n") for block in blocks)


def _broken(path: Path, error: Exception) -> ManifestError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
    return ManifestError(
        f"{one_line(path)}: it cannot be read ({reason:.160}). Check that the file is complete and "
        "of the format that its name gives."
    )


# A folder.


def _folder(folder: Path) -> Iterator[ManifestItem]:
    for path in _files(folder):
        if is_audio(PurePosixPath(path.name)):
            yield ManifestItem(_relative_name(path, folder), path)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and below, sorted; hidden ones are passed over."""
    with os.scandir(folder) as entries:
        listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in listed:
        path = folder / name
        if name.startswith("."):
            continue
        if is_folder:
            yield from _files(path)
        elif not path.is_dir():
            yield path


# Tables of text.


def _table(path: Path, wanted: Wanted) -> Iterator[ManifestItem | ManifestError]:
    finder = _finder(path, wanted)
    lines = _Lines(path)
    left = iter(lines)
    first = next((line for line in left if line.strip()), None)
    if first is None:
        raise ManifestError(f"{one_line(path)}: the list is empty. Write one clip a line.")
    delimiter, header = _layout(path, first, wanted)
    # LJ Speech puts quotation marks and commas into its texts, and quotes nothing.
    quoted = delimiter in ",;"
    begin = lines.number - 1
    rows = csv.reader(
        itertools.chain([first], left),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    names = [name.strip() for name in next(rows)] if header else None
    last = begin + rows.line_num
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            start, last = last + 1, begin + rows.line_num
            yield _row_error(path, f"line {last}", f"it is no row ({error}).", (start, last))
            continue
        if row is None:
            return
        start, last = last + 1, begin + rows.line_num
        if not any(cell.strip() for cell in row):
            continue
        place = f"line {last}"
        if names is None:
            values: dict[str, object] = {"audio": row[0]}
        elif len(row) < len(names):
            told = f"it has {len(row)} fields where the header has {len(names)}. Complete it."
            yield _row_error(path, place, told, (start, last))
            continue
        else:
            values = dict(zip(names, row, strict=False))
        yield _item(path, place, values, wanted, finder, lines=(start, last))


def _layout(path: Path, first: str, wanted: Wanted) -> tuple[str, bool]:
    """Return the delimiter of a table, and whether its first line is a header."""
    column = wanted.column
    known = {column} if column else set(_AUDIO_NAMES)
    best: list[str] = []
    for delimiter in "\t|,;":
        fields = [field.strip().strip('"') for field in first.strip("\r\n").split(delimiter)]
        if known & {field if column else field.lower() for field in fields}:
            return delimiter, True
        best = fields if len(fields) > len(best) else best
    if column:
        raise ManifestError(
            f"{one_line(path)}, line 1: no column {column!r}. It has {_listed(best)}."
        )
    suffix = path.suffix.lower()
    if suffix == ".tsv" or "\t" in first:
        return "\t", False
    return "|" if "|" in first or suffix == ".txt" else ",", False


# JSON lines.


def _json_lines(path: Path, wanted: Wanted) -> Iterator[ManifestItem | ManifestError]:
    finder = _finder(path, wanted)
    lines = _Lines(path)
    for line in lines:
        if not line.strip():
            continue
        place, here = f"line {lines.number}", (lines.number, lines.number)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            told = f"it is no JSON ({error}). Write one object a line."
            if line.lstrip()[0] == "[":
                told = "it begins a list. Write one object a line: jq -c '.[]' FILE."
            yield _row_error(path, place, told, here)
            if line.strip() in ("[", "{"):  # one document over many lines
                return
            continue
        if not isinstance(row, dict):
            told = f"a row must be an object, got {type(row).__name__}. Write one object a line."
            yield _row_error(path, place, told, here)
            continue
        try:
            row = _of_lhotse(row, wanted) if "sources" in row or "type" in row else row
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            told = str(error) if type(error) is ValueError else "it is no complete cut of Lhotse."
            yield _row_error(path, place, told, here)
            continue
        yield _item(path, place, row, wanted, finder, lines=here)


_CUTS = ("MonoCut", "MultiCut", "Cut")


def _of_lhotse(row: dict[str, Any], wanted: Wanted) -> dict[str, Any]:
    """Return a cut or a recording as a row with its path, its offset and its duration.

    What is wanted beside them is that of the cut, of its first supervision, or its custom fields.

    Raises:
        ValueError: It is no part of one file; says why and what to do.
    """
    export = "Write the cuts to files: cuts.save_audios(DIR)."
    kind = row.get("type")
    if "sources" not in row and "recording" not in row and kind not in (*_CUTS, "MixedCut"):
        return row  # of another tool, which has a key "type" too
    if "sources" not in row and kind not in (*_CUTS, None):
        raise ValueError(f"a {kind} is no part of one recording. {export}")
    recording = row if "sources" in row else row["recording"]
    kinds = {source["type"] for source in recording["sources"]}
    fetched = {"url"} if wanted.address or wanted.remote else set()
    if len(kinds) != 1 or kinds - {"file"} - fetched:
        told = ", ".join(sorted(map(str, kinds)))
        raise ValueError(f"a recording must be a file, got {told}: nothing else is read. {export}")
    if len(recording["sources"]) > 1:
        raise ValueError(f"a recording must be one file, got {len(recording['sources'])}. {export}")
    changes = [each.get("name") for each in recording.get("transforms") or ()]
    if set(changes) - {"Resample"}:
        raise ValueError(f"the recording is changed by {', '.join(map(str, changes))}. {export}")
    channels = recording["sources"][0].get("channels", [0])
    channel = row.get("channel", channels)
    if recording is not row and sorted(
        channel if isinstance(channel, list) else [channel]
    ) != sorted(channels):
        raise ValueError(f"it is channel {channel} of {len(channels)}, and all are read. {export}")
    described = [row.get("custom") or {}, *(row.get("supervisions") or ())[:1], row]
    found = {key: each[key] for each in described for key in wanted.values if key in each}
    found |= {"id": row.get("id"), "audio": recording["sources"][0]["source"]}
    if recording is row or (row["start"] == 0 and row["duration"] == recording["duration"]):
        return found
    return {**found, "offset": row["start"], "duration": row["duration"]}


# Columns.


def _is_saved(folder: Path) -> bool:
    described = folder / "state.json", folder / "dataset_info.json"
    return (folder / "dataset_dict.json").is_file() or all(path.is_file() for path in described)


def is_columnar(path: Path) -> bool:
    """Return whether a file is a table of Parquet or Arrow."""
    return path.name.lower().endswith(_COLUMNAR)


def is_shard(name: str) -> bool:
    """Return whether a file of this name holds audio, or names it, in binary."""
    return name.lower().endswith((*_COLUMNAR, *_ARCHIVES))


def _shards(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_shard(path.name)]


def _saved(folder: Path) -> Iterator[Path]:
    """Yield the files of a dataset that Hugging Face's datasets saved."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        for name in _names_in(splits, "splits"):
            yield from _saved(folder / name)
        return
    state = folder / "state.json"
    for name in _names_in(state, "_data_files"):
        yield folder / name


def _names_in(path: Path, key: str) -> Iterator[str]:
    """Yield the names of files beside a description, which must be names and no paths."""
    if path.stat().st_size > _LONGEST_LINE_BYTES:
        raise ManifestError(f"{one_line(path)}: it is too long to be of datasets. Save it again.")
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[key]
    except (KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise ManifestError(
            f"{one_line(path)}: it must hold a list {key!r}. Save the dataset again: "
            "dataset.save_to_disk(DIR)."
        )
    for entry in listed:
        name = entry.get("filename") if isinstance(entry, Mapping) else entry
        if not isinstance(name, str) or name != os.path.basename(name) or name.startswith("."):
            raise ManifestError(
                f"{one_line(path)}: {key} must hold names of files beside it, got {name!r}. Save "
                "the dataset again."
            )
        yield name


def _columnar(path: Path, wanted: Wanted) -> Iterator[ManifestItem | ManifestError]:
    place: Path | str = wanted.address or path
    audio = _column_of(path, columns(place), wanted.column)
    finder = _finder(path, wanted)
    described = dict.fromkeys((*_ID_NAMES, *_OFFSET_NAMES, *_DURATION_NAMES, *wanted.values))
    wanted = dataclasses.replace(wanted, column="audio")
    for row in rows(place, audio, list(described)):
        number = f"row {row.number}"
        if row.path is None and not row.has_bytes:
            told = f"column {audio!r} is empty. Remove the row."
            yield _row_error(path, number, told, (row.number, row.number))
            continue
        numbered = f"{path.stem}/{row.number:06d}"
        values: dict[str, object] = {**row.values, "audio": row.path or numbered}
        contained = None
        if row.has_bytes:
            suffix = PurePosixPath(str(row.path or "")).suffix.lower()
            contained = Contained(path, row.number - 1, column=audio, suffix=suffix)
        lines = (row.number, row.number)
        yield _item(path, number, values, wanted, finder, contained, lines=lines)


def _column_of(path: Path, columns: Sequence[str], wanted: str | None) -> str:
    if wanted in columns:
        return str(wanted)
    lower = {name.lower(): name for name in columns}
    found = next((lower[name] for name in _AUDIO_NAMES if name in lower), None)
    if wanted is None and found is not None:
        return found
    missing = f"no column {wanted!r}" if wanted else "no column of audio"
    raise ManifestError(
        f"{one_line(path)}: {missing}. It has {_listed(columns)}; name one of them."
    )


# Archives.


def _archive(path: Path, wanted: Wanted) -> Iterator[ManifestItem | ManifestError]:
    found = False
    with tarfile.open(path, "r:") as archive:
        for sample in samples(archive):
            values = None
            for member in sample:
                name = PurePosixPath(member.name)
                if not is_audio(name):
                    continue
                found = True
                place = f"member {_printable(member.name)}"
                if not member.isreg() or member.issparse():
                    told = "it is no file of its own. Pack the file itself."
                    yield _row_error(path, place, told)
                    continue
                if member.size > _LARGEST_AUDIO_BYTES:
                    yield _row_error(path, place, _too_large(member.size))
                    continue
                if values is None:
                    values = _values(_caption(archive, sample) if wanted.values else {}, wanted)
                yield ManifestItem(
                    _name(str(name.with_suffix(""))),
                    path,
                    f"{one_line(path)}, {place}",
                    contained=Contained(path, member.offset_data, member.size, suffix=name.suffix),
                    values=values,
                )
    if not found:
        listed = ", ".join(sorted(AUDIO_SUFFIXES))
        raise ManifestError(f"{one_line(path)}: no audio in this archive. Looked for {listed}.")


def is_audio(name: PurePosixPath) -> bool:
    """Return whether a name in a folder or an archive is that of audio."""
    return name.suffix.lower() in AUDIO_SUFFIXES and not name.name.startswith(".")


def samples(archive: tarfile.TarFile) -> Iterator[list[tarfile.TarInfo]]:
    """Yield the members of an archive, those of one sample together: one key, up to a dot."""
    sample: list[tarfile.TarInfo] = []
    last = None
    for member in archive:
        # Or the list of members grows with the archive.
        archive.members = []  # type: ignore[attr-defined]
        folder, _, name = member.name.rpartition("/")
        key = (folder, name.partition(".")[0]) if member.isreg() else None
        if sample and (key is None or key != last or len(sample) == _MOST_MEMBERS):
            yield sample
            sample = []
        sample.append(member)
        last = key
    if sample:
        yield sample
    # tarfile takes a header that was cut for the end.
    if archive.fileobj is not None:
        archive.fileobj.seek(archive.offset)
        if 0 < len(archive.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")


def _caption(archive: tarfile.TarFile, sample: Iterable[tarfile.TarInfo]) -> dict[str, object]:
    """Return what the JSON of a sample holds; nothing where it has none that can be read."""
    for member in sample:
        if member.name.lower().endswith(".json") and member.size <= _LONGEST_LINE_BYTES:
            file = archive.extractfile(member)
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(b"" if file is None else file.read())
                return row if isinstance(row, dict) else {}
    return {}


def _too_large(size: int) -> str:
    most = _LARGEST_AUDIO_BYTES // 2**20
    return f"it has {size / 2**20:,.0f} MiB, at most {most:,} are read. Name the file by its path."


# Rows, whatever the format.


def _item(
    path: Path,
    place: str,
    row: Mapping[str, object],
    wanted: Wanted,
    finder: _Finder | _RemoteFinder,
    contained: Contained | None = None,
    *,
    lines: tuple[int, int],
) -> ManifestItem | ManifestError:
    """Return the clip of a row, or why it cannot be used."""
    address = ""
    try:
        audio = _audio_of(row, wanted.column)
        offset = _seconds(row, _OFFSET_NAMES, lowest=0.0)
        # Without an offset it describes the file; with one it says where the clip ends.
        duration = None if offset is None else _seconds(row, _DURATION_NAMES, lowest=None)
        if contained is not None:
            found, name = path, finder.name_of(audio, None)
        elif is_address(audio) and wanted.remote:
            address, found = audio, Path(PurePosixPath(audio).name)
            name = finder.name_of(audio.partition("://")[2], None)
        elif isinstance(finder, _RemoteFinder):
            address = finder.find(_checked_path(audio))
            found, name = Path(PurePosixPath(address).name), finder.name_of(audio, None)
        else:
            found = finder.find(_checked_path(audio))
            name = finder.name_of(audio, found)
    except ValueError as error:
        return _row_error(path, place, str(error), lines)
    own = next((_text(row[key]) for key in _ID_NAMES if _text(row.get(key))), "")
    if not own and offset is not None and (offset or duration):
        name = f"{name}@{offset:g}"
    return ManifestItem(
        name=_name(own) if own else name,
        path=found,
        place=f"{one_line(path)}, {place}",
        offset_seconds=offset or 0.0,
        duration_seconds=duration,
        contained=contained,
        address=address,
        values=_values(row, wanted),
        lines=lines,
    )


def _values(row: Mapping[str, object], wanted: Wanted) -> tuple[str | None, ...]:
    return tuple(_value(row[key]) if key in row else None for key in wanted.values)


def _value(value: object) -> str:
    return "" if value is None else _name(str(value).strip())


def _audio_of(values: Mapping[str, object], column: str | None) -> str:
    lower = {str(key).lower(): key for key in values}
    keys = [column] if column in values else [lower[n] for n in _AUDIO_NAMES if n in lower]
    if not keys or (column and column not in values):
        missing = f"no key {column!r}" if column else "no key that names audio"
        raise ValueError(f"{missing}, it has {_listed(list(map(str, values)))}. Name one of them.")
    value = values[keys[0]]  # type: ignore[index]
    if isinstance(value, Mapping):
        value = value.get("path")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{keys[0]} must be the path of an audio file, got {value!r:.80}. Name it."
        )
    return value.strip()


def _checked_path(text: str) -> str:
    if "\0" in text or len(text) > _LONGEST_PATH:
        raise ValueError(f"its path is no path of a file, got {text!r:.80}. Name the file.")
    if _ADDRESS.match(text):
        told = "Download it and name the file; `melcheck audit --remote` fetches it."
        raise ValueError(f"only files are read, got {text!r:.80}. {told}")
    if text.startswith("|") or text.endswith("|"):
        raise ValueError(f"no command is run, got {text!r:.80}. Run it and name the file.")
    return text


def _seconds(
    values: Mapping[str, object], names: Iterable[str], *, lowest: float | None
) -> float | None:
    """Return a time of a row; None where it has none. Without `lowest` it must be above 0."""
    for name in names:
        value = values.get(name)
        if value is None or value == "":
            continue
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not (seconds > 0 or seconds == lowest) or seconds > _LONGEST_SECONDS:
            expected = "seconds above 0" if lowest is None else "seconds from 0 up"
            raise ValueError(f"{name} must be {expected}, got {value!r:.40}. Correct it.")
        return seconds
    return None


def _finder(path: Path, wanted: Wanted) -> _Finder | _RemoteFinder:
    return _RemoteFinder(wanted.address) if wanted.address else _Finder(path)


class _Finder:
    """Finds the files of a list, first where the one before was."""

    def __init__(self, manifest: Path) -> None:
        self._folder = manifest.parent
        above = manifest.parent.absolute().parents
        self._bases = [self._folder / folder for folder in _FOLDERS] + list(above)
        self._last = (self._folder, "")
        self._prefix = (
            "" if str(self._folder) == "." else f"{str(self._folder).rstrip(os.sep)}{os.sep}"
        )

    def find(self, text: str) -> Path:
        """Return the file that a text names, or where it was expected."""
        base, suffix = self._last
        expected = base / f"{text}{suffix}"
        if _is_file(expected):
            return expected
        for base in self._bases:
            for suffix in _suffixes_of(text):
                path = base / f"{text}{suffix}"
                if _is_file(path):
                    self._last = (base, suffix)
                    return path
        return expected

    def name_of(self, text: str, found: Path | None) -> str:
        """Return the name of a clip: its path without the suffix, the same on every machine."""
        # pathlib would take as long as all else that is done for a row.
        if found is not None and (shown := str(found)).startswith(self._prefix):
            return _without_suffix(shown[len(self._prefix) :].replace(os.sep, "/"))
        return _name_of(text)


def _name_of(text: str) -> str:
    parts = [part for part in PurePosixPath(text).parts if part not in ("/", ".", "..")]
    kept = parts[-2:] if Path(text).is_absolute() else parts
    return _name(str(PurePosixPath(*kept).with_suffix(""))) if kept else ""


def _suffixes_of(text: str) -> tuple[str, ...]:
    """Return what may follow a name in a list: nothing, where it has the suffix of audio."""
    return ("",) if Path(text).suffix.lower() in AUDIO_SUFFIXES else _GUESSED_SUFFIXES


class _RemoteFinder:
    """Says where the audio of a list lies that was fetched: beside it.

    Only the first clips are looked for: a look at each would take longer than to fetch it.
    """

    def __init__(self, address: str) -> None:
        self._folder = address.rpartition("/")[0]
        self._found: tuple[str, str] | None = None

    def find(self, text: str) -> str:
        """Return the address of what a text names.

        Raises:
            ValueError: It names a file of some machine.
            OSError: Nothing there can be reached.
        """
        if text.startswith("/"):
            raise ValueError(
                f"a list at an address names what lies beside it, got {text!r:.80}. Write paths "
                "relative to the list, or addresses."
            )
        suffixes = _suffixes_of(text)
        if self._found is None or (self._found[1] == "") != (suffixes == ("",)):
            places = [(folder, suffix) for folder in _FOLDERS for suffix in suffixes]
            there = (each for each in places if address_exists(self._address(text, *each)))
            self._found = next(there, None)
        return self._address(text, *(self._found or ("", "")))

    def name_of(self, text: str, _: Path | None) -> str:
        """Return the name of a clip: its path without the suffix."""
        return _name_of(text)

    def _address(self, text: str, folder: str, suffix: str) -> str:
        return "/".join(part for part in (self._folder, folder, f"{text}{suffix}") if part)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name, or a folder that may not be entered
        return False


def _relative_name(path: Path, folder: Path) -> str:
    return _without_suffix(path.relative_to(folder).as_posix())


def _without_suffix(path: str) -> str:
    """Return the name of a clip, of its relative path."""
    stem, suffix = os.path.splitext(path)
    return _name(stem if suffix.lower() in AUDIO_SUFFIXES else path)


def _name(text: str) -> str:
    return _printable(text)[:_LONGEST_NAME]


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "_" for character in text)


def _text(value: object) -> str:
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _row_error(path: Path, place: str, told: str, lines: tuple[int, int] = (0, 0)) -> ManifestError:
    error = ManifestError(f"{one_line(path)}, {place}: {told}")
    error.lines = lines
    return error


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown or "none"


class _Lines:
    """The lines of a text file, one at a time, each of a bounded length.

    Attributes:
        number: Of the line that was read last, counted from 1.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        opened = gzip.open if self._path.suffix.lower() == ".gz" else open
        with opened(self._path, "rb") as file:
            while line := file.readline(_LONGEST_LINE_BYTES + 1):
                self.number += 1
                place = f"line {self.number}"
                if len(line) > _LONGEST_LINE_BYTES:
                    told = "it is longer than 1 MiB, so this is no list of clips. Check the path."
                    raise _row_error(self._path, place, told)
                try:
                    text = line.decode("utf-8-sig" if self.number == 1 else "utf-8")
                except UnicodeDecodeError:
                    told = "it is no UTF-8. Convert the file: iconv -f latin1 -t utf-8."
                    raise _row_error(self._path, place, told) from None
                yield text
