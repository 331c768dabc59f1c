"""Regression: the statistics of each clip's mel are those on record, before and after the loop."""

from __future__ import annotations

import pytest

from melcheck.audio import load_audio
from melcheck.clips import Clip, file_name
from melcheck.config import MelCheckConfig
from melcheck.goldens import (
    ENCODED_TOLERANCES,
    RECONSTRUCTED_TOLERANCES,
    mel_statistics,
    provenance,
)
from melcheck.pipeline import RoundTrip
from melcheck.plugin import Golden
from melcheck.recipes import VOCOS, log_mel


@pytest.mark.golden
def test_extracted_mel_is_on_record(mel_clip: Clip, mel_device: str, mel_golden: Golden) -> None:
    config = MelCheckConfig(mel_clip.path)
    waveform = load_audio(config, min_samples=VOCOS.min_samples).waveform.to(mel_device)
    mel_golden.check(
        f"{mel_clip.name}.encoded",
        provenance=provenance(mel_clip, config, VOCOS),
        statistics=mel_statistics(log_mel(waveform)[0], VOCOS),
        tolerances=ENCODED_TOLERANCES,
    )


@pytest.mark.golden
def test_reconstructed_mel_is_on_record(
    request: pytest.FixtureRequest,
    mel_clip: Clip,
    mel_config: MelCheckConfig,
    mel_round_trip: RoundTrip,
    mel_golden: Golden,
) -> None:
    trip = mel_round_trip
    name = f"{mel_clip.name}.{file_name(trip.vocoder.name)}"
    regenerating = request.config.getoption("force_regen") or request.config.getoption("regen_all")
    if trip.vocoder.name != "embedded" and not mel_golden.recorded(name) and not regenerating:
        pytest.skip(f"no golden of {trip.vocoder.name} on record: --force-regen records one")
    mel_golden.check(
        name,
        provenance=provenance(mel_clip, mel_config, trip.recipe, trip.vocoder),
        statistics=mel_statistics(trip.reconstructed_mel[0], trip.recipe),
        tolerances=RECONSTRUCTED_TOLERANCES,
    )
