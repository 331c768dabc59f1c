"""What a golden records of a mel: statistics, the tolerance of each, and where it came from.

A golden is one YAML file of provenance, compared first, and one CSV file of statistics, each
compared within a tolerance of its own. The statistics of every frame and of every band are among
them, so that a shift in time or a change in a few bands is seen and not averaged away.

Each tolerance is an absolute one, in the statistic's own unit, with no relative part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.files import sha256_file
from melcheck.metrics import floor_share
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import VocoderInfo

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

# Measured on the fixture clips with the embedded vocoder, float32 against float64 throughout, as a
# bound on what another order of summation can do. Largest deviation of any clip:
#     encoded        mean 2e-6, std 4e-6, quantile 1.8e-3, band_mean 1.9e-4, frame_mean 1.8e-4
#     reconstructed  mean 3.6e-5, std 3.0e-5, quantile 3.4e-3, band_mean 4.9e-3, frame_mean 6.7e-3
# Thread counts from 1 to 4 stay below a fifth of that, but for the quantile (1.3e-3). The
# tolerances are about three times it.
# The floor share did not move; one cell of 282 frames is 3.5e-5.
ENCODED_TOLERANCES: Mapping[str, float] = MappingProxyType(
    {
        "mean": 1e-5,
        "std": 1e-5,
        "floor_share": 1e-4,
        "quantile": 5e-3,
        "band_mean": 6e-4,
        "frame_mean": 6e-4,
    }
)
"""Absolute tolerances of the statistics of an extracted mel, nats but for the floor's share."""

RECONSTRUCTED_TOLERANCES: Mapping[str, float] = MappingProxyType(
    {
        "mean": 1.1e-4,
        "std": 1e-4,
        "floor_share": 1e-4,
        "quantile": 1e-2,
        "band_mean": 1.5e-2,
        "frame_mean": 2.1e-2,
    }
)
"""Absolute tolerances of the statistics of a reconstructed mel, nats but for the floor's share."""


def mel_statistics(mel: Tensor, recipe: MelRecipe) -> dict[str, list[float]]:
    """Return the statistics that a golden holds of one mel.

    Args:
        mel: `[n_mels, frames]`, nats.
        recipe: Its recipe.

    Returns:
        Lists of different lengths: `mean`, `std` and `floor_share` have one value, `quantile` the
        0, 5, 25, 50, 75, 95 and 100 % quantiles, `band_mean` one value a band, `frame_mean` one a
        frame.

    Raises:
        ValueError: A mel of another shape.
    """
    if mel.dim() != 2 or mel.shape[0] != recipe.n_mels:
        raise ValueError(f"mel must be [{recipe.n_mels}, frames], got {list(mel.shape)}.")
    mel = mel.detach().cpu().double()
    quantiles = torch.tensor(_QUANTILES, dtype=torch.float64)
    return {
        "mean": [mel.mean().item()],
        "std": [mel.std(correction=0).item()],
        "floor_share": [floor_share(mel, log_floor=recipe.log_floor).item()],
        "quantile": torch.quantile(mel.flatten(), quantiles).tolist(),
        "band_mean": mel.mean(dim=1).tolist(),
        "frame_mean": mel.mean(dim=0).tolist(),
    }


def provenance(
    clip: Clip, config: MelCheckConfig, recipe: MelRecipe, vocoder: VocoderInfo | None = None
) -> dict[str, Any]:
    """Return what a golden depends on: the audio, the recipe and, after decoding, the weights.

    Args:
        clip: The clip; its file is hashed.
        config: How much of it was read, and at which rate.
        recipe: What its mel means.
        vocoder: What decoded it; None for a mel that was only extracted.
    """
    depends_on: dict[str, Any] = {
        "audio_sha256": sha256_file(clip.path),
        "duration_seconds": config.target_duration,
        "recipe": dataclasses.asdict(recipe),
    }
    if vocoder is not None:
        depends_on["vocoder"] = {
            "config_sha256": vocoder.config_sha256,
            "weights_sha256": vocoder.weights_sha256,
        }
    return depends_on


class Golden:
    """Holds statistics of a mel against what is on record.

    `pytest --force-regen` rewrites what differs and fails, as always with pytest-regressions; a
    golden that is absent is written and fails.

    Args:
        folder: Where goldens are kept.
        data_regression: The fixture of pytest-regressions that compares provenance.
        num_regression: The fixture that compares statistics.
        complete: Whether every case must be on record here. Otherwise one that `check` is told
            may be absent is skipped, visibly.
        regenerating: Whether goldens are being written anew.
    """

    def __init__(
        self,
        folder: Path,
        data_regression: Any,
        num_regression: Any,
        *,
        complete: bool = True,
        regenerating: bool = False,
    ) -> None:
        self._folder = folder
        self._data_regression = data_regression
        self._num_regression = num_regression
        self._complete = complete
        self._regenerating = regenerating

    def check(
        self,
        name: str,
        *,
        provenance: dict[str, Any],
        statistics: dict[str, list[float]],
        tolerances: Mapping[str, float],
        may_be_absent: bool = False,
    ) -> None:
        """Compare provenance first, then each statistic within its own tolerance.

        Args:
            name: Of the golden, without suffix.
            provenance: What the statistics depend on; any difference is reported before a number.
            statistics: As `mel_statistics` gives them.
            tolerances: Absolute, for each statistic.
            may_be_absent: Whether this case may be skipped where there is no golden of it.

        Raises:
            ValueError: Statistics without tolerance, or that are not finite.
            AssertionError: A statistic outside its tolerance.
            pytest.fail.Exception: Another provenance or other statistics than those on record, or
                a golden that was absent or regenerated.
        """
        missing = set(statistics) - set(tolerances)
        if missing:
            raise ValueError(f"tolerances must cover every statistic, got none for {missing}.")
        for key, values in statistics.items():
            if not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: {key} must be finite, got NaN or infinity. No golden.")
        recorded = self._folder / f"{name}.csv"
        if not recorded.is_file():
            if may_be_absent and not self._complete and not self._regenerating:
                pytest.skip(f"no golden {name} on record: --force-regen records one")
        elif not self._regenerating:
            self._check_names(recorded, statistics)
        failures = []
        try:
            self._data_regression.check(dict(provenance), fullpath=self._folder / f"{name}.yml")
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
        # pytest-regressions looks at the columns that it is given: one that is gone from the code
        # would never be missed.
        with recorded.open(encoding="utf-8") as file:
            names = set(file.readline().strip().split(",")[1:])
        if names != set(statistics):
            pytest.fail(
                f"{recorded} must hold {sorted(statistics)}, got {sorted(names)}. If the change "
                "is meant, run with --force-regen and commit why.",
                pytrace=False,
            )
