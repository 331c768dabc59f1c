"""The embedded vocoder's own head against torch's STFT, and by what it promises."""

from __future__ import annotations

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
from melcheck.vocoders.phase_retrieval import CORRECTION, MOMENTUM, PhaseRetrieval, Projections
from training.unrolled import projected_spectrum

DIM = 16
N_FFT = VOCOS.n_fft
HOP = VOCOS.hop_length
ALL_RATES = (4, 3, 2)  # projections at an eighth of the rate, at a quarter, at the whole


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def retrieval(*turns: int) -> PhaseRetrieval:
    return PhaseRetrieval(
        sample_rate=VOCOS.sample_rate,
        n_fft=N_FFT,
        hop_length=HOP,
        n_mels=VOCOS.n_mels,
        turns=turns or (0, 0, 0),  # type: ignore[arg-type]
    )


def head(*turns: int) -> ConsistentISTFTHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConsistentISTFTHead(
            DIM, N_FFT, HOP, "center", VOCOS.sample_rate, VOCOS.n_mels, *reversed(turns)
        )


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


def test_to_waveform_is_torchs_inverse_stft() -> None:
    spectrum = torch.view_as_complex(noise(2, 9, N_FFT // 2 + 1, 2))
    expected = torch.istft(spectrum.transpose(1, 2), N_FFT, HOP, N_FFT, torch.hann_window(N_FFT))
    torch.testing.assert_close(retrieval().to_waveform(spectrum), expected, rtol=0, atol=1e-5)


def test_weights_of_the_head_have_the_names_of_vocos() -> None:
    official = ISTFTHead(DIM, N_FFT, HOP, "center").state_dict().keys()
    assert head(*ALL_RATES).state_dict().keys() == official


@pytest.mark.parametrize("bin_number", [5.5, 21.5, 121.5])
def test_phases_advance_as_those_of_a_steady_tone(bin_number: float) -> None:
    """The turn from frame to frame is that of the tone's own STFT, in the middle of four bins."""
    samples = torch.arange(20 * HOP, dtype=torch.float64)
    tone = torch.sin(2 * torch.pi * bin_number / N_FFT * samples).float()[None]
    spectrum = retrieval().to_spectrum(tone)[0, 4:-4, int(bin_number)]
    advancing = retrieval().advancing(len(spectrum))[:, int(bin_number)]
    found, expected = advancing[1:] / advancing[:-1], torch.sgn(spectrum[1:] / spectrum[:-1])
    # The lobe of the negative frequency reaches the lowest bins.
    assert (found / expected).angle().abs().max() < 0.02


def test_higher_bins_begin_later() -> None:
    """The delay is the slope of the phase: half a window, and up to 6 ms more."""
    direction = retrieval().advancing(2)[0]
    turns = (direction[1:] / direction[:-1]).angle() / (2 * torch.pi)
    delays = torch.remainder(turns, 1.0) * N_FFT - N_FFT / 2
    torch.testing.assert_close(delays[-1], torch.tensor(157.0), rtol=0, atol=0.5)
    assert (delays.diff() > 0).all()


def test_phases_go_on_where_an_earlier_waveform_was() -> None:
    whole = retrieval().advancing(100_040)[-20:]
    rest = retrieval().advancing(20, first_frame=100_020)
    assert torch.equal(rest, whole)


@pytest.mark.parametrize("seed", range(3))
def test_what_sounds_is_never_taken_for_silence(seed: int) -> None:
    waveform = noise(1, 60 * HOP, seed=seed)
    waveform[:, 13 * HOP + 17 : 30 * HOP - 5] = 0.0
    waveform[:, 40 * HOP :] = 0.0
    audible = retrieval().audible(retrieval().to_spectrum(waveform).abs() @ filterbank(VOCOS))
    assert audible.shape == waveform.shape
    assert (waveform[audible == 0] == 0).all()
    # At most two hops on each side of a gap are left to the network.
    assert int((audible == 0).sum()) > int((waveform == 0).sum()) - 8 * HOP


def test_the_quietest_waveform_of_16_bits_is_audible() -> None:
    """The last bit set now and then, at random."""
    waveform = noise(1, 20 * HOP).sign() / 32_768 * (noise(1, 20 * HOP, seed=1) > 1.5)
    bands = retrieval().to_spectrum(waveform).abs() @ filterbank(VOCOS)
    assert (retrieval().audible(bands) == 1).all()


def test_predicted_silence_is_digital_silence() -> None:
    quiet = head(*ALL_RATES)
    with torch.no_grad():
        quiet.out.bias[:] = -24.0
        waveform = quiet(noise(1, 40, DIM))
        assert (waveform == 0).all()
        quiet.out.bias[:] = -8.0
        assert (quiet(noise(1, 40, DIM)) != 0).any()


@pytest.fixture(scope="module")
def magnitude() -> Tensor:
    """Of speech, `[1, frames, bins]`."""
    path = Path(__file__).parents[2] / "fixtures" / "audio" / "austen-0870.flac"
    waveform = load_audio(MelCheckConfig(path, target_duration=1.5)).waveform
    return retrieval().to_spectrum(waveform).abs() + 1e-7


def projected(found: PhaseRetrieval, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectrum that projections find, and its waveform."""
    bands = magnitude @ found.filters
    audible = found.audible(bands)
    spectrum = found.project_(bands, found.advancing(magnitude.shape[1]) * magnitude, audible)
    return spectrum, found.to_waveform(spectrum) * audible


def mel_error(magnitude: Tensor, waveform: Tensor) -> float:
    """Mean absolute error of the waveform's mel, in nats."""
    mels = [
        torch.log((bins @ filterbank(VOCOS)).clamp(min=VOCOS.floor))
        for bins in (retrieval().to_spectrum(waveform).abs(), magnitude)
    ]
    return float((mels[0] - mels[1]).abs().mean())


@pytest.mark.parametrize("rate", [0, 1, 2], ids=["eighth", "quarter", "whole"])
def test_every_projection_brings_the_waveform_nearer_to_the_bands(
    magnitude: Tensor, rate: int
) -> None:
    errors = []
    for count in (0, 1, 3, 8):
        turns = [0, 0, 0]
        turns[rate] = count
        errors.append(mel_error(magnitude, projected(retrieval(*turns), magnitude)[1]))
    assert errors == sorted(errors, reverse=True)


def test_projections_at_lower_rates_reach_what_takes_more_at_the_whole(magnitude: Tensor) -> None:
    """Twelve at an eighth, six at a quarter and two at the whole cost as much as five."""
    cheap, dear = (
        mel_error(magnitude, projected(retrieval(*turns), magnitude)[1])
        for turns in ((12, 6, 2), (0, 0, 5))
    )
    assert cheap < dear
    assert cheap < 0.11  # 0.091 was seen


@pytest.mark.parametrize("divisor", [8, 4, 1])
def test_a_lower_rate_holds_the_same_waveform(magnitude: Tensor, divisor: int) -> None:
    """Its bins, with a window so many times shorter, are the STFT of the decimated waveform."""
    rate = Projections(VOCOS, divisor)
    lowest = noise(1, 12 * HOP, seed=3)
    spectrum = retrieval().to_spectrum(lowest)
    spectrum[..., rate.kept :] = 0.0
    waveform = retrieval().to_waveform(spectrum)[:, ::divisor]
    edge = rate.n_fft // 2
    short = synthesise(spectrum[..., : rate.bins], rate.window, rate.hop_length)[:, edge:-edge]
    # A frame of n bins is scaled by 1 / n.
    found = short * rate.share(torch.ones(1, 12 * HOP)) / divisor
    torch.testing.assert_close(found, waveform, rtol=0, atol=1e-4)


def test_projections_are_those_of_a_plain_loop(magnitude: Tensor) -> None:
    """The same at the whole rate in torch's own STFT, a new array for each step."""
    found = retrieval(0, 0, 3)
    window, filters = torch.hann_window(N_FFT), filterbank(VOCOS)
    bands, size = magnitude @ filters, magnitude
    angle, previous = found.advancing(magnitude.shape[1]).angle(), None
    for _ in range(3):
        spectrum = torch.polar(size, angle).transpose(1, 2)
        waveform = torch.istft(spectrum, N_FFT, HOP, N_FFT, window)
        its_own = torch.stft(waveform, N_FFT, HOP, N_FFT, window, return_complex=True).mT
        ratio = (bands / (its_own.abs() @ filters + 1e-7)) ** CORRECTION
        lacking = (ratio @ filters.T / filters.sum(dim=1)).nan_to_num(nan=1.0)
        size = its_own.abs() * lacking
        ahead = its_own if previous is None else its_own + MOMENTUM * (its_own - previous)
        angle, previous = ahead.angle(), its_own
    expected = torch.istft(torch.polar(size, angle).transpose(1, 2), N_FFT, HOP, N_FFT, window)
    error = projected(found, magnitude)[1] - expected
    # Rounding, which projections amplify: 60 dB below the waveform.
    assert error.square().mean() < 1e-6 * expected.square().mean()


def test_the_unrolled_projections_are_these(magnitude: Tensor) -> None:
    """What is trained through is what is run."""
    found = retrieval(*ALL_RATES)
    expected, waveform = projected(found, magnitude)
    unrolled, audible = projected_spectrum(found, magnitude)
    error = found.to_waveform(unrolled) * audible - waveform
    assert error.square().mean() < 1e-6 * waveform.square().mean()
    assert unrolled.shape == expected.shape


def test_float64_finds_the_same_waveform(magnitude: Tensor) -> None:
    """No decision is left to rounding."""
    single, double = retrieval(*ALL_RATES), retrieval(*ALL_RATES).double()
    waveforms = [projected(single, magnitude)[1].double(), projected(double, magnitude.double())[1]]
    error = (waveforms[0] - waveforms[1]).square().mean() / waveforms[1].square().mean()
    assert error < 1e-4


def test_a_waveform_too_short_to_be_mirrored_is_left_as_it_is() -> None:
    magnitude = noise(1, 3, N_FFT // 2 + 1).abs()
    spectrum = torch.polar(magnitude, magnitude)
    bands = magnitude @ filterbank(VOCOS)
    found = retrieval(*ALL_RATES).project_(bands, spectrum.clone(), torch.ones(1, 2 * HOP))
    assert torch.equal(found, spectrum)


def test_gradient_reaches_every_weight_through_the_unrolled_projections() -> None:
    model = head(*ALL_RATES)
    spectrum, _ = projected_spectrum(model.phase_retrieval, model.magnitude(noise(1, 9, DIM)))
    model.phase_retrieval.to_waveform(spectrum).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


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
            DIM, n_fft, hop_length, padding, VOCOS.sample_rate, VOCOS.n_mels, 2, 0, 1
        )
