"""Times two callables in pairs: one after the other, in an order that is drawn.

The order is drawn anew for every two pairs, one each way: what the first of two pays, and a machine
that slows down, fall on both callables alike. Short calls are timed several at once, and what the
clock itself takes is subtracted.

A process that shares the core leaves cold caches behind, and a call that finds them takes up to
twice as long in any clock. So a pair of short calls that another process interrupted is timed
again. What is left out so depends on when the other process came, which is as likely in either half
but for the longer one: it is no choice by their ratio. Calls that are longer than a scheduler's
slice are always interrupted, and taken as they are.

How much slower, and how surely: the location of paired ratios with a bootstrap interval.

Ratios multiply, so all is done on their logarithms: twice as slow and twice as fast lie equally far
from the same. The location is the midmean, the mean of the middle half:

    m = mean(x[k : n - k]),  x sorted,  k = n // 4

A quarter of the pairs on either side may be as wrong as it likes, and on timings that matters. It
spreads less than the median (by 12 % in normal noise, 6 % in that of Student's t with 2 degrees of
freedom) and about as little as the Hodges-Lehmann estimate (6 % more, 6 % less), which is the
median of n (n + 1) / 2 means of two: too many to resample. In a mixture of two orders, each with
its own bias, it lies in the middle; the median jumps between them.

The interval is a symmetric bootstrap-t. With few pairs the percentiles of resampled midmeans are
too narrow (of 16 pairs with normal noise: 0.8 % beyond a limit of 0.5 %; of medians 1.1 %), since
they take the sample's own spread for the true one. Resampling (m* - m) / s* instead, with the
standard error s* of each resample, has that error in it: 0.5 to 0.7 %.

References:
    K. Yuen, "The two-sample trimmed t for unequal population variances", Biometrika 61, 1974,
    https://doi.org/10.1093/biomet/61.1.165: the standard error.
    P. Hall, "Theoretical comparison of bootstrap confidence intervals", Annals of Statistics 16,
    1988, https://doi.org/10.1214/aos/1176350933.

A clock that other processes do not move: the wall's, less what this thread waited for a core.

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

import gc
import itertools
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

# With fewer, the middle half is of less than four, and its spread says nothing.
MIN_PAIRS = 8

_RESAMPLES = 5_000

# No machine gives the same time twice to a hundredth of a percent: a smaller spread is that of a
# clock with coarse steps.
_FINEST_SPREAD = 1e-4


def ratio_interval(
    ratios: Sequence[float], *, confidence: float, seed: int
) -> tuple[float, float, float]:
    """Return the location of paired ratios, and the interval that holds the true one.

    Args:
        ratios: One for each pair, above 0; at least `MIN_PAIRS` of them.
        confidence: How often the interval is to hold the true ratio, such as 0.99. Up to 0.999 it
            rests on five resamples at least.
        seed: Of the resampling.

    Returns:
        The location and the lower and upper end of the interval, as ratios; 0 and infinity where
        so few pairs say nothing.

    Raises:
        ValueError: Too few ratios, or one that is no positive finite number.

    Example:
        >>> ratio_interval([1.25] * 20, confidence=0.99, seed=0)[0]
        1.25
    """
    if len(ratios) < MIN_PAIRS:
        raise ValueError(
            f"ratios must be at least {MIN_PAIRS}, got {len(ratios)}. Time more pairs."
        )
    if not all(0 < ratio < math.inf for ratio in ratios):
        raise ValueError("ratios must be positive finite numbers. Is the clock too coarse?")
    count = len(ratios)
    ordered = torch.tensor(ratios, dtype=torch.float64).log().sort().values
    generator = torch.Generator().manual_seed(seed)
    # Places are drawn and sorted: three times as fast as sorting what is drawn.
    kind = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    places = torch.randint(count, (_RESAMPLES, count), generator=generator, dtype=kind)
    location, error = _midmean(ordered)
    locations, errors = _midmean(ordered[places.sort(dim=-1).values.int()])
    surprise = ((locations - location) / errors).abs()
    reach = torch.quantile(surprise, confidence) * error
    ends = torch.stack([location, location - reach, location + reach]).exp()
    middle, low, high = ends.tolist()
    return middle, low, high


def _midmean(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the midmean of the last dimension, which is sorted, and its error, after Yuen."""
    count = ordered.shape[-1]
    cut = count // 4
    middle = ordered[..., cut : count - cut]
    # What was cut off counts as the nearest that was kept.
    outer = middle[..., :1] + middle[..., -1:]
    mean = (middle.sum(-1) + cut * outer.squeeze(-1)) / count
    squares = (middle - mean[..., None]).square().sum(-1)
    ends = torch.stack([middle[..., 0], middle[..., -1]], dim=-1)
    squares = squares + cut * (ends - mean[..., None]).square().sum(-1)
    spread = (squares / (count - 1)).sqrt().clamp_min(_FINEST_SPREAD)
    return middle.mean(-1), spread * math.sqrt(count) / (count - 2 * cut)


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


_WARM_UP_ROUNDS = 4

# Long beside a reading of the clock; two of them fit well into a slice of Linux's scheduler.
_MIN_SAMPLE_SECONDS = 0.0005
_SLICE_SECONDS = 0.003
_ATTEMPTS = 5
_READINGS = 32
_MAX_CALLS = 10**6


class PairTimer:
    """Two callables and the clock that they are timed by. Call `warm_up` before `pair`.

    Args:
        candidate: The one callable.
        reference: The other.
        clock: Seconds.
        interruptions: Returns something else after an interruption than before, such as
            `melcheck.benchmark.paired_timing.waited_ns`.
        inputs: Called before each pair, outside of the clock; what it returns is given to both.
            None calls them without an argument.
        device: Where they compute: the clock waits for a CUDA device's queue.
        seed: Of the order.

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
        interruptions: Callable[[], object],
        inputs: Callable[[], object] | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.calls = 1
        self._interruptions = interruptions
        self._attempts = _ATTEMPTS
        self._candidate = candidate
        self._reference = reference
        self._inputs = inputs
        self._clock = clock
        self._synchronise = _synchroniser(device)
        self._orders = _orders(random.Random(seed))
        self._of_clock = 0.0

    def warm_up(self) -> None:
        """Call both, and find how many calls of the faster one are long enough to be timed.

        Raises:
            ValueError: The clock stands still.
        """
        readings = [self._clock() for _ in range(_READINGS)]
        steps = (after - before for before, after in itertools.pairwise(readings))
        self._of_clock = statistics.median(steps)
        while True:
            both = [math.inf, math.inf]
            for _ in range(_WARM_UP_ROUNDS):
                arguments = self._arguments()
                for place, function in enumerate((self._candidate, self._reference)):
                    both[place] = min(both[place], self._seconds(function, arguments))
            fastest = min(both)
            if fastest >= _MIN_SAMPLE_SECONDS:
                self._attempts = 1 if sum(both) > _SLICE_SECONDS else _ATTEMPTS
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
        arguments, candidate_first = self._arguments(), next(self._orders)
        for left in reversed(range(self._attempts)):
            # Nothing is read that decides nothing: a reading takes up to milliseconds.
            before = self._interruptions() if left else None
            if candidate_first:
                candidate = self._seconds(self._candidate, arguments)
                reference = self._seconds(self._reference, arguments)
            else:
                reference = self._seconds(self._reference, arguments)
                candidate = self._seconds(self._candidate, arguments)
            if not left or self._interruptions() == before:
                break
        if min(candidate, reference) <= 0:
            raise ValueError(self._stood_still())
        return candidate / self.calls, reference / self.calls

    def _arguments(self) -> tuple[object, ...]:
        return () if self._inputs is None else (self._inputs(),)

    def _seconds(self, function: Callable[..., object], arguments: tuple[object, ...]) -> float:
        self._synchronise()
        begin = self._clock()
        for _ in range(self.calls):
            function(*arguments)
        self._synchronise()
        return self._clock() - begin - self._of_clock

    def _stood_still(self) -> str:
        return (
            f"clock must move while the callables run, but stood still over {self.calls} calls of "
            "one of them. Give it more to do, or take a finer clock, such as time.perf_counter."
        )


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Collect now, and not while something is timed: it would fall on either half of a pair."""
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


def _synchroniser(device: str | torch.device) -> Callable[[], None]:
    where = torch.device(device)
    if where.type == "cpu":
        return lambda: None
    if where.type != "cuda":
        raise ValueError(f"device must be cpu or cuda, got {str(where)!r}.")
    return lambda: torch.cuda.synchronize(where)
