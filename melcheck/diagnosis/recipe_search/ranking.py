"""Rank all hypotheses about a reading of the audio on few cells, so that a few need be fitted.

The rank is 1 - correlation^2 between the candidate and each hypothesis, over the louder cells of
some frames. It does not depend on slope and offset, so one pass serves every logarithm, level and
normalisation. `tuned` then moves a number that lies between those of the bank, such as an f_max of
9,123 Hz, to where the residual is smallest; it falls to nothing only where the number is right.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.diagnosis.recipe_search.fitting import MIN_CELLS, AudioReading, Hypothesis, quantile
from melcheck.diagnosis.recipe_search.mel_values import Prepared
from melcheck.diagnosis.recipe_search.recipe_changes import (
    RecipeChange,
    change,
    changed,
    filters_of,
    possible,
    sparse_filters,
    spectrum_changes,
)
from melcheck.diagnosis.recipe_search.spectra import energies, energies_of, log_bands
from melcheck.recipes import MelRecipe

# How near a minimum is found, as a share of the interval, and to show whether it leads anywhere.
_PRECISION = 1e-5
_FIRST_PRECISION = 0.013

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
        decimals: Decimals that it is rounded to in the end.
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


def minimum(
    left: Callable[[float], float], low: float, high: float, *, precision: float = _PRECISION
) -> tuple[float, float]:
    """Return where a residual of one minimum is smallest within bounds, and that residual.

    By golden sections: SciPy's search takes half as many steps, and more than a second to import.

    Args:
        left: The residual.
        low: Lower bound.
        high: Upper bound.
        precision: Precision of the place, as a share of the interval.
    """
    shorter = (math.sqrt(5) - 1) / 2
    tolerance = precision * (high - low)
    one, two = high - shorter * (high - low), low + shorter * (high - low)
    of_one, of_two = left(one), left(two)
    while high - low > tolerance:
        if of_one < of_two:
            high, two, of_two = two, one, of_one
            one = high - shorter * (high - low)
            of_one = left(one)
        else:
            low, one, of_one = one, two, of_two
            two = low + shorter * (high - low)
            of_two = left(two)
    return (one, of_one) if of_one < of_two else (two, of_two)


def tuned(cells: Cells, hypothesis: Hypothesis) -> list[Hypothesis]:
    """Return the hypothesis with one number tuned, for each number that leads somewhere."""
    energy = _spectra(cells, hypothesis, _NOWHERE)
    start = float(residuals(cells, hypothesis, _NOWHERE, energy))
    found: list[Hypothesis] = []
    if start > _HOPELESS_NATS:
        return found
    for number in _NUMBERS:

        def left(value: float, number: _Number = number) -> float:
            other = _with(hypothesis, number, value)
            known = energy if other.spectrum == hypothesis.spectrum else None
            return float(residuals(cells, other, _NOWHERE, known))

        grid = [value for value in number.grid if _fits(hypothesis, number, value)]
        if len(grid) < 2:
            continue
        values = [left(value) for value in grid]
        best = min(range(len(grid)), key=values.__getitem__)
        low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
        step = _STEP_SHARE * (high - low)
        beside = [value for value in (grid[best] - step, grid[best] + step) if low < value < high]
        if min(left(value) for value in beside) >= values[best]:
            continue
        if minimum(left, low, high, precision=_FIRST_PRECISION)[1] > _PROMISING_SHARE * start:
            continue
        place, _ = minimum(left, low, high)
        found.append(_with(hypothesis, number, round(place, number.decimals)))
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
    expected = getattr(hypothesis.reading.recipe, number.name)
    others = tuple(
        change
        for change in hypothesis.changes
        if number.name not in (name for name, _ in change.numbers)
    )
    own = (RecipeChange(number.code, ((number.name, given),)),) if given != expected else ()
    recipe = dataclasses.replace(hypothesis.recipe, **{number.name: given})  # type: ignore[arg-type]
    return dataclasses.replace(hypothesis, changes=(*own, *others), recipe=recipe)


_FRAMES = 16
_BANDS = 34
# To find out which spectra are worth filters of any range.
_FEWER_FRAMES = 12
# A band of its own slope and offset needs more frames than all of them together.
_BY_BAND_FRAMES = 20
_FEWER_BANDS = 24
_QUIET_SHARE = 0.2
_PROMISING_SPECTRA = 3
LEADING = 6
"""How many of the best that were ranked are looked at more closely."""

_FURTHER = 20
_EXACT_RANK = 3e-5
_RANKED = 40


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Some louder cells of a candidate.

    Attributes:
        frames: Which frames, `[few]`, in order.
        mask: Which cells of every `band_step`-th band there, `[few, bands]`.
        values: Their values less the mean, `[cells]`.
        band_step: See `mask`.
        highest_band: Bands from here up are left out.
        by_band: Values less the mean of their own band, `[few, bands]`, 0 outside the mask, where
            each band may have a slope and an offset of its own; None where all have one.
    """

    frames: Tensor
    mask: Tensor
    values: Tensor
    band_step: int
    highest_band: int
    by_band: Tensor | None = None


def louder_cells(
    prepared: Prepared,
    reading: AudioReading,
    *,
    bands: int = _BANDS,
    frames: int = _FRAMES,
    by_band: bool = False,
) -> Cells | None:
    """Choose the cells to compare; None where too few say anything."""
    frames = _BY_BAND_FRAMES if by_band else frames
    chosen = _loud_frames(prepared, reading, frames)
    band_step = max(1, math.ceil(reading.highest_band / bands))
    kept = slice(0, reading.highest_band, band_step)
    cells = prepared.mel[kept, chosen].T
    mask = prepared.usable[kept, chosen].T
    if mask.any():
        mask = mask & (cells > quantile(cells[mask], _QUIET_SHARE))
    if int(mask.sum()) < MIN_CELLS:
        return None
    values = cells[mask].float()
    values = values - values.mean()
    if not float(values.square().sum()) > 0:
        return None
    grid = _less_own_mean(cells, mask) if by_band else None
    return Cells(chosen, mask, values, band_step, reading.highest_band, grid)


@dataclass(frozen=True, slots=True, eq=False)
class Narrow:
    """How every spectrum ranks with the usual filters, under some readings.

    Attributes:
        ranked: The best hypotheses, with their distance.
        promising: Spectra and readings that are worth filters of any range, best first.
    """

    ranked: tuple[tuple[float, Hypothesis], ...]
    promising: tuple[tuple[tuple[RecipeChange, ...], AudioReading], ...]


def rank_narrow(
    prepared: Prepared, readings: Sequence[AudioReading], *, by_band: bool = False
) -> Narrow:
    """Rank each spectrum with the usual filters by 1 - correlation^2, 0 for a perfect one.

    Args:
        prepared: The candidate.
        readings: What may have been made of the audio.
        by_band: Whether each band has a slope and an offset of its own.
    """
    found: list[tuple[float, Hypothesis]] = []
    promising: list[tuple[float, int, tuple[RecipeChange, ...], AudioReading]] = []
    for reading in readings:
        cells = louder_cells(
            prepared, reading, bands=_FEWER_BANDS, frames=_FEWER_FRAMES, by_band=by_band
        )
        if cells is None:
            continue
        narrow, order = _each_spectrum(cells, reading)
        found += _best(reading, narrow, _RANKED)
        for index in order[:_PROMISING_SPECTRA]:
            distance = float(narrow[index].distances.min())
            promising.append((distance, len(promising), narrow[index].spectrum, reading))
        # A wrong range may hide that the spectrum is the expected one.
        promising.append((distance, len(promising), (), reading))
    best = dict.fromkeys((each[2], each[3]) for each in sorted(promising, key=lambda e: e[:2]))
    return Narrow(tuple(_leading(found)), tuple(best))


def rank(
    prepared: Prepared, narrow: Narrow, *, by_band: bool = False, further: bool = False
) -> list[tuple[float, Hypothesis]]:
    """Rank the most promising spectra with filters of every range, best first.

    Args:
        prepared: The candidate.
        narrow: How they rank with the usual filters.
        by_band: As for `rank_narrow`.
        further: Whether to try those that come next instead.
    """
    found = list(narrow.ranked)
    turn = slice(LEADING, _FURTHER) if further else slice(LEADING)
    for spectrum, reading in narrow.promising[turn]:
        cells = louder_cells(prepared, reading, bands=_FEWER_BANDS, by_band=by_band)
        if cells is not None:
            wide = _scores(cells, reading, [spectrum], every_range=True)
            found += _best(reading, wide, _RANKED)
    # The spectrum may have been chosen under a wrong range: with the best filters all are tried.
    again: dict[AudioReading, dict[tuple[RecipeChange, ...], None]] = defaultdict(dict)
    for _, hypothesis in sorted(found, key=_order)[:LEADING]:
        again[hypothesis.reading].setdefault(_filters_of(hypothesis))
    for reading, filters in again.items():
        cells = louder_cells(prepared, reading, by_band=by_band)
        if cells is not None:
            spectra = spectrum_changes(reading.recipe)
            scores = _scores(cells, reading, spectra, every_range=True, filters=tuple(filters))
            found += _best(reading, scores, _RANKED)
    return _leading(found)


def _leading(found: list[tuple[float, Hypothesis]]) -> list[tuple[float, Hypothesis]]:
    """Return the best, each once."""
    leading: dict[tuple[AudioReading, frozenset[RecipeChange]], tuple[float, Hypothesis]] = {}
    for distance, hypothesis in sorted(found, key=_order):
        leading.setdefault(
            (hypothesis.reading, frozenset(hypothesis.changes)), (distance, hypothesis)
        )
    return list(leading.values())[:_RANKED]


def _order(entry: tuple[float, Hypothesis]) -> tuple[float, int]:
    # Twice the rate, hop and transform are the same but for rounding: the simpler ones come first.
    return max(entry[0], _EXACT_RANK), len(entry[1].all_changes)


_OF_FILTERS = ("mel-scale", "filter-norm", "f-max", "f-min", "filterbank-rate")


def _filters_of(hypothesis: Hypothesis) -> tuple[RecipeChange, ...]:
    return tuple(change for change in hypothesis.changes if change.code in _OF_FILTERS)


def best(cells: Cells, reading: AudioReading) -> tuple[float, Hypothesis]:
    """Return the best of the filters' scales and norms and the powers, with its distance."""
    [found] = _best(reading, _scores(cells, reading, [()], every_range=False), 1)
    return found


def rank_pairs(cells: Cells, reading: AudioReading) -> list[tuple[float, Hypothesis]]:
    """Rank pairs that `rank` leaves out: a spectrum with any range, and two of the spectrum."""
    narrow, promising = _each_spectrum(cells, reading)
    ordered = [narrow[index].spectrum for index in promising if narrow[index].spectrum]
    pairs = _two_spectra(reading.recipe, ordered[:LEADING], ordered)
    scores = _scores(cells, reading, pairs, every_range=False)
    order = sorted(range(len(scores)), key=lambda i: float(scores[i].distances.min()))
    best_pairs = [scores[index].spectrum for index in order[:LEADING]]
    wide = [*ordered[_PROMISING_SPECTRA : _PROMISING_SPECTRA + LEADING], *best_pairs]
    scores += _scores(cells, reading, wide, every_range=True)
    return _best(reading, scores, _RANKED)


def residuals(
    cells: Cells, hypothesis: Hypothesis, moves: Tensor, energy: Tensor | None = None
) -> Tensor:
    """Return what a fit leaves at each of several places of the frames, nats.

    For a least-squares fit of y on x with correlation rho, what is left of y is
    std(y) sqrt(1 - rho^2), and the slope is rho std(y) / std(x); in units of x that is

        std(x) sqrt(1 - rho^2) / rho

    Args:
        cells: Cells of the candidate.
        hypothesis: What is fitted.
        moves: `[places]`, samples by which its frames are moved.
        energy: Its spectra there, if they are known.

    Returns:
        `[places]`, float64; infinite where the correlation is not positive.
    """
    energy = _spectra(cells, hypothesis, moves) if energy is None else energy
    filters = filters_of(hypothesis.recipe)[:, : cells.highest_band : cells.band_step]
    mel = log_bands(energy, filters, hypothesis.recipe.power)
    x = mel.view(len(moves), *cells.mask.shape)[:, cells.mask].double()
    x = x - x.mean(dim=1, keepdim=True)
    left = _distances(x, cells.values.double())
    spread = x.square().mean(dim=1).sqrt()
    found: Tensor = torch.where(left < 1, spread * (left / (1 - left)).sqrt(), torch.inf)
    return found


def _spectra(cells: Cells, hypothesis: Hypothesis, moves: Tensor) -> Tensor:
    """Return a hypothesis's energies at each of several places, `[places * few, bins]`."""
    reading = hypothesis.reading
    places = (reading.centres_of(cells.frames) + moves[:, None]).flatten()
    return energies(reading.waveform, hypothesis.recipe, places)


def _distances(centred: Tensor, values: Tensor) -> Tensor:
    """Return 1 - correlation^2 of each row of `[..., cells]`, 1 where they disagree."""
    spread = (centred.square().sum(dim=-1) * values.square().sum()).sqrt()
    correlation = (centred @ values) / spread.clamp(min=1e-9)
    return 1 - correlation.clamp(0.0, 1.0).square()


def _less_own_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return `[..., frames, bands]` less the mean of each band within the mask, 0 outside."""
    weight = mask.to(values.dtype)
    mean = (values * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return (values - mean) * weight


def _band_distances(logs: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """Return what regressions of each band leave, as a share of the variance, `[..., hyp.]`."""
    x = _less_own_mean(logs.float(), mask)
    explained = (x * values).sum(-2).clamp(min=0).square() / x.square().sum(-2).clamp(min=1e-9)
    return (1 - explained.sum(-1) / values.square().sum()).clamp(min=0)


@dataclass(frozen=True, slots=True, eq=False)
class _Scores:
    """The distance of every hypothesis about one spectrum.

    Attributes:
        spectrum: What differs about it.
        filters: What differs about the filters, for each hypothesis.
        powers: The changes of the power.
        distances: `[powers, hypotheses]`.
    """

    spectrum: tuple[RecipeChange, ...]
    filters: tuple[tuple[RecipeChange, ...], ...]
    powers: tuple[tuple[RecipeChange, ...], ...]
    distances: Tensor


def _scores(
    cells: Cells,
    reading: AudioReading,
    spectra: Sequence[tuple[RecipeChange, ...]],
    *,
    every_range: bool,
    filters: Sequence[tuple[RecipeChange, ...]] = (),
) -> list[_Scores]:
    """Score changes of the filters under each of some spectra, those of one length at once.

    Args:
        cells: Cells of the candidate.
        reading: The reading.
        spectra: The changes of the spectrum.
        every_range: Whether the filters may have any range, or the usual ones.
        filters: Of the changes of the filters these alone; () for all.
    """
    centres = reading.centres_of(cells.frames)
    by_length: dict[tuple[int, float], list[tuple[RecipeChange, ...]]] = defaultdict(list)
    for spectrum in spectra:
        recipe = changed(reading.recipe, spectrum)
        by_length[recipe.n_fft, recipe.power].append(spectrum)
    found = []
    for (n_fft, own), group in by_length.items():
        recipes = [changed(reading.recipe, spectrum) for spectrum in group]
        energy = energies_of(reading.waveform, recipes, centres)
        edges = sparse_filters(
            reading.recipe, n_fft, cells.band_step, cells.highest_band, every_range, filters
        )
        powers = sorted({1.0, 2.0, own})
        distances = []
        for power in powers:
            logs = edges.log_bands(energy, power).permute(2, 0, 3, 1)
            if cells.by_band is not None:
                distances.append(_band_distances(logs, cells.mask, cells.by_band))
                continue
            logs = logs[:, :, cells.mask]  # [spectra, hypotheses, cells]
            centred = (logs - logs.mean(dim=-1, keepdim=True)).float()
            distances.append(_distances(centred, cells.values))
        named = tuple((change("power", power=power),) if power != own else () for power in powers)
        for index, spectrum in enumerate(group):
            of_one = torch.stack([each[index] for each in distances])
            found.append(_Scores(spectrum, edges.changes, named, of_one))
    return found


def _each_spectrum(cells: Cells, reading: AudioReading) -> tuple[list[_Scores], list[int]]:
    """Score each change of the spectrum; return the scores, and which of them are best."""
    narrow = _scores(cells, reading, spectrum_changes(reading.recipe), every_range=False)
    return narrow, sorted(range(len(narrow)), key=lambda i: float(narrow[i].distances.min()))


def _best(
    reading: AudioReading, scores: list[_Scores], most: int
) -> list[tuple[float, Hypothesis]]:
    """Return the best hypotheses, the simpler one first where two are as near."""
    distances = torch.cat([score.distances.flatten() for score in scores])
    values, places = distances.topk(min(most, len(distances)), largest=False)
    ends = list(itertools.accumulate(score.distances.numel() for score in scores))
    found = []
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        which = next(index for index, end in enumerate(ends) if place < end)
        score = scores[which]
        local = place - (ends[which] - score.distances.numel())
        power, filters = divmod(local, len(score.filters))
        changes = (*score.spectrum, *score.filters[filters], *score.powers[power])
        found.append((value, changes))
    found.sort(key=lambda entry: (max(entry[0], _EXACT_RANK), len(entry[1])))
    return [
        (value, Hypothesis(reading, changes, changed(reading.recipe, changes)))
        for value, changes in found
    ]


def _two_spectra(
    recipe: MelRecipe,
    first: list[tuple[RecipeChange, ...]],
    second: list[tuple[RecipeChange, ...]],
) -> list[tuple[RecipeChange, ...]]:
    """Return the pairs of changes of the spectrum that do not touch the same number."""
    found: dict[frozenset[RecipeChange], tuple[RecipeChange, ...]] = {}
    for one, other in itertools.product(first, second):
        names = [name for change in (*one, *other) for name, _ in change.numbers]
        numbers = {name: value for change in (*one, *other) for name, value in change.numbers}
        # A shorter transform brings its own window, so that no pair has one that is too long.
        if len(names) == len(numbers) and possible(recipe, (*one, *other)):
            found.setdefault(frozenset((*one, *other)), (*one, *other))
    return list(found.values())


def _loud_frames(prepared: Prepared, reading: AudioReading, most: int) -> Tensor:
    """Return some of the louder frames that see no padding, in order."""
    candidate, heard = prepared.mel, prepared.usable.any(dim=0)
    centres = reading.centres(candidate.shape[-1])
    # Room for a transform of twice the length.
    inner = reading.inner_frames(candidate.shape[-1], 2 * reading.recipe.n_fft)
    inside = inner & heard
    if int(inside.sum()) < most // 2:
        inside = (centres >= 0) & (centres < len(reading.waveform)) & heard
    frames = inside.nonzero()[:, 0]
    loudness = candidate[:, frames].mean(dim=0)
    louder = frames[loudness.argsort(descending=True)[: max(1, math.ceil(0.6 * len(frames)))]]
    louder = louder.sort().values
    step = max(1, len(louder) // most)
    return louder[::step][:most]
