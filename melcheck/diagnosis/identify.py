"""What a mel shows without its audio: `identify` reads the marks that a recipe leaves in an array.

A floor leaves many values at its logarithm; decibels, normalisation and integer samples leave an
unusual range; padding leaves frames of one value; a source of less bandwidth leaves the upper bands
empty. Bands, range and floor contradict some recipes. None of this proves a recipe:
`melcheck.diagnosis.diagnose.diagnose` does, with the audio.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from melcheck.diagnosis.causes import Finding
from melcheck.diagnosis.recipe_search.fitting import quantile
from melcheck.diagnosis.recipe_search.mel_axes import DOUBLE_LOG_SHARE, USUAL_BANDS
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    Prepared,
    as_mel,
    prepare,
    storage_step,
)
from melcheck.diagnosis.recipe_search.recipe_changes import filters_of
from melcheck.profiles import PROFILES
from melcheck.recipes import FLOAT32_EPSILON, FLOORS_IN_USE, VOCOS, MelRecipe

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

# Magnitudes of full scale come to 2.2 in a decimal logarithm, and speech spans 4.5 in it.
_SCALED_TO = 4.0
_LOUDEST_DECIMAL = 2.2
_DECIMAL_RANGE = 4.5

# Mean and standard deviation of a mel that was normalised by its own are 0 and 1 within this.
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
    """Return the surest mark of logarithm, floor and normalisation."""
    floor, usable = prepared.floor, prepared.mel[prepared.usable]
    low, high = float(values.min()), float(values.max())
    if low == high:
        text = f"every value is {low:.4g}: silence, or a mel that was never filled"
        return Marks((Finding("", text),))
    if not len(usable):
        text = "every other value is the lowest or the highest: silence?"
        return Marks((Finding("", text),))
    if low >= 0 and high > _LINEAR_RATIO * max(float(usable.median()), _SMALLEST):
        text = "no value is negative and few are large: no logarithm taken"
        return Marks((Finding("no-log", text),), foreign=text)
    twice = _twice(prepared, low, high)
    if twice is not None:
        return Marks((twice,), foreign=twice.text)
    if floor == -_SCALED_TO and high <= _SCALED_TO:
        text = f"from {floor:g} on, {high:.3g} at most: clamped and scaled to [-4, 4]"
        if high > _LOUDEST_DECIMAL:
            return Marks((Finding("normalisation", text),), foreign=text)
    for scale, name, code in _LOGARITHMS:
        value = None if floor is None else _known_floor(floor / scale, prepared.storage)
        if value is not None and high / scale < _LOUDEST_INTEGERS_NATS:
            of_kaldi = ", which Kaldi's fbank is clipped at" if value == FLOAT32_EPSILON else ""
            clue = Finding(code, f"floor {floor:.4f} = {name}({value:g}){of_kaldi}")
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
        # Decimal logarithms of magnitudes lie here; what was normalised may.
        decimal = low < -_DECIMAL_RANGE / 2 and high - low > _DECIMAL_RANGE
        code = "" if decimal else "normalisation"
        return Marks((Finding(code, text),), (high - low) / _USUAL_RANGE_NATS)
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
    text = f"{lost:.0%} of the values at the floor and none above {high:.2f}: logarithm twice"
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
    text = f"values of {high:.1f} nats, {ceiling:.1f} at most for samples within +-1: integers?"
    return (Finding("int16-scale", text),)


def _known_floor(nats: float, storage: str) -> float | None:
    rounding = STORAGE_ROUNDINGS * storage_step(storage) * abs(nats)
    for floor in FLOORS_IN_USE:
        if abs(nats - math.log(floor)) < ATOM_TOLERANCE + rounding:
            return floor
    return None


ATOM_TOLERANCE = 2e-3
"""How far the value that cells share may lie from the floor that it is taken for, nats."""

SHORTEST_RANGE_NATS = 7.0
"""From their quietest to their loudest cell speech and music have more: 12 without a silence, and
under a decimal logarithm 6; but steady noise has 5.6."""

_RANGE_ROUNDING = 1e-3


@functools.lru_cache(maxsize=32)
def log_ceiling(recipe: MelRecipe) -> float:
    """Return what no cell exceeds as long as samples lie within +-1, in the mel's unit."""
    # |sum w[n] x[n] e^(...)| <= sum w[n] for |x| <= 1, in every bin; a band adds its bins up.
    # A window peaks at 1, so that its sum is at most win_length.
    strongest_band = filters_of(recipe).sum(dim=0).max().item()
    return recipe.normalised(recipe.logarithm(strongest_band * recipe.win_length**recipe.power))


@functools.lru_cache(maxsize=32)
def _silence(recipe: MelRecipe) -> tuple[float, float]:
    """Return the least and the most that digital silence comes to in a band, in the mel's unit."""
    sums = filters_of(recipe).sum(dim=0)
    added = recipe.magnitude_eps ** (recipe.power / 2)
    low, high = (max(each.item() * added, recipe.floor) for each in (sums.min(), sums.max()))
    return recipe.normalised(recipe.logarithm(low)), recipe.normalised(recipe.logarithm(high))


def contradiction(prepared: Prepared, values: Tensor, recipe: MelRecipe) -> str:
    """Return in words why a mel cannot be one of a recipe; "" where nothing speaks against it.

    Args:
        prepared: The mel.
        values: Its finite cells, without those of padding; at least one.
        recipe: The recipe.
    """
    bands = prepared.mel.shape[0]
    if bands != recipe.n_mels:
        return f"{bands} bands where it has {recipe.n_mels}"
    low, high = float(values.min()), float(values.max())
    lowest, highest = recipe.log_floor, log_ceiling(recipe)
    rounding = STORAGE_ROUNDINGS * storage_step(prepared.storage)
    slack = (ATOM_TOLERANCE + rounding) * max(1.0, abs(lowest))
    if low < lowest - slack:
        return f"down to {low:.2f} where it ends at {lowest:.2f}"
    if high > highest + slack:
        return f"up to {high:.2f} where full scale ends at {highest:.2f}"
    if recipe.dynamic_range is not None:
        kept = recipe.dynamic_range / recipe.std
        if high - low > kept * (1 + _RANGE_ROUNDING):
            return f"a range of {high - low:.2f} where it keeps {kept:.2f}"
    elif prepared.floor is not None and abs(prepared.floor - lowest) > slack:
        quietest, loudest = _silence(recipe)
        if quietest - slack <= prepared.floor <= loudest + slack:
            return ""  # bands that hold nothing but what is added under the root
        return f"a floor of {prepared.floor:.4f} where it has {lowest:.4f}"
    if low <= lowest + slack or recipe.log_base is None:
        return ""
    nats = (high - low) / recipe.units_per_nat / recipe.power
    if nats < SHORTEST_RANGE_NATS:
        return f"a range of {high - low:.2f}, less than speech or music has"
    return ""


_EMPTY_SHARE = 0.9
_FALL_NATS = 3.0
_FALL_BANDS = 8


@dataclass(frozen=True, slots=True)
class Identity:
    """What a mel shows without its audio.

    Attributes:
        rows: Rows of the array as given.
        columns: Columns of the array as given.
        n_mels: Number of bands, as far as the shape shows.
        frames: Number of frames, likewise.
        minimum: Lowest finite value.
        maximum: Highest finite value.
        floor: The lowest value, where cells share it.
        clues: What was seen.
        profiles: Names of the profiles that it does not contradict.
        contradictions: Why it follows none of the rest, by their names.
    """

    rows: int
    columns: int
    n_mels: int
    frames: int
    minimum: float
    maximum: float
    floor: float | None
    clues: tuple[Finding, ...]
    profiles: tuple[str, ...]
    contradictions: Mapping[str, str] = field(hash=False)

    @property
    def codes(self) -> tuple[str, ...]:
        """The causes that the clues point to."""
        return tuple(clue.code for clue in self.clues if clue.code)

    def message(self) -> str:
        """Return what was seen in plain words."""
        seen = [
            f"{self.n_mels} bands, {self.frames} frames, {self.minimum:.4g} to {self.maximum:.4g}",
            *(clue.text for clue in self.clues),
            f"consistent with: {', '.join(self.profiles) or 'no known profile'}",
        ]
        return " | ".join(seen)

    def __str__(self) -> str:
        return self.message()


def identify(candidate_mel: Any, *, sample_rate: int | None = None) -> Identity:
    """Return what a mel shows without its audio.

    Args:
        candidate_mel: `[n_mels, frames]`, up to leading dimensions of 1; a tensor or a NumPy array.
        sample_rate: Hz of the audio that it was made from, if known; narrows the profiles.

    Returns:
        Shape, range, clues and the profiles that are not contradicted.

    Raises:
        TypeError: It is no array.
        ValueError: It is not one mel, or holds no finite cell.
    """
    given = as_mel(candidate_mel)
    if not torch.isfinite(given).any():
        raise ValueError("candidate_mel must hold a finite value, got none. Look where NaN begins.")
    clues = []
    rows, columns = given.shape
    mel = given
    if rows not in USUAL_BANDS and columns in USUAL_BANDS:
        mel = given.T.contiguous()
        clues.append(Finding("axes-transposed", f"[{rows}, {columns}] looks like [frames, n_mels]"))
    elif rows == columns:
        clues.append(Finding("", f"square, [{rows}, {columns}]: the shape does not tell the axes"))
    prepared = prepare(mel)
    if prepared.broken:
        clues.append(Finding("nan", f"{prepared.broken} values are NaN or infinite"))
    if prepared.leading or prepared.trailing:
        count = prepared.leading + prepared.trailing
        text = f"{count} frames hold nothing but {prepared.padding_value:g}: padding in a log-mel?"
        clues.append(Finding("padded-frames", text))
    finite = mel[torch.isfinite(mel)]
    kept = mel[:, prepared.leading : mel.shape[1] - prepared.trailing]
    values = kept[torch.isfinite(kept)]
    values = values if len(values) else finite
    marks = marks_of(prepared, values)
    clues += [*marks.clues, *_shape_of_spectrum(prepared, marks.unit)]
    against = _contradictions(prepared, values, sample_rate, marks.foreign)
    if prepared.storage:
        clues.append(Finding("", f"stored with the precision of {prepared.storage}"))
    if prepared.ceiling is not None:
        clues.append(Finding("clamped", f"many values share the maximum {prepared.ceiling:.4g}"))
    return Identity(
        rows=rows,
        columns=columns,
        n_mels=mel.shape[0],
        frames=mel.shape[1],
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        floor=prepared.floor,
        clues=tuple(clues),
        profiles=tuple(name for name, reason in against.items() if not reason),
        contradictions={name: reason for name, reason in against.items() if reason},
    )


def _shape_of_spectrum(prepared: Prepared, unit: float) -> list[Finding]:
    mel = prepared.mel
    if prepared.floor is not None:
        empty = (mel <= prepared.floor + 1e-5).float().mean(dim=1) > _EMPTY_SHARE
    else:
        empty = torch.zeros(len(mel), dtype=torch.bool)
    # The level that each band reaches in a tenth of the frames.
    reach = torch.quantile(mel.float(), 0.9, dim=1) / max(unit, 1e-6)
    bands = len(mel)
    step = reach[:-_FALL_BANDS] - reach[_FALL_BANDS:]
    upper = slice(bands // 2, None)
    edge = int(step[upper].argmax()) + bands // 2 if bands > 2 * _FALL_BANDS else 0
    fallen = bands > 2 * _FALL_BANDS and float(step[edge]) > _FALL_NATS and _stays_down(reach, edge)
    if bool(empty[-2:].all()) and not bool(empty.all()):
        first = int((~empty).nonzero()[-1]) + 1
        return [Finding("band-limited", f"bands {first} to {bands - 1} are empty")]
    if fallen:
        fallen_by = float(step[edge])
        return [Finding("band-limited", f"the level falls by {fallen_by:.1f} at band {edge}")]
    return []


def _stays_down(reach: Tensor, edge: int) -> bool:
    above = reach[edge + _FALL_BANDS :]
    return bool(len(above)) and float(above.max()) < float(reach[edge]) - 0.8 * _FALL_NATS


def _contradictions(
    prepared: Prepared, values: Tensor, sample_rate: int | None, foreign: str
) -> dict[str, str]:
    """Return for each profile why the mel cannot be its own; "" where nothing speaks against it."""
    found = {}
    for name, entry in PROFILES.items():
        recipe = entry.recipe
        if sample_rate not in (None, recipe.sample_rate):
            found[name] = f"{sample_rate} Hz where it has {recipe.sample_rate}"
        else:
            found[name] = contradiction(prepared, values, recipe) or foreign
    return found
