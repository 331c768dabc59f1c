"""The files of a run: complete pictures and audio, in one folder for each case."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import soundfile
import torch

from melcheck.artifacts import save_artifacts
from melcheck.files import replacing
from melcheck.pipeline import RoundTrip
from melcheck.suite import test_a_clip_outside_the_gate_is_measured_and_drawn

__all__ = ["test_a_clip_outside_the_gate_is_measured_and_drawn"]

pytestmark = pytest.mark.artifacts


def _png_size(path: Path) -> tuple[int, int]:
    # A PNG begins with 8 bytes of signature and the IHDR chunk, and ends with the IEND chunk.
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_case_leaves_whole_pictures_and_audio_and_nothing_else(
    mel_round_trip: RoundTrip, mel_artifacts: Path
) -> None:
    written = save_artifacts(mel_round_trip, mel_artifacts, title="a title")
    assert sorted(mel_artifacts.iterdir()) == sorted(written)
    mels, difference, audio = written
    assert _png_size(mels) == (1200, 420)
    assert _png_size(difference) == (1200, 540)
    read, rate = soundfile.read(audio, dtype="float32")
    decoded = mel_round_trip.reconstructed_waveform[0].cpu().clamp(-1.0, 1.0)
    assert rate == mel_round_trip.recipe.sample_rate
    # Half a step of 16 bit, and at full scale one more.
    torch.testing.assert_close(torch.from_numpy(read), decoded, rtol=0, atol=1.5 / 32768)


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
