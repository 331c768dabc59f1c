"""What a mel tells without its audio: `identify` reads the marks that a recipe leaves in an array.

A floor leaves an atom at its logarithm; decibels and normalisations leave a range; padding leaves
frames of one value; a source of less bandwidth leaves the upper bands empty. None of this proves a
recipe: `melcheck.forensics.diagnose` does, with the audio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melcheck.findings import Finding
from melcheck.inspection import Prepared, as_mel, prepare
from melcheck.profiles import PROFILES
from melcheck.recipes import MelRecipe

__all__ = ["Identity", "identify"]

_USUAL_BANDS = (20, 23, 32, 40, 64, 80, 96, 100, 120, 128, 160, 229, 256)
_FLOORS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
_LOGARITHMS = ((1.0, "ln", ""), (1 / math.log(10), "log10", "log-base"))
_DECIBELS = (
    (10 / math.log(10), "10 log10", "decibels"),
    (20 / math.log(10), "20 log10", "decibels"),
)
_ATOM_TOLERANCE = 2e-3
_LOUDEST_NATS = 12.0
_SHORTEST_RANGE_NATS = 6.0
_LINEAR_RATIO = 8.0
_EMPTY_SHARE = 0.9
_FALL_NATS = 3.0
_FALL_BANDS = 8
_DOUBLE_LOG_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Identity:
    """What can be told of a bare mel.

    Attributes:
        rows: Of the array as given.
        columns: Of the array as given.
        n_mels: Number of bands, as far as the shape tells.
        frames: Number of frames, likewise.
        minimum: Lowest finite value.
        maximum: Highest finite value.
        floor: The lowest value, where cells share it.
        clues: What was seen.
        profiles: Names of the profiles that it does not contradict.
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
    """Say what can be told from a mel alone.

    Args:
        candidate_mel: `[n_mels, frames]`, up to leading dimensions of 1; a tensor or a NumPy array.
        sample_rate: Hz of the audio that it was made from, if known; narrows the profiles.

    Returns:
        Shape, range, clues and the profiles that are not contradicted.

    Raises:
        ValueError: It is not one mel, or holds no finite cell.
    """
    given = as_mel(candidate_mel)
    if not torch.isfinite(given).any():
        raise ValueError("candidate_mel must hold a finite cell, got none. Look where NaN begins.")
    clues = []
    rows, columns = given.shape
    mel = given
    if rows not in _USUAL_BANDS and columns in _USUAL_BANDS:
        mel = given.T.contiguous()
        clues.append(Finding("axes-transposed", f"[{rows}, {columns}] looks like [frames, n_mels]"))
    elif rows == columns:
        clues.append(Finding("", f"square, [{rows}, {columns}]: the shape does not tell the axes"))
    prepared = prepare(mel)
    if prepared.broken:
        clues.append(Finding("nan", f"{prepared.broken} cells are NaN or infinite"))
    if prepared.leading or prepared.trailing:
        count = prepared.leading + prepared.trailing
        text = f"{count} frames hold nothing but {prepared.padding_value:g}: padding in a log-mel?"
        clues.append(Finding("padded-frames", text))
    finite = mel[torch.isfinite(mel)]
    unit = _unit(prepared, clues)
    clues += _shape_of_spectrum(prepared, unit)
    if prepared.storage:
        clues.append(Finding("", f"stored with the precision of {prepared.storage}"))
    if prepared.ceiling is not None:
        clues.append(Finding("clamped", f"cells share the maximum {prepared.ceiling:.4g}"))
    return Identity(
        rows=rows,
        columns=columns,
        n_mels=mel.shape[0],
        frames=mel.shape[1],
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        floor=prepared.floor,
        clues=tuple(clues),
        profiles=_profiles(prepared, mel.shape[0], sample_rate),
    )


def _unit(prepared: Prepared, clues: list[Finding]) -> float:
    """Add clues on logarithm, floor and normalisation; return units per nat as far as known."""
    mel, floor = prepared.mel, prepared.floor
    values = mel[prepared.usable]
    if not len(values):
        clues.append(Finding("", "every cell that is left holds the same value: silence?"))
        return 1.0
    low, high = float(mel.min()), float(mel.max())
    if low >= 0 and high > _LINEAR_RATIO * max(float(values.median()), 1e-12):
        clues.append(Finding("no-log", "no cell is negative and few are large: no logarithm taken"))
        return 1.0
    lost = 1 - float(prepared.usable.float().mean())
    if floor is not None and lost > _DOUBLE_LOG_SHARE and high < 3 and float(values.median()) > -3:
        text = f"{lost:.0%} of the cells at the floor and none above {high:.2f}: logarithm twice"
        clues.append(Finding("double-log", text))
        return 1.0
    if high - low > 40.0:
        clues.append(Finding("decibels", f"a range of {high - low:.0f}: decibels, not nats"))
        return 10 / math.log(10)
    for scale, name, code in _LOGARITHMS if floor is not None else ():
        value = _known_floor(floor / scale) if floor is not None else None
        if value is not None and high / scale < _LOUDEST_NATS:
            text = f"floor {floor:.4f} = {name}({value:g})"
            clues.append(Finding(code, text))
            return scale
    if high - low < _SHORTEST_RANGE_NATS or (abs(high) < 2 and low > -6):
        text = f"a range of {high - low:.2f}: normalised, or a decimal logarithm"
        clues.append(Finding("normalisation", text))
        return (high - low) / 18.0
    if floor is not None:
        clues.append(Finding("floor", f"floor {floor:.4f}: no usual one in ln or log10"))
    return 1.0


def _known_floor(nats: float) -> float | None:
    for floor in _FLOORS:
        if abs(nats - math.log(floor)) < _ATOM_TOLERANCE:
            return floor
    return None


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


def _profiles(prepared: Prepared, n_mels: int, sample_rate: int | None) -> tuple[str, ...]:
    names = []
    for name, entry in PROFILES.items():
        recipe = entry.recipe
        if recipe.n_mels != n_mels or sample_rate not in (None, recipe.sample_rate):
            continue
        if _contradicts(prepared, recipe):
            continue
        names.append(name)
    return tuple(names)


def _contradicts(prepared: Prepared, recipe: MelRecipe) -> bool:
    low, high = float(prepared.mel.min()), float(prepared.mel.max())
    lowest = recipe.log_floor
    tolerance = _ATOM_TOLERANCE * max(1.0, abs(lowest))
    unit = recipe.log_scale / recipe.std / (math.log(10) if recipe.log_base == "10" else 1.0)
    if low < lowest - tolerance or high > lowest + unit * recipe.power * 32:
        return True
    if recipe.dynamic_range is not None:
        span = recipe.dynamic_range / recipe.std
        return high - low > span * (1 + 1e-3)
    return prepared.floor is not None and abs(prepared.floor - lowest) > tolerance
