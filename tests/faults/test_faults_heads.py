"""A fault of the vocoder is caught with Vocos' own head and with one that retrieves phases.

`test_faults.py` tries each with the one that shows its cause; here is the other.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from melcheck.diagnosis.causes import explanation
from melcheck.diagnosis.waveform import explain_waveform
from melcheck.recipes import VOCOS, log_mel
from melcheck.vocoders.vocos import VocosVocoder
from tests.faults.catalogue import FAULTS
from tests.faults.damage_vocoders import head_padding_cut, own_istft
from tests.faults.injection import embedded, prepared, target
from tests.faults.model import Fault, InjectionTarget
from tests.faults.suite_run import SuiteRun
from tests.faults.test_faults import FOUND_BY_PLACE
from tests.vocoders import untrained

pytestmark = pytest.mark.faults

CLIP = "kokoro-kumo-en"
HEADS = {"plain": untrained.small, "retrieving": embedded}


@pytest.fixture(params=HEADS)
def injected(request: pytest.FixtureRequest, tmp_path: Path) -> InjectionTarget:
    return target(CLIP, tmp_path, vocoder=HEADS[request.param]())


def test_the_spectrum_that_faults_invert_is_the_heads(injected: InjectionTarget) -> None:
    rebuilt = own_istft("squared")(injected).decode
    assert rebuilt is not None
    mel = log_mel(injected.waveform)
    # Sums of float32 in another order: 3e-7 was measured.
    torch.testing.assert_close(rebuilt(mel), injected.vocoder.decode(mel), rtol=0, atol=1e-5)


def test_a_head_of_the_other_padding_is_late(injected: InjectionTarget) -> None:
    decode = head_padding_cut(injected, None).decode
    assert decode is not None
    mel = log_mel(injected.waveform)
    wanted = injected.vocoder.decode(mel)
    found = explain_waveform(wanted, decode(mel), sample_rate=VOCOS.sample_rate)
    assert found is not None
    assert (found.code, found.evidence) == ("shifted", "128 samples (5.3 ms) late")


@pytest.mark.parametrize(
    ("fault", "severity"),
    [
        pytest.param(fault, label, id=f"{fault.name}-{label}")
        for fault in FAULTS
        # What the reference has, too, shows against a golden alone.
        if fault.stage == "vocoder" and fault.caught_by == ("vocoder",)
        for label in fault.severities
    ],
)
def test_a_fault_is_caught_with_the_other_head(
    suite_run: SuiteRun,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    severity: str,
    tmp_path: Path,
) -> None:
    # What it is called, which takes longest, is tried elsewhere.
    monkeypatch.setattr(
        "melcheck.diagnosis.stage_handshake.explain_waveform",
        lambda *_, **__: explanation("unknown", ""),
    )
    vocoder: VocosVocoder = HEADS["retrieving" if fault.cause in FOUND_BY_PLACE else "plain"]()
    folder = tmp_path / "fault"
    folder.mkdir()
    project = fault.inject(target(CLIP, folder, vocoder=vocoder), fault.severities[severity])
    assert suite_run(project, prepared(CLIP)[0], vocoder, gates=["start", "vocoder"])
