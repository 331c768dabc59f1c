"""The pipeline costs no tensor operation beside those of the model.

What that is in time, `tests/speed/test_speed_figures.py` prints.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline

STAGES = ("encode", "decode")


class Operations(TorchDispatchMode):
    """Notes each operation on tensors that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.names.append(str(function))
        return function(*arguments, **(options or {}))


def operations_around_nothing(stage: str, *, thorough: bool = False) -> list[str]:
    """Return what a pipeline asks of torch around a model that has its answers ready."""
    plain = MelPipeline(MelCheckConfig("no-file.wav"))
    waveform, mel, decoded = (torch.zeros(1, *size) for size in ((72_000,), (100, 282), (71_936,)))
    model = SimpleNamespace(feature_extractor=lambda _: mel, decode=lambda _: decoded)
    vocoder: Any = dataclasses.replace(plain.vocoder, model=model)  # type: ignore[type-var]
    pipeline = MelPipeline(plain.config, vocoder=vocoder)
    if thorough:
        check = pipeline._check_tensor

        def look_at_every_value(name: str, value: torch.Tensor, *rest: Any) -> None:
            check(name, value, *rest)
            assert value.isfinite().all()

        pipeline._check_tensor = look_at_every_value  # type: ignore[method-assign]
    call = pipeline.waveform2mel if stage == "encode" else pipeline.mel2waveform
    with Operations() as operations:
        call(waveform if stage == "encode" else mel)
    return operations.names


@pytest.mark.parametrize("stage", STAGES)
def test_the_pipeline_adds_no_operation(stage: str) -> None:
    assert operations_around_nothing(stage) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_costly_check_is_seen(stage: str) -> None:
    assert operations_around_nothing(stage, thorough=True) != []
