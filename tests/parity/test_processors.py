"""Gate, goldens, shapes and parity hold on other processors and with other numbers of threads.

Environment variables keep ATen, oneDNN and MKL from instructions that the machine has, so that a
run computes as on an older processor. By default the lowest set of instructions and the machine's
own highest are tried on two clips; with MELCHECK_FIGURES=full in the environment every set that
the machine has is tried on all clips with one, two and four threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.parity

REPOSITORY = Path(__file__).parents[2]
FULL = os.environ.get("MELCHECK_FIGURES") == "full"

# By the name that torch has for what ATen is left with, lowest first. MKL_CBWR=COMPATIBLE makes MKL
# compute alike on every x86 processor.
PROCESSORS = {
    "DEFAULT": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
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
VARIABLES = {name for variables in PROCESSORS.values() for name in variables}


def supported() -> list[str]:
    """Return the sets of instructions that this machine has, lowest first."""
    highest = torch.backends.cpu.get_cpu_capability()
    # On a processor of another family only the machine's own way to compute can be tried.
    names = list(PROCESSORS)
    return names[: names.index(highest) + 1] if highest in names else []


def cases() -> list[tuple[str | None, int]]:
    """Return the processors, None for the machine as it is, each with a number of threads."""
    if FULL:
        return [(name, threads) for name in (*supported(), None) for threads in (1, 2, 4)]
    return [*((name, 1) for name in supported()[:1]), (None, 4)]


RUN = """
import sys
import pytest, torch
torch.set_num_threads(int(sys.argv[1]))
print("computes as", torch.backends.cpu.get_cpu_capability(), "on", torch.get_num_threads())
sys.exit(pytest.main(sys.argv[2:]))
"""
CLIPS = "" if FULL else " and (kokoro-kumo-en or guitar-stereo)"
# In one process: the product's own tests by their markers, and the core of parity by its name.
ASKED = (
    f"not official and (test_sanity or test_shapes or test_golden.py){CLIPS}"
    " or test_parity and embedded and (repeated or batch-of-4)"
)


@pytest.mark.parametrize(
    ("processor", "threads"),
    [
        pytest.param(*case, id=f"{case[0] or 'the machine as it is'}, {case[1]} threads")
        for case in cases()
    ],
)
def test_the_suite_passes_on_a_processor(processor: str | None, threads: int) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    paths = ["tests/suite/test_sanity.py", "tests/suite/test_shapes.py"]
    paths += ["tests/suite/test_golden.py", "tests/parity/test_parity.py"]
    command = [sys.executable, "-c", RUN, str(threads), "-q", "-p", "no:cacheprovider", "-rfE"]
    result = subprocess.run(
        [*command, "-k", ASKED, *paths],
        cwd=REPOSITORY,
        env=kept | (PROCESSORS[processor] if processor else {}),
        capture_output=True,
        text=True,
    )
    assert result.returncode == pytest.ExitCode.OK, result.stdout[-4000:] + result.stderr
    if processor:
        assert f"computes as {processor} on {threads}" in result.stdout
