"""A training repository with its own front end is gated by the installed wheel.

Green as it is; red, with the cause named, for each fault that is written into a copy of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

TINY_TTS = Path(__file__).parents[1] / "tiny_tts"
GATE = ("-m", "sanity", "--mel-vocoder", "embedded", "--mel-device", "cpu")
AUDIO_PY = "mytts/audio.py"
AS_IT_IS = "my tts"
RETURN = "return torch.log(mel.clamp(min=1e-5))"


@dataclass(frozen=True)
class Fault:
    """A text of the repository that is replaced, and the cause that must be named."""

    old: str
    new: str
    cause: str


FAULTS = {
    "power-2": Fault("power=1.0", "power=2.0", "power: the exponent"),
    "slaney-scale": Fault('mel_scale="htk"', 'mel_scale="slaney"', "mel-scale: "),
    "slaney-norm": Fault("norm=None", 'norm="slaney"', "filter-norm: "),
    "log10": Fault("torch.log(", "torch.log10(", "log-base: the logarithm has a different base"),
    "n-fft": Fault("n_fft=1024", "n_fft=2048", "n-fft: "),
    "hop": Fault("hop_length=256", "hop_length=240", "hop-length: "),
    "not-centred": Fault("center=True", "center=False", "padding: "),
    "default-rate": Fault("    sample_rate=SAMPLE_RATE,\n", "", "filterbank-rate: "),
    "rate-22050": Fault("sample_rate=SAMPLE_RATE", "sample_rate=22_050", "filterbank-rate: "),
    "f-max": Fault("n_mels=100,", "n_mels=100, f_max=8_000,", "f-max: "),
    "int16": Fault("_mel(waveform)", "_mel(waveform * 32768)", "int16-scale: "),
    "no-floor": Fault(RETURN, "return torch.log(mel)", "nan: "),
    "high-floor": Fault("min=1e-5", "min=1e-3", "floor: "),
    "normalised": Fault(RETURN, RETURN.replace("return ", "return 0.4 * (6 + ") + ")", "normalis"),
    "dither": Fault(
        "_mel(waveform)", "_mel(waveform + 0.001 * torch.randn_like(waveform))", "dither"
    ),
}


def _transposed(mel: np.ndarray) -> np.ndarray:
    return mel.T


def _of_the_waveform_before_a_trim(mel: np.ndarray) -> np.ndarray:
    return np.concatenate([mel[:, :1], mel[:, :-1]], axis=1)


def _with_nan(mel: np.ndarray) -> np.ndarray:
    mel[40, 100] = np.nan
    return mel


CACHES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "cache-transposed": (_transposed, "axes-transposed: "),
    "cache-one-frame-off": (_of_the_waveform_before_a_trim, "frame-shift: 1 frame late"),
    "cache-nan": (_with_nan, "nan: 1 values"),
}


def copied(folder: Path) -> Path:
    shutil.copytree(TINY_TTS, folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "mel-*"))
    return folder


def faulty(folder: Path, fault: Fault) -> Path:
    source = copied(folder) / AUDIO_PY
    text = source.read_text(encoding="utf-8")
    assert text.count(fault.old) == 1
    source.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return folder


def environment(site: Path, **more: str) -> dict[str, str]:
    # On Windows Python does not start without SYSTEMROOT.
    names = ("PATH", "HOME", "TMPDIR", "SYSTEMROOT", "USERPROFILE", "TEMP")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def verdicts(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of the installed wheel's gate in each repository, as GitHub runs it."""
    folder = tmp_path_factory.mktemp("faults")
    repositories = [copied(folder / AS_IT_IS)]
    repositories += [faulty(folder / name, fault) for name, fault in FAULTS.items()]
    for name, (damage, _) in CACHES.items():
        repositories.append(copied(folder / name))
        stored = folder / name / "data" / "mels" / "kumo.npy"
        np.save(stored, damage(np.load(stored)))
    options = json.dumps(["-p", "no:cacheprovider", *GATE])
    driver = Path(__file__).with_name("gate_many.py")
    result = subprocess.run(
        [sys.executable, str(driver), options, *map(str, repositories)],
        env=environment(site, GITHUB_ACTIONS="true"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["melcheck"].startswith(str(site))
    return {name: (code, output) for name, (code, output) in found["results"].items()}


def test_the_repository_as_it_is_is_green(verdicts: dict[str, tuple[int, str]]) -> None:
    code, output = verdicts[AS_IT_IS]
    assert code == pytest.ExitCode.OK, output
    assert "4 passed" in output
    assert "1 stored mels of 1 clips" in output
    assert "which can take it as it is: floor: " in output


def test_it_needs_no_test_file(site: Path, tmp_path: Path) -> None:
    repository = copied(tmp_path / "tts")
    shutil.rmtree(repository / "tests")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--pyargs", "melcheck.suite", *GATE],
        cwd=repository,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_front_end_is_red_with_its_cause(
    verdicts: dict[str, tuple[int, str]], name: str
) -> None:
    code, output = verdicts[name]
    assert code == pytest.ExitCode.TESTS_FAILED, output
    failures = output.partition("= FAILURES =")[2].partition("= melcheck: ")[0]
    assert FAULTS[name].cause in failures, output


@pytest.mark.parametrize("name", CACHES)
def test_a_fault_of_the_cache_is_red_with_its_cause(
    verdicts: dict[str, tuple[int, str]], name: str
) -> None:
    code, output = verdicts[name]
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "1 failed, 3 passed" in output
    assert f"likely cause: {CACHES[name][1]}" in output


def test_a_failure_is_annotated_where_the_front_end_is(
    verdicts: dict[str, tuple[int, str]],
) -> None:
    _, output = verdicts["power-2"]
    lines = [line for line in output.splitlines() if line.startswith("::error ")]
    text = (TINY_TTS / AUDIO_PY).read_text(encoding="utf-8")
    defined = text.splitlines().index(
        "def mel_spectrogram(waveform: torch.Tensor) -> torch.Tensor:"
    )
    handshake = next(line for line in lines if "test_front_end_makes" in line)
    assert handshake.startswith(
        f"::error file=mytts/audio.py,line={defined + 1},title=melcheck%3A "
    )
    assert "power%3A" not in handshake  # only properties escape the colon
    assert "power: the exponent" in handshake
    assert any(line.startswith("::error file=data/samples/kumo.wav,") for line in lines)
