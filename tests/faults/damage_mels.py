"""Damage to a front end: its recipe, samples, filters, caches and mels."""

from __future__ import annotations

import dataclasses
import math
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from melcheck.recipes import VOCOS, MelRecipe, filterbank, log_mel
from tests.faults.damage_vocoders import ChangedVocoder
from tests.faults.model import InjectionTarget, Project, read


def recipe_change(target: InjectionTarget, changes: dict[str, Any]) -> Project:
    """Extract with a different recipe than the expected one."""
    recipe = dataclasses.replace(VOCOS, **changes)
    return target.with_front_end(lambda waveform: log_mel(waveform, recipe))


def first_frames(target: InjectionTarget, share: float) -> Project:
    """Return the first frames of a clip, as after a crop, and not the rest."""
    return target.with_front_end(
        lambda waveform: (mel := log_mel(waveform))[..., : round(share * mel.shape[-1])]
    )


def scaled(target: InjectionTarget, factor: float) -> Project:
    """Forget that integer samples have another full scale, or remember it twice."""
    return target.with_front_end(lambda waveform: log_mel(factor * waveform))


def normalised_twice(target: InjectionTarget, statistics: tuple[float, float]) -> Project:
    """Subtract the mean and divide by the deviation, and do it again."""
    mean, std = statistics

    def twice(mel: Tensor) -> Tensor:
        return ((mel - mean) / std - mean) / std

    return target.with_mel(twice)


def _stored(target: InjectionTarget, mel: Tensor) -> Project:
    """Return a project that keeps the mel of its whole clip in a folder, `[n_mels, frames]`."""
    folder = target.folder / "mels"
    folder.mkdir()
    torch.save(mel[0].clone(), folder / f"{target.clip.stem}.pt")
    return dataclasses.replace(target.project, stored=folder)


def swapped(target: InjectionTarget, _: None) -> Project:
    """Store frames first, bands second."""
    return _stored(target, log_mel(read(target.clip)).transpose(1, 2))


def nan_sample(target: InjectionTarget, position: float) -> Project:
    """Let one NaN into the samples."""

    def extract(waveform: Tensor) -> Tensor:
        broken = waveform.clone()
        broken[..., int(position * (waveform.shape[-1] - 1))] = math.nan
        return log_mel(broken)

    return target.with_front_end(extract)


def log_of_zero(target: InjectionTarget, _: None) -> Project:
    """Take the logarithm without a floor."""

    def extract(waveform: Tensor) -> Tensor:
        recipe = MelRecipe(log_base=None, floor_mode="add", floor=1e-38)
        return (log_mel(waveform, recipe) - recipe.floor).log()

    return target.with_front_end(extract)


def overflow(target: InjectionTarget, _: None) -> Project:
    """Let integer samples overflow float16 on the way to the logarithm."""

    def extract(waveform: Tensor) -> Tensor:
        # float16 ends at 65,504.
        linear = log_mel(32_768 * waveform, MelRecipe(log_base=None))
        return linear.half().float().log()

    return target.with_front_end(extract)


def stale(target: InjectionTarget, changes: dict[str, Any]) -> Project:
    """Keep mels in a cache whose key is the name of the file, without the recipe."""
    return _stored(target, log_mel(read(target.clip), MelRecipe(**changes)))


def library(target: InjectionTarget, changes: dict[str, Any]) -> Project:
    """Extract differently in the reference, too, as a library would whose defaults change."""
    recipe = dataclasses.replace(VOCOS, **changes)
    vocoder = ChangedVocoder(
        target.vocoder, lambda waveform: log_mel(waveform, recipe), target.vocoder.decode
    )
    return dataclasses.replace(target.project, library=vocoder)


def _spectrum(waveform: Tensor, recipe: MelRecipe) -> Tensor:
    """The magnitudes of a waveform's transform, `[1, frames, bins]`."""
    window = torch.hann_window(recipe.win_length)
    spectrum = torch.stft(
        waveform, recipe.n_fft, recipe.hop_length, window=window, return_complex=True
    )
    return spectrum.abs().transpose(1, 2)


def short_key(target: InjectionTarget, changes: dict[str, Any]) -> Project:
    """Keep filters under a key that lacks what they depend on, after another use of it."""
    cache: dict[str, Tensor] = {}

    def extract(waveform: Tensor, recipe: MelRecipe = VOCOS) -> Tensor:
        key = f"{recipe.n_mels}_{waveform.device}"
        if key not in cache:
            cache[key] = filterbank(recipe)
        mel = (_spectrum(waveform, recipe) @ cache[key]).transpose(1, 2)
        return mel.clip(min=recipe.floor).log()

    extract(target.waveform, MelRecipe(**changes))
    return target.with_front_end(extract)


def half_filters(target: InjectionTarget, dtype: torch.dtype) -> Project:
    """Multiply with the filters in fewer bits, as autocast does."""
    filters = filterbank(VOCOS)

    def extract(waveform: Tensor) -> Tensor:
        spectrum = _spectrum(waveform, VOCOS).to(dtype)
        mel = (spectrum @ filters.to(dtype)).transpose(1, 2).float()
        return mel.clip(min=VOCOS.floor).log()

    return target.with_front_end(extract)


def clamped(target: InjectionTarget, highest: float) -> Project:
    """Cut the mel off at a largest value."""
    return target.with_mel(lambda mel: mel.clip(max=highest))


def double_log(target: InjectionTarget, _: None) -> Project:
    """Take the logarithm of a log-mel."""
    return target.with_mel(lambda mel: mel.clip(min=VOCOS.floor).log())


def blurred(target: InjectionTarget, frames: int) -> Project:
    """Average over neighbouring frames, as the tensor before a postnet looks."""

    def blur(mel: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool1d(
            mel, frames, stride=1, padding=frames // 2, count_include_pad=False
        )

    return target.with_mel(blur)


def noisy(target: InjectionTarget, deviation: float) -> Project:
    """Export the sample of a flow before its last steps."""

    def add(mel: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return mel + deviation * torch.randn(mel.shape, generator=generator)

    return target.with_mel(add)


def conditioned(target: InjectionTarget, share: float) -> Project:
    """Export the condition, whose part that is to be generated is still zeros."""

    def mask(mel: Tensor) -> Tensor:
        masked = mel.clone()
        masked[..., int((1 - share) * mel.shape[-1]) :] = 0.0
        return masked

    return target.with_mel(mask)


def interpolated(target: InjectionTarget, rate: float) -> Project:
    """Go to another frame rate and back by interpolation."""

    def there_and_back(mel: Tensor) -> Tensor:
        frames = mel.shape[-1]
        resize = partial(torch.nn.functional.interpolate, mode="linear", align_corners=True)
        return resize(resize(mel, size=round(rate * frames)), size=frames)

    return target.with_mel(there_and_back)


def stretched(target: InjectionTarget, rate: float) -> Project:
    """Go to another frame rate by interpolation."""

    def resize(mel: Tensor) -> Tensor:
        size = round(rate * mel.shape[-1])
        return torch.nn.functional.interpolate(mel, size=size, mode="linear", align_corners=True)

    return target.with_mel(resize)


def without_warnings(target: InjectionTarget, changes: dict[str, Any]) -> Project:
    """Lay out filters of which some are empty."""
    # torchaudio warns about the empty bands that are the fault.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        project = recipe_change(target, changes)
        assert project.extract is not None
        project.extract(target.waveform)  # computes the filters, which are kept
    return project


def dithered(target: InjectionTarget, amplitude: float) -> Project:
    """Add new noise at each call."""

    def extract(waveform: Tensor) -> Tensor:
        return log_mel(waveform + amplitude * torch.randn(waveform.shape))

    return target.with_front_end(extract)


def flipped(target: InjectionTarget, axis: int) -> Project:
    """Reverse one axis of the mel."""
    return target.with_mel(lambda mel: mel.flip(axis))
