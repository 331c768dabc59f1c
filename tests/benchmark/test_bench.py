"""What the benchmark measures, leaves out and draws, and what pytest-benchmark keeps of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.colors import to_hex

from melcheck.benchmark import cases as bench_cases
from melcheck.benchmark import measure, roofline
from melcheck.benchmark.cases import (
    FULL_SIZES,
    MODES,
    PAPER_SIZE,
    RANDOM,
    STAGES,
    Case,
    Size,
    bench_vocoder,
    cases,
    in_mode,
)
from melcheck.benchmark.measure import (
    Measurement,
    Sweep,
    make_inputs,
    peak_memory_mib,
    prepare_call,
)
from melcheck.benchmark.plots import draw_run, png
from melcheck.benchmark.roofline import Rates, Work
from melcheck.vocoders.vocos import VocosVocoder

CPU = torch.device("cpu")
SECOND = Size(1, 1.0)
CLIP = Path(__file__).parents[2] / "fixtures" / "audio" / "kokoro-kumo-en.wav"


@pytest.fixture(scope="module")
def vocoder() -> VocosVocoder:
    return bench_vocoder("embedded", "cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the rates of the machine on little, and time few inputs."""
    monkeypatch.setattr(roofline, "_ROWS", {"cpu": (16,)})
    monkeypatch.setattr(roofline, "_FRAMES", {"cpu": (16,)})
    monkeypatch.setattr(roofline, "_COPIED_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(measure, "_ROTATED_BYTES", {"cpu": 2**18})


@pytest.fixture
def sweep() -> Sweep:
    return Sweep(case_seconds=0.0)


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


def test_small_cases_come_first_so_that_they_predict_what_follows() -> None:
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
    # Phases that are retrieved turn with rounding: their mels are near.
    apart = (vocoder.encode(plain) - vocoder.encode(low)).abs().mean()
    assert 0 < float(apart) < 0.3


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
def test_a_case_is_measured(sweep: Sweep, vocoder: VocosVocoder, stage: Any) -> None:
    found = sweep.measure(vocoder, a_case(stage=stage))
    assert len(found.durations_seconds) == 3
    assert min(found.durations_seconds) <= found.p50_seconds <= found.p95_seconds
    assert found.p95_seconds <= max(found.durations_seconds)
    assert found.x_real_time == 1.0 / found.p50_seconds
    assert found.frames_per_second == 94 / found.p50_seconds
    assert (found.upload_seconds, found.download_seconds) == (None, None)
    assert found.fraction is not None


def test_a_vocoder_that_is_no_vocos_is_timed_without_a_limit(sweep: Sweep) -> None:
    griffin_lim = bench_vocoder("griffin-lim", "cpu")
    found = sweep.measure(griffin_lim, a_case(stage="encode"))
    assert (found.fraction, found.extra_info()["fraction"]) == (None, None)
    assert "of the attainable" not in str(found)
    assert set(draw_run([found])) == {"throughput-griffin-lim-cpu-fp32.png"}


def test_a_case_is_timed_as_long_as_was_asked_for(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "seconds_of", lambda call, *operands: 0.1)
    rounds = [
        len(Sweep(case_seconds=seconds).measure(vocoder, a_case()).durations_seconds)
        for seconds in (0.1, 2.0, 50.0)
    ]
    assert rounds == [3, 20, 100]


def test_a_slower_call_is_seen_whatever_the_machines_mood() -> None:
    assert seen(0.2, 0.3).fraction == pytest.approx(0.5 * seen(0.1, 0.3).fraction)


def test_percentiles_are_of_the_calls() -> None:
    found = seen(*(0.001 * number for number in range(1, 102)))
    assert found.p50_seconds == pytest.approx(0.051)
    assert found.p95_seconds == pytest.approx(0.096)
    assert seen(0.5).p95_seconds == 0.5


def test_inputs_are_more_than_a_cache_holds_and_all_other_memory(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_ROTATED_BYTES", {"cpu": 2**26})
    inputs = make_inputs(vocoder, a_case(stage="encode", size=Size(4, 3.0)))
    assert sum(value.numel() * value.element_size() for value in inputs) >= 2**26
    assert len({value.data_ptr() for value in inputs}) == len(inputs)


def test_a_round_trip_goes_on_to_the_mel(vocoder: VocosVocoder) -> None:
    waveform = 0.1 * torch.randn(1, 24_000)
    call, _ = prepare_call(vocoder, a_case(stage="round_trip"))
    result = call(waveform)
    assert torch.equal(result, vocoder.encode(vocoder.decode(vocoder.encode(waveform))))


def test_the_peak_of_memory_sees_what_is_given_back() -> None:
    peak = peak_memory_mib(lambda: torch.ones(64 * 2**18).sum(), CPU)
    assert peak is None or 48 < peak < 128


# What does not fit.


def remembering(
    sweep: Sweep, vocoder: VocosVocoder, found: Measurement, *, taken: float = 0.0
) -> Sweep:
    key = (vocoder.info.name, found.case.stage, "cpu", found.case.precision, found.case.mode)
    sweep._seen[key] = found, taken
    return sweep


def test_a_case_that_would_take_too_long_is_left_out_with_the_reason(
    vocoder: VocosVocoder,
) -> None:
    sweep = remembering(Sweep(seconds=100.0, clock=lambda: 0.0), vocoder, seen(1.0))
    assert sweep.left_out(vocoder, a_case(size=Size(12, 1.0))) is None
    reason = sweep.left_out(vocoder, a_case(size=Size(64, 1.0)))
    assert reason == "it would take about 512 s, and 100 s of the run's 100 s are left"


def test_time_that_has_passed_is_gone(vocoder: VocosVocoder) -> None:
    now = [0.0]
    sweep = remembering(Sweep(seconds=100.0, clock=lambda: now[0]), vocoder, seen(1.0))
    now[0] = 90.0
    assert "and 10 s of the run's 100 s are left" in (
        sweep.left_out(vocoder, a_case(size=Size(16, 1.0))) or ""
    )


def test_what_surrounds_the_calls_is_predicted_too(vocoder: VocosVocoder) -> None:
    sweep = Sweep(seconds=100.0, clock=lambda: 0.0)
    remembering(sweep, vocoder, seen(0.001), taken=101.0)
    assert "about 101 s" in (sweep.left_out(vocoder, a_case()) or "")


def test_a_case_that_would_take_too_much_memory_is_left_out_with_the_reason(
    vocoder: VocosVocoder,
) -> None:
    sweep = remembering(Sweep(), vocoder, seen(0.001, peak_memory_mib=1024.0))
    assert sweep.left_out(vocoder, a_case(size=Size(1, 3.0))) is None
    reason = sweep.left_out(vocoder, a_case(size=Size(64, 30.0))) or ""
    assert reason.startswith("it would take about 1920.0 GiB of memory, and ")


def test_the_first_of_its_kind_is_never_left_out(vocoder: VocosVocoder) -> None:
    assert Sweep(seconds=0.0).left_out(vocoder, a_case()) is None


def test_what_a_processor_lacks_is_left_out_with_the_reason(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    reasons = [Sweep().left_out(vocoder, a_case(precision="bf16", mode=mode)) for mode in MODES]
    assert all("on this processor, got 'bf16'" in (reason or "") for reason in reasons)
    assert Sweep().left_out(vocoder, a_case()) is None


def test_only_a_vocos_has_other_modes() -> None:
    griffin_lim = bench_vocoder("griffin-lim", "cpu")
    assert Sweep().left_out(griffin_lim, a_case()) is None
    reason = Sweep().left_out(griffin_lim, a_case(mode="optimised"))
    assert reason is not None
    assert reason.startswith("only a Vocos with its own mel has other modes")
    with pytest.raises(TypeError, match="must be a Vocos, got 'griffin-lim'"):
        in_mode(griffin_lim, "optimised", "fp32")


# In the tests of a project.

PROJECT = """
from melcheck.suite import test_speed_of_the_loop

def mel(waveform):
    from melcheck import log_mel
    return log_mel(waveform)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project that times Griffin-Lim, which no weights and no rates of the machine delay."""
    monkeypatch.setattr(bench_cases, "SHORT_SIZES", (Size(1, 0.25),))
    # Asking the processor for its name takes half a second.
    monkeypatch.setattr("pytest_benchmark.plugin.get_cpu_info", lambda: {"brand_raw": "ours"})
    pytester.makepyprojecttoml(
        "[tool.pytest.ini_options]\nmel_vocoder = ['griffin-lim']\nmel_device = ['cpu']\n"
    )
    pytester.makepyfile(test_speed=PROJECT)
    return pytester


def timed(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_inprocess(
        "-p", "no:cacheprovider", "-m", "benchmark", f"--mel-audio={CLIP}", *options
    )


def test_pytest_benchmark_keeps_a_run_and_compares_the_next_with_it(
    project: pytest.Pytester,
) -> None:
    kept = timed(project, "--benchmark-autosave")
    kept.assert_outcomes(passed=3, skipped=3)
    kept.stdout.fnmatch_lines(["*melcheck: speed*", "griffin-lim encode-cpu-1x0.25s-fp32-eager*"])
    [file] = project.path.glob(".benchmarks/*/0001_*.json")
    entries = json.loads(file.read_text())["benchmarks"]
    assert [entry["group"] for entry in entries] == list(STAGES)
    assert all(entry["extra_info"]["vocoder"] == "griffin-lim" for entry in entries)
    compared = timed(project, "--benchmark-compare")
    compared.assert_outcomes(passed=3, skipped=3)
    compared.stdout.fnmatch_lines(["*decode-cpu-1x0.25s-fp32-eager-griffin-lim* (NOW)*"])


def test_each_case_runs_once_where_benchmarks_are_disabled(project: pytest.Pytester) -> None:
    timed(project, "--benchmark-disable").assert_outcomes(passed=3, skipped=3)


def test_a_front_end_of_the_project_is_timed_with_the_vocoder(project: pytest.Pytester) -> None:
    found = timed(project, "--mel-frontend", "test_speed:mel")
    found.assert_outcomes(passed=3, skipped=3)


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


def test_modes_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
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
