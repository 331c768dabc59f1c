"""Find the recipe that makes a mel of a waveform: rank all hypotheses on few cells, then fit a few.

The rank is 1 - correlation^2 between the candidate and each hypothesis, over the louder cells of
some frames: free of slope and offset, so that one pass serves whatever logarithm, level or
normalisation came after. The few best are then computed in full and fitted,

    candidate = slope * hypothesis + offset,

by least squares over the active cells, whose residual (root mean square, divided by the slope, so
in nats) is the evidence.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.hypotheses import (
    Change,
    changed,
    filter_bank,
    filters_of,
    spectrum_changes,
)
from melcheck.recipes import MelRecipe
from melcheck.spectra import energies, first_centre, log_bands

__all__ = ["Fit", "Hypothesis", "Sound", "fit", "rank", "refine"]

_RANK_FRAMES = 32
_RANK_BANDS = 50
_PROMISING_SPECTRA = 3
_PROMISING_FIRST = 8
_RANKED = 40

# Cells are active where a bin's magnitude is this far above that of 16-bit dither (1.5e-5 times
# the root of the window's energy, 19.6): there the noise of storage costs less than 0.02 nats.
_DITHER_MAGNITUDE = 3e-4
_ACTIVE_MAGNITUDE = 50 * _DITHER_MAGNITUDE

# What the true recipe leaves of an exact candidate is 1e-6; the nearest wrong ones leave 0.0025 (a
# symmetric window) and 0.0107 (an f_max off by 10 Hz).
_EXACT_RESIDUAL = 2e-3
_MIN_ACTIVE_SHARE = 0.1
_MIN_CELLS = 60
_MIN_FRAMES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """One reading of the audio: what was done to it, its frames, and which bands can be compared.

    Attributes:
        changes: What was done, against the audio as given.
        waveform: `[samples]`.
        recipe: The recipe that is varied, with the candidate's hop and number of bands.
        offset: Where frame 0 is centred, in samples.
        highest_band: Bands from here up cannot be compared.
    """

    changes: tuple[Change, ...]
    waveform: Tensor
    recipe: MelRecipe
    offset: int
    highest_band: int

    def centres(self, frames: int) -> Tensor:
        """Return the centre of each of the candidate's frames, in samples."""
        return torch.arange(frames) * self.recipe.hop_length + self.offset

    def inner_frames(self, frames: int, n_fft: int) -> Tensor:
        """Return which frames see no padding, neither of this audio nor of the candidate's own."""
        centres, half = self.centres(frames), n_fft // 2
        inside = (centres >= half) & (centres < len(self.waveform) - half)
        edge = half // self.recipe.hop_length
        # A mel of delayed audio may end in a mirror image that this audio does not have.
        if self.offset != first_centre(self.recipe) and frames > _MIN_FRAMES + 2 * edge:
            inside[:edge] = False
            inside[frames - edge :] = False
        return inside


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """A reading of the audio and a recipe.

    Attributes:
        sound: The reading.
        changes: How the recipe differs from the expected one.
        recipe: The recipe.
    """

    sound: Sound
    changes: tuple[Change, ...]
    recipe: MelRecipe

    @property
    def all_changes(self) -> tuple[Change, ...]:
        """What differs, the audio's part first."""
        return (*self.sound.changes, *self.changes)

    def log_mel(self, frames: int, *, pad_mode: str | None = None) -> Tensor:
        """Return its natural log-mel, `[n_mels, frames]`, without floor or normalisation."""
        recipe = self.recipe
        if pad_mode is not None:
            recipe = dataclasses.replace(recipe, pad_mode=pad_mode)  # type: ignore[arg-type]
        energy = energies(self.sound.waveform, recipe, self.sound.centres(frames))
        return log_bands(energy, filters_of(recipe), recipe.power).T

    def moved(self, offset: int) -> Hypothesis:
        """Return it with frame 0 centred elsewhere."""
        return dataclasses.replace(self, sound=dataclasses.replace(self.sound, offset=offset))


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How well a hypothesis explains the candidate.

    Attributes:
        hypothesis: What was fitted.
        mel: Its natural log-mel, `[n_mels, frames]`.
        slope: Candidate's units per nat.
        offset: In the candidate's unit.
        residual: Root mean square of what the fit leaves, in nats of the hypothesis.
        allowed: The residual up to which the hypothesis explains the candidate, nats.
        loud_residual: The residual over the loudest quarter of the cells.
        loud_allowed: The same bound for those.
        active: Which cells were fitted, `[n_mels, frames]`.
    """

    hypothesis: Hypothesis
    mel: Tensor
    slope: float
    offset: float
    residual: float
    allowed: float
    loud_residual: float
    loud_allowed: float
    active: Tensor

    @property
    def explains(self) -> bool:
        """Whether next to nothing is left, on the loudest cells as on all."""
        return self.residual <= self.allowed and self.loud_residual <= self.loud_allowed


def rank(
    candidate: Tensor, usable: Tensor, sound: Sound, *, wide: bool = True, deep: bool = False
) -> list[tuple[float, Hypothesis]]:
    """Rank hypotheses about one reading of the audio, best first.

    Args:
        candidate: `[n_mels, frames]`.
        usable: Cells that say something, the same shape: neither at a floor nor broken.
        sound: The reading.
        wide: Whether to vary everything, or only the filters' scale and norm and the power.
        deep: Whether to try two changes of the spectrum, and any one with any range, as well.

    Returns:
        Each hypothesis with 1 - correlation^2, 0 for a perfect one.
    """
    frames = _loud_frames(candidate, usable, sound)
    band_step = max(1, math.ceil(sound.highest_band / _RANK_BANDS))
    kept = slice(0, sound.highest_band, band_step)
    cells = candidate[kept, frames].T  # [frames, bands]
    mask = usable[kept, frames].T
    mask = mask & (cells > _quantile(cells[mask], 0.2)) if mask.any() else mask
    if int(mask.sum()) < _MIN_CELLS:
        return []
    values = cells[mask].float()
    values = values - values.mean()
    spread = float(values.square().sum())
    if spread <= 0:
        return []
    sample = _Sample(sound, sound.centres(candidate.shape[-1])[frames], mask, values, band_step)
    found = _compare(sample, (), every_range=wide)
    if wide:
        spectra = list(spectrum_changes(sound.recipe)[1:])
        narrow = [_compare(sample, spectrum, every_range=False) for spectrum in spectra]
        # A change of the spectrum and one of the filters' range: only where the spectrum is among
        # the best already.
        promising = sorted(range(len(spectra)), key=lambda index: min(narrow[index])[0])
        for index in promising if deep else promising[:_PROMISING_SPECTRA]:
            found += _compare(sample, spectra[index], every_range=True)
        if deep:
            first = [spectra[index] for index in promising[:_PROMISING_FIRST]]
            for spectrum in _two_spectra(sound.recipe, first, spectra):
                narrow.append(_compare(sample, spectrum, every_range=False))
        found += [entry for entries in narrow for entry in entries]
    unique = {changes: distance for distance, _, changes in found}
    ordered = sorted(unique.items(), key=lambda entry: (entry[1], len(entry[0])))
    return [
        (distance, Hypothesis(sound, changes, changed(sound.recipe, changes)))
        for changes, distance in ordered[:_RANKED]
    ]


def _two_spectra(
    recipe: MelRecipe, first: list[tuple[Change, ...]], second: list[tuple[Change, ...]]
) -> list[tuple[Change, ...]]:
    """Return the pairs of changes of the spectrum that do not touch the same number."""
    found: dict[frozenset[Change], tuple[Change, ...]] = {}
    for one, other in itertools.product(first, second):
        names = [name for change in (*one, *other) for name, _ in change.numbers]
        numbers = {name: value for change in (*one, *other) for name, value in change.numbers}
        n_fft = numbers.get("n_fft", recipe.n_fft)
        if len(names) == len(numbers) and numbers.get("win_length", recipe.win_length) <= n_fft:
            found.setdefault(frozenset((*one, *other)), (*one, *other))
    return list(found.values())


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """The cells that are compared: of which frames, which of them, their centred values."""

    sound: Sound
    centres: Tensor
    mask: Tensor
    values: Tensor
    band_step: int


def _compare(
    sample: _Sample, spectrum: tuple[Change, ...], *, every_range: bool
) -> list[tuple[float, int, tuple[Change, ...]]]:
    """Return the distance of each hypothesis about one spectrum, its changes counted and named."""
    sound, values = sample.sound, sample.values
    recipe = changed(sound.recipe, spectrum)
    energy = energies(sound.waveform, recipe, sample.centres)
    bank = filter_bank(
        sound.recipe, recipe.n_fft, sample.band_step, sound.highest_band, every_range
    )
    spread = values.square().sum()
    found = []
    for power in sorted({1.0, 2.0, recipe.power}):
        logs = log_bands(energy, bank.filters, power)
        logs = logs.view(len(energy), len(bank.changes), bank.bands).transpose(0, 1)
        logs = logs[:, sample.mask]  # [hypotheses, cells]
        logs = logs - logs.mean(dim=1, keepdim=True)
        correlation = (logs @ values) / (logs.square().sum(dim=1) * spread).sqrt().clamp(min=1e-9)
        distances = (1 - correlation.clamp(min=0.0).square()).tolist()
        own = (Change("power", (("power", power),)),) if power != recipe.power else ()
        for distance, filters in zip(distances, bank.changes, strict=True):
            changes = (*spectrum, *filters, *own)
            found.append((distance, len(changes), changes))
    return found


def _loud_frames(candidate: Tensor, usable: Tensor, sound: Sound) -> Tensor:
    """Return some of the louder frames that see no padding, in order."""
    centres = sound.centres(candidate.shape[-1])
    # Room for a transform of twice the length.
    inner = sound.inner_frames(candidate.shape[-1], 2 * sound.recipe.n_fft)
    inside = inner & usable.any(dim=0)
    if int(inside.sum()) < _RANK_FRAMES // 4:
        inside = (centres >= 0) & (centres < len(sound.waveform)) & usable.any(dim=0)
    frames = inside.nonzero()[:, 0]
    loudness = candidate[:, frames].mean(dim=0)
    louder = frames[loudness.argsort(descending=True)[: max(1, math.ceil(0.6 * len(frames)))]]
    louder = louder.sort().values
    step = max(1, len(louder) // _RANK_FRAMES)
    return louder[::step][:_RANK_FRAMES]


def refine(candidate: Tensor, usable: Tensor, hypothesis: Hypothesis, *, step: float = 0.0) -> Fit:
    """Compute a hypothesis in full and fit it; arguments as for `rank` and `fit`."""
    return fit(candidate, usable, hypothesis, hypothesis.log_mel(candidate.shape[-1]), step=step)


def fit(
    candidate: Tensor, usable: Tensor, hypothesis: Hypothesis, mel: Tensor, *, step: float = 0.0
) -> Fit:
    """Fit slope and offset by least squares over the active cells that see no padding.

    Args:
        candidate: `[n_mels, frames]`.
        usable: Cells that say something.
        hypothesis: What is fitted.
        mel: Its natural log-mel.
        step: The relative rounding error of how the candidate is stored.
    """
    recipe, sound = hypothesis.recipe, hypothesis.sound
    allowed = usable & sound.inner_frames(candidate.shape[-1], recipe.n_fft)
    allowed[sound.highest_band :] = False
    level = mel / recipe.power - _filter_sums(recipe).log()[:, None]
    active = allowed & (level > math.log(_ACTIVE_MAGNITUDE))
    if int(active.sum()) < max(_MIN_CELLS, _MIN_ACTIVE_SHARE * int(allowed.sum())):
        if not allowed.any():
            return _no_fit(hypothesis, mel, allowed)
        active = allowed & (level >= _quantile(level[allowed], 1 - _MIN_ACTIVE_SHARE))
    x, y = mel[active].double(), candidate[active].double()
    x_mean, y_mean = x.mean(), y.mean()
    variance = float((x - x_mean).square().sum())
    slope = float(((x - x_mean) * (y - y_mean)).sum()) / variance if variance > 0 else math.nan
    if not slope > 0 or len(x) < _MIN_CELLS // 4:
        return _no_fit(hypothesis, mel, active)
    offset = float(y_mean - slope * x_mean)
    errors = (y - slope * x - offset) / slope
    # What storage can cost each cell: dither of 16 bits on the waveform, rounding of the mel.
    levels = level[active].double()
    noise = recipe.power * _DITHER_MAGNITUDE * (-levels).exp()
    rounding = step * y / slope
    bounds = noise.square() + rounding.square()
    loud = levels >= _quantile(levels, 0.75)
    return Fit(
        hypothesis=hypothesis,
        mel=mel,
        slope=slope,
        offset=offset,
        residual=float(errors.square().mean().sqrt()),
        allowed=_EXACT_RESIDUAL + float(bounds.mean().sqrt()),
        loud_residual=float(errors[loud].square().mean().sqrt()),
        loud_allowed=_EXACT_RESIDUAL + float(bounds[loud].mean().sqrt()),
        active=active,
    )


def _no_fit(hypothesis: Hypothesis, mel: Tensor, active: Tensor) -> Fit:
    return Fit(hypothesis, mel, math.nan, math.nan, math.inf, 0.0, math.inf, 0.0, active)


def _filter_sums(recipe: MelRecipe) -> Tensor:
    return filters_of(recipe).sum(dim=0).clamp(min=1e-6)


def _quantile(values: Tensor, share: float) -> float:
    position = min(len(values), 1 + math.floor(share * len(values)))
    return float(values.kthvalue(position).values)
