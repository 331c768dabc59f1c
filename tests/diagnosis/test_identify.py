"""A bare mel shows what was done to its values, and which profiles that contradicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.identify import Identity, identify
from melcheck.profiles import PROFILES, profile
from melcheck.recipes import VOCOS, MelRecipe, log_mel

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
FULL_SCALE = 32_768
DECIMAL = MelRecipe(log_base="10")

Front = Callable[[Tensor], Tensor]


def clip(name: str) -> Tensor:
    return load_audio(MelCheckConfig(AUDIO / name, 24_000, 3.0)).waveform[0]


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return clip("kokoro-kumo-en.wav")


@pytest.fixture(scope="module")
def sparse() -> Tensor:
    """Nine tenths of the cells of its mel are at the floor."""
    return clip("cowbell-sparse.flac")


def min_max(mel: Tensor, low: float = 0.0) -> Tensor:
    return low + (1 - low) * (mel - mel.min()) / (mel.max() - mel.min())


def standardised(mel: Tensor) -> Tensor:
    return (mel - mel.mean()) / mel.std()


CHANGES = [
    pytest.param("normalisation", lambda w: min_max(log_mel(w)), id="0-to-1"),
    pytest.param("normalisation", lambda w: min_max(log_mel(w), -1.0), id="-1-to-1"),
    pytest.param("normalisation", lambda w: 0.1 * log_mel(w), id="feat-scale"),
    pytest.param("normalisation", lambda w: standardised(log_mel(w)), id="mean-and-variance"),
    pytest.param("int16-scale", lambda w: log_mel(FULL_SCALE * w), id="int16"),
    pytest.param("int16-scale", lambda w: log_mel(0.05 * FULL_SCALE * w), id="quiet-int16"),
    pytest.param("double-log", lambda w: log_mel(w).clip(1e-7).log(), id="double-log"),
]


def value_codes(identity: Identity) -> list[str]:
    """What is said of the values, without what is said of the sound in them."""
    return [code for code in identity.codes if code != "band-limited"]


@pytest.mark.parametrize("name", ["speech", "sparse"])
@pytest.mark.parametrize(("code", "front"), CHANGES)
def test_what_was_done_to_the_values_is_named_and_contradicts_every_profile(
    request: pytest.FixtureRequest, name: str, code: str, front: Front
) -> None:
    identity = identify(front(request.getfixturevalue(name)))
    assert value_codes(identity) == [code]
    # A mel that is normalised may be one of a profile that normalises.
    assert all(profile(known).std != 1 for known in identity.profiles)


@pytest.mark.parametrize(("name", "codes"), [("speech", []), ("sparse", ["log-base"])])
def test_a_decimal_logarithm_contradicts_every_profile(
    request: pytest.FixtureRequest, name: str, codes: list[str]
) -> None:
    # Without a floor it looks like a normalisation, and is said to be one or the other.
    identity = identify(log_mel(request.getfixturevalue(name), DECIMAL))
    assert value_codes(identity) == codes
    assert "a decimal logarithm" in str(identity) or codes
    assert identity.profiles == ()


@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
@pytest.mark.parametrize("name", ["speech", "sparse"])
@pytest.mark.parametrize("profile_name", PROFILES)
def test_no_mel_contradicts_its_own_profile(
    request: pytest.FixtureRequest, name: str, profile_name: str
) -> None:
    recipe = profile(profile_name)
    waveform = torchaudio.functional.resample(
        request.getfixturevalue(name), 24_000, recipe.sample_rate
    )
    identity = identify(log_mel(waveform, recipe), sample_rate=recipe.sample_rate)
    assert profile_name in identity.profiles
    assert "double-log" not in identity.codes


def test_integers_are_seen_beside_a_floor(speech: Tensor) -> None:
    waveform = speech.clone()
    waveform[30_000:40_000] = 0
    identity = identify(log_mel(FULL_SCALE * waveform))
    assert "floor -16.1181 = ln(1e-07)" in identity.message()
    assert value_codes(identity) == ["int16-scale"]


@pytest.mark.parametrize(
    ("value", "profiles"),
    [(0.0, ()), (VOCOS.log_floor, ("vocos", "zipvoice")), (1e-3, ())],
    ids=["zeros", "silence", "constant"],
)
def test_a_mel_of_one_value_is_said_to_be_silence_or_empty(
    value: float, profiles: tuple[str, ...]
) -> None:
    identity = identify(torch.full((100, 90), value))
    assert f"every value is {value:.4g}: silence" in identity.message()
    assert identity.codes == ()
    assert identity.profiles == profiles


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_floor_is_known_in_short_floats(sparse: Tensor, dtype: torch.dtype) -> None:
    identity = identify(log_mel(sparse).to(dtype))
    assert "floor -16.1250 = ln(1e-07)" in identity.message()
    assert identity.codes == ()
    assert identity.profiles == ("vocos", "zipvoice")


def test_silence_between_sounds_is_no_second_logarithm() -> None:
    noise = 0.05 * torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    gated = torch.cat([torch.zeros(30_000), noise, torch.zeros(10_000)])
    assert identify(log_mel(gated)).codes == ()


def test_the_rest_of_the_profiles_come_with_what_speaks_against_them(speech: Tensor) -> None:
    identity = identify(log_mel(speech), sample_rate=24_000)
    against = identity.contradictions
    assert {*identity.profiles, *against} == {*PROFILES}
    assert against["whisper"] == "24000 Hz where it has 16000"
    assert against["bigvgan-24k"].startswith("up to ")
