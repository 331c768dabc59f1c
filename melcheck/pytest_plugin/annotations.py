"""Failures as annotations of GitHub Actions: a line that its runner shows beside the file.

Printed where the environment says `GITHUB_ACTIONS=true`.

References:
    GitHub, "Workflow commands for GitHub Actions": `::error file=...,line=...,title=...::message`,
    with %, CR and LF escaped in the message, and `:` and `,` too in a property.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["PLACE_PROPERTY", "Annotations", "annotation"]

# A name in a test's `user_properties`: the file that its failure is about, or "file:line". The last
# one counts.
PLACE_PROPERTY = "melcheck-place"

_ESCAPED_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_ESCAPED_PROPERTY = (*_ESCAPED_DATA, (":", "%3A"), (",", "%2C"))
_LONGEST_MESSAGE = 3000


def annotation(message: str, *, title: str, file: str = "", line: int | None = None) -> str:
    r"""Return the workflow command that shows an error.

    Example:
        >>> annotation("it broke\nhere", title="a: b", file="x,y.wav", line=3)
        '::error file=x%2Cy.wav,line=3,title=a%3A b::it broke%0Ahere'
    """
    properties = {"file": file, "line": "" if line is None else str(line), "title": title}
    told = ",".join(
        f"{name}={_escaped(value, _ESCAPED_PROPERTY)}"
        for name, value in properties.items()
        if value
    )
    return f"::error {told}::{_escaped(message, _ESCAPED_DATA)}"


def _escaped(text: str, table: tuple[tuple[str, str], ...]) -> str:
    for character, code in table:
        text = text.replace(character, code)
    return text


class Annotations:
    """Prints an annotation for each failure that is about a clip, a front end or a mel."""

    def __init__(self, config: pytest.Config) -> None:
        self._root = Path(os.environ.get("GITHUB_WORKSPACE") or config.rootpath)
        self._lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a failure that is about a file."""
        places = [str(value) for name, value in report.user_properties if name == PLACE_PROPERTY]
        if not report.failed or not places:
            return
        file, _, line = places[-1].rpartition(":")
        if not line.isdecimal():
            file, line = places[-1], ""
        self._lines.append(
            annotation(
                # Not `longreprtext`, which xdist begins with the name of a worker.
                str(report.longrepr).strip()[:_LONGEST_MESSAGE],
                title=f"melcheck: {report.nodeid.rpartition('::')[2]}",
                file=self._relative(file),
                line=int(line) if line else None,
            )
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the annotations where GitHub reads them."""
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in self._lines:
                terminalreporter.write_line(line)

    def _relative(self, file: str) -> str:
        path = Path(file)
        # Only what lies in the repository can be shown beside its lines.
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else file
