"""What a chosen hypothesis leaves open: edges, floor, ceiling, quiet cells, extra frames.

The prediction is the hypothesis with its slope and offset and without a floor; every place where
the candidate leaves it is either explained here or left over.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from melcheck.diagnosis.causes import Finding
from melcheck.diagnosis.recipe_search.choice import Choice
from melcheck.diagnosis.recipe_search.fitting import Fit
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    Prepared,
    magnitude_rounding,
    storage_step,
)
from melcheck.diagnosis.recipe_search.recipe_changes import change, filters_of
from melcheck.diagnosis.recipe_search.spectra import first_centre
from melcheck.recipes import BENIGN_FLOORS, MelRecipe

_MIN_CELLS = 4
_FLOOR_NATS = 0.02
_VISIBLE_NATS = 0.05
_EDGE_NATS = 0.02
# A shift of so few samples is nobody's fault: 0.0017 nats for one sample.
_BENIGN_SHIFT_SAMPLES = 8
# A different resampler bends the bands from 95 % up: by 0.17 nats there and 1.9 at the last, by
# 0.01 on average from 86 to 94 %.
TOP_BANDS_SHARE = 0.86
"""Bands from here up are those that `top_bands` explains, as a share of all."""
_LAST_BANDS_SHARE = 0.94
_FALLEN_NATS = 2.0
_BENT_NATS = 0.1
# A cell is altered where it is off by so many nats, and by so much more magnitude than the noise
# of the cells that were fitted. On 200 windows of the fixtures at -30 to 3 dB, samples rounded to
# 16 bits take quiet cells sixteen times as far, and never twenty-four times.
_ALTERED_NATS = 0.1
_ALTERED_NOISE = 24.0
# What leaves more than this went through, say, a resampler, which differs at the ends and in the
# highest bands.
_UNTOUCHED_NATS = 1e-4
_ALTERED_SHARE = 1e-3
# Of the cells at the floor, so many are louder in the audio where they were masked.
_MASKED_SHARE = 0.1
# No codec and no filter delays by more; 1105 to 2257 samples are those of MP3.
_LONGEST_DELAY_SAMPLES = 4_096
_ALTERED_CELLS = 16


def examine(prepared: Prepared, choice: Choice) -> list[Finding]:
    """Return what else differs, given a chosen hypothesis."""
    entry = choice.fit
    findings = _place(prepared, entry)
    findings += _edges(prepared, entry, findings)
    findings += _ceiling(prepared, entry)
    findings += _floor(prepared, choice)
    top = top_bands(prepared, entry) if "top" in choice.ignored_bands else None
    return findings if top is None else [*findings, top]


def _place(prepared: Prepared, entry: Fit) -> list[Finding]:
    """Explain where the frames lie and how many there are."""
    reading, recipe = entry.hypothesis.reading, entry.hypothesis.recipe
    offset, frames = reading.offset, prepared.mel.shape[-1]
    length = len(reading.waveform)
    for padding in (recipe.padding, "center", "same", "none"):
        placed = dataclasses.replace(recipe, padding=padding)
        if offset != first_centre(placed) or length < placed.min_samples:
            continue
        if padding != recipe.padding and frames != placed.frames(length):
            continue
        found = []
        if padding != recipe.padding:
            found.append(Finding("padding", f"padding={padding!r}"))
        return found + _count(prepared, placed, length)
    late = -(offset - first_centre(recipe))
    if abs(late) > _LONGEST_DELAY_SAMPLES and frames != recipe.frames(length):
        where = "before" if late > 0 else "into"
        seconds = abs(late) / recipe.sample_rate
        text = (
            f"{frames} frames where the audio gives {recipe.frames(length)}; the first lies "
            f"{seconds:.2f} s {where} it"
        )
        return [Finding("length", text)]
    word = "late" if late > 0 else "early"
    text = f"{abs(late)} samples ({abs(late) / recipe.hop_length:.2f} frames) {word}"
    return [Finding("frame-shift", text, benign=abs(late) <= _BENIGN_SHIFT_SAMPLES)]


def _count(prepared: Prepared, recipe: MelRecipe, length: int) -> list[Finding]:
    frames = prepared.mel.shape[-1]
    kept = dataclasses.replace(recipe, tail="keep").frames(length)
    if prepared.leading or frames == recipe.frames(length):
        return []
    if frames == dataclasses.replace(recipe, tail="round").frames(length):
        return [Finding("profile:zipvoice", "frames = samples / hop, rounded", benign=True)]
    if prepared.trailing:
        return []
    text = f"{frames} frames where the audio gives {recipe.frames(length)}"
    return [Finding("length", text, benign=abs(frames - kept) <= 1)]


def _edges(prepared: Prepared, entry: Fit, place: list[Finding]) -> list[Finding]:
    """Explain the frames that see padding."""
    hypothesis = entry.hypothesis
    reading, recipe = hypothesis.reading, hypothesis.recipe
    if any(finding.code == "frame-shift" for finding in place) or reading.changes:
        return []
    frames = prepared.mel.shape[-1]
    centres = reading.centres(frames)
    half = recipe.n_fft // 2
    outside = centres < half
    if not any(finding.code == "length" for finding in place):
        outside |= centres > len(reading.waveform) - half
    cells = prepared.usable & outside
    cells[reading.highest_band :] = False
    if int(cells.sum()) < _MIN_CELLS:
        return []
    errors = {}
    for mode in (recipe.pad_mode, "reflect", "constant", "replicate"):
        if mode not in errors:
            mel = hypothesis.log_mel(frames, pad_mode=mode)
            errors[mode] = _rms(prepared.mel, mel, entry, cells & (mel > _quiet(recipe)))
    best = min(errors, key=lambda mode: errors[mode])
    own = errors[recipe.pad_mode]
    if own > _EDGE_NATS and errors[best] < 0.3 * own:
        return [Finding("pad-mode", f"pad_mode={best!r}")]
    return []


def _quiet(recipe: MelRecipe) -> float:
    return recipe.power * -7.0


def _rms(candidate: Tensor, mel: Tensor, entry: Fit, cells: Tensor) -> float:
    if not cells.any():
        return 0.0
    error = (candidate - entry.slope * mel - entry.offset)[cells] / entry.slope
    return float(error.square().mean().sqrt())


def _ceiling(prepared: Prepared, entry: Fit) -> list[Finding]:
    if prepared.ceiling is None:
        return []
    prediction = entry.slope * entry.mel + entry.offset
    at_ceiling = prepared.mel >= prepared.ceiling - 1e-5
    beyond = at_ceiling & (prediction > prepared.ceiling + _FLOOR_NATS * entry.slope)
    if int(beyond.sum()) < _MIN_CELLS:
        return []
    share = float(at_ceiling.float().mean())
    return [
        Finding("clamped", f"at {prepared.ceiling:.4g}, {share:.1%} of the time-frequency bins")
    ]


def _floor(prepared: Prepared, choice: Choice) -> list[Finding]:
    """Explain the lowest cells: a clip, an addend, a limited range, energy under the root."""
    entry = choice.fit
    recipe = entry.hypothesis.recipe
    # A gain moves cells, not the floor: take its share out of the offset.
    shift = _waveform_shift(choice)
    base = entry.offset - entry.slope * shift
    prediction = entry.slope * entry.mel + entry.offset
    edge = _inner(prepared, entry)
    if prepared.floor is not None:
        if _explains_floor(prepared, prepared.floor, prediction, edge, entry.slope):
            return []
        if _is_mask(prepared, prepared.floor, choice, prediction, edge):
            return []
        value = (prepared.floor - base) / entry.slope
        span = float(prepared.mel.max()) - prepared.floor
        for limit in (80.0, 8.0 / recipe.std):
            if abs(span - limit) < 1e-3 * limit and abs(value - math.log(recipe.floor)) > 0.05:
                text = f"cut off {limit:g} below the maximum"
                return [] if recipe.dynamic_range else [Finding("floor", text)]
        if recipe.dynamic_range:
            return []
        return _other_floor(math.exp(min(value, 50.0)), recipe, "clipped at")
    # Cells that should be at the expected floor, if it were there.
    low = base + entry.slope * math.log(recipe.floor)
    below = edge & prepared.usable & (prediction < low - _VISIBLE_NATS * entry.slope)
    if recipe.floor_mode == "clip" and int(below.sum()) >= _MIN_CELLS:
        nats = (prepared.mel - base) / entry.slope
        added = (nats.exp() - (entry.mel + shift).exp())[below]
        typical = float(added.median())
        if typical <= 0:
            return [Finding("floor", "no floor, or a lower one", benign=True)]
        return _other_floor(typical, recipe, "an addend near")
    return _quiet_cells(prepared, choice, recipe, edge)


def _explains_floor(
    prepared: Prepared, floor: float, prediction: Tensor, edge: Tensor, slope: float
) -> bool:
    """Return whether the lowest cells are what is predicted without a floor, as under the root."""
    at_floor = edge & (prepared.mel <= floor + _FLOOR_NATS * slope)
    if not at_floor.any():
        return False
    return bool(((prediction - prepared.mel)[at_floor].abs() <= _FLOOR_NATS * slope).all())


def _is_mask(
    prepared: Prepared, floor: float, choice: Choice, prediction: Tensor, edge: Tensor
) -> bool:
    """Return whether the lowest cells lie where the audio is louder, as no floor would have it."""
    entry = choice.fit
    at_floor = edge & (prepared.mel <= floor + _FLOOR_NATS * entry.slope)
    # Below this, 16-bit samples may have made a cell quieter than it was.
    quiet = entry.slope * (_quiet(entry.hypothesis.recipe) + _waveform_shift(choice)) + entry.offset
    louder = prediction > max(floor + _VISIBLE_NATS * entry.slope, quiet)
    return float(louder[at_floor].float().mean()) > _MASKED_SHARE


def _quiet_cells(
    prepared: Prepared, choice: Choice, recipe: MelRecipe, edge: Tensor
) -> list[Finding]:
    entry = choice.fit
    if recipe.magnitude_eps or any(c.code == "magnitude-eps" for c in entry.hypothesis.changes):
        return []
    quiet = edge & prepared.usable & ~entry.active & (entry.mel < _quiet(recipe))
    if int(quiet.sum()) < 10 * _MIN_CELLS:
        return []
    plain = _rms(prepared.mel, entry.mel, entry, quiet)
    for epsilon in (1e-9, 1e-6):
        added = change("magnitude-eps", magnitude_eps=epsilon)
        other = dataclasses.replace(
            entry.hypothesis,
            changes=(*entry.hypothesis.changes, added),
            recipe=dataclasses.replace(recipe, magnitude_eps=epsilon),
        )
        mel = other.log_mel(prepared.mel.shape[-1])
        if plain > _VISIBLE_NATS and _rms(prepared.mel, mel, entry, quiet) < 0.1 * plain:
            return [Finding("magnitude-eps", f"magnitude_eps={epsilon:g}")]
    return []


def altered(prepared: Prepared, choice: Choice) -> Finding | None:
    """Return the cells that the chosen hypothesis does not predict, of all that there are.

    The fit looks at loud cells, away from the ends, the floor and the ceiling; a mask, a gate or a
    band of something else lies where it does not look.
    """
    entry = choice.fit
    hypothesis = entry.hypothesis
    recipe, bands, frames = hypothesis.recipe, *prepared.mel.shape
    cells = torch.ones(bands, frames, dtype=torch.bool)
    processed = entry.residual > _UNTOUCHED_NATS
    if processed or hypothesis.reading.offset != first_centre(recipe):
        cells &= hypothesis.reading.inner_frames(frames, recipe.n_fft)
    elif frames != recipe.frames(len(hypothesis.reading.waveform)):
        cells[:, -1] = False
    highest = math.floor(TOP_BANDS_SHARE * bands) if processed else bands
    cells[min(highest, hypothesis.reading.highest_band) :] = False
    # A benign floor may be higher than the recipe's, or lower: what lies below both is not judged.
    nats = (prepared.mel - entry.offset) / entry.slope
    lowest = math.log(max(recipe.floor, BENIGN_FLOORS[1]))
    if prepared.floor is not None:
        own = (prepared.floor - entry.offset) / entry.slope
        if own <= math.log(BENIGN_FLOORS[1]):
            lowest = max(own, math.log(recipe.floor))
        if recipe.dynamic_range is not None:
            lowest = own
    predicted = entry.mel
    if recipe.floor_mode == "add":
        predicted = torch.logaddexp(predicted, torch.tensor(math.log(recipe.floor)))
    given, predicted = nats.clamp(min=lowest), predicted.clamp(min=lowest)
    # Noise is even in magnitude, per unit of a filter.
    sums = filters_of(recipe).sum(dim=0).clamp(min=1e-6)[:, None]
    apart = ((given / recipe.power).exp() - (predicted / recipe.power).exp()).abs() / sums
    loudest = float((predicted / recipe.power).exp().max())
    noise = float(apart[entry.active].square().mean().sqrt()) + magnitude_rounding(loudest)
    step = STORAGE_ROUNDINGS * storage_step(prepared.storage) * prepared.mel.abs() / entry.slope
    off = cells & (apart > _ALTERED_NOISE * noise)
    off &= (given - predicted).abs() > _ALTERED_NATS + step
    if int(off.sum()) <= max(_ALTERED_CELLS, _ALTERED_SHARE * off.numel()):
        return None
    return altered_cells(off)


def altered_cells(off: Tensor) -> Finding:
    """Return a finding of cells `[n_mels, frames]` that are off: how many, and where."""
    count = int(off.sum())
    rows, columns = off.nonzero().unbind(dim=1)
    text = (
        f"{count / off.numel():.1%} of the time-frequency bins, in bands {int(rows.min())} to "
        f"{int(rows.max())} and frames {int(columns.min())} to {int(columns.max())}"
    )
    return Finding("altered", text)


def top_bands(prepared: Prepared, entry: Fit) -> Finding | None:
    """Explain the highest bands of a fit that left them out; None where nothing known does.

    Another resampler bends the last bands and no others; a narrower source lets them fall far.
    """
    bands = prepared.mel.shape[0]
    cells = _inner(prepared, entry) & prepared.usable
    error = (prepared.mel - entry.offset) / entry.slope - entry.mel
    means = [
        float(error[band][cells[band]].mean()) if cells[band].any() else 0.0
        for band in range(math.floor(TOP_BANDS_SHARE * bands), bands)
    ]
    last = bands - math.floor(_LAST_BANDS_SHARE * bands)
    low, top = means[:-last], means[-last:]
    fallen = sum(top) / len(top)
    bent = sum(abs(mean) for mean in low) / len(low)
    if fallen < -_FALLEN_NATS:
        return Finding("band-limited", f"the highest bands have fallen by {-fallen:.1f} nats")
    if bent <= _BENT_NATS:
        return Finding("band-limited", "the last bands bend, as after a resampler", benign=True)
    return None


def _inner(prepared: Prepared, entry: Fit) -> Tensor:
    reading = entry.hypothesis.reading
    inside = reading.inner_frames(prepared.mel.shape[-1], entry.hypothesis.recipe.n_fft)
    allowed = inside.expand(prepared.mel.shape).clone()
    allowed[reading.highest_band :] = False
    return allowed


def _waveform_shift(choice: Choice) -> float:
    """Return power * ln(gain), nats, of the causes that act on the waveform."""
    codes = {cause.code for cause in choice.affine}
    if not codes & {"gain", "int16-scale", "stereo-sum", "stft-normalized"}:
        return 0.0
    return sum(cause.shift_nats for cause in choice.affine)


def _other_floor(value: float, recipe: MelRecipe, how: str) -> list[Finding]:
    if abs(math.log(value) - math.log(recipe.floor)) <= _FLOOR_NATS:
        return []
    low, high = BENIGN_FLOORS
    text = f"{how} {value:.3g}, {recipe.floor:g} expected"
    return [Finding("floor", text, benign=low <= value <= high)]
