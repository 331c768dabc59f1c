"""What a chosen hypothesis leaves open: edges, floor, ceiling, quiet cells, extra frames.

The prediction is the hypothesis with its slope and offset and without a floor; every place where
the candidate leaves it is either explained here or left over.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from melcheck.diagnosis.causes import Finding
from melcheck.diagnosis.recipe_search.choice import Choice
from melcheck.diagnosis.recipe_search.fitting import Fit, Hypothesis, quantile
from melcheck.diagnosis.recipe_search.mel_values import (
    ROUNDING_NATS,
    STORAGE_ROUNDINGS,
    Prepared,
    magnitude_rounding,
    storage_step,
)
from melcheck.diagnosis.recipe_search.recipe_changes import RecipeChange, filters_of
from melcheck.diagnosis.recipe_search.spectra import first_centre
from melcheck.recipes import BENIGN_FLOORS, MelRecipe

_MIN_CELLS = 4
_FLOOR_NATS = 0.02
# What keeps a logarithm finite shows in the quietest cells and those little louder.
_QUIET_SHARE = 0.1
_QUIET_RANGE_NATS = 3.0
# It is told apart where it predicts them so much better than the recipe does; of two that are as
# good, the first is taken.
_MUCH_BETTER = 0.2
_LEAST_EPS = 1e-13
# Rounding moves an estimate from quiet bins by so much.
_NEAR = 0.5
# The root of it is the magnitude of 16-bit dither in a bin, 3e-4.
_SILENT_EPS = 9e-8
_USUAL_CONSTANTS = (
    *(mantissa * 10.0**exponent for exponent in range(-13, 1) for mantissa in (1.0, 2.0, 5.0)),
    *(2.0**-24, float(np.finfo(np.float32).eps)),
)
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
_ALTERED_SHARE = 1e-3
# Of the cells at the floor, so many are louder in the audio where they were masked.
_MASKED_SHARE = 0.1
# No codec and no filter delays by more; 1105 to 2257 samples are those of MP3.
_LONGEST_DELAY_SAMPLES = 4_096
_ALTERED_CELLS = 16


def examine(prepared: Prepared, choice: Choice) -> tuple[Choice, list[Finding]]:
    """Return what else differs, given a chosen hypothesis, which then predicts the floor too."""
    entry = choice.fit
    findings = _place(prepared, entry)
    findings += _edges(prepared, entry, findings)
    findings += _ceiling(prepared, entry)
    settled, floors = guarded(prepared, choice)
    findings += floors
    top = top_bands(prepared, entry) if "top" in choice.ignored_bands else None
    return settled, findings if top is None else [*findings, top]


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
        text = f"{frames} frames, samples / hop rounded, {recipe.frames(length)} expected"
        return [Finding("profile:zipvoice", text, benign=True, fix=f"Set tail={recipe.tail!r}.")]
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


def guarded(prepared: Prepared, choice: Choice) -> tuple[Choice, list[Finding]]:
    """Explain the lowest cells: what keeps the logarithm finite, if it is not the recipe's.

    A clip, a constant added to the bands, and one added to the energies under the root are told
    apart by what each predicts for the quiet cells.

    Returns:
        The choice, predicting these cells too, and what was found.
    """
    entry = choice.fit
    if entry.bands is not None:
        return choice, []  # each band hides a constant of its own
    hypothesis, recipe = entry.hypothesis, entry.hypothesis.recipe
    # A gain moves cells, not the floor: take its share out of the offset.
    shift = _waveform_shift(choice)
    base = entry.offset - entry.slope * shift
    nats = ((prepared.mel - base) / entry.slope).double()
    plain = entry.mel.double() + shift
    cells = _inner(prepared, entry) & (prepared.usable | _at_floor(prepared, entry))
    if int(cells.sum()) < _MIN_CELLS:
        return choice, []
    quiet = cells & (nats < quantile(nats[cells], _QUIET_SHARE) + _QUIET_RANGE_NATS)

    def left(predicted: Tensor, where: Tensor) -> float:
        errors = (predicted - nats)[where].abs().clamp(max=1.0)
        return float(errors.square().mean().sqrt())

    log_floor = math.log(recipe.floor)
    clips = recipe.floor_mode == "clip"
    expected = plain.clamp(min=log_floor) if clips else plain
    lowest = (
        float(nats[cells].min())
        if prepared.floor is None
        else ((prepared.floor - base) / entry.slope)
    )
    options: list[tuple[str, float, Tensor]] = [("", recipe.floor, expected)]
    if prepared.floor is not None:
        options.append(("clip", math.exp(min(lowest, 50.0)), plain.clamp(min=lowest)))
    if clips:
        options.append(("none", 0.0, plain))
        added = (nats.exp() - plain.exp())[quiet]
        if float(added.median()) > 0:
            value = _usual(float(added.median()), share=_NEAR)
            options.append(("add", value, (plain.exp() + value).log()))
    if not recipe.magnitude_eps:
        sums = filters_of(recipe).sum(dim=0).double().clamp(min=1e-6)[:, None]
        energies = [((each.exp() / sums) ** (2 / recipe.power))[quiet] for each in (nats, plain)]
        value = float((energies[0] - energies[1]).median())
        if value > _LEAST_EPS:
            value = _usual(value, share=_NEAR)
            factor = math.exp(2 * shift / recipe.power)
            options.append(("root", value, _under_root(hypothesis, value / factor, nats) + shift))
    errors = [left(predicted, quiet) for _, _, predicted in options]
    shared = cells & _at_floor(prepared, entry)
    if shared.any():
        # Bins that share one value are a clip, unless something else predicts that value.
        kept = [index for index, each in enumerate(options) if left(each[2], shared) < _FLOOR_NATS]
        options, errors = [options[i] for i in kept], [errors[i] for i in kept]
    if not options:
        return choice, []  # a mask, which no floor explains
    best = min(range(len(options)), key=lambda index: errors[index] + ROUNDING_NATS * index)
    how, value, predicted = options[best]
    unclear = options[0][0] == "" and errors[best] > max(ROUNDING_NATS, _MUCH_BETTER * errors[0])
    if how == "" or unclear:
        return choice, []
    settled = dataclasses.replace(
        choice, fit=dataclasses.replace(entry, mel=(predicted - shift).float())
    )
    if how == "root":
        harmless = value <= _SILENT_EPS
        return settled, [Finding("magnitude-eps", f"magnitude_eps={value:g}", benign=harmless)]
    if how == "add":
        text = "added under the logarithm:"
        return settled, _other_floor(value, recipe, text)
    if how == "none":
        below = cells & (nats < log_floor - _VISIBLE_NATS)
        if int(below.sum()) < _MIN_CELLS:
            return choice, []
        return settled, [Finding("floor", "no floor, or a lower one", benign=True)]
    return choice, _clipped(prepared, choice, lowest, value)


def _at_floor(prepared: Prepared, entry: Fit) -> Tensor:
    if prepared.floor is None:
        return torch.zeros_like(prepared.usable)
    return prepared.mel <= prepared.floor + _FLOOR_NATS * abs(entry.slope)


def _under_root(hypothesis: Hypothesis, value: float, nats: Tensor) -> Tensor:
    recipe = dataclasses.replace(hypothesis.recipe, magnitude_eps=value)
    other = dataclasses.replace(hypothesis, recipe=recipe)
    return other.log_mel(nats.shape[-1]).double()


def _usual(value: float, *, share: float) -> float:
    """Return the usual constant that a value is near to, or the value."""
    usual = min(_USUAL_CONSTANTS, key=lambda each: abs(math.log(value / each)))
    return usual if abs(value / usual - 1) <= share else value


def _clipped(prepared: Prepared, choice: Choice, lowest_nats: float, value: float) -> list[Finding]:
    """Explain a clip: a floor of its own, a range below the maximum, or a mask."""
    entry = choice.fit
    recipe = entry.hypothesis.recipe
    floor = prepared.floor
    assert floor is not None  # a clip leaves cells that share it
    prediction = entry.slope * entry.mel + entry.offset
    if _is_mask(prepared, floor, choice, prediction, _inner(prepared, entry)):
        return []
    span = float(prepared.mel.max()) - floor
    for limit in (80.0, 8.0 / recipe.std):
        far = abs(lowest_nats - math.log(recipe.floor)) > 0.05
        if abs(span - limit) < 1e-3 * limit and far:
            text = f"cut off {limit:g} below the maximum"
            return [] if recipe.dynamic_range else [Finding("floor", text)]
    return [] if recipe.dynamic_range else _other_floor(value, recipe, "clipped at")


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


def altered(prepared: Prepared, choice: Choice) -> Finding | None:
    """Return the cells that the chosen hypothesis does not predict, of all that there are.

    The fit looks at loud cells, away from the ends, the floor and the ceiling; a mask, a gate or a
    band of something else lies where it does not look.
    """
    entry = choice.fit
    hypothesis = entry.hypothesis
    recipe, bands, frames = hypothesis.recipe, *prepared.mel.shape
    length = len(hypothesis.reading.waveform)
    cells = torch.ones(bands, frames, dtype=torch.bool)
    # More than rounding: through, say, a resampler, which differs at the ends and at the top.
    processed = entry.residual > ROUNDING_NATS
    if processed or hypothesis.reading.offset != first_centre(recipe):
        cells &= hypothesis.reading.inner_frames(frames, recipe.n_fft)
    elif frames != recipe.frames(length):
        # What was added after the audio, or cut, shows where a frame reaches beyond it.
        cells &= hypothesis.reading.centres(frames) < length - recipe.n_fft // 2
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


def of_change(change: RecipeChange) -> Finding:
    """Return the finding of a change; that of a constant which cannot be heard is benign."""
    numbers = dict(change.numbers)
    if change.code == "magnitude-eps":
        return Finding(change.code, str(change), benign=numbers["magnitude_eps"] <= _SILENT_EPS)
    if change.code == "floor":
        text = f"{numbers['floor']:.3g} added under the logarithm"
        low, high = BENIGN_FLOORS
        return Finding(change.code, text, benign=low <= numbers["floor"] <= high)
    return Finding(change.code, str(change))


def _other_floor(value: float, recipe: MelRecipe, how: str) -> list[Finding]:
    if abs(math.log(value) - math.log(recipe.floor)) <= _FLOOR_NATS:
        return []
    low, high = BENIGN_FLOORS
    text = f"{how} {value:.3g}, {recipe.floor:g} expected"
    return [Finding("floor", text, benign=low <= value <= high)]
