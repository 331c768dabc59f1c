"""Corpora at addresses, on a stand-in for S3 that runs in this process."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from melcheck.audit.drop import DropList, write_filtered
from melcheck.audit.model import AuditItem, Row
from melcheck.audit.sources import Source, items_of
from melcheck.clip_lists import item_file
from melcheck.remote import address_exists, copy_of, fetch

FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
CLIPS = ("kokoro-short.flac", "kokoro-kumo-en.wav")
# Of its own: what stands in for S3 is one for the whole process, also for tests of other files.
BUCKET = "remote-corpus"

pytest.importorskip("pyarrow", reason="pyarrow keeps the table: pip install pyarrow")
pytest.importorskip("s3fs", reason="s3fs reads S3: pip install 'melcheck[remote]'")
server = pytest.importorskip(
    "moto.server", reason="moto stands in for S3: pip install moto[server]"
)

Put = Callable[[str, bytes], str]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of the stand-in."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def put(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """Puts a file into an empty bucket, and returns its address."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.mkdir(BUCKET)

    def add(name: str, content: bytes) -> str:
        system.pipe_file(f"{BUCKET}/{name}", content)
        return f"s3://{BUCKET}/{name}"

    yield add
    system.rm(BUCKET, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def audio(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def lines(*rows: object) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def contents(items: list[AuditItem], folder: Path) -> list[bytes]:
    """Return what a worker reads of each clip."""
    return [item_file(each.item, folder, str(each.index)).read_bytes() for each in items]


def archive(names: tuple[str, ...]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(audio(name))
            file.addfile(info, io.BytesIO(audio(name)))
    return buffer.getvalue()


def test_a_list_names_what_lies_beside_it_and_at_other_addresses(tmp_path: Path, put: Put) -> None:
    put(f"a/wavs/{CLIPS[0]}", audio(CLIPS[0]))
    other = put(f"b/{CLIPS[1]}", audio(CLIPS[1]))
    rows = ({"audio": CLIPS[0], "speaker": "anna"}, {"audio": other, "speaker": "ben"})
    found = list(items_of(put("a/train.jsonl", lines(*rows)), by="speaker"))
    addresses = [f"s3://{BUCKET}/a/wavs/{CLIPS[0]}", other]
    assert [each.item.file for each in found] == addresses
    assert [each.group for each in found] == ["anna", "ben"]
    assert found[0].item.place == f"s3://{BUCKET}/a/train.jsonl, line 1"
    assert contents(found, tmp_path) == [audio(name) for name in CLIPS]


@pytest.mark.parametrize("text", ["/etc/passwd.wav", "file:///etc/a.wav"])
def test_a_list_at_an_address_names_no_file_of_this_machine(put: Put, text: str) -> None:
    [entry] = Source(put("train.jsonl", lines({"audio": text}))).entries()
    assert isinstance(entry, Row)
    assert entry.outcome == "unreadable"
    assert entry.place == f"s3://{BUCKET}/train.jsonl, line 1"


def test_a_folder_has_its_audio(tmp_path: Path, put: Put) -> None:
    for folder, name in zip("ba", CLIPS, strict=True):
        put(f"{folder}/{name}", audio(name))
    put("notes.txt", b"no audio")
    found = list(items_of(f"s3://{BUCKET}/", by="folder"))
    assert [each.item.name for each in found] == ["a/kokoro-kumo-en", "b/kokoro-short"]
    assert [each.group for each in found] == ["a", "b"]
    assert contents(found, tmp_path) == [audio(CLIPS[1]), audio(CLIPS[0])]


def test_a_folder_of_archives_is_read_by_their_members(tmp_path: Path, put: Put) -> None:
    put("shards/0.tar", archive(CLIPS[:1]))
    put("shards/1.tar", archive(CLIPS[1:]))
    found = list(items_of(f"s3://{BUCKET}/shards"))
    assert [each.item.name for each in found] == ["kokoro-short", "kokoro-kumo-en"]
    assert found[1].item.file == f"s3://{BUCKET}/shards/1.tar"
    assert contents(found, tmp_path) == [audio(name) for name in CLIPS]


def test_a_table_of_audio_is_read_row_by_row(tmp_path: Path, put: Put) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"audio": [{"bytes": audio(n), "path": n} for n in CLIPS], "who": ["a", "b"]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=1)
    found = list(items_of(put("x.parquet", buffer.getvalue()), by="who"))
    assert [each.group for each in found] == ["a", "b"]
    assert contents(found, tmp_path) == [audio(name) for name in CLIPS]


def test_a_list_is_written_again_from_its_address(tmp_path: Path, put: Put) -> None:
    rows = ({"audio": "a.wav"}, {"audio": "b.wav"})
    source = Source(put("train.jsonl", lines(*rows)))
    dropped = DropList()
    dropped.indices.append(0)
    assert write_filtered(source, dropped, tmp_path / "kept.jsonl") == 1
    assert (tmp_path / "kept.jsonl").read_bytes() == lines(rows[1])


def test_what_is_not_there_is_told_in_a_sentence(tmp_path: Path, put: Put) -> None:
    address = f"s3://{BUCKET}/no.wav"
    assert not address_exists(address)
    with pytest.raises(OSError, match=rf"{address}: it cannot be fetched \(") as caught:
        fetch(address, tmp_path / "no.wav")
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="there is no file and no folder"):
        list(Source(f"s3://{BUCKET}/nowhere").entries())


def test_copies_of_the_last_files_are_kept(put: Put) -> None:
    addresses = [put(f"{number}.wav", b"x") for number in range(3)]
    copies = [copy_of(address) for address in addresses]
    assert copy_of(addresses[2]) == copies[2]
    assert [path.exists() for path in copies] == [False, True, True]
