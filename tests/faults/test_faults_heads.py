"""A fault of the vocoder is caught with Vocos' own head and with one that retrieves phases."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.config import MelCheckConfig
from melcheck.diagnosis.waveform import explain_waveform
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder
from tests.faults.catalogue import FAULTS
from tests.faults.damage_vocoders import head_padding_cut, own_istft
from tests.faults.injection import CLIPS, embedded, run_fault
from tests.faults.model import Expectation, Fault, InjectionTarget, expect

DECODING = ("preflight", "shape", "decode", "repeat", "batch")
BACKBONE = {
    "input_channels": VOCOS.n_mels,
    "dim": 16,
    "intermediate_dim": 32,
    "num_layers": 4,
    "layer_scale_init_value": 1.0,
}
FEATURES = {"sample_rate": VOCOS.sample_rate, "n_mels": VOCOS.n_mels}
STFT = {"dim": 16, "n_fft": VOCOS.n_fft, "hop_length": VOCOS.hop_length, "padding": "center"}


def untrained(head: str) -> Vocos:
    """Return a small model whose layers all count, so that damage to one changes the output."""
    extractor = MelSpectrogramFeatures(padding="center", **FEATURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if head == "plain":
            return Vocos(extractor, VocosBackbone(**BACKBONE), ISTFTHead(**STFT))
        turns = {"num_projections": 1, "num_quarter_projections": 1, "num_eighth_projections": 1}
        turns["num_descent_steps"] = 1
        head_of_ours = ConsistentISTFTHead(**STFT, **FEATURES, **turns)
        torch.nn.init.trunc_normal_(head_of_ours.out.weight, std=0.05)
        return Vocos(extractor, VocosBackbone(**BACKBONE), head_of_ours)


@pytest.fixture(scope="module", params=["plain", "consistent"])
def expected(request: pytest.FixtureRequest) -> Expectation:
    model = untrained(request.param).eval().requires_grad_(False)
    vocoder = VocosVocoder(embedded().vocoder.info, VOCOS, torch.device("cpu"), model)
    config = MelCheckConfig("unused.wav", target_duration=1.5)
    return expect(CLIPS["kokoro-kumo-en"], MelPipeline(config, vocoder=vocoder))


def test_the_spectrum_that_faults_invert_is_the_heads(
    expected: Expectation, tmp_path: Path
) -> None:
    rebuilt = own_istft("squared")(InjectionTarget(expected, tmp_path)).decode(expected.mel)
    # Sums of float32 in another order: 3e-7 was measured.
    torch.testing.assert_close(rebuilt, expected.decoded, rtol=0, atol=1e-5)


def test_a_head_of_the_other_padding_is_late(expected: Expectation, tmp_path: Path) -> None:
    given = head_padding_cut(InjectionTarget(expected, tmp_path), None).decode(expected.mel)
    found = explain_waveform(expected.decoded, given, sample_rate=VOCOS.sample_rate)
    assert found is not None
    assert (found.code, found.evidence) == ("shifted", "128 samples (5.3 ms) late")


@pytest.mark.parametrize(
    ("fault", "severity"),
    [
        pytest.param(fault, label, id=f"{fault.name}-{label}")
        for fault in FAULTS
        # What reaches the reference shows against a golden alone.
        if fault.stage == "vocoder" and not fault.reaches_reference
        # In so small a model frames depend on next to nothing beyond eight frames.
        if fault.name != "chunk-seams-in-context"
        for label in fault.severities
    ],
)
def test_a_fault_is_caught_with_either_head(
    expected: Expectation, fault: Fault, severity: str, tmp_path: Path
) -> None:
    assert run_fault(fault, severity, expected, tmp_path, gates=DECODING)
