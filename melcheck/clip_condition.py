"""What a clip is like before any vocoder sees it: silent at its start, narrow, clipped, noisy.

Each of these makes a clip hard to reconstruct, or its figures mean less than they seem to. Here
they are only measured; `melcheck.pipeline` puts what a reader should know beside the figures, and
`melcheck.diagnosis.round_trip` asks whether one of them explains a miss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from melcheck.recipes import MelRecipe, band_centres_hz

# Below this against the clip's peak a sample is silence: speech begins to be heard well above it.
_SILENCE_DB = -50.0

# Resampling makes a clipped top ripple: samples count as at the top within 2 dB of the loudest
# thousandth. In speech 0.2 to 0.8 % of them are, clipped to half its peak 1.5 to 10 %.
_AT_TOP_DB = -2.0
_TOP_QUANTILE = 0.999

_NOISE_QUANTILES = (0.05, 0.95)


# Bands that are never within this of the loudest one, 52 dB, are not heard beside it; where they
# begin below this share of the mel's reach, a good part of it is missing. The same speech at 8 kHz
# reaches 0.45 of Vocos' mel at most, at 16 kHz 0.61.
_INAUDIBLE_NATS = 6.0
NARROW_SHARE = 0.6
"""A clip that reaches less than this share of the mel's highest frequency is narrow."""


def level_dbfs(waveform: Tensor) -> float:
    """Return the peak of a waveform, `[..., samples]`, in dB of full scale; -inf for zeros."""
    peak = float(waveform.abs().max()) if waveform.numel() else 0.0
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def silent_start_seconds(waveform: Tensor, sample_rate: int) -> float:
    """Return how long it takes until a waveform, `[samples]`, is no longer silent."""
    limit = float(waveform.abs().max()) * 10 ** (_SILENCE_DB / 20)
    if limit == 0:
        return waveform.shape[-1] / sample_rate
    return int((waveform.abs() > limit).int().argmax()) / sample_rate


def top_share(waveform: Tensor) -> float:
    """Return the share of a waveform's samples, `[samples]`, that lie near its largest magnitude.

    It is large where the waveform was clipped.
    """
    magnitude = waveform.abs()
    # Not `quantile`, which takes no more than 16 million values.
    top = magnitude.sort().values[int(_TOP_QUANTILE * (magnitude.numel() - 1))]
    return float((magnitude >= 10 ** (_AT_TOP_DB / 20) * top).double().mean()) if top > 0 else 0.0


def level_range_nats(mel: Tensor) -> float:
    """Return by how much the loud frames of a mel, `[n_mels, frames]` in nats, exceed the quiet.

    It is the distance of the 95th from the 5th percentile of the frames' means: 2.8 to 7 in
    speech, 0.1 in noise.
    """
    low, high = torch.quantile(mel.double().mean(dim=0), torch.tensor(_NOISE_QUANTILES).double())
    return float(high - low)


def bandwidth_hz(mel: Tensor, centres_hz: Sequence[float], *, below_nats: float) -> float:
    """Return the highest band that is ever near the loudest one, by its frequency.

    Args:
        mel: `[n_mels, frames]`, nats.
        centres_hz: Frequency of each band, lowest first.
        below_nats: How far below the loudest band's 95th percentile a band's may lie.
    """
    levels = mel.double().quantile(_NOISE_QUANTILES[1], dim=1)
    loud = (levels >= levels.max() - below_nats).nonzero().flatten()
    return centres_hz[int(loud[-1])]


def narrow_hz(mel: Tensor, recipe: MelRecipe) -> float | None:
    """Return the frequency that nothing is heard above, None where the clip reaches far enough.

    Args:
        mel: `[n_mels, frames]`, nats.
        recipe: Its recipe.
    """
    highest = bandwidth_hz(mel, band_centres_hz(recipe), below_nats=_INAUDIBLE_NATS)
    return highest if highest < NARROW_SHARE * recipe.f_max else None
