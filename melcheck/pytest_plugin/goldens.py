"""Goldens as tests check them: provenance first, then statistics, through pytest-regressions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


class Golden:
    """Compares statistics of a mel with those on record.

    `pytest --force-regen` rewrites what differs and fails, as always with pytest-regressions; a
    golden that is absent is written and fails.

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
        recorded = self.folder / f"{name}.csv"
        if recorded.is_file() and not self.regenerating:
            self._check_names(recorded, statistics)
        failures = []
        try:
            self._data_regression.check(dict(provenance), fullpath=self.folder / f"{name}.yml")
        except AssertionError as error:
            pytest.fail(
                f"golden {name} was recorded under other conditions; its numbers were not "
                "compared. If the change is meant, run with --force-regen and commit why.\n"
                f"{error}",
                pytrace=False,
            )
        except pytest.fail.Exception as written:
            failures.append(str(written))
        try:
            # The columns have different lengths: pytest-regressions pads them with NaN.
            self._num_regression.check(
                dict(statistics),
                fullpath=recorded,
                tolerances={key: {"atol": atol, "rtol": 0.0} for key, atol in tolerances.items()},
            )
        except pytest.fail.Exception as written:
            failures.append(str(written))
        if failures:
            pytest.fail("\n".join(failures), pytrace=False)

    def _check_names(self, recorded: Path, statistics: Mapping[str, list[float]]) -> None:
        # pytest-regressions compares the columns that it is given, and would not miss one that is
        # gone from the code.
        with recorded.open(encoding="utf-8") as file:
            names = set(file.readline().strip().split(",")[1:])
        if names != set(statistics):
            pytest.fail(
                f"{recorded} must hold {sorted(statistics)}, got {sorted(names)}. If the change "
                "is meant, run with --force-regen and commit why.",
                pytrace=False,
            )
