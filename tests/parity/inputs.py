"""What variants are measured on: three vocoders, and 1.5 s of a few fixture clips."""

from __future__ import annotations

import functools
from pathlib import Path

from torch import Tensor

from melcheck.audio import load_audio
from melcheck.clips import load_manifest
from melcheck.config import MelCheckConfig
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from tests.parity.matrix import Trip, go_round
from tests.vocoders import untrained

REPOSITORY = Path(__file__).parents[2]
CLIPS = {clip.name: clip for clip in load_manifest(REPOSITORY / "fixtures" / "clips.yaml")}
NAMES = ("austen-0870", "kokoro-gap", "drums-clicks", "cowbell-sparse", "guitar-stereo")
SECONDS = 1.5  # the cowbell is silent for the first
VOCODERS = ("embedded", "official configuration", "consistent configuration")


@functools.cache
def vocoder(name: str) -> VocosVocoder:
    """Return one of `VOCODERS`, on the CPU."""
    if name == "embedded":
        loaded = load_vocoder("embedded")
        assert isinstance(loaded, VocosVocoder)
        return loaded
    return untrained.official() if name == "official configuration" else untrained.consistent()


@functools.cache
def waveforms(name: str = "embedded") -> tuple[Tensor, ...]:
    """Return the clips; two of them for the slow official configuration, where they differ less."""
    names = (NAMES[0], NAMES[-1]) if name == "official configuration" else NAMES
    configs = [MelCheckConfig(CLIPS[clip].path, target_duration=SECONDS) for clip in names]
    return tuple(load_audio(config).waveform for config in configs)


@functools.cache
def references(name: str) -> tuple[Trip, ...]:
    """Return what the plain vocoder makes of the clips."""
    return tuple(go_round(vocoder(name), waveform) for waveform in waveforms(name))
