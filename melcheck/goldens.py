"""What a golden records of a mel: statistics, the tolerance of each, and their provenance.

A golden is one YAML file of provenance, compared first, and one CSV file of statistics, each
compared within an absolute tolerance in its own unit. Every frame and every band has a statistic,
so that a shift in time or a change in a few bands is not averaged away.
`melcheck.pytest_plugin.goldens` compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.files import sha256_file
from melcheck.metrics import floor_share
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import VocoderInfo

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

# About three times what float64 in place of float32 was seen to change, on any fixture clip with
# the embedded vocoder. tests/faults/test_goldens_can_fail.py has the figures.
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
    if config.offset != 0.0:
        depends_on["offset"] = config.offset
    if vocoder is not None:
        depends_on["vocoder"] = {
            "config_sha256": vocoder.config_sha256,
            "weights_sha256": vocoder.weights_sha256,
        }
    return depends_on
