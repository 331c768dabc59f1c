"""The loop keeps its shapes, leaves padding out of what it measures, and refuses what does not fit.

The vocoder is Griffin-Lim, without weights, or one that is written here where it must misbehave.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from melcheck.audio import AudioError
from melcheck.config import MelCheckConfig
from melcheck.metrics import MelMetrics, compare, multi_resolution_stft_distance
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.recipes import MelRecipe, log_mel
from melcheck.vocoders.base import Vocoder, VocoderInfo
from melcheck.vocoders.load import load_vocoder

_FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
_CLIP = _FIXTURES / "kokoro-kumo-en.wav"
_SHORT = _FIXTURES / "kokoro-short.flac"
_SHORT_SAMPLES = 19_378
_CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class OtherVocoder:
    """A vocoder with the mel of another, and a decoder or a device of its own."""

    base: Vocoder
    decoder: Callable[[Tensor], Tensor]
    device: torch.device = _CPU

    @property
    def info(self) -> VocoderInfo:
        """Return the other's, under a name of its own."""
        return dataclasses.replace(self.base.info, name="other")

    @property
    def recipe(self) -> MelRecipe:
        """Return the other's recipe."""
        return self.base.recipe

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the other's mel."""
        return self.base.encode(waveform)

    def decode(self, mel: Tensor) -> Tensor:
        """Return what `decoder` makes of the mel."""
        return self.decoder(mel)


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    return load_vocoder("griffin-lim")


@pytest.fixture(scope="module")
def pipeline(vocoder: Vocoder) -> MelPipeline:
    return MelPipeline(MelCheckConfig(_CLIP), vocoder=vocoder)


@pytest.fixture(scope="module")
def embedded() -> MelPipeline:
    return MelPipeline(MelCheckConfig(_CLIP), vocoder="embedded")


@pytest.fixture(scope="module")
def trip(embedded: MelPipeline) -> RoundTrip:
    """The configured clip, once round."""
    return embedded.round_trip()


@pytest.fixture(scope="module")
def padded() -> RoundTrip:
    """A clip of 0.8 s with zeros up to 3 s, once round."""
    config = MelCheckConfig(_SHORT, pad_short=True)
    return MelPipeline(config, vocoder="embedded").round_trip()


def _noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


# Shapes.


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("waveform", [1, 72_000]),
        ("mel", [1, 100, 282]),
        ("reconstructed_waveform", [1, 71_936]),
        ("reconstructed_mel", [1, 100, 282]),
    ],
)
def test_three_seconds_have_the_documented_shapes(
    trip: RoundTrip, name: str, shape: list[int]
) -> None:
    assert list(getattr(trip, name).shape) == shape


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_batch_keeps_its_size(embedded: MelPipeline, batch: int) -> None:
    result = embedded.round_trip(_noise(batch, 4_800))
    shapes = [list(result.mel.shape), list(result.reconstructed_waveform.shape)]
    assert shapes == [[batch, 100, 19], [batch, 4_608]]


@pytest.mark.parametrize("samples", [768, 1_023, 1_024, 1_279])
def test_the_mel_of_what_was_decoded_has_as_many_frames(
    embedded: MelPipeline, samples: int
) -> None:
    result = embedded.round_trip(_noise(1, samples))
    assert result.reconstructed_mel.shape == result.mel.shape


@pytest.mark.parametrize("samples", [513, 767])
def test_a_waveform_too_short_to_go_round_is_refused(embedded: MelPipeline, samples: int) -> None:
    with pytest.raises(ValueError, match=f"at least 768 samples for a round trip, got {samples}"):
        embedded.round_trip(_noise(1, samples))


def test_waveform_and_mel_have_methods_of_their_own(embedded: MelPipeline) -> None:
    mel = embedded.waveform2mel(_noise(2, 2_560))
    assert list(embedded.mel2waveform(mel).shape) == [2, 2_560]


def test_metrics_come_one_an_item(embedded: MelPipeline) -> None:
    assert len(embedded.round_trip(_noise(3, 4_800)).metrics()) == 3


# The configured file.


def test_load_audio_reads_the_configured_file(pipeline: MelPipeline, trip: RoundTrip) -> None:
    assert torch.equal(pipeline.load_audio(), trip.waveform)


def test_round_trip_of_nothing_reads_the_configured_file(
    embedded: MelPipeline, trip: RoundTrip
) -> None:
    given = embedded.round_trip(embedded.load_audio())
    assert torch.equal(trip.reconstructed_mel, given.reconstructed_mel)


def test_a_missing_file_is_told_when_it_is_read(tmp_path: Path, vocoder: Vocoder) -> None:
    pipeline = MelPipeline(MelCheckConfig(tmp_path / "nowhere.wav"), vocoder=vocoder)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav"):
        pipeline.round_trip()


def test_a_file_too_short_for_a_mel_is_refused_by_name(vocoder: Vocoder) -> None:
    pipeline = MelPipeline(MelCheckConfig(_CLIP, target_duration=0.02), vocoder=vocoder)
    with pytest.raises(
        AudioError, match=r"kokoro-kumo-en\.wav: .* at least 768 samples .* got 480"
    ):
        pipeline.round_trip()


# The vocoder.


def test_a_vocoder_can_be_given_as_an_object(vocoder: Vocoder, pipeline: MelPipeline) -> None:
    assert pipeline.vocoder is vocoder


def test_a_vocoder_can_be_given_by_name(embedded: MelPipeline) -> None:
    assert embedded.vocoder.info.name == "embedded"


def test_the_trip_tells_its_vocoder(trip: RoundTrip, embedded: MelPipeline) -> None:
    assert trip.vocoder == embedded.vocoder.info


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_rate_that_is_not_the_vocoders_is_refused(vocoder: Vocoder, rate: int) -> None:
    message = rf"target_sr must be 24000 Hz, .* 'griffin-lim', got {rate}\."
    with pytest.raises(ValueError, match=message):
        MelPipeline(MelCheckConfig(_CLIP, rate), vocoder=vocoder)


_WRONG_LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "one-hop-more": lambda mel: torch.zeros(mel.shape[0], 256 * mel.shape[2]),
    "one-sample-less": lambda mel: torch.zeros(mel.shape[0], 256 * (mel.shape[2] - 1) - 1),
    "nothing": lambda mel: torch.zeros(mel.shape[0], 0),
    "extra-dimension": lambda mel: torch.zeros(mel.shape[0], 1, 256 * (mel.shape[2] - 1)),
    "no-batch": lambda mel: torch.zeros(256 * (mel.shape[2] - 1)),
    "half-the-batch": lambda mel: torch.zeros(1, 256 * (mel.shape[2] - 1)),
}


@pytest.mark.parametrize("decoder", _WRONG_LENGTHS.values(), ids=list(_WRONG_LENGTHS))
def test_a_vocoder_that_returns_another_shape_is_refused(
    vocoder: Vocoder, decoder: Callable[[Tensor], Tensor]
) -> None:
    pipeline = MelPipeline(MelCheckConfig(_CLIP), vocoder=OtherVocoder(vocoder, decoder))
    with pytest.raises(ValueError, match=r"'other' must return \[2, 4608\] for a mel of \[2, 100"):
        pipeline.round_trip(_noise(2, 4_800))


def test_a_device_without_a_number_is_that_of_its_tensors(vocoder: Vocoder) -> None:
    # On one CUDA device, tensors say "cuda:0" where the vocoder says "cuda"; "cpu:0" and "cpu" are
    # such a pair on any machine.
    other = OtherVocoder(vocoder, vocoder.decode, torch.device("cpu:0"))
    pipeline = MelPipeline(MelCheckConfig(_CLIP), vocoder=other)
    assert list(pipeline.waveform2mel(_noise(1, 4_800)).shape) == [1, 100, 19]


# Input that does not fit.

_BAD_WAVEFORMS: dict[str, tuple[Tensor, str]] = {
    "one-dimension": (torch.zeros(4_800), r"got \[4800\]\. Add the batch dimension"),
    "three-dimensions": (
        torch.zeros(1, 1, 4_800),
        r"must be \[batch, samples\], got \[1, 1, 4800\]",
    ),
    "int16": (torch.zeros(1, 4_800, dtype=torch.int16), "float32, got torch.int16.*full scale"),
    "float64": (torch.zeros(1, 4_800).double(), r"got torch\.float64\. Convert it with \.float"),
    "float16": (torch.zeros(1, 4_800).half(), r"must be float32, got torch\.float16"),
    "other-device": (torch.zeros(1, 4_800, device="meta"), "must be on cpu, got meta. Move it"),
    "too-short": (torch.zeros(1, 512), "at least 513 samples, got 512"),
    "no-samples": (torch.zeros(1, 0), "at least 513 samples, got 0"),
}


@pytest.mark.parametrize(("waveform", "message"), _BAD_WAVEFORMS.values(), ids=list(_BAD_WAVEFORMS))
def test_a_waveform_that_does_not_fit_is_refused(
    pipeline: MelPipeline, waveform: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.waveform2mel(waveform)


_BAD_MELS: dict[str, tuple[Tensor, str]] = {
    "transposed": (torch.zeros(1, 282, 100), r"\[1, 282, 100\]\. .* use mel\.transpose\(1, 2\)"),
    "other-bands": (torch.zeros(1, 80, 282), r"\[1, 80, 282\]\. The recipe has 100 bands"),
    "two-dimensions": (torch.zeros(100, 282), r"mel must be .*, got \[100, 282\]\. Add the batch"),
    "four-dimensions": (torch.zeros(1, 1, 100, 282), r"got \[1, 1, 100, 282\]"),
    "float64": (torch.zeros(1, 100, 282).double(), r"mel must be float32, got torch\.float64"),
    "other-device": (torch.zeros(1, 100, 282, device="meta"), "mel must be on cpu, got meta"),
    "one-frame": (torch.zeros(1, 100, 1), "at least 2 frames, got 1"),
    "no-frame": (torch.zeros(1, 100, 0), "at least 2 frames, got 0"),
}


@pytest.mark.parametrize(("mel", "message"), _BAD_MELS.values(), ids=list(_BAD_MELS))
def test_a_mel_that_does_not_fit_is_refused(
    embedded: MelPipeline, mel: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        embedded.mel2waveform(mel)


def test_a_square_mel_is_taken_as_it_is(embedded: MelPipeline) -> None:
    assert list(embedded.mel2waveform(torch.zeros(1, 100, 100)).shape) == [1, 25_344]


_BAD_COUNTS: dict[str, list[int]] = {
    "too-few": [4_800],
    "too-many": [4_800, 4_800, 4_800],
    "none": [],
    "beyond-the-end": [4_800, 4_801],
    "shorter-than-a-round": [4_800, 767],
    "zero": [0, 4_800],
    "negative": [-1, 4_800],
}


@pytest.mark.parametrize("counts", _BAD_COUNTS.values(), ids=list(_BAD_COUNTS))
def test_counts_that_do_not_fit_the_batch_are_refused(
    pipeline: MelPipeline, counts: list[int]
) -> None:
    with pytest.raises(ValueError, match="valid_samples must hold 2 numbers from 768 to 4800, got"):
        pipeline.round_trip(_noise(2, 4_800), valid_samples=counts)


def test_counts_without_a_waveform_are_refused(pipeline: MelPipeline) -> None:
    with pytest.raises(ValueError, match="valid_samples must be None when no waveform is given"):
        pipeline.round_trip(valid_samples=[4_800])


# Padding.


def test_padding_of_the_file_is_known_to_the_trip(padded: RoundTrip) -> None:
    assert (padded.waveform.shape[-1], padded.valid_samples) == (72_000, (_SHORT_SAMPLES,))


def test_a_trip_without_padding_counts_every_frame(trip: RoundTrip) -> None:
    assert trip.frame_mask.all()


@pytest.mark.parametrize(
    ("valid", "frames"), [(768, 4), (1_023, 4), (1_024, 5), (4_607, 18), (4_800, 19)]
)
def test_frames_that_are_centred_on_signal_count(
    embedded: MelPipeline, valid: int, frames: int
) -> None:
    result = embedded.round_trip(_noise(1, 4_800), valid_samples=[valid])
    assert result.frame_mask.tolist() == [[True] * frames + [False] * (19 - frames)]


def test_each_item_has_a_mask_of_its_own(embedded: MelPipeline) -> None:
    result = embedded.round_trip(_noise(2, 4_800), valid_samples=[4_800, 1_024])
    assert result.frame_mask.sum(dim=-1).tolist() == [19, 5]


def test_padded_metrics_are_those_of_the_mels_cut_at_the_signal(padded: RoundTrip) -> None:
    frames = 1 + _SHORT_SAMPLES // 256
    cut = (mel[..., :frames] for mel in (padded.mel, padded.reconstructed_mel))
    (expected,) = compare(*cut, log_floor=padded.recipe.log_floor)
    # The same cells, summed in float64, perhaps in another order: 0 was measured.
    torch.testing.assert_close(
        _scalars(padded.metrics()[0]), _scalars(expected), rtol=0, atol=1e-11
    )


def test_damage_in_the_padding_does_not_reach_the_metrics(padded: RoundTrip) -> None:
    damaged = padded.reconstructed_mel.clone()
    damaged[..., 1 + _SHORT_SAMPLES // 256 :] = torch.nan
    broken = dataclasses.replace(padded, reconstructed_mel=damaged)
    assert torch.equal(_scalars(broken.metrics()[0]), _scalars(padded.metrics()[0]))


def test_damage_in_the_last_frame_that_counts_reaches_the_metrics(padded: RoundTrip) -> None:
    damaged = padded.reconstructed_mel.clone()
    damaged[..., _SHORT_SAMPLES // 256] = torch.nan
    broken = dataclasses.replace(padded, reconstructed_mel=damaged)
    assert _scalars(broken.metrics()[0]).isnan().any()


def test_padding_has_no_error_by_frame(padded: RoundTrip) -> None:
    errors = torch.tensor(padded.metrics()[0].frame_mae)
    assert torch.equal(errors.isnan(), ~padded.frame_mask[0])


def test_padding_barely_moves_the_metrics(padded: RoundTrip) -> None:
    plain = MelPipeline(MelCheckConfig(_SHORT), vocoder="embedded").round_trip()
    # Only the frames near the cut see zeros instead of a reflection: 0.003 of MAE was measured.
    assert padded.metrics()[0].mae == pytest.approx(plain.metrics()[0].mae, rel=0, abs=0.01)


def test_damage_in_the_padding_does_not_reach_the_waveform_distance(padded: RoundTrip) -> None:
    damaged = padded.reconstructed_waveform.clone()
    damaged[..., _SHORT_SAMPLES:] = 1.0
    broken = dataclasses.replace(padded, reconstructed_waveform=damaged)
    assert torch.equal(broken.waveform_distance(), padded.waveform_distance())


def _scalars(metrics: MelMetrics) -> Tensor:
    values = dataclasses.asdict(metrics).values()
    return torch.tensor([value for value in values if isinstance(value, float)]).double()


# What comes out.


def test_waveform_distance_is_one_an_item(embedded: MelPipeline) -> None:
    assert list(embedded.round_trip(_noise(2, 4_800)).waveform_distance().shape) == [2]


@pytest.mark.parametrize("samples", [768, 1_500, 2_047, 2_304])
def test_a_clip_shorter_than_the_longest_window_has_a_waveform_distance(
    embedded: MelPipeline, samples: int
) -> None:
    assert embedded.round_trip(_noise(1, samples)).waveform_distance().isfinite().all()


@pytest.mark.parametrize(
    ("valid", "lengths"), [(2_047, (256, 512)), (2_048, (256, 512, 2_048))], ids=str
)
def test_windows_up_to_the_length_of_the_signal_are_compared(
    embedded: MelPipeline, valid: int, lengths: tuple[int, ...]
) -> None:
    result = embedded.round_trip(_noise(1, 4_800), valid_samples=[valid])
    expected = multi_resolution_stft_distance(
        result.waveform,
        result.reconstructed_waveform,
        window_lengths=lengths,
        num_samples=[valid],
    )
    assert torch.equal(result.waveform_distance(), expected)


def test_a_perfect_decoding_has_no_waveform_distance(trip: RoundTrip) -> None:
    perfect = dataclasses.replace(trip, reconstructed_waveform=trip.waveform[:, :71_936])
    assert perfect.waveform_distance().tolist() == [0.0]


def test_decoding_carries_no_gradient(embedded: MelPipeline) -> None:
    mel = embedded.waveform2mel(_noise(1, 4_800)).clone().requires_grad_()
    assert not embedded.mel2waveform(mel).requires_grad


def test_going_round_twice_gives_the_same_bits(embedded: MelPipeline, trip: RoundTrip) -> None:
    assert torch.equal(embedded.round_trip().reconstructed_mel, trip.reconstructed_mel)


def test_going_round_does_not_change_the_input(embedded: MelPipeline) -> None:
    waveform = _noise(1, 4_800)
    embedded.round_trip(waveform)
    assert torch.equal(waveform, _noise(1, 4_800))


def test_silence_that_stirs_has_an_error(pipeline: MelPipeline) -> None:
    metrics = pipeline.round_trip(torch.zeros(1, 24_000)).metrics()[0]
    assert 0.0 < metrics.mae < 0.1  # Griffin-Lim: 0.015 was measured


def test_silence_that_stirs_has_no_correlation(pipeline: MelPipeline) -> None:
    metrics = pipeline.round_trip(torch.zeros(1, 24_000)).metrics()[0]
    assert (math.isnan(metrics.pearson), metrics.centred_snr_db) == (True, -math.inf)


def test_silence_lies_wholly_at_the_floor(embedded: MelPipeline) -> None:
    metrics = embedded.round_trip(torch.zeros(1, 24_000)).metrics()[0]
    assert metrics.reference_floor_share == 1.0


def test_silence_that_stays_silent_is_identical(vocoder: Vocoder) -> None:
    silent = OtherVocoder(vocoder, lambda mel: torch.zeros(1, 256 * (mel.shape[2] - 1)))
    pipeline = MelPipeline(MelCheckConfig(_CLIP), vocoder=silent)
    metrics = pipeline.round_trip(torch.zeros(1, 24_000)).metrics()[0]
    assert (metrics.mae, metrics.pearson, metrics.snr_db) == (0.0, 1.0, math.inf)


def test_a_pipeline_needs_no_file_for_waveforms() -> None:
    waveform = 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))
    pipeline = MelPipeline(vocoder="griffin-lim")
    trip = pipeline.round_trip(waveform, valid_samples=[24_000, 12_000])
    assert len(trip.metrics()) == 2
    for call in (pipeline.load_audio, pipeline.round_trip):
        with pytest.raises(ValueError, match="this pipeline has no file to read"):
            call()


class InAnotherUnit:
    """A vocoder of nats whose mels are in the unit of another recipe."""

    def __init__(self, inner: Vocoder, recipe: MelRecipe) -> None:
        self.inner, self.recipe = inner, recipe
        self.info, self.device = VocoderInfo("other", "a test"), torch.device("cpu")

    def encode(self, waveform: Tensor) -> Tensor:
        return log_mel(waveform, self.recipe)

    def decode(self, mel: Tensor) -> Tensor:
        return self.inner.decode(self.recipe.in_nats(mel))


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(MelRecipe(log_base="10", log_scale=20.0), id="decibels"),
        pytest.param(MelRecipe(log_base="10"), id="decimal"),
        pytest.param(MelRecipe(mean=-5.5, std=2.1), id="normalised"),
        pytest.param(MelRecipe(log_base=None), id="no-logarithm"),
    ],
)
def test_the_same_audio_has_the_same_metrics_in_every_unit(
    embedded: MelPipeline, trip: RoundTrip, recipe: MelRecipe
) -> None:
    vocoder = InAnotherUnit(embedded.vocoder, recipe)
    other = MelPipeline(MelCheckConfig("unused.wav"), vocoder=vocoder)
    [expected], [found] = trip.metrics(), other.round_trip(trip.waveform).metrics()
    # float32 resolves a normalised mel, or one in dB, a little differently than one in nats.
    for metric, tolerance in {"mae": 2e-4, "snr_db": 0.01, "pearson": 1e-5}.items():
        assert getattr(found, metric) == pytest.approx(getattr(expected, metric), abs=tolerance)
    assert found.reference_floor_share == expected.reference_floor_share
