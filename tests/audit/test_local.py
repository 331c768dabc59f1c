"""The local engine gives every clip its row, whatever happens to the processes that make them."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from melcheck.audit.local import WorkersError, run_local
from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.rows import make_row_maker
from melcheck.manifests import ManifestItem, read_manifest
from melcheck.vocoders.weights import VocoderUnavailable
from tests.audit.workers import Maker, absent, dies, has_decoders, headers_hang, item, unusable

REPOSITORY = Path(__file__).parents[2]
SETTINGS = AuditSettings(vocoder=None)


def run(
    blocks: Sequence[Sequence[AuditItem]],
    settings: AuditSettings = SETTINGS,
    workers: int = 1,
    make: Callable[[AuditSettings], Maker] = Maker,
) -> dict[str, Row]:
    rows = run_local(blocks, settings, workers=workers, make=make)
    found = [row for some in rows for row in some]
    named = {row.name: row for row in found}
    assert len(named) == len(found) == sum(map(len, blocks)), "each clip has one row"
    return named


def block(*names: str, first: int = 0) -> list[AuditItem]:
    return [item(first + place, name) for place, name in enumerate(names)]


def test_what_ends_a_worker_has_a_row_and_its_neighbours_have_theirs() -> None:
    found = run(
        [
            block("a", "b", "exit-1", "c", "d"),
            block("e", "kill-1", "f", first=10),
            block("g", first=20),
        ],
        workers=2,
    )
    gone = {name: row for name, row in found.items() if row.outcome == "unfinished"}
    assert set(gone) == {"exit-1", "kill-1"}
    assert gone["exit-1"].reason == "list.txt, line 1: its worker ended with status 3"
    assert "killed by SIGKILL: perhaps it ran out of memory" in gone["kill-1"].reason
    assert {row.outcome for name, row in found.items() if name not in gone} == {"checked"}
    assert all(row.key == "" for row in gone.values())


def test_a_clip_that_hangs_is_left_behind() -> None:
    settings = AuditSettings(vocoder=None, limit_seconds=0.5)
    found = run([block("a", "b", "hang-1", "c", "d")], settings)
    assert found.pop("hang-1").reason == "list.txt, line 1: it took longer than 0.5 s"
    assert {row.outcome for row in found.values()} == {"checked"}


@pytest.mark.parametrize("told", ["by-the-list", "by-the-header"])
def test_a_long_clip_has_more_time(tmp_path: Path, told: str) -> None:
    # Ten minutes have ten times the limit of one.
    seconds = 600.0
    path = tmp_path / "slow-1.wav"
    soundfile.write(path, np.zeros(int(seconds * 8_000), np.int16), 8_000)
    listed = None if told == "by-the-header" else seconds
    if listed:
        path.unlink()
    long = AuditItem(0, ManifestItem("slow-1", path, duration_seconds=listed))
    short = AuditItem(1, ManifestItem("slow-2", tmp_path / "slow-2.wav", duration_seconds=60.0))
    settings = AuditSettings(vocoder=None, limit_seconds=1.0)
    found = run([[long], [short]], settings, make=has_decoders)
    assert found["slow-1"].outcome == "checked"
    assert found["slow-2"].reason.endswith("it took longer than 1 s")


def test_a_worker_that_is_killed_from_outside_costs_no_clip(tmp_path: Path) -> None:
    settings = AuditSettings(vocoder=None, cache=tmp_path)
    found = run([block("a", "once-x", "b", "c")], settings)
    assert (tmp_path / "x").exists()
    assert {row.outcome for row in found.values()} == {"checked"}


def test_blocks_are_read_as_they_are_needed() -> None:
    read = 0

    def endless() -> Iterator[list[AuditItem]]:
        nonlocal read
        while True:
            read += 1
            yield [item(read, f"a-{read}")]

    rows = run_local(endless(), SETTINGS, workers=2, make=Maker)
    got = [next(rows) for _ in range(20)]
    rows.close()  # type: ignore[attr-defined]
    assert len(got) == 20
    assert read <= 20 + 2 * 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (absent, VocoderUnavailable, "the weights are not here"),
        (unusable, ValueError, "vocoder must be another"),
        (dies, WorkersError, "3 processes of the audit ended before they had begun"),
    ],
    ids=["absent", "unusable", "dies"],
)
def test_workers_that_cannot_begin_end_the_run(
    make: object, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        list(run_local([block("a")], SETTINGS, workers=1, make=make))  # type: ignore[arg-type]
    assert not multiprocessing.active_children()


def test_a_clip_whose_header_hangs_is_left_behind() -> None:
    settings = dataclasses.replace(SETTINGS, limit_seconds=1.0)
    blocks = [[item(0, "a"), item(1, "b"), item(2, "header-1")], [item(3, "c")]]
    rows = run_local(blocks, settings, workers=1, make=headers_hang)
    found = {row.name: row for some in rows for row in some}
    assert {name for name, row in found.items() if row.outcome == "checked"} == {"a", "b", "c"}
    assert found["header-1"].reason.endswith("it took longer than 1 s")


def test_a_name_that_no_file_can_have_is_told() -> None:
    bad = ManifestItem("bad", Path("c\ud800.wav"), "list.jsonl, line 3")
    [[row]] = run_local([[AuditItem(0, bad)]], SETTINGS, workers=1)
    assert row.outcome == "unreadable"
    assert row.reason.startswith("list.jsonl, line 3: ")


def test_only_what_is_measured_takes_its_time() -> None:
    cut = dataclasses.replace(SETTINGS, limit_seconds=120.0, duration_seconds=90.0)
    assert cut.limit_of(3600.0) == 180.0
    # A stored mel is that of the whole clip.
    assert dataclasses.replace(cut, cache=Path("mels")).limit_of(3600.0) == 7200.0


def test_no_blocks_need_no_worker() -> None:
    assert list(run_local([], SETTINGS, workers=2, make=dies)) == []
    with pytest.raises(ValueError, match="workers and threads must be at least 1"):
        next(run_local([], SETTINGS, workers=0))


INTERRUPTED = """
import signal
from melcheck.audit.local import run_local
from melcheck.audit.model import AuditSettings
from tests.audit.workers import Maker, item

if __name__ == "__main__":
    # What a shell starts in the background inherits that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    blocks = [[item(0, "a")], [item(1, "hang-1")], [item(2, "hang-2")]]
    for rows in run_local(blocks, AuditSettings(vocoder=None), workers=2, make=Maker):
        print("row", flush=True)
"""


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in listed.read_text().split()]


def keeps_on_at_ctrl_c(pid: int) -> bool:
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    kept = int(status["SigBlk"], 16) | int(status["SigIgn"], 16)
    return bool(kept & 1 << signal.SIGINT - 1)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_workers_end_with_the_run(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "run.py"
    script.write_text(INTERRUPTED)
    # What a killed run leaves behind lies there.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "row\n"
        workers = children(process.pid)
        # A terminal sends Ctrl-C to all of them, and only the first has to say so.
        kept = [keeps_on_at_ctrl_c(each) for each in workers]
        process.send_signal(end)
        process.wait(60)
        # A hanging worker of a killed run ends where it next speaks: only the idle one ends here.
        expected = workers if end == signal.SIGINT else []
        deadline = time.monotonic() + 60
        while alive := [each for each in expected if Path(f"/proc/{each}").exists()]:
            assert time.monotonic() < deadline, f"{alive} live on"
            time.sleep(0.05)
        for each in workers:
            if Path(f"/proc/{each}").exists():
                os.kill(each, signal.SIGKILL)
    assert all(kept)


def test_a_decoder_says_nothing_in_the_middle(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (REPOSITORY / "fixtures" / "audio" / "kokoro-mp3.mp3").read_bytes()
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 2])
    (tmp_path / "hole.mp3").write_bytes(content[:9_000] + bytes(300) + content[9_300:])
    (tmp_path / "no-frame.mp3").write_bytes(bytes(20_000))
    items = [AuditItem(index, each) for index, each in enumerate(read_manifest(tmp_path))]
    rows = run_local([items], SETTINGS, workers=1)
    found = {row.name: row for some in rows for row in some}
    assert capfd.readouterr() == ("", "")
    assert [found[name].outcome for name in ("cut", "hole", "no-frame")] == [
        "unreadable",
        "checked",
        "unreadable",
    ]
    assert "its decoder had to mend" in " ".join(found["hole"].notes)


def test_rows_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    # Speech, which passes: what fails is explained, which takes longer than all else.
    speech, rate = soundfile.read(REPOSITORY / "fixtures" / "audio" / "kokoro-short.flac")
    for number, first in enumerate((0, 700, 300, 0)):
        soundfile.write(tmp_path / f"{number}.wav", speech[first:], rate)
    (tmp_path / "4.wav").write_bytes(b"no audio")
    items = [AuditItem(index, each) for index, each in enumerate(read_manifest(tmp_path))]
    settings = AuditSettings(vocoder="embedded")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has: more threads may add up in another order
    try:
        expected = make_row_maker(settings)(items)
    finally:
        torch.set_num_threads(threads)
    blocks = [items[:2], items[2:3], items[3:]]
    found = [row for some in run_local(blocks, settings, workers=2) for row in some]
    assert repr(sorted(found, key=lambda row: row.index)) == repr(expected)
    assert [row.outcome for row in expected][-1] == "unreadable"
