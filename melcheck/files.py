"""Names and hashes of files, atomic writes, and what may be printed and kept of them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import math
import os
import re
import reprlib
import stat
import tempfile
import traceback
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# A name of 255 bytes is the limit of most file systems. Half of it leaves room for what a caller
# appends; a longer name is cut, and ends in this many digits of its hash to stay distinct.
_MAX_NAME_BYTES = 120
_HASH_DIGITS = 8

_BLOCK_BYTES = 2**20

MAX_LISTED = 16
"""How many items a message lists; of the others it gives the number."""

# Names that Windows keeps for devices, with any suffix behind them.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)


@contextlib.contextmanager
def replacing(path: Path, *, follow: bool = True) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` when the block ends well.

    So a file is written whole or not at all, and no reader meets half of it. The permissions of a
    file that was there before are kept.

    Args:
        path: The file.
        follow: Whether a symbolic link stays, and the file that it leads to is replaced.

    Raises:
        OSError: The folder of `path` cannot be written, or what is there is no file.
    """
    target = _resolved(path) if follow and path.is_symlink() else path
    mode = 0o644  # mkstemp makes files that only their owner may read
    if target.exists() and not target.is_symlink():
        if not target.is_file():
            raise OSError(errno.EINVAL, "there is no regular file", str(path))
        mode = stat.S_IMODE(target.stat().st_mode)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".melcheck-")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        if not temporary.is_symlink():
            temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _resolved(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # by the version of Python
        raise OSError(errno.ELOOP, "the link leads in a circle", str(link)) from None


def os_reason(error: OSError) -> str:
    """Return why an operation on a file failed, in words, without its number and its path.

    Example:
        >>> os_reason(FileNotFoundError(2, "No such file or directory", "a.wav"))
        'No such file or directory'
    """
    return error.strerror or str(error) or type(error).__name__


def error_text(error: BaseException) -> str:
    """Return an error for people: of a file its name and why, in words, without a number.

    Example:
        >>> error_text(PermissionError(13, "Permission denied", "a.wav"))
        'a.wav: Permission denied.'
        >>> error_text(ValueError("no clip"))
        'no clip'
    """
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        place = f"{one_line(Path(os.fsdecode(name)))}: " if isinstance(name, (str, bytes)) else ""
        return f"{place}{error.strerror}."
    return str(error).strip() or type(error).__name__


_ALLOCATION = re.compile(
    r"(?:tried to allocate|unable to allocate|failed to allocate|not enough memory)"
    r"[^\d]*([\d.,]+ ?[KMGTPEZ]?i?(?:B\b|bytes)?)?",
    re.IGNORECASE,
)


def failed_allocation(error: BaseException) -> str:
    """Return what a failed request for memory was about, in a sentence; "" for another error.

    Python and NumPy raise MemoryError, torch a RuntimeError that says how many bytes it wanted.

    Example:
        >>> failed_allocation(RuntimeError("DefaultCPUAllocator: you tried to allocate 80 bytes."))
        'out of memory: 80 bytes were asked for'
        >>> failed_allocation(ValueError("no clip"))
        ''
    """
    found = _ALLOCATION.search(str(error))
    kind = type(error).__name__
    if not isinstance(error, MemoryError) and (
        not isinstance(error, RuntimeError) or (found is None and kind != "OutOfMemoryError")
    ):
        return ""
    amount = found[1].strip() if found and found[1] else "more than there is"
    amount += " bytes" if amount[-1:].isdigit() else ""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if _PACKAGE in frame.filename
    ]
    by = f" by {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"out of memory: {amount} were asked for{by}"


_PACKAGE = f"{os.sep}melcheck{os.sep}"


def read_bytes(path: Path, *, max_bytes: int) -> bytes:
    """Read a file, which is no pipe and no device, up to a size.

    Raises:
        OSError: It cannot be read, is no file, or is larger; `os_reason` has it in words.
    """
    # A pipe that nobody writes to would be waited for.
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
        size = os.fstat(file.fileno()).st_size
        # Memory for what is there, not for what may be read. A file may grow meanwhile, and those
        # below /proc have no size.
        data = file.read(size + 1) if size <= max_bytes else b""
        while size < len(data) <= max_bytes and (more := file.read(_BLOCK_BYTES)):
            data += more
    size = max(size, len(data))
    if size > max_bytes:
        reason = f"it takes {size:,} bytes, and at most {max_bytes:,} are read"
        raise OSError(errno.EFBIG, reason, str(path))
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


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


def plain_text(text: str, *, coloured: bool = False) -> str:
    r"""Return text as it may be shown to people: the one way of all that melcheck prints.

    Names, messages of other code and answers of servers may hold what moves the cursor of a
    terminal, turns the direction of reading, or is a command to the program that keeps the log of
    a CI. Such characters become escapes; line breaks stay.

    Args:
        text: Text of one or more lines.
        coloured: Whether the escape sequences of colours stay, as in a table that is drawn already.

    Example:
        >>> plain_text("a\x1b[2J\u202eb"), plain_text("clip\n::error::c"), plain_text("été\n")
        ('a\\x1b[2J\\u202eb', 'clip\n\\x3a:error::c', 'été\n')
    """
    if not text.isascii() or not text.isprintable():
        text = _UNPRINTABLE.sub(functools.partial(_escape, coloured=coloured), text)
    return _LOG_COMMAND.sub(lambda found: f"{found[1]}\\x{ord(found[2]):02x}{found[3]}", text)


# Colours as rich writes them, or any one character.
_UNPRINTABLE = re.compile(r"\x1b\[[\d;]*m|[^\n ]")
# GitHub (`::error`) and Azure, TeamCity (`##vso[`, `##teamcity[`) look at the start of a line.
_LOG_COMMAND = re.compile(r"^(\s*(?:\x1b\[[\d;]*m)*\s*)([:#])([:#])", re.MULTILINE)


def _escape(found: re.Match[str], *, coloured: bool) -> str:
    text = found[0]
    if len(text) > 1:
        return text if coloured else text.replace("\x1b", "\\x1b")
    if text.isprintable() or unicodedata.category(text) == "Zs":
        return text
    return text.encode("unicode_escape").decode("ascii")


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


def load_yaml(data: bytes) -> Any:
    """Return what plain YAML holds: numbers, texts, lists and mappings.

    Merges (`<<`), which let a small file describe an endless mapping, are refused.

    Raises:
        ValueError: It is no plain YAML; the message is one line.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
                raise yaml.constructor.ConstructorError(problem="`<<` merges mappings")

    try:
        # It builds no Python objects, whatever the tags say. Besides YAMLError there may be a
        # ValueError (a date such as 2001-99-99, a number of 5,000 digits), TypeError, KeyError or
        # RecursionError.
        return yaml.load(data, Loader)
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(plain_text(reason[:200])) from None


def load_json(data: bytes) -> Any:
    """Return what JSON holds.

    Raises:
        ValueError: It is no JSON, or nested deeper than Python reads; the message is one line.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(plain_text(str(error)[:200])) from None


def short(value: object) -> str:
    """Return a value for a message: cut, and in words where Python does not write it."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"{type(value).__name__} that is too long to print"


def check_writable(path: Path) -> None:
    """Raise, before the work begins, where a file could not be written.

    Raises:
        OSError: A folder or a device is there, or the folder of the file cannot be written.
    """
    target = _resolved(path) if path.is_symlink() else path
    if target.exists() and not target.is_file():
        reason = "it is a folder" if target.is_dir() else "it is no regular file"
        raise OSError(errno.EINVAL, reason, str(path))
    with tempfile.TemporaryFile(dir=target.parent):
        pass


def unwritten(what: str, error: OSError) -> str:
    """Return the sentence on a file that could not be written."""
    reason = error_text(error).removesuffix(".")
    return f"{what} could not be written: {reason}. Make room there, or name another place."


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
    try:
        nearest = next(
            folder
            for folder in (path, *path.absolute().parents)
            if folder.exists() or folder.is_symlink()
        )
        if not nearest.is_dir():
            what = "a file" if nearest.exists() else "a link that leads nowhere"
            raise ValueError(f"{option} {path}: {nearest} is {what}. Name a folder.")
    except OSError as error:  # such as a name of 300 bytes
        raise ValueError(f"{option} {path}: {os_reason(error)}. {otherwise}") from None
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".melcheck-"):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {path}: {nearest} cannot be written ({os_reason(error)}). {otherwise}"
        ) from None
    return path
