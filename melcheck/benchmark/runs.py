"""Keep runs of the benchmark as pytest-benchmark keeps its own, and set two of them side by side.

A stored run is what `pytest --benchmark-json FILE` writes, so that `pytest-benchmark compare` reads
it too. Times of two runs can be compared where machine, threads and versions are the same; the
fraction of the attainable can be compared in any case.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.peers import PeerTimes
from melcheck.benchmark.measure import Measurement

_KEY = ("vocoder", "stage", "device", "batch", "seconds", "precision", "mode")
# What makes the milliseconds of two runs those of two machines.
_CONDITIONS = ("device_name", "threads", "torch", "melcheck")
_MACHINE = ("node", "machine", "system", "release", "python_version")


@dataclass(frozen=True, slots=True)
class CaseRatio:
    """A case that both runs have.

    Attributes:
        vocoder: Its name.
        name: The case.
        seconds: Median call of A and of B.
        speedup: Time of A over time of B: above 1, B is faster.
        fractions: Of the attainable, in A and in B; None where it was not measured.
    """

    vocoder: str
    name: str
    seconds: tuple[float, float]
    speedup: float
    fractions: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs side by side.

    Attributes:
        cases: Those that both have, in A's order.
        differences: What was not the same, as sentences; with any, only fractions are comparable.
        only_a: Cases that B lacks.
        only_b: Cases that A lacks.
    """

    cases: tuple[CaseRatio, ...]
    differences: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


def document(
    measurements: Sequence[Measurement], peers: Sequence[PeerTimes] = ()
) -> dict[str, object]:
    """Return a run as pytest-benchmark writes it."""
    from pytest_benchmark import __version__, utils
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info as machine_info

    entries = [_entry(entry.extra_info(), entry.durations_seconds) for entry in measurements]
    entries += [_entry(entry.extra_info(), entry.durations_seconds) for entry in peers]
    return {
        "machine_info": machine_info(),  # type: ignore[no-untyped-call]
        "commit_info": utils.get_commit_info(),  # type: ignore[no-untyped-call]
        "benchmarks": entries,
        "datetime": datetime.now(timezone.utc).isoformat(),
        "version": __version__,
    }


def _entry(extra: dict[str, Any], durations: Sequence[float]) -> dict[str, object]:
    from pytest_benchmark.stats import Stats

    stats: Any = Stats()  # type: ignore[no-untyped-call]
    for duration in durations:
        stats.update(duration)
    params = {name: extra[name] for name in _KEY}
    name = _full_name(extra)
    return {
        "group": extra["stage"],
        "name": name,
        "fullname": f"melcheck bench::{name}",
        "params": params,
        "param": name,
        "extra_info": extra,
        "options": {"timer": "cuda events" if extra["device"] != "cpu" else "perf_counter"},
        "stats": {**stats.as_dict(), "data": list(durations), "iterations": 1},
    }


def read_run(path: Path) -> dict[str, Any]:
    """Return a stored run.

    Raises:
        ValueError: It is no run of this benchmark; the message names the file.
        OSError: It cannot be read.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        complete = all(
            set(_KEY) <= set(entry["extra_info"]) and entry["stats"]["median"] > 0
            for entry in run["benchmarks"]
            if _is_ours(entry)
        )
        ours = sum(map(_is_ours, run["benchmarks"]))
        machine = isinstance(run["machine_info"], dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = machine = False
        ours = 0
    if not (complete and machine and ours):
        raise ValueError(
            f"{path} must be a run that `melcheck bench --output` or `pytest -m benchmark "
            "--benchmark-json` stored; it holds no case of this benchmark, or is damaged."
        )
    stored: dict[str, Any] = run
    return stored


def compare_runs(first: dict[str, Any], second: dict[str, Any]) -> RunComparison:
    """Set two runs side by side, case by case.

    Args:
        first: A, from `read_run`.
        second: B, likewise.
    """
    before, after = _cases(first), _cases(second)
    both = [name for name in before if name in after]
    differences = [
        f"{name}: {_shown(first['machine_info'].get(name))} in A, "
        f"{_shown(second['machine_info'].get(name))} in B"
        for name in _MACHINE
        if first["machine_info"].get(name) != second["machine_info"].get(name)
    ]
    brands = [_brand(run) for run in (first, second)]
    if brands[0] != brands[1]:
        differences.append(f"processor: {brands[0]} in A, {brands[1]} in B")
    for condition in _CONDITIONS:
        seen = [
            sorted({_shown(run[name]["extra_info"].get(condition)) for name in both})
            for run in (before, after)
        ]
        if seen[0] != seen[1]:
            told = [", ".join(values) for values in seen]
            differences.append(f"{condition}: {told[0]} in A, {told[1]} in B")
    return RunComparison(
        cases=tuple(_ratio(before[name], after[name]) for name in both),
        differences=tuple(differences),
        only_a=tuple(name for name in before if name not in after),
        only_b=tuple(name for name in after if name not in before),
    )


def _ratio(before: dict[str, Any], after: dict[str, Any]) -> CaseRatio:
    medians = before["stats"]["median"], after["stats"]["median"]
    shares = before["extra_info"].get("fraction"), after["extra_info"].get("fraction")
    return CaseRatio(
        vocoder=before["extra_info"]["vocoder"],
        name=_name(before["extra_info"]),
        seconds=medians,
        speedup=medians[0] / medians[1],
        fractions=None if None in shares else shares,
    )


def _cases(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        _full_name(entry["extra_info"]): entry for entry in run["benchmarks"] if _is_ours(entry)
    }


def _is_ours(entry: dict[str, Any]) -> bool:
    return "stage" in entry["extra_info"]


def _name(extra: dict[str, Any]) -> str:
    size = f"{extra['batch']}x{extra['seconds']:g}s"
    return f"{extra['stage']}-{extra['device']}-{size}-{extra['precision']}-{extra['mode']}"


def _full_name(extra: dict[str, Any]) -> str:
    return f"{extra['vocoder']} {_name(extra)}"


def _brand(run: dict[str, Any]) -> str:
    cpu = run["machine_info"].get("cpu")
    return _shown(cpu.get("brand_raw") if isinstance(cpu, dict) else None)


def _shown(value: object) -> str:
    return "unknown" if value is None else str(value)
