"""The named recipes: what they are, against librosa, torchaudio and vocos themselves."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor
from vocos.feature_extractors import MelSpectrogramFeatures

from melcheck.profiles import PROFILES, profile
from melcheck.recipes import VOCOS, log_mel

_SAMPLES = 48_000


def _noise(samples: int = _SAMPLES) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    swell = torch.sin(torch.linspace(0, 20, samples)).abs()
    return 0.1 * swell * torch.randn(samples, generator=generator)


def test_every_profile_names_its_source() -> None:
    assert all(entry.source and entry.name == name for name, entry in PROFILES.items())


def test_no_two_profiles_are_one_recipe() -> None:
    digests = {entry.recipe.digest() for entry in PROFILES.values()}
    assert len(digests) == len(PROFILES)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"one of vocos, f5-tts.*got 'f5'"):
        profile("f5")


def test_vocos_is_that_of_vocos_bit_for_bit() -> None:
    waveform = _noise()[None]
    assert torch.equal(log_mel(waveform, profile("vocos")), MelSpectrogramFeatures()(waveform))


@pytest.mark.parametrize(
    ("name", "samples", "frames"),
    [
        pytest.param("vocos", 72_000, 282, id="vocos"),
        pytest.param("f5-tts", 72_000, 282, id="f5-tts"),
        pytest.param("zipvoice", 72_000, 281, id="zipvoice-rounds-down"),
        pytest.param("zipvoice", 72_191, 282, id="zipvoice-rounds-up"),
        pytest.param("bigvgan-24k", 72_000, 281, id="bigvgan"),
        pytest.param("bigvgan-24k", 72_191, 281, id="bigvgan-floor"),
        pytest.param("whisper", 480_000, 3_000, id="whisper"),
    ],
)
def test_frames_are_those_of_the_project(name: str, samples: int, frames: int) -> None:
    assert profile(name).frames(samples) == frames


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        pytest.param("vocos", -16.118096, id="vocos"),
        pytest.param("f5-tts", -11.512925, id="f5-tts"),
        pytest.param("bigvgan-24k", -11.512925, id="bigvgan"),
        # ln 1e-5 = -11.512925, less -5.536622, over 2.116101.
        pytest.param("matcha-22k", -2.824205, id="matcha"),
        # (log10 1e-10 + 4) / 4 = -1.5.
        pytest.param("whisper", -1.5, id="whisper"),
    ],
)
def test_the_floor_is_that_of_the_project(name: str, floor: float) -> None:
    # The expected figures have six decimals.
    assert profile(name).log_floor == pytest.approx(floor, rel=0, abs=1e-6)


def _librosa_magnitudes(waveform: Tensor, name: str) -> np.ndarray:
    """Return the mel before its logarithm, from librosa's transform and filters."""
    recipe = profile(name)
    side = recipe.pad_samples
    mode = recipe.pad_mode
    padded = np.pad(waveform.numpy(), side, mode="constant" if mode == "constant" else "reflect")
    spectrum = librosa.stft(
        padded,
        n_fft=recipe.n_fft,
        hop_length=recipe.hop_length,
        win_length=recipe.win_length,
        center=False,
    )
    magnitudes = np.sqrt(np.abs(spectrum) ** 2 + recipe.magnitude_eps) ** recipe.power
    filters = librosa.filters.mel(
        sr=recipe.sample_rate,
        n_fft=recipe.n_fft,
        n_mels=recipe.n_mels,
        fmin=recipe.f_min,
        fmax=recipe.f_max,
        htk=recipe.mel_scale == "htk",
        norm=recipe.norm,
    )
    product: np.ndarray = filters @ magnitudes
    return product


@pytest.mark.parametrize("name", ["bigvgan-24k", "hifigan-22k", "tacotron2"])
def test_natural_profiles_agree_with_librosa_off_the_floor(name: str) -> None:
    waveform = _noise()
    theirs = _librosa_magnitudes(waveform, name)
    ours = log_mel(waveform, profile(name)).numpy()
    off_floor = theirs > 10 * profile(name).floor
    assert off_floor.mean() > 0.5
    # Two float32 transforms and filterbanks.
    np.testing.assert_allclose(ours[off_floor], np.log(theirs[off_floor]), rtol=0, atol=1e-4)


def test_matcha_is_hifigan_with_the_statistics_of_lj_speech() -> None:
    waveform = _noise()
    expected = (log_mel(waveform, profile("hifigan-22k")) + 5.536622) / 2.116101
    # float32 resolves 5e-7 here.
    torch.testing.assert_close(
        log_mel(waveform, profile("matcha-22k")), expected, rtol=0, atol=2e-6
    )


def test_librosa_default_is_that_of_librosa() -> None:
    waveform = _noise()
    theirs = librosa.power_to_db(librosa.feature.melspectrogram(y=waveform.numpy(), sr=22_050))
    ours = log_mel(waveform, profile("librosa-default")).numpy()
    # 1e-4 nats are 4e-4 dB of an energy.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)


# Its own defaults leave bands without a bin, of which it warns.
@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
def test_torchaudio_default_is_that_of_torchaudio() -> None:
    waveform = _noise()
    theirs = torchaudio.transforms.AmplitudeToDB("power")(
        torchaudio.transforms.MelSpectrogram()(waveform)
    )
    ours = log_mel(waveform, profile("torchaudio-default"))
    # float32 resolves 8e-6 at -100 dB.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_whisper_is_the_clipped_decimal_logarithm_of_the_energy() -> None:
    waveform = _noise()
    energy = _librosa_magnitudes(waveform, "whisper")[:, :-1]
    logarithm = np.log10(np.maximum(energy, 1e-10))
    expected = (np.maximum(logarithm, logarithm.max() - 8.0) + 4.0) / 4.0
    ours = log_mel(waveform, profile("whisper")).numpy()
    # 1e-4 nats are 1.1e-5 here; the quietest cells carry more of float32's rounding.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


def test_f5_tts_is_vocos_above_its_floor() -> None:
    waveform = _noise()
    expected = log_mel(waveform, VOCOS).clamp(min=profile("f5-tts").log_floor)
    # float32 resolves 1e-6 at -11.
    torch.testing.assert_close(log_mel(waveform, profile("f5-tts")), expected, rtol=0, atol=2e-6)
