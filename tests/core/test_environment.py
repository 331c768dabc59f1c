"""Packages that do not fit end in one sentence with the command that mends them.

On the command line, under pytest and in Python, and never in a traceback of an import. Stand-ins
for torch and torchaudio, first on Python's path, end as the real ones do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from melcheck import environment

REPOSITORY = Path(__file__).parents[2]
CLIP = REPOSITORY / "fixtures" / "audio" / "kokoro-short.flac"


@dataclass(frozen=True)
class Unfit:
    """Packages that do not fit.

    Attributes:
        torch: What torch reports as its version; empty where it is missing.
        installed: The version in its metadata, which of PyPI's wheels names no build.
        torchaudio: Statement that its import ends with.
        says: What is wrong.
        mends: The command.
    """

    torch: str
    installed: str
    torchaudio: str
    says: str
    mends: str


REINSTALL = "pip install --force-reinstall --no-deps"
SYMBOL = "raise OSError('libtorchaudio.so: undefined symbol: _ZNK5torch8autograd4Node4nameEv')"
NO_CUDA = "raise OSError('libcudart.so.13: cannot open shared object file')"
NO_MODULE = "raise ModuleNotFoundError(\"No module named 'torchaudio'\", name='torchaudio')"
OTHER_CUDA = "raise RuntimeError('PyTorch has CUDA version 13.2 whereas TorchAudio has 13.0')"

CASES = {
    "no torch": Unfit(
        "", "", "", "torch must be installed, got none", 'pip install "torch==2.11.*" "torchaudio'
    ),
    "no torchaudio": Unfit(
        "2.8.0+cu128",
        "2.8.0",
        NO_MODULE,
        "torchaudio must be installed beside torch 2.8.0+cu128, got none",
        f"{REINSTALL} torchaudio==2.8.0\n",
    ),
    "a wrong pair": Unfit(
        "2.6.0+cu124",
        "2.6.0",
        SYMBOL,
        "torchaudio must be the one for torch 2.6.0+cu124, got torchaudio 2.5.0, which ends with "
        "OSError: libtorchaudio.so: undefined symbol",
        f"{REINSTALL} torchaudio==2.6.0\n",
    ),
    "a torch for CPU": Unfit(
        "2.9.1+cpu",
        "2.9.1+cpu",
        NO_CUDA,
        "torchaudio must be the one for torch 2.9.1+cpu",
        f"{REINSTALL} torchaudio==2.9.1 --index-url https://download.pytorch.org/whl/cpu\n",
    ),
    "later than torchaudio": Unfit(
        "2.13.0+cpu",
        "2.13.0+cpu",
        NO_CUDA,
        "torchaudio must be the one for torch 2.13.0+cpu",
        f"{REINSTALL} torchaudio==2.11.0 --index-url https://download.pytorch.org/whl/cpu\n",
    ),
    "too late": Unfit(
        "2.15.0+cu132",
        "2.15.0",
        OTHER_CUDA,
        "torch must be one that has a torchaudio, 2.4 to 2.14, got 2.15.0+cu132",
        'In an environment of its own: pip install "torch==2.11.*" "torchaudio==2.11.*" melcheck\n',
    ),
    "a build of one's own": Unfit(
        "2.6.0a0+ecf3bae40a.nv25.01",
        "2.6.0a0+ecf3bae40a.nv25.1",
        SYMBOL,
        "torch must be a build that has a torchaudio, got 2.6.0a0+ecf3bae40a.nv25.01",
        'pip install "torch==2.11.*" "torchaudio==2.11.*" melcheck\n',
    ),
}


def variables(folder: Path, unfit: Unfit) -> dict[str, str]:
    """Write stand-ins into a folder, and return an environment in which they come first."""
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    torch = f"__version__ = {unfit.torch!r}" if unfit.torch else missing
    (folder / "torch.py").write_text(f"{torch}\n")
    (folder / "torchaudio.py").write_text(f"{unfit.torchaudio}\n")
    for name, version in (("torch", unfit.installed), ("torchaudio", "2.5.0")):
        metadata = folder / f"{name}-{version or '0'}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


def run(folder: Path, unfit: Unfit, *arguments: object) -> subprocess.CompletedProcess[str]:
    stand_ins = folder / "stand-ins"
    stand_ins.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")  # a project of its own, wherever it lies
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=variables(stand_ins, unfit),
        capture_output=True,
        text=True,
        check=False,
    )


def each_case(function: object) -> object:
    return pytest.mark.parametrize("unfit", CASES.values(), ids=CASES)(function)


@each_case
def test_a_command_ends_with_3_and_one_line(unfit: Unfit, tmp_path: Path) -> None:
    result = run(tmp_path, unfit, "-m", "melcheck", "check", CLIP)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"melcheck check: {unfit.says}")
    assert unfit.mends in result.stderr


@pytest.mark.parametrize("name", ["no torch", "a wrong pair", "too late"])
def test_info_works_and_names_the_command(name: str, tmp_path: Path) -> None:
    unfit = CASES[name]
    result = run(tmp_path, unfit, "-m", "melcheck", "info")
    assert (result.returncode, result.stderr) == (0, "")
    assert "embedded         verified" in result.stdout
    last = result.stdout.splitlines(keepends=True)[-1]
    assert last.startswith(unfit.says)
    assert unfit.mends in last


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "sanity", f"--mel-audio={CLIP}"],
        ["--pyargs", "melcheck.suite"],
        ["test_of_the_user.py"],
    ],
    ids=["a plan", "the suite alone", "an import in a test file"],
)
def test_a_run_of_pytest_ends_with_4_and_one_line(arguments: list[str], tmp_path: Path) -> None:
    test = "from melcheck import log_mel\n\n\ndef test_of_the_user():\n    log_mel\n"
    (tmp_path / "test_of_the_user.py").write_text(test)
    unfit = CASES["a wrong pair"]
    result = run(tmp_path, unfit, "-m", "pytest", "-p", "no:cacheprovider", *arguments)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR, result.stdout
    errors = [line for line in result.stderr.splitlines() if line]
    assert len(errors) == 1
    assert errors[0].startswith(f"ERROR: melcheck: {unfit.says}")
    assert unfit.mends.strip() in errors[0]
    assert "Traceback" not in result.stdout
    assert "undefined symbol" not in result.stdout


def test_a_broken_test_file_of_the_users_stays_his(tmp_path: Path) -> None:
    (tmp_path / "test_of_the_user.py").write_text("import torchaudio\n")
    result = run(tmp_path, CASES["a wrong pair"], "-m", "pytest", "-p", "no:cacheprovider")
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert "undefined symbol" in result.stdout


def test_a_name_of_melcheck_is_refused_in_one_sentence(tmp_path: Path) -> None:
    unfit = CASES["a wrong pair"]
    result = run(tmp_path, unfit, "-c", "from melcheck import MelPipeline")
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"melcheck.environment.UnfitEnvironmentError: {unfit.says}")


def test_packages_that_fit_are_no_fault() -> None:
    environment.require_torch()


def test_vocos_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vocos", None)
    with pytest.raises(environment.UnfitEnvironmentError, match=r'got none\..*"vocos>=0\.1'):
        environment.require_torch()


@pytest.mark.parametrize(
    ("torch", "torchcodec", "says"),
    [
        ("2.4.0", "0.17.0", "TorchCodec decodes audio beside torch 2.7 and later, got torch 2.4.0"),
        ("2.8.0", "0.17.0", 'for torch 2.8.0: pip install "torchcodec==0.7.*"'),
        ("2.8.0+cu128", "0.6.0", "finds no FFmpeg 4 to 8"),
        (
            "2.10.0",
            None,
            'is not installed; the one for torch 2.10.0: pip install "torchcodec==0.10',
        ),
        ("2.11.0", "0.10.0", 'pip install "torchcodec>=0.11"'),
        ("2.14.1", "0.17.0", "finds no FFmpeg 4 to 8"),
    ],
)
def test_a_torchcodec_that_does_not_decode_has_its_reason(
    monkeypatch: pytest.MonkeyPatch, torch: str, torchcodec: str | None, says: str
) -> None:
    versions = {"torch": torch, "torchcodec": torchcodec}
    monkeypatch.setattr(environment, "installed_version", versions.get)
    assert says in environment.torchcodec_fault()
