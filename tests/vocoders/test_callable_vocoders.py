"""The user's code serves as a vocoder, or the message says why it cannot."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.probe_clips import probe
from melcheck.recipes import VOCOS, MelRecipe, log_mel
from melcheck.user_code import CallableError
from melcheck.vocoders.from_code import CallableVocoder, adapt_vocoder
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError

EMBEDDED = load_vocoder("embedded")
MEL = log_mel(probe(12_000)[None])


def ready(target: object) -> CallableVocoder:
    return adapt_vocoder(target, name="lab:voc")


def only_numpy(mel: Any) -> np.ndarray:
    """Take [n_mels, frames] as NumPy, and return it one hop longer than the frames span."""
    if not isinstance(mel, np.ndarray) or mel.ndim != 2:
        raise TypeError("expected a matrix")
    waveform = EMBEDDED.decode(torch.from_numpy(mel.copy())[None])[0]
    return torch.nn.functional.pad(waveform, (0, 256)).numpy()


def exported(mel: Any) -> np.ndarray:
    """Take [batch, n_mels, frames] as NumPy alone, as a session of ONNX Runtime does."""
    if not isinstance(mel, np.ndarray) or mel.ndim != 3:
        raise ValueError("Invalid rank for input: mel")
    return EMBEDDED.decode(torch.from_numpy(mel)).numpy()


@pytest.mark.parametrize(
    ("target", "notes"),
    [
        pytest.param(EMBEDDED.decode, [], id="function"),
        pytest.param(exported, ["NumPy array [batch, n_mels, frames]"], id="numpy-batch"),
        pytest.param(EMBEDDED.model, ["method `decode`"], id="vocos-module"),
        pytest.param(lambda mel: EMBEDDED.decode(mel)[:, None], [], id="channel"),
        pytest.param(lambda mel: EMBEDDED.decode(mel)[0], [], id="no-batch"),
        pytest.param(
            lambda mel: EMBEDDED.decode(mel.mT), ["[batch, frames, n_mels]"], id="frames-first"
        ),
        pytest.param(
            only_numpy, ["NumPy array [n_mels, frames]", "returns 256 samples more"], id="numpy"
        ),
    ],
)
def test_a_vocoder_is_adapted_and_said(target: Callable[[Any], Any], notes: list[str]) -> None:
    vocoder = ready(target)
    said = [note for note in vocoder.notes if "names no recipe" not in note]
    assert len(said) == len(notes)
    assert all(note in line for line, note in zip(said, notes, strict=True))
    torch.testing.assert_close(vocoder.decode(MEL), EMBEDDED.decode(MEL), rtol=0, atol=1e-5)


def test_integers_of_16_bits_are_scaled_to_one() -> None:
    vocoder = ready(lambda mel: (32_767 * EMBEDDED.decode(mel).clamp(-1, 1)).to(torch.int16))
    expected = EMBEDDED.decode(MEL).clamp(-1, 1)
    torch.testing.assert_close(vocoder.decode(MEL), expected, rtol=0, atol=1e-4)


def test_an_object_brings_its_own_recipe() -> None:
    class Other:
        recipe = MelRecipe(n_mels=80, f_max=8_000.0)

        def decode(self, mel: Tensor) -> Tensor:
            assert mel.shape[1] == 80
            return torch.zeros(1, (mel.shape[-1] - 1) * 256)

    vocoder = ready(Other)
    assert vocoder.recipe == Other.recipe
    assert list(vocoder.encode(torch.zeros(1, 2560)).shape) == [1, 80, 11]


def test_without_a_recipe_that_of_vocos_is_taken_and_said() -> None:
    vocoder = ready(EMBEDDED.decode)
    assert vocoder.recipe == VOCOS
    assert "names no recipe" in vocoder.notes[0]


def test_it_goes_round_the_loop() -> None:
    pipeline = MelPipeline(MelCheckConfig("no-file.wav"), vocoder=ready(EMBEDDED.decode))
    trip = pipeline.round_trip(probe(36_000)[None])
    healthy = MelPipeline(MelCheckConfig("no-file.wav"), vocoder=EMBEDDED)
    expected = healthy.round_trip(probe(36_000)[None])
    assert trip.metrics()[0].mae == pytest.approx(expected.metrics()[0].mae, rel=0, abs=1e-4)
    assert trip.vocoder.source.rpartition(":")[0].endswith("vocos.py")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        pytest.param(lambda mel: torch.zeros(1, 512 * mel.shape[-1]), "56320 samples", id="hop"),
        pytest.param(
            lambda mel: torch.zeros(1, 257 * (mel.shape[-1] - 1)),
            "a different hop length",
            id="hop-of-257",
        ),
        pytest.param(lambda mel: torch.zeros(2, 9), "which is not one waveform", id="shape"),
        pytest.param(lambda mel: (mel, mel), "returned tuple, which is no array", id="tuple"),
        pytest.param(lambda mel: 1 / 0, "raised ZeroDivisionError", id="exception"),
        pytest.param(lambda mel: sys.exit(0), "raised SystemExit: 0", id="exit"),
        pytest.param(lambda mel, f0: mel, "needs f0 beside its input", id="arguments"),
        pytest.param("text", "must be callable, got str", id="no-code"),
    ],
)
def test_what_makes_no_waveform_is_explained(target: object, says: str) -> None:
    with pytest.raises(CallableError) as caught:
        ready(target)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_it_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("test_callable_vocoders_target")
    module.decode = EMBEDDED.decode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vocoder = load_vocoder("test_callable_vocoders_target:decode")
    assert isinstance(vocoder, CallableVocoder)
    assert torch.equal(vocoder.decode(MEL), EMBEDDED.decode(MEL))


def test_a_name_that_leads_nowhere_is_told() -> None:
    with pytest.raises(VocoderError, match="no module 'nowhere'"):
        load_vocoder("nowhere:vocoder")
