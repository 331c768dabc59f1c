"""A golden is on disk whole or not at all, and one that is not whole can be written again."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_regressions.data_regression import DataRegressionFixture
from pytest_regressions.num_regression import NumericRegressionFixture

from melcheck.pytest_plugin.goldens import Golden

PROVENANCE = {"audio_sha256": "ab" * 32, "recipe": {"n_fft": 1024}}
STATISTICS = {"mean": [-3.5], "frame_mean": [-4.0, -3.0, -2.5]}
TOLERANCES = {"mean": 1e-3, "frame_mean": 1e-3}
PARTS = ("clip.csv", "clip.yml")

Check = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "goldens"


@pytest.fixture
def check(
    request: pytest.FixtureRequest,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Check:
    monkeypatch.setattr(request.config.option, "force_regen", False)
    monkeypatch.setattr(request.config.option, "regen_all", False)

    def run(*, regenerating: bool = False, number: Any = None, **statistics: Any) -> None:
        monkeypatch.setattr(request.config.option, "force_regen", regenerating)
        data = DataRegressionFixture(tmp_path, tmp_path, request)
        if number is None:
            number = NumericRegressionFixture(tmp_path, tmp_path, request)
        Golden(folder, data, number, regenerating=regenerating).check(
            "clip",
            provenance=PROVENANCE,
            statistics=STATISTICS | statistics,
            tolerances=TOLERANCES,
        )

    return run


@pytest.fixture
def recorded(check: Check, folder: Path) -> dict[str, bytes]:
    """A golden, and its bytes."""
    with pytest.raises(pytest.fail.Exception, match="created"):
        check()
    check()
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("recorded")
def test_a_message_names_the_golden_and_no_copy_of_it(check: Check, folder: Path) -> None:
    (folder / "clip.csv").unlink()
    with pytest.raises(pytest.fail.Exception, match="created") as caught:
        check()
    assert f"- {folder / 'clip.csv'}" in str(caught.value)


class EndsHalfway:
    """Writes half of what it should, as pytest-regressions does when it is interrupted."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def check(self, *_: Any, fullpath: Path, **__: Any) -> None:
        fullpath.write_text(",mean\n0,-3", encoding="utf-8")
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
def test_a_run_that_ends_while_it_writes_leaves_the_golden_as_it_was(
    check: Check, folder: Path, recorded: dict[str, bytes], error: type[BaseException]
) -> None:
    with pytest.raises(error):
        check(regenerating=True, number=EndsHalfway(error), mean=[-3.0])
    assert contents(folder) == recorded


@pytest.mark.parametrize("regenerating", [False, True], ids=["", "force-regen"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("left", [0, 1, 20, -1, b"\xff\xfe\n", b"a: [\n", b"a,b\nx,y\n"], ids=repr)
def test_a_torn_golden_counts_as_absent_and_is_written_again(
    check: Check,
    folder: Path,
    recorded: dict[str, bytes],
    part: str,
    left: int | bytes,
    regenerating: bool,
) -> None:
    (folder / part).write_bytes(left if isinstance(left, bytes) else recorded[part][:left])
    with pytest.raises(pytest.fail.Exception, match=rf"{part} was empty or torn(?s:.*)created"):
        check(regenerating=regenerating)
    assert contents(folder) == recorded
    check()


@pytest.mark.usefixtures("recorded")
def test_a_golden_keeps_its_permissions_and_its_link(
    check: Check, folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.csv"
    (folder / "clip.csv").rename(kept)
    kept.chmod(0o640)
    (folder / "clip.csv").symlink_to(kept)
    with pytest.raises(pytest.fail.Exception, match="regenerating"):
        check(regenerating=True, mean=[-3.0])
    assert (folder / "clip.csv").is_symlink()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    check(mean=[-3.0])


@pytest.mark.usefixtures("recorded")
def test_a_golden_that_cannot_be_written_is_told_in_a_sentence(check: Check, folder: Path) -> None:
    (folder / "clip.csv").unlink()
    (folder / "clip.csv").symlink_to(folder / "nowhere" / "clip.csv")
    with pytest.raises(pytest.fail.Exception, match=r"clip.csv cannot be written: No such file"):
        check()
