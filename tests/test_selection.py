"""A hypothesis is named only where it stands apart from every other that it does not contain."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.fitting import Fit, Hypothesis, refine
from melcheck.hypotheses import Change
from melcheck.inspection import prepare
from melcheck.recipes import VOCOS, log_mel
from melcheck.selection import Choice, decide
from melcheck.sounds import base_sound

SPEECH = Path(__file__).parents[1] / "fixtures" / "audio" / "kokoro-kumo-en.wav"


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return load_audio(MelCheckConfig(SPEECH, target_sr=24_000, target_duration=3.0)).waveform[0]


def ends_at(speech: Tensor, f_max: float) -> Hypothesis:
    change = Change("f-max", (("f_max", f_max),))
    sound = base_sound(speech, VOCOS.n_mels, VOCOS)
    return Hypothesis(sound, (change,), dataclasses.replace(VOCOS, f_max=f_max))


def choose(candidate: Tensor, *hypotheses: Hypothesis) -> Choice:
    prepared = prepare(candidate)
    return decide(prepared, refine(prepared.mel, prepared.usable, hypotheses))


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
