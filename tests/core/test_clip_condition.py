"""What a clip is like by itself: closed forms, and what damage moves."""

from __future__ import annotations

import math

import pytest
import torch

from melcheck.clip_condition import (
    bandwidth_hz,
    level_dbfs,
    level_range_nats,
    silent_start_seconds,
    top_share,
)
from melcheck.recipes import MelRecipe

RATE = 24_000


def tone(samples: int = RATE, *, peak: float = 0.5) -> torch.Tensor:
    return peak * torch.sin(2 * torch.pi * 220 * torch.arange(samples) / RATE)


@pytest.mark.parametrize(("peak", "level"), [(1.0, 0.0), (0.5, -6.0206), (0.0, -math.inf)])
def test_level_is_that_of_the_peak(peak: float, level: float) -> None:
    assert level_dbfs(torch.tensor([0.0, -peak])) == pytest.approx(level, abs=1e-4)


def test_a_silent_start_ends_with_the_first_sound() -> None:
    waveform = torch.cat([1e-4 * torch.ones(RATE // 2), tone()])
    # The tone itself begins at zero, and is above -50 dB of its peak after two samples.
    assert silent_start_seconds(waveform, RATE) == pytest.approx(0.5, abs=1e-3)
    assert silent_start_seconds(torch.zeros(RATE), RATE) == 1.0


def test_clipping_moves_samples_to_the_top() -> None:
    speech = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    assert top_share(speech) < 0.01
    assert top_share(speech.clamp(-0.1, 0.1)) > 0.3
    assert top_share(torch.zeros(RATE)) == 0.0


def test_the_range_of_levels_is_that_of_the_frames() -> None:
    mel = torch.linspace(-10.0, 0.0, 101).expand(80, -1)
    assert level_range_nats(mel) == pytest.approx(9.0)
    assert level_range_nats(torch.zeros(80, 10)) == 0.0


def test_bandwidth_ends_at_the_highest_band_that_is_near_the_loudest() -> None:
    mel = torch.full((4, 10), -12.0)
    mel[:2] = 0.0
    assert bandwidth_hz(mel, (100.0, 200.0, 300.0, 400.0), below_nats=7.0) == 200.0


@pytest.mark.parametrize(
    ("recipe", "value", "nats"),
    [
        (MelRecipe(log_base="10", log_scale=20.0), -20.0, -math.log(10)),
        (MelRecipe(log_base="10"), -2.0, -2 * math.log(10)),
        (MelRecipe(mean=-5.0, std=2.0), 1.0, -3.0),
        (MelRecipe(log_base=None), math.e, 1.0),
        (MelRecipe(log_base=None), 0.0, math.log(1e-7)),
    ],
    ids=["decibels", "decimal", "normalised", "no-logarithm", "zero"],
)
def test_a_mel_of_any_unit_has_its_nats(recipe: MelRecipe, value: float, nats: float) -> None:
    assert recipe.in_nats(torch.tensor([[value]])).item() == pytest.approx(nats, abs=1e-6)
