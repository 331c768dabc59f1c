"""What docs/scale.md says a corpus costs, against the model that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import audit_scale
from benchmarks.audit_scale import (
    DRIVER_STEPS,
    FLAC_BYTES,
    ROW_EMBEDDED,
    Cost,
    Measured,
    Model,
    measured_tables,
    model_tables,
    read_measured,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_document_has_what_the_command_prints() -> None:
    measured = read_measured(DOCUMENT)
    assert measured_tables(measured) in DOCUMENT
    assert model_tables(measured) in DOCUMENT


def costing(*, row: float, driver: float, size: float) -> Model:
    """A model of clips that take so many milliseconds of a worker and of the driver, and bytes."""
    steps = dict.fromkeys(audit_scale.AUDITS["embedded"].steps, Cost(0, 0))
    costs = {**steps, ROW_EMBEDDED: Cost(row, 0), DRIVER_STEPS[0]: Cost(driver, 0)}
    costs |= dict.fromkeys(DRIVER_STEPS[1:], Cost(0, 0))
    return Model(Measured(costs, {FLAC_BYTES: Cost(size, 0)}, {}), "embedded")


@pytest.mark.parametrize(
    ("workers", "first", "rate"),
    [(1, "workers", 10), (50, "workers", 500), (2000, "driver", 1000), (2000, "link", 500)],
)
def test_the_slowest_part_is_the_first_limit(workers: int, first: str, rate: float) -> None:
    size = audit_scale.LINK_BYTES / 500 if first == "link" else 1.0
    limits = costing(row=100, driver=1, size=size).limits(workers)
    slowest = min(limits, key=lambda name: limits[name])
    assert first in slowest
    assert limits[slowest] == pytest.approx(rate, rel=1e-12)


def test_a_corpus_costs_its_clips_times_one() -> None:
    model = costing(row=100, driver=1, size=1)
    clips = audit_scale.CORPUS_HOURS * 3600 / audit_scale.CLIP_SECONDS
    assert model.core_hours() == pytest.approx(clips * 0.101 / 3600, rel=1e-12)
