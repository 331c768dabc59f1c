"""Hooks of this repository only; what users get is in `melcheck.pytest_plugin.plugin`."""

from __future__ import annotations

import gc
import json
from collections import defaultdict
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def no_job_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the runs that tests make out of the summary of the CI job that they run in."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files that cannot hold a test of the gate when only the gate was asked for.

    `pytest -m sanity` would import every test file to learn its markers, which takes longer than
    the gate itself. A file whose text never applies that marker, and does not import the test of
    the gate, has none.
    """
    if config.getoption("markexpr") != "sanity" or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if "mark.sanity" in text or "test_mel_survives_the_loop" in text else True


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight.

    It walks through all of torch otherwise, at each full collection, of which pytest makes several
    at its end: a tenth of the time of the gate.
    """
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Gather what the tests of faults and of parity record, in the process that prints."""
    if not hasattr(config, "workerinput"):  # of pytest-xdist
        config.pluginmanager.register(_KillMatrix(), "melcheck-kill-matrix")
        config.pluginmanager.register(_ParityTable(), "melcheck-parity-table")


class _KillMatrix:
    """Which gate caught which fault, printed at the end of a run."""

    def __init__(self) -> None:
        self.cases: dict[str, list[frozenset[str]]] = defaultdict(list)
        self.tried = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the case out of a test's report, from whichever process."""
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "melcheck-fault":
                    case = json.loads(str(value))
                    self.tried += 1
                    if case["whole"]:
                        self.cases[case["fault"]].append(frozenset(case["gates"]))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the matrix, faults that one gate alone sees, and gates that see nothing alone."""
        if not self.cases:
            return
        from tests.faults.catalogue import FAULTS
        from tests.faults.gates import GATES

        write = terminalreporter.write_line
        terminalreporter.section("melcheck: which gate catches which fault")
        write("percent of the cases (severity x clip) of a fault; . is none, * is all of them")
        for number, gate in enumerate(GATES):
            write(f"  {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[number]} {gate}")
        letters = "  ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(GATES)])
        write(f"{'':32}cases  {letters}")
        faults = [fault for fault in FAULTS if fault.name in self.cases]
        for fault in faults:
            fired = self.cases[fault.name]
            shares = [sum(gate in gates for gates in fired) / len(fired) for gate in GATES]
            cells = " ".join(_cell(share) for share in shares)
            label = f"{fault.tier}{fault.row:<3}{fault.name}"
            write(f"{label:32}{len(fired):5} {cells}{'' if fault.visible else '  (invisible)'}")
        visible = [case for fault in faults if fault.visible for case in self.cases[fault.name]]
        survivors = sum(not case for case in visible)
        write(
            f"{len(visible)} visible cases of {len(faults)} faults went past every gate, "
            f"{survivors} survived; {self.tried} cases were tried in all"
        )
        single: dict[str, set[str]] = defaultdict(set)
        alone: dict[str, int] = defaultdict(int)
        for fault in faults:
            for case in self.cases[fault.name]:
                if len(case) == 1:
                    [gate] = case
                    alone[gate] += 1
                    single[gate].add(fault.name)
        for gate in GATES:
            if alone[gate]:
                write(f"{gate} alone, {alone[gate]} cases: {', '.join(sorted(single[gate]))}")
        idle = [gate for gate in GATES if not alone[gate]]
        write(f"catch nothing that no other gate catches: {', '.join(idle) or 'none'}")


def _cell(share: float) -> str:
    if share in (0.0, 1.0):
        return " *" if share else " ."
    return f"{min(99, max(1, round(100 * share))):2}"


class _ParityTable:
    """What each variant of the loop deviates by, printed at the end of a run."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the row out of a test's report, from whichever process."""
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "melcheck-parity":
                row = json.loads(str(value))
                cells = [
                    f"{found:8.2g} <{allowed:7.2g}"
                    for found, allowed in zip(row["found"], row["allowed"], strict=True)
                ]
                bits = "same bits again" if row["repeated"] else "OTHER BITS AGAIN"
                label = f"{row['vocoder']:23}{row['variant']:15}"
                self.rows.append(f"{label}{' '.join(cells)}  {bits}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if self.rows:
            terminalreporter.section("melcheck: parity with plain float32 on the CPU")
            heads = ("encoded, nats", "mel, nats", "mel mean", "sound", "sound, dB")
            titles = " ".join(f"{head:>17}" for head in heads)
            terminalreporter.write_line(f"{'found < allowed':38}{titles}")
            for row in sorted(self.rows):
                terminalreporter.write_line(row)
