"""Every tensor of the loop has the shape that the recipe promises, and finite values.

The test of batches judges rounding, so it is itself tested: it passes on short cuts, where
rounding shows most, and fails where the items of a batch do reach each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.suite import (
    test_a_batch_gives_what_its_items_give_alone,
    test_every_tensor_has_the_shape_of_the_recipe,
    test_every_value_is_finite_and_no_mel_goes_below_its_floor,
)
from melcheck.vocoders.base import Vocoder, VocoderInfo
from melcheck.vocoders.load import load_vocoder
from tests.vocoders import untrained

__all__ = [
    "test_a_batch_gives_what_its_items_give_alone",
    "test_every_tensor_has_the_shape_of_the_recipe",
    "test_every_value_is_finite_and_no_mel_goes_below_its_floor",
]

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"

Decode = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Damaged:
    """A vocoder whose decoder is wrapped."""

    base: Vocoder
    damage: Callable[[Decode, Tensor], Tensor]
    magnifies_rounding: bool

    @property
    def info(self) -> VocoderInfo:
        return self.base.info

    @property
    def recipe(self) -> MelRecipe:
        return self.base.recipe

    @property
    def device(self) -> torch.device:
        return self.base.device

    def encode(self, waveform: Tensor) -> Tensor:
        return self.base.encode(waveform)

    def decode(self, mel: Tensor) -> Tensor:
        return self.damage(self.base.decode, mel)


def whole(decode: Decode, mel: Tensor) -> Tensor:
    return decode(mel)


def centred_over_the_batch(decode: Decode, mel: Tensor) -> Tensor:
    return decode(mel - 0.01 * mel.mean())


def normalised_over_the_batch(decode: Decode, mel: Tensor) -> Tensor:
    return decode(3 * (mel - mel.mean()) / mel.std() - 6)


def padded_when_batched(decode: Decode, mel: Tensor) -> Tensor:
    padding = 0 if len(mel) == 1 else 8
    padded = torch.nn.functional.pad(mel, (0, padding), value=VOCOS.log_floor)
    return decode(padded)[:, : VOCOS.num_samples(mel.shape[2])]


def joined_to_one(decode: Decode, mel: Tensor) -> Tensor:
    batch, bands, frames = mel.shape
    joined = decode(mel.transpose(0, 1).reshape(1, bands, batch * frames))[0]
    hops = frames * VOCOS.hop_length
    cut = [joined[item * hops :][: VOCOS.num_samples(frames)] for item in range(batch)]
    return torch.stack(cut)


def look_at_a_batch(name: str, clip: str, seconds: float, damage: Callable[..., Tensor]) -> None:
    base: Vocoder = load_vocoder("embedded") if name == "embedded" else untrained.small()
    vocoder = Damaged(base, damage, magnifies_rounding=name == "embedded")
    config = MelCheckConfig(AUDIO / clip, target_duration=seconds)
    pipeline = MelPipeline(config, vocoder=vocoder)
    test_a_batch_gives_what_its_items_give_alone(pipeline, pipeline.round_trip(), vocoder)


# Where the embedded vocoder's rounding comes from: the backbone's first convolution of a batch of
# three differs from that of one by 6e-6 of 3, and its last layer by 9e-5 of 2. Equal features give
# equal waveforms within 3e-7 in either batch, but these give waveforms that differ by 0.004, and by
# 0.1 at most: phases are retrieved by projections, which magnify rounding.
#
# Largest differences over all fixtures and cuts of 0.3 to 3 s, with AVX2 and SSE4.1, of a mel:
# 0.0026 nats in the mean, 0.036 nats in the worst frame. The suite allows three times as much.
# Waveforms of a plain Vocos: 4e-6 with untrained weights, 2e-6 with the official ones (AVX-512).


@pytest.mark.shapes
@pytest.mark.parametrize("seconds", [0.3, 0.8])
@pytest.mark.parametrize("name", ["embedded", "untrained"])
def test_a_short_cut_in_a_batch_is_what_it_is_alone(name: str, seconds: float) -> None:
    look_at_a_batch(name, "kokoro-alpha-ja.flac", seconds, whole)


@pytest.mark.shapes
@pytest.mark.parametrize(
    "damage",
    [centred_over_the_batch, normalised_over_the_batch, padded_when_batched, joined_to_one],
    ids=lambda damage: damage.__name__,
)
@pytest.mark.parametrize("name", ["embedded", "untrained"])
@pytest.mark.parametrize("seconds", [0.8, 3.0])
def test_items_that_reach_each_other_are_seen(
    name: str, damage: Callable[..., Tensor], seconds: float
) -> None:
    with pytest.raises(AssertionError):
        look_at_a_batch(name, "kokoro-kumo-en.wav", seconds, damage)
