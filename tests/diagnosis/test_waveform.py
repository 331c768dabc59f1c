"""What was done to a waveform is named, one claim for each cause that `explain_waveform` knows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchaudio
from torch import Tensor
from vocos import Vocos

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.waveform import explain_waveform
from melcheck.recipes import log_mel
from tests.vocoders import untrained

# How the bounds of `waveform_tests` were measured. Wrong weights (`other_weights`):
#
# Measured on six clips, kokoro-kumo-en, -blend-en, -alpha-ja, -short, austen-0870 and -0930, with
# the embedded vocoder and with a plain one of random weights.
# The share of the level, and the direction: float16, bfloat16 and TF32 leave 0.1 % to 1.4 % and 1.3
# to 4.0 with the plain one. The head of the embedded one finds a different waveform for the least
# difference: TF32 leaves 3 % to 20 % and 1.0 to 3.2, float16 31 % to 73 % and 1.5 to 3.5, and
# bfloat16 80 % and more, 5.3 to 8.8, which is like wrong weights. Of these, errors below 20 % have
# 2.5 and more, so that the smallest look like rounding; those above have 1.8 to 35,000.
# What is large enough to be no rounding, but has hardly a direction: 1.8 and more for other
# weights; 0.8 to 1.0 for a second voice beside this one, an echo, noise that follows the level.
# What a filter leaves of the error: 0.51 and more of that of wrong weights; 0.13 to 0.28 of a
# room's with empty bands, 0.41 to 0.44 of Opus'.
# The likeness of frames. Wrong weights: 0.738 to 1.0, and 0.08 and more above that of the same two
# moved against each other in time. A different clip, one backwards and one at a different speed:
# 0.15 to 0.38, and at most 0.14 above.
# The lean of the bands, of errors above that share which have no direction, with the embedded
# vocoder: 1.6 to 3.3 for a layer that lost its gain (0.8 in the one clip of a second); 0.3 to 0.8
# for float16, 0.1 to 0.2 for TF32. What leans nowhere has 0.45.
# Logarithms of the error's level, by block: the samples of white noise alone make 0.041; the
# steadiest rounding of the above has 0.11.
#
# Fits (`fits`):
#
# A fit is named where it leaves at most so much of the error, and of the estimate. Measured on two
# voices of 3 s, kokoro-kumo-en and austen-0870: an equaliser, a shelf and a de-emphasis leave 0.011
# to 0.062 of the error, tanh and mu-law curves 0.006 and less, a fade and steps of 5 % 0.002 and
# less, a compressor 0.062. Of wrong weights and fewer bits, 15 kinds, with a plain vocoder and the
# embedded one, a filter leaves 0.51 and more (six clips), a curve and a moving gain 0.81 (three).
#
# A drift (`direct`):
#
# Three voices of 3 s, at 1.0003 and 1.003 of their speed: 20 samples and more, a
# correlation with time of 0.998 and more, segments that agree to 0.98 and more. Of wrong weights
# and fewer bits (six clips, two vocoders) those that agree to 0.9 have a correlation of 0.72 at
# most, and those with one above 0.9 agree to 0.44 at most.

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
SPEECH = AUDIO / "kokoro-kumo-en.wav"
# Recorded at 16 kHz: there is nothing in its upper third.
NARROW = AUDIO / "austen-0870.flac"
RATE = 24_000
BLOCK = 256

Damage = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return load_audio(MelCheckConfig(SPEECH, target_sr=RATE, target_duration=3.0)).waveform[0]


@pytest.fixture(scope="module")
def narrow() -> Tensor:
    return load_audio(MelCheckConfig(NARROW, target_sr=RATE, target_duration=3.0)).waveform[0]


@pytest.fixture(scope="module")
def model() -> Vocos:
    """A plain Vocos: the embedded vocoder's head magnifies the least difference."""
    return untrained.small().model


def explain(reference: Tensor, estimate: Tensor) -> Explanation | None:
    return explain_waveform(reference, estimate, sample_rate=RATE)


def named(reference: Tensor, estimate: Tensor) -> Explanation:
    found = explain(reference, estimate)
    assert found is not None
    return found


def resampled(source: int, target: int) -> Damage:
    return lambda speech: torchaudio.functional.resample(speech, source, target)


def via(rate: int) -> Damage:
    return lambda speech: resampled(rate, RATE)(resampled(RATE, rate)(speech))


def full_scale(speech: Tensor) -> Tensor:
    return speech / speech.abs().max()


def wrapped(speech: Tensor) -> Tensor:
    integers = (1.5 * full_scale(speech) * 32_767).round().int()
    return ((integers + 2**15) % 2**16 - 2**15).float() / 32_768


def with_nan(speech: Tensor) -> Tensor:
    return speech.index_fill(0, torch.tensor([9_000, 9_001]), torch.nan)


def faded(speech: Tensor) -> Tensor:
    """Scale all but the ends, as an overlap that is not divided out."""
    ends = torch.linspace(0, 1, 2_000)
    return speech * (1 + 0.5 * torch.cat([ends, torch.ones(len(speech) - 4_000), ends.flip(0)]))


def noisy_from(*starts: int, blocks: int) -> Damage:
    """Add noise at half the level to some blocks; these parts of the clip are not silent."""

    def damage(speech: Tensor) -> Tensor:
        noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
        kept = torch.zeros_like(speech)
        for start in starts:
            kept[start * BLOCK : (start + blocks) * BLOCK] = 0.5 * float(speech.std())
        return speech + kept * noise

    return damage


def jumping(speech: Tensor) -> Tensor:
    """Add a step at the edge of every 40th block, beside an error that is everywhere."""
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    level = 0.01 * float(speech.std())
    chunks = torch.arange(len(speech)) // (40 * BLOCK)
    return speech + level * noise + 80 * level * (chunks % 2)


def noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0))


def late(samples: float) -> Damage:
    """Delay by any part of a sample: each frequency by its phase."""

    def damage(speech: Tensor) -> Tensor:
        length = 2 * len(speech)
        turns = torch.fft.rfftfreq(length).double() * samples
        spectrum = torch.fft.rfft(speech.double(), length) * torch.exp(-2j * torch.pi * turns)
        return torch.fft.irfft(spectrum, length)[: len(speech)].float()

    return damage


def pre_emphasised(speech: Tensor) -> Tensor:
    return speech - 0.97 * torch.nn.functional.pad(speech, (1, 0))[:-1]


def equalised(speech: Tensor) -> Tensor:
    return torchaudio.functional.equalizer_biquad(speech, RATE, 1_000.0, 6.0)


def reverberant(speech: Tensor) -> Tensor:
    """A room of which a filter of a sixteenth of the clip explains too little."""
    taps = torch.arange(14_400)
    room = 0.05 * noise(taps) * torch.exp(-taps / 3_000)
    room[0] = 1
    return torchaudio.functional.fftconvolve(speech, room)[: len(speech)]


def faster(ratio: float) -> Damage:
    return lambda speech: torch.nn.functional.interpolate(
        speech[None, None], size=round(len(speech) / ratio), mode="linear"
    )[0, 0]


def louder_in_turns(speech: Tensor) -> Tensor:
    return speech * (1 + 0.05 * (torch.arange(len(speech)) // 4_096 % 2))


def clicking_at(*samples: int) -> Damage:
    return lambda speech: speech.index_add(
        0, torch.tensor(samples), torch.full((len(samples),), 0.5)
    )


def dropped(speech: Tensor) -> Tensor:
    return speech.index_fill(0, torch.arange(30_000, 30_600), 0)


def fewer_bits(model: Vocos) -> Vocos:
    for module in (model.backbone,):
        module.register_forward_hook(lambda _, __, features: features.bfloat16().float())
    return model


def other_weights(model: Vocos) -> Vocos:
    with torch.no_grad():
        model.get_parameter("backbone.convnext.2.pwconv1.weight").mul_(0.5)
    return model


@pytest.mark.parametrize(
    ("code", "evidence", "damage"),
    [
        pytest.param("channels", "2 channels", lambda w: torch.stack([w, w]), id="stereo"),
        pytest.param("sample-rate", "48000 Hz", resampled(RATE, 48_000), id="upsampled"),
        pytest.param("sample-rate", "16000 Hz", resampled(RATE, 16_000), id="downsampled"),
        pytest.param("non-finite", "2 of 72,000", with_nan, id="nan"),
        pytest.param("silent-output", "0.0e+00", torch.zeros_like, id="silence"),
        pytest.param("saturated", "are at 1", lambda w: (32_767 * w).clamp(-1, 1), id="square"),
        pytest.param("int16-wrap", "gain of", wrapped, id="wrapped"),
        pytest.param(
            "clipping", "at 0.25", lambda w: full_scale(w).clamp(-0.25, 0.25), id="clipped"
        ),
        pytest.param("dc-offset", "+0.01", lambda w: w + 0.01, id="constant"),
        pytest.param("dc-offset", "factor of 0.5", lambda w: w / 2 - 0.01, id="constant-and-gain"),
        pytest.param("polarity", "factor of -1", torch.neg, id="inverted"),
        pytest.param("gain", "-6.02 dB", lambda w: w / 2, id="halved"),
        pytest.param("gain", "factor of 1.5", faded, id="overlap-not-divided-out"),
        pytest.param("int16-scale", "integers", lambda w: 32_768 * w, id="integers"),
        pytest.param("shifted", "528 samples", lambda w: w.roll(528), id="late"),
        pytest.param("shifted", "early", lambda w: w[1_105:], id="early-and-shorter"),
        pytest.param("length", "71,900 samples", lambda w: w[:71_900], id="shorter"),
        pytest.param("band-limited", "above 8,500 Hz", via(16_000), id="16-khz"),
        pytest.param("band-limited", "above 6,500 Hz", via(12_000), id="12-khz"),
        pytest.param("tail", "from 2.13 s", noisy_from(200, blocks=81), id="tail"),
        pytest.param("seams", "every", noisy_from(60, 120, 180, blocks=4), id="grid"),
        pytest.param("places", "error of", noisy_from(60, 80, 180, blocks=4), id="places"),
        pytest.param("seams", "jumps", jumping, id="jumps"),
        pytest.param("int16-scale", "down twice", lambda w: w / 32_768, id="scaled-down-twice"),
        pytest.param("shifted", "5000 samples", late(5_000), id="late-by-a-fifth-of-a-second"),
        pytest.param("shifted", "0.50 samples", late(0.5), id="half-a-sample-late"),
        pytest.param("shifted", "factor of -0.5", lambda w: -w.roll(99) / 2, id="late-and-quiet"),
        pytest.param("time-flipped", "reversed", lambda w: w.flip(0), id="backwards"),
        pytest.param("sample-rate", "1.0030", faster(1.003), id="faster"),
        pytest.param("pre-emphasis", "0.970", pre_emphasised, id="pre-emphasised"),
        pytest.param("filtered", "of the error", equalised, id="equalised"),
        pytest.param("curve", "factor of 2.98", lambda w: (3 * w).tanh(), id="soft-limit"),
        pytest.param("gain", "1 to 1.05, by place", louder_in_turns, id="gain-that-moves"),
        pytest.param("noise", "0.05 throughout", lambda w: w + 0.05 * noise(w), id="noise"),
        pytest.param("rounding", "8 bits", lambda w: (w * 128).round() / 128, id="8-bits"),
        pytest.param("rounding", "a float16", lambda w: w.half().float(), id="float16"),
        pytest.param("rounding", "a bfloat16", lambda w: w.bfloat16().float(), id="bfloat16"),
        pytest.param("places", "from 1.25 s", clicking_at(30_000), id="click"),
        pytest.param("places", "0.42, 0.83 s", clicking_at(10_000, 20_050), id="two-clicks"),
        pytest.param("places", "from 1.25 s", dropped, id="dropout"),
    ],
)
def test_what_was_done_is_named(speech: Tensor, code: str, evidence: str, damage: Damage) -> None:
    found = named(speech, damage(speech))
    assert found.code == code, found
    assert evidence in found.evidence


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        pytest.param("rounding", lambda w: (w * 128).round() / 128, id="8-bits"),
        pytest.param("rounding", lambda w: w.half().float(), id="float16"),
        pytest.param("rounding", lambda w: w + 1e-3 * w * noise(w), id="rounded"),
        pytest.param("gain", louder_in_turns, id="gain-that-moves"),
        pytest.param("curve", torch.tanh, id="soft-limit"),
        pytest.param("filtered", equalised, id="equalised"),
    ],
)
def test_bands_without_sound_are_not_said_to_be_lost(
    narrow: Tensor, code: str, damage: Damage
) -> None:
    found = named(narrow, damage(narrow))
    assert found.code == code, found


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda w: w.roll(25_000).flip(0), id="another-sound"),
        pytest.param(reverberant, id="reverberant"),
        pytest.param(faster(1.03), id="much-faster"),
        pytest.param(lambda w: w * (1 + 0.3 * noise(w)), id="noise-that-follows-the-sound"),
        pytest.param(lambda w: w + 0.3 * w.roll(30_000), id="an-echo-long-after"),
    ],
)
def test_what_no_known_cause_explains_is_unknown(speech: Tensor, damage: Damage) -> None:
    found = named(speech, damage(speech))
    assert found.code == "unknown", found
    assert "of the level" in found.evidence


@pytest.mark.parametrize("samples", [1, 10, 300, 5_000])
def test_of_a_few_samples_no_more_is_said_than_the_error(speech: Tensor, samples: int) -> None:
    clip = speech[20_000 : 20_000 + samples]
    found = named(clip, 0.5 * clip + 0.1 * noise(clip))
    assert found.code == "unknown", found


@pytest.mark.parametrize("length", [24_000, 23_000])
def test_a_sound_where_silence_is_expected_is_unknown(speech: Tensor, length: int) -> None:
    found = named(torch.zeros(24_000), speech[20_000 : 20_000 + length])
    assert found.code == "unknown", found
    assert "where it should be silent" in found.evidence


def test_a_constant_where_silence_is_expected_is_an_offset() -> None:
    found = named(torch.zeros(24_000), torch.full((24_000,), 0.01))
    assert (found.code, "+0.01" in found.evidence) == ("dc-offset", True)


def test_a_mirror_image_of_itself_is_not_said_to_run_backwards(speech: Tensor) -> None:
    mirrored = torch.cat([speech, speech.flip(0)])
    assert named(mirrored, mirrored.bfloat16().float()).code == "rounding"


def test_another_length_is_said_of_the_waveform(speech: Tensor) -> None:
    assert "the waveform is longer or shorter" in str(named(speech, speech[:71_900]))


def test_a_reference_that_is_broken_itself_is_refused(speech: Tensor) -> None:
    with pytest.raises(ValueError, match=r"reference must be finite, got 2 NaN"):
        explain(with_nan(speech), speech)


@pytest.mark.parametrize(
    ("code", "damage"),
    [pytest.param("rounding", fewer_bits), pytest.param("weights", other_weights)],
)
def test_fewer_bits_are_told_from_other_weights(
    speech: Tensor, model: Vocos, code: str, damage: Callable[[Vocos], Vocos]
) -> None:
    mel = log_mel(speech[None])
    found = named(model.decode(mel), damage(copy.deepcopy(model)).decode(mel))
    assert found.code == code, found


@pytest.mark.parametrize(
    ("code", "mix"),
    [
        pytest.param("channel-dropped", lambda channels: channels[1], id="dropped"),
        pytest.param("stereo-sum", lambda channels: channels.sum(dim=0), id="summed"),
    ],
)
def test_a_wrong_mix_is_named_where_the_channels_are_known(
    speech: Tensor, code: str, mix: Damage
) -> None:
    channels = torch.stack([speech, 0.3 * speech.roll(7_000)])
    found = explain_waveform(
        channels.mean(dim=0), mix(channels), sample_rate=RATE, channels=channels
    )
    assert found is not None
    assert found.code == code


def test_silence_behind_a_damaged_end_does_not_hide_that_it_is_the_end(speech: Tensor) -> None:
    clip = speech.clone()
    clip[250 * BLOCK :] = 0
    assert named(clip, noisy_from(200, blocks=50)(clip)).code == "tail"


def test_images_in_the_upper_bands_are_not_taken_for_missing_ones(speech: Tensor) -> None:
    low = resampled(RATE, 16_000)(speech)
    drawn = torch.nn.functional.interpolate(low[None, None], size=len(speech), mode="linear")
    assert named(speech, drawn[0, 0]).code != "band-limited"


def test_a_header_of_another_rate_over_the_same_samples_is_named(speech: Tensor) -> None:
    found = explain_waveform(speech, speech, sample_rate=RATE, estimate_rate=22_050)
    assert found is not None
    assert (found.code, "gives 22050 Hz" in found.evidence) == ("header-rate", True)


def test_a_resampled_file_whose_header_is_right_is_not_said_to_be_mistaken(speech: Tensor) -> None:
    found = explain_waveform(
        speech, resampled(RATE, 48_000)(speech), sample_rate=RATE, estimate_rate=48_000
    )
    assert found is not None
    assert found.code == "sample-rate"
    assert found.evidence == "48000 Hz, as in its header, where 24000 Hz are expected"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(torch.clone, id="itself"),
        pytest.param(lambda w: w[None], id="one-channel"),
        pytest.param(lambda w: (w * 32_768).round() / 32_768, id="pcm16"),
    ],
)
def test_what_differs_by_no_more_than_16_bits_needs_no_cause(
    speech: Tensor, damage: Damage
) -> None:
    assert explain(speech, damage(speech)) is None


@pytest.mark.parametrize("length", [0, 3_000])
def test_silence_that_should_be_silent_needs_no_cause(length: int) -> None:
    silence = torch.zeros(24_000)
    assert explain(silence, silence + 1e-6 * (torch.arange(24_000) < length)) is None


@pytest.mark.parametrize(
    ("reference", "estimate", "said"),
    [
        pytest.param(torch.zeros(9), torch.zeros(0), "estimate must be one waveform", id="empty"),
        pytest.param(torch.zeros(9).int(), torch.zeros(9), "got torch.int32", id="integers"),
        pytest.param(torch.zeros(2, 9), torch.zeros(9), "reference must be one", id="batch"),
    ],
)
def test_what_is_no_waveform_is_refused(reference: Tensor, estimate: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        explain(reference, estimate)


def test_waveforms_may_be_numpy(speech: Tensor) -> None:
    halved = explain_waveform(speech.numpy(), 0.5 * speech.numpy(), sample_rate=RATE)  # type: ignore[arg-type]
    assert halved is not None
    assert halved.code == "gain"
