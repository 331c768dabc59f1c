"""Hooks of this repository only; what users get is in `melcheck.pytest_plugin.plugin`."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester", "tests.faults.kill_matrix", "tests.parity.table"]


@pytest.fixture(autouse=True)
def no_job_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the runs that tests make out of the summary of the CI job that they run in."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
