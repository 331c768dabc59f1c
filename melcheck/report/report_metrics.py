"""The figures of a report: what each is called, its unit, and how it is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["METRICS", "Metric", "shown", "shown_delta"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a figure is called and read.

    Attributes:
        label: What stands above its column.
        unit: "nats", "dB", "nats²", "%" or "".
        digits: After the decimal point.
        better: "lower", "higher", or "" for one that only describes the clip.
        meaning: One sentence.
    """

    label: str
    unit: str
    digits: int
    better: Literal["lower", "higher", ""]
    meaning: str


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "mae": Metric("MAE", "nats", 3, "lower", "mean absolute error of the log-mel"),
        "pearson": Metric("corr", "", 4, "higher", "Pearson correlation over all cells of the mel"),
        "snr_db": Metric("SNR", "dB", 1, "higher", "signal-to-noise ratio of the log-mel"),
        "centred_snr_db": Metric("cSNR", "dB", 1, "higher", "SNR without the mel's mean"),
        "mse": Metric("MSE", "nats²", 3, "lower", "mean squared error of the log-mel"),
        "max_abs_diff": Metric("max", "nats", 1, "lower", "largest error of any cell"),
        "stft_distance": Metric(
            "STFT",
            "",
            2,
            "lower",
            "distance of the waveforms at window lengths other than the mel's",
        ),
        "reference_floor_share": Metric("floor", "%", 0, "", "share of the mel at its floor"),
    }
)
"""Every figure of a case, in the order of the table. Shares are stored from 0 to 1."""


def shown(metric: str, value: float, *, signed: bool = False) -> str:
    """Return a figure as the table shows it, without its unit but for %.

    Example:
        >>> shown("mae", 0.15432), shown("reference_floor_share", 0.031)
        ('0.154', '3%')
        >>> shown("snr_db", 2.0, signed=True)
        '+2.0'
    """
    kind = METRICS[metric]
    percent = kind.unit == "%"
    if not math.isfinite(value):
        return str(value)
    text = f"{100 * value if percent else value:{'+' if signed else ''}.{kind.digits}f}"
    return f"{text}%" if percent else text


def shown_delta(metric: str, delta: float) -> str:
    """Return a change as the table shows it: signed, or ±0 where its digits do not show it.

    Example:
        >>> shown_delta("mae", -0.012), shown_delta("mae", -0.0001)
        ('-0.012', '±0')
    """
    text = shown(metric, delta, signed=True)
    return text if any(digit in text for digit in "123456789") or "n" in text else "±0"
