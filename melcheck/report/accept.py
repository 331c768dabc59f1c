"""From the cases of a run to the file of accepted misses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from melcheck.accepted import AcceptedMiss, update_accepted
from melcheck.files import one_line
from melcheck.report.model import CaseResult


def accept_cases(path: Path, cases: Iterable[CaseResult], *, front_end: str, day: date) -> str:
    """Write the cases that miss a gate to the file of accepted misses.

    A case without figures, or with NaN among them, is not accepted, nor is one that a wrong front
    end explains. Entries of cases that pass are dropped, those of clips that the run did not check
    stay.

    Args:
        path: The file.
        cases: The cases of the run.
        front_end: Name of the user's front end; "" without one.
        day: Today.

    Returns:
        What was done, in a sentence.

    Raises:
        ValueError: The file holds something else.
        OSError: It cannot be written.
    """
    judged = [case for case in cases if case.gates and case.audio is not None]
    faults = {id(case) for case in judged if case.cause and case.cause.code == "front-end"}
    lasting = [
        _entry(case, front_end, day)
        for case in judged
        if case.missed
        and id(case) not in faults
        and all(math.isfinite(gate.value) for gate in case.gates)
    ]
    keys = [_entry(case, front_end, day).key for case in judged]
    changed, dropped = update_accepted(path, lasting, keys)
    left = sum(bool(case.missed) for case in judged) - len(lasting)
    return (
        f"{one_line(path)}: {changed} misses accepted, {dropped} no longer needed"
        + (f", {left} not accepted: the front end is wrong, or NaN was decoded" if left else "")
        + ". Read it, and run again without the option."
    )


def _entry(case: CaseResult, front_end: str, day: date) -> AcceptedMiss:
    audio = case.audio
    assert audio is not None  # the caller left out the others
    why = case.reason if case.cause is None else f"{case.reason}: {case.cause.title}"
    return AcceptedMiss(
        clip=case.clip,
        file=case.path,
        vocoder=case.vocoder,
        front_end=front_end,
        seconds=round(audio.checked_seconds, 3),
        begin_seconds=round(audio.begin_seconds, 3),
        audio_sha256=audio.sha256,
        misses=tuple(gate.metric for gate in case.gates if not gate.passed),
        figures={gate.metric: round(gate.value, 5) for gate in case.gates},
        reason=why,
        date=day.isoformat(),
    )
