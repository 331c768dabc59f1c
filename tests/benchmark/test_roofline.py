"""The count of a Vocos' work agrees with torch's own, and the fraction says how well it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.models import VocosBackbone

from melcheck.benchmark import roofline as machine_rates
from melcheck.benchmark.cases import RANDOM, Case, Size, bench_vocoder
from melcheck.benchmark.roofline import (
    STAGES,
    RateMeter,
    Rates,
    Stage,
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


def consistent() -> VocosVocoder:
    plain = bench_vocoder("embedded", "cpu")
    model = Vocos(
        MelSpectrogramFeatures(24_000, 1024, 256, 100, "center"),
        VocosBackbone(100, 32, 64, 2),
        ConsistentISTFTHead(32, 1024, 256, "center", 24_000, 100, *TURNS),
    )
    return VocosVocoder(plain.info, plain.recipe, plain.device, model.eval())


@pytest.fixture(scope="module", params=["official", "embedded", "consistent"])
def vocoder(request: pytest.FixtureRequest) -> VocosVocoder:
    if request.param == "consistent":
        return consistent()
    return bench_vocoder(RANDOM if request.param == "official" else "embedded", "cpu")


def products_that_torch_counts(vocoder: VocosVocoder, stage: Stage, samples: int) -> int:
    waveform = 0.1 * torch.randn(BATCH, samples)
    mel = vocoder.encode(waveform)
    with FlopCounterMode(display=False) as counter:
        if stage == "encode":
            vocoder.encode(waveform)
        elif stage == "decode":
            vocoder.decode(mel)
        else:
            vocoder.encode(vocoder.decode(vocoder.encode(waveform)))
    total: int = counter.get_total_flops()
    return total


@pytest.mark.parametrize("stage", STAGES)
def test_products_are_those_that_torch_counts(vocoder: VocosVocoder, stage: Stage) -> None:
    expected = products_that_torch_counts(vocoder, stage, SAMPLES)
    assert count_work(vocoder, stage, BATCH, SAMPLES).products == expected


def test_a_wider_layer_is_seen_in_the_count() -> None:
    vocoder = bench_vocoder("embedded", "cpu")
    before = count_work(vocoder, "decode", BATCH, SAMPLES).products
    layer = vocoder.model.head.out
    vocoder.model.head.out = torch.nn.Linear(layer.in_features, 2 * layer.out_features)
    added = 2 * layer.in_features * layer.out_features * BATCH * FRAMES
    assert count_work(vocoder, "decode", BATCH, SAMPLES).products == before + added


def test_the_products_of_the_official_decoder_are_those_of_its_layers() -> None:
    # Embedding, eight blocks of depthwise and two pointwise layers, and the head.
    values = 100 * 512 * 7 + 8 * (512 * 7 + 2 * 512 * 1536) + 512 * 1026
    work = count_work(bench_vocoder(RANDOM, "cpu"), "decode", 1, SAMPLES)
    assert work.products == 2 * values * FRAMES


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Count operations of frames that are transformed, in either direction, by their length."""
    operations: list[float] = []

    def count(module: Any, name: str, of: Callable[[Tensor, Tensor], tuple[int, int]]) -> None:
        original = getattr(module, name)

        def call(input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002  # as torch's
            result: Tensor = original(input, *args, **options)
            frames, length = of(input, result)
            operations.append(frames * 2.5 * length * math.log2(length))
            return result

        monkeypatch.setattr(module, name, call)

    count(torch.fft, "rfft", lambda of, _: (of.shape[:-1].numel(), of.shape[-1]))
    count(torch.fft, "irfft", lambda _, to: (to.shape[:-1].numel(), to.shape[-1]))
    count(torch, "stft", lambda _, to: (to.shape[0] * to.shape[-1], 1024))
    count(torch, "istft", lambda of, _: (of.shape[0] * of.shape[-1], 1024))
    return operations


@pytest.mark.parametrize("stage", STAGES)
def test_transforms_are_those_that_are_made(
    vocoder: VocosVocoder, stage: Stage, transforms: list[float]
) -> None:
    waveform = 0.1 * torch.randn(BATCH, SAMPLES)
    mel = vocoder.encode(waveform)
    transforms.clear()
    products = {
        "encode": lambda: vocoder.encode(waveform),
        "decode": lambda: vocoder.decode(mel),
        "round_trip": lambda: vocoder.encode(vocoder.decode(vocoder.encode(waveform))),
    }
    products[stage]()
    assert count_work(vocoder, stage, BATCH, SAMPLES).transforms == sum(transforms)


def test_zeros_of_the_filterbank_belong_to_no_limit() -> None:
    work = count_work(bench_vocoder("embedded", "cpu"), "encode", 1, SAMPLES)
    # Triangles that reach from one neighbour to the other cover each bin at most twice.
    assert 0 < work.products - work.skippable <= 2 * 2 * 513 * FRAMES


def test_needed_bytes_are_input_output_and_weights() -> None:
    vocoder = bench_vocoder(RANDOM, "cpu")
    mel, sound = 100 * FRAMES, 256 * (FRAMES - 1)
    weights = vocoder.info.num_parameters
    encode, decode = (count_work(vocoder, s, BATCH, SAMPLES) for s in ("encode", "decode"))
    assert encode.needed_bytes == 4 * BATCH * (SAMPLES + mel)
    assert decode.needed_bytes == 4 * BATCH * (mel + sound) + 4 * weights
    half = count_work(vocoder, "decode", BATCH, SAMPLES, precision="bf16")
    assert half.needed_bytes == 4 * BATCH * (mel + sound) + 2 * weights


def test_operator_by_operator_more_is_moved_than_needed(vocoder: VocosVocoder) -> None:
    for_one = count_work(vocoder, "decode", 1, SAMPLES)
    for_many = count_work(vocoder, "decode", 16, SAMPLES)
    assert for_many.moved_bytes > for_many.needed_bytes
    assert for_many.moved_bytes > for_one.moved_bytes


def test_the_attainable_time_is_the_sum_of_the_three() -> None:
    work = Work(products=30.0, skippable=10.0, transforms=8.0, needed_bytes=6.0)
    assert attainable_seconds(work, Rates(10.0, 4.0, 3.0)) == 2.0 + 2.0 + 2.0


def test_twice_the_time_is_half_the_fraction() -> None:
    work, rates = Work(products=10.0), Rates(10.0, 1.0, 1.0)
    assert (fraction(work, rates, 1.0), fraction(work, rates, 2.0)) == (1.0, 0.5)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="measured_seconds must be above 0"):
        fraction(Work(products=1.0), Rates(1.0, 1.0, 1.0), seconds)


# The rates.


@pytest.fixture(scope="module")
def meter() -> RateMeter:
    return RateMeter((256, 768))


def test_rates_are_positive_and_never_fall(meter: RateMeter) -> None:
    first = meter.rates(torch.device("cpu"), "fp32")
    second = meter.rates(torch.device("cpu"), "fp32")
    for name, rate in first.as_dict().items():
        assert 0 < rate <= second.as_dict()[name]


def test_products_at_full_speed_are_no_faster_than_the_limit(meter: RateMeter) -> None:
    left, right = torch.randn(512, 256), torch.randn(768, 256)
    best = min(machine_rates.warm_seconds_of(lambda a: a @ right.T, left) for _ in range(5))
    rate = meter.rates(torch.device("cpu"), "fp32").products_per_second
    assert 2 * left.numel() * 768 / best < 1.3 * rate


def test_a_disturbed_first_try_does_not_stay_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured beside each case replaces what was seen while the machine was busy."""
    slow, original = [True], machine_rates.seconds_of

    def disturbed(*args: Any) -> float:
        return (100.0 if slow[0] else 1.0) * original(*args)

    monkeypatch.setattr(machine_rates, "seconds_of", disturbed)
    monkeypatch.setattr(machine_rates, "_ROWS", {"cpu": (16,)})
    monkeypatch.setattr(machine_rates, "_FRAMES", {"cpu": (16,)})
    monkeypatch.setattr(machine_rates, "_COPIED_BYTES", {"cpu": 2**20})
    meter = RateMeter((64, 64))
    before = meter.rates(torch.device("cpu"), "fp32")
    slow[0] = False
    after = meter.rates(torch.device("cpu"), "fp32")
    for name, rate in before.as_dict().items():
        assert after.as_dict()[name] > 3 * rate


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_precision_of_products_is_put_back(precision: Any) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with matmul_precision(precision):
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        assert (torch.get_float32_matmul_precision() == "high") == (precision == "tf32")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def test_the_clock_sees_what_a_call_takes() -> None:
    taken = machine_rates.seconds_of(lambda _: time.sleep(0.02), torch.zeros(1))
    assert 0.02 <= taken < 1


def test_a_case_is_named_by_what_it_is() -> None:
    case = Case("decode", "cpu", Size(16, 1.0), "fp32", "eager")
    assert str(case) == "decode-cpu-16x1s-fp32-eager"
