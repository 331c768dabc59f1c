"""Measure all that is to be known of one CUDA device, part by part, in under 9 minutes.

    python -m benchmarks.gpu OUT          # or bash benchmarks/gpu.sh OUT WHEELS
    python -m benchmarks.gpu OUT --dry    # on the CPU, on little: does every part still run?

Each part (`benchmarks.gpu_parts`) is a process of its own with a budget of time. It writes what it
has found to `OUT/PART.json` as it goes, so that one which crashes or hangs loses neither that nor
another part. Started again, the command goes on after the parts that came to their end.
`OUT/summary.md` has the tables for docs/benchmarks.md, and the tolerances for
`tests/parity/matrix.py`.

Exit codes: 0 each part passed, or was skipped with a reason; 1 one failed or did not come to its
end; 2 wrong usage; 3 a device or a package is missing.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.gpu_summary import summary
from melcheck._version import __version__
from melcheck.files import replacing

ROOT = Path(__file__).parents[1]

TOTAL_SECONDS = 530.0
"""Of all parts: under 9 minutes, with some left for the start."""

ENDED = ("passed", "failed", "skipped")
"""Outcomes of a part that came to its end; else "crashed" or "out of time"."""

_DRY_SECONDS = 600.0
_OUTPUT_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    Attributes:
        name: Its file is `OUT/NAME.json`.
        seconds: How long it may take.
        command: What runs it, followed by its file, its seconds, and `--dry` in a dry run.
    """

    name: str
    seconds: float
    command: tuple[str, ...]


PARTS = tuple(
    Part(name, seconds, (sys.executable, "-m", "benchmarks.gpu_parts", name))
    for name, seconds in (
        ("suite", 130.0),
        ("parity", 70.0),
        ("bench", 230.0),
        ("audit", 60.0),
        ("fit", 30.0),
    )
)


def run(
    out: Path,
    about: Mapping[str, Any],
    *,
    parts: Sequence[Part] = PARTS,
    total_seconds: float = TOTAL_SECONDS,
) -> int:
    """Run the parts that are not there yet, write the summary, and return the exit code.

    Args:
        out: Folder of the results; made where it is not there.
        about: What they hold for. Parts that were run for something else are run again.
        parts: In their order.
        total_seconds: How long all may take together.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + total_seconds
    results: dict[str, dict[str, Any]] = {}
    for part in parts:
        file = out / f"{part.name}.json"
        result = _read(file)
        if result.get("about") == about and result.get("outcome") in ENDED:
            print(f"{part.name}: {result['outcome']} in an earlier run", flush=True)
        else:
            seconds = min(part.seconds, end - time.monotonic())
            result = {"about": dict(about), **_run(part, file, seconds, dry=bool(about["dry"]))}
            _write(file, json.dumps(result, indent=1))
            line = f"{part.name}: {result['outcome']} after {result['seconds']:.0f} s"
            print(f"{line}: {result['reason']}" if result["reason"] else line, flush=True)
        results[part.name] = result
        _write(out / "summary.md", summary(about, results))
    print(f"wrote {out / 'summary.md'}")
    return int(any(each["outcome"] not in ("passed", "skipped") for each in results.values()))


def _run(part: Part, file: Path, seconds: float, *, dry: bool) -> dict[str, Any]:
    """Run one part, and return what it wrote, its outcome, and the end of what it printed."""
    file.unlink(missing_ok=True)
    command = [*part.command, str(file), str(seconds), *(["--dry"] if dry else [])]
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        outcome, reason = "out of time", f"it may take {max(0.0, seconds):.0f} s"
        if seconds > 0:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
                outcome, reason = "crashed", f"exit code {code}"
            except subprocess.TimeoutExpired:
                pass
            finally:
                # What it started must not be there while the next one is timed.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        printed = output.read().decode(errors="replace")
    left = _read(file)
    return {
        "outcome": left.get("outcome") or outcome,
        "reason": left.get("reason", "") if left.get("outcome") else reason,
        "seconds": round(time.monotonic() - begin, 1),
        "found": left.get("found", {}),
        "output": printed[-_OUTPUT_CHARACTERS:],
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def missing_packages() -> list[str]:
    """Return what melcheck requires and this environment lacks, or melcheck itself."""
    try:
        required = importlib.metadata.requires("melcheck") or []
    except importlib.metadata.PackageNotFoundError:
        return ["melcheck"]
    missing = []
    for requirement in map(Requirement, required):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "goldens"}):
            try:
                importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                missing.append(requirement.name)
    return missing


def about_this_machine(*, dry: bool) -> dict[str, Any] | None:
    """Return what results of this machine hold for; None without a CUDA device."""
    import torch

    if not dry and not torch.cuda.is_available():
        return None
    name = "cpu" if dry else torch.cuda.get_device_name()
    return {
        "dry": dry,
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": None if dry else torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "python": sys.version.split()[0],
        "melcheck": __version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the results")
    parser.add_argument("--dry", action="store_true", help="little, on the CPU")
    options = parser.parse_args(arguments)
    if missing := missing_packages():
        print(
            f"this environment lacks {', '.join(missing)}. Give a folder of wheels: "
            "bash benchmarks/gpu.sh OUT WHEELS (benchmarks/README.md says how to make it).",
            file=sys.stderr,
        )
        return 3
    about = about_this_machine(dry=options.dry)
    if about is None:
        print(
            "torch sees no CUDA device, which is what this measures. Check the driver with "
            "nvidia-smi, or add --dry to run every part on the CPU.",
            file=sys.stderr,
        )
        return 3
    if options.dry:
        # Times are not the point, and the processors may be busy.
        parts = [dataclasses.replace(part, seconds=_DRY_SECONDS) for part in PARTS]
        return run(options.out.absolute(), about, parts=parts, total_seconds=math.inf)
    return run(options.out.absolute(), about)


if __name__ == "__main__":
    sys.exit(main())
