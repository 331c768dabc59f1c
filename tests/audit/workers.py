"""What the workers of the engines run in tests: row makers that do as the names of clips say."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from melcheck.audit import local
from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.manifests import ManifestItem


def item(index: int, name: str) -> AuditItem:
    """A clip whose name says what happens to who works on it."""
    return AuditItem(index, ManifestItem(name, Path(f"{name}.wav"), "list.txt, line 1"))


class Maker:
    """Makes rows without audio; clips of a block that are called alike are one step.

    A name is what happens, and a number: "exit-1", "kill-1", "hang-1", "memory-1"; "slow-1" takes
    two seconds, "litter-1" is killed with a temporary file; "once-FILE" where the file FILE of the
    settings' cache folder is not there yet. Others are well.
    """

    def __init__(self, settings: AuditSettings) -> None:
        self.settings = settings

    def stream(
        self, items: Sequence[AuditItem], *, started: Callable[[Sequence[int]], object]
    ) -> Iterator[list[Row]]:
        """Yield the rows of items, two at a time."""
        for first in range(0, len(items), 2):
            some = items[first : first + 2]
            started([each.index for each in some])
            for each in some:
                self._happen(each.item.name)
            yield [
                Row(index=each.index, name=each.item.name, path="", outcome="checked")
                for each in some
            ]

    def _happen(self, name: str) -> None:
        what, _, rest = name.partition("-")
        if what == "exit":
            os._exit(3)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(3600)
        if what == "slow":
            time.sleep(2.0)
        if what == "litter":
            tempfile.mkstemp(prefix="litter")
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "once":
            assert self.settings.cache is not None
            mark = self.settings.cache / rest
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


def absent(settings: AuditSettings) -> Maker:
    """A worker without its weights."""
    from melcheck.vocoders.weights import VocoderUnavailable  # imports torch

    raise VocoderUnavailable("the weights are not here")


def unusable(settings: AuditSettings) -> Maker:
    """A worker with settings that cannot be used."""
    raise ValueError("vocoder must be another")


def has_decoders(settings: AuditSettings) -> Maker:
    """A worker that has loaded what reads audio, as a real one has: it takes seconds."""
    import melcheck.audio
    import melcheck.audio_notes  # noqa: F401

    return Maker(settings)


def headers_hang(settings: AuditSettings) -> Maker:
    """A worker that hangs at the header of a clip called "header-..."."""

    def seconds_of(item: ManifestItem) -> None:
        if item.name.startswith("header"):
            time.sleep(3600)

    local._seconds_of = seconds_of
    return Maker(settings)


def dies(settings: AuditSettings) -> Maker:
    """A worker that ends before it begins."""
    os._exit(7)
