"""Every tensor of the loop has the shape that the recipe promises, and finite values."""

from __future__ import annotations

from melcheck.suite import (
    test_a_batch_gives_what_its_items_give_alone,
    test_decoded_waveform_has_the_samples_that_the_frames_give,
    test_decoding_loses_less_than_one_hop,
    test_every_value_is_finite,
    test_mel_has_the_frames_that_the_samples_give,
    test_no_mel_goes_below_its_floor,
    test_reconstructed_mel_lines_up_with_the_original,
    test_waveform_is_one_channel_of_at_most_the_target,
)

__all__ = [
    "test_a_batch_gives_what_its_items_give_alone",
    "test_decoded_waveform_has_the_samples_that_the_frames_give",
    "test_decoding_loses_less_than_one_hop",
    "test_every_value_is_finite",
    "test_mel_has_the_frames_that_the_samples_give",
    "test_no_mel_goes_below_its_floor",
    "test_reconstructed_mel_lines_up_with_the_original",
    "test_waveform_is_one_channel_of_at_most_the_target",
]
