"""Output of the commands: text or JSON on stdout, progress and errors on stderr.

Colour and the progress bar appear only on a terminal, colour only without `NO_COLOR`. Characters
that stdout cannot encode are escaped, so that no file name breaks a run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO, TypeVar

from melcheck.files import plain, plain_text

_Item = TypeVar("_Item")

_WIDTH_WHEN_PIPED = 80
_STDOUT, _STDERR = 1, 2
_ESCAPE = "\x1b"
_COMMAND = "pip install "
# The lines that rich draws tables with.
_ASCII = str.maketrans({"─": "-", "╶": "-", "╴": "-"})


class UsageError(ValueError):
    """An option or an input that cannot be used: exit code 2."""


class MissingError(RuntimeError):
    """Something that this environment lacks: exit code 3."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command.

    Attributes:
        passed: Whether every gate of the command passed.
        text: Text for people, without a newline at its end.
        data: The same for programs; `melcheck.files.plain` converts it to JSON.
        coloured: What stands above the text, and may have colours that were drawn already.
        unwritten: What could not be written, in sentences; it does not change the verdict, which
            is printed first.
    """

    passed: bool
    text: str
    data: Mapping[str, object]
    coloured: str = ""
    unwritten: tuple[str, ...] = ()


class Terminal:
    """The two streams of one run.

    Attributes:
        width: Columns that text may take.
        colour: Whether text may have colour.
        watched: Whether stderr is a terminal.
    """

    def __init__(self) -> None:
        piped = not _is_terminal(sys.stdout)
        columns = shutil.get_terminal_size((_WIDTH_WHEN_PIPED, 24)).columns
        self.width = _WIDTH_WHEN_PIPED if piped else columns
        self.colour = not piped and not os.environ.get("NO_COLOR")
        self.watched = _is_terminal(sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def print(self, text: str, *, coloured: bool = False) -> None:
        """Write text and a newline to stdout, wrapped at `width`, and flush.

        Args:
            text: The text.
            coloured: Whether it may have colours.

        Raises:
            OSError: The text cannot be written, or (`BrokenPipeError`) the reader has gone.
        """
        text = plain_text(text, coloured=coloured)
        lines = (self._broken(line) for line in text.split("\n"))
        text = "\n".join(line for broken in lines for line in broken)
        _write(sys.stdout, text, coloured=coloured)

    def print_json(self, document: Mapping[str, object]) -> None:
        """Write a document to stdout as JSON in ASCII, and flush; raises as `print` does."""
        _write(sys.stdout, json.dumps(plain(document), allow_nan=False, indent=2))

    def note(self, text: str) -> None:
        """Write text and a newline to stderr; lost if that stream is closed."""
        with contextlib.suppress(OSError):
            _write(sys.stderr, text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        """Return rows as a table at most `width` columns wide; long text is folded."""
        from melcheck.report.text_table import text_table

        return "\n".join(text_table(header, rows, width=self.width))

    def _broken(self, line: str) -> list[str]:
        # Colour takes no columns, and a command that is to be copied stays whole.
        if len(line) <= self.width or _ESCAPE in line or _COMMAND in line:
            return [line]
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        return textwrap.wrap(
            line,
            self.width,
            subsequent_indent=indent,
            drop_whitespace=True,
            break_long_words=False,  # a path stays whole
            break_on_hyphens=False,
        )

    def progress(self, title: str, items: Iterable[_Item], total: int) -> Iterator[_Item]:
        """Yield the items, with a progress bar where stderr is a terminal."""
        if not self.watched:
            yield from items
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        title = escape(plain_text(title))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            yield from progress.track(items, total=total, description=title)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Redirect what the user's code prints to stderr: stdout holds only the answer.

    Its file descriptor is redirected too, to which other languages and child processes write.
    """
    with contextlib.redirect_stdout(sys.stderr or io.StringIO()), _descriptor_to_stderr():
        yield


@contextlib.contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    stream = sys.__stdout__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # closed by the caller, as with `1>&-`
        yield
        return
    try:
        _redirect()
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()  # what the code wrote past `redirect_stdout`
        os.dup2(kept, _STDOUT)
        os.close(kept)


def end_stdout() -> None:
    """Let nothing that this process prints at its end follow the answer on stdout."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout is not None:
            sys.stdout.flush()
        _redirect()


def _redirect() -> None:
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:  # stderr is closed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDOUT)
        os.close(nowhere)


def _write(stream: TextIO | None, text: str, *, coloured: bool = False) -> None:
    if stream is None:  # closed by the caller, as with `2>&-`
        return
    try:
        "─".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(_ASCII)
    stream.write(plain_text(f"{text}\n", coloured=coloured))
    stream.flush()


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
