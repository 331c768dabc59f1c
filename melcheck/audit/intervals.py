"""How sure a share or a quantile of a corpus is, from a part of its clips drawn at random.

Every interval is conservative: it covers the corpus's value with at least its confidence, whatever
that value is. Shares run from 0 to 1.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import beta, binom, hypergeom

Decision = Literal["below", "above"]
"""On which side of a limit a corpus lies; at the limit is "below"."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value of a corpus, and between which values it lies.

    Attributes:
        value: What the sample has.
        low: Lower end of the interval; -inf where the sample is too small to have one.
        high: Upper end; inf where it is too small.
    """

    value: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        """Whether nothing is left open."""
        return self.low == self.value == self.high


def share_interval(
    hits: int, drawn: int, *, size: int | None = None, confidence: float = 0.95
) -> Estimate:
    """Return the share of a corpus that a sample has found, with its exact interval.

    Clopper and Pearson (1934) for draws without replacement: a share stays in the interval while
    neither as many hits nor as few have a probability below (1 - confidence) / 2. A corpus that
    was drawn as a whole has no interval. It holds for a number of draws that was fixed before; see
    `UntilDecided` for one that was not.

    Args:
        hits: How many of the draws have the property.
        drawn: How many clips were drawn.
        size: Clips of the corpus; None where it is unknown, for the interval of endless ones.
        confidence: Of the interval.

    Raises:
        ValueError: No draws, more hits than draws, or more draws than clips.

    Example:
        >>> found = share_interval(8, 1000)
        >>> f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"
        '0.8% (0.3% to 1.6%)'
        >>> share_interval(8, 1000, size=1000).exact
        True
    """
    if not 0 <= hits <= drawn or drawn < 1 or (size is not None and size < drawn):
        raise ValueError(
            f"hits and drawn must fit a corpus of {size}, got {hits} and {drawn}. Count each clip "
            "once."
        )
    if size is None:
        return endless_shares(np.array([hits]), np.array([drawn]), confidence=confidence)[0]
    tail = (1 - confidence) / 2
    fewest, most = _between(
        hits,
        drawn,
        size,
        lambda count: bool(hypergeom.sf(hits - 1, size, count, drawn) > tail),
        lambda count: bool(hypergeom.cdf(hits, size, count, drawn) > tail),
    )
    return Estimate(hits / drawn, fewest / size, most / size)


def endless_shares(
    hits: NDArray[np.int64], drawn: NDArray[np.int64], *, confidence: float = 0.95
) -> list[Estimate]:
    """Return `share_interval` of many samples, each of an endless corpus, at once.

    Example:
        >>> hits, drawn = np.array([8, 3]), np.array([1000, 70])
        >>> endless_shares(hits, drawn) == [share_interval(8, 1000), share_interval(3, 70)]
        True
    """
    tail = (1 - confidence) / 2
    low = np.where(hits == 0, 0.0, beta.ppf(tail, np.maximum(hits, 1), drawn - hits + 1))
    high = beta.ppf(1 - tail, hits + 1, np.maximum(drawn - hits, 1))
    high = np.where(hits == drawn, 1.0, high)
    return list(map(Estimate, (hits / drawn).tolist(), low.tolist(), high.tolist()))


def _between(
    hits: int,
    drawn: int,
    size: int,
    enough: Callable[[int], bool],
    few: Callable[[int], bool],
) -> tuple[int, int]:
    """Return the smallest count of the corpus that is `enough`, and the largest that is `few`.

    Both hold at the likeliest count, and up to one end beyond which they do not.
    """
    first, last = hits, size - (drawn - hits)
    likeliest = min(max(hits * (size + 1) // drawn, first), last)
    below = range(first, likeliest)
    above = range(likeliest + 1, last + 1)
    fewest = first + bisect_left(below, True, key=enough)
    most = likeliest + bisect_left(above, True, key=lambda count: not few(count))
    return fewest, most


def quantile_ranks(
    level: float, counts: NDArray[np.int64] | int, confidence: float = 0.95
) -> NDArray[np.int64]:
    """Return which values of sorted samples bound a quantile, counted from 1.

    As many of a sample lie below the corpus's quantile as heads fall in `counts` throws of a coin
    of probability `level`, without an assumption on the distribution (David and Nagaraja 2003,
    Order Statistics, 7.1). Draws without replacement vary less, so that it holds for them too.

    Args:
        level: Of the quantile, between 0 and 1.
        counts: Values of each sample, at least 1.
        confidence: Of the interval.

    Returns:
        `[2, ...]`: the lower ends, 0 where the sample is too small to have one, and the upper ones,
        `counts + 1` where it is.

    Example:
        >>> quantile_ranks(0.5, 100).tolist(), quantile_ranks(0.99, 100).tolist()
        ([40, 61], [97, 101])
    """
    tail = (1 - confidence) / 2
    low, high = (binom.ppf(chance, counts, level) for chance in (tail, 1 - tail))
    return np.stack([low, high + 1]).astype(np.int64)


class UntilDecided:
    """Draws clips at random until it is decided whether more than a share of a corpus fails.

    The interval may be looked at after each clip: with its confidence it holds the corpus's share
    at every look. It is the prior-posterior ratio of a beta-binomial prior for draws without
    replacement (Waudby-Smith and Ramdas 2020, Confidence sequences for sampling without
    replacement, section 2, https://arxiv.org/abs/2006.04347). For a corpus with `m` failures the
    ratio

        R(m) = P(failures found | the prior) / P(failures found | m)

    is a martingale of mean 1, which exceeds 1 / (1 - confidence) at some time with a probability of
    at most 1 - confidence (Ville 1939). The interval holds every `m` whose ratio does not. Its
    prior has its mean at the limit, where the decision falls; any prior leaves the errors as rare.

    Clips must be added in the order in which they were drawn, not in that in which workers finish:
    clips that take longer may fail more often.

    Args:
        limit: Largest share that may fail.
        corpus_size: Clips that are drawn from, without replacement.
        confidence: That the interval holds the share at every look; a decision is wrong with a
            probability of at most `1 - confidence`.

    Attributes:
        limit: As given.
        corpus_size: As given.
        confidence: As given.
        clips: How many were added.
        failures: How many of them failed.
        decision: "below" where at most the limit fails, "above" where more does, None before.

    Raises:
        ValueError: A limit or confidence that is no share, or a corpus without clips.

    Example:
        >>> until = UntilDecided(0.01, 1_000_000)
        >>> while until.decision is None:
        ...     until.add(False)
        >>> until.decision, until.clips
        ('below', 409)
    """

    def __init__(self, limit: float, corpus_size: int, confidence: float = 0.95) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"limit must be a share from 0 to 1, got {limit}. 1 % is 0.01.")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence}. 95 % is 0.95")
        if corpus_size < 1:
            raise ValueError(f"corpus_size must be at least 1, got {corpus_size}.")
        self.limit, self.corpus_size, self.confidence = limit, corpus_size, confidence
        self.clips = self.failures = 0
        self.decision: Decision | None = "below" if limit == 1 else None

    def add(self, failed: bool) -> None:
        """Count the next clip.

        Raises:
            ValueError: All clips of the corpus have been counted.
        """
        if self.clips == self.corpus_size:
            raise ValueError(f"all {self.corpus_size} clips were added. Add each clip once.")
        self.clips += 1
        self.failures += bool(failed)
        if self.decision is None:
            sides = self.sides(self.clips, np.array([self.failures]))
            self.decision = _DECISIONS[int(sides[0])]

    def sides(self, clips: int, failures: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return what each number of failures among so many clips decides: -1 below, 0, 1 above."""
        allowed = most_failures(self.limit, self.corpus_size)
        likeliest = failures * (self.corpus_size + 1) // clips
        above = (likeliest > allowed) & self._excludes(allowed, clips, failures)
        below = (likeliest <= allowed) & self._excludes(allowed + 1, clips, failures)
        return above.astype(np.int8) - below.astype(np.int8)

    @property
    def interval(self) -> tuple[float, float]:
        """Between which shares the corpus's lies."""
        if self.clips == 0:
            return 0.0, 1.0
        found = np.array([self.failures])

        def included(count: int) -> bool:
            return not self._excludes(count, self.clips, found)[0]

        fewest, most = _between(self.failures, self.clips, self.corpus_size, included, included)
        return fewest / self.corpus_size, most / self.corpus_size

    def _excludes(self, count: int, clips: int, failures: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether so many failures of the corpus are excluded by those among the clips."""
        with np.errstate(invalid="ignore"):  # what cannot be found of so many
            found = (
                _ln_choose(count, failures)
                + _ln_choose(self.corpus_size - count, clips - failures)
                - _ln_choose(self.corpus_size, clips)
            )
        possible = (failures <= count) & (clips - failures <= self.corpus_size - count)
        # A beta-binomial prior of the corpus's failures gives those of a part the same law.
        few = _PRIOR_FAILURES
        many = few / max(self.limit, 1 / self.corpus_size)
        expected = (
            _ln_choose(clips, failures)
            + betaln(failures + few, clips - failures + many)
            - betaln(few, many)
        )
        excluded: NDArray[np.bool_] = ~possible | (
            expected - found >= -math.log1p(-self.confidence)
        )
        return excluded


_DECISIONS: dict[int, Decision | None] = {-1: "below", 0: None, 1: "above"}

# Shape of the prior: Jeffreys' 1/2 on the side of the failures, which are few. Among 1/2, 1 and
# mixtures of both it decides about 0.1 % and 3 % against 1 % after the fewest clips.
_PRIOR_FAILURES = 0.5


def _ln_choose(
    count: int | NDArray[np.int64], taken: int | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the logarithm of a binomial coefficient; of too many taken, anything."""
    taken = np.minimum(taken, count)
    chosen: NDArray[np.float64] = -betaln(count - taken + 1.0, taken + 1.0) - np.log(count + 1.0)
    return chosen


def most_failures(limit: float, size: int) -> int:
    """Return how many of a corpus's clips may fail: the largest count whose share is no larger.

    Example:
        >>> most_failures(0.07, 100), most_failures(0.01, 150)
        (7, 1)
    """
    near = range(max(0, math.floor(limit * size) - 1), size + 1)
    return near[bisect_left(near, True, key=lambda count: count / size > limit) - 1]
