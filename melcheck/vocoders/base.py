"""Define what a vocoder is: protocol, provenance, base class of wrappers, checks of its input.

A waveform is `[batch, samples]`, a mel `[batch, n_mels, frames]`, both float32 and on the vocoder's
device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from melcheck.recipes import MelRecipe


@dataclass(frozen=True, slots=True)
class VocoderInfo:
    """Name and provenance of a vocoder, which every report prints.

    Attributes:
        name: "official", "embedded", "griffin-lim", the directory, or the hub id.
        source: Origin, such as "charactr/vocos-mel-24khz@0feb3fdd929b" or "melcheck package".
        revision: Full commit hash on the hub; None for what has no revisions.
        weights_sha256: Hash of the file of weights; None without weights.
        config_sha256: Hash of the configuration; None without one.
        num_parameters: Number of trained values; 0 for Griffin-Lim.
    """

    name: str
    source: str
    revision: str | None = None
    weights_sha256: str | None = None
    config_sha256: str | None = None
    num_parameters: int = 0


class Vocoder(Protocol):
    """What every vocoder offers. `load_vocoder` makes one."""

    @property
    def info(self) -> VocoderInfo:
        """Name, source and hashes."""
        ...

    @property
    def recipe(self) -> MelRecipe:
        """Recipe of the mel that it decodes."""
        ...

    @property
    def device(self) -> torch.device:
        """Device of its tensors, on which its input must be."""
        ...

    @property
    def context_frames(self) -> int | None:
        """Frames to each side on which a decoded sample depends; None where that is not known."""
        ...

    @property
    def magnifies_rounding(self) -> bool:
        """Whether it retrieves phases, which magnifies rounding."""
        ...

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the vocoder's own log-mel of a waveform, as `MelSpectrogramFeatures` makes it.

        Shape:
            `[batch, samples]` -> `[batch, n_mels, recipe.frames(samples)]`

        Raises:
            ValueError: Another shape, or fewer than `recipe.min_samples` samples.
        """
        ...

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform that a log-mel is decoded to. No gradient passes through.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, recipe.num_samples(frames)]`

        Raises:
            ValueError: Another shape, or too few frames: 2 for Vocos, 4 for Griffin-Lim.
        """
        ...


class VocoderWrapper:
    """Base of a vocoder that runs another one, `inner`, in a different way.

    It forwards every property; `encode` and `decode` are the subclass's own.
    """

    __slots__ = ()

    inner: Vocoder

    @property
    def info(self) -> VocoderInfo:
        """Name, source and hashes of the inner vocoder."""
        return self.inner.info

    @property
    def recipe(self) -> MelRecipe:
        """Recipe of the inner vocoder."""
        return self.inner.recipe

    @property
    def device(self) -> torch.device:
        """Device of the inner vocoder."""
        return self.inner.device

    @property
    def context_frames(self) -> int | None:
        """Context of the inner vocoder."""
        return self.inner.context_frames

    @property
    def magnifies_rounding(self) -> bool:
        """Whether the inner vocoder does."""
        return self.inner.magnifies_rounding


def magnifies_rounding(vocoder: Vocoder) -> bool:
    """Return `Vocoder.magnifies_rounding`; False for code that has no such property."""
    return bool(getattr(vocoder, "magnifies_rounding", False))


def stft_context_frames(recipe: MelRecipe, *, round_trips: int) -> int:
    """Return how many frames to each side a sample depends on through STFTs and their inverses.

    Args:
        recipe: Its n_fft and hop length.
        round_trips: Number of pairs of an inverse and a forward STFT before the last inverse.
    """
    overlap = math.ceil(recipe.n_fft / 2 / recipe.hop_length)
    return round_trips * (math.ceil(recipe.n_fft / recipe.hop_length) - 1) + overlap


def check_waveform(waveform: Tensor, recipe: MelRecipe) -> None:
    """Raise ValueError unless a waveform is `[batch, samples]` and long enough for the recipe."""
    if waveform.ndim != 2:
        raise ValueError(
            f"waveform must be [batch, samples], got {list(waveform.shape)}. "
            "One waveform is a batch of one: waveform[None]."
        )
    recipe.frames(waveform.shape[-1])  # raises on a waveform that is too short


def check_mel(mel: Tensor, recipe: MelRecipe, *, min_frames: int) -> None:
    """Raise ValueError unless a mel is `[batch, n_mels, frames]` with as many frames as named."""
    if mel.ndim != 3 or mel.shape[1] != recipe.n_mels:
        transposed = mel.ndim == 3 and mel.shape[2] == recipe.n_mels
        hint = "It looks transposed: mel.transpose(1, 2)." if transposed else "Time is last."
        raise ValueError(
            f"mel must be [batch, {recipe.n_mels}, frames], got {list(mel.shape)}. {hint}"
        )
    if mel.shape[-1] < min_frames:
        raise ValueError(
            f"mel must have at least {min_frames} frames, got {mel.shape[-1]}. Use a longer clip."
        )
