"""The embedded vocoder's own parts against torch's STFT, by adjoints, and by what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from vocos.heads import ISTFTHead

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.guided_vocos import GuidedBackbone, GuidedISTFTHead
from melcheck.mel_inversion import MelInversion
from melcheck.overlap import analyse, overlap_add, synthesise
from melcheck.recipes import VOCOS, filterbank

DIM = 16
N_FFT = VOCOS.n_fft
HOP = VOCOS.hop_length


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inversion(num_projections: int = 0) -> MelInversion:
    return MelInversion(
        sample_rate=VOCOS.sample_rate,
        n_fft=N_FFT,
        hop_length=HOP,
        n_mels=VOCOS.n_mels,
        num_projections=num_projections,
    )


def head(num_projections: int) -> GuidedISTFTHead:
    return GuidedISTFTHead(
        DIM, N_FFT, HOP, "center", VOCOS.sample_rate, VOCOS.n_mels, num_projections
    )


@pytest.fixture
def window() -> Tensor:
    return torch.hann_window(16, dtype=torch.float64)


@pytest.mark.parametrize("samples", [16, 64, 83], ids="{} samples".format)
def test_gradient_of_the_analysis_is_that_of_finite_differences(
    window: Tensor, samples: int
) -> None:
    signal = noise(2, samples, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.view_as_real(analyse(x, window, 4)), signal)


def test_gradient_of_the_synthesis_is_that_of_finite_differences(window: Tensor) -> None:
    spectrum = torch.view_as_complex(noise(2, 7, 9, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: synthesise(s, window, 4), spectrum)


def test_overlap_add_adds_each_frame_at_its_place() -> None:
    frames = noise(2, 3, 8)
    expected = torch.zeros(2, 12)
    for index in range(3):
        expected[:, 2 * index : 2 * index + 8] += frames[:, index]
    torch.testing.assert_close(overlap_add(frames, 2), expected, rtol=0, atol=1e-6)


def test_to_spectrum_is_torchs_centred_stft() -> None:
    sound = noise(2, 8 * HOP)
    window = torch.hann_window(N_FFT)
    expected = torch.stft(sound, N_FFT, HOP, N_FFT, window, return_complex=True)
    torch.testing.assert_close(
        inversion().to_spectrum(sound), expected.transpose(1, 2), rtol=0, atol=1e-4
    )


def test_to_sound_is_torchs_inverse_stft() -> None:
    spectrum = torch.view_as_complex(noise(2, 9, N_FFT // 2 + 1, 2))
    expected = torch.istft(spectrum.transpose(1, 2), N_FFT, HOP, N_FFT, torch.hann_window(N_FFT))
    torch.testing.assert_close(inversion().to_sound(spectrum), expected, rtol=0, atol=1e-5)


def test_weights_of_the_head_have_the_names_of_vocos() -> None:
    official = ISTFTHead(DIM, N_FFT, HOP, "center").state_dict().keys()
    assert head(3).state_dict().keys() == official


def test_backbone_hands_the_mel_on_unchanged() -> None:
    mel = noise(2, VOCOS.n_mels, 9)
    features = GuidedBackbone(VOCOS.n_mels, DIM, 2 * DIM, 1)(mel)
    assert features.shape == (2, 9, DIM + VOCOS.n_mels)
    assert torch.equal(features[..., DIM:], mel.transpose(1, 2))


def test_first_magnitudes_have_the_mel_of_a_smooth_spectrum() -> None:
    # 0.05 nats: the worst band of this spectrum was 0.02 off.
    bins = torch.arange(N_FFT // 2 + 1)
    smooth = (3 * torch.exp(-bins / 120) + 0.01)[None, None]
    mel = torch.log(smooth @ filterbank(VOCOS))
    found = torch.log(inversion().magnitude(mel) @ filterbank(VOCOS))
    torch.testing.assert_close(found, mel, rtol=0, atol=0.05)


def test_first_magnitudes_of_silence_are_inaudible() -> None:
    silence = torch.full((1, 4, VOCOS.n_mels), VOCOS.log_floor)
    assert inversion().magnitude(silence).max() < 1e-6


@pytest.mark.parametrize("bin_number", [20.0, 37.3, 80.5, 200.25])
def test_phases_advance_as_those_of_a_steady_tone(bin_number: float) -> None:
    """The turn from frame to frame at the peak is that of the tone's own STFT."""
    samples = torch.arange(20 * HOP, dtype=torch.float64)
    tone = torch.sin(2 * torch.pi * bin_number / N_FFT * samples).float()[None]
    spectrum = inversion().to_spectrum(tone)[:, 4:-4]
    peak = round(bin_number)
    advancing = inversion().advancing_phase(spectrum.abs().clamp(min=1e-7))[..., peak]
    expected = torch.polar(torch.ones(()), spectrum[..., peak].angle().diff(dim=1))
    found = torch.polar(torch.ones(()), advancing.diff(dim=1))
    # A parabola through a Hann lobe misses its top by up to 0.05 bins, 0.08 rad in a hop.
    assert (found / expected).angle().abs().max() < 0.1


def test_phases_of_a_lobe_are_half_a_turn_apart() -> None:
    bins = torch.arange(N_FFT // 2 + 1)
    lobe = torch.exp(-((bins - 50.0) ** 2) / 50)[None, None].expand(1, 3, -1) + 1e-6
    phase = inversion().advancing_phase(lobe)[0, 2, 45:56]
    assert torch.allclose(torch.cos(phase.diff()), -torch.ones(10), atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_what_sounds_is_never_taken_for_silence(seed: int) -> None:
    sound = noise(1, 60 * HOP, seed=seed)
    sound[:, 13 * HOP + 17 : 30 * HOP - 5] = 0.0
    sound[:, 40 * HOP :] = 0.0
    mel = torch.log(
        (inversion().to_spectrum(sound).abs() @ filterbank(VOCOS)).clamp(min=VOCOS.floor)
    )
    audible = inversion().audible(mel)
    assert audible.shape == sound.shape
    assert (sound[audible == 0] == 0).all()
    # At most two hops on each side of a gap are left to the network.
    assert int((audible == 0).sum()) > int((sound == 0).sum()) - 8 * HOP


def test_digital_silence_stays_exact() -> None:
    mel = noise(1, 40, VOCOS.n_mels, seed=1) - 5
    mel[:, 15:30] = VOCOS.log_floor
    sound = head(2)(torch.cat([noise(1, 40, DIM), mel], dim=-1))
    assert (sound[:, 15 * HOP : 29 * HOP] == 0).all()
    assert (sound[:, : 12 * HOP] != 0).any()


@pytest.fixture(scope="module")
def speech_mel() -> Tensor:
    """A log-mel, `[1, frames, n_mels]`."""
    path = Path(__file__).parents[1] / "fixtures" / "audio" / "austen-0870.flac"
    waveform = load_audio(MelCheckConfig(path, target_duration=1.5)).waveform
    mel = inversion().to_spectrum(waveform).abs() @ filterbank(VOCOS)
    return torch.log(mel.clamp(min=VOCOS.floor))


def mel_error(found: MelInversion, mel: Tensor, sound: Tensor) -> float:
    """Mean absolute error, in nats."""
    bands = found.to_spectrum(sound).abs() @ filterbank(VOCOS)
    return float((torch.log(bands.clamp(min=VOCOS.floor)) - mel).abs().mean())


def test_every_projection_brings_the_sound_nearer_to_the_mel(speech_mel: Tensor) -> None:
    errors = []
    for num_projections in (0, 1, 3, 8):
        found = inversion(num_projections)
        magnitude, direction = found(speech_mel)
        errors.append(mel_error(found, speech_mel, found.to_sound(magnitude * direction)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15


def test_projections_are_those_of_a_plain_loop(speech_mel: Tensor) -> None:
    """The same in torch's own STFT, a new array for each step."""
    found = inversion(3)
    window, filters = torch.hann_window(N_FFT), filterbank(VOCOS)
    bands = torch.exp(speech_mel)
    magnitude = found.magnitude(speech_mel)
    angle, previous = found.advancing_phase(magnitude), None
    for _ in range(3):
        spectrum = torch.polar(magnitude, angle).transpose(1, 2)
        sound = torch.istft(spectrum, N_FFT, HOP, N_FFT, window)
        its_own = torch.stft(sound, N_FFT, HOP, N_FFT, window, return_complex=True).transpose(1, 2)
        lacking = (bands / (its_own.abs() @ filters + 1e-7)) @ filters.T / filters.sum(dim=1)
        magnitude = its_own.abs() * lacking.nan_to_num(nan=1.0)
        ahead = its_own if previous is None else its_own + 0.9 * (its_own - previous)
        angle, previous = ahead.angle(), its_own
    expected = torch.istft(torch.polar(magnitude, angle).transpose(1, 2), N_FFT, HOP, N_FFT, window)
    got, direction = found(speech_mel)
    error = found.to_sound(got * direction) - expected
    # Rounding, which projections amplify: 60 dB below the sound.
    assert error.square().mean() < 1e-6 * expected.square().mean()


def test_float64_finds_the_same_sound(speech_mel: Tensor) -> None:
    """Where a peak is, and so what is summed over time, is not left to rounding."""
    single, double = inversion(7), inversion(7).double()
    sounds = []
    for found, mel in ((single, speech_mel), (double, speech_mel.double())):
        magnitude, direction = found(mel)
        sounds.append(found.to_sound(magnitude * direction).double())
    error = (sounds[0] - sounds[1]).square().mean() / sounds[1].square().mean()
    assert error < 1e-4


def test_a_sound_too_short_to_be_mirrored_keeps_the_first_guess() -> None:
    mel = noise(1, 3, VOCOS.n_mels) - 5
    for one, other in zip(inversion(5)(mel), inversion(0)(mel), strict=True):
        assert torch.equal(one, other)


def test_gradient_reaches_every_weight() -> None:
    model = head(3)
    features = torch.cat([noise(1, 9, DIM), noise(1, 9, VOCOS.n_mels, seed=1) - 5], dim=-1)
    model(features).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("frames", [2, 3, 4, 9], ids="{} frames".format)
def test_sound_has_a_hop_for_each_frame_after_the_first(frames: int) -> None:
    features = torch.cat([noise(1, frames, DIM), noise(1, frames, VOCOS.n_mels) - 5], dim=-1)
    assert head(2)(features).shape == (1, (frames - 1) * HOP)


@pytest.mark.parametrize(
    ("hop_length", "padding", "message"),
    [(HOP, "same", "padding must be 'center'"), (300, "center", "hop_length must divide n_fft")],
    ids=["padding", "hop"],
)
def test_what_the_inversion_is_not_written_for_is_refused(
    hop_length: int, padding: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GuidedISTFTHead(DIM, N_FFT, hop_length, padding, VOCOS.sample_rate, VOCOS.n_mels, 2)
