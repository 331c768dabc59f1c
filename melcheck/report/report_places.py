"""Where in a mel something is, in words and as a share of a picture's width or height."""

from __future__ import annotations

import math
from collections.abc import Sequence

from melcheck.report.model import RecipeSource

__all__ = [
    "band_place",
    "band_range",
    "frame_place",
    "frame_range",
    "frequency_ticks",
    "time_ticks",
    "worst_places",
]

Ticks = tuple[tuple[float, str], ...]

_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
_STEPS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_MOST_TIME_TICKS = 7


def band_place(band: int, recipe: RecipeSource) -> str:
    """Return a band in words: `band 61 (3.1 kHz)`; bands are counted from 0."""
    hz = recipe.band_centres_hz[band]
    return f"band {band} ({hz / 1000:.2g} kHz)" if hz >= 1000 else f"band {band} ({hz:.0f} Hz)"


def frame_place(frame: int, recipe: RecipeSource) -> str:
    """Return a frame in words: `frame 113 (1.21 s)`; frames are counted from 0."""
    return f"frame {frame} ({frame / recipe.frames_per_second:.2f} s)"


def band_range(first: int, last: int, change: float, recipe: RecipeSource) -> str:
    """Return bands and by how much they changed: `bands 80 to 99 (6.1 to 12 kHz) by +0.90 nats`."""
    if first == last:
        return f"{band_place(first, recipe)} by {change:+.2f} nats"
    low, high = (recipe.band_centres_hz[band] / 1000 for band in (first, last))
    return f"bands {first} to {last} ({low:.2g} to {high:.2g} kHz) by up to {change:+.2f} nats"


def frame_range(first: int, last: int, change: float, recipe: RecipeSource) -> str:
    """Return frames and by how much they changed; as `band_range`."""
    if first == last:
        return f"{frame_place(first, recipe)} by {change:+.2f} nats"
    start, end = (frame / recipe.frames_per_second for frame in (first, last))
    return f"frames {first} to {last} ({start:.2f} to {end:.2f} s) by up to {change:+.2f} nats"


def worst_places(bands: Sequence[float], frames: Sequence[float], recipe: RecipeSource) -> str:
    """Say which band and which frame err most; empty where nothing was measured."""
    band, frame = _largest(bands), _largest(frames)
    if band is None or frame is None:
        return ""
    return (
        f"Errs most in {band_place(band, recipe)}, by {bands[band]:.2f} nats, "
        f"and in {frame_place(frame, recipe)}, by {frames[frame]:.2f} nats."
    )


def frequency_ticks(recipe: RecipeSource) -> Ticks:
    """Return (percent from the top, kHz) of round frequencies on a picture of the bands."""
    centres = recipe.band_centres_hz
    ticks = []
    for hz in _TICKS_HZ:
        above = next((band for band, centre in enumerate(centres) if centre >= hz), None)
        if above is None or hz < centres[0]:
            continue
        below = max(0, above - 1)
        gap = centres[above] - centres[below]
        band = above - (centres[above] - hz) / gap if gap else float(above)
        ticks.append((round(100 * (1 - (band + 0.5) / len(centres)), 2), f"{hz / 1000:g}"))
    return tuple(ticks)


def time_ticks(frames: int, recipe: RecipeSource) -> Ticks:
    """Return (percent from the left, seconds) of round times on a picture of the frames."""
    seconds = frames / recipe.frames_per_second
    fitting = (step for step in _STEPS_SECONDS if seconds / step <= _MOST_TIME_TICKS)
    step = next(fitting, seconds / _MOST_TIME_TICKS)
    count = math.floor((frames - 1) / recipe.frames_per_second / step) + 1
    # Frame t is drawn from t to t + 1 and centred on its time.
    places = (100 * (step * n * recipe.frames_per_second + 0.5) / frames for n in range(count))
    return tuple((round(place, 2), f"{step * n:g}") for n, place in enumerate(places))


def _largest(values: Sequence[float]) -> int | None:
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    return max(finite, key=lambda index: values[index], default=None)
