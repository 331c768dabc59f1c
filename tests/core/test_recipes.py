"""A recipe promises shapes and values: against closed forms, librosa and vocos itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.spectral_ops import ISTFT

from melcheck.recipes import (
    VOCOS,
    MelRecipe,
    band_centres_hz,
    filter_groups,
    filterbank,
    log_mel,
)

_SECOND = 24_000

_MATCHA = MelRecipe(
    sample_rate=22_050,
    n_mels=80,
    f_max=8_000.0,
    mel_scale="slaney",
    norm="slaney",
    padding="same",
    floor=1e-5,
)
_RECIPES = [
    pytest.param(VOCOS, id="vocos"),
    pytest.param(MelRecipe(f_min=50.0, f_max=7_600.0, n_mels=40), id="htk-band-limited"),
    pytest.param(MelRecipe(mel_scale="slaney", norm="slaney", n_mels=80), id="slaney"),
    pytest.param(MelRecipe(mel_scale="slaney", n_mels=80), id="slaney-unnormalised"),
    pytest.param(_MATCHA, id="matcha-like"),
]


def _noise(*shape: int, seed: int = 0, amplitude: float = 0.1) -> Tensor:
    return amplitude * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _impulse(samples: int, position: int) -> Tensor:
    waveform = torch.zeros(1, samples)
    waveform[0, position] = 1.0
    return waveform


@pytest.mark.parametrize("recipe", _RECIPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_of_a_filterbank_hold_all_of_it_in_less_space(
    recipe: MelRecipe, transposed: bool
) -> None:
    filters = filterbank(recipe).T if transposed else filterbank(recipe)
    blocks, held = filter_groups(filters), torch.zeros_like(filters)
    for rows, columns in blocks:
        held[rows, columns] += filters[rows, columns]
    assert torch.equal(held, filters)
    assert sum(filters[rows, columns].numel() for rows, columns in blocks) < filters.numel() / 2


# Truths: shape arithmetic.


@pytest.mark.parametrize(
    ("recipe", "samples", "frames"),
    [
        pytest.param(VOCOS, 72_000, 282, id="three-seconds"),
        pytest.param(VOCOS, 71_936, 282, id="exactly-281-hops"),
        pytest.param(VOCOS, 71_935, 281, id="one-sample-less"),
        pytest.param(VOCOS, 72_191, 282, id="one-sample-before-the-next"),
        pytest.param(VOCOS, 72_192, 283, id="the-next"),
        pytest.param(VOCOS, 25_400, 100, id="a-hundred"),
        pytest.param(VOCOS, 513, 3, id="shortest"),
        pytest.param(MelRecipe(hop_length=300), 24_000, 81, id="center-hop-300"),
        pytest.param(MelRecipe(padding="same"), 72_000, 281, id="same"),
        pytest.param(MelRecipe(padding="same"), 72_191, 281, id="same-just-before-the-next"),
        pytest.param(MelRecipe(padding="same"), 72_192, 282, id="same-next"),
        pytest.param(
            MelRecipe(padding="same", win_length=512), 72_000, 281, id="same-short-window"
        ),
        pytest.param(_MATCHA, 22_050, 86, id="matcha-like"),
        pytest.param(MelRecipe(padding="none"), 1_024, 1, id="none-one-transform"),
        pytest.param(MelRecipe(padding="none"), 1_279, 1, id="none-just-before-the-next"),
        pytest.param(MelRecipe(padding="none"), 1_280, 2, id="none-next"),
        pytest.param(MelRecipe(n_fft=1023, win_length=1023), 25_600, 100, id="odd-transform"),
    ],
)
def test_samples_give_these_frames(recipe: MelRecipe, samples: int, frames: int) -> None:
    assert recipe.frames(samples) == frames


@pytest.mark.parametrize(
    ("recipe", "frames", "samples"),
    [
        pytest.param(VOCOS, 282, 71_936, id="three-seconds"),
        pytest.param(VOCOS, 100, 25_344, id="a-hundred"),
        pytest.param(VOCOS, 1, 0, id="one-frame-is-no-sound"),
        pytest.param(MelRecipe(padding="same"), 281, 71_936, id="same"),
        pytest.param(MelRecipe(padding="none"), 1, 1_024, id="none"),
    ],
)
def test_frames_give_these_samples(recipe: MelRecipe, frames: int, samples: int) -> None:
    assert recipe.num_samples(frames) == samples


@pytest.mark.parametrize("padding", ["center", "same", "none"])
@pytest.mark.parametrize("samples", [2_048, 2_303, 2_304, 24_000, 72_000, 72_191])
def test_a_loop_keeps_the_frames_and_loses_less_than_a_hop(padding: Any, samples: int) -> None:
    recipe = MelRecipe(padding=padding)
    decoded = recipe.num_samples(recipe.frames(samples))
    assert recipe.frames(decoded) == recipe.frames(samples)
    assert 0 <= samples - decoded < recipe.hop_length


@pytest.mark.parametrize(
    ("recipe", "shortest"),
    [
        pytest.param(VOCOS, 513, id="center-reflect"),
        pytest.param(MelRecipe(pad_mode="constant"), 1, id="center-zeros"),
        pytest.param(MelRecipe(padding="same"), 385, id="same-reflect"),
        pytest.param(MelRecipe(padding="same", pad_mode="replicate"), 256, id="same-replicate"),
        pytest.param(MelRecipe(padding="none"), 1_024, id="none"),
    ],
)
def test_the_shortest_waveform_has_a_mel(recipe: MelRecipe, shortest: int) -> None:
    assert recipe.min_samples == shortest
    assert torch.isfinite(log_mel(_noise(1, shortest), recipe)).all()


@pytest.mark.parametrize(
    ("recipe", "samples", "reason"),
    [
        pytest.param(VOCOS, 512, "mirrors 512 samples", id="reflect"),
        pytest.param(VOCOS, 0, "mirrors 512 samples", id="empty"),
        pytest.param(MelRecipe(padding="none"), 1_023, "transform of 1024", id="none"),
    ],
)
def test_a_shorter_waveform_is_refused_with_its_reason(
    recipe: MelRecipe, samples: int, reason: str
) -> None:
    said = f"at least {recipe.min_samples} samples, got {samples}.*{reason}.*longer clip"
    with pytest.raises(ValueError, match=said):
        log_mel(torch.zeros(1, samples), recipe)


@pytest.mark.parametrize("frames", [0, -1])
def test_no_vocoder_decodes_less_than_a_frame(frames: int) -> None:
    with pytest.raises(ValueError, match=f"frames must be at least 1, got {frames}"):
        VOCOS.num_samples(frames)


_PADDINGS = ("center", "same", "none")
_PAD_MODES = ("reflect", "constant", "replicate")
# n_fft, win_length, hop_length: with short, odd and even windows, and a hop past the window.
_SIZES = (
    (64, 64, 16),
    (64, 64, 64),
    (64, 48, 10),
    (64, 31, 7),
    (63, 63, 16),
    (63, 50, 17),
    (64, 64, 100),
)


def _combinations() -> Iterator[tuple[str, str, tuple[int, int, int], int]]:
    """Every size with every padding, and the shortest waveform of every padding and pad mode."""
    for (i, size), (j, padding) in itertools.product(enumerate(_SIZES), enumerate(_PADDINGS)):
        yield padding, _PAD_MODES[(i + j) % 3], size, (1, 99, 800)[(i + 2 * j) % 3]
    for i, (padding, pad_mode) in enumerate(itertools.product(_PADDINGS, _PAD_MODES)):
        yield padding, pad_mode, _SIZES[i % len(_SIZES)], 0


@pytest.mark.parametrize(("padding", "pad_mode", "size", "beyond_shortest"), list(_combinations()))
def test_frames_is_the_length_of_the_mel(
    padding: Any, pad_mode: Any, size: tuple[int, int, int], beyond_shortest: int
) -> None:
    n_fft, win_length, hop_length = size
    recipe = MelRecipe(
        n_fft=n_fft,
        win_length=win_length,
        hop_length=hop_length,
        n_mels=4,
        padding=padding,
        pad_mode=pad_mode,
    )
    samples = recipe.min_samples + beyond_shortest
    assert list(log_mel(_noise(1, samples), recipe).shape) == [1, 4, recipe.frames(samples)]


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("padding", ["center", "same", "none"])
def test_leading_dimensions_are_kept(leading: tuple[int, ...], padding: Any) -> None:
    recipe = MelRecipe(padding=padding)
    assert log_mel(_noise(*leading, 4_096), recipe).shape == (*leading, 100, recipe.frames(4_096))


def test_a_second_has_as_many_frames_as_hops() -> None:
    assert VOCOS.frames_per_second == 93.75


# Truths: values in closed form.


@pytest.mark.parametrize(
    ("recipe", "floor"),
    [
        pytest.param(VOCOS, -16.11809565095832, id="vocos"),
        pytest.param(MelRecipe(floor=1e-5), -11.512925464970229, id="f5-tts"),
        pytest.param(MelRecipe(log_base="10", floor=1e-10), -10.0, id="log10"),
    ],
)
def test_silence_lies_at_the_floor(recipe: MelRecipe, floor: float) -> None:
    silence = log_mel(torch.zeros(1, 4_096), recipe).double()
    # float32 resolves 2e-6 at -16: 3e-7 was measured.
    torch.testing.assert_close(silence, torch.full_like(silence, floor), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("recipe", "floor"),
    [
        pytest.param(VOCOS, -16.11809565095832, id="vocos"),
        pytest.param(MelRecipe(log_base="10", floor=1e-10), -10.0, id="log10"),
    ],
)
def test_log_floor_is_the_logarithm_of_the_floor(recipe: MelRecipe, floor: float) -> None:
    # The expected figure has 16 digits: nothing but its own rounding was measured.
    assert recipe.log_floor == pytest.approx(floor, rel=0, abs=1e-14)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_an_impulse_shows_the_window_times_each_filters_area(power: float) -> None:
    # The transform of one sample has the same magnitude in each bin: the window's height there.
    # Sample 4096 + 64 is 64 samples after the centre of frame 16.
    recipe = MelRecipe(power=power)
    height = math.cos(math.pi * 64 / 1024) ** 2
    expected = power * math.log(height) + filterbank(recipe).double().sum(dim=0).log()
    mel = log_mel(_impulse(8_192, 4_096 + 64), recipe)[0, :, 16].double()
    # float32 resolves 2e-7 at 4: 4e-7 was measured.
    torch.testing.assert_close(mel, expected, rtol=0, atol=2e-6)


def test_an_impulse_falls_twice_as_far_in_energy_as_in_magnitude() -> None:
    off_centre = _impulse(8_192, 4_096 + 200)
    centred = _impulse(8_192, 4_096)
    magnitude, energy = (
        (log_mel(off_centre, recipe) - log_mel(centred, recipe))[..., 16]
        for recipe in (VOCOS, MelRecipe(power=2.0))
    )
    # float32 resolves 5e-7 where the mels lie: 4e-7 was measured.
    torch.testing.assert_close(energy, 2 * magnitude, rtol=0, atol=2e-6)


def test_log10_is_the_natural_logarithm_over_ln_10() -> None:
    waveform = _noise(1, _SECOND)
    decimal = log_mel(waveform, MelRecipe(log_base="10"))
    # float32 resolves 2e-7 at 2: 1.2e-7 was measured.
    torch.testing.assert_close(decimal, log_mel(waveform) / math.log(10), rtol=0, atol=1e-6)


def test_the_mean_is_subtracted_and_the_deviation_divided_by() -> None:
    waveform = _noise(1, _SECOND)
    recipe = MelRecipe(mean=-5.5, std=2.0)
    # float32 resolves 5e-7 at 5, and both are rounded: 2.4e-7 was measured.
    expected = (log_mel(waveform) + 5.5) / 2
    torch.testing.assert_close(log_mel(waveform, recipe), expected, rtol=0, atol=2e-6)
    assert recipe.log_floor == pytest.approx((math.log(1e-7) + 5.5) / 2, rel=0, abs=1e-14)


_DECIBELS = MelRecipe(power=2.0, log_base="10", log_scale=10.0, mean=-30.0, std=20.0)


def test_nats_and_magnitudes_undo_logarithm_and_normalisation() -> None:
    waveform = _noise(1, _SECOND).double()
    mel = log_mel(waveform, _DECIBELS)
    nats = log_mel(waveform, MelRecipe(power=2.0))
    # float64 throughout: 1.8e-15 nats was measured.
    torch.testing.assert_close(_DECIBELS.to_nats(mel), nats, rtol=0, atol=1e-12)
    torch.testing.assert_close(_DECIBELS.to_magnitude(mel), (nats / 2).exp(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("recipe", [VOCOS, _DECIBELS], ids=["nats", "normalised-decibels"])
def test_a_factor_of_e_is_a_nat(recipe: MelRecipe) -> None:
    waveform = _noise(1, _SECOND).double()
    moved = log_mel(math.e * waveform, recipe) - log_mel(waveform, recipe)
    expected = torch.full_like(moved, recipe.power * recipe.units_per_nat)
    # float64 throughout, far from the floor: 1e-14 was measured.
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


def test_a_higher_floor_clips_what_lies_below_it() -> None:
    waveform = _noise(1, _SECOND, amplitude=1e-6)
    clipped = log_mel(waveform, MelRecipe(floor=1e-5))
    # float32 resolves 1e-6 at -11: no difference was measured.
    expected = log_mel(waveform).clamp(min=math.log(1e-5))
    torch.testing.assert_close(clipped, expected, rtol=0, atol=2e-6)
    assert 0 < (clipped == clipped.min()).double().mean() < 1


@pytest.mark.parametrize("gain", [0.03, 0.5, 2.0, 10.0])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_gain_shifts_log_mel_by_its_logarithm(gain: float, power: float) -> None:
    recipe = MelRecipe(power=power)
    waveform = _noise(1, _SECOND)
    mel = log_mel(waveform, recipe)
    assert mel.min() > recipe.log_floor + 5
    expected = mel + power * math.log(gain)
    # Scaling rounds each sample: 3.0e-6 was measured, at power 2.
    torch.testing.assert_close(log_mel(gain * waveform, recipe), expected, rtol=0, atol=1e-5)


def test_polarity_leaves_the_mel() -> None:
    waveform = _noise(1, _SECOND)
    assert torch.equal(log_mel(-waveform), log_mel(waveform))


@pytest.mark.parametrize("padding", ["center", "same", "none"])
@pytest.mark.parametrize("hops", [1, 5])
def test_a_delay_of_whole_hops_moves_the_frames(padding: Any, hops: int) -> None:
    recipe = MelRecipe(padding=padding)
    waveform = _noise(1, _SECOND)
    delayed = torch.cat([torch.zeros(1, hops * 256), waveform], dim=-1)
    edge = 4  # frames that see padding or the start of the delayed sound
    moved = log_mel(delayed, recipe)[..., edge + hops : -edge]
    # No difference was measured; a product of another size may sum in another order elsewhere.
    torch.testing.assert_close(moved, log_mel(waveform, recipe)[..., edge:-edge], rtol=0, atol=5e-6)


def test_a_batch_is_its_items() -> None:
    batch = torch.stack([_noise(8_192), torch.zeros(8_192), _impulse(8_192, 999)[0]])
    alone = torch.stack([log_mel(item) for item in batch])
    # No difference was measured; a product of another size may sum in another order elsewhere.
    torch.testing.assert_close(log_mel(batch), alone, rtol=0, atol=5e-6)


def test_float64_audio_gives_a_float64_mel_of_the_same_values() -> None:
    waveform = _noise(1, _SECOND)
    precise = log_mel(waveform.double())
    assert precise.dtype == torch.float64
    # What float32 costs: 9e-7 was measured.
    torch.testing.assert_close(log_mel(waveform).double(), precise, rtol=0, atol=5e-6)


def test_a_gradient_flows_after_a_first_call_without_one() -> None:
    recipe = MelRecipe(n_mels=33)  # of this test alone: its filters must not be cached yet
    with torch.inference_mode():
        log_mel(_noise(1, 2_048), recipe)
    waveform = _noise(1, 2_048).requires_grad_()
    (gradient,) = torch.autograd.grad(log_mel(waveform, recipe).sum(), waveform)
    assert gradient.abs().max() > 0


# Truths: validation.


@pytest.mark.parametrize("name", ["sample_rate", "n_fft", "win_length", "hop_length", "n_mels"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "256", None], ids=repr)
def test_a_count_that_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number.*got {value!r}"):
        MelRecipe(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        pytest.param("mel_scale", "mel", "'htk', 'slaney'.*got 'mel'", id="mel-scale"),
        pytest.param("norm", "htk", "None, 'slaney'.*got 'htk'", id="norm"),
        pytest.param("padding", True, "'center', 'same', 'none'.*got True", id="padding"),
        pytest.param("pad_mode", "zeros", "'constant'.*got 'zeros'", id="pad-mode"),
        pytest.param("log_base", 10, "'e', '10'.*got 10", id="log-base"),
        pytest.param("power", 0.0, "power must be a positive.*got 0.0", id="power-zero"),
        pytest.param("power", math.nan, "power must be a positive.*got nan", id="power-nan"),
        pytest.param("floor", 0.0, "floor must be a positive.*got 0.0", id="floor-zero"),
        pytest.param("floor", -1e-7, "floor must be a positive.*got -1e-07", id="floor-negative"),
        pytest.param("floor", math.inf, "floor must be a positive.*got inf", id="floor-infinite"),
        pytest.param("win_length", 1025, "at most n_fft, got 1025 > 1024", id="long-window"),
        pytest.param("f_max", 12_001.0, "<= 12000 Hz.*got 0.0 and 12001.0", id="past-nyquist"),
        pytest.param("f_max", 0.0, "got 0.0 and 0.0", id="no-range"),
        pytest.param("f_min", -1.0, "got -1.0 and 12000.0", id="below-zero"),
        pytest.param(
            "f_min", math.nan, "f_min must be a finite number, got nan", id="nan-frequency"
        ),
    ],
)
def test_a_number_that_defines_no_mel_is_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MelRecipe(**{name: value})


# Agreement with vocos.


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize(
    "waveform",
    [
        pytest.param(_noise(1, 72_000), id="noise"),
        pytest.param(_noise(3, 24_001, seed=1), id="batch-of-odd-length"),
        pytest.param(torch.zeros(1, 24_000), id="silence"),
        pytest.param(_impulse(24_000, 12_345), id="impulse"),
        pytest.param(_noise(1, 513), id="shortest"),
        pytest.param(10 * _noise(1, 24_000), id="past-full-scale"),
    ],
)
def test_log_mel_is_that_of_vocos_bit_for_bit(padding: Any, waveform: Tensor) -> None:
    extractor = MelSpectrogramFeatures(padding=padding)
    assert torch.equal(log_mel(waveform, MelRecipe(padding=padding)), extractor(waveform))


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize(
    ("n_fft", "hop_length"),
    [
        pytest.param(1024, 256, id="vocos"),
        pytest.param(1280, 320, id="encodec-like"),
        pytest.param(512, 100, id="hop-no-divisor"),
    ],
)
@pytest.mark.parametrize("frames", [5, 100, 282])
def test_num_samples_is_what_vocos_decodes(
    padding: Any, n_fft: int, hop_length: int, frames: int
) -> None:
    recipe = MelRecipe(n_fft=n_fft, win_length=n_fft, hop_length=hop_length, padding=padding)
    spectrogram = torch.ones(1, n_fft // 2 + 1, frames, dtype=torch.complex64)
    decoded = ISTFT(n_fft, hop_length, n_fft, padding=padding)(spectrogram)
    assert decoded.shape[-1] == recipe.num_samples(frames)


# Agreement with librosa.


@pytest.mark.parametrize("recipe", _RECIPES)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_log_mel_agrees_with_librosa_off_the_floor(recipe: MelRecipe, power: float) -> None:
    waveform = _noise(1, _SECOND)
    # librosa has no "same": the padding is done here, and both start where the waveform does.
    side = recipe.pad_samples
    padded = np.pad(waveform[0].numpy(), side, mode="reflect")
    theirs = librosa.feature.melspectrogram(
        y=padded,
        sr=recipe.sample_rate,
        n_fft=recipe.n_fft,
        hop_length=recipe.hop_length,
        win_length=recipe.win_length,
        center=False,
        power=power,
        n_mels=recipe.n_mels,
        fmin=recipe.f_min,
        fmax=recipe.f_max,
        htk=recipe.mel_scale == "htk",
        norm=recipe.norm,
    )
    ours = log_mel(waveform, dataclasses.replace(recipe, power=power))[0].numpy()
    off_floor = theirs > 100 * recipe.floor
    assert off_floor.mean() > 0.5
    # Two float32 filterbanks and transforms: 2.9e-5 was measured, at power 2.
    np.testing.assert_allclose(ours[off_floor], np.log(theirs[off_floor]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(MelRecipe(n_mels=100), id="htk"),
        pytest.param(MelRecipe(n_mels=40, f_min=50.0, f_max=7_600.0), id="htk-limited"),
        pytest.param(MelRecipe(n_mels=80, mel_scale="slaney"), id="slaney"),
        pytest.param(MelRecipe(n_mels=8, mel_scale="slaney", f_max=900.0), id="below-knee"),
        pytest.param(MelRecipe(n_mels=8, mel_scale="slaney", f_min=1000.0), id="above-knee"),
        pytest.param(MelRecipe(n_mels=1), id="one-band"),
    ],
)
def test_band_centres_are_those_of_librosa(recipe: MelRecipe) -> None:
    edges = librosa.mel_frequencies(
        recipe.n_mels + 2, fmin=recipe.f_min, fmax=recipe.f_max, htk=recipe.mel_scale == "htk"
    )
    # float64 on both sides: 1.8e-12 Hz was measured, at 12 kHz.
    np.testing.assert_allclose(band_centres_hz(recipe), edges[1:-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("recipe", _RECIPES)
def test_each_filter_peaks_at_a_bin_beside_its_centre(recipe: MelRecipe) -> None:
    bin_hz = recipe.sample_rate / recipe.n_fft
    # A triangle on a grid is highest at one of the two bins beside its peak.
    peaks_hz = filterbank(recipe).argmax(dim=0).double() * bin_hz
    gap_hz = (peaks_hz - torch.tensor(band_centres_hz(recipe), dtype=torch.float64)).abs()
    assert gap_hz.max() < bin_hz


@pytest.mark.parametrize("recipe", _RECIPES)
@pytest.mark.parametrize("hz", [440.0, 1_234.5, 6_000.0])
def test_a_tone_is_loudest_in_the_band_labelled_with_it(recipe: MelRecipe, hz: float) -> None:
    seconds = torch.arange(recipe.sample_rate // 2, dtype=torch.float64) / recipe.sample_rate
    tone = (0.3 * torch.sin(2 * math.pi * hz * seconds)).float()
    loudest = int(log_mel(tone, recipe)[:, 20].argmax())
    nearest = int(np.abs(np.array(band_centres_hz(recipe)) - hz).argmin())
    # One band off where the tone lies between two, or where bands are narrower than a bin.
    assert abs(loudest - nearest) <= 1
