"""Files at addresses, `s3://`, `gs://` and `https://`, by fsspec.

Nothing is fetched before it is asked for, credentials are found as fsspec finds them (the
environment, the files of the provider's tools), and no other kind of address is followed: no local
file by another name, no chain of file systems. Needs `pip install 'melcheck[remote]'`.

References:
    fsspec, https://filesystem-spec.readthedocs.io; s3fs, https://s3fs.readthedocs.io.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from melcheck.environment import PackageNeededError
from melcheck.files import plain_text

_ADDRESS = re.compile(r"(?:s3|gs|https)://[^/:\s][^\s]*", re.IGNORECASE)
_BLOCK_BYTES = 2**20
_REASON = 200


def is_address(text: str) -> bool:
    """Return whether a text is an address that can be fetched.

    Example:
        >>> is_address("s3://corpus/train.jsonl"), is_address("file:///etc/passwd")
        (True, False)
        >>> is_address("simplecache::s3://corpus/a.wav"), is_address("data/train.csv")
        (False, False)
    """
    return _ADDRESS.fullmatch(text) is not None and "::" not in text


def address_exists(address: str) -> bool:
    """Return whether there is a file.

    Raises:
        PackageNeededError: fsspec, or what it needs for the address, is not installed.
        OSError: It cannot be reached.
    """
    with _reported(address):
        system, path = _system(address)
        return bool(system.isfile(path))


def read_part(address: str, start: int, length: int) -> bytes:
    """Return a part of a file; raises as `address_exists` does."""
    with _reported(address):
        system, path = _system(address)
        return bytes(system.cat_file(path, start=start, end=start + length))


def opened(address: str) -> Any:
    """Return a file that is read in parts, as they are needed; raises as `address_exists`."""
    with _reported(address):
        system, path = _system(address)
        return system.open(path, "rb")


def fetch(address: str, path: Path) -> Path:
    """Copy a file to `path`, and return that; raises as `address_exists` does."""
    with opened(address) as source, path.open("wb") as file, _reported(address):
        shutil.copyfileobj(source, file, _BLOCK_BYTES)
    return path


def files_below(address: str) -> Iterator[str]:
    """Yield the addresses of the files of a folder and below, sorted; hidden ones are passed over.

    Raises:
        PackageNeededError: As `address_exists`.
        OSError: It cannot be listed, or there is none.
    """
    with _reported(address):
        system, path = _system(address)
        if not system.isdir(path):
            raise FileNotFoundError("there is no file and no folder")
        for _, folders, files in system.walk(path, detail=True):
            # In the order of a folder of this machine: by name, whatever it is.
            folders_kept = sorted(name for name in folders if not name.startswith("."))
            for name in set(folders) - set(folders_kept):
                del folders[name]
            for name in sorted(name for name in files if name and not name.startswith(".")):
                yield str(system.unstrip_protocol(files[name]["name"]))


def name_of(address: str) -> str:
    """Return the last part of an address, without what asks a server for more.

    Example:
        >>> name_of("https://host/corpus/train.csv?token=1"), name_of("s3://bucket/corpus/")
        ('train.csv', 'corpus')
    """
    return PurePosixPath(address.partition("://")[2].partition("?")[0]).name


@functools.lru_cache(maxsize=1)
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="melcheck-fetched-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_copies: dict[str, Path] = {}
_MOST_COPIES = 2


def copy_of(address: str) -> Path:
    """Return a copy of a file on this machine, kept until two others were fetched.

    Raises as `address_exists` does.
    """
    if address not in _copies:
        while len(_copies) >= _MOST_COPIES:
            oldest = next(iter(_copies))
            shutil.rmtree(_copies.pop(oldest).parent, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=_folder()))
        _copies[address] = fetch(address, folder / (name_of(address) or "file"))
    return _copies[address]


def _system(address: str) -> tuple[Any, str]:
    if not is_address(address):
        raise ValueError("it must begin with s3://, gs:// or https://")
    import fsspec

    system, path = fsspec.core.url_to_fs(address)
    return system, path


@contextlib.contextmanager
def _reported(address: str) -> Iterator[None]:
    """Turn what the libraries below raise into one sentence."""
    try:
        yield
    except ImportError as error:
        raise PackageNeededError(
            f"{plain_text(address)}: addresses need fsspec and, for s3:// and gs://, s3fs or gcsfs "
            f"({error}). Install them: pip install 'melcheck[remote]'."
        ) from None
    except Exception as error:
        # Each file system has errors of its own, botocore's and aiohttp's among them.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{plain_text(address)}: it cannot be fetched "
            f"({type(error).__name__}: {plain_text(reason)[:_REASON]}). Check the address and the "
            "credentials of this machine."
        ) from None
