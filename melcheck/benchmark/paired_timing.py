"""Time two callables in turns, and give the ratio of their times with an interval.

The order within a pair is drawn anew for every two pairs, one each way, so that what the first of
two calls pays, and a machine that slows down, affect both callables alike. Short calls are timed
several at once.

The location of the ratios is the interquartile mean of their logarithms: outliers in the lowest and
the highest quarter do not move it. Its interval is that of Tukey and McLaughlin, with the
winsorised deviation and Student's t. It needs no resampling and holds its level with few pairs: of
8 pairs with normal noise, 99.8 % intervals miss the true ratio in 0.4 % of cases, and those of a
percentile bootstrap in 1.8 %.

The clock is the wall's, minus the time in which this thread waited for a core:

    thread clock = time.perf_counter() - time in the scheduler's queue, ready to run

Wall time counts every slice in which another process had the core: beside a busy process on the
same core, a call of 9 ms took 13 to 36 ms in wall time and 7 to 11 ms by this clock. CPU time
excludes those slices too, but also all other waiting: sleeping, reading a file, waiting for a
device or another thread. Linux records what each thread waited; elsewhere this clock is the wall's.
It is the clock of the calling thread alone: where that waits for threads which other processes keep
from their cores, the time is counted. On a busy machine, time one thread.

References:
    J. Tukey and D. McLaughlin, "Less vulnerable confidence and significance procedures for location
    based on a single sample: trimming/winsorization 1", Sankhya A 25, 1963.
    Linux kernel, "Scheduler Statistics", /proc/<pid>/schedstat,
    https://docs.kernel.org/scheduler/sched-stats.html.
"""

from __future__ import annotations

import gc
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from scipy.stats import trim_mean
from scipy.stats.mstats import trimmed_mean_ci

# With fewer, the middle half has less than four ratios, and its spread means nothing.
MIN_PAIRS = 8

_QUARTER = 0.25

# No machine repeats a time to a hundredth of a percent: a smaller spread is that of a coarse clock.
_FINEST_REACH = 1e-4


def ratio_interval(ratios: Sequence[float], *, confidence: float) -> tuple[float, float, float]:
    """Return the location of paired ratios, and the interval that holds the true ratio.

    Args:
        ratios: One for each pair, above 0; at least `MIN_PAIRS` of them.
        confidence: How often the interval is to hold the true ratio, such as 0.99.

    Returns:
        The location, and the lower and upper end of the interval, as ratios.

    Raises:
        ValueError: Too few ratios, or one that is no positive finite number.

    Example:
        >>> ratio_interval([1.25] * 20, confidence=0.99)[0]
        1.25
    """
    if len(ratios) < MIN_PAIRS:
        raise ValueError(
            f"ratios must be at least {MIN_PAIRS}, got {len(ratios)}. Time more pairs."
        )
    if not all(0 < ratio < math.inf for ratio in ratios):
        raise ValueError("ratios must be positive finite numbers. Is the clock too coarse?")
    logs = [math.log(ratio) for ratio in ratios]
    location = float(trim_mean(logs, _QUARTER))
    low, high = trimmed_mean_ci(logs, limits=(_QUARTER, _QUARTER), alpha=1 - confidence)
    low, high = min(low, location - _FINEST_REACH), max(high, location + _FINEST_REACH)
    return math.exp(location), math.exp(low), math.exp(high)


# Nanoseconds on a core, nanoseconds in the queue, slices: of the thread that reads it.
_STATISTICS = "/proc/thread-self/schedstat"
_LINE_BYTES = 64
_NANOSECONDS = 1e-9


def thread_clock() -> float:
    """Return wall time minus the time that this thread waited for a core, in seconds.

    Only differences have a meaning. One reading takes about 0.02 ms.

    Example:
        >>> before = thread_clock()
        >>> thread_clock() > before
        True
    """
    waited = _waited_ns()
    while True:
        now, before = time.perf_counter_ns(), waited
        waited = _waited_ns()
        # A wait between the two readings would be in one of them only: then read again.
        if waited == before:
            return (now - (waited or 0)) * _NANOSECONDS


def thread_clock_is_wall_time() -> bool:
    """Return whether this machine keeps no record of waits."""
    return _waited_ns() is None


def _waited_ns() -> int | None:
    """Return how long this thread has waited for a core since its start; None without a record."""
    try:
        # Opened anew, since an open file stays that of the thread which opened it.
        descriptor = os.open(_STATISTICS, os.O_RDONLY)
    except OSError:
        return None
    try:
        fields = os.read(descriptor, _LINE_BYTES).split()
    finally:
        os.close(descriptor)
    # Three fields: a kernel without a record shows nothing, or zeros from the start.
    return int(fields[1]) if len(fields) == 3 and fields[0] != b"0" else None


_WARM_UP_ROUNDS = 4

# A hundred times the reading of the clock.
_MIN_SAMPLE_SECONDS = 0.002
_MAX_CALLS = 10**6


class PairTimer:
    """Two callables and the clock that times them. Call `warm_up` before `pair`.

    Args:
        candidate: The one callable.
        reference: The other.
        clock: Seconds.
        inputs: Called before each pair, outside of the clock; what it returns is given to both.
            None calls them without an argument.
        device: Where they compute: the clock waits for a CUDA device's queue.
        seed: Seed of the order within pairs.

    Attributes:
        calls: How many calls are timed at once.

    Raises:
        ValueError: A device that cannot be waited for.
    """

    def __init__(
        self,
        candidate: Callable[..., object],
        reference: Callable[..., object],
        *,
        clock: Callable[[], float],
        inputs: Callable[[], object] | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self._device = torch.device(device)
        if self._device.type not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {str(device)!r}.")
        self.calls = 1
        self._candidate = candidate
        self._reference = reference
        self._inputs = inputs
        self._clock = clock
        self._orders = _orders(random.Random(seed))

    def warm_up(self) -> None:
        """Call both, and find how many calls of the faster one are long enough to be timed.

        Raises:
            ValueError: The clock stands still.
        """
        while True:
            fastest = math.inf
            for _ in range(_WARM_UP_ROUNDS):
                arguments = self._arguments()
                for function in (self._candidate, self._reference):
                    fastest = min(fastest, self._seconds(function, arguments))
            if fastest >= _MIN_SAMPLE_SECONDS:
                return
            if self.calls >= _MAX_CALLS:
                raise ValueError(self._stood_still())
            # A little more than enough, and not at once: the first calls are not like the last.
            growth = 1.2 * _MIN_SAMPLE_SECONDS / fastest if fastest > 0 else math.inf
            self.calls = min(_MAX_CALLS, math.ceil(self.calls * min(10.0, growth)))

    def pair(self) -> tuple[float, float]:
        """Time the next pair.

        Returns:
            Seconds of one call of the candidate, and of one of the reference.

        Raises:
            ValueError: The clock stood still.
        """
        arguments = self._arguments()
        if next(self._orders):
            candidate = self._seconds(self._candidate, arguments)
            reference = self._seconds(self._reference, arguments)
        else:
            reference = self._seconds(self._reference, arguments)
            candidate = self._seconds(self._candidate, arguments)
        if min(candidate, reference) <= 0:
            raise ValueError(self._stood_still())
        return candidate / self.calls, reference / self.calls

    def _arguments(self) -> tuple[object, ...]:
        return () if self._inputs is None else (self._inputs(),)

    def _seconds(self, function: Callable[..., object], arguments: tuple[object, ...]) -> float:
        begin = self._now()
        for _ in range(self.calls):
            function(*arguments)
        return self._now() - begin

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    def _stood_still(self) -> str:
        return (
            f"clock must move while the callables run, but stood still over {self.calls} calls of "
            "one of them. Give it more to do, or take a finer clock, such as time.perf_counter."
        )


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, and not while something is timed: it would affect either half of a pair."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _orders(generator: random.Random) -> Iterator[bool]:
    """Yield whether the candidate comes first: once in each two pairs, which of them is drawn."""
    while True:
        first = generator.random() < 0.5
        yield from (first, not first)
