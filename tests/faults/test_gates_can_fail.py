"""For each gate, damage that makes it fail: the run is real, from options to exit code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

REPOSITORY = Path(__file__).parents[2]
EMBEDDED = REPOSITORY / "melcheck" / "data" / "embedded"
AUDIO = REPOSITORY / "fixtures" / "audio"

Weights = dict[str, Tensor]


@pytest.fixture
def gate(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Run the suite's own gate in an empty project, with the options of its user."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\n")
    shutil.copy(REPOSITORY / "tests" / "suite" / "test_sanity.py", pytester.path)

    def run(*options: object) -> pytest.RunResult:
        return pytester.runpytest_inprocess("-m", "sanity", "-p", "no:cacheprovider", *options)

    return run


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Callable[[Weights], None]], Path]:
    """Write the embedded vocoder to a directory, with its weights changed by a function."""

    def write(damage: Callable[[Weights], None]) -> Path:
        folder = tmp_path / "damaged"
        folder.mkdir()
        shutil.copy(EMBEDDED / "config.yaml", folder)
        weights = {
            name: value.float() for name, value in load_file(EMBEDDED / "model.safetensors").items()
        }
        damage(weights)
        save_file(weights, folder / "model.safetensors")
        return folder

    return write


def untouched(weights: Weights) -> None:
    """Leave the weights as they are: the control."""


def reset_one_layer(weights: Weights) -> None:
    generator = torch.Generator().manual_seed(0)
    # The mel passes through it. What the pointwise layers of the blocks add is small: reset,
    # one of them moves the MAE by 0.00 to 0.04, which the thresholds need not see. Goldens do.
    name = "backbone.convnext.1.dwconv.weight"
    weights[name] = 0.02 * torch.randn(weights[name].shape, generator=generator)


def reset_the_head(weights: Weights) -> None:
    weights["head.out.weight"].zero_()


def ten_percent_noise(weights: Weights) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if value.dim() > 1 and name.startswith("backbone"):
            value.mul_(1 + 0.1 * torch.randn(value.shape, generator=generator))


def twice_as_loud(weights: Weights) -> None:
    # The first half of the head's outputs are log-magnitudes.
    weights["head.out.bias"][:513] += 0.6931


def test_the_control_passes(
    gate: Callable[..., pytest.RunResult],
    damaged: Callable[[Callable[[Weights], None]], Path],
) -> None:
    vocoder = damaged(untouched)
    result = gate("--mel-audio", AUDIO / "kokoro-kumo-en.wav", "--mel-vocoder", vocoder)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "damage",
    [reset_one_layer, reset_the_head, ten_percent_noise, twice_as_loud],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_vocoder_fails_the_gate(
    gate: Callable[..., pytest.RunResult],
    damaged: Callable[[Callable[[Weights], None]], Path],
    damage: Callable[[Weights], None],
) -> None:
    vocoder = damaged(damage)
    result = gate("--mel-audio", AUDIO / "kokoro-kumo-en.wav", "--mel-vocoder", vocoder)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*must be * misses it by *"])


def test_a_silent_clip_fails_and_says_why(
    gate: Callable[..., pytest.RunResult], tmp_path: Path
) -> None:
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, torch.zeros(48_000).numpy(), 24_000)
    result = gate("--mel-audio", silent, "--mel-vocoder", "embedded")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*silent clip: 100.0% of its mel is at the floor*"])


def test_griffin_lim_meets_the_thresholds(gate: Callable[..., pytest.RunResult]) -> None:
    # What the gate cannot see: without any training, a consistent phase is enough.
    result = gate("--mel-audio", AUDIO / "austen-0870.flac", "--mel-vocoder", "griffin-lim")
    result.assert_outcomes(passed=1)
