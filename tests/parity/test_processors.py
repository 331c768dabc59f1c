"""Gate, goldens, shapes and parity hold on other processors and with other numbers of threads.

By default the lowest set of instructions and the machine's own highest are tried on two clips; with
MELCHECK_FIGURES=full in the environment every set that the machine has is tried on all clips with
one, two and four threads. `python -m tests.parity.processors` runs the whole suite so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parity.processors import THREADS, Processor, Result, read, run, supported, table

pytestmark = pytest.mark.parity

REPOSITORY = Path(__file__).parents[2]
FULL = os.environ.get("MELCHECK_FIGURES") == "full"


def cases() -> list[Processor]:
    """Return the processors that the suite is tried on."""
    if FULL:
        sets = [(name, alike) for name in supported() for alike in (False, True)]
        machines = [(None, False), *sets]
        return [Processor(threads, *each) for each in machines for threads in THREADS]
    return [*(Processor(1, name, alike=True) for name in supported()[:1]), Processor(4)]


RUN = """
import sys
import pytest, torch
from tests.parity.processors import capability
print("computes as", capability(), "on", torch.get_num_threads())
sys.exit(pytest.main(sys.argv[1:]))
"""
CLIPS = "" if FULL else " and (kokoro-kumo-en or guitar-stereo)"
# In one process: the product's own tests by their markers, and the core of parity by its name.
ASKED = (
    f"not official and (test_sanity or test_shapes or test_golden.py){CLIPS}"
    " or test_parity and embedded and (repeated or batch-of-4 or optimised-fp32)"
)


@pytest.mark.parametrize("processor", cases(), ids=lambda processor: processor.name)
def test_the_suite_passes_on_a_processor(processor: Processor) -> None:
    paths = ["tests/suite/test_sanity.py", "tests/suite/test_shapes.py"]
    paths += ["tests/suite/test_golden.py", "tests/parity/test_parity.py"]
    command = [sys.executable, "-c", RUN, "-q", "-p", "no:cacheprovider", "-rfE"]
    result = subprocess.run(
        [*command, "-k", ASKED, *paths],
        cwd=REPOSITORY,
        env=processor.environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == pytest.ExitCode.OK, result.stdout[-4000:] + result.stderr
    if processor.instructions:
        assert f"computes as {processor.instructions} on {processor.threads}" in result.stdout


JUNIT = """<testsuites><testsuite tests="9" failures="1" errors="1" skipped="3" time="90">
<testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two"><failure/></testcase>
<testcase classname="tests.a" name="three"><error/></testcase>
</testsuite></testsuites>"""


def test_what_failed_in_a_part_is_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "part.xml"
    path.write_text(JUNIT, encoding="utf-8")
    assert read(path) == Result(4, 2, 3, 90.0, ("tests.a::two", "tests.a::three"))
    assert [*table({"AVX2": [read(path), read(path)]})][-1] == "| AVX2 | 8 | 4 | 6 | 3.0 |"


def test_a_part_that_was_run_is_not_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "the machine as it is, 1 thread"
    folder.mkdir()
    (folder / "tests-core.xml").write_text(JUNIT, encoding="utf-8")
    assert run(Processor(1), "tests/core", tmp_path, "0").failed == 2


def test_a_part_that_cannot_run_ends_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.CompletedProcess([], pytest.ExitCode.USAGE_ERROR)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(SystemExit, match=r"exit code 4: see .*tests-absent\.log"):
        run(Processor(1), "tests/absent", tmp_path, "0")
