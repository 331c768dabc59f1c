"""What a collated batch shows is named, and a batch as it should be passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from melcheck import VOCOS, MelCheckConfig, MelRecipe, check_batch, log_mel
from melcheck.audio import load_audio
from melcheck.diagnosis.batch import BatchCheck
from melcheck.profiles import profile

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
NAMES = ("kokoro-blend-en.flac", "kokoro-kumo-en.wav", "kokoro-short.flac")
CLIPS = [load_audio(MelCheckConfig(AUDIO / name, 24_000, None)).waveform[0] for name in NAMES]
# Digital silence, as between sentences, shows a floor.
CLIPS[0] = torch.cat([CLIPS[0], torch.zeros(4_800), CLIPS[0][:9_600]])

Batch = tuple[Tensor, list[int], Tensor]


def collated(recipe: MelRecipe = VOCOS, padding: float | None = None) -> Batch:
    """Return mels, lengths and waveforms as a data loader's collate function does."""
    mels = [log_mel(clip, recipe) for clip in CLIPS]
    lengths = [mel.shape[1] for mel in mels]
    value = recipe.log_floor if padding is None else padding
    padded = [
        torch.nn.functional.pad(mel, (0, max(lengths) - length), value=value)
        for mel, length in zip(mels, lengths, strict=True)
    ]
    waveforms = torch.nn.utils.rnn.pad_sequence(CLIPS, batch_first=True)
    return torch.stack(padded), lengths, waveforms


MELS, LENGTHS, WAVEFORMS = collated()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (LENGTHS,),
        (torch.tensor(LENGTHS), WAVEFORMS),
        (None, WAVEFORMS[:, None]),
        (None, CLIPS),
    ],
    ids=["mels", "lengths", "waveforms", "one-channel", "list"],
)
def test_a_batch_as_it_should_be_passes(arguments: tuple[object, ...]) -> None:
    found = check_batch(MELS, *arguments)
    assert (found.passed, str(found)) == (True, "passed")


@pytest.mark.parametrize("name", ["f5-tts", "hifigan-22k", "matcha-22k", "whisper"])
def test_a_batch_of_any_recipe_passes(name: str) -> None:
    recipe = profile(name)
    mels, lengths, waveforms = collated(recipe)
    found = check_batch(mels, lengths, waveforms, recipe=recipe)
    assert found.passed, found


def test_noise_is_not_taken_for_a_normalised_mel() -> None:
    generator = torch.Generator().manual_seed(0)
    gains = torch.tensor([0.01, 0.1, 0.5])[:, None]
    assert check_batch(log_mel(gains * torch.randn(3, 48_000, generator=generator))).passed


@pytest.mark.parametrize("floor", [1e-5, 1e-9])
def test_a_floor_in_use_is_a_note(floor: float) -> None:
    found = check_batch(*collated(MelRecipe(floor=floor)))
    assert found.passed
    assert "harmless" in found.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_precision_is_a_note(dtype: torch.dtype) -> None:
    found = check_batch(MELS.to(dtype), LENGTHS, WAVEFORMS)
    assert found.passed
    assert str(dtype).removeprefix("torch.") in found.notes[0]


def test_arrays_of_numpy_and_relative_lengths_are_taken() -> None:
    shares = [length / max(LENGTHS) for length in LENGTHS]
    assert check_batch(MELS.numpy(), np.array(shares), WAVEFORMS.numpy()).passed


# What is named, from the mels alone and beside their audio.


def with_nan(mels: Tensor) -> Tensor:
    mels = mels.clone()
    mels[1, 3, 5:9] = torch.nan
    return mels


def one(index: int, mel: Tensor) -> Tensor:
    mels = MELS.clone()
    mels[index] = mel
    return mels


ALONE: dict[str, tuple[Tensor, str, str]] = {
    "integers": (MELS.int(), "dtype", "int32, expected float32"),
    "transposed": (MELS.transpose(1, 2), "axes-transposed", "expected [batch, n_mels, frames]"),
    "80-bands": (MELS[:, :80], "n-mels", "expected 100 bands"),
    "nan": (with_nan(MELS), "nan", "4 values: frames 5 to 8, band 3 of item 1"),
    "zero-padded": (collated(padding=0.0)[0], "padded-frames", "hold 0, 140 dB above the floor"),
    "normalised": ((MELS + 5) / 2.5, "normalisation", "-4.447 is the logarithm of no usual floor"),
    "standardised": ((MELS - MELS.mean()) / MELS.std(), "normalisation", "a range of"),
    "log10": (MELS / np.log(10), "log-base", "log10(1e-07)"),
    "no-log": (MELS.exp(), "no-log", "no value is negative"),
    "decibels": (MELS * 8.686, "decibels", "decibels, not nats"),
    "high-floor": (collated(MelRecipe(floor=1e-3))[0], "floor", "-6.908, -16.12 expected"),
    "duplicated": (one(1, MELS[0]), "duplicated", "items 0 and 1 hold the same mel"),
    "silent": (torch.full_like(MELS, -16.118), "silent-clip", "every value is -16.12"),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_mels_show_alone_is_named(name: str) -> None:
    mels, code, told = ALONE[name]
    found = check_batch(mels)
    assert found.codes[:1] == (code,)
    assert told in found.cause
    assert found.fix


def late(index: int) -> Tensor:
    mel, length = MELS[index].clone(), LENGTHS[index]
    mel[:, 1:length] = MELS[index, :, : length - 1]
    return one(index, mel)


BESIDE_AUDIO: dict[str, tuple[Tensor, str, str]] = {
    "power": (collated(MelRecipe(power=2.0))[0], "power", "items 0, 1, 2 of 3"),
    "mel-scale": (collated(MelRecipe(mel_scale="slaney"))[0], "mel-scale", "mel_scale='slaney'"),
    "hop": (collated(MelRecipe(hop_length=240))[0], "hop-length", "hop_length=240"),
    "normalised": ((MELS + 5) / 2.5, "normalisation", "mean -5.0000, std 2.5000"),
    "swapped": (MELS[[1, 0, 2]], "other-audio", "that of item 0 is of waveform 1"),
    "rolled": (MELS.roll(1, 0), "other-audio", "that of item 1 is of waveform 0"),
    "stale": (one(1, MELS[1].flip(1)), "time-flipped", "item 1 of 3"),
    "late": (late(1), "frame-shift", "1.00 frames) late; item 1 of 3"),
    "other": (one(0, torch.roll(MELS[0], 150, 1)), "other-audio", "correlates"),
    "longer": (torch.nn.functional.pad(MELS, (0, 90), value=-9.0), "padded-frames", "hold -9"),
}


@pytest.mark.parametrize("name", BESIDE_AUDIO)
def test_mels_that_are_not_those_of_their_waveforms_are_named(name: str) -> None:
    mels, code, told = BESIDE_AUDIO[name]
    found = check_batch(mels, waveforms=WAVEFORMS)
    assert found.codes[:1] == (code,)
    assert told in found.cause


def test_one_stale_item_is_told_from_a_wrong_recipe() -> None:
    slaney = collated(MelRecipe(mel_scale="slaney"))[0]
    found = check_batch(one(2, slaney[2]), LENGTHS, WAVEFORMS)
    assert found.fix == "Extract item 2 again: the mels of the other items follow the recipe."
    assert "Set mel_scale='htk'" in check_batch(slaney, LENGTHS, WAVEFORMS).fix


def test_a_clip_that_is_drawn_twice_is_a_note() -> None:
    waveforms = WAVEFORMS.clone()
    waveforms[1] = WAVEFORMS[0]
    lengths = [LENGTHS[0], LENGTHS[0], LENGTHS[2]]
    found = check_batch(one(1, MELS[0]), lengths, waveforms)
    assert found.passed
    assert found.notes == ("items 0 and 1 hold the same mel, and the same waveform",)
    # With a waveform of its own the second is a fault of the loader.
    assert check_batch(one(1, MELS[0]), lengths, WAVEFORMS).codes[0] == "duplicated"


def test_nan_in_a_waveform_is_named() -> None:
    waveforms = WAVEFORMS.clone()
    waveforms[1, 7] = torch.nan
    assert check_batch(MELS, LENGTHS, waveforms).codes == ("non-finite",)


# Lengths and padding.


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ([len(clip) for clip in CLIPS], "these are samples, and 256 make a frame"),
        ([length - 20 for length in LENGTHS], "Pass the frames of each mel"),
        ([0, *LENGTHS[1:]], "Pass the number of frames"),
    ],
    ids=["samples", "too-short", "zero"],
)
def test_lengths_that_are_not_those_of_the_mels_are_named(lengths: list[int], told: str) -> None:
    found = check_batch(MELS, lengths)
    assert found.codes == ("length",)
    assert told in found.fix


def test_padding_that_is_masked_is_a_note() -> None:
    mels = collated(padding=0.0)[0]
    found = check_batch(mels, LENGTHS, padding_masked=True)
    assert found.passed
    assert found.notes[0].endswith("hold 0, 140 dB above the floor of -16.12; they are masked")
    assert not check_batch(mels, LENGTHS).passed


def test_mels_that_a_recipe_normalises_and_the_batch_does_not_are_named() -> None:
    recipe = profile("matcha-22k")
    plain = dataclasses.replace(recipe, mean=0.0, std=1.0)
    found = check_batch(collated(plain)[0], recipe=recipe)
    assert found.codes == ("normalisation",)
    assert found.fix == "Normalise them: (mel - -5.53662) / 2.1161."


def test_a_second_cause_is_told_after_the_first() -> None:
    found = check_batch(collated(padding=0.0)[0].transpose(1, 2), LENGTHS)
    assert found.codes == ("axes-transposed", "padded-frames")
    assert " | also padded-frames: " in str(found)


# What is refused.

Call = Callable[[], BatchCheck]
REFUSED: dict[str, tuple[Call, str]] = {
    "one-mel": (lambda: check_batch(MELS[0]), "must be [batch, n_mels, frames]"),
    "few-lengths": (lambda: check_batch(MELS, [1]), "each of 3 items, got 1 numbers"),
    "few-waveforms": (lambda: check_batch(MELS, None, WAVEFORMS[:2]), "must be [3, samples]"),
    "int16": (lambda: check_batch(MELS, None, WAVEFORMS.short()), "int16 divided by 32768"),
    "short": (lambda: check_batch(MELS, None, WAVEFORMS[:, :99]), "at least 513 samples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_is_refused(name: str) -> None:
    call, told = REFUSED[name]
    with pytest.raises(ValueError, match=r"mels|lengths|waveforms") as caught:
        call()
    assert told in str(caught.value)


def test_a_list_is_no_batch() -> None:
    with pytest.raises(TypeError, match="mels must be a tensor or a NumPy array"):
        check_batch([1.0])


# What must not change.


@pytest.mark.parametrize("wrong", [False, True], ids=["passes", "fails"])
def test_nothing_outside_is_changed(wrong: bool) -> None:
    mels = (MELS / 2 if wrong else MELS).clone().requires_grad_()
    waveforms = WAVEFORMS.clone().requires_grad_()
    before = mels.detach().clone(), waveforms.detach().clone(), torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = check_batch(mels, LENGTHS, waveforms)
        assert torch.is_autocast_enabled("cpu")
    assert found.passed is not wrong
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.equal(mels.detach(), before[0])
    assert torch.equal(waveforms.detach(), before[1])
    assert (mels._version, mels.grad, mels.grad_fn) == (0, None, None)
    assert torch.is_grad_enabled()
    (2 * mels).sum().backward()
    assert mels.grad is not None
