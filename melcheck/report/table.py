"""The table of a run for a terminal, with the gates, vocoders and decoders below it."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from melcheck.audio import SAME_LENGTH_SECONDS
from melcheck.files import plain_text
from melcheck.report.model import METRICS, AudioSource, CaseRecord, by_clip, shown
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
# A line of the table that takes its whole width stands in it as a number behind this character of
# the private use area, until the table is drawn.
_LINE = "\ue000"


def table_lines(
    records: Sequence[CaseRecord],
    gates: Sequence[Gate],
    *,
    width: int,
    colour: bool = False,
    rules: Sequence[str] = (),
) -> list[str]:
    """Return the table of the records and what explains it, in lines; nothing for no records.

    Each clip has a line with its name, file and the part that was checked, then one for each
    vocoder, with its notes below.

    Args:
        records: Cases that were measured.
        gates: The gates of the run.
        width: Columns of text that the table may take.
        colour: Whether the verdicts are coloured.
        rules: Limits that the project sets for clips of some names.
    """
    if not records:
        return []
    judged = [gate for gate in gates if METRICS[gate.metric].better]
    audio = {record.case.clip: record.case.audio for record in records}
    vocoders = {f"{each.case.vocoder}: {vocoder_text(each.vocoder)}" for each in records}
    lines = [
        f"gates on the log-mel: {gates_text(judged)}",
        f"and {gates_text(gate for gate in gates if gate not in judged)}: silence proves nothing",
        *(f"gates of {rule}" for rule in rules),
        "cSNR: SNR without the mel's mean; floor: share of the mel's bins at its floor;",
        "STFT: distance of the waveforms at other windows; baseline: untrained, not gated",
        *sorted(vocoders),
        *sorted({f"decoder: {source.decoder}" for source in audio.values() if source}),
    ]
    return [*_table(records, width=width, colour=colour), *map(plain_text, lines)]


def part_text(source: AudioSource | None) -> str:
    """Return which part of a file was checked: "3.0 of 8.0 s, from 2.5 s"; "" for all of it."""
    if source is None or not source.seconds > source.checked_seconds + SAME_LENGTH_SECONDS:
        return ""
    begin = f", from {source.begin_seconds:.1f} s" if source.begin_seconds else ""
    return f"{source.checked_seconds:.1f} of {source.seconds:.1f} s{begin}"


def vocoder_text(info: VocoderInfo) -> str:
    """Return the source of a vocoder, its number of parameters and the hash of its weights."""
    size = f", {info.num_parameters / 1e6:.1f} M parameters" if info.num_parameters else ""
    weights = f", sha256 {info.weights_sha256[:12]}" if info.weights_sha256 else ""
    return f"{info.source}{size}{weights}"


def _table(records: Sequence[CaseRecord], *, width: int, colour: bool) -> list[str]:
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
    lines: list[str] = []

    def whole_line(text: str) -> None:
        table.add_row(Text(f"{_LINE}{len(lines)}{_LINE}"))
        lines.append(plain_text(text))

    for clip, cases in by_clip(record.case for record in records).items():
        about = (cases[0].path, part_text(cases[0].audio))
        whole_line(f"{clip}  {', '.join(filter(None, about))}".rstrip())
        for case in sorted(cases, key=lambda case: case.outcome == "baseline"):
            place = f"  {case.vocoder}" + (f" {case.device}" if devices else "")
            table.add_row(
                Text(plain_text(place)),
                *(
                    Text(shown(name, case.metrics[name], beside=case.limits.get(name)))
                    for name in _COLUMNS
                ),
                Text(f" {case.outcome}", style=_STYLES.get(case.outcome, "")),
                style="dim" if case.outcome == "baseline" else "",
            )
            for note in case.notes:
                whole_line(f"    note: {note}")
    output = io.StringIO()
    console = Console(
        file=output, width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(table)
    # Rich draws an empty line on top, and pads each line with spaces to the width of the table.
    drawn = [line.rstrip() for line in output.getvalue().strip("\n").splitlines()][1:]
    return [
        part
        for line in drawn
        for part in (_wrapped(lines[int(line.split(_LINE)[1])], width) if _LINE in line else [line])
    ]


def _wrapped(line: str, width: int) -> list[str]:
    indent = " " * (1 + len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,  # a path stays whole
        break_on_hyphens=False,
    )
