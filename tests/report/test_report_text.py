"""What a report says: the page without a browser, Markdown, places in words."""

from __future__ import annotations

import dataclasses
import html.parser
import math
import re
from pathlib import Path

import pytest

from melcheck.recipes import VOCOS
from melcheck.report.files import append_job_summary, check_report_path, write_report
from melcheck.report.html import report_html
from melcheck.report.markdown import report_markdown
from melcheck.report.model import (
    METRICS,
    CaseOutcome,
    FailedTest,
    RecipeSource,
    RunReport,
    shown,
)
from melcheck.report.text import (
    STATES,
    band_place,
    frequency_ticks,
    headline,
    time_ticks,
    worst_places,
)
from melcheck.sanity import Thresholds, judge
from tests.report import report_samples

HOSTILE = "<img src=x onerror=alert(1)>.wav"


@pytest.fixture(scope="module")
def report() -> RunReport:
    return report_samples.run(HOSTILE)[0]


@pytest.fixture(scope="module")
def recipe(report: RunReport) -> RecipeSource:
    return report.recipes[0]


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.starts.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("field", ["clip", "vocoder", "device", "reason"])
def test_whatever_a_field_holds_stays_text_on_the_page(report: RunReport, field: str) -> None:
    case = dataclasses.replace(report.cases[2], **{field: HOSTILE})  # type: ignore[arg-type]
    page = _Page(report_html(dataclasses.replace(report, cases=(case, report.cases[0]))))
    assert HOSTILE in page.text
    assert not [attributes for _, attributes in page.starts if "onerror" in attributes]


def test_the_page_names_no_address(report: RunReport) -> None:
    page = _Page(report_html(*report_samples.run(HOSTILE)))
    for tag, attributes in page.starts:
        for name in ("src", "href", "action", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:", "#")), (tag, name, value[:60])
    style = report_html(report)
    assert "@import" not in style
    assert not re.search(r"url\((?!#)", style)


def test_no_style_or_script_needs_more_than_the_policy_gives(report: RunReport) -> None:
    page = _Page(report_html(report))
    assert [tag for tag, _ in page.starts].count("style") == 1
    assert [tag for tag, _ in page.starts].count("script") == 1
    for tag, attributes in page.starts:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag


def test_a_case_without_pictures_is_shown_in_figures(report: RunReport) -> None:
    page = _Page(report_html(report))
    assert "No pictures and no audio for this case" in page.text
    assert "audio" not in {tag for tag, _ in page.starts}


@pytest.mark.parametrize("outcome", STATES)
def test_every_outcome_has_its_word_on_the_page(report: RunReport, outcome: CaseOutcome) -> None:
    case = dataclasses.replace(report.cases[0], outcome=outcome)
    alone = dataclasses.replace(report, cases=(case,))
    assert STATES[outcome].word in _Page(report_html(alone)).text
    assert STATES[outcome].word in report_markdown(alone)


def test_an_empty_run_has_a_page(report: RunReport) -> None:
    empty = dataclasses.replace(
        report, cases=(), counts={}, vocoders={}, recipes=(), verdict="nothing measured"
    )
    text = _Page(report_html(empty)).text
    assert "Nothing measured" in text
    assert "No case was planned" in text
    assert "No cases." in report_markdown(empty)


def test_sound_that_was_made_quieter_says_so() -> None:
    report, media = report_samples.run(HOSTILE)
    key = report.cases[0].key
    loud = dataclasses.replace(media[key].original_audio, gain=1 / 32768, finite=False)
    media[key] = dataclasses.replace(media[key], original_audio=loud)
    text = _Page(report_html(report, media)).text
    assert "made quieter by a factor of 3.28e+04" in text
    assert "NaN or infinite samples are played as silence" in text


# Markdown.


def test_markdown_begins_with_the_verdict(report: RunReport) -> None:
    assert report_markdown(report).startswith(
        "## ✕ melcheck: failed\n\n1 of 3 judged cases failed."
    )


def test_markdown_has_a_row_for_each_judged_case_and_all_columns(report: RunReport) -> None:
    lines = [line for line in report_markdown(report).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + sum(case.outcome != "baseline" for case in report.cases)
    assert {line.count(" | ") for line in lines} == {2 + len(METRICS)}


def test_griffin_lim_stands_in_the_row_of_its_clip(report: RunReport) -> None:
    [base, *_] = (case for case in report.cases if case.outcome == "baseline")
    value = f"≈ {shown('mae', base.metrics['mae'])}"
    [row] = [line for line in report_markdown(report).splitlines() if line.startswith("| tone-0")]
    assert value in row
    assert value in _Page(report_html(report)).text


def test_failures_come_first(report: RunReport) -> None:
    turned = dataclasses.replace(report, cases=report.cases[::-1])
    text = report_markdown(turned)
    assert text.index("| ✕ failed") < text.index("| ✓ passed")
    page = report_html(turned)
    assert page.index('data-state="failed"') < page.index('data-state="passed"')


def test_a_cause_that_several_cases_share_is_said_once(report: RunReport) -> None:
    failed = report.cases[0]
    both = [failed, dataclasses.replace(failed, clip="another")]
    several = dataclasses.replace(report, cases=tuple(both))
    for text in (report_markdown(several), _Page(report_html(several)).text):
        assert "2 cases" in text
        start, end = text.index("What failed"), text.index("tests/test" if "|" in text else "All c")
        assert text[start:end].count("Cut it off.") == 1


def test_front_end_and_stored_mels_have_tables_of_their_own(report: RunReport) -> None:
    tests = (
        FailedTest(name="mytts:mel", message="power", kind="front end", path="mytts.py:3"),
        FailedTest(name="emma/1", message="stale", kind="stored mel", path="mels/1.npy"),
    )
    found = dataclasses.replace(report, cases=(), failed_tests=tests)
    text, page = report_markdown(found), _Page(report_html(found)).text
    assert "### Front end\n\n| what | file | what was found |" in text
    assert "| emma/1 | mels/1.npy | stale |" in text
    assert all(part in page for part in ("Front end", "mytts.py:3", "Stored mels", "mels/1.npy"))


def test_a_miss_is_shown_with_the_digits_that_tell_it_from_its_limit(report: RunReport) -> None:
    good = report_samples.trip(1, noise=0.0001).metrics()[0]
    verdict = judge(dataclasses.replace(good, snr_db=19.96))
    case = dataclasses.replace(
        report.cases[0], gates=verdict.gates, metrics=report.cases[0].metrics | {"snr_db": 19.96}
    )
    found = dataclasses.replace(report, cases=(case,))
    page = _Page(report_html(found)).text
    assert "must be > 20, misses by 0.04" in page
    assert "19.96" in page
    assert "**19.96** ✕" in report_markdown(found)


def test_the_gates_of_a_report_are_all_four_each_with_its_default(report: RunReport) -> None:
    own = dataclasses.replace(
        report, thresholds=Thresholds(snr_db=18.0).gates(), rules=("noisy/*: mae below 0.3",)
    )
    expected = "MAE < 0.2 nats, corr > 0.99, SNR > 18 dB (default 20), floor < 99.9%"
    text, page = report_markdown(own), _Page(report_html(own)).text
    assert expected in page
    assert expected.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "noisy/" in page
    assert "noisy/" in text


@pytest.mark.parametrize(
    "name", [HOSTILE, "a|b", "a\nb", "`code`", "[link](http://x)", "*a* _b_ @me"]
)
def test_a_name_stays_text_in_markdown(report: RunReport, name: str) -> None:
    case = dataclasses.replace(report.cases[1], clip=name)
    text = report_markdown(dataclasses.replace(report, cases=(case,)))
    [row] = [line for line in text.splitlines() if line.startswith("|") and "passed" not in line][
        2:
    ]
    assert "<img" not in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 4 + len(METRICS)
    assert not re.search(r"(?<!\\)[`\[@]", row)


def test_a_long_run_keeps_the_rows_that_matter(
    report: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melcheck.report.markdown._MOST_ROWS", 1)
    text = report_markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 1
    assert "✕ failed" in rows[0]
    judged = sum(case.outcome != "baseline" for case in report.cases)
    assert f"... and {judged - 1} more" in text


def test_a_summary_is_appended(report: RunReport, tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    append_job_summary(report, path)
    append_job_summary(report, path)
    assert path.read_text("utf-8").count("## ✕ melcheck: failed") == 2


# Files.


def test_a_report_replaces_the_one_before(report: RunReport, tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")
    write_report(report, path)
    assert path.read_text("utf-8").startswith("## ")
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]


def test_a_report_that_fails_leaves_the_one_before(
    report: RunReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    path.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(report, path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.md"]


def test_a_suffix_that_no_format_has_is_refused(report: RunReport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.html, \.md, \.json"):
        write_report(report, tmp_path / "report.txt")


def test_trying_a_path_leaves_nothing(tmp_path: Path) -> None:
    check_report_path(tmp_path / "new" / "report.md")
    assert list((tmp_path / "new").iterdir()) == []


# Words and places.


def test_the_headline_counts(report: RunReport) -> None:
    passed = dataclasses.replace(report, verdict="passed", counts={"passed": 2, "known miss": 1})
    assert headline(passed) == ("2 of 3 judged cases passed; 1 is a known miss.")


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("mae", math.nan, "nan"),
        ("snr_db", math.inf, "inf"),
        ("reference_floor_share", 0.254, "25%"),
        ("pearson", 0.99123, "0.9912"),
    ],
)
def test_a_figure_is_shown_with_its_digits(metric: str, value: float, text: str) -> None:
    assert shown(metric, value) == text


def test_the_worst_band_and_frame_are_named(recipe: RecipeSource) -> None:
    bands, frames = [0.1] * 100, [0.1, math.nan, 0.1]
    bands[98], frames[2] = 0.9, 0.5
    assert worst_places(bands, frames, recipe) == (
        "Largest mean errors: 0.90 nats in band 98 (11 kHz), 0.50 nats in frame 2 (0.02 s)."
    )


def test_a_low_band_is_named_in_hz(recipe: RecipeSource) -> None:
    assert re.fullmatch(r"band 3 \(\d+ Hz\)", band_place(3, recipe))


def test_frequencies_stand_where_their_bands_are(recipe: RecipeSource) -> None:
    ticks = {text: place for place, text in frequency_ticks(recipe)}
    assert list(ticks) == ["0.1", "0.5", "1", "2", "4", "8"]
    # HTK: mel(f) = 2595 log10(1 + f / 700); bands are even in it, half a band from each end.
    step = 2595 * math.log10(1 + 12_000 / 700) / 101
    band = 2595 * math.log10(1 + 1000 / 700) / step - 1
    assert ticks["1"] == pytest.approx(100 - (band + 0.5), abs=0.1)


def test_seconds_stand_where_their_frames_are(recipe: RecipeSource) -> None:
    ticks = time_ticks(282, recipe)
    assert [text for _, text in ticks] == ["0", "0.5", "1", "1.5", "2", "2.5"]
    frame = 2 * VOCOS.frames_per_second + 0.5
    assert ticks[4][0] == pytest.approx(100 * frame / 282, abs=0.01)


@pytest.mark.parametrize("seconds", [0.1, 3, 30, 600, 7200])
def test_no_clip_has_more_ticks_than_fit(recipe: RecipeSource, seconds: float) -> None:
    ticks = time_ticks(VOCOS.frames(int(seconds * 24_000)), recipe)
    assert 1 <= len(ticks) <= 8
    assert all(0 <= place <= 100 for place, _ in ticks)
