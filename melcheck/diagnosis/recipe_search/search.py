"""Search the readings of the audio: first what is likely, then, where that explains nothing, more.

The first look fits the best of single changes and their combinations under each reading, and every
known profile. The closer look adds pairs that touch the spectrum twice, frames at any place, and
damaged audio.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from melcheck.diagnosis.recipe_search.audio_readings import (
    drifting,
    likely_readings,
    profile_readings,
)
from melcheck.diagnosis.recipe_search.choice import (
    AS_GOOD_NATS,
    SAME_MEL_NATS,
    Choice,
    decide,
    same_mel,
    subtracts_nothing,
)
from melcheck.diagnosis.recipe_search.damaged_audio import PROMISING_SHARE, damaged, fallen
from melcheck.diagnosis.recipe_search.fitting import (
    AudioReading,
    Fit,
    Hypothesis,
    fit_bands,
    fit_hypothesis,
    refine,
)
from melcheck.diagnosis.recipe_search.mel_values import Prepared
from melcheck.diagnosis.recipe_search.ranking import (
    LEADING,
    louder_cells,
    rank,
    rank_narrow,
    rank_pairs,
    residuals,
    tuned,
)
from melcheck.diagnosis.recipe_search.recipe_changes import (
    MAGNITUDE_EPSILONS,
    change,
    changed,
    possible,
)
from melcheck.diagnosis.recipe_search.spectra import first_centre
from melcheck.diagnosis.recipe_search.unexplained_cells import TOP_BANDS_SHARE, top_bands
from melcheck.recipes import MelRecipe

_REFINED_OF_ALL = 12
_PLAIN_READINGS = 3
_BY_BAND_READINGS = 8
# Pairs are many, so fewer bands are compared.
_PAIR_BANDS = 20
# Where the frames lie is searched in steps of so many samples, four to each side.
_PLACE_STEPS = (16, 4, 1)
_PLACE_REACH = 4

AS_NEAR = 1.01
"""Residuals within this factor of the smallest are as good, as long as nothing is explained."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What a look at a candidate has found so far.

    Attributes:
        prepared: The candidate.
        waveform: The audio as given, `[samples]`.
        expected: The expected recipe.
        readings: Readings of the audio, the likeliest first.
        fits: Fits of hypotheses about them; never empty.
    """

    prepared: Prepared
    waveform: Tensor
    expected: MelRecipe
    readings: tuple[AudioReading, ...]
    fits: tuple[Fit, ...]

    @property
    def choice(self) -> Choice:
        """What these fits come to."""
        return decide(self.prepared, list(self.fits))


def first_look(prepared: Prepared, waveform: Tensor, expected: MelRecipe) -> Look | None:
    """Fit what is likely; None where nothing could be fitted."""
    readings = likely_readings(prepared.mel, waveform, expected)
    narrow = rank_narrow(prepared, readings)
    found = [hypothesis for _, hypothesis in narrow.ranked[:LEADING]]
    found += [_plain(reading) for reading in readings[:_PLAIN_READINGS]]
    for reading in profile_readings(prepared.mel, waveform, expected):
        found.append(_plain(reading))
    fits = refine(prepared, _distinct(found))
    fits += _with_constants(prepared, fits)
    for further in (False, True):
        # Of one rate and hop alone no reading hides another.
        if _settled(prepared, fits) or (further and fits and not _moved_in_time(fits)):
            break
        known = {_key(entry.hypothesis) for entry in fits}
        ranked = rank(prepared, narrow, further=further)
        wide = [hypothesis for _, hypothesis in ranked[:_REFINED_OF_ALL]]
        more = refine(prepared, [each for each in _distinct(wide) if _key(each) not in known])
        fits += [*more, *_with_constants(prepared, more)]
    return Look(prepared, waveform, expected, tuple(readings), tuple(fits)) if fits else None


_ADDENDS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)


def _with_constants(prepared: Prepared, fits: list[Fit]) -> list[Fit]:
    """Return the best fit, and the expected recipe's, with what is small changed as well.

    A constant added to the energies under the root, or to the bands under the logarithm, and a
    symmetric window hardly show in loud cells, and yet are more than rounding.
    """
    if not fits or _settled(prepared, fits):
        return []
    found = []
    best = min(fits, key=lambda entry: entry.residual)
    plain = min(fits, key=lambda entry: (len(entry.hypothesis.all_changes), entry.residual))
    for entry in {id(best): best, id(plain): plain}.values():
        hypothesis = entry.hypothesis
        if not hypothesis.recipe.magnitude_eps and entry.residual < _NEARLY_NATS:
            found += refine(
                prepared,
                [_plus(hypothesis, "magnitude-eps", magnitude_eps=e) for e in MAGNITUDE_EPSILONS],
            )
        if entry.residual < _NEARLY_NATS:
            periodic = not hypothesis.recipe.periodic
            found += refine(prepared, [_plus(hypothesis, "window", periodic=periodic)])
        if hypothesis.recipe.floor_mode == "clip":
            mel = entry.mel.exp()
            for addend in _ADDENDS:
                other = _plus(hypothesis, "floor", floor=addend, floor_mode="add")
                fitted = fit_hypothesis(prepared, other, (mel + addend).log())
                # What leaves little range leaves little residual too, whatever it is fitted to.
                found += [fitted] if fitted.explains else []
    return [entry for entry in found if math.isfinite(entry.residual)]


_NEARLY_NATS = 0.3


def _plus(hypothesis: Hypothesis, code: str, **numbers: Any) -> Hypothesis:
    added = change(code, **numbers)
    recipe = dataclasses.replace(hypothesis.recipe, **numbers)
    return Hypothesis(hypothesis.reading, (*hypothesis.changes, added), recipe)


def _settled(prepared: Prepared, fits: list[Fit]) -> bool:
    """Return whether a hypothesis leaves nothing and stands apart: no more need be tried."""
    choice = decide(prepared, fits) if fits else None
    if choice is None or not choice.named or choice.fit.residual >= AS_GOOD_NATS:
        return False
    # With a gain, the same transform at another rate may be the simpler truth.
    moved = _moved_in_time([choice.fit])
    return not (moved and any(each.code == "gain" for each in choice.affine))


_OF_TIME = ("sample-rate", "hop-length")


def _moved_in_time(fits: list[Fit]) -> bool:
    """Return whether the best fit reads the audio at another rate or hop."""
    best = min(fits, key=lambda entry: entry.residual)
    return any(each.code in _OF_TIME for each in best.hypothesis.reading.changes)


def _key(hypothesis: Hypothesis) -> tuple[object, ...]:
    return hypothesis.all_changes, hypothesis.reading.offset, hypothesis.recipe


def _distinct(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    return list({_key(each): each for each in hypotheses}.values())


def closer_look(look: Look, channels: Tensor | None) -> Choice:
    """Try pairs of changes, frames at any place and damaged audio, as far as that is needed."""
    prepared, fits = look.prepared, list(look.fits)
    smallest = min(entry.residual for entry in fits)
    if smallest > (SAME_MEL_NATS if prepared.storage else AS_GOOD_NATS):
        fits += _moved(prepared, fits)
    if not _explained(fits):
        for reading in drifting(prepared.mel, look.waveform, look.expected):
            fits += refine(prepared, _likely(prepared, reading))
    if not _explained(fits):
        paired = _paired(prepared, fits)
        better = min((entry.residual for entry in paired), default=math.inf)
        if better < PROMISING_SHARE * min(entry.residual for entry in fits):
            paired += [] if _explained(paired) else _moved(prepared, paired)
        fits += paired
    if not _explained(fits):
        fits += _tuned(prepared, fits)
    if not _explained(fits):
        banded = _by_band(look)
        if banded is not None:
            return banded
        trimmed = _without_top(prepared, fits)
        if trimmed is not None:
            return trimmed
        reading = look.readings[0]
        ranked = damaged(prepared, _simplest(fits), reading, channels)
        fitted = refine(prepared, ranked[:LEADING])
        fits += [entry for entry in fitted if fallen(prepared, entry, reading)]
    return decide(prepared, fits)


def _by_band(look: Look) -> Choice | None:
    """Fit with a slope and an offset of each band's own; None where that explains nothing.

    The filters' norm is a constant of each band too, so that it shows only where no mean was
    subtracted.
    """
    prepared = look.prepared
    narrow = rank_narrow(prepared, look.readings[:_BY_BAND_READINGS], by_band=True)
    ranked = [hypothesis for _, hypothesis in rank(prepared, narrow, by_band=True)]
    plain = [each for each in ranked if "filter-norm" not in {c.code for c in each.changes}]
    fits = []
    for hypothesis in _distinct(plain[:LEADING]):
        fits.append(fit_bands(prepared, hypothesis, hypothesis.log_mel(prepared.mel.shape[-1])))
    fits = [entry for entry in fits if math.isfinite(entry.residual)]
    if fits and not _explained(fits):
        nearest = min(fits, key=lambda entry: entry.residual).hypothesis
        other = _plus(nearest, "window", periodic=not nearest.recipe.periodic)
        fits.append(fit_bands(prepared, other, other.log_mel(prepared.mel.shape[-1])))
    if not _explained(fits):
        return None
    best = min(fits, key=lambda entry: entry.residual)
    if not subtracts_nothing(best):
        norm = None if best.hypothesis.recipe.norm == "slaney" else "slaney"
        other = _plus(best.hypothesis, "filter-norm", norm=norm)
        normed = fit_bands(prepared, other, other.log_mel(prepared.mel.shape[-1]))
        if subtracts_nothing(normed):
            fits = [normed, *(entry for entry in fits if not same_mel(entry, best))]
    choice = decide(prepared, fits)
    return choice if choice.named else None


def _paired(prepared: Prepared, fits: list[Fit]) -> list[Fit]:
    """Return the best pairs of changes, where the frames lie best."""
    [nearest] = _nearest(fits, 1)
    cells = louder_cells(prepared, nearest.reading, bands=_PAIR_BANDS)
    return [] if cells is None else refine(prepared, _first(rank_pairs(cells, nearest.reading)))


def _explained(fits: Iterable[Fit]) -> bool:
    return any(entry.explains for entry in fits)


def _likely(prepared: Prepared, reading: AudioReading) -> list[Hypothesis]:
    """Return the hypotheses about a reading that rank first."""
    return _first(rank(prepared, rank_narrow(prepared, [reading])))


def _first(ranked: Sequence[tuple[float, Hypothesis]]) -> list[Hypothesis]:
    return [hypothesis for _, hypothesis in ranked[:LEADING]]


def _nearest(fits: Sequence[Fit], count: int) -> list[Hypothesis]:
    return [entry.hypothesis for entry in sorted(fits, key=lambda entry: entry.residual)[:count]]


def _simplest(fits: Sequence[Fit]) -> Hypothesis:
    """Return the hypothesis of fewest changes among those that come nearest, give or take."""
    bound = AS_NEAR * min(entry.residual for entry in fits)
    near = [entry for entry in fits if entry.residual <= bound]
    return min(near, key=lambda e: (len(e.hypothesis.all_changes), e.residual)).hypothesis


def _moved(prepared: Prepared, fits: list[Fit]) -> list[Fit]:
    """Return the best hypotheses with their frames moved by some samples."""
    found: dict[tuple[object, ...], Hypothesis] = {}
    ranked: set[int] = {entry.hypothesis.reading.offset for entry in fits}

    def add(*hypotheses: Hypothesis) -> None:
        for hypothesis in hypotheses:
            found.setdefault((hypothesis.all_changes, hypothesis.reading.offset), hypothesis)

    for nearest in _nearest(fits, 2):
        placed = _placed(prepared, nearest, _PLACE_STEPS)
        reading = placed.reading
        # At the right place the ranking may come out otherwise.
        if reading.offset not in ranked:
            ranked.add(reading.offset)
            add(placed, *_likely(prepared, reading))
        # A wrong window can be as good half a sample off: each has its own place.
        add(_placed(prepared, _plain(reading), (1,)))
    fitted = refine(prepared, found.values())
    known = set(found)
    add(*(_placed(prepared, hypothesis, (1,)) for hypothesis in _nearest(fitted, 2)))
    return fitted + refine(prepared, [found[key] for key in found if key not in known])


def _placed(prepared: Prepared, hypothesis: Hypothesis, steps: tuple[int, ...]) -> Hypothesis:
    """Return a hypothesis moved to where it fits best, in ever finer steps of samples."""
    cells = louder_cells(prepared, hypothesis.reading)
    if cells is None:
        return hypothesis
    recipe, offset = hypothesis.recipe, hypothesis.reading.offset
    usual = (0, recipe.hop_length // 2, recipe.win_length // 2, first_centre(recipe))
    near = [place - offset for place in usual if abs(place - offset) <= recipe.hop_length]
    for step in steps:
        moves = step * torch.arange(-_PLACE_REACH, _PLACE_REACH + 1)
        if step == steps[0] and len(steps) > 1:
            # With the right hypothesis one of the usual places may fit as it is.
            moves = torch.cat([torch.tensor(near, dtype=torch.long), moves])
        left = residuals(cells, hypothesis, moves).tolist()
        move = min(zip(left, moves.abs().tolist(), moves.tolist(), strict=True))[2]
        hypothesis = hypothesis.moved(hypothesis.reading.offset + move)
    return hypothesis


def _tuned(prepared: Prepared, fits: list[Fit]) -> list[Fit]:
    """Return the best hypotheses with one number tuned, at the place that fits then."""
    nearest = _simplest(fits)
    found = _each_tuned(prepared, [nearest, _plain(nearest.reading)])
    if found and not _explained(found):
        # The place was sought with the number wrong, and the number then with the place wrong.
        placed = _placed(prepared, _nearest(found, 1)[0], _PLACE_STEPS)
        if placed.reading.offset != found[0].hypothesis.reading.offset:
            found += _each_tuned(prepared, [placed, _plain(placed.reading)])
    return found


def _each_tuned(prepared: Prepared, starts: Iterable[Hypothesis]) -> list[Fit]:
    found = []
    for start in {(h.all_changes, h.reading.offset): h for h in starts}.values():
        cells = louder_cells(prepared, start.reading)
        found += [] if cells is None else tuned(cells, start)
    # What made up for the wrong number may be needed no more.
    return refine(prepared, [each for full in found for each in (full, *_simpler(full))])


def _simpler(hypothesis: Hypothesis) -> list[Hypothesis]:
    """Return a hypothesis without one of its later changes each, and with the first alone."""
    others = hypothesis.changes[1:]
    shorter = {tuple(c for c in hypothesis.changes if c is not other) for other in others}
    if others:
        shorter.add(hypothesis.changes[:1])
    reading = hypothesis.reading
    return [
        Hypothesis(reading, changes, changed(reading.recipe, changes))
        for changes in shorter
        if possible(reading.recipe, changes)
    ]


def _plain(reading: AudioReading) -> Hypothesis:
    return Hypothesis(reading, (), reading.recipe)


def _without_top(prepared: Prepared, fits: list[Fit]) -> Choice | None:
    """Fit again without the highest bands, which some faults touch alone."""
    ordered = sorted(fits, key=lambda entry: entry.residual)
    plain = [entry for entry in ordered if not entry.hypothesis.all_changes]
    usable = prepared.usable.clone()
    usable[math.floor(TOP_BANDS_SHARE * len(usable)) :] = False
    below = dataclasses.replace(prepared, usable=usable)
    again = [fit_hypothesis(below, entry.hypothesis, entry.mel) for entry in ordered[:4] + plain]
    choice = decide(prepared, again, ignored=("top",))
    known = choice.named and top_bands(prepared, choice.fit) is not None
    return choice if known else None
