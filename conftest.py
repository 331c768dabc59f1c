"""Hooks of this repository only; what users get is in `melcheck.plugin`."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files that cannot hold a test of the gate when only the gate was asked for.

    `pytest -m sanity` would import every test file to learn its markers, which takes longer than
    the gate itself. A file whose text never applies that marker has no test of it.
    """
    if config.getoption("markexpr") != "sanity" or collection_path.suffix != ".py":
        return None
    return True if "mark.sanity" not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight.

    It walks through all of torch otherwise, at each full collection, of which pytest makes several
    at its end: a tenth of the time of the gate.
    """
    gc.freeze()
