"""What a run should say beside its table: what was adapted, and what differs without harm."""

from __future__ import annotations

import pytest

from melcheck.pytest_plugin.stashes import PLAN

__all__ = ["NOTE_PROPERTY", "Notes"]

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
