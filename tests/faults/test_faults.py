"""Every fault of the catalogue is caught by the suite that a user runs, and named as promised.

`pytest -m faults` prints which test of the suite catches which fault at the end of the run. By
default the first severity of a fault is tried on one clip; with MELCHECK_FIGURES=full in the
environment every severity is, on speech of two kinds and music.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from melcheck.diagnosis.causes import cause
from tests.faults.catalogue import FAULTS
from tests.faults.injection import FIXTURES, embedded, prepared, target
from tests.faults.suite_run import GATES, SuiteRun
from tests.vocoders import untrained

pytestmark = pytest.mark.faults

FULL = os.environ.get("MELCHECK_FIGURES") == "full"
BY_NAME = {fault.name: fault for fault in FAULTS}

# A voice that reaches 12 kHz, so that nothing hides a missing band, a recording of 16 kHz, music.
CLIPS = ("kokoro-kumo-en", "austen-0870", "guitar-stereo") if FULL else ("kokoro-kumo-en",)
ROWS = set(range(1, 65))
# Row 43, a different resampler, is harmless (test_benign.py). Row 61, gradients through `decode`,
# is what Vocos does by design, and documented at `MelPipeline.mel2waveform`.
LEFT_OUT = {43, 61}

# What is found by where, and how evenly, two waveforms differ is tried in a plain Vocos: the
# embedded vocoder's head retrieves phases, which changes the waveform far around each changed
# frame. Its weights are random, so that only the vocoder's own tests apply.
FOUND_BY_PLACE = ("tail", "seams", "rounding")
OF_THE_VOCODER = ("start", "vocoder", "shapes", "batch")

# The only gates that say nothing of a cause: they compare shapes, values and statistics.
UNNAMED = ("start", "shapes", "values", "batch", "golden-extracted", "golden-reconstructed")


def cases() -> list[object]:
    return [
        pytest.param(fault.name, severity, clip, id=f"{fault.name}-{severity}-{clip}")
        for fault in FAULTS
        for severity in list(fault.severities)[: None if FULL else 1]
        for clip in CLIPS
    ]


@pytest.mark.parametrize(("name", "severity", "clip"), cases())
def test_a_visible_fault_is_caught_and_named_and_an_invisible_one_is_not(
    request: pytest.FixtureRequest,
    suite_run: SuiteRun,
    name: str,
    severity: str,
    clip: str,
    tmp_path: Path,
) -> None:
    fault = BY_NAME[name]
    plain = fault.stage == "vocoder" and fault.cause in FOUND_BY_PLACE
    healthy = untrained.small() if plain else embedded()
    folder = tmp_path / "fault"
    folder.mkdir()
    injected = target(clip, folder, fault.audio, healthy)
    project = fault.inject(injected, fault.severities[severity])
    # On record are the fixtures, with melcheck's own stages.
    own = project.load or project.extract or project.decode or project.stored
    recorded = project.clip == prepared(clip)[0].path and not own
    found = suite_run(
        project,
        prepared(clip, fault.audio)[0],
        healthy,
        goldens=FIXTURES / "goldens" if recorded else None,
        gates=OF_THE_VOCODER if plain else None,
    )
    assert not request.node.user_properties  # the table of this run has no case of that one
    record = {"fault": name, "gates": list(found)}
    request.node.user_properties.append(("melcheck-fault", json.dumps(record)))
    if fault.invisible:
        assert found == {}, f"expected to be invisible: {fault.invisible}"
        return
    assert found, "no test of the suite sees it"
    blind = set(fault.caught_by) - set(found)
    assert not blind, f"{sorted(blind)} should see it, only {found} did"
    # A refusal that is not planned may be an error of the injection itself.
    assert "start" not in found or "start" in fault.caught_by, found["start"]
    if fault.cause is not None:
        told = found[fault.caught_by[0]]
        assert named(fault.cause, told), told


def named(cause: str, message: str) -> bool:
    """Return whether a cause comes first in a message, or looks the same as what does."""
    # A stored mel is stale first of all.
    likely = [text.removeprefix("stale: ") for text in message.split("likely cause: ")[1:]]
    alike = message.partition("a mel does not distinguish ")[2].partition(" | ")[0]
    return any(text.startswith(f"{cause}: ") for text in likely) or cause in alike.split()


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
        or (fault.cause is not None and fault.caught_by[0] in UNNAMED)
    ]
    assert incomplete == []
