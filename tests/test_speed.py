"""What the pipeline costs: its checks and wrappers, against raw calls of the same vocoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.speed_gate import SpeedComparison, compare_speed

# The pipeline's own share of a call may be so much.
OVERHEAD = 1.03
SAMPLES = 72_000
BUDGET_SECONDS = 4.0


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine hide what is looked for here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pipeline() -> MelPipeline:
    return MelPipeline(MelCheckConfig("no-file.wav"))


def calls(pipeline: MelPipeline, stage: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the pipeline's way and the raw one of doing the same."""
    waveform = 0.1 * torch.randn(1, SAMPLES, generator=torch.Generator().manual_seed(0))
    mel = pipeline.waveform2mel(waveform)
    model = pipeline.vocoder.model
    ways = {
        "encode": (
            lambda: pipeline.waveform2mel(waveform),
            lambda: model.feature_extractor(waveform),
        ),
        "decode": (lambda: pipeline.mel2waveform(mel), lambda: model.decode(mel)),
    }
    return ways[stage]


def overhead(pipeline: MelPipeline, stage: str) -> SpeedComparison:
    ours, raw = calls(pipeline, stage)
    return compare_speed(ours, raw, allowed_ratio=OVERHEAD, budget_seconds=BUDGET_SECONDS)


@pytest.mark.benchmark
@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_the_pipeline_costs_less_than_3_percent_of_a_raw_call(
    one_thread: None, pipeline: MelPipeline, stage: str, mel_note: Callable[[str], None]
) -> None:
    found = overhead(pipeline, stage)
    mel_note(f"overhead of the pipeline, {stage}: {found}")
    assert found.passed, found.message()


@pytest.mark.benchmark
def test_a_pipeline_that_checks_for_nan_by_hand_would_cost_more(
    one_thread: None, pipeline: MelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = pipeline._check_tensor

    def thorough(name: str, value: torch.Tensor, shape: str, dimensions: int) -> None:
        check(name, value, shape, dimensions)
        assert all(value.sort(dim=-1).values.isfinite().flatten().tolist())

    monkeypatch.setattr(pipeline, "_check_tensor", thorough)
    assert overhead(pipeline, "encode").outcome == "slower"
