"""A clock that other processes do not move: the wall's, less what this thread waited for a core.

    own time = time.perf_counter() - time spent in the scheduler's queue, ready to run

Wall time counts every slice in which another process had the core: a call of 9 ms took 13 to 36 ms
by it beside a busy process on the same core, and 7 to 11 ms in own time. CPU time does not count
those slices either, but is blind to all other waiting: what sleeps, reads a file, waits for a
device or for a thread that it started looks fast by it. Own time has neither fault. Linux keeps
what each thread waited; where that is not to be had, own time is wall time.

It is the time of the calling thread. Where this waits for threads of its process that others keep
from their cores, own time stretches as wall time does, and CPU time too: with two threads on one
busy core, the same calls took 11 to 265 ms in it. On a busy machine, time one thread.

References:
    Linux kernel, "Scheduler Statistics", /proc/<pid>/schedstat,
    https://docs.kernel.org/scheduler/sched-stats.html.
"""

from __future__ import annotations

import os
import time

__all__ = ["own_time", "own_time_is_wall_time", "waited_ns"]

# Nanoseconds on a core, nanoseconds in the queue, slices: of the thread that reads it.
_STATISTICS = "/proc/thread-self/schedstat"
_LINE_BYTES = 64
_NANOSECONDS = 1e-9


def own_time() -> float:
    """Return the own time of the calling thread in seconds; only differences have a meaning.

    One reading takes about 0.02 ms.

    Example:
        >>> before = own_time()
        >>> own_time() > before
        True
    """
    waited = waited_ns()
    while True:
        now, before = time.perf_counter_ns(), waited
        waited = waited_ns()
        # A wait that falls between the readings would be in one of them only: then read again.
        if waited == before:
            return (now - (waited or 0)) * _NANOSECONDS


def own_time_is_wall_time() -> bool:
    """Return whether this machine keeps no record of waits, so that own time is wall time."""
    return waited_ns() is None


def waited_ns() -> int | None:
    """Return what this thread has waited for a core since its start; None where nobody counts.

    It has changed after a call that was interrupted by another process.
    """
    try:
        # Opened anew, since an open one stays that of the thread which opened it.
        descriptor = os.open(_STATISTICS, os.O_RDONLY)
    except OSError:
        return None
    try:
        fields = os.read(descriptor, _LINE_BYTES).split()
    finally:
        os.close(descriptor)
    # Three fields: a kernel that keeps no record shows nothing, or zeros from the start.
    return int(fields[1]) if len(fields) == 3 and fields[0] != b"0" else None
