"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.output import UsageError
from melcheck.config import seconds_or_all

if TYPE_CHECKING:
    from melcheck.recipes import MelRecipe


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add `--profile`, the recipe that a mel should follow."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        default="vocos",
        help="recipe that the mel should follow: vocos, f5-tts, bigvgan-24k, ...; an unknown name "
        "lists all (default: %(default)s)",
    )


def add_array(parser: argparse.ArgumentParser) -> None:
    """Add `--array`, the name of a mel in a file of several."""
    parser.add_argument(
        "--array", metavar="NAME", help="which array of a .npz, .pt or .safetensors of several"
    )


def path_of(text: str) -> Path:
    """Return a path that is named; an empty one would mean this folder.

    Raises:
        argparse.ArgumentTypeError: It is empty, or holds a NUL character.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"must name a file or a folder, got {text!r}")
    return Path(text)


def duration(text: str) -> float | None:
    """Return seconds, or None for `all`.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    try:
        return seconds_or_all(text)
    except ValueError:
        message = f"must be seconds above 0, or all, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def upright(path: Path, shape: list[int], recipe: MelRecipe) -> bool:
    """Return whether an array of two axes has its bands first; frames first is the other.

    Raises:
        UsageError: Neither axis has the recipe's number of bands.
    """
    if recipe.n_mels not in shape:
        raise UsageError(
            f"{path}: a mel must have {recipe.n_mels} bands, got {shape}. Name the "
            "recipe that it follows with --profile."
        )
    return shape[0] == recipe.n_mels
