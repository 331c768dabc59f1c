"""Lists of clips as trainers have them: what is read of each, and what is refused by line."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from melcheck.manifests import ManifestError, ManifestItem, is_manifest, read_manifest

NOISE = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))


def encoded(kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, NOISE.numpy(), 16_000, format=kind)
    return buffer.getvalue()


WAV = encoded()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with `wavs/a.wav`, `wavs/b.wav` and `speaker/c.flac`."""
    for name in ("wavs/a.wav", "wavs/b.wav", "speaker/c.flac"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(path.suffix[1:].upper()))
    return tmp_path


def items(path: Path, **options: object) -> list[ManifestItem]:
    return list(read_manifest(path, **options))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(path: Path, *objects: object) -> Path:
    return written(path, "".join(f"{json.dumps(each)}\n" for each in objects))


# Text.

LISTS: dict[str, tuple[str, str]] = {
    "lj-speech": ("metadata.csv", 'a|In being "comparatively, modern|x\nb|Two.|y\n'),
    "filelist": ("train.txt", "wavs/a.wav|One, two.|0\nwavs/b.wav|Two.|1\n"),
    "with-a-header": ("metadata.csv", "audio_file|text\nwavs/a.wav|One.\nwavs/b.wav|Two.\n"),
    "quoted": ("list.csv", 'path,text\nwavs/a.wav,"One,\ntwo."\nwavs/b.wav,Two.\n'),
    "byte-order-mark": ("list.csv", "\ufeffpath,text\nwavs/a.wav,One\nwavs/b.wav,Two\n"),
    "semicolons": ("list.csv", "text;wav\nOne;wavs/a.wav\nTwo;wavs/b.wav\n"),
    "tsv": ("list.tsv", "client_id\tpath\tsentence\nx\ta.wav\tOne\nx\tb.wav\tTwo\n"),
    "no-header": ("list.csv", 'wavs/a.wav,"One, two"\n\nwavs/b.wav,Two\n'),
    "nemo": (
        "manifest.json",
        '{"audio_filepath": "wavs/a.wav", "duration": 1.0, "text": "One"}\n'
        '{"audio_filepath": "wavs/b.wav", "duration": 1.0, "text": "Two"}\n',
    ),
    "nested": ("x.jsonl", '{"audio": {"path": "wavs/a.wav"}}\n{"audio": {"path": "wavs/b.wav"}}\n'),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_names_its_clips(corpus: Path, name: str) -> None:
    file, text = LISTS[name]
    found = items(written(corpus / file, text))
    assert [item.path for item in found] == [corpus / "wavs" / "a.wav", corpus / "wavs" / "b.wav"]
    assert [item.name for item in found] == ["wavs/a", "wavs/b"]
    assert all(item.is_file for item in found)


def test_the_column_of_the_audio_can_be_named(corpus: Path) -> None:
    path = written(corpus / "list.csv", "path,take\nno.wav,wavs/a.wav\n")
    assert [item.path for item in items(path, column="take")] == [corpus / "wavs" / "a.wav"]
    with pytest.raises(ManifestError, match=r"line 1: no column 'tape'. It has 'path', 'take'"):
        items(path, column="tape")


def test_paths_may_be_relative_to_a_folder_above(corpus: Path) -> None:
    (corpus / "filelists").mkdir()
    [item] = items(written(corpus / "filelists" / "val.txt", "wavs/a.wav|One\n"))
    assert item.path == corpus / "wavs" / "a.wav"
    assert item.name == "wavs/a"


def test_a_clip_that_is_missing_is_still_named(corpus: Path) -> None:
    [_, item] = items(written(corpus / "metadata.csv", "a|One\ngone|Two\n"))
    assert item.path == corpus / "wavs" / "gone.wav"
    assert item.place == f"{corpus / 'metadata.csv'}, line 2"


def test_a_folder_is_listed_by_relative_paths(corpus: Path) -> None:
    written(corpus / "notes.txt", "no audio")
    written(corpus / ".hidden.wav", "")
    assert [item.name for item in items(corpus)] == ["speaker/c", "wavs/a", "wavs/b"]


def test_a_part_of_a_recording_has_an_offset_and_a_duration(corpus: Path) -> None:
    path = rows(
        corpus / "parts.jsonl",
        {"audio_filepath": "wavs/a.wav", "offset": 0.25, "duration": 0.5},
        {"audio_filepath": "wavs/a.wav", "offset": 0.5, "duration": None, "id": "last"},
    )
    first, last = items(path)
    assert (first.name, first.offset_seconds, first.duration_seconds) == ("wavs/a@0.25", 0.25, 0.5)
    assert (last.name, last.offset_seconds, last.duration_seconds) == ("last", 0.5, None)


# Lhotse.


def cut(**changes: object) -> dict[str, object]:
    source = {"type": "file", "channels": [0], "source": "wavs/a.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 16_000, "duration": 1.0}
    made = {"id": "r-0", "start": 0.25, "duration": 0.5, "channel": 0, "type": "MonoCut"}
    return {**made, "recording": recording, **changes}


def lhotse(path: Path, *objects: object) -> Path:
    path.write_bytes(gzip.compress("".join(f"{json.dumps(o)}\n" for o in objects).encode()))
    return path


def test_cuts_and_recordings_of_lhotse_are_read(corpus: Path) -> None:
    whole = cut(id="whole", start=0, duration=1.0)
    path = lhotse(corpus / "cuts.jsonl.gz", cut(), whole, cut()["recording"])
    found = items(path)
    assert [item.name for item in found] == ["r-0", "whole", "r"]
    assert [(item.offset_seconds, item.duration_seconds) for item in found] == [
        (0.25, 0.5),
        (0.0, None),
        (0.0, None),
    ]
    assert {item.path for item in found} == {corpus / "wavs" / "a.wav"}


def with_source(**changes: object) -> dict[str, object]:
    source = {"type": "file", "channels": [0], "source": "wavs/a.wav", **changes}
    return cut(recording={"id": "r", "sources": [source], "duration": 1.0})


REFUSED_CUTS = {
    "command": (with_source(type="command", source="sox a.wav -t wav - |"), "must be a file, got"),
    "url": (with_source(type="url", source="https://a/b.wav"), "must be a file, got url"),
    "mixed": ({"id": "m", "type": "MixedCut", "tracks": []}, "MixedCut is no part"),
    "one-of-two-channels": (with_source(channels=[0, 1]), "it is channel 0 of 2"),
    "incomplete": (cut(recording={}), "no complete cut"),
}


@pytest.mark.parametrize("name", REFUSED_CUTS)
def test_a_cut_that_is_no_part_of_a_file_is_refused(corpus: Path, name: str) -> None:
    row, told = REFUSED_CUTS[name]
    with pytest.raises(ManifestError, match=rf"cuts.jsonl.gz, line 2: .*{told}"):
        items(lhotse(corpus / "cuts.jsonl.gz", cut(), row))


# Rows that cannot be used.

BAD_ROWS: dict[str, tuple[str, str, str]] = {
    "no-json": ("x.jsonl", '{"audio": "wavs/a.wav"}\n{"audio": \n', "line 2: it is no JSON"),
    "a-list": ("x.json", '[\n{"audio": "wavs/a.wav"}\n]\n', "line 1: .* one object a line: jq"),
    "no-object": ("x.jsonl", "3\n", "line 1: a row must be an object, got int"),
    "deep": ("x.jsonl", "[" * 100_000 + "\n", "line 1: "),
    "no-key": ("x.jsonl", '{"text": "One"}\n', "line 1: no key that names audio, it has 'text'"),
    "empty-path": ("x.jsonl", '{"audio": ""}\n', "line 1: audio must be the path"),
    "no-path": ("x.jsonl", '{"audio": [1, 2]}\n', "line 1: audio must be the path"),
    "address": ("x.jsonl", '{"audio": "https://a/b.wav"}\n', "only files are read"),
    "bucket": ("x.txt", "s3://bucket/b.wav|One\n", "line 1: only files are read"),
    "command": ("x.jsonl", '{"audio": "cat wavs/a.wav |"}\n', "line 1: no command is run"),
    "nul": ("x.jsonl", '{"audio": "a\\u0000.wav"}\n', "line 1: its path is no path"),
    "negative-offset": ("x.jsonl", '{"audio": "a.wav", "offset": -1}\n', "offset must be seconds"),
    "nan": ("x.csv", "path,start,duration\nwavs/a.wav,0,nan\n", "line 2: duration must be seconds"),
    "huge": (
        "x.jsonl",
        '{"audio": "a.wav", "offset": 1' + "0" * 400 + "}\n",
        "line 1: offset must",
    ),
    "true": ("x.jsonl", '{"audio": "a.wav", "offset": true}\n', "line 1: offset must be seconds"),
    "torn-header": ("x.csv", 'path,"te"xt\nwavs/a.wav,One\n', "it cannot be read"),
    "few-fields": ("x.csv", "text,path\nOne\n", "line 2: it has 1 fields where the header has 2"),
    "empty-file": ("x.csv", "\n\n", "the list is empty"),
    "latin-1": ("x.csv", "path,text\nwavs/a.wav,\udce9\n", "line 2: it is no UTF-8"),
    "long-line": ("x.jsonl", " " * (2**20 + 1) + "\n", "line 1: it is longer than 1 MiB"),
    "no-list": ("x.pdf", "", "must end in .csv"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_cannot_be_used_is_named_with_file_and_line(corpus: Path, name: str) -> None:
    file, text, told = BAD_ROWS[name]
    path = corpus / file
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError, match=told) as caught:
        items(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_name_that_no_file_can_have_is_a_file_that_is_missing(corpus: Path) -> None:
    path = rows(corpus / "x.jsonl", {"audio": "a" * 300}, {"audio": "\ud800.wav"})
    assert not any(item.path.exists() for item in items(path)[1:])


def test_bad_rows_can_be_collected_and_the_others_read(corpus: Path) -> None:
    text = 'path,text\nwavs/a.wav,x\nhttps://b,x\nwavs/b.wav,x\n"open,x\n'
    problems: list[ManifestError] = []
    found = items(written(corpus / "x.csv", text), bad_row=problems.append)
    assert [item.name for item in found] == ["wavs/a", "wavs/b"]
    assert len(problems) == 2


def test_a_name_holds_nothing_that_a_terminal_would_run(corpus: Path) -> None:
    [item] = items(rows(corpus / "x.jsonl", {"audio": "wavs/a.wav", "id": "\x1b[31m\nred"}))
    assert item.name.isprintable()


def test_a_list_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        items(tmp_path / "x.jsonl")


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with path.open("w") as file:
            file.writelines(f'{{"audio": "{number}.wav"}}\n' for number in range(count))
        peaks = []
        for _ in range(3):  # what other threads of this process allocate meanwhile counts, too
            tracemalloc.start()
            assert sum(1 for _ in read_manifest(path)) == count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return min(peaks)

    assert peak(5_000) < 2 * peak(500)


# Archives and columns.


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def test_a_webdataset_has_its_audio_by_key(tmp_path: Path) -> None:
    members = {"s/1.json": b"{}", "s/1.wav": WAV, "s/2.txt": b"x", "s/2.flac": encoded("FLAC")}
    found = items(archive(tmp_path / "shard-000.tar", members))
    assert [item.name for item in found] == ["s/1", "s/2"]
    contents = [item.contained.read() for item in found if item.contained]
    assert contents == [WAV, encoded("FLAC")]


def test_a_link_in_an_archive_is_no_audio(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("passwd.wav")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(ManifestError, match=r"x.tar, member passwd.wav: it is no file of its own"):
        items(path)


@pytest.mark.parametrize("kept", [700, 20_000], ids=["in-the-header", "in-the-audio"])
def test_a_truncated_archive_is_an_error(tmp_path: Path, kept: int) -> None:
    path = archive(tmp_path / "x.tar", {"a.wav": WAV, "b.wav": WAV})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ManifestError, match=r"x.tar: "):
        _ = [item.contained.read() for item in read_manifest(path) if item.contained]


def test_an_archive_without_audio_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no audio in this archive"):
        items(archive(tmp_path / "x.tar", {"a.txt": b"x"}))


AUDIO = [{"bytes": WAV, "path": "a.wav"}, {"bytes": encoded("FLAC"), "path": None}]


def columns(kind: str) -> dict[str, list[object]]:
    return {
        "struct": {"audio": AUDIO, "id": ["one", "two"]},
        "bytes": {"wav": [WAV, encoded("FLAC")], "id": ["one", "two"]},
        "paths": {"file": ["wavs/a.wav", "wavs/b.wav"], "id": ["one", "two"]},
    }[kind]


def parquet(path: Path, table: dict[str, list[object]], **options: object) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet: pip install pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(table), path, **options)
    return path


def arrow(path: Path, table: dict[str, list[object]]) -> Path:
    pa = pytest.importorskip("pyarrow", reason="pyarrow reads Arrow: pip install pyarrow")
    made = pa.table(table)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=1)
    return path


def saved(path: Path, table: dict[str, list[object]]) -> Path:
    split = path / "train"
    split.mkdir(parents=True)
    arrow(split / "data-00000-of-00001.arrow", table)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (split / "state.json").write_text(json.dumps(state))
    (split / "dataset_info.json").write_text("{}")
    (path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return path


WRITERS: dict[str, Callable[[Path, dict[str, list[object]]], Path]] = {
    "parquet": lambda folder, table: parquet(folder / "x.parquet", table, row_group_size=1),
    "no-statistics": lambda folder, table: parquet(
        folder / "x.parquet", table, write_statistics=False
    ),
    "arrow": lambda folder, table: arrow(folder / "x.arrow", table),
    "saved-to-disk": lambda folder, table: saved(folder / "set", table),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["struct", "bytes", "paths"])
def test_columns_of_audio_are_read(corpus: Path, writer: str, kind: str) -> None:
    path = WRITERS[writer](corpus, columns(kind))
    assert is_manifest(path)
    found = items(path)
    assert [item.name for item in found] == ["one", "two"]
    if kind == "paths":
        assert [item.path.name for item in found] == ["a.wav", "b.wav"]
        assert all(item.is_file for item in found)
    else:
        contents = [item.contained.read() for item in found if item.contained]
        assert contents == [WAV, encoded("FLAC")]


def test_rows_with_and_without_bytes_are_told_apart(corpus: Path) -> None:
    mixed = [*AUDIO, {"bytes": None, "path": "wavs/a.wav"}, {"bytes": None, "path": None}]
    problems: list[ManifestError] = []
    path = parquet(corpus / "x.parquet", {"audio": mixed})
    found = items(path, bad_row=problems.append)
    assert [item.contained is not None for item in found] == [True, True, False]
    assert [item.name for item in found] == ["a", "x/000002", "wavs/a"]
    assert [str(each) for each in problems] == [
        f"{path}, row 4: column 'audio' is empty. Remove the row."
    ]


def test_a_column_that_holds_no_audio_is_refused(corpus: Path) -> None:
    path = parquet(corpus / "x.parquet", {"text": ["a"], "audio": [1.0]})
    with pytest.raises(ManifestError, match="must hold paths, bytes, or a struct of both"):
        items(path)
    with pytest.raises(ManifestError, match=r"no column 'wav'. It has 'text', 'audio'"):
        items(path, column="wav")


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_a_damaged_file_of_columns_is_an_error(corpus: Path, name: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow reads Parquet: pip install pyarrow")
    path = corpus / name
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ManifestError, match=f"{name}: it cannot be read"):
        items(path)


def test_a_saved_dataset_names_files_of_its_own_alone(corpus: Path) -> None:
    path = saved(corpus / "set", columns("bytes"))
    (path / "train" / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    with pytest.raises(ManifestError, match="must hold names of files beside it"):
        items(path)


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 100_000, '{"_data_files": [{}]}'])
def test_a_saved_dataset_that_is_damaged_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ManifestError, match=r"state.json: .* Save the dataset again"):
        items(tmp_path)


def test_any_state_does_not_make_a_saved_dataset(corpus: Path) -> None:
    (corpus / "state.json").write_text("{}")
    assert not is_manifest(corpus)


def test_without_pyarrow_the_package_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    written(corpus / "x.parquet", "PAR1")
    with pytest.raises(ImportError, match=r"pip install 'melcheck\[manifests\]'"):
        items(corpus / "x.parquet")
