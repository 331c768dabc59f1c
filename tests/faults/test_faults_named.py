"""Forensics keeps what the catalogue promises: each fault that has a cause is named by its code.

A fault of the front end or of loading is named from the mel that it leaves, one of the vocoder or
of saving from the waveform. That of a vocoder is looked at in a plain Vocos, where a sample depends
on few frames: the embedded vocoder's head finds another sound for a mel that differs anywhere near,
so that there a wrong end shows in other places, too, and rounding looks like other weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from melcheck.clips import load_manifest
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.result import Diagnosis
from melcheck.diagnosis.waveform import explain_waveform
from melcheck.pipeline import MelPipeline
from tests.faults.catalogue import FAULTS, expect_probe
from tests.faults.model import Bench, Expectation, Fault, Probe, Run
from tests.vocoders import untrained

pytestmark = pytest.mark.faults

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLIPS = {clip.name: clip for clip in load_manifest(FIXTURES / "clips.yaml")}
BY_NAME = {fault.name: fault for fault in FAULTS}
FULL = os.environ.get("MELCHECK_FIGURES") == "full"
# Voices that reach 12 kHz, so that nothing hides a missing band: one of them, or in full both.
FULL_BAND = ("kokoro-kumo-en", "kokoro-blend-en") if FULL else ("kokoro-kumo-en",)

# Of a vocoder: what is told by where, and how evenly, two sounds differ.
FOUND_BY_PLACE = ("tail", "seams", "rounding")

Expect = Callable[[str, Probe], Expectation]


def cases(*stages: str) -> list[object]:
    return [
        pytest.param(fault.name, label, clip, id=f"{fault.name}-{label}-{clip}")
        for fault in FAULTS
        if fault.cause is not None and fault.stage in stages
        for label, _ in fault.severities
        for clip in FULL_BAND
    ]


@pytest.fixture(scope="module")
def expectation() -> Expect:
    """A function that takes a clip round the healthy loop, once for each probe."""
    return _expectation(MelPipeline(MelCheckConfig("unused.wav")))


@pytest.fixture(scope="module")
def plain_expectation() -> Expect:
    """The same, with a plain Vocos of random weights."""
    return _expectation(MelPipeline(MelCheckConfig("unused.wav"), vocoder=untrained.small()))


def _expectation(pipeline: MelPipeline) -> Expect:
    known: dict[tuple[str, Probe], Expectation] = {}

    def find(clip: str, probe: Probe) -> Expectation:
        if (clip, probe) not in known:
            known[clip, probe] = expect_probe(CLIPS[clip], pipeline, probe)
        return known[clip, probe]

    return find


def injected(fault: Fault, severity: str, expected: Expectation, folder: Path) -> Run:
    loop = fault.inject(Bench(expected, folder), dict(fault.severities)[severity])
    return Run(loop, expected, folder)


@pytest.mark.parametrize(("name", "severity", "clip"), cases("front end", "audio"))
def test_a_fault_before_the_vocoder_is_named_from_its_mel(
    expectation: Expect, name: str, severity: str, clip: str, tmp_path: Path
) -> None:
    fault = BY_NAME[name]
    expected = expectation(clip, fault.probe)
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
    expectation: Expect,
    plain_expectation: Expect,
    name: str,
    severity: str,
    clip: str,
    tmp_path: Path,
) -> None:
    fault = BY_NAME[name]
    expect = plain_expectation if fault.cause in FOUND_BY_PLACE else expectation
    expected = expect(clip, fault.probe)
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
