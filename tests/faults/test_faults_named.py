"""Diagnosis keeps what the catalogue promises: each fault that has a cause is named by its code.

A fault of the front end or of loading is named from the mel that it leaves, one of the vocoder or
of saving from the waveform. What is found by where two waveforms differ is tried in a plain Vocos,
where a sample depends on few frames: the embedded vocoder's head retrieves phases, which changes
the waveform far around each changed frame, so that rounding looks like wrong weights.

Before the vocoder the first severity of a fault is tried by default; with MELCHECK_FIGURES=full in
the environment all of them are, on two clips.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from melcheck.config import MelCheckConfig
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.result import Diagnosis
from melcheck.diagnosis.waveform import explain_waveform
from melcheck.pipeline import MelPipeline
from tests.faults.catalogue import FAULTS
from tests.faults.injection import CLIPS, expect_prepared, healthy
from tests.faults.model import Expectation, Fault, InjectionTarget, LoopRun, PreparedAudio
from tests.vocoders import untrained

pytestmark = pytest.mark.faults

BY_NAME = {fault.name: fault for fault in FAULTS}
FULL = os.environ.get("MELCHECK_FIGURES") == "full"
# Voices that reach 12 kHz, so that nothing hides a missing band: one of them, or in full both.
FULL_BAND = ("kokoro-kumo-en", "kokoro-blend-en") if FULL else ("kokoro-kumo-en",)

# Causes of a vocoder that are found by where, and how evenly, two waveforms differ.
FOUND_BY_PLACE = ("tail", "seams", "rounding")


def cases(*stages: str, severities: int | None = None) -> list[object]:
    return [
        pytest.param(fault.name, label, clip, id=f"{fault.name}-{label}-{clip}")
        for fault in FAULTS
        if fault.cause is not None and fault.stage in stages
        for label in list(fault.severities)[: None if FULL else severities]
        for clip in FULL_BAND
    ]


@functools.cache
def plain() -> MelPipeline:
    """The healthy loop with a plain Vocos of random weights."""
    return MelPipeline(MelCheckConfig("unused.wav"), vocoder=untrained.small())


@functools.cache
def healthy_plain(clip: str, audio: PreparedAudio) -> Expectation:
    return expect_prepared(CLIPS[clip], plain(), audio)


def injected(fault: Fault, severity: str, expected: Expectation, folder: Path) -> LoopRun:
    loop = fault.inject(InjectionTarget(expected, folder), fault.severities[severity])
    return LoopRun(loop, expected, folder)


@pytest.mark.parametrize(("name", "severity", "clip"), cases("front end", "audio", severities=1))
def test_a_fault_before_the_vocoder_is_named_from_its_mel(
    name: str, severity: str, clip: str, tmp_path: Path
) -> None:
    fault = BY_NAME[name]
    expected = healthy(clip, fault.audio)
    mel = injected(fault, severity, expected, tmp_path).mel
    diagnosis = diagnose(expected.waveform, mel)
    # A floor that other projects share is named, and harmless.
    assert diagnosis.kind in ("fault", "benign"), diagnosis
    assert fault.cause in first(diagnosis), diagnosis


def first(diagnosis: Diagnosis) -> tuple[str, ...]:
    named = diagnosis.causes[0]
    return (named.code, *named.alternatives)


@pytest.mark.parametrize(("name", "severity", "clip"), cases("output", "vocoder"))
def test_a_fault_after_the_mel_is_named_from_its_waveform(
    name: str, severity: str, clip: str, tmp_path: Path
) -> None:
    fault = BY_NAME[name]
    expect = healthy_plain if fault.cause in FOUND_BY_PLACE else healthy
    expected = expect(clip, fault.audio)
    run = injected(fault, severity, expected, tmp_path)
    wanted, (given, rate) = expected.decoded, run.output
    if run.loop.decode_batch is not None:
        shorter = expected.mel[..., : expected.mel.shape[-1] // 2]
        wanted = run.loop.decode(shorter)
        _, given = run.loop.decode_batch([expected.mel, shorter])
    explanation = explain_waveform(
        wanted, given, sample_rate=expected.recipe.sample_rate, estimate_rate=rate
    )
    assert explanation is not None
    assert explanation.code == fault.cause, explanation
