"""The work of a Vocos is counted as closed forms have it; the fraction says how well it is done."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.models import VocosBackbone

from melcheck.benchmark import roofline
from melcheck.benchmark.cases import RANDOM, Case, Size, Stage, bench_vocoder
from melcheck.benchmark.roofline import (
    RateMeter,
    Rates,
    Work,
    attainable_seconds,
    count_work,
    fraction,
)
from melcheck.speed.optimised import PRECISIONS, matmul_precision
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder

SAMPLES = 12_001
FRAMES = 47  # 1 + 12,001 // 256
BATCH = 2
TURNS = (2, 1, 3)  # at the whole rate, a quarter, an eighth
STEPS = 2


def consistent() -> VocosVocoder:
    plain = bench_vocoder("embedded", "cpu")
    model = Vocos(
        MelSpectrogramFeatures(24_000, 1024, 256, 100, "center"),
        VocosBackbone(100, 32, 64, 2),
        ConsistentISTFTHead(32, 1024, 256, "center", 24_000, 100, *TURNS, STEPS),
    )
    return VocosVocoder(plain.info, plain.recipe, plain.device, model.eval())


@pytest.fixture(scope="module")
def official() -> VocosVocoder:
    return bench_vocoder(RANDOM, "cpu")


def work_of(vocoder: VocosVocoder, stage: Stage, **options: Any) -> Work:
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(BATCH, SAMPLES, generator=generator)
    value = vocoder.encode(waveform) if stage == "decode" else waveform
    return count_work(vocoder, stage, value, **options)


def test_the_products_of_the_official_decoder_are_those_of_its_layers(
    official: VocosVocoder,
) -> None:
    # Embedding, eight blocks of depthwise and two pointwise layers, and the head.
    values = 100 * 512 * 7 + 8 * (512 * 7 + 2 * 512 * 1536) + 512 * 1026
    # A random weight that is exactly 0 is no work.
    expected = pytest.approx(2 * values * BATCH * FRAMES, rel=1e-6)
    assert work_of(official, "decode").products == expected


def test_a_wider_layer_is_seen_in_the_count() -> None:
    vocoder = bench_vocoder("embedded", "cpu")
    before = work_of(vocoder, "decode").products
    block = vocoder.model.backbone.convnext[0]
    dim, wide = block.pwconv1.in_features, block.pwconv1.out_features
    block.pwconv1 = torch.nn.Linear(dim, 2 * wide)
    block.pwconv2 = torch.nn.Linear(2 * wide, dim)
    added = 2 * 2 * dim * wide * BATCH * FRAMES
    assert work_of(vocoder, "decode").products == pytest.approx(before + added, rel=1e-5)


def transforms(length: int) -> float:
    return BATCH * FRAMES * 2.5 * length * math.log2(length)


def test_a_frame_is_transformed_once_in_encode_and_once_in_decode(official: VocosVocoder) -> None:
    stages: tuple[Stage, ...] = ("encode", "decode", "round_trip")
    found = [work_of(official, stage).transforms for stage in stages]
    assert found == [transforms(1024), transforms(1024), 3 * transforms(1024)]


def test_each_projection_of_a_phase_head_is_two_transforms() -> None:
    projections = sum(
        2 * turns * transforms(length)
        for turns, length in zip(TURNS, (1024, 256, 128), strict=True)
    )
    # One of twice the length for the pitch, one to invert in the end, two for each step of descent.
    others = transforms(2048) + (1 + 2 * STEPS) * transforms(1024)
    assert work_of(consistent(), "decode").transforms == others + projections


def test_zeros_of_the_filterbank_are_no_work(official: VocosVocoder) -> None:
    # Triangles that reach from one neighbour to the other cover each bin at most twice.
    assert 0 < work_of(official, "encode").products <= 2 * 2 * 513 * BATCH * FRAMES


def test_needed_bytes_are_input_output_and_weights(official: VocosVocoder) -> None:
    mel, waveform = 100 * FRAMES, 256 * (FRAMES - 1)
    weights = official.info.num_parameters
    encode, decode = (work_of(official, stage) for stage in ("encode", "decode"))
    assert encode.needed_bytes == 4 * BATCH * (SAMPLES + mel)
    assert decode.needed_bytes == 4 * BATCH * (mel + waveform) + 4 * weights
    half = work_of(official, "decode", precision="bf16")
    assert half.needed_bytes == 4 * BATCH * (mel + waveform) + 2 * weights


def test_the_attainable_time_is_the_sum_of_the_three() -> None:
    work = Work(products=20.0, transforms=8.0, needed_bytes=6.0)
    assert attainable_seconds(work, Rates(10.0, 4.0, 3.0)) == 2.0 + 2.0 + 2.0


def test_twice_the_time_is_half_the_fraction() -> None:
    work, rates = Work(products=10.0), Rates(10.0, 1.0, 1.0)
    assert (fraction(work, rates, 1.0), fraction(work, rates, 2.0)) == (1.0, 0.5)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="measured_seconds must be above 0"):
        fraction(Work(products=1.0), Rates(1.0, 1.0, 1.0), seconds)


# The rates.


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> RateMeter:
    monkeypatch.setattr(roofline, "_ROWS", {"cpu": (16,)})
    monkeypatch.setattr(roofline, "_FRAMES", {"cpu": (16,)})
    monkeypatch.setattr(roofline, "_COPIED_BYTES", {"cpu": 2**20})
    return RateMeter((64, 64))


def test_rates_are_positive_and_never_fall(meter: RateMeter) -> None:
    first = meter.rates(torch.device("cpu"), "fp32").as_dict()
    second = meter.rates(torch.device("cpu"), "fp32").as_dict()
    assert all(0 < rate <= second[name] for name, rate in first.items())


def test_a_disturbed_first_try_does_not_stay_the_limit(
    meter: RateMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is measured beside each case replaces what a busy machine gave."""
    seconds = [100.0]
    monkeypatch.setattr(roofline, "seconds_of", lambda call, *operands: seconds[0])
    before = meter.rates(torch.device("cpu"), "fp32").as_dict()
    seconds[0] = 1.0
    after = meter.rates(torch.device("cpu"), "fp32").as_dict()
    assert after == {name: pytest.approx(100 * rate) for name, rate in before.items()}


def test_the_rate_of_products_is_their_operations_over_their_time(
    meter: RateMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "seconds_of", lambda call, *operands: 0.5)
    rates = meter.rates(torch.device("cpu"), "fp32")
    assert rates.products_per_second == 2 * 16 * 64 * 64 / 0.5
    assert rates.transforms_per_second == 16 * 2.5 * 1024 * 10 / 0.5
    assert rates.copied_bytes_per_second == 2 * 2**20 / 0.5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_precision_of_products_is_put_back(precision: Any) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with matmul_precision(precision):
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        assert (torch.get_float32_matmul_precision() == "high") == (precision == "tf32")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_a_call_is_timed_from_its_start_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.0]

    def call(_: torch.Tensor) -> None:
        now[0] += 2.5

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert roofline.seconds_of(call, torch.zeros(1)) == 2.5


def test_a_case_is_named_by_what_it_is() -> None:
    case = Case("decode", "cpu", Size(16, 1.0), "fp32", "eager")
    assert str(case) == "decode-cpu-16x1s-fp32-eager"
