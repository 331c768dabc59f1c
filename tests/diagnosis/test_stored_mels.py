"""A stored mel is matched with its clip by name, and what became of it is named."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.audit.causes import meaning
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.stored_mels import (
    FreshMel,
    StoredMelResult,
    check_pattern,
    compare_stored,
    fresh_mel,
    match_by_pattern,
    match_mels,
)
from melcheck.mel_files import StoredMel
from melcheck.recipes import VOCOS, MelRecipe, log_mel

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"


def clip_of(name: str) -> Tensor:
    return load_audio(MelCheckConfig(AUDIO / name, 24_000, None)).waveform[0]


WAVEFORM = clip_of("kokoro-kumo-en.wav")
MEL = log_mel(WAVEFORM)
FRESH = fresh_mel(WAVEFORM, None, VOCOS)
# Of a front end that follows no recipe that has a name: the comparison has nothing but its mel.
NAMELESS = FreshMel(WAVEFORM, MEL, None)


def stored(mel: Tensor) -> StoredMel:
    dtype = str(mel.dtype).removeprefix("torch.")
    count = int((~torch.isfinite(mel)).sum())
    return StoredMel(Path("kumo.npy"), mel.float(), "", dtype, tuple(mel.shape), count)


def with_nan(mel: Tensor) -> Tensor:
    mel = mel.clone()
    mel[10:12, 30] = torch.nan
    return mel


@pytest.mark.parametrize("clip", [FRESH, NAMELESS], ids=["recipe", "nameless"])
@pytest.mark.parametrize(
    "mel",
    [MEL, MEL.half(), MEL.bfloat16(), MEL.double(), MEL + 5e-4],
    ids=["float32", "float16", "bfloat16", "float64", "rounding"],
)
def test_a_mel_as_it_is_made_now_is_fresh(mel: Tensor, clip: FreshMel) -> None:
    found = compare_stored(stored(mel), clip)
    assert found.fresh
    assert not found.note


def test_another_floor_is_fresh_with_a_note() -> None:
    # Only a clip with silence shows it.
    silence = torch.cat([WAVEFORM, torch.zeros(9_600)])
    fresh = fresh_mel(silence, None, VOCOS)
    found = compare_stored(stored(log_mel(silence, MelRecipe(floor=1e-5))), fresh)
    assert (found.fresh, found.note) == (True, True)
    assert "floor" in found.text


SHARED: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "transposed": (lambda mel: mel.T, "axes-transposed", "[323, 100] is [frames, n_mels]"),
    "early": (lambda mel: torch.cat([mel[:, 1:], mel[:, -1:]], 1), "frame-shift", "1 frame early"),
    "late": (lambda mel: torch.cat([mel[:, :1], mel[:, :-1]], 1), "frame-shift", "1 frame late"),
    "last-frame-gone": (lambda mel: mel[:, :-1], "length", "322 frames, 323 in the clip"),
    "first-frame-gone": (lambda mel: mel[:, 1:], "frame-shift", "1 frame early"),
    "a-part": (lambda mel: mel[:, :282], "length", "282 frames, 323 in the clip"),
    "nan": (with_nan, "nan", "2 values (0.0%) are NaN or infinite"),
    "all-nan": (lambda mel: mel * torch.nan, "nan", "32300 values (100.0%)"),
    "normalised": (lambda mel: (mel + 6) / 2.5, "normalisation", "mean -6.0000, std 2.5000"),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_became_of_a_mel_is_named(name: str) -> None:
    damage, code, says = SHARED[name]
    found = compare_stored(stored(damage(MEL)), FRESH)
    assert (found.fresh, found.code) == (False, code)
    assert says in found.text


@pytest.mark.parametrize("name", SHARED)
def test_it_is_named_without_a_known_recipe_too(name: str) -> None:
    damage, code, _ = SHARED[name]
    assert compare_stored(stored(damage(MEL)), NAMELESS).code == code


def test_statistics_of_a_normalisation_are_told_without_a_known_recipe() -> None:
    found = compare_stored(stored((MEL + 6) / 2.5), NAMELESS)
    assert "it is (mel - -6) / 2.5" in found.text


@pytest.mark.parametrize("name", ["transposed", "early", "a-part", "nan", "normalised"])
def test_what_extraction_would_repeat_is_not_answered_by_it(name: str) -> None:
    text = compare_stored(stored(SHARED[name][0](MEL)), FRESH).text
    assert text.endswith("Extracting again with the same code would change nothing.")
    assert "extract again" not in text.lower()


@pytest.mark.parametrize("name", ["transposed", "early", "a-part", "nan"])
def test_a_corpus_has_the_fix_of_its_clips(name: str) -> None:
    found = compare_stored(stored(SHARED[name][0](MEL)), FRESH)
    told = meaning(f"stored:{found.code}")
    assert found.text.endswith(told.fix)
    assert told.fix


def test_a_corpus_of_an_older_recipe_is_to_be_extracted_again() -> None:
    found = compare_stored(stored(log_mel(WAVEFORM, MelRecipe(power=2.0))), FRESH)
    assert meaning(f"stored:{found.code}").fix.startswith("Extract the stored mels again")


def test_a_newer_front_end_is_answered_by_extraction() -> None:
    old = stored(log_mel(WAVEFORM, MelRecipe(power=2.0)))
    found = compare_stored(old, dataclasses.replace(FRESH, front_end="mytts:mel"))
    assert found.text.endswith("Extract again with mytts:mel, which makes a different mel today.")
    # Without one, the recipe of the code that wrote it has to change first.
    assert "Set power=1. torchaudio's default" in compare_stored(old, FRESH).text


def test_a_cache_without_the_recipe_s_statistics_is_to_be_normalised() -> None:
    recipe = MelRecipe(mean=-5.5, std=2.1)
    clip = fresh_mel(WAVEFORM, None, recipe)
    found = compare_stored(stored(MEL), clip)
    assert found.code == "normalisation"
    assert "Take (x + 5.5) / 2.1 of the log-mel." in found.text


def test_it_says_where_the_nan_is() -> None:
    assert "frame 30 (0.32 s), bands 10 to 11" in compare_stored(stored(with_nan(MEL)), FRESH).text
    mel = MEL.clone()
    mel[3, 40:43] = mel[50, 7] = -torch.inf
    text = compare_stored(stored(mel.T), FRESH).text
    told = "all -inf, the logarithm of 0: frames 7, 40 to 42 (0.07 to 0.45 s), bands 3, 50"
    assert told in text


def test_nan_that_the_front_end_makes_today_is_not_the_cache_s() -> None:
    clip = FreshMel(WAVEFORM, with_nan(MEL), None, "mytts:mel")
    found = compare_stored(stored(with_nan(MEL)), clip)
    assert (found.fresh, found.code) == (False, "nan")
    assert "mytts:mel makes them of this clip today" in found.text


SILENCE = torch.cat([WAVEFORM, torch.zeros(9_600)])
NAMELESS_SILENCE = FreshMel(SILENCE, log_mel(SILENCE), None)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("floor", [1e-5, 1e-9])
def test_a_floor_is_no_normalisation(floor: float, half: bool) -> None:
    mel = log_mel(SILENCE, MelRecipe(floor=floor))
    found = compare_stored(stored(mel.half() if half else mel), NAMELESS_SILENCE)
    assert (found.fresh, found.note) == (True, True)
    assert "fresh but for its floor" in found.text


def test_a_floor_that_affects_decoding_is_named_as_such() -> None:
    mel = log_mel(SILENCE, MelRecipe(floor=1e-3))
    found = compare_stored(stored(mel), NAMELESS_SILENCE)
    assert (found.fresh, found.code) == (False, "floor")
    assert "clipped at -6.908, now at -16.118" in found.text


def test_a_normalisation_after_another_floor_keeps_its_statistics() -> None:
    mel = (log_mel(SILENCE, MelRecipe(floor=1e-5)) + 6) / 2.5
    assert "it is (mel - -6) / 2.5" in compare_stored(stored(mel), NAMELESS_SILENCE).text


def test_the_owner_of_a_mel_is_named() -> None:
    other = log_mel(clip_of("kokoro-blend-en.flac"))
    found = compare_stored(stored(other), FRESH, owner=lambda mel: "emma/1")
    assert found.code == "other-audio"
    assert "it is the mel of emma/1" in found.text
    assert "not by its position in a list" in found.text


def test_two_things_at_once_are_both_named() -> None:
    found = compare_stored(stored(with_nan(torch.cat([MEL[:, 1:], MEL[:, -1:]], 1)).T), FRESH)
    assert "nan: 2 values" in found.text
    assert "axes-transposed: " in found.text
    assert "frame-shift: 1 frame early" in found.text


@pytest.mark.parametrize(
    ("code", "recipe"),
    [
        ("power", MelRecipe(power=2.0)),
        ("mel-scale", MelRecipe(mel_scale="slaney")),
        ("log-base", MelRecipe(log_base="10")),
    ],
)
def test_another_recipe_is_named(code: str, recipe: MelRecipe) -> None:
    found = compare_stored(stored(log_mel(WAVEFORM, recipe)), FRESH)
    assert (found.fresh, found.code) == (False, code)


@pytest.mark.parametrize("clip", [FRESH, NAMELESS], ids=["recipe", "nameless"])
def test_the_mel_of_another_clip_is_named(clip: FreshMel) -> None:
    other = log_mel(clip_of("kokoro-blend-en.flac"))
    assert compare_stored(stored(other), clip).code == "other-audio"


def test_as_many_frames_as_bands_do_not_hide_swapped_axes() -> None:
    square = WAVEFORM[: 99 * 256]
    found = compare_stored(stored(log_mel(square).T), fresh_mel(square, None, VOCOS))
    assert found.code == "axes-transposed"


def test_another_number_of_bands_is_stale() -> None:
    found = compare_stored(stored(log_mel(WAVEFORM, MelRecipe(n_mels=80, f_max=8_000.0))), FRESH)
    assert not found.fresh
    assert found.code != "other-audio"


def test_a_front_end_with_a_recipe_of_its_own_has_no_name() -> None:
    slaney = MelRecipe(mel_scale="slaney")
    made = fresh_mel(WAVEFORM, lambda waveform: log_mel(waveform, slaney), VOCOS)
    assert made.recipe is None
    assert compare_stored(stored(log_mel(WAVEFORM, slaney)), made).fresh
    assert fresh_mel(WAVEFORM, log_mel, VOCOS).recipe == VOCOS


def test_a_comparison_says_its_text() -> None:
    assert str(StoredMelResult(True, "fresh", "fresh")) == "fresh"


# Which file belongs to which clip.


def clips(*paths: str) -> list[Clip]:
    return [Clip(f"clip-{number}", Path(path), "user") for number, path in enumerate(paths)]


def files(*paths: str) -> list[Path]:
    return [Path(path) for path in paths]


@pytest.mark.parametrize(
    "name",
    ["a.npy", "a.wav.npy", "a.mel.npy", "a_mel.pt", "a-mel.npy", "mel-a.npy", "mel_a.safetensors"],
)
def test_names_that_scripts_give_are_matched(name: str) -> None:
    found = match_mels(files(f"/mels/{name}"), clips("/data/a.wav", "/data/b.wav"))
    assert found.mels == {"clip-0": (Path("/mels") / name,)}


def test_a_clip_that_is_called_mel_something_is_matched_first() -> None:
    found = match_mels(files("/mels/mel-a.npy"), clips("/data/a.wav", "/data/mel-a.wav"))
    assert found.mels == {"clip-1": (Path("/mels/mel-a.npy"),)}


def test_folders_above_tell_equal_names_apart() -> None:
    stems = ("one/a", "two/a")
    found = match_mels(
        files(*(f"/mels/{stem}.npy" for stem in stems)),
        clips(*(f"/data/{stem}.wav" for stem in stems)),
    )
    assert found.mels == {
        "clip-0": (Path("/mels/one/a.npy"),),
        "clip-1": (Path("/mels/two/a.npy"),),
    }


def test_a_mel_as_near_to_two_clips_belongs_to_neither() -> None:
    found = match_mels(files("/mels/a.npy"), clips("/data/one/a.wav", "/data/two/a.wav"))
    assert found.mels == {}
    assert found.without_audio == (Path("/mels/a.npy"),)


def test_a_mel_of_another_speaker_is_not_taken_for_the_clips() -> None:
    found = match_mels(files("/mels/one/a.npy", "/mels/two/a.npy"), clips("/data/one/a.wav"))
    assert found.mels == {"clip-0": (Path("/mels/one/a.npy"),)}
    assert found.without_audio == (Path("/mels/two/a.npy"),)


def test_what_has_no_audio_is_told() -> None:
    found = match_mels(files("/mels/b.npy", "/mels/a.npy"), clips("/data/a.wav"))
    assert found.without_audio == (Path("/mels/b.npy"),)


def test_two_forms_of_one_letter_are_one_name() -> None:
    composed, decomposed = (unicodedata.normalize(form, "ガé") for form in ("NFC", "NFD"))
    assert composed != decomposed
    found = match_mels(files(f"/mels/{decomposed}.npy"), clips(f"/data/{composed}.wav"))
    assert list(found.mels) == ["clip-0"]


def test_the_id_of_a_row_names_a_mel_too() -> None:
    cut = Clip("talks/cut-7", Path("/data/long.wav"), "user")
    found = match_mels(files("/mels/cut-7.npy"), [cut])
    assert found.mels == {"talks/cut-7": (Path("/mels/cut-7.npy"),)}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{speaker}-mel-{stem}.npy", "one-mel-a.npy"),
        ("mel/{name}.pt", "mel/clip-0.pt"),
        ("{speaker}/{stem}.{{x}}.npy", "one/a.{x}.npy"),
    ],
)
def test_a_pattern_matches_a_clip_with_its_mel(pattern: str, name: str) -> None:
    check_pattern(pattern)
    others = files("/mels/a.npy", "/mels/two-mel-a.npy", f"/mels/{name}")
    found = match_by_pattern(Path("/mels"), others, clips("/data/one/a.wav"), pattern)
    assert found.mels == {"clip-0": (Path("/mels") / name,)}
    assert len(found.without_audio) == 2


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("{speaker}.npy", "all clips have one mel"),
        ("{stem}.wav", "must end in one of .npy"),
        ("{stem.__class__}.npy", "alone, got {stem.__class__}"),
        ("{stem!r}.npy", "alone, got {stem}"),
        ("{}.npy", "alone, got {}"),
        ("{stem.npy", "is no pattern"),
    ],
)
def test_a_pattern_that_names_no_mel_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        check_pattern(pattern)


@pytest.mark.parametrize("loudest", [0.0, 3.0], ids=["quiet", "loud"])
def test_sound_where_the_clip_is_silent_is_not_fresh(loudest: float) -> None:
    silence = fresh_mel(torch.zeros(48_000), None, VOCOS)
    noise = loudest - 5 * torch.rand(silence.mel.shape, generator=torch.Generator().manual_seed(0))
    found = compare_stored(stored(noise), silence)
    assert (found.fresh, found.code) == (False, "other-audio")


@pytest.mark.parametrize("clip", [FRESH, NAMELESS], ids=["recipe", "nameless"])
def test_three_frames_of_another_place_are_enough_to_be_stale(clip: FreshMel) -> None:
    mel = MEL.clone()
    mel[:, 100:103] = MEL[:, 50:53]
    assert not compare_stored(stored(mel), clip).fresh
