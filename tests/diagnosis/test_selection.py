"""A hypothesis is named only where it stands apart from every other that it does not contain."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.recipe_search import ranking
from melcheck.diagnosis.recipe_search.audio_readings import base_reading
from melcheck.diagnosis.recipe_search.choice import Choice, decide
from melcheck.diagnosis.recipe_search.fitting import Fit, Hypothesis, refine
from melcheck.diagnosis.recipe_search.mel_values import prepare
from melcheck.diagnosis.recipe_search.ranking import louder_cells, minimum, rank_pairs, tuned
from melcheck.diagnosis.recipe_search.recipe_changes import RecipeChange
from melcheck.recipes import VOCOS, MelRecipe, log_mel

SPEECH = Path(__file__).parents[2] / "fixtures" / "audio" / "kokoro-kumo-en.wav"


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return load_audio(MelCheckConfig(SPEECH, target_sr=24_000, target_duration=3.0)).waveform[0]


def ends_at(speech: Tensor, f_max: float) -> Hypothesis:
    change = RecipeChange("f-max", (("f_max", f_max),))
    reading = base_reading(speech, VOCOS.n_mels, VOCOS)
    return Hypothesis(reading, (change,), dataclasses.replace(VOCOS, f_max=f_max))


def choose(candidate: Tensor, *hypotheses: Hypothesis) -> Choice:
    prepared = prepare(candidate)
    return decide(prepared, refine(prepared, hypotheses))


def between(speech: Tensor, *maxima: float) -> Tensor:
    return torch.stack([log_mel(speech, ends_at(speech, f).recipe) for f in maxima]).mean(dim=0)


def test_of_two_that_fit_alike_neither_is_named(speech: Tensor) -> None:
    candidate = between(speech, 11_900.0, 11_903.0)
    choice = choose(candidate, ends_at(speech, 11_900.0), ends_at(speech, 11_903.0))
    assert all(entry.explains for entry in choice.fits)
    assert isinstance(choice.runner_up, Fit)
    assert not choice.named


def test_one_that_leaves_far_less_than_the_next_is_named(speech: Tensor) -> None:
    candidate = between(speech, 11_900.0)
    choice = choose(candidate, ends_at(speech, 11_900.0), ends_at(speech, 11_903.0))
    assert isinstance(choice.runner_up, Fit)
    assert choice.named
    assert choice.fit.hypothesis.recipe.f_max == 11_900.0


def test_statistics_that_nobody_uses_do_not_make_up_for_a_hypothesis(speech: Tensor) -> None:
    candidate = 1.01 * between(speech, 11_900.0) + 0.05
    choice = choose(candidate, ends_at(speech, 11_900.0))
    assert choice.fit.explains
    assert not choice.named


def test_unnamed_statistics_cost_as_much_as_two_changes(speech: Tensor) -> None:
    candidate = between(speech, 11_900.0)
    plain = dataclasses.replace(ends_at(speech, 12_000.0), changes=())
    first = ends_at(speech, 11_900.0)
    second = RecipeChange("f-min", (("f_min", 0.1),))
    double = dataclasses.replace(first, changes=(*first.changes, second))
    prepared = prepare(candidate)
    [fitted] = refine(prepared, [first])
    near = dataclasses.replace(fitted, hypothesis=double, slope=1.0, offset=0.0, residual=1e-3)
    far = dataclasses.replace(fitted, hypothesis=plain, slope=1.1, offset=0.4, residual=1.5e-3)
    assert decide(prepared, [far, near]).fit is near


# What is ranked and tuned for it.


def test_no_pair_of_changes_has_a_window_longer_than_its_transform(speech: Tensor) -> None:
    prepared = prepare(log_mel(speech, MelRecipe(n_fft=800, win_length=800)))
    reading = base_reading(speech, VOCOS.n_mels, VOCOS)
    cells = louder_cells(prepared, reading)
    assert cells is not None
    recipes = [hypothesis.recipe for _, hypothesis in rank_pairs(cells, reading)]
    assert any(recipe.n_fft == 800 for recipe in recipes)
    assert all(recipe.win_length <= recipe.n_fft for recipe in recipes)


def test_a_number_that_is_right_on_the_grid_is_not_searched(
    speech: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(log_mel(speech, MelRecipe(f_max=8_000.0, window="hamming")))
    hypothesis = ends_at(speech, 8_000.0)
    cells = louder_cells(prepared, hypothesis.reading)
    assert cells is not None
    searched: list[tuple[float, float]] = []

    def counting(left: object, low: float, high: float, **precision: float) -> tuple[float, float]:
        searched.append((low, high))
        return low, 0.0

    monkeypatch.setattr(ranking, "minimum", counting)
    tuned(cells, hypothesis)
    assert (7e3, 9e3) not in searched


@pytest.mark.parametrize("place", [0.25, 1.0, 1.75, 2.0])
def test_a_minimum_is_found_at_a_kink_and_at_a_bound(place: float) -> None:
    found, left = minimum(lambda value: abs(value - place), 0.0, 2.0)
    # The bounds are 2 apart, and 2.5e-5 of that is the precision.
    assert found == pytest.approx(place, rel=0, abs=5e-5)
    assert left == pytest.approx(0, rel=0, abs=5e-5)


def test_a_residual_that_is_infinite_is_no_minimum() -> None:
    found, _ = minimum(lambda value: math.inf if value < 1 else abs(value - 1.5), 0.0, 2.0)
    assert found == pytest.approx(1.5, rel=0, abs=5e-5)
