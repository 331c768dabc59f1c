"""What is harmless raises no alarm: the ladder of differences that every healthy project has.

On four clips and 40 windows by default; with MELCHECK_FIGURES=full in the environment, with which
the tolerances of `tests.faults.gates` were measured, on all clips and 200 windows.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.clips import Clip
from melcheck.recipes import VOCOS, MelRecipe, log_mel
from tests.faults.gates import FRONT_GATES, inspect
from tests.faults.injection import CLIPS, embedded, healthy
from tests.faults.model import Expectation, LoopUnderTest, expect

pytestmark = pytest.mark.faults

FULL = os.environ.get("MELCHECK_FIGURES") == "full"
# Two voices, one with digital silence, and music in stereo.
FEW = ("kokoro-kumo-en", "austen-0870", "kokoro-gap", "guitar-stereo")
WINDOWS = 200 if FULL else 40

Rung = Callable[[Expectation], LoopUnderTest]


def again(expected: Expectation) -> LoopUnderTest:
    """The same stages, wrapped, so that every gate compares them."""
    loop = expected.loop
    return LoopUnderTest(
        load=lambda path: loop.load(path),
        extract=lambda waveform: loop.extract(waveform),
        decode=lambda mel: loop.decode(mel),
        save=lambda path, waveform: loop.save(path, waveform),
        decode_batch=lambda mels: [loop.decode(mel) for mel in mels],
    )


def threads(number: int) -> Rung:
    def rung(expected: Expectation) -> LoopUnderTest:
        def limited(stage: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def run(given: Tensor) -> Tensor:
                before = torch.get_num_threads()
                torch.set_num_threads(number)
                try:
                    return stage(given)
                finally:
                    torch.set_num_threads(before)

            return run

        loop = expected.loop
        return dataclasses.replace(loop, extract=limited(loop.extract), decode=limited(loop.decode))

    return rung


def stored_mel(dtype: torch.dtype) -> Rung:
    def rung(expected: Expectation) -> LoopUnderTest:
        loop = expected.loop
        return dataclasses.replace(
            loop, extract=lambda waveform: loop.extract(waveform).to(dtype).float()
        )

    return rung


def reread(change: Callable[[Tensor], Tensor]) -> Rung:
    def rung(expected: Expectation) -> LoopUnderTest:
        changed = change(expected.waveform)
        return dataclasses.replace(expected.loop, load=lambda _: changed)

    return rung


def pcm16(waveform: Tensor) -> Tensor:
    return (waveform * 32_768).round().clip(-32_768, 32_767) / 32_768


def dithered(waveform: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((2, *waveform.shape), generator=generator)
    return pcm16(waveform + (noise[0] - noise[1]) / 32_768)


def half(waveform: Tensor) -> Tensor:
    return waveform.half().float()


def one_sample_late(waveform: Tensor) -> Tensor:
    return torch.nn.functional.pad(waveform, (1, 0))[..., :-1]


def other_resampler(waveform: Tensor) -> Tensor:
    # Up with one filter and down with a different one, so that their errors do not cancel.
    # The parameters are those that torchaudio gives for librosa's "kaiser_best".
    up = torchaudio.functional.resample(waveform, VOCOS.sample_rate, 48_000)
    return torchaudio.functional.resample(
        up,
        48_000,
        VOCOS.sample_rate,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )


def saved_in_16_bits(expected: Expectation) -> LoopUnderTest:
    def save(path: Path, waveform: Tensor) -> None:
        soundfile.write(path, waveform[0].numpy(), VOCOS.sample_rate, subtype="PCM_16")

    return dataclasses.replace(expected.loop, save=save)


def in_float64(expected: Expectation) -> LoopUnderTest:
    return dataclasses.replace(
        expected.loop, extract=lambda waveform: log_mel(waveform.double()).float()
    )


SAME_RECORDING: dict[str, Rung] = {
    "again": again,
    "front-end-in-float64": in_float64,
    "1-thread": threads(1),
    "3-threads": threads(3),
    "4-threads": threads(4),
}

# Goldens are of one recording in float32; these give different numbers, rightly: rounding to
# bfloat16 alone moves a statistic by 600 tolerances.
OTHER_NUMBERS: dict[str, Rung] = {
    "mel-float16": stored_mel(torch.float16),
    "mel-bfloat16": stored_mel(torch.bfloat16),
    "waveform-float16": reread(half),
    "pcm16": reread(pcm16),
    "dither": reread(dithered),
    "one-sample-late": reread(one_sample_late),
    "other-resampler": reread(other_resampler),
    "saved-in-16-bits": saved_in_16_bits,
}

PROFILES = {
    "floor-1e-5": MelRecipe(floor=1e-5),
    "floor-1e-9-added": MelRecipe(floor=1e-9, floor_mode="add"),
}


@pytest.fixture(params=CLIPS if FULL else FEW)
def clip(request: pytest.FixtureRequest) -> Clip:
    return CLIPS[request.param]


@pytest.fixture
def expected(clip: Clip) -> Expectation:
    return healthy(clip.name)


@pytest.mark.parametrize("rung", SAME_RECORDING)
def test_another_run_raises_no_alarm(expected: Expectation, rung: str, tmp_path: Path) -> None:
    assert inspect(SAME_RECORDING[rung](expected), expected, tmp_path) == {}


@pytest.mark.parametrize("rung", OTHER_NUMBERS)
def test_a_harmless_difference_raises_no_alarm(
    expected: Expectation, rung: str, tmp_path: Path
) -> None:
    unbound = dataclasses.replace(expected, encoded=None, reconstructed=None)
    assert inspect(OTHER_NUMBERS[rung](unbound), unbound, tmp_path) == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_floor_that_is_declared_raises_no_alarm(clip: Clip, profile: str, tmp_path: Path) -> None:
    recipe = PROFILES[profile]
    expected = expect(clip, embedded(), recipe=recipe)
    loop = dataclasses.replace(expected.loop, extract=lambda wave: log_mel(wave, recipe))
    assert inspect(loop, expected, tmp_path) == {}


@pytest.mark.parametrize("cut", [1, 100, 255])
def test_an_odd_length_raises_no_alarm(
    clip: Clip, expected: Expectation, cut: int, tmp_path: Path
) -> None:
    window = expected.waveform[..., :-cut]
    shorter = expect(clip, embedded(), waveform=window)
    loop = dataclasses.replace(again(shorter), load=lambda _: window.clone())
    assert inspect(loop, shorter, tmp_path) == {}


REREAD: dict[str, Callable[[Tensor], Tensor]] = {
    "pcm16": pcm16,
    "dither": dithered,
    "waveform-float16": half,
    "one-sample-late": one_sample_late,
    "other-resampler": other_resampler,
}


@pytest.mark.parametrize("rung", REREAD)
def test_a_window_that_is_read_differently_raises_no_alarm(rung: str, tmp_path: Path) -> None:
    # Windows of any length, place and level; nothing after the mel is looked at.
    draw = random.Random(0)
    source = healthy(FEW[0])
    waveforms = [source.loop.load(clip.path) for clip in CLIPS.values()]
    alarms = []
    for index in range(WINDOWS):
        name, waveform = list(CLIPS)[index % len(CLIPS)], waveforms[index % len(CLIPS)]
        samples = waveform.shape[-1]
        length = draw.randrange(min(20_000, samples), samples + 1)
        begin = draw.randrange(0, samples - length + 1)
        gain = 10 ** (draw.uniform(-30.0, 3.0) / 20)
        window = (gain * waveform[..., begin : begin + length]).clamp(-1, 1)
        mel = source.loop.extract(window)
        expected = dataclasses.replace(
            source, waveform=window, mel=mel, encoded=None, reconstructed=None
        )
        found = inspect(reread(REREAD[rung])(expected), expected, tmp_path, gates=FRONT_GATES)
        if found:
            alarms.append((name, length, round(gain, 4), found))
    assert alarms == []
