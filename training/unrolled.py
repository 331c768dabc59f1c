"""The head's projections as a plain loop, through which a gradient passes.

`melcheck.vocoders.phase_retrieval` computes the same in place and without gradients, which is
faster; a test compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from melcheck.vocoders.overlap_add import analyse, synthesise
from melcheck.vocoders.phase_retrieval import MOMENTUM, TINY, PhaseRetrieval, Projections, mirrored


def projected_spectrum(retrieval: PhaseRetrieval, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `ConsistentISTFTHead.spectrum` finds for the same predictions.

    Args:
        retrieval: Phase retrieval of the head.
        magnitude: As the network predicts it, `[batch, frames, n_fft // 2 + 1]`.

    Returns:
        The spectrum, `[batch, frames, n_fft // 2 + 1]`, and `[batch, samples]`, 0 in digital
        silence and else 1.
    """
    bands = magnitude @ retrieval.filters
    audible = retrieval.audible(bands)
    spectrum = magnitude * retrieval.advancing(magnitude.shape[1])
    for projections, turns in retrieval.stages:
        found = _projected(projections, bands, spectrum[..., : projections.bins], audible, turns)
        kept = projections.kept
        spectrum = torch.cat([found[..., :kept], spectrum[..., kept:]], dim=-1)
    return spectrum, audible


def _projected(
    rate: Projections, bands: Tensor, spectrum: Tensor, audible: Tensor, turns: int
) -> Tensor:
    wanted, share, edge = bands[..., rate.bands], rate.share(audible), rate.n_fft // 2
    previous: Tensor | None = None
    for _ in range(turns):
        waveform = synthesise(spectrum, rate.window, rate.hop_length)[:, edge:-edge] * share
        consistent = analyse(mirrored(waveform, edge), rate.window, rate.hop_length)
        size = norm(consistent) + TINY
        size = size * rate.factors(wanted, size)
        ahead = consistent
        if previous is not None:
            ahead = consistent + MOMENTUM * (consistent - previous)
        previous = consistent
        spectrum = ahead * (size / (norm(ahead) + TINY))
    return spectrum


def norm(spectrum: Tensor) -> Tensor:
    """Return magnitudes, with a gradient where they are 0."""
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    return torch.sqrt(real.square() + imaginary.square() + (0.1 * TINY) ** 2)
