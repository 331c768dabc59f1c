"""Names and hashes of files, atomic writes, and what messages and JSON say of them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# A name of 255 bytes is the limit of most file systems. Half of it leaves room for what a caller
# appends; a longer name is cut, and ends in this many digits of its hash to stay distinct.
_MAX_NAME_BYTES = 120
_HASH_DIGITS = 8

MAX_LISTED = 16
"""How many items a message lists; of the others it gives the number."""

# Names that Windows keeps for devices, with any suffix behind them.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when the block ends well.

    Raises:
        OSError: The folder of `path` cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner may read.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_name(text: str) -> str:
    """Return `text` as a name that any file system takes, of at most 120 bytes in UTF-8.

    Letters of any script, digits, `_`, `.` and `-` stay; all else becomes a dash. What is too long
    is cut and ends in a hash of the whole, so that two long names that begin alike stay apart.

    Example:
        >>> file_name("Take 3: the rain"), file_name("..."), file_name("aux.wav")
        ('Take-3-the-rain', 'clip', '_aux.wav')
    """
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.") or "clip"
    if _RESERVED.match(name):
        name = f"_{name}"
    encoded = name.encode()
    if len(encoded) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH_DIGITS]
    cut = encoded[: _MAX_NAME_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{cut.rstrip('-.')}-{digest}"


def one_line(path: Path) -> str:
    r"""Return a path as one line of text, quoted and escaped where it is more than that.

    A line break would tear a message apart, and might begin a command in the log of a CI; a byte
    that is no UTF-8 cannot be printed.

    Example:
        >>> one_line(Path("a b.wav")), one_line(Path("a\n::error::b.wav"))
        ('a b.wav', "'a\\n::error::b.wav'")
    """
    text = str(path)
    return text if text.isprintable() else ascii(text)


def place(path: Path) -> str:
    """Return a path as one line, relative to the current folder where it lies below that."""
    here = Path.cwd()
    return one_line(path.relative_to(here) if path.is_relative_to(here) else path)


def plain(value: object) -> Any:
    """Return a value as JSON can hold it.

    A dataclass becomes an object; a number that is not finite becomes "nan", "inf" or "-inf"; a
    path becomes text, and bytes in it that are not UTF-8 become escapes.

    Example:
        >>> plain({"mae": 0.5, "snr_db": float("inf"), "shape": (1, 2)})
        {'mae': 0.5, 'snr_db': 'inf', 'shape': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if (
        value is None
        or isinstance(value, int)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def refuse(problems: Iterable[str]) -> None:
    """Raise one error with the problems of all files; do nothing where there are none.

    Raises:
        ValueError: There are problems.
    """
    lines = list(problems)
    if len(lines) > MAX_LISTED:
        lines[MAX_LISTED:] = [f"... and {len(lines) - MAX_LISTED} more files"]
    if lines:
        raise ValueError("\n".join(lines))


def writable_folder(path: Path, option: str, *, otherwise: str = "Name another folder.") -> Path:
    """Return a folder that can be made and written, without making it.

    Args:
        path: The folder.
        option: The option that named it, for the message.
        otherwise: What to do where it cannot be written.

    Raises:
        ValueError: It is a file, or cannot be written.
    """
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise ValueError(f"{option} {path}: {nearest} is a file. Name a folder.")
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".melcheck-"):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {path}: {nearest} cannot be written ({error.strerror}). {otherwise}"
        ) from None
    return path
