"""Pytest plugin that prints what each variant of the loop deviates by at the end of a run.

Rows come from the tests' reports: see `tests.faults.kill_matrix`.
"""

from __future__ import annotations

import json

import pytest

_HEADS = ("encoded, nats", "mel, nats", "mel mean", "waveform", "waveform, dB")


class _ParityTable:
    def __init__(self) -> None:
        self.rows: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "melcheck-parity":
                row = json.loads(str(value))
                columns = " ".join(
                    f"{found:8.2g} <{allowed:7.2g}"
                    for found, allowed in zip(row["found"], row["allowed"], strict=True)
                )
                bits = "same bits again" if row["repeated"] else "OTHER BITS AGAIN"
                self.rows.append(f"{row['vocoder']:23}{row['variant']:15}{columns}  {bits}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if self.rows:
            terminalreporter.section("melcheck: parity with plain float32 on the CPU")
            titles = " ".join(f"{head:>17}" for head in _HEADS)
            terminalreporter.write_line(f"{'found < allowed':38}{titles}")
            for row in sorted(self.rows):
                terminalreporter.write_line(row)


def pytest_configure(config: pytest.Config) -> None:
    """Gather the rows in the process that prints, which is no worker of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_ParityTable(), "melcheck-parity-table")
