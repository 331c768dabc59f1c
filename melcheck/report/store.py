"""The folder in which all processes of a run write their cases, pictures and audio.

Pictures and audio are too large for the messages of pytest-xdist. Each case is one file and its
media another, both written atomically; the last one written for a case counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from melcheck.files import replacing
from melcheck.report.json_format import from_json, to_json
from melcheck.report.media import CaseMedia
from melcheck.report.model import CaseRecord, Key

_CASE, _MEDIA = ".case.json", ".media.json"


class RecordStore(Mapping[Key, CaseMedia]):
    """Cases on disk; as a mapping, the media of each case, read on access.

    Args:
        folder: Existing folder that belongs to one run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, record: CaseRecord, media: CaseMedia | None = None) -> None:
        """Write a case, replacing an earlier one.

        Raises:
            OSError: The folder cannot be written.
        """
        stem = _stem(record.case.key)
        for suffix, data in ((_MEDIA, media), (_CASE, record)):
            if data is not None:
                with replacing(self._folder / f"{stem}{suffix}") as temporary:
                    temporary.write_text(to_json(data), encoding="utf-8")

    def records(self) -> dict[Key, CaseRecord]:
        """Return every case, in no particular order."""
        texts = (path.read_text(encoding="utf-8") for path in self._folder.glob(f"*{_CASE}"))
        records = (from_json(CaseRecord, text) for text in texts)
        return {record.case.key: record for record in records}

    def __getitem__(self, key: Key) -> CaseMedia:
        try:
            text = (self._folder / f"{_stem(key)}{_MEDIA}").read_text(encoding="utf-8")
        except FileNotFoundError:
            raise KeyError(key) from None
        return from_json(CaseMedia, text)

    def __iter__(self) -> Iterator[Key]:
        return (key for key in self.records() if key in self)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and (self._folder / f"{_stem(key)}{_MEDIA}").exists()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _stem(key: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).hexdigest()[:24]
