"""Reports as a run of pytest makes them, and a run that is held against a baseline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from melcheck.report import files
from melcheck.report.json_format import read_report
from melcheck.report.model import CaseResult, RunReport

REPOSITORY = Path(__file__).parents[2]
AUDIO = REPOSITORY / "fixtures" / "audio"
CLIP = AUDIO / "kokoro-kumo-en.wav"
OTHER = AUDIO / "austen-0870.flac"
EMBEDDED = ("--mel-vocoder", "embedded")
RATE = 24_000

Run = Callable[..., pytest.RunResult]

# A project may damage the loop in ways that no gate sees.
CONFTEST = """
    import os

    import pytest

    from melcheck.pipeline import MelPipeline

    @pytest.fixture(autouse=True)
    def damage(monkeypatch):
        kind = os.environ.get("MELCHECK_TEST_DAMAGE")
        decode = MelPipeline.mel2waveform

        def damaged(self, mel):
            mel = mel.clone()
            if kind == "bands":
                mel[:, 80:90] -= 0.5
            if kind == "frames":
                mel[..., 100:110] -= 0.5
            return decode(self, mel)

        if kind:
            monkeypatch.setattr(MelPipeline, "mel2waveform", damaged)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the suite's gate in an empty project, in this process."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    pytester.makeconftest(CONFTEST)
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_sanity.py", pytester.path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def call(*options: object) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)

    return call


def case(report: RunReport, *, outcome: str) -> CaseResult:
    [found] = [case for case in report.cases if case.outcome == outcome]
    return found


# What is written.


def test_every_format_is_written(run: Run, tmp_path: Path) -> None:
    written = [tmp_path / "new folder" / name for name in ("a.html", "b.md", "c.json")]
    options = [option for file in written for option in ("--mel-report", file)]
    output = run("--mel-audio", CLIP, *EMBEDDED, *options).stdout
    for file in written:
        output.fnmatch_lines([f"report: {file}"])
        assert "kokoro-kumo-en" in file.read_text("utf-8")


def test_reports_can_be_named_in_the_ini_file(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\nmel_report = ["out/a.json", "out/b.md"]\n'
    )
    # pytest takes a path among its arguments for a place to look for the ini file.
    shutil.copy(CLIP, pytester.path)
    run("--mel-audio", CLIP.name, *EMBEDDED)
    assert sorted(path.name for path in (pytester.path / "out").iterdir()) == ["a.json", "b.md"]


def test_a_case_holds_all_that_was_found(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run("--mel-audio", CLIP, *EMBEDDED, "--mel-report", path)
    report = read_report(path)
    passed = case(report, outcome="passed")
    assert (passed.clip, passed.vocoder, passed.device) == ("kokoro-kumo-en", "embedded", "cpu")
    assert passed.metrics["mae"] < 0.2
    assert [gate.metric for gate in passed.gates] == [
        "mae",
        "pearson",
        "snr_db",
        "reference_floor_share",
    ]
    assert all(gate.passed and gate.margin > 0 for gate in passed.gates)
    assert (len(passed.band_mae), len(passed.frame_mae)) == (100, 282)
    assert passed.audio is not None
    assert passed.audio.file == CLIP.name
    assert case(report, outcome="baseline").vocoder == "griffin-lim"
    assert list(report.vocoders) == ["embedded", "griffin-lim"]
    assert report.vocoders["embedded"].weights_sha256 is not None
    assert report.recipes[0].digest == passed.recipe
    assert "--mel-report" in report.environment.command
    assert report.environment.versions["torch"] == str(torch.__version__)


def test_a_failed_run_is_reported_with_its_cause(run: Run, tmp_path: Path) -> None:
    loud = tmp_path / "integers.wav"
    samples, _ = soundfile.read(CLIP, dtype="float32")
    soundfile.write(loud, 32768 * samples, RATE, subtype="FLOAT")
    path = tmp_path / "report.json"
    result = run("--mel-audio", loud, CLIP, *EMBEDDED, "--mel-report", path)
    result.assert_outcomes(failed=1, passed=1)
    report = read_report(path)
    failed = case(report, outcome="failed")
    assert report.verdict == "failed"
    assert failed.cause is not None
    assert failed.cause.code == "int16-scale"
    assert "must be" in failed.reason


def test_a_skipped_case_says_why(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run("--mel-audio", CLIP, "--mel-report", path)
    skipped = case(read_report(path), outcome="skipped")
    assert skipped.vocoder == "official"
    assert "hf download" in skipped.reason


def test_a_case_whose_setup_fails_has_failed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run("--mel-audio", CLIP, "--mel-vocoder", "official", "--mel-report", path)
    failed = case(read_report(path), outcome="failed")
    assert "official is required and missing" in failed.reason


def test_a_case_that_never_ran_has_no_result(run: Run, tmp_path: Path) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, torch.zeros(RATE).numpy(), RATE)
    path = tmp_path / "report.json"
    run("-x", "--mel-audio", silent, CLIP, "--mel-vocoder", "griffin-lim", "--mel-report", path)
    report = read_report(path)
    assert case(report, outcome="no result").clip == "kokoro-kumo-en"
    assert report.verdict == "failed"


def test_a_test_that_fails_without_a_case_fails_the_report(
    run: Run, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makepyfile(test_own="def test_own():\n    assert 1 == 2\n")
    path = tmp_path / "report.json"
    run("--mel-audio", CLIP, *EMBEDDED, "--mel-report", path)
    report = read_report(path)
    assert report.verdict == "failed"
    assert [test.name for test in report.failed_tests] == ["test_own.py::test_own"]
    assert "assert 1 == 2" in report.failed_tests[0].message


def test_a_case_that_fails_after_it_was_recorded_has_failed(
    run: Run, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    (pytester.path / "test_sanity.py").unlink()
    pytester.makepyfile(
        """
        def test_own(mel_record):
            mel_record("passed")
            raise ValueError("too late")
        """
    )
    path = tmp_path / "report.json"
    run("--mel-audio", CLIP, *EMBEDDED, "--mel-report", path)
    assert "too late" in case(read_report(path), outcome="failed").reason


def test_a_run_without_cases_says_that_it_measured_nothing(
    run: Run, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    (pytester.path / "test_sanity.py").unlink()
    pytester.makepyfile("def test_own():\n    pass\n")
    path = tmp_path / "report.json"
    run("--mel-report", path)
    assert read_report(path).verdict == "nothing measured"


def test_workers_of_xdist_give_the_same_report(run: Run, tmp_path: Path) -> None:
    reports = []
    for name, workers in (("one", ()), ("two", ("-n", "2"))):
        path, page = tmp_path / f"{name}.json", tmp_path / f"{name}.html"
        options = (*EMBEDDED, "--mel-report", path, "--mel-report", page, *workers)
        run("--mel-audio", CLIP, OTHER, *options).assert_outcomes(passed=2)
        assert page.read_text("utf-8").count("<audio ") == 6
        reports.append(read_report(path))
    assert reports[0].cases == reports[1].cases
    assert reports[0].vocoders == reports[1].vocoders


@pytest.mark.parametrize("stop", [(), ("--collect-only",), ("--mel-duration", "no")], ids=str)
def test_no_temporary_file_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, ...]
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    folder = tmp_path / "out"
    run("--mel-audio", CLIP, *EMBEDDED, "--mel-report", folder / "report.html", *stop)
    assert list(scratch.glob("melcheck-*")) == []
    assert [path.name for path in folder.iterdir()] == ([] if stop else ["report.html"])


def test_a_report_that_cannot_be_written_fails_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_report", refuse)
    result = run("--mel-audio", CLIP, *EMBEDDED, "--mel-report", tmp_path / "report.json")
    result.stdout.fnmatch_lines(["a report could not be written: *No space left on device"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_junit_has_the_figures_one_by_one(run: Run, tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    run("--mel-audio", CLIP, *EMBEDDED, f"--junit-xml={junit}")
    properties = {
        element.attrib["name"]: element.attrib["value"]
        for element in ElementTree.parse(junit).iter("property")
    }
    assert properties["melcheck.clip"] == "kokoro-kumo-en"
    assert properties["melcheck.outcome"] == "passed"
    assert 0 < float(properties["melcheck.mae"]) < 0.2
    assert float(properties["melcheck.snr_db"]) > 20


# A job's summary.


def test_a_job_s_summary_is_appended_to_by_itself(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run("--mel-audio", CLIP, *EMBEDDED)
    assert re.match(r"before\n## ✓ melcheck: passed\n", summary.read_text("utf-8"))


def test_a_job_that_checks_no_mel_has_nothing_in_its_summary(
    run: Run, pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "test_sanity.py").unlink()
    pytester.makepyfile("def test_own():\n    pass\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    run().assert_outcomes(passed=1)
    assert not (tmp_path / "summary.md").exists()


# What cannot be used is said before anything runs.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mel-report", "report.pdf"], "a report must end in .html, .md, .json"),
        (["--mel-report", "report"], "a report must end in .html, .md, .json"),
        (["--mel-report", "folder.md"], "folder.md is a folder"),
        (["--mel-report", "file/report.md"], "file"),
        (["--mel-baseline", "absent.json"], "the report cannot be read"),
        (["--mel-baseline", "file"], "not a JSON file"),
        (["--mel-baseline", "folder.md"], "the report cannot be read"),
    ],
    ids=" ".join,
)
def test_a_path_that_cannot_be_used_is_refused_before_any_test(
    run: Run, pytester: pytest.Pytester, options: list[str], says: str
) -> None:
    (pytester.path / "folder.md").mkdir()
    (pytester.path / "file").write_text("text")
    result = run("--mel-audio", CLIP, *EMBEDDED, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


# Against a baseline.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an undamaged run of two clips, made once and in a process of its own."""
    folder = tmp_path_factory.mktemp("main")
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_sanity.py", folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *EMBEDDED]
    options = ["--mel-audio", str(CLIP), str(OTHER), "--mel-report", "main.json"]
    subprocess.run([*command, *options], cwd=folder, check=True, capture_output=True)
    return folder / "main.json"


@pytest.fixture
def main(recorded: Path, tmp_path: Path) -> Path:
    """A baseline of two clips, to be altered at will."""
    return Path(shutil.copy(recorded, tmp_path))


def test_an_unchanged_run_is_no_worse(run: Run, main: Path) -> None:
    result = run("--mel-audio", CLIP, OTHER, *EMBEDDED, "--mel-baseline", main)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["2 same. Baseline main.json, made *"])


def test_a_run_on_more_threads_is_no_worse(run: Run, main: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        result = run("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", main)
    finally:
        torch.set_num_threads(threads)
    result.assert_outcomes(passed=1)


BANDS_8X = r"bands? 8\d (to 8\d )?\([\d. to]+ kHz\) by (up to )?\+0\.\d\d nats"
FRAMES_10X = r"frames 10\d to 1[01]\d \(1\.\d\d to 1\.\d\d s\) by up to \+0\.\d\d nats"


@pytest.mark.parametrize(
    ("damage", "place", "options", "clips"),
    [
        pytest.param("bands", BANDS_8X, (), [CLIP], id="bands"),
        pytest.param("frames", FRAMES_10X, (), [CLIP], id="frames"),
        pytest.param("bands", BANDS_8X, ("-n", "2"), [CLIP, OTHER], id="xdist"),
    ],
)
def test_a_damage_that_no_gate_need_see_is_worse_and_named(
    run: Run,
    main: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
    place: str,
    options: tuple[str, ...],
    clips: list[Path],
) -> None:
    monkeypatch.setenv("MELCHECK_TEST_DAMAGE", damage)
    result = run("--mel-audio", *clips, *EMBEDDED, "--mel-baseline", main, *options)
    result.assert_outcomes(failed=len(clips))
    # Where the variable CI is set, pytest's summary repeats whole messages, of several lines.
    text, _, _ = result.stdout.str().partition("short test summary info")
    told = [line for line in text.splitlines() if "worse than the baseline" in line]
    assert len(told) == len(clips)
    for clip in clips:
        [line] = [line for line in told if line.startswith(f"{clip.stem} (embedded on cpu): ")]
        assert re.search(place, line)
        assert "MAE 0." in line


@pytest.mark.parametrize("suffix", ["json", "html", "md"])
def test_deltas_stand_in_every_format(
    run: Run, main: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setenv("MELCHECK_TEST_DAMAGE", "bands")
    path = tmp_path / f"report.{suffix}"
    run("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", main, "--mel-report", path)
    text = path.read_text("utf-8")
    assert "worse than the baseline" in text
    if suffix == "json":
        [change] = [each.change for each in read_report(path).cases if each.outcome == "failed"]
        assert change is not None
        moved = {each.metric: each for each in change.metrics}
        assert moved["mae"].trend == "worse"
        assert moved["mae"].delta > moved["mae"].tolerance
    else:
        assert re.search(r"\+0\.0\d\d", text)


def test_an_improvement_is_shown_and_passes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = tmp_path / "worse.json"
    monkeypatch.setenv("MELCHECK_TEST_DAMAGE", "frames")
    run("--mel-audio", CLIP, *EMBEDDED, "--mel-report", worse)
    monkeypatch.delenv("MELCHECK_TEST_DAMAGE")
    result = run("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", worse)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 better. *", "Better:", "  kokoro-kumo-en (embedded on cpu): *"])


def test_a_known_miss_that_is_worse_fails(
    run: Run, pytester: pytest.Pytester, main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "test_sanity.py").unlink()
    pytester.makepyfile(
        """
        import pytest

        def test_own(mel_record):
            mel_record("known miss")
            pytest.xfail("on record")
        """
    )
    options = ("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", main)
    run(*options).assert_outcomes(xfailed=1)
    monkeypatch.setenv("MELCHECK_TEST_DAMAGE", "bands")
    run(*options).assert_outcomes(failed=1)


def test_a_gate_s_own_failure_is_told_beside_the_regression(
    run: Run, pytester: pytest.Pytester, main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "test_sanity.py").unlink()
    pytester.makepyfile(
        """
        import pytest

        def test_own(mel_record):
            mel_record("failed")
            pytest.fail("missed its gate")
        """
    )
    monkeypatch.setenv("MELCHECK_TEST_DAMAGE", "bands")
    output = run("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", main).stdout.str()
    assert "missed its gate" in output
    assert "worse than the baseline" in output


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def _other_weights(main: Path) -> None:
    [digest] = {
        vocoder["weights_sha256"]
        for vocoder in json.loads(main.read_text("utf-8"))["vocoders"]
        if vocoder["weights_sha256"]
    }
    _edit(main, digest, "0" * 64)


@pytest.mark.parametrize(
    ("alter", "options", "says"),
    [
        pytest.param(
            _other_weights, (), "the vocoder's weights, sha256: 000000000000", id="weights"
        ),
        pytest.param(
            lambda _: None, ("--mel-duration", "2"), "the length checked: 3 s", id="duration"
        ),
    ],
)
def test_another_baseline_is_reported_before_any_number(
    run: Run, main: Path, alter: Callable[[Path], None], options: tuple[str, ...], says: str
) -> None:
    alter(main)
    result = run("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", main, *options)
    result.assert_outcomes(failed=1)
    lines = result.stdout.lines
    told = next(n for n, line in enumerate(lines) if "cannot be compared with the baseline" in line)
    table = next(n for n, line in enumerate(lines) if "MAE" in line)
    assert says in lines[told]
    assert told < table


def test_another_recording_of_the_same_name_is_not_compared(
    run: Run, main: Path, tmp_path: Path
) -> None:
    changed = tmp_path / CLIP.name
    samples, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(changed, 0.9 * samples, rate)
    result = run("--mel-audio", changed, *EMBEDDED, "--mel-baseline", main)
    result.assert_outcomes(failed=1)
    assert "cannot be compared with the baseline: the audio's sha256" in result.stdout.str()


def test_cases_that_only_one_side_has_are_named_and_fail_nothing(
    run: Run, main: Path, tmp_path: Path
) -> None:
    added = tmp_path / "added.wav"
    shutil.copy(CLIP, added)
    result = run("--mel-audio", CLIP, added, *EMBEDDED, "--mel-baseline", main)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "1 same, 1 not in the baseline. *",
            "In the baseline, but not in this run:",
            "  austen-0870 (embedded on cpu)",
            "In this run, but not in the baseline:",
            "  added (embedded on cpu)",
        ]
    )


def test_a_baseline_of_other_clips_fails_the_run(run: Run, main: Path, tmp_path: Path) -> None:
    added, report = tmp_path / "added.wav", tmp_path / "report.json"
    shutil.copy(CLIP, added)
    options = ("--mel-baseline", main, "--mel-report", report)
    result = run("--mel-audio", added, *EMBEDDED, *options)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--mel-baseline: no case of this run could be compared*"])
    assert read_report(report).verdict == "failed"


def test_griffin_lim_in_common_is_no_comparison(run: Run, main: Path) -> None:
    main.write_text(main.read_text().replace('"vocoder": "embedded"', '"vocoder": "renamed"'))
    result = run("--mel-audio", CLIP, *EMBEDDED, "--mel-baseline", main)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["--mel-baseline: no case of this run could be compared*"])


def test_a_run_without_cases_needs_nothing_of_its_baseline(
    run: Run, pytester: pytest.Pytester, main: Path
) -> None:
    pytester.makepyfile(test_other="def test_other(): pass")
    result = run("--mel-audio", CLIP, "--mel-baseline", main, "-k", "test_other")
    assert result.ret == pytest.ExitCode.OK


def test_a_baseline_can_be_named_in_the_ini_file(
    run: Run, pytester: pytest.Pytester, main: Path
) -> None:
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\nmel_baseline = '{main}'\n")
    shutil.copy(CLIP, pytester.path)
    output = run("--mel-audio", CLIP.name, *EMBEDDED).stdout
    output.fnmatch_lines(["1 same. Baseline main.json, made *"])
