"""The table of an audit: what is known, what is written, and folders that are refused."""

from __future__ import annotations

import array
import dataclasses
import errno
import math
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from melcheck.audit import store as store_module
from melcheck.audit.model import COLUMNS, SCHEMA_VERSION, AuditItem, Row
from melcheck.audit.store import (
    ROWS_FOLDER,
    AuditStore,
    StoreError,
    WriteError,
    provenance_of,
    read_rows,
)
from melcheck.manifests import ManifestItem
from tests.audit.fake_engine import known_or, row_of

pytest.importorskip("pyarrow", reason="pyarrow keeps the table: pip install pyarrow")

SETTINGS = {"vocoder": "embedded", "rules": []}
PER_PART = 4


def opened(folder: Path, **changes: Any) -> AuditStore:
    options: dict[str, Any] = {"source": "/corpus", "settings": SETTINGS, "rows_per_part": PER_PART}
    return AuditStore(folder, **{**options, **changes})


def item(index: int, name: str, group: str = "") -> AuditItem:
    return AuditItem(index, ManifestItem(name, Path(f"/corpus/{name}.wav")), group)


def audit(folder: Path, names: Iterable[str], *, changed: str = "", group: str = "") -> list[str]:
    """Audit clips of these names, and return those that had to be measured."""
    measured = []
    names = list(names)
    with opened(folder) as store:
        for index, name in enumerate(names):
            clip = item(index, name, group)
            clip = dataclasses.replace(clip, known_key=store.known_key(clip))
            row = known_or(clip, row_of(clip, key=f"{name}!" if name == changed else name))
            measured += [name] if row.outcome != "known" else []
            store.add([row])
        store.complete(len(names))
        rows = list(store.rows())
    assert [row.name for row in rows] == names
    assert [row.index for row in rows] == list(range(len(names)))
    assert {row.group for row in rows} == {group}
    # What other programs read has each clip once, too.
    assert sorted(row.index for row in read_rows(folder)) == list(range(len(names)))
    return measured


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / ROWS_FOLDER).iterdir()}


NAMES = [f"clip-{number}" for number in range(10)]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    row = row_of(item(0, "a"), snr_db=math.inf, path="/corpus/caf\udce9.wav")
    with opened(tmp_path / "out") as store:
        store.add([row])
        [found] = store.rows()
    assert repr(found) == repr(dataclasses.replace(row, path="/corpus/caf\\udce9.wav"))
    assert math.isnan(found.mse)
    assert tuple(dataclasses.asdict(found)) == COLUMNS


def test_a_part_tells_what_made_it(tmp_path: Path) -> None:
    with opened(tmp_path / "out", provenance={"schema_version": SCHEMA_VERSION}) as store:
        store.add([row_of(item(0, "a"))])
        store.flush()
    [part] = (tmp_path / "out" / ROWS_FOLDER).iterdir()
    assert provenance_of(part) == {"schema_version": SCHEMA_VERSION}


def test_nothing_is_measured_again_and_no_part_changes(tmp_path: Path) -> None:
    assert audit(tmp_path, NAMES) == NAMES
    before = parts(tmp_path)
    assert audit(tmp_path, NAMES) == []
    assert parts(tmp_path) == before
    assert len(before) == math.ceil(len(NAMES) / PER_PART)


def test_where_the_rows_of_a_sample_lie_takes_little_memory(tmp_path: Path) -> None:
    drawn = array.array("q", range(200_000, 0, -1))
    with opened(tmp_path / "out") as store:
        store.add([row_of(item(7, "a"))])
        store.flush()
        list(store.rows([7]))  # what is imported once
        tracemalloc.start()
        [row] = store.rows(drawn)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert row.index == 7
    assert peak < 20 * len(drawn)


CHANGES = {
    "first-removed": (NAMES[1:], []),
    "one-inserted": ([*NAMES[:2], "new", *NAMES[2:]], ["new"]),
    "reversed": (NAMES[::-1], []),
    "last-removed": (NAMES[:-1], []),
    "twice": ([*NAMES, *NAMES], []),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_list_that_has_moved_is_known_by_its_clips(tmp_path: Path, name: str) -> None:
    names, measured = CHANGES[name]
    audit(tmp_path, NAMES)
    assert audit(tmp_path, names) == measured
    assert audit(tmp_path, names) == []


def test_a_clip_whose_content_has_changed_is_measured_alone(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    assert audit(tmp_path, NAMES, changed=NAMES[5]) == [NAMES[5]]
    assert audit(tmp_path, NAMES, changed=NAMES[5]) == []


def test_another_group_needs_no_measuring(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    assert audit(tmp_path, NAMES, group="anna") == []


@pytest.mark.parametrize(
    "damage", [None, b"", b"no database" * 1000], ids=["gone", "empty", "torn"]
)
def test_an_index_that_is_lost_is_made_again(tmp_path: Path, damage: bytes | None) -> None:
    audit(tmp_path, NAMES)
    before = parts(tmp_path)
    index = tmp_path / "index.sqlite"
    index.unlink() if damage is None else index.write_bytes(damage)
    assert audit(tmp_path, NAMES) == []
    assert parts(tmp_path) == before


def test_a_clip_that_was_not_finished_or_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.add([row_of(item(0, "a"), outcome="unfinished")])
        unreadable = [
            row_of(item(1, "missing"), outcome="unreadable", key=""),
            row_of(item(2, "undecoded"), outcome="unreadable"),
        ]
        store.add(unreadable)
        store.flush()
    with opened(tmp_path) as store:
        names = enumerate(("a", "missing", "undecoded"))
        assert [store.known_key(item(index, name)) for index, name in names] == ["", "", ""]
        before = parts(tmp_path)
        # Nothing new is written of what still cannot be read.
        store.add(unreadable)
        store.flush()
    assert parts(tmp_path) == before


def test_what_a_known_row_says_of_its_clip_is_told(tmp_path: Path) -> None:
    audit(tmp_path, ["bad", "good"])
    with opened(tmp_path) as store:
        found = []
        for index, name in enumerate(["bad", "good"]):
            key = store.known_key(item(index, name))
            known = Row(index=index, name="", path="", outcome="known", key=key)
            found += store.add([known])
    assert [(row.index, row.outcome) for row in found] == [(0, "failed"), (1, "passed")]


def test_a_part_is_written_after_a_while(tmp_path: Path) -> None:
    now = [0.0]
    with opened(tmp_path, clock=lambda: now[0], seconds_per_part=60.0) as store:
        store.add([row_of(item(0, "a"))])
        now[0] = 59.0
        store.add([row_of(item(1, "b"))])
        assert parts(tmp_path) == {}
        now[0] = 60.0
        store.add([row_of(item(2, "c"))])
        assert len(parts(tmp_path)) == 1
        assert len(store) == 3


def test_a_full_disk_is_an_error_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "part")

    with opened(tmp_path) as store:
        store.add([row_of(item(index, f"{index}")) for index in range(PER_PART)])
        before = parts(tmp_path)
        write = store_module._write_part
        monkeypatch.setattr(store_module, "_write_part", full)
        with pytest.raises(WriteError, match=r"No space left on device.* start the same command"):
            store.add([row_of(item(PER_PART + i, f"more-{i}")) for i in range(PER_PART)])
        assert parts(tmp_path) == before
        monkeypatch.setattr(store_module, "_write_part", write)
        store.flush()
        assert len(list(store.rows())) == 2 * PER_PART


def test_what_a_run_left_that_was_killed_while_it_wrote_is_removed(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    (tmp_path / ROWS_FOLDER / ".melcheck-abc").write_bytes(b"half of it")
    audit(tmp_path, NAMES)
    assert all(name.startswith("part-") for name in parts(tmp_path))


# Folders that are refused.


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(StoreError) as caught:
        opened(folder, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    assert "got one with other files. Name another." in refused(tmp_path)
    assert "got a file" in refused(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_audit_of_another_source_is_refused(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    message = refused(tmp_path, source="/other")
    assert message.endswith(
        "holds an audit of /corpus, got /other. Name another folder for this one."
    )


def test_a_folder_without_a_row_takes_other_settings(tmp_path: Path) -> None:
    opened(tmp_path, settings={**SETTINGS, "cache": "/mistyped"}).close()
    audit(tmp_path, NAMES)
    assert "got /mistyped" in refused(tmp_path, settings={**SETTINGS, "cache": "/mistyped"})


def test_a_run_that_was_killed_as_it_began_leaves_a_folder_of_use(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "audit.json").unlink()
    audit(tmp_path, NAMES)
    (tmp_path / "audit.json").unlink()
    assert "one with other files" in refused(tmp_path)


def test_an_audit_with_other_settings_is_refused(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    message = refused(tmp_path, settings={**SETTINGS, "vocoder": None})
    assert "holds an audit with --vocoder embedded, got unset. " in message


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    path = tmp_path / "audit.json"
    ours = f'"schema_version": {SCHEMA_VERSION}'
    path.write_text(path.read_text().replace(ours, '"schema_version": 0'))
    assert "its table has version 0" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1}'])
def test_a_description_that_is_damaged_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "audit.json").write_text(content)
    assert "is not that of an audit" in refused(tmp_path)


def test_a_part_that_is_damaged_is_named(tmp_path: Path) -> None:
    audit(tmp_path, NAMES)
    (tmp_path / ROWS_FOLDER / "part-000001.parquet").write_bytes(b"PAR1 nothing")
    assert "part-000001.parquet: it is no part of an audit's table" in refused(tmp_path)


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with opened(tmp_path):
        assert "another run writes to it now" in refused(tmp_path)
    opened(tmp_path).close()


def test_a_folder_without_an_audit_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no audit is there"):
        list(read_rows(tmp_path))


# Other programs.


@pytest.mark.parametrize("program", ["pandas", "polars", "duckdb"])
def test_other_programs_read_the_table(tmp_path: Path, program: str) -> None:
    module = pytest.importorskip(program, reason=f"{program} is not installed")
    audit(tmp_path, [*NAMES, "bad-1", "bad-2"])
    if program == "pandas":
        table = module.read_parquet(tmp_path / ROWS_FOLDER)
        failed = sorted(table.query("outcome == 'failed'").name)
    elif program == "polars":
        table = module.scan_parquet(tmp_path / ROWS_FOLDER / "*.parquet")
        found = table.filter(module.col("outcome") == "failed").select("name").collect()
        failed = sorted(found["name"].to_list())
    else:
        query = f"FROM '{tmp_path}/{ROWS_FOLDER}/*.parquet' SELECT name WHERE outcome = 'failed'"
        failed = sorted(name for (name,) in module.sql(query).fetchall())
    assert failed == ["bad-1", "bad-2"]
