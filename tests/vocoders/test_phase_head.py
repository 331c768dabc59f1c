"""The embedded vocoder's own head against torch's STFT, and by what it promises."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from vocos.heads import ISTFTHead

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.recipes import VOCOS, filterbank
from melcheck.vocoders.overlap_add import OverlapAdd, overlap_add, synthesise
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.phase_retrieval import PhaseRetrieval, Projections

DIM = 16
N_FFT = VOCOS.n_fft
HOP = VOCOS.hop_length
ALL_RATES = (4, 3, 2)  # projections at an eighth of the rate, at a quarter, at the whole


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def retrieval(*turns: int, steps: int = 0) -> PhaseRetrieval:
    return PhaseRetrieval(
        sample_rate=VOCOS.sample_rate,
        n_fft=N_FFT,
        hop_length=HOP,
        n_mels=VOCOS.n_mels,
        turns=turns or (0, 0, 0),  # type: ignore[arg-type]
        steps=steps,
    )


def head(*turns: int, steps: int = 1) -> ConsistentISTFTHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConsistentISTFTHead(
            DIM, N_FFT, HOP, "center", VOCOS.sample_rate, VOCOS.n_mels, *reversed(turns), steps
        )


def bands_of(waveform: Tensor) -> Tensor:
    return retrieval().to_spectrum(waveform).abs() @ filterbank(VOCOS) + VOCOS.floor


def test_overlap_add_adds_each_frame_at_its_place() -> None:
    frames = noise(2, 3, 8)
    expected = torch.zeros(2, 12)
    for index in range(3):
        expected[:, 2 * index : 2 * index + 8] += frames[:, index]
    torch.testing.assert_close(overlap_add(frames, 2), expected, rtol=0, atol=1e-6)


def test_overlap_add_in_the_same_arrays_is_the_same_again() -> None:
    again = OverlapAdd(torch.zeros(2, 3, 5, dtype=torch.complex64), 8, 2)
    for seed in range(2):
        frames = noise(2, 3, 8, seed=seed)
        again.frames.copy_(frames)
        torch.testing.assert_close(again.added(), overlap_add(frames, 2), rtol=0, atol=1e-6)


def test_to_spectrum_is_torchs_centred_stft() -> None:
    waveform = noise(2, 8 * HOP)
    window = torch.hann_window(N_FFT)
    expected = torch.stft(waveform, N_FFT, HOP, N_FFT, window, return_complex=True)
    torch.testing.assert_close(
        retrieval().to_spectrum(waveform), expected.transpose(1, 2), rtol=0, atol=1e-4
    )


def test_an_inversion_without_weights_is_torchs_inverse_stft() -> None:
    """All frames of one level have one weight."""
    spectrum = torch.view_as_complex(noise(2, 9, N_FFT // 2 + 1, 2))
    level = torch.ones(2, 9, VOCOS.n_mels)
    expected = torch.istft(spectrum.transpose(1, 2), N_FFT, HOP, N_FFT, torch.hann_window(N_FFT))
    found = retrieval().whole.descend(level, spectrum, torch.ones(2, 8 * HOP), 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_inversion_is_the_weighted_least_squares_solution() -> None:
    """Of the sum of (weight (window x - frame))², by the pseudo-inverse of its matrix."""
    hop, n_fft, frames = 2, 8, 6
    rate = Projections(
        dataclasses.replace(VOCOS, n_fft=n_fft, win_length=n_fft, hop_length=hop, n_mels=2), 1
    ).double()
    bands = noise(1, frames, 2, dtype=torch.float64).exp()
    spectrum = torch.view_as_complex(noise(1, frames, n_fft // 2 + 1, 2, dtype=torch.float64))
    cut = torch.fft.irfft(spectrum, n_fft)[0]
    level = torch.log(bands[0] + 1e-7).mean(dim=-1)
    rows = torch.zeros(frames, n_fft, (frames - 1) * hop + n_fft, dtype=torch.float64)
    for frame in range(frames):
        for place in range(n_fft):
            rows[frame, place, hop * frame + place] = torch.exp(-level[frame]) * rate.window[place]
    wanted = torch.exp(-level)[:, None] * cut
    solved = torch.linalg.pinv(rows.flatten(0, 1)) @ wanted.flatten()
    edge = n_fft // 2
    found = rate.descend(bands, spectrum, torch.ones(1, (frames - 1) * hop).double(), 0)
    torch.testing.assert_close(found[0], solved[edge:-edge], rtol=0, atol=1e-9)


def test_weights_of_the_head_have_the_names_of_vocos() -> None:
    official = ISTFTHead(DIM, N_FFT, HOP, "center").state_dict().keys()
    assert head(*ALL_RATES).state_dict().keys() == official


def pulses(pitch_hz: float, seconds: float = 0.5) -> Tensor:
    """A pulse train `[1, samples]`, all harmonics below 5 kHz in cosine phase."""
    time = torch.arange(int(seconds * VOCOS.sample_rate), dtype=torch.float64) / VOCOS.sample_rate
    harmonics = torch.arange(1, int(5_000 / pitch_hz))[:, None]
    return torch.cos(2 * torch.pi * pitch_hz * harmonics * time).mean(dim=0).float()[None]


@pytest.mark.parametrize("pitch_hz", [80.0, 131.7, 220.0, 401.0])
def test_the_pitch_of_a_pulse_train_is_found(pitch_hz: float) -> None:
    magnitude = retrieval().to_spectrum(pulses(pitch_hz)).abs()
    found = retrieval().pitch_hz(magnitude)[0, 4:-4]
    torch.testing.assert_close(found, torch.full_like(found, pitch_hz), rtol=0.01, atol=0)


def test_a_frame_without_a_pitch_has_one_in_the_range_of_voices() -> None:
    for magnitude in (torch.zeros(1, 3, N_FFT // 2 + 1), noise(1, 3, N_FFT // 2 + 1).abs()):
        found = retrieval().pitch_hz(magnitude)
        assert ((found > 55) & (found < 430)).all()


def test_first_phases_turn_as_those_of_the_pulse_train_do() -> None:
    """Around the first harmonics, from frame to frame, as in the train's own STFT."""
    spectrum = retrieval().to_spectrum(pulses(220.0))[:, 4:-4]
    found = retrieval()
    pitch_hz = found.pitch_hz(spectrum.abs())
    first = found.first_phases(pitch_hz, found.pulse_turns(pitch_hz))
    bins = [round(harmonic * 220.0 * N_FFT / VOCOS.sample_rate) for harmonic in (1, 2, 3, 4)]
    own, given = (
        torch.remainder(phase[0, 1:, bins] - phase[0, :-1, bins] + torch.pi, 2 * torch.pi)
        for phase in (spectrum.angle(), first)
    )
    # Half a sample of the period is 1 Hz, and 0.27 rad a hop at the fourth harmonic.
    assert (torch.remainder(own - given + torch.pi, 2 * torch.pi) - torch.pi).abs().max() < 0.3


def test_higher_bins_begin_later() -> None:
    """The delay is the slope of the phase: half a window, and up to 6 ms more."""
    across = retrieval().across
    delays = across.diff() * N_FFT - N_FFT / 2
    torch.testing.assert_close(float(delays[-1]), 157.0, rtol=0, atol=0.5)
    assert (delays.diff() > 0).all()


def test_a_part_that_is_told_the_turns_of_the_whole_goes_on_with_its_phases() -> None:
    found, bands = retrieval(), bands_of(pulses(150.0))
    pitch_hz = found.pitch_hz(found.whole.spread(bands))
    turned = found.pulse_turns(pitch_hz)
    whole = found.first_phases(pitch_hz, turned)[:, 20:]
    part = found.first_phases(pitch_hz[:, 20:], turned[:, 20:])
    assert torch.equal(part, whole)


@pytest.mark.parametrize("seed", range(3))
def test_what_sounds_is_never_taken_for_silence(seed: int) -> None:
    waveform = noise(1, 60 * HOP, seed=seed)
    waveform[:, 13 * HOP + 17 : 30 * HOP - 5] = 0.0
    waveform[:, 40 * HOP :] = 0.0
    audible = retrieval().audible(bands_of(waveform))
    assert audible.shape == waveform.shape
    assert (waveform[audible == 0] == 0).all()
    # At most two hops on each side of a gap are left to the network.
    assert int((audible == 0).sum()) > int((waveform == 0).sum()) - 8 * HOP


def test_the_quietest_waveform_of_16_bits_is_audible() -> None:
    """The last bit set now and then, at random."""
    waveform = noise(1, 20 * HOP).sign() / 32_768 * (noise(1, 20 * HOP, seed=1) > 1.5)
    assert (retrieval().audible(bands_of(waveform)) == 1).all()


def test_predicted_silence_is_digital_silence() -> None:
    quiet = head(*ALL_RATES)
    with torch.no_grad():
        quiet.out.bias[:] = -24.0
        waveform = quiet(noise(1, 40, DIM))
        assert (waveform == 0).all()
        quiet.out.bias[:] = -8.0
        assert (quiet(noise(1, 40, DIM)) != 0).any()


@pytest.fixture(scope="module")
def bands() -> Tensor:
    """Of speech, `[1, frames, n_mels]`."""
    path = Path(__file__).parents[2] / "fixtures" / "audio" / "austen-0870.flac"
    return bands_of(load_audio(MelCheckConfig(path, target_duration=1.5)).waveform)


def mel_error(bands: Tensor, waveform: Tensor) -> float:
    """Mean absolute error of the waveform's log-mel, in nats."""
    return float((torch.log(bands_of(waveform)) - torch.log(bands)).abs().mean())


def test_spread_magnitudes_have_the_bands(bands: Tensor) -> None:
    again = retrieval().whole.spread(bands) @ filterbank(VOCOS)
    assert float((torch.log(again + VOCOS.floor) - torch.log(bands)).abs().mean()) < 0.05


@pytest.mark.parametrize("rate", [0, 1, 2], ids=["eighth", "quarter", "whole"])
def test_every_projection_brings_the_waveform_nearer_to_the_bands(bands: Tensor, rate: int) -> None:
    errors = []
    for count in (0, 1, 3, 8):
        turns = [0, 0, 0]
        turns[rate] = count
        errors.append(mel_error(bands, retrieval(*turns)(bands)))
    assert errors == sorted(errors, reverse=True)


def test_every_step_of_descent_brings_the_waveform_nearer_to_the_bands(bands: Tensor) -> None:
    errors = [mel_error(bands, retrieval(*ALL_RATES, steps=steps)(bands)) for steps in (0, 1, 3, 8)]
    assert errors == sorted(errors, reverse=True)


def test_projections_at_lower_rates_reach_what_takes_more_at_the_whole(bands: Tensor) -> None:
    """Twelve at an eighth, six at a quarter and two at the whole cost as much as five."""
    cheap, dear = (mel_error(bands, retrieval(*turns)(bands)) for turns in ((12, 6, 2), (0, 0, 5)))
    assert cheap < dear


def test_a_weight_keeps_a_loud_frame_from_overwriting_the_quiet_one_beside_it() -> None:
    """Silence of 80 dB below a tone ends where the tone begins, with weights that fall with it."""
    waveform = torch.cat([1e-5 * noise(1, 12 * HOP), 0.5 * pulses(200.0)], dim=-1)[:, : 24 * HOP]
    found, quiet = retrieval(*ALL_RATES), slice(0, 10 * HOP)
    loudest = float(found(bands_of(waveform))[:, quiet].abs().max())
    assert loudest < 1e-3
    found.whole.weighted_window = lambda bands: found.whole.window.expand(*bands.shape[:2], N_FFT)
    assert float(found(bands_of(waveform))[:, quiet].abs().max()) > 3 * loudest


@pytest.mark.parametrize("divisor", [8, 4, 1])
def test_a_lower_rate_holds_the_same_waveform(divisor: int) -> None:
    """Its bins, with a window so many times shorter, are the STFT of the decimated waveform."""
    rate, level = Projections(VOCOS, divisor), torch.ones(1, 13, VOCOS.n_mels)
    lowest, audible = noise(1, 12 * HOP, seed=3), torch.ones(1, 12 * HOP)
    spectrum = retrieval().to_spectrum(lowest)
    spectrum[..., rate.kept :] = 0.0
    waveform = retrieval().whole.descend(level, spectrum, audible, 0)[:, ::divisor]
    edge = rate.n_fft // 2
    share = rate.share(rate.window.expand(1, 13, -1), audible)
    short = synthesise(spectrum[..., : rate.bins], rate.window, rate.hop_length)[:, edge:-edge]
    # A frame of n bins is scaled by 1 / n.
    torch.testing.assert_close(short * share / divisor, waveform, rtol=0, atol=1e-4)


def test_projections_and_descent_are_those_of_a_plain_loop(bands: Tensor) -> None:
    """The same at the whole rate in float64, with a new array for each step."""
    found = retrieval(0, 0, 3, steps=2).double()
    bands = bands.double()
    window, filters = torch.hann_window(N_FFT).double(), filterbank(VOCOS).double()
    weight = torch.exp(-2 * torch.log(bands + 1e-7).mean(dim=-1, keepdim=True)) * window
    edge = N_FFT // 2

    def inverse(spectrum: Tensor) -> Tensor:
        frames = torch.fft.irfft(spectrum, N_FFT) * weight
        total = overlap_add(weight * window, HOP)
        return (overlap_add(frames, HOP) / total)[:, edge:-edge]

    size = found.whole.spread(bands)
    pitch_hz = found.pitch_hz(size)
    angle, previous = found.first_phases(pitch_hz, found.pulse_turns(pitch_hz)), None
    for _ in range(3):
        its_own = found.to_spectrum(inverse(torch.polar(size, angle)))
        ratio = (bands / (its_own.abs() @ filters + 1e-7)) ** 1.3
        lacking = (ratio @ filters.T / filters.sum(dim=1)).nan_to_num(nan=1.0)
        size = its_own.abs() * lacking
        ahead = its_own if previous is None else its_own + 0.9 * (its_own - previous)
        angle, previous = ahead.angle(), its_own
    waveform = before = inverse(torch.polar(size, angle))
    for step in range(2):
        ahead = waveform + 0.5 * (waveform - before) if step else waveform
        spectrum = found.to_spectrum(ahead)
        its_own = spectrum.abs() @ filters + 1e-7
        error = (its_own.log() - torch.log(bands + 1e-7)).clamp(-1, 1)
        gradient = spectrum.abs() * (error / its_own @ filters.T)
        before, waveform = waveform, ahead - inverse(spectrum * gradient)
    error = found(bands) - waveform
    assert error.square().mean() < 1e-10 * waveform.square().mean()


def test_reordered_operations_find_the_same_waveform(bands: Tensor) -> None:
    """In float64, where what becomes of rounding is small."""
    plain = retrieval(12, 6, 3, steps=3).double()
    reordered = copy.deepcopy(plain)
    reordered.reorder_()
    bands = bands.double()
    waveform, expected = reordered(bands), plain(bands)
    assert not torch.equal(waveform, expected)
    torch.testing.assert_close(waveform, expected, rtol=0, atol=1e-9)


def test_float64_finds_a_waveform_with_the_same_mel(bands: Tensor) -> None:
    """Rounding turns phases, and hardly moves what they add up to."""
    single = retrieval(12, 6, 3, steps=3)
    double = retrieval(12, 6, 3, steps=3).double()
    mels = [torch.log(bands_of(found.float())) for found in (single(bands), double(bands.double()))]
    assert float((mels[0] - mels[1]).abs().mean()) < 1e-3


def test_a_waveform_too_short_to_be_mirrored_keeps_its_first_phases() -> None:
    bands = noise(1, 3, VOCOS.n_mels).exp()
    projected, plain = (
        retrieval(*turns, steps=steps)(bands) for turns, steps in ((ALL_RATES, 2), ((), 0))
    )
    assert torch.equal(projected, plain)


def test_damage_to_a_weight_of_the_head_changes_the_waveform() -> None:
    whole, damaged = head(*ALL_RATES), head(*ALL_RATES)
    features = noise(1, 12, DIM)
    with torch.no_grad():
        damaged.out.weight[7] *= 1.1
        assert not torch.equal(whole(features), damaged(features))


@pytest.mark.parametrize("frames", [2, 3, 4, 9], ids="{} frames".format)
def test_a_waveform_has_a_hop_for_each_frame_after_the_first(frames: int) -> None:
    assert head(1, 1, 2)(noise(1, frames, DIM)).shape == (1, (frames - 1) * HOP)


@pytest.mark.parametrize(
    ("n_fft", "hop_length", "padding", "message"),
    [
        (N_FFT, HOP, "same", "padding must be 'center'"),
        (N_FFT, 300, "center", "hop_length must divide n_fft"),
        (1020, 510, "center", "must be multiples of 8, got 1020 and 510"),
    ],
    ids=["padding", "hop", "rate"],
)
def test_what_the_projections_are_not_written_for_is_refused(
    n_fft: int, hop_length: int, padding: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ConsistentISTFTHead(
            DIM, n_fft, hop_length, padding, VOCOS.sample_rate, VOCOS.n_mels, 2, 0, 1, 0
        )
