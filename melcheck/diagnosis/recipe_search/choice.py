"""Choose among fitted hypotheses: the simplest that explains the mel, if nothing else comes near.

A hypothesis costs one for each change and one for each cause that slope and offset need. Among
those whose residual is next to the smallest, the cheapest is taken. The runner-up is the best of
the rest that does not merely add to it and that predicts a different mel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from melcheck.diagnosis.causes import Finding
from melcheck.diagnosis.recipe_search.fitting import Fit
from melcheck.diagnosis.recipe_search.mel_values import Prepared
from melcheck.diagnosis.recipe_search.scale_and_offset import explain_affine
from melcheck.recipes import FLOORS_IN_USE

# Residuals within this factor, or this many nats, of the smallest are as good.
_SAME_FACTOR = 2.5
AS_GOOD_NATS = 2e-4
# The runner-up must leave so much more.
_SEPARATION_FACTOR = 3.0
# An exact fit leaves 1e-6 and less; one that leaves a hundred times that is another.
_EXACT_SEPARATION_NATS = 1e-4
_EXACT_FACTOR = 100.0
# Nobody normalises by a deviation that does next to nothing; an offset alone is a gain.
_NOBODYS_SLOPE = 0.02
SAME_MEL_NATS = 1e-3
"""Two hypotheses that predict mels nearer than this are one."""


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
    affine: tuple[Finding, ...]
    named: bool
    runner_up: Fit | None
    fits: tuple[Fit, ...]
    ignored_bands: tuple[str, ...] = ()


def decide(prepared: Prepared, fits: list[Fit], *, ignored: tuple[str, ...] = ()) -> Choice:
    """Choose among fits of one candidate.

    Args:
        prepared: The candidate.
        fits: At least one.
        ignored: Bands that were left out of the fits, by name.
    """
    fits = sorted(fits, key=lambda entry: entry.residual)
    explaining = [entry for entry in fits if entry.explains]
    if not explaining:
        affine = _affine(prepared, fits[0])
        runner_up = _runner_up(fits[0], fits)
        return Choice(fits[0], affine, False, runner_up, tuple(fits), ignored)
    smallest = explaining[0].residual
    bound = max(_SAME_FACTOR * smallest, smallest + AS_GOOD_NATS)
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
    margin = min(SAME_MEL_NATS, _EXACT_SEPARATION_NATS + _EXACT_FACTOR * chosen.residual)
    apart = runner_up is None or runner_up.residual >= max(
        _SEPARATION_FACTOR * chosen.residual, chosen.residual + margin
    )
    named = (apart or not chosen.hypothesis.all_changes) and not _makes_up(chosen, affine)
    if chosen.bands is not None and not affine:
        return Choice(chosen, affine, False, runner_up, tuple(fits), ignored)
    if not named:
        # What the noise does not let apart is not named, where the expected recipe will do.
        for entry in explaining:
            if not entry.hypothesis.all_changes and not _affine(prepared, entry):
                chosen, affine, named = entry, (), True
                break
    return Choice(chosen, affine, named, runner_up, tuple(fits), ignored)


def _makes_up(entry: Fit, affine: tuple[Finding, ...]) -> bool:
    """Return whether slope and offset only make up for a hypothesis that is not quite right."""
    unnamed = any("unnamed" in cause.text for cause in affine)
    return unnamed and abs(entry.slope - 1) < _NOBODYS_SLOPE


def _runner_up(chosen: Fit, fits: list[Fit]) -> Fit | None:
    changes = set(chosen.hypothesis.all_changes)
    for entry in fits:
        adds = bool(changes) and changes <= set(entry.hypothesis.all_changes)
        if entry is chosen or adds:
            continue
        if not same_mel(entry, chosen):
            return entry
    return None


def same_mel(entry: Fit, other: Fit, *, nats: float = SAME_MEL_NATS) -> bool:
    """Return whether two hypotheses predict mels as near as this, but for their level."""
    difference = (entry.mel - other.mel)[other.active]
    return float((difference - difference.mean()).square().mean().sqrt()) <= nats


def subtracts_nothing(entry: Fit) -> bool:
    """Return whether bands that were divided each by their own number had no mean subtracted."""
    if entry.bands is None:
        return False
    slopes, offsets = entry.bands
    means = (offsets / slopes)[~slopes.isnan()]
    return bool((means.abs() < _NO_MEAN_NATS).all())


_NO_MEAN_NATS = 0.05
_OWN_MEAN = 0.01
_SAME_SLOPES = 0.01


def _of_bands(prepared: Prepared, entry: Fit) -> tuple[Finding, ...]:
    """Name statistics of each band; none where the bands differ by constants alone.

    Those may be filters of other heights.
    """
    assert entry.bands is not None  # asked for such fits alone
    kept = ~entry.bands[0].isnan()
    slopes, offsets = entry.bands[:, kept]
    mel = prepared.mel[kept]
    own = float(mel.mean(dim=1).abs().median()) < _OWN_MEAN * float(mel.std())
    if not own and float(slopes.std() / slopes.mean()) < _SAME_SLOPES:
        return ()
    if own:
        text = "each band less its mean in the clip, divided by its deviation"
        fix = "Extract without it, or keep each clip's statistics: they are lost with the clip."
        return (Finding("normalisation", text, fix=fix),)
    stds, means = 1 / slopes, -offsets / slopes
    low, high = float(stds.min()), float(stds.max())
    text = f"statistics of each band: divided by {low:.3g} to {high:.3g}"
    if not subtracts_nothing(entry):
        text += f" after means of {float(means.min()):.3g} to {float(means.max()):.3g} nats"
    fix = "Before decoding multiply each band by its deviation and add its mean, from your file."
    return (Finding("normalisation", text, fix=fix),)


def _affine(prepared: Prepared, entry: Fit) -> tuple[Finding, ...]:
    if entry.bands is not None:
        return _of_bands(prepared, entry)
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


_FLOOR_NATS = 0.01


def _floor_moved(prepared: Prepared, entry: Fit) -> bool | None:
    """Return whether the floor shifted along with an offset, None where it cannot be told."""
    if prepared.floor is None:
        return None
    recipe = entry.hypothesis.recipe
    # With the recipe's own normalisation undone, where would the floor be with and without offset?
    own = recipe.to_nats(prepared.floor)
    shift = (entry.offset * recipe.std + recipe.mean) / (entry.slope * recipe.std)
    floors = [math.log(floor) for floor in (recipe.floor, *FLOORS_IN_USE)]
    stayed = min(abs(own - floor) for floor in floors) < _FLOOR_NATS
    moved = min(abs(own - shift - floor) for floor in floors) < _FLOOR_NATS
    if stayed or abs(shift) < _FLOOR_NATS:
        return False
    return True if moved else None
