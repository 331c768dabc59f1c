"""How the values of a column are distributed, in memory that does not grow with their number.

Equal values are counted, after they were rounded to some binary digits: a column that spans a
factor of a thousand takes no more than 10 * 2 ** (digits - 1) counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melcheck.audit.intervals import Estimate

FINE_DIGITS = 14
"""Binary digits of a corpus's columns: a relative error of at most 6e-5, below what is shown."""

COARSE_DIGITS = 8
"""Binary digits of a group's columns, of which there may be many: at most 4e-3."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie in bins of one width.

    Attributes:
        edges: Of the bins, one more than there are, ascending.
        counts: Values of each bin.
        below: Values below the first bin.
        above: Values above the last; infinite ones are with them or below.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int


class Distribution:
    """Counts of a column's values; NaN stands for none.

    Args:
        digits: Binary digits that a value is rounded to.
    """

    def __init__(self, digits: int = FINE_DIGITS) -> None:
        self._digits = digits
        self._values = np.empty(0)
        self._counts = np.empty(0, dtype=np.int64)

    @property
    def count(self) -> int:
        """How many values there are."""
        return int(self._counts.sum())

    def add(self, values: Iterable[float] | NDArray[np.float64]) -> None:
        """Count values."""
        added = np.asarray(values, dtype=np.float64)
        added = added[~np.isnan(added)]
        mantissa, exponent = np.frexp(added)
        added = np.ldexp(np.rint(np.ldexp(mantissa, self._digits)), exponent - self._digits)
        found, counts = np.unique(added, return_counts=True)
        self._values, place = np.unique(np.concatenate([self._values, found]), return_inverse=True)
        weights = np.concatenate([self._counts, counts])
        self._counts = np.bincount(place, weights, len(self._values)).astype(np.int64)

    def quantile(self, level: float) -> float:
        """Return the smallest value that a share `level` of all does not exceed; NaN without any.

        Example:
            >>> distribution = Distribution()
            >>> distribution.add([1.0, 2.0, 3.0, float("nan")])
            >>> distribution.quantile(0.5), distribution.count
            (2.0, 3)
        """
        return self.estimates([level], None)[0].value

    def estimates(
        self, levels: Sequence[float], ranks: Sequence[NDArray[np.int64]] | None
    ) -> tuple[Estimate, ...]:
        """Return quantiles with their intervals.

        Args:
            levels: Of the quantiles, as shares.
            ranks: Of each, the two that bound it: `melcheck.audit.intervals.quantile_ranks`. None
                where no value is missing.
        """
        count = self.count
        if not count:
            return (Estimate(math.nan, math.nan, math.nan),) * len(levels)
        middle = np.array([max(1, math.ceil(level * count)) for level in levels])
        bounds = (middle, middle) if ranks is None else np.stack(ranks, axis=-1)
        # The values of ranks, counted from 1: -inf before the first, inf after the last.
        ends = np.concatenate([[0], np.cumsum(self._counts)])
        values = np.concatenate([[-math.inf], self._values, [math.inf]])
        value, low, high = values[np.searchsorted(ends, [middle, *bounds])].tolist()
        return tuple(map(Estimate, value, low, high))

    def histogram(self, bins: int, *, beyond: float = 0.0) -> Histogram | None:
        """Return the values in so many bins; None where fewer than two values are finite.

        Args:
            bins: How many.
            beyond: Share of the finite values at each end that need not lie in a bin, so that
                single ones far away do not leave all others in one.
        """
        finite = np.isfinite(self._values)
        values, counts = self._values[finite], self._counts[finite]
        if len(values) < 2:
            return None
        ranks = np.cumsum(counts)
        low = values[np.searchsorted(ranks, beyond * ranks[-1], side="right")]
        high = values[np.searchsorted(ranks, (1 - beyond) * ranks[-1])]
        if high <= low:
            low, high = values[0], values[-1]
        found, edges = np.histogram(values, bins, (low, high), weights=counts)
        return Histogram(
            tuple(map(float, edges)),
            tuple(map(int, found)),
            int(self._counts[self._values < low].sum()),
            int(self._counts[self._values > high].sum()),
        )
