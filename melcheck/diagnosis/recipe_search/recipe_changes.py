"""The bank of alternative recipes: single changes that are made by mistake, by kind.

A hypothesis is the expected recipe with at most one change of each kind: of the spectrum (window,
transform, pre-emphasis), of the scale, norm and range of the filters, and of the power. Pairs and
triples of changes are the products of the kinds, so that faults that come together are still found.
What shifts or scales the whole log-mel (level, logarithm, normalisation) is no part of the bank:
the fit recovers it exactly and `melcheck.diagnosis.recipe_search.scale_and_offset` explains it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melcheck.recipes import MelRecipe, filters

_WINDOWS = ("hann", "hamming", "sqrt_hann", "rectangular")
_N_FFTS = (256, 400, 512, 800, 1024, 1200, 1280, 1920, 2048)
_SHORT_WINDOWS = (400, 480, 512, 600, 640, 800, 960, 1200)
_LONG_TRANSFORM = 2048
_PRE_EMPHASES = (0.9, 0.95, 0.97, 0.98)
_MAGNITUDE_EPSILONS = (1e-9, 1e-8, 1e-6, 1e-5)
_F_MAXIMA_HZ = (4_000.0, 7_600.0, 8_000.0, 10_000.0, 11_000.0, 11_025.0, 12_000.0)
_F_MINIMA_HZ = (0.0, 20.0, 30.0, 40.0, 50.0, 55.0, 60.0, 70.0, 80.0, 90.0, 95.0, 100.0, 125.0)
# A filterbank for a different rate ends at half that rate, or at the f_max that was asked for,
# though there may be no bin up there.
_FILTERBANK_RATES = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000)


@dataclass(frozen=True, slots=True)
class RecipeChange:
    """One difference from the expected recipe.

    Attributes:
        code: The cause, as in `melcheck.diagnosis.causes`.
        numbers: The recipe's attributes that differ, with their values.
        text: What differs, where it is no attribute of a recipe.
    """

    code: str
    numbers: tuple[tuple[str, Any], ...] = ()
    text: str = ""

    def __str__(self) -> str:
        return self.text or ", ".join(f"{name}={value!r}" for name, value in self.numbers)


def change(code: str, **numbers: Any) -> RecipeChange:
    """Return the change of some attributes of a recipe."""
    return RecipeChange(code, tuple(numbers.items()))


@functools.lru_cache(maxsize=4096)
def changed(recipe: MelRecipe, changes: tuple[RecipeChange, ...]) -> MelRecipe:
    """Return the recipe with the changes made, in order."""
    numbers = {name: value for each in changes for name, value in each.numbers}
    return dataclasses.replace(recipe, **numbers) if numbers else recipe


@functools.lru_cache(maxsize=16)
def spectrum_changes(expected: MelRecipe) -> tuple[tuple[RecipeChange, ...], ...]:
    """Return what can differ about the spectrum: one tuple of changes each, the first empty."""
    found: list[tuple[RecipeChange, ...]] = [()]

    def add(code: str, **numbers: Any) -> None:
        if any(getattr(expected, name) != value for name, value in numbers.items()):
            found.append((change(code, **numbers),))

    for name in _WINDOWS:
        add("window", window=name)
    add("window", periodic=not expected.periodic)
    for n_fft in _N_FFTS:
        add("n-fft", n_fft=n_fft, win_length=n_fft)
    if expected.win_length <= _LONG_TRANSFORM != expected.n_fft:
        add("n-fft", n_fft=_LONG_TRANSFORM)
    for win_length in _SHORT_WINDOWS:
        if win_length < expected.n_fft:
            add("win-length", win_length=win_length)
    if expected.n_fft != _LONG_TRANSFORM:
        found.append(
            (change("n-fft", n_fft=_LONG_TRANSFORM), change("win-length", win_length=1200))
        )
    for coefficient in (0.0, *_PRE_EMPHASES):
        add("pre-emphasis", pre_emphasis=coefficient)
    for epsilon in (0.0, *_MAGNITUDE_EPSILONS):
        add("magnitude-eps", magnitude_eps=epsilon)
    return tuple(found)


@functools.lru_cache(maxsize=16)
def filter_changes(expected: MelRecipe, every_range: bool) -> tuple[tuple[RecipeChange, ...], ...]:
    """Return what can differ about the filters: the product of scale, norm and range."""
    scales: list[tuple[RecipeChange, ...]] = [()]
    other_scale = "slaney" if expected.mel_scale == "htk" else "htk"
    scales.append((change("mel-scale", mel_scale=other_scale),))
    norms: list[tuple[RecipeChange, ...]] = [()]
    other_norm = None if expected.norm == "slaney" else "slaney"
    norms.append((change("filter-norm", norm=other_norm),))
    ranges = _range_changes(expected) if every_range else [()]
    return tuple(
        (*scale, *norm, *limits) for scale, norm, limits in itertools.product(scales, norms, ranges)
    )


def _range_changes(expected: MelRecipe) -> list[tuple[RecipeChange, ...]]:
    nyquist_hz = (expected.filterbank_rate or expected.sample_rate) / 2
    ranges: list[tuple[RecipeChange, ...]] = [()]
    for f_max in _F_MAXIMA_HZ:
        if f_max != expected.f_max and f_max <= nyquist_hz:
            ranges.append((change("f-max", f_max=f_max),))
    for f_min in _F_MINIMA_HZ:
        if f_min != expected.f_min and f_min < expected.f_max:
            ranges.append((change("f-min", f_min=f_min),))
    for f_max in (7_600.0, 8_000.0):
        for f_min in (50.0, 80.0):
            if f_max < nyquist_hz and (f_min, f_max) != (expected.f_min, expected.f_max):
                ranges.append((change("f-max", f_max=f_max), change("f-min", f_min=f_min)))
    for rate in _FILTERBANK_RATES:
        if rate == (expected.filterbank_rate or expected.sample_rate):
            continue
        for f_max in sorted({expected.f_max, rate / 2}):
            numbers = {"f_max": f_max} if f_max != expected.f_max else {}
            ranges.append((change("filterbank-rate", filterbank_rate=rate, **numbers),))
    return ranges


@dataclass(frozen=True, slots=True, eq=False)
class FilterBank:
    """The filters of many hypotheses side by side, for one product with one spectrum.

    Attributes:
        changes: What each hypothesis changes.
        filters: `[bins, hypotheses * bands]`.
        bands: How many bands of each hypothesis are kept.
    """

    changes: tuple[tuple[RecipeChange, ...], ...]
    filters: Tensor
    bands: int


@functools.lru_cache(maxsize=512)
@torch.inference_mode(mode=False)
def filters_of(recipe: MelRecipe) -> Tensor:
    """Return the filters of a recipe without torchaudio's warning of bands that hold no bin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return filters(recipe)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def filter_bank(
    expected: MelRecipe, n_fft: int, band_step: int, highest_band: int, every_range: bool
) -> FilterBank:
    """Return the filters of every change of the filters, every `band_step`-th band of them.

    Args:
        expected: The recipe that is varied.
        n_fft: The length of the transform, which may differ from the recipe's.
        band_step: Keep each so-many-th band; ranking needs no more.
        highest_band: Leave out the bands from here up.
        every_range: As for `filter_changes`.
    """
    changes = filter_changes(expected, every_range)
    win_length = min(expected.win_length, n_fft)
    base = dataclasses.replace(expected, n_fft=n_fft, win_length=win_length)
    columns = [filters_of(changed(base, each))[:, :highest_band:band_step] for each in changes]
    return FilterBank(changes, torch.cat(columns, dim=1).contiguous(), columns[0].shape[1])
