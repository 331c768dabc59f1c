"""PESQ and STOI by the packages of melcheck[perceptual]: `pytest -m perceptual`."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.vocoders.load import load_vocoder
from training.perceptual import pesq_wb, stoi

SPEECH = Path(__file__).parents[2] / "fixtures/audio/kokoro-kumo-en.wav"
RATE = 24_000
Measure = Callable[..., float]

pytestmark = pytest.mark.perceptual


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return load_audio(MelCheckConfig(SPEECH, RATE, 3.0)).waveform[0]


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    chosen: Measure = request.param
    package = {pesq_wb: "pesq", stoi: "pystoi"}[chosen]
    pytest.importorskip(package, reason="pip install 'melcheck[perceptual]'")
    return chosen


@pytest.mark.parametrize(
    ("measure", "best"), [(pesq_wb, 4.64), (stoi, 1.0)], ids=["pesq", "stoi"], indirect=["measure"]
)
def test_identical_sounds_get_the_best_score(measure: Measure, best: float, speech: Tensor) -> None:
    assert measure(speech, speech, sample_rate=RATE) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("measure", [pesq_wb, stoi], ids=["pesq", "stoi"], indirect=True)
def test_more_noise_lowers_the_score(measure: Measure, speech: Tensor) -> None:
    noise = torch.randn(len(speech), generator=torch.Generator().manual_seed(0))
    scores = [
        measure(speech, speech + level * noise, sample_rate=RATE) for level in (0.001, 0.01, 0.1)
    ]
    assert scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize("measure", [pesq_wb, stoi], ids=["pesq", "stoi"], indirect=True)
def test_the_embedded_vocoder_beats_griffin_lim_of_two_steps(
    measure: Measure, speech: Tensor, request: pytest.FixtureRequest
) -> None:
    """Training must have bought something that can be heard."""
    scores = {}
    for name, vocoder in {
        "embedded": load_vocoder("embedded"),
        "griffin-lim": dataclasses.replace(load_vocoder("griffin-lim"), iterations=2),
    }.items():
        decoded = vocoder.decode(vocoder.encode(speech[None]))[0]
        scores[name] = measure(speech[: len(decoded)], decoded, sample_rate=RATE)
        request.node.user_properties.append((f"{measure.__name__} {name}", scores[name]))
    assert scores["embedded"] > scores["griffin-lim"]


@pytest.mark.parametrize("measure", [pesq_wb], ids=["pesq"], indirect=True)
def test_silence_has_no_pesq(measure: Measure) -> None:
    silence = torch.zeros(RATE)
    assert math.isnan(measure(silence, silence, sample_rate=RATE))


@pytest.mark.parametrize("measure", [pesq_wb, stoi], ids=["pesq", "stoi"], indirect=True)
def test_lengths_that_differ_are_refused(measure: Measure, speech: Tensor) -> None:
    with pytest.raises(ValueError, match="of one length"):
        measure(speech, speech[:-1], sample_rate=RATE)


@pytest.mark.parametrize(
    ("measure", "package"), [(pesq_wb, "pesq"), (stoi, "pystoi")], ids=["pesq", "stoi"]
)
def test_a_missing_package_is_named_with_its_extra(
    measure: Measure, package: str, speech: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'melcheck\[perceptual\]'"):
        measure(speech, speech, sample_rate=RATE)
