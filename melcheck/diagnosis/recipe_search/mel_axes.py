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

USUAL_BANDS = (20, 23, 32, 40, 64, 80, 96, 100, 120, 128, 160, 229, 256)
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


def orient(given: Tensor, waveform: Tensor, expected: MelRecipe) -> Layout:
    """Put the axes of a candidate right, judging by its shape and by the audio."""
    rows, columns = given.shape
    upright = Layout(given, ())
    lying = Layout(
        given.T.contiguous(),
        (Finding("axes-transposed", f"[{rows}, {columns}] is [frames, n_mels]"),),
    )
    if rows == columns == expected.n_mels:
        options = [upright, lying]
    elif rows == expected.n_mels:
        options = [upright]
    elif columns == expected.n_mels or (rows not in USUAL_BANDS and columns in USUAL_BANDS):
        options = [lying]
    else:
        options = [upright]
    scored = [(_follows(option.mel, waveform, expected), option) for option in options]
    best, layout = max(scored, key=lambda entry: entry[0])
    if len(scored) > 1 and best < scored[0][0] + _CLEARLY_BETTER:
        best, layout = scored[0]
    if best >= _GOOD_CORRELATION:
        return layout
    for code, dims in (("frequency-flipped", (-2,)), ("time-flipped", (-1,)), ("both", (-2, -1))):
        flipped = layout.mel.flip(dims)
        score = _follows(flipped, waveform, expected)
        if score > max(_FOLLOWS, best + _CLEARLY_BETTER):
            codes = ("frequency-flipped", "time-flipped") if code == "both" else (code,)
            found = tuple(Finding(each, "") for each in codes)
            layout, best = Layout(flipped.contiguous(), (*layout.findings, *found)), score
            break
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
