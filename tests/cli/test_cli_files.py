"""What cannot be written loses no verdict, what is no path is refused, and what fails says why."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from huggingface_hub import constants

from melcheck.cli import info
from melcheck.cli.main import main
from melcheck.files import replacing

CLIP = Path(__file__).parents[2] / "fixtures" / "audio" / "kokoro-kumo-en.wav"
LONG = "x" * 300

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    mel = np.random.default_rng(0).normal(-5, 3, (100, 50)).astype(np.float32)
    np.save("a.npy", mel)
    np.save("b.npy", mel + 0.01)
    return tmp_path


class Full:
    """A disk without room."""

    def __init__(self, path: Path, **_: Any) -> None:
        self.path = path

    def __enter__(self) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    ("module", "words", "path"),
    [
        ("melcheck.artifacts", ["check", CLIP], "mels.png"),
        ("melcheck.report.files", ["check", CLIP, "--no-artifacts", "--report", "r.md"], "r.md"),
        ("melcheck.cli.compare", ["compare", "a.npy", "b.npy", "--plot", "d.png"], "d.png"),
    ],
    ids=["artifacts", "report", "plot"],
)
def test_a_full_disk_at_the_end_loses_no_verdict(
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    words: list[Any],
    path: str,
    options: list[str],
) -> None:
    monkeypatch.setattr(f"{module}.replacing", Full)
    assert main([*map(str, words), *options]) == 3
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert f"{path}: No space left on device" in line
    assert "Errno" not in line
    if options:
        document = json.loads(captured.out)
        assert document["passed"] is True
        assert document["error"]["exit_code"] == 3
    else:
        assert "passed" in captured.out


@pytest.fixture
def obstacles(here: Path) -> None:
    """A file and a link that leads nowhere, where folders or files of the answer belong."""
    (here / "file").write_text("")
    (here / "link").symlink_to(here / "nowhere" / "else")


@pytest.mark.usefixtures("obstacles")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", f"{LONG}.wav"], "File name too long"),
        (["check", CLIP, "--artifacts", LONG], "File name too long"),
        (["check", CLIP, "--artifacts", "file"], "is a file. Name a folder"),
        (["check", CLIP, "--artifacts", "link/more"], "a link that leads nowhere"),
        (["check", CLIP, "--report", f"{LONG}.html"], "File name too long"),
        (["check", CLIP, "--report", "file/r.html"], "its folder cannot be written"),
        (["check", CLIP, "--report", "link/r.html"], "its folder cannot be written"),
        (["compare", "a.npy", "b.npy", "--plot", "b.npy"], "would overwrite the mel b.npy"),
        (["compare", "a.npy", "b.npy", "--plot", "./a.npy"], "would overwrite the mel a.npy"),
        (["compare", "a.npy", "b.npy", "--plot", LONG], "File name too long"),
        (["compare", "a.npy", "b.npy", "--plot", "/dev/null"], "it is no regular file"),
        (["compare", "a.npy", "b.npy", "--plot", "."], "it is a folder"),
        (["compare", f"{LONG}.npy", "b.npy"], "File name too long"),
        (["diagnose", "--mel", f"{LONG}.npy"], "File name too long"),
        (["check", ""], "must name a file or a folder, got ''"),
        (["check", " "], "must name a file or a folder, got ' '"),
        (["check", CLIP, "--report", ""], "must name a file or a folder"),
        (["handshake", "a:b", "--audio", ""], "must name a file or a folder"),
        (["compare", "", "b.npy"], "must name a file or a folder"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(str(w)[-20:] for w in value),
)  # fmt: skip
def test_what_is_in_the_way_is_told_in_one_sentence(
    capsys: Captured, words: list[Any], says: str
) -> None:
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert "Errno" not in captured.err
    assert "Traceback" not in captured.err


def test_a_report_keeps_its_permissions_and_its_link(here: Path, capsys: Captured) -> None:
    kept = here / "kept.md"
    kept.write_text("old")
    kept.chmod(0o600)
    (here / "r.md").symlink_to(kept)
    assert main(["check", str(CLIP), "--no-artifacts", "--report", "r.md"]) == 0
    assert (here / "r.md").is_symlink()
    assert kept.read_text(encoding="utf-8").startswith("## ")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_block_that_fails_leaves_the_file_and_no_other(here: Path) -> None:
    (here / "a").mkdir()
    path = here / "a" / "file"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_name_of_255_bytes_can_be_replaced(here: Path) -> None:
    with replacing(here / ("y" * 255)) as temporary:
        temporary.write_text("new")
    assert (here / ("y" * 255)).read_text() == "new"


# What is not there.


def ask_torch() -> None:
    import torch

    torch.empty(2**60, dtype=torch.float32)


def ask_numpy() -> None:
    np.empty(2**60, np.float32)


def ask_python() -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("ask", "amount"),
    [(ask_torch, "4611686018427387904 bytes"), (ask_numpy, "4.00 EiB"), (ask_python, "more than")],
)
def test_memory_that_is_not_there_is_told_with_how_much(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], None], amount: str
) -> None:
    monkeypatch.setattr(info, "run", lambda *_: ask())
    assert main(["info"]) == 3
    told = capsys.readouterr().err
    assert f"out of memory: {amount}" in told
    assert "were asked for" in told


@pytest.fixture
def clip(here: Path) -> Callable[[int], Path]:
    def write(rate: int) -> Path:
        path = here / f"{rate}.wav"
        soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 30_000), rate)
        return path

    return write


@pytest.mark.parametrize(
    ("rate", "says"),
    [
        (1, "a sampling rate of 1 Hz, and at least 1,000 is read"),
        (999, "a sampling rate of 999 Hz"),
        (768_001, "shares too small a divisor"),
        (800_000, "a sampling rate of 800,000 Hz, and at most 768,000 is read"),
        (47_997, "shares too small a divisor"),
        (23_998, "shares too small a divisor"),
    ],
)
def test_a_rate_that_no_audio_has_is_refused(
    capsys: Captured, clip: Callable[[int], Path], rate: int, says: str
) -> None:
    assert main(["check", str(clip(rate)), "--no-artifacts"]) == 2
    assert says in capsys.readouterr().err
