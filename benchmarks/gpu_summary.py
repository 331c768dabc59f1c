"""Write what `benchmarks.gpu` has found as Markdown, ready to be pasted.

Tables are those of docs/benchmarks.md. Tolerances are those of `tests/parity/matrix.py`, by the
rule that holds there: three times the largest deviation, ten decibels more for energy. What was not
measured is marked "not run".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_RUN = "not run"

_MARGIN = 3.0
_MARGIN_DB = 10.0
_WAVEFORM = ("waveform_max", "waveform_db")

Results = Mapping[str, Mapping[str, Any]]


def summary(about: Mapping[str, Any], results: Results) -> str:
    """Return the page.

    Args:
        about: Device, versions, and whether it is a dry run.
        results: By part; those that are not there yet are "not run".
    """
    found = {name: result.get("found", {}) for name, result in results.items()}
    title = "A dry run on the CPU: none of these figures means anything" if about["dry"] else "CUDA"
    blocks = [
        f"# {title}",
        ", ".join(f"{name} {value}" for name, value in about.items() if value is not None),
        _outcomes(results),
        _tests(found.get("suite", {})),
        _wanted(found.get("bench", {})),
        _cases(found.get("bench", {})),
        _in_turns(found.get("bench", {})),
        _others(found),
        _deviations(found.get("parity", {})),
        _tolerances(about, found.get("parity", {})),
        _left_out(found),
    ]
    return "\n\n".join(block for block in blocks if block)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _outcomes(results: Results) -> str:
    rows = [
        (name, each["outcome"], f"{each['seconds']:.0f}", each["reason"].replace("|", "/"))
        for name, each in results.items()
    ]
    return _table(("part", "outcome", "s", "reason"), rows)


def _tests(runs: Mapping[str, Any]) -> str:
    rows = [
        (name, *(str(run[each]) for each in ("passed", "failed", "skipped")))
        for name, run in runs.items()
    ]
    return _table(("tests", "passed", "failed", "skipped"), rows) if rows else ""


def _wanted(bench: Mapping[str, Any]) -> str:
    turns = bench.get("in_turns", [])

    def fastest(batch: int, seconds: float, figure: str) -> str:
        fitting = [
            each
            for each in turns
            if (each["stage"], each["batch"], each["seconds"]) == ("decode", batch, seconds)
        ]
        if not fitting:
            return NOT_RUN
        best = max(fitting, key=lambda each: float(each[figure]))
        return f"{best[figure]:,.1f} ({best['precision']}, {_name(best)})"

    rows = [
        ("decode 16 x 1 s, x real time", fastest(16, 1.0, "x_real_time"), "20,000, better 60,000"),
        ("decode 3 s, against eager", fastest(1, 3.0, "speedup_over_eager"), "3, better 8"),
    ]
    return _table(("CUDA", "measured", "wanted"), rows)


def _name(row: Mapping[str, Any]) -> str:
    return str(row["mode"]).removeprefix("peers/")


def _kind(row: Mapping[str, Any]) -> tuple[str, ...]:
    size = f"{row['batch']} x {row['seconds']:g} s"
    return (str(row["stage"]).replace("_", " "), size, str(row["precision"]), _name(row))


def _cases(bench: Mapping[str, Any]) -> str:
    rows = [
        (
            *_kind(row),
            f"{1000 * row['p50_seconds']:.3f}",
            f"{1000 * row['p95_seconds']:.3f}",
            f"{row['x_real_time']:,.0f}",
            "?" if row["peak_memory_mib"] is None else f"{row['peak_memory_mib']:,.0f}",
            "?" if row["fraction"] is None else f"{100 * row['fraction']:.0f} %",
        )
        for row in bench.get("cases", [])
    ]
    head = ("stage", "size", "precision", "mode", "p50 ms", "p95 ms", "x real time", "MiB", "limit")
    return _table(head, rows) if rows else ""


def _in_turns(bench: Mapping[str, Any]) -> str:
    rows = [
        (
            *_kind(row),
            f"{1000 * row['p50_seconds']:.3f}",
            f"{row['x_real_time']:,.0f}",
            f"{row['speedup_over_eager']:.2f}",
            "" if row["deviation"] is None else f"{row['deviation']:.1e}",
        )
        for row in bench.get("in_turns", [])
    ]
    head = ("in turns", "size", "precision", "mode", "p50 ms", "x real time", "speed", "deviation")
    return _table(head, rows) if rows else ""


def _others(found: Mapping[str, Mapping[str, Any]]) -> str:
    audit, fit = found.get("audit", {}), found.get("fit", {})
    rate = audit.get("clips_per_second")
    busy = [each.get("busy_percent") for each in audit.values() if isinstance(each, dict)]
    known = [each for each in busy if each is not None]
    frames = fit.get("frames_per_second")
    rows = [
        ("audit, clips of 3 s per second", NOT_RUN if rate is None else f"{rate:,.0f}"),
        ("audit, share of the time with a kernel", f"{known[-1]:.0f} %" if known else NOT_RUN),
        ("fit, frames per second", NOT_RUN if frames is None else f"{frames:,.0f}"),
    ]
    return _table(("else", "measured"), rows)


def _deviations(parity: Mapping[str, Any]) -> str:
    rows = [
        (
            row["vocoder"],
            row["variant"],
            *(f"{row['found'][name]:.2g} < {row['allowed'][name]:.2g}" for name in row["found"]),
            "yes" if row["repeated"] else "no",
        )
        for row in parity.get("variants", [])
    ]
    head = ("vocoder", "variant", "encoded", "mel", "mel mean", "waveform", "dB", "same bits again")
    return _table(head, rows) if rows else ""


def _tolerances(about: Mapping[str, Any], parity: Mapping[str, Any]) -> str:
    rows = parity.get("variants", [])
    if not rows:
        return ""
    lines = [f"# Measured on {about['device']}, torch {about['torch']}."]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for kind, magnifies in (("plain", False), ("consistent", True)):
            each = [
                row
                for row in rows
                if row["variant"] == variant and row["magnifies_rounding"] == magnifies
            ]
            if each:
                name = f"_{variant}_{kind}".replace("-", "_").upper()
                values = ", ".join(
                    _allowed(field, max(float(row["found"][field]) for row in each), magnifies)
                    for field in each[0]["found"]
                )
                lines.append(f"{name} = Deviations({values})")
                lines += _stages(name, each)
    return "\n".join(["```python", *lines, "```"])


def _allowed(field: str, found: float, magnifies: bool) -> str:
    # The waveform of a head that retrieves phases is not compared: see the matrix.
    if magnifies and field in _WAVEFORM:
        return "math.inf"
    if field.endswith("_db"):
        return "-math.inf" if found == -math.inf else f"{math.ceil(found + _MARGIN_DB):.1f}"
    return _rounded_up(_MARGIN * found)


def _stages(name: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{name}_STAGES = {{"]
    for stage in rows[0]["stages"]:
        own, carried = (max(float(row["stages"][stage][place]) for row in rows) for place in (0, 1))
        tolerances = f"{_rounded_up(_MARGIN * own)}, {_rounded_up(_MARGIN * carried)}"
        lines.append(f'    "{stage}": StageTolerance({tolerances}),')
    return [*lines, "}"]


def _rounded_up(value: float) -> str:
    """Return two digits, no less than the value, as Python writes it.

    Example:
        >>> _rounded_up(0.001234), _rounded_up(0.0), _rounded_up(math.inf)
        ('0.0013', '0.0', 'math.inf')
    """
    if not math.isfinite(value):
        return "math.inf"
    if value <= 0:
        return "0.0"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{float(f'{math.ceil(value / step - 1e-9) * step:.1e}')!r}"


def _left_out(found: Mapping[str, Mapping[str, Any]]) -> str:
    reasons = {
        name: reason for each in found.values() for name, reason in each.get("left_out", {}).items()
    }
    return "\n".join(f"- left out: {name}: {reason}" for name, reason in reasons.items())
