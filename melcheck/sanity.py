"""Whether a round trip is good enough: thresholds as data, and a verdict that explains itself.

The defaults are the project's three gates on log-mels in nats: MAE < 0.2, correlation > 0.99,
SNR > 20 dB; and a clip must have something to measure. All are strict, and a metric that is NaN
fails: what could not be measured did not pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from melcheck.metrics import MelMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a round trip must reach, each bound exclusive.

    Attributes:
        mae: Mean absolute error must be below this, nats.
        pearson: Correlation must be above this.
        snr_db: Signal-to-noise ratio must be above this, dB.
        reference_floor_share: The share of the original mel at the floor must be below this: a
            clip of silence comes back perfectly and shows nothing.

    Raises:
        ValueError: A bound that no mel could miss or none could meet.
    """

    mae: float = 0.2
    pearson: float = 0.99
    snr_db: float = 20.0
    reference_floor_share: float = 0.999

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mae) and self.mae > 0):
            raise ValueError(f"mae must be positive and finite (nats), got {self.mae}.")
        if not -1 <= self.pearson < 1:
            raise ValueError(f"pearson must lie in [-1, 1), got {self.pearson}.")
        if not math.isfinite(self.snr_db):
            raise ValueError(f"snr_db must be finite (dB), got {self.snr_db}.")
        if not 0 < self.reference_floor_share <= 1:
            raise ValueError(
                f"reference_floor_share must lie in (0, 1], got {self.reference_floor_share}."
            )


@dataclass(frozen=True, slots=True)
class Failure:
    """One metric that missed its threshold.

    Attributes:
        metric: Its name in `MelMetrics`.
        value: What was measured.
        limit: The exclusive bound.
        side: Where the value should lie: "below" or "above" the limit.
        margin: How far the value is on the wrong side, in the metric's unit; NaN if it is NaN.
    """

    metric: str
    value: float
    limit: float
    side: Literal["below", "above"]
    margin: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.metric} is NaN, must be {self.side} {self.limit:g}"
        return (
            f"{self.metric} {self.value:.4g} must be {self.side} {self.limit:g}, "
            f"misses it by {self.margin:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one mel.

    Attributes:
        failures: The metrics that missed, in the order of `Thresholds`; empty if it passed.
        notes: What a reader should know beside the numbers, such as a silent clip.
    """

    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every metric reached its threshold."""
        return not self.failures

    @property
    def reason(self) -> str:
        """Why it failed, with what a reader should know; "" where it passed without a note."""
        return "; ".join([*map(str, self.failures), *self.notes])

    def __str__(self) -> str:
        outcome = "passed" if self.passed else "failed: " + "; ".join(map(str, self.failures))
        return " | ".join((outcome, *self.notes))


def judge(
    metrics: MelMetrics, thresholds: Thresholds | None = None, *, notes: tuple[str, ...] = ()
) -> Verdict:
    """Hold the metrics of one mel against thresholds.

    Args:
        metrics: As `melcheck.metrics.compare` gives them.
        thresholds: The bounds; None for the defaults.
        notes: What the verdict notes beside its own.

    Returns:
        A verdict that names each metric that missed, its value and its margin.

    Raises:
        TypeError: Anything but the metrics of one mel.
    """
    if not isinstance(metrics, MelMetrics):
        raise TypeError(
            f"metrics must be the MelMetrics of one mel, got {type(metrics).__name__}. "
            "A round trip has one for each item: trip.metrics()[0]."
        )
    thresholds = thresholds or Thresholds()
    checks: tuple[tuple[str, float, float, Literal["below", "above"]], ...] = (
        ("mae", metrics.mae, thresholds.mae, "below"),
        ("pearson", metrics.pearson, thresholds.pearson, "above"),
        ("snr_db", metrics.snr_db, thresholds.snr_db, "above"),
        (
            "reference_floor_share",
            metrics.reference_floor_share,
            thresholds.reference_floor_share,
            "below",
        ),
    )
    failures = []
    for metric, value, limit, side in checks:
        margin = value - limit if side == "below" else limit - value
        # Written so that NaN, which compares false, fails.
        if not margin < 0:
            failures.append(Failure(metric, value, limit, side, margin))
    if metrics.reference_floor_share >= thresholds.reference_floor_share:
        notes = (
            *notes,
            f"silent clip: {metrics.reference_floor_share:.1%} of its mel is at the floor, so the "
            "other figures say nothing; use a clip with sound in it (channels in antiphase cancel)",
        )
    return Verdict(tuple(failures), notes)
