"""Times two callables in pairs: one after the other, in an order that is drawn.

The order is drawn anew for every two pairs, one each way: what the first of two pays, and a machine
that slows down, fall on both callables alike. Short calls are timed several at once, and what the
clock itself takes is subtracted.

A process that shares the core leaves cold caches behind, and a call that finds them takes up to
twice as long in any clock. So a pair of short calls that another process interrupted is timed
again. What is left out so depends on when the other process came, which is as likely in either half
but for the longer one: it is no choice by their ratio. Calls that are longer than a scheduler's
slice are always interrupted, and taken as they are.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["PairTimer", "no_garbage_collection"]

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
            `melcheck.benchmark.own_time.waited_ns`.
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
