"""Parquet and Arrow files row by row, by pyarrow: the audio's column and what describes it.

A column of audio holds paths (text), encoded audio (bytes), or both in a struct `{bytes, path}` as
Hugging Face's datasets store them. Bytes are read when they are asked for, one row at a time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from melcheck.environment import PackageNeededError
from melcheck.remote import copy_of, opened

_BATCH_ROWS = 1024
_BATCH_ROWS_WITH_BYTES = 16
_LARGEST_AUDIO_BYTES = 2**30
# What is decompressed at once; larger groups of rows are not needed by any reader of audio.
_LARGEST_GROUP_BYTES = 2**32

_BYTES, _PATH = "bytes", "path"

Place = Path | str
"""A file of this machine, or the address of one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        number: Counted from 1.
        values: Of the columns that describe it.
        path: Path that the audio's column holds; None where it holds none.
        has_bytes: Whether the audio's column holds encoded audio.
    """

    number: int
    values: Mapping[str, object]
    path: str | None
    has_bytes: bool


def columns(path: Place) -> list[str]:
    """Return the names of the columns.

    Raises:
        PackageNeededError: pyarrow is not installed.
        OSError: The file cannot be read.
        ValueError: It is not of its format.
    """
    if _is_parquet(path):
        return list(_parquet(path).schema_arrow.names)
    return list(_arrow(path).schema.names)


def num_rows(path: Place) -> int:
    """Return how many rows a file has; raises as `columns` does."""
    if _is_parquet(path):
        return int(_parquet(path).metadata.num_rows)
    return int(_arrow(path).num_rows)


def rows(path: Place, audio: str, described: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a file.

    Args:
        path: A Parquet or an Arrow file, or its address.
        audio: The column of the audio.
        described: Columns that are read where the file has them.

    Raises:
        PackageNeededError: pyarrow is not installed.
        OSError: The file cannot be read.
        ValueError: It is not of its format, or the column holds neither text nor bytes.
    """
    number = itertools.count(1)
    kept = [name for name in described if name in columns(path) and name != audio]
    batches = _parquet_batches if _is_parquet(path) else _arrow_batches
    for batch, has_bytes in batches(path, audio, kept):
        paths = _paths(batch.column(audio))
        values = [batch.column(name).to_pylist() for name in kept]
        for index, held in enumerate(has_bytes):
            row = {name: column[index] for name, column in zip(kept, values, strict=True)}
            yield Row(next(number), row, paths[index], held)


def cell(path: Place, audio: str, row: int) -> bytes:
    """Return the encoded audio of a row, counted from 0; empty where it holds none.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not of its format, has fewer rows, or holds more than a GiB there.
    """
    if _is_parquet(path):
        metadata = _parquet(path).metadata
        group, row = _group_of([metadata.row_group(i).num_rows for i in range(_groups(path))], row)
        array = _group(path, audio, group)
    else:
        array = _arrow(path).column(audio)
    if not 0 <= row < len(array):
        raise ValueError(f"it has no row {row + 1}")
    value = array[row]
    if _is_struct(array.type):
        value = value[_BYTES] if value.is_valid else value
    if not value.is_valid:
        return b""
    buffer = value.as_buffer()
    if buffer.size > _LARGEST_AUDIO_BYTES:
        raise ValueError(f"row {row + 1} has {buffer.size / 2**20:,.0f} MiB of audio")
    return bytes(buffer)


def filtered(path: Path, stays: Iterator[bool], target: Path) -> None:
    """Write a file again with those of its rows that stay, as it is else.

    Args:
        path: A Parquet or an Arrow file.
        stays: Whether each of its rows does, in order; rows after the last of these do not.
        target: The file that is written; of the format of `path`.

    Raises:
        PackageNeededError: pyarrow is not installed.
        OSError: A file cannot be read or written.
    """
    pyarrow = load_pyarrow()

    def kept(table: Any) -> Any:
        mask = [next(stays, False) for _ in range(table.num_rows)]
        return table.filter(pyarrow.array(mask, pyarrow.bool_()))

    if _is_parquet(path):
        file = _parquet(path)
        with pyarrow.parquet.ParquetWriter(target, file.schema_arrow) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(kept(file.read_row_group(group)))
        return
    table = _arrow(path)
    make = pyarrow.ipc.new_stream if _is_stream(path) else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(target), "wb") as sink, make(sink, table.schema) as writer:
        for batch in table.to_batches():
            writer.write_batch(kept(batch))


def load_pyarrow() -> Any:
    """Return pyarrow with its modules for Parquet and Arrow; raises as `columns` does."""
    try:
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise PackageNeededError(
            f"Parquet and Arrow files need pyarrow ({error}). Install it: "
            "pip install 'melcheck[manifests]'."
        ) from None
    return pyarrow


def _is_parquet(path: Place) -> bool:
    return str(path).lower().endswith(".parquet")


def _is_struct(kind: Any) -> bool:
    return bool(load_pyarrow().types.is_struct(kind))


def _holds(kind: Any) -> tuple[bool, bool]:
    """Return whether a column of a type holds bytes, and whether it holds paths."""
    types = load_pyarrow().types
    if types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        if _BYTES in names or _PATH in names:
            return _BYTES in names, _PATH in names
    is_text = types.is_string(kind) or types.is_large_string(kind)
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    if not (is_text or is_bytes):
        raise ValueError(
            f"its column of audio must hold paths, bytes, or a struct of both, got {kind!s:.80}"
        )
    return is_bytes, is_text


def _paths(column: Any) -> list[str | None]:
    _, paths = _holds(column.type)
    if not paths:
        return [None] * len(column)
    if _is_struct(column.type):
        column = load_pyarrow().compute.struct_field(column, _PATH)
    found: list[str | None] = column.to_pylist()
    return found


def _valid(column: Any) -> list[bool]:
    """Return which rows of a column hold bytes."""
    if _is_struct(column.type):
        column = load_pyarrow().compute.struct_field(column, _BYTES)
    found: list[bool] = column.is_valid().to_pylist()
    return found


# Parquet.


@functools.lru_cache(maxsize=4)
def _parquet(path: Place) -> Any:
    if isinstance(path, str):
        return load_pyarrow().parquet.ParquetFile(opened(path))
    return load_pyarrow().parquet.ParquetFile(path, memory_map=True)


def _groups(path: Place) -> int:
    groups: int = _parquet(path).num_row_groups
    return groups


def _group_of(sizes: Sequence[int], row: int) -> tuple[int, int]:
    for group, size in enumerate(sizes):
        if row < size:
            return group, row
        row -= size
    raise ValueError(f"it has only {sum(sizes)} rows")


@functools.lru_cache(maxsize=1)
def _group(path: Place, audio: str, group: int) -> Any:
    file = _parquet(path)
    described = file.metadata.row_group(group)
    if described.total_byte_size > _LARGEST_GROUP_BYTES:
        raise ValueError(
            f"a group of its rows has {described.total_byte_size / 2**30:.1f} GiB, at most 4 are "
            "read: write it with a smaller row_group_size"
        )
    names = [audio]
    if _is_struct(file.schema_arrow.field(audio).type):
        names = [f"{audio}.{_BYTES}"]
    return file.read_row_group(group, columns=names).column(audio)


def _parquet_batches(
    path: Place, audio: str, described: Sequence[str]
) -> Iterator[tuple[Any, list[bool]]]:
    file = _parquet(path)
    kind = file.schema_arrow.field(audio).type
    bytes_held, paths_held = _holds(kind)
    leaf = f"{audio}.{_BYTES}" if _is_struct(kind) else audio
    for group in range(file.num_row_groups):
        described_group = file.metadata.row_group(group)
        nulls = _nulls(described_group, leaf) if bytes_held else described_group.num_rows
        known = nulls in (0, described_group.num_rows)
        names = [*described]
        # A column is read whole where nothing else says which of its rows hold something.
        names += [audio] if not known or not paths_held or not _is_struct(kind) else []
        names += [f"{audio}.{_PATH}"] if known and paths_held and _is_struct(kind) else []
        size = _BATCH_ROWS if known and paths_held else _BATCH_ROWS_WITH_BYTES
        for batch in file.iter_batches(size, row_groups=[group], columns=names):
            if known:
                yield batch, [nulls == 0] * len(batch)
            else:
                yield batch, _valid(batch.column(audio))


def _nulls(group: Any, leaf: str) -> int | None:
    """Return how many rows of a leaf hold nothing; None where the file does not say."""
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema == leaf:
            known = column.statistics is not None and column.statistics.has_null_count
            nulls: int | None = column.statistics.null_count if known else None
            return nulls
    return None


# Arrow, as a stream or as a file.


_ARROW_FILE = b"ARROW1"


def _is_stream(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ARROW_FILE)) != _ARROW_FILE


@functools.lru_cache(maxsize=4)
def _arrow(path: Place) -> Any:
    pyarrow = load_pyarrow()
    source = pyarrow.memory_map(str(copy_of(path) if isinstance(path, str) else path))
    try:
        return pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_file(source).read_all()


def _arrow_batches(
    path: Place, audio: str, described: Sequence[str]
) -> Iterator[tuple[Any, list[bool]]]:
    table = _arrow(path).select([audio, *described])
    bytes_held, _ = _holds(table.schema.field(audio).type)
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        # Offsets in a file may point anywhere.
        batch.validate(full=True)
        held = _valid(batch.column(audio)) if bytes_held else [False] * len(batch)
        yield batch, held
