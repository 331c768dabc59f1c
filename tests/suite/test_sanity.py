"""The gate: `pytest -m sanity`. Does the mel of each clip survive audio -> mel -> audio -> mel?"""

from __future__ import annotations

from melcheck.suite import (
    test_front_end_gives_the_same_mel_again_and_in_a_batch,
    test_front_end_makes_the_vocoders_mel,
    test_loader_reads_what_is_in_the_file,
    test_mel_survives_the_loop,
    test_saver_writes_what_was_decoded,
    test_stored_mel_is_fresh,
    test_vocoder_decodes_as_its_reference,
)

__all__ = [
    "test_front_end_gives_the_same_mel_again_and_in_a_batch",
    "test_front_end_makes_the_vocoders_mel",
    "test_loader_reads_what_is_in_the_file",
    "test_mel_survives_the_loop",
    "test_saver_writes_what_was_decoded",
    "test_stored_mel_is_fresh",
    "test_vocoder_decodes_as_its_reference",
]
