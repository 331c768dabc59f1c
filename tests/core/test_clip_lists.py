"""The clips of lists become clips of a run: named, unique, and each a file of its own."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from melcheck.cli.main import main
from melcheck.clip_lists import list_clips, with_files
from melcheck.manifests import ManifestError

CLIP = Path(__file__).parents[2] / "fixtures" / "audio" / "kokoro-kumo-en.wav"
SAMPLES, RATE = soundfile.read(CLIP, dtype="float32")
GRIFFIN_LIM = ("--vocoder", "griffin-lim", "--no-artifacts")


def rows(path: Path, *objects: object) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in objects))
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording of 2 channels at 44.1 kHz, longer than its clips."""
    path = tmp_path / "talks" / "long.flac"
    path.parent.mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (4 * 44_100, 2))
    soundfile.write(path, noise, 44_100, subtype="PCM_16")
    return path


def test_a_part_is_written_exactly(recording: Path, tmp_path: Path) -> None:
    row = {"audio_filepath": "talks/long.flac", "offset": 1.2345, "duration": 1.5}
    [clip] = with_files(list_clips([rows(tmp_path / "x.jsonl", row)]), tmp_path / "parts")
    whole, _ = soundfile.read(recording, dtype="float32")
    part, rate = soundfile.read(clip.path, dtype="float32")
    begin = round(1.2345 * 44_100)
    assert rate == 44_100
    np.testing.assert_array_equal(part, whole[begin : round((1.2345 + 1.5) * 44_100)])
    assert (clip.name, clip.problem) == ("talks/long-1.2345", "")


@pytest.mark.parametrize(
    ("offset", "told"),
    [(3.0, "ends at 4.000 s, and 3.000 to 5.000 s are meant"), (9.0, "Correct offset")],
    ids=["too-long", "too-late"],
)
def test_a_part_beyond_the_end_has_a_problem_with_its_line(
    recording: Path, tmp_path: Path, offset: float, told: str
) -> None:
    row = {"audio_filepath": "talks/long.flac", "offset": offset, "duration": 2.0}
    path = rows(tmp_path / "x.jsonl", row)
    [clip] = with_files(list_clips([path]), tmp_path / "parts")
    assert clip.problem.startswith(f"{path}, line 1: ")
    assert told in clip.problem
    assert not clip.path.exists()


def test_audio_in_an_archive_is_written_as_it_is(tmp_path: Path) -> None:
    content = CLIP.read_bytes()
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../../up.wav", "emma/1.wav", "EMMA/1.flac"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    clips = with_files(list_clips([tmp_path]), tmp_path / "files")
    assert [clip.name for clip in clips] == ["clip/clip/up", "emma/1", "EMMA/1-2"]
    assert all(clip.path.read_bytes() == content for clip in clips)
    assert all(clip.path.is_relative_to(tmp_path / "files") for clip in clips)


def test_files_and_lists_stand_beside_each_other_once(recording: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "x.jsonl", {"audio": "talks/long.flac"}, {"audio": "talks/long.flac"})
    clips = list_clips([path, recording.parent])
    assert [clip.path for clip in clips] == [recording]


def test_rows_that_cannot_be_used_are_all_named(tmp_path: Path) -> None:
    path = rows(tmp_path / "x.jsonl", {"text": "a"}, 3)
    with pytest.raises(ValueError, match=r"(?s)x.jsonl, line 1: .*\n.*x.jsonl, line 2: "):
        list_clips([path])


def test_a_list_of_files_that_are_not_there_is_refused_at_once(tmp_path: Path) -> None:
    path = rows(tmp_path / "x.jsonl", {"audio": "a.wav"}, {"audio": "b.wav"})
    with pytest.raises(ManifestError, match=r"line 1: none of the 2 files of this list is there"):
        list_clips([path])


def test_a_clip_of_a_list_is_checked_as_its_file_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    padded = np.concatenate([np.zeros(24_000, np.float32), SAMPLES])
    soundfile.write("long.wav", padded, RATE, subtype="FLOAT")
    row = {"audio": "long.wav", "offset": 1.0, "duration": len(SAMPLES) / RATE, "id": "kumo"}
    figures = []
    for path in (str(CLIP), str(rows(tmp_path / "x.jsonl", row))):
        assert main(["check", path, *GRIFFIN_LIM, "--json"]) == 0
        [case] = json.loads(capsys.readouterr().out)["report"]["cases"]
        figures.append(case["metrics"])
    assert figures[0] == figures[1]
    # Not the file of the run that the part was written to.
    assert case["path"] == "long.wav"
    assert case["clip"] == "kumo"


def test_a_file_that_is_missing_is_reported_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rows(tmp_path / "x.jsonl", {"audio": str(CLIP)}, {"audio": "gone.wav"})
    assert main(["check", str(path), *GRIFFIN_LIM]) != 0
    told = "".join("".join(capsys.readouterr()).split())
    assert f"x.jsonl,line2:{tmp_path}/gone.wav:nosuchfile.Correctthepath" in told


def test_a_bad_row_ends_the_command_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text("path,text\nhttps://a/b.wav,One\n")
    assert main(["check", str(path), *GRIFFIN_LIM]) == 2
    told = "".join(capsys.readouterr().err.split())
    assert "metadata.csv,line2:onlyfilesareread" in told


def test_a_missing_package_ends_the_command_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert main(["check", str(tmp_path), *GRIFFIN_LIM]) == 3
    assert "pip install 'melcheck[manifests]'" in " ".join(capsys.readouterr().err.split())


def test_a_clip_without_a_row_stays_as_it_is(tmp_path: Path) -> None:
    [clip] = list_clips([CLIP])
    assert with_files([clip], tmp_path) == (clip,)
    assert dataclasses.replace(clip, item=None) == clip


def test_a_front_end_is_tried_on_the_clips_of_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rows(tmp_path / "x.jsonl", {"audio": str(CLIP), "offset": 0.5, "duration": 2.0})
    front_end = "melcheck.recipes:log_mel"
    assert main(["handshake", front_end, "--audio", str(path), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["handshake"]["results"]
    assert 48_000 // 256 + 1 in [result["frames"] for result in results]
