"""A Vocos head that predicts magnitudes and retrieves the phases that go with them.

Vocos predicts magnitude and phase of every time-frequency bin. A network of a tenth of its size
predicts magnitudes well and phases badly, and inverting an inconsistent spectrum changes its
magnitudes. So this head takes its phases from `melcheck.vocoders.phase_retrieval`, which is given
the network's own magnitudes and nothing of the mel: damage to the weights shows in the result.

References:
    H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814: the class extended here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vocos.heads import ISTFTHead

from melcheck.vocoders.phase_retrieval import PhaseRetrieval

# As in ISTFTHead, where it keeps an untrained model from overflowing.
_MAX_MAGNITUDE = 1e2


class ConsistentISTFTHead(ISTFTHead):  # type: ignore[misc]  # vocos is untyped
    """An `ISTFTHead` whose phases are computed from its magnitudes, by projections.

    Weights and buffers have the names of `ISTFTHead`; `out` has half its outputs.

    Args:
        dim: Size of the features.
        n_fft: Length of the STFT and of its periodic Hann window.
        hop_length: A divisor of `n_fft`, at most half of it.
        padding: "center" is the only one that the projections are written for.
        sample_rate: Rate of the mel, in Hz.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        num_projections: Number of projections at the mel's own rate.
        num_quarter_projections: Number before these at a quarter of the rate.
        num_eighth_projections: Number before those at an eighth.

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
    ) -> None:
        if padding != "center":
            raise ValueError(f"padding must be 'center', got {padding!r}. Use vocos' ISTFTHead.")
        super().__init__(dim, n_fft, hop_length, padding)
        self.out = nn.Linear(dim, n_fft // 2 + 1)
        self.phase_retrieval = PhaseRetrieval(
            sample_rate=sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            turns=(num_eighth_projections, num_quarter_projections, num_projections),
        )

    @property
    def total_projections(self) -> int:
        """Number of projections at all rates together."""
        return sum(turns for _, turns in self.phase_retrieval.stages)

    def forward(self, x: Tensor, first_frame: int = 0) -> Tensor:
        """Turn features into a waveform; `first_frame` as for `PhaseRetrieval.advancing`.

        Shape:
            `[batch, frames, dim]` -> `[batch, (frames - 1) * hop_length]`
        """
        spectrum, audible = self._spectrum(x, first_frame)
        return self.phase_retrieval.to_waveform(spectrum) * audible

    def magnitude(self, x: Tensor) -> Tensor:
        """Return what the network predicts.

        Shape:
            `[batch, frames, dim]` -> `[batch, frames, n_fft // 2 + 1]`
        """
        return torch.exp(self.out(x)).clamp(max=_MAX_MAGNITUDE)

    def spectrum(self, x: Tensor) -> Tensor:
        """Return the complex spectrum that is inverted.

        Shape:
            `[batch, frames, dim]` -> `[batch, frames, n_fft // 2 + 1]`
        """
        return self._spectrum(x, 0)[0]

    def _spectrum(self, x: Tensor, first_frame: int) -> tuple[Tensor, Tensor]:
        magnitude = self.magnitude(x)
        bands = magnitude @ self.phase_retrieval.filters
        audible = self.phase_retrieval.audible(bands)
        spectrum = magnitude * self.phase_retrieval.advancing(x.shape[1], first_frame)
        return self.phase_retrieval.project_(bands, spectrum, audible), audible
