"""A Vocos head that predicts the bands of a mel and finds a waveform that has them.

Vocos predicts magnitude and phase of every time-frequency bin. A network of a twentieth of its size
predicts phases badly, and inverting an inconsistent spectrum changes its magnitudes. So this head
predicts magnitudes of bands, and `melcheck.vocoders.phase_retrieval` computes a waveform that has
them. It is given what the network predicts and nothing of the mel: damage to the weights shows in
the result.

References:
    H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814: the class extended here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vocos.heads import ISTFTHead

from melcheck.vocoders.phase_retrieval import PhaseRetrieval

# A full-scale square wave has bands of 6.5 nats: beyond this, an untrained model would overflow.
_MAX_LOG_BAND = 8.0


class ConsistentISTFTHead(ISTFTHead):  # type: ignore[misc]  # vocos is untyped
    """An `ISTFTHead` that predicts the logarithms of bands.

    Weights and buffers have the names of `ISTFTHead`; `out` has an output for each band.

    Args:
        dim: Size of the features.
        n_fft: Length of the STFT and of its periodic Hann window.
        hop_length: A divisor of `n_fft`, at most half of it.
        padding: "center" is the only one that the phase retrieval is written for.
        sample_rate: Rate of the mel, in Hz.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        num_projections: Number of projections at the mel's own rate.
        num_quarter_projections: Number before these at a quarter of the rate.
        num_eighth_projections: Number before those at an eighth.
        num_descent_steps: Number of steps after them that descend the error of the log-mel.

    Raises:
        ValueError: Another padding, a hop that does not divide the window, or sizes that a lower
            rate does not have.
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
        num_quarter_projections: int,
        num_eighth_projections: int,
        num_descent_steps: int,
    ) -> None:
        if padding != "center":
            raise ValueError(f"padding must be 'center', got {padding!r}. Use vocos' ISTFTHead.")
        super().__init__(dim, n_fft, hop_length, padding)
        self.out = nn.Linear(dim, n_mels)
        self.phase_retrieval = PhaseRetrieval(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            turns=(num_eighth_projections, num_quarter_projections, num_projections),
            steps=num_descent_steps,
        )

    def forward(self, x: Tensor, turned: Tensor | None = None) -> Tensor:
        """Turn features into a waveform; `turned` as for `PhaseRetrieval`.

        Shape:
            `[batch, frames, dim]` -> `[batch, (frames - 1) * hop_length]`
        """
        waveform: Tensor = self.phase_retrieval(self.bands(x), turned)
        return waveform

    def bands(self, x: Tensor) -> Tensor:
        """Return what the network predicts: magnitudes of the bands, no less than their floor.

        Shape:
            `[batch, frames, dim]` -> `[batch, frames, n_mels]`
        """
        log_bands: Tensor = self.out(x)
        return torch.exp(log_bands.clamp(self.phase_retrieval.log_floor, _MAX_LOG_BAND))

    def pulse_turns(self, x: Tensor) -> Tensor:
        """Return how often the first phases' pulse train has turned at each frame.

        Shape:
            `[batch, frames, dim]` -> `[batch, frames]`, float64
        """
        retrieval = self.phase_retrieval
        return retrieval.pulse_turns(retrieval.pitch_hz(retrieval.whole.spread(self.bands(x))))

    def spectrum(self, x: Tensor) -> Tensor:
        """Return the STFT of the waveform.

        Shape:
            `[batch, frames, dim]` -> `[batch, frames, n_fft // 2 + 1]`, complex
        """
        return self.phase_retrieval.to_spectrum(self.forward(x))
