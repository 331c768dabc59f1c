"""The local engine: some processes on this machine, one torch thread each, a block each at a time.

Each process loads the vocoder once, takes a block of clips, and sends rows as they are made. It
also says which clips it works on next: where it dies or hangs, the clips at fault are known, and
the rows that were made are kept. A clip that takes too long ends its process. What was lost goes
back as it was, once, since a process may be killed from outside; a second time the clips that were
worked on go back one by one, and one that ends its process again has a row that says so.

A new block is taken from the source when a process is free: a list of any length is read lazily.

`concurrent.futures` and loky were looked at: to both, one dead process is the end of the whole
pool, none of whose tasks is known to be the one at fault, and neither can end a task that hangs.
What they would add here is a queue, of which there is none: a pipe to each process, and
`multiprocessing.connection.wait` on all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from melcheck.audit.model import AuditItem, AuditSettings, Row, row_of
from melcheck.audit.temporary import temporary_folder
from melcheck.files import error_text, plain_text
from melcheck.manifests import ManifestItem

# A process that dies so often before it has begun will not begin.
_MOST_STARTS = 3

# Of a smaller file the header is not looked at: at 16 kbit/s, as speech is coded at the lowest, it
# is shorter than the limit is meant for.
_LARGE_BYTES = 100_000


def available_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Streaming(Protocol):
    """A row maker that tells what it works on: `melcheck.audit.rows.ClipRows`."""

    def stream(
        self, items: Sequence[AuditItem], *, started: Callable[[Sequence[int]], object]
    ) -> Iterator[list[Row]]:
        """Yield the rows of items, in any order; call `started` before each step."""


class WorkersError(RuntimeError):
    """The processes of an audit do not start; the message says why."""


def _make(settings: AuditSettings) -> Streaming:
    from melcheck.audit.rows import make_row_maker  # torch is for the workers

    return make_row_maker(settings)


def unfinished_row(item: AuditItem, reason: str) -> Row:
    """Return the row of a clip at which an engine gave up.

    It has no key: the next run tries again.
    """
    source = item.item
    return row_of(item, "unfinished", plain_text(f"{source.place or source.file}: {reason}"))


def run_local(
    blocks: Iterable[Sequence[AuditItem]],
    settings: AuditSettings,
    *,
    workers: int,
    threads: int = 1,
    make: Callable[[AuditSettings], Streaming] = _make,
) -> Iterator[list[Row]]:
    """Make the rows of blocks of clips in processes of this machine.

    Args:
        blocks: The clips; a block is read when a process is free for it.
        settings: What is measured.
        workers: How many processes.
        threads: Of torch, in each.
        make: What each process makes its row maker with: a function of a module.

    Yields:
        Rows as they are made, some at a time, in any order. Each clip has one.

    Raises:
        ValueError: `workers` or `threads` below 1, or settings that cannot be used.
        VocoderUnavailable: The weights or the device are not there.
        WorkersError: Processes die before they have begun.
    """
    if workers < 1 or threads < 1:
        raise ValueError(f"workers and threads must be at least 1, got {workers} and {threads}.")
    with temporary_folder() as folder:
        engine = _Engine(iter(blocks), settings, workers, folder, (threads, make))
        try:
            yield from engine.rows()
        finally:
            engine.stop()


@dataclass(slots=True, eq=False)
class _Worker:
    """A process and what it has.

    Attributes:
        process: The process.
        connection: To it.
        folder: Of its temporary files, which goes with it.
        ready: Whether it has loaded what it needs.
        left: The clips of its block that have no row yet, by index, in order.
        at: The clips that it works on, and how many seconds each may take.
        since: When it began with them, by `time.monotonic`.
    """

    process: BaseProcess
    connection: Connection
    folder: str
    ready: bool = False
    left: dict[int, AuditItem] = field(default_factory=dict)
    at: dict[int, float] = field(default_factory=dict)
    since: float = 0.0


class _Engine:
    def __init__(
        self,
        blocks: Iterator[Sequence[AuditItem]],
        settings: AuditSettings,
        workers: int,
        folder: Path,
        given: tuple[Any, ...],
    ) -> None:
        self._blocks = blocks
        self._settings = settings
        self._most = workers
        self._folder = folder
        self._given = given
        self._again: deque[list[AuditItem]] = deque()
        self._workers: list[_Worker] = []
        # How often a clip was worked on when its process was lost.
        self._lost: dict[int, int] = {}
        self._failed_starts = 0

    def rows(self) -> Iterator[list[Row]]:
        """Yield the rows of all blocks."""
        while True:
            self._hand_out()
            if not self._workers:
                return
            for worker in self._heard():
                yield from self._answer(worker)
            for worker in list(self._workers):
                # What it has said meanwhile is heard first: who takes the rows may be slow.
                late = self._due(worker) <= time.monotonic()
                if late and not worker.connection.poll():
                    yield from self._replace(worker, hung=True)

    def stop(self) -> None:
        """End all processes, whatever they do."""
        for worker in self._workers:
            _end(worker)
        self._workers.clear()

    def _hand_out(self) -> None:
        """Give each free process a block, and start processes while there are more."""
        for worker in list(self._workers):
            if not worker.left:
                block = self._next()
                if block is None:
                    _end(worker)
                    self._workers.remove(worker)
                else:
                    self._give(worker, block)
        while len(self._workers) < self._most:
            block = self._next()
            if block is None:
                return
            worker = self._start()
            self._workers.append(worker)
            self._give(worker, block)

    def _next(self) -> list[AuditItem] | None:
        if self._again:
            return self._again.popleft()
        return next((list(block) for block in self._blocks if block), None)

    def _start(self) -> _Worker:
        # A fresh interpreter: a fork of one that has used torch's threads may hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        folder = tempfile.mkdtemp(dir=self._folder)
        process = context.Process(
            target=_work, args=(there, self._settings, folder, *self._given), daemon=True
        )
        # Ctrl-C is for this process, which ends the others; they inherit that it is blocked.
        blocked = getattr(signal, "pthread_sigmask", None)
        if blocked:
            # Started by the first process, it would lift the block again.
            resource_tracker.ensure_running()
        before = blocked(signal.SIG_BLOCK, {signal.SIGINT}) if blocked else ()
        try:
            process.start()
        finally:
            if blocked:
                blocked(signal.SIG_SETMASK, before)
        there.close()
        return _Worker(process, here, folder)

    def _give(self, worker: _Worker, block: Sequence[AuditItem]) -> None:
        worker.left = {item.index: item for item in block}
        worker.at, worker.since = {}, time.monotonic()
        if worker.ready:
            self._send(worker)

    def _send(self, worker: _Worker) -> None:
        # Of one that has died, its end is heard next.
        with contextlib.suppress(OSError):
            worker.connection.send(list(worker.left.values()))

    def _heard(self) -> list[_Worker]:
        """Wait until a process says something, dies, or has taken too long."""
        due = min(self._due(worker) for worker in self._workers)
        timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
        heard = wait([worker.connection for worker in self._workers], timeout)
        return [worker for worker in self._workers if worker.connection in heard]

    def _due(self, worker: _Worker) -> float:
        """Return when a process has taken too long."""
        if not worker.at:
            return float("inf")
        return worker.since + sum(worker.at.values())

    def _answer(self, worker: _Worker) -> Iterator[list[Row]]:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._replace(worker, hung=False)
            return
        if kind == "absent":
            from melcheck.vocoders.weights import VocoderUnavailable

            raise VocoderUnavailable(content)
        if kind == "unusable":
            raise ValueError(content)
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            self._send(worker)
        elif kind == "at":
            worker.at, worker.since = content, time.monotonic()
        else:
            worker.since = time.monotonic()
            for row in content:
                worker.left.pop(row.index, None)
                self._lost.pop(row.index, None)
            worker.at = {index: each for index, each in worker.at.items() if index in worker.left}
            yield content

    def _replace(self, worker: _Worker, *, hung: bool) -> Iterator[list[Row]]:
        """End a process; what it had goes back, or gets its row."""
        code = _end(worker)
        self._workers.remove(worker)
        left, at = worker.left, worker.at
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_STARTS:
                raise WorkersError(
                    f"{self._failed_starts} processes of the audit ended before they had begun "
                    f"({_ended(code)}). Look above for what they wrote, and for memory: "
                    "fewer workers need less."
                )
            self._again.append(list(left.values()))
            return
        suspects = [index for index in at if index in left] or list(itertools.islice(left, 1))
        before = max((self._lost.get(index, 0) for index in suspects), default=0)
        if hung or before:
            kept = [item for index, item in left.items() if index not in suspects]
            if kept:
                self._again.append(kept)
            if len(suspects) == 1:
                limit = f"{sum(at.values()):,.6g} s"
                reason = f"it took longer than {limit}" if hung else f"its worker {_ended(code)}"
                self._lost.pop(suspects[0], None)
                yield [unfinished_row(left[suspects[0]], reason)]
                return
            self._again.extend([left[index]] for index in suspects)
        elif left:
            self._again.append(list(left.values()))
        for index in suspects:
            self._lost[index] = before + 1


def _end(worker: _Worker) -> int | None:
    """End a process, and return what it ended with by itself; None where it had not."""
    with contextlib.suppress(OSError):
        worker.connection.close()
    # One that has just died may not have been noticed yet.
    worker.process.join(0.1)
    code = worker.process.exitcode
    worker.process.kill()
    worker.process.join()
    worker.process.close()
    shutil.rmtree(worker.folder, ignore_errors=True)
    return code


def _ended(code: int | None) -> str:
    """Return how a process ended, in words.

    Example:
        >>> _ended(3), _ended(-9)
        ('ended with status 3', 'was killed by SIGKILL: perhaps it ran out of memory')
    """
    if code is None or code >= 0:
        return "ended" if code is None else f"ended with status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    more = ": perhaps it ran out of memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{more}"


def _work(
    connection: Connection,
    settings: AuditSettings,
    folder: str,
    threads: int,
    make: Callable[[AuditSettings], Streaming],
) -> None:
    """Run a worker: take blocks and send rows until the other end is closed."""
    # Before torch is imported, for all that it brings along.
    os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    tempfile.tempdir = folder
    try:
        maker = make(settings)
    except Exception as error:
        from melcheck.vocoders.weights import VocoderUnavailable

        absent = isinstance(error, VocoderUnavailable)
        kind, text = ("absent", str(error)) if absent else ("unusable", error_text(error))
        connection.send((kind, plain_text(text)))
        return
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    # The other end is closed when the run ends, whatever is under way here.
    with contextlib.suppress(EOFError, OSError):
        connection.send(("ready", None))
        while True:
            block = {item.index: item for item in connection.recv()}

            def started(indices: Sequence[int], block: Mapping[int, AuditItem] = block) -> None:
                # Looking at a header is part of the work: a file may hang or end who opens it.
                limits = dict.fromkeys(indices, settings.limit_seconds)
                connection.send(("at", limits))
                found = {
                    index: settings.limit_of(_seconds_of(block[index].item)) for index in indices
                }
                if found != limits:
                    connection.send(("at", found))

            for rows in maker.stream(list(block.values()), started=started):
                connection.send(("rows", rows))


def _seconds_of(item: ManifestItem) -> float | None:
    """Return how long a clip is, by its list or by the header of its file; None if neither says."""
    if item.duration_seconds is not None or item.contained is not None or item.address:
        return item.duration_seconds
    try:
        if item.path.stat().st_size < _LARGE_BYTES:
            return None
        from melcheck.audio import UNKNOWN_LENGTH
        from melcheck.audio_notes import sound_info

        info = sound_info(item.path)
    except (OSError, RuntimeError, ValueError):  # the row says why
        return None
    return None if info.frames == UNKNOWN_LENGTH else info.duration - item.offset_seconds
