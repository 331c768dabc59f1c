"""Hooks of this repository only; what users get is in `melcheck.plugin`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files that cannot hold a test of the one marker that was asked for.

    `pytest -m sanity` would import every test file to learn its markers, which takes longer than
    the gate itself. A file whose text never applies the marker has no test of it.
    """
    marker = config.getoption("markexpr")
    if collection_path.suffix != ".py" or not marker.isidentifier():
        return None
    return True if f"mark.{marker}" not in collection_path.read_text(encoding="utf-8") else None
