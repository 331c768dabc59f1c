"""A loader, a saver and a vocoder that differ from the reference are named, and harmless ones pass.

Most faults of each stage are tried in `tests/faults`, through the suite; here are the forms of
user code and what that catalogue does not have.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck import MelRecipe, handshake_loader, handshake_saver, handshake_vocoder
from melcheck.clips import Clip
from melcheck.diagnosis.stage_handshake import StageHandshake
from melcheck.file_stages import adapt_loader
from melcheck.plan import Plan
from melcheck.probe_clips import FILE_FORMATS, probe, probe_files
from melcheck.recipes import VOCOS
from melcheck.user_code import CallableError
from melcheck.vocoders.agreement import PLAIN, RETRIEVED, agreement, disagreement
from melcheck.vocoders.base import Vocoder, VocoderWrapper
from melcheck.vocoders.load import load_vocoder
from tests.vocoders import untrained

RATE = 24_000
AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
KAISER = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}


def read(path: Any) -> tuple[Tensor, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


def right(path: Any, **kernel: Any) -> Tensor:
    channels, rate = read(path)
    mono = channels.mean(dim=0, keepdim=True)
    return torchaudio.functional.resample(mono, rate, RATE, **kernel)


def of_scipy(path: Any) -> np.ndarray:
    channels, rate = read(path)
    return scipy.signal.resample_poly(channels.mean(dim=0).numpy(), RATE, rate)


def at_22050(path: Any) -> Tensor:
    channels, rate = read(path)
    return torchaudio.functional.resample(channels.mean(dim=0), rate, 22_050)


def by_slices(path: Any) -> Tensor:
    channels, rate = read(path)
    at = (np.arange(int(channels.shape[-1] * RATE / rate)) * rate / RATE).astype(int)
    return channels.mean(dim=0)[torch.from_numpy(at)]


def wav_only(path: Any) -> Tensor:
    if not str(path).endswith(".wav"):
        raise ValueError("not a WAV file")
    return right(path)


def dithered(path: Any) -> Tensor:
    return right(path) + torch.rand(1) / 32_768


# What is right, or differs without harm: the loader, and the code of what is noted.
HARMLESS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "samples alone": (lambda path: right(path)[0], ""),
    "samples and rate": (lambda path: (right(path), RATE), ""),
    "the file's own rate": (lambda path: (read(path)[0].mean(dim=0), read(path)[1]), ""),
    "rate first": (lambda path: (RATE, right(path)[0].numpy()), ""),
    "a dictionary": (lambda path: {"array": right(path)[0], "sampling_rate": RATE}, ""),
    "another kernel": (lambda path: right(path, **KAISER), "resampler"),
    "scipy": (of_scipy, "resampler"),
    "16 bits": (lambda path: (32_768 * right(path)).short().float() / 32_768, "rounding"),
    "float16": (lambda path: right(path).half(), "rounding"),
    "dither": (dithered, "not-repeatable"),
    "one sample late": (
        lambda path: torch.nn.functional.pad(right(path), (1, 0))[..., :-1],
        "shifted",
    ),
    "WAV only": (wav_only, "raises"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_loader_that_is_right_passes_and_what_differs_is_noted(name: str) -> None:
    loader, noted = HARMLESS[name]
    found = handshake_loader(loader, clips=[AUDIO / "kokoro-kumo-en.wav"])
    assert found.passed, found.message()
    assert (found.kind == "identical") == (not noted)
    assert all(noted in note for note in found.notes), found.notes


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the file's samples": (lambda path: read(path)[0].mean(dim=0), "sample-rate"),
    "a rate of its own": (lambda path: (at_22050(path), 22_050), "sample-rate"),
    "that rate unsaid": (lambda path: at_22050(path), "sample-rate"),
    "a wrong rate beside": (lambda path: (right(path), 22_050), "header-rate"),
    "channels in turn": (
        lambda path: (read(path)[0].T.reshape(-1), read(path)[1]),
        "channels",
    ),
    "all channels": (read, "channels"),
    "integers": (lambda path: (32_768 * right(path)).short(), "int16-scale"),
    "slices": (by_slices, "aliasing"),
    "an end less": (lambda path: right(path)[..., :-3_000], "length"),
    "the delay of MP3": (
        lambda path: torch.nn.functional.pad(right(path), (1105 * ("mp3" in str(path)), 0)),
        "shifted",
    ),
    "normalised": (lambda path: 0.9 * right(path) / right(path).abs().max(), "gain"),
    "8 bits": (lambda path: (128 * right(path)).floor() / 128, "rounding"),
    "cropped at random": (
        lambda path: right(path)[..., int(torch.randint(2_000, ())) :][..., :20_000],
        "not-repeatable",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_loader_that_is_wrong_is_named(name: str) -> None:
    loader, code = WRONG[name]
    found = handshake_loader(loader, clips=[AUDIO / "kokoro-kumo-en.wav"])
    assert found.kind == "fault"
    assert found.cause is not None
    assert found.cause.code == code, found.message()
    assert found.message().count(f"{code}: ") <= 2, "a cause is said as such, and once for all"


def test_a_loader_that_refuses_a_clip_of_the_run_fails() -> None:
    found = handshake_loader(wav_only, clips=[AUDIO / "guitar-stereo.flac"])
    [result] = found.faults
    assert result.clip == "guitar-stereo.flac"
    assert "raised ValueError: not a WAV file" in found.message()


def test_a_clip_of_each_format_of_a_run_is_read() -> None:
    names = ("kokoro-kumo-en.wav", "guitar-stereo.flac", "austen-0870.flac", "austen-0930.flac")
    clips = tuple(Clip(name, AUDIO / name, "user") for name in names)
    loader = adapt_loader(right, name="right")
    plan = Plan(clips=clips, vocoders=("embedded",), devices=("cpu",), loader=loader)
    found = plan.loader_handshake(VOCOS)
    assert [each.clip for each in found.results[len(FILE_FORMATS) :]] == [*names[:3]]


def test_the_probe_files_have_the_rates_and_channels_of_their_names(tmp_path: Path) -> None:
    found = [soundfile.info(path) for path in probe_files(tmp_path)]
    assert {(info.samplerate, info.channels) for info in found} == {
        (24_000, 1),
        (24_000, 2),
        (48_000, 1),
        (44_100, 2),
        (22_050, 1),
        (16_000, 1),
        (44_100, 1),
    }


def test_a_rate_that_is_an_argument_is_the_recipes() -> None:
    def load(path: Any, sr: int) -> Tensor:
        channels, rate = read(path)
        return torchaudio.functional.resample(channels.mean(dim=0), rate, sr)

    def save(path: Any, waveform: Tensor, *, sampling_rate: int) -> None:
        soundfile.write(path, waveform[0].numpy(), sampling_rate)

    recipe = MelRecipe(sample_rate=22_050, f_max=8_000.0)
    assert handshake_loader(load, expected=recipe).kind == "identical"
    assert handshake_saver(save, expected=recipe).kind == "identical"


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        (lambda path: "text", "str, no array"),
        (lambda path: (torch.zeros(3), torch.zeros(3)), "a tuple of 2"),
        (lambda path: torch.zeros(2, 3, 4), "[2, 3, 4]"),
        (lambda path: 1 / 0, "ZeroDivisionError"),
    ],
    ids=["text", "two arrays", "three axes", "raises"],
)
def test_what_is_no_loader_is_refused(loader: Callable[[Any], Any], told: str) -> None:
    with pytest.raises(CallableError, match="must take a path and return a waveform") as error:
        handshake_loader(loader)
    assert told in str(error.value)


# Savers.


def write(path: Any, waveform: Any, rate: int, **options: Any) -> None:
    soundfile.write(path, np.asarray(waveform).reshape(-1), rate, **options)


def as_int16(path: Any, waveform: Tensor, rate: int) -> None:
    write(path, (32_767 * waveform.clamp(-1, 1)).short(), rate)


SAVERS: dict[str, tuple[Callable[..., Any], str]] = {
    "soundfile": (write, "identical"),
    "soundfile itself": (soundfile.write, "identical"),
    "scipy itself": (scipy.io.wavfile.write, "identical"),
    "float": (
        lambda path, waveform, rate: write(path, waveform, rate, subtype="FLOAT"),
        "identical",
    ),
    "without a rate": (lambda path, waveform: write(path, waveform, RATE), "identical"),
    "waveform first": (lambda waveform, path, sr: write(path, waveform, sr), "identical"),
    "int16": (as_int16, "benign"),
    "below full scale": (
        lambda path, waveform, rate: write(path, waveform / max(1, waveform.abs().max()), rate),
        "benign",
    ),
}


@pytest.mark.parametrize("name", SAVERS)
def test_a_saver_that_is_right_passes(name: str) -> None:
    saver, kind = SAVERS[name]
    found = handshake_saver(saver)
    assert found.kind == kind, found.message()


WRONG_SAVERS: dict[str, tuple[Callable[..., Any], str]] = {
    "8 bits": (lambda path, x, rate: write(path, x, rate, subtype="PCM_U8"), "rounding"),
    "two channels": (
        lambda path, x, rate: soundfile.write(path, np.stack([x[0], x[0]], axis=1), rate),
        "channels",
    ),
    "an end less": (lambda path, x, rate: write(path, x[..., :-3_000], rate), "length"),
    "upsampled": (
        lambda path, x, rate: write(path, torchaudio.functional.resample(x, rate, 48_000), 48_000),
        "sample-rate",
    ),
    "normalised": (lambda path, x, rate: write(path, 0.95 * x / x.abs().max(), rate), "gain"),
    "scaled twice": (lambda path, x, rate: write(path, x / 32_768, rate), "silent-output"),
}


@pytest.mark.parametrize("name", WRONG_SAVERS)
def test_a_saver_that_is_wrong_is_named(name: str) -> None:
    saver, code = WRONG_SAVERS[name]
    found = handshake_saver(saver)
    assert found.cause is not None
    assert (found.kind, found.cause.code) == ("fault", code), found.message()


def test_a_saver_that_writes_nothing_is_refused() -> None:
    with pytest.raises(CallableError, match="wrote no file at the path"):
        handshake_saver(lambda path, waveform, rate: None)


# Vocoders.


class InBatches:
    """A plain vocoder that pads the mels of a batch with one value."""

    def __init__(self, value: float) -> None:
        self.value, self.decode = value, untrained.small().decode

    def decode_batch(self, mels: Sequence[Tensor]) -> list[Tensor]:
        longest = max(mel.shape[-1] for mel in mels)
        pad = torch.nn.functional.pad
        padded = [pad(mel, (0, longest - mel.shape[-1]), value=self.value) for mel in mels]
        decoded = self.decode(torch.stack(padded))
        return [each[: 256 * (mel.shape[-1] - 1)] for each, mel in zip(decoded, mels, strict=True)]


def compared(vocoder: Any) -> StageHandshake:
    return handshake_vocoder(vocoder, reference=untrained.small())


def in_float64(mel: Tensor) -> Tensor:
    with torch.inference_mode():
        return untrained.small().model.double().decode(mel.double()).float()


def over_the_batch(mel: Tensor) -> Tensor:
    return untrained.small().decode(mel - 0.01 * mel.mean() + 0.01 * mel[:1].mean())


@pytest.mark.parametrize(
    ("vocoder", "kind", "code"),
    [
        (lambda mel: untrained.small().decode(mel), "identical", ""),
        (in_float64, "identical", ""),
        (lambda mel: untrained.small().decode(mel).clamp(-1, 1), "benign", "clipping"),
        (
            lambda mel: (32_767 * untrained.small().decode(mel).clamp(-1, 1)).short(),
            "benign",
            "rounding",
        ),
        (InBatches(-16.118), "benign", "tail"),
        (InBatches(0.0), "fault", "tail"),
        (over_the_batch, "fault", "batch"),
        (lambda mel: untrained.small(seed=1).decode(mel), "fault", "weights"),
        (lambda mel: untrained.small().decode(mel) + 0.01, "fault", "dc-offset"),
        (lambda mel: torch.nan * untrained.small().decode(mel), "fault", "non-finite"),
    ],
    ids=[
        "same",
        "float64",
        "clamped",
        "int16",
        "floor",
        "zeros",
        "batch",
        "weights",
        "offset",
        "nan",
    ],
)
def test_a_vocoder_is_compared_with_its_reference(vocoder: Any, kind: str, code: str) -> None:
    found = compared(vocoder)
    assert found.kind == kind, found.message()
    assert (found.cause.code if found.cause else "") == code, found.message()


@pytest.mark.parametrize(("steps", "code"), [(1, "rounding"), (3, "batch")])
def test_in_a_batch_integers_may_be_one_step_apart(steps: int, code: str) -> None:
    def in_integers(mel: Tensor) -> Tensor:
        integers = (32_767 * untrained.small().decode(mel).clamp(-1, 1)).short()
        return integers - steps * (len(mel) > 1)

    found = compared(in_integers)
    assert found.cause is not None
    assert found.cause.code == code, found.message()


def test_a_vocoder_that_changes_from_call_to_call_fails_though_it_rounds_only() -> None:
    def dropping(mel: Tensor) -> Tensor:
        return untrained.small().decode(mel) + 1e-6 * torch.randn(1)

    found = compared(dropping)
    assert found.cause is not None
    assert found.cause.code == "not-repeatable"


def test_what_looks_like_wrong_weights_with_retrieved_phases_is_said() -> None:
    reference: Any = load_vocoder("embedded")
    model = copy.deepcopy(reference.model)
    generator = torch.Generator().manual_seed(0)
    weight = model.head.out.weight
    weight.data += 0.01 * weight.std() * torch.randn(weight.shape, generator=generator)
    found = handshake_vocoder(model.decode, reference=reference)
    assert found.cause is not None
    assert (found.cause.code, found.cause.alternatives) == ("weights", ("rounding", "seams"))
    assert "looks the same: rounding, seams" in found.message()


def test_mels_of_different_recipes_are_not_compared() -> None:
    griffin_lim = load_vocoder("griffin-lim")

    class Other:
        recipe = MelRecipe(hop_length=240)

        def decode(self, mel: Tensor) -> Tensor:
            return torch.zeros(1, 240 * (mel.shape[-1] - 1))

    with pytest.raises(ValueError, match="whose recipe is a different one"):
        handshake_vocoder(Other(), reference=griffin_lim)


@pytest.mark.parametrize(
    ("name", "bound"), [("embedded", RETRIEVED), ("griffin-lim", PLAIN)], ids=["head", "plain"]
)
def test_what_is_rounding_is_the_vocoders_own(name: str, bound: object) -> None:
    vocoder = load_vocoder(name)
    assert agreement(vocoder) is bound
    waveform = probe(24_000)[None]
    assert disagreement(vocoder, waveform, (1 + 1e-5) * waveform) == ""
    assert "of its level" in disagreement(load_vocoder("embedded"), waveform, -waveform)
    assert "a sample is off by" in disagreement(load_vocoder("griffin-lim"), waveform, -waveform)


@dataclasses.dataclass(frozen=True)
class Undecided(VocoderWrapper):
    """Has two waveforms for each mel, and the least bit of the mel chooses."""

    inner: Vocoder

    def decode(self, mel: Tensor) -> Tensor:
        waveform = probe(24_000)[None]
        return waveform.flip(-1) if int(1e9 * mel.double().sum()) % 2 else waveform


def test_what_rounding_chooses_is_no_disagreement() -> None:
    vocoder = Undecided(load_vocoder("embedded"))
    waveform, mel = probe(24_000)[None], torch.zeros(1, 100, 94)
    other = waveform.flip(-1)
    assert disagreement(vocoder, waveform, other) != ""
    assert disagreement(vocoder, waveform, other, mel=mel) == ""
    assert disagreement(vocoder, waveform, -other, mel=mel) != ""
    assert disagreement(vocoder, waveform, other[:, :-1], mel=mel) != ""
    assert disagreement(vocoder, waveform, other * math.nan, mel=mel) != ""
