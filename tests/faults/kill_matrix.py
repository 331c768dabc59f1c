"""Pytest plugin that prints which test of the suite caught which fault at the end of a run.

Cases come from the tests' reports, so that the process that prints need not be one that runs tests
or has collected any: under pytest-xdist it is the controller.
"""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class _KillMatrix:
    def __init__(self) -> None:
        self.cases: dict[str, list[frozenset[str]]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "melcheck-fault":
                case = json.loads(str(value))
                self.cases[case["fault"]].append(frozenset(case["gates"]))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the matrix, what one gate alone sees, and the gates that see nothing alone."""
        if not self.cases:
            return
        from tests.faults.catalogue import FAULTS
        from tests.faults.suite_run import GATES

        write = terminalreporter.write_line
        terminalreporter.section("melcheck: which test of the suite catches which fault")
        write("percent of the cases (severity x clip) of a fault; . is none, * is all of them")
        for letter, (gate, test) in zip(_LETTERS, GATES.items(), strict=False):
            write(f"  {letter} {gate:21}{'exit code 4' if test is None else test.__name__}")
        write(f"{'':32}cases  {'  '.join(_LETTERS[: len(GATES)])}")
        alone: dict[str, list[str]] = defaultdict(list)
        visible = survivors = 0
        faults = [fault for fault in FAULTS if fault.name in self.cases]
        for fault in faults:
            cases = self.cases[fault.name]
            shares = [sum(gate in case for case in cases) / len(cases) for gate in GATES]
            row = " ".join(_share(share) for share in shares)
            label = f"{fault.tier}{fault.row:<3}{fault.name}"
            write(f"{label:32}{len(cases):5} {row}{'  (invisible)' if fault.invisible else ''}")
            if not fault.invisible:
                visible += len(cases)
                survivors += sum(not case for case in cases)
            for case in cases:
                if len(case) == 1:
                    alone[next(iter(case))].append(fault.name)
        seen = sum(not fault.invisible for fault in faults)
        write(f"{visible} cases of {seen} visible faults were tried, {survivors} survived")
        for gate in GATES:
            if alone[gate]:
                names = ", ".join(sorted(set(alone[gate])))
                write(f"{gate} alone, {len(alone[gate])} cases: {names}")
        idle = [gate for gate in GATES if not alone[gate]]
        write(f"catch nothing that no other gate catches: {', '.join(idle) or 'none'}")


def _share(share: float) -> str:
    if share in (0.0, 1.0):
        return " *" if share else " ."
    return f"{min(99, max(1, round(100 * share))):2}"


def pytest_configure(config: pytest.Config) -> None:
    """Gather the cases in the process that prints, which is no worker of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_KillMatrix(), "melcheck-kill-matrix")
