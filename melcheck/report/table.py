"""What a run found, as data and as a table: one row for each clip, vocoder and device.

A row is plain data, so that it can cross from one process to another and be written as JSON.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from melcheck.audio import SAME_LENGTH_SECONDS
from melcheck.pipeline import RoundTrip
from melcheck.sanity import Thresholds, Verdict
from melcheck.vocoders.base import VocoderInfo

Outcome = Literal["passed", "failed", "measured", "baseline", "known miss"]

_STYLES = {"passed": "green", "failed": "bold red", "known miss": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRow:
    """The figures of one round trip.

    Attributes:
        clip: Name of the clip.
        vocoder: Name of the vocoder, as it was asked for.
        device: Where it ran.
        outcome: "passed" or "failed" where the thresholds apply; "known miss" where they are
            missed in the way that is on record; "measured" for a clip that they do not apply to;
            "baseline" for Griffin-Lim, shown for comparison.
        mae: See `melcheck.metrics`, as for all that follow.
        mse: Nats squared.
        max_abs_diff: Nats.
        snr_db: dB.
        pearson: From -1 to 1.
        centred_snr_db: dB.
        floor_share: Share of the original mel's cells at the floor.
        stft_distance: Multi-resolution STFT distance of the waveforms.
        detail: The verdict in words.
        checked_seconds: How much of the clip went round.
        source_seconds: How long the whole file is; NaN where that is not known.
        decoder: What read the file; empty for a waveform that came from elsewhere.
        artifacts: Folder with the pictures; empty where none were made.
        provenance: Which vocoder exactly: source, parameters and hash.
    """

    clip: str
    vocoder: str
    device: str
    outcome: Outcome
    mae: float
    mse: float
    max_abs_diff: float
    snr_db: float
    pearson: float
    centred_snr_db: float
    floor_share: float
    stft_distance: float
    checked_seconds: float
    source_seconds: float
    decoder: str = ""
    detail: str = ""
    artifacts: str = ""
    provenance: str = ""

    def is_part(self) -> bool:
        """Return whether the file is longer than what was checked."""
        return self.source_seconds > self.checked_seconds + SAME_LENGTH_SECONDS

    def to_json(self) -> str:
        """Return the row as one line of JSON; what is not finite stands there as a string."""
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = str(value)
        return json.dumps(values, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> CaseRow:
        """Return the row that `to_json` wrote."""
        values = json.loads(text)
        for field in dataclasses.fields(CaseRow):
            if field.type == "float":
                values[field.name] = float(values[field.name])
        return CaseRow(**values)


def case_row(
    clip: str,
    vocoder: str,
    trip: RoundTrip,
    *,
    outcome: Outcome,
    verdict: Verdict | None = None,
    artifacts: str = "",
) -> CaseRow:
    """Return the row of the first item of a round trip.

    Args:
        clip: Name of the clip.
        vocoder: Name of the vocoder, as it was asked for.
        trip: What the loop produced.
        outcome: How it counts.
        verdict: Why; None where the thresholds do not apply.
        artifacts: Folder with its pictures.
    """
    metrics = trip.metrics()[0]
    audio = trip.audio
    checked = trip.checked_seconds
    return CaseRow(
        clip=clip,
        vocoder=vocoder,
        device=str(trip.device),
        outcome=outcome,
        mae=metrics.mae,
        mse=metrics.mse,
        max_abs_diff=metrics.max_abs_diff,
        snr_db=metrics.snr_db,
        pearson=metrics.pearson,
        centred_snr_db=metrics.centred_snr_db,
        floor_share=metrics.reference_floor_share,
        stft_distance=float(trip.waveform_distance()[0]),
        checked_seconds=checked,
        source_seconds=checked if audio is None else audio.source_seconds,
        decoder="" if audio is None else audio.decoder,
        detail="" if verdict is None else str(verdict),
        artifacts=artifacts,
        provenance=provenance(trip.vocoder),
    )


def provenance(info: VocoderInfo) -> str:
    """Return where a vocoder comes from, how large it is and which weights it has."""
    size = f", {info.num_parameters / 1e6:.1f} M parameters" if info.num_parameters else ""
    weights = f", sha256 {info.weights_sha256[:12]}" if info.weights_sha256 else ""
    return f"{info.source}{size}{weights}"


def table_text(rows: Iterable[CaseRow], *, width: int, colour: bool = False) -> str:
    """Return the rows as a table of at most `width` columns of text, clip by clip.

    Each clip has a line with its name, then one line for each vocoder that it went through, so
    that a long name costs no column and Griffin-Lim stands beside what it is compared with.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    by_clip: dict[str, list[CaseRow]] = {}
    for row in rows:
        by_clip.setdefault(row.clip, []).append(row)
    devices = {row.device for group in by_clip.values() for row in group}
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("clip", overflow="fold", min_width=16)
    for name in ("MAE", "MSE", "max", "SNR", "corr", "cSNR", "floor", "STFT"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(" verdict", no_wrap=True)
    for clip, group in by_clip.items():
        table.add_row(Text(clip))
        for row in sorted(group, key=lambda row: row.outcome == "baseline"):
            place = f"  {row.vocoder}" + (f" {row.device}" if len(devices) > 1 else "")
            table.add_row(
                *(Text(text) for text in (place, *_figures(row))),
                Text(f" {row.outcome}", style=_STYLES.get(row.outcome, "")),
                style="dim" if row.outcome == "baseline" else "",
            )
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(table)
    # Rich puts an empty line on top and pads each line with spaces to the width of the table.
    return "\n".join(line.rstrip() for line in output.getvalue().strip("\n").splitlines())


def _figures(row: CaseRow) -> tuple[str, ...]:
    return (
        _number(row.mae, 3),
        _number(row.mse, 3),
        _number(row.max_abs_diff, 1),
        _number(row.snr_db, 1),
        _number(row.pearson, 4),
        _number(row.centred_snr_db, 1),
        _number(100 * row.floor_share, 0) + "%",
        _number(row.stft_distance, 2),
    )


def legend(thresholds: Thresholds) -> str:
    """Return the lines that say what the columns are and where the gates stand."""
    return (
        f"gates on the log-mel: MAE < {thresholds.mae:g} nats, corr > {thresholds.pearson:g}, "
        f"SNR > {thresholds.snr_db:g} dB\n"
        "cSNR: SNR without the mel's mean; floor: share of the mel's cells at its floor;\n"
        "STFT: distance of the waveforms at other windows; baseline: untrained, not gated"
    )


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else str(value)
