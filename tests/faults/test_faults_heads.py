"""Faults of the vocoder strike both heads that it may have: Vocos' own and the consistent one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.clips import load_manifest
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.waveform import explain_waveform
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder
from tests.faults.catalogue import VOCODER_FAULTS, run_fault
from tests.faults.damage_vocoders import head_padding_cut, own_istft
from tests.faults.model import Bench, Expectation, Fault, expect

FIXTURES = Path(__file__).parents[2] / "fixtures"
CLIPS = {clip.name: clip for clip in load_manifest(FIXTURES / "clips.yaml")}
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
    """Return a small model whose layers all count, so that what becomes of one is heard."""
    extractor = MelSpectrogramFeatures(padding="center", **FEATURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if head == "plain":
            return Vocos(extractor, VocosBackbone(**BACKBONE), ISTFTHead(**STFT))
        turns = {"num_projections": 1, "num_quarter_projections": 1, "num_eighth_projections": 1}
        head_of_ours = ConsistentISTFTHead(**STFT, **FEATURES, **turns)
        torch.nn.init.trunc_normal_(head_of_ours.out.weight, std=0.05)
        return Vocos(extractor, VocosBackbone(**BACKBONE), head_of_ours)


@pytest.fixture(scope="module", params=["plain", "consistent"])
def expected(request: pytest.FixtureRequest) -> Expectation:
    embedded = load_vocoder("embedded")
    model = untrained(request.param).eval().requires_grad_(False)
    vocoder = VocosVocoder(embedded.info, VOCOS, torch.device("cpu"), model)
    config = MelCheckConfig("unused.wav", target_duration=1.5)
    return expect(CLIPS["kokoro-kumo-en"], MelPipeline(config, vocoder=vocoder))


def test_the_spectrum_that_faults_invert_is_the_heads(
    expected: Expectation, tmp_path: Path
) -> None:
    rebuilt = own_istft("squared")(Bench(expected, tmp_path)).decode(expected.mel)
    # Sums of float32 in another order: 3e-7 was measured.
    torch.testing.assert_close(rebuilt, expected.decoded, rtol=0, atol=1e-5)


def test_a_head_of_the_other_padding_is_late(expected: Expectation, tmp_path: Path) -> None:
    given = head_padding_cut(Bench(expected, tmp_path), None).decode(expected.mel)
    found = explain_waveform(expected.decoded, given, sample_rate=VOCOS.sample_rate)
    assert found is not None
    assert (found.code, found.evidence) == ("shifted", "128 samples (5.3 ms) late")


@pytest.mark.parametrize(
    ("fault", "severity"),
    [
        pytest.param(fault, label, id=f"{fault.name}-{label}")
        for fault in VOCODER_FAULTS
        # What reaches the reference shows against what is on record alone.
        if not fault.reaches_reference
        # So small a model hears next to nothing from beyond eight frames.
        if fault.name != "chunk-seams-in-context"
        for label, _ in fault.severities
    ],
)
def test_a_fault_strikes_either_head(
    expected: Expectation, fault: Fault, severity: str, tmp_path: Path
) -> None:
    assert run_fault(fault, severity, expected, tmp_path, gates=DECODING)
