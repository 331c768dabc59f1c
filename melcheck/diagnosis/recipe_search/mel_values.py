"""What the cells of a mel show before any recipe is tried: atoms, padding, broken cells, storage.

An atom is a value that many cells share to the last bit: a floor that the logarithm was clipped at,
a ceiling, a constant that frames were padded with. All mels here are `[n_mels, frames]`.
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from melcheck.recipes import MelRecipe

_ATOM_CELLS = 4
_ATOM_TOLERANCE = 2e-6

# Half the distance between neighbours, relative: 8 and 11 bits of significand.
_STORAGE_STEPS = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "": 0.0}

STORAGE_ROUNDINGS = 2.0
"""Cells of a mel stored in short floats may be off by so many steps: one rounding more."""

ROUNDING_NATS = 1e-4
"""Of loud cells no more than this is rounding."""

_ROUNDING_MAGNITUDE = 2e-6
_ROUNDING_SHARE = 4e-7

# A transform of 8192 has 4097 bins; an axis beyond that is time.
_MOST_BANDS = 4097


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A mel, and which of its cells carry information about the audio.

    Attributes:
        mel: `[n_mels, frames]`, float32, broken cells set to 0, padded frames cut off.
        usable: Cells that are neither broken nor at the floor or the ceiling.
        floor: The lowest value, where cells share it.
        ceiling: The highest value, where cells share it.
        broken: How many cells were NaN or infinite.
        leading: Frames of constant padding that were cut off at the start.
        trailing: The same at the end.
        padding_value: What those frames hold.
        storage: "float16", "bfloat16" or "" for neither.
    """

    mel: Tensor
    usable: Tensor
    floor: float | None
    ceiling: float | None
    broken: int
    leading: int
    trailing: int
    padding_value: float | None
    storage: str


def as_tensor(value: object, name: str) -> Tensor:
    """Return a tensor, or any array that NumPy takes, as a tensor on the CPU; its type is kept.

    Args:
        value: What was given, of any memory layout.
        name: What to call it in messages.

    Raises:
        TypeError: It is no array of numbers.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if not hasattr(value, "__array__"):
        raise TypeError(
            f"{name} must be a tensor or a NumPy array, got {kind_of(value)}. Pass the array alone."
        )
    array = np.asarray(value)
    try:
        # A copy: torch takes neither negative strides nor the other byte order, and may write.
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except TypeError:  # text, objects, floats of more than 64 bits
        told = f"{name} must be an array of numbers that torch has, got {array.dtype}."
    raise TypeError(f"{told} Convert it: array.astype(np.float32).")


def kind_of(value: object) -> str:
    """Return what a value is that should have been an array, and how many items it has.

    Example:
        >>> kind_of((0.5, 1.0)), kind_of(None), kind_of(0.5)
        ('tuple of 2', 'None', 'float')
    """
    if value is None:
        return "None"
    if isinstance(value, Sized) and not isinstance(value, (str, bytes)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def magnitude_rounding(loudest: float) -> float:
    """Return by how much a magnitude is off by rounding alone, given the mel's loudest.

    It grows with the loudest cell, by the rounding of a float32 transform.
    """
    return _ROUNDING_MAGNITUDE + _ROUNDING_SHARE * loudest


def beyond_rounding(
    reference: Tensor, mel: Tensor, recipe: MelRecipe, *, storage: str | None = None
) -> Tensor:
    """Return which bins of two mels differ by more than arithmetic alone makes them differ.

    The one bound of the project: a front end that follows the recipe in another library, or in
    float64, stays below it. d ln m = dm / m, so that an error of the magnitude weighs more where
    the mel is low.

    Args:
        reference: `[n_mels, frames]`, as the recipe extracts it.
        mel: The same shape; what its type rounds is allowed on top.
        recipe: The recipe of the reference.
        storage: The type that it was rounded to, where that is known; None looks at its values.

    Returns:
        `[n_mels, frames]`; NaN is beyond.
    """
    difference = (mel - reference).abs()
    storage = storage_of(mel) if storage is None else storage
    step = STORAGE_ROUNDINGS * storage_step(storage) * mel.abs()
    if recipe.log_base is None:
        return ~(difference <= ROUNDING_NATS + step)
    nats = recipe.to_nats(reference)
    rounding = magnitude_rounding(float(nats.max().exp()))
    bound = torch.maximum(torch.tensor(ROUNDING_NATS), rounding * (-nats).exp())
    return ~(difference <= bound * recipe.units_per_nat + step)


def as_mel(candidate: object, *, name: str = "candidate_mel") -> Tensor:
    """Return a mel of any array type as `[rows, columns]`, float32.

    Args:
        candidate: The array.
        name: What to call it in messages.

    Raises:
        TypeError: It is no array of numbers.
        ValueError: It is not of two dimensions, up to leading ones of size 1, is empty, is not of
            floating point, or has no axis that could be its bands.
    """
    mel = as_tensor(candidate, name)
    got = f"{mel.dtype} of shape {list(mel.shape)}".removeprefix("torch.")
    if not mel.is_floating_point():
        raise ValueError(
            f"{name} must be floating point, got {got}. Store a mel as float32 or float16, and "
            "take the magnitude of what is complex."
        )
    while mel.dim() > 2 and mel.shape[0] == 1:
        mel = mel[0]
    if mel.dim() != 2 or not mel.numel():
        raise ValueError(
            f"{name} must be one mel [n_mels, frames], got {got}. Pass the items of a batch one by "
            "one."
        )
    if not any(1 < size <= _MOST_BANDS for size in mel.shape):
        raise ValueError(
            f"{name} must be a mel [n_mels, frames], got {got}: no axis can be its bands. Pass the "
            "mel, not the waveform."
        )
    return mel.float()


def storage_of(mel: Tensor) -> str:
    """Return which short float type the values fit without loss, "" for none."""
    finite = mel[torch.isfinite(mel)]
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        if len(finite) and torch.equal(finite.to(dtype).float(), finite):
            return name
    return ""


def storage_step(storage: str) -> float:
    """Return the largest relative error of rounding to a storage type."""
    return _STORAGE_STEPS[storage]


def prepare(mel: Tensor) -> Prepared:
    """Find atoms, padding and broken cells of `[n_mels, frames]`."""
    storage = storage_of(mel)
    finite = torch.isfinite(mel)
    broken = int((~finite).sum())
    mel = torch.where(finite, mel, 0.0)
    leading, trailing, value = _padding(mel, finite)
    kept = slice(leading, mel.shape[1] - trailing)
    mel, finite = mel[:, kept].contiguous(), finite[:, kept]
    values = mel[finite]
    floor = _atom(values, lowest=True)
    ceiling = _atom(values, lowest=False)
    usable = finite.clone()
    if floor is not None:
        usable &= mel > floor + _tolerance(floor)
    if ceiling is not None:
        usable &= mel < ceiling - _tolerance(ceiling)
    return Prepared(mel, usable, floor, ceiling, broken, leading, trailing, value, storage)


def _tolerance(value: float) -> float:
    return _ATOM_TOLERANCE * max(1.0, abs(value))


def _atom(values: Tensor, *, lowest: bool) -> float | None:
    if not len(values):
        return None
    extreme = float(values.min() if lowest else values.max())
    shared = int(((values - extreme).abs() <= _tolerance(extreme)).sum())
    return extreme if shared >= _ATOM_CELLS and shared < len(values) else None


def _padding(mel: Tensor, finite: Tensor) -> tuple[int, int, float | None]:
    """Return how many frames at either end hold one constant that is not the mel's lowest value."""
    highest, lowest = mel.amax(dim=0), mel.amin(dim=0)
    constant = (highest == lowest) & finite.all(dim=0)
    if constant.all() or not constant.any():
        return 0, 0, None
    bottom = float(mel[:, ~constant].min())
    for value in (float(lowest[-1]), float(lowest[0])):
        same = constant & (lowest == value)
        if not (same[0] or same[-1]) or value <= bottom + _tolerance(bottom):
            continue
        other = (~same).nonzero()[:, 0]
        leading = int(other[0]) if same[0] else 0
        trailing = len(same) - 1 - int(other[-1]) if same[-1] else 0
        return leading, trailing, value
    return 0, 0, None
