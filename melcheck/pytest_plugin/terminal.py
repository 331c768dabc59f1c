"""What the end of a run prints: the table, what was skipped and why, where the pictures are.

What a run should say beside its table: what was adapted, and what differs without harm.

Failures as annotations of GitHub Actions: a line that its runner shows beside the file.

Printed where the environment says `GITHUB_ACTIONS=true`.

References:
    GitHub, "Workflow commands for GitHub Actions": `::error file=...,line=...,title=...::message`,
    with %, CR and LF escaped in the message, and `:` and `,` too in a property.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from melcheck.pytest_plugin.cases import PLAN

if TYPE_CHECKING:
    from melcheck.report.table import CaseRow


# A name in a test's `user_properties`, which cross from xdist's workers to the controller.
NOTE_PROPERTY = "melcheck-note"


class Notes:
    """Gathers the notes of the plan and of tests, and prints each once."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._noted: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the notes out of a test's report, from whichever process."""
        if report.when == "call":
            for name, value in report.user_properties:
                if name == NOTE_PROPERTY:
                    self._noted[str(value)] = None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the notes, where there are any."""
        plan = self._config.stash.get(PLAN, None)
        notes = [*(plan.notes() if plan is not None else ()), *self._noted]
        if not notes:
            return
        terminalreporter.section("melcheck: notes")
        for note in dict.fromkeys(notes):
            terminalreporter.write_line(note)


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


# Names in a test's `user_properties`, which cross from xdist's workers to the controller and stand
# in JUnit reports.
ROW_PROPERTY = "melcheck"
CASE_PROPERTY = "melcheck-case"
SPEED_PROPERTY = "melcheck-speed"

_WORKER_OUTPUT = "melcheck_planned"
_LISTED_PATHS = 16


def planned_cases(items: Iterable[pytest.Item]) -> list[str]:
    """Return the cases of the tests that put a row into the table."""
    return [
        str(value)
        for item in items
        for name, value in item.user_properties
        if name == CASE_PROPERTY
    ]


class Summary:
    """Gathers the rows that tests record, in any process, and prints them at the end."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], CaseRow] = {}
        self.planned: set[str] = set()
        self.skipped: dict[str, set[str]] = {}
        self.speeds: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note every case of the run, whether it will come to an end or not."""
        self.planned.update(planned_cases(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note every case that a worker of pytest-xdist had."""
        self.planned.update(getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT, ()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the row and the case out of a test's report."""
        for name, value in report.user_properties:
            if name == CASE_PROPERTY:
                self.planned.add(str(value))
                if report.skipped and report.when == "setup":
                    _, _, reason = cast("tuple[str, int, str]", report.longrepr)
                    reason = reason.removeprefix("Skipped: ")
                    self.skipped.setdefault(reason, set()).add(str(value))
            elif name == ROW_PROPERTY and report.when == "call":
                from melcheck.report.table import CaseRow

                row = CaseRow.from_json(str(value))
                self.rows[row.clip, row.vocoder, row.device] = row
            elif name == SPEED_PROPERTY and report.when == "call":
                self.speeds.append(str(value))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, what was skipped and why, and where the pictures are."""
        write = terminalreporter.write_line
        if self.speeds:
            terminalreporter.section("melcheck: speed, from the median of each benchmark")
            for line in self.speeds:
                write(line)
        if not self.planned:
            return
        terminalreporter.section("melcheck: audio -> mel -> audio -> mel")
        if self.rows:
            width = max(80, terminalreporter._tw.fullwidth)
            self._write_rows(write, width=width, colour=terminalreporter.hasmarkup)
        for reason, cases in self.skipped.items():
            write(f"skipped, {len(cases)} of {len(self.planned)} cases: {reason}")
        pictures = [row.artifacts for row in self.rows.values() if row.artifacts]
        if pictures:
            write("pictures:")
        for folder in pictures[:_LISTED_PATHS]:
            write(f"  {folder}")
        if len(pictures) > _LISTED_PATHS:
            write(f"  ... and {len(pictures) - _LISTED_PATHS} more folders beside them")
        counts: Counter[str] = Counter(
            row.outcome for row in self.rows.values() if row.outcome != "baseline"
        )
        counts["skipped"] = sum(map(len, self.skipped.values()))
        missing = len(self.planned) - counts.total()
        if missing:
            counts["without a result"] = missing
        told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
        write(f"{len(self.planned)} cases planned: {told}")

    def _write_rows(self, write: Any, *, width: int, colour: bool) -> None:
        from melcheck.report.table import legend, table_text
        from melcheck.sanity import Thresholds

        rows = list(self.rows.values())
        write(table_text(rows, width=width, colour=colour))
        write(legend(Thresholds()))
        for line in sorted({f"{row.vocoder}: {row.provenance}" for row in rows}):
            write(line)
        for line in sorted({f"decoder: {row.decoder}" for row in rows if row.decoder}):
            write(line)
        parts = {row.clip: row for row in rows if row.is_part()}
        if parts:
            listed = ", ".join(
                f"{row.clip} {row.checked_seconds:.1f} of {row.source_seconds:.1f}"
                for row in list(parts.values())[:_LISTED_PATHS]
            )
            more = ", ..." if len(parts) > _LISTED_PATHS else ""
            write(f"only the start was checked (--mel-duration all takes all), s: {listed}{more}")


def send_planned_cases(session: pytest.Session) -> None:
    """Hand the cases of a pytest-xdist worker to the controller, which gets them at its end."""
    output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
    output[_WORKER_OUTPUT] = planned_cases(session.items)
