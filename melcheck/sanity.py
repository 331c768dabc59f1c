"""Whether a round trip is good enough: thresholds as data, and a verdict that explains itself.

The defaults are the project's three gates on log-mels in nats: MAE < 0.2, correlation > 0.99,
SNR > 20 dB; and the clip must not be silent. All limits are exclusive, and a metric that is NaN
fails. Here and in every report a margin is positive on the passing side of a limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from melcheck.metrics import MelMetrics

Side = Literal["below", "above"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition: the value of `metric` must lie on `side` of `limit`, which is exclusive."""

    metric: str
    side: Side
    limit: float

    def check(self, value: float) -> GateResult:
        """Return the gate with a value and its margin."""
        margin = self.limit - value if self.side == "below" else value - self.limit
        return GateResult(
            metric=self.metric,
            value=value,
            side=self.side,
            limit=self.limit,
            margin=margin,
            passed=margin > 0,  # false for NaN
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate, checked against one mel.

    Attributes:
        metric: Name in `MelMetrics`.
        value: Measured value.
        side: Where the value must lie: "below" or "above" the limit.
        limit: Exclusive limit.
        margin: Distance of the value from the limit, in the metric's unit: positive on the passing
            side, negative on the other, NaN for a NaN.
        passed: Whether the margin is positive.
    """

    metric: str
    value: float
    side: Side
    limit: float
    margin: float
    passed: bool

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"{self.metric} is NaN, must be {self.side} {self.limit:g}"
        text = f"{self.metric} {self.value:.4g} must be {self.side} {self.limit:g}"
        return text if self.passed else f"{text}, misses it by {-self.margin:.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The limits that a round trip is checked against, all exclusive.

    Attributes:
        mae: Upper limit of the mean absolute error, nats.
        pearson: Lower limit of the correlation.
        snr_db: Lower limit of the signal-to-noise ratio, dB.
        reference_floor_share: Upper limit of the share of the original mel at the floor: silence
            is reconstructed perfectly, which proves nothing.

    Raises:
        ValueError: A limit that every mel or no mel would meet.
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

    def gates(self) -> tuple[Gate, ...]:
        """Return each limit with its metric and side."""
        return (
            Gate(metric="mae", side="below", limit=self.mae),
            Gate(metric="pearson", side="above", limit=self.pearson),
            Gate(metric="snr_db", side="above", limit=self.snr_db),
            Gate(metric="reference_floor_share", side="below", limit=self.reference_floor_share),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one mel.

    Attributes:
        gates: Every gate, passed or not, in the order of `Thresholds`.
        notes: Remarks beside the numbers, such as a silent clip.
    """

    gates: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[GateResult, ...]:
        """The gates that were missed."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def passed(self) -> bool:
        """Whether no gate was missed."""
        return not self.failures

    @property
    def reason(self) -> str:
        """The missed gates and the notes in words; "" where it passed without a note."""
        return "; ".join([*map(str, self.failures), *self.notes])

    def __str__(self) -> str:
        outcome = "passed" if self.passed else "failed: " + "; ".join(map(str, self.failures))
        return " | ".join((outcome, *self.notes))


def judge(
    metrics: MelMetrics, thresholds: Thresholds | None = None, *, notes: tuple[str, ...] = ()
) -> Verdict:
    """Check the metrics of one mel against thresholds.

    Args:
        metrics: As `melcheck.metrics.compare` returns them.
        thresholds: The limits; None for the defaults.
        notes: Notes of the verdict beside its own.

    Returns:
        A verdict with every gate, its value and its margin, which is positive where it passed.

    Raises:
        TypeError: Anything but the metrics of one mel.
    """
    if not isinstance(metrics, MelMetrics):
        raise TypeError(
            f"metrics must be the MelMetrics of one mel, got {type(metrics).__name__}. "
            "A round trip has one for each item: trip.metrics()[0]."
        )
    thresholds = thresholds or Thresholds()
    gates = tuple(gate.check(getattr(metrics, gate.metric)) for gate in thresholds.gates())
    if metrics.reference_floor_share >= thresholds.reference_floor_share:
        notes = (
            *notes,
            f"silent clip: {metrics.reference_floor_share:.1%} of its mel is at the floor, so the "
            "other metrics mean nothing; use a clip that is not silent (two channels in antiphase "
            "cancel when they are mixed)",
        )
    return Verdict(gates, notes)
