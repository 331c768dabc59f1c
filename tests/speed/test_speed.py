"""What the pipeline costs: its checks and wrappers, against raw calls of the same model.

Once as ratio of whole calls, as a user meets it, by the gate of speed; and once as the time of a
pipeline around a model that does nothing, in which a busy machine leaves nothing undecided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from melcheck.benchmark.paired_timing import thread_clock
from melcheck.benchmark.speed_gate import SpeedComparison, compare_speed
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline

STAGES = ("encode", "decode")
# The pipeline's own share of a call. Measured: 0.2 % of encode, 0.04 % of decode.
ALLOWED_SHARE = 0.03
SAMPLES = 72_000

Calls = dict[str, Callable[[], Any]]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine hide what is looked for here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pipeline(one_thread: None) -> MelPipeline:
    return MelPipeline(MelCheckConfig("no-file.wav"))


@pytest.fixture
def waveform() -> torch.Tensor:
    return 0.1 * torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0))


def raw(pipeline: MelPipeline, waveform: torch.Tensor) -> Calls:
    model: Any = pipeline.vocoder.model
    mel = model.feature_extractor(waveform)
    return {
        "encode": lambda: model.feature_extractor(waveform),
        "decode": lambda: model.decode(mel),
    }


def through(pipeline: MelPipeline, waveform: torch.Tensor) -> Calls:
    mel = pipeline.waveform2mel(waveform)
    return {
        "encode": lambda: pipeline.waveform2mel(waveform),
        "decode": lambda: pipeline.mel2waveform(mel),
    }


def around_nothing(pipeline: MelPipeline, waveform: torch.Tensor) -> MelPipeline:
    """Return the pipeline with a model that has its answers ready."""
    answers = {stage: call() for stage, call in raw(pipeline, waveform).items()}
    model = SimpleNamespace(
        feature_extractor=lambda waveform: answers["encode"], decode=lambda mel: answers["decode"]
    )
    vocoder: Any = dataclasses.replace(pipeline.vocoder, model=model)
    return MelPipeline(pipeline.config, vocoder=vocoder)


def whole_calls(pipeline: MelPipeline, waveform: torch.Tensor, stage: str) -> SpeedComparison:
    return compare_speed(
        through(pipeline, waveform)[stage],
        raw(pipeline, waveform)[stage],
        allowed_ratio=1 + ALLOWED_SHARE,
        budget_seconds=2,
    )


def share(pipeline: MelPipeline, empty: MelPipeline, waveform: torch.Tensor, stage: str) -> float:
    return shortest(through(empty, waveform)[stage]) / shortest(raw(pipeline, waveform)[stage])


def shortest(call: Callable[[], object]) -> float:
    times = []
    for _ in range(20):
        begin = thread_clock()
        call()
        times.append(thread_clock() - begin)
    return min(times)


def sort_first(pipeline: MelPipeline) -> None:
    """Make the pipeline's check do what costs more than it may: a look at every value."""
    check = pipeline._check_tensor

    def thorough(name: str, value: torch.Tensor, shape: str, dimensions: int) -> None:
        check(name, value, shape, dimensions)
        assert all(value.sort(dim=-1).values.isfinite().flatten().tolist())

    pipeline._check_tensor = thorough  # type: ignore[method-assign]


@pytest.mark.benchmark
@pytest.mark.parametrize("stage", STAGES)
def test_a_call_of_the_pipeline_takes_no_longer_than_a_raw_one(
    pipeline: MelPipeline, waveform: torch.Tensor, stage: str, mel_note: Callable[[str], None]
) -> None:
    found = whole_calls(pipeline, waveform, stage)
    mel_note(f"{stage} by the pipeline and by the raw model: {found}")
    assert found.passed, found.message()


@pytest.mark.benchmark
@pytest.mark.parametrize("stage", STAGES)
def test_what_the_pipeline_adds_is_less_than_3_percent_of_a_raw_call(
    pipeline: MelPipeline, waveform: torch.Tensor, stage: str
) -> None:
    empty = around_nothing(pipeline, waveform)
    assert share(pipeline, empty, waveform, stage) < ALLOWED_SHARE


@pytest.mark.benchmark
def test_a_costly_check_is_seen_in_whole_calls(
    pipeline: MelPipeline, waveform: torch.Tensor
) -> None:
    sort_first(pipeline)
    # Half a second is enough to see it, in many more pairs.
    assert whole_calls(pipeline, waveform[:, :12_000], "encode").outcome == "slower"


@pytest.mark.benchmark
def test_a_costly_check_is_seen_around_nothing(
    pipeline: MelPipeline, waveform: torch.Tensor
) -> None:
    empty = around_nothing(pipeline, waveform)
    sort_first(empty)
    assert share(pipeline, empty, waveform, "encode") > ALLOWED_SHARE
