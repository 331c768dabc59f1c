"""Spectra at any places of a waveform, and how a mel lies against them.

The extraction in `melcheck.recipes` computes every frame of one recipe. The diagnosis needs a few
frames under many recipes, at places that a recipe need not have: a late mel has its frames between
those of the expected one. So a frame is given by its centre, in samples, and frames at the edges
see the recipe's padding and, beyond it, zeros.

References:
    The framing is that of `torch.stft`, whose window is centred in the transform.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from melcheck.recipes import MelRecipe, pre_emphasised, window

TINY = 1e-12
"""Below any floor in use: the logarithm stays finite where the filters see nothing."""

# Log-mels are compared by shape within this range below their loudest cell, nats.
_RANGE_NATS = 9.0


def first_centre(recipe: MelRecipe) -> int:
    """Return where the first frame is centred, in samples: 0, hop / 2 or n_fft / 2.

    The n_fft samples of frame 0 begin `pad_samples` before the waveform does.
    """
    return recipe.n_fft // 2 - recipe.pad_samples


def energies(waveform: Tensor, recipe: MelRecipe, centres: Tensor) -> Tensor:
    """Return what `energies_of` does for one recipe, `[frames, n_fft // 2 + 1]`."""
    return energies_of(waveform, (recipe,), centres)[0]


def energies_of(waveform: Tensor, recipes: Sequence[MelRecipe], centres: Tensor) -> Tensor:
    """Return the energy spectra |X|^2 at each centre, without STFT normalisation.

    Args:
        waveform: `[samples]`, float32.
        recipes: At least one, with one `n_fft` and `pad_mode`; they give pre-emphasis, window and
            what is added under the root.
        centres: `[frames]`, whole samples, inside the waveform or beyond its ends.

    Returns:
        `[recipes, frames, n_fft // 2 + 1]`.
    """
    n_fft, pad_mode = recipes[0].n_fft, recipes[0].pad_mode
    coefficients = sorted({recipe.pre_emphasis for recipe in recipes})
    framed = [
        _frames(pre_emphasised(waveform, coefficient), n_fft, pad_mode, centres)
        for coefficient in coefficients
    ]
    frames = torch.stack(
        [
            framed[coefficients.index(recipe.pre_emphasis)] * _centred_window(recipe)
            for recipe in recipes
        ]
    )
    spectrum = torch.fft.rfft(frames)
    energy: Tensor = spectrum.real.square() + spectrum.imag.square()
    added = torch.tensor([recipe.magnitude_eps for recipe in recipes])
    return energy.add_(added[:, None, None])


def _frames(waveform: Tensor, n_fft: int, pad_mode: str, centres: Tensor) -> Tensor:
    """Return the samples about each centre, `[frames, n_fft]`, padded as a recipe pads."""
    half = n_fft // 2
    begins = centres - half
    if int(begins.min()) >= 0 and int(begins.max()) + n_fft <= len(waveform):
        return waveform.unfold(0, n_fft, 1)[begins]
    side = min(half, len(waveform) - 1)
    padded = torch.nn.functional.pad(waveform[None], (side, side), mode=pad_mode)[0]
    starts = begins + side
    before = max(0, -int(starts.min()))
    after = max(0, int(starts.max()) + n_fft - len(padded))
    if before or after:
        padded = torch.nn.functional.pad(padded, (before, after))
    return padded.unfold(0, n_fft, 1)[starts + before]


def log_bands(energy: Tensor, filters: Tensor, power: float) -> Tensor:
    """Return the natural log of the filtered spectrum, `[..., frames, columns of filters]`."""
    if power == 1.0:
        energy = energy.sqrt()
    elif power != 2.0:
        energy = energy ** (power / 2)
    return (energy @ filters).clamp_(min=TINY).log_()


@functools.lru_cache(maxsize=256)
@torch.inference_mode(mode=False)
def _centred_window(recipe: MelRecipe) -> Tensor:
    """Return a recipe's window in the middle of `[n_fft]`."""
    missing = recipe.n_fft - recipe.win_length
    return torch.nn.functional.pad(window(recipe), (missing // 2, missing - missing // 2))


def frame_offset(
    candidate: Tensor, waveform: Tensor, recipe: MelRecipe, filters: Tensor, *, max_lag_frames: int
) -> tuple[int, float]:
    """Return where the candidate's first frame is centred, to a quarter of a hop.

    The mean of each band is taken out of both, so that filters, level and logarithm matter little:
    what remains is when each band is loud.

    Args:
        candidate: `[bands, frames]`, a log-mel in any unit.
        waveform: `[samples]`.
        recipe: Gives the hop and the transform.
        filters: `[bins, bands]`.
        max_lag_frames: How many frames early or late to look.

    Returns:
        The offset in samples, and the correlation there, -1 to 1.
    """
    frames = candidate.shape[-1]
    hop, phases = recipe.hop_length, 4
    reach = torch.arange(-max_lag_frames, frames + max_lag_frames) * hop
    grid = torch.cat([reach + hop * phase // phases for phase in range(phases)])
    bare = dataclasses.replace(recipe, pre_emphasis=0.0, magnitude_eps=0.0)
    reference = log_bands(energies(waveform, bare, grid), filters, 1.0)
    reference = reference.clamp(min=float(reference.max()) - _RANGE_NATS)
    reference = reference.reshape(phases, len(reach), -1).transpose(1, 2)  # [phases, bands, reach]
    pattern = _centred(_clipped(candidate))
    # Correlation against a sliding window; the mean of each band over the whole stands for the
    # mean over the window.
    reference = reference - reference.mean(dim=-1, keepdim=True)
    products = torch.nn.functional.conv1d(reference, pattern[None])[:, 0]
    squares = torch.nn.functional.conv1d(reference.square(), torch.ones_like(pattern[None]))[:, 0]
    correlation = products / (squares * pattern.square().sum()).clamp(min=TINY).sqrt()
    best = int(correlation.argmax())
    phase, lag = divmod(best, correlation.shape[1])
    offset = (lag - max_lag_frames) * hop + hop * phase // phases
    return offset, float(correlation.max())


def _clipped(candidate: Tensor) -> Tensor:
    # In any unit, the lowest tenth of the cells is mostly floor or noise.
    rank = 1 + math.floor(0.1 * candidate.numel())
    return candidate.clamp(min=float(candidate.flatten().kthvalue(rank).values))


def _centred(mel: Tensor) -> Tensor:
    return mel - mel.mean(dim=-1, keepdim=True)
