"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from melcheck.cli.output import UsageError
from melcheck.config import offset_of, seconds_or_all

if TYPE_CHECKING:
    from melcheck.recipes import MelRecipe


def add_profile(
    parser: argparse.ArgumentParser, *, default: str | None = "vocos", otherwise: str = ""
) -> None:
    """Add `--profile`, the recipe that a mel should follow.

    Args:
        parser: Parser of the command.
        default: The profile without the option.
        otherwise: What holds where there is no default.
    """
    parser.add_argument(
        "--profile",
        metavar="NAME",
        default=default,
        help="recipe that the mel should follow: vocos, f5-tts, hifigan-22k, ...; an unknown name "
        f"lists all (default: {default or otherwise})",
    )


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add `--threshold`, a limit of the user's own."""
    parser.add_argument(
        "--threshold",
        "--thresholds",
        metavar="METRIC=NUMBER",
        action="append",
        default=[],
        help="a limit of your own, such as snr_db=18, or for clips of some names, such as "
        '"noisy/*: snr_db=15, mae=0.3"; shown beside the default wherever it decides; repeatable',
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


def offset(text: str) -> float | Literal["middle"]:
    """Return seconds, or "middle".

    Raises:
        argparse.ArgumentTypeError: It is neither of these, nor `start`.
    """
    try:
        return offset_of(text)
    except ValueError:
        message = f"must be start, middle, or seconds from 0 up, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def count(text: str) -> int:
    """Return a whole number from 1 up.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


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
