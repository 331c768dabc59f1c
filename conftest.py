"""Hooks of this repository only; what users get is in `melcheck.pytest_plugin.plugin`."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester", "tests.faults.kill_matrix", "tests.parity.table"]

# Beside pytest-xdist each process takes its share of the cores: threads of torch that outnumber
# them wait for each other, which was measured to make a diagnosis ten times as slow.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

SUITE = Path(__file__).parent / "tests" / "suite"
SUITE_MARKERS = {"sanity", "shapes", "golden", "artifacts"}


@pytest.fixture(autouse=True)
def independent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs that tests make be neither part of the CI job nor workers of pytest-xdist."""
    # Where CI is set, pytest's summary repeats whole messages.
    workers = ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")
    for name in ("CI", "BUILD_NUMBER", "GITHUB_STEP_SUMMARY", *workers):
        monkeypatch.delenv(name, raising=False)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Collect `tests/suite` alone where `-m` names a marker that only its tests have.

    Importing all other test files to learn their markers takes longer than the gate itself.
    """
    if config.getoption("markexpr") not in SUITE_MARKERS:
        return None
    inside = collection_path.is_relative_to(SUITE) or SUITE.is_relative_to(collection_path)
    return None if inside else True


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight.

    Otherwise it walks through all of torch at each full collection, of which pytest makes several
    at its end: a sixth of the processor time of `pytest -m sanity` on one clip.
    """
    gc.freeze()
