"""What is installed: a wheel with the embedded vocoder, small, that works outside the clone."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import melcheck

REPOSITORY = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 15 * 10**6


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"melcheck"}
    assert "melcheck/data/embedded/model.safetensors" in names
    assert "melcheck/py.typed" in names
    assert "melcheck/data/report.schema.json" in names
    templates = [path.name for path in (REPOSITORY / "melcheck" / "templates").iterdir()]
    assert "audit.html.j2" in templates
    for name in templates:
        assert f"melcheck/templates/{name}" in names


def test_the_wheel_brings_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "melcheck = melcheck.cli.main:main" in archive.read(name).decode()
    assert "melcheck/cli/check.py" in archive.namelist()


def test_the_wheel_goes_round_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    clip = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"
    script = (
        "import melcheck, sys\n"
        f"assert melcheck.__file__.startswith({str(site)!r}), melcheck.__file__\n"
        "assert 'torch' not in sys.modules\n"
        f"trip = melcheck.MelPipeline(melcheck.MelCheckConfig({str(clip)!r})).round_trip()\n"
        "print(melcheck.judge(trip.metrics()[0]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.returncode) == ("passed\n", 0), result.stderr


def test_every_public_name_is_the_one_of_its_module() -> None:
    homes = {
        name: getattr(importlib.import_module(f"melcheck.{home}"), name)
        for name, home in melcheck._HOMES.items()
    }
    assert {name: getattr(melcheck, name) for name in melcheck.__all__} == homes
    assert [name for name, value in homes.items() if not value.__doc__] == []
    assert set(homes) <= set(dir(melcheck))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = melcheck.nothing


def test_the_wheel_brings_the_plugin(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    project = tmp_path / "project"
    project.mkdir()
    (project / "test_where.py").write_text(
        "import melcheck.pytest_plugin.plugin\n\n\n"
        "def test_where(mel_round_trip):\n"
        f"    assert melcheck.pytest_plugin.plugin.__file__.startswith({str(site)!r})\n"
        "    assert list(mel_round_trip.mel.shape) == [1, 100, 282]\n"
    )
    clip = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"
    command = [sys.executable, "-m", "pytest", "-q", "--mel-vocoder", "embedded"]
    result = subprocess.run(
        [*command, "--mel-audio", str(clip)],
        cwd=project,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in result.stdout, result.stdout + result.stderr
