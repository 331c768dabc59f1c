"""The rows of `docs/compatibility.md`: the built wheel beside one torch, NumPy and Python each.

    nox                        every row whose Python is there
    nox -s "beside(lowest)"    one row; `nox --list` names them
    nox -s "beside(torch 2.8)" -- tests/suite

A row takes an environment of 3 to 6 GB and some minutes. nox keeps it in `.nox/`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"

ROOT = Path(__file__).parent
TESTS = ("tests/suite", "tests/core", "tests/vocoders", "tests/cli", "tests/pytest_plugin")
# matplotlib 3.8 calls what pyparsing 3.3 deprecates, and warnings are errors here.
LOWEST_CONSTRAINTS = ("pyparsing<3.3",)

# Python, torch, and the packages that go with it.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    # The lowest versions that pyproject.toml admits: torch 2.4.0, NumPy 1.26.0 and all others.
    "lowest": ("3.10", ()),
    "torch 2.4": ("3.12", ("torch==2.4.1", "torchaudio==2.4.1", "numpy==2.*")),
    "torch 2.6, NumPy 1.26": ("3.11", ("torch==2.6.0", "torchaudio==2.6.0", "numpy==1.26.*")),
    "torch 2.6": ("3.13", ("torch==2.6.0", "torchaudio==2.6.0", "numpy==2.*")),
    "torch 2.8, NumPy 1.26": ("3.12", ("torch==2.8.0", "torchaudio==2.8.0", "numpy==1.26.*")),
    "torch 2.8": ("3.13", ("torch==2.8.0", "torchaudio==2.8.0", "numpy==2.*")),
    "torch 2.11, NumPy 1.26": ("3.10", ("torch==2.11.0", "torchaudio==2.11.0", "numpy==1.26.*")),
    "torch 2.11": ("3.13", ("torch==2.11.0", "torchaudio==2.11.0", "numpy==2.*")),
    "torch 2.14": ("3.12", ("torch==2.14.1", "torchaudio==2.11.0", "numpy==2.*")),
}


def _interpreter(version: str) -> str:
    """Return the newest one of pyenv, whose `python3.10` need not run, else the name."""
    found = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return version if newest is None else str(newest)


@nox.session
@nox.parametrize(
    ("python", "packages"),
    [(_interpreter(python), packages) for python, packages in ROWS.values()],
    ids=list(ROWS),
)
def beside(session: nox.Session, packages: tuple[str, ...]) -> None:
    """Install the wheel beside these packages, gate tests/tiny_tts, and run the suite."""
    # Outside the clone, whose pyproject.toml would be that of a test's own project, too.
    with tempfile.TemporaryDirectory() as folder:
        _run(session, packages, Path(folder))


def _run(session: nox.Session, packages: tuple[str, ...], folder: Path) -> None:
    constraints, overrides = folder / "constraints.txt", folder / "overrides.txt"
    # What the clone's `[test]` says of torch is not for these rows.
    overrides.write_text("\n".join(packages[:1]), encoding="utf-8")
    constraints.write_text("\n".join(packages[1:] or LOWEST_CONSTRAINTS), encoding="utf-8")
    session.install(
        *("--requirement", "pyproject.toml", "--extra", "test"),
        *("--constraint", str(constraints), "--override", str(overrides)),
        *(() if packages else ("--resolution", "lowest-direct")),
    )

    wheels = folder / "wheel"
    session.run(
        *("python", "-m", "build", "--wheel", "--no-isolation"), f"--outdir={wheels}", silent=True
    )
    [wheel] = wheels.glob("*.whl")
    session.install("--no-deps", "pip", str(wheel))
    session.run("melcheck", "info")

    tiny_tts = folder / "tiny_tts"
    shutil.copytree(ROOT / "tests" / "tiny_tts", tiny_tts)
    with session.chdir(tiny_tts):
        session.run("pytest", "-m", "sanity", "--mel-vocoder=embedded")

    # The tests of the clone import each other from its root.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    tests = session.posargs or TESTS
    session.run("pytest", "-n", "auto", *tests, env={"PYTHONPATH": path})
