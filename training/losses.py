"""Losses of the training: distances of magnitudes and waveform from the original.

The network's magnitudes are compared with the mel that it was given and with the original's bins.
The waveform that the head's projections make of them is compared with the same mel, by absolute and
squared error, since MAE and SNR are what the gates read, and with a log-mel through windows half as
long, for what happens between two frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram
from vocos import Vocos

from melcheck.recipes import VOCOS
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from training.unrolled import norm, projected_spectrum

# Quieter than this, the short-window mel and the bins are noise that no ear and no gate reads.
_QUIET = 1e-5
_SHORT_N_FFT = 512
_SHORT_HOP = 128
_SHORT_MELS = 64
_TINY = 1e-8

_WEIGHTS = {
    "bands": 1.0,
    "bands_squared": 1.0,
    "bins": 0.2,
    "log_bins": 0.1,
    "mel": 0.5,
    "mel_squared": 2.0,
    "short_mel": 0.2,
}


@dataclass(frozen=True, slots=True)
class Losses:
    """The terms of one batch, each a scalar. `total` is their weighted sum.

    Attributes:
        bands: Mean absolute error of the log-mel of the predicted magnitudes, in nats.
        bands_squared: Its mean squared error, in nats².
        bins: Norm of the error of the predicted magnitudes over that of the original's.
        log_bins: Mean absolute error of their logarithms, in nats.
        mel: Mean absolute error of the waveform's log-mel, in nats: the gate's MAE.
        mel_squared: Its mean squared error, in nats².
        short_mel: Mean absolute error of the waveform's log-mel at n_fft 512, in nats.
    """

    bands: Tensor
    bands_squared: Tensor
    bins: Tensor
    log_bins: Tensor
    mel: Tensor
    mel_squared: Tensor
    short_mel: Tensor

    @property
    def total(self) -> Tensor:
        """The weighted sum, which is minimised."""
        terms = [weight * getattr(self, name) for name, weight in _WEIGHTS.items()]
        return torch.stack(terms).sum()


class Objective(nn.Module):
    """Decodes a batch of waveforms from their mels and compares: see the module."""

    def __init__(self, model: Vocos) -> None:
        super().__init__()
        if not isinstance(model.head, ConsistentISTFTHead):
            raise TypeError(f"head must be a ConsistentISTFTHead, got {type(model.head).__name__}.")
        self.model = model
        self.head = model.head
        self.short = MelSpectrogram(
            VOCOS.sample_rate, _SHORT_N_FFT, hop_length=_SHORT_HOP, n_mels=_SHORT_MELS, power=1
        )

    def forward(self, waveform: Tensor, *, through_projections: bool = True) -> Losses:
        """Return the losses of a batch.

        Args:
            waveform: `[batch, samples]`; samples are a multiple of the hop.
            through_projections: Whether the waveform is made and compared; else its terms are 0.
        """
        retrieval = self.head.phase_retrieval
        with torch.no_grad():
            bins = retrieval.to_spectrum(waveform).abs()
            mel = self._log_mel(bins)
            short = torch.log(self.short(waveform).clamp(min=_QUIET))
        magnitude = self.head.magnitude(self.model.backbone(mel.transpose(1, 2)))
        bands_error = self._log_mel(magnitude) - mel
        none = bands_error.new_zeros(())
        made = (none, none, none)
        if through_projections:
            spectrum, audible = projected_spectrum(retrieval, magnitude)
            decoded = retrieval.to_waveform(spectrum) * audible
            error = self._log_mel(norm(retrieval.to_spectrum(decoded))) - mel
            short_error = torch.log(self.short(decoded).clamp(min=_QUIET)) - short
            made = (error.abs().mean(), error.square().mean(), short_error.abs().mean())
        return Losses(
            bands_error.abs().mean(),
            bands_error.square().mean(),
            _relative(magnitude - bins, bins),
            (torch.log(magnitude + _QUIET) - torch.log(bins + _QUIET)).abs().mean(),
            *made,
        )

    def _log_mel(self, bins: Tensor) -> Tensor:
        return torch.log((bins @ self.head.phase_retrieval.filters).clamp(min=VOCOS.floor))


def _relative(error: Tensor, reference: Tensor) -> Tensor:
    """Norm of the error over the norm of the reference, per waveform, averaged."""
    size = reference.square().sum(dim=(1, 2)).sqrt()
    return (error.square().sum(dim=(1, 2)).sqrt() / (size + _TINY)).clamp(max=10).mean()
