"""The catalogue of faults that really happen between audio, mel and vocoder, and how each is tried.

Each fault comes from a public report. It is injected for real into a healthy loop, which then
passes every gate of `tests.faults.gates`: a fault that no gate sees is a hole in the suite. What no
mel can show is in the catalogue too, and says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from melcheck.clips import Clip
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.base import VocoderError
from tests.faults.faults_audio import AUDIO_FAULTS
from tests.faults.faults_files import FILE_FAULTS
from tests.faults.faults_mel import MEL_FAULTS
from tests.faults.faults_recipe import RECIPE_FAULTS
from tests.faults.faults_vocoder import VOCODER_FAULTS
from tests.faults.gates import inspect
from tests.faults.loops import Expectation, expect
from tests.faults.model import Bench, Fault, Probe

__all__ = ["FAULTS", "expect_probe", "run_fault"]

FAULTS: tuple[Fault, ...] = (
    *RECIPE_FAULTS,
    *MEL_FAULTS,
    *AUDIO_FAULTS,
    *VOCODER_FAULTS,
    *FILE_FAULTS,
)
"""Every fault, in the order of the stages."""

_PAUSE_SECONDS = 0.3
_HISS = 0.01


def expect_probe(
    clip: Clip, pipeline: MelPipeline, probe: Probe, *, goldens: Path | None = None
) -> Expectation:
    """Return what the healthy loop does with a clip, prepared as a probe asks.

    Args:
        clip: The clip.
        pipeline: The healthy loop.
        probe: See `tests.faults.model.Probe`.
        goldens: Folder of the clip's goldens, which apply to the clip as recorded only.
    """
    if probe == "recorded":
        return expect(clip, pipeline, goldens=goldens)
    changed = dataclasses.replace(pipeline.config, audio_path=clip.path)
    waveform = MelPipeline(changed, vocoder=pipeline.vocoder).load_audio()
    return expect(clip, pipeline, waveform=_probe(waveform, probe))


def _probe(waveform: Tensor, probe: Probe) -> Tensor:
    samples = waveform.shape[-1]
    waveform = waveform.clone()
    if probe == "pause":
        begin = samples // 2
        waveform[..., begin : begin + round(_PAUSE_SECONDS * VOCOS.sample_rate)] = 0.0
    elif probe == "hiss":
        generator = torch.Generator().manual_seed(0)
        waveform += _HISS * torch.randn(waveform.shape, generator=generator)
    elif probe == "silent edges":
        waveform[..., : VOCOS.n_fft] = 0.0
        waveform[..., -VOCOS.n_fft :] = 0.0
    elif probe == "square":
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
        expected: What the healthy loop does, as `expect_probe` gives it for `fault.probe`.
        folder: An empty folder that may be written to.
        gates: Names of the gates to run; None for all.

    Raises:
        KeyError: The fault has no such severity.
    """
    parameter = dict(fault.severities)[severity]
    try:
        loop = fault.inject(Bench(expected, folder), parameter)
    except (ValueError, VocoderError) as error:  # refused before there is a loop at all
        return {"preflight": str(error)}
    if fault.reaches_reference:
        mel = loop.extract(expected.waveform)
        decoded = loop.decode(mel)
        expected = dataclasses.replace(
            expected, loop=loop, mel=mel, decoded=decoded, decoded_mel=loop.extract(decoded)
        )
    return inspect(loop, expected, folder, gates=gates)
