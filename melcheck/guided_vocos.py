"""The two parts of the embedded vocoder that Vocos does not have: its head sees the mel.

Vocos predicts magnitude and phase of every STFT cell from features alone. A vocoder of a thirtieth
of its size loses most of the mel in two places: its magnitudes do not add up to the bands that it
was given, and its phases are inconsistent (overlapping windows share samples, so most arrays
`[bins, frames]` are the STFT of no sound; inverting one changes the magnitudes). What can be
computed need not be learned:

- The backbone hands the mel on, and the head inverts it: see `melcheck.mel_inversion`.
- What the network predicts is a correction: a factor to each magnitude of that spectrum, and an
  angle to each phase. Then it sounds, by one inverse STFT as in Vocos.

Nothing touches a magnitude after the network, so that damage to the weights shows in the mel.

Reference: H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814: the classes extended here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.mel_inversion import MelInversion

__all__ = ["GuidedBackbone", "GuidedISTFTHead"]

# As in ISTFTHead, where it keeps an untrained model from overflowing.
_MAX_MAGNITUDE = 1e2
# A small first prediction: training begins at what the inversion found, not at noise.
_INITIAL_STD = 2e-3


class GuidedBackbone(VocosBackbone):  # type: ignore[misc]  # vocos is untyped
    """A `VocosBackbone` that hands its input on beside its features."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Compute the features of a log-mel.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, dim + n_mels]`
        """
        features: Tensor = super().forward(x, **kwargs)
        return torch.cat([features, x.transpose(1, 2)], dim=-1)


class GuidedISTFTHead(ISTFTHead):  # type: ignore[misc]  # vocos is untyped
    """An `ISTFTHead` that corrects what the mel's inversion found.

    All of `ISTFTHead`'s weights and buffers keep their names; there are no others.

    Args:
        dim: Size of the features, without the mel.
        n_fft: Of the STFT; the window is a periodic Hann of this length.
        hop_length: A divisor of `n_fft`, at most half of it.
        padding: "center" is the only one that the inversion is written for.
        sample_rate: Of the mel, in Hz.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        num_projections: Of the inversion.

    Raises:
        ValueError: Another padding, or a hop that does not divide the window.
    """

    def __init__(
        self,
        dim: int,
        n_fft: int,
        hop_length: int,
        padding: str,
        sample_rate: int,
        n_mels: int,
        num_projections: int,
    ) -> None:
        if padding != "center":
            raise ValueError(f"padding must be 'center', got {padding!r}. Use vocos' ISTFTHead.")
        super().__init__(dim, n_fft, hop_length, padding)
        nn.init.trunc_normal_(self.out.weight, std=_INITIAL_STD)
        nn.init.zeros_(self.out.bias)
        self.dim = dim
        self.inversion = MelInversion(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            num_projections=num_projections,
        )

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Turn features and mel into sound; `start` as for `MelInversion.advancing_phase`.

        Shape:
            `[batch, frames, dim + n_mels]` -> `[batch, (frames - 1) * hop_length]`
        """
        sound = self.inversion.to_sound(self.spectrum(x, start))
        return sound * self.inversion.audible(x[..., self.dim :])

    def spectrum(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the complex spectrum that is inverted, `[batch, frames, n_fft // 2 + 1]`."""
        features, mel = x[..., : self.dim], x[..., self.dim :]
        log_factor, angle = self.out(features).chunk(2, dim=-1)
        found, direction = self.inversion(mel, start)
        magnitude = torch.clip(found * torch.exp(log_factor), max=_MAX_MAGNITUDE)
        spectrum: Tensor = direction * torch.polar(magnitude, angle)
        return spectrum
