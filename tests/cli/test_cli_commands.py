"""Each command of the command line: what it finds, what it refuses, what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from huggingface_hub import constants

from melcheck import MelCheckConfig, MelPipeline, MelRecipe, log_mel
from melcheck.cli.main import COMMANDS, main
from melcheck.report.json_format import read_report
from melcheck.vocoders.weights import (
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    OFFICIAL_SHA256,
    VocoderError,
)
from tests.vocoders import hub_server

REPOSITORY = Path(__file__).parents[2]
AUDIO = REPOSITORY / "fixtures" / "audio"
DRUMS_FAIL = ("--threshold", "drums-clicks: snr_db=60")
CLIP = AUDIO / "kokoro-kumo-en.wav"
RATE = 24_000

Captured = pytest.CaptureFixture[str]
Run = Callable[..., str]


@pytest.fixture
def refused(capsys: Captured) -> Run:
    """Run a command that cannot go on, and return its one message."""

    def call(code: int, *argv: object) -> str:
        assert main([str(word) for word in argv]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert captured.err.startswith(f"melcheck {argv[0]}: ")
        return captured.err

    return call


@pytest.fixture
def told(capsys: Captured) -> Run:
    """Run a command that ends with a code, and return what it prints; stderr stays empty."""

    def call(code: int, *argv: object) -> str:
        ended = main([str(word) for word in argv])
        captured = capsys.readouterr()
        assert (captured.err, ended) == ("", code)
        return captured.out

    return call


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The cache of this machine must not decide what these tests see."""
    cache = tmp_path / "hf" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture(scope="module")
def waveform() -> torch.Tensor:
    return MelPipeline(MelCheckConfig(CLIP, RATE, None)).load_audio()[0]


@pytest.fixture
def stored(tmp_path: Path, waveform: torch.Tensor) -> Callable[..., Path]:
    """Write the mel of the clip under a recipe, after a change."""

    def write(name: str, change: Callable[[Any], Any] | None = None, **numbers: Any) -> Path:
        mel = log_mel(waveform, MelRecipe(**numbers)).numpy()
        path = tmp_path / name
        np.save(path, mel if change is None else change(mel))
        return path

    return write


def silence(folder: Path) -> Path:
    path = folder / "silence.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    return path


def text_as_wav(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("this is not audio\n" * 40)
    return path


def frontends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a module of front ends, and go where it is."""
    (folder / "mytts_cli.py").write_text(
        "import melcheck\n\n\n"
        "def mel(waveform):\n"
        '    print("noise of a front end")\n'
        "    return melcheck.log_mel(waveform)\n\n\n"
        "def power(waveform):\n"
        "    return melcheck.log_mel(waveform, melcheck.MelRecipe(power=2.0))\n\n\n"
        "def edges(waveform):\n"
        "    return melcheck.log_mel(waveform, melcheck.MelRecipe(pad_mode='constant'))\n\n\n"
        "def frames_first(waveform):\n"
        "    return melcheck.log_mel(waveform).transpose(1, 2).numpy()\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])


# check


def test_check_passes_a_clip_beside_griffin_lim_and_leaves_its_pictures(
    told: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts = Path("pictures")
    shutil.copy(CLIP, "clip.wav")  # a long path is not broken
    out = told(0, "check", "clip.wav", "--vocoder", "embedded", "--artifacts", artifacts)
    assert "1 of 1 checks passed" in out
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines() if "griffin-lim  " in line]
    assert [row[-1] for row in rows] == ["baseline"]
    assert (artifacts / ".gitignore").read_text() == "*\n"
    [folder] = (path for path in artifacts.iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} == {
        "mels.png",
        "difference.png",
        "reconstructed.wav",
    }


def test_check_fails_a_clip_that_misses_a_gate_and_says_which(told: Run, tmp_path: Path) -> None:
    out = told(1, "check", silence(tmp_path), CLIP, "--vocoder", "embedded", "--no-artifacts")
    assert "failed: silence with embedded: reference_floor_share 1 must be below 0.999" in out
    assert "1 of 2 checks passed" in out


def test_check_says_that_the_official_vocoder_was_left_out(told: Run) -> None:
    out = told(0, "check", CLIP, "--no-artifacts")
    assert "official: not in the Hugging Face cache, so not checked" in out


def test_check_reads_folders_and_as_much_as_asked_for(told: Run, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / CLIP.name).write_bytes(CLIP.read_bytes())
    out = told(0, "check", clips, "--vocoder", "griffin-lim", "--duration", "all", "--no-artifacts")
    assert "only the start" not in out


def test_check_writes_every_report_that_is_asked_for(told: Run, tmp_path: Path) -> None:
    names = [tmp_path / f"report.{suffix}" for suffix in ("json", "html", "md")]
    options = [word for name in names for word in ("--report", name)]
    told(0, "check", CLIP, "--vocoder", "embedded", "--no-artifacts", *options)
    report = read_report(names[0])
    assert report.verdict == "passed"
    assert [case.outcome for case in report.cases] == ["passed", "baseline"]
    assert "data:image/png;base64" in names[1].read_text(encoding="utf-8")
    assert "| kokoro-kumo-en" in names[2].read_text(encoding="utf-8")


def test_the_json_of_check_holds_the_document_of_its_report(told: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    out = told(0, "check", CLIP, "--vocoder", "griffin-lim", "--no-artifacts", "--json")
    path.write_text(json.dumps(json.loads(out)["report"]), encoding="utf-8")
    assert read_report(path).cases[0].vocoder == "griffin-lim"


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("mel", 0, "the mel of embedded: identical"),
        ("power", 1, "likely cause: power: the exponent"),
        ("frames_first", 0, "its axes are swapped"),
    ],
)
def test_check_takes_a_front_end_round_the_loop(
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    says: str,
) -> None:
    frontends(tmp_path, monkeypatch)
    argv = ["check", str(CLIP), "--vocoder", "embedded", "--no-artifacts"]
    assert main([*argv, "--frontend", f"mytts_cli:{name}"]) == code
    out = capsys.readouterr().out
    assert says in " ".join(out.split())
    assert "noise" not in out


def test_a_report_fails_where_only_the_front_end_does(
    told: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontends(tmp_path, monkeypatch)
    argv = ["check", CLIP, "--vocoder", "embedded", "--no-artifacts", "--frontend"]
    out = told(1, *argv, "mytts_cli:edges", "--report", "r.json", "--report", "r.md")
    assert "1 of 1 checks passed" in out
    report = read_report(tmp_path / "r.json")
    assert report.verdict == "failed"
    [fault] = report.failed_tests
    assert "mytts_cli:edges: pad-mode" in fault.message
    assert "melcheck: failed" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_a_quick_check_gives_verdicts_alone(
    told: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = told(1, "check", AUDIO, "--quick", *DRUMS_FAIL)
    assert "embedded: 11 of 12 clips passed" in answer
    assert "failed: drums-clicks with embedded: snr_db" in answer
    assert "likely cause: " in answer
    assert "embedded: melcheck package, 0.6 M parameters, sha256" in answer
    assert "clips of which only a part was checked: 11" in answer
    assert answer.endswith("11 of 12 checks passed\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("vocoder", ["embedded", "griffin-lim"])
@pytest.mark.parametrize("option", ["--quick", "--no-artifacts"])
def test_a_silent_clip_is_said_to_be_silent(
    told: Run, tmp_path: Path, vocoder: str, option: str
) -> None:
    answer = " ".join(told(1, "check", silence(tmp_path), "--vocoder", vocoder, option).split())
    assert "silent clip: 100.0% of its mel is at the floor" in answer
    assert "likely cause: the clip is silent" in answer


@pytest.mark.parametrize("option", ["--quick", "--no-artifacts"])
def test_a_long_file_is_computed_in_chunks_and_says_so(
    told: Run, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("melcheck.speed.audio_blocks.LONG_SECONDS", 2.0)
    monkeypatch.setattr("melcheck.speed.long_audio._CHUNK_SECONDS", 1.0)
    answer = " ".join(told(0, "check", CLIP, "--duration", "all", option).split())
    assert "figures of the whole file, computed in chunks; pictures, audio and likely" in answer
    assert re.search(r"of its worst part, \d\.\d to \d\.\d s of 3\.4 s", answer)
    assert "only the start" not in answer


def test_a_quick_check_and_a_plain_one_give_the_same_verdicts(told: Run) -> None:
    quick = json.loads(told(1, "check", AUDIO, *DRUMS_FAIL, "--quick", "--json"))
    plain = json.loads(told(1, "check", AUDIO, *DRUMS_FAIL, "--no-artifacts", "--json"))
    [screened] = quick["quick"]
    found = {each["clip"]: each for each in screened["clips"]}
    assert len(found) == 12
    for case in plain["report"]["cases"]:
        if case["vocoder"] != "griffin-lim":
            quickly = found.pop(case["clip"])
            assert quickly["passed"] == (case["outcome"] == "passed")
            assert quickly["mae"] == pytest.approx(case["metrics"]["mae"], abs=1e-6)
    assert found == {}


def test_a_quick_check_draws_no_pictures(refused: Run) -> None:
    assert "leave out --artifacts" in refused(2, "check", CLIP, "--quick", "--artifacts", "out")


def test_a_quick_check_takes_a_front_end_and_writes_a_report(
    told: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontends(tmp_path, monkeypatch)
    options = ["--quick", "--frontend", "mytts_cli:edges", "--report", tmp_path / "r.json"]
    answer = told(1, "check", CLIP, *options)
    assert "failed: front end mytts_cli:edges and the mel of embedded: incompatible" in answer
    report = read_report(tmp_path / "r.json")
    [case] = report.cases
    assert (case.clip, case.path) == ("kokoro-kumo-en", str(CLIP))
    assert [test.kind for test in report.failed_tests] == ["front end"]


def test_a_vocoder_that_breaks_off_fails_its_check(
    told: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "voice_cli.py").write_text(
        "import torch\n\n\n"
        "def decode(mel):\n"
        "    samples = (mel.shape[-1] - 1) * 256\n"
        "    value = float('nan') if samples > 50_000 else 0.1\n"
        "    return torch.full((mel.shape[0], samples), value)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    out = told(1, "check", CLIP, "--vocoder", "voice_cli:decode", "--no-artifacts")
    assert "failed: kokoro-kumo-en with voice_cli:decode" in out
    assert "0 of 1 checks passed" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["missing.wav"], "missing.wav: no such file or folder"),
        (["."], "no audio in this folder"),
        ([CLIP, "--vocoder", "oficial"], "Did you mean 'official'?"),
        ([CLIP, "--vocoder", "nothing:here"], "no module 'nothing'"),
        ([CLIP, "--vocoder", "griffin-lim", "--sample-rate", "22050"], "must be 24000"),
        ([CLIP, "--device", "tpu"], "device must be one that torch knows"),
        ([CLIP, "--artifacts", CLIP], "is a file"),
        ([CLIP, "--report", "report.pdf"], "a report must end in .html, .md, .json"),
        ([CLIP, "--frontend", "nothing:here", "--no-artifacts"], "no module 'nothing'"),
    ],
    ids=lambda value: " ".join(map(str, value[-2:])) if isinstance(value, list) else "",
)
def test_check_refuses_what_cannot_be_used(
    refused: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(2, "check", *options)


def test_a_bad_file_fails_and_the_others_are_judged(told: Run, tmp_path: Path) -> None:
    answer = told(1, "check", text_as_wav(tmp_path), CLIP, "--no-artifacts", "--quick")
    assert "failed: text with embedded: cannot be decoded as audio" in answer
    assert answer.endswith("1 of 2 checks passed\n")


@pytest.mark.parametrize("good", [[], [CLIP, "--strict-input"]], ids=["all-bad", "strict"])
def test_check_names_every_bad_file_before_it_starts(
    refused: Run, tmp_path: Path, good: list[object]
) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(512), RATE)
    artifacts = tmp_path / "pictures"
    errors = refused(2, "check", text_as_wav(tmp_path), short, *good, "--artifacts", artifacts)
    assert "text.wav: cannot be decoded as audio" in errors
    assert "short.wav: the clip must have at least 768 samples" in errors
    assert not artifacts.exists()


@pytest.mark.parametrize("command", [["check"], ["handshake", "mytts_cli:mel", "--audio"]])
def test_every_path_that_leads_to_no_clip_is_named(
    refused: Run, tmp_path: Path, command: list[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    errors = refused(2, *command, tmp_path / "missing.wav", CLIP, empty)
    assert "missing.wav: no such file or folder" in errors
    assert f"{empty}: no audio in this folder" in errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--vocoder", "official"], "hf download charactr/vocos-mel-24khz"),
        pytest.param(
            ["--device", "cuda:7"],
            "device must exist on this machine",
            marks=pytest.mark.skipif(
                torch.cuda.device_count() > 7, reason="this machine has so many devices"
            ),
        ),
    ],
    ids=["weights", "device"],
)
def test_check_ends_with_3_where_the_environment_lacks_something(
    refused: Run, options: list[str], says: str
) -> None:
    assert says in refused(3, "check", CLIP, *options)


# compare


def test_compare_measures_what_the_library_measures(
    told: Run, stored: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = stored("a.npy"), stored("b.npy", lambda mel: mel + np.float32(0.1))
    plot = tmp_path / "map.png"
    document = json.loads(told(0, "compare", a, b, "--plot", plot, "--json"))
    assert document["metrics"]["mae"] == pytest.approx(0.1, abs=1e-6)
    assert document["verdict"]["failures"] == []
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_compare_fails_mels_that_differ_too_much(told: Run, stored: Callable[..., Path]) -> None:
    out = told(1, "compare", stored("a.npy"), stored("b.npy", power=2.0))
    assert "failed: mae" in out


def test_compare_swaps_axes_and_says_so(told: Run, stored: Callable[..., Path]) -> None:
    out = told(0, "compare", stored("a.npy"), stored("b.npy", lambda mel: mel.T))
    assert "b.npy is [frames, n_mels]: its axes were swapped." in " ".join(out.split())
    assert "SNR                      inf" in out


def with_nan(mel: Any) -> Any:
    mel[3, 5] = np.nan
    return mel


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_nan, "b.npy: 1 of 32300 values are NaN or infinite"),
        (lambda mel: mel[:, :-1], "must have one shape, got [100, 323] and [100, 322]"),
        (lambda mel: mel[:80], "b.npy: a mel must have 100 bands, got [80, 323]"),
        (lambda mel: mel.astype(np.int16), "b.npy: a mel must be floating point"),
        (lambda mel: mel[None].repeat(2, 0), "b.npy: a mel must be [n_mels, frames]"),
    ],
    ids=["nan", "frames", "bands", "integers", "batch"],
)
def test_compare_refuses_what_is_no_pair_of_mels(
    refused: Run, stored: Callable[..., Path], change: Callable[[Any], Any], says: str
) -> None:
    assert says in refused(2, "compare", stored("a.npy"), stored("b.npy", change))


def test_compare_names_both_files_that_cannot_be_read(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"")
    errors = refused(2, "compare", tmp_path / "a.npy", tmp_path / "b.npy")
    assert "a.npy: the file is empty" in errors
    assert "b.npy: no such file" in errors


def test_compare_names_the_profiles_where_one_is_unknown(
    refused: Run, stored: Callable[..., Path]
) -> None:
    errors = refused(2, "compare", stored("a.npy"), stored("b.npy"), "--profile", "bigvgan")
    assert "bigvgan-24k" in errors


def test_compare_refuses_a_plot_that_cannot_be_written(
    refused: Run, stored: Callable[..., Path], tmp_path: Path
) -> None:
    plot = tmp_path / "missing" / "map.png"
    errors = refused(2, "compare", stored("a.npy"), stored("b.npy"), "--plot", plot)
    assert f"--plot {plot}: the picture cannot be written" in errors


# diagnose


def test_diagnose_passes_the_expected_mel(told: Run, stored: Callable[..., Path]) -> None:
    assert "identical" in told(0, "diagnose", "--audio", CLIP, "--mel", stored("a.npy"))


def test_diagnose_passes_a_profile_that_is_expected(told: Run, stored: Callable[..., Path]) -> None:
    mel = stored("a.npy", floor=1e-5)
    assert "identical" in told(0, "diagnose", "--audio", CLIP, "--mel", mel, "--profile", "f5-tts")


@pytest.mark.parametrize(
    ("change", "numbers", "code"),
    [
        (None, {"power": 2.0}, "power"),
        (lambda mel: mel.T, {}, "axes-transposed"),
        (with_nan, {}, "nan"),
    ],
    ids=["power", "transposed", "nan"],
)
def test_diagnose_fails_and_names_the_cause(
    told: Run,
    stored: Callable[..., Path],
    change: Callable[[Any], Any] | None,
    numbers: dict[str, float],
    code: str,
) -> None:
    mel = stored("a.npy", change, **numbers)
    document = json.loads(told(1, "diagnose", "--audio", CLIP, "--mel", mel, "--json"))
    assert document["passed"] is False
    assert code in [cause["code"] for cause in document["diagnosis"]["causes"]]


def test_diagnose_without_audio_tells_what_the_array_shows(
    told: Run, stored: Callable[..., Path]
) -> None:
    out = told(0, "diagnose", "--mel", stored("a.npy", power=2.0))
    assert "floor -16.1181 = ln(1e-07)" in out


STEREO = AUDIO / "guitar-stereo.flac"


@pytest.mark.parametrize(
    ("mix", "code", "fix"),
    [
        (lambda channels: channels[0], "channel-dropped", "Mix down with waveform.mean(dim=0)."),
        (
            lambda channels: channels.sum(dim=0),
            "gain",
            "Or, if it is stereo-sum: Mix down with waveform.mean(dim=0).",
        ),
    ],
    ids=["left", "sum"],
)
def test_diagnose_names_a_wrong_mix_of_channels(
    told: Run, tmp_path: Path, mix: Callable[[torch.Tensor], torch.Tensor], code: str, fix: str
) -> None:
    samples, rate = soundfile.read(STEREO, dtype="float32")
    channels = torchaudio.functional.resample(torch.from_numpy(samples.T.copy()), rate, RATE)
    np.save(tmp_path / "a.npy", log_mel(mix(channels)).numpy())
    argv = ("diagnose", "--audio", STEREO, "--mel", tmp_path / "a.npy")
    document = json.loads(told(1, *argv, "--json"))
    assert [cause["code"] for cause in document["diagnosis"]["causes"]] == [code]
    assert fix in " ".join(told(1, *argv).split())


def test_diagnose_passes_the_mean_of_the_channels(told: Run, tmp_path: Path) -> None:
    waveform = MelPipeline(MelCheckConfig(STEREO, RATE, None)).load_audio()[0]
    np.save(tmp_path / "a.npy", log_mel(waveform).numpy())
    out = told(0, "diagnose", "--audio", STEREO, "--mel", tmp_path / "a.npy")
    assert "the mean of 2 channels" in " ".join(out.split())
    assert "identical" in out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("zipvoice", "it may be one of zipvoice"),
        ("whisper", "it cannot be a mel of whisper: 100 bands where it has 80"),
    ],
)
def test_diagnose_without_audio_holds_a_mel_against_the_profile_that_is_named(
    told: Run, stored: Callable[..., Path], name: str, says: str
) -> None:
    assert says in told(0, "diagnose", "--mel", stored("a.npy"), "--profile", name)


def test_diagnose_leaves_out_profiles_of_another_rate(
    told: Run, stored: Callable[..., Path]
) -> None:
    argv = ("diagnose", "--mel", stored("a.npy"), "--sample-rate")
    assert "consistent with: vocos" in told(0, *argv, RATE)
    assert "consistent with: no known profile" in told(0, *argv, 16_000)


def test_diagnose_refuses_a_rate_beside_the_audio(
    refused: Run, stored: Callable[..., Path]
) -> None:
    argv = ("diagnose", "--mel", stored("a.npy"), "--audio", CLIP, "--sample-rate", RATE)
    assert "Leave out one of the two" in refused(2, *argv)


def test_diagnose_names_both_files_that_cannot_be_read(refused: Run, tmp_path: Path) -> None:
    errors = refused(2, "diagnose", "--audio", text_as_wav(tmp_path), "--mel", tmp_path / "a.npy")
    assert "text.wav: cannot be decoded as audio" in errors
    assert "a.npy: no such file" in errors


# handshake


@pytest.mark.parametrize(
    ("name", "code", "verdict"), [("mel", 0, "identical"), ("power", 1, "incompatible")]
)
def test_handshake_judges_a_front_end(
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    verdict: str,
) -> None:
    frontends(tmp_path, monkeypatch)
    argv = ["handshake", f"mytts_cli:{name}", "--audio", str(CLIP), "--json"]
    assert main(argv) == code
    document = json.loads(capsys.readouterr().out)  # though the front end prints
    assert document["handshake"]["verdict"] == verdict
    assert document["handshake"]["results"][-1]["probe"] == "speech 1"


STAGES = """
import soundfile, torch, torchaudio
from melcheck import load_vocoder

def load(path):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torchaudio.functional.resample(torch.from_numpy(samples.mean(1)), rate, 24_000)

def raw(path):
    print("a print")
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(1)

def decode(mel):
    return load_vocoder("embedded").decode(mel)

def save(path, waveform, rate):
    soundfile.write(path, waveform[0].numpy(), rate)

def loud(path, waveform, rate):
    soundfile.write(path, 2 * waveform[0].numpy(), rate)
"""


def stage(name: str) -> str:
    return f"mytts_stages:{name}"


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--loader", stage("load"), "--saver", stage("save")], None),
        (["--loader", stage("raw"), "--saver", stage("loud")], "loader"),
        (["--vocoder", stage("decode"), "--reference", "embedded"], None),
        (["--vocoder", "griffin-lim", "--reference", "embedded"], "vocoder"),
        (["--loader", stage("load"), "--saver", stage("loud")], "saver"),
    ],
    ids=["right", "loader", "vocoder", "another-vocoder", "saver"],
)
def test_handshake_names_the_first_stage_that_differs(
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    first: str | None,
) -> None:
    (tmp_path / "mytts_stages.py").write_text(STAGES)
    monkeypatch.chdir(tmp_path)
    assert main(["handshake", *options, "--audio", str(CLIP), "--json"]) == (first is not None)
    document = json.loads(capsys.readouterr().out)
    assert document["first"] == first
    failed = [each["stage"] for each in document["stages"] if not each["passed"]]
    assert failed[:1] == ([first] if first else [])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "name a stage"),
        (["mytts:mel", "--frontend", "mytts:mel"], "are the same"),
        (["mytts:mel", "--reference", "official"], "must stand beside --vocoder"),
        (["--saver", "nothing_here:save"], "no module 'nothing_here'"),
    ],
    ids=["none", "twice", "reference-alone", "no-module"],
)
def test_handshake_says_what_it_needs(capsys: Captured, options: list[str], told: str) -> None:
    assert main(["handshake", *options]) == 2
    assert told in capsys.readouterr().err


def test_stages_names_the_first_that_differs(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mytts_stages.py").write_text(STAGES)
    monkeypatch.chdir(tmp_path)
    loops = ["embedded", stage("decode"), "--audio", str(CLIP), "--duration", "1"]
    assert main(["stages", *loops]) == 0
    assert "no stage diverges: load, mix, resample, encode, decode, re-encode agree" in (
        " ".join(capsys.readouterr().out.split())
    )
    halved = STAGES.replace("return load_vocoder", "return 0.5 * load_vocoder")
    (tmp_path / "mytts_halved.py").write_text(halved)
    loops[1] = "mytts_halved:decode"
    assert main(["stages", *loops, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["first"] == "decode"


def test_stages_compares_loaders_and_front_ends(
    capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mytts_late.py").write_text(
        STAGES.replace("samples.mean(1)", "samples[1:].mean(1)")
    )
    (tmp_path / "mytts_mel.py").write_text(
        "from melcheck import log_mel\n\ndef mel(waveform):\n    return 2 * log_mel(waveform)\n"
    )
    monkeypatch.chdir(tmp_path)
    loops = ["stages", "griffin-lim", "griffin-lim", "--audio", str(CLIP), "--json"]
    for options, first in (
        (["--loader", "mytts_late:load"], "read"),
        (["--frontend", "mytts_mel:mel"], "encode"),
    ):
        assert main([*loops, *options]) == 1
        assert json.loads(capsys.readouterr().out)["first"] == first


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nothing_here:mel", "no module 'nothing_here'"),
        ("mytts_cli:mle", "mle"),
        ("mytts_cli", "mytts_cli"),
    ],
)
def test_handshake_refuses_a_front_end_that_is_not_there(
    refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, says: str
) -> None:
    frontends(tmp_path, monkeypatch)
    assert says in refused(2, "handshake", reference)


# info


def test_info_tells_what_a_report_of_a_fault_needs(told: Run) -> None:
    out = told(0, "info")
    assert max(map(len, out.splitlines())) <= 80
    for name in ("melcheck", "torch", "decoder", "devices", "embedded", "official", "recipe"):
        assert f"\n{name} " in out


def test_info_says_which_weights_are_there(told: Run) -> None:
    states = {
        each["name"]: each["state"] for each in json.loads(told(0, "info", "--json"))["weights"]
    }
    assert states == {"embedded": "verified", "official": "absent"}


def test_info_ends_with_3_where_the_package_is_damaged(
    refused: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged() -> None:
        raise VocoderError("model.safetensors is empty.\nReinstall melcheck.")

    monkeypatch.setattr("melcheck.vocoders.weights.embedded_files", damaged)
    assert "Reinstall melcheck." in refused(3, "info")


# fetch
WEIGHTS = b"weights, as far as their hash goes"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The official repository with weights of a few bytes, whose pins are moved to those."""
    hub_server.need_constants()
    pins = {**OFFICIAL_SHA256, "pytorch_model.bin": hashlib.sha256(WEIGHTS).hexdigest()}
    sizes = {"config.yaml": 461, "pytorch_model.bin": len(WEIGHTS)}
    monkeypatch.setattr("melcheck.vocoders.hub.OFFICIAL_SHA256", pins)
    monkeypatch.setattr("melcheck.vocoders.hub.OFFICIAL_BYTES", sizes)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    agents = str(Path(constants.HF_HUB_CACHE, "agents.json"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", agents, raising=False)
    with hub_server.serve(OFFICIAL_REPO, OFFICIAL_REVISION) as server:
        server.files = {"config.yaml": hub_server.OFFICIAL_CONFIG, "pytorch_model.bin": WEIGHTS}
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server
    huggingface_hub.close_session()


def test_fetch_downloads_once_and_verifies_each_time(told: Run, hub: Any) -> None:
    first = json.loads(told(0, "fetch", "--json"))
    hub.requests.clear()
    second = json.loads(told(0, "fetch", "--json"))
    assert set(first) == {
        *("melcheck", "command", "passed"),
        *("source", "revision", "downloaded", "files"),
    }
    assert (first["downloaded"], second["downloaded"], hub.requests) == (True, False, [])
    assert first["files"] == second["files"]
    assert [file["sha256"] for file in first["files"]] == [
        OFFICIAL_SHA256["config.yaml"],
        hashlib.sha256(WEIGHTS).hexdigest(),
    ]


@pytest.mark.usefixtures("hub")
def test_info_finds_what_was_fetched(told: Run) -> None:
    told(0, "fetch")
    weights = json.loads(told(0, "info", "--json"))["weights"]
    assert weights[1]["state"] == "verified"


def test_fetch_refuses_weights_that_are_not_the_official_ones(refused: Run, hub: Any) -> None:
    hub.files["pytorch_model.bin"] = WEIGHTS[::-1]
    assert "must have sha256" in refused(3, "fetch")


def test_fetch_offline_says_how_to_get_them(refused: Run) -> None:
    assert "hf download charactr/vocos-mel-24khz" in refused(3, "fetch")


@pytest.mark.parametrize("quick", [["--quick"], ["--no-artifacts"]], ids=["quick", "plain"])
def test_a_miss_is_accepted_and_then_known(
    told: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["check", AUDIO / "drums-clicks.flac", "--vocoder", "embedded", *quick]
    told(1, *options, *DRUMS_FAIL, "--accept")
    assert "1 of 1 checks passed" in told(0, *options, *DRUMS_FAIL)
    assert "no longer needs what was accepted" in " ".join(told(1, *options).split())


# A recipe of the user's on every command.


def test_every_command_takes_a_profile(capsys: Captured) -> None:
    for command in COMMANDS:
        main([command, "--help"])
        assert "--profile NAME" in capsys.readouterr().out, command


@pytest.mark.parametrize(
    "words",
    [["check", CLIP, "--vocoder", "embedded"], ["bench", "--vocoder", "embedded"], ["fetch"]],
    ids=lambda words: words[0],
)
def test_a_vocoder_of_another_mel_is_refused(refused: Run, words: list[object]) -> None:
    message = refused(2, *words, "--profile", "hifigan-22k")
    assert "must decode the mel of --profile hifigan-22k, got one that has sample_rate=24000" in (
        message
    )


def test_griffin_lim_follows_the_profile(told: Run) -> None:
    answer = told(0, "check", CLIP, "--profile", "hifigan-22k", "--quick", "--json")
    [checked] = json.loads(answer)["quick"]
    assert checked["vocoder"] == "griffin-lim"
    assert "hifigan-22k" in told(0, "info", "--profile", "hifigan-22k")


def test_a_normalised_mel_is_compared_in_nats(told: Run, stored: Callable[..., Path]) -> None:
    two = [
        stored("a.npy", lambda mel: mel[:80] / 2),
        stored("b.npy", lambda mel: mel[:80] / 2 + 0.1),
    ]
    measured = json.loads(told(1, "compare", *two, "--profile", "matcha-22k", "--json"))
    assert measured["metrics"]["mae"] == pytest.approx(0.1 * 2.116101, abs=1e-5)


def test_two_mels_are_compared_by_thresholds_of_the_users(
    told: Run, stored: Callable[..., Path]
) -> None:
    two = [stored("a.npy"), stored("b.npy", lambda mel: mel + 0.1)]
    answer = told(1, "compare", *two, "--threshold", "mae=0.05")
    assert "mae 0.1 must be below 0.05 (default 0.2)" in answer
