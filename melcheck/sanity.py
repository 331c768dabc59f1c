"""Whether a round trip is good enough: thresholds as data, and a verdict that explains itself.

The defaults are the project's three gates on log-mels in nats: MAE < 0.2, correlation > 0.99,
SNR > 20 dB; and the clip must not be silent. All limits are exclusive, and a metric that is NaN
fails. Here and in every report a margin is positive on the passing side of a limit.

A project may set its own limits, for all clips or for those whose names match a pattern; wherever
such a gate is shown, the default stands beside it.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from melcheck.metrics import MelMetrics

Side = Literal["below", "above"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One condition: the value of `metric` must lie on `side` of `limit`, which is exclusive.

    Attributes:
        metric: Name in `MelMetrics`.
        side: Where the value must lie: "below" or "above" the limit.
        limit: Exclusive limit.
        default: melcheck's own limit, where a project has set another; None where this is it.
    """

    metric: str
    side: Side
    limit: float
    default: float | None = None

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
            default=self.default,
        )


def distinct(value: float, limit: float) -> str:
    """Return a value with at least four digits, and as many as tell it from a limit.

    Example:
        >>> distinct(19.96123, 20.0), distinct(19.99961, 20.0)
        ('19.96', '19.9996')
    """
    for digits in range(4, 17):
        text = f"{value:.{digits}g}"
        if value == limit or float(text) != limit:
            return text
    return repr(value)


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
        default: melcheck's own limit, where a project has set another; None where this is it.
    """

    metric: str
    value: float
    side: Side
    limit: float
    margin: float
    passed: bool
    default: float | None = dataclasses.field(default=None, compare=False)

    @property
    def lenient(self) -> bool:
        """Whether only the project's own limit lets the value pass."""
        if self.default is None or not self.passed:
            return False
        below = self.value < self.default
        return not (below if self.side == "below" else self.value > self.default)

    def __str__(self) -> str:
        limit = f"{self.limit:g}"
        if self.default is not None:
            limit += f" (default {self.default:g})"
        if math.isnan(self.value):
            return f"{self.metric} is NaN, must be {self.side} {limit}"
        value = distinct(self.value, self.limit)
        text = f"{self.metric} {value} must be {self.side} {limit}"
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
        """Return each limit with its metric and side, and the default where it is another."""
        return tuple(
            Gate(
                metric=name,
                side=_SIDES[name],
                limit=(limit := getattr(self, name)),
                default=None if limit == default else default,
            )
            for name, default in _DEFAULTS.items()
        )


_SIDES: Mapping[str, Side] = {
    "mae": "below",
    "pearson": "above",
    "snr_db": "above",
    "reference_floor_share": "below",
}
_DEFAULTS: Mapping[str, float] = {
    each.name: each.default
    for each in dataclasses.fields(Thresholds)
    if isinstance(each.default, float)
}


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """Limits that a project sets itself.

    Attributes:
        pattern: Of the names of the clips that they apply to, as in a shell: "*" for all.
        limits: By metric, as the fields of `Thresholds`.
    """

    pattern: str
    limits: Mapping[str, float]

    def applies(self, clip: str) -> bool:
        """Return whether a clip of this name is meant."""
        return fnmatch.fnmatchcase(clip, self.pattern)

    def __str__(self) -> str:
        gates = (gate for gate in Thresholds(**self.limits).gates() if gate.metric in self.limits)
        listed = ", ".join(
            f"{gate.metric} {gate.side} {gate.limit:g}"
            + ("" if gate.default is None else f" (default {gate.default:g})")
            for gate in gates
        )
        return listed if self.pattern == "*" else f"{self.pattern}: {listed}"


def threshold_rule(text: str) -> ThresholdRule:
    """Return the rule that a setting states: "snr_db=18", or "noisy/*: snr_db=15, mae=0.3".

    Raises:
        ValueError: It names no metric with a limit, or a limit that `Thresholds` refuses.

    Example:
        >>> print(threshold_rule("noisy/*: snr_db=15"))
        noisy/*: snr_db above 15 (default 20)
    """
    pattern, _, listed = text.rpartition(":")
    limits: dict[str, float] = {}
    for part in listed.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in _DEFAULTS:
            close = difflib.get_close_matches(name, _DEFAULTS, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"a threshold must be METRIC=NUMBER with a METRIC of {', '.join(_DEFAULTS)}, or "
                f"PATTERN: METRIC=NUMBER, got {text!r}.{guess}"
            )
        try:
            limits[name] = float(value)
        except ValueError:
            raise ValueError(
                f"a threshold must be METRIC=NUMBER, such as {name}={_DEFAULTS[name]:g}, "
                f"got {text!r}."
            ) from None
    Thresholds(**limits)
    return ThresholdRule(pattern.strip() or "*", limits)


def thresholds_of(clip: str, rules: Iterable[ThresholdRule]) -> Thresholds:
    """Return the thresholds of a clip: of the rules that apply to it, a later one beats an earlier.

    Args:
        clip: Name of the clip.
        rules: The project's own limits; without any, the defaults hold.
    """
    limits: dict[str, float] = {}
    for rule in rules:
        limits |= rule.limits if rule.applies(clip) else {}
    return Thresholds(**limits)


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
    if any(gate.lenient for gate in gates):
        listed = ", ".join(str(gate) for gate in gates if gate.lenient)
        notes = (*notes, f"passes by the project's own threshold: {listed}")
    if metrics.reference_floor_share >= thresholds.reference_floor_share:
        notes = (
            *notes,
            f"silent clip: {metrics.reference_floor_share:.1%} of its mel is at the floor, so the "
            "other metrics mean nothing; use a clip that is not silent (two channels in antiphase "
            "cancel when they are mixed)",
        )
    return Verdict(gates, notes)
