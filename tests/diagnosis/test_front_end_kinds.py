"""Front ends that people reported: each stands for a kind, and its verdict and causes agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
import torchaudio.compliance.kaldi
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.handshake import Handshake, handshake
from melcheck.diagnosis.identify import identify
from melcheck.diagnosis.recipe_search.mel_values import beyond_rounding
from melcheck.diagnosis.recipe_search.recipe_changes import (
    changed,
    filters_of,
    sparse_filters,
)
from melcheck.diagnosis.stored_mels import compare_stored, fresh_mel
from melcheck.frontends import adapt_frontend
from melcheck.mel_files import StoredMel
from melcheck.profiles import PROFILES, profile
from melcheck.recipes import VOCOS, MelRecipe, log_mel
from tests.diagnosis.public_front_ends import VOCOS as IN_NUMPY

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
CLIPS = sorted(path.name for path in AUDIO.iterdir())

Front = Callable[[Tensor], Any]


def clip(name: str) -> Tensor:
    return load_audio(MelCheckConfig(AUDIO / name, 24_000, 3.0)).waveform[0]


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return clip("austen-0870.flac")


def recipe(**numbers: Any) -> MelRecipe:
    return dataclasses.replace(VOCOS, **numbers)


def magnitudes(waveform: Tensor) -> Tensor:
    return log_mel(waveform, recipe(floor=1e-30)).exp()


def agree(found: Handshake) -> bool:
    """The verdict is that of the diagnosis, and the text has no other."""
    assert found.diagnosis is not None
    passed = found.diagnosis.kind in ("identical", "benign")
    return found.compatible == passed and not (
        "incompatible" in found.message() and "benign" in found.message()
    )


# A correct front end never fails.


def of_librosa(waveform: Tensor) -> Tensor:
    mel = librosa.feature.melspectrogram(
        y=waveform.numpy(),
        sr=24_000,
        n_fft=1024,
        hop_length=256,
        n_mels=100,
        htk=True,
        norm=None,
        power=1.0,
        pad_mode="reflect",
    )
    return torch.from_numpy(np.log(np.maximum(mel, 1e-7)))


LIBRARIES: dict[str, Front] = {
    "librosa": of_librosa,
    "numpy-float64": lambda w: torch.from_numpy(IN_NUMPY(w.numpy())),
    "numpy-float32": lambda w: torch.from_numpy(
        dataclasses.replace(IN_NUMPY, single=True)(w.numpy())
    ),
    "torch-float64": lambda w: log_mel(w.double()).float(),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CLIPS)
def test_another_library_differs_by_rounding_alone_on_every_fixture(
    name: str, library: str
) -> None:
    waveform = clip(name)
    mel = LIBRARIES[library](waveform)
    assert not beyond_rounding(log_mel(waveform), mel, VOCOS).any()
    assert diagnose(waveform, mel).kind == "identical"


# One verdict, with its cause.

HARMLESS: dict[str, tuple[Front, str]] = {
    "f5-tts": (lambda w: log_mel(w, recipe(floor=1e-5)), "floor"),
    "zipvoice": (lambda w: log_mel(w, recipe(tail="round")), "profile:zipvoice"),
    "added-1e-5": (lambda w: log_mel(w, recipe(floor=1e-5, floor_mode="add")), "floor"),
    "root-1e-9": (lambda w: log_mel(w, recipe(magnitude_eps=1e-9)), "magnitude-eps"),
    "bfloat16": (lambda w: magnitudes(w).clip(1e-7).bfloat16().float().log(), "rounding"),
    "padded": (
        lambda w: log_mel(torch.nn.functional.pad(w, (0, -w.shape[-1] % 256))),
        "length",
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_vocoder_takes_passes_with_a_note(name: str, speech: Tensor) -> None:
    front, code = HARMLESS[name]
    found = handshake(front, speech=[speech])
    assert found.compatible
    assert agree(found)
    assert found.verdict != "identical"
    assert found.diagnosis is not None
    assert any(code in each.diagnosis.codes for each in found.results if each.diagnosis)
    assert found.cause()[1].startswith("Nothing need be done.")
    assert "vocoder trained" not in found.cause()[1]


FAULTS: dict[str, tuple[Front, set[str]]] = {
    "root-1e-6": (lambda w: log_mel(w, recipe(magnitude_eps=1e-6)), {"magnitude-eps"}),
    "added-1": (lambda w: log_mel(w, recipe(floor=1.0, floor_mode="add")), {"floor"}),
    "decibels-to-0-1": (
        lambda w: ((20 * magnitudes(w).clip(1e-5).log10() - 20 + 100) / 100).clip(max=1.0),
        {"decibels", "normalisation"},
    ),
    "each-band": (
        lambda w: (
            (log_mel(w) - torch.linspace(-8, -2, 100)[:, None])
            / torch.linspace(0.8, 2.0, 100)[:, None]
        ),
        {"normalisation"},
    ),
    "each-band-of-the-clip": (
        lambda w: (
            (log_mel(w) - log_mel(w).mean(-1, keepdim=True)) / log_mel(w).std(-1, keepdim=True)
        ),
        {"normalisation"},
    ),
    "symmetric-window-at-16-kHz-filters": (
        lambda w: log_mel(w, recipe(filterbank_rate=16_000, f_min=80.0, f_max=7_600.0)),
        {"filterbank-rate", "f-min"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_it_cannot_take_is_named_and_nothing_else(name: str, speech: Tensor) -> None:
    front, codes = FAULTS[name]
    found = diagnose(speech, front(speech))
    assert found.kind == "fault"
    assert codes <= set(found.codes) <= codes | {"clamped", "floor"}


def test_a_level_of_its_own_for_each_clip_is_named_as_such(speech: Tensor) -> None:
    found = handshake(lambda w: log_mel(0.95 * w / w.abs().amax(-1, keepdim=True)), speech=[speech])
    assert not found.compatible
    cause, _ = found.cause()
    assert "each clip is brought to a peak of 0.95" in cause


def test_forms_of_call_that_disagree_fail_and_name_what_differs(speech: Tensor) -> None:
    def of_one_clip(x: Tensor) -> Tensor:
        return log_mel(torch.cat([x[:1], x[1:] - 0.97 * x[:-1]]))

    found = handshake(of_one_clip, speech=[speech])
    assert not found.compatible
    assert found.diagnosis is not None
    assert "pre-emphasis" in found.diagnosis.codes
    assert "called with a tensor [samples]" in found.message()


# The search.


@pytest.mark.parametrize("name", ["cosyvoice2", "nsf-hifigan-44k", "gpt-sovits-v4"])
def test_a_profile_is_named_with_the_numbers_that_differ(name: str, speech: Tensor) -> None:
    from melcheck.diagnosis.recipe_search.audio_readings import resampled

    own = profile(name)
    mel = log_mel(resampled(speech, 24_000, own.sample_rate), own)
    found = diagnose(speech, mel)
    assert f"profile:{name}" in found.codes
    assert f"hop_length={own.hop_length}, 256 expected" in found.causes[0].evidence
    assert "Set " in found.fix
    assert "hop_length=256" in found.fix


def test_as_many_frames_as_bands_of_the_recipe_are_no_transposition() -> None:
    """80 bands and 100 frames, as CosyVoice 2 makes of two seconds."""
    waveform = clip("kokoro-kumo-en.wav")[:48_000]
    mel = log_mel(waveform, profile("cosyvoice2"))
    assert list(mel.shape) == [80, 100]
    assert "axes-transposed" not in diagnose(waveform, mel).codes
    assert "axes-transposed" in diagnose(waveform, mel.T).codes


def test_what_nothing_explains_shows_the_nearest_and_what_was_ruled_out(speech: Tensor) -> None:
    colour = torch.linspace(-0.6, 0.6, 100).sin()[:, None]
    found = diagnose(speech, (log_mel(speech, profile("bigvgan-24k")) + colour).T)
    assert "nearest three" in found.message()
    unknown = diagnose(speech, log_mel(speech) + colour)
    assert unknown.kind == "unknown"
    assert len(unknown.nearest) == 3
    assert "ruled out: " in unknown.message()


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_sparse_filters_give_the_bands_of_the_filters(power: float, speech: Tensor) -> None:
    energy = (
        torch.stft(speech, 1024, 256, window=torch.hann_window(1024), return_complex=True)
        .abs()
        .T.square()[20:28]
    )
    every = sparse_filters(VOCOS, 1024, 3, 100, True)
    few = (0, 1, len(every.changes) // 2, len(every.changes) - 1)
    logs = every.log_bands(energy, power)[list(few)]
    few_changes = [every.changes[index] for index in few]
    some = sparse_filters(VOCOS, 1024, 3, 100, True, few_changes)
    assert torch.equal(some.log_bands(energy, power), logs)
    for row, index in enumerate(few):
        filters = filters_of(changed(VOCOS, every.changes[index]))[:, ::3]
        bands = energy.sqrt() @ filters if power == 1.0 else energy @ filters
        heard = bands > 1e-6
        apart = (bands.log() - logs[row].T)[heard].abs()
        assert float(apart.max()) < 1e-3


def test_no_window_is_tried_that_is_longer_than_its_transform(speech: Tensor) -> None:
    """A transform of 2048 with a window of 1200 is two changes, and not each alone."""
    mel = log_mel(speech, recipe(f_min=91.0, f_max=7_650.0, mel_scale="slaney", n_mels=80))
    assert diagnose(speech, mel).kind in ("fault", "unknown")


KALDI: dict[str, tuple[dict[str, Any], float, bool]] = {
    "of-a-recogniser": ({"num_mel_bins": 80}, 32_768.0, False),
    "of-samples-of-1": ({"num_mel_bins": 40, "snip_edges": False}, 1.0, False),
    "of-a-speaker-encoder": ({"num_mel_bins": 80, "window_type": "hamming"}, 1.0, True),
}


@pytest.mark.parametrize("case", KALDI)
def test_the_filterbank_of_kaldi_is_named_with_its_options(case: str, speech: Tensor) -> None:
    options, factor, less_means = KALDI[case]
    at_16_khz = torchaudio.functional.resample(speech, 24_000, 16_000)
    mel = torchaudio.compliance.kaldi.fbank(factor * at_16_khz[None], **options).T
    found = diagnose(speech, mel - mel.mean(dim=1, keepdim=True) if less_means else mel)
    assert found.codes == ("kaldi-fbank",)
    evidence = found.causes[0].evidence
    assert all(f"{name}={value!r}" in evidence for name, value in options.items())
    assert ("less its mean" in evidence) == less_means
    other = diagnose(speech, mel * torch.linspace(0.9, 1.1, len(mel))[:, None])
    assert "kaldi-fbank" not in other.codes


# Caches and bare mels.


def test_a_cache_that_agrees_with_its_front_end_is_fresh(speech: Tensor) -> None:
    frontend = adapt_frontend(lambda w: log_mel(w).mT, name="mytts:mel")
    fresh = fresh_mel(speech, frontend.encode, VOCOS)
    mel = log_mel(speech).T
    kept = StoredMel(Path("a.npy"), mel, "", "float32", tuple(mel.shape), 0)
    found = compare_stored(kept, fresh)
    assert (found.fresh, found.note) == (True, True)
    assert "as the front end returns it" in found.text


def test_a_bare_mel_of_kaldi_shows_its_floor(speech: Tensor) -> None:
    silence = torch.cat([speech, torch.zeros(9_600)])
    mel = log_mel(silence, recipe(n_mels=80, floor=2.0**-23))
    assert any("-15.9424 = ln(1.19209e-07)" in clue.text for clue in identify(mel).clues)


def test_a_bare_mel_of_26_bands_lies_the_right_way(speech: Tensor) -> None:
    assert identify(log_mel(speech, recipe(n_mels=26)).T).n_mels == 26


def test_every_profile_is_told_from_the_others(speech: Tensor) -> None:
    own = {name: entry.recipe for name, entry in PROFILES.items()}
    assert len(set(own.values())) == len(own)
