"""melcheck in repositories in the shape of F5-TTS and of Matcha-TTS: green, and red for each fault.

The faults of an F5-TTS front end are those of `test_tiny_tts`, whose mels it has; here are those of
its lists and its cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from melcheck.profiles import profile
from tests.pytest_plugin.adoptions import F5, MATCHA, Shape, make
from tests.pytest_plugin.test_tiny_tts import environment

Fault = Callable[[Path], None]


def replaced(name: str, old: str, new: str) -> Fault:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (folder / name).write_text(text.replace(old, new), encoding="utf-8")

    return damage


def stored(shape: Shape, change: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def damage(folder: Path) -> None:
        path = folder / shape.mel.format("austen")
        np.save(path, change(np.load(path)))

    return damage


def swapped(shape: Shape) -> Fault:
    def damage(folder: Path) -> None:
        one, other = (folder / shape.mel.format(name) for name in ("austen", "short"))
        mels = np.load(one), np.load(other)
        np.save(one, mels[1])
        np.save(other, mels[0])

    return damage


def removed(shape: Shape) -> Fault:
    return lambda folder: (folder / shape.mel.format("short")).unlink()


def without_statistics(mel: np.ndarray) -> np.ndarray:
    recipe = profile("matcha-22k")
    return mel * recipe.std + recipe.mean


FRONT_END = "matcha/audio.py"
FAULTS: dict[str, tuple[Shape, Fault, str]] = {
    "f5-cache-transposed": (F5, stored(F5, np.transpose), "likely cause: axes-transposed"),
    "f5-cache-swapped": (F5, swapped(F5), "it is the mel of wavs/short, under the name"),
    "f5-cache-missing": (F5, removed(F5), "no mel called short in the cache"),
    "f5-cache-scaled": (F5, stored(F5, lambda mel: mel / 2), "likely cause: stale: normalisation"),
    "matcha-not-normalised": (
        MATCHA,
        replaced(FRONT_END, "return (mel - MEAN) / STD", "return mel"),
        "likely cause: normalisation: ",
    ),
    "matcha-htk": (
        MATCHA,
        replaced(FRONT_END, 'mel_scale="slaney"', 'mel_scale="htk"'),
        "likely cause: mel-scale: ",
    ),
    "matcha-norm": (
        MATCHA,
        replaced(FRONT_END, 'norm="slaney"', "norm=None"),
        "likely cause: filter-norm: ",
    ),
    "matcha-f-max": (
        MATCHA,
        replaced(FRONT_END, "8_000.0", "11_025.0"),
        "likely cause: f-max: ",
    ),
    "matcha-log10": (
        MATCHA,
        replaced(FRONT_END, "torch.log(torch.clamp", "torch.log10(torch.clamp"),
        "likely cause: log-base: ",
    ),
    "matcha-energies": (
        MATCHA,
        replaced(FRONT_END, "torch.sqrt(spec.abs().square() + 1e-9)", "spec.abs().square()"),
        "likely cause: power: ",
    ),
    "matcha-cache-transposed": (
        MATCHA,
        stored(MATCHA, np.transpose),
        "likely cause: axes-transposed: [172, 80]",
    ),
    "matcha-cache-swapped": (MATCHA, swapped(MATCHA), "it is the mel of data/wavs/short, under"),
    "matcha-cache-missing": (MATCHA, removed(MATCHA), "no mel called LJSpeech-mel-short.npy in"),
    "matcha-cache-raw": (
        MATCHA,
        stored(MATCHA, without_statistics),
        "standard deviation were not applied). Take (x + 5.53662) / 2.1161 of the log-mel.",
    ),
}
GREEN = {"f5": F5, "matcha": MATCHA}


@pytest.fixture(scope="module")
def verdicts(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of the installed wheel's gate in each repository."""
    folder = tmp_path_factory.mktemp("adoptions")
    repositories = [make(shape, folder / name) for name, shape in GREEN.items()]
    for name, (shape, damage, _) in FAULTS.items():
        damage(make(shape, folder / name))
        repositories.append(folder / name)
    options = json.dumps(["-p", "no:cacheprovider", "-m", "sanity", "--mel-device", "cpu"])
    driver = Path(__file__).with_name("gate_many.py")
    result = subprocess.run(
        [sys.executable, str(driver), options, *map(str, repositories)],
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    results = json.loads(result.stdout)["results"]
    return {name: (code, output) for name, (code, output) in results.items()}


@pytest.mark.parametrize("name", GREEN)
def test_a_repository_as_it_is_is_green(verdicts: dict[str, tuple[int, str]], name: str) -> None:
    code, output = verdicts[name]
    assert code == pytest.ExitCode.OK, output
    assert "2 stored mels of 2 clips" in output


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_red_with_its_cause(verdicts: dict[str, tuple[int, str]], name: str) -> None:
    code, output = verdicts[name]
    assert code == pytest.ExitCode.TESTS_FAILED, output
    failures = output.partition("= FAILURES =")[2].partition("= melcheck: ")[0]
    assert FAULTS[name][2] in failures, output
