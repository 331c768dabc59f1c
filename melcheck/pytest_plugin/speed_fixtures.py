"""The fixtures about speed, which need no clip: one lists a benchmark, one fails slower code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from melcheck.pytest_plugin.notes import NOTE_PROPERTY
from melcheck.pytest_plugin.terminal import SPEED_PROPERTY

if TYPE_CHECKING:
    from melcheck.benchmark.speed_gate import SpeedComparison

__all__: list[str] = []


@pytest.fixture
def mel_speed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that puts a line into the list of speeds at the end of the run."""

    def record(line: str) -> None:
        request.node.user_properties.append((SPEED_PROPERTY, line))

    return record


@pytest.fixture
def mel_speed_gate(request: pytest.FixtureRequest) -> Callable[..., SpeedComparison]:
    """A function that fails the test when a candidate is slower than a reference may be.

    `mel_speed_gate(candidate, reference, allowed_ratio=1.10)` takes two callables that do the same
    work and runs them in turns: see `melcheck.benchmark.speed_gate.compare_speed`, which has the
    other arguments. It returns what was found. What stays undecided passes, with a line in the
    notes.
    """

    def gate(
        candidate: Callable[..., object],
        reference: Callable[..., object],
        *,
        allowed_ratio: float = 1.10,
        pairs: int = 40,
        budget_seconds: float = 30.0,
        inputs: Callable[[], object] | None = None,
        device: str = "cpu",
    ) -> SpeedComparison:
        from melcheck.benchmark.speed_gate import compare_speed

        found = compare_speed(
            candidate,
            reference,
            allowed_ratio=allowed_ratio,
            pairs=pairs,
            budget_seconds=budget_seconds,
            inputs=inputs,
            device=device,
        )
        if found.outcome == "undecided":
            note = f"{request.node.nodeid}: {found.message()}"
            request.node.user_properties.append((NOTE_PROPERTY, note))
        if not found.passed:
            pytest.fail(found.message(), pytrace=False)
        return found

    return gate
