"""What the end of a run leaves: the accepted misses, and the pictures of the last runs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from melcheck.files import error_text, plain_text
from melcheck.pytest_plugin.cases import PLAN
from melcheck.pytest_plugin.options import switched_on
from melcheck.pytest_plugin.terminal import Summary


@dataclass(eq=False)
class EndOfRun:
    """Writes what `--mel-accept` asks for, and removes the pictures of old runs.

    Attributes:
        config: Configuration of pytest.
        summary: Summary, which has the cases.
        line: What to print at the end.
    """

    config: pytest.Config
    summary: Summary
    line: str = ""

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Look at the cases of all processes."""
        plan = self.config.stash.get(PLAN, None)
        if plan is None or session.config.option.collectonly:
            return
        records = [each for each in self.summary.records.values() if each.case.metrics]
        drawn = [Path(each.artifacts) for each in records if each.artifacts]
        if plan.artifacts is not None and drawn:
            from melcheck.artifacts import keep_last_runs

            with contextlib.suppress(OSError):  # the pictures themselves are there
                keep_last_runs(plan.artifacts, drawn, plan.keep_runs)
        if not switched_on(self.config, "accept"):
            return
        from melcheck.pytest_plugin.plan import accepted_file
        from melcheck.report.accept import accept_cases

        front_end = "" if plan.frontend is None else plan.frontend.name
        cases = [each.case for each in records]
        path = accepted_file(self.config)
        try:
            self.line = accept_cases(path, cases, front_end=front_end, day=date.today())
        except (ValueError, OSError) as error:
            self.line = f"--mel-accept: {error_text(error)}"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was accepted."""
        if self.line:
            terminalreporter.write_line(plain_text(self.line))
