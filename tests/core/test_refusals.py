"""What is no clip and no mel is refused in one sentence that names it and says what to pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from melcheck.diagnosis.diagnose import diagnose
from melcheck.probe_clips import probe
from melcheck.recipes import log_mel

WAVEFORM = probe(24_000)
MEL = log_mel(WAVEFORM)


def broken() -> torch.Tensor:
    waveform = WAVEFORM.clone()
    waveform[100:117] = torch.nan
    return waveform


@pytest.mark.parametrize(
    ("waveform", "kind", "said"),
    [
        pytest.param(
            broken(), ValueError, r"must be finite, got 17 of 24,000 .* from sample 100", id="nan"
        ),
        pytest.param(
            torch.stack([WAVEFORM, broken()]), ValueError, "got 17 of 48,000", id="nan-in-a-channel"
        ),
        pytest.param(
            torch.stack([WAVEFORM, WAVEFORM], dim=1),
            ValueError,
            r"looks like \[samples, channels\]: pass waveform\.T",
            id="channels-last",
        ),
        pytest.param(torch.zeros(0), ValueError, "holds no samples", id="empty"),
        pytest.param(WAVEFORM[None, None], ValueError, "Pass one clip", id="three-axes"),
        pytest.param((32_767 * WAVEFORM).short(), ValueError, "divide integer samples", id="int16"),
        pytest.param(None, TypeError, "waveform must be .* got None", id="none"),
        pytest.param([WAVEFORM] * 2, TypeError, "got list of 2. Pass the array alone", id="list"),
    ],
)
def test_what_is_no_clip_is_refused(waveform: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        diagnose(waveform, MEL)


@pytest.mark.parametrize(
    ("mel", "kind", "said"),
    [
        pytest.param(None, TypeError, "candidate_mel must be .* got None", id="none"),
        pytest.param((MEL, 24_000), TypeError, "got tuple of 2", id="tuple"),
        pytest.param(np.array([["a"]]), TypeError, "got <U1. Convert it", id="text"),
        pytest.param(MEL.int(), ValueError, "floating point, got int32", id="int"),
        pytest.param(MEL.cfloat(), ValueError, "the magnitude of what is complex", id="complex"),
        pytest.param(WAVEFORM[None], ValueError, "the mel, not the waveform", id="waveform"),
        pytest.param(MEL[0], ValueError, r"one mel \[n_mels, frames\]", id="one-axis"),
    ],
)
def test_what_is_no_mel_is_refused(mel: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        diagnose(WAVEFORM, mel)


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("waveform", "mel"),
    [
        pytest.param(WAVEFORM.numpy(), MEL, id="waveform"),
        pytest.param(WAVEFORM.numpy()[::-1][::-1], MEL.numpy()[::-1][::-1], id="views"),
        pytest.param(WAVEFORM, MEL.flip(0).numpy()[::-1], id="negative-strides"),
        pytest.param(WAVEFORM, MEL.numpy().astype(">f4"), id="big-endian"),
        pytest.param(WAVEFORM, read_only(MEL.numpy().copy()), id="read-only"),
        pytest.param(WAVEFORM.clone().requires_grad_(), MEL, id="with-gradient"),
    ],
)
def test_an_array_of_any_layout_is_taken(waveform: Any, mel: Any) -> None:
    assert diagnose(waveform, mel).kind == "identical"
