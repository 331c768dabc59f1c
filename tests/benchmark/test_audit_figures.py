"""The figures of an audit are of the same clips, by the same calls."""

from __future__ import annotations

from pathlib import Path

import soundfile

from benchmarks.audit import SECONDS, Figure, audio_alone, clips, plain_loop, second_run
from melcheck.audit.model import AuditSettings
from melcheck.audit.rows import ClipRows
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


def test_figures_are_told_with_what_they_are_of(tmp_path: Path) -> None:
    items, vocoder = clips(tmp_path, 2), load_vocoder("embedded")
    found = second_run(vocoder, items)
    assert "1 of 2 computed" in found.note
    assert found.row()[2] == ""
    assert isinstance(audio_alone(vocoder, items[:1], 8), Figure)
