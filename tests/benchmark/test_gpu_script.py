"""What is to be run on a GPU runs without one, and loses nothing where a part of it breaks."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu import Part, run
from benchmarks.gpu_summary import NOT_RUN, summary
from melcheck.diagnosis.stages import StageTolerance
from tests.parity.matrix import Deviations

REPOSITORY = Path(__file__).parents[2]
HERE = {"dry": True, "device": "cpu", "torch": "2.11.0"}

FINDS = """
import json, sys, time, os, subprocess
from pathlib import Path
file = Path(sys.argv[1])
runs = file.with_suffix(".runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
def save(**more):
    file.write_text(json.dumps({"found": {"figure": 1}, **more}))
"""


def part(name: str, then: str, *, seconds: float = 60.0) -> Part:
    return Part(name, seconds, (sys.executable, "-c", FINDS + then))


GOOD = part("good", "save(outcome='passed', reason='')")
CRASHES = part("crashes", "save(); print('what it said', flush=True); os.abort()")
HANGS = part("hangs", "save(); time.sleep(600)", seconds=4.0)


def found(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def a_wheel(folder: Path) -> None:
    with zipfile.ZipFile(folder / "lacking-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("lacking.py", "")
        about = "lacking-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: lacking\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


def test_every_part_runs_without_a_device(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    a_wheel(tmp_path / "wheels")
    before = set(sys.path)
    ended = subprocess.run(
        ["bash", "benchmarks/gpu.sh", str(tmp_path / "out"), str(tmp_path / "wheels"), "--dry"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = {name: found(tmp_path / "out", name) for name in [part.name for part in gpu.PARTS]}
    told = {name: (each["outcome"], each["output"]) for name, each in outcomes.items()}
    assert ended.returncode == 0, (ended.stdout, ended.stderr, told)
    assert set(sys.path) == before
    assert outcomes["suite"]["found"]["suite"]["passed"] > 0
    assert {row["variant"] for row in outcomes["parity"]["found"]["variants"]} == {"cuda"}
    assert "cuda-fp16" in outcomes["parity"]["found"]["left_out"]
    assert outcomes["fit"]["found"]["frames_per_second"] > 0
    timed = {(row["stage"], row["mode"]) for row in outcomes["bench"]["found"]["in_turns"]}
    assert {("decode", f"peers/{name}") for name in ("vocos", "compiled")} <= timed
    page = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "dry run" in page
    assert "a CUDA graph needs a CUDA device" in page


def test_a_part_that_breaks_loses_nothing_and_is_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, HERE, parts=[CRASHES, HANGS, GOOD]) == 1
    printed = capsys.readouterr().out
    assert "crashes: crashed" in printed
    assert "hangs: out of time" in printed
    assert "good: passed" in printed
    for name in ("crashes", "hangs", "good"):
        assert found(tmp_path, name)["found"] == {"figure": 1}
    assert "what it said" in found(tmp_path, "crashes")["output"]
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert [
        line.split(" | ")[1] for line in page.splitlines() if re.match(r"\| (cra|han|goo)", line)
    ] == [
        "crashed",
        "out of time",
        "passed",
    ]

    assert run(tmp_path, HERE, parts=[part("crashes", "save(outcome='passed')"), GOOD]) == 0
    assert (tmp_path / "crashes.runs").read_text() == "xx"
    assert (tmp_path / "good.runs").read_text() == "x"


def test_what_another_device_gave_is_measured_again(tmp_path: Path) -> None:
    run(tmp_path, HERE, parts=[GOOD])
    run(tmp_path, {**HERE, "device": "another"}, parts=[GOOD])
    assert (tmp_path / "good.runs").read_text() == "xx"


def test_a_part_that_failed_is_told_by_the_exit_code(tmp_path: Path) -> None:
    failing = part("failing", "save(outcome='failed', reason='beyond its tolerance')")
    assert run(tmp_path, HERE, parts=[failing]) == 1
    assert "beyond its tolerance" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_part_without_time_is_not_begun(tmp_path: Path) -> None:
    assert run(tmp_path, HERE, parts=[GOOD], total_seconds=0.0) == 1
    assert found(tmp_path, "good")["outcome"] == "out of time"
    assert not (tmp_path / "good.runs").exists()


def test_without_a_device_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([str(tmp_path / "out")]) == 3
    assert "torch sees no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["no-such-package>=1", "torch"])
    assert gpu.main([str(tmp_path / "out"), "--dry"]) == 3
    assert "lacks no-such-package. Give a folder of wheels" in capsys.readouterr().err


def measured(variant: str, value: float, *, magnifies: bool = False) -> dict[str, Any]:
    return {
        "variant": variant,
        "vocoder": "some",
        "magnifies_rounding": magnifies,
        "found": dict(zip(Deviations.__dataclass_fields__, [value] * 4 + [-40.0], strict=True)),
        "allowed": dict.fromkeys(Deviations.__dataclass_fields__, 1.0),
        "repeated": True,
        "failures": [],
        "stages": {"encode": [value, value], "head": [value, math.inf]},
    }


def test_tolerances_are_those_that_the_matrix_takes() -> None:
    rows = [measured("cuda-tf32", 0.001), measured("cuda-tf32", 0.0012)]
    rows.append(measured("cuda-tf32", 0.2, magnifies=True))
    page = summary(
        HERE,
        {"parity": {"outcome": "passed", "reason": "", "seconds": 1, "found": {"variants": rows}}},
    )
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {
        "Deviations": Deviations,
        "StageTolerance": StageTolerance,
        "math": math,
    }
    exec(code, names)
    assert names["_CUDA_TF32_PLAIN"] == Deviations(0.0036, 0.0036, 0.0036, 0.0036, -30.0)
    assert names["_CUDA_TF32_CONSISTENT"] == Deviations(0.6, 0.6, 0.6, math.inf, math.inf)
    assert names["_CUDA_TF32_PLAIN_STAGES"]["head"] == StageTolerance(0.0036, math.inf)


def test_the_summary_sets_the_fastest_beside_what_is_wanted() -> None:
    row = {"stage": "decode", "batch": 16, "seconds": 1.0, "precision": "bf16", "deviation": None}
    row |= {"p50_seconds": 1e-3}
    rows = [
        {**row, "mode": f"peers/{mode}", "x_real_time": speed, "speedup_over_eager": 2.0}
        for mode, speed in (("eager", 9_000.0), ("graph", 16_000.0))
    ]
    page = summary(
        HERE,
        {"bench": {"outcome": "passed", "reason": "", "seconds": 1, "found": {"in_turns": rows}}},
    )
    assert (
        "| decode 16 x 1 s, x real time | 16,000.0 (bf16, graph) | 20,000, better 60,000 |" in page
    )
    assert f"| decode 3 s, against eager | {NOT_RUN} | 3, better 8 |" in page
