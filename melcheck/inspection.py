"""What the cells of a mel show before any recipe is tried: atoms, padding, broken cells, storage.

An atom is a value that many cells share to the last bit: a floor that the logarithm was clipped at,
a ceiling, a constant that frames were padded with. All mels here are `[n_mels, frames]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Prepared", "as_mel", "prepare", "storage_of", "storage_step"]

_ATOM_CELLS = 4
_ATOM_TOLERANCE = 2e-6

# Half the distance between neighbours, relative: 8 and 11 bits of significand.
_STORAGE_STEPS = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "": 0.0}


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A mel, and which of its cells say something about the sound.

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


def as_mel(candidate: object) -> Tensor:
    """Return a mel of any array type as `[rows, columns]`, float32.

    Raises:
        ValueError: It is not of two dimensions, up to leading ones of size 1, or is empty.
    """
    mel = torch.as_tensor(candidate).detach().cpu()
    while mel.dim() > 2 and mel.shape[0] == 1:
        mel = mel[0]
    if mel.dim() != 2 or not mel.numel() or mel.is_complex():
        raise ValueError(
            f"candidate_mel must be one mel [n_mels, frames], got {mel.dtype} of shape "
            f"{list(mel.shape)}. Pass the items of a batch one by one."
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
