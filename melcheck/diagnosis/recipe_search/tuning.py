"""Tune the one number of a recipe that lies between those of the bank: an f_max of 9,123 Hz.

From a hypothesis that came near, each number that recipes choose freely is moved along its grid
and then, between its best neighbours, by golden sections. What is left falls to nothing only where
the number is right, so that a tuned hypothesis is judged like any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from melcheck.diagnosis.recipe_search.fitting import Hypothesis
from melcheck.diagnosis.recipe_search.ranking import Cells, residuals
from melcheck.diagnosis.recipe_search.recipe_changes import Change

__all__ = ["golden_section", "tuned"]

_GOLDEN = (math.sqrt(5) - 1) / 2
_SECTIONS = 22
# So many sections show whether a number leads anywhere: they narrow it to a hundredth.
_FIRST_SECTIONS = 9
_FEWEST_VALUES = 2
# Beside the best value of a grid, by this share of its interval, a number off the grid fits better.
_STEP_SHARE = 0.01
# One wrong number leaves less than this: 1.2 nats for a pre-emphasis of 0.97.
_HOPELESS_NATS = 1.8
_PROMISING_SHARE = 0.5
_NOWHERE = torch.zeros(1, dtype=torch.long)


@dataclass(frozen=True, slots=True)
class _Number:
    """A number that recipes choose freely.

    Attributes:
        code: The cause that it is.
        name: The recipe's attribute.
        grid: Values to begin with, in order.
        decimals: To which it is rounded in the end.
    """

    code: str
    name: str
    grid: tuple[float, ...]
    decimals: int


_NUMBERS = (
    _Number("f-max", "f_max", (4e3, 5.5e3, 7e3, 8e3, 9e3, 10e3, 11e3, 12e3), 1),
    _Number("f-min", "f_min", (0.0, 30.0, 80.0, 160.0, 260.0, 400.0), 1),
    _Number("pre-emphasis", "pre_emphasis", (0.0, 0.4, 0.7, 0.9, 0.97, 0.99), 4),
    _Number("win-length", "win_length", (360, 480, 600, 720, 840, 960, 1024), 0),
)


def golden_section(
    left: Callable[[float], float], low: float, high: float, sections: int
) -> tuple[float, float]:
    """Return the bounds of a minimum after so many golden sections.

    Args:
        left: The function, of one minimum within the bounds.
        low: Lower bound.
        high: Upper bound.
        sections: Each one takes 38 % off.
    """
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    values = [left(place) for place in inner]
    for _ in range(sections):
        if values[0] < values[1]:
            high = inner[1]
            inner = [high - _GOLDEN * (high - low), inner[0]]
            values = [left(inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + _GOLDEN * (high - low)]
            values = [values[1], left(inner[1])]
    return low, high


def tuned(cells: Cells, hypothesis: Hypothesis) -> list[Hypothesis]:
    """Return the hypothesis with one number tuned, for each number that leads somewhere.

    Args:
        cells: Of the candidate.
        hypothesis: One that came near.
    """
    start = float(residuals(cells, hypothesis, _NOWHERE))
    found: list[Hypothesis] = []
    if start > _HOPELESS_NATS:
        return found
    for number in _NUMBERS:

        def left(value: float, number: _Number = number) -> float:
            return float(residuals(cells, _with(hypothesis, number, value), _NOWHERE))

        grid = [value for value in number.grid if _fits(hypothesis, number, value)]
        if len(grid) < _FEWEST_VALUES:
            continue
        values = [left(value) for value in grid]
        best = min(range(len(grid)), key=values.__getitem__)
        low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
        step = _STEP_SHARE * (high - low)
        beside = [value for value in (grid[best] - step, grid[best] + step) if low < value < high]
        if min(left(value) for value in beside) >= values[best]:
            continue
        low, high = golden_section(left, low, high, _FIRST_SECTIONS)
        if left((low + high) / 2) > _PROMISING_SHARE * start:
            continue
        low, high = golden_section(left, low, high, _SECTIONS - _FIRST_SECTIONS)
        found.append(_with(hypothesis, number, round((low + high) / 2, number.decimals)))
    return found


def _fits(hypothesis: Hypothesis, number: _Number, value: float) -> bool:
    recipe = hypothesis.recipe
    if number.name == "f_max":
        return recipe.f_min < value <= (recipe.filterbank_rate or recipe.sample_rate) / 2
    if number.name == "f_min":
        return value < recipe.f_max
    return number.name != "win_length" or value <= recipe.n_fft


def _with(hypothesis: Hypothesis, number: _Number, value: float) -> Hypothesis:
    """Return a hypothesis with one number set, and with the change named."""
    given = round(value) if number.name == "win_length" else value
    expected = getattr(hypothesis.sound.recipe, number.name)
    others = tuple(
        change
        for change in hypothesis.changes
        if number.name not in (name for name, _ in change.numbers)
    )
    own = (Change(number.code, ((number.name, given),)),) if given != expected else ()
    recipe = dataclasses.replace(hypothesis.recipe, **{number.name: given})  # type: ignore[arg-type]
    return dataclasses.replace(hypothesis, changes=(*own, *others), recipe=recipe)
