"""Which recipe made this mel of this waveform? Recompute it under each hypothesis and compare.

`diagnose` answers with a verdict of four kinds:

    identical   the candidate is the expected mel, up to rounding
    benign      the same recipe; the differences (storage, floor, last frame) do not affect decoding
    fault       one or more causes, named
    unknown     no hypothesis explains it, or several do; the nearest three are given

A cause is named only where a hypothesis leaves next to nothing unexplained and the next one leaves
much more. Mels are `[n_mels, frames]` and waveforms `[samples]`, with or without one leading
dimension of 1; `(waveform, candidate)` is the order everywhere.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from melcheck.audio import SILENT_PEAK
from melcheck.diagnosis.causes import PROFILE_PREFIX, Explanation, Finding, profile_numbers
from melcheck.diagnosis.recipe_search.audio_readings import as_clip
from melcheck.diagnosis.recipe_search.choice import SAME_MEL_NATS, Choice, same_mel
from melcheck.diagnosis.recipe_search.fitting import MOST_ALLOWED_NATS, Fit
from melcheck.diagnosis.recipe_search.kaldi import kaldi_fit
from melcheck.diagnosis.recipe_search.mel_axes import Layout, logarithms, orient
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    Prepared,
    as_mel,
    beyond_rounding,
    prepare,
    storage_of,
    storage_step,
)
from melcheck.diagnosis.recipe_search.search import AS_NEAR, Look, closer_look, first_look
from melcheck.diagnosis.recipe_search.unexplained_cells import (
    altered,
    altered_cells,
    examine,
    of_change,
)
from melcheck.diagnosis.result import Diagnosis, Evidence, Nearest
from melcheck.recipes import BENIGN_FLOORS, VOCOS, MelRecipe, filterbank, log_mel

# Root mean square of what 16-bit samples, dithered or not, do to one bin's magnitude.
_DITHER_MAGNITUDE = 4e-4

# What is left of an exact candidate, with room for the rounding of other libraries, nats.
_EXACT_NATS = 3e-4

# How near slope and offset must be to those expected.
_SAME_SLOPE = 1e-3
_SAME_OFFSET_NATS = 5e-3
_AT_ZERO_DB = 1e-3
# A mask is considered where at most this share of the cells off the floor is not as expected:
# different recipes agree in one cell of a hundred.
_MOSTLY_OFF = 0.5
_MASK_SHARE = 0.9
# Mels nearer than this share of what they leave are one to a reader.
_CLOSE_SHARE = 0.1
_MOST_CLOSE_NATS = 0.02
# Values of a short type are next to its numbers, in its steps.
_FITS_A_TYPE = 0.05
# What leaves more than this belongs to different audio.
_DIFFERENT_AUDIO_NATS = 1.0

OTHER_FILE = "It does not match this audio: is it the mel of a different file?"
"""A note, for a mel that was read from a file."""

_Best: TypeAlias = "tuple[Look, Choice, list[Finding]] | None"


def diagnose(waveform: Any, candidate_mel: Any, *, expected: MelRecipe = VOCOS) -> Diagnosis:
    """Say which recipe made a mel of a waveform.

    Args:
        waveform: `[samples]`, or `[channels, samples]` whose mean is meant, floating point, at
            `expected.sample_rate`, full scale +-1: a tensor or a NumPy array.
        candidate_mel: `[n_mels, frames]`, up to leading dimensions of 1: a tensor or a NumPy array,
            with bands and frames as `expected.axes` says.
        expected: The recipe that it should follow.

    Returns:
        The verdict, its causes and its evidence.

    Raises:
        TypeError: One of them is no array.
        ValueError: Shapes or types that are no clip or no mel, a clip too short for a mel, or one
            with NaN in it.
    """
    clip, channels = as_clip(waveform)
    given = as_mel(candidate_mel)
    if expected.axes == "frames_first":
        given = given.T
        expected = dataclasses.replace(expected, axes="bands_first")
    reference = log_mel(clip, expected)
    quick = _same(reference, given, expected)
    if quick is not None:
        return quick
    if float(clip.abs().max()) < SILENT_PEAK:
        note = f"The audio is silent (peak {float(clip.abs().max()):.1g}): it explains no mel."
        return _plain("unknown", (), reference, given, (note,))
    found = []
    for layout in orient(given, clip, expected):
        found.append(_of_layout(layout, clip, channels, reference, expected))
        # The shape alone is no evidence: of two layouts the one is right that something explains.
        if found[-1].evidence.residual < MOST_ALLOWED_NATS:
            return found[-1]
    return found[0]


def _of_layout(
    layout: Layout,
    clip: Tensor,
    channels: Tensor | None,
    reference: Tensor,
    expected: MelRecipe,
) -> Diagnosis:
    given = layout.mel
    mel, padded = _unpadded(layout.mel, reference.shape[-1])
    if padded is not None and (quick := _same(reference, mel, expected)) is not None:
        causes = (padded.explained(expected), *quick.causes)
        return dataclasses.replace(quick, kind="benign", causes=causes)
    prepared = prepare(mel)
    first = list(layout.findings) if padded is None else [*layout.findings, padded]
    if prepared.broken:
        first.append(Finding("nan", _broken(given)))
    if prepared.leading or prepared.trailing:
        count = prepared.leading + prepared.trailing
        text = f"{count} frames of {prepared.padding_value:g}"
        first.append(Finding("padded-frames", text))
    kaldi = kaldi_fit(prepared, clip, expected.sample_rate)
    if kaldi is not None:
        named = tuple(each.explained(expected) for each in [*first, kaldi.finding])
        frames = (layout.mel.shape[-1], reference.shape[-1])
        fit = (kaldi.residual, math.inf, "none", kaldi.slope, kaldi.offset)
        return Diagnosis("fault", named, Evidence(*fit, *frames, prepared.floor), ())
    best: _Best = None
    for undone, finding in logarithms(prepared):
        look = first_look(undone, clip, expected)
        if look is not None and (best is None or _better(look.choice, best[1])):
            best = (look, look.choice, [] if finding is None else [finding])
    if best is not None and not (best[1].named and best[1].fit.residual < _EXACT_NATS):
        choice = closer_look(best[0], channels)
        if _better(choice, best[1]):
            best = (best[0], choice, best[2])
    return _verdict(first, best, reference, layout.mel, expected)


def _unpadded(mel: Tensor, frames: int) -> tuple[Tensor, Finding | None]:
    """Cut off frames beyond the expected ones that hold the mel's lowest value and no other."""
    beyond = mel[:, frames:]
    if not beyond.numel() or not bool((beyond == mel.min()).all()):
        return mel, None
    text = f"{beyond.shape[-1]} frames of the floor, {float(mel.min()):.4g}"
    return mel[:, :frames].contiguous(), Finding("padded-frames", text, benign=True)


def _broken(given: Tensor) -> str:
    """Return how many values are NaN or infinite, and the likely cause."""
    broken = int((~torch.isfinite(given)).sum())
    text = f"{broken} values, {broken / given.numel():.1%}"
    if int(torch.isneginf(given).sum()) == broken:
        return f"{text}, all -inf: the logarithm of 0, so clip first"
    return text


def _same(reference: Tensor, given: Tensor, expected: MelRecipe) -> Diagnosis | None:
    """Return the verdict on a candidate that is the expected mel but for rounding or the floor."""
    if reference.shape != given.shape or not torch.isfinite(given).all():
        return None
    if expected.log_base is None or expected.dynamic_range is not None:
        close = not beyond_rounding(reference, given, expected).any()
        return _plain("identical", (), reference, given) if close else None
    unit = expected.units_per_nat
    step = STORAGE_ROUNDINGS * storage_step(storage_of(given))
    clipped = expected.floor_mode == "clip"
    lowest = float(given.min())
    low, high = (expected.normalised(expected.logarithm(floor)) for floor in BENIGN_FLOORS)
    top = max(lowest, expected.log_floor) if clipped else expected.log_floor
    above = (reference.clamp(min=top), given.clamp(min=top))
    if beyond_rounding(*above, expected, storage=storage_of(given)).any():
        return None
    causes = []
    # Above the floor the lowest bin is one of the audio, which rounding moves.
    floored = float(reference.min()) <= expected.log_floor + 1e-3 * unit
    moved = abs(lowest - float(reference.min())) > max(1e-3 * unit, step * abs(lowest))
    if moved and (floored or prepare(given).floor is not None):
        if not clipped or not low <= lowest <= high:
            return None
        value = math.exp(expected.to_nats(lowest))
        atom = prepare(given).floor is not None
        how = f"{_floor_mode(reference, given, value, expected)} {value:.3g}"
        how = how if atom else f"no floor, or one below {value:.3g}"
        text = f"{how}, {expected.floor:g} expected"
        causes.append(Finding("floor", text, benign=True).explained(expected))
    storage = storage_of(given)
    notes = (f"It is stored with the precision of {storage}.",) if storage else ()
    if causes or storage:
        return _plain("benign", tuple(causes), reference, given, notes)
    return _plain("identical", (), reference, given)


def _floor_mode(reference: Tensor, given: Tensor, floor: float, expected: MelRecipe) -> str:
    """Return whether a floor was clipped at or added, by the cells that have some of both."""
    between = reference > expected.log_floor
    heard, found = (expected.in_nats(mel[between]).exp() for mel in (reference, given))
    added, clipped = heard + floor, heard.clamp(min=floor)
    left = [float((found / each).log().abs().sum()) for each in (added, clipped)]
    return "added" if left[0] < left[1] else "clipped at"


def _plain(
    kind: Any,
    causes: tuple[Explanation, ...],
    reference: Tensor,
    given: Tensor,
    notes: tuple[str, ...] = (),
) -> Diagnosis:
    floor = prepare(given).floor
    evidence = Evidence(
        0.0, math.inf, "none", 1.0, 0.0, given.shape[-1], reference.shape[-1], floor
    )
    return Diagnosis(kind, causes, evidence, (), notes)


def _better(choice: Choice, other: Choice) -> bool:
    one, two = ((not each.fit.explains, each.fit.residual) for each in (choice, other))
    return one < two


def _verdict(
    first: list[Finding], best: _Best, reference: Tensor, given: Tensor, expected: MelRecipe
) -> Diagnosis:
    """Put together what was found."""
    frames = (given.shape[-1], reference.shape[-1])
    if best is None:
        evidence = Evidence(math.inf, math.inf, "none", math.nan, math.nan, *frames, None)
        kind: Any = "fault" if first else "unknown"
        named = tuple(finding.explained(expected) for finding in first)
        return Diagnosis(kind, named, evidence, ())
    look, choice, extra = best
    prepared, entry = look.prepared, choice.fit
    evidence = Evidence(
        residual=entry.residual,
        runner_up_residual=choice.runner_up.residual if choice.runner_up else math.inf,
        runner_up=_text(choice.runner_up, expected) if choice.runner_up else "none",
        slope=entry.slope,
        offset=entry.offset,
        frames=frames[0],
        expected_frames=frames[1],
        floor=prepared.floor,
    )
    nearest = _nearest(choice, expected)
    notes = [f"It is stored with the precision of {prepared.storage}."] if prepared.storage else []
    if choice.named:
        if entry.bands is not None:
            prepared, choice = _without_statistics(prepared, choice)
        return _explained(first + extra, prepared, choice, evidence, notes, expected)
    strange = _mask(reference, given, expected)
    if strange is not None and not first:
        return Diagnosis("fault", (strange.explained(expected),), evidence, nearest, tuple(notes))
    if _like_noise(reference, given, expected):
        notes.append("The difference is no larger than that of rounding the samples to 16 bits.")
        return Diagnosis("benign", (), evidence, nearest, tuple(notes))
    causes = tuple(finding.explained(expected) for finding in first)
    telling = [finding.code for finding in first if not finding.benign]
    if any(code in ("nan", "axes-transposed", "padded-frames") for code in telling):
        notes.append("Beyond that, no known recipe explains it.")
        return Diagnosis("fault", causes, evidence, nearest, tuple(notes), explained=False)
    if entry.residual > _DIFFERENT_AUDIO_NATS:
        notes.append(OTHER_FILE)
    return Diagnosis("unknown", causes, evidence, nearest, tuple(notes), explained=False)


def _without_statistics(prepared: Prepared, choice: Choice) -> tuple[Prepared, Choice]:
    """Return a candidate of which the statistics of each band are undone, in nats."""
    entry = choice.fit
    assert entry.bands is not None  # asked for such fits alone
    slopes, offsets = entry.bands[:, :, None]
    nats = ((prepared.mel - offsets) / slopes).float()
    known = ~slopes.isnan().expand(nats.shape)
    undone = dataclasses.replace(
        prepared,
        mel=torch.where(known, nats, entry.mel),
        usable=prepared.usable & known,
        floor=None,
        ceiling=None,
    )
    return undone, dataclasses.replace(
        choice, fit=dataclasses.replace(entry, slope=1.0, offset=0.0)
    )


def _explained(
    first: list[Finding],
    prepared: Prepared,
    choice: Choice,
    evidence: Evidence,
    notes: list[str],
    expected: MelRecipe,
) -> Diagnosis:
    settled, more = examine(prepared, choice)
    rest = [*first, *more]
    if all(finding.benign for finding in rest) and _is_expected(choice):
        strange = altered(prepared, settled)
        rest += [] if strange is None else [strange]
    named = [finding.explained(expected) for finding in first if not finding.benign]
    for change in choice.fit.hypothesis.all_changes:
        finding = of_change(change)
        if finding.benign:
            rest.append(finding)
        else:
            named.append(finding.explained(expected))
    unlike = {"no-log", "double-log"} & {finding.code for finding in first}
    whole = choice.fit.bands is None
    if named and whole and not unlike and choice.affine and _as_expected(choice, expected):
        notes.append("Its logarithm and normalisation are the expected ones.")
    else:
        for affine in _about_maximum(choice, prepared):
            named.append(affine.explained(expected))
    harmless = [finding for finding in rest if finding.benign]
    named += [finding.explained(expected) for finding in rest[len(first) :] if not finding.benign]
    if not named:
        if not harmless and evidence.residual > _EXACT_NATS:
            harmless = [_rounded(prepared, evidence.residual)]
        causes = tuple(finding.explained(expected) for finding in harmless)
        return Diagnosis("benign", causes, evidence, _nearest(choice, expected), tuple(notes))
    for finding in harmless:
        if finding.code == "floor" and any(c.code.startswith(PROFILE_PREFIX) for c in named):
            continue
        notes.append(f"Also, without effect on decoding: {finding.text}.")
    return Diagnosis("fault", tuple(named), evidence, _nearest(choice, expected), tuple(notes))


def _rounded(prepared: Prepared, residual: float) -> Finding:
    """Name the noise of arithmetic in fewer bits: exactly, where the bands fit a short type."""
    bands = prepared.mel[prepared.usable].exp()
    fix = "Compute the mel in float32: outside of autocast, and without .half() or .bfloat16()."
    for dtype, steps in ((torch.bfloat16, 2**8), (torch.float16, 2**11)):
        apart = (bands.to(dtype).float() / bands - 1).abs() * steps
        if float(apart.median()) < _FITS_A_TYPE:
            name = str(dtype).removeprefix("torch.")
            text = f"the bands were rounded to {name} before the logarithm, {residual:.4f} nats"
            return Finding("rounding", text, benign=True, fix=fix)
    text = f"noise of {residual:.4f} nats"
    return Finding("rounding", text, benign=True, fix=fix)


def _about_maximum(choice: Choice, prepared: Prepared) -> tuple[Finding, ...]:
    """Name the offset of decibels whose maximum is 0 as such, not as a gain."""
    causes = choice.affine
    gain = any(cause.code == "gain" for cause in causes)
    # Whole or energies' decibels, with or without what a profile expects.
    slope = choice.fit.slope * choice.fit.hypothesis.recipe.power
    decibels = any(abs(slope * math.log(10) / each - 1) < _SAME_SLOPE for each in (10, 20))
    if not (gain and decibels) or abs(float(prepared.mel.max())) > _AT_ZERO_DB:
        return causes
    text = "0 dB is the clip's own maximum (ref=np.max)"
    fix = "Refer to 1.0 (ref=1.0), the same for every clip."
    own = Finding("normalisation", text, fix=fix)
    return tuple(own if cause.code == "gain" else cause for cause in causes)


def _is_expected(choice: Choice) -> bool:
    return not choice.fit.hypothesis.all_changes and not choice.affine


def _as_expected(choice: Choice, expected: MelRecipe) -> bool:
    """Return whether slope and offset are the expected recipe's, though a profile has others."""
    profile = any(c.code.startswith(PROFILE_PREFIX) for c in choice.fit.hypothesis.all_changes)
    slope, offset = expected.units_per_nat, -expected.mean / expected.std
    near = abs(choice.fit.slope / slope - 1) < _SAME_SLOPE
    return profile and near and abs(choice.fit.offset - offset) < _SAME_OFFSET_NATS * slope


def _text(entry: Fit, expected: MelRecipe) -> str:
    """Return how a hypothesis differs from the expected recipe, number by number."""
    found = []
    for change in entry.hypothesis.all_changes:
        if change.code.startswith(PROFILE_PREFIX):
            differing = profile_numbers(change.code.removeprefix(PROFILE_PREFIX), expected)
            numbers = ", ".join(f"{name}={own!r}" for name, (own, _) in differing.items())
            found.append(f"{change} ({numbers})")
        else:
            found.append(str(change))
    return ", ".join(found) or "the expected recipe"


def _nearest(choice: Choice, expected: MelRecipe) -> tuple[Nearest, ...]:
    """Return the best three that predict different mels; of those as good, the simplest first."""
    found: list[tuple[Fit, Nearest]] = []
    smallest = min(entry.residual for entry in choice.fits)
    as_good = AS_NEAR * smallest
    close = min(max(SAME_MEL_NATS, _CLOSE_SHARE * smallest), _MOST_CLOSE_NATS)

    def order(entry: Fit) -> tuple[float, int]:
        return max(entry.residual, as_good), len(entry.hypothesis.all_changes)

    for entry in sorted(choice.fits, key=order):
        codes = tuple(change.code for change in entry.hypothesis.all_changes)
        if any(near.codes == codes or same_mel(entry, other, nats=close) for other, near in found):
            continue
        found.append((entry, Nearest(codes, _text(entry, expected), entry.residual)))
    return tuple(near for _, near in found[:3])


def _mask(reference: Tensor, given: Tensor, expected: MelRecipe) -> Finding | None:
    """Return which cells hold one value where most of the rest are as expected.

    What varies with the audio may be a filter of its own, which is no mask.
    """
    if reference.shape != given.shape:
        return None
    step = STORAGE_ROUNDINGS * storage_step(storage_of(given)) * given.abs()
    off = ~((given - reference).abs() <= SAME_MEL_NATS * expected.units_per_nat + step)
    # At the floor all recipes agree.
    heard = reference > expected.log_floor + SAME_MEL_NATS
    if not heard.any() or float(off[heard].float().mean()) > _MOSTLY_OFF:
        return None
    if not off.any():
        return None
    usual = given[off].mode().values
    if int((given[off] == usual).sum()) < _MASK_SHARE * int(off.sum()):
        return None
    return altered_cells(off)


def _like_noise(reference: Tensor, given: Tensor, expected: MelRecipe) -> bool:
    """Return whether a candidate differs by no more magnitude than 16-bit samples would cost.

    Where the clip is quiet that noise is most of the quiet cells, so it is judged in magnitudes,
    as the root mean square over each band, per unit of its filter.
    """
    if reference.shape != given.shape or not torch.isfinite(given).all():
        return False
    if (expected.log_base, expected.power, expected.log_scale) != ("e", 1.0, 1.0):
        return False
    magnitudes = [expected.to_magnitude(mel.double()) for mel in (given, reference)]
    sums = filterbank(expected).sum(dim=0).clamp(min=1e-6)[:, None]
    error = (magnitudes[0] - magnitudes[1]) / sums
    by_band = error.square().mean(dim=1).sqrt()
    return bool((by_band <= _DITHER_MAGNITUDE).all())
