"""The command line as a whole: help, usage, exit codes, streams that close, other locales."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from melcheck._version import __version__
from melcheck.cli import info
from melcheck.cli.main import COMMANDS, HELP, main
from melcheck.cli.output import Answer, Terminal

REPOSITORY = Path(__file__).parents[2]
CLIP = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"
SCREEN = (24, 80)

Captured = pytest.CaptureFixture[str]


def start(
    *argv: object, cwd: Path = REPOSITORY, stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.Popen[bytes]:
    """Start `melcheck` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "melcheck", *map(str, argv)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


# Help.


def test_help_teaches_it_on_one_screen(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out == HELP  # as it is written: no line is broken
    assert len(out.splitlines()) <= SCREEN[0]
    assert max(map(len, out.splitlines())) <= SCREEN[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_command(name: str) -> None:
    assert f"  melcheck {name} " in HELP


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_within_80_columns(
    name: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= SCREEN[1]
    assert out.startswith(f"usage: melcheck {name} ")
    assert "--json" in out


def test_version_is_that_of_the_package(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"melcheck {__version__}\n"


def test_help_imports_neither_torch_nor_what_takes_as_long() -> None:
    heavy = {"torch", "numpy", "matplotlib", "rich", "huggingface_hub", "pytest"}
    script = (
        "import sys; from melcheck.cli.main import main; "
        "main(['check', '--help']); main(['--help']);"
        f"sys.exit(','.join({heavy!r} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stderr, result.returncode) == ("", 0)


# Usage.


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["chekc"],
        ["check"],
        ["check", "a.wav", "--vocodre", "embedded"],
        ["check", "a.wav", "--dur", "3"],
        ["check", "a.wav", "--duration", "-1"],
        ["check", "a.wav", "--duration", "long"],
        ["check", "a.wav", "--sample-rate", "fast"],
        ["compare", "a.npy"],
        ["diagnose", "--audio", "a.wav"],
        ["handshake"],
    ],
    ids=lambda argv: " ".join(argv) or "nothing",
)
def test_wrong_usage_ends_with_2_and_says_so_on_stderr(argv: list[str], capsys: Captured) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "melcheck" in captured.err


# What a command can end with. The commands themselves are tested in test_cli_commands.py.


def ending(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> Answer:
        raise error

    monkeypatch.setattr(info, "run", fail)


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_the_answer_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, passed: bool, code: int, options: list[str]
) -> None:
    answer = Answer(passed=passed, text="told", data={"found": float("nan")})
    monkeypatch.setattr(info, "run", lambda *_: answer)
    assert main(["info", *options]) == code
    captured = capsys.readouterr()
    assert captured.err == ""
    if options:
        assert json.loads(captured.out) == {
            "melcheck": __version__,
            "command": "info",
            "passed": passed,
            "found": "nan",
        }
    else:
        assert captured.out == "told\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("clip.wav: no clip"), 2, "clip.wav: no clip"),
        (FileNotFoundError(2, "No such file", "x.npy"), 2, "x.npy"),
        (ModuleNotFoundError("No module named 'vocos'", name="vocos"), 3, "the package vocos"),
        (MemoryError(), 3, "out of memory"),
        (KeyError("bands"), 70, "a fault in melcheck"),
    ],
    ids=["value", "file", "import", "memory", "fault"],
)
def test_every_error_is_one_message_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, error: Exception, code: int, says: str
) -> None:
    ending(monkeypatch, error)
    assert main(["info"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("melcheck info: ")
    assert says in captured.err
    assert "Traceback" not in captured.err


def test_an_error_is_json_too_where_json_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    ending(monkeypatch, ValueError("clip.wav: no clip"))
    assert main(["info", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert (document["passed"], document["error"]) == (
        False,
        {"exit_code": 2, "message": "clip.wav: no clip"},
    )


def test_a_fault_of_ours_shows_where_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("MELCHECK_TRACEBACK", "1")
    ending(monkeypatch, KeyError("bands"))
    assert main(["info"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_other_code_that_ends_the_process_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, SystemExit(0))
    assert main(["info"]) == 70


def test_an_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    ending(monkeypatch, KeyboardInterrupt())
    assert main(["info"]) == 130
    assert capsys.readouterr() == ("", "")


# Streams and locales, in processes of their own.


def test_ctrl_c_ends_quietly_with_130(tmp_path: Path) -> None:
    # The front end interrupts, as a user would while it is imported. A shell starts what it puts
    # into the background, such as this run, with the signal ignored: it is heard again first.
    (tmp_path / "slow.py").write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    process = start("handshake", "slow:mel", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_closed_pipe_ends_quietly() -> None:
    with start("info", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert (process.returncode, err) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "wb") as full:
        process = start("--help", stdout=full.fileno())
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert err == b"melcheck: the output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("stream", "option", "code"),
    [("stdout", "--json", 3), ("stderr", "--json", 3), ("stdout", "--help", 0)],
)
def test_a_stream_that_was_closed_before_is_no_error(stream: str, option: str, code: int) -> None:
    number = {"stdout": 1, "stderr": 2}[stream]
    command = f'"{sys.executable}" -m melcheck fetch {option} {number}>&-'
    result = subprocess.run(
        command,
        shell=True,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": "/nonexistent",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code
    assert "Traceback" not in result.stdout + result.stderr
    if stream == "stderr":
        assert json.loads(result.stdout)["error"]["exit_code"] == 3


@pytest.mark.parametrize("name", ["名前.npy", os.fsdecode(b"caf\xe9.npy")], ids=["kanji", "bytes"])
def test_a_name_that_the_locale_cannot_write_is_escaped(tmp_path: Path, name: str) -> None:
    process = start(
        "diagnose",
        "--mel",
        name,
        cwd=tmp_path,
        LC_ALL="C",
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, b"")
    assert err.isascii()
    assert b"no such file" in err
    assert b"Traceback" not in err


def test_tables_are_drawn_in_ascii_where_that_is_all(tmp_path: Path) -> None:
    process = start("info", cwd=tmp_path, PYTHONIOENCODING="ascii", HF_HOME=str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert b"-----" in out
    assert b"\\u" not in out


# Who looks on.


class FakeTerminal:
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["plain", "NO_COLOR", "dumb"],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colour: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", FakeTerminal())
    assert Terminal().colour is colour


def test_piped_text_has_no_colour_and_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    assert (terminal.colour, terminal.width, terminal.watched) == (False, 80, False)


def test_progress_is_silent_where_nobody_looks(capsys: Captured) -> None:
    assert list(Terminal().progress("reading", [1, 2], 2)) == [1, 2]
    assert capsys.readouterr() == ("", "")


def test_progress_shows_on_stderr_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(Terminal().progress("reading", [1, 2], 2)) == [1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "reading" in captured.err


def test_long_sentences_are_broken_and_paths_are_not(capsys: Captured) -> None:
    path = "/".join(["folder"] * 20)
    Terminal().print(f"  {'word ' * 30}{path}")
    lines = capsys.readouterr().out.splitlines()
    assert path in lines[-1]
    assert max(map(len, lines[:-1])) <= SCREEN[1]
