"""What only a second device shows, without one: see `tests.pretend_cuda`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_parts import Job, fit_network
from melcheck.benchmark import measure, roofline
from melcheck.benchmark.cases import Size, bench_vocoder, cases
from melcheck.pipeline import MelPipeline
from melcheck.speed.optimised import optimise
from melcheck.vocoders.vocos import VocosVocoder
from tests.pretend_cuda import CUDA, PretendedCuda, pretend_cuda
from tests.vocoders import untrained

NOISE = 0.1 * torch.randn(2, 8_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cuda() -> Iterator[PretendedCuda]:
    with pretend_cuda() as mode:
        yield mode


def a_vocos(name: str) -> VocosVocoder:
    plain = bench_vocoder(name, "cpu") if name == "embedded" else untrained.small()
    assert isinstance(plain, VocosVocoder)
    return dataclasses.replace(plain, device=CUDA, model=plain.model.to(CUDA))


def test_tensors_of_two_devices_do_not_mix(cuda: PretendedCuda) -> None:
    there = torch.ones(3, device="cuda")
    assert there.device == CUDA
    assert torch.equal((there + 1.0).cpu(), torch.full((3,), 2.0))
    with pytest.raises(RuntimeError, match="tensors on cuda:0 and on the CPU"):
        there + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    with pytest.raises(RuntimeError, match="a generator of cpu draws on cuda:0"):
        torch.randn(3, device="cuda", generator=torch.Generator())


def test_reading_a_value_back_is_counted(cuda: PretendedCuda) -> None:
    there = torch.ones(3, device="cuda")
    assert cuda.waits == 0
    assert there.sum().item() == 3.0
    assert there.cpu().sum() == 3.0
    assert cuda.waits == 2


@pytest.mark.parametrize("name", ["embedded", "griffin-lim"])
def test_a_round_trip_stays_on_its_device(cuda: PretendedCuda, name: str) -> None:
    here = MelPipeline(vocoder=name).round_trip(NOISE)
    there = MelPipeline(vocoder=name, device="cuda").round_trip(NOISE.cuda())
    assert there.device == there.reconstructed_mel.device == CUDA
    assert there.metrics() == here.metrics()
    assert there.waveform_distance().tolist() == here.waveform_distance().tolist()


@pytest.mark.parametrize("name", ["embedded", "small"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_optimised_path_waits_for_no_value(
    cuda: PretendedCuda, name: str, precision: str
) -> None:
    # A CUDA graph of it could not be captured.
    ours = optimise(a_vocos(name), precision=precision)  # type: ignore[arg-type]
    waveform = NOISE.cuda()
    cuda.waits = cuda.operations = 0
    ours.decode(ours.encode(waveform))
    assert cuda.operations > 0
    assert cuda.waits == 0


def test_cases_are_measured_on_a_device(
    cuda: PretendedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "_ROWS", {"cuda": (16,)})
    monkeypatch.setattr(roofline, "_FRAMES", {"cuda": (16,)})
    monkeypatch.setattr(roofline, "_COPIED_BYTES", {"cuda": 2**16})
    monkeypatch.setattr(measure, "_ROTATED_BYTES", {"cuda": 2**14})
    vocoder, sweep = a_vocos("small"), measure.Sweep(case_seconds=0.0)
    for case in cases(["cuda"], [Size(2, 0.1)], precisions=["fp32", "tf32"]):
        assert sweep.left_out(vocoder, case) is None
        assert sweep.measure(vocoder, case).upload_seconds is not None


def test_the_network_is_fitted_where_its_weights_are(cuda: PretendedCuda, tmp_path: Path) -> None:
    job = Job(tmp_path / "fit.json", end=0.0, dry=True, device=CUDA)
    assert fit_network(job) == ("passed", "")
    assert job.found["frames_per_second"] > 0
