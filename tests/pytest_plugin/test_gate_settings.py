"""What a team sets so that the gate can stay on: thresholds, accepted misses, parts, profiles."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

REPOSITORY = Path(__file__).parents[2]
AUDIO = REPOSITORY / "fixtures" / "audio"
CLIP = AUDIO / "kokoro-kumo-en.wav"
RATE = 24_000
EMBEDDED = ("-m", "sanity", "--mel-vocoder", "embedded")

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the gate in a project whose clips lie in `spk`, in this process."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_sanity.py", pytester.path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (pytester.path / "spk" / "emma").mkdir(parents=True)
    loud(pytester.path / "spk" / "emma" / "1.wav")

    def call(*options: object) -> pytest.RunResult:
        audio = () if "--mel-audio" in options else ("--mel-audio=spk",)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *EMBEDDED, *audio, *options)

    return call


def loud(path: Path, *, gain: float = 1.0) -> Path:
    """Write half a second of a loud voice, which misses the SNR and nothing else."""
    samples, rate = soundfile.read(
        AUDIO / "kokoro-alpha-ja.flac", start=RATE // 2, frames=RATE // 2, dtype="float32"
    )
    soundfile.write(path, gain * samples, rate, subtype="FLOAT")
    return path


def cases(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    document = json.loads((pytester.path / "r.json").read_text())
    return [case for case in document["cases"] if case["outcome"] != "baseline"]


def test_a_loud_clip_is_explained_by_its_level_and_never_by_weights(
    run: Run, pytester: pytest.Pytester
) -> None:
    output = run("--mel-report=r.json").stdout
    output.re_match_lines(
        [r".*likely cause: the clip is loud, .*at -20 dBFS it has SNR 2\d\.\d+ dB"]
    )
    assert "weights were loaded" not in output.str()
    [case] = cases(pytester)
    assert case["cause"]["code"] == "level"
    assert re.fullmatch(r"SNR is 18\.\d dB, must be above 20 dB", case["reason"])


# Thresholds.


@pytest.mark.parametrize("pattern", ["", "emma/*: "], ids=["all", "by-name"])
def test_a_threshold_of_the_project_passes_and_stands_beside_the_default(
    run: Run, pytester: pytest.Pytester, pattern: str
) -> None:
    pytester.makepyprojecttoml(
        f'[tool.pytest.ini_options]\nmel_thresholds = ["{pattern}snr_db=18"]\n'
    )
    result = run("--mel-report=r.json", "--mel-report=r.md")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "melcheck: thresholds of this project: *snr_db above 18 (default 20)",
            "*note: passes by the project's own threshold: snr_db 18.* must be above 18*",
            "*SNR > 18 dB (default 20)*" if not pattern else "gates of emma/*: snr_db above 18 *",
        ]
    )
    [case] = cases(pytester)
    [gate] = [gate for gate in case["gates"] if gate["metric"] == "snr_db"]
    assert (gate["limit"], gate["default"], gate["passed"]) == (18.0, 20.0, True)
    assert "default 20" in (pytester.path / "r.md").read_text()


def test_a_threshold_on_the_command_line_can_be_missed(run: Run) -> None:
    run("--mel-threshold=mae=0.05").assert_outcomes(failed=1)


def test_a_threshold_of_other_clips_is_noted(run: Run) -> None:
    result = run("--mel-thresholds=adam/*: snr_db=18")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["thresholds of adam/*: *: no clip of this run has such a name"])


# Accepted misses.


@pytest.fixture
def accepted(run: Run, pytester: pytest.Pytester) -> Path:
    """The file that accepts the miss of the clip; the run that writes it still fails."""
    result = run("--mel-accept")
    result.assert_outcomes(failed=1)
    path = pytester.path / "mel-accepted.yaml"
    result.stdout.fnmatch_lines([f"{path}: 1 misses accepted, 0 no longer needed. *"])
    return path


def test_an_accepted_miss_is_known_and_can_be_read(run: Run, accepted: Path) -> None:
    result = run()
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["* known miss", "*note: accepted on 20*: SNR is 18.* dB, must*"])
    [entry] = yaml.safe_load(accepted.read_text())
    assert (entry["clip"], entry["file"]) == ("emma/1", "spk/emma/1.wav")
    assert entry["misses"] == ["snr_db"]
    assert entry["figures"]["snr_db"] == pytest.approx(18.8, abs=0.3)
    assert "dB, must be above 20 dB: the clip is loud" in entry["reason"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"snr_db": 19.6}, "worse than accepted on 20*: snr_db was 19.6"),
        ({"audio_sha256": "0" * 64}, "its audio has changed since 20*"),
    ],
    ids=["worse", "other-audio"],
)
def test_an_accepted_miss_that_no_longer_holds_fails(
    run: Run, accepted: Path, change: dict[str, Any], says: str
) -> None:
    [entry] = yaml.safe_load(accepted.read_text())
    entry["figures"] |= {name: value for name, value in change.items() if name in entry["figures"]}
    entry |= {name: value for name, value in change.items() if name in entry}
    accepted.write_text(yaml.safe_dump([entry]))
    result = run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"emma/1: *{says}*"])


def test_an_accepted_miss_that_is_not_needed_fails_until_it_is_dropped(
    run: Run, accepted: Path
) -> None:
    threshold = "--mel-threshold=snr_db=18"
    result = run(threshold)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no longer needs what was accepted on 20*"])
    run(threshold, "--mel-accept").stdout.fnmatch_lines(["*0 misses accepted, 1 no longer needed*"])
    run(threshold).assert_outcomes(passed=1)


def test_an_accepted_miss_holds_for_its_part_and_front_end_alone(
    run: Run, pytester: pytest.Pytester, accepted: Path
) -> None:
    run("--mel-duration=0.499").assert_outcomes(failed=1)
    pytester.makepyfile(
        labfront="from melcheck import log_mel\n\ndef mel(waveform):\n"
        "    return log_mel(waveform)\n"
    )
    options = ("--mel-frontend=labfront:mel", "--mel-duration=0.499")
    run(*options, "--mel-accept")
    run(*options).assert_outcomes(xfailed=1, passed=2)
    assert len(yaml.safe_load(accepted.read_text())) == 2


def test_a_wrong_front_end_is_not_accepted(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        labfront="from melcheck import MelRecipe, log_mel\n\ndef mel(waveform):\n"
        "    return log_mel(waveform, MelRecipe(power=2.0))\n"
    )
    result = run("--mel-frontend=labfront:mel", "--mel-accept")
    result.stdout.fnmatch_lines(["*0 misses accepted, 0 no longer needed, 1 not accepted: the *"])


def test_a_file_of_accepted_misses_that_is_damaged_ends_the_run(run: Run, accepted: Path) -> None:
    accepted.write_text("- clip: emma/1\n")
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "entry 1 must have clip, file" in result.stderr.str()


# Which clips, and which part of them.


def test_an_offset_and_a_duration_choose_the_part(run: Run, pytester: pytest.Pytester) -> None:
    shutil.copy(CLIP, pytester.path)
    options = ("--mel-audio", CLIP.name, "--mel-offset=middle", "--mel-duration=1")
    result = run(*options, "--mel-report=r.json")
    result.stdout.fnmatch_lines(
        [
            "melcheck: 1 clips, the middle 1 s of each, *",
            " kokoro-kumo-en  kokoro-kumo-en.wav, 1.0 of 3.4 s, from 1.2 s",
        ]
    )
    [case] = cases(pytester)
    assert case["audio"]["checked_seconds"] == 1.0
    assert case["audio"]["begin_seconds"] == pytest.approx(1.22, abs=0.01)


def test_a_sample_of_the_clips_is_checked(run: Run) -> None:
    for number in range(2, 5):
        loud(Path("spk/emma") / f"{number}.wav", gain=0.2)
    result = run("--mel-sample=2", "--mel-seed=3")
    assert sum(result.parseoutcomes().get(name, 0) for name in ("passed", "failed")) == 2
    result.stdout.fnmatch_lines(["--mel-sample 2: chosen by name, with seed 3"])


def test_what_a_row_should_say_stands_in_it(run: Run, pytester: pytest.Pytester) -> None:
    samples, _ = soundfile.read(AUDIO / "austen-0870.flac", dtype="float32")
    long = [0.0] * 16_000 + [*(0.2 * samples)] + [0.0] * 16_000 * 30
    soundfile.write(pytester.path / "spk" / "emma" / "1.wav", long, 16_000)
    run("--mel-report=r.json").stdout.re_match_lines(
        [
            r" emma/1  spk/emma/1\.wav, 3\.0 of 35\.\d s",
            r".*note: the file has 16,000 Hz, so nothing above 8,000 Hz; .*",
            r".*note: the first 1\.\d\d s of what was looked at are silent",
            r".*note: only 3\.0 of 35\.\d s were looked at",
        ]
    )
    assert len(cases(pytester)[0]["notes"]) == 3


# Keys, the header, the expected recipe.


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("mel_adio", "mel_audio"),
        ("mel_threshold", "mel_thresholds"),
        ("mel-frontend", "mel_frontend"),
        ("melvocoder", "mel_vocoder"),
        ("mel_loudness", "mel_"),
    ],
)
def test_a_key_that_is_none_ends_the_run_with_the_nearest(
    run: Run, pytester: pytest.Pytester, key: str, nearest: str
) -> None:
    pytester.makepyprojecttoml(f'[tool.pytest.ini_options]\n{key} = "x"\n')
    result = run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{key} is no key of melcheck. Did you mean {nearest}" in result.stderr.str()


def test_the_header_says_what_is_checked_and_what_is_not(run: Run) -> None:
    run().stdout.fnmatch_lines(
        [
            "melcheck: 1 clips, the first 3 s of each, embedded on cpu",
            "melcheck: front end: none, your own code is not checked",
            "melcheck: stored mels: none, your cache is not checked",
        ]
    )


def test_a_vocoder_of_another_mel_than_the_profile_ends_the_run(run: Run) -> None:
    result = run("--mel-profile=hifigan-22k")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--mel-vocoder embedded must decode the mel of --mel-profile hifigan-22k" in (
        result.stderr.str()
    )


VOICE = """
import torch

from melcheck.profiles import profile
from melcheck.vocoders.load import load_vocoder


class HiFiGAN(torch.nn.Module):
    {recipe}

    def __init__(self):
        super().__init__()
        self.inner = load_vocoder("griffin-lim", recipe=profile("hifigan-22k"))

    def forward(self, mel):
        return self.inner.decode(mel)[:, None]


def make():
    return HiFiGAN().eval()
"""


@pytest.mark.parametrize(
    ("recipe", "profile"),
    [("recipe = 'hifigan-22k'", ()), ("", ("--mel-profile=hifigan-22k",))],
    ids=["its-own-recipe", "the-profile"],
)
def test_a_hifigan_of_the_users_goes_round(
    run: Run, pytester: pytest.Pytester, recipe: str, profile: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        voice=VOICE.format(recipe=recipe),
        labfront="from melcheck import log_mel\nfrom melcheck.profiles import profile\n\n"
        "def mel(waveform):\n"
        "    return log_mel(waveform, profile('hifigan-22k'))\n",
    )
    options = ("--mel-audio", CLIP, "--mel-vocoder=voice:make", "--mel-frontend=labfront:mel")
    result = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "-m", "sanity", *options, *profile
    )
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["voice:make takes no arguments; what it returned is used"])


def test_a_vocoder_that_names_no_recipe_is_told_to(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(voice=VOICE.format(recipe=""))
    result = pytester.runpytest_inprocess(
        "-m", "sanity", "--mel-audio", CLIP, "--mel-vocoder=voice:make"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "It names no recipe, so the mel of Vocos at 24 kHz was tried" in result.stderr.str()
    assert 'the name of a profile ("hifigan-22k")' in result.stderr.str()


# Said once, cause first.


def test_the_summary_of_pytest_shows_clip_and_cause(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run().stdout.fnmatch_lines(["FAILED * - Failed: emma/1: the clip is loud*"])


def test_a_cause_that_cases_share_is_said_once_with_how_many(
    run: Run, pytester: pytest.Pytester
) -> None:
    loud(pytester.path / "spk" / "emma" / "2.wav", gain=0.98)
    output = run().stdout
    output.fnmatch_lines(["failed: 2 cases, one likely cause: the clip is loud*"])
    assert (
        output.str().count("likely cause: the clip is loud, and only its level makes it miss (")
        == 2
    )
    assert output.str().count("Accept the miss, or set a threshold of your own.") == 2


def test_a_missing_mel_is_a_failure(run: Run, pytester: pytest.Pytester) -> None:
    (pytester.path / "mels").mkdir()
    loud(pytester.path / "spk" / "emma" / "2.wav", gain=0.2)
    import numpy as np

    np.save(pytester.path / "mels" / "2.npy", np.zeros((100, 47), np.float32))
    result = run("--mel-cache=mels", "-k", "stored", "--mel-report=r.json")
    result.assert_outcomes(failed=2)
    tests = json.loads((pytester.path / "r.json").read_text())["failed_tests"]
    assert [(test["kind"], test["name"]) for test in tests] == [
        ("stored mel", "emma/1"),
        ("stored mel", "emma/2"),
    ]
    assert "no mel called 1 in the cache" in tests[0]["message"]


# The folder for pictures.


def test_the_folder_for_pictures_keeps_the_last_runs_and_stays_out_of_git(
    run: Run, pytester: pytest.Pytester
) -> None:
    folder = pytester.path / "mel-artifacts"
    run("--mel-keep-runs=1")
    assert (folder / ".gitignore").read_text() == "*\n"
    assert (folder / "emma" / "1-embedded-cpu" / "mels.png").is_file()
    (folder / "mine").mkdir()
    shutil.move(pytester.path / "spk" / "emma" / "1.wav", pytester.path / "spk" / "2.wav")
    run("--mel-keep-runs=2")
    assert (folder / "emma" / "1-embedded-cpu" / "mels.png").is_file()
    run("--mel-keep-runs=1")
    assert not (folder / "emma").exists()
    assert (folder / "2-embedded-cpu" / "mels.png").is_file()
    assert (folder / "mine").is_dir()
