"""Hypotheses about damaged audio: clipped, offset, narrowed, aliased or mixed before the mel."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from melcheck.diagnosis.recipe_search.audio_readings import PASSBAND, bands_below, resampled
from melcheck.diagnosis.recipe_search.fitting import AudioReading, Fit, Hypothesis
from melcheck.diagnosis.recipe_search.mel_values import Prepared
from melcheck.diagnosis.recipe_search.ranking import Cells, best, louder_cells, minimum, residuals
from melcheck.diagnosis.recipe_search.recipe_changes import RecipeChange

PROMISING_SHARE = 0.7
"""What leaves no more than this share of what is left without it is worth a closer look."""

_FALLEN_NATS = 0.5


def damaged(
    prepared: Prepared, nearest: Hypothesis, reading: AudioReading, channels: Tensor | None
) -> list[Hypothesis]:
    """Return hypotheses about damaged audio, under the filters and powers, best first.

    Args:
        prepared: The candidate.
        nearest: The hypothesis about undamaged audio that came nearest.
        reading: The likeliest reading.
        channels: The audio before it was mixed down, where it has several channels.
    """
    # Damage is tried at the place and under the spectrum that came nearest.
    origins = [reading]
    if nearest.reading.recipe == reading.recipe and nearest.reading.offset != reading.offset:
        origins.append(nearest.reading)
    if nearest.changes:
        origins.append(
            dataclasses.replace(nearest.reading, changes=nearest.all_changes, recipe=nearest.recipe)
        )
    ranked: list[tuple[float, int, Hypothesis]] = []
    for origin in origins:
        for damage in damaged_readings(origin, channels):
            cells = louder_cells(prepared, damage)
            if cells is not None:
                distance, hypothesis = best(cells, damage)
                ranked.append((distance, len(ranked), hypothesis))
        cells = louder_cells(prepared, origin)
        if cells is None:
            continue
        for code in ("clipping", "dc-offset"):
            found = _best_level(cells, origin, code)
            if found is not None:
                ranked.append((found[0], len(ranked), found[1]))
    ranked.sort(key=lambda entry: entry[:2])
    return [hypothesis for _, _, hypothesis in ranked]


def fallen(prepared: Prepared, entry: Fit, reading: AudioReading) -> bool:
    """Return whether the bands that a narrower source cannot have are low, if that is claimed."""
    hypothesis = entry.hypothesis
    if not any(change.code == "band-limited" for change in hypothesis.reading.changes):
        return True
    whole = dataclasses.replace(hypothesis.reading, waveform=reading.waveform)
    mel = Hypothesis(whole, hypothesis.changes, hypothesis.recipe).log_mel(prepared.mel.shape[-1])
    error = (prepared.mel - entry.offset) / entry.slope - mel
    return float(error[hypothesis.reading.highest_band :].mean()) < -_FALLEN_NATS


def _best_level(cells: Cells, reading: AudioReading, code: str) -> tuple[float, Hypothesis] | None:
    """Return the clipping level, or the constant, that ranks best: on a grid, then between."""
    grid = levels(reading, code)
    tried = [best(cells, at_level(reading, code, level)) for level in grid]
    nearest = min(range(len(grid)), key=lambda index: tried[index][0])
    if tried[nearest][0] > PROMISING_SHARE * best(cells, reading)[0]:
        return None
    hypothesis = tried[nearest][1]
    nowhere = torch.zeros(1, dtype=torch.long)

    def at(level: float) -> Hypothesis:
        return dataclasses.replace(hypothesis, reading=at_level(reading, code, level))

    # The rank has the precision of float32; this has that of float64.
    def left(level: float) -> float:
        return float(residuals(cells, at(level), nowhere))

    low, high = grid[max(0, nearest - 1)], grid[min(len(grid) - 1, nearest + 1)]
    return tried[nearest][0] / 2, at(minimum(left, low, high)[0])


_CLIP_LEVELS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_DC_OFFSETS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_WRAP_GAINS = (1.5, 2.0, 2.2, 3.0, 4.0)


def at_level(reading: AudioReading, code: str, value: float) -> AudioReading:
    """Return a reading clipped at a level, or with a constant added."""
    waveform = reading.waveform
    if code == "clipping":
        altered, text = waveform.clamp(-value, value), f"at {value:.3g}"
    else:
        altered, text = waveform + value, f"of {value:+.3g}"
    changes = (*reading.changes, RecipeChange(code, text=text))
    return dataclasses.replace(reading, changes=changes, waveform=altered)


def levels(reading: AudioReading, code: str) -> tuple[float, ...]:
    """Return the levels to try of a kind of damage that has one, in order."""
    if code == "clipping":
        peak = float(reading.waveform.abs().max())
        return tuple(share * peak for share in _CLIP_LEVELS)
    return tuple(sorted(sign * offset for sign in (-1, 1) for offset in _DC_OFFSETS))


def damaged_readings(reading: AudioReading, channels: Tensor | None) -> list[AudioReading]:
    """Return the audio with each kind of damage that a mel shows and that has no level."""
    waveform, rate = reading.waveform, reading.recipe.sample_rate
    made: list[tuple[str, str, Tensor, int]] = []
    everything = reading.highest_band

    def add(code: str, text: str, altered: Tensor, highest_band: int = everything) -> None:
        made.append((code, text, altered[: len(waveform)], highest_band))

    if channels is not None:
        for index, channel in enumerate(channels):
            add("channel-dropped", f"channel {index} of {len(channels)} alone", channel)
    for gain in _WRAP_GAINS:
        scaled = gain * waveform
        if float(scaled.abs().max()) > 1:
            add("int16-wrap", f"after a gain of {gain:g}", (scaled + 1) % 2 - 1)
    for lower in (8_000, 11_025, 12_000, 16_000, 22_050):
        if lower < rate:
            text = f"by {lower} Hz on the way, to {lower // 2} Hz"
            there_and_back = resampled(resampled(waveform, rate, lower), lower, rate)
            bands = bands_below(reading.recipe, PASSBAND * lower / 2)
            add("band-limited", text, there_and_back, min(bands, everything))
    halved = waveform[::2]
    repeated = halved.repeat_interleave(2)
    add(
        "aliasing", "every other sample dropped, then resampled", resampled(halved, rate // 2, rate)
    )
    add("aliasing", "every other sample repeated", repeated)
    add("aliasing", "every other sample interpolated", _linear(halved, len(waveform)))
    filtered = resampled(waveform, rate, rate // 2)
    add("aliasing", "samples repeated after a low-pass", filtered.repeat_interleave(2))
    add("aliasing", "linear interpolation from half the rate", _linear(filtered, len(waveform)))
    if rate % 3 == 0:  # of other rates the resampler's filter has one phase for each sample
        third = _linear(waveform, len(waveform) * 2 // 3)
        add(
            "aliasing",
            "linear interpolation to 2/3 of the rate",
            resampled(third, rate * 2 // 3, rate),
        )
        two_thirds = resampled(waveform, rate, rate * 2 // 3)
        add(
            "aliasing",
            "linear interpolation from 2/3 of the rate",
            _linear(two_thirds, len(waveform)),
        )
    return [
        dataclasses.replace(
            reading,
            changes=(*reading.changes, RecipeChange(code, text=text)),
            waveform=altered,
            highest_band=highest_band,
        )
        for code, text, altered, highest_band in made
        if len(altered) >= reading.recipe.n_fft
    ]


def _linear(waveform: Tensor, samples: int) -> Tensor:
    stretched = torch.nn.functional.interpolate(
        waveform[None, None], size=samples, mode="linear", align_corners=False
    )
    return stretched[0, 0]
