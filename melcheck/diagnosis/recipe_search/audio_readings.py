"""The readings of the audio that a mel may have been made from: rates, hops, delays, profiles.

How many frames a mel has says which hops and sampling rates are possible; a correlation in time
says where its frames lie; only then is the audio resampled or delayed likewise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
import torchaudio
from torch import Tensor

from melcheck.diagnosis.recipe_search.fitting import AudioReading
from melcheck.diagnosis.recipe_search.mel_values import as_tensor
from melcheck.diagnosis.recipe_search.recipe_changes import RecipeChange, change, filters_of
from melcheck.diagnosis.recipe_search.spectra import first_centre, frame_offset
from melcheck.profiles import PROFILES
from melcheck.recipes import MelRecipe, band_centres_hz

RATES = (8_000, 11_025, 12_000, 16_000, 20_000, 22_050, 24_000, 32_000, 40_000, 44_100, 48_000)
"""Sampling rates in use, Hz."""

_HOPS = (
    *(64, 80, 100, 120, 128, 160, 192, 200, 220, 240, 250, 256, 275, 300, 320),
    *(384, 400, 441, 480, 512, 600, 640, 800, 882, 960, 1024),
)
_MAX_LAG_FRAMES = 14
_FRAME_SLACK = 2
# A part is looked for in so much of a longer clip, 43 s at 256 samples of 24,000 a second.
_MAX_PART_FRAMES = 4_000
PASSBAND = 0.86
"""Where a resampler's filter begins to fall, as a share of the lower Nyquist frequency."""
# An estimate is taken for a usual place within this share of a hop; within these shares of half a
# hop for other rates and hops, whose place is moved later.
_SNAPS = 0.12
_NEAR_A_PLACE = 0.2
_FAR_OFF = 0.8
_MOST_READINGS = 16
_MOST_PLACED = 2
_PACE_STEPS = 10


def as_clip(waveform: object) -> tuple[Tensor, Tensor | None]:
    """Return one clip as `[samples]`, float32, and its channels where it has several.

    Args:
        waveform: `[samples]` or `[channels, samples]`, a tensor or a NumPy array.

    Raises:
        TypeError: It is no array of numbers.
        ValueError: Its shape or type is wrong, it is empty, or it is not finite throughout.
    """
    clip = as_tensor(waveform, "waveform")
    problem = ""
    if clip.dim() not in (1, 2):
        problem = " Pass one clip."
    elif not clip.is_floating_point():
        problem = " Convert it, and divide integer samples by their full scale."
    elif not clip.numel():
        problem = " It holds no samples."
    elif clip.dim() == 2 and clip.shape[0] > clip.shape[1]:
        problem = " That looks like [samples, channels]: pass waveform.T."
    if problem:
        raise ValueError(
            "waveform must be floating point, [samples] or [channels, samples], got "
            f"{str(clip.dtype).removeprefix('torch.')} of shape {list(clip.shape)}.{problem}"
        )
    broken = ~torch.isfinite(clip)
    if broken.any():
        first = int(broken.nonzero()[:, -1].min())
        raise ValueError(
            f"waveform must be finite, got {int(broken.sum()):,} of {clip.numel():,} samples that "
            f"are NaN or infinite, from sample {first:,} on. Find the first step that makes them."
        )
    clip = clip.float()
    if clip.dim() == 1:
        return clip, None
    return clip.mean(dim=0), clip if len(clip) > 1 else None


def base_reading(waveform: Tensor, n_mels: int, expected: MelRecipe) -> AudioReading:
    """Return the audio as it is, with the candidate's number of bands."""
    recipe, changes = expected, []
    if n_mels != expected.n_mels:
        changes.append(change("n-mels", n_mels=n_mels))
        recipe = dataclasses.replace(expected, n_mels=n_mels)
    return AudioReading(tuple(changes), waveform, recipe, first_centre(expected), n_mels)


def likely_readings(candidate: Tensor, waveform: Tensor, expected: MelRecipe) -> list[AudioReading]:
    """Return the readings whose frames fit the candidate's, best aligned first."""
    n_mels, frames = candidate.shape
    base = base_reading(waveform, n_mels, expected)
    difference = frames - expected.frames(len(waveform))
    readings = [base]
    if abs(difference) > _FRAME_SLACK:
        readings += _other_rates(base, frames)
        readings += _usual_hops(base, frames) or _hops_for(base, frames)
    # Where readings share an alignment it is that of the rate next to the expected one.
    readings[1:] = sorted(readings[1:], key=lambda each: abs(math.log(_ratio(each, expected))))
    aligned: list[tuple[float, AudioReading]] = []
    # Readings of equally many frames have them at the same places.
    found: dict[int, tuple[float, float]] = {}
    for reading in readings:
        recipe, samples = reading.recipe, len(reading.waveform)
        pace = round(_PACE_STEPS * samples / recipe.hop_length)
        if pace not in found:
            # Of a longer clip the mel may be any part; of a shorter one, the reverse.
            apart = abs(difference) if reading is base else 0
            offset, correlation = _align(candidate, reading, apart)
            found[pace] = (offset / samples, correlation)
        place, correlation = found[pace]
        estimate = round(place * samples)
        for offset in _places_near(estimate, recipe, exact=reading is base):
            aligned.append((correlation, dataclasses.replace(reading, offset=offset)))
    aligned.sort(key=lambda entry: -entry[0])
    best = aligned[0][0]
    likely = [reading for correlation, reading in aligned if correlation > best - 0.15]
    likely = likely[:_MOST_READINGS]
    usual = [placed for reading in likely[:_MOST_PLACED] for placed in _elsewhere(reading)]
    return likely + usual


def _ratio(reading: AudioReading, expected: MelRecipe) -> float:
    return reading.recipe.sample_rate / expected.sample_rate


def _elsewhere(reading: AudioReading) -> list[AudioReading]:
    """Return a reading at the usual places near to where it was aligned.

    A longer window blurs the estimate; and the hop and the transform are those of the reading.
    """
    recipe = reading.recipe
    places = dict.fromkeys((0, recipe.hop_length // 2, recipe.n_fft // 2, first_centre(recipe)))
    return [
        dataclasses.replace(reading, offset=place)
        for place in places
        if 0 < abs(reading.offset - place) <= recipe.hop_length
    ]


def drifting(candidate: Tensor, waveform: Tensor, expected: MelRecipe) -> list[AudioReading]:
    """Return readings of a hop that is off by a sample or two: a frame more or less in the end."""
    n_mels, frames = candidate.shape
    if not 0 < abs(frames - expected.frames(len(waveform))) <= _FRAME_SLACK:
        return []
    return _hops_for(base_reading(waveform, n_mels, expected), frames)


def correlation_with(candidate: Tensor, reading: AudioReading) -> float:
    """Return how well a candidate follows a reading in time, at its best lag, -1 to 1."""
    return _align(candidate, reading)[1]


def _align(candidate: Tensor, reading: AudioReading, apart: int = 0) -> tuple[int, float]:
    """Return where frame 0 lies, and the correlation there."""
    lags = min(apart, _MAX_PART_FRAMES) + _MAX_LAG_FRAMES
    bands = slice(0, reading.highest_band, 2)
    filters = filters_of(reading.recipe)[:, bands]
    estimate, correlation = frame_offset(
        candidate[bands], reading.waveform, reading.recipe, filters, max_lag_frames=lags
    )
    return estimate, correlation


def _places_near(estimate: int, recipe: MelRecipe, *, exact: bool) -> list[int]:
    """Return where the first frame may lie, given an estimate to a quarter of a hop.

    Args:
        estimate: In samples.
        recipe: Has the hop and the transform.
        exact: Whether to keep the estimate where no usual place is near, as for a delay.
    """
    hop = recipe.hop_length
    if not exact:
        # Usual places are half a hop apart; in between, both are tried.
        half = max(1, hop // 2)
        below = estimate // half * half
        share = (estimate - below) / half
        return [below] if share < _NEAR_A_PLACE else [below, below + half][share > _FAR_OFF :]
    usual = {0, hop // 2, first_centre(recipe)}
    usual |= {first_centre(dataclasses.replace(recipe, padding="none"))}
    lags = _MAX_LAG_FRAMES + abs(estimate) // hop
    usual |= {lag * hop for lag in range(-lags, lags + 1)}
    usual |= {lag * hop + hop // 2 for lag in range(-3, 3)}
    nearest = min(usual, key=lambda offset: abs(offset - estimate))
    return [nearest if abs(nearest - estimate) <= _SNAPS * hop else estimate]


def _other_rates(base: AudioReading, frames: int) -> list[AudioReading]:
    recipe, found = base.recipe, []
    for rate in RATES:
        ratio = rate / recipe.sample_rate
        if rate == recipe.sample_rate:
            continue
        samples = math.ceil(len(base.waveform) * ratio)
        if samples < recipe.min_samples or abs(recipe.frames(samples) - frames) > _FRAME_SLACK:
            continue
        text = f"{rate} Hz samples taken for {recipe.sample_rate} Hz, ratio {ratio:.4f}"
        limit_hz = PASSBAND * min(1.0, 1 / ratio) * recipe.sample_rate / 2
        found.append(
            AudioReading(
                (*base.changes, RecipeChange("sample-rate", text=text)),
                resampled(base.waveform, recipe.sample_rate, rate),
                recipe,
                base.offset,
                bands_below(recipe, limit_hz),
            )
        )
    return found


def _usual_hops(base: AudioReading, frames: int) -> list[AudioReading]:
    """Return readings of usual rates and hops, filters laid out for that rate, that fit a count."""
    own = base.recipe
    found = []
    for rate in RATES:
        samples = math.ceil(len(base.waveform) * rate / own.sample_rate)
        recipe = dataclasses.replace(own, **at_rate(own, rate))
        hops = [hop for hop in _HOPS if _fits(recipe, hop, samples, frames)]
        if rate == own.sample_rate:
            found += _with_hops(base, hops)
        elif hops:
            text = f"sample_rate={rate}, {own.sample_rate} expected"
            read = dataclasses.replace(
                base,
                changes=(*base.changes, RecipeChange("sample-rate", text=text)),
                waveform=resampled(base.waveform, own.sample_rate, rate),
                recipe=recipe,
                highest_band=bands_below(recipe, PASSBAND * min(rate, own.sample_rate) / 2),
            )
            found += [read for hop in hops if hop == recipe.hop_length]
            found += _with_hops(read, hops)
    return found


def at_rate(recipe: MelRecipe, rate: int) -> dict[str, Any]:
    """Return what a recipe's numbers are at a different rate: an f_max of half the rate follows."""
    half = rate / 2
    whole = recipe.f_max == recipe.sample_rate / 2
    return {"sample_rate": rate, "f_max": half if whole else min(recipe.f_max, half)}


def _fits(recipe: MelRecipe, hop: int, samples: int, frames: int) -> bool:
    for padding in ("center", "none"):
        trial = dataclasses.replace(recipe, hop_length=hop, padding=padding)
        if samples >= trial.min_samples and abs(trial.frames(samples) - frames) <= _FRAME_SLACK:
            return True
    return False


def _hops_for(base: AudioReading, frames: int) -> list[AudioReading]:
    """Return readings of the first few hops that give just so many frames."""
    if frames < 2:
        return []
    samples = len(base.waveform)
    low, high = math.floor(samples / frames) + 1, math.floor(samples / (frames - 1))
    return _with_hops(base, range(low, high + 1)[:3])


def _with_hops(base: AudioReading, wanted: Iterable[int]) -> list[AudioReading]:
    recipe = base.recipe
    return [
        dataclasses.replace(
            base,
            changes=(*base.changes, change("hop-length", hop_length=hop)),
            recipe=dataclasses.replace(recipe, hop_length=hop),
        )
        for hop in wanted
        if hop != recipe.hop_length
    ]


def profile_readings(
    candidate: Tensor, waveform: Tensor, expected: MelRecipe
) -> list[AudioReading]:
    """Return a reading for each profile whose bands and frames fit: resampled, and as it is."""
    n_mels, frames = candidate.shape
    found = []
    for entry in PROFILES.values():
        recipe = entry.recipe
        if recipe.n_mels != n_mels or _only_ends_differ(recipe, expected):
            continue
        rates = sorted({recipe.sample_rate, expected.sample_rate})
        for rate in rates:
            samples = math.ceil(len(waveform) * rate / expected.sample_rate)
            if samples < recipe.min_samples or abs(recipe.frames(samples) - frames) > 1:
                continue
            changes: tuple[RecipeChange, ...] = (
                RecipeChange(f"profile:{entry.name}", text=entry.name),
            )
            limit_hz = recipe.sample_rate / 2
            if rate != recipe.sample_rate:
                text = f"{rate} Hz samples taken for {recipe.sample_rate} Hz"
                changes = (*changes, RecipeChange("sample-rate", text=text))
            elif rate != expected.sample_rate:
                limit_hz = PASSBAND * min(rate, expected.sample_rate) / 2
            found.append(
                AudioReading(
                    changes,
                    resampled(waveform, expected.sample_rate, rate),
                    recipe,
                    first_centre(recipe),
                    bands_below(recipe, limit_hz),
                )
            )
    return found


def _only_ends_differ(recipe: MelRecipe, expected: MelRecipe) -> bool:
    same = dataclasses.replace(
        recipe, floor=expected.floor, floor_mode=expected.floor_mode, tail=expected.tail
    )
    return same == expected


def bands_below(recipe: MelRecipe, limit_hz: float) -> int:
    """Return how many bands have their centres below a frequency, at least 8."""
    # The other scale has its bands elsewhere; the lower count serves both.
    counts = [
        sum(
            centre < limit_hz
            for centre in band_centres_hz(dataclasses.replace(recipe, mel_scale=scale))
        )
        for scale in ("htk", "slaney")
    ]
    return max(8, min(counts))


def resampled(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Return `[samples]` at a different rate, as torchaudio resamples it."""
    if source_rate == target_rate:
        return waveform
    found: Tensor = torchaudio.functional.resample(waveform, source_rate, target_rate)
    return found
