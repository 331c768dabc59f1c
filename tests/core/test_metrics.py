"""Each metric: identity, a case computed by hand, sensitivity; and the formulas of NumPy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from melcheck.metrics import (
    MelMetrics,
    band_mae,
    centred_snr_db,
    compare,
    floor_share,
    frame_mae,
    mae,
    max_abs_diff,
    mse,
    multi_resolution_stft_distance,
    pearson,
    snr_db,
)
from melcheck.recipes import MelRecipe, log_mel

Metric = Callable[..., Tensor]
Array = NDArray[np.float64]

_LOG_FLOOR = math.log(1e-7)
_METRICS = [mae, mse, max_abs_diff, snr_db, centred_snr_db, pearson, band_mae, frame_mae]
_SCALAR_METRICS = _METRICS[:6]

every_metric = pytest.mark.parametrize("metric", _METRICS, ids=lambda metric: metric.__name__)
every_scalar_metric = pytest.mark.parametrize(
    "metric", _SCALAR_METRICS, ids=lambda metric: metric.__name__
)


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mels(*leading: int) -> tuple[Tensor, Tensor]:
    """Return a reference like a log-mel, mean -6 and deviation 3 nats, and an estimate near it."""
    reference = -6.0 + 3.0 * _noise(*leading, 20, 30, seed=1)
    return reference, reference + 0.3 * _noise(*leading, 20, 30, seed=2)


def _mask(*leading: int) -> Tensor:
    mask = torch.ones(*leading, 30, dtype=torch.bool)
    mask[..., 20:] = False
    return mask


# Truths: identity.


@pytest.mark.parametrize(
    "mel",
    [
        pytest.param(_mels()[0], id="like-speech"),
        pytest.param(torch.full((20, 30), _LOG_FLOOR), id="silence"),
        pytest.param(torch.full((20, 30), 0.1), id="constant"),
        pytest.param(torch.zeros(20, 30), id="zeros"),
        pytest.param(torch.full((1, 1), -3.0), id="one-cell"),
    ],
)
def test_identical_mels_have_no_error(mel: Tensor) -> None:
    (found,) = compare(mel[None], mel.clone()[None], log_floor=_LOG_FLOOR)
    assert (found.mae, found.mse, found.max_abs_diff) == (0.0, 0.0, 0.0)
    assert (found.snr_db, found.centred_snr_db, found.pearson) == (math.inf, math.inf, 1.0)
    assert {*found.band_mae, *found.frame_mae} == {0.0}


# Truths: by hand. Errors 1, 0, 0, -3; sum of squares of the reference 4 + 0 + 0 + 16 = 20.
_HAND_REFERENCE = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
_HAND_ESTIMATE = torch.tensor([[1.0, 0.0], [0.0, 7.0]])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        pytest.param(mae, 1.0, id="mae"),  # (1 + 0 + 0 + 3) / 4
        pytest.param(mse, 2.5, id="mse"),  # (1 + 0 + 0 + 9) / 4
        pytest.param(max_abs_diff, 3.0, id="max_abs_diff"),
        pytest.param(snr_db, 10 * math.log10(2), id="snr_db"),  # 20 / 10
        # The mean is 1.5: 0.25 + 2.25 + 2.25 + 6.25 = 11, over 10.
        pytest.param(centred_snr_db, 10 * math.log10(1.1), id="centred_snr_db"),
        # About 1.5 and 2: products -0.5 + 3 + 3 + 12.5 = 18; squares 11 and 1 + 4 + 4 + 25 = 34.
        pytest.param(pearson, 18 / math.sqrt(11 * 34), id="pearson"),
        pytest.param(band_mae, [0.5, 1.5], id="band_mae"),
        pytest.param(frame_mae, [0.5, 1.5], id="frame_mae"),
    ],
)
def test_metric_equals_its_value_by_hand(metric: Metric, expected: float | list[float]) -> None:
    value = metric(_HAND_REFERENCE, _HAND_ESTIMATE)
    # float64 throughout: 4e-16 was measured.
    torch.testing.assert_close(
        value, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    ("cells", "share"),
    [
        pytest.param([[_LOG_FLOOR, -3.0], [_LOG_FLOOR, _LOG_FLOOR]], 0.75, id="three-of-four"),
        pytest.param([[_LOG_FLOOR + 5e-5, -3.0]], 0.5, id="within-the-tolerance"),
        pytest.param([[_LOG_FLOOR + 2e-4, -3.0]], 0.0, id="just-above"),
        pytest.param([[_LOG_FLOOR - 1.0, -math.inf]], 1.0, id="below"),
    ],
)
def test_floor_share_counts_cells_at_the_floor(cells: list[list[float]], share: float) -> None:
    assert floor_share(torch.tensor(cells), log_floor=_LOG_FLOOR).item() == share


def test_the_floor_in_float32_is_at_the_floor() -> None:
    silence = torch.zeros(20, 30).clip(min=1e-7).log()
    assert floor_share(silence, log_floor=_LOG_FLOOR).item() == 1.0


# Truths: what moves a metric, which way, and what it cannot see.


@pytest.mark.parametrize(
    ("metric", "worse"),
    [
        pytest.param(mae, 1, id="mae"),
        pytest.param(mse, 1, id="mse"),
        pytest.param(max_abs_diff, 1, id="max_abs_diff"),
        pytest.param(snr_db, -1, id="snr_db"),
        pytest.param(centred_snr_db, -1, id="centred_snr_db"),
        pytest.param(pearson, -1, id="pearson"),
    ],
)
def test_more_noise_is_worse(metric: Metric, worse: int) -> None:
    reference, _ = _mels()
    noise = _noise(20, 30, seed=3)
    little, more = (metric(reference, reference + scale * noise) for scale in (0.01, 0.02))
    # Twice the noise moves the correlation, the least of all, by 1e-5.
    assert (worse * (more - little)).item() > 1e-6


def test_one_damaged_band_is_named_by_band_mae() -> None:
    reference, _ = _mels()
    damaged = reference.clone()
    damaged[7] += 0.5
    expected = torch.zeros(20, dtype=torch.float64)
    expected[7] = 0.5
    # Sums of float64: no difference was measured.
    torch.testing.assert_close(band_mae(reference, damaged), expected, rtol=0, atol=1e-13)


def test_one_damaged_frame_is_named_by_frame_mae() -> None:
    reference, _ = _mels()
    damaged = reference.clone()
    damaged[:, 11] -= 0.5
    expected = torch.zeros(30, dtype=torch.float64)
    expected[11] = 0.5
    # Sums of float64: no difference was measured.
    torch.testing.assert_close(frame_mae(reference, damaged), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("damage", [lambda mel: 3.0 * mel, lambda mel: mel + 2.0, lambda mel: -mel])
def test_pearson_sees_neither_gain_nor_offset(damage: Callable[[Tensor], Tensor]) -> None:
    reference, estimate = _mels()
    plain = pearson(reference, estimate).abs()
    # Sums of float64: 1e-16 was measured.
    torch.testing.assert_close(
        pearson(reference, damage(estimate)).abs(), plain, rtol=0, atol=1e-13
    )


def test_a_mel_upside_down_correlates_with_minus_one() -> None:
    reference, _ = _mels()
    # Sums of float64: no difference was measured.
    assert pearson(reference, -reference).item() == pytest.approx(-1.0, rel=0, abs=1e-14)


@pytest.mark.parametrize("offset", [6.0, -20.0])
def test_an_offset_of_both_leaves_the_centred_ratio(offset: float) -> None:
    reference, estimate = _mels()
    # dB in float64: no difference was measured.
    torch.testing.assert_close(
        centred_snr_db(reference + offset, estimate + offset),
        centred_snr_db(reference, estimate),
        rtol=0,
        atol=1e-11,
    )


def test_a_louder_clip_of_the_same_error_has_less_raw_snr() -> None:
    reference, estimate = _mels()
    # The mean square is 6^2 + 3^2 = 45; two nats louder, 4^2 + 3^2 = 25: 2.55 dB less, give or
    # take what 600 random cells do to their mean and deviation: 0.02 dB was measured.
    louder = snr_db(reference + 2.0, estimate + 2.0)
    fall = (snr_db(reference, estimate) - louder).item()
    assert fall == pytest.approx(10 * math.log10(45 / 25), rel=0, abs=0.1)


def test_pearson_of_099_is_a_residual_at_17_db() -> None:
    # Of unit vectors at correlation c, what a least-squares fit of the one leaves of the other has
    # power 1 - c^2: 10 log10(1 / (1 - 0.99^2)) = 17.01 dB.
    cells = _noise(2, 600, seed=4)
    axes = torch.linalg.qr((cells - cells.mean(dim=1, keepdim=True)).T).Q.T
    reference, other = (axis.reshape(20, 30) for axis in axes)
    estimate = 0.99 * reference + math.sqrt(1 - 0.99**2) * other
    fitted = 0.99 * estimate  # the least-squares fit of `reference` by `estimate`
    # float64: 1e-16 and 4e-15 dB were measured.
    assert pearson(reference, estimate).item() == pytest.approx(0.99, rel=0, abs=1e-12)
    assert centred_snr_db(reference, fitted).item() == pytest.approx(
        10 * math.log10(1 / (1 - 0.99**2)), rel=0, abs=1e-9
    )


# Truths: edge cases.


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        pytest.param(snr_db, 20.0, id="snr_db"),
        pytest.param(centred_snr_db, -math.inf, id="centred_snr_db"),
        pytest.param(pearson, math.nan, id="pearson"),
    ],
)
def test_a_constant_reference_has_only_a_raw_ratio(metric: Metric, value: float) -> None:
    reference = torch.full((20, 30), 0.3, dtype=torch.float64)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(20, 15)
    # 20 log10(0.3 / 0.03), in float64: 7e-15 dB was measured.
    assert metric(reference, reference + 0.03 * sign).item() == pytest.approx(
        value, rel=0, abs=1e-12, nan_ok=True
    )


def test_a_constant_estimate_has_no_correlation() -> None:
    reference, _ = _mels()
    assert pearson(reference, torch.full_like(reference, 0.1)).isnan()


@pytest.mark.parametrize("metric", [snr_db, centred_snr_db], ids=lambda metric: metric.__name__)
def test_a_reference_of_zeros_has_no_signal(metric: Metric) -> None:
    zeros = torch.zeros(20, 30)
    assert metric(zeros, zeros + 1.0).item() == -math.inf


@every_scalar_metric
@pytest.mark.parametrize("side", ["reference", "estimate"])
def test_a_nan_that_counts_gives_nan(metric: Metric, side: str) -> None:
    mels = dict(zip(("reference", "estimate"), _mels(), strict=True))
    mels[side][3, 4] = math.nan
    assert metric(mels["reference"], mels["estimate"]).isnan()


@every_scalar_metric
def test_a_nan_in_both_mels_gives_nan(metric: Metric) -> None:
    mel, _ = _mels()
    mel[3, 4] = math.nan
    assert metric(mel, mel).isnan()


@pytest.mark.parametrize(
    ("metric", "place"),
    [pytest.param(band_mae, 3, id="band"), pytest.param(frame_mae, 4, id="frame")],
)
def test_a_nan_stays_in_its_profile_entry(metric: Metric, place: int) -> None:
    reference, estimate = _mels()
    estimate[3, 4] = math.nan
    assert metric(reference, estimate).isnan().nonzero().flatten().tolist() == [place]


def test_a_nan_has_no_floor_share() -> None:
    mel, _ = _mels()
    mel[3, 4] = math.nan
    assert floor_share(mel, log_floor=_LOG_FLOOR).isnan()


# Truths: masks, batches, dtypes.


@every_scalar_metric
def test_what_is_masked_does_not_count(metric: Metric) -> None:
    reference, estimate = _mels()
    expected = metric(reference[:, :20], estimate[:, :20])
    reference[:, 20:25], estimate[:, 25:] = math.nan, math.inf
    # Zeros that are added may change the order of a sum: 3e-17 was measured.
    torch.testing.assert_close(
        metric(reference, estimate, mask=_mask()), expected, rtol=0, atol=1e-12
    )


def test_a_masked_nan_stays_out_of_each_band() -> None:
    reference, estimate = _mels()
    expected = band_mae(reference[:, :20], estimate[:, :20])
    estimate[:, 20:] = math.nan
    # Zeros that are added may change the order of a sum: no difference was measured.
    torch.testing.assert_close(
        band_mae(reference, estimate, mask=_mask()), expected, rtol=0, atol=1e-13
    )


def test_a_masked_frame_is_nan_in_the_profile() -> None:
    reference, estimate = _mels()
    assert torch.equal(frame_mae(reference, estimate, mask=_mask()).isnan(), ~_mask())


def test_a_masked_frame_stays_out_of_the_floor_share() -> None:
    mel = torch.full((20, 30), -3.0)
    mel[:, :5] = _LOG_FLOOR
    mel[:, 20:] = math.nan
    assert floor_share(mel, log_floor=_LOG_FLOOR, mask=_mask()).item() == 0.25


@every_metric
def test_each_item_of_a_batch_is_measured_alone(metric: Metric) -> None:
    reference, estimate = _mels(3)
    estimate[1] = reference[1] + 5.0
    reference[2], estimate[2] = -4.0, math.nan
    alone = torch.stack([metric(*pair) for pair in zip(reference, estimate, strict=True)])
    # A batch may be summed in another order: no difference was measured.
    torch.testing.assert_close(
        metric(reference, estimate), alone, rtol=0, atol=1e-12, equal_nan=True
    )


@every_metric
def test_each_item_of_a_batch_has_its_own_mask(metric: Metric) -> None:
    reference, estimate = _mels(2)
    mask = torch.stack([_mask(), ~_mask()])
    alone = torch.stack(
        [metric(reference[item], estimate[item], mask=mask[item]) for item in range(2)]
    )
    # A batch may be summed in another order: no difference was measured.
    torch.testing.assert_close(
        metric(reference, estimate, mask=mask), alone, rtol=0, atol=1e-12, equal_nan=True
    )


@every_metric
def test_leading_dimensions_are_kept(metric: Metric) -> None:
    reference, estimate = _mels(2, 3)
    own = {"band_mae": (20,), "frame_mae": (30,)}.get(metric.__name__, ())
    assert metric(reference, estimate).shape == (2, 3, *own)


@every_metric
def test_a_narrow_mel_is_reduced_in_float64(metric: Metric) -> None:
    reference, estimate = (mel.half() for mel in _mels())
    value = metric(reference, estimate)
    assert value.dtype == torch.float64
    assert torch.equal(value, metric(reference.double(), estimate.double()))


def test_a_sum_past_float16_is_no_overflow() -> None:
    # 60,000 squares of 10 are 6e6, a hundred times what float16 holds.
    reference = torch.full((100, 600), 10.0, dtype=torch.float16)
    assert mse(reference, torch.zeros_like(reference)).item() == 100.0


@every_metric
def test_shapes_that_would_broadcast_are_refused(metric: Metric) -> None:
    with pytest.raises(ValueError, match=r"must both be \[..., n_mels, frames\], got"):
        metric(torch.zeros(2, 20, 30), torch.zeros(1, 20, 30))


@pytest.mark.parametrize(
    ("reference", "estimate"),
    [
        pytest.param((20, 30), (20, 29), id="frames-differ"),
        pytest.param((2, 20, 30), (20, 30), id="batch-missing"),
        pytest.param((30,), (30,), id="a-single-row"),
    ],
)
def test_what_is_no_pair_of_mels_is_refused(
    reference: tuple[int, ...], estimate: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must both be \[..., n_mels, frames\], got"):
        mae(torch.zeros(reference), torch.zeros(estimate))


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(torch.ones(29, dtype=torch.bool), id="short"),
        pytest.param(torch.ones(1, 30, dtype=torch.bool), id="one-dimension-more"),
        pytest.param(torch.ones(20, 30, dtype=torch.bool), id="of-cells"),
        pytest.param(torch.ones(30), id="of-numbers"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"mask must be boolean and \[30\], got"):
        mae(*_mels(), mask=mask)


def test_an_item_without_a_frame_that_counts_is_refused() -> None:
    mask = torch.stack([_mask(), torch.zeros(30, dtype=torch.bool)])
    with pytest.raises(ValueError, match="at least one frame of each item must count"):
        mae(*_mels(2), mask=mask)


@pytest.mark.parametrize("shape", [(20, 0), (0, 20, 30)], ids=["no-frames", "no-items"])
def test_an_empty_mel_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one frame of each item must count"):
        mae(torch.zeros(shape), torch.zeros(shape))


# Agreement with NumPy.


@pytest.mark.parametrize(
    ("metric", "formula"),
    [
        pytest.param(mae, lambda r, e: np.mean(np.abs(r - e)), id="mae"),
        pytest.param(mse, lambda r, e: np.mean((r - e) ** 2), id="mse"),
        pytest.param(max_abs_diff, lambda r, e: np.max(np.abs(r - e)), id="max_abs_diff"),
        pytest.param(
            snr_db,
            lambda r, e: 20 * np.log10(np.linalg.norm(r) / np.linalg.norm(r - e)),
            id="snr_db",
        ),
        pytest.param(
            centred_snr_db,
            lambda r, e: 10 * np.log10(np.var(r) / np.mean((r - e) ** 2)),
            id="centred_snr_db",
        ),
        pytest.param(pearson, lambda r, e: np.corrcoef(r.ravel(), e.ravel())[0, 1], id="pearson"),
        pytest.param(band_mae, lambda r, e: np.mean(np.abs(r - e), axis=1), id="band_mae"),
        pytest.param(frame_mae, lambda r, e: np.mean(np.abs(r - e), axis=0), id="frame_mae"),
    ],
)
def test_metric_agrees_with_numpy(metric: Metric, formula: Callable[[Array, Array], Any]) -> None:
    reference, estimate = _mels()
    # Two orders of summation in float64: 1.4e-14 was measured.
    np.testing.assert_allclose(
        metric(reference, estimate).numpy(),
        formula(reference.numpy(), estimate.numpy()),
        rtol=0,
        atol=1e-12,
    )


# compare.


@every_metric
def test_compare_holds_what_the_metric_gives(metric: Metric) -> None:
    reference, estimate = _mels(2)
    mask = torch.stack([_mask(), ~_mask()])
    found = compare(reference, estimate, log_floor=_LOG_FLOOR, mask=mask)
    held = [getattr(metrics, metric.__name__) for metrics in found]
    np.testing.assert_array_equal(held, metric(reference, estimate, mask=mask).numpy())


@pytest.mark.parametrize(
    ("field", "share"),
    [("reference_floor_share", 0.5), ("estimate_floor_share", 0.25)],
    ids=["reference", "estimate"],
)
def test_compare_holds_both_floor_shares(field: str, share: float) -> None:
    reference, estimate = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8)
    reference[:, :2], estimate[:, :1] = _LOG_FLOOR, _LOG_FLOOR
    (metrics,) = compare(reference, estimate, log_floor=_LOG_FLOOR)
    assert getattr(metrics, field) == share


def test_compare_gives_plain_numbers() -> None:
    (metrics,) = compare(*_mels(1), log_floor=_LOG_FLOOR)
    values = dataclasses.astuple(metrics)
    flat = [*values[:-2], *metrics.band_mae, *metrics.frame_mae]
    assert {type(value) for value in flat} == {float}


def test_compare_gives_one_result_an_item_in_order() -> None:
    reference = torch.zeros(3, 4, 8)
    estimate = reference + torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    results = compare(reference, estimate, log_floor=_LOG_FLOOR)
    assert [metrics.mae for metrics in results] == [1.0, 2.0, 3.0]


def test_metrics_cannot_be_changed() -> None:
    (metrics,) = compare(*_mels(1), log_floor=_LOG_FLOOR)
    assert isinstance(metrics, MelMetrics)
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.mae = 0.0  # type: ignore[misc]


def test_compare_asks_for_the_missing_batch_dimension() -> None:
    with pytest.raises(ValueError, match=r"got \[20, 30\]. Add a batch dimension with unsqueeze"):
        compare(*_mels(), log_floor=_LOG_FLOOR)


# multi_resolution_stft_distance.


def _sound(*shape: int, seed: int = 6) -> Tensor:
    return (0.1 * _noise(*shape, seed=seed)).float()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda sound: sound.clone(), id="identical"),
        pytest.param(lambda sound: -sound, id="polarity"),
        pytest.param(lambda sound: torch.cat([sound, sound], dim=-1), id="longer"),
        pytest.param(lambda sound: sound[:, :8_000], id="shorter"),
    ],
)
def test_equal_magnitudes_are_no_distance(other: Callable[[Tensor], Tensor]) -> None:
    sound = _sound(2, 8_192)
    assert multi_resolution_stft_distance(sound, other(sound)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_gain_costs_its_known_parts(gain: float) -> None:
    # Every cell lies above the floor, so that the parts are |1 - gain| and |ln gain|.
    sound = 100 * _sound(1, 8_192)
    distance = multi_resolution_stft_distance(sound, gain * sound).item()
    # float32 transforms: 5e-8 was measured.
    assert distance == pytest.approx(abs(1 - gain) + abs(math.log(gain)), rel=0, abs=1e-5)


@pytest.mark.parametrize(
    "lengths", [None, (4,), (6, 1_000)], ids=["default", "the-shortest", "others"]
)
def test_distance_agrees_with_numpy(lengths: tuple[int, ...] | None) -> None:
    reference, estimate = _sound(8_192, seed=6), _sound(8_192, seed=7)
    parts = []
    for length in lengths or (256, 512, 2048):
        window = np.sin(np.pi * np.arange(length) / length) ** 2
        magnitudes = []
        for waveform in (reference, estimate):
            frames = np.lib.stride_tricks.sliding_window_view(waveform.double().numpy(), length)
            magnitudes.append(np.abs(np.fft.rfft(frames[:: length // 4] * window)))
        first, second = magnitudes
        gap = np.log(np.maximum(first, 6.4e-3)) - np.log(np.maximum(second, 6.4e-3))
        parts.append(np.sqrt(((first - second) ** 2).sum() / (first**2).sum()) + np.abs(gap).mean())
    chosen = {} if lengths is None else {"window_lengths": lengths}
    distance = multi_resolution_stft_distance(reference[None], estimate[None], **chosen).item()
    # float32 transforms against float64: 1e-9 was measured.
    assert distance == pytest.approx(np.mean(parts), rel=0, abs=1e-5)


@pytest.mark.parametrize("position", [4_096, 4_096 + 128, 5_000], ids=str)
@pytest.mark.parametrize("height", [0.05, 0.5], ids=lambda height: f"height-{height}")
def test_a_click_is_seen_wherever_it_falls(position: int, height: float) -> None:
    tone = 0.3 * torch.sin(2 * math.pi * 440.0 / 24_000 * torch.arange(8_192.0))[None]
    clicked = tone.clone()
    clicked[0, position] += height
    # 0.0 without the click; 0.15 was measured for the softer one.
    assert multi_resolution_stft_distance(tone, clicked).item() > 0.05


def test_more_noise_is_farther() -> None:
    sound, noise = _sound(1, 8_192), _sound(1, 8_192, seed=8)
    near, far = (
        multi_resolution_stft_distance(sound, sound + scale * noise).item() for scale in (0.1, 0.2)
    )
    assert near < far


def test_silence_is_at_no_distance_from_silence() -> None:
    silence = torch.zeros(1, 4_096)
    assert multi_resolution_stft_distance(silence, silence).item() == 0.0


def test_sound_is_infinitely_far_from_silence() -> None:
    assert (
        multi_resolution_stft_distance(torch.zeros(1, 4_096), _sound(1, 4_096)).item() == math.inf
    )


def test_lost_sound_is_at_a_finite_distance() -> None:
    distance = multi_resolution_stft_distance(_sound(1, 4_096), torch.zeros(1, 4_096)).item()
    # ||R - 0|| / ||R|| = 1, and the logarithms add to it.
    assert 1.0 < distance < math.inf


def test_a_nan_sample_gives_nan() -> None:
    sound = _sound(1, 4_096)
    broken = sound.clone()
    broken[0, 2_000] = math.nan
    assert multi_resolution_stft_distance(sound, broken).isnan()


def test_what_lies_past_num_samples_does_not_count() -> None:
    sound = _sound(2, 8_192)
    padded = sound.clone()
    padded[0, 5_000:] = 0.0
    padded[1, 6_000:] = math.nan
    distance = multi_resolution_stft_distance(sound, padded, num_samples=[5_000, 6_000])
    assert distance.tolist() == [0.0, 0.0]


def test_num_samples_reach_to_the_shorter_waveform_at_most() -> None:
    sound = _sound(2, 8_192)
    distance = multi_resolution_stft_distance(sound, sound[:, :5_000], num_samples=[8_192, 9_000])
    assert distance.tolist() == [0.0, 0.0]


def test_each_pair_of_a_batch_is_measured_alone() -> None:
    reference, estimate = _sound(3, 4_096, seed=6), _sound(3, 4_096, seed=7)
    reference[1], estimate[2] = 0.0, math.nan
    alone = [
        multi_resolution_stft_distance(reference[item, None], estimate[item, None])
        for item in range(3)
    ]
    # Nothing is summed across items: the two are equal, NaN included.
    np.testing.assert_array_equal(
        multi_resolution_stft_distance(reference, estimate).numpy(), torch.cat(alone).numpy()
    )


@pytest.mark.parametrize("samples", [512, 600])
def test_shorter_windows_serve_a_shorter_clip(samples: int) -> None:
    sound = _sound(1, samples)
    assert multi_resolution_stft_distance(sound, sound, window_lengths=[256, 512]).item() == 0.0


@pytest.mark.parametrize("lengths", [[], [3], [256, 3]], ids=repr)
def test_window_lengths_that_have_no_hop_are_refused(lengths: list[int]) -> None:
    sound = _sound(1, 4_096)
    with pytest.raises(ValueError, match=r"window_lengths must hold lengths of at least 4 samples"):
        multi_resolution_stft_distance(sound, sound, window_lengths=lengths)


@pytest.mark.parametrize(
    ("samples", "counted"),
    [
        pytest.param(2_047, None, id="clip"),
        pytest.param(4_096, [2_047], id="what-counts"),
        pytest.param(4_096, [0], id="nothing-counts"),
    ],
)
def test_less_than_the_longest_window_is_refused(samples: int, counted: list[int] | None) -> None:
    sound = _sound(1, samples)
    with pytest.raises(ValueError, match=r"at least 2048 samples in common, got.*longer clip"):
        multi_resolution_stft_distance(sound, sound, num_samples=counted)


@pytest.mark.parametrize(
    "counted", [[4_096], [4_096] * 3, [4_096, -1]], ids=["too-few", "too-many", "negative"]
)
def test_num_samples_that_do_not_fit_are_refused(counted: list[int]) -> None:
    sound = _sound(2, 4_096)
    with pytest.raises(ValueError, match="num_samples must hold 2 lengths, one an item, got"):
        multi_resolution_stft_distance(sound, sound, num_samples=counted)


@pytest.mark.parametrize(
    ("reference", "estimate"),
    [
        pytest.param((4_096,), (4_096,), id="no-batch"),
        pytest.param((2, 4_096), (1, 4_096), id="batches-differ"),
        pytest.param((1, 1, 4_096), (1, 1, 4_096), id="channels"),
    ],
)
def test_waveforms_that_are_no_batch_are_refused(
    reference: tuple[int, ...], estimate: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must both be \[batch, samples\], got"):
        multi_resolution_stft_distance(torch.zeros(reference), torch.zeros(estimate))


def test_mels_of_any_unit_are_measured_in_nats() -> None:
    waveform = torch.randn(24_000, generator=torch.Generator().manual_seed(0)) * 0.1
    found = []
    for unit in ({}, {"log_base": "10", "log_scale": 20.0}, {"mean": -5.0, "std": 2.0}):
        recipe = MelRecipe(**unit)
        reference, estimate = (log_mel(gain * waveform, recipe)[None] for gain in (1.0, 1.1))
        found.append(compare(reference, estimate, recipe=recipe)[0])
    assert found[0].mae == pytest.approx(math.log(1.1), abs=1e-4)
    for other in found[1:]:
        assert other.mae == pytest.approx(found[0].mae, abs=1e-5)
        assert other.snr_db == pytest.approx(found[0].snr_db, abs=1e-3)
        assert other.reference_floor_share == found[0].reference_floor_share
