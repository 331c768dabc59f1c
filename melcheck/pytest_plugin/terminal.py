"""What the plugin prints at the end of a run: the table, skips, pictures, notes and annotations.

Everything crosses from the workers of pytest-xdist to the process that prints in the
`user_properties` of tests, which also stand in JUnit reports.

References:
    GitHub, "Workflow commands for GitHub Actions": `::error file=...,line=...,title=...::message`,
    with %, CR and LF escaped in the message, and `:` and `,` too in a property.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from melcheck.files import plain_text
from melcheck.pytest_plugin.cases import PLAN

if TYPE_CHECKING:
    from melcheck.report.model import CaseRecord, Key

# Names in `user_properties`.
CASE_PROPERTY = "melcheck-case"
"""A planned case: clip, vocoder and device in JSON."""
RECORD_PROPERTY = "melcheck"
"""A `CaseRecord` in JSON, without the errors of each band and frame."""
NOTE_PROPERTY = "melcheck-note"
"""A line for the notes."""
PLACE_PROPERTY = "melcheck-place"
"""The file that a failure is about, or "file:line"; the last one counts."""
SPEED_PROPERTY = "melcheck-speed"
"""A line for the list of speeds."""
KIND_PROPERTY = "melcheck-kind"
"""What a test is about that belongs to no case, and of which clip or front end, in JSON."""

_WORKER_OUTPUT = "melcheck_planned"
_LISTED_PATHS = 16

_ESCAPED_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_ESCAPED_PROPERTY = (*_ESCAPED_DATA, (":", "%3A"), (",", "%2C"))
_LONGEST_MESSAGE = 3000


def _properties(source: Any, wanted: str) -> list[str]:
    return [str(value) for name, value in source.user_properties if name == wanted]


class Notes:
    """Prints the notes of the plan and of tests, each once."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._noted: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the notes of a test, from any process."""
        if report.when == "call":
            self._noted |= dict.fromkeys(_properties(report, NOTE_PROPERTY))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the notes, if there are any."""
        plan = self._config.stash.get(PLAN, None)
        notes = [*(plan.notes() if plan is not None else ()), *self._noted]
        if notes:
            terminalreporter.section("melcheck: notes")
        for note in dict.fromkeys(notes):
            terminalreporter.write_line(plain_text(note))


def annotation(message: str, *, title: str, file: str = "", line: int | None = None) -> str:
    r"""Return the workflow command with which GitHub Actions shows an error.

    Example:
        >>> annotation("it broke\nhere", title="a: b", file="x,y.wav", line=3)
        '::error file=x%2Cy.wav,line=3,title=a%3A b::it broke%0Ahere'
    """
    # Of control characters, those that end a line have codes of their own below.
    message, title, file = (
        "\r".join(map(plain_text, text.split("\r"))) for text in (message, title, file)
    )
    properties = {"file": file, "line": "" if line is None else str(line), "title": title}
    listed = ",".join(
        f"{name}={_escaped(value, _ESCAPED_PROPERTY)}"
        for name, value in properties.items()
        if value
    )
    return f"::error {listed}::{_escaped(message, _ESCAPED_DATA)}"


def _escaped(text: str, table: tuple[tuple[str, str], ...]) -> str:
    for character, code in table:
        text = text.replace(character, code)
    return text


class Annotations:
    """Prints an annotation for each failure that is about a clip, a front end or a mel."""

    def __init__(self, config: pytest.Config) -> None:
        self._root = Path(os.environ.get("GITHUB_WORKSPACE") or config.rootpath)
        self._failures: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect a failure that is about a file."""
        places = _properties(report, PLACE_PROPERTY)
        if not report.failed or not places:
            return
        file, _, line = places[-1].rpartition(":")
        if not line.isdecimal():
            file, line = places[-1], ""
        self._failures.append(
            {
                # Not `longreprtext`, which xdist begins with the name of a worker.
                "message": str(report.longrepr).strip()[:_LONGEST_MESSAGE],
                "title": f"melcheck: {report.nodeid.rpartition('::')[2]}",
                "file": self._relative(file),
                "line": int(line) if line else None,
            }
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the annotations in GitHub Actions."""
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for failure in self._failures:
                terminalreporter.write_line(annotation(**failure))

    def _relative(self, file: str) -> str:
        path = Path(file)
        # GitHub shows an error beside the lines of a file only inside the repository.
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else file


def planned_cases(items: Iterable[pytest.Item]) -> list[str]:
    """Return the cases of the tests that put a row into the table."""
    return [case for item in items for case in _properties(item, CASE_PROPERTY)]


class Summary:
    """Collects the cases of the run from every process, and prints their table at the end."""

    def __init__(self) -> None:
        self.records: dict[Key, CaseRecord] = {}
        self.planned: set[str] = set()
        self.skipped: dict[str, set[str]] = {}
        self.failed: set[str] = set()
        self.speeds: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note every planned case, so that one that does not finish is missed."""
        self.planned.update(planned_cases(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note every planned case of a worker of pytest-xdist."""
        self.planned.update(getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT, ()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the case, its record and the speeds of a test."""
        cases = _properties(report, CASE_PROPERTY)
        self.planned.update(cases)
        if report.failed:
            self.failed.update(cases)
        if cases and report.skipped and report.when == "setup":
            _, _, reason = cast("tuple[str, int, str]", report.longrepr)
            self.skipped.setdefault(reason.removeprefix("Skipped: "), set()).update(cases)
        if report.when != "call":
            return
        self.speeds += _properties(report, SPEED_PROPERTY)
        for text in _properties(report, RECORD_PROPERTY):
            from melcheck.report.json_format import from_json
            from melcheck.report.model import CaseRecord

            record = from_json(CaseRecord, text)
            self.records[record.case.key] = record

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the speeds, the table, the skips with their reasons, and where the pictures are."""
        coloured = terminalreporter.hasmarkup

        def write(line: str, *, coloured: bool = False) -> None:
            terminalreporter.write_line(plain_text(line, coloured=coloured))

        if self.speeds:
            terminalreporter.section("melcheck: speed, from the median of each benchmark")
            for line in self.speeds:
                write(line)
        if not self.planned:
            return
        terminalreporter.section("melcheck: audio -> mel -> audio -> mel")
        for line in self._table(terminalreporter):
            write(line, coloured=coloured)
        for line in self._shared_causes():
            write(line)
        for reason, cases in self.skipped.items():
            write(f"skipped, {len(cases)} of {len(self.planned)} cases: {reason}")
        records = self.records.values()
        pictures = [record.artifacts for record in records if record.artifacts]
        if pictures:
            write("pictures:")
        for folder in pictures[:_LISTED_PATHS]:
            write(f"  {folder}")
        if len(pictures) > _LISTED_PATHS:
            write(f"  ... and {len(pictures) - _LISTED_PATHS} more folders beside them")
        outcomes = (record.case.outcome for record in records)
        counts = Counter[str](outcome for outcome in outcomes if outcome != "baseline")
        measured = {json.dumps(list(record.case.key)) for record in records}
        counts["failed"] += len(self.failed - measured)  # a clip that cannot be read, say
        counts["skipped"] = sum(map(len, self.skipped.values()))
        counts["without a result"] = len(self.planned) - counts.total()
        listed = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
        write(f"{len(self.planned)} cases planned: {listed}")

    def _shared_causes(self) -> list[str]:
        """Return each cause that several cases share, once, with how many."""
        if not self.records:
            return []
        from melcheck.report.text import Failure, failure_lines, problems_of

        failures = [
            Failure(case.clip, case.title, case.reason, case.cause)
            for case in (record.case for record in self.records.values())
            if case.outcome == "failed" and case.cause is not None
        ]
        shared = {
            title
            for problem in problems_of(failures)
            if len(problem.cases) > 1
            for _, title, _ in problem.cases
        }
        return failure_lines(each for each in failures if each.title in shared)

    def _table(self, terminalreporter: pytest.TerminalReporter) -> list[str]:
        plan = terminalreporter.config.stash.get(PLAN, None)
        if not self.records or plan is None:
            return []
        from melcheck.report.table import table_lines

        return table_lines(
            list(self.records.values()),
            plan.gates(),
            width=max(80, terminalreporter._tw.fullwidth),
            colour=terminalreporter.hasmarkup,
            rules=plan.own_rules(),
        )


def send_planned_cases(session: pytest.Session) -> None:
    """Hand the cases of a pytest-xdist worker to the controller, which gets them at its end."""
    output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
    output[_WORKER_OUTPUT] = planned_cases(session.items)
