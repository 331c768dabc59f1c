"""Choose among fitted hypotheses: the simplest that explains the mel, if nothing else comes near.

A hypothesis costs one for each change and one for each cause that slope and offset need. Among
those whose residual is next to the smallest, the cheapest is taken. The runner-up is the best of
the others that does not merely add to it and that predicts another mel.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor

from melcheck.affine import AffineCause, explain_affine
from melcheck.hypotheses import Change
from melcheck.inspection import Prepared, storage_step
from melcheck.recipes import MelRecipe
from melcheck.search import Fit, Hypothesis, Sound, fit, rank, refine
from melcheck.sounds import altered_sounds, at_level, levels, profile_sounds

__all__ = ["Choice", "choose"]

_REFINED = 6
_REFINED_ALTERED = 6
# Residuals within this factor, or this many nats, of the smallest are as good.
_SAME_FACTOR = 2.5
_SAME_NATS = 2e-4
# The runner-up must leave so much more.
_SEPARATION_FACTOR = 3.0
_SEPARATION_NATS = 1e-3
# Two hypotheses that predict mels nearer than this are one, nats.
_SAME_MEL_NATS = 1e-3
_TOP_BANDS_SHARE = 0.86
# Sub-frame offsets are searched at these steps, samples.
_OFFSET_STEPS = (16, 4, 1)
_OFFSET_FRAMES = 60
# Below this, what is left is the rounding of float32 or of storage.
_MIN_INEXACT = 1e-3
_GOLDEN = (math.sqrt(5) - 1) / 2
_SECTIONS = 22
# Damage is worth a closer look where it ranks so much better than none.
_PROMISING_SHARE = 0.7
_FALLEN_NATS = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What the search came to.

    Attributes:
        fit: The chosen hypothesis; the best one where none was chosen.
        affine: What its slope and offset mean.
        named: Whether it explains the mel and stands apart.
        runner_up: The best hypothesis that says something else.
        fits: All that were fitted, best first.
        ignored_bands: Bands that had to be left out for it to explain the rest.
    """

    fit: Fit
    affine: tuple[AffineCause, ...]
    named: bool
    runner_up: Fit | None
    fits: tuple[Fit, ...]
    ignored_bands: tuple[str, ...] = ()


def choose(
    prepared: Prepared,
    readings: list[Sound],
    expected: MelRecipe,
    waveform: Tensor,
    channels: Tensor | None,
    *,
    thorough: bool,
) -> Choice | None:
    """Search every reading of the audio; None where nothing could be fitted.

    Args:
        prepared: The candidate.
        readings: Of the audio; the first is the likeliest.
        expected: The expected recipe.
        waveform: The audio as given, `[samples]`.
        channels: The audio before it was mixed down.
        thorough: Whether to try frames moved by any number of samples, and damaged audio.
    """
    step = storage_step(prepared.storage)
    mel, usable = prepared.mel, prepared.usable
    fits = []
    for sound in readings:
        base = Hypothesis(sound, (), sound.recipe)
        best = [hypothesis for _, hypothesis in rank(mel, usable, sound)[:_REFINED]]
        if all(hypothesis.changes for hypothesis in best):
            best.append(base)
        fits += [refine(mel, usable, hypothesis, step=step) for hypothesis in best]
    for sound in profile_sounds(mel, waveform, expected):
        hypothesis = Hypothesis(sound, (), sound.recipe)
        fits.append(refine(mel, usable, hypothesis, step=step))
    fits = [entry for entry in fits if math.isfinite(entry.residual)]
    if not fits:
        return None
    smallest = min(entry.residual for entry in fits)
    if not thorough:
        return _decide(prepared, fits, ())
    if not any(entry.explains for entry in fits):
        # The likeliest place of the frames, and the usual one.
        for sound in (readings[0], readings[-1])[: len(readings)]:
            deep = [hypothesis for _, hypothesis in rank(mel, usable, sound, deep=True)]
            fits += [refine(mel, usable, hypothesis, step=step) for hypothesis in deep[:_REFINED]]
            if any(entry.explains for entry in fits):
                break
    smallest = min(entry.residual for entry in fits)
    if (smallest > _SAME_NATS and not prepared.storage) or smallest > _MIN_INEXACT:
        fits += _shifted(prepared, fits, step)
    if not any(entry.explains for entry in fits):
        trimmed = _without_top(prepared, fits, step)
        if trimmed is not None:
            return trimmed
        fits += _altered(prepared, fits, readings[0], channels, step)
    return _decide(prepared, fits, ())


def _shifted(prepared: Prepared, fits: list[Fit], step: float) -> list[Fit]:
    """Return the best hypotheses with their frames moved by some samples."""
    mel, usable = prepared.mel, prepared.usable
    found: list[Fit] = []
    tried: set[tuple[Change, ...]] = set()

    def add(hypothesis: Hypothesis) -> None:
        key = (*hypothesis.all_changes, Change("", text=str(hypothesis.sound.offset)))
        if key not in tried:
            tried.add(key)
            found.append(refine(mel, usable, hypothesis, step=step))

    for entry in sorted(fits, key=lambda entry: entry.residual)[:2]:
        hypothesis = _placed(prepared, entry.hypothesis, _OFFSET_STEPS, step)
        # At the right place the ranking may come out otherwise.
        if hypothesis.sound.offset != entry.hypothesis.sound.offset:
            again = [other for _, other in rank(mel, usable, hypothesis.sound)[:_REFINED]]
            for other in (hypothesis, *again):
                add(other)
        # A wrong window can be as good half a sample off: each has its own place.
        add(
            _placed(prepared, Hypothesis(hypothesis.sound, (), hypothesis.sound.recipe), (1,), step)
        )
    for entry in sorted(found, key=lambda entry: entry.residual)[:2]:
        add(_placed(prepared, entry.hypothesis, (1,), step))
    return found


def _placed(
    prepared: Prepared, hypothesis: Hypothesis, widths: tuple[int, ...], step: float
) -> Hypothesis:
    """Return a hypothesis moved to where it fits best, in ever finer steps of samples."""
    stride = max(1, prepared.mel.shape[-1] // _OFFSET_FRAMES)
    mel, usable = prepared.mel[:, ::stride], prepared.usable[:, ::stride]
    for width in widths:
        centre = hypothesis.sound.offset
        residuals = []
        for offset in range(centre - 4 * width, centre + 4 * width + 1, width):
            result = refine(mel, usable, _strided(hypothesis.moved(offset), stride), step=step)
            residuals.append((result.residual, abs(offset - centre), offset))
        hypothesis = hypothesis.moved(min(residuals)[2])
    return hypothesis


def _strided(hypothesis: Hypothesis, stride: int) -> Hypothesis:
    hop = hypothesis.recipe.hop_length * stride
    sound = dataclasses.replace(
        hypothesis.sound, recipe=dataclasses.replace(hypothesis.sound.recipe, hop_length=hop)
    )
    return Hypothesis(
        sound, hypothesis.changes, dataclasses.replace(hypothesis.recipe, hop_length=hop)
    )


def _without_top(prepared: Prepared, fits: list[Fit], step: float) -> Choice | None:
    """Fit again without the highest bands, which some faults touch alone."""
    ordered = sorted(fits, key=lambda entry: entry.residual)
    plain = [entry for entry in ordered if not entry.hypothesis.all_changes]
    ordered = ordered[:4] + plain
    bands = prepared.mel.shape[0]
    usable = prepared.usable.clone()
    usable[math.floor(_TOP_BANDS_SHARE * bands) :] = False
    again = [fit(prepared.mel, usable, entry.hypothesis, entry.mel, step=step) for entry in ordered]
    choice = _decide(prepared, again, ("top",))
    return choice if choice.named else None


def _altered(
    prepared: Prepared, fits: list[Fit], sound: Sound, channels: Tensor | None, step: float
) -> list[Fit]:
    """Return the best hypotheses about damaged audio, under the filters and powers."""
    mel, usable = prepared.mel, prepared.usable
    # Damage is tried at the place and under the spectrum that came nearest.
    nearest = min(fits, key=lambda entry: entry.residual).hypothesis
    plain = [sound]
    if nearest.sound.recipe == sound.recipe and nearest.sound.offset != sound.offset:
        plain.append(nearest.sound)
    if nearest.changes:
        varied = dataclasses.replace(
            nearest.sound, changes=nearest.all_changes, recipe=nearest.recipe
        )
        plain.append(varied)
    ranked: list[tuple[float, int, Hypothesis]] = []
    for origin in plain:
        for altered in altered_sounds(origin, channels):
            for distance, hypothesis in rank(mel, usable, altered, wide=False)[:1]:
                ranked.append((distance, len(ranked), hypothesis))
        for code in ("clipping", "dc-offset"):
            found = _best_level(prepared, origin, code)
            if found is not None:
                ranked.append((found[0], len(ranked), found[1]))
    ranked.sort(key=lambda entry: entry[:2])
    fitted = [
        refine(mel, usable, hypothesis, step=step) for _, _, hypothesis in ranked[:_REFINED_ALTERED]
    ]
    return [entry for entry in fitted if _fallen(prepared, entry, sound)]


def _fallen(prepared: Prepared, entry: Fit, sound: Sound) -> bool:
    """Return whether the bands that a narrower source cannot have are low, if that is claimed."""
    hypothesis = entry.hypothesis
    if not any(change.code == "band-limited" for change in hypothesis.sound.changes):
        return True
    whole = dataclasses.replace(hypothesis.sound, waveform=sound.waveform)
    mel = Hypothesis(whole, hypothesis.changes, hypothesis.recipe).log_mel(prepared.mel.shape[-1])
    error = (prepared.mel - entry.offset) / entry.slope - mel
    return float(error[hypothesis.sound.highest_band :].mean()) < -_FALLEN_NATS


def _best_level(prepared: Prepared, sound: Sound, code: str) -> tuple[float, Hypothesis] | None:
    """Return the clipping level, or the constant, that ranks best: a grid, then golden sections."""

    def distance(level: float) -> tuple[float, Hypothesis] | None:
        ranked = rank(prepared.mel, prepared.usable, at_level(sound, code, level), wide=False)
        return ranked[0] if ranked else None

    grid = levels(sound, code)
    tried = [result for level in grid if (result := distance(level)) is not None]
    if len(tried) < len(grid):
        return None
    best = min(range(len(grid)), key=lambda index: tried[index][0])
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    hypothesis = tried[best][1]
    plain = rank(prepared.mel, prepared.usable, sound, wide=False)
    if plain and tried[best][0] > _PROMISING_SHARE * plain[0][0]:
        return None
    # The rank has the precision of float32; the fit has that of float64.
    stride = max(1, prepared.mel.shape[-1] // _OFFSET_FRAMES)
    mel, usable = prepared.mel[:, ::stride], prepared.usable[:, ::stride]

    def at(level: float) -> Hypothesis:
        moved = at_level(sound, code, level)
        own = hypothesis.changes
        return Hypothesis(moved, own, hypothesis.recipe)

    def residual(level: float) -> float:
        return refine(mel, usable, _strided(at(level), stride)).residual

    for _ in range(_SECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if residual(left) < residual(right):
            high = right
        else:
            low = left
    return tried[best][0] / 2, at((low + high) / 2)


def _decide(prepared: Prepared, fits: list[Fit], ignored: tuple[str, ...]) -> Choice:
    fits = sorted(fits, key=lambda entry: entry.residual)
    explaining = [entry for entry in fits if entry.explains]
    if not explaining:
        affine = _affine(prepared, fits[0])
        runner_up = _runner_up(fits[0], fits)
        return Choice(fits[0], affine, False, runner_up, tuple(fits), ignored)
    smallest = explaining[0].residual
    bound = max(_SAME_FACTOR * smallest, smallest + _SAME_NATS)
    alike = [entry for entry in explaining if entry.residual <= bound]
    costs = []
    for position, entry in enumerate(alike):
        affine = _affine(prepared, entry)
        unnamed = sum("unnamed" in cause.text for cause in affine)
        cost = len(entry.hypothesis.all_changes) + len(affine) + unnamed
        costs.append((cost, position, affine))
    cost, position, affine = min(costs, key=lambda item: item[:2])
    chosen = alike[position]
    runner_up = _runner_up(chosen, fits)
    apart = runner_up is None or runner_up.residual >= max(
        _SEPARATION_FACTOR * chosen.residual, chosen.residual + _SEPARATION_NATS
    )
    named = apart or not chosen.hypothesis.all_changes
    if not named:
        # What the noise does not let apart is not named, where the expected recipe will do.
        for entry in explaining:
            if not entry.hypothesis.all_changes and not _affine(prepared, entry):
                chosen, affine, named = entry, (), True
                break
    return Choice(chosen, affine, named, runner_up, tuple(fits), ignored)


def _runner_up(chosen: Fit, fits: list[Fit]) -> Fit | None:
    changes = set(chosen.hypothesis.all_changes)
    for entry in fits:
        adds = bool(changes) and changes <= set(entry.hypothesis.all_changes)
        if entry is chosen or adds:
            continue
        difference = (entry.mel - chosen.mel)[chosen.active]
        if float((difference - difference.mean()).square().mean().sqrt()) > _SAME_MEL_NATS:
            return entry
    return None


def _affine(prepared: Prepared, entry: Fit) -> tuple[AffineCause, ...]:
    recipe = entry.hypothesis.recipe
    count = max(1, int(entry.active.sum()))
    x = entry.mel[entry.active].double()
    spread = float(x.std()) if count > 1 else 1.0
    # The standard error of a slope and of the level at the mean, with room for neighbours that are
    # not independent; the offset at 0 inherits the slope's error over the distance to the mean.
    error = entry.residual / math.sqrt(count) * 8
    slope_tolerance = 2e-4 + error / spread
    offset_tolerance = 1e-3 + error + slope_tolerance * abs(float(x.mean()))
    return explain_affine(
        entry.slope,
        entry.offset,
        recipe=recipe,
        slope_tolerance=slope_tolerance,
        offset_tolerance=offset_tolerance,
        floor_moved=_floor_moved(prepared, entry),
    )


_KNOWN_FLOORS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
_FLOOR_NATS = 0.01


def _floor_moved(prepared: Prepared, entry: Fit) -> bool | None:
    """Return whether the floor shifted along with an offset, None where it cannot be told."""
    if prepared.floor is None:
        return None
    recipe = entry.hypothesis.recipe
    # With the recipe's own normalisation undone, where would the floor be with and without offset?
    scale = recipe.log_scale / (math.log(10) if recipe.log_base == "10" else 1.0)
    own = (prepared.floor * recipe.std + recipe.mean) / scale
    shift = (entry.offset * recipe.std + recipe.mean) / (entry.slope * recipe.std)
    floors = [math.log(floor) for floor in (recipe.floor, *_KNOWN_FLOORS)]
    stayed = min(abs(own - floor) for floor in floors) < _FLOOR_NATS
    moved = min(abs(own - shift - floor) for floor in floors) < _FLOOR_NATS
    if stayed or abs(shift) < _FLOOR_NATS:
        return False
    return True if moved else None
