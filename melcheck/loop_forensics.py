"""Why a round trip failed: what the error has in common names its likely cause.

`melcheck.forensics` asks which recipe made a mel. Here the mel is right and what came back is not:
the same reconstruction is measured again under each explanation (moved in time, made louder,
without its worst frames), and an explanation that takes most of the error away is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from melcheck.causes import cause
from melcheck.explanations import Explanation, explanation
from melcheck.metrics import mae
from melcheck.pipeline import RoundTrip

__all__ = ["explain_round_trip"]

# An explanation is named when it leaves at most this share of the error. Measured on the nine
# speech fixtures with the embedded vocoder: a delay of 128 to 384 samples, moved back, leaves 0.25
# to 0.71 of it, while no other delay brings a sound output below 0.99; an even gain of 1.5 or 0.5
# leaves less than 0.5.
_REMAINING_SHARE_OF_SHIFT = 0.85
_REMAINING_SHARE = 0.6

# Samples beyond full scale by this factor are not loud, they are integers.
_INTEGER_PEAK = 4.0
_SILENT_PEAK = 1e-4
# A file of less than this share of the recipe's rate lacks a good part of its bands: 16 kHz speech
# still passes with the embedded vocoder, 8 kHz speech does not.
_FEWEST_HZ_SHARE = 0.6

# Half a transform on each side: farther than any padding can move a waveform.
_LARGEST_SHIFT_SAMPLES = 1024
_COARSE_STEP_SAMPLES = 64
_FINE_STEP_SAMPLES = 8
_SMALLEST_SHIFT_SAMPLES = 32

_DB_PER_NAT = 20 / math.log(10)
_SMALLEST_GAIN_NATS = 0.1
# A cell counts as sound when it is this far above the floor.
_ABOVE_FLOOR_NATS = 4.0
_OUTLIER_FACTOR = 3.0
_FEWEST_SEAMS = 3
_GAP_TOLERANCE_FRAMES = 2
# A vocoder errs most where a sound begins, and beats are as even as chunks. Of the places where a
# healthy result of the fixtures stands out, 36 of 40 are within two frames of the twentieth of all
# frames that rise most; of the seams that chunks of 32 and 64 leave, 22 of 135.
_ATTACK_QUANTILE = 0.95
_ATTACK_REACH_FRAMES = 2
_LISTED_PLACES = 5

_KNOWN_GAINS = {
    math.log(1.5): "the sum of overlapping squared Hann windows, 1.5, was not divided out",
    math.log(0.75): "the overlap was divided out by the wrong window sum",
    math.log(2.0): "doubled: two channels summed, or a one-sided spectrum counted twice",
    math.log(0.5): "halved: a one-sided spectrum counted once",
    math.log(32768.0): "16-bit integers taken for full scale",
}
_GAIN_TOLERANCE_NATS = 0.03


def explain_round_trip(
    trip: RoundTrip,
    encode: Callable[[Tensor], Tensor],
    *,
    item: int = 0,
    baseline_mae: float | None = None,
) -> Explanation:
    """Name the likeliest cause of the error of one round trip.

    Args:
        trip: The round trip, of any quality.
        encode: The extractor that made its mels, `[batch, samples]` -> `[batch, n_mels, frames]`
            (`MelPipeline.waveform2mel`).
        item: Which of the batch.
        baseline_mae: Mean absolute error of Griffin-Lim on the same clip, nats. Where that is
            small, the mel is a good one and the fault lies in the vocoder.

    Returns:
        The likeliest cause; its code is "vocoder" or "clip" where nothing more precise holds.
    """
    reference = trip.mel[item][:, trip.frame_mask[item]].double()
    estimate = trip.reconstructed_mel[item][:, trip.frame_mask[item]].double()
    waveform, decoded = trip.waveform[item], trip.reconstructed_waveform[item]
    error = float(mae(reference, estimate))
    checks: tuple[Callable[[], Explanation | None], ...] = (
        lambda: _levels(waveform, decoded),
        lambda: _shift(trip, encode, item, error),
        lambda: _gain(reference, estimate, trip.recipe.log_floor, error),
        lambda: _places(reference, estimate, trip),
    )
    for check in checks:
        found = check()
        if found is not None:
            return found
    return _band_limited(trip) or _whose(error, baseline_mae)


def _band_limited(trip: RoundTrip) -> Explanation | None:
    if trip.audio is None or trip.audio.source_sample_rate >= _FEWEST_HZ_SHARE * (
        rate := trip.recipe.sample_rate
    ):
        return None
    source = trip.audio.source_sample_rate
    return explanation(
        "band-limited",
        f"the file is sampled at {source:,} Hz, so that nothing lies above {source // 2:,} Hz; "
        f"the mel reaches {rate // 2:,} Hz",
    )


def _levels(waveform: Tensor, decoded: Tensor) -> Explanation | None:
    if not bool(torch.isfinite(decoded).all()):
        broken = int((~torch.isfinite(decoded)).sum())
        return explanation("non-finite", f"{broken:,} of {decoded.numel():,} decoded samples")
    peak, decoded_peak = float(waveform.abs().max()), float(decoded.abs().max())
    if peak > _INTEGER_PEAK:
        return explanation("int16-scale", f"the clip's peak is {peak:,.0f}")
    if decoded_peak < _SILENT_PEAK < peak:
        evidence = f"decoded, a clip of peak {peak:.2f} has one of {decoded_peak:.1e}"
        return explanation("silent-output", evidence)
    return None


def _shift(
    trip: RoundTrip, encode: Callable[[Tensor], Tensor], item: int, error: float
) -> Explanation | None:
    reach = _LARGEST_SHIFT_SAMPLES
    coarse = range(-reach, reach + 1, _COARSE_STEP_SAMPLES)
    near = _best_shift(trip, encode, item, coarse)[0]
    fine = range(near - _COARSE_STEP_SAMPLES, near + _COARSE_STEP_SAMPLES + 1, _FINE_STEP_SAMPLES)
    late, left, unmoved = _best_shift(trip, encode, item, [*fine, 0])
    if (
        abs(late) < _SMALLEST_SHIFT_SAMPLES
        or left > _REMAINING_SHARE_OF_SHIFT * unmoved
        or error == 0
    ):
        return None
    frames = late / trip.recipe.hop_length
    return Explanation(
        "output-shifted",
        f"the output is {abs(late)} samples {'late' if late > 0 else 'early'}",
        f"moved back, the error falls from {unmoved:.2f} to {left:.2f} nats; {frames:+.2f} frames",
        cause("shifted").fix,
    )


def _best_shift(
    trip: RoundTrip, encode: Callable[[Tensor], Tensor], item: int, shifts: range | list[int]
) -> tuple[int, float, float]:
    """Return the delay that explains most, its error, and the error of no delay at all."""
    decoded = trip.reconstructed_waveform[item]
    candidates = list(shifts)
    moved = torch.stack([torch.roll(decoded, -shift) for shift in candidates])
    mels = encode(moved)
    # What `roll` carries round the ends is not looked at: the reach and half a window on each side.
    edge = 2 + math.ceil(_LARGEST_SHIFT_SAMPLES / trip.recipe.hop_length)
    valid = trip.frame_mask[item].sum().item() - edge
    if valid <= edge:
        return 0, math.inf, 0.0
    inside = slice(edge, int(valid))
    reference = trip.mel[item][:, inside].expand(len(candidates), -1, -1)
    errors = mae(reference, mels[..., inside])
    best = int(errors.argmin())
    unmoved = errors[candidates.index(0)] if 0 in candidates else errors[best]
    return candidates[best], float(errors[best]), float(unmoved)


def _gain(
    reference: Tensor, estimate: Tensor, log_floor: float, error: float
) -> Explanation | None:
    sound = (reference > log_floor + _ABOVE_FLOOR_NATS) & (estimate > log_floor + _ABOVE_FLOOR_NATS)
    if not bool(sound.any()):
        return None
    difference = (estimate - reference)[sound]
    gain = float(difference.median())
    left = float((difference - gain).abs().mean())
    if abs(gain) < _SMALLEST_GAIN_NATS or left > _REMAINING_SHARE * error:
        return None
    known = [why for nats, why in _KNOWN_GAINS.items() if abs(gain - nats) < _GAIN_TOLERANCE_NATS]
    return Explanation(
        "output-gain",
        f"the output is {abs(gain) * _DB_PER_NAT:.1f} dB too {'loud' if gain > 0 else 'quiet'}",
        f"an even {gain:+.3f} nats in all bands; without it the error is {left:.2f} nats",
        f"Likely {known[0]}." if known else "Look for a normalisation that is not undone.",
    )


def _places(reference: Tensor, estimate: Tensor, trip: RoundTrip) -> Explanation | None:
    by_frame = (reference - estimate).abs().mean(dim=0)
    usual = float(by_frame.median())
    groups = _groups((by_frame > _OUTLIER_FACTOR * usual).nonzero().flatten().tolist())
    if usual == 0 or not groups:
        return None
    seconds = trip.recipe.hop_length / trip.recipe.sample_rate
    times = ", ".join(f"{start * seconds:.2f}" for start, _ in groups[:_LISTED_PLACES])
    more = ", ..." if len(groups) > _LISTED_PLACES else ""
    evidence = f"the error stands out {len(groups)} times, at {times}{more} s"
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(groups)]
    even = len(groups) >= _FEWEST_SEAMS and max(gaps) - min(gaps) <= _GAP_TOLERANCE_FRAMES
    if even and 2 * _at_attacks(groups, reference) <= len(groups):
        return explanation("seams", f"{evidence}, every {sum(gaps) / len(gaps):.0f} frames")
    if by_frame.mean() < usual / _REMAINING_SHARE:
        return None
    if len(groups) == 1 and groups[0][1] == len(by_frame) - 1:
        return explanation("tail", evidence)
    return explanation("places", evidence)


def _at_attacks(groups: list[tuple[int, int]], reference: Tensor) -> int:
    """Return how many runs of frames lie where the original itself sets in, `[n_mels, frames]`."""
    rise = (reference[:, 1:] - reference[:, :-1]).clamp(min=0).mean(dim=0)
    attacks = 1 + (rise > rise.quantile(_ATTACK_QUANTILE)).nonzero().flatten()
    reach = _ATTACK_REACH_FRAMES
    near = [((attacks >= first - reach) & (attacks <= last + reach)) for first, last in groups]
    return sum(bool(each.any()) for each in near)


def _groups(frames: list[int]) -> list[tuple[int, int]]:
    """Return runs of frames as (first, last), those at most 4 apart taken together."""
    groups: list[tuple[int, int]] = []
    for frame in frames:
        if groups and frame - groups[-1][1] <= 4:
            groups[-1] = (groups[-1][0], frame)
        else:
            groups.append((frame, frame))
    return groups


def _whose(error: float, baseline_mae: float | None) -> Explanation:
    if baseline_mae is not None and baseline_mae > error:
        return Explanation(
            "clip",
            "this clip is hard to reconstruct from its mel",
            f"Griffin-Lim does no better: {baseline_mae:.2f} nats against {error:.2f}",
            "Look at the difference map; check the clip's level, noise and clipping.",
        )
    baseline = (
        "" if baseline_mae is None else f"Griffin-Lim reaches {baseline_mae:.2f} nats on it; "
    )
    return Explanation(
        "vocoder",
        "the mel is sound and the vocoder does not reproduce it",
        f"{baseline}no delay, gain or place explains the {error:.2f} nats",
        "Check which weights were loaded, with which keys and precision, and for which mel.",
    )
