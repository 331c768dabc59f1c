"""Relations between outputs that hold of every loop, whatever its audio.

Each function takes a stage as a callable and returns how far its output is from what must follow
from a change of its input; no reference is needed. `encode` takes `[1, samples]` to
`[1, n_mels, frames]`, `decode` back, as `melcheck.vocoders.base.Vocoder` has them.

    gain        a waveform times g has a log-mel higher by ln g      magnitudes are linear
    polarity    a waveform times -1 has the same mel                 magnitudes have no sign
    hop shift   k hops later in the waveform are k frames in the mel
    silence     a mel at its floor decodes to silence, and silence has a mel at its floor
    drift       after each round trip, the MAE of the mel against the first one
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.diagnosis.stages import mel_deviation
from melcheck.metrics import FLOOR_TOLERANCE, mae
from melcheck.recipes import MelRecipe

_Encode = Callable[[Tensor], Tensor]
_Decode = Callable[[Tensor], Tensor]

# Nats. Measured on 1.5 s of the six clips of `tests.parity.matrix`: 5e-7 with a gain of 0.5, which
# is exact, up to 7.7e-3 with 0.01, 0.3 and 2.7 (a guitar, whose highest bands are all rounding).
# About three times that.
_GAIN_TOLERANCE = 2e-2
# Nats. Measured 0 on the same clips, for 1 to 37 hops: the frames are the same numbers. A transform
# of several frames at once may sum them in another order, which moves a mel as much as a gain does.
_SHIFT_TOLERANCE = 2e-2
# Full scale. The embedded vocoder gives 0, a plain Vocos that was trained 1.8e-9; a thirtieth of
# the last of 16 bits cannot be heard or stored.
_SILENCE_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation, and how well it held.

    Attributes:
        name: Relation that should hold.
        deviation: Deviation from it: nats of a mel, full scale of a waveform.
        tolerance: Largest deviation that is rounding.
    """

    name: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether it held; NaN does not."""
        return self.deviation <= self.tolerance

    def __str__(self) -> str:
        """Name the relation and its deviation."""
        verdict = "holds" if self.holds else "does not hold"
        return f"{self.name} {verdict}: off by {self.deviation:.2g}, {self.tolerance:.2g} allowed"


def gain_shifts_the_log_mel(
    encode: _Encode, waveform: Tensor, *, recipe: MelRecipe, gain: float
) -> Relation:
    """Compare the mel of a louder or quieter waveform with the mel, shifted by `ln gain`.

    Bins count where both mels are off the floor, at which a logarithm cannot follow.

    Raises:
        ValueError: A gain that is not positive, or a waveform without such a bin.
    """
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"gain must be positive and finite, got {gain}.")
    before, after = encode(waveform), encode(gain * waveform)
    name = f"a gain of {gain:g} shifts the log-mel by {math.log(gain):+.3f} nats"
    finite = torch.isfinite(before).all() and torch.isfinite(after).all()
    if before.shape != after.shape or not finite:
        return Relation(name, math.inf, _GAIN_TOLERANCE)
    counted = torch.minimum(before, after) > recipe.log_floor + FLOOR_TOLERANCE
    if not counted.any():
        raise ValueError("waveform must have bins off the floor at both levels, got none.")
    differences = (after.double() - before.double() - math.log(gain))[counted].abs()
    return Relation(name, differences.max().item(), _GAIN_TOLERANCE)


def polarity_leaves_the_mel(encode: _Encode, waveform: Tensor, *, recipe: MelRecipe) -> Relation:
    """Compare the mels of a waveform and of its negative: not a bit may differ.

    Negation is exact, and rounding to nearest treats both signs alike.
    """
    deviation = mel_deviation(encode(waveform), encode(-waveform), log_floor=recipe.log_floor)
    return Relation("polarity leaves the mel", deviation.max_nats, 0.0)


def shift_by_hops_shifts_frames(
    encode: _Encode, waveform: Tensor, *, recipe: MelRecipe, hops: int
) -> Relation:
    """Compare the mel of a waveform without its first `hops` with the mel without its first frames.

    Frames that reach over the new edge, or over the end, stay out.

    Raises:
        ValueError: Fewer than one hop, or a waveform that has no frame left to compare.
    """
    reach = -(-recipe.n_fft // recipe.hop_length)
    frames = recipe.frames(waveform.shape[-1])
    if not 1 <= hops < frames - 2 * reach:
        raise ValueError(
            f"hops must be from 1 to {frames - 2 * reach - 1} for {frames} frames, got {hops}."
        )
    whole, later = encode(waveform), encode(waveform[..., hops * recipe.hop_length :])
    expected = whole[..., hops + reach : frames - reach]
    found = later[..., reach : frames - hops - reach]
    deviation = mel_deviation(expected, found, log_floor=recipe.log_floor)
    name = f"a shift by {hops} hops shifts the mel by {hops} frames"
    return Relation(name, deviation.max_nats, _SHIFT_TOLERANCE)


def silence_stays_silent(
    encode: _Encode, decode: _Decode, *, recipe: MelRecipe, frames: int
) -> tuple[Relation, Relation]:
    """Check that the mel of digital silence is at the floor, and that it decodes to silence."""
    mel = encode(torch.zeros(1, recipe.num_samples(frames)))
    above = (mel - recipe.log_floor).abs().max().item()
    peak = decode(torch.full_like(mel, recipe.log_floor)).abs().max().item()
    return (
        Relation("the mel of silence is at the floor", above, FLOOR_TOLERANCE),
        Relation("a mel at the floor decodes to silence", peak, _SILENCE_TOLERANCE),
    )


def drift(encode: _Encode, decode: _Decode, waveform: Tensor, *, trips: int) -> tuple[float, ...]:
    """Return the MAE of the mel after each of `trips` round trips against the first, in nats.

    A trip may shorten the waveform by less than a hop; the frames that both have are compared.

    Raises:
        ValueError: Fewer than one trip.
    """
    if trips < 1:
        raise ValueError(f"trips must be at least 1, got {trips}.")
    first = mel = encode(waveform)
    curve = []
    for _ in range(trips):
        mel = encode(decode(mel))
        frames = min(first.shape[-1], mel.shape[-1])
        curve.append(mae(first[..., :frames], mel[..., :frames])[0].item())
    return tuple(curve)
