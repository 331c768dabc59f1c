"""`melcheck audit`, from its options to what it leaves behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import melcheck.audit.local
from melcheck.audit.model import AuditItem, Row
from melcheck.audit.store import ROWS_FOLDER, provenance_of, read_rows
from melcheck.cli.main import main
from tests.audit.fake_engine import FakeEngine, row_of

pytest.importorskip("pyarrow", reason="pyarrow keeps the table: pip install pyarrow")

FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
CLIPS = ("kokoro-short.flac", "kokoro-kumo-en.wav", "kokoro-mp3.mp3")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of three clips, of which one is missing, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wavs").mkdir()
    for name in CLIPS[:2]:
        shutil.copyfile(FIXTURES / name, tmp_path / "wavs" / name)
    lines = ["path|speaker", *(f"wavs/{name}|{name[7]}" for name in CLIPS)]
    Path("train.csv").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Measures nothing, in place of the processes."""
    fake = FakeEngine()
    monkeypatch.setattr(melcheck.audit.local, "run_local", fake)
    return fake


def document(capsys: Captured) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_corpus_becomes_a_table_a_page_and_a_verdict(corpus: Path, capsys: Captured) -> None:
    argv = ["audit", "train.csv", "--output", "out", "--by", "speaker", "--workers", "1"]
    assert main([*argv, "--filtered", "kept.csv"]) == 1
    captured = capsys.readouterr()
    assert "All 3 clips were measured: 33 % fail (1 clip)." in captured.out
    assert "the audio cannot be read" in captured.out
    for line in ("table: out/rows, 3 clips", "page: out/audit.html", "without them: kept.csv, 2"):
        assert line in captured.out
    rows = list(read_rows(corpus / "out"))
    assert [row.outcome for row in rows] == ["passed", "passed", "unreadable"]
    assert [row.path for row in rows] == [str(corpus / "wavs" / name) for name in CLIPS]
    assert all(row.snr_db > 20 for row in rows[:2])
    assert "kokoro-mp3" in (corpus / "out" / "drop.txt").read_text()
    assert Path("kept.csv").read_text().count("wavs/") == 2
    [part] = (corpus / "out" / ROWS_FOLDER).iterdir()
    made = provenance_of(part)
    assert (made["vocoder"]["name"], len(made["vocoder"]["weights_sha256"])) == ("embedded", 64)
    assert {"recipe", "recipe_digest", "versions", "settings", "source", "date"} <= set(made)

    # Again, from another folder: all that can be read is known.
    before = part.read_bytes()
    assert main(["audit", str(corpus / "train.csv"), *argv[2:], "--json"]) == 1
    found = document(capsys)
    assert (found["clips"], found["measured"], found["failures"]) == (3, 1, 1)
    assert part.read_bytes() == before


@pytest.mark.usefixtures("corpus")
def test_without_a_vocoder_the_audio_is_checked(capsys: Captured) -> None:
    argv = ["audit", "wavs", "--output", "out", "--vocoder", "none", "--workers", "1", "--json"]
    assert main(argv) == 0
    assert document(capsys)["failures"] == 0
    assert {row.outcome for row in read_rows(Path("out"))} == {"checked"}


@pytest.mark.usefixtures("corpus", "engine")
@pytest.mark.parametrize(("limit", "code"), [("50%", 0), ("0.34", 0), ("10%", 1)])
def test_a_limit_decides_the_exit_code(capsys: Captured, limit: str, code: int) -> None:
    Path("train.csv").write_text("path\ngood-1.wav\ngood-2.wav\nbad.wav\n")
    assert main(["audit", "train.csv", "--output", "out", "--at-most", limit]) == code
    assert "may fail: the corpus " in capsys.readouterr().out


@pytest.mark.usefixtures("corpus")
def test_a_corpus_is_decided_by_a_part_of_it(engine: FakeEngine, capsys: Captured) -> None:
    lines = "".join(f"clip-{number}.wav\n" for number in range(5_000))
    Path("long.txt").write_text(lines)
    argv = ["audit", "long.txt", "--output", "out", "--until", "decided", "--at-most", "1%"]
    assert main([*argv, "--json"]) == 0
    found = document(capsys)
    assert (found["decision"], found["corpus_size"]) == ("below", 5_000)
    assert 300 < found["clips"] == len(engine.asked) < 500


@pytest.mark.usefixtures("corpus", "engine")
def test_a_sample_that_decides_nothing_says_so(capsys: Captured) -> None:
    Path("long.txt").write_text("".join(f"clip-{number}.wav\n" for number in range(500)))
    argv = ["audit", "long.txt", "--output", "out", "--sample", "50", "--at-most", "1%"]
    assert main(argv) == 1
    assert "not decided by so few clips" in capsys.readouterr().out


WRONG = {
    "no-source": (["no.csv"], 2, "no such file or folder"),
    "no-column": (["train.csv", "--by", "voice"], 2, "there is no 'voice'"),
    "folder-without-columns": (["wavs", "--by", "speaker"], 2, "--by folder"),
    "no-limit": (["train.csv", "--until", "decided"], 2, "give --at-most, such as 1%"),
    "sample-and-until": (
        ["train.csv", "--until", "decided", "--sample", "3", "--at-most", "1%"],
        2,
        "leave out --sample",
    ),
    "filtered-sample": (["train.csv", "--sample", "1", "--filtered", "k.csv"], 2, "--sample"),
    "filtered-source": (["train.csv", "--filtered", "train.csv"], 2, "is the source itself"),
    "filtered-format": (["train.csv", "--filtered", "k.json"], 2, "must end in .csv"),
    "pattern": (["train.csv", "--cache-pattern", "{stem}.npy"], 2, "give --cache DIR"),
    "ray-address": (["train.csv", "--ray-address", "auto"], 2, "give --engine ray"),
    "share": (["train.csv", "--at-most", "200%"], 2, "must be a share such as 1% or 0.01"),
    "vocoder": (["train.csv", "--vocoder", "offical"], 2, "Did you mean 'official'?"),
    "no-vocoder": (["train.csv", "--vocoder", "nosuch"], 2, "--vocoder must be none or a vocoder"),
    "profile": (["train.csv", "--profile", "vocso"], 2, "vocos"),
    "frontend": (["train.csv", "--frontend", "nowhere:mel"], 2, "nowhere"),
}


@pytest.mark.usefixtures("corpus", "engine")
@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_told_before_the_work_begins(name: str, capsys: Captured) -> None:
    argv, code, told = WRONG[name]
    assert main(["audit", *argv, "--output", "out"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert not Path("out", ROWS_FOLDER).exists()


@pytest.mark.usefixtures("corpus")
def test_a_cluster_has_as_many_workers_as_it_has_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def run_ray(blocks: Any, settings: Any, **options: Any) -> Any:
        seen.append((options["workers"], options["address"]))
        raise ValueError("this is all")

    monkeypatch.setattr("melcheck.audit.ray_engine.run_ray", run_ray)
    argv = ["audit", "train.csv", "--output", "out", "--vocoder", "none", "--engine", "ray"]
    for asked in ([], ["--workers", "3"]):
        assert main([*argv, "--ray-address", "h:1", *asked]) == 2
    assert seen == [(0, "h:1"), (3, "h:1")]


@pytest.mark.usefixtures("corpus", "engine")
def test_an_output_of_something_else_is_refused(capsys: Captured) -> None:
    assert main(["audit", "train.csv", "--output", "wavs"]) == 2
    assert "must be a new folder" in capsys.readouterr().err
    assert main(["audit", "wavs", "--output", "out"]) == 0
    assert main(["audit", "train.csv", "--output", "out"]) == 2
    assert "holds an audit of" in capsys.readouterr().err
    assert main(["audit", "wavs", "--output", "out", "--vocoder", "none"]) == 2
    assert "with --vocoder embedded, got none" in capsys.readouterr().err


@pytest.mark.usefixtures("corpus", "engine")
def test_without_pyarrow_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["audit", "train.csv", "--output", "out"]) == 3
    assert "pip install 'melcheck[manifests]'" in capsys.readouterr().err


@pytest.mark.usefixtures("corpus")
def test_a_full_disk_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(melcheck.audit.local, "run_local", FakeEngine())
    monkeypatch.setattr("melcheck.audit.store._write_part", full)
    assert main(["audit", "train.csv", "--output", "out"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert "No space left on device" in line
    assert "start the same command again" in line


@pytest.mark.usefixtures("corpus")
def test_a_verdict_is_printed_where_its_files_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(melcheck.audit.local, "run_local", FakeEngine())
    monkeypatch.setattr("melcheck.audit.run.write_page", full)
    assert main(["audit", "train.csv", "--output", "out"]) == 3
    captured = capsys.readouterr()
    assert "All 3 clips were measured" in captured.out
    assert "the page could not be written" in captured.err


@pytest.mark.usefixtures("corpus")
def test_ctrl_c_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def stop(item: AuditItem) -> Row:
        if item.index == 100:
            raise KeyboardInterrupt
        return row_of(item)

    Path("long.txt").write_text("".join(f"clip-{number}.wav\n" for number in range(200)))
    monkeypatch.setattr(melcheck.audit.local, "run_local", FakeEngine(stop))
    assert main(["audit", "long.txt", "--output", "out"]) == 130
    told = "stopped: what was measured is kept. Start the same command again to go on.\n"
    assert capsys.readouterr() == ("", told)
    assert len(list(read_rows(Path("out")))) == 64
