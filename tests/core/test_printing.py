"""Nothing that melcheck prints or writes for people moves a cursor or speaks to the log of a CI."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melcheck.cli.main import main
from melcheck.cli.output import Terminal
from melcheck.files import plain_text
from melcheck.pytest_plugin.terminal import annotation
from melcheck.report.html import report_html
from melcheck.report.json_format import report_json
from melcheck.report.markdown import report_markdown
from melcheck.report.model import FailedTest
from tests.report import report_samples

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "melcheck"

HOSTILE = "a\x1b[31mb\x07c\x7fd\x9b2Je\u202ef\u2066g\u200fh\ri\n::error::j\n##vso[k]l\u2028m\ufeff"

# What shows text to people: the last name of a function, and the place of the argument that is
# shown. What a test fails or is skipped with goes through a hook, `pytest_runtest_makereport`.
SHOWING = {"print": 0, "write_line": 0, "section": 1, "exit": 0, "warn": 0, "write": 0, "error": 0}
PLAIN = {"plain_text", "annotation"}
# `Terminal` has one function that writes; rich draws tables into memory.
STREAMS = {"", "sys.stdout", "sys.stderr", "stream", "terminalreporter", "pytest", "parser"}


def raw(text: str) -> list[str]:
    """Return the characters of a text that act on a terminal, and lines that a CI obeys."""
    found = [
        letter
        for letter in text
        if letter != "\n" and unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs")
    ]
    return found + re.findall(r"^\s*(?:::|##)\S.*", text, flags=re.MULTILINE)


def test_the_sample_has_all_of_it() -> None:
    assert len(raw(HOSTILE)) == 12


def test_plain_text_leaves_nothing_of_it_and_all_else() -> None:
    assert raw(plain_text(HOSTILE)) == []
    assert plain_text("naïve 名前 🎧 a\u00a0b\n  c: d::e") == "naïve 名前 🎧 a\u00a0b\n  c: d::e"


def shown_arguments() -> Iterator[tuple[str, int, ast.expr]]:
    """Yield what the package shows to people: file, line and expression."""
    for path in sorted(PACKAGE.rglob("*.py")):
        place = str(path.relative_to(REPOSITORY))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            owner = ""
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if isinstance(node.func, ast.Attribute):
                name, owner = node.func.attr, ast.unparse(node.func.value)
            name = "print" if (owner, name) == ("pytest", "UsageError") else name
            if name not in SHOWING or owner not in STREAMS or (owner, name) == ("", "write"):
                continue
            index = SHOWING[name]
            if len(node.args) > index:
                yield place, node.lineno, node.args[index]


def is_plain(argument: ast.expr) -> bool:
    """Return whether an expression is a text of ours, or went through `plain_text`."""
    if isinstance(argument, ast.Constant):
        return True
    return isinstance(argument, ast.Call) and ast.unparse(argument.func) in PLAIN


def test_every_print_goes_through_plain_text() -> None:
    found = list(shown_arguments())
    assert len(found) > 8
    wrong = [
        f"{place}:{line}: {ast.unparse(each)}" for place, line, each in found if not is_plain(each)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "call", ["print(name)", "pytest.UsageError(f'{name}')", "terminalreporter.write_line(x)"]
)
def test_a_print_that_does_not_is_found(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text(call)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "REPOSITORY", tmp_path)
    [(_, _, argument)] = shown_arguments()
    assert not is_plain(argument)


# Reports.


def report() -> Any:
    """A report in which everything that comes from outside is hostile."""
    sample = report_samples.run(HOSTILE)[0]
    case = replace(sample.cases[0], vocoder=HOSTILE, outcome="failed", reason=HOSTILE)
    environment = replace(sample.environment, command=HOSTILE)
    failed = (FailedTest(name=HOSTILE, message=HOSTILE),)
    return replace(
        sample, cases=(case, *sample.cases[1:]), environment=environment, failed_tests=failed
    )


@pytest.mark.parametrize(
    "write", [report_html, report_markdown, report_json], ids=["html", "md", "json"]
)
def test_a_report_holds_nothing_of_it(write: Any) -> None:
    text = write(report())
    lines = re.findall(r"^\s*::\S.*", text, flags=re.MULTILINE)
    assert [letter for letter in raw(text) if len(letter) == 1] + lines == []


def test_json_means_the_same(tmp_path: Path) -> None:
    from melcheck.report.json_format import read_report

    path = tmp_path / "report.json"
    path.write_text(report_json(report()), encoding="utf-8")
    assert read_report(path).environment.command == HOSTILE


def test_an_annotation_is_one_line_without_it() -> None:
    text = annotation(HOSTILE, title=HOSTILE, file=HOSTILE, line=3)
    assert [letter for letter in raw(text) if len(letter) == 1] == []
    assert "\n" not in text


# The command line.


@pytest.mark.parametrize("width", [20, 80])
def test_a_line_that_is_broken_begins_no_command(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    terminal.width = width
    terminal.print(f"{'word ' * 10}::error::no {HOSTILE}")
    assert raw(capsys.readouterr().out) == []


def test_a_progress_bar_shows_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    title = f"[red]{HOSTILE}"
    assert list(Terminal().progress(title, [1], 1)) == [1]
    shown = capsys.readouterr().err
    assert "[red]a" in shown.replace("\n", "")
    assert not {"\u202e", "\x07", "\x9b", "\u2028"} & set(shown)


def test_a_table_that_is_printed_begins_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    rows = [(HOSTILE, "b"), ("::error::x", "##[c]"), ("word " * 4 + "::error::y", "d")]
    for width in (10, 80):
        terminal.width = width
        terminal.print(terminal.table(("what", HOSTILE), rows))
    assert raw(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "words",
    [
        ["compare", HOSTILE, HOSTILE],
        ["diagnose", "--mel", HOSTILE],
        ["diagnose", "--mel", f"{HOSTILE}.npy", "--audio", f"{HOSTILE}.wav"],
        ["check", HOSTILE],
        ["check", HOSTILE, "b.wav"],
        ["check", "mels", "--report", f"{HOSTILE}.pdf"],
        ["check", "clip.wav", "--vocoder", HOSTILE],
        ["check", "clip.wav", "--frontend", HOSTILE],
        ["check", "clip.wav", "--device", HOSTILE],
        ["check", "clip.wav", "--artifacts", f"{HOSTILE}/{HOSTILE}"],
        ["check", "clip.wav", "--duration", HOSTILE],
        ["handshake", HOSTILE],
        ["handshake", f"mytts:{HOSTILE}"],
        ["handshake", "mytts.audio:mel", "--profile", HOSTILE],
        ["bench", "--vocoder", HOSTILE],
        ["bench", "--precision", HOSTILE],
        ["compare", "a.npy", "b.npy", "--array", HOSTILE],
        ["info", HOSTILE],
        [HOSTILE],
        [f"--{HOSTILE}"],
    ],
    ids=lambda words: " ".join(words).replace(HOSTILE, "HOSTILE")[:40],
)
@pytest.mark.parametrize("json_option", [[], ["--json"]], ids=["text", "json"])
def test_the_command_line_prints_nothing_of_it(
    words: list[str],
    json_option: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", **{HOSTILE.replace("\n", ""): np.zeros((100, 30), np.float32)})
    assert main([*words, *json_option]) in (2, 3)
    captured = capsys.readouterr()
    assert raw(captured.out) + raw(captured.err) == []


def test_a_front_end_that_raises_it_prints_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(f"def mel(waveform):\n    raise ValueError({HOSTILE!r})\n")
    clip = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"
    for words in (
        ["melcheck", "handshake", "loud:mel"],
        ["pytest", "--pyargs", "melcheck.suite", "-m", "sanity", f"--mel-audio={clip}",
         "--mel-frontend=loud:mel", "-p", "no:cacheprovider"],
    ):  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "GITHUB_ACTIONS": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode in (1, 2, 4)
        assert raw(result.stdout + result.stderr) == []
        assert "ValueError" in result.stdout + result.stderr
