"""The source without the clips that fail, in its own format."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from melcheck.audit.drop import DropList, check_filtered, write_filtered
from melcheck.audit.model import AuditItem
from melcheck.audit.sources import Source
from melcheck.manifests import read_manifest
from tests.audit.fake_engine import row_of
from tests.audit.test_sources import KINDS, NAMES, arrow, folder, parquet_of_bytes, tar, text

pa = pytest.importorskip("pyarrow", reason="pyarrow keeps the table: pip install pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def dropping(*indices: int) -> DropList:
    dropped = DropList()
    dropped.indices.extend(indices)
    return dropped


def filtered(path: Path, target: Path, *indices: int) -> int:
    source = Source(str(path))
    check_filtered(source, target)
    return write_filtered(source, dropping(*indices), target)


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_clips_stay_in_their_format(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path / "corpus")
    # Paths are relative to the list.
    target = path.with_name(f"kept-{path.name}")
    assert filtered(path, target, 1) == 2
    names = [item.name for item in read_manifest(path)]
    assert [item.name for item in read_manifest(target)] == [names[0], names[2]]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "lhotse"])
def test_without_anything_to_drop_a_text_stays_byte_for_byte(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind](tmp_path / "corpus")
    target = path.with_name(f"kept-{path.name}")
    filtered(path, target)
    read = gzip.decompress if kind == "lhotse" else bytes
    assert read(target.read_bytes()).rstrip() == read(path.read_bytes()).rstrip()


def test_rows_of_several_lines_and_rows_that_are_none_are_left_out_whole(tmp_path: Path) -> None:
    content = (
        '\ufeffpath,text\nwavs/a.wav,"One,\ntwo."\n\nfile://x.wav,no\nwavs/b.wav,"T\nw\no"\nc.wav,x'
    )
    path = text(tmp_path / "list.csv", content)
    assert filtered(path, tmp_path / "kept.csv", 0, 1) == 2
    kept = (tmp_path / "kept.csv").read_text(encoding="utf-8")
    assert kept == '\ufeffpath,text\n\nwavs/b.wav,"T\nw\no"\nc.wav,x'


def test_a_folder_becomes_a_list_of_its_files(tmp_path: Path) -> None:
    corpus = folder(tmp_path / "corpus")
    with pytest.raises(ValueError, match=r"must end in .jsonl, the format of a list of files"):
        filtered(corpus, tmp_path / "kept.csv")
    assert filtered(corpus, tmp_path / "kept.jsonl", 0) == 2
    kept = [item.path for item in read_manifest(tmp_path / "kept.jsonl")]
    assert kept == [corpus / name for name in NAMES[1:]]


def test_a_sample_of_an_archive_goes_with_its_captions(tmp_path: Path) -> None:
    filtered(tar(tmp_path / "a"), tmp_path / "kept.tar", 1)
    with tarfile.open(tmp_path / "kept.tar") as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        contents = {name: file.read() for name, file in members.items() if file is not None}
    assert sorted(contents) == ["anna/1.json", "anna/1.wav", "ben/3.json", "ben/3.wav"]
    assert contents["ben/3.wav"] == b"RIFFben/3.wav"
    assert json.loads(contents["ben/3.json"])["speaker"] == "B"


def test_a_table_keeps_its_columns_and_its_metadata(tmp_path: Path) -> None:
    path = parquet_of_bytes(tmp_path / "a")
    table = pq.read_table(path).replace_schema_metadata({b"huggingface": b"{}"})
    pq.write_table(table, path, row_group_size=2)
    filtered(path, tmp_path / "kept.parquet", 0)
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert kept.schema.equals(table.schema, check_metadata=True)
    assert kept.to_pylist() == table.to_pylist()[1:]


def test_a_folder_of_shards_becomes_one_of_the_same_names(tmp_path: Path) -> None:
    source = tmp_path / "shards"
    tar(source).rename(source / "0.tar")
    tar(source).rename(source / "1.tar")
    assert filtered(source, tmp_path / "kept", 2, 3) == 4
    assert [item.name for item in read_manifest(tmp_path / "kept" / "0.tar")] == [
        "anna/1",
        "anna/2",
    ]
    assert [item.name for item in read_manifest(tmp_path / "kept" / "1.tar")] == ["anna/2", "ben/3"]


def test_a_saved_dataset_stays_one(tmp_path: Path) -> None:
    split = tmp_path / "set" / "train"
    split.mkdir(parents=True)
    arrow(tmp_path / "a").rename(split / "data.arrow")
    (split / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (split / "dataset_info.json").write_text("{}")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert filtered(tmp_path / "set", tmp_path / "kept", 0) == 2
    assert [item.name for item in read_manifest(tmp_path / "kept")] == ["anna/2", "ben/3"]


def test_the_source_is_not_written_over(tmp_path: Path) -> None:
    path = KINDS["csv"](tmp_path / "corpus")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the source itself"):
        filtered(path, path)
    with pytest.raises(ValueError, match=r"must end in .csv, the format of the source"):
        filtered(path, path.with_suffix(".jsonl"))
    assert path.read_bytes() == before


def test_a_clip_to_drop_has_a_line_without_control_characters() -> None:
    items = read_items("good", "bad\x1b[31m\tone")
    file = io.StringIO()
    dropped = DropList()
    assert len(list(dropped.passing(map(row_of, items), file))) == 2
    assert list(dropped.indices) == [1]
    [line] = file.getvalue().splitlines()
    name, path, why = line.split("\t")
    assert name.isprintable()
    assert path == "/corpus/1.wav"
    assert why == "unknown: snr_db 3 must be above 20"


def read_items(*names: str) -> list[AuditItem]:
    from melcheck.manifests import ManifestItem

    return [
        AuditItem(index, ManifestItem(name, Path(f"/corpus/{index}.wav")))
        for index, name in enumerate(names)
    ]
