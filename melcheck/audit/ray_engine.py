"""The rows of an audit by a Ray cluster, or by a cluster of this machine that ends with the run.

Ray places the workers, finds out that one died, brings nodes up and carries clips and rows. Here
stands what is left: who gets the next block, and what becomes of one that was lost.

- Workers are actors that load the vocoder once. Each has at most one block, and the next is read
  from the source when a worker has nothing to do: no more blocks than workers are in memory.
- Work goes to workers that have said that they are ready, never to one that Ray has yet to place:
  such a call would wait for ever where the node is gone. For the same reason an actor that died is
  not restarted by Ray, which keeps its calls with it, but replaced by a new one.
- The clips of a block that was lost are checked one by one by whoever is free. One that again takes
  its worker along, twice, or that takes too long, has a row that says so: a bad clip costs three
  workers, where halving a block of 64 until the clip is alone costs eight.

Not Ray Data: in a trial of `map_batches` with a pool of actors its tasks that read starved beside
actors that held every processor (124 s for 400 rows of 50 ms on two; 21 s by plain actors), and who
gets a batch again, how often, and how long it may take is not for its caller to say.

References:
    Moritz et al., "Ray: a distributed framework for emerging AI applications", OSDI 2018.
    https://docs.ray.io/en/latest/ray-core/fault_tolerance/actors.html
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import math
import os
import re
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from melcheck._version import __version__
from melcheck.audit.local import unfinished_row
from melcheck.audit.model import AuditItem, AuditSettings, Row, RowMaker
from melcheck.audit.temporary import temporary_folder
from melcheck.environment import PackageNeededError, UnfitEnvironmentError
from melcheck.files import error_text, plain_text

Make = Callable[[AuditSettings], RowMaker]

# Clips and rows are small: the least that Ray takes is 75 MB.
_OBJECT_STORE_BYTES = 100 * 2**20
_ANSWER_SECONDS = 10.0
_LEAVE_SECONDS = 5.0
# A cloud brings up a machine in that time.
_PLACED_SECONDS = 600.0
# By how much a block may be slower than those before it, above the time of one clip.
_SLOWER = 10.0
_LOST_AT_THE_START = 3
_LOST_WITHOUT_A_ROW = 50

# What Ray says of a class whose module a node does not have, when it is called or started.
_ABSENT, _ABSENT_AT_THE_START = "failed to import on the worker", "ModuleNotFoundError"

# Read when Ray is imported or started: no statistics for its makers, nothing of its own on the
# terminal, and no warning about what a later version will do with the variables of GPUs.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class ClusterError(UnfitEnvironmentError):
    """There is no cluster, or no worker of it can work; the message says what to do."""


def _make(settings: AuditSettings) -> RowMaker:
    from melcheck.audit.rows import make_row_maker  # torch is for the workers

    return make_row_maker(settings)


def run_ray(
    blocks: Iterable[Sequence[AuditItem]],
    settings: AuditSettings,
    *,
    workers: int,
    address: str | None = None,
    make: Make = _make,
) -> Iterator[list[Row]]:
    """Yield the rows of blocks of clips, as blocks are done: an engine of `melcheck.audit.model`.

    A process that is already connected to a cluster stays so. Relative paths are those of the
    folder that this process is in, where a node has the same.

    Args:
        blocks: Read one by one, as workers become free.
        settings: For each worker. On "cuda" Ray chooses each worker's GPU; workers that outnumber
            the GPUs share them.
        workers: How many, each with one processor and one thread; 0 for each processor of the
            cluster. Those for which it has no room work as soon as it has.
        address: "HOST:PORT" of a cluster, "ray://HOST:PORT", or "auto"; None takes RAY_ADDRESS
            where that is set, else starts a cluster on this machine, and ends it.
        make: What each worker makes its row maker with.

    Raises:
        PackageNeededError: Ray is not installed.
        ClusterError: No cluster answers, no worker could be placed, or all end before they work.
        ValueError: `workers` or the device cannot be used.
        VocoderError: No worker can load the vocoder.
    """
    if workers < 0:
        raise ValueError(f"workers must be at least 1, or 0 for all, got {workers}.")
    if settings.device.startswith("cuda:"):
        raise ValueError(
            f"the device must be cuda with Ray, which chooses the GPU, got {settings.device}."
        )
    ray = _import_ray()
    with _cluster(ray, address, workers) as is_ours:
        workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        gpus = _gpus_each(ray, workers, is_ours=is_ours) if settings.device == "cuda" else 0.0
        run = _Run(ray, settings, workers, gpus, make)
        try:
            yield from run.rows(iter(blocks))
        finally:
            run.end()


class _Worker:
    """What runs on the cluster."""

    _rows: RowMaker

    def load(self, settings: AuditSettings, make: Make, folder: str) -> str:
        import torch

        with contextlib.suppress(OSError):
            os.chdir(folder)
        torch.set_num_threads(1)
        # What workers that were killed have left on this machine goes, too.
        own = contextlib.ExitStack()
        atexit.register(own.close)
        tempfile.tempdir = str(own.enter_context(temporary_folder()))
        self._rows = make(settings)
        return __version__

    def rows(self, items: Sequence[AuditItem]) -> list[Row]:
        return self._rows(items)


@dataclass(frozen=True, slots=True)
class _Block:
    """Clips; how many workers one that is alone has taken along."""

    items: Sequence[AuditItem]
    taken: int = 0


@dataclass(frozen=True, slots=True)
class _Call:
    """What a worker does: a block until its time is over, or loading, for the n-th time."""

    worker: Any
    block: _Block | None
    start: float
    end: float = math.inf
    lost: int = 0


class _Run:
    """The workers of one run and what they do."""

    def __init__(
        self, ray: Any, settings: AuditSettings, workers: int, gpus: float, make: Make
    ) -> None:
        self._ray = ray
        self._session = _session(ray)
        self._settings = settings
        self._actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Worker)
        self._make = make
        self._calls: dict[Any, _Call] = {}
        self._idle: deque[Any] = deque()
        self._again: deque[_Block] = deque()
        self._done: list[list[Row]] = []
        self._clips = 0
        self._seconds = 0.0
        self._lost = 0
        self._has_loaded = self._has_worked = False
        for _ in range(workers):
            self._start()

    def rows(self, blocks: Iterator[Sequence[AuditItem]]) -> Iterator[list[Row]]:
        begun = time.monotonic()
        while True:
            # Work first: what reads the rows may take its time.
            while self._idle and (block := self._next(blocks)) is not None:
                self._give(block)
            done, self._done = self._done, []
            yield from done
            if self._idle and not self._again and not self._busy():
                return
            if not self._calls:
                self._raise_none_left("none is left")
            if not self._has_loaded and time.monotonic() > begun + _PLACED_SECONDS:
                self._raise_not_placed()
            self._wait()

    def end(self) -> None:
        if _session(self._ray) != self._session:  # it ended, and its workers with it
            return
        for call in self._calls.values():
            self._kill(call.worker)
        # These may leave by themselves, so that they remove what they have fetched.
        leaving = [worker.__ray_terminate__.remote() for worker in self._idle]
        if leaving:
            self._ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE_SECONDS)

    def _start(self, lost: int = 0) -> None:
        worker = self._actor.remote()
        call = worker.load.remote(self._settings, self._make, os.getcwd())
        self._calls[call] = _Call(worker, None, time.monotonic(), lost=lost)

    def _next(self, blocks: Iterator[Sequence[AuditItem]]) -> _Block | None:
        if self._again:
            return self._again.popleft()
        items = next(blocks, None)
        return None if items is None else _Block(items)

    def _give(self, block: _Block) -> None:
        worker, now = self._idle.popleft(), time.monotonic()
        one = self._settings.limit_seconds
        limits = (self._settings.limit_of(each.item.duration_seconds) for each in block.items)
        limit = one + sum(each - one for each in limits)
        if len(block.items) > 1 and self._clips:
            limit += _SLOWER * len(block.items) * self._seconds / self._clips
        self._calls[worker.rows.remote(block.items)] = _Call(worker, block, now, now + limit)

    def _busy(self) -> bool:
        return any(call.block is not None for call in self._calls.values())

    def _wait(self) -> None:
        """Take in what is done, or dead, or over its time; at least one, or after a second."""
        refs = list(self._calls)
        end = min(call.end for call in self._calls.values())
        patience = max(0.0, min(1.0, end - time.monotonic()))
        self._ray.wait(refs, num_returns=1, timeout=patience)
        # All that are ready at once: looking costs as much as there are workers.
        ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            self._take(ref, self._calls.pop(ref))
        now = time.monotonic()
        for ref in [ref for ref, call in self._calls.items() if call.end < now]:
            call = self._calls.pop(ref)
            self._kill(call.worker)
            self._start()
            limit = f"{call.end - call.start:,.6g} s"
            self._settle(call, f"it took longer than {limit}", is_certain=True)

    def _take(self, ref: Any, call: _Call) -> None:
        failures = self._ray.exceptions
        try:
            found = self._ray.get(ref)
            if call.block is None and found != __version__:
                self._cannot_load(call, _other_version(found))
                return
        except failures.RayTaskError as error:  # the worker lives
            cause = error.cause if isinstance(error.cause, Exception) else error
            if call.block is None:
                absent = _ABSENT in str(cause)
                self._cannot_load(call, _other_version("none") if absent else cause)
                return
            self._idle.append(call.worker)
            self._settle(call, f"{type(cause).__name__}: {_first_line(cause)}", is_certain=True)
        except failures.RayError as error:
            self._replace(call, error)
        else:
            self._idle.append(call.worker)
            self._has_loaded = True
            if call.block is not None:
                self._has_worked = True
                self._clips += len(found)
                self._seconds += time.monotonic() - call.start
                self._done.append(found)

    def _cannot_load(self, call: _Call, error: Exception) -> None:
        # Such as on a node without the weights: the others go on.
        self._kill(call.worker)
        if not self._calls and not self._idle:
            raise error

    def _replace(self, call: _Call, error: Exception) -> None:
        """Start a worker in the place of one that died."""
        if call.block is None and _ABSENT_AT_THE_START in str(error):
            self._cannot_load(call, _other_version("none"))
            return
        is_full = isinstance(error, self._ray.exceptions.OutOfMemoryError)
        reason = "ran out of memory" if is_full else f"died ({_of_death(error)})"
        self._lost += 1
        self._kill(call.worker)
        if not self._has_worked and self._lost >= _LOST_WITHOUT_A_ROW:
            self._raise_none_left(f"the last one {reason}")
        if call.block is not None:
            self._start()
            self._settle(call, f"its worker {reason}", is_certain=False)
        elif call.lost + 1 < _LOST_AT_THE_START:
            self._start(call.lost + 1)
        elif not self._calls and not self._idle:
            self._raise_none_left(f"the last one {reason}")

    def _settle(self, call: _Call, reason: str, *, is_certain: bool) -> None:
        """Check the clips of a lost block one by one, or write off one that is alone."""
        block = call.block
        if block is None:
            return
        if len(block.items) > 1:
            self._again.extend(_Block((item,)) for item in block.items)
        elif not is_certain and not block.taken:
            self._again.append(_Block(block.items, taken=1))
        else:
            self._done.append([unfinished_row(item, reason) for item in block.items])

    def _kill(self, worker: Any) -> None:
        with contextlib.suppress(Exception):  # it is dead, or its node is
            self._ray.kill(worker)

    def _raise_none_left(self, why: str) -> None:
        raise ClusterError(
            f"the workers of the cluster ended before they were done, {self._lost} in all: {why}. "
            "Give them more memory, look at their logs below /tmp/ray, and run the audit again: "
            "rows that are written stay."
        )

    def _raise_not_placed(self) -> None:
        resources = self._ray.available_resources()
        free = {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}
        raise ClusterError(
            f"no worker of the cluster was ready within {_PLACED_SECONDS:.0f} s. It has "
            f"{free['CPU']:g} free processors and {free['GPU']:g} free GPUs, and a worker takes "
            "one processor: wait for other jobs, or name another cluster."
        )


def _other_version(found: str) -> ClusterError:
    return ClusterError(
        f"the nodes of the cluster must have melcheck {__version__}, as here, got {found}. On each "
        f"node: pip install 'melcheck[ray]=={__version__}'"
    )


def _first_line(error: BaseException) -> str:
    return plain_text(error_text(error).splitlines()[0][:200].rstrip("."))


def _of_death(error: Exception) -> str:
    """Return what Ray found out about a death, without its advice."""
    found = re.search(r"Worker exit detail: (.+?)\.(?:\s|$)", str(error))
    told = found[1] if found else str(error).strip().splitlines()[-1]
    return plain_text(told[:160].rstrip("."))


# The cluster.


def _import_ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise PackageNeededError(
            "the engine ray needs the package ray, which is not installed: "
            "pip install 'melcheck[ray]'"
        ) from None


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None, workers: int) -> Iterator[bool]:
    """Be connected to a cluster, and tell whether it is one of this machine alone."""
    if ray.is_initialized():
        yield False
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    is_ours = address == "local"
    options: dict[str, Any] = {"address": address}
    if is_ours:
        options |= {"num_cpus": workers or None, "include_dashboard": False}
        options |= {"object_store_memory": _OBJECT_STORE_BYTES}
    try:
        _look_for(address)
        ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:
        ray.shutdown()
        what = "Ray cannot start here" if is_ours else f"no Ray cluster answers at {address}"
        raise ClusterError(
            f"{plain_text(what)}: {_first_line(error)}. Start a cluster with `ray start --head`, "
            "of the versions of Ray and Python that are here, and name its HOST:PORT."
        ) from None
    session = _session(ray)
    try:
        yield is_ours
    finally:
        if _session(ray) == session:
            ray.shutdown()


def _session(ray: Any) -> str:
    """Return what names this process's connection to a cluster; "" without one.

    What belongs to an earlier one must not be touched: Ray then ends the process.
    """
    return str(ray.get_runtime_context().get_job_id()) if ray.is_initialized() else ""


def _look_for(address: str) -> None:
    """Raise, within seconds, where nothing listens; Ray itself tries for minutes.

    Raises:
        OSError: Nothing listens there.
        ValueError: It is no address.
    """
    if address in ("local", "auto"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("an address must be HOST:PORT, ray://HOST:PORT or auto")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS):
        pass


def _gpus_each(ray: Any, workers: int, *, is_ours: bool) -> float:
    """Return the share of a GPU that each worker takes, so that all of them find room.

    Raises:
        ClusterError: This machine has none.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not gpus and is_ours:
        raise ClusterError("the device is cuda, and Ray finds no GPU here. Take another device.")
    # A cluster that has none yet may bring them up.
    return 1.0 / math.ceil(workers / gpus) if gpus else 1.0
