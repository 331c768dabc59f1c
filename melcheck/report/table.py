"""The table of a run for a terminal, with the gates, vocoders and decoders below it."""

from __future__ import annotations

import io
from collections.abc import Sequence

from melcheck.audio import SAME_LENGTH_SECONDS
from melcheck.files import plain_text
from melcheck.report.model import METRICS, CaseRecord, by_clip, shown
from melcheck.report.text import gates_text
from melcheck.sanity import Gate
from melcheck.vocoders.base import VocoderInfo

_STYLES = {"passed": "green", "failed": "bold red", "known miss": "yellow"}
_COLUMNS = (
    "mae",
    "mse",
    "max_abs_diff",
    "snr_db",
    "pearson",
    "centred_snr_db",
    "reference_floor_share",
    "stft_distance",
)
_LISTED_CLIPS = 16


def table_lines(
    records: Sequence[CaseRecord],
    gates: Sequence[Gate],
    *,
    width: int,
    colour: bool = False,
    all_option: str,
) -> list[str]:
    """Return the table of the records and what explains it, in lines; nothing for no records.

    Args:
        records: Cases that were measured.
        gates: The gates of the run.
        width: Columns of text that the table may take.
        colour: Whether the verdicts are coloured.
        all_option: Option that checks clips from start to end, such as "--duration all".
    """
    if not records:
        return []
    judged = [gate for gate in gates if METRICS[gate.metric].better]  # all but silence
    audio = {record.case.clip: record.case.audio for record in records}
    parts = [
        f"{clip} {source.checked_seconds:.1f} of {source.seconds:.1f}"
        for clip, source in audio.items()
        if source and source.seconds > source.checked_seconds + SAME_LENGTH_SECONDS
    ]
    listed = ", ".join(parts[:_LISTED_CLIPS]) + (", ..." if len(parts) > _LISTED_CLIPS else "")
    vocoders = {f"{each.case.vocoder}: {vocoder_text(each.vocoder)}" for each in records}
    lines = [
        f"gates on the log-mel: {gates_text(judged)}",
        "cSNR: SNR without the mel's mean; floor: share of the mel's bins at its floor;",
        "STFT: distance of the waveforms at other windows; baseline: untrained, not gated",
        *sorted(vocoders),
        *sorted({f"decoder: {source.decoder}" for source in audio.values() if source}),
        *(
            [f"only the start was checked (all: {all_option}), in seconds: {listed}"]
            if parts
            else []
        ),
    ]
    return [*_table(records, width=width, colour=colour), *map(plain_text, lines)]


def vocoder_text(info: VocoderInfo) -> str:
    """Return the source of a vocoder, its number of parameters and the hash of its weights."""
    size = f", {info.num_parameters / 1e6:.1f} M parameters" if info.num_parameters else ""
    weights = f", sha256 {info.weights_sha256[:12]}" if info.weights_sha256 else ""
    return f"{info.source}{size}{weights}"


def _table(records: Sequence[CaseRecord], *, width: int, colour: bool) -> list[str]:
    # Each clip has a line with its name, then one for each vocoder: a long name takes no column.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    devices = len({record.case.device for record in records}) > 1
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("clip", overflow="fold", min_width=16)
    for name in _COLUMNS:
        table.add_column(METRICS[name].label, justify="right", no_wrap=True)
    table.add_column(" verdict", no_wrap=True)
    for clip, cases in by_clip(record.case for record in records).items():
        table.add_row(Text(plain_text(clip)))
        for case in sorted(cases, key=lambda case: case.outcome == "baseline"):
            place = f"  {case.vocoder}" + (f" {case.device}" if devices else "")
            table.add_row(
                Text(plain_text(place)),
                *(Text(shown(name, case.metrics[name])) for name in _COLUMNS),
                Text(f" {case.outcome}", style=_STYLES.get(case.outcome, "")),
                style="dim" if case.outcome == "baseline" else "",
            )
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(table)
    # Rich draws an empty line on top, and pads each line with spaces to the width of the table.
    return [line.rstrip() for line in output.getvalue().strip("\n").splitlines()][1:]
