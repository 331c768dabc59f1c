"""Which recipe made this mel of this waveform? Recompute under each hypothesis, fit, name it.

`diagnose` answers with a verdict of four kinds:

    identical   the candidate is the expected mel, up to rounding
    benign      the same recipe; it differs only where no vocoder minds (storage, floor, last frame)
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

from melcheck.causes import PROFILE_PREFIX, cause
from melcheck.diagnosis import Diagnosis, Evidence, NamedCause, Nearest
from melcheck.findings import Finding
from melcheck.fitting import Fit
from melcheck.inspection import Prepared, as_mel, prepare, storage_of, storage_step
from melcheck.orientation import logarithms, orient
from melcheck.recipes import VOCOS, MelRecipe, filterbank, log_mel
from melcheck.residue import BENIGN_FLOORS, examine
from melcheck.search import Look, closer_look, first_look
from melcheck.selection import Choice
from melcheck.sounds import as_clip

__all__ = ["diagnose"]

# A cell is the same within rounding of the log-mel, or of the spectrum it was summed from.
_SAME_NATS = 1e-4
_SAME_MAGNITUDE = 2e-6
# and grows with the loudest cell, by the rounding of a float32 transform.
_SAME_RELATIVE = 4e-7
# Cells of a mel stored in short floats: one rounding more than needed.
_STORAGE_ROUNDINGS = 2.0
# Root mean square of what 16-bit samples, dithered or not, do to one bin's magnitude.
_DITHER_MAGNITUDE = 4e-4

# What is left of an exact candidate, with room for the rounding of other libraries, nats.
_EXACT_NATS = 3e-4

_Best: TypeAlias = "tuple[Look, Choice, list[Finding]] | None"


def diagnose(waveform: Tensor, candidate_mel: Any, *, expected: MelRecipe = VOCOS) -> Diagnosis:
    """Say which recipe made a mel of a waveform.

    Args:
        waveform: `[samples]`, or `[channels, samples]` whose mean is meant, floating point, at
            `expected.sample_rate`, full scale +-1.
        candidate_mel: `[n_mels, frames]`, up to leading dimensions of 1: a tensor or a NumPy array,
            with bands and frames as `expected.axes` says.
        expected: The recipe that it should follow.

    Returns:
        The verdict, its causes and its evidence.

    Raises:
        ValueError: Shapes or types that are no clip or no mel, or a clip too short for a mel.
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
    layout = orient(given, clip, expected)
    prepared = prepare(layout.mel)
    first = list(layout.findings)
    if prepared.broken:
        share = prepared.broken / given.numel()
        first.append(Finding("nan", f"{prepared.broken} cells, {share:.1%}"))
    if prepared.leading or prepared.trailing:
        count = prepared.leading + prepared.trailing
        text = f"{count} frames of {prepared.padding_value:g}"
        first.append(Finding("padded-frames", text))
    best: _Best = None
    for undone, finding in logarithms(prepared):
        look = first_look(undone, clip, expected)
        if look is not None and (best is None or _better(look.choice, best[1])):
            best = (look, look.choice, [] if finding is None else [finding])
    if best is not None and not (best[1].named and best[1].fit.residual < _EXACT_NATS):
        choice = closer_look(best[0], channels)
        if _better(choice, best[1]):
            best = (best[0], choice, best[2])
    return _verdict(first, best, reference, given, expected)


def _same(reference: Tensor, given: Tensor, expected: MelRecipe) -> Diagnosis | None:
    """Return the verdict on a candidate that is the expected mel but for rounding or the floor."""
    if reference.shape != given.shape or not torch.isfinite(given).all():
        return None
    if expected.log_base is None or expected.dynamic_range is not None:
        close = (given - reference).abs().max() <= _SAME_NATS
        return _plain("identical", (), reference, given) if close else None
    unit = expected.log_scale / expected.std
    if expected.log_base == "10":
        unit /= math.log(10)
    step = _STORAGE_ROUNDINGS * storage_step(storage_of(given))
    clipped = expected.floor_mode == "clip"
    lowest = float(given.min())
    low, high = (expected.normalised(expected.logarithm(floor)) for floor in BENIGN_FLOORS)
    top = max(lowest, expected.log_floor) if clipped else expected.log_floor
    difference = (given.clamp(min=top) - reference.clamp(min=top)).abs()
    error = difference / unit - step * given.abs() / unit
    # d ln m = dm / m, so that an error of the magnitude weighs more where the mel is low.
    nats = (reference * expected.std + expected.mean) / (unit * expected.std)
    rounding = _SAME_MAGNITUDE + _SAME_RELATIVE * nats.max().exp()
    bound = torch.maximum(torch.tensor(_SAME_NATS), rounding * (-nats).exp())
    if not bool((error <= bound).all()):
        return None
    causes = []
    if abs(lowest - float(reference.min())) > max(1e-3 * unit, step * abs(lowest)):
        if not clipped or not low <= lowest <= high:
            return None
        value = math.exp((lowest * expected.std + expected.mean) / (unit * expected.std))
        text = f"clipped at {value:.3g}, {expected.floor:g} expected"
        causes.append(_named(Finding("floor", text, benign=True)))
    storage = storage_of(given)
    notes = (f"It is stored with the precision of {storage}.",) if storage else ()
    if causes or storage:
        return _plain("benign", tuple(causes), reference, given, notes)
    return _plain("identical", (), reference, given)


def _plain(
    kind: Any,
    causes: tuple[NamedCause, ...],
    reference: Tensor,
    given: Tensor,
    notes: tuple[str, ...] = (),
) -> Diagnosis:
    floor = prepare(given).floor
    evidence = Evidence(
        0.0, math.inf, "none", 1.0, 0.0, given.shape[-1], reference.shape[-1], floor
    )
    return Diagnosis(kind, causes, evidence, (), notes)


def _named(finding: Finding, alternatives: tuple[str, ...] = ()) -> NamedCause:
    known = cause(finding.code)
    return NamedCause(finding.code, known.title, finding.text, known.fix, alternatives)


def _better(choice: Choice, other: Choice) -> bool:
    return (not choice.fit.explains, choice.fit.residual) < (
        not other.fit.explains,
        other.fit.residual,
    )


def _verdict(
    first: list[Finding],
    best: _Best,
    reference: Tensor,
    given: Tensor,
    expected: MelRecipe,
) -> Diagnosis:
    """Put together what was found."""
    frames = (given.shape[-1], reference.shape[-1])
    if best is None:
        evidence = Evidence(math.inf, math.inf, "none", math.nan, math.nan, *frames, None)
        kind: Any = "fault" if first else "unknown"
        return Diagnosis(kind, tuple(_named(finding) for finding in first), evidence, ())
    look, choice, extra = best
    prepared, entry = look.prepared, choice.fit
    evidence = Evidence(
        residual=entry.residual,
        runner_up_residual=choice.runner_up.residual if choice.runner_up else math.inf,
        runner_up=_text(choice.runner_up) if choice.runner_up else "none",
        slope=entry.slope,
        offset=entry.offset,
        frames=frames[0],
        expected_frames=frames[1],
        floor=prepared.floor,
    )
    nearest = _nearest(choice)
    notes = [f"It is stored with the precision of {prepared.storage}."] if prepared.storage else []
    if choice.named:
        return _explained(first + extra, prepared, choice, evidence, notes)
    if _like_noise(reference, given, expected):
        notes.append("It differs by no more than 16-bit samples would make it.")
        return Diagnosis("benign", (), evidence, nearest, tuple(notes))
    causes = tuple(_named(finding) for finding in first)
    if any(finding.code in ("nan", "axes-transposed", "padded-frames") for finding in first):
        notes.append("Beyond that, no known recipe explains it.")
        return Diagnosis("fault", causes, evidence, nearest, tuple(notes))
    return Diagnosis("unknown", causes, evidence, nearest, tuple(notes))


def _explained(
    first: list[Finding],
    prepared: Prepared,
    choice: Choice,
    evidence: Evidence,
    notes: list[str],
) -> Diagnosis:
    rest = examine(prepared, choice)
    named = [_named(finding) for finding in first]
    for change in choice.fit.hypothesis.all_changes:
        named.append(_named(Finding(change.code, str(change))))
    for affine in choice.affine:
        named.append(_named(Finding(affine.code, affine.text), affine.alternatives))
    harmless = [finding for finding in rest if finding.benign]
    named += [_named(finding) for finding in rest if not finding.benign]
    if not named:
        causes = tuple(_named(finding) for finding in harmless)
        if not causes:
            notes.append(f"It differs by noise of {evidence.residual:.4f} nats.")
        return Diagnosis("benign", causes, evidence, _nearest(choice), tuple(notes))
    for finding in harmless:
        if finding.code == "floor" and any(c.code.startswith(PROFILE_PREFIX) for c in named):
            continue
        notes.append(f"Also, and harmless: {finding.text}.")
    return Diagnosis("fault", tuple(named), evidence, _nearest(choice), tuple(notes))


def _text(entry: Fit) -> str:
    changes = entry.hypothesis.all_changes
    return ", ".join(str(change) for change in changes) or "the expected recipe"


def _nearest(choice: Choice) -> tuple[Nearest, ...]:
    found: dict[tuple[str, ...], Nearest] = {}
    for entry in choice.fits:
        codes = tuple(change.code for change in entry.hypothesis.all_changes)
        if codes not in found:
            found[codes] = Nearest(codes, _text(entry), entry.residual)
    return tuple(found.values())[:3]


def _like_noise(reference: Tensor, given: Tensor, expected: MelRecipe) -> bool:
    """Return whether a candidate differs by no more magnitude than 16-bit samples would cost.

    Where the clip is quiet that noise is most of the quiet cells, so it is judged in magnitudes,
    as the root mean square over each band, per unit of its filter.
    """
    if reference.shape != given.shape or not torch.isfinite(given).all():
        return False
    if (expected.log_base, expected.power, expected.log_scale) != ("e", 1.0, 1.0):
        return False
    magnitudes = [(mel * expected.std + expected.mean).double().exp() for mel in (given, reference)]
    sums = filterbank(expected).sum(dim=0).clamp(min=1e-6)[:, None]
    error = (magnitudes[0] - magnitudes[1]) / sums
    by_band = error.square().mean(dim=1).sqrt()
    return bool((by_band <= _DITHER_MAGNITUDE).all())
