"""Marks in the values of a bare mel: of its logarithm and floor, of a normalisation, of integers.

Each of these leaves the values somewhere: at the logarithm of a usual floor, in a range that is too
short or too long for nats, at a mean of 0, above what full scale reaches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from melcheck.diagnosis.contradictions import ATOM_TOLERANCE, SHORTEST_RANGE_NATS, log_ceiling
from melcheck.diagnosis.findings import Finding
from melcheck.diagnosis.recipe_search.fitting import quantile
from melcheck.diagnosis.recipe_search.mel_axes import DOUBLE_LOG_SHARE
from melcheck.diagnosis.recipe_search.mel_values import (
    FLOORS_IN_USE,
    STORAGE_ROUNDINGS,
    Prepared,
    storage_step,
)
from melcheck.profiles import PROFILES
from melcheck.recipes import VOCOS

__all__ = ["Marks", "marks_of"]

_LOGARITHMS = ((1.0, "ln", ""), (1 / math.log(10), "log10", "log-base"))
# Energies of full scale come to this; integers of 16 bits add twice the logarithm of 32768.
_LOUDEST_NATS = 12.0
_LOUDEST_INTEGERS_NATS = _LOUDEST_NATS + 2 * math.log(32_768)
# A log-mel in nats has no longer range, integers without a silence in them included.
_LONGEST_RANGE_NATS = 40.0
_USUAL_RANGE_NATS = 18.0
# Without a logarithm the largest cell is far above the median.
_LINEAR_RATIO = 8.0
_SMALLEST = 1e-12
# Statistics of a mel that was divided by its own; no other has both by chance.
_STANDARD_TOLERANCE = 5e-3
# ln(12), of the loudest cell, is 2.5.
_DOUBLE_LOG_HIGHEST = 3.0
_LOWEST_SHARE = 0.05
_GAP_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Marks:
    """What the values of a mel show.

    Attributes:
        clues: On logarithm, floor and normalisation.
        unit: Units per nat, as far as known.
        foreign: What no profile's mel shows; "" for nothing.
    """

    clues: tuple[Finding, ...] = ()
    unit: float = 1.0
    foreign: str = ""


def marks_of(prepared: Prepared, values: Tensor) -> Marks:
    """Return the surest mark of logarithm, floor and normalisation.

    Args:
        prepared: The mel.
        values: Its finite cells, without those of padding; at least one.
    """
    floor, usable = prepared.floor, prepared.mel[prepared.usable]
    low, high = float(values.min()), float(values.max())
    if low == high:
        text = f"every cell is {low:.4g}: silence, or a mel that was never filled"
        return Marks((Finding("", text),))
    if not len(usable):
        text = "every cell that is left is the lowest or the highest: silence?"
        return Marks((Finding("", text),))
    if low >= 0 and high > _LINEAR_RATIO * max(float(usable.median()), _SMALLEST):
        text = "no cell is negative and few are large: no logarithm taken"
        return Marks((Finding("no-log", text),), foreign=text)
    twice = _twice(prepared, low, high)
    if twice is not None:
        return Marks((twice,), foreign=twice.text)
    for scale, name, code in _LOGARITHMS:
        value = None if floor is None else _known_floor(floor / scale, prepared.storage)
        if value is not None and high / scale < _LOUDEST_INTEGERS_NATS:
            clue = Finding(code, f"floor {floor:.4f} = {name}({value:g})")
            return Marks((clue, *_integers(usable / scale, len(prepared.mel))), scale)
    mean, std = float(values.double().mean()), float(values.double().std())
    if max(abs(mean), abs(std - 1)) < _STANDARD_TOLERANCE:
        text = f"a mean of {abs(mean):.2f} and a standard deviation of {std:.2f}: standardised"
        clue = Finding("normalisation", text)
        return Marks((clue,), (high - low) / _USUAL_RANGE_NATS, foreign=text)
    if high - low > _LONGEST_RANGE_NATS:
        clue = Finding("decibels", f"a range of {high - low:.0f}: decibels, not nats")
        return Marks((clue,), 10 / math.log(10))
    integers = _integers(usable, len(prepared.mel))
    if integers:
        return Marks(integers)
    if high - low < SHORTEST_RANGE_NATS:
        text = f"a range of {high - low:.2f}: normalised, a decimal logarithm, or steady noise"
        return Marks((Finding("normalisation", text),), (high - low) / _USUAL_RANGE_NATS)
    if floor is not None:
        clue = Finding("floor", f"floor {floor:.4f}: no usual one in ln or log10")
        return Marks((clue,))
    return Marks()


def _twice(prepared: Prepared, low: float, high: float) -> Finding | None:
    """Return the mark of a second logarithm: holes beside loud cells, and nothing in between.

    Where the first logarithm was negative, the second one's floor stands; where it was positive, so
    below 10, there is hardly a cell of less than -5. Silence has its floor in whole frames.
    """
    if prepared.floor is None or high > _DOUBLE_LOG_HIGHEST:
        return None
    heard = prepared.usable[:, prepared.usable.any(dim=0)]
    lost = 1 - float(heard.float().mean())
    lower = quantile(prepared.mel[prepared.usable], _LOWEST_SHARE)
    if lost < DOUBLE_LOG_SHARE or lower - low < _GAP_SHARE * (high - low):
        return None
    text = f"{lost:.0%} of the cells at the floor and none above {high:.2f}: logarithm twice"
    return Finding("double-log", text)


def _integers(nats: Tensor, bands: int) -> tuple[Finding, ...]:
    """Return the mark of samples that were not scaled to +-1."""
    recipes = [entry.recipe for entry in PROFILES.values() if entry.recipe.n_mels == bands]
    in_nats = [recipe for recipe in recipes if (recipe.log_base, recipe.std) == ("e", 1.0)]
    ceiling = max(map(log_ceiling, in_nats or [VOCOS]))
    high = float(nats.max())
    beyond = high > ceiling and quantile(nats, _LOWEST_SHARE) > 0
    if high <= _LOUDEST_NATS and not beyond:
        return ()
    text = f"cells of {high:.1f} nats, {ceiling:.1f} at most for samples within +-1: integers?"
    return (Finding("int16-scale", text),)


def _known_floor(nats: float, storage: str) -> float | None:
    rounding = STORAGE_ROUNDINGS * storage_step(storage) * abs(nats)
    for floor in FLOORS_IN_USE:
        if abs(nats - math.log(floor)) < ATOM_TOLERANCE + rounding:
            return floor
    return None
