"""The pytest plugin's part that writes reports and reads the baseline.

In every process a `melcheck.pytest_plugin.reports.Collector` takes the cases that tests
record. In the process that prints, a `Reporter` puts them together when the run ends, however it
ends.

Takes the cases that tests record to a report, and fails those that are worse than a baseline.

It runs in every process of pytest-xdist. What is big goes to files in the folder of the run, not
through the messages between processes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from melcheck.pytest_plugin.cases import is_worker
from melcheck.pytest_plugin.options import paths
from melcheck.pytest_plugin.terminal import CASE_PROPERTY, Summary
from melcheck.report.files import append_job_summary, check_report_path, write_report
from melcheck.report.json_format import ReportError

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.diagnosis.causes import Explanation
    from melcheck.pipeline import RoundTrip
    from melcheck.plan import Plan
    from melcheck.report.baseline import Baseline
    from melcheck.report.build import CaseRecord
    from melcheck.report.model import CaseOutcome, CaseResult, FailedTest, RunReport
    from melcheck.report.table import CaseRow, Outcome
    from melcheck.sanity import Verdict


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


_JOB_SUMMARY = "GITHUB_STEP_SUMMARY"
_WORKER_INPUT = "melcheck_report_folder"
_LISTED_LINES = 16
_NOTHING_IN_COMMON = (
    "no case of this run was compared, so that nothing could be found worse. Name a report of the "
    "same clips, vocoders and devices, or take a new one with --mel-report NAME.json"
)


def register(
    config: pytest.Config, plan: Callable[[], Plan | None], summary: Summary | None
) -> None:
    """Begin to collect cases, where a report or a comparison was asked for.

    Args:
        config: Of pytest.
        plan: Gives the plan of the run, once there is one.
        summary: Of this process; None in a worker of pytest-xdist.

    Raises:
        pytest.UsageError: A report that cannot be written or a baseline that cannot be read.
    """
    try:
        reports = _reports(config)
        baseline = _baseline(config)
    except (ValueError, OSError) as error:
        raise pytest.UsageError(f"melcheck: {error}") from None
    if summary is None:
        folder = config.workerinput.get(_WORKER_INPUT)  # type: ignore[attr-defined]
    else:
        wanted = reports or baseline or os.environ.get(_JOB_SUMMARY)
        folder = tempfile.mkdtemp(prefix="melcheck-report-") if wanted else None
    if folder is None:
        return
    draws = any(path.suffix == ".html" for path in reports)
    collector = Collector(Path(folder), baseline, draws=draws)
    collector.register(config)
    if summary is not None:
        reporter = Reporter(config, collector, summary, plan, reports)
        config.pluginmanager.register(reporter, "melcheck-reporter")


class Reporter:
    """Puts the cases of a run together at its end, and writes its reports.

    Args:
        config: Of pytest.
        collector: Of this process.
        summary: Knows which cases were planned and skipped.
        plan: Gives the plan.
        reports: Where to.
    """

    def __init__(
        self,
        config: pytest.Config,
        collector: Collector,
        summary: Summary,
        plan: Callable[[], Plan | None],
        reports: list[Path],
    ) -> None:
        self._config = config
        self._collector = collector
        self._summary = summary
        self._plan = plan
        self._reports = reports
        self._failures: dict[str, FailedTest] = {}
        self._failed_cases: dict[str, str] = {}
        self._lines: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist the folder of the run."""
        node.workerinput[_WORKER_INPUT] = str(self._collector.folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what failed, and for which case."""
        if not report.failed:
            return
        cases = [str(value) for name, value in report.user_properties if name == CASE_PROPERTY]
        for case in cases:
            self._failed_cases[case] = _message(report)
        if not cases:
            self._note_failure(report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file whose tests could not be collected."""
        if report.failed:
            self._note_failure(report.nodeid, report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reports, also of a run that failed or was interrupted."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR or session.config.option.collectonly:
            return
        job_summary = os.environ.get(_JOB_SUMMARY) if self._summary.planned else None
        if not (self._reports or job_summary or self._collector.baseline):
            return
        from melcheck.report.store import RecordStore

        store = RecordStore(self._collector.folder)
        report = self._report(store)
        if self._compared_nothing(report):
            report = self._failed(report)
            if exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        try:
            for path in self._reports:
                write_report(report, path, store)
                self._lines.append(f"report: {path}")
            if job_summary:
                append_job_summary(report, Path(job_summary))
        except OSError as error:
            self._lines.append(f"a report could not be written: {error}")
            if exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if report.comparison is not None:
            self._lines += _comparison_lines(report)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the reports are, and what changed against the baseline."""
        for line in self._lines:
            terminalreporter.write_line(line)

    def pytest_unconfigure(self) -> None:
        """Remove the folder of the run."""
        shutil.rmtree(self._collector.folder, ignore_errors=True)

    def _compared_nothing(self, report: RunReport) -> bool:
        """Return whether cases were planned and a baseline given, and the two never met."""
        return (
            report.comparison is not None
            and bool(self._summary.planned)
            and not any(
                case.change is not None and case.change.status != "new"
                for case in report.cases
                if case.outcome != "baseline"  # Griffin-Lim is gated by nothing
            )
        )

    def _failed(self, report: RunReport) -> RunReport:
        import dataclasses

        from melcheck.report.model import FailedTest

        failure = FailedTest(name="--mel-baseline", message=_NOTHING_IN_COMMON)
        self._lines.append(f"--mel-baseline: {_NOTHING_IN_COMMON}")
        return dataclasses.replace(
            report, verdict="failed", failed_tests=(*report.failed_tests, failure)
        )

    def _note_failure(self, name: str, report: Any) -> None:
        from melcheck.report.model import FailedTest

        self._failures.setdefault(name, FailedTest(name=name, message=_message(report)))

    def _report(self, store: Any) -> RunReport:
        import dataclasses

        from melcheck.report.build import environment, run_thresholds
        from melcheck.report.model import CaseResult, make_run_report
        from melcheck.sanity import Thresholds

        records = store.records()
        cases = {key: record.case for key, record in records.items()}
        reasons = {case: why for why, found in self._summary.skipped.items() for case in found}
        for planned in self._summary.planned:
            key = tuple(json.loads(planned))
            clip, vocoder, device = key
            failure = self._failed_cases.get(planned)
            if key not in cases:
                outcome: CaseOutcome = "skipped" if planned in reasons else "no result"
                outcome = "failed" if failure else outcome
                cases[key] = CaseResult(
                    clip=clip,
                    vocoder=vocoder,
                    device=device,
                    outcome=outcome,
                    reason=failure or reasons.get(planned, ""),
                )
            elif failure and cases[key].outcome != "failed":
                cases[key] = dataclasses.replace(cases[key], outcome="failed", reason=failure)
        ordered = sorted(cases.values(), key=_order(self._plan()))
        told = [records[case.key] for case in ordered if case.key in records]
        baseline = self._collector.baseline
        arguments = map(str, self._config.invocation_params.args)
        return make_run_report(
            ordered,
            thresholds=run_thresholds(Thresholds()),
            vocoders={each.vocoder.label: each.vocoder for each in told}.values(),
            recipes={each.recipe.digest: each.recipe for each in told}.values(),
            environment=environment(
                command=shlex.join(["pytest", *arguments]),
                devices=[case.device for case in ordered if case.metrics],
            ),
            failed_tests=self._failures.values(),
            comparison=None if baseline is None else baseline.comparison(ordered),
        )


def _reports(config: pytest.Config) -> list[Path]:
    reports = paths(config, "report")
    if not is_worker(config):
        for path in reports:
            check_report_path(path)
    return reports


def _baseline(config: pytest.Config) -> Baseline | None:
    for path in paths(config, "baseline"):
        from melcheck.report.baseline import Baseline

        try:
            return Baseline(path)
        except ReportError as error:
            raise ValueError(f"--mel-baseline {error}") from None
    return None


def _comparison_lines(report: RunReport) -> list[str]:
    from melcheck.report.text import comparison_text

    told = comparison_text(report)
    if told is None:
        return []
    lines = [told.text]
    for title, found in told.lists:
        lines.append(f"{title}:")
        lines += [f"  {line}" for line in found[:_LISTED_LINES]]
        if len(found) > _LISTED_LINES:
            lines.append(f"  ... and {len(found) - _LISTED_LINES} more")
    return lines


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr if crash is None else crash.message)
    return text.strip()


def _order(plan: Plan | None) -> Callable[[CaseResult], tuple[int, ...]]:
    clips = [] if plan is None else [clip.name for clip in plan.clips]
    vocoders = [] if plan is None else [plan.label(name) for name in plan.vocoders]
    devices = [] if plan is None else list(plan.devices)

    def position(names: list[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    def order(case: CaseResult) -> tuple[int, ...]:
        return (
            position(clips, case.clip),
            position(devices, case.device),
            int(case.outcome == "baseline"),
            position(vocoders, case.vocoder),
        )

    return order
