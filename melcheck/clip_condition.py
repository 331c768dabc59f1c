"""What a clip is like before any vocoder sees it: silent at its start, narrow, clipped, noisy.

Each of these makes a clip hard to reconstruct, or its figures mean less than they seem to. Here
they are only measured; `melcheck.pipeline` puts what a reader should know beside the figures,
`melcheck.diagnosis.round_trip` asks whether one of them explains a miss, and
`melcheck.audit.audio_faults` which of them a file itself has, by its own samples.
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

# One step of 16 bits: the top of integers is a step lower than their bottom.
_STEP = 2**-15
# A smooth peak of 16 bits holds its value for two or three samples, what was cut off for more.
_FEWEST_CLIPPED = 4

# Where what lay beyond full scale was wrapped to the other end, the step is nearly 2, and with 2
# added the sample continues the two before it.
_WRAP = 2.0
_LEAST_JUMP = 1.5
_CONTINUES = 0.5

_SPECTRUM_SAMPLES = 2048
# A bin is heard where its mean power is above this against the loudest: in the fixtures up to 0.95
# of the spectrum and more, in speech that was at a third of its rate up to 0.40; at -80 dB a
# resampler's images count too. And it must be above the rounding of 16 bits: -98 dB of full scale
# in all, 30 dB less in each of so many bins.
_HEARD_DB = -70.0
_ROUNDING_DB = -116.0
# Of an offset and of hum less is heard.
_LOWEST_HZ = 100.0
# Where less than this of a spectrum is above the rounding, a clip that reaches far may look narrow:
# a guitar whose upper half lies 64 dB below its loudest bin.
_TELLING_DB = 65.0


# Bands that are never within this of the loudest one, 52 dB, are not heard beside it; where they
# begin below this share of the mel's reach, a good part of it is missing. The same speech at 8 kHz
# reaches 0.45 of Vocos' mel at most, at 16 kHz 0.61.
_INAUDIBLE_NATS = 6.0
NARROW_SHARE = 0.6
"""A clip that reaches less than this share of the highest frequency is narrow."""

LARGEST_DC = 0.01
"""Where the mean of the samples is no larger than this, full scale 1, no offset is named."""


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


def top_runs(samples: Tensor) -> tuple[float, int]:
    """Return the peak of samples, and how many lie in runs at it, as clipping leaves them.

    Args:
        samples: `[channels, samples]`, full scale 1.
    """
    peak = float(samples.abs().max())
    if peak <= _FEWEST_CLIPPED * _STEP:
        return peak, 0
    at_top = samples.abs() >= peak - 1.5 * _STEP
    if int(at_top.sum()) < _FEWEST_CLIPPED:
        return peak, 0
    lengths = torch.cat([(ends - begins) for begins, ends in map(stretches, at_top)])
    return peak, int(lengths[lengths >= _FEWEST_CLIPPED].sum())


def wrapped_samples(samples: Tensor) -> int:
    """Return how often `[channels, samples]` jump from one end of the integers to the other.

    A sum that exceeds 16 bits goes on at the other end. Where audio was clipped it may fall as far
    from one sample to the next, but from the very top, or to it.
    """
    steps = samples.diff(dim=-1)
    jumps = (steps[:, 1:].abs() > _LEAST_JUMP).nonzero()
    if not len(jumps):
        return 0
    channel, place = jumps.T
    step, before = steps[channel, place + 1], steps[channel, place]
    unwrapped = step - _WRAP * step.sign()
    ends = torch.maximum(samples[channel, place + 1].abs(), samples[channel, place + 2].abs())
    from_top = ends >= samples.abs().max() - 1.5 * _STEP
    return int((((unwrapped - before).abs() < _CONTINUES) & ~from_top).sum())


def stretches(flags: Tensor) -> tuple[Tensor, Tensor]:
    """Return where flags, `[samples]`, are true: where each stretch begins, and where it ends.

    Example:
        >>> stretches(torch.tensor([True, False, True, True]))
        (tensor([0, 2]), tensor([1, 4]))
    """
    edges = torch.nn.functional.pad(flags.to(torch.int8), (1, 1)).diff().nonzero()[:, 0]
    return edges[::2], edges[1::2]


def mean_spectrum(samples: Tensor) -> Tensor:
    """Return the mean power of the bins of `[channels, samples]`; 0 dB is a full-scale sine.

    Frames do not overlap, and what is left at the end is left out: of less than a frame, zeros
    fill it up.

    Returns:
        `[bins]`, float64, of 2,048 samples.
    """
    size = _SPECTRUM_SAMPLES
    missing = max(0, size - samples.shape[-1])
    frames = torch.nn.functional.pad(samples, (0, missing)).unfold(-1, size, size)
    window = torch.hann_window(size)
    spectra = torch.view_as_real(torch.fft.rfft(frames * window))
    power = spectra.square().sum(dim=-1).mean(dim=(0, 1), dtype=torch.float64)
    return power * (2 / float(window.sum())) ** 2


def spectrum_reach_hz(power: Tensor, sample_rate: int) -> float:
    """Return the highest frequency at which anything is heard.

    Args:
        power: As `mean_spectrum` returns it.
        sample_rate: Hz.

    Returns:
        Hz; of a quiet clip, whose upper frequencies may be lost in the rounding, no less than the
        highest of those that are not, and NaN where these make it look narrow. NaN for silence.
    """
    levels = 10 * power.clamp(min=1e-30).log10()
    # Below lie offsets and hum, whatever the level of the clip.
    loudest = float(levels[math.ceil(_LOWEST_HZ * _SPECTRUM_SAMPLES / sample_rate) :].max())
    heard = (levels > max(loudest + _HEARD_DB, _ROUNDING_DB)).nonzero()
    reach = int(heard[-1]) * sample_rate / _SPECTRUM_SAMPLES if len(heard) else 0.0
    tells = loudest >= _ROUNDING_DB + _TELLING_DB or reach >= NARROW_SHARE * sample_rate / 2
    return reach if tells else math.nan


def narrow_hz(mel: Tensor, recipe: MelRecipe) -> float | None:
    """Return the frequency that nothing is heard above, None where the clip reaches far enough.

    Args:
        mel: `[n_mels, frames]`, nats; of one that is not finite nothing is known.
        recipe: Its recipe.
    """
    if not mel.isfinite().all():
        return None
    highest = bandwidth_hz(mel, band_centres_hz(recipe), below_nats=_INAUDIBLE_NATS)
    return highest if highest < NARROW_SHARE * recipe.f_max else None
