"""Run the whole suite as other processors compute it, and print the table of the runs.

    python -m tests.parity.processors --output FOLDER
    python -m tests.parity.processors --output FOLDER --rows "AVX2, 1 thread" --parts tests/faults

Environment variables keep ATen, oneDNN and MKL from instructions that the machine has, so that a
run computes as on an older processor: what is emulated is which kernels run, and so the rounding,
not the speed. A row is such a processor with a number of threads for each process. It is run part
by part, a part being a folder of tests or the package's doctests, on every core by pytest-xdist.

The result of a part is written as soon as it is there (`FOLDER/ROW/PART.xml` of JUnit and `.log`),
and a run that is begun again with the same folder goes on with what is missing. Remove a result
to have it again. The last thing printed is the table, in Markdown; the exit code is 1 if a test
failed.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch

REPOSITORY = Path(__file__).parents[2]

# By the name that torch has for what ATen is left with, lowest first.
INSTRUCTIONS: Mapping[str, Mapping[str, str]] = {
    "DEFAULT": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "AVX512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}
# It makes MKL compute alike on every x86 processor, whatever MKL_ENABLE_INSTRUCTIONS says.
ALIKE = {"MKL_CBWR": "COMPATIBLE"}
VARIABLES = {name for each in (*INSTRUCTIONS.values(), ALIKE) for name in each}
THREADS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Processor:
    """What a run computes as.

    Attributes:
        threads: Number of threads of each process.
        instructions: Name in `INSTRUCTIONS`; None for the machine as it is.
        alike: Whether MKL keeps to what every x86 processor has.
    """

    threads: int
    instructions: str | None = None
    alike: bool = False

    @property
    def name(self) -> str:
        """Name of the row, and of its folder."""
        alike = [", MKL_CBWR"] * self.alike
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}"
        return "".join([self.instructions or "the machine as it is", *alike, threads])

    @property
    def environment(self) -> dict[str, str]:
        """Return this process's environment as it is for a run on the processor."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        instructions = INSTRUCTIONS[self.instructions] if self.instructions else {}
        # More threads than cores, as asked for, which are not to wait for each other by spinning.
        kept |= {"MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "PASSIVE"}
        return {**kept, **threads, **instructions, **(ALIKE if self.alike else {})}


def capability() -> str:
    """Return the set of instructions that ATen computes with."""
    found = torch.backends.cpu.get_cpu_capability()
    return "DEFAULT" if found == "NO AVX" else found  # as torch 2.4 calls it


def supported() -> list[str]:
    """Return the sets of instructions that this machine has, lowest first."""
    highest = capability()
    # On a processor of another family only the machine's own way to compute can be tried.
    names = list(INSTRUCTIONS)
    return names[: names.index(highest) + 1] if highest in names else []


def rows() -> list[Processor]:
    """Return the runs of the table: each set once, with more threads the more it has."""
    return [
        *(Processor(1, name, alike=True) for name in supported()[:1]),
        *(Processor(threads, name) for threads, name in zip(THREADS, supported(), strict=False)),
        Processor(1),
        Processor(4),
    ]


def parts() -> list[str]:
    """Return what a row is run by: each folder of tests, then the package's doctests."""
    folders = {path.parent for path in REPOSITORY.glob("tests/**/test_*.py")}
    inside = sorted(path.relative_to(REPOSITORY).as_posix() for path in folders)
    # Those of the example project are run by tests, in copies of it.
    return [*(path for path in inside if not path.startswith("tests/tiny_tts")), "melcheck"]


@dataclass(frozen=True, slots=True)
class Result:
    """What pytest counted in a part: tests, and the seconds of the run."""

    passed: int
    failed: int
    skipped: int
    seconds: float
    failures: tuple[str, ...]


def read(path: Path) -> Result:
    """Read the JUnit document of a part."""
    suites = list(ElementTree.parse(path).iter("testsuite"))
    count = {
        name: sum(int(suite.get(name, "0")) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    }
    failed = count["failures"] + count["errors"]
    failures = tuple(
        f"{case.get('classname')}::{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    )
    seconds = sum(float(suite.get("time", "0")) for suite in suites)
    passed = count["tests"] - failed - count["skipped"]
    return Result(passed, failed, count["skipped"], seconds, failures)


def run(processor: Processor, part: str, folder: Path, workers: str) -> Result:
    """Run a part, or read what an earlier run left of it.

    Raises:
        SystemExit: pytest ended before it could write what it found.
    """
    written = folder / processor.name / f"{part.replace('/', '-')}.xml"
    if written.is_file():
        return read(written)
    written.parent.mkdir(parents=True, exist_ok=True)
    log, unfinished = written.with_suffix(".log"), written.with_suffix(".part")
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-n", workers, part]
    # This file's own test would emulate within an emulation.
    command += ["-p", "no:cacheprovider", "--ignore=tests/parity/test_processors.py"]
    with log.open("w", encoding="utf-8") as output:
        ended = subprocess.run(
            [*command, f"--junitxml={unfinished}"],
            cwd=REPOSITORY,
            env=processor.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if ended.returncode not in (0, 1) or not unfinished.is_file():
        raise SystemExit(f"pytest ended with exit code {ended.returncode}: see {log}.")
    unfinished.replace(written)
    return read(written)


def table(found: Mapping[str, list[Result]]) -> Iterator[str]:
    """Write the rows as a Markdown table."""
    yield "| computes as | passed | failed | skipped | minutes |"
    yield "|---|---|---|---|---|"
    for name, results in found.items():
        counts = [
            f"{sum(getattr(result, field) for result in results):,}"
            for field in ("passed", "failed", "skipped")
        ]
        minutes = sum(result.seconds for result in results) / 60
        yield f"| {' | '.join([name, *counts, f'{minutes:.1f}'])} |"


def main() -> None:
    """Run what the command line asks for, and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    by_name = {processor.name: processor for processor in rows()}
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rows", nargs="+", choices=by_name, default=list(by_name), metavar="ROW")
    parser.add_argument("--parts", nargs="+", choices=parts(), default=parts(), metavar="PART")
    parser.add_argument("--workers", default="auto", help="as `-n` of pytest-xdist; auto")
    options = parser.parse_args()
    output = options.output.resolve()
    found: dict[str, list[Result]] = {}
    failures = 0
    for name in options.rows:
        for part in options.parts:
            result = run(by_name[name], part, output, options.workers)
            found.setdefault(name, []).append(result)
            failures += result.failed
            line = f"{result.passed} passed, {result.failed} failed, {result.skipped} skipped"
            print(f"{name}: {part}: {line}, {result.seconds:.0f} s", flush=True)
            for failure in result.failures:
                print(f"    {failure}", flush=True)
    print("", *table(found), sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
