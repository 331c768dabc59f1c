"""The pytest plugin's part that writes reports and reads the baseline.

In every process a `melcheck.pytest_plugin.report_collector.Collector` takes the cases that tests
record. In the process that prints, a `Reporter` puts them together when the run ends, however it
ends.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from melcheck.pytest_plugin.options import paths
from melcheck.pytest_plugin.report_collector import Collector
from melcheck.pytest_plugin.stashes import is_worker
from melcheck.pytest_plugin.terminal import CASE_PROPERTY, Summary
from melcheck.report.files import append_job_summary, check_report_path, write_report
from melcheck.report.json_format import ReportError

if TYPE_CHECKING:
    from melcheck.pytest_plugin.plan import Plan
    from melcheck.report.baseline import Baseline
    from melcheck.report.model import CaseOutcome, CaseResult, FailedTest, RunReport

__all__ = ["register"]

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
