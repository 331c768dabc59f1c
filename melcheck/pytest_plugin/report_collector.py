"""Takes the cases that tests record to a report, and fails those that are worse than a baseline.

It runs in every process of pytest-xdist. What is big goes to files in the folder of the run, not
through the messages between processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.diagnosis.explanations import Explanation
    from melcheck.pipeline import RoundTrip
    from melcheck.report.baseline import Baseline
    from melcheck.report.build import CaseRecord
    from melcheck.report.model import CaseResult
    from melcheck.report.table import CaseRow, Outcome
    from melcheck.sanity import Verdict

__all__ = ["Collector", "case_properties", "collect"]

_COLLECTOR = pytest.StashKey["Collector"]()
_REGRESSION = pytest.StashKey[str]()


def collect(
    item: pytest.Item,
    trip: RoundTrip,
    *,
    clip: Clip,
    vocoder: str,
    outcome: Outcome,
    verdict: Verdict | None = None,
    cause: Explanation | None = None,
) -> Outcome:
    """Take a case for the reports of this run.

    Args:
        item: The test that has the case.
        trip: What the loop produced.
        clip: The clip.
        vocoder: Label of the vocoder.
        outcome: How it counts.
        verdict: What the gates said; None where none applies.
        cause: What is likely wrong.

    Returns:
        How it counts after all: "failed" for a case that is worse than the baseline.
    """
    collector = item.config.stash.get(_COLLECTOR, None)
    if collector is None:
        return outcome
    from melcheck.report.build import case_record
    from melcheck.sanity import Thresholds

    # A device is called "cuda" in a plan and "cuda:0" by a tensor.
    device = item.callspec.params.get("mel_device")  # type: ignore[attr-defined]
    record = case_record(
        trip,
        clip=clip.name,
        vocoder=vocoder,
        outcome=outcome,
        device=device,
        path=clip.path,
        thresholds=None if verdict is None else Thresholds(),
        verdict=verdict,
        cause=cause,
    )
    return collector.take(item, record, trip)


def case_properties(row: CaseRow) -> list[tuple[str, object]]:
    """Return a case's figures one by one, for JUnit's report."""
    named = ("clip", "vocoder", "device", "outcome")
    measured = (
        "mae",
        "pearson",
        "snr_db",
        "centred_snr_db",
        "mse",
        "max_abs_diff",
        "stft_distance",
    )
    properties: list[tuple[str, object]] = [
        (f"melcheck.{name}", str(getattr(row, name))) for name in named
    ]
    return properties + [(f"melcheck.{name}", f"{getattr(row, name):.6g}") for name in measured]


class Collector:
    """Takes the cases of this process to the folder of the run.

    Args:
        folder: Of the run.
        baseline: What no case may be worse than; None without one.
        draws: Whether pictures and sound are wanted.
    """

    def __init__(self, folder: Path, baseline: Baseline | None, *, draws: bool) -> None:
        self.folder = folder
        self.baseline = baseline
        self._draws = draws

    def take(self, item: pytest.Item, record: CaseRecord, trip: RoundTrip) -> Outcome:
        """Compare a case with the baseline, write it, and return how it counts."""
        from melcheck.report.media import case_media
        from melcheck.report.store import RecordStore

        case = record.case
        if self.baseline is not None:
            case = dataclasses.replace(
                case, change=self.baseline.change(case, record.vocoder, record.recipe)
            )
            regression = _regression(case)
            if regression:
                item.stash[_REGRESSION] = f"{case.title}: {regression}"
                reason = "; ".join(part for part in (case.reason, regression) if part)
                case = dataclasses.replace(case, outcome="failed", reason=reason)
        media = case_media(trip) if self._draws else None
        RecordStore(self.folder).save(dataclasses.replace(record, case=case), media)
        outcome: Outcome = case.outcome  # type: ignore[assignment] # a case that was measured
        return outcome

    def register(self, config: pytest.Config) -> None:
        """Begin to collect the cases of this process."""
        config.stash[_COLLECTOR] = self
        config.pluginmanager.register(self, "melcheck-collector")

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Fail a test whose case is worse than the baseline, whatever else it found."""
        found: BaseException | None = None
        result = None
        try:
            result = yield
        except (pytest.fail.Exception, pytest.xfail.Exception) as outcome:
            found = outcome
        regression = pyfuncitem.stash.get(_REGRESSION, "")
        if regression:
            told = f"{found}\n" if isinstance(found, pytest.fail.Exception) else ""
            pytest.fail(f"{told}{regression}", pytrace=False)
        if found is not None:
            raise found
        return result


def _regression(case: CaseResult) -> str:
    change = case.change
    if change is None or case.outcome == "baseline":
        return ""
    if change.status == "other":
        return (
            f"cannot be compared with the baseline: {'; '.join(change.mismatches)}. "
            "Restore what differs, or take a new baseline with --mel-report NAME.json"
        )
    if change.status == "worse":
        return f"worse than the baseline: {change.place}"
    return ""
