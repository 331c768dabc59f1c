"""Do two decodings of one mel agree but for rounding? One bound for each kind of head.

A plain head gives the same samples up to the order of summation. A head that retrieves phases
magnifies rounding, so that its waveform may differ where its log-mel hardly does: its log-mel is
compared, and of its waveform only what no rounding does (a sign, a delay, a gain).

Such a head also decides: the pitch of a frame is the highest of several peaks, and where two are
as high, rounding chooses, and all later phases follow. What it decodes then is another waveform of
the same mel. So what is beyond the bound is compared with the other choices as well: decodings of
the mel with changes as small as rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.metrics import frame_mae, mae
from melcheck.recipes import log_mel
from melcheck.vocoders.base import Vocoder, magnifies_rounding


@dataclass(frozen=True, slots=True)
class Agreement:
    """By how much two decodings of one mel may differ.

    Attributes:
        samples: The largest difference of two samples, full scale 1.
        share: Root mean square of the difference, as a share of the reference's.
        nats: Mean absolute difference of the log-mels.
        frame_nats: The same of the worst frame.
    """

    samples: float = math.inf
    share: float = math.inf
    nats: float = math.inf
    frame_nats: float = math.inf


# Measured with AVX2 and with SSE4.1, alone, in batches and with 1 to 4 threads: 4e-6 with untrained
# weights, 2e-6 with the official ones. In float64 and by ONNX Runtime: 3e-6, untrained.
PLAIN = Agreement(samples=2e-5)
"""Of a head that inverts the phases that it predicts."""

# Three times the largest of short cuts of the twelve fixtures, with AVX2 and with SSE4.1, where
# rounding chose no other pitch. Where it did, in 1 of 76 cuts of 0.8 s: 0.51, 0.023 and 0.15.
RETRIEVED = Agreement(share=0.1, nats=0.008, frame_nats=0.11)
"""Of a head that retrieves phases."""


# Changes of the mel that move the network's features by 1.4e-5 (root mean square), as another order
# of summation does at most: 2.4e-6 with SSE4.1, 1.5e-5 with AVX2. In the cuts where rounding chose,
# a quarter to three quarters of such changes choose the other pitch.
_CHOICE_NATS = 3e-5
_CHOICES = 16


def agreement(vocoder: Vocoder) -> Agreement:
    """Return by how much two decodings by this vocoder may differ."""
    return RETRIEVED if magnifies_rounding(vocoder) else PLAIN


def disagreement(
    vocoder: Vocoder, reference: Tensor, estimate: Tensor, *, mel: Tensor | None = None
) -> str:
    """Return in what two decodings of one mel differ beyond rounding; "" where they agree.

    Args:
        vocoder: Whose decodings they are, or should be.
        reference: `[batch, samples]`.
        estimate: Of the same shape; anything else differs.
        mel: `[batch, n_mels, frames]`, what was decoded: to try what else rounding could choose.
    """
    apart = _apart(vocoder, reference, estimate)
    comparable = reference.shape == estimate.shape and bool(torch.isfinite(estimate).all())
    if not apart or mel is None or not comparable or not magnifies_rounding(vocoder):
        return apart
    generator = torch.Generator().manual_seed(0)
    for _ in range(_CHOICES):
        rounding = _CHOICE_NATS * torch.randn(mel.shape, generator=generator)
        other = vocoder.decode(mel + rounding.to(mel.device)).to(estimate.device)
        if not _apart(vocoder, other, estimate):
            return ""
    return apart


def _apart(vocoder: Vocoder, reference: Tensor, estimate: Tensor) -> str:
    if reference.shape != estimate.shape:
        return f"{list(estimate.shape)} where {list(reference.shape)} is expected"
    bound, error = agreement(vocoder), (estimate - reference).double()
    level = reference.double().square().mean().sqrt().item()
    largest, size = error.abs().max().item(), error.square().mean().sqrt().item()
    share = size / level if level else math.inf if size else 0.0
    found = [
        (largest, bound.samples, "a sample is off by {:.3g} (rounding: {:g})"),
        (share, bound.share, "it is off by {:.1%} of its level (rounding: {:.0%})"),
    ]
    if math.isfinite(bound.nats) and reference.shape[-1] >= vocoder.recipe.min_samples:
        with torch.no_grad():
            mels = [log_mel(waveform.float(), vocoder.recipe) for waveform in (reference, estimate)]
        found += [
            (mae(*mels).max().item(), bound.nats, "its log-mel by {:.3g} nats (rounding: {:g})"),
            (frame_mae(*mels).max().item(), bound.frame_nats, "a frame by {:.3g} (rounding: {:g})"),
        ]
    return ", ".join(
        text.format(value, limit)
        for value, limit, text in found
        if math.isfinite(limit) and not value <= limit
    )
