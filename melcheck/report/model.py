"""What a run found, as data: the source of the HTML page, the Markdown, the JSON and a baseline.

Everything here is plain and immutable, knows nothing of torch or pytest and crosses from one
process to another. Errors are in nats and run from the lowest band and the first frame.
`melcheck.report.json_format` writes and reads it; `melcheck.report.build` makes it of round trips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from melcheck.report.report_sources import AudioSource, Environment, RecipeSource, VocoderSource

__all__ = [
    "SCHEMA_VERSION",
    "AudioSource",
    "CaseOutcome",
    "CaseResult",
    "Cause",
    "Change",
    "Comparison",
    "Environment",
    "FailedTest",
    "GateResult",
    "MetricChange",
    "RecipeSource",
    "RunReport",
    "RunVerdict",
    "Threshold",
    "VocoderSource",
    "make_run_report",
]

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
