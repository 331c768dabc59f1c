"""Forensics looks at every cell before it calls a mel harmless, and at what was expected of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor
from torch.nn.functional import pad

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.diagnose import diagnose
from melcheck.profiles import profile
from melcheck.recipes import VOCOS, MelRecipe, log_mel

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"

Change = Callable[[Tensor], Tensor]


def clip(name: str) -> Tensor:
    return load_audio(MelCheckConfig(AUDIO / name)).waveform[0]


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return clip("kokoro-kumo-en.wav")


@pytest.fixture(scope="module")
def reading() -> Tensor:
    return clip("austen-0870.flac")


def filled(value: float, *, bands: slice = slice(None), frames: slice = slice(None)) -> Change:
    def change(mel: Tensor) -> Tensor:
        mel = mel.clone()
        mel[bands, frames] = value
        return mel

    return change


def raised(frames: slice) -> Change:
    def change(mel: Tensor) -> Tensor:
        mel = mel.clone()
        mel[:, frames] += 3
        return mel

    return change


def masked(value: float) -> Change:
    return filled(value, bands=slice(40, 60), frames=slice(100, 130))


def lowest_band(mel: Tensor) -> Tensor:
    return filled(float(mel.min()), bands=slice(1))(mel)


def mean_mask(mel: Tensor) -> Tensor:
    return filled(float(mel.mean()), frames=slice(100, 130))(mel)


def gated(mel: Tensor) -> Tensor:
    return torch.where(mel < mel.median(), VOCOS.log_floor, mel)


def lifted(mel: Tensor) -> Tensor:
    return torch.where(mel < -6, mel + 2, mel)


@pytest.mark.parametrize("name", ["kokoro-kumo-en.wav", "austen-0870.flac"])
@pytest.mark.parametrize(
    ("change", "where"),
    [
        pytest.param(filled(VOCOS.log_floor, frames=slice(100, 240)), "100 to 239", id="time-mask"),
        pytest.param(filled(VOCOS.log_floor, bands=slice(50, None)), "50 to 99", id="band-mask"),
        pytest.param(filled(5.0, bands=slice(99, None)), "99 to 99", id="a-band"),
        pytest.param(raised(slice(2)), "0 to 1", id="first-frames"),
        pytest.param(raised(slice(-2, None)), "280 to 281", id="last-frames"),
        pytest.param(masked(-11.0), "bands 40 to 59 and frames 100 to 129", id="mask-of-minus-11"),
        pytest.param(masked(0.0), "bands 40 to 59 and frames 100 to 129", id="mask-of-0"),
        pytest.param(lowest_band, "bands 0 to 0", id="a-band-at-the-minimum"),
        pytest.param(mean_mask, "frames 100 to 129", id="time-mask-of-the-mean"),
        pytest.param(gated, "of the time-frequency bins", id="gate"),
        pytest.param(lifted, "of the time-frequency bins", id="quiet-cells-lifted"),
    ],
)
def test_cells_that_the_audio_does_not_give_are_no_noise(
    name: str, change: Change, where: str
) -> None:
    waveform = clip(name)
    found = diagnose(waveform, change(log_mel(waveform)))
    assert (found.kind, found.codes) == ("fault", ("altered",))
    assert where in found.causes[0].evidence


@pytest.mark.parametrize("gain", [0.0, 1e-6])
def test_silent_audio_explains_no_mel(speech: Tensor, gain: float) -> None:
    found = diagnose(gain * speech, log_mel(speech))
    assert (found.kind, found.codes) == ("unknown", ())
    assert "The audio is silent" in found.message()


@pytest.mark.parametrize(
    ("project", "numbers", "code", "fix"),
    [
        ("hifigan-22k", {"mel_scale": "htk"}, "mel-scale", "Set mel_scale='slaney'."),
        ("hifigan-22k", {"norm": None}, "filter-norm", "Set norm='slaney'."),
        ("hifigan-22k", {"padding": "center"}, "padding", "Set padding='same'."),
        ("whisper", {"power": 1.0}, "power", "Set power=2."),
        ("whisper", {"log_base": "e"}, "log-base", "torch.log10 of the mel, or multiply this mel"),
        ("whisper", {"mean": 0.0, "std": 1.0}, "normalisation", "Take (x + 4) / 4 of"),
        (
            "matcha-22k",
            {"mean": 0.0, "std": 1.0},
            "normalisation",
            "Take (x + 5.53662) / 2.1161 of",
        ),
        ("librosa-default", {"pad_mode": "reflect"}, "pad-mode", "Set pad_mode='constant'."),
    ],
)
def test_a_fix_names_what_was_expected(
    speech: Tensor, project: str, numbers: dict[str, object], code: str, fix: str
) -> None:
    expected = profile(project)
    waveform = torchaudio.functional.resample(speech, VOCOS.sample_rate, expected.sample_rate)
    made = log_mel(waveform, dataclasses.replace(expected, **numbers))
    found = diagnose(waveform, made, expected=expected)
    assert (found.kind, found.codes) == ("fault", (code,))
    assert fix in found.fix


@pytest.mark.parametrize(
    ("part", "code"),
    [
        pytest.param(slice(48_000), "length", id="first-two-seconds"),
        pytest.param(slice(60_000), "length", id="all-but-the-end"),
        pytest.param(slice(12_000, None), "length", id="all-but-the-start"),
        pytest.param(slice(12_000, 48_000), "length", id="the-middle"),
    ],
)
def test_the_mel_of_a_part_of_the_audio_is_one(speech: Tensor, part: slice, code: str) -> None:
    found = diagnose(speech, log_mel(speech[part]))
    assert (found.kind, found.codes) == ("fault", (code,))


def test_the_mel_of_a_clip_and_of_silence_after_it_is_too_long(speech: Tensor) -> None:
    for samples in (500, 2_400, 24_000):
        assert diagnose(speech, log_mel(pad(speech, (0, samples)))).codes == ("length",)


def test_a_few_samples_less_at_the_end_make_a_mel_too_short(reading: Tensor) -> None:
    assert diagnose(reading, log_mel(reading[:70_000])).codes == ("length",)


def test_padding_with_the_floor_is_what_a_batch_needs(speech: Tensor) -> None:
    found = diagnose(speech, pad(log_mel(speech), (0, 50), value=VOCOS.log_floor))
    assert (found.kind, found.codes) == ("benign", ("padded-frames",))
    louder = diagnose(speech, pad(log_mel(0.5 * speech), (0, 50), value=VOCOS.log_floor))
    assert (louder.kind, louder.codes) == ("fault", ("gain",))


@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
def test_a_profile_with_the_expected_logarithm_is_not_told_to_change_it(speech: Tensor) -> None:
    mel = torchaudio.transforms.MelSpectrogram()(speech).clip(1e-7).log()
    found = diagnose(speech, mel)
    assert found.codes[0] == "profile:torchaudio-default"
    assert not {"log-base", "decibels", "normalisation"} & set(found.codes)


def test_a_gain_before_a_constant_is_not_taken_for_a_normalisation(speech: Tensor) -> None:
    assert (
        "normalisation"
        not in diagnose(speech, log_mel(0.5 * speech, MelRecipe(magnitude_eps=1e-6))).codes
    )


def test_the_logarithm_of_zero_is_said_to_be_one() -> None:
    silence = clip("kokoro-gap.flac")
    mel = log_mel(silence)
    broken = torch.where(mel <= VOCOS.log_floor + 1e-3, -math.inf, mel)
    found = diagnose(silence, broken)
    assert found.codes == ("nan",)
    assert "the logarithm of 0, so clip first" in found.causes[0].evidence


@pytest.mark.parametrize("name", ["kokoro-gap.flac", "cowbell-sparse.flac"])
def test_a_constant_under_the_root_is_no_floor_as_well(name: str) -> None:
    waveform = clip(name)
    assert diagnose(waveform, log_mel(waveform, MelRecipe(magnitude_eps=1e-6))).codes == (
        "magnitude-eps",
    )


@pytest.mark.parametrize(
    ("numbers", "code"),
    [({"padding": "same"}, "padding"), ({"n_fft": 2048, "win_length": 2048}, "n-fft")],
)
def test_one_change_is_found_in_a_clip_that_is_mostly_silent(
    numbers: dict[str, object], code: str
) -> None:
    waveform = clip("cowbell-sparse.flac")
    mel = log_mel(waveform, dataclasses.replace(VOCOS, **numbers))
    assert diagnose(waveform, mel).codes == (code,)


@pytest.mark.parametrize("hop", [240, 300, 320])
def test_a_usual_hop_without_padding_is_found(speech: Tensor, hop: int) -> None:
    found = diagnose(speech, log_mel(speech, MelRecipe(hop_length=hop, padding="none")))
    assert (found.kind, set(found.codes)) == ("fault", {"hop-length", "padding"})


def test_numbers_of_the_logarithm_and_the_window_are_those_at_hand(speech: Tensor) -> None:
    mel = log_mel(speech)
    assert "multiply this mel by 0.6931" in diagnose(speech, mel / math.log(2)).fix
    hamming = log_mel(speech, MelRecipe(window="hamming", normalized="window"))
    assert set(diagnose(speech, hamming).codes) == {"window", "stft-normalized"}
    decibels = 20 * mel / math.log(10)
    found = diagnose(speech, decibels - decibels.max())
    assert found.codes == ("decibels", "normalisation")
    assert "ref=np.max" in found.causes[1].evidence


def test_evidence_counts_the_frames_of_a_mel_on_its_side(speech: Tensor) -> None:
    assert diagnose(speech, log_mel(speech).T.contiguous()).evidence.frames == 282


def test_nearest_hypotheses_predict_different_mels(speech: Tensor, reading: Tensor) -> None:
    generator = np.random.default_rng(0)
    noisy = log_mel(speech) + 0.05 * torch.from_numpy(generator.standard_normal((100, 282))).float()
    texts = [near.text for near in diagnose(speech, noisy).nearest]
    assert texts[0] == "the expected recipe"
    assert not any("periodic" in text for text in texts[1:])
    assert "is it the mel of a different file?" in diagnose(speech, log_mel(reading)).message()
