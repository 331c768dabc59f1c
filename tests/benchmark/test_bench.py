"""What `melcheck bench` measures, leaves out, stores, compares, draws and sets beside others."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.colors import to_hex
from torch import Tensor

from benchmarks import peers as bench_peers
from benchmarks.peers import PEERS, measure_peers
from melcheck.benchmark import cases as bench_cases
from melcheck.benchmark.cases import (
    FULL_SIZES,
    MODES,
    PAPER_SIZE,
    RANDOM,
    Case,
    Size,
    bench_vocoder,
    cases,
    in_mode,
)
from melcheck.benchmark.measure import Bench, Measurement, make_inputs, peak_memory_mib, stage_call
from melcheck.benchmark.plots import draw_run, png
from melcheck.benchmark.roofline import STAGES, Rates, Work
from melcheck.benchmark.runs import compare_runs, document, read_run
from melcheck.vocoders.vocos import VocosVocoder
from tests.vocoders import untrained

CPU = torch.device("cpu")
SECOND = Size(1, 1.0)
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def vocoder() -> VocosVocoder:
    return bench_vocoder("embedded", "cpu")


@pytest.fixture(scope="module")
def bench() -> Bench:
    """One for all, since a new one begins with the machine's rates."""
    return Bench(case_seconds=0.01)


def a_case(**other: Any) -> Case:
    return dataclasses.replace(Case("decode", "cpu", SECOND, "fp32", "eager"), **other)


def seen(*durations: float, case: Case | None = None, **other: Any) -> Measurement:
    """Return a measurement that nobody made."""
    numbers: dict[str, Any] = {
        "case": case or a_case(),
        "vocoder": "embedded",
        "durations_seconds": durations or (0.1,),
        "frames": 94,
        "peak_memory_mib": 10.0,
        "upload_seconds": None,
        "download_seconds": None,
        "work": Work(products=5.0),
        "rates": Rates(100.0, 100.0, 100.0),
        "threads": 2,
        "device_name": "cpu",
    }
    return Measurement(**(numbers | other))


# Cases.


def test_the_full_sweep_has_every_stage_size_precision_and_mode() -> None:
    planned = cases(["cpu", "cuda"], FULL_SIZES)
    assert {(case.size.batch, case.size.seconds) for case in planned} == {
        (batch, seconds) for batch in (1, 16, 64) for seconds in (1.0, 3.0, 10.0, 30.0)
    }
    assert {case.precision for case in planned if case.device == "cpu"} == {"fp32"}
    assert {case.precision for case in planned if case.device == "cuda"} == {
        "fp32",
        "tf32",
        "bf16",
        "fp16",
    }
    assert {case.stage for case in planned} == set(STAGES)
    assert {case.mode for case in planned} == set(MODES)
    assert len(planned) == len(set(planned))


def test_the_papers_protocol_is_in_the_sweep() -> None:
    assert PAPER_SIZE in FULL_SIZES
    assert seen(case=a_case(size=PAPER_SIZE)).extra_info()["paper"] is True


def test_little_comes_first_so_that_it_foretells_what_follows() -> None:
    amounts = [case.size.audio_seconds for case in cases(["cpu"], FULL_SIZES)]
    assert amounts == sorted(amounts)


def test_a_new_mode_is_one_entry(monkeypatch: pytest.MonkeyPatch, vocoder: VocosVocoder) -> None:
    monkeypatch.setitem(MODES, "other", lambda vocoder, precision: vocoder)
    assert "other" in {case.mode for case in cases(["cpu"], [SECOND])}
    assert in_mode(vocoder, "other", "fp32") is vocoder


def test_an_unknown_mode_is_refused(vocoder: VocosVocoder) -> None:
    with pytest.raises(ValueError, match=r"mode must be 'eager'.*, got 'fast'"):
        in_mode(vocoder, "fast", "fp32")


def test_eager_bf16_is_near_fp32_and_not_it(vocoder: VocosVocoder) -> None:
    mel = vocoder.encode(0.1 * torch.randn(1, 24_000, generator=torch.manual_seed(0)))
    plain = in_mode(vocoder, "eager", "fp32").decode(mel)
    low = in_mode(vocoder, "eager", "bf16").decode(mel)
    assert low.dtype == torch.float32
    assert 0 < float((plain - low).abs().max()) < float(plain.abs().max())


def test_random_weights_make_the_official_configuration() -> None:
    vocoder = bench_vocoder(RANDOM, "cpu")
    assert vocoder.info.num_parameters == 13_531_650
    again = bench_vocoder(RANDOM, "cpu").model.head.out.weight
    assert torch.equal(vocoder.model.head.out.weight, again)


def test_random_weights_leave_the_state_of_others_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    bench_vocoder(RANDOM, "cpu")
    assert torch.equal(torch.rand(1), expected)


# Measuring.


@pytest.mark.parametrize("stage", STAGES)
def test_a_case_is_measured(bench: Bench, vocoder: VocosVocoder, stage: Any) -> None:
    found = bench.measure(vocoder, a_case(stage=stage))
    assert len(found.durations_seconds) >= 3
    assert min(found.durations_seconds) <= found.p50_seconds <= found.p95_seconds
    assert found.p95_seconds <= max(found.durations_seconds)
    assert found.x_real_time == 1.0 / found.p50_seconds
    assert found.frames_per_second == 94 / found.p50_seconds
    assert (found.upload_seconds, found.download_seconds) == (None, None)


def test_a_slower_call_has_a_lower_fraction(
    bench: Bench, vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same work, with a pause of four times its length put into each call."""
    plain = bench.measure(vocoder, a_case())

    class Slowed:
        def decode(self, mel: Tensor) -> Tensor:
            time.sleep(4 * plain.p50_seconds)
            return vocoder.decode(mel)

    monkeypatch.setitem(MODES, "slowed", lambda vocoder, precision: Slowed())
    slowed = bench.measure(vocoder, a_case(mode="slowed"))
    assert slowed.fraction < 0.5 * plain.fraction


def test_a_slower_call_is_seen_whatever_the_machines_mood() -> None:
    assert seen(0.2, 0.3).fraction == pytest.approx(0.5 * seen(0.1, 0.3).fraction)


def test_percentiles_are_of_the_calls() -> None:
    found = seen(*(0.001 * number for number in range(1, 102)))
    assert found.p50_seconds == pytest.approx(0.051)
    assert found.p95_seconds == pytest.approx(0.096)
    assert seen(0.5).p95_seconds == 0.5


def test_inputs_are_more_than_a_cache_holds_and_all_other_memory(vocoder: VocosVocoder) -> None:
    inputs = make_inputs(vocoder, a_case(stage="encode", size=Size(4, 3.0)))
    assert sum(value.numel() * value.element_size() for value in inputs) >= 2**26
    assert len({value.data_ptr() for value in inputs}) == len(inputs)


def test_a_round_trip_goes_on_to_the_mel(vocoder: VocosVocoder) -> None:
    waveform = 0.1 * torch.randn(1, 24_000)
    result = stage_call(vocoder, a_case(stage="round_trip"))(waveform)
    assert torch.equal(result, vocoder.encode(vocoder.decode(vocoder.encode(waveform))))


def test_the_peak_of_memory_sees_what_is_given_back() -> None:
    peak = peak_memory_mib(lambda: torch.ones(64 * 2**18).sum(), CPU)
    assert peak is None or 48 < peak < 128


# What does not fit.


def remembering(
    bench: Bench, vocoder: VocosVocoder, found: Measurement, *, taken: float = 0.0
) -> Bench:
    key = (vocoder.info.name, found.case.stage, "cpu", found.case.precision, found.case.mode)
    bench._seen[key] = found, taken
    return bench


def test_a_case_that_would_take_too_long_is_left_out_with_the_reason(
    vocoder: VocosVocoder,
) -> None:
    bench = remembering(Bench(seconds=100.0, clock=lambda: 0.0), vocoder, seen(1.0))
    assert bench.left_out(vocoder, a_case(size=Size(16, 1.0))) is None
    reason = bench.left_out(vocoder, a_case(size=Size(64, 1.0)))
    assert reason == "it would take about 320 s, of which 100 are left of the run's 100"


def test_time_that_has_passed_is_gone(vocoder: VocosVocoder) -> None:
    now = [0.0]
    bench = remembering(Bench(seconds=100.0, clock=lambda: now[0]), vocoder, seen(1.0))
    now[0] = 90.0
    assert "of which 10 are left" in (bench.left_out(vocoder, a_case(size=Size(16, 1.0))) or "")


def test_what_surrounds_the_calls_is_foretold_too(vocoder: VocosVocoder) -> None:
    bench = Bench(seconds=100.0, clock=lambda: 0.0)
    remembering(bench, vocoder, seen(0.001), taken=101.0)
    assert "about 101 s" in (bench.left_out(vocoder, a_case()) or "")


def test_a_case_that_would_take_too_much_memory_is_left_out_with_the_reason(
    vocoder: VocosVocoder,
) -> None:
    bench = remembering(Bench(), vocoder, seen(0.001, peak_memory_mib=1024.0))
    assert bench.left_out(vocoder, a_case(size=Size(1, 3.0))) is None
    reason = bench.left_out(vocoder, a_case(size=Size(64, 30.0))) or ""
    assert reason.startswith("it would take about 1920.0 GiB of memory, of which ")


def test_the_first_of_its_kind_is_never_left_out(vocoder: VocosVocoder) -> None:
    assert Bench(seconds=0.0).left_out(vocoder, a_case()) is None


# Peers.


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_peers_that_are_there_compute_what_we_compute(stage: Any) -> None:
    # A plain Vocos, as peers know it: the embedded one's head is nobody else's.
    vocoder = untrained.small()
    case = a_case(stage=stage)
    times, absent = measure_peers(vocoder, case, make_inputs(vocoder, case)[:4], seconds=0.1)
    names = [peer.case.mode.removeprefix("peers/") for peer in times]
    assert names[0] == "eager"
    packages = {"librosa": ["librosa"], "onnxruntime": ["onnx", "onnxruntime"]}
    here = {
        name
        for name, stages in PEERS.items()
        if stage in stages and all(map(importlib.util.find_spec, packages.get(name, [])))
    }
    assert here <= set(names)
    assert set(names) | set(absent) == {*MODES, *(n for n, s in PEERS.items() if stage in s)}


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_peers.importlib.util, "find_spec", lambda name: None)
    case = a_case(stage="encode")
    times, absent = measure_peers(vocoder, case, make_inputs(vocoder, case)[:4], seconds=0.0)
    assert absent == {
        "librosa": "the package librosa is not installed: pip install 'melcheck[peers]'"
    }
    assert [peer.case.mode for peer in times] == [f"peers/{name}" for name in (*MODES, "vocos")]


def test_a_peer_that_computes_something_else_is_not_timed(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(vocoder: VocosVocoder) -> Callable[[Tensor], Tensor]:
        return lambda mel: 1.01 * vocoder.decode(mel)

    monkeypatch.setitem(bench_peers.PEERS, "vocos", {"decode": wrong})
    monkeypatch.delitem(bench_peers.PEERS, "onnxruntime")
    case = a_case()
    times, absent = measure_peers(vocoder, case, make_inputs(vocoder, case)[:4], seconds=0.0)
    assert "its result differs from ours by 1.0e-02" in absent["vocos"]
    assert "peers/vocos" not in [peer.case.mode for peer in times]


# Storing and comparing.


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    # Asking the processor for its name takes half a second.
    monkeypatch.setattr("pytest_benchmark.plugin.get_cpu_info", lambda: {"brand_raw": "ours"})

    def store(name: str, *measurements: Measurement) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(document(measurements)))
        return path

    return store


def test_pytest_benchmark_reads_a_stored_run(stored: Callable[..., Path]) -> None:
    paths = [stored("a.json", seen(0.1)), stored("b.json", seen(0.2))]
    command = [sys.executable, "-m", "pytest_benchmark", "compare", *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("embedded decode-cpu-1x1s-fp32-eager") == 2


def test_two_runs_are_compared_case_by_case(stored: Callable[..., Path]) -> None:
    longer = a_case(size=Size(1, 3.0))
    before = read_run(stored("a.json", seen(0.2), seen(0.3, case=longer)))
    after = read_run(stored("b.json", seen(0.1)))
    found = compare_runs(before, after)
    [ratio] = found.cases
    assert (ratio.seconds, ratio.speedup) == ((0.2, 0.1), 2.0)
    assert ratio.fractions == pytest.approx((0.25, 0.5))
    assert found.only_a == ("embedded decode-cpu-1x3s-fp32-eager",)
    assert (found.only_b, found.differences) == ((), ())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run["machine_info"].update(node="there"), "node: "),
        (lambda run: run["machine_info"]["cpu"].update(brand_raw="other"), "processor: "),
        (lambda run: run["benchmarks"][0]["extra_info"].update(threads=64), "threads: 2 in A, 64"),
        (lambda run: run["benchmarks"][0]["extra_info"].update(torch="1.0"), "torch: "),
    ],
    ids=["machine", "processor", "threads", "version"],
)
def test_runs_that_differ_say_how(
    stored: Callable[..., Path], change: Callable[[Any], None], told: str
) -> None:
    first, second = (read_run(stored(name, seen(0.1))) for name in ("a.json", "b.json"))
    change(second)
    [difference] = compare_runs(first, second).differences
    assert difference.startswith(told)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"benchmarks": [], "machine_info": {}}', "null"])
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json must be a run that"):
        read_run(path)


# Pictures.


def test_a_run_has_a_picture_of_throughput_and_one_of_the_limit() -> None:
    found = [seen(0.1, case=case) for case in cases(["cpu"], FULL_SIZES)]
    figures = draw_run(found)
    assert set(figures) == {"throughput-embedded-cpu-fp32.png", "fraction-embedded-cpu.png"}
    assert png(figures["fraction-embedded-cpu.png"]).startswith(b"\x89PNG")


def test_throughput_is_drawn_where_it_was_measured() -> None:
    found = [seen(0.1, case=a_case(size=size)) for size in (Size(1, 1.0), Size(16, 1.0))]
    figure = draw_run(found)["throughput-embedded-cpu-fp32.png"]
    above = figure.axes[0].lines[0]
    assert above.get_xdata().tolist() == [1, 16]
    assert above.get_ydata().tolist() == pytest.approx([10.0, 160.0])


def test_modes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_cases.MODES, "other", lambda vocoder, precision: vocoder)
    found = [seen(0.1, case=a_case(mode=mode)) for mode in ("eager", "other")]
    figures = draw_run(found)
    lines = figures["throughput-embedded-cpu-fp32.png"].axes[0].lines
    assert {line.get_linestyle() for line in lines} == {"--", "-"}
    dots = [
        line for line in figures["fraction-embedded-cpu.png"].axes[0].lines if line.get_marker()
    ]
    assert len({to_hex(line.get_color()) for line in dots}) >= 2


def test_nothing_measured_is_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_run([])
