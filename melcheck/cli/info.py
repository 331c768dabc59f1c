"""Say what there is to check with: versions, decoder, devices, weights, recipe.

Weights are held to their sha256. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from melcheck.cli.output import Answer, MissingError, Terminal

if TYPE_CHECKING:
    from melcheck.cli.environment import Weights
    from melcheck.recipes import MelRecipe

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: all of it fits a screen."""
    del parser


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Describe the environment; a package that is damaged is what the environment lacks."""
    del options
    from melcheck.cli.environment import describe_environment

    found = describe_environment()
    embedded = found.weights[0]
    if embedded.state != "verified":
        raise MissingError(embedded.note)
    rows = [
        ("melcheck", f"{found.melcheck}, Python {found.python}, {found.platform}"),
        *((name, version or "absent") for name, version in found.packages.items()),
        ("decoder", f"{found.decoder}; MP3 by soundfile"),
        ("devices", ", ".join(found.devices)),
        *((entry.name, _weights(entry)) for entry in found.weights),
        ("recipe", f"{found.recipe_digest}: {_recipe(found.recipe)}"),
    ]
    return Answer(passed=True, text=terminal.table(("what", "which"), rows), data=_data(found))


def _data(found: object) -> dict[str, object]:
    from melcheck.cli.output import plain

    data: dict[str, object] = plain(found)
    del data["melcheck"]  # stands in every answer
    return data


def _weights(entry: Weights) -> str:
    if entry.weights_sha256 is None:
        return f"{entry.state}: {entry.source}. {entry.note}"
    return f"{entry.state}: {entry.source}, weights sha256 {entry.weights_sha256[:12]}"


def _recipe(recipe: MelRecipe) -> str:
    return (
        f"{recipe.sample_rate:,} Hz, n_fft {recipe.n_fft}, hop {recipe.hop_length}, "
        f"{recipe.n_mels} {recipe.mel_scale} bands {recipe.f_min:g}-{recipe.f_max:g} Hz, "
        f"power {recipe.power:g}, ln of clip at {recipe.floor:g} ({recipe.log_floor:.3f})"
    )
