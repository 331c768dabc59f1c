"""What a run found, as data: the source of the HTML page, the Markdown, the JSON and a baseline.

Everything here is plain and immutable, knows nothing of torch or pytest and crosses from one
process to another. Errors are in nats and run from the lowest band and the first frame.
`melcheck.report.json_format` writes and reads it; `melcheck.report.build` makes it of round trips.

Where a run's figures come from: the audio, the vocoder, the mel's recipe, the machine.

The figures of a report: what each is called, its unit, and how it is written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Key = tuple[str, str, str]
"""Clip, vocoder, device: what names a case in a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSource:
    """The file of a case.

    Attributes:
        file: Its name, without folders.
        sha256: Hash of the file.
        sample_rate: Hz of the file.
        channels: Of the file; their mean went round.
        seconds: Length of the whole file; NaN where its header does not say.
        checked_seconds: How much of it went round.
        decoder: What read it.
    """

    file: str
    sha256: str
    sample_rate: int
    channels: int
    seconds: float
    checked_seconds: float
    decoder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderSource:
    """Which vocoder exactly; fields as in `melcheck.vocoders.base.VocoderInfo`, and its label."""

    label: str
    name: str
    source: str
    revision: str | None
    weights_sha256: str | None
    config_sha256: str | None
    num_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSource:
    """What the mels of a run mean.

    Attributes:
        digest: Names it in `CaseResult.recipe`.
        text: Every number, in words.
        sample_rate: Hz.
        frames_per_second: Of the mel.
        log_floor: Its smallest value, nats.
        band_centres_hz: Where each band peaks, lowest first.
    """

    digest: str
    text: str
    sample_rate: int
    frames_per_second: float
    log_floor: float
    band_centres_hz: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where, when and how a run was made.

    Attributes:
        command: The command line.
        finished: Time in UTC, ISO 8601 with seconds.
        platform: Operating system and architecture.
        versions: Of melcheck, Python, torch, torchaudio and vocos, by name.
        devices: What each device of the run is called, by its name in the cases.
    """

    command: str
    finished: str
    platform: str
    versions: Mapping[str, str]
    devices: Mapping[str, str]


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


SCHEMA_VERSION = 1
"""Raised whenever a field is added, removed or changes its meaning."""

CaseOutcome = Literal[
    "passed", "failed", "known miss", "measured", "baseline", "skipped", "no result"
]
RunVerdict = Literal["passed", "failed", "nothing measured"]
Side = Literal["below", "above"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One gate of the run: `metric` must lie on `side` of `limit`, which is exclusive."""

    metric: str
    side: Side
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """One gate, held against one case.

    Attributes:
        metric: Its name in `report_metrics.METRICS`.
        value: What was measured.
        side: Where the value should lie, "below" or "above" the limit.
        limit: The exclusive bound.
        margin: How far the value is on the right side; negative where it missed, NaN for a NaN.
        passed: Whether it is on the right side.
    """

    metric: str
    value: float
    side: Side
    limit: float
    margin: float
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """The likely cause of a bad round trip, as `melcheck.diagnosis.round_trip` names it."""

    code: str
    title: str
    evidence: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """One figure against the baseline's.

    Attributes:
        metric: Its name in `report_metrics.METRICS`.
        before: Of the baseline.
        after: Of this run.
        tolerance: What may be noise, in the metric's unit.
        trend: "worse" or "better" beyond the tolerance, "same" within it.
    """

    metric: str
    before: float
    after: float
    tolerance: float
    trend: Literal["worse", "better", "same"]

    @property
    def delta(self) -> float:
        """`after` minus `before`; 0 where both are the same, infinity included."""
        return 0.0 if self.after == self.before else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One case against the same case of the baseline.

    Attributes:
        status: "worse" where any figure, band or frame is; else "better" where any is; "same";
            "other" where the two do not describe the same thing; "new" where the baseline has no
            such case.
        metrics: Figure by figure; empty for "other" and "new".
        place: The figures and the bands or frames that moved most, in words; or empty.
        mismatches: Why the two cannot be compared, one sentence each.
    """

    status: Literal["worse", "better", "same", "other", "new"]
    metrics: tuple[MetricChange, ...] = ()
    place: str = ""
    mismatches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One clip through one vocoder on one device.

    Attributes:
        clip: Its name, unique in the run.
        vocoder: The vocoder's label; see `RunReport.vocoders`.
        device: Where it ran.
        outcome: "passed" or "failed" where the gates apply; "known miss" where they are missed as
            is on record; "measured" where they do not apply; "baseline" for Griffin-Lim, shown
            for comparison; "skipped"; "no result" for a case that never came to its end.
        reason: Why, in words: what was missed, or why it was skipped.
        metrics: By their names in `report_metrics.METRICS`; empty where nothing was measured.
        gates: Each gate with its margin; empty where none applies.
        band_mae: Mean absolute error of each band, nats.
        frame_mae: Mean absolute error of each frame, nats; NaN for one that does not count.
        notes: What a reader should know beside the numbers.
        cause: What is likely wrong; None where nothing is, or nothing is known.
        audio: The file; None where it was not read.
        recipe: Digest of the mel's recipe; see `RunReport.recipes`.
        change: Against the baseline; None without one.
    """

    clip: str
    vocoder: str
    device: str
    outcome: CaseOutcome
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    band_mae: tuple[float, ...] = ()
    frame_mae: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    cause: Cause | None = None
    audio: AudioSource | None = None
    recipe: str = ""
    change: Change | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What names this case in a run: clip, vocoder, device."""
        return self.clip, self.vocoder, self.device

    @property
    def title(self) -> str:
        """The case in words: `clip (vocoder on device)`."""
        return f"{self.clip} ({self.vocoder} on {self.device})"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTest:
    """A test that failed, whether it has a case or not, and the first line of why."""

    name: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The baseline that a run was held against.

    Attributes:
        file: Its name.
        finished: When it was made.
        versions: It was made with, by name.
        missing: Cases of the baseline that this run does not have, in words.
        new: Cases of this run that the baseline does not have, in words.
        other: Cases that cannot be compared, each with the reasons.
    """

    file: str
    finished: str
    versions: Mapping[str, str]
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A run: the verdict first, then each case, then where it all came from.

    Attributes:
        verdict: "failed" where a case failed, came to no end, or any test failed; "nothing
            measured" where no case was measured.
        counts: Cases by outcome, without those that are only there for comparison.
        thresholds: The gates.
        cases: In the order of the plan.
        vocoders: One for each label among the cases that ran.
        recipes: One for each digest among the cases.
        environment: Where, when and how.
        failed_tests: What failed, whether it has a case or not.
        comparison: The baseline; None without one.
        schema_version: Of the JSON.
    """

    verdict: RunVerdict
    counts: Mapping[str, int]
    thresholds: tuple[Threshold, ...]
    cases: tuple[CaseResult, ...]
    vocoders: tuple[VocoderSource, ...]
    recipes: tuple[RecipeSource, ...]
    environment: Environment
    failed_tests: tuple[FailedTest, ...] = ()
    comparison: Comparison | None = None
    schema_version: int = SCHEMA_VERSION


def make_run_report(
    cases: Iterable[CaseResult],
    *,
    thresholds: Iterable[Threshold],
    vocoders: Iterable[VocoderSource],
    recipes: Iterable[RecipeSource],
    environment: Environment,
    failed_tests: Iterable[FailedTest] = (),
    comparison: Comparison | None = None,
) -> RunReport:
    """Return the report of a run, with its counts and the verdict that follows from its cases."""
    cases, failed_tests = tuple(cases), tuple(failed_tests)
    counts = Counter[str](case.outcome for case in cases if case.outcome != "baseline")
    measured = any(case.metrics for case in cases if case.outcome != "baseline")
    verdict: RunVerdict = "passed" if measured else "nothing measured"
    if counts["failed"] or counts["no result"] or failed_tests:
        verdict = "failed"
    return RunReport(
        verdict=verdict,
        counts=dict(counts),
        thresholds=tuple(thresholds),
        cases=cases,
        vocoders=tuple(vocoders),
        recipes=tuple(recipes),
        environment=environment,
        failed_tests=failed_tests,
        comparison=comparison,
    )
