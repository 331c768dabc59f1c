"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.output import UsageError

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.recipes import MelRecipe


_LISTED_PROBLEMS = 16


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add `--profile`, the recipe that a mel should follow."""
    parser.add_argument(
        "--profile",
        metavar="NAME",
        default="vocos",
        help="recipe that the mel should follow: vocos, f5-tts, bigvgan-24k, ...; a name that is "
        "not known lists all (default: %(default)s)",
    )


def add_array(parser: argparse.ArgumentParser) -> None:
    """Add `--array`, the name of a mel in a file of several."""
    parser.add_argument(
        "--array", metavar="NAME", help="which array of a .npz, .pt or .safetensors of several"
    )


def duration(text: str) -> float | None:
    """Return seconds, or None for `all`.

    Raises:
        argparse.ArgumentTypeError: It is neither.
    """
    if text == "all":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, or all, got {text!r}")
    return seconds


def clips_of(paths: Sequence[Path]) -> tuple[Clip, ...]:
    """Return the clips among files and folders.

    Raises:
        UsageError: One or more of the paths lead to none; all of these are named.
    """
    from melcheck.clips import find_clips

    problems = []
    for path in paths:
        try:
            find_clips([path])
        except (ValueError, OSError) as error:
            problems.append(str(error))
    refuse(problems)
    return find_clips(paths)


def refuse(problems: Iterable[str]) -> None:
    """Raise one error that tells all problems; do nothing without any.

    Raises:
        UsageError: There are problems.
    """
    told = list(problems)
    if told:
        more = len(told) - _LISTED_PROBLEMS
        rest = [f"... and {more} more files"] if more > 0 else []
        raise UsageError("\n".join([*told[:_LISTED_PROBLEMS], *rest]))


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
