"""What cannot be written or had under pytest is told in a sentence, after what was judged."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
CLIP = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the gate in an empty project, in this process."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_sanity.py", pytester.path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def call(*options: object) -> pytest.RunResult:
        words = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-m", "sanity", *options)
        return pytester.runpytest_inprocess(*words, "--mel-vocoder=embedded")

    return call


def full(path: Path, **_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        ("melcheck.artifacts", [], "pictures and audio could not be written: *No space left*"),
        (
            "melcheck.report.store",
            ["--mel-report=r.md"],
            "for the reports, *could not be written: *No space*",
        ),
        ("melcheck.report.files", ["--mel-report=r.md"], "a report could not be written: *No sp*"),
    ],
    ids=["artifacts", "case", "report"],
)
def test_a_full_disk_loses_no_verdict(
    run: Run, monkeypatch: pytest.MonkeyPatch, module: str, options: list[str], says: str
) -> None:
    monkeypatch.setattr(importlib.import_module(module), "replacing", full)
    result = run(f"--mel-audio={CLIP}", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{says}"])
    result.stdout.fnmatch_lines(["*embedded * passed*", "1 cases planned: 1 passed"])
    result.stdout.no_fnmatch_line("*Errno*")
    result.stdout.no_fnmatch_line("*Traceback*")


def test_no_temporary_folder_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "mkdtemp", none)
    result = run(f"--mel-audio={CLIP}", "--mel-report=r.md")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: melcheck: No usable temporary directory found*"])
    assert "Errno" not in result.stderr.str()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--mel-audio=", "--mel-audio must not be empty"),
        (f"--mel-audio={'x' * 300}.wav", "File name too long"),
        (f"--mel-report={'x' * 300}.md", "File name too long"),
        (f"--mel-artifacts={'x' * 300}", "File name too long"),
        (f"--mel-baseline={'x' * 300}.json", "File name too long"),
        ("--mel-cache=", "--mel-cache must not be empty"),
        ("--mel-artifacts=link/more", "a link that leads nowhere"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_path_is_refused_before_the_first_test(
    run: Run, pytester: pytest.Pytester, option: str, says: str
) -> None:
    (pytester.path / "link").symlink_to("nowhere/else")
    clip = [] if option.startswith("--mel-audio") else [f"--mel-audio={CLIP}"]
    result = run(*clip, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = result.stderr.str()
    assert says in errors
    assert "Errno" not in errors
    assert "INTERNALERROR" not in errors + result.stdout.str()


def test_memory_that_is_not_there_ends_the_run_with_3(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grab(*_: object, **__: object) -> None:
        import torch

        torch.empty(2**60)

    monkeypatch.setattr("melcheck.pytest_plugin.plan.list_clips", grab)
    result = run(f"--mel-audio={CLIP}")
    assert result.ret == 3
    told = result.stdout.str() + result.stderr.str()
    assert "melcheck: out of memory: 4611686018427387904 bytes were asked for" in told
    assert "INTERNALERROR" not in told
