"""The plugin as its users meet it: options, errors before any test, the table, what is skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from melcheck.pytest_plugin.plan import make_plan

REPOSITORY = Path(__file__).parents[2]
AUDIO = REPOSITORY / "fixtures" / "audio"
CLIP = AUDIO / "kokoro-kumo-en.wav"
RATE = 24_000

Run = Callable[..., pytest.RunResult]
Refusal = Callable[..., str]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the suite's gate in an empty project, in this process."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_sanity.py", pytester.path)
    # The cache of this machine must not decide what these tests see.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def call(*options: object) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return call


@pytest.fixture
def refusal(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """The message that options are refused with; it ends a run before any test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def call(*options: object) -> str:
        config = pytester.parseconfigure("--mel-audio", CLIP, *options)
        with pytest.raises(ValueError, match=r"--mel-") as refused:
            make_plan(config, check_clips=True)
        return str(refused.value)

    return call


def usage_error(result: pytest.RunResult) -> str:
    """Return the message of a run that ended before its first test."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = result.stderr.str()
    assert "Traceback" not in errors + result.stdout.str()
    assert "passed" not in result.stdout.str()
    return errors


def sine(path: Path, *, samples: int = RATE, scale: float = 0.3) -> Path:
    time = torch.arange(samples) / RATE
    soundfile.write(path, (scale * torch.sin(2 * torch.pi * 220 * time)).numpy(), RATE)
    return path


def test_a_long_file_is_computed_in_chunks_and_says_so(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melcheck.speed.audio_blocks.LONG_SECONDS", 2.0)
    monkeypatch.setattr("melcheck.speed.long_audio._CHUNK_SECONDS", 1.0)
    result = run("-m", "sanity", f"--mel-audio={CLIP}", "--mel-duration=all", "--mel-report=r.json")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.re_match_lines([r".*figures of the whole file, computed in chunks; pictures.*"])
    report = json.loads((pytester.path / "r.json").read_text(encoding="utf-8"))
    judged, *_ = (case for case in report["cases"] if case["outcome"] == "passed")
    assert judged["audio"]["checked_seconds"] == judged["audio"]["seconds"]
    assert "of 3.4 s" in judged["notes"][0]


# What cannot be used is said before anything runs.


def text_as_wav(folder: Path) -> Path:
    path = folder / "text.wav"
    path.write_text("this is not audio\n" * 40)
    return path


def truncated_wav(folder: Path) -> Path:
    path = sine(folder / "truncated.wav")
    path.write_bytes(path.read_bytes()[:20_000])
    return path


def empty_wav(folder: Path) -> Path:
    return sine(folder / "empty.wav", samples=0)


def short_wav(folder: Path) -> Path:
    return sine(folder / "short.wav", samples=512)


def nan_wav(folder: Path) -> Path:
    path = folder / "nan.wav"
    samples = torch.zeros(RATE)
    samples[RATE // 2] = torch.nan
    soundfile.write(path, samples.numpy(), RATE, subtype="FLOAT")
    return path


def infinite_wav(folder: Path) -> Path:
    path = folder / "infinite.wav"
    soundfile.write(path, torch.full((RATE,), torch.inf).numpy(), RATE, subtype="FLOAT")
    return path


def folder_without_audio(folder: Path) -> Path:
    path = folder / "nothing"
    path.mkdir()
    (path / "notes.txt").write_text("no audio here")
    return path


def missing_file(folder: Path) -> Path:
    return folder / "missing.wav"


BAD_FILES = {
    text_as_wav: "cannot be decoded as audio",
    truncated_wav: "truncated",
    empty_wav: "no samples",
    short_wav: "at least 768 samples",
    nan_wav: "NaN or infinite, the first at 0.500 s",
    infinite_wav: "NaN or infinite",
}


@pytest.mark.parametrize(
    "more", [[], ["--mel-strict-input", f"--mel-audio={CLIP}"]], ids=["all-bad", "strict"]
)
def test_all_audio_that_cannot_be_used_is_named_before_any_test(
    run: Run, tmp_path: Path, more: list[str]
) -> None:
    says = {make(tmp_path): reason for make, reason in BAD_FILES.items()}
    errors = usage_error(run("--mel-audio", *says, *more)).splitlines()
    for path, reason in says.items():
        [line] = [line for line in errors if str(path) in line]
        assert reason in line


def test_a_file_that_cannot_be_used_fails_and_the_others_are_judged(
    run: Run, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    bad = text_as_wav(tmp_path)
    result = run("--mel-audio", bad, CLIP, "--mel-vocoder", "embedded", "--mel-report=r.json")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["2 cases planned: 1 passed, 1 failed"])
    [failed] = [case for case in report_cases(pytester) if case["outcome"] == "failed"]
    assert (failed["clip"], failed["path"]) == ("text", str(bad))
    assert failed["reason"].startswith("text: cannot be decoded as audio")


def report_cases(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    """Return the cases of the report `r.json`."""
    cases: list[dict[str, Any]] = json.loads((pytester.path / "r.json").read_text())["cases"]
    return cases


def test_all_paths_without_audio_are_named_before_any_test(run: Run, tmp_path: Path) -> None:
    missing, folder = missing_file(tmp_path), folder_without_audio(tmp_path)
    errors = usage_error(run("--mel-audio", missing, CLIP, folder))
    assert f"{missing}: no such file" in errors
    assert f"{folder}: no audio in this folder" in errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mel-duration", "-1"], "--mel-duration must be seconds above 0, or all, got '-1'"),
        (["--mel-duration", "0"], "--mel-duration must be seconds above 0, or all, got '0'"),
        (["--mel-duration", "nan"], "must be seconds above 0, or all, got 'nan'"),
        (["--mel-duration", "long"], "must be seconds above 0, or all, got 'long'"),
        (["--mel-sample-rate", "22050"], "--mel-sample-rate must be 24000"),
        (["--mel-sample-rate", "fast"], "--mel-sample-rate must be a whole number of Hz"),
        (["--mel-vocoder", "oficial"], "Did you mean 'official'?"),
        (["--mel-device", "tpu"], "--mel-device must be cpu, cuda or cuda:N"),
        (["--mel-bench", "huge"], "--mel-bench must be short or full, got 'huge'"),
        (["--mel-require", "gpu"], "--mel-require takes official and cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_out_of_range_is_refused(refusal: Refusal, options: list[str], says: str) -> None:
    assert says in refusal(*options)


def test_an_artifacts_folder_that_is_a_file_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "taken"
    file.write_text("")
    assert f"{file} is a file" in refusal("--mel-artifacts", file)


def test_an_artifacts_folder_that_cannot_be_written_is_refused(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mode bits do not bind root, so the attempt itself is made to fail.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("melcheck.files.tempfile.TemporaryDirectory", refuse)
    assert "cannot be written" in refusal("--mel-artifacts", tmp_path / "new")


def test_a_gate_without_clips_is_refused(run: Run) -> None:
    result = run("-m", "sanity")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    output = result.stdout.str() + result.stderr.str()
    assert "no clips to check. Name some with --mel-audio PATH." in output
    assert "Traceback" not in output


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_was_named_and_is_absent_is_refused(refusal: Refusal) -> None:
    assert "sees 0 CUDA devices" in refusal("--mel-device", "cuda")


# What is absent is skipped with a reason, or fails where it is required.


def test_absent_official_weights_are_skipped_with_the_way_to_get_them(run: Run) -> None:
    result = run("--mel-audio", CLIP)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["skipped, 1 of 2 cases: official: *charactr/vocos-mel-24khz*", "*hf download*"]
    )


@pytest.mark.parametrize(
    "option", [("--mel-require", "official"), ("--mel-vocoder", "official")], ids=" ".join
)
def test_absent_official_weights_fail_where_they_are_required(
    run: Run, option: tuple[str, str]
) -> None:
    result = run("--mel-audio", CLIP, *option)
    assert result.parseoutcomes().get("errors") == 1
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "official is required and missing" in result.stdout.str()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_an_absent_cuda_device_fails_where_it_is_required(run: Run) -> None:
    result = run("--mel-audio", CLIP, "--mel-require", "cuda", "--mel-vocoder", "embedded")
    result.assert_outcomes(passed=1, errors=1)
    assert "cuda is required and missing" in result.stdout.str()


@pytest.mark.parametrize(
    "options",
    [
        ("--mel-vocoder", "embedded", "--mel-require", "official"),
        pytest.param(
            ("--mel-device", "cpu", "--mel-require", "cuda", "--mel-vocoder", "embedded"),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
    ids=" ".join,
)
def test_what_is_required_is_planned_whatever_else_is_named(
    run: Run, options: tuple[str, ...]
) -> None:
    result = run("--mel-audio", CLIP, *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "is required and missing" in result.stdout.str()


def test_a_broken_cuda_device_that_was_named_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device that works")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    result = run("--mel-audio", CLIP, "--mel-device", "cuda", "--mel-vocoder", "embedded")
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def test_a_marker_of_clips_that_is_misspelt_is_refused(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.mel_clips("gatd")
        def test_it(mel_clip):
            pass
    """)
    result = run("--mel-audio", CLIP, "--mel-vocoder", "embedded")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_cases_that_did_not_run_are_counted(run: Run, tmp_path: Path) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, torch.zeros(RATE).numpy(), RATE)
    result = run("-x", "--mel-audio", silent, CLIP, "--mel-vocoder", "griffin-lim")
    result.stdout.fnmatch_lines(["2 cases planned: 1 failed, 1 without a result"])


def test_a_failure_names_its_likely_cause(run: Run, tmp_path: Path) -> None:
    loud = tmp_path / "integers.wav"
    samples, _ = soundfile.read(CLIP, dtype="float32")
    soundfile.write(loud, 32768 * samples, RATE, subtype="FLOAT")
    result = run("--mel-audio", loud, "--mel-vocoder", "embedded")
    result.stdout.fnmatch_lines(["likely cause: the samples are integers, not within +-1 *"])


def test_a_clip_of_which_only_a_part_was_checked_says_so(
    run: Run, pytester: pytest.Pytester
) -> None:
    # Under a short name: where the repository lies must not decide where the line breaks.
    shutil.copy(CLIP, pytester.path / "clip.wav")
    output = run("--mel-audio", "clip.wav", "--mel-vocoder", "griffin-lim").stdout
    output.fnmatch_lines([" clip  clip.wav, 3.0 of 3.4 s"])


def test_the_whole_clip_is_checked_when_asked_for(run: Run) -> None:
    options = ("--mel-duration", "all", "--mel-vocoder", "griffin-lim")
    assert "3.0 of 3.4 s" not in run("--mel-audio", CLIP, *options).stdout.str()


# The plan, the table, the pictures.


def test_files_and_folders_are_all_checked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    shutil.copy(CLIP, tmp_path / "deep" / "one.wav")
    shutil.copy(CLIP, tmp_path / "deep" / "er" / "one.wav")
    result = run("--mel-vocoder", "embedded", "--mel-audio", CLIP, tmp_path / "deep")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["3 cases planned: 3 passed"])


def test_each_case_has_its_row_the_baseline_beside_it_and_figures_in_junits_report(
    run: Run, tmp_path: Path
) -> None:
    report = tmp_path / "junit.xml"
    output = run("--mel-audio", CLIP, "--mel-vocoder", "embedded", f"--junit-xml={report}").stdout
    output.fnmatch_lines(
        [
            "*clip*MAE*MSE*max*SNR*corr*cSNR*floor*STFT*verdict*",
            "*kokoro-kumo-en*",
            "*embedded*0.06?*passed*",
            "*griffin-lim*baseline*",
            "gates on the log-mel: MAE < 0.2 nats, corr > 0.99, SNR > 20 dB",
            "embedded: melcheck package, 0.6 M parameters, sha256 *",
            "decoder: *",
            "pictures:",
            "*mel-artifacts/kokoro-kumo-en-embedded-cpu",
        ]
    )
    properties = {
        element.attrib["name"]: element.attrib["value"]
        for element in ElementTree.parse(report).iter("property")
    }
    assert json.loads(properties["melcheck"])["case"]["metrics"]["mae"] < 0.2


def test_the_table_fits_80_columns(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # Here, since a long path is not broken.
    clips = [f"austen-{number}.flac" for number in ("0870", "0890", "0930")]
    for clip in clips:
        shutil.copy(AUDIO / clip, pytester.path)
    lines = run("--mel-audio", *clips, "--mel-vocoder", "embedded").stdout.lines
    start = next(number for number, line in enumerate(lines) if "verdict" in line)
    end = next(number for number, line in enumerate(lines) if line.startswith("gates"))
    assert end - start > 3 * len(clips)
    assert max(map(len, lines[start:end])) <= 80
    rows = [line for line in lines[start + 2 : end - 1] if line.startswith("   ") and "0." in line]
    verdicts = {line.rsplit(maxsplit=1)[-1] for line in rows}
    assert verdicts <= {"passed", "failed", "baseline"}, "a verdict was cut off"


def test_pictures_of_the_duration_asked_for_go_where_they_are_asked_for(
    run: Run, tmp_path: Path
) -> None:
    options = ("--mel-vocoder", "embedded", "--mel-duration", "1.5", "--mel-artifacts", tmp_path)
    run("--mel-audio", CLIP, *options)
    folder = tmp_path / "kokoro-kumo-en-embedded-cpu"
    assert {path.name for path in folder.iterdir()} == {
        "difference.png",
        "mels.png",
        "reconstructed.wav",
    }
    written = soundfile.info(folder / "reconstructed.wav")
    assert written.frames == 140 * 256  # 36,000 samples are 141 frames


def test_workers_of_xdist_give_the_same_rows(run: Run) -> None:
    clips = ("--mel-audio", CLIP, AUDIO / "austen-0870.flac", "--mel-vocoder", "embedded")

    def rows(result: pytest.RunResult) -> list[str]:
        return sorted(line for line in result.stdout.lines if "passed" in line and "0." in line)

    alone = rows(run(*clips))
    assert rows(run(*clips, "-n", "2"))[:2] == alone[:2]
    assert len(alone) >= 2


def test_the_plugin_imports_no_torch_until_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n\ndef test_light():\n    assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in result.stdout


# Goldens of a user's own clips.


@pytest.fixture
def golden_run(run: Run, pytester: pytest.Pytester) -> Run:
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_golden.py", pytester.path)

    def call(*options: object) -> pytest.RunResult:
        return run("-m", "golden", "--mel-audio", CLIP, "--mel-vocoder", "embedded", *options)

    return call


def test_goldens_without_pandas_name_the_command(
    golden_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = golden_run("--mel-goldens=goldens")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(['*pip install "melcheck?goldens?"*'])
    assert "Traceback" not in result.stdout.str()


def test_without_a_folder_a_golden_is_skipped_with_a_reason(golden_run: Run) -> None:
    result = golden_run("-rs")
    result.assert_outcomes(skipped=2)
    result.stdout.fnmatch_lines(["*name a folder with --mel-goldens DIR*"])


def test_a_golden_is_written_compared_and_rewritten_and_fails_whenever_it_is_written(
    golden_run: Run, tmp_path: Path
) -> None:
    goldens = tmp_path / "goldens"
    golden_run("--mel-goldens", goldens).assert_outcomes(failed=2)
    golden_run("--mel-goldens", goldens).assert_outcomes(passed=2)
    recorded = goldens / "kokoro-kumo-en.encoded.csv"
    right = recorded.read_text()
    recorded.write_text(right.replace("-", ""))
    golden_run("--mel-goldens", goldens).assert_outcomes(passed=1, failed=1)
    regenerated = golden_run("--mel-goldens", goldens, "--force-regen")
    assert regenerated.ret == pytest.ExitCode.TESTS_FAILED
    assert recorded.read_text() == right
