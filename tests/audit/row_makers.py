"""Row makers that the workers of an engine can import, with clips that take their worker along."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from melcheck.audit.model import AuditItem, AuditSettings, Row, RowMaker
from melcheck.manifests import ManifestItem


def items_named(names: Sequence[str]) -> list[AuditItem]:
    return [
        AuditItem(index, ManifestItem(name, Path(f"{name}.wav")))
        for index, name in enumerate(names)
    ]


def blocks_of(items: Sequence[AuditItem], size: int) -> list[Sequence[AuditItem]]:
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def row_of(item: AuditItem) -> Row:
    name, path = item.item.name, str(item.item.path)
    return Row(index=item.index, name=name, path=path, outcome="passed", mae=item.index / 7)


def faulty(settings: AuditSettings) -> RowMaker:
    """Make rows of clips whose names begin with what they do to their worker."""

    def rows(items: Sequence[AuditItem]) -> list[Row]:
        for item in items:
            _do(item.item.name.partition("-")[0])
        return [row_of(item) for item in items]

    return rows


def littering(settings: AuditSettings) -> RowMaker:
    """As `faulty`, with a temporary file for each clip, whose path stands in the cache's folder."""
    make = faulty(settings)

    def rows(items: Sequence[AuditItem]) -> list[Row]:
        assert settings.cache is not None
        for item in items:
            path = Path(tempfile.mkdtemp())
            (settings.cache / f"{item.item.name}-{path.name}").write_text(str(path))
        return make(items)

    return rows


def _do(what: str) -> None:
    if what == "kill":  # as the system does where memory ends
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(0)
    elif what == "hang":
        time.sleep(3600)
    elif what == "late":
        time.sleep(2.0)
    elif what == "raise":
        raise RuntimeError("no row")
    elif what == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
        try:
            bytearray(2**28)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def slow(settings: AuditSettings) -> RowMaker:
    """Make rows whose decoder names process and node, a tenth of a second each."""

    def rows(items: Sequence[AuditItem]) -> list[Row]:
        import ray

        time.sleep(0.1 * len(items))
        where = f"{os.getpid()} {ray.get_runtime_context().get_node_id()}"
        return [
            Row(index=item.index, name=item.item.name, path="", outcome="passed", decoder=where)
            for item in items
        ]

    return rows


def ending(settings: AuditSettings) -> RowMaker:
    os._exit(0)


def refusing(settings: AuditSettings) -> RowMaker:
    raise ValueError(f"--vocoder {settings.vocoder}: no such vocoder.")
