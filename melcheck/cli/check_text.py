"""The text, the JSON and the reports of `melcheck check`, gathered check by check.

Only metrics, and what a page shows, are kept of a check: a thousand clips fit into memory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from melcheck.artifacts import keep_last_runs
from melcheck.cli.check_cache import CacheAnswer
from melcheck.cli.check_clips import ClipCheck
from melcheck.cli.output import Answer, Terminal
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import Handshake, explain_front_end
from melcheck.files import one_line, place, unwritten
from melcheck.pipeline import RoundTrip
from melcheck.plan import Plan
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
from melcheck.report.text import Failure, failure_lines
from melcheck.vocoders.griffin_lim import BASELINE


@dataclass(frozen=True, slots=True)
class QuickPart:
    """What `--quick` prints in place of the table, and its JSON."""

    lines: Sequence[str]
    documents: Sequence[Mapping[str, object]]


class CheckAnswer:
    """The checks of a run.

    Args:
        command: The command line.
        plan: What is checked.
        handshakes: Result of its handshake, by the label of the vocoder whose mel it was checked
            against.
        keep_media: Whether pictures and audio are kept for a page.
        keep_records: Whether what a table and a report need is kept.

    Attributes:
        cache: The stored mels; None where no cache was named.
    """

    cache: CacheAnswer | None = None

    def __init__(
        self,
        command: str,
        plan: Plan,
        handshakes: Mapping[str, Handshake],
        *,
        keep_media: bool,
        keep_records: bool = True,
    ) -> None:
        self._command = command
        self._plan = plan
        self._frontend = frontend = plan.frontend
        self._handshakes = handshakes
        self._keep_media = keep_media
        self._keep_records = keep_records
        self._records: dict[Key, CaseRecord] = {}
        self._unfinished: list[CaseResult] = []
        self._media: dict[Key, CaseMedia] = {}
        self._failures: list[Failure] = []
        self._drawn: list[Path] = []
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
        self._passed += check.outcome != "failed"
        cause = None
        if check.outcome == "failed":
            # A wrong front end explains every failure.
            cause = next(iter(self._faults.values()), check.cause)
            title = f"{check.clip.name} with {check.vocoder}"
            reason = check.reason
            if check.judged is None:
                reason += f" ({place(check.clip.source)})"
            self._failures.append(Failure(check.clip.name, title, reason, cause))
        if check.artifacts is not None:
            self._drawn.append(check.artifacts)
        if check.trip is None:
            self._unfinished.append(
                CaseResult(
                    clip=check.clip.name,
                    vocoder=check.vocoder,
                    device=check.device,
                    outcome="failed",
                    reason=check.reason,
                    cause=cause,
                    path=place(check.clip.source),
                )
            )
        elif self._keep_records:
            self._record(check, check.trip, check.vocoder, check.outcome, cause)
        if check.baseline is not None and self._keep_records:
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
        known = check.judged if judged else None
        self._records[key] = case_record(
            trip,
            clip=check.clip.name,
            vocoder=label,
            outcome=outcome,
            device=check.device,
            path=check.clip.path,
            source=check.clip.source,
            verdict=None if known is None else known.verdict,
            cause=cause,
            artifacts=check.artifacts if judged else None,
            problem="" if known is None else known.problem,
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
            thresholds=self._plan.gates(),
            rules=self._plan.own_rules(),
            environment=environment(command=self._command, devices=[case.device for case in cases]),
            failed_tests=[
                FailedTest(
                    name="" if self._frontend is None else self._frontend.name,
                    message=f"does not make the mel of {label}: {fault}",
                    kind="front end",
                    path=self._place,
                )
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

    @property
    def _place(self) -> str:
        place = None if self._frontend is None else self._frontend.place
        return "" if place is None else f"{one_line(place[0])}:{place[1]}"

    def accept(self, path: Path) -> str:
        """Write the checks that miss a gate to a file of accepted misses; return what was done.

        What prevents it is noted, and "" returned.
        """
        from melcheck.report.accept import accept_cases

        name = "" if self._frontend is None else self._frontend.name
        cases = (record.case for record in self._records.values())
        try:
            return accept_cases(path, cases, front_end=name, day=date.today())
        except OSError as error:
            self._unwritten.setdefault(unwritten(f"the accepted misses {place(path)}", error))
        return ""

    def finish(
        self,
        terminal: Terminal,
        *,
        artifacts: Path | None,
        reports: Sequence[Path],
        skipped: str,
        accepted: str = "",
        quick: QuickPart | None = None,
    ) -> Answer:
        """Return the answer of the command.

        Args:
            terminal: How wide the text may be.
            artifacts: Folder of the pictures; None without.
            reports: Files that were asked for.
            skipped: What was left out, in a sentence; "" for nothing.
            accepted: What was accepted, in a sentence; "" for nothing.
            quick: What takes the place of the table; None for the table.
        """
        if artifacts is not None and self._drawn:
            with contextlib.suppress(OSError):  # the pictures themselves are there
                keep_last_runs(artifacts, self._drawn, self._plan.keep_runs)
        table: list[str] = []
        lines: list[str] = []
        if quick is None:
            report = self.report()
            table = table_lines(
                list(self._records.values()),
                report.thresholds,
                width=terminal.width,
                colour=terminal.colour,
                rules=report.rules,
            )
        else:
            lines = [*quick.lines]
        lines += [skipped] if skipped else []
        lines += self._frontend_lines()
        lines += self._plan.described()[1:]
        lines += [f"note: {note}" for note in self._plan.notes()]
        lines += failure_lines(self._failures)
        lines += [] if self.cache is None else self.cache.lines()
        lines += [f"pictures and audio: {artifacts}"] if artifacts is not None else []
        lines += [f"report: {path}" for path in reports if path in self._written]
        lines += [accepted] if accepted else []
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
            "report": None if quick is not None else json.loads(report_json(report)),
            "quick": None if quick is None else quick.documents,
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
        lines = []
        for label, shaken in self._handshakes.items():
            verdict = f"front end {self._frontend.name} and the mel of {label}: {shaken.verdict}"
            cause = ". ".join(filter(None, shaken.cause()))
            why = f"\n  likely cause: {cause}" if cause else ""
            lines.append(f"{'' if shaken.compatible else 'failed: '}{verdict}{why}")
        return lines
