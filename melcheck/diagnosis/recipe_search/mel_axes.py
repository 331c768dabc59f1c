"""Which axis of a mel is which, which way they run, and how often its logarithm was taken.

These come before any recipe: a mel that lies on its side fits nothing. Where the shape decides, it
decides; a square mel, and one that may be upside down, is settled by how it follows the audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from melcheck.diagnosis.causes import Finding
from melcheck.diagnosis.recipe_search.audio_readings import base_reading, correlation_with
from melcheck.diagnosis.recipe_search.mel_values import Prepared, prepare
from melcheck.recipes import MelRecipe

USUAL_BANDS = (20, 23, 24, 26, 32, 40, 48, 64, 80, 96, 100, 120, 125, 128, 160, 180, 229, 256)
"""Numbers of bands in use."""
# A mel that follows the audio this well is not lying on its side.
_GOOD_CORRELATION = 0.78
_CLEARLY_BETTER = 0.15
_FOLLOWS = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A mel with its axes put right.

    Attributes:
        mel: `[n_mels, frames]`.
        findings: What had to be put right.
    """

    mel: Tensor
    findings: tuple[Finding, ...]


def orient(given: Tensor, waveform: Tensor, expected: MelRecipe) -> tuple[Layout, ...]:
    """Put the axes of a candidate right, judging by its shape and by the audio.

    Returns:
        One layout; or two where both axes may be the bands, for the search to decide: any mel has
        as many frames as another has bands, at some length.
    """
    rows, columns = given.shape
    upright = Layout(given, ())
    lying = Layout(
        given.T.contiguous(),
        (Finding("axes-transposed", f"[{rows}, {columns}] is [frames, n_mels]"),),
    )
    bands = {expected.n_mels, *USUAL_BANDS}
    if rows == columns == expected.n_mels:
        better = _follows(lying.mel, waveform, expected)
        best = _follows(given, waveform, expected)
        options = [lying] if better > best + _CLEARLY_BETTER else [upright]
    elif rows in bands and columns in bands:
        return upright, lying
    elif rows != expected.n_mels and rows not in USUAL_BANDS and columns in bands:
        options = [lying]
    else:
        options = [upright]
    return (_turned(options[0], waveform, expected),)


def _turned(layout: Layout, waveform: Tensor, expected: MelRecipe) -> Layout:
    """Return a layout with its bands and frames in order, where the audio shows that they are not.

    A mel that follows the audio well is taken as it is.
    """
    best = _follows(layout.mel, waveform, expected)
    if best >= _GOOD_CORRELATION:
        return layout
    for code, dims in (("frequency-flipped", (-2,)), ("time-flipped", (-1,)), ("both", (-2, -1))):
        flipped = layout.mel.flip(dims)
        score = _follows(flipped, waveform, expected)
        if score > max(_FOLLOWS, best + _CLEARLY_BETTER):
            codes = ("frequency-flipped", "time-flipped") if code == "both" else (code,)
            found = tuple(Finding(each, "") for each in codes)
            return Layout(flipped.contiguous(), (*layout.findings, *found))
    return layout


def _follows(mel: Tensor, waveform: Tensor, expected: MelRecipe) -> float:
    prepared = prepare(mel)
    if prepared.mel.shape[-1] < 4 or not prepared.usable.any():
        return 0.0
    return correlation_with(prepared.mel, base_reading(waveform, prepared.mel.shape[0], expected))


_DOUBLE_LOG_MAX = 3.5
DOUBLE_LOG_SHARE = 0.3
"""A second logarithm loses more of the cells than this."""


def logarithms(prepared: Prepared) -> Iterator[tuple[Prepared, Finding | None]]:
    """Give the candidate as it is, then with a missing logarithm taken or a second one undone.

    A second logarithm leaves a number only where the first was positive, in the loudest cells; its
    clip, or NaN, is everywhere else.
    """
    mel, usable = prepared.mel, prepared.usable
    values = mel[usable]
    if not len(values):
        return
    if float(mel.min()) >= 0:
        positive = usable & (mel > 0)
        logged = replace(prepared, mel=mel.clamp(min=1e-12).log(), usable=positive, floor=None)
        if float(values.max()) > 8 * float(values.median()):
            yield logged, Finding("no-log", "no value is negative")
    lost = 1 - float(usable.float().mean())
    if float(values.max()) < _DOUBLE_LOG_MAX and lost > DOUBLE_LOG_SHARE:
        once = replace(prepared, mel=mel.exp(), floor=None)
        yield once, Finding("double-log", f"{lost:.0%} of the values are lost")
    yield prepared, None
