"""The verdict on a corpus: what fails, of which groups, by which causes, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from melcheck.audit import intervals
from melcheck.audit.causes import code_of, fails, meaning
from melcheck.audit.distribution import COARSE_DIGITS, Distribution
from melcheck.audit.intervals import quantile_ranks, share_interval
from melcheck.audit.model import METRIC_COLUMNS, Row
from melcheck.audit.summary import decision_text, headline, percent, summary_lines
from melcheck.audit.verdict import GROUP_LEVELS, LEVELS, UntilDecided, judge_corpus
from melcheck.report.model import METRICS
from tests.audit import samples

ROWS = samples.rows(2_000, groups=10)


def row(**values: object) -> Row:
    return dataclasses.replace(ROWS[0], **values)  # type: ignore[arg-type]


def test_the_order_of_the_rows_does_not_matter() -> None:
    shuffled = [ROWS[place] for place in np.random.default_rng(0).permutation(len(ROWS))]
    assert judge_corpus(shuffled) == judge_corpus(ROWS)


def test_a_corpus_that_was_measured_as_a_whole_has_no_intervals() -> None:
    verdict = judge_corpus(ROWS)
    assert verdict.whole
    assert verdict.share.exact
    assert all(each.exact for found in verdict.quantiles.values() for each in found)
    assert all(group.share.exact for group in verdict.groups)
    assert headline(verdict).startswith("All 2,000 clips were measured")


def test_a_part_of_a_corpus_has_intervals_that_hold_its_values() -> None:
    everything = judge_corpus(ROWS)
    part = [ROWS[place] for place in np.random.default_rng(3).permutation(len(ROWS))[:400]]
    verdict = judge_corpus(part, corpus_size=len(ROWS))
    assert verdict.share.low <= everything.share.value <= verdict.share.high
    for name in METRIC_COLUMNS:
        for sampled, exact in zip(verdict.quantiles[name], everything.quantiles[name], strict=True):
            assert sampled.low <= exact.value <= sampled.high
    ends = f"({percent(verdict.share.low)} to {percent(verdict.share.high)} %, 95 %)"
    assert ends in headline(verdict)


def test_quantiles_are_those_of_numpy_to_the_digits_that_are_shown() -> None:
    found = judge_corpus(ROWS).quantiles
    for name in METRIC_COLUMNS:
        values = [getattr(each, name) for each in ROWS]
        expected = np.quantile(values, LEVELS, method="inverted_cdf")
        assert [each.value for each in found[name]] == pytest.approx(expected, rel=1e-4)


def test_what_was_not_measured_does_not_count() -> None:
    verdict = judge_corpus([*ROWS, row(index=5_000, mae=math.nan, outcome="unreadable")])
    assert verdict.measured["mae"] == len(ROWS)
    assert verdict.quantiles["mae"] == judge_corpus(ROWS).quantiles["mae"]


def test_infinite_values_lie_at_the_ends() -> None:
    distribution = Distribution()
    distribution.add([-math.inf, 1.0, 2.0, math.inf])
    assert [distribution.quantile(level) for level in (0.1, 0.5, 1.0)] == [-math.inf, 1.0, math.inf]
    histogram = distribution.histogram(4)
    assert histogram is not None
    assert (sum(histogram.counts), histogram.below, histogram.above) == (2, 1, 1)


def test_a_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).standard_t(1.5, size=5_000)
    distribution = Distribution()
    distribution.add(values)
    histogram = distribution.histogram(40, beyond=0.01)
    assert histogram is not None
    assert sum(histogram.counts) + histogram.below + histogram.above == len(values)
    assert 0 < histogram.above < 0.02 * len(values)


def memory_of(call: Callable[[], object]) -> int:
    """Return the largest number of bytes that Python and NumPy held during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_values() -> None:
    def add(blocks: int) -> None:
        rng, distribution = np.random.default_rng(0), Distribution()
        for _ in range(blocks):
            distribution.add(rng.gamma(3, size=20_000))

    assert memory_of(lambda: add(120)) < 1.2 * memory_of(lambda: add(30))


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melcheck.audit.verdict._BLOCK_ROWS", 200)
    few, many = (list(islice(cycle(ROWS), count)) for count in (2_000, 8_000))
    judge_corpus(few)  # what is imported once
    assert memory_of(lambda: judge_corpus(many)) < 1.1 * memory_of(lambda: judge_corpus(few))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"outcome": "failed", "cause": "level"}, "level"),
        ({"outcome": "failed", "cause": ""}, "unknown"),
        ({"outcome": "unreadable", "cause": ""}, "unreadable"),
        ({"outcome": "unfinished", "cause": ""}, "unfinished"),
        ({"outcome": "checked", "broken_samples": 3, "cause": "non-finite"}, "broken"),
        ({"outcome": "passed", "cache": "stale", "cause": ""}, "stale"),
        (
            {"outcome": "failed", "cache": "stale", "cause": "power", "cache_cause": "power"},
            "stored:power",
        ),
        (
            {"outcome": "failed", "cache": "stale", "cause": "level", "cache_cause": "power"},
            "level",
        ),
        (
            {"outcome": "failed", "cache": "missing", "cause": "missing", "cache_cause": "missing"},
            "missing",
        ),
    ],
    ids=str,
)
def test_each_way_to_fail_is_counted_with_its_cause(changed: dict[str, object], code: str) -> None:
    bad = row(index=9_999, **changed)
    assert fails(bad)
    assert code_of(bad) == code
    good = [row(index=index, outcome="passed", cause="") for index in range(9)]
    verdict = judge_corpus([*good, bad])
    assert verdict.share.value == pytest.approx(0.1, rel=0, abs=1e-12)
    [cause] = verdict.causes
    assert (cause.failures, cause.clips, cause.examples) == (1, 1, (bad.name,))
    assert cause.explanation == meaning(code)
    assert cause.explanation.fix


@pytest.mark.parametrize("changed", [{"outcome": "passed"}, {"outcome": "checked"}], ids=str)
def test_a_clip_that_is_only_odd_does_not_fail(changed: dict[str, object]) -> None:
    odd = row(cause="clipping", cache="missing", **changed)
    assert not fails(odd)
    [cause] = judge_corpus([odd]).causes
    assert (cause.failures, cause.clips) == (0, 1)
    assert cause.explanation.title == "the clip itself is clipped"


def test_a_group_that_fails_more_often_stands_out_and_comes_first() -> None:
    groups = judge_corpus(ROWS).groups
    assert [group.name for group in groups if group.stands_out] == ["speaker-09"]
    assert groups[0].name == "speaker-09"
    shares = [group.share.value for group in groups[1:]]
    assert shares == sorted(shares, reverse=True)


def test_groups_that_differ_by_chance_alone_rarely_stand_out() -> None:
    marked = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rows = [
            row(index=index, group=f"{index % 100}", outcome=("passed", "failed")[int(failed)])
            for index, failed in enumerate(rng.random(2_000) < 0.05)
        ]
        marked += any(group.stands_out for group in judge_corpus(rows).groups)
    # In 5 % of such corpora at most.
    assert marked <= 3


def test_one_clip_that_fails_does_not_make_its_speaker_stand_out() -> None:
    rows = [row(index=index, group=f"{index // 4}", outcome="passed") for index in range(400)]
    rows[7] = dataclasses.replace(rows[7], outcome="failed")
    first = judge_corpus(rows).groups[0]
    assert (first.name, first.failures, first.stands_out, first.few) == ("1", 1, False, True)


def test_the_ceiling_of_a_group_is_the_quantiles_of_its_error() -> None:
    [group] = [each for each in judge_corpus(ROWS).groups if each.name == "speaker-03"]
    values = [each.mae for each in ROWS if each.group == "speaker-03"]
    expected = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf")
    assert [each.value for each in group.mae] == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("size", [2_000, 9_000], ids=["whole", "sample"])
def test_groups_have_the_intervals_that_each_has_by_itself(size: int) -> None:
    # Of one clip and more, of which none fails, some and all; the last have no MAE.
    rows = [
        dataclasses.replace(each, group=str(min(50, int(each.index**0.5)))) for each in ROWS[:1_950]
    ]
    rows += [row(index=index, group=str(index), outcome="failed") for index in range(1_950, 1_990)]
    rows += [row(index=index, group="none", mae=math.nan) for index in range(1_990, 2_000)]
    for group in judge_corpus(rows, corpus_size=size).groups:
        its = [each for each in rows if each.group == group.name]
        known = len(its) if size == len(rows) else None
        assert group.share == share_interval(group.failures, len(its), size=known)
        alone = Distribution(COARSE_DIGITS)
        alone.add([each.mae for each in its])
        ranks = None
        if known is None and alone.count:
            ranks = [quantile_ranks(level, alone.count) for level in GROUP_LEVELS]
        assert repr(group.mae) == repr(alone.estimates(GROUP_LEVELS, ranks))


def test_many_groups_take_no_more_calls_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def counting(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            return call(*arguments)

        return counting

    for law in ("beta", "binom"):
        found = getattr(intervals, law)
        monkeypatch.setattr(found, "ppf", counted(found.ppf))
    counts = []
    for groups in (2, 200):
        calls = 0
        judge_corpus(samples.rows(1_000, groups=groups), corpus_size=9_000)
        counts.append(calls)
    assert counts[0] == counts[1] > 0


def test_a_corpus_without_groups_has_no_table_of_them() -> None:
    assert judge_corpus(samples.rows(50)).groups == ()


def test_the_worst_clips_fail_and_have_the_largest_errors() -> None:
    worst = judge_corpus(ROWS).worst
    failed = sorted((each for each in ROWS if fails(each)), key=lambda each: -each.mae)
    assert list(worst) == failed[: len(worst)]
    assert len(worst) == 20


def test_metrics_have_the_names_of_a_report() -> None:
    assert set(METRIC_COLUMNS) == set(METRICS)


def test_a_map_holds_some_clips_of_each_kind() -> None:
    verdict = judge_corpus(samples.rows(4_000, failing=0.3))
    assert sum(point.failed for point in verdict.points) == 800
    assert sum(not point.failed for point in verdict.points) == 1_600


# Limits.


@pytest.mark.parametrize(("failing", "decision"), [(0, "below"), (3, None), (60, "above")], ids=str)
def test_the_interval_decides_about_the_limit(failing: int, decision: str | None) -> None:
    rows = [
        row(index=index, outcome="failed" if index < failing else "passed") for index in range(400)
    ]
    assert judge_corpus(rows, limit=0.01, corpus_size=10**6).decision == decision


def test_a_whole_corpus_at_the_limit_passes() -> None:
    rows = [row(index=index, outcome="passed" if index else "failed") for index in range(100)]
    assert judge_corpus(rows, limit=0.01).decision == "below"
    assert judge_corpus(rows, limit=0.009).decision == "above"


def test_a_share_that_was_drawn_until_decided_has_that_interval() -> None:
    until = UntilDecided(0.01, 10**6)
    rows = []
    while until.decision is None:
        rows.append(row(index=until.clips, outcome="passed"))
        until.add(False)
    verdict = judge_corpus([*rows, row(index=9_999, outcome="passed")], until=until)
    assert (verdict.decision, verdict.drawn, verdict.corpus_size) == ("below", until.clips, 10**6)
    assert (verdict.share.low, verdict.share.high) == until.interval
    assert "by 409 of 1,000,000 clips" in headline(verdict)
    # A number of draws that was fixed before would have had a shorter one.
    assert judge_corpus(rows, corpus_size=10**6).share.high < verdict.share.high


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: judge_corpus([]), "at least one clip"),
        (lambda: judge_corpus(ROWS, corpus_size=10), "corpus_size must be at least"),
        (lambda: judge_corpus([row(outcome="known")]), "a row of an earlier run"),
    ],
    ids=["empty", "more rows than clips", "known"],
)
def test_rows_that_make_no_verdict_are_refused(call: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


# Words.


def test_the_document_shows_what_is_printed() -> None:
    rows = [row(index=index, outcome="passed" if index >= 8 else "failed") for index in range(1000)]
    verdict = judge_corpus(rows, limit=0.02, corpus_size=10**6)
    text = Path(__file__).parents[2].joinpath("docs", "audit-verdict.md").read_text("utf-8")
    assert f"{headline(verdict)}\n{decision_text(verdict)}\n" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_summary_keeps_to_its_width(width: int) -> None:
    for verdict in (judge_corpus(ROWS), judge_corpus(ROWS, corpus_size=10**6, limit=0.01)):
        lines = summary_lines(verdict, width=width)
        assert max(map(len, lines)) <= width
        assert lines[0] == headline(verdict)[: len(lines[0])]


def test_the_summary_says_what_is_wrong_and_what_to_do() -> None:
    text = " ".join(" ".join(summary_lines(judge_corpus(ROWS), width=100)).split())
    for cause in judge_corpus(ROWS).causes:
        assert cause.explanation.title in text
        assert cause.explanation.fix in text
    assert "! speaker-09" in text


def test_without_a_vocoder_groups_have_no_error() -> None:
    rows = [row(index=index, outcome="checked", group="ab"[index % 2]) for index in range(4)]
    rows = [dataclasses.replace(each, mae=math.nan, snr_db=math.nan) for each in rows]
    text = "\n".join(summary_lines(judge_corpus(rows), width=80))
    assert "group" in text
    assert "nan" not in text
    assert "MAE" not in text


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        (["passed"], "1 passes all the same: the clip itself is clipped"),
        (["passed", "passed"], "2 pass all the same: the clip itself is clipped"),
        (["failed"], "1 fails: the clip itself is clipped"),
    ],
    ids=["one", "two", "fails"],
)
def test_a_cause_says_how_many_fail_of_it(outcomes: list[str], told: str) -> None:
    rows = [row(index=i, outcome=each, cause="clipping") for i, each in enumerate(outcomes)]
    assert told in "\n".join(summary_lines(judge_corpus(rows), width=80))


def test_hostile_names_cannot_write_to_the_terminal() -> None:
    hostile = "a\x1b[2J\n::error::b"
    rows = [row(index=index, name=hostile, group=hostile, outcome="failed") for index in range(3)]
    text = "\n".join(summary_lines(judge_corpus(rows), width=80))
    assert "\x1b" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
