"""The embedded vocoder's network can be fitted again: the signals, the crops, the script."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from vocos import Vocos

from melcheck.recipes import VOCOS, log_mel
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from training import fit
from training.crops import Crops
from training.signals import SAMPLE_RATE, clicks, harmonic_sweep, noise

CROPS = Crops(crop_samples=fit.CROP_HOPS * VOCOS.hop_length, seed=fit.SEED)


@pytest.mark.parametrize("make", [harmonic_sweep, noise, clicks])
def test_generated_sounds_are_finite_and_differ_by_seed(make) -> None:  # type: ignore[no-untyped-def]
    first, second = (make(np.random.default_rng(seed), 12_000) for seed in (1, 2))
    assert len(first) == 12_000
    assert np.isfinite(first).all()
    assert not np.array_equal(first, second)


def test_harmonics_do_not_fold_back() -> None:
    """Above 98 % of half the rate a sweep holds nothing but its breath."""
    loudest = 0.0
    for seed in range(4):
        spectrum = np.abs(np.fft.rfft(harmonic_sweep(np.random.default_rng(seed), SAMPLE_RATE)))
        loudest = max(loudest, float(spectrum[-200:].max() / spectrum.max()))
    assert loudest < 0.05


def test_batches_depend_on_their_number_alone() -> None:
    assert torch.equal(CROPS.batch(3, 4), CROPS.batch(3, 4))
    assert not torch.equal(CROPS.batch(3, 4), CROPS.batch(4, 4))


def test_batches_stay_in_range() -> None:
    batch = torch.cat([CROPS.batch(number, 8) for number in range(8)])
    assert batch.shape == (64, CROPS.crop_samples)
    assert torch.isfinite(batch).all()
    assert batch.abs().max() <= 1


@pytest.fixture(scope="module")
def unseen() -> Tensor:
    """Log-mels of crops that no test fits."""
    return log_mel(CROPS.batch(1_000, 8), VOCOS)


def error(model: Vocos, mel: Tensor) -> float:
    """Mean absolute error of the bands that a network predicts, in nats."""
    with torch.inference_mode():
        predicted = model.head.out(model.backbone(mel))
    return float((predicted - mel.transpose(1, 2)).abs().mean())


@pytest.fixture(scope="module")
def embedded() -> Vocos:
    vocoder = load_vocoder("embedded")
    assert isinstance(vocoder, VocosVocoder)
    return vocoder.model


def test_the_embedded_network_predicts_the_bands(embedded: Vocos, unseen: Tensor) -> None:
    assert error(embedded, unseen) < 0.04  # 0.017 was seen


@pytest.mark.parametrize("block", range(3))
def test_without_any_one_block_the_bands_are_far_off(
    embedded: Vocos, unseen: Tensor, block: int
) -> None:
    damaged = copy.deepcopy(embedded)
    with torch.no_grad():
        damaged.backbone.convnext[block].gamma.zero_()
    assert error(damaged, unseen) > 0.5


@pytest.mark.training
def test_a_fit_in_miniature_is_a_vocoder_that_predicts_the_bands(
    tmp_path, unseen: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(fit, "BATCHES", 25)
    before = torch.random.get_rng_state()
    threads = torch.get_num_threads()
    try:
        assert fit.main([str(tmp_path)]) == 0
    finally:
        torch.random.set_rng_state(before)
        torch.set_num_threads(threads)
    fitted = load_vocoder(tmp_path)
    assert isinstance(fitted, VocosVocoder)
    assert error(fitted.model, unseen) < 0.1
    assert error(fit.build(), unseen) > 2.0  # what random weights predict
