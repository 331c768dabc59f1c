"""The part of the pytest plugin that records cases, writes reports and compares with a baseline.

In every process a `Collector` writes the cases of its tests to the folder of the run, and fails
those that are worse than the baseline. In the process that prints, a `Reporter` puts them together
when the run ends, also when it was interrupted.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from melcheck.files import error_text, plain_text, unwritten
from melcheck.pytest_plugin.cases import is_worker
from melcheck.pytest_plugin.options import paths
from melcheck.pytest_plugin.terminal import (
    CASE_PROPERTY,
    KIND_PROPERTY,
    PLACE_PROPERTY,
    RECORD_PROPERTY,
    Summary,
)

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.diagnosis.causes import Explanation
    from melcheck.pipeline import RoundTrip
    from melcheck.plan import Plan
    from melcheck.report.baseline import Baseline
    from melcheck.report.model import (
        CaseOutcome,
        CaseRecord,
        CaseResult,
        FailedTest,
        Key,
        RunReport,
    )
    from melcheck.sanity import Verdict


_COLLECTOR = pytest.StashKey["Collector"]()
_REGRESSION = pytest.StashKey[str]()
_UNWRITTEN = pytest.StashKey[str]()

_JOB_SUMMARY = "GITHUB_STEP_SUMMARY"
_WORKER_INPUT = "melcheck_report_folder"
_LISTED_LINES = 16
_NOTHING_IN_COMMON = (
    "no case of this run could be compared with the baseline. Give a report of the same clips, "
    "vocoders and devices, or write a new one with --mel-report NAME.json"
)


def record_case(
    item: pytest.Item,
    trip: RoundTrip,
    *,
    clip: Clip,
    vocoder: str,
    outcome: CaseOutcome,
    verdict: Verdict | None = None,
    cause: Explanation | None = None,
    artifacts: Path | None = None,
    problem: str = "",
) -> CaseResult:
    """Put a case into the table and the reports of this run.

    Args:
        item: The test of the case.
        trip: The round trip.
        clip: The clip.
        vocoder: Label of the vocoder.
        outcome: Outcome of the case.
        verdict: Verdict of the gates; None where none applies.
        cause: Likely cause of a failure.
        artifacts: Folder of its pictures and audio; None where none were written.
        problem: What is wrong beside the gates; "" for nothing.

    Returns:
        The case; its outcome is "failed" if it is worse than the baseline.
    """
    from melcheck.report.build import case_record
    from melcheck.report.json_format import to_json

    record = case_record(
        trip,
        clip=clip.name,
        vocoder=vocoder,
        outcome=outcome,
        # A device is called "cuda" in a plan and "cuda:0" by a tensor.
        device=item.callspec.params.get("mel_device"),  # type: ignore[attr-defined]
        path=clip.path,
        source=clip.source,
        verdict=verdict,
        cause=cause,
        artifacts=artifacts,
        problem=problem,
    )
    collector = item.config.stash.get(_COLLECTOR, None)
    if collector is not None:
        try:
            record = collector.take(item, record, trip)
        except OSError as error:
            item.stash[_UNWRITTEN] = unwritten(f"for the reports, {record.case.title}", error)
    case = record.case
    short = replace(case, band_mae=(), frame_mae=())
    properties = [(RECORD_PROPERTY, to_json(replace(record, case=short)))]
    if outcome != "baseline":  # Griffin-Lim's belong to no test of their own
        names = ("clip", "vocoder", "device", "outcome")
        properties += [(f"melcheck.{name}", str(getattr(case, name))) for name in names]
        properties += [(f"melcheck.{name}", f"{value:.6g}") for name, value in case.metrics.items()]
    item.user_properties.extend(properties)
    return case


@dataclass(eq=False)
class Collector:
    """Writes the cases of this process to the folder of the run.

    Attributes:
        folder: Folder of the run.
        baseline: Baseline to compare with; None without one.
        draws: Whether pictures and audio are wanted.
    """

    folder: Path
    baseline: Baseline | None
    draws: bool

    def take(self, item: pytest.Item, record: CaseRecord, trip: RoundTrip) -> CaseRecord:
        """Compare a case with the baseline, write it, and return it."""
        from melcheck.report.media import case_media
        from melcheck.report.store import RecordStore

        if self.baseline is not None:
            case = replace(record.case, change=self.baseline.change(record))
            regression = _regression(case)
            if regression:
                item.stash[_REGRESSION] = f"{case.title}: {regression}"
                reason = "; ".join(part for part in (case.reason, regression) if part)
                case = replace(case, outcome="failed", reason=reason)
            record = replace(record, case=case)
        RecordStore(self.folder).save(record, case_media(trip) if self.draws else None)
        return record

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, object, object]:
        """Fail a test whose case is worse than the baseline, or could not be kept."""
        found: BaseException | None = None
        result = None
        try:
            result = yield
        except (pytest.fail.Exception, pytest.xfail.Exception) as outcome:
            found = outcome
        said = [pyfuncitem.stash.get(key, "") for key in (_REGRESSION, _UNWRITTEN)]
        if any(said):
            first = [str(found)] if isinstance(found, pytest.fail.Exception) else []
            pytest.fail("\n".join([*first, *filter(None, said)]), pytrace=False)
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
            "Undo the difference, or write a new baseline with --mel-report NAME.json"
        )
    return f"worse than the baseline: {change.place}" if change.status == "worse" else ""


def register(
    config: pytest.Config, plan: Callable[[], Plan | None], summary: Summary | None
) -> None:
    """Start to collect cases, if a report or a comparison was asked for.

    Args:
        config: Configuration of pytest.
        plan: Function that returns the plan of the run, once there is one.
        summary: Summary of this process; None in a worker of pytest-xdist.

    Raises:
        pytest.UsageError: A report that cannot be written or a baseline that cannot be read.
    """
    reports = paths(config, "report")
    try:
        if not is_worker(config):
            _check_paths(reports)
        baseline = _baseline(config)
        if summary is None:
            folder = config.workerinput.get(_WORKER_INPUT)  # type: ignore[attr-defined]
        else:
            wanted = reports or baseline or os.environ.get(_JOB_SUMMARY)
            folder = tempfile.mkdtemp(prefix="melcheck-report-") if wanted else None
    except (ValueError, OSError) as error:
        raise pytest.UsageError(plain_text(f"melcheck: {error_text(error)}")) from None
    if folder is None:
        return
    draws = any(path.suffix == ".html" for path in reports)
    collector = Collector(Path(folder), baseline, draws)
    config.stash[_COLLECTOR] = collector
    config.pluginmanager.register(collector, "melcheck-collector")
    if summary is not None:
        reporter = Reporter(config, collector, summary, plan, reports)
        config.pluginmanager.register(reporter, "melcheck-reporter")


@dataclass(eq=False)
class Reporter:
    """Puts the cases of a run together at its end, and writes its reports.

    Attributes:
        config: Configuration of pytest.
        collector: Collector of this process.
        summary: Summary, which has the planned and the skipped cases.
        plan: Function that returns the plan.
        reports: Files to write.
        failed_tests: Failed tests that belong to no case, by what they are about.
        failed_cases: Messages of failed cases.
        lines: Lines to print at the end.
    """

    config: pytest.Config
    collector: Collector
    summary: Summary
    plan: Callable[[], Plan | None]
    reports: list[Path]
    failed_tests: dict[str, FailedTest] = field(default_factory=dict)
    failed_cases: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Pass the folder of the run to a worker of pytest-xdist."""
        node.workerinput[_WORKER_INPUT] = str(self.collector.folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure, and its case if it has one."""
        if not report.failed:
            return
        from melcheck.report.model import FailedTest

        found = dict(report.user_properties)  # of equal names the last one counts
        message = _message(report)
        if CASE_PROPERTY in found:
            self.failed_cases[str(found[CASE_PROPERTY])] = message
        elif KIND_PROPERTY in found:
            kind, name = json.loads(str(found[KIND_PROPERTY]))
            path = str(found.get(PLACE_PROPERTY, ""))
            test = FailedTest(name=name, message=message, kind=kind, path=path)
            self.failed_tests.setdefault(f"{kind} {name} {message}", test)
        else:
            self._failed(report.nodeid, message)

    def _failed(self, name: str, message: str) -> None:
        from melcheck.report.model import FailedTest

        self.failed_tests.setdefault(name, FailedTest(name=name, message=message))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file whose tests could not be collected."""
        if report.failed:
            self._failed(report.nodeid, _message(report))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the reports, also of a run that failed or was interrupted."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR or session.config.option.collectonly:
            return
        job_summary = os.environ.get(_JOB_SUMMARY) if self.summary.planned else None
        if not (self.reports or job_summary or self.collector.baseline):
            return
        from melcheck.report import files
        from melcheck.report.store import RecordStore
        from melcheck.report.text import comparison_text

        failed = False
        store = RecordStore(self.collector.folder)
        records = store.records()
        cases = self._cases(records)
        if self.collector.baseline and self.summary.planned and not _compared(cases):
            self._failed("--mel-baseline", _NOTHING_IN_COMMON)
            self.lines.append(f"--mel-baseline: {_NOTHING_IN_COMMON}")
            failed = True
        report = self._report(records, cases)
        for path in self.reports:
            written = self._written(functools.partial(files.write_report, report, path, store))
            self.lines += [f"report: {path}"] if written else []
            failed |= not written
        if job_summary:
            summary = Path(job_summary)
            append = functools.partial(files.append_job_summary, report, summary)
            failed |= not self._written(append)
        if failed and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        text, lists = comparison_text(report)
        self.lines += [text] if text else []
        for title, lines in lists.items():
            self.lines += [f"{title}:", *(f"  {line}" for line in lines[:_LISTED_LINES])]
            if len(lines) > _LISTED_LINES:
                self.lines.append(f"  ... and {len(lines) - _LISTED_LINES} more")

    def _written(self, write: Callable[[], None]) -> bool:
        """Write a report, and return whether that worked; note why it did not."""
        try:
            write()
        except OSError as error:
            reason = error_text(error).removesuffix(".")
            self.lines.append(f"a report could not be written: {reason}")
            return False
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print where the reports are, and what changed against the baseline."""
        for line in self.lines:
            terminalreporter.write_line(plain_text(line))

    def pytest_unconfigure(self) -> None:
        """Remove the folder of the run."""
        shutil.rmtree(self.collector.folder, ignore_errors=True)

    def _cases(self, records: Mapping[Key, CaseRecord]) -> list[CaseResult]:
        """Return every planned case, in the order of the plan."""
        from melcheck.files import place
        from melcheck.report.model import CaseResult

        plan = self.plan()
        files = {} if plan is None else {clip.name: place(clip.source) for clip in plan.clips}
        cases = {key: record.case for key, record in records.items()}
        reasons = {case: why for why, found in self.summary.skipped.items() for case in found}
        for planned in self.summary.planned:
            clip, vocoder, device = key = tuple(json.loads(planned))
            failure = self.failed_cases.get(planned)
            if key not in cases:
                outcome: CaseOutcome = "skipped" if planned in reasons else "no result"
                cases[key] = CaseResult(
                    clip=clip,
                    vocoder=vocoder,
                    device=device,
                    outcome="failed" if failure else outcome,
                    reason=failure or reasons.get(planned, ""),
                    path=files.get(clip, ""),
                )
            elif failure and cases[key].outcome != "failed":
                cases[key] = replace(cases[key], outcome="failed", reason=failure)
        if plan is None:
            return list(cases.values())
        clips = [clip.name for clip in plan.clips]
        vocoders = [plan.label(name) for name in plan.vocoders]
        return sorted(
            cases.values(),
            key=lambda case: (
                _position(clips, case.clip),
                _position(plan.devices, case.device),
                case.outcome == "baseline",
                _position(vocoders, case.vocoder),
            ),
        )

    def _report(self, records: Mapping[Key, CaseRecord], cases: list[CaseResult]) -> RunReport:
        from melcheck.report.build import environment
        from melcheck.report.model import make_run_report
        from melcheck.sanity import Thresholds

        plan = self.plan()
        baseline = self.collector.baseline
        arguments = map(str, self.config.invocation_params.args)
        return make_run_report(
            cases,
            [records[case.key] for case in cases if case.key in records],
            thresholds=Thresholds().gates() if plan is None else plan.gates(),
            rules=() if plan is None else plan.own_rules(),
            environment=environment(
                command=shlex.join(["pytest", *arguments]),
                devices=[case.device for case in cases if case.metrics],
            ),
            failed_tests=self.failed_tests.values(),
            comparison=None if baseline is None else baseline.comparison(cases),
        )


def _check_paths(reports: list[Path]) -> None:
    if reports:
        from melcheck.report.files import check_report_path

        for path in reports:
            check_report_path(path)


def _baseline(config: pytest.Config) -> Baseline | None:
    for path in paths(config, "baseline"):
        from melcheck.report.baseline import Baseline
        from melcheck.report.json_format import ReportError

        try:
            return Baseline(path)
        except ReportError as error:
            raise ValueError(f"--mel-baseline {error}") from None
    return None


def _compared(cases: list[CaseResult]) -> bool:
    """Return whether any case was compared with the baseline, Griffin-Lim's left out."""
    changes = [case.change for case in cases if case.outcome != "baseline"]
    return any(change is not None and change.status != "new" for change in changes)


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(report.longrepr if crash is None else crash.message).strip()
    return message.removeprefix("Failed: ")


def _position(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)
