"""Misses that a project has accepted: a file that a person can read, review and correct.

`pytest --mel-accept` and `melcheck check --accept` write the cases that miss a gate now, with their
figures, the reason and the date. From then on such a case passes as a known miss. It fails again
when it gets worse, when its audio changes, and when it would pass without its entry.

An entry holds for one clip, vocoder, front end and part of the file, on every device.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melcheck.files import load_yaml, os_reason, read_bytes, replacing

if TYPE_CHECKING:
    from melcheck.sanity import Verdict

DEFAULT_FILE = "mel-accepted.yaml"

_HEAD = """\
# Misses that this project has accepted: written by `pytest --mel-accept` or `melcheck check
# --accept`, to be read by people. Each passes as a known miss; it fails again when it gets worse,
# when its audio changes, and when it is no longer needed. Say under `reason` why it is accepted.
"""

# Thousands of entries.
_MAX_BYTES = 2**24

# By how much a figure may differ from the one on record, since machines round differently.
_TOLERANCES = {"mae": 0.002, "snr_db": 0.05, "pearson": 0.0005, "reference_floor_share": 0.001}

Key = tuple[str, str, str, float, float]
"""Clip, vocoder, front end, seconds checked, and where they begin: what an entry holds for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedMiss:
    """One entry of the file.

    Attributes:
        clip: Name of the clip.
        file: Its path, for people.
        vocoder: Label of the vocoder.
        front_end: Name of the user's front end; "" for the vocoder's own extractor.
        seconds: How much of the clip was checked.
        begin_seconds: Where that began.
        audio_sha256: Hash of the file.
        misses: The metrics whose gates were missed.
        figures: Every gated metric as it was.
        reason: Why it missed, or why that is accepted.
        date: The day on which it was accepted, ISO 8601.
    """

    clip: str
    file: str
    vocoder: str
    front_end: str
    seconds: float
    begin_seconds: float
    audio_sha256: str
    misses: tuple[str, ...]
    figures: Mapping[str, float]
    reason: str
    date: str

    @property
    def key(self) -> Key:
        """What it holds for."""
        return key_of(self.clip, self.vocoder, self.front_end, self.seconds, self.begin_seconds)

    def problem(self, verdict: Verdict, audio_sha256: str) -> str:
        """Return why the entry no longer holds for a case; "" where it does.

        Args:
            verdict: The verdict of the case now.
            audio_sha256: Hash of its file now.
        """
        if audio_sha256 != self.audio_sha256:
            return f"its audio has changed since {self.date}, when its miss was accepted"
        for gate in verdict.failures:
            before = self.figures.get(gate.metric, math.nan)
            worse = before - gate.value if gate.side == "above" else gate.value - before
            if not worse <= _TOLERANCES[gate.metric]:  # true for NaN
                return f"worse than accepted on {self.date}: {gate.metric} was {before:.4g}"
        needed = (
            gate.margin <= _TOLERANCES[gate.metric]
            for gate in verdict.gates
            if gate.metric in self.misses
        )
        if verdict.passed and not any(needed):
            return f"no longer needs what was accepted on {self.date}"
        return ""


def key_of(clip: str, vocoder: str, front_end: str, seconds: float, begin_seconds: float) -> Key:
    """Return what an entry of these holds for; times are told apart from a millisecond on."""
    return clip, vocoder, front_end, round(seconds, 3), round(begin_seconds, 3)


def read_accepted(path: Path) -> tuple[AcceptedMiss, ...]:
    """Return the entries of a file; none where there is no such file.

    Raises:
        ValueError: A file that cannot be read, or an entry that lacks something.
    """
    if not path.exists():
        return ()
    try:
        entries = load_yaml(read_bytes(path, max_bytes=_MAX_BYTES)) or []
    except (OSError, ValueError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else error
        raise ValueError(f"{path}: the accepted misses cannot be read ({reason}).") from None
    if not isinstance(entries, list):
        raise ValueError(f"{path}: accepted misses must be a list. Write the file anew.")
    return tuple(_entry(path, number, entry) for number, entry in enumerate(entries, start=1))


def _entry(path: Path, number: int, entry: Any) -> AcceptedMiss:
    names = [each.name for each in dataclasses.fields(AcceptedMiss)]
    if not isinstance(entry, dict) or sorted(entry) != sorted(names):
        given = sorted(entry) if isinstance(entry, dict) else []
        wrong = sorted(set(names) ^ set(given))
        raise ValueError(
            f"{path}: entry {number} must have {', '.join(names)}; it lacks or adds "
            f"{', '.join(map(str, wrong))}. Correct it, or delete it and accept anew."
        )
    try:
        return AcceptedMiss(
            **{name: str(entry[name] or "") for name in _TEXTS},
            seconds=float(entry["seconds"]),
            begin_seconds=float(entry["begin_seconds"]),
            misses=tuple(map(str, entry["misses"])),
            figures={str(name): float(value) for name, value in entry["figures"].items()},
        )
    except (TypeError, ValueError, AttributeError):
        raise ValueError(
            f"{path}: entry {number} ({entry['clip']}) has figures that are no numbers. Correct "
            "it, or delete it and accept anew."
        ) from None


_TEXTS = ("clip", "file", "vocoder", "front_end", "audio_sha256", "reason", "date")


def update_accepted(
    path: Path, missed: Sequence[AcceptedMiss], checked: Iterable[Key]
) -> tuple[int, int]:
    """Write what a run missed; entries of cases that it did not check stay.

    An entry that still holds keeps its reason and its date.

    Args:
        path: The file.
        missed: The cases that miss a gate now.
        checked: Keys of all cases that the run judged.

    Returns:
        How many entries are new or have new figures, and how many were dropped.

    Raises:
        ValueError: The file holds something else.
        OSError: It cannot be written.
    """
    import yaml

    before = {entry.key: entry for entry in read_accepted(path)}
    now = dict(before)
    for key in checked:
        now.pop(key, None)
    for entry in missed:
        old = before.get(entry.key)
        now[entry.key] = old if old is not None and _still_holds(old, entry) else entry
    if now == before:
        return 0, 0
    document = [
        dataclasses.asdict(entry) | {"misses": list(entry.misses)} for entry in now.values()
    ]
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(f"{_HEAD}\n{text}" if document else _HEAD, encoding="utf-8")
    changed = sum(entry != before.get(key) for key, entry in now.items())
    return changed, len(before.keys() - now.keys())


def _still_holds(old: AcceptedMiss, new: AcceptedMiss) -> bool:
    return (
        old.audio_sha256 == new.audio_sha256
        and old.misses == new.misses
        and all(
            abs(old.figures.get(metric, math.nan) - value) <= _TOLERANCES[metric]
            for metric, value in new.figures.items()
        )
    )
