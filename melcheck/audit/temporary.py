"""A folder for temporary files that goes also where who made it was killed.

A process that is killed removes nothing: the next one finds its folder, and that nobody holds it. A
folder is held by SQLite's lock on a file beside it, which ends with the process on every system.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _LOCK = "melcheck-audit-", ".lock"
_SECONDS = 5.0


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is removed at the end; those that killed processes have left go first.

    Where the file system has no locks, no later process finds this one.

    Raises:
        OSError: It cannot be made.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_LOCK}"):
        with contextlib.suppress(sqlite3.Error, OSError):  # it is held, or another user's
            with _held(left, seconds=0.0):
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                gone = not left.with_suffix("").exists()
                if gone and os.name == "posix":  # elsewhere no file goes that is open
                    left.unlink(missing_ok=True)
            if gone and os.name != "posix":
                left.unlink(missing_ok=True)
    while True:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_LOCK)
        os.close(handle)
        lock, folder = Path(name), Path(name).with_suffix("")
        with contextlib.ExitStack() as end:
            end.callback(lock.unlink, missing_ok=True)
            with contextlib.suppress(sqlite3.Error):
                end.enter_context(_held(lock, seconds=_SECONDS))
            if not lock.exists():  # before it was held, another process took it for one left
                continue
            folder.mkdir(mode=0o700)
            end.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder
            return


@contextlib.contextmanager
def _held(lock: Path, *, seconds: float) -> Iterator[None]:
    """Hold a file that is there.

    Raises:
        sqlite3.Error: Another process holds it for longer than `seconds`, or it cannot be held.
    """
    address = f"{lock.absolute().as_uri()}?mode=rw"
    found = sqlite3.connect(address, uri=True, timeout=seconds, check_same_thread=False)
    with contextlib.closing(found):
        found.execute("BEGIN EXCLUSIVE")
        yield
