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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melcheck.diagnosis.recipe_search.spectra import TINY
from melcheck.recipes import MelRecipe, band_edges_hz, filters

_WINDOWS = ("hann", "hamming", "sqrt_hann", "rectangular")
# Transforms in use, each with the windows that are centred in it.
_TRANSFORMS: dict[int, tuple[int, ...]] = {
    256: (),
    400: (),
    512: (320, 400, 480),
    640: (),
    800: (),
    1024: (400, 480, 512, 600, 640, 800, 960),
    1200: (),
    1280: (),
    1536: (),
    1600: (),
    1920: (),
    2048: (800, 1000, 1024, 1100, 1102, 1200),
    4096: (),
}
_PRE_EMPHASES = (0.9, 0.95, 0.97, 0.98)
_USUAL_PRE_EMPHASIS = 0.97
MAGNITUDE_EPSILONS = (1e-9, 1e-8, 1e-6, 1e-5)
"""What projects add to the energies under the root."""
_F_MAXIMA_HZ = (
    *(4_000.0, 7_600.0, 8_000.0, 10_000.0, 11_000.0, 11_025.0, 12_000.0),
    *(16_000.0, 20_000.0, 22_050.0, 24_000.0),
)
_F_MINIMA_HZ = (0.0, 20.0, 30.0, 40.0, 50.0, 55.0, 60.0, 70.0, 80.0, 90.0, 95.0, 100.0, 125.0)
_USUAL_RANGES_HZ = ((8_000.0, 0.0), (7_600.0, 80.0), (16_000.0, 40.0))
# A filterbank for a different rate ends at half that rate, or at the f_max that was asked for,
# though there may be no bin up there.
_FILTERBANK_RATES = (8_000, 16_000, 20_000, 22_050, 24_000, 32_000, 40_000, 44_100, 48_000)
_ITS_F_MAXIMA_HZ = (7_600.0, 8_000.0, 11_025.0, 12_000.0, 16_000.0)
_ITS_F_MINIMA_HZ = (0.0, 20.0, 40.0, 50.0, 55.0, 80.0, 90.0)


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


def possible(recipe: MelRecipe, changes: tuple[RecipeChange, ...]) -> bool:
    """Return whether the numbers of changes go together: no window longer than its transform."""
    numbers = {name: value for each in changes for name, value in each.numbers}
    n_fft, win_length = (numbers.get(name, getattr(recipe, name)) for name in _LENGTHS)
    return bool(win_length <= n_fft)


_LENGTHS = ("n_fft", "win_length")


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
    for n_fft, windows in _TRANSFORMS.items():
        if (n_fft, n_fft) != (expected.n_fft, expected.win_length):
            add("n-fft", n_fft=n_fft, win_length=n_fft)
        for win_length in windows:
            if n_fft == expected.n_fft:
                add("win-length", win_length=win_length)
            elif win_length == expected.win_length:
                add("n-fft", n_fft=n_fft)
            else:
                # A window of its own is named beside the transform, and never without it.
                found.append(
                    (change("n-fft", n_fft=n_fft), change("win-length", win_length=win_length))
                )
    for coefficient in (0.0, *_PRE_EMPHASES):
        add("pre-emphasis", pre_emphasis=coefficient)
    if not expected.pre_emphasis:
        # It comes with transforms of every length, and hides them.
        emphasis = change("pre-emphasis", pre_emphasis=_USUAL_PRE_EMPHASIS)
        found += [(emphasis, *each) for each in found if each and each[0].code == "n-fft"]
    for epsilon in (0.0, *MAGNITUDE_EPSILONS):
        add("magnitude-eps", magnitude_eps=epsilon)
    return tuple(found)


@functools.lru_cache(maxsize=64)
def filter_changes(expected: MelRecipe, every_range: bool) -> tuple[tuple[RecipeChange, ...], ...]:
    """Return what can differ about the filters: the product of scale, norm and range."""
    scales: list[tuple[RecipeChange, ...]] = [()]
    other_scale = "slaney" if expected.mel_scale == "htk" else "htk"
    scales.append((change("mel-scale", mel_scale=other_scale),))
    norms: list[tuple[RecipeChange, ...]] = [()]
    other_norm = None if expected.norm == "slaney" else "slaney"
    norms.append((change("filter-norm", norm=other_norm),))
    ranges = _range_changes(expected) if every_range else _usual_ranges(expected)
    return tuple(
        (*scale, *norm, *limits) for scale, norm, limits in itertools.product(scales, norms, ranges)
    )


def _usual_ranges(expected: MelRecipe) -> list[tuple[RecipeChange, ...]]:
    half = (expected.filterbank_rate or expected.sample_rate) / 2
    usual = [(f_max, f_min) for f_max, f_min in _USUAL_RANGES_HZ if f_max <= half]
    return list(dict.fromkeys([(), *(_limits(expected, *limits) for limits in usual)]))


def _range_changes(expected: MelRecipe) -> list[tuple[RecipeChange, ...]]:
    own = expected.filterbank_rate or expected.sample_rate
    ranges: list[tuple[RecipeChange, ...]] = []
    maxima = {expected.f_max, *(f_max for f_max in (*_F_MAXIMA_HZ, own / 2) if f_max <= own / 2)}
    minima = {expected.f_min, *_F_MINIMA_HZ}
    for f_max, f_min in itertools.product(sorted(maxima), sorted(minima)):
        if f_min < f_max:
            ranges.append(_limits(expected, f_max, f_min))
    for rate in _FILTERBANK_RATES:
        if rate == own:
            continue
        maxima = {expected.f_max, rate / 2, *(f for f in _ITS_F_MAXIMA_HZ if f < rate / 2)}
        highest = max(rate, expected.sample_rate) / 2
        minima = {expected.f_min, *_ITS_F_MINIMA_HZ}
        for f_max, f_min in itertools.product(sorted(maxima), sorted(minima)):
            if f_max <= highest and f_min < f_max:
                numbers = {} if f_max == expected.f_max else {"f_max": f_max}
                laid_out = change("filterbank-rate", filterbank_rate=rate, **numbers)
                ranges.append((laid_out, *_limits(expected, expected.f_max, f_min)))
    # The expected limits come first, so that they win where others rank as well.
    return sorted(ranges, key=len)


def _limits(expected: MelRecipe, f_max: float, f_min: float) -> tuple[RecipeChange, ...]:
    found: tuple[RecipeChange, ...] = ()
    if f_max != expected.f_max:
        found += (change("f-max", f_max=f_max),)
    if f_min != expected.f_min:
        found += (change("f-min", f_min=f_min),)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class SparseFilters:
    """The filters of many hypotheses, as their weights that are not 0: a few for each band.

    Attributes:
        changes: What each hypothesis changes.
        triangles: Which triangles each has, `[hypotheses]`: a norm only changes their height.
        counts: How many weights each band has, `[triangles, bands]`.
        bins: The bin that each weight is for, band by band, `[weights]`, int32.
        weights: The weights of triangles of height 1, likewise, float32.
        heights: Logarithm of the filters' height, `[hypotheses, bands]`, float32.
    """

    changes: tuple[tuple[RecipeChange, ...], ...]
    triangles: Tensor
    counts: Tensor
    bins: Tensor
    weights: Tensor
    heights: Tensor

    def log_bands(self, energy: Tensor, power: float) -> Tensor:
        """Return the log-bands of spectra, `[..., bins]` to `[hypotheses, bands, ...]`, float32."""
        values = energy if power == 2.0 else energy ** (power / 2)
        leading = values.shape[:-1]
        # A bag is a sum of weighted rows: a product with a sparse matrix.
        bands = torch.nn.functional.embedding_bag(
            self.bins,
            values.reshape(-1, values.shape[-1]).T.contiguous(),
            _begins(self.counts).int(),
            mode="sum",
            per_sample_weights=self.weights,
        )
        logs = bands.clamp_(min=TINY).log_().view(*self.counts.shape, -1)
        found: Tensor = logs[self.triangles] + self.heights[..., None]
        return found.view(*self.heights.shape, *leading)


def _begins(counts: Tensor) -> Tensor:
    """Return where the weights of each band begin, `[triangles * bands]`."""
    return counts.flatten().cumsum(0) - counts.flatten()


def _numbered(counts: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each of the weights that are counted, its band and its number from `first` on."""
    band = torch.repeat_interleave(counts.flatten())
    return band, first.flatten()[band] + torch.arange(len(band)) - _begins(counts)[band]


def sparse_filters(
    expected: MelRecipe,
    n_fft: int,
    band_step: int,
    highest_band: int,
    every_range: bool,
    changes: Sequence[tuple[RecipeChange, ...]] = (),
) -> SparseFilters:
    """Return the filters of every change of them, for every `band_step`-th band.

    Args:
        expected: The recipe that is varied.
        n_fft: The length of the transform, which may differ from the recipe's.
        band_step: Keep each so-many-th band; ranking needs no more.
        highest_band: Leave out the bands from here up.
        every_range: As for `filter_changes`.
        changes: Of their changes these alone; () for all.
    """
    # Readings of every hop and transform share the filters.
    alike = MelRecipe(**{name: getattr(expected, name) for name in _OF_FILTERS})
    return _sparse_filters(alike, n_fft, band_step, highest_band, every_range, tuple(changes))


_OF_FILTERS = ("sample_rate", "n_mels", "f_min", "f_max", "mel_scale", "norm", "filterbank_rate")


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _sparse_filters(
    expected: MelRecipe,
    n_fft: int,
    band_step: int,
    highest_band: int,
    every_range: bool,
    only: tuple[tuple[RecipeChange, ...], ...],
) -> SparseFilters:
    edges = _some_edges(expected, every_range, only) if only else _edges(expected, every_range)
    kept = torch.arange(0, highest_band, band_step)
    hz = torch.stack([edges.hz[:, kept], edges.hz[:, kept + 1], edges.hz[:, kept + 2]])
    places = hz * (n_fft / edges.rates)[:, None]  # beginning, peak and end, in bins
    first, _, beyond = places.ceil().long().clamp(max=n_fft // 2 + 1)
    counts = beyond - first
    band, bins = _numbered(counts, first)
    low, peak, high = places.flatten(1)[:, band]
    weights = torch.minimum((bins - low) / (peak - low), (high - bins) / (high - peak))
    normed = (2.0 / (hz[2] - hz[0])).log()[edges.triangles]
    heights = torch.where(edges.slaney[:, None], normed, 0.0).float()
    return SparseFilters(
        edges.changes, edges.triangles, counts, bins.int(), weights.float(), heights
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Where the bands of every change of the filters lie, whatever the transform.

    Attributes:
        changes: As in `SparseFilters`.
        triangles: Likewise.
        slaney: Whether each has the area 1, `[hypotheses]`.
        rates: Rate of each of the triangles, `[triangles]`, float64.
        hz: Their edges, `[triangles, n_mels + 2]`, float64.
    """

    changes: tuple[tuple[RecipeChange, ...], ...]
    triangles: Tensor
    slaney: Tensor
    rates: Tensor
    hz: Tensor


@functools.lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _edges(expected: MelRecipe, every_range: bool) -> _Edges:
    changes = filter_changes(expected, every_range)
    own = {name: getattr(expected, name) for name in _OF_FILTERS}
    numbers = [own | {name: v for each in made for name, v in each.numbers} for made in changes]
    slaney = torch.tensor([each["norm"] == "slaney" for each in numbers])
    shapes = []
    for each in numbers:
        rate = each["filterbank_rate"] or each["sample_rate"]
        shapes.append((each["mel_scale"], rate, each["f_min"], each["f_max"]))
    distinct = list(dict.fromkeys(shapes))
    number = {shape: index for index, shape in enumerate(distinct)}
    triangles = torch.tensor([number[shape] for shape in shapes])
    rates = torch.tensor([rate for _, rate, _, _ in distinct]).double()
    hz = torch.empty(len(distinct), expected.n_mels + 2, dtype=torch.float64)
    for scale in ("htk", "slaney"):
        chosen = torch.tensor([shape[0] == scale for shape in distinct])
        limits = [shape[2:] for shape in distinct if shape[0] == scale]
        hz[chosen] = band_edges_hz(torch.tensor(limits).double(), expected.n_mels, scale)
    return _Edges(changes, triangles, slaney, rates, hz)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _some_edges(
    expected: MelRecipe, every_range: bool, only: tuple[tuple[RecipeChange, ...], ...]
) -> _Edges:
    every = _edges(expected, every_range)
    where = torch.tensor([every.changes.index(each) for each in only])
    kept, triangles = torch.unique(every.triangles[where], return_inverse=True)
    return _Edges(only, triangles, every.slaney[where], every.rates[kept], every.hz[kept])


@functools.lru_cache(maxsize=512)
@torch.inference_mode(mode=False)
def filters_of(recipe: MelRecipe) -> Tensor:
    """Return the filters of a recipe without torchaudio's warning of bands that hold no bin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return filters(recipe)
