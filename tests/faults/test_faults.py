"""The gates can fail: every fault of the catalogue is injected, and a gate must see it.

`pytest -m faults` prints which gate catches which fault at the end of the run. By default the first
severity of a fault is tried on three clips and each other one on one of them in turn. With
MELCHECK_FIGURES=full in the environment every severity is tried on all three, and the first on five
clips more.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from melcheck.diagnosis.causes import cause
from tests.faults.catalogue import FAULTS
from tests.faults.gates import FRONT_GATES, GATES, inspect
from tests.faults.injection import healthy, run_fault
from tests.faults.model import Fault

pytestmark = pytest.mark.faults

FULL = os.environ.get("MELCHECK_FIGURES") == "full"
BY_NAME = {fault.name: fault for fault in FAULTS}

# Speech of two kinds and music: every gate runs on these.
THREE = ("kokoro-kumo-en", "austen-0870", "guitar-stereo")
# A fault that gates before the vocoder must see is shown to those alone on these: decoding is most
# of the time, and what it makes of such damage is seen on the three.
FIVE = ("kokoro-alpha-ja", "kokoro-blend-en", "kokoro-gap", "cowbell-sparse", "kokoro-short")
ROWS = set(range(1, 65))
# Row 43, a different resampler, is harmless (test_benign.py). Row 61, gradients through `decode`,
# is what Vocos does by design, and documented at `MelPipeline.mel2waveform`.
LEFT_OUT = {43, 61}


def clips(fault: Fault, number: int) -> tuple[str, ...]:
    """Return on which clips a severity, counted from 0, is tried."""
    if FULL:
        return THREE if number else THREE + FIVE
    return (THREE[number % len(THREE)],) if number else THREE


CASES = [
    pytest.param(fault.name, severity, clip, id=f"{fault.name}-{severity}-{clip}")
    for fault in FAULTS
    for number, severity in enumerate(fault.severities)
    for clip in clips(fault, number)
]


@pytest.mark.parametrize(("name", "severity", "clip"), CASES)
def test_a_visible_fault_is_caught_and_an_invisible_one_is_not(
    request: pytest.FixtureRequest, name: str, severity: str, clip: str, tmp_path: Path
) -> None:
    fault = BY_NAME[name]
    wanted = set(fault.caught_by)
    alone = wanted & set(FRONT_GATES) if clip in FIVE else set()
    found = run_fault(fault, severity, healthy(clip, fault.audio), tmp_path, gates=alone or None)
    record = {"fault": name, "gates": list(found), "whole": not alone}
    request.node.user_properties.append(("melcheck-fault", json.dumps(record)))
    if fault.invisible:
        assert found == {}, f"expected to be invisible: {fault.invisible}"
        return
    assert found, "no gate sees it"
    blind = (alone or wanted) - set(found)
    assert not blind, f"{sorted(blind)} should see it, only {found} did"
    # A refusal that is not planned may be an error of the injection itself.
    assert "preflight" not in found or "preflight" in wanted, found["preflight"]


def test_noise_where_the_file_is_silent_is_seen_by_the_loaders_gate(tmp_path: Path) -> None:
    # The loud bins of the file are all right, so that only the spectrum's magnitudes show it.
    expected = healthy("kokoro-kumo-en", "pause")
    middle = expected.waveform.shape[-1] // 2
    read = expected.waveform.clone()
    generator = torch.Generator().manual_seed(0)
    read[..., middle + 2_000 : middle + 5_000] += 0.1 * torch.randn(3_000, generator=generator)
    loop = dataclasses.replace(expected.loop, load=lambda _: read)
    found = inspect(loop, expected, tmp_path, gates=["load"])
    assert "of the file's spectrum" in found["load"]


def test_all_rows_but_those_with_a_reason_are_covered() -> None:
    assert {fault.row for fault in FAULTS} | LEFT_OUT == ROWS
    assert len(ROWS - LEFT_OUT) >= 60


def test_every_entry_is_complete() -> None:
    assert len(BY_NAME) == len(FAULTS)
    incomplete = [
        fault.name
        for fault in FAULTS
        if not (fault.source and fault.severities and set(fault.caught_by) <= set(GATES))
        or bool(fault.caught_by) == bool(fault.invisible)
        or (fault.cause is not None and not cause(fault.cause).fix)
    ]
    assert incomplete == []
