"""Fit one hypothesis to a candidate: what it is about, and how much it leaves unexplained.

    candidate = slope * hypothesis + offset

by least squares over the active cells; the residual (root mean square, divided by the slope, so in
nats) is the evidence. Which hypotheses are worth this is for
`melcheck.diagnosis.recipe_search.ranking` to say.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.diagnosis.recipe_search.mel_values import Prepared, storage_step
from melcheck.diagnosis.recipe_search.recipe_changes import RecipeChange, filters_of
from melcheck.diagnosis.recipe_search.spectra import TINY, energies, first_centre, log_bands
from melcheck.recipes import MelRecipe

# Cells are active where a bin's magnitude is this far above that of 16-bit dither (1.5e-5 times
# the root of the window's energy, 19.6): there the noise of storage costs less than 0.02 nats.
_DITHER_MAGNITUDE = 3e-4
_ACTIVE_MAGNITUDE = 50 * _DITHER_MAGNITUDE

# What the true recipe leaves of an exact candidate is 1e-6; the nearest wrong ones leave 0.0025 (a
# symmetric window) and 0.0107 (an f_max off by 10 Hz).
_EXACT_RESIDUAL = 2e-3
MOST_ALLOWED_NATS = 0.1
"""What leaves more is not explained: where 16 bits are as noisy, nothing can be told apart."""
_MIN_ACTIVE_SHARE = 0.1
MIN_CELLS = 60
"""A fit of fewer cells says nothing."""

_MIN_FRAMES = 8


@dataclass(frozen=True, slots=True, eq=False)
class AudioReading:
    """One reading of the audio: what was done to it, its frames, and which bands can be compared.

    Attributes:
        changes: What was done, against the audio as given.
        waveform: `[samples]`.
        recipe: The recipe that is varied, with the candidate's hop and number of bands.
        offset: Where frame 0 is centred, in samples.
        highest_band: Bands from here up cannot be compared.
    """

    changes: tuple[RecipeChange, ...]
    waveform: Tensor
    recipe: MelRecipe
    offset: int
    highest_band: int

    def centres(self, frames: int) -> Tensor:
        """Return the centre of each of the candidate's frames, in samples."""
        return self.centres_of(torch.arange(frames))

    def centres_of(self, frames: Tensor) -> Tensor:
        """Return the centres of some frames, given by their numbers, in samples."""
        return frames * self.recipe.hop_length + self.offset

    def inner_frames(self, frames: int, n_fft: int) -> Tensor:
        """Return which frames see no padding, neither of this audio nor of the candidate's own."""
        centres, half = self.centres(frames), n_fft // 2
        inside = (centres >= half) & (centres < len(self.waveform) - half)
        edge = half // self.recipe.hop_length
        # A mel of delayed or cut audio may end in a mirror image that this audio does not have.
        moved = self.offset != first_centre(self.recipe)
        if (moved or self._cut(frames)) and frames > _MIN_FRAMES + 2 * edge:
            inside[:edge] = False
            inside[frames - edge :] = False
        return inside

    def _cut(self, frames: int) -> bool:
        samples = len(self.waveform)
        return samples < self.recipe.min_samples or frames != self.recipe.frames(samples)


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """A reading of the audio and a recipe.

    Attributes:
        reading: The reading.
        changes: How the recipe differs from the expected one.
        recipe: The recipe.
    """

    reading: AudioReading
    changes: tuple[RecipeChange, ...]
    recipe: MelRecipe

    @property
    def all_changes(self) -> tuple[RecipeChange, ...]:
        """What differs, the audio's part first."""
        return (*self.reading.changes, *self.changes)

    def log_mel(self, frames: int, *, pad_mode: str | None = None) -> Tensor:
        """Return its natural log-mel, `[n_mels, frames]`, without floor or normalisation."""
        return self.filtered(self.energies(frames, pad_mode=pad_mode))

    def energies(self, frames: int, *, pad_mode: str | None = None) -> Tensor:
        """Return the spectra that its bands are summed from, `[frames, n_fft // 2 + 1]`."""
        recipe = self.recipe
        if pad_mode is not None:
            recipe = dataclasses.replace(recipe, pad_mode=pad_mode)  # type: ignore[arg-type]
        return energies(self.reading.waveform, recipe, self.reading.centres(frames))

    def filtered(self, energy: Tensor) -> Tensor:
        """Return the natural log-mel of given spectra, with what is added under the logarithm."""
        mel = log_bands(energy, filters_of(self.recipe), self.recipe.power).T
        return mel if self.recipe.floor_mode == "clip" else (mel.exp() + self.recipe.floor).log()

    @property
    def spectrum(self) -> tuple[object, ...]:
        """What its spectra depend on: two hypotheses that agree here have them in common."""
        reading, recipe = self.reading, self.recipe
        return (
            id(reading.waveform),
            reading.offset,
            recipe.n_fft,
            recipe.win_length,
            recipe.hop_length,
            recipe.window,
            recipe.periodic,
            recipe.pad_mode,
            recipe.pre_emphasis,
            recipe.magnitude_eps,
        )

    def moved(self, offset: int) -> Hypothesis:
        """Return it with frame 0 centred elsewhere."""
        return dataclasses.replace(self, reading=dataclasses.replace(self.reading, offset=offset))


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How well a hypothesis explains the candidate.

    Attributes:
        hypothesis: What was fitted.
        mel: Its natural log-mel, `[n_mels, frames]`.
        slope: Candidate's units per nat.
        offset: Offset in the candidate's unit.
        residual: Root mean square of what the fit leaves, in nats of the hypothesis.
        allowed: The residual up to which the hypothesis explains the candidate, nats.
        loud_residual: The residual over the loudest quarter of the cells.
        loud_allowed: The same bound for those.
        active: Which cells were fitted, `[n_mels, frames]`.
        bands: Slope and offset of each band, `[2, n_mels]`, NaN where none was fitted; None where
            all have one.
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
    bands: Tensor | None = None

    @property
    def explains(self) -> bool:
        """Whether next to nothing is left, on the loudest cells as on all."""
        return self.residual <= self.allowed and self.loud_residual <= self.loud_allowed


def refine(prepared: Prepared, hypotheses: Iterable[Hypothesis]) -> list[Fit]:
    """Compute hypotheses in full and fit them; those that fit nothing are left out."""
    spectra: dict[tuple[object, ...], Tensor] = {}
    fits = []
    for hypothesis in hypotheses:
        key = hypothesis.spectrum
        if key not in spectra:
            spectra[key] = hypothesis.energies(prepared.mel.shape[-1])
        fits.append(fit_hypothesis(prepared, hypothesis, hypothesis.filtered(spectra[key])))
    return [entry for entry in fits if math.isfinite(entry.residual)]


def fit_hypothesis(prepared: Prepared, hypothesis: Hypothesis, mel: Tensor) -> Fit:
    """Fit slope and offset of a hypothesis's mel over the active cells that see no padding."""
    recipe, reading = hypothesis.recipe, hypothesis.reading
    candidate = prepared.mel
    allowed = prepared.usable & reading.inner_frames(candidate.shape[-1], recipe.n_fft)
    allowed[reading.highest_band :] = False
    level = (mel - _filter_sums(recipe).log()[:, None]) / recipe.power
    active = allowed & (level > math.log(_ACTIVE_MAGNITUDE))
    if int(active.sum()) < max(MIN_CELLS, _MIN_ACTIVE_SHARE * int(allowed.sum())):
        if not allowed.any():
            return _no_fit(hypothesis, mel, allowed)
        active = allowed & (level >= quantile(level[allowed], 1 - _MIN_ACTIVE_SHARE))
    x, y = mel[active].double(), candidate[active].double()
    x_mean, y_mean = x.mean(), y.mean()
    variance = float((x - x_mean).square().sum())
    slope = float(((x - x_mean) * (y - y_mean)).sum()) / variance if variance > 0 else math.nan
    if not slope > 0 or len(x) < MIN_CELLS // 4:
        return _no_fit(hypothesis, mel, active)
    offset = float(y_mean - slope * x_mean)
    errors = (y - slope * x - offset) / slope
    # What storage can cost each cell: dither of 16 bits on the waveform, rounding of the mel.
    levels = level[active].double()
    noise = recipe.power * _DITHER_MAGNITUDE * (-levels).exp()
    rounding = storage_step(prepared.storage) * y / slope
    bounds = noise.square() + rounding.square()
    loud = levels >= quantile(levels, 0.75)
    return Fit(
        hypothesis=hypothesis,
        mel=mel,
        slope=slope,
        offset=offset,
        residual=float(errors.square().mean().sqrt()),
        allowed=min(MOST_ALLOWED_NATS, _EXACT_RESIDUAL + float(bounds.mean().sqrt())),
        loud_residual=float(errors[loud].square().mean().sqrt()),
        loud_allowed=min(MOST_ALLOWED_NATS, _EXACT_RESIDUAL + float(bounds[loud].mean().sqrt())),
        active=active,
    )


def fit_bands(prepared: Prepared, hypothesis: Hypothesis, mel: Tensor) -> Fit:
    """Fit a slope and an offset of each band's own, over the cells that `fit_hypothesis` takes."""
    # The floor, scaled with its band, is the lowest value of that band alone.
    lowest = prepared.mel.amin(dim=1, keepdim=True)
    at_lowest = prepared.mel <= lowest + _ATOM_SHARE * lowest.abs()
    floored = at_lowest & (at_lowest.sum(dim=1, keepdim=True) > _MOST_ALIKE)
    above = dataclasses.replace(prepared, usable=prepared.usable & ~floored)
    whole = fit_hypothesis(above, hypothesis, mel)
    active = whole.active & (whole.active.sum(dim=1, keepdim=True) >= _FRAMES_OF_A_BAND)
    if int(active.sum()) < MIN_CELLS:
        return _no_fit(hypothesis, mel, active)
    weight = active.double()
    count = weight.sum(dim=1, keepdim=True).clamp(min=1)
    means = [(each.double() * weight).sum(1, keepdim=True) / count for each in (mel, prepared.mel)]
    x, y = ((each - mean) * weight for each, mean in zip((mel, prepared.mel), means, strict=True))
    slopes = (x * y).sum(1, keepdim=True) / x.square().sum(1, keepdim=True).clamp(min=TINY)
    fitted = active.any(dim=1)
    if not bool((slopes[fitted] > 0).all()):
        return _no_fit(hypothesis, mel, active)
    errors = ((y - slopes * x) / slopes.clamp(min=TINY))[active]
    residual = float(errors.square().mean().sqrt())
    offsets = means[1] - slopes * means[0]
    bands = torch.cat([slopes, offsets], dim=1).T
    bands[:, ~fitted] = math.nan
    return dataclasses.replace(
        whole,
        slope=float(slopes[fitted].median()),
        offset=float(offsets[fitted].median()),
        residual=residual,
        allowed=_EXACT_RESIDUAL,
        loud_residual=residual,
        loud_allowed=_EXACT_RESIDUAL,
        active=active,
        bands=bands,
    )


_FRAMES_OF_A_BAND = 12
_ATOM_SHARE = 1e-6
_MOST_ALIKE = 2


def _no_fit(hypothesis: Hypothesis, mel: Tensor, active: Tensor) -> Fit:
    return Fit(hypothesis, mel, math.nan, math.nan, math.inf, 0.0, math.inf, 0.0, active)


def _filter_sums(recipe: MelRecipe) -> Tensor:
    return filters_of(recipe).sum(dim=0).clamp(min=1e-6)


def quantile(values: Tensor, share: float) -> float:
    """Return the value below which a share of `[values]` lies, 0 <= share <= 1."""
    position = min(len(values), 1 + math.floor(share * len(values)))
    return float(values.kthvalue(position).values)
