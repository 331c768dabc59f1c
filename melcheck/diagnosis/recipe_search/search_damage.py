"""Search damaged audio: clipped, offset, narrowed, aliased or mixed otherwise before the mel."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from melcheck.diagnosis.recipe_search.damaged_audio import at_level, damaged_sounds, levels
from melcheck.diagnosis.recipe_search.fitting import Fit, Hypothesis, Sound
from melcheck.diagnosis.recipe_search.mel_values import Prepared
from melcheck.diagnosis.recipe_search.ranking import Cells, best, louder_cells, residuals
from melcheck.diagnosis.recipe_search.tuning import golden_section

__all__ = ["damaged", "fallen"]

_SECTIONS = 22
# Damage is worth a closer look where it ranks so much better than none.
_PROMISING_SHARE = 0.7
_FALLEN_NATS = 0.5


def damaged(
    prepared: Prepared, nearest: Hypothesis, sound: Sound, channels: Tensor | None
) -> list[Hypothesis]:
    """Return hypotheses about damaged audio, under the filters and powers, best first.

    Args:
        prepared: The candidate.
        nearest: The hypothesis about sound audio that came nearest.
        sound: The likeliest reading.
        channels: The audio before it was mixed down, where it has several channels.
    """
    # Damage is tried at the place and under the spectrum that came nearest.
    origins = [sound]
    if nearest.sound.recipe == sound.recipe and nearest.sound.offset != sound.offset:
        origins.append(nearest.sound)
    if nearest.changes:
        origins.append(
            dataclasses.replace(nearest.sound, changes=nearest.all_changes, recipe=nearest.recipe)
        )
    ranked: list[tuple[float, int, Hypothesis]] = []
    for origin in origins:
        for damage in damaged_sounds(origin, channels):
            cells = louder_cells(prepared.mel, prepared.usable, damage)
            if cells is not None:
                distance, hypothesis = best(cells, damage)
                ranked.append((distance, len(ranked), hypothesis))
        cells = louder_cells(prepared.mel, prepared.usable, origin)
        if cells is None:
            continue
        for code in ("clipping", "dc-offset"):
            found = _best_level(cells, origin, code)
            if found is not None:
                ranked.append((found[0], len(ranked), found[1]))
    ranked.sort(key=lambda entry: entry[:2])
    return [hypothesis for _, _, hypothesis in ranked]


def fallen(prepared: Prepared, entry: Fit, sound: Sound) -> bool:
    """Return whether the bands that a narrower source cannot have are low, if that is claimed."""
    hypothesis = entry.hypothesis
    if not any(change.code == "band-limited" for change in hypothesis.sound.changes):
        return True
    whole = dataclasses.replace(hypothesis.sound, waveform=sound.waveform)
    mel = Hypothesis(whole, hypothesis.changes, hypothesis.recipe).log_mel(prepared.mel.shape[-1])
    error = (prepared.mel - entry.offset) / entry.slope - mel
    return float(error[hypothesis.sound.highest_band :].mean()) < -_FALLEN_NATS


def _best_level(cells: Cells, sound: Sound, code: str) -> tuple[float, Hypothesis] | None:
    """Return the clipping level, or the constant, that ranks best: a grid, then golden sections."""
    grid = levels(sound, code)
    tried = [best(cells, at_level(sound, code, level)) for level in grid]
    nearest = min(range(len(grid)), key=lambda index: tried[index][0])
    if tried[nearest][0] > _PROMISING_SHARE * best(cells, sound)[0]:
        return None
    hypothesis = tried[nearest][1]
    nowhere = torch.zeros(1, dtype=torch.long)

    def at(level: float) -> Hypothesis:
        return dataclasses.replace(hypothesis, sound=at_level(sound, code, level))

    # The rank has the precision of float32; this has that of float64.
    def left(level: float) -> float:
        return float(residuals(cells, at(level), nowhere))

    low, high = grid[max(0, nearest - 1)], grid[min(len(grid) - 1, nearest + 1)]
    low, high = golden_section(left, low, high, _SECTIONS)
    return tried[nearest][0] / 2, at((low + high) / 2)
