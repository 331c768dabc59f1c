"""The text, the JSON and the reports of `melcheck check`, gathered check by check.

Only metrics, and what a page shows, are kept of a check: a thousand clips fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from melcheck.cli.check_cache import CacheAnswer
from melcheck.cli.check_clips import ClipCheck
from melcheck.cli.output import Answer, Terminal
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import Handshake, explain_front_end
from melcheck.files import unwritten
from melcheck.frontends import Frontend
from melcheck.pipeline import RoundTrip
from melcheck.report.build import case_record, environment
from melcheck.report.json_format import report_json
from melcheck.report.media import CaseMedia, case_media
from melcheck.report.model import (
    CaseOutcome,
    CaseRecord,
    CaseResult,
    FailedTest,
    Key,
    RunReport,
    make_run_report,
)
from melcheck.report.table import table_lines
from melcheck.sanity import Thresholds
from melcheck.vocoders.griffin_lim import BASELINE


class CheckAnswer:
    """The checks of a run.

    Args:
        command: The command line.
        frontend: The user's front end; None without one.
        handshakes: Result of its handshake, by the label of the vocoder whose mel it was checked
            against.
        keep_media: Whether pictures and audio are kept for a page.

    Attributes:
        cache: The stored mels; None where no cache was named.
    """

    cache: CacheAnswer | None = None

    def __init__(
        self,
        command: str,
        frontend: Frontend | None,
        handshakes: Mapping[str, Handshake],
        *,
        keep_media: bool,
    ) -> None:
        self._command = command
        self._frontend = frontend
        self._handshakes = handshakes
        self._keep_media = keep_media
        self._records: dict[Key, CaseRecord] = {}
        self._unfinished: list[CaseResult] = []
        self._media: dict[Key, CaseMedia] = {}
        self._failures: list[str] = []
        self._notes: list[str] = []
        self._passed = 0
        self._checks = 0
        self._written: list[Path] = []
        self._unwritten: dict[str, None] = {}
        self._faults: dict[str, Explanation] = {}
        for label, shaken in handshakes.items():
            fault = None if frontend is None else explain_front_end(frontend.name, shaken)
            if fault is not None:
                self._faults[label] = fault

    def add(self, check: ClipCheck) -> None:
        """Take in one check."""
        self._checks += 1
        if check.unwritten:
            self._unwritten.setdefault(check.unwritten)
        self._passed += check.passed
        cause = None
        if not check.passed:
            # A wrong front end explains every failure.
            cause = next(iter(self._faults.values()), check.cause)
            line = f"failed: {check.clip.name} with {check.vocoder}: {check.reason}"
            self._failures.append(f"{line}\n  likely cause: {cause}" if cause else line)
        elif check.verdict is not None:
            self._notes += [
                f"{check.clip.name} with {check.vocoder}: {note}" for note in check.verdict.notes
            ]
        if check.trip is None:
            self._unfinished.append(
                CaseResult(
                    clip=check.clip.name,
                    vocoder=check.vocoder,
                    device=check.device,
                    outcome="no result",
                    reason=check.error,
                )
            )
        else:
            outcome: CaseOutcome = "passed" if check.passed else "failed"
            self._record(check, check.trip, check.vocoder, outcome, cause)
        if check.baseline is not None:
            self._record(check, check.baseline, BASELINE, "baseline", None)

    def _record(
        self,
        check: ClipCheck,
        trip: RoundTrip,
        label: str,
        outcome: CaseOutcome,
        cause: Explanation | None,
    ) -> None:
        judged = outcome != "baseline"
        key = (check.clip.name, label, check.device)
        if not judged and key in self._records:  # every vocoder of a clip brings Griffin-Lim's
            return
        self._records[key] = case_record(
            trip,
            clip=check.clip.name,
            vocoder=label,
            outcome=outcome,
            device=check.device,
            path=check.clip.path,
            verdict=check.verdict if judged else None,
            cause=cause,
            artifacts=check.artifacts if judged else None,
        )
        if self._keep_media:
            self._media[key] = case_media(trip)

    @property
    def passed(self) -> bool:
        """Whether there was something to check, and all of it passed."""
        fresh = self.cache is None or self.cache.passed
        return fresh and not self._faults and 0 < self._checks == self._passed

    def report(self) -> RunReport:
        """Return the run as the data of a report."""
        cases = [*(record.case for record in self._records.values()), *self._unfinished]
        return make_run_report(
            cases,
            self._records.values(),
            thresholds=Thresholds().gates(),
            environment=environment(command=self._command, devices=[case.device for case in cases]),
            failed_tests=[
                FailedTest(name=f"the mel of {label}", message=str(fault))
                for label, fault in self._faults.items()
            ]
            + ([] if self.cache is None else self.cache.failed_tests()),
        )

    def write_report(self, path: Path) -> None:
        """Write the report in the format that the suffix names; what prevents it is noted."""
        from melcheck.report.files import write_report

        try:
            write_report(self.report(), path, self._media)
        except OSError as error:
            self._unwritten.setdefault(unwritten(f"the report {path}", error))
        else:
            self._written.append(path)

    def finish(
        self, terminal: Terminal, *, artifacts: Path | None, reports: Sequence[Path], skipped: str
    ) -> Answer:
        """Return the answer of the command."""
        report = self.report()
        table = table_lines(
            list(self._records.values()),
            report.thresholds,
            width=terminal.width,
            colour=terminal.colour,
            all_option="--duration all",
        )
        lines = []
        lines += [skipped] if skipped else []
        lines += self._frontend_lines()
        lines += [*self._notes, *self._failures]
        lines += [] if self.cache is None else self.cache.lines()
        lines += [f"pictures and audio: {artifacts}"] if artifacts is not None else []
        lines += [f"report: {path}" for path in reports if path in self._written]
        lines.append(f"{self._passed} of {self._checks} checks passed")
        frontend = None
        if self._frontend is not None:
            frontend = {
                "name": self._frontend.name,
                "notes": self._frontend.notes,
                "handshakes": self._handshakes,
            }
        data = {
            "checks": self._checks,
            "checks_passed": self._passed,
            "skipped": [skipped] if skipped else [],
            "artifacts": artifacts,
            "frontend": frontend,
            "cache": None if self.cache is None else self.cache.data(),
            "report": json.loads(report_json(report)),
            "quick": None,
        }
        return Answer(
            passed=self.passed,
            text="\n".join(lines),
            data=data,
            coloured="\n".join(table),
            unwritten=tuple(self._unwritten),
        )

    def _frontend_lines(self) -> list[str]:
        if self._frontend is None:
            return []
        lines = [f"note: {note}" for note in self._frontend.notes]
        for label, shaken in self._handshakes.items():
            verdict = f"front end {self._frontend.name} and the mel of {label}: {shaken.verdict}"
            cause = ". ".join(filter(None, shaken.cause()))
            why = f"\n  likely cause: {cause}" if cause else ""
            lines.append(f"{'' if shaken.compatible else 'failed: '}{verdict}{why}")
        return lines
