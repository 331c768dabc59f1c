"""An audit from the source to the verdict, with an engine that measures nothing."""

from __future__ import annotations

import multiprocessing
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.progress import Progress
from melcheck.audit.run import Audit, Finished, run_audit
from melcheck.audit.sources import Source, in_random_order
from melcheck.audit.store import ROWS_FOLDER, read_rows
from tests.audit.fake_engine import FakeEngine, row_of
from tests.audit.killed_run import audit

pytest.importorskip("pyarrow", reason="pyarrow keeps the table: pip install pyarrow")

REPOSITORY = Path(__file__).parents[2]


def listed(path: Path, count: int, *, bad_each: int = 0) -> Path:
    """A list of clips, of which every so many fails; the files need not be there."""
    with path.open("w") as file:
        for number in range(count):
            bad = "bad" if bad_each and not number % bad_each else "clip"
            file.write(f'{{"audio": "{bad}-{number}.wav", "speaker": "{number % 3}"}}\n')
    return path


def audited(source: Path, output: Path, engine: Any = None, **options: Any) -> Finished:
    by = options.pop("by", None)
    plan = Audit(
        source=Source(str(source), by=by),
        output=output,
        settings=AuditSettings(),
        engine=engine or FakeEngine(),
        **options,
    )
    return run_audit(plan, Progress(lambda _: None), rows_per_part=64)


def test_every_clip_is_judged_and_those_that_fail_are_listed(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 200, bad_each=50)
    finished = audited(source, tmp_path / "out", by="speaker")
    assert (finished.verdict.clips, finished.verdict.failures, finished.passed) == (200, 4, False)
    lines = (tmp_path / "out" / "drop.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["bad-0", "bad-50", "bad-100", "bad-150"]
    assert {group.name for group in finished.verdict.groups} == {"0", "1", "2"}


def test_a_limit_is_kept_by_the_share_of_the_whole(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 200, bad_each=50)
    assert audited(source, tmp_path / "out", limit=0.02).passed
    assert not audited(source, tmp_path / "out", limit=0.019).passed


def test_a_line_that_names_no_clip_fails(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 100)
    source.write_text(source.read_text() + "no JSON\n")
    finished = audited(source, tmp_path / "out")
    assert (finished.verdict.clips, finished.verdict.outcomes["unreadable"]) == (101, 1)
    assert f"x.jsonl, line 101\t{source}\tunreadable" in (tmp_path / "out/drop.txt").read_text()


def test_a_second_run_measures_what_has_changed(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 200)
    (tmp_path / "clip-7.wav").write_bytes(b"one")
    assert audited(source, tmp_path / "out").measured == 200
    assert audited(source, tmp_path / "out").measured == 0
    (tmp_path / "clip-7.wav").write_bytes(b"another")
    finished = audited(source, tmp_path / "out")
    assert (finished.measured, finished.verdict.clips) == (1, 200)


def test_a_clip_that_is_no_longer_listed_is_no_longer_judged(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 200, bad_each=50)
    audited(source, tmp_path / "out")
    lines = source.read_text().splitlines(keepends=True)
    source.write_text("".join(line for line in lines if "bad" not in line))
    finished = audited(source, tmp_path / "out")
    assert (finished.measured, finished.verdict.clips, finished.passed) == (0, 196, True)
    assert (tmp_path / "out" / "drop.txt").read_text() == ""
    assert not any("bad" in row.name for row in read_rows(tmp_path / "out"))


def test_a_sample_is_judged_alone_and_the_rest_is_measured_later(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 300, bad_each=3)
    finished = audited(source, tmp_path / "out", sample=60)
    assert (finished.verdict.clips, finished.verdict.corpus_size) == (60, 300)
    assert finished.verdict.share.low < 1 / 3 < finished.verdict.share.high
    finished = audited(source, tmp_path / "out")
    assert (finished.measured, finished.verdict.clips) == (240, 300)
    # The table has all of them; the sample's verdict stays that of the sample.
    assert audited(source, tmp_path / "out", sample=60).verdict.clips == 60


@pytest.mark.parametrize(("bad_each", "decision"), [(0, "below"), (20, "above")])
def test_a_corpus_is_decided_by_some_of_its_clips(
    tmp_path: Path, bad_each: int, decision: str
) -> None:
    source = listed(tmp_path / "x.jsonl", 3_000, bad_each=bad_each)
    finished = audited(source, tmp_path / "out", until_decided=True, limit=0.01)
    assert finished.verdict.decision == decision
    assert finished.passed is (decision == "below")
    assert finished.measured < 700


class LateFailures(FakeEngine):
    """Gives blocks of which a clip fails back later, as where those take longer."""

    def __call__(
        self, blocks: Iterable[Sequence[AuditItem]], settings: AuditSettings, *, workers: int
    ) -> Iterator[list[Row]]:
        late: list[list[Row]] = []
        for rows in super().__call__(blocks, settings, workers=workers):
            if any(row.outcome == "failed" for row in rows):
                late.append(rows)
            else:
                yield rows
            if len(late) > 3:
                yield late.pop(0)
        yield from late


def test_clips_are_counted_in_the_order_of_the_draw(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 3_000, bad_each=40)
    options: dict[str, Any] = {"until_decided": True, "limit": 0.01}
    at_once = audited(source, tmp_path / "1", **options).verdict
    late = audited(source, tmp_path / "2", LateFailures(), **options).verdict
    assert (late.decision, late.share, late.drawn) == (
        at_once.decision,
        at_once.share,
        at_once.drawn,
    )


def test_a_draw_goes_on_where_it_was(tmp_path: Path) -> None:
    source = listed(tmp_path / "x.jsonl", 3_000)
    engine = FakeEngine()
    first = audited(source, tmp_path / "out", engine, until_decided=True, limit=0.01)
    order = [entry.index for entry in in_random_order(Source(str(source)))[0]]
    assert engine.asked == order[: len(engine.asked)]
    again = audited(source, tmp_path / "out", until_decided=True, limit=0.01)
    assert (again.measured, again.verdict.share) == (0, first.verdict.share)


def test_what_was_measured_before_an_error_is_kept(tmp_path: Path) -> None:
    def stop(item: AuditItem) -> Row:
        if item.index == 100:
            raise KeyboardInterrupt
        return row_of(item)

    source = listed(tmp_path / "x.jsonl", 200)
    with pytest.raises(KeyboardInterrupt):
        audited(source, tmp_path / "out", FakeEngine(stop))
    assert audited(source, tmp_path / "out").measured == 200 - 64


def test_a_source_that_is_missing_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        audited(tmp_path / "no.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Processes that are killed.


class Other:
    """An audit in a process of its own, forked from one that has imported what it needs."""

    def __init__(self, source: Path, output: Path, *, seconds: float, rows: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.audit.killed_run"])
        self._told, told = context.Pipe(duplex=False)
        self._process = context.Process(target=audit, args=(source, output, seconds, rows, told))
        self._process.start()
        told.close()

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        assert self._process.exitcode != 0, "it was done before it could be killed"
        self._told.close()

    def result(self) -> tuple[int, int]:
        found: tuple[int, int] = self._told.recv()
        self._process.join()
        self._told.close()
        return found


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another process import these tests."""
    monkeypatch.syspath_prepend(str(REPOSITORY))


def parts(folder: Path) -> dict[str, bytes]:
    paths = (folder / ROWS_FOLDER).glob("part-*") if folder.exists() else ()
    return {path.name: path.read_bytes() for path in sorted(paths)}


@pytest.mark.usefixtures("importable")
def test_a_run_that_is_killed_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    clips, rows = 1_500, 64
    source, output = listed(tmp_path / "x.jsonl", clips, bad_each=7), tmp_path / "out"
    before: dict[str, bytes] = {}
    for _ in range(3):
        process = Other(source, output, seconds=0.001, rows=rows)
        # At a moment that nobody chose: some time after it has written a few parts more.
        while len(parts(output)) < len(before) + 3 and process.runs:
            time.sleep(0.005)
        process.kill()
        after = parts(output)
        assert {name: after[name] for name in before} == before
        before = after
    known = sum(1 for _ in read_rows(output))
    assert Other(source, output, seconds=0.0, rows=rows).result() == (clips, clips - known)
    after = parts(output)
    assert {name: after[name] for name in before} == before

    audited(source, tmp_path / "whole")
    assert sorted(map(repr, read_rows(output))) == sorted(map(repr, read_rows(tmp_path / "whole")))


def peak_memory(tmp_path: Path, count: int, engine: FakeEngine) -> int:
    """Return the smaller of two, since what is imported or cached once may fall into either."""
    source = listed(tmp_path / f"{count}.jsonl", count, bad_each=3)
    peaks = []
    for turn in range(2):
        tracemalloc.start()
        audited(source, tmp_path / f"{count}-{turn}", engine)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)


@pytest.mark.parametrize("keeps", [False, True], ids=["as-it-is", "rows-are-kept"])
def test_memory_does_not_grow_with_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    # Buffers that are full with few rows, and no page, whose size has a limit of its own.
    monkeypatch.setattr("melcheck.audit.verdict._BLOCK_ROWS", 128)
    monkeypatch.setattr("melcheck.audit.store._CHUNK", 128)
    monkeypatch.setattr("melcheck.audit.run.write_page", lambda *_, **__: None)
    kept: list[Row] = []

    def make(item: AuditItem) -> Row:
        row = row_of(item)
        kept.extend([row] if keeps else [])
        return row

    few, many = (peak_memory(tmp_path, count, FakeEngine(make)) for count in (500, 2_500))
    # A row takes 300 bytes and its texts; a place in a list of those that fail takes 8.
    assert ((many - few) / 2_000 > 300) is keeps, (few, many)


# Progress.


def test_progress_tells_rate_time_left_and_failures_each_minute() -> None:
    now, notes = [0.0], []
    progress = Progress(notes.append, clock=lambda: now[0])
    progress.total = 6_000
    for _ in range(20):
        now[0] += 4.0
        progress.add(80, 1)
    assert notes == ["1,200 of about 6,000 clips, 20 a second, 4 min left, 15 fail"]


def test_progress_without_a_total_tells_no_time() -> None:
    now, notes = [0.0], []
    progress = Progress(notes.append, clock=lambda: now[0])
    now[0] = 61.0
    progress.add(30, 0)
    assert notes == ["30 clips, 0.49 a second, 0 fail"]


def test_progress_draws_a_bar_where_somebody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    now, notes = [0.0], []
    progress = Progress(notes.append, watched=True, clock=lambda: now[0])
    with progress.shown():
        now[0] = 120.0
        progress.add(30, 2)
    assert notes == []
    assert "30 clips, 0.25 a second, 2 fail" in progress.text()
    assert capsys.readouterr().out == ""
