"""Intervals cover what they say; drawing until decided is rarely wrong, peeking often."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, hypergeom, quantile_test

from benchmarks.until_decided import Sides, simulate
from melcheck.audit.intervals import (
    UntilDecided,
    most_failures,
    quantile_ranks,
    share_interval,
)


@pytest.mark.parametrize(("hits", "drawn"), [(0, 10), (8, 1000), (500, 1000), (10, 10)])
def test_the_share_of_an_endless_corpus_has_the_interval_of_clopper_and_pearson(
    hits: int, drawn: int
) -> None:
    expected = binomtest(hits, drawn).proportion_ci(0.95, method="exact")
    for size, tolerance in ((None, 1e-9), (10**8, 1e-4)):
        found = share_interval(hits, drawn, size=size)
        assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0, abs=tolerance)


def test_a_corpus_that_was_drawn_as_a_whole_has_no_interval() -> None:
    assert share_interval(3, 70, size=70).exact
    assert not share_interval(3, 69, size=70).exact


def test_the_interval_of_a_share_covers_it_in_every_small_corpus() -> None:
    size, drawn = 40, 15
    for failures in range(size + 1):
        hits = np.arange(drawn + 1)
        chances = hypergeom.pmf(hits, size, failures, drawn)
        missed = 0.0
        for hit, chance in zip(hits, chances, strict=True):
            if chance > 0:
                found = share_interval(int(hit), drawn, size=size, confidence=0.9)
                missed += chance * (not found.low <= failures / size <= found.high)
        assert missed <= 0.1


def test_more_draws_than_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="corpus of 10, got 1 and 11"):
        share_interval(1, 11, size=10)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95, 0.99])
def test_the_interval_of_a_quantile_is_that_of_scipy(level: float) -> None:
    values = np.sort(np.random.default_rng(0).normal(size=1000))
    expected = quantile_test(values, p=level).confidence_interval(0.95)
    low, high = quantile_ranks(level, len(values))
    assert values[low - 1] == pytest.approx(expected.low)
    assert values[high - 1] == pytest.approx(expected.high)


def test_a_small_sample_does_not_bound_a_high_quantile() -> None:
    assert quantile_ranks(0.99, 100)[1] == 101


def test_the_largest_share_that_may_fail_may_fail() -> None:
    for percent in range(101):
        assert most_failures(percent / 100, 100) == percent
    assert most_failures(0.01, 99) == 0


# Drawing until it is decided: 1 % may fail, in corpora of shares around that.

LIMIT = 0.01
SIZE = 2_000
WRONG = 0.05


def peeking(clips: int, failures: NDArray[np.int64]) -> NDArray[np.int8]:
    """Decide by the interval for a number of clips that was fixed before, after each clip."""
    tail = WRONG / 2
    above = binom.sf(failures - 1, clips, LIMIT) <= tail
    below = binom.cdf(failures, clips, LIMIT) <= tail
    return above.astype(np.int8) - below.astype(np.int8)


def wrong_share(sides: Sides, share: float, *, corpora: int) -> float:
    failures = round(share * SIZE)
    return simulate(
        sides, limit=LIMIT, size=SIZE, failures=failures, corpora=corpora, seed=failures
    ).wrong


@pytest.fixture
def corpora(pytestconfig: pytest.Config) -> int:
    """How many are drawn from; all that the claim is about with `-m figures`."""
    return 10_000 if pytestconfig.getoption("markexpr") == "figures" else 1_000


# The nearest shares on both sides of the limit, where wrong decisions are most frequent, and beyond
# them.
@pytest.mark.figures
@pytest.mark.parametrize("share", [0.005, 0.01, 0.0105, 0.015, 0.03])
def test_wrong_decisions_are_rare(share: float, corpora: int) -> None:
    until = UntilDecided(LIMIT, SIZE)
    wrong = wrong_share(until.sides, share, corpora=corpora)
    print(f"{corpora} corpora of {share:.2%}: {wrong:.2%} decided wrongly")  # noqa: T201
    assert wrong < WRONG


@pytest.mark.figures
def test_peeking_at_an_interval_of_a_fixed_number_is_wrong_too_often(corpora: int) -> None:
    wrong = wrong_share(peeking, 0.01, corpora=corpora)
    print(f"{corpora} corpora of 1 %, peeking: {wrong:.2%} decided wrongly")  # noqa: T201
    assert wrong > WRONG


@pytest.mark.parametrize(("share", "decision"), [(0.001, "below"), (0.03, "above")])
def test_a_corpus_of_a_million_is_decided_by_some_hundred_clips(
    share: float, decision: str
) -> None:
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(5):
        until = UntilDecided(LIMIT, 1_000_000)
        while until.decision is None:
            until.add(bool(rng.random() < share))
        assert until.decision == decision
        drawn.append(until.clips)
    assert np.median(drawn) < 1_000


def test_the_interval_lies_on_the_side_that_was_decided_for() -> None:
    for failing in (False, True):
        until = UntilDecided(LIMIT, 5_000)
        before = (0.0, 1.0)
        while until.decision is None:
            before = until.interval if until.clips % 20 == 0 else before
            until.add(failing)
        low, high = until.interval
        assert before[0] <= LIMIT < before[1]
        assert low > LIMIT if failing else high <= LIMIT


def test_the_interval_holds_the_share_at_every_look() -> None:
    rng = np.random.default_rng(2)
    size, failures, corpora = 40, 4, 150
    seen: dict[tuple[int, int], bool] = {}  # by clips and failures: whether it holds the share
    left = 0
    for _ in range(corpora):
        until = UntilDecided(0.2, size)
        held = True
        for failed in rng.permutation(np.arange(size) < failures):
            until.add(bool(failed))
            state = (until.clips, until.failures)
            if state not in seen:
                low, high = until.interval
                seen[state] = low <= failures / size <= high
            held &= seen[state]
        assert until.interval == (failures / size, failures / size)
        left += not held
    assert 0 < left / corpora < WRONG


@pytest.mark.parametrize(("failures", "decision"), [(5, "below"), (6, "above")])
def test_a_corpus_that_is_exhausted_is_decided_exactly(failures: int, decision: str) -> None:
    until = UntilDecided(0.1, 50)
    # In an order that tells nothing until the end.
    for place in range(50):
        until.add(place * failures // 50 != (place + 1) * failures // 50)
    assert until.decision == decision


def test_no_failure_allowed_is_decided_by_the_first() -> None:
    until = UntilDecided(0.0, 1_000)
    until.add(False)
    assert until.decision is None
    until.add(True)
    assert until.decision == "above"


def test_a_clip_too_many_is_refused() -> None:
    until = UntilDecided(0.5, 1)
    until.add(False)
    with pytest.raises(ValueError, match="all 1 clips were added"):
        until.add(False)


@pytest.mark.parametrize(
    ("limit", "size", "confidence"), [(1.5, 10, 0.95), (0.1, 0, 0.95), (0.1, 10, 1.0)]
)
def test_numbers_that_are_no_shares_are_refused(limit: float, size: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="must"):
        UntilDecided(limit, size, confidence)
