"""Relations that hold of every loop, and front ends and vocoders that break each of them.

The curves of the drift are on record in `fixtures/drift`. With other weights:
`pytest tests/parity/test_metamorphic.py --force-regen`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
from pytest_regressions.num_regression import NumericRegressionFixture
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.clips import load_manifest
from melcheck.config import MelCheckConfig
from melcheck.recipes import VOCOS, log_mel
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from tests.parity.relations import (
    Relation,
    drift,
    gain_shifts_the_log_mel,
    polarity_leaves_the_mel,
    shift_by_hops_shifts_frames,
    silence_stays_silent,
)
from tests.vocoders import untrained

pytestmark = pytest.mark.parity

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = FIXTURES / "drift" / "embedded.csv"
CLIPS = {clip.name: clip for clip in load_manifest(FIXTURES / "clips.yaml")}
NAMES = ("austen-0870", "kokoro-kumo-en", "kokoro-gap", "drums-clicks", "cowbell-sparse")
TRIPS = 5
SECONDS = 1.5  # the cowbell is silent for the first

# Nats, after each trip. Three times the largest of six clips, in float64, with four threads, in
# batches and optimised: 2.4e-5 for a plain Vocos; for three snapshots of a head that retrieves
# phases 5.5e-5, 1.2e-3, 4.9e-3, 6.3e-3, 6.2e-3. Each trip magnifies the rounding of the last.
DRIFT_TOLERANCES = (8e-5,) * TRIPS
CONSISTENT_DRIFT_TOLERANCES = (2e-4, 4e-3, 1.5e-2, 2e-2, 2e-2)

Stage = Callable[[Tensor], Tensor]


@functools.cache
def waveform(name: str) -> Tensor:
    return load_audio(MelCheckConfig(CLIPS[name].path, target_duration=SECONDS)).waveform


@functools.cache
def embedded() -> VocosVocoder:
    loaded = load_vocoder("embedded")
    assert isinstance(loaded, VocosVocoder)
    return loaded


def drift_tolerances() -> dict[str, dict[str, float]]:
    magnified = embedded().magnifies_rounding
    tolerances = CONSISTENT_DRIFT_TOLERANCES if magnified else DRIFT_TOLERANCES
    return {
        f"trip {number}": {"atol": tolerance, "rtol": 0.0}
        for number, tolerance in enumerate(tolerances, start=1)
    }


# What holds.


@pytest.mark.parametrize("gain", [0.01, 0.5, 2.7], ids="x{}".format)
@pytest.mark.parametrize("name", NAMES)
def test_gain_shifts_the_log_mel_by_its_logarithm(name: str, gain: float) -> None:
    relation = gain_shifts_the_log_mel(embedded().encode, waveform(name), recipe=VOCOS, gain=gain)
    assert relation.holds, str(relation)


@pytest.mark.parametrize("name", NAMES)
def test_polarity_leaves_the_mel(name: str) -> None:
    relation = polarity_leaves_the_mel(embedded().encode, waveform(name), recipe=VOCOS)
    assert relation.holds, str(relation)


@pytest.mark.parametrize("hops", [1, 37], ids="{} hops".format)
@pytest.mark.parametrize("name", NAMES)
def test_a_shift_by_hops_shifts_frames(name: str, hops: int) -> None:
    relation = shift_by_hops_shifts_frames(
        embedded().encode, waveform(name), recipe=VOCOS, hops=hops
    )
    assert relation.holds, str(relation)


def test_silence_stays_silent() -> None:
    vocoder = embedded()
    relations = silence_stays_silent(vocoder.encode, vocoder.decode, recipe=VOCOS, frames=60)
    assert all(relation.holds for relation in relations), "; ".join(map(str, relations))


def test_five_round_trips_drift_along_the_recorded_curves(
    num_regression: NumericRegressionFixture,
) -> None:
    num_regression.check(curves(embedded()), fullpath=RECORDED, tolerances=drift_tolerances())


def curves(vocoder: VocosVocoder) -> dict[str, list[float]]:
    """The curves of all clips, in the order of `NAMES`: a list for each trip."""
    each = [drift(vocoder.encode, vocoder.decode, waveform(name), trips=TRIPS) for name in NAMES]
    return {
        f"trip {number}": list(errors)
        for number, errors in enumerate(zip(*each, strict=True), start=1)
    }


# What breaks it.


def in_log10(samples: Tensor) -> Tensor:
    return log_mel(samples) / math.log(10)


def of_power(samples: Tensor) -> Tensor:
    return 2 * log_mel(samples)


def peak_normalised(samples: Tensor) -> Tensor:
    return log_mel(samples / samples.abs().max())


def compressed(samples: Tensor) -> Tensor:
    return log_mel(torch.tanh(3 * samples))


def clipped(samples: Tensor) -> Tensor:
    return log_mel(samples.clamp(-1.0, 0.5))


def with_an_offset(samples: Tensor) -> Tensor:
    return log_mel(samples + 1e-3)


def with_dither(samples: Tensor) -> Tensor:
    return log_mel(samples + 1e-4 * torch.randn(samples.shape))


def over_its_mean(samples: Tensor) -> Tensor:
    mel = log_mel(samples)
    return mel - mel.mean()


def with_a_wrong_hop(samples: Tensor) -> Tensor:
    return log_mel(samples, dataclasses.replace(VOCOS, hop_length=240))


def smeared_in_time(samples: Tensor) -> Tensor:
    mel = log_mel(samples)
    smear = torch.linspace(0, 1, mel.shape[-1])
    return (1 - smear) * mel + smear * mel.roll(1, dims=-1)


def with_an_added_floor(samples: Tensor) -> Tensor:
    return torch.log(torch.exp(log_mel(samples)) + 1e-5)


@pytest.mark.parametrize("encode", [in_log10, of_power, peak_normalised, compressed, with_dither])
def test_a_different_gain_law_is_seen(encode: Stage) -> None:
    torch.manual_seed(0)
    relation = gain_shifts_the_log_mel(encode, waveform(NAMES[1]), recipe=VOCOS, gain=0.5)
    assert not relation.holds, str(relation)


@pytest.mark.parametrize("encode", [clipped, with_an_offset, with_dither])
def test_a_front_end_with_a_sign_is_seen(encode: Stage) -> None:
    torch.manual_seed(0)
    loud = waveform(NAMES[1]) / waveform(NAMES[1]).abs().max()
    relation = polarity_leaves_the_mel(encode, loud, recipe=VOCOS)
    assert not relation.holds, str(relation)


@pytest.mark.parametrize("encode", [with_a_wrong_hop, over_its_mean, smeared_in_time])
def test_a_front_end_that_moves_with_the_clips_start_is_seen(encode: Stage) -> None:
    relation = shift_by_hops_shifts_frames(encode, waveform(NAMES[1]), recipe=VOCOS, hops=10)
    assert not relation.holds, str(relation)


def test_a_front_end_with_a_mel_of_silence_above_the_floor_is_seen() -> None:
    mel, _ = silence_stays_silent(with_an_added_floor, embedded().decode, recipe=VOCOS, frames=60)
    assert not mel.holds, str(mel)


def test_a_vocoder_that_hums_in_silence_is_seen() -> None:
    def humming(mel: Tensor) -> Tensor:
        decoded = embedded().decode(mel)
        turns = torch.arange(decoded.shape[-1]) * 50 / VOCOS.sample_rate
        return decoded + 1e-4 * torch.sin(2 * torch.pi * turns)

    _, decoded = silence_stays_silent(embedded().encode, humming, recipe=VOCOS, frames=60)
    assert not decoded.holds, str(decoded)


def test_an_untrained_vocoder_is_not_silent() -> None:
    vocoder = untrained.official()
    _, decoded = silence_stays_silent(vocoder.encode, vocoder.decode, recipe=VOCOS, frames=60)
    assert not decoded.holds, str(decoded)


@pytest.fixture
def recorded_copy(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, list[float]]], None]:
    """A check against the curves on record, in a copy that --force-regen leaves alone."""
    monkeypatch.setattr(request.config.option, "force_regen", False)
    monkeypatch.setattr(request.config.option, "regen_all", False)
    path = Path(shutil.copy(RECORDED, tmp_path))
    regression = NumericRegressionFixture(tmp_path, tmp_path, request)
    tolerances = drift_tolerances()
    return lambda found: regression.check(found, fullpath=path, tolerances=tolerances)


def test_a_weight_that_is_off_leaves_the_curves(
    recorded_copy: Callable[[dict[str, list[float]]], None],
) -> None:
    model = copy.deepcopy(embedded().model)
    weight = model.head.out.weight.data
    generator = torch.Generator().manual_seed(0)
    weight += 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)
    with pytest.raises(AssertionError):
        recorded_copy(curves(dataclasses.replace(embedded(), model=model)))


@pytest.mark.parametrize("trip", [f"trip {number}" for number in range(1, TRIPS + 1)])
def test_a_curve_off_by_twice_the_tolerance_is_seen(
    recorded_copy: Callable[[dict[str, list[float]]], None], trip: str
) -> None:
    found = pandas.read_csv(RECORDED, index_col=0).to_dict("list")
    recorded_copy(found)
    found[trip][0] += 2 * drift_tolerances()[trip]["atol"]
    with pytest.raises(AssertionError):
        recorded_copy(found)


# Edges.


def test_a_nan_does_not_hold() -> None:
    assert not Relation("anything", math.nan, 1.0).holds


def test_a_gain_of_a_mel_with_nan_does_not_hold() -> None:
    def broken(samples: Tensor) -> Tensor:
        mel = log_mel(samples)
        mel[..., 40, 10] = math.nan
        return mel

    relation = gain_shifts_the_log_mel(broken, waveform(NAMES[1]), recipe=VOCOS, gain=0.5)
    assert not relation.holds


@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf], ids=str)
def test_a_gain_without_a_logarithm_is_refused(gain: float) -> None:
    with pytest.raises(ValueError, match="gain must be positive and finite"):
        gain_shifts_the_log_mel(log_mel, waveform(NAMES[1]), recipe=VOCOS, gain=gain)


def test_a_gain_of_silence_shows_nothing_and_is_refused() -> None:
    with pytest.raises(ValueError, match="must have bins off the floor"):
        gain_shifts_the_log_mel(log_mel, torch.zeros(1, 24_000), recipe=VOCOS, gain=0.5)


@pytest.mark.parametrize("hops", [0, 133], ids="{} hops".format)
def test_a_shift_that_leaves_nothing_to_compare_is_refused(hops: int) -> None:
    with pytest.raises(ValueError, match="hops must be from 1 to 132 for 141 frames"):
        shift_by_hops_shifts_frames(log_mel, waveform(NAMES[1]), recipe=VOCOS, hops=hops)


def test_no_trip_is_refused() -> None:
    with pytest.raises(ValueError, match="trips must be at least 1, got 0"):
        drift(log_mel, embedded().decode, waveform(NAMES[1]), trips=0)
