"""Damage that a decoder passes over is noted beside the figures of the clip."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from melcheck.audio import AudioError, decode_audio, load_audio
from melcheck.audio_notes import decoder_notes
from melcheck.cli.main import main
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.speed import audio_blocks
from melcheck.speed.long_audio import round_trip_of_file

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
MP3 = (AUDIO / "kokoro-mp3.mp3").read_bytes()


def notes(path: Path, seconds: float | None = None) -> tuple[str, ...]:
    return load_audio(MelCheckConfig(path, 24_000, seconds)).notes


@pytest.mark.parametrize("seconds", [None, 1.0])
@pytest.mark.parametrize("path", sorted(AUDIO.iterdir()), ids=lambda path: path.stem)
def test_a_healthy_file_has_no_note(path: Path, seconds: float | None) -> None:
    assert notes(path, seconds) == ()


def written(folder: Path, subtype: str, rate: int = 24_000) -> Path:
    """Write three seconds, in a format that the type of samples names."""
    suffix = {"VORBIS": "ogg", "OPUS": "ogg"}.get(subtype, "flac")
    path = folder / f"clip.{suffix}"
    time = np.arange(3 * rate) / rate
    samples = 0.2 * np.sin(2 * np.pi * 220 * time) + 0.01 * np.random.default_rng(0).normal(
        size=len(time)
    )
    soundfile.write(path, samples, rate, format=suffix.upper(), subtype=subtype)
    return path


# Ogg.


def pages(data: bytes) -> list[bytes]:
    starts = [place for place in range(len(data)) if data[place : place + 4] == b"OggS"]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def page_of(second: float, data: bytes, subtype: str) -> int:
    """Return the number of the page that ends behind a time."""
    rate = 48_000 if subtype == "OPUS" else 24_000
    ends = [struct.unpack("<q", page[6:14])[0] for page in pages(data)]
    return next(index for index, end in enumerate(ends) if end > second * rate)


def flipped(page: bytes) -> bytes:
    return page[:-5] + bytes([page[-5] ^ 4]) + page[-4:]


OGG_DAMAGE: dict[str, tuple[Callable[[list[bytes], int], list[bytes]], str]] = {
    "lost": (lambda all_, n: [*all_[:n], *all_[n + 1 :]], "1 pages of its Ogg stream are missing"),
    "flipped": (lambda all_, n: [*all_[:n], flipped(all_[n]), *all_[n + 1 :]], "1 are damaged"),
    "noise": (lambda all_, n: [*all_[:n], b"noise" * 9, *all_[n:]], "1 are damaged"),
}


@pytest.mark.parametrize("damage", OGG_DAMAGE)
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_page_of_ogg_that_is_lost_in_the_part_is_noted(
    tmp_path: Path, subtype: str, damage: str
) -> None:
    path = written(tmp_path, subtype)
    assert notes(path) == ()
    data = path.read_bytes()
    change, says = OGG_DAMAGE[damage]
    path.write_bytes(b"".join(change(pages(data), page_of(0.5, data, subtype))))
    [note] = notes(path, 2.0)
    assert says in note


def test_a_page_that_is_lost_behind_the_part_is_not_met(tmp_path: Path) -> None:
    path = written(tmp_path, "VORBIS")
    data = path.read_bytes()
    late = page_of(2.5, data, "VORBIS")
    path.write_bytes(b"".join(page for n, page in enumerate(pages(data)) if n != late))
    assert notes(path, 0.5) == ()


def test_an_ogg_that_was_cut_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path, "VORBIS")
    path.write_bytes(b"".join(pages(path.read_bytes())[:-1]))
    assert notes(path) == ("its last page does not end the stream: the file may be cut",)


# MP3.

MP3_DAMAGE = {
    "zeros": MP3[:9_000] + bytes(300) + MP3[9_300:],
    "lost": MP3[:9_000] + MP3[9_200:],
    "noise": MP3[:9_000] + b"\x55" * 120 + MP3[9_000:],
}


@pytest.mark.parametrize("damage", MP3_DAMAGE)
def test_frames_of_an_mp3_that_were_mended_are_noted_and_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / "clip.mp3"
    path.write_bytes(MP3_DAMAGE[damage])
    [note] = notes(path)
    assert "its decoder had to mend" in note
    assert capfd.readouterr() == ("", "")


NOISY = {"cut": MP3[: len(MP3) // 2], "no-frame": bytes(20_000)}


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize(
    "read",
    [audio_blocks.is_long, decode_audio, lambda config: list(audio_blocks.audio_blocks(config))],
    ids=["length", "decoder", "blocks"],
)
def test_nothing_is_printed_of_an_mp3_that_is_opened(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    read: Callable[[MelCheckConfig], object],
) -> None:
    path = tmp_path / "clip.mp3"
    path.write_bytes(NOISY[name])
    with contextlib.suppress(AudioError):
        read(MelCheckConfig(path, target_duration=None))
    assert capfd.readouterr() == ("", "")


def test_what_others_write_to_stderr_meanwhile_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    found: dict[str, None] = {}
    with decoder_notes(found):
        os.write(2, b"mine\nNote: Illegal Audio-MPEG-Header 0x1 at offset 2.\nand mine\n")
    assert capfd.readouterr().err == "mine\nand mine\n"
    assert list(found) == ["Note: Illegal Audio-MPEG-Header 0x1 at offset 2."]


# FLAC.


def edited(path: Path, **changes: int) -> None:
    """Change fields of the header of a FLAC; no checksum covers them."""
    data = bytearray(path.read_bytes())
    fields = int.from_bytes(data[18:26], "big")
    for name, value in changes.items():
        place, width = {"rate": (44, 20), "samples": (0, 36)}[name]
        fields = fields & ~((2**width - 1) << place) | value << place
    data[18:26] = fields.to_bytes(8, "big")
    path.write_bytes(data)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_a_healthy_flac_of_any_width_has_no_note(tmp_path: Path, subtype: str) -> None:
    assert notes(written(tmp_path, subtype)) == ()


def test_a_flac_whose_header_gives_another_rate_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path, "PCM_16")
    edited(path, rate=22_050)
    [note] = notes(path)
    assert (
        note == "its header gives 22050 as its rate, and its frames 24000: the header was changed"
    )


def test_a_flac_whose_header_gives_fewer_samples_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path, "PCM_16")
    edited(path, samples=60_000)
    [note] = notes(path)
    assert "do not have the checksum (MD5) of its header" in note


def test_a_flac_of_another_checksum_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path, "PCM_16")
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    [note] = notes(path, 1.0)
    assert "do not have the checksum (MD5) of its header" in note


# Where it is shown.


def test_a_wav_that_counts_its_header_among_its_samples_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(2_400), 24_000, subtype="PCM_16")
    assert notes(path) == ()
    path.write_bytes(path.read_bytes()[:-44])
    [note] = notes(path)
    assert "promises 4,800 bytes of samples, it holds 4,756" in note


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp3"
    path.write_bytes(MP3_DAMAGE["noise"])
    return path


@pytest.mark.parametrize("long_seconds", [600.0, 1.0], ids=["whole", "chunks"])
def test_a_round_trip_has_the_note(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, long_seconds: float
) -> None:
    monkeypatch.setattr(audio_blocks, "LONG_SECONDS", long_seconds)
    trip = round_trip_of_file(MelPipeline(MelCheckConfig(damaged, 24_000, None)))
    assert any("its decoder had to mend" in note for note in trip.notes)


def test_the_row_of_a_clip_has_the_note(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.json"
    main(["check", str(damaged), "--no-artifacts", "--report", str(report)])
    capsys.readouterr()
    [case] = [
        case for case in json.loads(report.read_text())["cases"] if case["vocoder"] == "embedded"
    ]
    assert "its decoder had to mend" in case["notes"][0]
