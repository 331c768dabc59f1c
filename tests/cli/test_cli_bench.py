"""`melcheck bench`: what it prints, stores, compares and refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import peers as bench_peers
from melcheck.benchmark import cases as bench_cases
from melcheck.benchmark.cases import Case, Size, bench_vocoder
from melcheck.benchmark.measure import Measurement
from melcheck.benchmark.roofline import Rates, Work
from melcheck.cli.bench import measured_text
from melcheck.cli.main import main
from melcheck.cli.output import Terminal

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What a run says in JSON, and the folder that it wrote to; one for all tests."""
    folder = tmp_path_factory.mktemp("run") / "new"
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(bench_cases, "SHORT_SIZES", (Size(1, 1.0),))
        # Asking the processor for its name takes half a second.
        patch.setattr("pytest_benchmark.plugin.get_cpu_info", lambda: {"brand_raw": "ours"})
        for name in ("librosa", "onnxruntime"):
            patch.delitem(bench_peers.PEERS, name)
        command = ["bench", "--vocoder", "embedded", "--precision", "fp32", "--precision", "bf16"]
        assert main([*command, "--peers", "--json", "--output", str(folder)]) == 0
    return json.loads(out.getvalue()), folder


def test_every_stage_is_measured_and_encode_in_fp32_alone(run: tuple[Any, Path]) -> None:
    assert [case["name"] for case in run[0]["cases"] if case["mode"] == "eager"] == [
        "encode-cpu-1x1s-fp32-eager",
        "decode-cpu-1x1s-fp32-eager",
        "round_trip-cpu-1x1s-fp32-eager",
        "decode-cpu-1x1s-bf16-eager",
        "round_trip-cpu-1x1s-bf16-eager",
    ]


def test_peers_stand_beside(run: tuple[Any, Path]) -> None:
    modes = [peer["mode"] for peer in run[0]["peers"]]
    both = [f"peers/{name}" for name in (*bench_cases.MODES, "vocos")]
    assert modes == [*both, *both, "peers/griffin-lim"]


def test_what_is_written_is_named_and_there(run: tuple[Any, Path]) -> None:
    names = {Path(name).name for name in run[0]["files"]}
    assert names == {
        "benchmark.json",
        "throughput-embedded-cpu-fp32.png",
        "throughput-embedded-cpu-bf16.png",
        "fraction-embedded-cpu.png",
    }
    assert {path.name for path in run[1].iterdir()} == names


@pytest.fixture
def stored(run: tuple[Any, Path], tmp_path: Path) -> Callable[..., Path]:
    """Write the run again, after a change."""

    def write(name: str, change: Callable[[Any], None] = lambda document: None) -> Path:
        document = json.loads((run[1] / "benchmark.json").read_text())
        change(document)
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def test_a_run_compared_with_itself_is_as_fast(
    run: tuple[Any, Path], stored: Any, capsys: Captured
) -> None:
    path = str(stored("a.json"))
    assert main(["bench", "--compare", path, path, "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert {case["speedup"] for case in comparison["cases"]} == {1.0}
    assert comparison["differences"] == []
    assert len(comparison["cases"]) == len(run[0]["cases"]) + len(run[0]["peers"])


def test_runs_of_two_machines_have_only_fractions_to_compare(stored: Any, capsys: Captured) -> None:
    def elsewhere(document: Any) -> None:
        document["machine_info"]["node"] = "elsewhere"

    paths = [str(stored("a.json")), str(stored("b.json", elsewhere))]
    assert main(["bench", "--compare", *paths]) == 0
    out = capsys.readouterr().out
    assert "only the fractions can be compared" in out
    assert "elsewhere in B" in out
    assert max(map(len, out.splitlines())) <= 80


def test_all_files_that_are_no_runs_are_named(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "b.json").write_text("{}")
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["bench", "--compare", *paths]) == 2
    error = capsys.readouterr().err
    assert "a.json cannot be read: No such file" in error
    assert "b.json must be a run" in error


def test_runs_without_a_case_in_common_are_refused(stored: Any, capsys: Captured) -> None:
    def other(document: Any) -> None:
        for entry in document["benchmarks"]:
            entry["extra_info"]["vocoder"] = "other"

    paths = [str(stored("a.json")), str(stored("b.json", other))]
    assert main(["bench", "--compare", *paths]) == 2
    assert "must have a case in common" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "arguments", "told"),
    [
        (2, ["--precision", "tf32"], "--precision tf32 runs on CUDA only"),
        (2, ["--vocoder", "griffin-lim"], "vocoder must be a Vocos"),
        (2, ["--vocoder", "offical"], "Did you mean 'official'?"),
        (3, ["--device", "cuda:99"], "device must exist on this machine"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    code: int, arguments: list[str], told: str, capsys: Captured
) -> None:
    assert main(["bench", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err


def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(
    tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["bench", "--vocoder", "embedded", "--output", str(tmp_path / "file")]) == 2
    assert "the folder cannot be made" in capsys.readouterr().err


def test_the_table_of_a_long_run_fits_80_columns() -> None:
    case = Case("round_trip", "cpu", Size(64, 30.0), "fp32", "optimised")
    slow = Measurement(
        case=case,
        vocoder="random-official",
        durations_seconds=(98.7, 99.9),
        frames=180_032,
        peak_memory_mib=16_384.0,
        upload_seconds=None,
        download_seconds=None,
        work=Work(products=1e13),
        rates=Rates(3e11, 3e10, 3e10),
        threads=2,
        device_name="cpu",
    )
    quick = dataclasses.replace(slow, durations_seconds=(0.1234,) * 2)
    text = measured_text(
        bench_vocoder("embedded", "cpu"), [slow, quick], {}, [], {}, [], Terminal()
    )
    rows = [line for line in text.splitlines() if line.startswith("round trip")]
    assert len(rows) == 2
    assert max(map(len, text.splitlines())) <= 80
    assert "99,300" in rows[0]
    assert "123.4" in rows[1]
