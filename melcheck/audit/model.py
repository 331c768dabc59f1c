"""What an audit measures: which clips, with which settings, and the row that each becomes.

All of it is plain data that can be pickled: it travels to the processes of an engine and back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from melcheck.manifests import ManifestItem

if TYPE_CHECKING:  # it imports torch, which who waits for workers does not need
    from melcheck.sanity import ThresholdRule

SCHEMA_VERSION = 2
"""Of the table. It rises when a column comes, goes, is renamed, or means something else."""

Outcome = Literal["passed", "failed", "checked", "unreadable", "unfinished", "known"]
"""passed, failed: by the gates. checked: an audit without a vocoder has read the audio. unreadable:
the audio cannot be read. unfinished: its worker died, or ran out of time or memory. known: an
earlier run has the row, and this one stands for it with index and key alone; never written."""

_LIMITED_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """What an audit does with each clip, the same on every worker.

    Attributes:
        vocoder: Name for `melcheck.vocoders.load.load_vocoder`; None for audio and caches alone.
        device: Name of a torch device.
        profile: Name of the recipe that is expected; None for that of the vocoder.
        frontend: "package.module:attribute" of the user's front end; None without one.
        cache: Folder of stored mels; None without one.
        cache_pattern: How the mels of the cache are called; None where their stems decide.
        rules: Limits that the project sets itself.
        duration_seconds: Seconds of each clip that are measured; None takes all of it.
        limit_seconds: How long one clip of up to a minute may take before it counts as unfinished.
    """

    vocoder: str | None = "embedded"
    device: str = "cpu"
    profile: str | None = None
    frontend: str | None = None
    cache: Path | None = None
    cache_pattern: str | None = None
    rules: tuple[ThresholdRule, ...] = ()
    duration_seconds: float | None = None
    limit_seconds: float = 120.0

    def limit_of(self, seconds: float | None) -> float:
        """Return how long a clip may take: as many times the limit as minutes of it are measured.

        Args:
            seconds: Its duration; None where that is not known.

        Example:
            >>> settings = AuditSettings(limit_seconds=120.0)
            >>> [settings.limit_of(seconds) for seconds in (None, 6.0, 3600.0)]
            [120.0, 120.0, 7200.0]
        """
        measured = seconds or 0.0
        if self.duration_seconds is not None and self.cache is None:
            measured = min(measured, self.duration_seconds)
        return self.limit_seconds * max(1.0, measured / _LIMITED_SECONDS)


@dataclass(frozen=True, slots=True)
class AuditItem:
    """A clip on its way to a worker.

    Attributes:
        index: Its place in the source, counted from 0.
        item: Row of the source.
        group: Value of the column that the verdict is divided by; "" without one.
        known_key: Key of the row that an earlier run has of this clip; "" for none. A worker that
            finds the same key again returns a row whose outcome is "known".
    """

    index: int
    item: ManifestItem
    group: str = ""
    known_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One clip of the table. A number that was not measured is NaN, a text that does not apply "".

    Attributes:
        index: Place of the clip in the source, counted from 0.
        name: Name of the clip.
        path: File that holds its audio.
        place: Where the source names it.
        group: Value of the column that the verdict is divided by.
        key: What the row depends on, as a hash: the audio, its part, the settings, the weights and
            melcheck's version.
        audio_sha256: Hash of the encoded audio.
        offset_seconds: Where the clip begins in the file.
        duration_seconds: How long what was measured is.
        sample_rate: Of the file, Hz; 0 where it cannot be read.
        channels: Of the file; 0 where it cannot be read.
        decoder: What decoded the audio.
        outcome: See `Outcome`.
        reason: Why it is not "passed" or "checked", in words.
        cause: Kind of the likely cause of a failure, one word of `melcheck.diagnosis.causes`, or of
            what is wrong with the audio.
        mae: Mean absolute error of the log-mel, nats.
        mse: Mean squared error, nats squared.
        max_abs_diff: Largest absolute error, nats.
        snr_db: Signal-to-noise ratio of the log-mel, dB.
        pearson: Correlation.
        centred_snr_db: Signal-to-noise ratio without the mean, dB.
        reference_floor_share: Share of the original mel's time-frequency bins at the floor.
        stft_distance: Multi-resolution STFT distance of the waveforms.
        arithmetic: What the vocoder computed these in: "plain", "fp32" or "bf16", see
            `melcheck.audit.arithmetic`; "" without a vocoder.
        bandwidth_hz: Highest frequency that the audio reaches; NaN where it is too quiet to tell.
        peak_dbfs: Largest magnitude, dB of full scale.
        level_dbfs: RMS level, dB of full scale.
        dc: Mean of the samples, full scale 1.
        clipped_share: Share of the samples that lie in runs at the largest magnitude.
        wrapped_samples: Jumps from one end of the integer range to the other.
        broken_samples: Samples that are NaN or infinite.
        silent_start_seconds: Digital or near silence at the start.
        silent_middle_seconds: The longest inside.
        silent_end_seconds: At the end.
        notes: What else a reader should know, in sentences.
        cache: "fresh", "stale", "missing"; "" without a cache.
        cache_cause: Why a stored mel is stale.
    """

    index: int
    name: str
    path: str
    place: str = ""
    group: str = ""
    key: str = ""
    audio_sha256: str = ""
    offset_seconds: float = 0.0
    duration_seconds: float = float("nan")
    sample_rate: int = 0
    channels: int = 0
    decoder: str = ""
    outcome: Outcome
    reason: str = ""
    cause: str = ""
    mae: float = float("nan")
    mse: float = float("nan")
    max_abs_diff: float = float("nan")
    snr_db: float = float("nan")
    pearson: float = float("nan")
    centred_snr_db: float = float("nan")
    reference_floor_share: float = float("nan")
    stft_distance: float = float("nan")
    arithmetic: str = ""
    bandwidth_hz: float = float("nan")
    peak_dbfs: float = float("nan")
    level_dbfs: float = float("nan")
    dc: float = float("nan")
    clipped_share: float = float("nan")
    wrapped_samples: int = 0
    broken_samples: int = 0
    silent_start_seconds: float = float("nan")
    silent_middle_seconds: float = float("nan")
    silent_end_seconds: float = float("nan")
    notes: tuple[str, ...] = ()
    cache: str = ""
    cache_cause: str = ""


def row_of(item: AuditItem, outcome: Outcome, reason: str = "") -> Row:
    """Return the row of a clip of which only its place is known."""
    source = item.item
    return Row(
        index=item.index,
        name=source.name,
        path=source.file,
        place=source.place,
        group=item.group,
        offset_seconds=source.offset_seconds,
        outcome=outcome,
        reason=reason,
    )


COLUMNS = tuple(each.name for each in dataclasses.fields(Row))
"""Columns of the table, in order."""

METRIC_COLUMNS = (
    "mae",
    "mse",
    "max_abs_diff",
    "snr_db",
    "pearson",
    "centred_snr_db",
    "reference_floor_share",
    "stft_distance",
)
"""Columns that the gates and the quantiles are about."""


class RowMaker(Protocol):
    """Makes the rows of clips.

    It knows no engine, keeps no state that a verdict depends on but its vocoder, and never raises
    for a clip: one that cannot be used has a row that says why.
    """

    def __call__(self, items: Sequence[AuditItem]) -> list[Row]:
        """Return one row for each item, in order."""


class Engine(Protocol):
    """Runs a row maker over the blocks of a source.

    A lost worker's clips get a row with the reason; the rows come back as they are made, in any
    order.
    """

    def __call__(
        self, blocks: Iterable[Sequence[AuditItem]], settings: AuditSettings, *, workers: int
    ) -> Iterator[list[Row]]:
        """Yield the rows of each block."""
