"""What the training minimises: how far the sound's spectra are from those of the original.

Four terms: the log-mel of the recipe itself, by absolute and squared error, since MAE and SNR are
what the gates read; a log-mel through windows half as long, for what happens between two frames;
the magnitudes of single bins, weighted by energy, so that harmonics are resolved where bands do not
resolve them; and the part of the predicted complex spectrum that no sound has, which is the one
term that sees phases before the head repairs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram
from vocos import Vocos

from melcheck.guided_vocos import GuidedISTFTHead
from melcheck.recipes import VOCOS

__all__ = ["Losses", "Objective"]

# Quieter than this, the short-window mel and the bins are noise that no ear and no gate reads.
_SHORT_FLOOR = 1e-5
_SHORT_N_FFT = 512
_SHORT_HOP = 128
_SHORT_MELS = 64
_TINY = 1e-8

_WEIGHTS = {"mel": 0.5, "mel_squared": 4.0, "short_mel": 0.2, "bins": 0.2, "inconsistency": 0.1}


@dataclass(frozen=True, slots=True)
class Losses:
    """The terms of one batch, each a scalar. `total` is their weighted sum.

    Attributes:
        mel: Mean absolute error of the recipe's log-mel, in nats: the gate's MAE.
        mel_squared: Its mean squared error, in nats².
        short_mel: Mean absolute error of the log-mel at n_fft 512, in nats.
        bins: Spectral convergence of the STFT magnitudes: 0 for equal ones.
        inconsistency: Share of the predicted spectrum that its own sound does not have.
    """

    mel: Tensor
    mel_squared: Tensor
    short_mel: Tensor
    bins: Tensor
    inconsistency: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum, which is minimised."""
        terms = [weight * getattr(self, name) for name, weight in _WEIGHTS.items()]
        return torch.stack(terms).sum()


class Objective(nn.Module):
    """Decodes a batch of sounds from their mels and compares: see the module."""

    def __init__(self, model: Vocos) -> None:
        super().__init__()
        if not isinstance(model.head, GuidedISTFTHead):
            raise TypeError(f"head must be a GuidedISTFTHead, got {type(model.head).__name__}.")
        self.model = model
        self.head = model.head
        self.short = MelSpectrogram(
            VOCOS.sample_rate, _SHORT_N_FFT, hop_length=_SHORT_HOP, n_mels=_SHORT_MELS, power=1
        )

    def forward(self, sound: Tensor) -> Losses:
        """Return the losses of a batch `[batch, samples]`; samples are a multiple of the hop."""
        with torch.no_grad():
            bins = self.head.inversion.to_spectrum(sound).abs()
            mel = self._log_mel(bins)
            short = torch.log(self.short(sound).clamp(min=_SHORT_FLOOR))
        predicted = self.head.spectrum(self.model.backbone(mel.transpose(1, 2)))
        decoded = self.head.inversion.to_sound(predicted) * self.head.inversion.audible(mel)
        its_own = self.head.inversion.to_spectrum(decoded)
        decoded_bins = _magnitude(its_own)
        error = self._log_mel(decoded_bins) - mel
        return Losses(
            mel=error.abs().mean(),
            mel_squared=error.square().mean(),
            short_mel=(torch.log(self.short(decoded).clamp(min=_SHORT_FLOOR)) - short).abs().mean(),
            bins=_relative(decoded_bins - bins, bins),
            inconsistency=_relative(_magnitude(predicted - its_own), predicted.detach().abs()),
        )

    def _log_mel(self, bins: Tensor) -> Tensor:
        return torch.log((bins @ self.head.inversion.filters).clamp(min=VOCOS.floor))


def _magnitude(spectrum: Tensor) -> Tensor:
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.sqrt(real.square() + imaginary.square() + _TINY**2)


def _relative(error: Tensor, reference: Tensor) -> Tensor:
    """Norm of the error over the norm of the reference, per sound, averaged."""
    norm = reference.square().sum(dim=(1, 2)).sqrt()
    return (error.square().sum(dim=(1, 2)).sqrt() / (norm + _TINY)).clamp(max=10).mean()
