"""A report's JSON loses nothing, keeps to its schema, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from melcheck.report.build import environment
from melcheck.report.files import write_report
from melcheck.report.json_format import ReportError, from_json, read_report, report_schema, to_json
from melcheck.report.model import CaseRecord, RunReport, make_run_report
from tests.report import report_samples


@pytest.fixture(scope="module")
def report() -> RunReport:
    return report_samples.run("a <name>")[0]


@pytest.fixture
def written(report: RunReport, tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    write_report(report, path)
    return path


def test_what_is_read_is_what_was_written(report: RunReport, written: Path) -> None:
    assert read_report(written) == report


def test_the_verdict_comes_before_the_cases(written: Path) -> None:
    keys = list(json.loads(written.read_text("utf-8")))
    assert keys[:4] == ["format", "schema_version", "verdict", "counts"]


def test_each_case_is_a_line(report: RunReport, written: Path) -> None:
    lines = [line for line in written.read_text("utf-8").splitlines() if '"band_mae"' in line]
    assert len(lines) == len(report.cases)


def _validate(document: object) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(
        document, report_schema(), jsonschema.Draft202012Validator, format_checker=checker
    )


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())


def test_a_report_keeps_to_the_schema(written: Path) -> None:
    _validate(json.loads(written.read_text("utf-8")))


def test_a_report_of_this_machine_keeps_to_the_schema(report: RunReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    made = environment(command="pytest", devices=["cpu"])
    write_report(dataclasses.replace(report, environment=made), path)
    _validate(json.loads(path.read_text("utf-8")))


def _objects(value: object) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [value] if isinstance(value, dict) else []
    return found + [each for item in inner for each in _objects(item)]


def test_the_schema_knows_every_field(written: Path) -> None:
    # Wherever a field is added, the schema must refuse it: then none can be forgotten there.
    document = json.loads(written.read_text("utf-8"))
    document["cases"] = document["cases"][:1]  # which has every field
    free = {"counts", "metrics", "versions", "devices"}
    for place in _objects(document):
        if any(place is each.get(name) for each in _objects(document) for name in free):
            continue
        place["unheard-of"] = 1
        with pytest.raises(jsonschema.ValidationError):
            _validate(document)
        del place["unheard-of"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_what_is_not_finite_survives(report: RunReport, tmp_path: Path, value: float) -> None:
    case = report.cases[0]
    strange = dataclasses.replace(case, metrics={**case.metrics, "mae": value}, frame_mae=(value,))
    path = tmp_path / "report.json"
    write_report(dataclasses.replace(report, cases=(strange,)), path)
    _validate(json.loads(path.read_text("utf-8"), parse_constant=pytest.fail))
    again = read_report(path).cases[0]
    assert repr((again.metrics["mae"], again.frame_mae)) == repr((value, (value,)))


def test_a_name_that_is_no_text_is_written_as_escapes(report: RunReport, tmp_path: Path) -> None:
    broken = dataclasses.replace(report.cases[0], clip="caf\udce9")
    path = tmp_path / "report.json"
    write_report(dataclasses.replace(report, cases=(broken,)), path)
    assert read_report(path).cases[0].clip == "caf\\udce9"


def test_a_record_crosses_processes_whole() -> None:
    record = report_samples.record("clip", "passed", report_samples.trip(0))
    assert from_json(CaseRecord, to_json(record)) == record


# What is no report, or not one of ours, is refused in one sentence.


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        document = json.loads(path.read_text("utf-8"))
        change(document)
        path.write_text(json.dumps(document), "utf-8")

    return edit


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(Path.unlink, "cannot be read", id="missing"),
        pytest.param(lambda path: path.write_text("{"), "not a JSON file", id="no-json"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), "not a JSON file", id="bytes"),
        pytest.param(lambda path: path.write_text("[]"), "not a melcheck report", id="list"),
        pytest.param(lambda path: path.write_text('{"a": 1}'), "not a melcheck report", id="other"),
        pytest.param(
            _edited(lambda document: document.update(schema_version=99)),
            "schema_version must be 2, which this melcheck reads, got 99. Update melcheck",
            id="newer",
        ),
        pytest.param(
            _edited(lambda document: document.update(schema_version=0)),
            "got 0. Write the report again",
            id="older",
        ),
        pytest.param(
            _edited(lambda document: document.update(schema_version=True)),
            "schema_version must be a whole number, got True",
            id="no-version",
        ),
        pytest.param(
            _edited(lambda document: document.pop("cases")), "lacks 'cases'", id="no-cases"
        ),
        pytest.param(
            _edited(lambda document: document["cases"][1].pop("clip")),
            "cases[1] lacks 'clip'",
            id="no-clip",
        ),
        pytest.param(
            _edited(lambda document: document["cases"][1].update(extra=1)),
            "cases[1] has an unknown 'extra'",
            id="unknown",
        ),
        pytest.param(
            _edited(lambda document: document["cases"][0]["metrics"].update(mae="much")),
            "cases[0].metrics.mae is 'much'",
            id="no-number",
        ),
        pytest.param(
            _edited(lambda document: document["cases"][0].update(outcome="fine")),
            "cases[0].outcome is 'fine'",
            id="outcome",
        ),
    ],
)
def test_what_is_no_report_is_refused(
    written: Path, damage: Callable[[Path], object], says: str
) -> None:
    damage(written)
    with pytest.raises(ReportError) as refused:
        read_report(written)
    assert says in str(refused.value)
    assert str(written) in str(refused.value)


# The verdict.


def _verdict(*outcomes: str, failed_tests: int = 0) -> str:
    report, _ = report_samples.run("a")
    by_outcome = {case.outcome: case for case in report.cases}
    cases = [
        by_outcome.get(outcome)  # type: ignore[call-overload]
        or dataclasses.replace(by_outcome["skipped"], outcome=outcome)
        for outcome in outcomes
    ]
    return make_run_report(
        cases,
        [],
        thresholds=report.thresholds,
        environment=report.environment,
        failed_tests=report.failed_tests[:1] * failed_tests,
    ).verdict


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["passed", "skipped", "baseline"], "passed"),
        (["passed", "known miss"], "passed"),
        (["measured"], "passed"),
        (["passed", "failed"], "failed"),
        (["passed", "no result"], "failed"),
        (["skipped"], "nothing measured"),
        (["baseline"], "nothing measured"),
        ([], "nothing measured"),
    ],
    ids=str,
)
def test_a_run_s_verdict_follows_from_its_cases(outcomes: list[str], verdict: str) -> None:
    assert _verdict(*outcomes) == verdict


def test_a_failed_test_without_a_case_fails_the_run() -> None:
    assert _verdict("passed", failed_tests=1) == "failed"
