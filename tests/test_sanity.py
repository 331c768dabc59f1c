"""The gate: `pytest -m sanity`. Does the mel of each clip survive audio -> mel -> audio -> mel?"""

from __future__ import annotations

import pytest

from melcheck.suite import (
    test_front_end_gives_the_same_mel_again_and_in_a_batch,
    test_front_end_makes_the_vocoders_mel,
    test_mel_survives_the_loop,
    test_stored_mel_is_fresh,
)

__all__ = [
    "test_front_end_gives_the_same_mel_again_and_in_a_batch",
    "test_front_end_makes_the_vocoders_mel",
    "test_mel_survives_the_loop",
    "test_stored_mel_is_fresh",
]


@pytest.fixture
def mel_known_misses() -> dict[tuple[str, str], dict[str, float]]:
    """Clips of the manifest that a vocoder is known to miss, as measured on the first 3 s."""
    return {
        ("kokoro-mp3", "embedded"): {"mae": 0.205},
        ("kokoro-short", "embedded"): {"snr_db": 18.75},
    }
