"""The clips that faults are tried on, as each needs them, and the targets of injections."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.clips import Clip, load_manifest
from melcheck.config import MelCheckConfig
from melcheck.recipes import VOCOS
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from tests.faults.model import InjectionTarget, PreparedAudio

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLIPS = {clip.name: clip for clip in load_manifest(FIXTURES / "clips.yaml")}

_PAUSE_SECONDS = 0.3
_HISS = 0.01


@functools.cache
def embedded() -> VocosVocoder:
    """Return the healthy vocoder, loaded once in a process."""
    loaded = load_vocoder("embedded")
    assert isinstance(loaded, VocosVocoder)
    return loaded


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def prepared(name: str, audio: PreparedAudio = "recorded") -> tuple[Clip, Tensor]:
    """Return a fixture clip as a file that is prepared, and what is checked of it.

    The thresholds apply to a clip as recorded alone: noise and cuts are no fault of a loop.
    """
    clip = CLIPS[name]
    waveform = load_audio(MelCheckConfig(clip.path)).waveform
    if audio == "recorded":
        return clip, waveform
    waveform = _prepared(waveform, audio)
    path = Path(_folder().name) / f"{name}-{audio.replace(' ', '-')}.wav"
    soundfile.write(path, waveform[0].numpy(), VOCOS.sample_rate, subtype="FLOAT")
    return Clip(name, path, "sparse"), waveform


def target(
    name: str, folder: Path, audio: PreparedAudio = "recorded", vocoder: VocosVocoder | None = None
) -> InjectionTarget:
    """Return what an injection works with, on a fixture clip."""
    clip, waveform = prepared(name, audio)
    return InjectionTarget(clip.path, waveform, vocoder or embedded(), folder)


def _prepared(waveform: Tensor, audio: PreparedAudio) -> Tensor:
    samples = waveform.shape[-1]
    waveform = waveform.clone()
    if audio == "pause":
        begin = samples // 2
        waveform[..., begin : begin + round(_PAUSE_SECONDS * VOCOS.sample_rate)] = 0.0
    elif audio == "hiss":
        generator = torch.Generator().manual_seed(0)
        waveform += _HISS * torch.randn(waveform.shape, generator=generator)
    elif audio == "silent edges":
        waveform[..., : VOCOS.n_fft] = 0.0
        waveform[..., -VOCOS.n_fft :] = 0.0
    elif audio == "square":
        length = VOCOS.num_samples(VOCOS.n_mels) + VOCOS.hop_length // 2
        waveform = waveform.repeat(1, -(-length // samples))
        # About the loudest sample, so that there is something to see.
        loudest = int(waveform.abs().argmax())
        begin = min(max(0, loudest - length // 2), waveform.shape[-1] - length)
        waveform = waveform[..., begin : begin + length]
    return waveform
