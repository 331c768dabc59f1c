"""Goldens as tests check them: provenance first, then statistics, through pytest-regressions."""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from melcheck.files import load_yaml, os_reason, plain_text, read_bytes, replacing, unwritten


class Golden:
    """Compares statistics of a mel with those on record.

    `pytest --force-regen` rewrites what differs and fails, as always with pytest-regressions; a
    golden that is absent, empty or torn is written and fails. Each file is written whole or not at
    all, also where the run is killed or another one writes the same golden.

    Args:
        folder: Folder of the goldens.
        data_regression: The fixture of pytest-regressions that compares provenance.
        num_regression: The fixture that compares statistics.
        regenerating: Whether goldens are being written anew.

    Attributes:
        folder: As given.
        regenerating: As given.
    """

    def __init__(
        self,
        folder: Path,
        data_regression: Any,
        num_regression: Any,
        *,
        regenerating: bool = False,
    ) -> None:
        self.folder = folder
        self.regenerating = regenerating
        self._data_regression = data_regression
        self._num_regression = num_regression

    def check(
        self,
        name: str,
        *,
        provenance: dict[str, Any],
        statistics: dict[str, list[float]],
        tolerances: Mapping[str, float],
    ) -> None:
        """Compare provenance first, then each statistic within its own tolerance.

        Args:
            name: Name of the golden, without suffix.
            provenance: What the statistics depend on; any difference is reported before a number.
            statistics: As `mel_statistics` gives them.
            tolerances: Absolute tolerance of each statistic.

        Raises:
            ValueError: Statistics without tolerance, or that are not finite.
            AssertionError: A statistic outside its tolerance.
            pytest.fail.Exception: A different provenance or different statistics than those on
                record, or a golden that was absent or regenerated.
        """
        missing = set(statistics) - set(tolerances)
        if missing:
            raise ValueError(f"tolerances must cover every statistic, got none for {missing}.")
        for key, values in statistics.items():
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: {key} must be finite, got NaN or infinity. No golden.")
        with self._temporary() as folder:
            # pytest-regressions writes in place: it works on a copy, of which what it wrote goes
            # back whole. The provenance goes last, since without it the numbers are not compared.
            copy = Path(folder)
            failures = self._copy(name, copy)
            failures += self._compare(name, copy, provenance, statistics, tolerances)
            self._publish(name, copy)
        if failures:
            self._fail("\n".join(failures))

    def _temporary(self) -> tempfile.TemporaryDirectory[str]:
        try:
            return tempfile.TemporaryDirectory(prefix="melcheck-golden-")
        except OSError as error:
            self._fail(unwritten("a copy of the golden", error))

    def _compare(
        self,
        name: str,
        copy: Path,
        provenance: dict[str, Any],
        statistics: dict[str, list[float]],
        tolerances: Mapping[str, float],
    ) -> list[str]:
        recorded = copy / f"{name}.csv"
        if recorded.is_file() and not self.regenerating:
            self._check_names(recorded, statistics)
        failures = []
        try:
            self._data_regression.check(dict(provenance), fullpath=copy / f"{name}.yml")
        except AssertionError as error:
            self._fail(
                f"golden {name} was recorded under other conditions; its numbers were not "
                "compared. If the change is meant, run with --force-regen and commit why.\n"
                f"{self._in_place(error, copy)}"
            )
        except pytest.fail.Exception as written:
            failures.append(self._in_place(written, copy))
        try:
            # The columns have different lengths: pytest-regressions pads them with NaN.
            self._num_regression.check(
                dict(statistics),
                fullpath=recorded,
                tolerances={key: {"atol": atol, "rtol": 0.0} for key, atol in tolerances.items()},
            )
        except pytest.fail.Exception as written:
            failures.append(self._in_place(written, copy))
        return failures

    def _copy(self, name: str, copy: Path) -> list[str]:
        """Copy a golden, and return what is said of a part that was not written whole."""
        said = []
        for suffix, is_whole in _PARTS.items():
            path = self.folder / f"{name}{suffix}"
            try:
                data = read_bytes(path, max_bytes=_MAX_BYTES)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._fail(f"golden {path} cannot be read: {os_reason(error)}. Remove it.")
            if is_whole(data):
                (copy / path.name).write_bytes(data)
            else:
                said.append(f"golden {path} was empty or torn, and counts as absent.")
        return said

    def _publish(self, name: str, copy: Path) -> None:
        for suffix in _PARTS:
            path, written = self.folder / f"{name}{suffix}", copy / f"{name}{suffix}"
            if not written.is_file():
                continue
            data = written.read_bytes()
            try:
                if path.is_file() and path.read_bytes() == data:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as temporary:
                    temporary.write_bytes(data)
            except OSError as error:
                self._fail(
                    f"golden {path} cannot be written: {os_reason(error)}. Make room there, or "
                    "name another folder with --mel-goldens."
                )

    def _in_place(self, error: BaseException, copy: Path) -> str:
        return str(error).replace(str(copy), str(self.folder))

    @staticmethod
    def _fail(message: str) -> NoReturn:
        pytest.fail(plain_text(message), pytrace=False)

    def _check_names(self, recorded: Path, statistics: Mapping[str, list[float]]) -> None:
        # pytest-regressions compares the columns that it is given, and would not miss one that is
        # gone from the code.
        with recorded.open(encoding="utf-8") as file:
            names = set(file.readline().strip().split(",")[1:])
        if names != set(statistics):
            self._fail(
                f"golden {recorded.stem} must hold {sorted(statistics)}, got {sorted(names)}. If "
                "the change is meant, run with --force-regen and commit why."
            )


def _whole_provenance(data: bytes) -> bool:
    try:
        recorded = load_yaml(data)
    except ValueError:
        return False
    return data.endswith(b"\n") and isinstance(recorded, dict) and bool(recorded)


def _whole_statistics(data: bytes) -> bool:
    # Lines of an index and one number, or nothing, for each column.
    try:
        head, *rows = csv.reader(data.decode("utf-8").splitlines())
        numbers = [float(cell) for row in rows for cell in row if cell]
    except (ValueError, csv.Error):
        return False
    whole = all(len(row) == len(head) for row in rows)
    return data.endswith(b"\n") and whole and bool(numbers)


_MAX_BYTES = 2**26

# The parts of a golden, in the order in which they are written.
_PARTS = {".csv": _whole_statistics, ".yml": _whole_provenance}
