"""What is harmless raises no alarm: the ladder of differences that every healthy project has.

On two clips by default; with MELCHECK_FIGURES=full in the environment on all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.diagnosis.loader import handshake_loader
from melcheck.recipes import VOCOS, MelRecipe, log_mel
from tests.faults.injection import CLIPS, FIXTURES, embedded, prepared, target
from tests.faults.model import InjectionTarget, Project, read
from tests.faults.suite_run import SuiteRun

pytestmark = pytest.mark.faults

FULL = os.environ.get("MELCHECK_FIGURES") == "full"
# A voice with digital silence, and music in stereo at another rate.
FEW = ("kokoro-gap", "guitar-stereo")
WINDOWS = 100 if FULL else 20

Rung = Callable[[InjectionTarget], Project]


def write(path: Any, waveform: Tensor, rate: int, subtype: str = "FLOAT") -> None:
    soundfile.write(path, waveform[0].numpy(), rate, subtype=subtype)


def four_stages(target: InjectionTarget) -> Project:
    """The same stages, wrapped, so that each is compared."""
    return Project(
        clip=target.clip,
        load=lambda path: read(Path(path)),
        extract=lambda waveform: log_mel(waveform),
        decode=lambda mel: target.vocoder.decode(mel),
        decode_batch=lambda mels: [target.vocoder.decode(mel[None])[0] for mel in mels],
        save=write,
    )


def threads(number: int) -> Rung:
    def rung(target: InjectionTarget) -> Project:
        def decode(mel: Tensor) -> Tensor:
            before = torch.get_num_threads()
            torch.set_num_threads(number)
            try:
                return target.vocoder.decode(mel)
            finally:
                torch.set_num_threads(before)

        return target.with_decoder(decode)

    return rung


def stored_mel(dtype: torch.dtype) -> Rung:
    return lambda target: target.with_mel(lambda mel: mel.to(dtype))


def recipe(**changes: Any) -> Rung:
    changed = MelRecipe(**changes)
    return lambda target: target.with_front_end(lambda waveform: log_mel(waveform, changed))


def reread(change: Callable[[Tensor], Tensor]) -> Rung:
    return lambda target: target.with_input(change)


def pcm16(waveform: Tensor) -> Tensor:
    return (waveform * 32_768).round().clip(-32_768, 32_767) / 32_768


def dithered(waveform: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((2, *waveform.shape), generator=generator)
    return pcm16(waveform + (noise[0] - noise[1]) / 65_536)


def half(waveform: Tensor) -> Tensor:
    return waveform.half().float()


def one_sample_late(waveform: Tensor) -> Tensor:
    return torch.nn.functional.pad(waveform, (1, 0))[..., :-1]


def of_another_kernel(path: Any) -> Tensor:
    # What torchaudio gives for librosa's "kaiser_best".
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torchaudio.functional.resample(
        torch.from_numpy(samples).mean(dim=1)[None],
        rate,
        VOCOS.sample_rate,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )


def saved_in_16_bits(target: InjectionTarget) -> Project:
    return target.with_saver(lambda path, waveform, rate: write(path, waveform, rate, "PCM_16"))


def in_float64(target: InjectionTarget) -> Project:
    return target.with_front_end(lambda waveform: log_mel(waveform.double()).float())


RUNGS: dict[str, Rung] = {
    "none-of-its-own": lambda target: target.project,
    "four-stages": four_stages,
    "front-end-in-float64": in_float64,
    "1-thread": threads(1),
    "3-threads": threads(3),
    "4-threads": threads(4),
    "mel-float16": stored_mel(torch.float16),
    "mel-bfloat16": stored_mel(torch.bfloat16),
    "floor-1e-5": recipe(floor=1e-5),
    "floor-1e-9-added": recipe(floor=1e-9, floor_mode="add"),
    "one-frame-less": recipe(tail="drop_last"),
    "frames-rounded": recipe(tail="round"),
    "waveform-float16": reread(half),
    "pcm16": reread(pcm16),
    "dither": reread(dithered),
    "one-sample-late": reread(one_sample_late),
    "another-resampler": lambda target: target.with_loader(of_another_kernel),
    "saved-in-16-bits": saved_in_16_bits,
}


@pytest.mark.parametrize("clip", CLIPS if FULL else FEW)
@pytest.mark.parametrize("rung", RUNGS)
def test_a_harmless_difference_raises_no_alarm(
    suite_run: SuiteRun, rung: str, clip: str, tmp_path: Path
) -> None:
    # Goldens are of one recording in float32, by melcheck's own stages.
    goldens = FIXTURES / "goldens" if rung == "none-of-its-own" else None
    project = RUNGS[rung](target(clip, tmp_path))
    assert suite_run(project, prepared(clip)[0], embedded(), goldens=goldens) == {}


@pytest.mark.parametrize("rung", ["pcm16", "dither", "waveform-float16", "another-resampler"])
def test_windows_that_are_read_differently_raise_no_alarm(rung: str, tmp_path: Path) -> None:
    # Windows of any length, place, level and rate.
    draw = random.Random(0)
    load = RUNGS[rung](target(FEW[0], tmp_path)).load
    assert load is not None
    windows = []
    for index in range(WINDOWS):
        _, waveform = prepared(list(CLIPS)[index % len(CLIPS)])
        samples = waveform.shape[-1]
        length = draw.randrange(min(20_000, samples), samples + 1)
        begin = draw.randrange(0, samples - length + 1)
        gain = 10 ** (draw.uniform(-30.0, 3.0) / 20)
        window = (gain * waveform[..., begin : begin + length]).clamp(-1, 1)
        rate = draw.choice([16_000, 22_050, 24_000, 44_100, 48_000])
        windows.append(tmp_path / f"{index}-{gain:.4f}.wav")
        write(windows[-1], torchaudio.functional.resample(window, VOCOS.sample_rate, rate), rate)
    found = handshake_loader(load, clips=windows)
    assert found.passed, found.message()
