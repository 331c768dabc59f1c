"""What a mel tells without its audio: `identify` reads the marks that a recipe leaves in an array.

A floor leaves an atom at its logarithm; decibels and normalisations leave a range; padding leaves
frames of one value; a source of less bandwidth leaves the upper bands empty. None of this proves a
recipe: `melcheck.diagnosis.diagnose.diagnose` does, with the audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from melcheck.diagnosis.contradictions import contradiction
from melcheck.diagnosis.findings import Finding
from melcheck.diagnosis.recipe_search.mel_axes import USUAL_BANDS
from melcheck.diagnosis.recipe_search.mel_values import Prepared, as_mel, prepare
from melcheck.diagnosis.value_marks import marks_of
from melcheck.profiles import PROFILES

__all__ = ["Identity", "identify"]

_EMPTY_SHARE = 0.9
_FALL_NATS = 3.0
_FALL_BANDS = 8


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
        contradictions: Why it is of none of the others, by their names.
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
    """Say what can be told from a mel alone.

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
        raise ValueError("candidate_mel must hold a finite cell, got none. Look where NaN begins.")
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
        clues.append(Finding("nan", f"{prepared.broken} cells are NaN or infinite"))
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
