"""A project with four stages of its own is gated by pytest, from its ini keys to the exit code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CLIP = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"

STAGES = """\
import soundfile
import torch
import torchaudio

from melcheck import load_vocoder, log_mel

vocoder = load_vocoder("embedded")


def load(path):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = torch.from_numpy(samples).mean(dim=1)
    return torchaudio.functional.resample(mono, rate, 24_000), 24_000


def mel(waveform):
    return log_mel(waveform)


def decode(mel):
    return vocoder.decode(mel)


def save(path, waveform, rate):
    soundfile.write(path, waveform[0].numpy(), rate)
"""
KEYS = """\
[tool.pytest.ini_options]
mel_audio = ["clip.wav"]
mel_loader = "ourtts:load"
mel_frontend = "ourtts:mel"
mel_vocoder = ["ourtts:decode"]
mel_vocoder_reference = "embedded"
mel_saver = "ourtts:save"
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    def call(stages: str = STAGES, keys: str = KEYS, *options: str) -> pytest.RunResult:
        pytester.makepyfile(ourtts=stages, test_mel="from melcheck.suite import *\n")
        pytester.makepyprojecttoml(keys)
        shutil.copy(CLIP, pytester.path / "clip.wav")
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-m", "sanity", *options)

    return call


def test_a_project_that_is_right_is_green_in_every_stage(run: Run) -> None:
    result = run()
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(
        [
            "melcheck: loader ourtts:load (*ourtts.py:10)",
            "melcheck: front end ourtts:mel (*ourtts.py:16)",
            "melcheck: saver ourtts:save (*ourtts.py:24)",
            "melcheck: vocoders compared with embedded",
        ]
    )


FAULTS = {
    "loader": (
        "torch.from_numpy(samples).mean(dim=1)",
        "torch.from_numpy(samples[:, 0])",
        "test_loader_reads_what_is_in_the_file",
        "channel-dropped",
    ),
    "front end": (
        "log_mel(waveform)",
        "log_mel(waveform) / 2.302585",
        "test_front_end_makes_the_vocoders_mel",
        "log-base",
    ),
    "vocoder": (
        "vocoder.decode(mel)",
        "0.9 * vocoder.decode(mel)",
        "test_vocoder_decodes_as_its_reference",
        "gain",
    ),
    "saver": (
        "waveform[0].numpy(), rate)",
        "waveform[0].numpy(), 22_050)",
        "test_saver_writes_what_was_decoded",
        "header-rate",
    ),
}


@pytest.mark.parametrize("stage", FAULTS)
def test_a_fault_of_a_stage_is_red_with_its_cause(run: Run, stage: str) -> None:
    old, new, test, cause = FAULTS[stage]
    assert STAGES.count(old) == 1
    result = run(STAGES.replace(old, new))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"likely cause: {cause}: *"])
    result.stdout.fnmatch_lines([f"FAILED *{test}*"])


def test_a_difference_that_is_harmless_is_a_note(run: Run) -> None:
    result = run(STAGES.replace("rate, 24_000), 24_000", "rate, 24_000, 64), 24_000"))
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["loader ourtts:load, harmless: resampler: *"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("ourtts:load", "ourtts:lod", "ourtts has no attribute 'lod'. Did you mean 'load'?"),
        ('reference = "embedded"', 'reference = "nothing"', "--mel-vocoder-reference nothing: "),
        ('["ourtts:decode"]', '["griffin-lim"]', "beside a vocoder of your own, got griffin-lim"),
    ],
    ids=["name", "reference", "no-vocoder"],
)
def test_a_stage_that_cannot_be_used_ends_the_run(run: Run, old: str, new: str, told: str) -> None:
    result = run(STAGES, KEYS.replace(old, new))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()


def test_the_loader_reads_the_clips_of_the_round_trip(run: Run) -> None:
    quiet = STAGES.replace("    return torchaudio", "    mono = 0 * mono\n    return torchaudio")
    result = run(quiet)
    result.stdout.fnmatch_lines(["*silent clip: 100.0% of its mel is at the floor*"])
    result.stdout.fnmatch_lines(["likely cause: loader ourtts:load: the waveform is silent*"])
