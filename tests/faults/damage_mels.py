"""How a front end is damaged: real changes to samples, filters, caches and mels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from melcheck.recipes import VOCOS, MelRecipe, filterbank, log_mel
from tests.faults.model import Bench, Loop, recipe_change


def scaled(bench: Bench, factor: float) -> Loop:
    """Forget that integer samples have another full scale, or remember it twice."""
    return bench.extract(lambda waveform: log_mel(factor * waveform))


def normalised_twice(bench: Bench, statistics: tuple[float, float]) -> Loop:
    """Subtract the mean and divide by the deviation, and do it again."""
    mean, std = statistics

    def twice(mel: Tensor) -> Tensor:
        return ((mel - mean) / std - mean) / std

    return bench.change_mel(twice)


def swapped(bench: Bench, _: None) -> Loop:
    """Give frames first, bands second."""
    return bench.change_mel(lambda mel: mel.transpose(1, 2))


def nan_sample(bench: Bench, position: float) -> Loop:
    """Let one NaN into the samples."""

    def extract(waveform: Tensor) -> Tensor:
        broken = waveform.clone()
        broken[..., int(position * (waveform.shape[-1] - 1))] = math.nan
        return log_mel(broken)

    return bench.extract(extract)


def log_of_zero(bench: Bench, _: None) -> Loop:
    """Take the logarithm without a floor."""

    def extract(waveform: Tensor) -> Tensor:
        recipe = MelRecipe(log_base=None, floor_mode="add", floor=1e-38)
        return (log_mel(waveform, recipe) - recipe.floor).log()

    return bench.extract(extract)


def overflow(bench: Bench, _: None) -> Loop:
    """Let integer samples overflow float16 on the way to the logarithm."""

    def extract(waveform: Tensor) -> Tensor:
        # float16 ends at 65,504.
        linear = log_mel(32_768 * waveform, MelRecipe(log_base=None))
        return linear.half().float().log()

    return bench.extract(extract)


def stale(bench: Bench, changes: dict[str, Any]) -> Loop:
    """Keep mels in a cache that knows files by their names and nothing of recipes."""
    cached = bench.folder / "clip.pt"
    torch.save(log_mel(bench.waveform, MelRecipe(**changes)), cached)

    def extract(waveform: Tensor) -> Tensor:
        if cached.exists():
            mel: Tensor = torch.load(cached, weights_only=True)
            return mel
        return log_mel(waveform)

    return bench.extract(extract)


def short_key(bench: Bench, changes: dict[str, Any]) -> Loop:
    """Keep filters under a key that lacks what they depend on, after another use of it."""
    cache: dict[str, Tensor] = {}

    def extract(waveform: Tensor, recipe: MelRecipe = VOCOS) -> Tensor:
        key = f"{recipe.n_mels}_{waveform.device}"
        if key not in cache:
            cache[key] = filterbank(recipe)
        window = torch.hann_window(recipe.win_length)
        spectrum = torch.stft(
            waveform, recipe.n_fft, recipe.hop_length, window=window, return_complex=True
        ).abs()
        mel = (spectrum.transpose(1, 2) @ cache[key]).transpose(1, 2)
        return mel.clip(min=recipe.floor).log()

    extract(bench.waveform, MelRecipe(**changes))
    return bench.extract(extract)


def half_filters(bench: Bench, dtype: torch.dtype) -> Loop:
    """Multiply with the filters in fewer bits, as autocast does."""
    filters = filterbank(VOCOS)

    def extract(waveform: Tensor) -> Tensor:
        window = torch.hann_window(VOCOS.win_length)
        spectrum = torch.stft(
            waveform, VOCOS.n_fft, VOCOS.hop_length, window=window, return_complex=True
        ).abs()
        mel = (spectrum.transpose(1, 2).to(dtype) @ filters.to(dtype)).transpose(1, 2).float()
        return mel.clip(min=VOCOS.floor).log()

    return bench.extract(extract)


def clamped(bench: Bench, highest: float) -> Loop:
    """Cut the mel off at a largest value."""
    return bench.change_mel(lambda mel: mel.clip(max=highest))


def double_log(bench: Bench, _: None) -> Loop:
    """Take the logarithm of a log-mel."""
    return bench.change_mel(lambda mel: mel.clip(min=VOCOS.floor).log())


def blurred(bench: Bench, frames: int) -> Loop:
    """Average over neighbouring frames, as the tensor before a postnet looks."""

    def blur(mel: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool1d(
            mel, frames, stride=1, padding=frames // 2, count_include_pad=False
        )

    return bench.change_mel(blur)


def noisy(bench: Bench, deviation: float) -> Loop:
    """Export the sample of a flow before its last steps."""

    def add(mel: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return mel + deviation * torch.randn(mel.shape, generator=generator)

    return bench.change_mel(add)


def conditioned(bench: Bench, share: float) -> Loop:
    """Export the condition, in which what is to be generated is still masked with zeros."""

    def mask(mel: Tensor) -> Tensor:
        masked = mel.clone()
        masked[..., int((1 - share) * mel.shape[-1]) :] = 0.0
        return masked

    return bench.change_mel(mask)


def interpolated(bench: Bench, rate: float) -> Loop:
    """Go to another frame rate and back by interpolation."""

    def there_and_back(mel: Tensor) -> Tensor:
        frames = mel.shape[-1]
        resize = partial(torch.nn.functional.interpolate, mode="linear", align_corners=True)
        return resize(resize(mel, size=round(rate * frames)), size=frames)

    return bench.change_mel(there_and_back)


def stretched(bench: Bench, rate: float) -> Loop:
    """Go to another frame rate by interpolation."""

    def resize(mel: Tensor) -> Tensor:
        size = round(rate * mel.shape[-1])
        return torch.nn.functional.interpolate(mel, size=size, mode="linear", align_corners=True)

    return bench.change_mel(resize)


def without_warnings(bench: Bench, changes: dict[str, Any]) -> Loop:
    """Lay out filters of which some are empty."""
    # torchaudio warns of the empty bands that are the fault; who has it did not heed that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop = recipe_change(bench, changes)
        loop.extract(bench.waveform)  # computes the filters, which are kept
    return loop


def dithered(bench: Bench, amplitude: float) -> Loop:
    """Add other noise at each call."""

    def extract(waveform: Tensor) -> Tensor:
        return log_mel(waveform + amplitude * torch.randn(waveform.shape))

    return bench.extract(extract)


def flip(axis: int) -> Callable[[Bench, None], Loop]:
    """Return an injection that reverses one axis of the mel."""
    return lambda bench, _: bench.change_mel(lambda mel: mel.flip(axis))
