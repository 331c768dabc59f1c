"""Is one callable slower than another, by more than is allowed? A gate for busy machines.

No time of another day or another machine is needed: both callables run now, in turns
(`melcheck.benchmark.paired_timing`), and what is judged is the ratio candidate / reference within a
pair, since both halves of a pair meet the same machine.

Pairs are added until the interval of the ratio decides: "slower" when all of it lies above the
allowed ratio, "within" when all of it lies at or below. Stopping at the first interval that looks
good would inflate false alarms. So there are at most five looks, after `pairs`, 2, 4, 8 and 16
times `pairs`, and each interval leaves out a fifth of what the confidence leaves (Bonferroni): with
0.99, all five hold the true ratio in 99 % of comparisons, whenever one stops. When the time budget
is spent, the next look comes early and is the last. Without a decision by then, the outcome is
"undecided": that passes, and the message reports it.

References:
    C. Jennison and B. Turnbull, "Interim analyses: the repeated confidence interval approach",
    Journal of the Royal Statistical Society B 51, 1989,
    https://doi.org/10.1111/j.2517-6161.1989.tb01433.x.
    T. Kalibera and R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013,
    https://doi.org/10.1145/2491894.2464160: intervals of ratios instead of single times.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from melcheck.benchmark.paired_timing import (
    MIN_PAIRS,
    PairTimer,
    no_garbage_collection,
    ratio_interval,
    thread_clock,
    thread_clock_is_wall_time,
)

SpeedOutcome = Literal["within", "slower", "undecided"]

_LOOKS = 5


@dataclass(frozen=True, slots=True)
class SpeedComparison:
    """What `compare_speed` found.

    Attributes:
        outcome: "within" (all of the interval at or below the allowed ratio), "slower" (all of it
            above), or "undecided", when the time budget or the pairs ran out before.
        ratio: Time of the candidate over time of the reference; 1.15 is 15 % slower.
        low: Lower end of the interval of the ratio.
        high: Upper end of the interval.
        allowed_ratio: The ratio that was allowed.
        confidence: How often the intervals of all looks hold the true ratio.
        ratios: Ratio of each pair, in the order in which they were timed.
        candidate_seconds: Median of one call of the candidate, by the clock.
        reference_seconds: Median of one call of the reference.
        calls_per_sample: How many calls were timed at once.
        clock: "wall time without waits for a core", "wall time", or the name of the clock given.
    """

    outcome: SpeedOutcome
    ratio: float
    low: float
    high: float
    allowed_ratio: float
    confidence: float
    ratios: tuple[float, ...]
    candidate_seconds: float
    reference_seconds: float
    calls_per_sample: int
    clock: str

    @property
    def passed(self) -> bool:
        """Whether the candidate was not shown to be slower than is allowed."""
        return self.outcome != "slower"

    @property
    def pairs(self) -> int:
        """How many pairs were timed."""
        return len(self.ratios)

    def message(self) -> str:
        """Return the outcome as text, with what to do about it."""
        return f"{self}\n{_ADVICE[self.outcome]}"

    def __str__(self) -> str:
        return (
            f"{self.outcome}: the candidate takes {self.ratio:.3f} times as long as the reference "
            f"({self.confidence:.0%} interval {self.low:.3f} to {self.high:.3f}, {self.pairs} pairs"
            f", {1e3 * self.candidate_seconds:.3g} and {1e3 * self.reference_seconds:.3g} ms in "
            f"{self.clock}); allowed is {self.allowed_ratio:g}"
        )


_ADVICE: dict[SpeedOutcome, str] = {
    "within": "There is nothing to do.",
    "slower": (
        "All of the interval lies above the allowed ratio, so noise does not explain it. Profile "
        "both (python -m cProfile, torch.profiler) for what the candidate does in addition, or "
        "raise allowed_ratio if that is worth its time."
    ),
    "undecided": (
        "That passes, but nothing was shown: the interval still contains the allowed ratio. Give "
        "it a larger budget_seconds, a machine that is less busy, or torch.set_num_threads(1): a "
        "busy machine disturbs threads that wait for each other most."
    ),
}


def compare_speed(
    candidate: Callable[..., object],
    reference: Callable[..., object],
    *,
    allowed_ratio: float = 1.10,
    confidence: float = 0.99,
    pairs: int = 40,
    budget_seconds: float = 30.0,
    inputs: Callable[[], object] | None = None,
    device: str | torch.device = "cpu",
    clock: Callable[[], float] | None = None,
    seed: int = 0,
) -> SpeedComparison:
    """Time two callables in turns until it is clear whether the first is too slow.

    Both run in this thread, with the garbage collector off while the clock runs. They should do the
    same work: the first results are not compared.

    Args:
        candidate: The code that may be slower.
        reference: The code that it is compared with.
        allowed_ratio: The largest ratio candidate / reference that passes; below 1 the candidate
            has to be faster: 0.8 asks for four fifths of the time.
        confidence: Confidence of the interval, over all looks; see the module.
        pairs: Pairs before the first look; the last comes after 16 times as many.
        budget_seconds: Seconds of wall time. At least 8 pairs are timed, however long they take.
        inputs: Called before each pair, outside of the clock; what it returns is given to both
            callables. None calls them without an argument.
        device: Where they compute: the clock waits for a CUDA device's queue.
        clock: Seconds, such as `time.perf_counter` or `time.process_time`; None is
            `melcheck.benchmark.paired_timing.thread_clock`.
        seed: Seed of the order within pairs.

    Raises:
        ValueError: A number out of its range, a device that cannot be waited for, or a clock that
            stands still while the callables run.

    Example::

        found = compare_speed(lambda: new_mel(waveform), lambda: old_mel(waveform))
        assert found.passed, found.message()
    """
    _check(allowed_ratio, confidence, pairs, budget_seconds)
    timer = PairTimer(
        candidate,
        reference,
        inputs=inputs,
        clock=clock or thread_clock,
        device=device,
        seed=seed,
    )
    of_one_look = 1 - (1 - confidence) / _LOOKS
    looks = [pairs * 2**look for look in range(_LOOKS)]
    times: list[tuple[float, float]] = []
    end = time.monotonic() + budget_seconds
    with no_garbage_collection():
        timer.warm_up()
        for look in looks:
            spent = False
            while len(times) < look and not spent:
                times.append(timer.pair())
                spent = time.monotonic() > end and len(times) >= MIN_PAIRS
            ratios = [ours / theirs for ours, theirs in times]
            ratio, low, high = ratio_interval(ratios, confidence=of_one_look)
            outcome = _outcome(low, high, allowed_ratio)
            if spent or outcome != "undecided":
                break
            gc.collect()
    return SpeedComparison(
        outcome=outcome,
        ratio=ratio,
        low=low,
        high=high,
        allowed_ratio=allowed_ratio,
        confidence=confidence,
        ratios=tuple(ratios),
        candidate_seconds=statistics.median(ours for ours, _ in times),
        reference_seconds=statistics.median(theirs for _, theirs in times),
        calls_per_sample=timer.calls,
        clock=_name(clock),
    )


def _outcome(low: float, high: float, allowed_ratio: float) -> SpeedOutcome:
    if low > allowed_ratio:
        return "slower"
    return "within" if high <= allowed_ratio else "undecided"


def _name(clock: Callable[[], float] | None) -> str:
    if clock is None:
        return "wall time" + ("" if thread_clock_is_wall_time() else " without waits for a core")
    return getattr(clock, "__name__", type(clock).__name__)


def _check(allowed_ratio: float, confidence: float, pairs: int, budget_seconds: float) -> None:
    if not 0 < allowed_ratio < math.inf:
        raise ValueError(
            f"allowed_ratio must be above 0, got {allowed_ratio}. 1.1 lets the candidate take a "
            "tenth longer."
        )
    if not 0.5 <= confidence <= 0.995:
        raise ValueError(f"confidence must be from 0.5 to 0.995, got {confidence}.")
    if pairs < MIN_PAIRS:
        raise ValueError(f"pairs must be at least {MIN_PAIRS}, got {pairs}.")
    if not budget_seconds > 0:
        raise ValueError(f"budget_seconds must be above 0, got {budget_seconds}.")
