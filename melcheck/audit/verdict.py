"""The verdict on a corpus from the rows of its clips: how many fail, how sure that is, and why.

Rows are read once, in any order, and memory does not grow with their number. The result does not
depend on the order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom

from melcheck.audit.causes import code_of, fails, meaning
from melcheck.audit.distribution import COARSE_DIGITS, Distribution, Histogram
from melcheck.audit.intervals import (
    Decision,
    Estimate,
    UntilDecided,
    endless_shares,
    quantile_ranks,
    share_interval,
)
from melcheck.audit.model import METRIC_COLUMNS, Row
from melcheck.diagnosis.causes import Explanation

__all__ = [
    "CauseCount",
    "CorpusVerdict",
    "GroupVerdict",
    "Point",
    "UntilDecided",
    "judge_corpus",
]

LEVELS = (0.05, 0.5, 0.95, 0.99)
"""Quantiles of each metric, as shares."""

HISTOGRAMS = ("mae", "snr_db", "duration_seconds", "level_dbfs", "bandwidth_hz")
"""Columns whose histograms are kept."""

WORST = 20
"""How many of the worst clips are kept."""

FEW_CLIPS = 20
"""A group with fewer clips says little about itself."""

OTHER_GROUPS = "(all others)"
"""Group of the clips whose groups are too many to be kept."""

_MOST_GROUPS = 50_000
_MOST_CODES = 1_000
_BLOCK_ROWS = 16_384
_BINS = 48
_BEYOND = 0.002
_EXAMPLES = 3
_MOST_POINTS = {True: 800, False: 1_600}


@dataclass(frozen=True, slots=True)
class CauseCount:
    """What is wrong with some of the clips.

    Attributes:
        explanation: What it means and what to do.
        failures: Clips that fail and have it.
        clips: Clips that have it, those that do not fail among them.
        examples: Names of the first of them, those that fail before others.
    """

    explanation: Explanation
    failures: int
    clips: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """The clips of one speaker, folder, or other value of a column.

    Attributes:
        name: The value.
        clips: How many were measured.
        failures: How many of these fail.
        share: Which share of the group fails, with the interval of this group by itself.
        mae: Quantiles 5, 50 and 95 % of the log-mel's mean absolute error, nats. Below these
            training with this vocoder cannot come.
        stands_out: Whether it fails more often than all clips do, by more than chance: of the
            groups that are said to, 5 % at most are expected not to (Benjamini and Hochberg 1995,
            over all groups, of one-sided hypergeometric tests).
    """

    name: str
    clips: int
    failures: int
    share: Estimate
    mae: tuple[Estimate, ...]
    stands_out: bool

    @property
    def few(self) -> bool:
        """Whether it has too few clips to say much."""
        return self.clips < FEW_CLIPS


GROUP_LEVELS = (0.05, 0.5, 0.95)
"""Quantiles of a group's MAE."""


@dataclass(frozen=True, slots=True)
class Point:
    """One clip on the map of loudness against SNR.

    Attributes:
        level_dbfs: RMS level, dB of full scale.
        snr_db: Signal-to-noise ratio of the log-mel, dB.
        failed: Whether it fails.
        name: Its name.
    """

    level_dbfs: float
    snr_db: float
    failed: bool
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusVerdict:
    """The verdict on a corpus.

    Attributes:
        clips: How many clips were measured.
        failures: How many of these fail.
        drawn: How many of these the share is about: all, but for those that were measured after
            `UntilDecided` had decided.
        corpus_size: How many clips the corpus has.
        seconds: How long the measured clips are together.
        confidence: Of every interval.
        share: Which share of the corpus fails.
        limit: Largest share that may fail; None without one.
        decision: On which side of the limit the share lies; None without a limit, or where the
            interval holds the limit.
        sequential: Whether clips were drawn until that was decided. The interval of the share
            allows for it, those of the quantiles and groups do not.
        outcomes: Clips by their outcome.
        caches: Clips by what became of their stored mels; empty without a cache.
        quantiles: By metric, its quantiles at `LEVELS`; without metrics that no clip has.
        measured: By metric, how many clips have it.
        histograms: By column, those of `HISTOGRAMS` that have two values.
        causes: What is wrong, that which most clips fail for first.
        groups: By group, those that stand out first, then by their share; empty where no clip has
            one.
        worst: The clips that fail before those that do not, by MAE, largest first; without those
            that have no figures at all.
        points: Some of the clips for the map, drawn by a hash of their place in the source.
    """

    clips: int
    failures: int
    drawn: int
    corpus_size: int
    seconds: float
    confidence: float
    share: Estimate
    limit: float | None
    decision: Decision | None
    sequential: bool
    outcomes: Mapping[str, int]
    caches: Mapping[str, int]
    quantiles: Mapping[str, tuple[Estimate, ...]]
    measured: Mapping[str, int]
    histograms: Mapping[str, Histogram]
    causes: tuple[CauseCount, ...]
    groups: tuple[GroupVerdict, ...]
    worst: tuple[Row, ...]
    points: tuple[Point, ...]

    @property
    def whole(self) -> bool:
        """Whether every clip of the corpus was measured, so that no interval is needed."""
        return self.clips == self.corpus_size


def judge_corpus(
    rows: Iterable[Row],
    *,
    confidence: float = 0.95,
    limit: float | None = None,
    corpus_size: int | None = None,
    until: UntilDecided | None = None,
) -> CorpusVerdict:
    """Return the verdict on a corpus.

    Args:
        rows: One row for each clip that was measured: all, or a part that was drawn at random.
        confidence: Of every interval; not of `until`, which has its own.
        limit: Largest share of the corpus that may fail; None takes that of `until`.
        corpus_size: How many clips the corpus has; None where the rows are all of them, or for
            that of `until`.
        until: What decided when to stop drawing. The share and its interval are then those of the
            clips that it was given; confidence and limit are its own.

    Raises:
        ValueError: No rows, more rows than clips, or a row that stands for one of an earlier run.
    """
    tally = _Tally()
    remaining = iter(rows)
    while block := list(islice(remaining, _BLOCK_ROWS)):
        tally.add(block)
        block.clear()  # before the next rows are read
    if not tally.clips:
        raise ValueError("the audit must have at least one clip, got none. Check the source.")
    if until is not None:
        confidence, limit, corpus_size = until.confidence, until.limit, until.corpus_size
    size = tally.clips if corpus_size is None else corpus_size
    if size < tally.clips:
        raise ValueError(
            f"corpus_size must be at least the number of rows, {tally.clips}, got {size}. Count "
            "the clips of the whole source."
        )
    whole = tally.clips == size
    sequential = until is not None and until.clips > 0 and not whole
    if until is not None and sequential:
        drawn = until.clips
        share = Estimate(until.failures / drawn, *until.interval)
        decision = until.decision
    else:
        drawn = tally.clips
        share = share_interval(tally.failures, drawn, size=size, confidence=confidence)
        decision = _side(share, limit)
    sampled = None if whole else confidence
    return CorpusVerdict(
        clips=tally.clips,
        failures=tally.failures,
        drawn=drawn,
        corpus_size=size,
        seconds=tally.microseconds / 1e6,
        confidence=confidence,
        share=share,
        limit=limit,
        decision=decision,
        sequential=sequential,
        outcomes=dict(sorted(tally.outcomes.items())),
        caches=dict(sorted(tally.caches.items())),
        quantiles={
            name: column.estimates(LEVELS, _ranks(LEVELS, column.count, sampled))
            for name, column in tally.columns.items()
            if name in METRIC_COLUMNS and column.count
        },
        measured={name: tally.columns[name].count for name in METRIC_COLUMNS},
        histograms={
            name: found
            for name in HISTOGRAMS
            if (found := tally.columns[name].histogram(_BINS, beyond=_BEYOND)) is not None
        },
        causes=tally.cause_counts(),
        groups=tally.group_verdicts(confidence, whole=whole),
        worst=tuple(tally.worst),
        points=tuple(point for failed in (False, True) for _, point in tally.points[failed]),
    )


def _ranks(
    levels: Sequence[float], counts: NDArray[np.int64] | int, confidence: float | None
) -> list[NDArray[np.int64]] | None:
    """Return `quantile_ranks` of each level; None where no value is missing."""
    if confidence is None:
        return None
    return [quantile_ranks(level, counts, confidence) for level in levels]


def _side(share: Estimate, limit: float | None) -> Decision | None:
    if limit is None:
        return None
    if share.high <= limit:
        return "below"
    return "above" if share.low > limit else None


@dataclass(slots=True)
class _Group:
    clips: int = 0
    failures: int = 0
    mae: Distribution = dataclasses.field(default_factory=lambda: Distribution(COARSE_DIGITS))


@dataclass(slots=True)
class _Code:
    clips: int = 0
    failures: int = 0
    # (does not fail, place in the source, name), the first ones.
    examples: list[tuple[bool, int, str]] = dataclasses.field(default_factory=list)


class _Tally:
    """What is kept of the rows."""

    def __init__(self) -> None:
        self.clips = self.failures = 0
        self.microseconds = 0  # whole ones: their sum does not depend on the order of the rows
        self.outcomes: Counter[str] = Counter()
        self.caches: Counter[str] = Counter()
        self.columns = {
            name: Distribution() for name in dict.fromkeys((*METRIC_COLUMNS, *HISTOGRAMS))
        }
        self.worst: list[Row] = []
        # (hash, point), those with the smallest hashes, by whether they fail.
        self.points: dict[bool, list[tuple[int, Point]]] = {True: [], False: []}
        self._groups: dict[str, _Group] = {}
        self._codes: dict[str, _Code] = {}

    def add(self, rows: Sequence[Row]) -> None:
        known = next((row for row in rows if row.outcome == "known"), None)
        if known is not None:
            raise ValueError(
                f"a row must hold a clip's figures, got one that stands for a row of an earlier "
                f"run, {known.name!r}. Take the rows of the table."
            )
        failed = [fails(row) for row in rows]
        self.clips += len(rows)
        self.failures += sum(failed)
        self.microseconds += sum(
            round(1e6 * row.duration_seconds) for row in rows if math.isfinite(row.duration_seconds)
        )
        self.outcomes.update(row.outcome for row in rows)
        self.caches.update(row.cache for row in rows if row.cache)
        for name, column in self.columns.items():
            column.add([getattr(row, name) for row in rows])
        shown = (row for row in rows if row.outcome not in ("unreadable", "unfinished"))
        self.worst = heapq.nsmallest(WORST, [*self.worst, *shown], key=_how_bad)
        self._add_points(rows, failed)
        self._add_groups(rows, failed)
        self._add_codes(rows, failed)

    def _add_points(self, rows: Sequence[Row], failed: Sequence[bool]) -> None:
        for kind, most in _MOST_POINTS.items():
            found = [
                (_hash(row.index), Point(row.level_dbfs, row.snr_db, kind, row.name))
                for row, its in zip(rows, failed, strict=True)
                if its is kind and math.isfinite(row.level_dbfs) and math.isfinite(row.snr_db)
            ]
            self.points[kind] = heapq.nsmallest(
                most, [*self.points[kind], *found], key=lambda each: each[0]
            )

    def _add_groups(self, rows: Sequence[Row], failed: Sequence[bool]) -> None:
        errors: dict[str, list[float]] = {}
        for row, its in zip(rows, failed, strict=True):
            name = row.group
            if name not in self._groups and len(self._groups) >= _MOST_GROUPS:
                name = OTHER_GROUPS
            group = self._groups.setdefault(name, _Group())
            group.clips += 1
            group.failures += its
            errors.setdefault(name, []).append(row.mae)
        for name, values in errors.items():
            self._groups[name].mae.add(values)

    def _add_codes(self, rows: Sequence[Row], failed: Sequence[bool]) -> None:
        for row, its in zip(rows, failed, strict=True):
            name = code_of(row)
            if not name:
                continue
            if name not in self._codes and len(self._codes) >= _MOST_CODES:
                name = "unknown"
            code = self._codes.setdefault(name, _Code())
            code.clips += 1
            code.failures += its
            example = (not its, row.index, row.name)
            if len(code.examples) < _EXAMPLES or example < code.examples[-1]:
                code.examples = sorted([*code.examples, example])[:_EXAMPLES]

    def cause_counts(self) -> tuple[CauseCount, ...]:
        counts = [
            CauseCount(
                meaning(name), code.failures, code.clips, tuple(each[2] for each in code.examples)
            )
            for name, code in self._codes.items()
        ]
        return tuple(
            sorted(counts, key=lambda each: (-each.failures, -each.clips, each.explanation.code))
        )

    def group_verdicts(self, confidence: float, *, whole: bool) -> tuple[GroupVerdict, ...]:
        if not any(self._groups):
            return ()
        groups = list(self._groups.items())
        clips = np.array([group.clips for _, group in groups])
        failures = np.array([group.failures for _, group in groups])
        # How probable so many failures are, were the failures of all spread over the clips at
        # random. Beyond 1 by rounding they would be refused.
        chances = hypergeom.sf(failures - 1, self.clips, self.failures, clips).clip(0, 1)
        stands_out = false_discovery_control(chances) <= _FALSE_DISCOVERIES
        # How many clips a group has beyond those that were drawn is not known. All groups at once:
        # a call of SciPy takes as long for one as for a thousand.
        measured = np.array([max(1, group.mae.count) for _, group in groups])
        ranks = _ranks(GROUP_LEVELS, measured, None if whole else confidence)
        if whole:
            shares = [Estimate(share, share, share) for share in (failures / clips).tolist()]
        else:
            shares = endless_shares(failures, clips, confidence=confidence)
        verdicts = [
            GroupVerdict(
                name,
                group.clips,
                group.failures,
                shares[place],
                group.mae.estimates(
                    GROUP_LEVELS, None if ranks is None else [each[:, place] for each in ranks]
                ),
                bool(stands_out[place]),
            )
            for place, (name, group) in enumerate(groups)
        ]
        return tuple(
            sorted(
                verdicts,
                key=lambda each: (not each.stands_out, -each.share.value, -each.clips, each.name),
            )
        )


# Share of the groups said to stand out that may be expected not to.
_FALSE_DISCOVERIES = 0.05


def _how_bad(row: Row) -> tuple[bool, float, int]:
    """Return a key that sorts the worst clips first; an MAE that is NaN is that of a broken mel."""
    broken = row.outcome == "failed" and math.isnan(row.mae)
    error = math.inf if broken else 0.0 if math.isnan(row.mae) else row.mae
    return not fails(row), -error, row.index


def _hash(index: int) -> int:
    return int.from_bytes(hashlib.blake2b(str(index).encode(), digest_size=8).digest(), "big")
