"""What a vocoder is: its protocol, its provenance, and the checks of its input.

A waveform is `[batch, samples]`, a mel `[batch, n_mels, frames]`, both float32 and on the vocoder's
device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from melcheck.recipes import MelRecipe


@dataclass(frozen=True, slots=True)
class VocoderInfo:
    """Which vocoder this is. Every report prints it.

    Attributes:
        name: "official", "embedded", "griffin-lim", the directory, or the hub id.
        source: Where it came from: "charactr/vocos-mel-24khz@0feb3fdd929b", "melcheck package".
        revision: The full commit hash on the hub; None for what has no revisions.
        weights_sha256: Hash of the file of weights; None without weights.
        config_sha256: Hash of the configuration; None without one.
        num_parameters: Number of trained values; 0 for Griffin-Lim.
    """

    name: str
    source: str
    revision: str | None
    weights_sha256: str | None
    config_sha256: str | None
    num_parameters: int


class Vocoder(Protocol):
    """What every vocoder offers. `load_vocoder` makes one."""

    @property
    def info(self) -> VocoderInfo:
        """Which vocoder this is."""
        ...

    @property
    def recipe(self) -> MelRecipe:
        """The mel that it was made for."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and where its input must be."""
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
        """Return the waveform that the vocoder hears in a log-mel. No gradient passes through.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, recipe.num_samples(frames)]`

        Raises:
            ValueError: Another shape, or too few frames: 2 for Vocos, 4 for Griffin-Lim.
        """
        ...


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
