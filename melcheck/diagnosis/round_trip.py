"""Why a round trip failed: what the error has in common names its likely cause.

`melcheck.diagnosis.diagnose` asks which recipe made a mel. Here the mel is right and what came back
is not: the same reconstruction is measured again under each explanation (moved in time, made
louder, without its worst frames), and an explanation that takes most of the error away is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from melcheck.diagnosis.explanations import Explanation, explanation
from melcheck.diagnosis.loop_places import located
from melcheck.diagnosis.waveform_tests.direct import non_finite, saturated, silent
from melcheck.metrics import floor_share, mae
from melcheck.pipeline import RoundTrip
from melcheck.sanity import Thresholds

__all__ = ["explain_round_trip"]

# An explanation is named when it leaves at most this share of the error. Measured on the nine
# speech fixtures with the embedded vocoder: a delay of 128 to 384 samples, moved back, leaves 0.25
# to 0.71 of it, while no other delay brings a sound output below 0.99; an even gain of 1.5 or 0.5
# leaves less than 0.5.
_REMAINING_SHARE_OF_SHIFT = 0.85
_REMAINING_SHARE = 0.6

# And when no more than this is left, one and a half times the gate: a vocoder errs by 0.10 to 0.14
# nats itself on these clips, moved back or made as loud as it should be. Where the cause is another
# one, more is left: 0.38 (one second) to 1.2 of an output at another speed, 1.2 to 1.8 of a delay
# out of reach, 1.7 to 1.9 of a square wave, made quieter.
_SOUND_NATS = 0.3
# As the sanity gate has it.
_SILENT_SHARE = Thresholds().reference_floor_share

# Samples beyond full scale by this factor are not loud, they are integers.
_INTEGER_PEAK = 4.0
_FULL_SCALE = 32_768
# A file of less than this share of the recipe's rate lacks a good part of its bands: 16 kHz speech
# still passes with the embedded vocoder, 8 kHz speech does not.
_FEWEST_HZ_SHARE = 0.6

# Farther than any padding or codec moves a waveform.
_LARGEST_SHIFT_SECONDS = 1.0
# A delay is the same in all of a long clip.
_SEEN_SECONDS = 30.0
_COARSE_STEP_SAMPLES = 64
_FINE_STEP_SAMPLES = 8
_SMALLEST_SHIFT_SAMPLES = 32

_DB_PER_NAT = 20 / math.log(10)
_SMALLEST_GAIN_NATS = 0.1
# A cell counts as sound when it is this far above the floor.
_ABOVE_FLOOR_NATS = 4.0
# What each makes of it, its code, and what to do.
_KNOWN_GAINS = {
    math.log(1.5): (
        "gain",
        "the sum of overlapping squared Hann windows, 1.5, was not divided out",
        "Divide the overlap-add by the sum of the squared windows, as torch.istft does.",
    ),
    math.log(0.75): (
        "gain",
        "the overlap was divided out by the wrong window sum",
        "Divide the overlap-add by the sum of the squared windows, not of the windows.",
    ),
    math.log(2.0): (
        "gain",
        "doubled: two channels summed, or a one-sided spectrum counted twice",
        "Average the channels; invert with torch.fft.irfft, which counts each bin as it must.",
    ),
    math.log(0.5): (
        "gain",
        "halved: a one-sided spectrum counted once",
        "Invert with torch.fft.irfft, which counts each bin as it must.",
    ),
    math.log(_FULL_SCALE): (
        "int16-scale",
        "16-bit integers taken for full scale",
        "Divide int16 samples by 32768, once, before they are measured or saved.",
    ),
}
_OTHER_GAIN = ("gain", "", "Look for a normalisation of the level that is not undone.")
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
            Every code is one of `melcheck.diagnosis.causes.CAUSES`.
    """
    reference = trip.mel[item][:, trip.frame_mask[item]].double()
    estimate = trip.reconstructed_mel[item][:, trip.frame_mask[item]].double()
    waveform, decoded = trip.waveform[item], trip.reconstructed_waveform[item]
    error = float(mae(reference, estimate))
    checks: tuple[Callable[[], Explanation | None], ...] = (
        lambda: _nothing(reference, trip.recipe.log_floor),
        lambda: _levels(waveform, decoded, encode, reference),
        lambda: _shift(trip, encode, item, reference, estimate),
        lambda: _gain(reference, estimate, trip.recipe.log_floor, error),
        lambda: located(reference, estimate, trip.recipe, sound_nats=_SOUND_NATS),
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


def _nothing(reference: Tensor, log_floor: float) -> Explanation | None:
    share = float(floor_share(reference, log_floor=log_floor))
    if share < _SILENT_SHARE:
        return None
    return explanation("silent-clip", f"{share:.1%} of its mel is at the floor")


def _levels(
    waveform: Tensor, decoded: Tensor, encode: Callable[[Tensor], Tensor], reference: Tensor
) -> Explanation | None:
    broken = non_finite(decoded)
    if broken is not None:
        return broken
    if float(waveform.abs().max()) > _INTEGER_PEAK:
        peak = float(waveform.abs().max())
        return explanation("int16-scale", f"the clip's peak is {peak:,.0f}")
    nothing = silent(waveform, decoded)
    if nothing is not None and float(decoded.abs().max()) > 0:
        louder = encode(_FULL_SCALE * decoded[None])[0].double()[:, : reference.shape[-1]]
        left = float(mae(reference[:, : louder.shape[-1]], louder))
        if left <= _SOUND_NATS:
            return explanation(
                "int16-scale", f"{nothing.evidence}; times {_FULL_SCALE:,} the error is {left:.2f}"
            )
    return nothing or saturated(decoded)


def _shift(
    trip: RoundTrip,
    encode: Callable[[Tensor], Tensor],
    item: int,
    reference: Tensor,
    estimate: Tensor,
) -> Explanation | None:
    hop = trip.recipe.hop_length
    near = hop * _late_frames(reference, estimate, trip.recipe.sample_rate / hop)
    coarse = range(near - hop, near + hop + 1, _COARSE_STEP_SAMPLES)
    near = _best_shift(trip, encode, item, [*coarse, 0])[0]
    fine = range(near - _COARSE_STEP_SAMPLES, near + _COARSE_STEP_SAMPLES + 1, _FINE_STEP_SAMPLES)
    late, left, unmoved = _best_shift(trip, encode, item, [*fine, 0])
    if (
        abs(late) < _SMALLEST_SHIFT_SAMPLES
        or left > min(_SOUND_NATS, _REMAINING_SHARE_OF_SHIFT * unmoved)
        or unmoved == 0
    ):
        return None
    return explanation(
        "shifted",
        f"moved back, the error falls from {unmoved:.2f} to {left:.2f} nats; "
        f"{late / hop:+.2f} frames",
        title=f"the output is {abs(late)} samples {'late' if late > 0 else 'early'}",
    )


def _late_frames(reference: Tensor, estimate: Tensor, frames_per_second: float) -> int:
    """Return by how many whole frames one mel is late, where the rest of them agree best."""
    frames = min(reference.shape[-1], round(_SEEN_SECONDS * frames_per_second))
    reach = min(round(_LARGEST_SHIFT_SECONDS * frames_per_second), frames // 4)
    errors = {}
    for late in range(-reach, reach + 1):
        first, last = max(0, late), frames + min(0, late)
        moved = estimate[:, first:last]
        kept = reference[:, first - late : last - late]
        errors[late] = (float(mae(kept, moved)), abs(late))
    return min(errors, key=lambda late: errors[late])


def _best_shift(
    trip: RoundTrip, encode: Callable[[Tensor], Tensor], item: int, candidates: list[int]
) -> tuple[int, float, float]:
    """Return the delay that explains most, its error, and that of no delay, one of them."""
    decoded = trip.reconstructed_waveform[item]
    moved = torch.stack([torch.roll(decoded, -shift) for shift in candidates])
    mels = encode(moved)
    # What `roll` carries round the ends is not looked at: the move and half a window on each side.
    edge = 2 + math.ceil(max(map(abs, candidates)) / trip.recipe.hop_length)
    valid = trip.frame_mask[item].sum().item() - edge
    if valid <= edge:
        return 0, math.inf, 0.0
    inside = slice(edge, int(valid))
    reference = trip.mel[item][:, inside].expand(len(candidates), -1, -1)
    errors = mae(reference, mels[..., inside])
    best = int(errors.argmin())
    return candidates[best], float(errors[best]), float(errors[candidates.index(0)])


def _gain(
    reference: Tensor, estimate: Tensor, log_floor: float, error: float
) -> Explanation | None:
    sound = (reference > log_floor + _ABOVE_FLOOR_NATS) & (estimate > log_floor + _ABOVE_FLOOR_NATS)
    if not bool(sound.any()):
        return None
    difference = (estimate - reference)[sound]
    gain = float(difference.median())
    left = float((difference - gain).abs().mean())
    if abs(gain) < _SMALLEST_GAIN_NATS or left > min(_SOUND_NATS, _REMAINING_SHARE * error):
        return None
    word = "loud" if gain > 0 else "quiet"
    code, why, fix = next(
        (known for nats, known in _KNOWN_GAINS.items() if abs(gain - nats) < _GAIN_TOLERANCE_NATS),
        _OTHER_GAIN,
    )
    return explanation(
        code,
        f"an even {gain:+.3f} nats in all bands; without it the error is {left:.2f} nats"
        + (f"; likely {why}" if why else ""),
        title=f"the output is {abs(gain) * _DB_PER_NAT:.1f} dB too {word}",
        fix=fix,
    )


def _whose(error: float, baseline_mae: float | None) -> Explanation:
    if baseline_mae is not None and baseline_mae > error:
        return explanation(
            "clip", f"Griffin-Lim does no better: {baseline_mae:.2f} nats against {error:.2f}"
        )
    baseline = (
        "" if baseline_mae is None else f"Griffin-Lim reaches {baseline_mae:.2f} nats on it; "
    )
    return explanation(
        "vocoder", f"{baseline}no delay, gain or place explains the {error:.2f} nats"
    )
