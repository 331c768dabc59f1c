"""Forensics names what was done to a mel, keeps quiet where nothing was, and admits ignorance."""

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

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import CAUSES, cause
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.identify import identify
from melcheck.diagnosis.recipe_search.scale_and_offset import explain_affine
from melcheck.diagnosis.recipe_search.spectra import energies, first_centre, log_bands
from melcheck.profiles import PROFILES, profile
from melcheck.recipes import VOCOS, MelRecipe, filterbank, log_mel

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"


@pytest.fixture(scope="module")
def speech() -> Tensor:
    config = MelCheckConfig(AUDIO / "kokoro-kumo-en.wav", target_sr=24_000, target_duration=3.0)
    return load_audio(config).waveform[0]


Front = Callable[[Tensor], Tensor]


def _resampled(waveform: Tensor, source: int, target: int) -> Tensor:
    return torchaudio.functional.resample(waveform, source, target)


# The causes.


def test_codes_are_kebab_case_and_name_themselves() -> None:
    assert all(code == entry.code and code == code.lower() for code, entry in CAUSES.items())
    assert not any(" " in code or "_" in code for code in CAUSES)


def test_the_code_of_a_profile_is_a_cause() -> None:
    assert "bigvgan-24k" in cause("profile:bigvgan-24k").title


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(KeyError, match="got 'louder'"):
        cause("louder")


# The parts.


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(VOCOS, id="vocos"),
        pytest.param(MelRecipe(padding="same"), id="same"),
        pytest.param(MelRecipe(padding="none"), id="none"),
        pytest.param(MelRecipe(n_fft=2048), id="short-window"),
        pytest.param(MelRecipe(pad_mode="constant", window="hamming"), id="constant-hamming"),
        pytest.param(MelRecipe(pre_emphasis=0.97, magnitude_eps=1e-9), id="pre-emphasis-eps"),
    ],
)
def test_spectra_at_the_recipes_own_places_give_its_mel(speech: Tensor, recipe: MelRecipe) -> None:
    expected = log_mel(speech, dataclasses.replace(recipe, floor=1e-12))
    centres = torch.arange(expected.shape[-1]) * recipe.hop_length + first_centre(recipe)
    energy = energies(speech, recipe, centres)
    ours = log_bands(energy, filterbank(recipe), recipe.power).T
    loud = expected > -6
    # Two float32 transforms: 2e-5 was measured where the mel is above -6.
    torch.testing.assert_close(ours[loud], expected[loud], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("slope", "offset", "codes"),
    [
        pytest.param(1.0, 0.0, (), id="nothing"),
        pytest.param(1 / math.log(10), 0.0, ("log-base",), id="log10"),
        pytest.param(20 / math.log(10), 0.0, ("decibels",), id="decibels"),
        pytest.param(1.0, math.log(32_768), ("int16-scale",), id="int16"),
        pytest.param(1.0, -math.log(math.sqrt(384)), ("stft-normalized",), id="window-norm"),
        pytest.param(1 / 2.116101, 5.536622 / 2.116101, ("normalisation",), id="matcha"),
        pytest.param(1 / 7, 5 / 7, ("normalisation",), id="minus-12-to-2"),
        pytest.param(0.01, 0.0, ("normalisation",), id="feat-scale-twice"),
        pytest.param(
            1 / math.log(10), math.log10(32_768), ("log-base", "int16-scale"), id="log10-int16"
        ),
        pytest.param(
            1 / 2.116101,
            (5.536622 + math.log(2)) / 2.116101,
            ("normalisation", "gain"),
            id="matcha-stereo",
        ),
        pytest.param(0.37, 1.234, ("normalisation",), id="unnamed-statistics"),
    ],
)
def test_slope_and_offset_are_explained(
    slope: float, offset: float, codes: tuple[str, ...]
) -> None:
    causes = explain_affine(
        slope,
        offset,
        recipe=VOCOS,
        slope_tolerance=1e-4,
        offset_tolerance=1e-3,
        floor_moved=None,
    )
    assert tuple(cause.code for cause in causes) == codes


# What is no fault.


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(log_mel, id="itself"),
        pytest.param(lambda w: log_mel(w)[None], id="with-a-batch-of-one"),
        pytest.param(lambda w: log_mel(w).numpy(), id="numpy"),
        pytest.param(lambda w: log_mel(-w), id="polarity"),
        pytest.param(lambda w: log_mel(w.double()).float(), id="float64"),
    ],
)
def test_the_expected_mel_is_identical(speech: Tensor, front: Front) -> None:
    assert diagnose(speech, front(speech)).kind == "identical"


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(lambda w: log_mel(w).half(), id="float16"),
        pytest.param(lambda w: log_mel(w).bfloat16(), id="bfloat16"),
        pytest.param(lambda w: log_mel((w * 32_768).round() / 32_768 + 1e-9), id="pcm16"),
        pytest.param(lambda w: log_mel(w.half().float()), id="waveform-float16"),
        pytest.param(
            lambda w: log_mel(torch.nn.functional.pad(w, (1, 0))[:-1]), id="one-sample-late"
        ),
        pytest.param(lambda w: log_mel(w, profile("zipvoice")), id="zipvoice"),
    ],
)
def test_a_benign_difference_is_no_fault(speech: Tensor, front: Front) -> None:
    assert diagnose(speech, front(speech)).kind in ("benign", "identical")


def test_the_floor_of_another_profile_is_benign_and_named(speech: Tensor) -> None:
    clip = speech.clone()
    clip[30_000:40_000] = 0
    diagnosis = diagnose(clip, log_mel(clip, profile("f5-tts")))
    assert (diagnosis.kind, diagnosis.codes) == ("benign", ("floor",))


def test_a_floor_without_silence_is_invisible() -> None:
    noise = 0.1 * torch.randn(48_000, generator=torch.Generator().manual_seed(0))
    assert diagnose(noise, log_mel(noise, profile("f5-tts"))).kind == "identical"


# What is one.


@pytest.mark.parametrize(
    ("code", "front"),
    [
        pytest.param("window", lambda w: log_mel(w, MelRecipe(periodic=False)), id="symmetric"),
        pytest.param("window", lambda w: log_mel(w, MelRecipe(window="sqrt_hann")), id="sqrt-hann"),
        pytest.param(
            "pad-mode",
            lambda w: log_mel(w, MelRecipe(pad_mode="constant")),
            id="constant-padding",
        ),
        pytest.param(
            "stft-normalized",
            lambda w: log_mel(w, MelRecipe(normalized="window")),
            id="stft-normalized",
        ),
        pytest.param(
            "pre-emphasis", lambda w: log_mel(w, MelRecipe(pre_emphasis=0.97)), id="pre-emphasis"
        ),
        pytest.param("no-log", lambda w: log_mel(w, MelRecipe(log_base=None)), id="no-log"),
        pytest.param("double-log", lambda w: log_mel(w).clip(1e-7).log(), id="double-log"),
        pytest.param("frequency-flipped", lambda w: log_mel(w).flip(0), id="frequency-flipped"),
        pytest.param("time-flipped", lambda w: log_mel(w).flip(1), id="time-flipped"),
        pytest.param("clamped", lambda w: log_mel(w).clamp(max=0.5), id="clamped"),
        pytest.param("dc-offset", lambda w: log_mel(w + 0.05), id="dc-offset"),
        pytest.param(
            "clipping",
            lambda w: log_mel(w.clamp(-0.25 * float(w.abs().max()), 0.25 * float(w.abs().max()))),
            id="clipping",
        ),
        pytest.param(
            "band-limited",
            lambda w: log_mel(_resampled(_resampled(w, 24_000, 16_000), 16_000, 24_000)),
            id="band-limited",
        ),
        pytest.param("aliasing", lambda w: log_mel(w[::2].repeat_interleave(2)), id="aliasing"),
        pytest.param(
            "frame-shift",
            lambda w: log_mel(torch.nn.functional.pad(w, (1_105, 0))),
            id="mp3-delay",
        ),
        pytest.param(
            "frame-shift",
            lambda w: log_mel(torch.nn.functional.pad(w, (528, 0))[:-528]),
            id="mp3-delay-of-528",
        ),
        pytest.param("length", lambda w: log_mel(w)[:, :-7], id="cut"),
    ],
)
def test_a_fault_is_named(speech: Tensor, code: str, front: Front) -> None:
    diagnosis = diagnose(speech, front(speech))
    assert diagnosis.kind == "fault"
    assert diagnosis.codes[0] == code


@pytest.mark.parametrize("f_max", [None, 8_000.0, 12_000.0])
@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
def test_the_default_rate_of_torchaudio_is_named_whatever_f_max_is(
    speech: Tensor, f_max: float | None
) -> None:
    extract = torchaudio.transforms.MelSpectrogram(
        n_fft=1024, hop_length=256, n_mels=100, f_max=f_max, power=1.0
    )
    diagnosis = diagnose(speech, extract(speech).clip(min=1e-7).log())
    assert (diagnosis.kind, diagnosis.codes) == ("fault", ("filterbank-rate",))


@pytest.mark.parametrize("name", [n for n in PROFILES if n not in ("vocos", "f5-tts", "zipvoice")])
@pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning")
def test_the_mel_of_another_project_is_named(speech: Tensor, name: str) -> None:
    recipe = profile(name)
    mel = log_mel(_resampled(speech, 24_000, recipe.sample_rate), recipe)
    assert diagnose(speech, mel).codes == (f"profile:{name}",)


@pytest.mark.parametrize("floor", [1e-5, 1e-7])
def test_a_floor_in_use_is_no_finding_beside_a_named_profile(speech: Tensor, floor: float) -> None:
    clip = speech.clone()
    clip[30_000:40_000] = 0
    recipe = dataclasses.replace(profile("bigvgan-24k"), floor=floor)
    diagnosis = diagnose(clip, log_mel(clip, recipe))
    assert (diagnosis.codes, diagnosis.notes) == (("profile:bigvgan-24k",), ())


def test_a_square_mel_on_its_side_is_seen(speech: Tensor) -> None:
    clip = speech[20_000:45_400]
    mel = log_mel(clip)
    assert list(mel.shape) == [100, 100]
    assert diagnose(clip, mel.T).codes == ("axes-transposed",)


def test_three_faults_at_once_are_named(speech: Tensor) -> None:
    recipe = MelRecipe(power=2.0, mel_scale="slaney", log_base="10")
    diagnosis = diagnose(speech, log_mel(32_768 * speech, recipe))
    assert set(diagnosis.codes) == {"power", "mel-scale", "log-base", "int16-scale"}


@pytest.mark.parametrize(
    ("code", "name", "value", "precision"),
    [
        pytest.param("f-max", "f_max", 9_123.0, 1.0, id="f-max"),
        pytest.param("f-max", "f_max", 11_990.0, 1.0, id="f-max-10-hz-off"),
        pytest.param("f-min", "f_min", 37.0, 0.5, id="f-min"),
        pytest.param("win-length", "win_length", 910, 0, id="win-length"),
        pytest.param("pre-emphasis", "pre_emphasis", 0.63, 1e-3, id="pre-emphasis"),
    ],
)
def test_a_number_between_those_of_the_bank_is_found(
    speech: Tensor, code: str, name: str, value: float, precision: float
) -> None:
    recipe = dataclasses.replace(VOCOS, **{name: value})
    diagnosis = diagnose(speech, log_mel(speech, recipe))
    assert diagnosis.codes == (code,)
    found = float(diagnosis.causes[0].evidence.removeprefix(f"{name}="))
    assert found == pytest.approx(value, rel=0, abs=precision)


def test_a_hop_that_drifts_is_told_from_a_mel_one_frame_too_long(speech: Tensor) -> None:
    assert diagnose(speech, log_mel(speech, MelRecipe(hop_length=255))).codes == ("hop-length",)


def test_a_step_in_the_highest_bands_that_nothing_known_makes_is_unknown(speech: Tensor) -> None:
    mel = log_mel(speech)
    mel[90:] += 1.0
    assert diagnose(speech, mel).kind == "unknown"


def test_indistinguishable_causes_are_listed_together(speech: Tensor) -> None:
    diagnosis = diagnose(speech, log_mel(2 * speech))
    assert diagnosis.names("gain")
    assert diagnosis.names("stereo-sum")


def test_a_single_channel_is_told_from_the_mean(speech: Tensor) -> None:
    other = 0.3 * speech.roll(7_000)
    stereo = torch.stack([speech, other])
    assert diagnose(stereo, log_mel(speech)).codes == ("channel-dropped",)


def test_another_expected_recipe_turns_the_verdict_around(speech: Tensor) -> None:
    diagnosis = diagnose(speech, log_mel(speech), expected=profile("bigvgan-24k"))
    assert diagnosis.codes == ("profile:vocos",)


# What is not known.


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(
            lambda w: log_mel(w, MelRecipe(n_fft=900, win_length=900)), id="odd-transform"
        ),
        pytest.param(
            lambda w: log_mel(w) + torch.linspace(-0.3, 0.3, 100).sin()[:, None],
            id="coloured-bands",
        ),
        pytest.param(lambda w: log_mel(w.roll(36_000)), id="another-clip"),
        pytest.param(
            lambda w: torch.randn(
                100, 1 + len(w) // 256, generator=torch.Generator().manual_seed(0)
            ),
            id="noise",
        ),
    ],
)
def test_what_nothing_explains_is_unknown_with_the_nearest_three(
    speech: Tensor, front: Front
) -> None:
    diagnosis = diagnose(speech, front(speech))
    assert diagnosis.kind == "unknown"
    assert diagnosis.codes == ()
    assert len(diagnosis.nearest) == 3


def test_padding_is_named_though_nothing_explains_the_rest(speech: Tensor) -> None:
    coloured = log_mel(speech) + torch.linspace(-0.3, 0.3, 100).sin()[:, None]
    diagnosis = diagnose(speech, torch.nn.functional.pad(coloured, (0, 9)))
    assert (diagnosis.kind, diagnosis.codes) == ("fault", ("padded-frames",))
    assert "Beyond that, no known recipe explains it." in diagnosis.notes


def test_a_mel_of_nan_is_said_to_be_one(speech: Tensor) -> None:
    diagnosis = diagnose(speech, torch.full((100, 282), math.nan))
    assert (diagnosis.kind, diagnosis.codes) == ("fault", ("nan",))


def test_silence_gives_no_cause() -> None:
    silence = torch.zeros(24_000)
    assert diagnose(silence, log_mel(silence)).kind == "identical"
    assert diagnose(silence, log_mel(silence, MelRecipe(power=2.0))).kind == "identical"


# Words and refusals.


def test_the_message_carries_cause_evidence_fix_and_confidence(speech: Tensor) -> None:
    message = diagnose(speech, log_mel(speech, MelRecipe(power=2.0))).message()
    for part in ("evidence", "power", "do this: Set power=1", "confidence: residual"):
        assert part in message


@pytest.mark.parametrize(
    ("waveform", "mel", "said"),
    [
        pytest.param(torch.zeros(24_000).int(), torch.zeros(100, 94), "floating point", id="int"),
        pytest.param(torch.zeros(24_000), torch.zeros(2, 100, 94), "one by one", id="batch"),
        pytest.param(torch.zeros(400), torch.zeros(100, 2), "at least 513 samples", id="short"),
    ],
)
def test_what_is_no_clip_or_no_mel_is_refused(waveform: Tensor, mel: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        diagnose(waveform, mel)


# A bare mel.


@pytest.mark.parametrize(
    ("code", "front"),
    [
        pytest.param("axes-transposed", lambda w: log_mel(w).T, id="transposed"),
        pytest.param(
            "log-base", lambda w: log_mel(w, MelRecipe(log_base="10", floor=1e-7)), id="log10"
        ),
        pytest.param(
            "decibels",
            lambda w: log_mel(w, MelRecipe(log_base="10", log_scale=20.0)),
            id="decibels",
        ),
        pytest.param("no-log", lambda w: log_mel(w, MelRecipe(log_base=None)), id="no-log"),
        pytest.param("double-log", lambda w: log_mel(w).clip(1e-7).log(), id="double-log"),
        pytest.param("normalisation", lambda w: log_mel(w, MelRecipe(std=10.0)), id="feat-scale"),
        pytest.param(
            "band-limited",
            lambda w: log_mel(_resampled(_resampled(w, 24_000, 16_000), 16_000, 24_000)),
            id="band-limited",
        ),
        pytest.param(
            "padded-frames",
            lambda w: torch.nn.functional.pad(log_mel(w), (0, 9)),
            id="padded-frames",
        ),
        pytest.param(
            "nan", lambda w: log_mel(w).index_fill(1, torch.tensor([3]), math.nan), id="nan"
        ),
    ],
)
def test_a_bare_mel_shows(speech: Tensor, code: str, front: Front) -> None:
    clip = speech.clone()
    clip[30_000:40_000] = 0
    assert code in identify(front(clip)).codes


def test_a_sound_bare_mel_shows_nothing_and_fits_its_profile(speech: Tensor) -> None:
    clip = speech.clone()
    clip[30_000:40_000] = 0
    identity = identify(np.asarray(log_mel(clip)), sample_rate=24_000)
    assert identity.codes == ()
    assert identity.profiles == ("vocos", "zipvoice")
    assert identity.floor == pytest.approx(-16.1181, rel=0, abs=1e-4)


def test_a_bare_mel_louder_than_any_sound_fits_no_profile(speech: Tensor) -> None:
    clip = speech.clone()
    clip[30_000:40_000] = 0
    mel = log_mel(clip)
    mel[mel > -10] += 60
    assert identify(mel).profiles == ()


def test_a_bare_mel_cut_off_at_its_top_shows_it(speech: Tensor) -> None:
    assert "clamped" in identify(log_mel(speech).clamp(max=0.5)).codes


@pytest.mark.parametrize(("below", "fits"), [(0.0, True), (0.4, False)])
def test_a_bare_mel_of_more_range_than_a_profile_keeps_does_not_fit_it(
    speech: Tensor, below: float, fits: bool
) -> None:
    mel = log_mel(_resampled(speech, 24_000, 16_000), profile("whisper"))
    mel[0, 5] = mel.min() - below
    assert ("whisper" in identify(mel).profiles) is fits
