"""Every tensor of the loop has the shape that the recipe promises, and finite values."""

from __future__ import annotations

import pytest
import torch

from melcheck.pipeline import MelPipeline, RoundTrip

pytestmark = pytest.mark.shapes


def test_waveform_is_one_channel_of_at_most_the_target(
    mel_pipeline: MelPipeline, mel_round_trip: RoundTrip
) -> None:
    target = mel_pipeline.config.target_samples
    assert target is not None
    channels, samples = mel_round_trip.waveform.shape
    assert channels == 1
    assert mel_pipeline.recipe.min_samples <= samples <= target


def test_mel_has_the_frames_that_the_samples_give(mel_round_trip: RoundTrip) -> None:
    trip = mel_round_trip
    frames = trip.recipe.frames(trip.waveform.shape[-1])
    assert list(trip.mel.shape) == [1, trip.recipe.n_mels, frames]


def test_decoded_waveform_has_the_samples_that_the_frames_give(mel_round_trip: RoundTrip) -> None:
    trip = mel_round_trip
    expected = [1, trip.recipe.num_samples(trip.mel.shape[-1])]
    assert list(trip.reconstructed_waveform.shape) == expected


def test_decoding_loses_less_than_one_hop(mel_round_trip: RoundTrip) -> None:
    trip = mel_round_trip
    lost = trip.waveform.shape[-1] - trip.reconstructed_waveform.shape[-1]
    assert 0 <= lost < trip.recipe.hop_length


def test_reconstructed_mel_lines_up_with_the_original(mel_round_trip: RoundTrip) -> None:
    assert mel_round_trip.reconstructed_mel.shape == mel_round_trip.mel.shape


def test_every_value_is_finite(mel_round_trip: RoundTrip) -> None:
    trip = mel_round_trip
    tensors = (trip.waveform, trip.mel, trip.reconstructed_waveform, trip.reconstructed_mel)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_no_mel_goes_below_its_floor(mel_round_trip: RoundTrip) -> None:
    trip = mel_round_trip
    lowest = min(trip.mel.min().item(), trip.reconstructed_mel.min().item())
    assert lowest >= trip.recipe.log_floor - 1e-5  # float32 resolves 2e-6 at -16


def test_a_batch_gives_what_its_items_give_alone(
    mel_pipeline: MelPipeline, mel_round_trip: RoundTrip
) -> None:
    waveform = mel_round_trip.waveform
    batch = torch.cat([waveform, 0.5 * waveform, torch.zeros_like(waveform)])
    trip = mel_pipeline.round_trip(batch)
    assert list(trip.mel.shape) == [3, *mel_round_trip.mel.shape[1:]]
    # Another batch size sums in another order: 2e-6 was measured on the loudest clip.
    torch.testing.assert_close(
        trip.reconstructed_waveform[:1], mel_round_trip.reconstructed_waveform, rtol=0, atol=2e-5
    )
