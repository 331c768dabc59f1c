"""How often melcheck is right about what people reported: `pytest -m figures -s` prints it.

`public_reports.py` rebuilds the inputs, of 18 kinds. "Right" is the right verdict with its cause,
and nothing that is not so; "unknown" leaves the cause out; "wrong" is a false verdict or claim.
Without `-m figures` one report in a few is tried.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.diagnosis.public_reports import REPORTS, Answer, Report

pytestmark = pytest.mark.figures

SAMPLED = slice(4, None, 9)
LEAST_RIGHT = 0.94
KINDS = 18


def test_public_reports_are_answered(
    tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    everything = pytestconfig.getoption("markexpr") == "figures"
    reports = REPORTS if everything else REPORTS[SAMPLED]
    results = []
    for number, report in enumerate(reports):
        folder = tmp_path / str(number)
        folder.mkdir()
        answer = report.ask(folder)
        results.append((report, report.judge(answer), answer))
    counts = Counter(verdict for _, verdict, _ in results)
    with capsys.disabled():
        line = pytestconfig.get_terminal_writer().line
        line(
            f"\n{len(reports)} public reports: {counts['right']} right, "
            f"{counts['unknown']} unknown, {counts['wrong']} wrong"
        )
        for report, verdict, answer in results:
            if verdict != "right":
                line(f"  {verdict}: {report.kind}, {report.name}: {answer.text}")
    assert counts["right"] >= int(LEAST_RIGHT * len(reports))
    assert counts["wrong"] == 0


def test_every_kind_has_inputs_of_its_own() -> None:
    assert {report.kind for report in REPORTS} == set(range(1, KINDS + 1))
    assert len({(report.kind, report.name) for report in REPORTS}) == len(REPORTS)
    assert len(REPORTS) >= 49


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(False, "the end is cut"), "right"),
        (Answer(False, "something differs"), "unknown"),
        (Answer(True, "the end is cut"), "wrong"),
        (Answer(False, "the end is cut, by another hop length"), "wrong"),
    ],
)
def test_an_answer_is_judged_by_its_verdict_and_its_words(answer: Answer, verdict: str) -> None:
    report = Report(kind=0, name="", ask=lambda _: answer, told=("is cut",), untold=("hop length",))
    assert report.judge(answer) == verdict
