"""How fast the loop runs, and how near the machine's limit.

Plain `pytest` measures a few small cases with the embedded vocoder. `pytest -m benchmark
--mel-bench full` is the sweep, with the official configuration: under 8 minutes on 2 cores, and a
case that does not fit is skipped with the reason. `--benchmark-json FILE` keeps a run, which
`melcheck bench --compare` and `pytest-benchmark compare` set beside another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from melcheck.benchmark.cases import FULL_SIZES, RANDOM, SHORT_SIZES, Case, bench_vocoder, cases
from melcheck.benchmark.measure import FULL_SECONDS, Bench
from melcheck.pytest_plugin.cases import plan_of
from melcheck.pytest_plugin.options import from_command_line, texts
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable

SHORT_CASE_SECONDS = 0.2
# The limit is the best of few tries on a machine that others use too.
AROUND_THE_LIMIT = 1.15


class Stopwatch:
    """A clock that stands still but for the durations that it is given.

    `melcheck.benchmark.measure` measures, by CUDA events where there is a GPU; pytest-benchmark
    asks its timer before and after each round, and so hears of the same durations.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


STOPWATCH = Stopwatch()


def is_full(config: pytest.Config) -> bool:
    return texts(config, "bench") == ["full"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    config = metafunc.config
    plan = plan_of(config)
    full = is_full(config)
    named = from_command_line(config, "vocoder")
    names = plan.vocoders if named else (RANDOM if full else "embedded",)
    sizes = FULL_SIZES if full else SHORT_SIZES
    params = [
        pytest.param(
            name,
            case,
            id=f"{plan.label(name)}-{case}",
            marks=[pytest.mark.cuda] if case.device.startswith("cuda") else [],
        )
        for case in cases(plan.devices, sizes)
        for name in names
    ]
    metafunc.parametrize(("name", "case"), params)


@pytest.fixture(scope="module")
def bench(pytestconfig: pytest.Config) -> Bench:
    if is_full(pytestconfig):
        return Bench(seconds=FULL_SECONDS)
    return Bench(case_seconds=SHORT_CASE_SECONDS)


@pytest.fixture(scope="module")
def vocoder_of(pytestconfig: pytest.Config) -> Callable[[str, str], VocosVocoder]:
    loaded: dict[tuple[str, str], VocosVocoder] = {}

    def load(name: str, device: str) -> VocosVocoder:
        required = name in plan_of(pytestconfig).required
        if (name, device) not in loaded:
            try:
                loaded[name, device] = bench_vocoder(name, device, download=required)
            except VocoderUnavailable as error:
                (pytest.fail if required else pytest.skip)(str(error))
        return loaded[name, device]

    return load


@pytest.mark.benchmark(timer=STOPWATCH, group="loop")
def test_speed_of_the_loop(
    benchmark: Any,
    bench: Bench,
    vocoder_of: Callable[[str, str], VocosVocoder],
    mel_speed: Callable[[str], None],
    name: str,
    case: Case,
) -> None:
    vocoder = vocoder_of(name, case.device)
    reason = bench.left_out(vocoder, case)
    if reason is not None:
        mel_speed(f"{name} {case}: left out, {reason}")
        pytest.skip(reason)
    measurement = bench.measure(vocoder, case)
    durations = measurement.durations_seconds
    benchmark.group = case.stage
    benchmark.extra_info.update(measurement.extra_info())
    remaining = iter(durations)
    benchmark.pedantic(lambda: STOPWATCH.advance(next(remaining)), rounds=len(durations))
    mel_speed(str(measurement))
    assert 0 < measurement.fraction < AROUND_THE_LIMIT
