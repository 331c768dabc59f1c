"""The data of a run's report, from which HTML, Markdown, JSON and the terminal's table are made.

Everything here is plain and immutable. Errors are in nats, bands count from the lowest, frames from
the first. `melcheck.report.build` makes it from round trips, `melcheck.report.json_format` writes
and reads it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from melcheck.diagnosis.causes import Explanation
from melcheck.sanity import Gate, GateResult
from melcheck.vocoders.base import VocoderInfo

Key = tuple[str, str, str]
"""Clip, vocoder, device: what names a case in a run."""

SCHEMA_VERSION = 2
"""Raised whenever a field is added, removed or changes its meaning."""

CaseOutcome = Literal[
    "passed", "failed", "known miss", "measured", "baseline", "skipped", "no result"
]
Trend = Literal["worse", "better", "same"]


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is labelled and shown.

    Attributes:
        label: Heading of its column.
        unit: "nats", "dB", "nats²", "%" or "".
        digits: Number of digits after the decimal point.
        better: "lower", "higher", or "" for one that only describes the clip.
        meaning: Definition in a few words.
    """

    label: str
    unit: str
    digits: int
    better: Literal["lower", "higher", ""]
    meaning: str


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "mae": Metric("MAE", "nats", 3, "lower", "mean absolute error of the log-mel"),
        "pearson": Metric("corr", "", 4, "higher", "Pearson correlation of the two log-mels"),
        "snr_db": Metric("SNR", "dB", 1, "higher", "signal-to-noise ratio of the log-mel"),
        "centred_snr_db": Metric("cSNR", "dB", 1, "higher", "SNR without the mel's mean"),
        "mse": Metric("MSE", "nats²", 3, "lower", "mean squared error of the log-mel"),
        "max_abs_diff": Metric("max", "nats", 1, "lower", "largest error of a time-frequency bin"),
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
"""Every metric of a case, in the order of a report's table. Shares are stored from 0 to 1."""


def shown(metric: str, value: float, *, signed: bool = False, beside: float | None = None) -> str:
    """Return a value with the digits of its metric, without its unit except for %.

    Args:
        metric: Name in `METRICS`.
        value: The value.
        signed: Whether a plus is written.
        beside: A number from which it must be told apart, such as the limit that it missed by
            less than those digits show.

    Example:
        >>> shown("snr_db", 19.96), shown("snr_db", 19.96, beside=20.0)
        ('20.0', '19.96')
        >>> shown("mae", 0.15432), shown("reference_floor_share", 0.031)
        ('0.154', '3%')
        >>> shown("snr_db", 2.0, signed=True)
        '+2.0'
    """
    kind = METRICS[metric]
    percent = kind.unit == "%"
    if not math.isfinite(value):
        return str(value)
    scale, digits, sign = (100 if percent else 1), kind.digits, "+" if signed else ""
    while True:
        text = f"{scale * value:{sign}.{digits}f}"
        same = beside is not None and value != beside and float(text) == scale * beside
        if not same or digits >= _MOST_DIGITS:
            return f"{text}%" if percent else text
        digits += 1


# float64 holds no more.
_MOST_DIGITS = 16


def shown_delta(metric: str, delta: float) -> str:
    """Return a change with its sign, or ±0 where it rounds to zero.

    Example:
        >>> shown_delta("mae", -0.012), shown_delta("mae", -0.0001)
        ('-0.012', '±0')
    """
    text = shown(metric, delta, signed=True)
    return text if any(digit in text for digit in "123456789") or "n" in text else "±0"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioSource:
    """The audio file of a case.

    Attributes:
        file: Name without folders.
        sha256: Hash of the file.
        sample_rate: Rate of the file, Hz.
        channels: Number of channels in the file; their mean was checked.
        seconds: Length of the whole file; NaN where its header does not give it.
        checked_seconds: Length of the part that was checked.
        decoder: Library that decoded it.
        begin_seconds: Where that part begins.
    """

    file: str
    sha256: str
    sample_rate: int
    channels: int
    seconds: float
    checked_seconds: float
    decoder: str
    begin_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSource:
    """The mel recipe of cases.

    Attributes:
        digest: Short hash of the recipe, as in `CaseResult.recipe`.
        text: Every parameter with its value.
        sample_rate: Hz.
        frames_per_second: Frame rate of the mel.
        log_floor: Smallest value of the log-mel, nats.
        band_centres_hz: Centre frequency of each band, lowest first.
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
        command: Command line.
        finished: Time in UTC, ISO 8601 with seconds.
        platform: Operating system and architecture.
        versions: Versions of melcheck, Python and the libraries that compute, by name.
        devices: Description of each device, by its name in the cases.
    """

    command: str
    finished: str
    platform: str
    versions: Mapping[str, str]
    devices: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricChange:
    """One metric compared with the baseline.

    Attributes:
        metric: Name in `METRICS`.
        before: Value of the baseline.
        after: Value of this run.
        tolerance: Largest change that counts as noise, in the metric's unit.
        trend: "worse" or "better" beyond the tolerance, "same" within it.
    """

    metric: str
    before: float
    after: float
    tolerance: float
    trend: Trend

    @property
    def delta(self) -> float:
        """`after` minus `before`; 0 where both are the same, infinity included."""
        return 0.0 if self.after == self.before else self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineChange:
    """One case compared with the same case of the baseline.

    Attributes:
        status: "worse" where any metric, band or frame is; else "better" where any is; "same";
            "other" where audio, recipe or weights differ; "new" where the baseline has no such
            case.
        metrics: Change of each metric; empty for "other" and "new".
        place: Metrics, bands and frames that changed most, in words; or empty.
        mismatches: Reasons why the two cannot be compared.
    """

    status: Literal["worse", "better", "same", "other", "new"]
    metrics: tuple[MetricChange, ...] = ()
    place: str = ""
    mismatches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One clip through one vocoder on one device.

    Attributes:
        clip: Name, unique in the run.
        vocoder: Label of the vocoder; see `RunReport.vocoders`.
        device: Name of the device.
        outcome: "passed" or "failed" where the gates apply; "known miss" where they are missed as
            a project has accepted; "measured" where they do not apply; "baseline" for Griffin-Lim,
            shown for comparison; "skipped"; "no result" for a case that did not finish.
        reason: Which gates were missed, or why the case was skipped, in words.
        metrics: Values by their names in `METRICS`; empty where nothing was measured.
        gates: Every gate with its margin; empty where none applies.
        band_mae: Mean absolute error of each band, nats.
        frame_mae: Mean absolute error of each frame, nats; NaN for padding.
        notes: Remarks beside the numbers.
        cause: Likely cause of a failure; None where there is none or it is unknown.
        audio: Audio file; None where it was not read.
        recipe: Digest of the mel's recipe; see `RunReport.recipes`.
        change: Change against the baseline; None without one.
        path: The file, as the run was given it; empty for a waveform of no file.
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
    cause: Explanation | None = None
    audio: AudioSource | None = None
    recipe: str = ""
    change: BaselineChange | None = None
    path: str = ""

    @property
    def key(self) -> Key:
        """Clip, vocoder and device."""
        return self.clip, self.vocoder, self.device

    @property
    def title(self) -> str:
        """The case in words: `clip (vocoder on device)`."""
        return f"{self.clip} ({self.vocoder} on {self.device})"

    @property
    def missed(self) -> frozenset[str]:
        """Metrics whose gate was missed."""
        return frozenset(gate.metric for gate in self.gates if not gate.passed)

    @property
    def limits(self) -> Mapping[str, float]:
        """Limit of each gate, by metric; empty where none applies."""
        return {gate.metric: gate.limit for gate in self.gates}

    @property
    def changes(self) -> Mapping[str, MetricChange]:
        """Changes against the baseline by metric; empty without one."""
        return {} if self.change is None else {each.metric: each for each in self.change.metrics}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """A case with everything that it refers to, as one process hands it to another.

    Attributes:
        case: The case.
        vocoder: Vocoder that `case.vocoder` names.
        recipe: Recipe that `case.recipe` names.
        artifacts: Folder of its pictures and audio; empty where none were written.
    """

    case: CaseResult
    vocoder: VocoderInfo
    recipe: RecipeSource
    artifacts: str = ""


def by_clip(cases: Iterable[CaseResult]) -> dict[str, list[CaseResult]]:
    """Return the cases of each clip, in the order of their first cases."""
    found: dict[str, list[CaseResult]] = {}
    for case in cases:
        found.setdefault(case.clip, []).append(case)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTest:
    """A failed test or check that belongs to no case.

    Attributes:
        name: Name of the test, of the front end, or of the clip of a stored mel.
        message: What it found.
        kind: What it is about.
        path: The file that it is about: that of the front end, or the stored mel; or empty.
    """

    name: str
    message: str
    kind: Literal["front end", "stored mel", "other"] = "other"
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineComparison:
    """The baseline that a run was compared with.

    Attributes:
        file: Name of the baseline's file.
        finished: Time when the baseline was made.
        versions: Versions that the baseline was made with, by name.
        missing: Cases that only the baseline has, in words.
        new: Cases that only this run has, in words.
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
    """The report of a run.

    Attributes:
        verdict: "failed" where a case failed or did not finish, or any test failed; "nothing
            measured" where no case was measured.
        counts: Number of cases by outcome, Griffin-Lim's left out.
        thresholds: The gates, each with the default where the project has another.
        cases: Cases in the order of the plan.
        vocoders: Vocoders that ran, by their label in the cases.
        recipes: One for each digest among the cases.
        environment: Where, when and how.
        failed_tests: Failed tests that belong to no case.
        comparison: Comparison with a baseline; None without one.
        rules: Limits that the project sets for clips of some names, in words.
        schema_version: Version of the JSON format.
    """

    verdict: Literal["passed", "failed", "nothing measured"]
    counts: Mapping[str, int]
    thresholds: tuple[Gate, ...]
    cases: tuple[CaseResult, ...]
    vocoders: Mapping[str, VocoderInfo]
    recipes: tuple[RecipeSource, ...]
    environment: Environment
    failed_tests: tuple[FailedTest, ...] = ()
    comparison: BaselineComparison | None = None
    rules: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def make_run_report(
    cases: Iterable[CaseResult],
    records: Iterable[CaseRecord],
    *,
    thresholds: tuple[Gate, ...],
    environment: Environment,
    failed_tests: Iterable[FailedTest] = (),
    comparison: BaselineComparison | None = None,
    rules: Iterable[str] = (),
) -> RunReport:
    """Return the report of a run, with its counts and verdict.

    Args:
        cases: Every case of the run, also those that were skipped or did not finish.
        records: The vocoder and the recipe of the cases that ran.
        thresholds: The gates.
        environment: Where, when and how.
        failed_tests: Failed tests that belong to no case.
        comparison: Comparison with a baseline; None without one.
        rules: Limits that the project sets for clips of some names, in words.
    """
    cases, records, failed_tests = tuple(cases), tuple(records), tuple(failed_tests)
    judged = [case for case in cases if case.outcome != "baseline"]
    counts = Counter[str](case.outcome for case in judged)
    failed = counts["failed"] or counts["no result"] or failed_tests
    measured = any(case.metrics for case in judged)
    return RunReport(
        verdict="failed" if failed else "passed" if measured else "nothing measured",
        counts=dict(counts),
        thresholds=thresholds,
        cases=cases,
        vocoders={record.case.vocoder: record.vocoder for record in records},
        recipes=tuple({record.recipe.digest: record.recipe for record in records}.values()),
        environment=environment,
        failed_tests=failed_tests,
        comparison=comparison,
        rules=tuple(rules),
    )
