"""Regression: the statistics of each clip's mel are those on record, before and after the loop."""

from __future__ import annotations

import pytest

from melcheck.clips import Clip, file_name
from melcheck.config import MelCheckConfig
from melcheck.goldens import (
    ENCODED_TOLERANCES,
    RECONSTRUCTED_TOLERANCES,
    Golden,
    mel_statistics,
    provenance,
)
from melcheck.pipeline import RoundTrip
from melcheck.recipes import VOCOS

pytestmark = pytest.mark.golden


def test_extracted_mel_is_on_record(
    mel_clip: Clip, mel_config: MelCheckConfig, mel_round_trip: RoundTrip, mel_golden: Golden
) -> None:
    # One golden for all vocoders of a recipe: their extractors must agree.
    recipe = mel_round_trip.recipe
    stage = "encoded" if recipe == VOCOS else f"encoded-{recipe.digest()}"
    mel_golden.check(
        f"{mel_clip.name}.{stage}",
        provenance=provenance(mel_clip, mel_config, recipe),
        statistics=mel_statistics(mel_round_trip.mel[0], recipe),
        tolerances=ENCODED_TOLERANCES,
        may_be_absent=recipe != VOCOS,
    )


def test_reconstructed_mel_is_on_record(
    mel_clip: Clip, mel_config: MelCheckConfig, mel_round_trip: RoundTrip, mel_golden: Golden
) -> None:
    trip = mel_round_trip
    mel_golden.check(
        f"{mel_clip.name}.{file_name(trip.vocoder.name)}",
        provenance=provenance(mel_clip, mel_config, trip.recipe, trip.vocoder),
        statistics=mel_statistics(trip.reconstructed_mel[0], trip.recipe),
        tolerances=RECONSTRUCTED_TOLERANCES,
        may_be_absent=trip.vocoder.name != "embedded",
    )
