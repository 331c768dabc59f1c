"""What workers leave on the disk goes, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from melcheck.audit import temporary, worst
from melcheck.audit.local import run_local
from melcheck.audit.model import AuditSettings, Row
from melcheck.audit.temporary import temporary_folder
from melcheck.audit.worst import ShownClip
from tests.audit.workers import Maker, item

REPOSITORY = Path(__file__).parents[2]

HOLDS = """
import time
from melcheck.audit.temporary import temporary_folder

with temporary_folder() as folder:
    (folder / "clip.wav").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the machine's temporary one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_what_is_in_it(above: Path) -> None:
    with temporary_folder() as folder:
        (folder / "x").touch()
        assert folder.parent == above
    assert not list(above.iterdir())


def test_folders_of_killed_processes_go_and_those_in_use_stay(above: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(above)}
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with temporary_folder():
            pass
        assert (left / "clip.wav").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert (left / "clip.wav").exists()
    with temporary_folder() as own, temporary_folder() as another:
        assert not left.exists()
        assert own.exists()
        assert another.exists()
    assert not list(above.iterdir())


def test_a_file_that_another_process_takes_for_one_left_costs_no_folder(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, taken = temporary._held, []

    def late(lock: Path, *, seconds: float) -> contextlib.AbstractContextManager[None]:
        if not taken:
            taken.append(lock)
            lock.unlink()
        return held(lock, seconds=seconds)

    monkeypatch.setattr(temporary, "_held", late)
    with temporary_folder() as folder:
        assert taken
        assert folder.is_dir()
        assert folder.with_suffix(".lock").exists()
    assert not list(above.iterdir())


def test_what_cannot_be_removed_yet_is_found_again(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = above / "melcheck-audit-left"
    left.mkdir()
    left.with_suffix(".lock").touch()
    with monkeypatch.context() as busy:
        busy.setattr(temporary.shutil, "rmtree", lambda folder, **_: None)
        with temporary_folder() as own:
            pass
        own.rmdir()
    assert left.exists()
    with temporary_folder():
        assert not left.exists()
    assert not list(above.iterdir())


def test_a_folder_of_another_name_stays(above: Path) -> None:
    other = above / "melcheck-audit-notes"
    other.mkdir()
    (above / "melcheck-audit-x.lock").symlink_to(above / "nowhere")
    with temporary_folder():
        pass
    assert other.exists()


def test_what_a_killed_worker_leaves_goes_at_once(above: Path) -> None:
    blocks = [[item(0, "litter-1"), item(1, "a"), item(2, "b")]]
    rows = run_local(blocks, AuditSettings(vocoder=None), workers=1, make=Maker)
    outcomes, seen = {}, 0
    for some in rows:
        outcomes |= {row.name: row.outcome for row in some}
        seen = max(seen, len(list(above.rglob("litter*"))))
    assert outcomes == {"litter-1": "unfinished", "a": "checked", "b": "checked"}
    assert seen == 0
    assert not list(above.iterdir())


def test_the_clips_of_the_page_lie_in_a_folder_that_is_found(
    above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(index=0, name="a", path="a.wav", outcome="failed")
    held = []

    def shown(row: Row, item: object, folder: Path, *_: object) -> ShownClip:
        held.append((folder.is_dir(), folder.with_suffix(".lock").exists()))
        return ShownClip(row)

    monkeypatch.setattr(worst, "_shown", shown)
    worst.show_clips([row], AuditSettings(vocoder=None))
    assert held == [(True, True)]
    assert not list(above.iterdir())
