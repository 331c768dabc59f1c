"""The clips of a corpus: their groups, the lines that are none, and random order."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from melcheck.audit.model import AuditItem, Row
from melcheck.audit.sources import Source, in_random_order, items_of, sample_of
from melcheck.environment import PackageNeededError
from melcheck.manifests import ManifestError

pa = pytest.importorskip("pyarrow", reason="pyarrow keeps the table: pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ("anna/1.wav", "anna/2.wav", "ben/3.wav")
SPEAKERS = ("A", "A", "B")
LENGTH = 3_000


def folder(path: Path) -> Path:
    for name in NAMES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"RIFF")
    return path


def text(path: Path, content: str) -> Path:
    folder(path.parent)
    path.write_text(content, encoding="utf-8")
    return path


def rows() -> list[dict[str, object]]:
    return [{"path": n, "speaker": s} for n, s in zip(NAMES, SPEAKERS, strict=True)]


def csv(path: Path) -> Path:
    lines = ["path|speaker", *(f"{row['path']}|{row['speaker']}" for row in rows())]
    return text(path / "train.csv", "\n".join(lines))


def jsonl(path: Path) -> Path:
    return text(path / "train.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows()))


def lhotse(path: Path) -> Path:
    folder(path)
    lines = []
    for number, row in enumerate(rows()):
        source = {"type": "file", "channels": [0], "source": row["path"]}
        recording = {"id": str(number), "sources": [source], "duration": 1.0}
        cut = {"id": str(number), "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
        said = [{"speaker": row["speaker"], "start": 0.1, "duration": 0.2}]
        lines.append(json.dumps({**cut, "recording": recording, "supervisions": said}))
    (path / "cuts.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return path / "cuts.jsonl.gz"


def parquet(path: Path) -> Path:
    folder(path)
    pq.write_table(pa.Table.from_pylist(rows()), path / "train.parquet")
    return path / "train.parquet"


def parquet_of_bytes(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    table = [
        {"audio": {"bytes": b"RIFF", "path": r["path"]}, "speaker": r["speaker"]} for r in rows()
    ]
    pq.write_table(pa.Table.from_pylist(table), path / "bytes.parquet")
    return path / "bytes.parquet"


def arrow(path: Path) -> Path:
    folder(path)
    table = pa.Table.from_pylist(rows())
    with (
        pa.OSFile(str(path / "x.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as to,
    ):
        to.write_table(table)
    return path / "x.arrow"


def tar(path: Path, *, bad: str = "") -> Path:
    path.mkdir(exist_ok=True)
    with tarfile.open(path / "shard.tar", "w") as file:
        for row in rows():
            name = str(row["path"])
            members = {name: b"RIFF" + name.encode(), f"{name[:-4]}.json": json.dumps(row).encode()}
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path / "shard.tar"


KINDS: dict[str, Callable[[Path], Path]] = {
    "csv": csv,
    "jsonl": jsonl,
    "lhotse": lhotse,
    "parquet": parquet,
    "parquet-of-bytes": parquet_of_bytes,
    "arrow": arrow,
    "tar": tar,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_has_the_value_of_a_column_for_its_group(tmp_path: Path, kind: str) -> None:
    found = list(items_of(str(KINDS[kind](tmp_path / "corpus")), by="speaker"))
    assert [item.index for item in found] == [0, 1, 2]
    assert tuple(item.group for item in found) == SPEAKERS


@pytest.mark.parametrize("kind", ["folder", *KINDS])
def test_a_clip_has_its_folder_for_its_group(tmp_path: Path, kind: str) -> None:
    make = folder if kind == "folder" else KINDS[kind]
    found = list(items_of(str(make(tmp_path / "corpus")), by="folder"))
    assert [item.group for item in found] == ["anna", "anna", "ben"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_there_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ManifestError, match=r"there is no 'voice'. Name a column"):
        list(items_of(str(KINDS[kind](tmp_path / "corpus")), by="voice"))


def test_a_folder_of_audio_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no column 'speaker'. Take its folders"):
        list(items_of(str(folder(tmp_path)), by="speaker"))


def test_a_line_that_is_no_clip_is_a_row_with_its_reason(tmp_path: Path) -> None:
    path = text(tmp_path / "x.jsonl", '{"audio": "a.wav"}\nno JSON\n{"audio": "b.wav"}\n')
    first, bad, last = Source(str(path)).entries()
    assert isinstance(first, AuditItem)
    assert isinstance(bad, Row)
    assert (bad.index, bad.outcome, bad.place) == (1, "unreadable", f"{path}, line 2")
    assert "it is no JSON" in bad.reason
    assert isinstance(last, AuditItem)
    assert last.index == 2


def test_a_file_that_breaks_off_is_a_row_and_the_next_is_read(tmp_path: Path) -> None:
    shard = tar(tmp_path)
    shard.rename(tmp_path / "b.tar")
    (tmp_path / "a.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:1500])
    entries = list(Source(str(tmp_path)).entries())
    assert [isinstance(entry, Row) for entry in entries] == [False, True, False, False, False]
    assert [entry.index for entry in entries] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_source_of_nothing_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(ManifestError, match="it names no clip"):
        list(Source(str(text(tmp_path / "corpus" / "x.jsonl", content))).entries())


def test_a_list_of_this_machine_names_addresses_only_where_that_is_allowed(tmp_path: Path) -> None:
    path = text(tmp_path / "x.csv", "path\ns3://bucket/a/b.wav\n")
    [refused] = Source(str(path)).entries()
    assert isinstance(refused, Row)
    assert "melcheck audit --remote" in refused.reason
    [item] = items_of(str(path), remote=True)
    assert (item.item.address, item.item.name) == ("s3://bucket/a/b.wav", "bucket/a/b")


@pytest.mark.parametrize("text_", ["file:///etc/a.wav", "simplecache::s3://b/a.wav", "http://h/a"])
def test_no_other_kind_of_address_is_followed(tmp_path: Path, text_: str) -> None:
    path = text(tmp_path / "x.jsonl", json.dumps({"audio": text_}))
    entries = list(Source(str(path), remote=True).entries())
    assert all(isinstance(entry, Row) or not entry.item.address for entry in entries)


# How many, and in which order.


@pytest.fixture
def long(tmp_path: Path) -> Source:
    lines = "".join(f'{{"audio": "{number}.wav"}}\n' for number in range(LENGTH))
    return Source(str(text(tmp_path / "long.jsonl", lines)))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "arrow"])
def test_the_number_of_clips_is_about_known(tmp_path: Path, kind: str) -> None:
    found = Source(str(KINDS[kind](tmp_path / "corpus"))).estimate()
    assert found is not None
    assert abs(found - len(NAMES)) <= 1


def test_a_sample_is_drawn_by_the_seed_and_keeps_the_order(long: Source) -> None:
    chosen, size = sample_of(long, 100)
    indices = [entry.index for entry in chosen]
    assert size == LENGTH
    assert indices == sorted(set(indices))
    assert len(indices) == 100
    assert [entry.index for entry in sample_of(long, 100)[0]] == indices
    assert [entry.index for entry in sample_of(long, 100, seed=1)[0]] != indices


def test_a_sample_of_more_than_there_are_is_all(long: Source) -> None:
    chosen, _ = sample_of(long, 2 * LENGTH)
    assert [entry.index for entry in chosen] == list(range(LENGTH))


def test_a_random_order_has_each_clip_once_over_its_rounds(long: Source) -> None:
    drawn, size = in_random_order(long)
    indices = [entry.index for entry in drawn]
    assert sorted(indices) == list(range(size))
    # The first are those of the sample, and any stretch is spread over the source.
    assert set(indices[:100]) == {entry.index for entry in sample_of(long, 100)[0]}
    assert 0.4 < sum(indices[:1000]) / 1000 / LENGTH < 0.6
    assert 0.4 < sum(indices[-500:]) / 500 / LENGTH < 0.6


def test_drawing_reads_the_source_again_only_where_it_is_used_up(
    long: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []
    entries = Source.entries
    monkeypatch.setattr(Source, "entries", lambda self: walks.append(1) or entries(self))
    drawn, _ = in_random_order(long)
    list(itertools.islice(drawn, 2_000))
    assert len(walks) == 1
    list(drawn)
    assert len(walks) == 2


def test_addresses_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(PackageNeededError, match=r"pip install 'melcheck\[remote\]'"):
        list(items_of("s3://bucket/train.jsonl"))
