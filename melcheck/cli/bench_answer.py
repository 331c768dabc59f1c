"""What `melcheck bench` prints: a run as tables, and two runs side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peers import PeerTimes
    from melcheck.benchmark.measure import Measurement
    from melcheck.benchmark.runs import RunComparison
    from melcheck.cli.output import Terminal
    from melcheck.vocoders.base import VocosVocoder

__all__ = ["compared_text", "measured_text"]


def measured_text(
    vocoder: VocosVocoder,
    measurements: Sequence[Measurement],
    left_out: dict[str, str],
    peers: Sequence[PeerTimes],
    absent: dict[str, str],
    files: Sequence[str],
    terminal: Terminal,
) -> str:
    """Return the tables of a run, what was left out of it and why, and what it wrote."""
    first = measurements[0]
    lines = [
        f"{vocoder.info.name}: {vocoder.info.num_parameters / 1e6:.1f} M parameters, "
        f"{first.device_name}, CPU threads: {first.threads}"
    ]
    for precision in dict.fromkeys(m.case.precision for m in measurements):
        rates = [m for m in measurements if m.case.precision == precision][-1].rates
        lines.append(
            f"limit, {precision}: products {rates.products_per_second / 1e9:,.0f} GFLOP/s, "
            f"FFTs {rates.transforms_per_second / 1e9:,.0f} GFLOP/s, "
            f"copies {rates.copied_bytes_per_second / 1e9:,.0f} GB/s"
        )
    lines += ["", terminal.table(_HEADER, [_row(m) for m in measurements]), ""]
    lines.append("limit: attainable time over that of the quickest call, from those rates")
    if any(m.upload_seconds is not None for m in measurements):
        lines.append("transfers to and from the device are not in these times; --json has them")
    lines += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    if peers:
        rows = [
            (
                peer.case.mode.removeprefix("peers/"),
                peer.case.stage,
                str(peer.case.size),
                _ms(_median(peer)),
                f"{peer.case.size.audio_seconds / _median(peer):,.0f}",
                f"{peer.speedup:.2f}",
            )
            for peer in peers
        ]
        header = ("in turns", "stage", "size", "p50 ms", "x real time", "speed over eager")
        lines += ["", terminal.table(header, rows)]
    lines += [f"left out: {name}: {reason}" for name, reason in absent.items()]
    return "\n".join([*lines, *(f"wrote {path}" for path in files)])


_HEADER = ("stage", "size", "prec.", "mode", "p50 ms", "p95 ms", "x RT", "MiB", "limit")


def _row(measurement: Measurement) -> tuple[str, ...]:
    case, peak = measurement.case, measurement.peak_memory_mib
    return (
        case.stage.replace("_", " "),
        str(case.size),
        case.precision,
        case.mode,
        _ms(measurement.p50_seconds),
        _ms(measurement.p95_seconds),
        f"{measurement.x_real_time:,.0f}",
        "?" if peak is None else f"{peak:,.0f}",
        f"{100 * measurement.fraction:.0f}%",
    )


def _ms(seconds: float) -> str:
    """Return milliseconds in at most seven places, below 100,000 s."""
    milliseconds = 1000 * seconds
    digits = 2 if milliseconds < 100 else 1 if milliseconds < 1000 else 0
    return f"{milliseconds:,.{digits}f}"


def _median(peer: PeerTimes) -> float:
    return statistics.median(peer.durations_seconds)


def compared_text(paths: Sequence[Path], found: RunComparison, terminal: Terminal) -> str:
    """Return two runs as a table, and what makes them hard to compare."""
    vocoders = {case.vocoder for case in found.cases}
    rows = [
        (
            f"{case.vocoder} {case.name}" if len(vocoders) > 1 else case.name,
            _ms(case.seconds[0]),
            _ms(case.seconds[1]),
            f"{case.speedup:.2f}",
            *(f"{100 * share:.0f}%" for share in case.fractions or ()),
            *([] if case.fractions else ["", ""]),
        )
        for case in found.cases
    ]
    lines = [f"A: {paths[0]}, B: {paths[1]}, of {' and '.join(sorted(vocoders))}", ""]
    lines.append(terminal.table(("case", "A ms", "B ms", "A / B", "limit A", "limit B"), rows))
    lines.append("")
    lines.append("A / B above 1: B is faster; limit: fraction of the attainable")
    if found.differences:
        lines.append("The runs differ, so that only the fractions can be compared:")
        lines += [f"  {difference}" for difference in found.differences]
    for name, cases in (("A", found.only_a), ("B", found.only_b)):
        if cases:
            lines.append(f"only in {name}: {len(cases)} cases, such as {cases[0]}")
    return "\n".join(lines)
