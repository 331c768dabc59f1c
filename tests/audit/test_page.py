"""The page of an audit: what is on it, that it is self-contained, and that names stay text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from melcheck.audit.model import AuditSettings, Row
from melcheck.audit.page import PAGE_NAME, audit_html, write_page
from melcheck.audit.summary import headline
from melcheck.audit.verdict import judge_corpus
from melcheck.audit.worst import show_clips
from melcheck.manifests import read_manifest
from tests.audit import samples
from tests.browser import prefer, screen

FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
SPEECH = FIXTURES / "kokoro-short.flac"
HOSTILE = "<img src=x onerror=alert(1)>\u202e"
GRIFFIN_LIM = AuditSettings(vocoder="griffin-lim")
UNREADABLE = dict.fromkeys(("mae", "mse", "snr_db", "pearson", "duration_seconds"), math.nan)


def corpus() -> list[Row]:
    """Return rows of invented clips; the worst two are real files, one is gone."""
    rows = samples.rows(600, groups=6)
    failed = sorted((row for row in rows if row.outcome == "failed"), key=lambda row: -row.mae)
    paths = [str(SPEECH), "/nowhere/gone.wav"]
    for row, path in zip(failed, paths, strict=False):
        rows[row.index] = dataclasses.replace(
            row, path=path, name=HOSTILE, group=HOSTILE, reason=HOSTILE, notes=(HOSTILE,)
        )
    for row in failed[2:]:
        rows[row.index] = dataclasses.replace(row, outcome="passed")
    rows.append(
        dataclasses.replace(
            rows[0], index=600, name=HOSTILE, outcome="unreadable", cause="", **UNREADABLE
        )
    )
    return rows


VERDICT = judge_corpus(corpus())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    verdict = dataclasses.replace(VERDICT, worst=VERDICT.worst[:3])
    return write_page(folder, verdict, GRIFFIN_LIM, source=HOSTILE, provenance={HOSTILE: HOSTILE})


@pytest.fixture(scope="module")
def html(page: Path) -> str:
    assert page.name == PAGE_NAME
    return page.read_text("utf-8")


def test_the_verdict_comes_first(html: str) -> None:
    assert html.index(headline(VERDICT)) < html.index("<main")
    assert "Failed" in html[: html.index("<main")]


def test_names_stay_text(html: str) -> None:
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;\\u202e" in html
    assert "\u202e" not in html


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    links = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} &#39;sha256-{digest}&#39;" in html or f"{kind} 'sha256-{digest}'" in html


def test_a_clip_that_is_there_has_players_and_maps_and_another_says_why_not(html: str) -> None:
    assert html.count("<audio") == 2
    assert html.count("data:image/png;base64,") == 3
    assert "/nowhere/gone.wav: no such file" in html


@pytest.mark.parametrize("section", ["causes", "quantiles", "histograms", "map", "groups", "clips"])
def test_a_corpus_with_everything_has_every_section(html: str, section: str) -> None:
    assert f'<section id="{section}"' in html


def test_a_histogram_s_bars_reach_from_the_ground_to_the_top(html: str) -> None:
    paths = re.findall(r'class="bars" d="M0 100([^"]*)V100Z"', html)
    assert len(paths) == len(VERDICT.histograms)
    for path, histogram in zip(paths, VERDICT.histograms.values(), strict=True):
        heights = [float(height) for height in re.findall(r"V([\d.]+)H", path)]
        assert len(heights) == len(histogram.counts)
        assert min(heights) == 0.0
        top = max(histogram.counts)
        expected = [100 * (1 - count / top) for count in histogram.counts]
        assert heights == pytest.approx(expected, rel=0, abs=0.01)


def test_without_a_vocoder_a_clip_has_its_audio_alone() -> None:
    row = dataclasses.replace(
        samples.rows(1)[0],
        path=str(SPEECH),
        outcome="checked",
        broken_samples=2,
        mae=math.nan,
        snr_db=math.nan,
    )
    settings = AuditSettings(vocoder=None)
    verdict = judge_corpus([row])
    html = audit_html(verdict, settings, show_clips([row], settings))
    assert html.count("<audio") == 1
    assert "data:image/png" not in html
    assert "not fit for training" in html


def test_a_clip_inside_an_archive_is_found_by_its_item(tmp_path: Path) -> None:
    archive = tmp_path / "shard.tar"
    with tarfile.open(archive, "w") as file:
        content = SPEECH.read_bytes()
        member = tarfile.TarInfo("a.flac")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    [item] = read_manifest(archive)
    row = dataclasses.replace(samples.rows(1)[0], path=str(archive))
    settings = AuditSettings(vocoder=None)
    [found] = show_clips([row], settings, items={row.index: item})
    assert found.original is not None
    [missing] = show_clips([row], settings)
    assert missing.problem


def test_of_a_long_clip_the_part_that_was_measured_is_shown() -> None:
    row = dataclasses.replace(
        samples.rows(1)[0],
        path=str(FIXTURES / "austen-0870.flac"),
        offset_seconds=1.0,
        duration_seconds=0.5,
    )
    [shown] = show_clips([row], GRIFFIN_LIM)
    assert shown.record is not None
    audio = shown.record.case.audio
    assert audio is not None
    assert (audio.begin_seconds, audio.checked_seconds) == pytest.approx((1.0, 0.5))


def test_what_was_shown_once_is_not_decoded_again(tmp_path: Path) -> None:
    rows = [dataclasses.replace(samples.rows(1)[0], path=str(SPEECH), key="a1")]
    first = show_clips(rows, GRIFFIN_LIM, kept=tmp_path)
    gone = [dataclasses.replace(rows[0], path="/nowhere/gone.wav", name="renamed")]
    [again] = show_clips(gone, GRIFFIN_LIM, kept=tmp_path)
    assert again == dataclasses.replace(first[0], row=gone[0])
    # Of another key nothing is known, and what is no longer shown is not kept.
    other = [dataclasses.replace(gone[0], key="b2")]
    [unknown] = show_clips(other, GRIFFIN_LIM, kept=tmp_path)
    assert unknown.problem
    assert list(tmp_path.iterdir()) == []


def test_a_kept_clip_that_is_damaged_is_decoded_again(tmp_path: Path) -> None:
    rows = [dataclasses.replace(samples.rows(1)[0], path=str(SPEECH), key="a1")]
    (tmp_path / "a1.json").write_text('{"row": 3}')
    [shown] = show_clips(rows, GRIFFIN_LIM, kept=tmp_path)
    assert shown.playable
    assert json.loads((tmp_path / "a1.json").read_text())["row"]["key"] == "a1"


def test_a_vocoder_that_cannot_be_loaded_leaves_the_verdict() -> None:
    settings = AuditSettings(vocoder="/nowhere/weights")
    shown = show_clips(VERDICT.worst[:2], settings)
    assert all(clip.problem and clip.media is None for clip in shown)
    assert headline(VERDICT) in audit_html(VERDICT, settings, shown)


def test_pictures_that_are_too_large_are_left_out() -> None:
    rows = [dataclasses.replace(samples.rows(1)[0], path=str(SPEECH))]
    shown = show_clips(rows, GRIFFIN_LIM)
    html = audit_html(judge_corpus(rows), GRIFFIN_LIM, shown, limit=1_000)
    assert "<audio" not in html
    assert "the page would be too large" in html


@pytest.mark.parametrize(
    ("failing", "limit", "size", "word"),
    [
        (0, None, 100, "Passed"),
        (1, None, 100, "Failed"),
        (0, None, 10_000, "Undecided"),
        (1, 0.01, 100, "Passed"),
        (1, 0.01, 10_000, "Undecided"),
        (60, 0.01, 10_000, "Failed"),
    ],
)
def test_the_word_on_top_is_the_decision(
    failing: int, limit: float | None, size: int, word: str
) -> None:
    [one] = samples.rows(1, failing=0.0)
    rows = [
        dataclasses.replace(one, index=n, outcome="failed" if n < failing else "passed")
        for n in range(100)
    ]
    verdict = judge_corpus(rows, limit=limit, corpus_size=size)
    html = audit_html(verdict, GRIFFIN_LIM, [])
    assert f"<title>melcheck audit: {word.lower()}</title>" in html


def test_a_page_is_no_larger_for_more_clips() -> None:
    sizes = [
        len(audit_html(judge_corpus(samples.rows(count, failing=0.2)), GRIFFIN_LIM, []))
        for count in (5_000, 10_000)
    ]
    assert sizes[1] < 1.02 * sizes[0]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_overflow_or_complaint(
    chromium: Any, page: Path, width: int, scheme: str
) -> None:
    screen(chromium, width=width)
    prefer(chromium, scheme)
    chromium.get_log("browser")
    chromium.get(page.as_uri())
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert chromium.execute_script(wide)
    assert chromium.get_log("browser") == []
    drawn = "return [...document.querySelectorAll('.map circle')].length"
    assert chromium.execute_script(drawn) == len(VERDICT.points)
