"""An audit in a process of its own, that can be killed."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.progress import Progress
from melcheck.audit.run import Audit, run_audit
from melcheck.audit.sources import Source
from tests.audit.fake_engine import FakeEngine, row_of


def audit(source: Path, output: Path, seconds: float, rows: int, told: Connection) -> None:
    """Audit, waiting so long for each clip, and tell how many there are and how many are new."""

    def make(item: AuditItem) -> Row:
        time.sleep(seconds)
        return row_of(item)

    plan = Audit(
        source=Source(str(source)),
        output=output,
        settings=AuditSettings(),
        engine=FakeEngine(make),
    )
    finished = run_audit(plan, Progress(lambda _: None), rows_per_part=rows)
    told.send((finished.verdict.clips, finished.measured))
