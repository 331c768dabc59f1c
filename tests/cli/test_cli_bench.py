"""`melcheck bench`: what it prints, draws and refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from melcheck.benchmark import cases as bench_cases
from melcheck.benchmark import measure, roofline
from melcheck.benchmark.cases import Case, Size, bench_vocoder
from melcheck.benchmark.measure import Measurement
from melcheck.benchmark.roofline import Rates, Work
from melcheck.cli.bench import measured_text
from melcheck.cli.main import main
from melcheck.cli.output import Terminal

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The JSON of a run, and the folder that it wrote to; one for all tests."""
    folder = tmp_path_factory.mktemp("run") / "new"
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(bench_cases, "SHORT_SIZES", (Size(1, 0.25),))
        patch.setattr(measure, "_ROTATED_BYTES", {"cpu": 2**18})
        patch.setattr(measure, "_SHORT_CASE_SECONDS", 0.0)
        patch.setattr(roofline, "_COPIED_BYTES", {"cpu": 2**20})
        assert main(["bench", "--vocoder", "embedded", "--json", "--output", str(folder)]) == 0
    return json.loads(out.getvalue()), folder


def test_every_stage_is_measured_in_every_mode(run: tuple[Any, Path]) -> None:
    assert [case["name"] for case in run[0]["cases"]] == [
        f"{stage}-cpu-1x0.25s-fp32-{mode}"
        for mode in bench_cases.MODES
        for stage in bench_cases.STAGES
    ]
    assert run[0]["left_out"] == {}


def test_what_is_written_is_named_and_there(run: tuple[Any, Path]) -> None:
    names = {Path(name).name for name in run[0]["files"]}
    assert names == {"throughput-embedded-cpu-fp32.png", "fraction-embedded-cpu.png"}
    assert {path.name for path in run[1].iterdir()} == names


def test_a_vocoder_that_is_no_vocos_is_timed_without_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(bench_cases, "SHORT_SIZES", (Size(1, 0.25),))
    monkeypatch.setattr(measure, "_SHORT_CASE_SECONDS", 0.0)
    assert main(["bench", "--vocoder", "griffin-lim"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count(" fp32 eager ") == 3
    assert out.count("left out: ") == 3
    assert "only a Vocos with its own mel has other modes" in out
    assert "GFLOP/s" not in out


def test_a_precision_that_is_named_and_absent_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert main(["bench", "--vocoder", "embedded", "--precision", "bf16"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "precision must be 'fp32' on this processor, got 'bf16'" in captured.err


def test_a_precision_that_was_not_named_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(bench_cases, "SHORT_SIZES", (Size(1, 0.25),))
    monkeypatch.setattr(bench_cases, "precisions_of", lambda device: ("bf16",))
    assert main(["bench", "--vocoder", "embedded"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "left out: decode-cpu-1x0.25s-bf16-eager: precision must be 'fp32'" in out


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (2, ["--precision", "tf32"], "--precision tf32 runs on CUDA only"),
        (2, ["--vocoder", "offical"], "Did you mean 'official'?"),
        (3, ["--device", "cuda:99"], "device must exist on this machine"),
    ],
)
def test_what_cannot_be_timed_is_refused(
    code: int, arguments: list[str], message: str, capsys: Captured
) -> None:
    assert main(["bench", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


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
    text = measured_text(bench_vocoder("embedded", "cpu"), [slow, quick], {}, [], Terminal())
    rows = [line for line in text.splitlines() if line.startswith("round trip")]
    assert len(rows) == 2
    assert max(map(len, text.splitlines())) <= 80
    assert "99,300" in rows[0]
    assert "123.4" in rows[1]
