"""Compare the gate with a bare script that makes the same round trips, in turns.

    python -m benchmarks.gate
    python -m benchmarks.gate --other ../before       # and that of another clone, in the same turns

The gate is `pytest -m sanity` in a clone: measures, tables, pictures and audio of each clip of the
fixtures that the thresholds apply to. The script is `benchmarks/bare_loop.py`. Each is a process of
its own, from the start of Python to its end, on one thread, in this environment with its plugins of
pytest. What is compared is processor time, which other processes lengthen less than wall time. Byte
code is kept in a folder of its own, which a first call of each, not counted, has filled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from melcheck.benchmark.paired_timing import MIN_PAIRS, ratio_interval
from melcheck.cli.output import Terminal
from melcheck.clips import load_manifest

CLONE = Path(__file__).parents[1]


def children_seconds() -> float:
    """Return the processor time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands(clones: Sequence[Path], pictures: Path) -> dict[str, tuple[list[str], Path]]:
    """Return what is compared: a command and where it runs, by name; the script first."""
    gated = [clip.path for clip in load_manifest(CLONE / "fixtures/clips.yaml") if clip.gated]
    found = {"script": ([sys.executable, "-m", "benchmarks.bare_loop", *map(str, gated)], CLONE)}
    for clone in clones:
        gate = ["-m", "pytest", "-m", "sanity", f"--mel-artifacts={pictures}"]
        found[f"gate of {clone}"] = ([sys.executable, *gate], clone)
    return found


def processor_seconds(command: Sequence[str], place: Path, environment: Mapping[str, str]) -> float:
    """Run a command to its end and return its processor time.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    begin = children_seconds()
    subprocess.run(
        command,
        cwd=place,
        env={**environment, "PYTHONPATH": str(place)},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return children_seconds() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns of all commands (12)")
    parser.add_argument("--other", type=Path, action="append", default=[], help="another clone")
    parser.add_argument("--json", type=Path, help="write the seconds there, too")
    options = parser.parse_args(arguments)
    if options.rounds < MIN_PAIRS:
        parser.error(f"--rounds must be at least {MIN_PAIRS}, got {options.rounds}.")
    terminal, order = Terminal(), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        each = commands([CLONE, *(path.resolve() for path in options.other)], Path(folder, "out"))
        seconds: dict[str, list[float]] = {name: [] for name in each}
        for turn in range(options.rounds + 1):
            for name in order.sample(list(each), len(each)):
                spent = processor_seconds(*each[name], environment)
                if turn > 0:
                    seconds[name].append(spent)
            if turn > 0:
                last = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
                terminal.note(f"{turn}: {last}")
    rows = []
    for name, times in seconds.items():
        row = [name, f"{statistics.median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"]
        ratios = [one / script for one, script in zip(times, seconds["script"], strict=True)]
        middle, low, high = ratio_interval(ratios, confidence=0.99)
        rows.append([*row, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"])
    header = ("processor time", "s, median", "least to most", "times the script", "99 % interval")
    terminal.print(terminal.table(header, rows))
    if options.json is not None:
        options.json.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
