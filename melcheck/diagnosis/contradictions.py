"""Why an array cannot be the mel of a recipe: its bands, its range and its floor say so.

None of this needs the audio, and none of it proves a recipe: what contradicts nothing may still be
another mel.
"""

from __future__ import annotations

import functools
import math

from torch import Tensor

from melcheck.diagnosis.recipe_search.mel_values import STORAGE_ROUNDINGS, Prepared, storage_step
from melcheck.diagnosis.recipe_search.recipe_changes import filters_of
from melcheck.recipes import MelRecipe

__all__ = ["ATOM_TOLERANCE", "SHORTEST_RANGE_NATS", "contradiction", "log_ceiling"]

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
        return f"a floor of {prepared.floor:.4f} where it has {lowest:.4f}"
    if low <= lowest + slack or recipe.log_base is None:
        return ""
    unit = recipe.log_scale / recipe.std / (math.log(10) if recipe.log_base == "10" else 1.0)
    nats = (high - low) / unit / recipe.power
    if nats < SHORTEST_RANGE_NATS:
        return f"a range of {high - low:.2f}, less than speech or music has"
    return ""
