"""The figures of an audit are of the same clips, by the same calls."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import soundfile

from benchmarks.audit import (
    SECONDS,
    Figure,
    audio_alone,
    clips,
    middle_limits,
    plain_loop,
    second_run,
    steady,
)
from melcheck.audit.arithmetic import COMPARED_ONE_OF, is_drawn
from melcheck.audit.model import AuditItem, AuditSettings
from melcheck.audit.rows import ClipRows
from melcheck.files import sha256_file
from melcheck.vocoders.load import load_vocoder


def test_clips_are_different_and_as_long(tmp_path: Path) -> None:
    items = clips(tmp_path, 5)
    infos = [soundfile.info(item.item.path) for item in items]
    assert {info.duration for info in infos} == {SECONDS}
    assert {info.samplerate for info in infos} == {16_000, 24_000}
    assert len({item.item.path.read_bytes() for item in items}) == 5


def test_the_plain_loop_and_the_rows_agree(tmp_path: Path) -> None:
    items, vocoder = clips(tmp_path, 2), load_vocoder("embedded")
    rows = ClipRows(AuditSettings(), vocoder=vocoder)(items)
    assert plain_loop(vocoder, items) == [row.outcome == "passed" for row in rows]
    # Two clips: one lies on each side.
    assert sorted(plain_loop(vocoder, items, middle_limits(rows))) == [False, True]


def test_of_the_clips_of_an_audit_that_has_begun_one_is_compared(tmp_path: Path) -> None:
    maker = ClipRows(AuditSettings(vocoder=None))
    [one] = clips(tmp_path, 1)
    sources = [dataclasses.replace(one.item, offset_seconds=float(index)) for index in range(200)]
    items, drawn = steady(maker, [AuditItem(index, each) for index, each in enumerate(sources)])
    audio = sha256_file(one.item.path)
    assert sum(is_drawn(maker.key_of(audio, each.item)) for each in items) == drawn == 1
    assert len(items) == COMPARED_ONE_OF


def test_figures_are_told_with_what_they_are_of(tmp_path: Path) -> None:
    items, vocoder = clips(tmp_path, 2), load_vocoder("embedded")
    found = second_run(vocoder, items)
    assert "1 of 2 computed" in found.note
    assert found.row()[2] == ""
    assert isinstance(audio_alone(vocoder, items[:1], 8), Figure)
