"""What `melcheck check` says, gathered check by check.

Only figures, and what a page shows, outlive a check: a thousand clips fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from melcheck.cli.check_clips import ClipCheck
from melcheck.cli.output import Answer, Terminal
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import Handshake, explain_front_end
from melcheck.frontends import Frontend
from melcheck.report.build import CaseRecord, case_record, environment, run_thresholds
from melcheck.report.json_format import report_json
from melcheck.report.model import CaseResult, FailedTest, RunReport, make_run_report
from melcheck.report.table import CaseRow, case_row, legend, table_text
from melcheck.sanity import Thresholds
from melcheck.vocoders.griffin_lim import BASELINE

_LISTED_CLIPS = 16


class CheckAnswer:
    """The checks of a run.

    Args:
        command: The command line.
        frontend: Of the user's; None without one.
        handshakes: What it was found to be, by the label of a vocoder that expects its mel.
        keep_media: Whether pictures and sound are kept for a page.
    """

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
        self._thresholds = Thresholds()
        self._rows: list[CaseRow] = []
        self._records: list[CaseRecord] = []
        self._endless: list[CaseResult] = []
        self._media: dict[tuple[str, str, str], Any] = {}
        self._failures: list[str] = []
        self._notes: list[str] = []
        self._baselines: set[str] = set()
        self._passed = 0
        self._checks = 0

    def add(self, check: ClipCheck) -> None:
        """Take in one check."""
        self._checks += 1
        self._passed += check.passed
        clip, label = check.clip.name, check.vocoder
        if not check.passed:
            cause = self._cause(check)
            told = f"\n  likely cause: {cause}" if cause else ""
            self._failures.append(f"failed: {clip} with {label}: {check.reason}{told}")
        elif check.verdict is not None:
            self._notes += [f"{clip} with {label}: {note}" for note in check.verdict.notes]
        if check.trip is None:
            self._endless.append(
                CaseResult(
                    clip=clip,
                    vocoder=label,
                    device=check.device,
                    outcome="no result",
                    reason=check.error,
                )
            )
        else:
            outcome: Literal["passed", "failed"] = "passed" if check.passed else "failed"
            folder = "" if check.artifacts is None else str(check.artifacts)
            self._rows.append(
                case_row(
                    clip,
                    label,
                    check.trip,
                    outcome=outcome,
                    verdict=check.verdict,
                    artifacts=folder,
                )
            )
            self._record(check, label, outcome=outcome)
        if check.baseline is not None and clip not in self._baselines:
            self._baselines.add(clip)
            self._rows.append(case_row(clip, BASELINE, check.baseline, outcome="baseline"))
            self._record(check, BASELINE, outcome="baseline")

    def _record(self, check: ClipCheck, label: str, *, outcome: Any) -> None:
        judged = outcome != "baseline"
        trip = check.trip if judged else check.baseline
        if trip is None:
            return
        record = case_record(
            trip,
            clip=check.clip.name,
            vocoder=label,
            outcome=outcome,
            path=check.clip.path,
            thresholds=self._thresholds if judged else None,
            verdict=check.verdict if judged else None,
            cause=self._cause(check) if judged else None,
        )
        self._records.append(record)
        if self._keep_media:
            from melcheck.report.media import case_media

            self._media[record.case.key] = case_media(trip)

    def _cause(self, check: ClipCheck) -> Explanation | None:
        """Return why a check failed: the front end, where that makes another mel."""
        if check.passed:
            return None
        return next(iter(self._front_end_faults().values()), check.cause)

    def _front_end_faults(self) -> dict[str, Explanation]:
        """Return what is wrong with the front end, by the label of the vocoder."""
        if self._frontend is None:
            return {}
        faults = {
            label: explain_front_end(self._frontend.name, shaken)
            for label, shaken in self._handshakes.items()
        }
        return {label: fault for label, fault in faults.items() if fault is not None}

    @property
    def passed(self) -> bool:
        """Whether there was something to check, and all of it passed."""
        return not self._front_end_faults() and 0 < self._checks == self._passed

    def report(self) -> RunReport:
        """Return the run as the data of a report."""
        cases = [*(record.case for record in self._records), *self._endless]
        return make_run_report(
            cases,
            thresholds=run_thresholds(self._thresholds),
            vocoders={record.vocoder.label: record.vocoder for record in self._records}.values(),
            recipes={record.recipe.digest: record.recipe for record in self._records}.values(),
            environment=environment(command=self._command, devices=[case.device for case in cases]),
            failed_tests=[
                FailedTest(name=f"the mel of {label}", message=str(fault))
                for label, fault in self._front_end_faults().items()
            ],
        )

    def write_report(self, path: Path) -> None:
        """Write the report as what the suffix says.

        Raises:
            OSError: It cannot be written.
        """
        from melcheck.report.files import write_report

        write_report(self.report(), path, self._media)

    def finish(
        self, terminal: Terminal, *, artifacts: Path | None, reports: Sequence[Path], skipped: str
    ) -> Answer:
        """Return all of it as an answer."""
        lines: list[str] = []
        if self._rows:
            lines += [
                table_text(self._rows, width=terminal.width, colour=terminal.colour).lstrip("\n"),
                legend(self._thresholds),
                *sorted({f"{row.vocoder}: {row.provenance}" for row in self._rows}),
                *sorted({f"decoder: {row.decoder}" for row in self._rows if row.decoder}),
                *self._parts(),
            ]
        lines += [skipped] if skipped else []
        lines += self._frontend_lines()
        lines += [*self._notes, *self._failures]
        lines += [f"pictures and sound: {artifacts}"] if artifacts is not None else []
        lines += [f"report: {report}" for report in reports]
        lines.append(f"{self._passed} of {self._checks} checks passed")
        data = {
            "checks": self._checks,
            "checks_passed": self._passed,
            "skipped": [skipped] if skipped else [],
            "artifacts": artifacts,
            "frontend": self._frontend_data(),
            "report": json.loads(report_json(self.report())),
            "quick": None,
        }
        return Answer(passed=self.passed, text="\n".join(lines), data=data)

    def _parts(self) -> list[str]:
        parts = {row.clip: row for row in self._rows if row.is_part()}
        listed = ", ".join(
            f"{row.clip} {row.checked_seconds:.1f} of {row.source_seconds:.1f}"
            for row in list(parts.values())[:_LISTED_CLIPS]
        )
        more = ", ..." if len(parts) > _LISTED_CLIPS else ""
        told = f"only the start was checked (--duration all takes all), s: {listed}{more}"
        return [told] if parts else []

    def _frontend_lines(self) -> list[str]:
        if self._frontend is None:
            return []
        lines = [f"note: {note}" for note in self._frontend.notes]
        for label, shaken in self._handshakes.items():
            told = f"front end {self._frontend.name} and the mel of {label}: {shaken.verdict}"
            cause = ". ".join(filter(None, shaken.cause()))
            why = f"\n  likely cause: {cause}" if cause else ""
            lines.append(f"{'' if shaken.compatible else 'failed: '}{told}{why}")
        return lines

    def _frontend_data(self) -> object:
        if self._frontend is None:
            return None
        return {
            "name": self._frontend.name,
            "notes": self._frontend.notes,
            "handshakes": self._handshakes,
        }
