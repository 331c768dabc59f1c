"""Damage to what a vocoder returns is named; an undamaged output is blamed on nothing precise."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.clips import load_manifest
from melcheck.config import MelCheckConfig
from melcheck.consistency import Consistency
from melcheck.explanations import Explanation
from melcheck.loop_forensics import explain_round_trip
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.vocoders import Vocoder, VocoderInfo, VocosVocoder, load_vocoder

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLIPS = {clip.name: clip for clip in load_manifest(FIXTURES / "clips.yaml")}
SPEECH = {name: clip for name, clip in CLIPS.items() if clip.gated}
HOP = VOCOS.hop_length
# One of each kind: a human reader, two voices of full band, and the shortest clip.
EACH_KIND = ("austen-0870", "kokoro-alpha-ja", "kokoro-kumo-en", "kokoro-short")

Decode = Callable[[Any, Tensor], Tensor]


@pytest.fixture(scope="module")
def vocoder() -> VocosVocoder:
    loaded = load_vocoder("embedded")
    assert isinstance(loaded, VocosVocoder)
    return loaded


@pytest.fixture(scope="module")
def near(vocoder: VocosVocoder) -> VocosVocoder:
    """The embedded vocoder with two projections: it looks 20 frames to each side, and not 74.

    So most of a chunk is as it would be in the whole, as with a plain Vocos.
    """
    model = copy.deepcopy(vocoder.model)
    model.head.consistency = Consistency(
        sample_rate=VOCOS.sample_rate,
        n_fft=VOCOS.n_fft,
        hop_length=VOCOS.hop_length,
        n_mels=VOCOS.n_mels,
        turns=(0, 0, 2),
    )
    return dataclasses.replace(vocoder, model=model)


@dataclass(frozen=True)
class DamagedVocoder:
    """A vocoder with another way to decode."""

    whole: Vocoder
    damage: Decode

    @property
    def info(self) -> VocoderInfo:
        return self.whole.info

    @property
    def recipe(self) -> MelRecipe:
        return self.whole.recipe

    @property
    def device(self) -> torch.device:
        return self.whole.device

    def encode(self, waveform: Tensor) -> Tensor:
        return self.whole.encode(waveform)

    def decode(self, mel: Tensor) -> Tensor:
        return self.damage(self.whole, mel)


def explain(vocoder: Vocoder, damage: Decode, clip: str, *, scale: float = 1.0) -> Explanation:
    pipeline = MelPipeline(
        MelCheckConfig(CLIPS[clip].path), vocoder=DamagedVocoder(vocoder, damage)
    )
    trip = pipeline.round_trip(scale * pipeline.load_audio())
    # Better than the embedded vocoder is on any of these clips, so that the clip is not to blame.
    return explain_round_trip(trip, pipeline.waveform2mel, baseline_mae=0.08)


def scaled(factor: float) -> Decode:
    return lambda vocoder, mel: factor * vocoder.decode(mel)


def delayed(samples: int) -> Decode:
    return lambda vocoder, mel: vocoder.decode(mel).roll(samples, dims=-1)


def with_one_nan(vocoder: VocosVocoder, mel: Tensor) -> Tensor:
    waveform = vocoder.decode(mel).clone()
    waveform[:, 1000] = torch.nan
    return waveform


def in_chunks_without_context(vocoder: Vocoder, mel: Tensor) -> Tensor:
    # One frame more than the chunk, so that each gives exactly its own hops.
    starts = range(0, mel.shape[-1] - 1, 64)
    return torch.cat([vocoder.decode(mel[..., start : start + 65]) for start in starts], dim=-1)


def with_a_layer_reset(vocoder: VocosVocoder, mel: Tensor) -> Tensor:
    model = copy.deepcopy(vocoder.model)
    generator = torch.Generator().manual_seed(0)
    weight = model.get_parameter("backbone.convnext.0.pwconv1.weight")
    weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return model.decode(mel)


@pytest.mark.parametrize("clip", EACH_KIND)
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        pytest.param(scaled(0.0), "silent-output", id="silence"),
        pytest.param(scaled(1.5), "output-gain", id="gain-1.5"),
        pytest.param(scaled(0.5), "output-gain", id="gain-0.5"),
        pytest.param(delayed(HOP // 2), "output-shifted", id="half-a-frame-late"),
        pytest.param(delayed(-HOP), "output-shifted", id="a-frame-early"),
        pytest.param(delayed(3 * HOP // 2), "output-shifted", id="same-padding-in-the-head"),
        pytest.param(with_one_nan, "non-finite", id="nan"),
        pytest.param(with_a_layer_reset, "vocoder", id="layer-reset"),
    ],
)
def test_damage_is_named(vocoder: VocosVocoder, damage: Decode, code: str, clip: str) -> None:
    assert explain(vocoder, damage, clip).code == code


# The 24 kHz clips have livelier frames, from which a seam does not stand out.
@pytest.mark.parametrize("clip", ["austen-0870", "austen-0890", "austen-0930"])
def test_seams_are_found_on_their_grid(near: VocosVocoder, clip: str) -> None:
    found = explain(near, in_chunks_without_context, clip)
    assert found.code == "seams"
    assert found.evidence.endswith("every 64 frames")


def test_beats_are_not_taken_for_seams(vocoder: VocosVocoder) -> None:
    found = explain(vocoder, lambda vocoder, mel: vocoder.decode(mel), "drums-clicks")
    assert "stands out 11 times" in found.evidence
    assert found.code == "places"


@pytest.mark.parametrize("clip", sorted(set(SPEECH) - {"kokoro-gap"}))
def test_an_undamaged_output_is_blamed_on_no_damage(vocoder: VocosVocoder, clip: str) -> None:
    found = explain(vocoder, lambda vocoder, mel: vocoder.decode(mel), clip)
    assert found.code == "vocoder"


def test_a_clip_that_griffin_lim_fails_too_is_blamed_on_the_clip(vocoder: VocosVocoder) -> None:
    pipeline = MelPipeline(MelCheckConfig(SPEECH["kokoro-gap"].path), vocoder=vocoder)
    found = explain_round_trip(pipeline.round_trip(), pipeline.waveform2mel, baseline_mae=0.26)
    assert found.code == "clip"


def test_integer_samples_are_told_from_a_loud_clip(vocoder: VocosVocoder) -> None:
    whole: Decode = lambda vocoder, mel: vocoder.decode(mel)  # noqa: E731  a table needs no name
    assert explain(vocoder, whole, "austen-0870", scale=32768.0).code == "int16-scale"


def test_an_end_that_alone_is_wrong_is_named(near: VocosVocoder) -> None:
    def loud_end(vocoder: Vocoder, mel: Tensor) -> Tensor:
        padded = mel.clone()
        padded[..., -40:] = 0.0  # as a batch is padded, loud in a log-mel
        return vocoder.decode(padded)

    assert explain(near, loud_end, "austen-0870").code == "tail"


def test_a_file_of_half_the_rate_is_blamed_on_its_missing_bands(
    vocoder: VocosVocoder, tmp_path: Path
) -> None:
    whole = MelPipeline(MelCheckConfig(SPEECH["kokoro-kumo-en"].path), vocoder=vocoder)
    path = tmp_path / "telephone.wav"
    narrow = torchaudio.functional.resample(whole.load_audio(), VOCOS.sample_rate, 8_000)
    soundfile.write(path, narrow[0].numpy(), 8_000)
    pipeline = MelPipeline(MelCheckConfig(path, target_duration=2.0), vocoder=vocoder)
    found = explain_round_trip(pipeline.round_trip(), pipeline.waveform2mel)
    assert found.code == "band-limited"
    assert "sampled at 8,000 Hz" in found.evidence


def test_the_delay_is_told_in_samples_and_direction(vocoder: VocosVocoder) -> None:
    assert "384 samples late" in str(explain(vocoder, delayed(384), "austen-0870"))


def test_the_gain_is_told_with_its_usual_cause(vocoder: VocosVocoder) -> None:
    found = str(explain(vocoder, scaled(1.5), "kokoro-kumo-en"))
    assert "dB too loud" in found
    assert "squared Hann windows" in found


@pytest.mark.parametrize("samples", [768, 2048, 5000])
def test_a_clip_of_few_frames_is_explained_without_an_error(
    vocoder: VocosVocoder, samples: int
) -> None:
    pipeline = MelPipeline(MelCheckConfig("no-file.wav"), vocoder=vocoder)
    generator = torch.Generator().manual_seed(0)
    trip = pipeline.round_trip(0.1 * torch.randn(1, samples, generator=generator))
    assert explain_round_trip(trip, pipeline.waveform2mel).code
