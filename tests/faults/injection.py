"""Prepare a clip, inject a fault into the healthy loop, and run the gates on the damaged one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from melcheck.clips import Clip, load_manifest
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.weights import VocoderError
from tests.faults.gates import inspect
from tests.faults.model import Expectation, Fault, InjectionTarget, PreparedAudio, expect

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLIPS = {clip.name: clip for clip in load_manifest(FIXTURES / "clips.yaml")}

_PAUSE_SECONDS = 0.3
_HISS = 0.01


@functools.cache
def embedded() -> MelPipeline:
    """Return the healthy loop with the embedded vocoder, loaded once in a process."""
    return MelPipeline(MelCheckConfig(Path("unused.wav")))


@functools.cache
def healthy(clip: str, audio: PreparedAudio = "recorded") -> Expectation:
    """Return what that loop makes of a fixture clip, computed once in a process."""
    goldens = FIXTURES / "goldens" if audio == "recorded" else None
    return expect_prepared(CLIPS[clip], embedded(), audio, goldens=goldens)


def expect_prepared(
    clip: Clip, pipeline: MelPipeline, audio: PreparedAudio, *, goldens: Path | None = None
) -> Expectation:
    """Return what the healthy loop does with a clip, prepared as a fault needs it.

    Args:
        clip: The clip.
        pipeline: The healthy loop.
        audio: See `tests.faults.model.PreparedAudio`.
        goldens: Folder of the clip's goldens, which apply to the clip as recorded only.
    """
    if audio == "recorded":
        return expect(clip, pipeline, goldens=goldens)
    changed = dataclasses.replace(pipeline.config, audio_path=clip.path)
    waveform = MelPipeline(changed, vocoder=pipeline.vocoder).load_audio()
    return expect(clip, pipeline, waveform=_prepared(waveform, audio))


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


def run_fault(
    fault: Fault,
    severity: str,
    expected: Expectation,
    folder: Path,
    *,
    gates: Collection[str] | None = None,
) -> dict[str, str]:
    """Inject a fault and return what each gate that fires has found, by the gate's name.

    Args:
        fault: The fault.
        severity: The label of one of its severities.
        expected: What the healthy loop does, as `expect_prepared` gives it for `fault.audio`.
        folder: An empty folder that may be written to.
        gates: Names of the gates to run; None for all.

    Raises:
        KeyError: The fault has no such severity.
    """
    parameter = fault.severities[severity]
    try:
        loop = fault.inject(InjectionTarget(expected, folder), parameter)
    except (ValueError, VocoderError) as error:  # refused before there is a loop at all
        return {"preflight": str(error)}
    if fault.reaches_reference:
        mel = loop.extract(expected.waveform)
        decoded = loop.decode(mel)
        expected = dataclasses.replace(
            expected, loop=loop, mel=mel, decoded=decoded, decoded_mel=loop.extract(decoded)
        )
    return inspect(loop, expected, folder, gates=gates)
