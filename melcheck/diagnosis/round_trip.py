"""Why a round trip failed: what the error has in common names its likely cause.

`melcheck.diagnosis.diagnose` asks which recipe made a mel. Here the mel is right, but the
reconstruction is not. It is measured again under each explanation (moved in time, made louder,
without its worst frames), and an explanation that removes most of the error is named.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from melcheck.clip_condition import (
    LARGEST_DC,
    NARROW_SHARE,
    level_dbfs,
    level_range_nats,
    narrow_hz,
    top_share,
)
from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.waveform_tests.direct import non_finite, runs, saturated, silent
from melcheck.metrics import compare, floor_share, mae
from melcheck.pipeline import RoundTrip
from melcheck.recipes import DB_PER_NAT, MelRecipe
from melcheck.sanity import Thresholds, judge
from melcheck.vocoders.base import VocoderInfo
from melcheck.vocoders.griffin_lim import BASELINE
from melcheck.vocoders.weights import VERIFIED_WEIGHTS

# Frames whose error is more than so many times the median stand out; some places explain a round
# trip where without them the mean error falls to this share.
_OUTLIER_FACTOR = 3.0
_JOINED_FRAMES = 4

# A healthy frame stands out here and there. The end alone is wrong, and seams lie on a grid, where
# so much of what stands out does; of the grid's places, as many do.
_MOST = 0.75
_FEWEST_SEAMS = 3
_FEWEST_SEAMS_AMONG_OTHERS = 4
_SHORTEST_CHUNK_FRAMES = 8

# Two neighbours of a grid are among so many of the first.
_MOST_STARTS = 16
_GAP_TOLERANCE_FRAMES = 2

# A vocoder errs most at onsets, and beats are as even as chunks: of the places where a healthy
# result stands out, 36 of 40 are within two frames of the steepest twentieth of all frames; of the
# seams of chunks, 22 of 135.
_ATTACK_QUANTILE = 0.95
_ATTACK_REACH_FRAMES = 2
_LISTED_PLACES = 5


def outlier_frames(
    reference: Tensor, estimate: Tensor, recipe: MelRecipe, *, healthy_nats: float
) -> Explanation | None:
    """Explain an error of a mel that stands out in some frames: on a grid, at the end, in places.

    Args:
        reference: `[n_mels, frames]`.
        estimate: `[n_mels, frames]`.
        recipe: Recipe of both.
        healthy_nats: Largest error of the remaining frames where only some places are wrong.
    """
    by_frame = (reference - estimate).abs().mean(dim=0)
    usual = float(by_frame.median())
    outliers = (by_frame > _OUTLIER_FACTOR * usual).nonzero().flatten().tolist()
    groups = runs(outliers, lambda last, frame: frame - last <= _JOINED_FRAMES)
    if usual == 0 or not groups:
        return None
    seconds = recipe.hop_length / recipe.sample_rate
    times = ", ".join(f"{start * seconds:.2f}" for start, _ in groups[:_LISTED_PLACES])
    more = ", ..." if len(groups) > _LISTED_PLACES else ""
    evidence = f"the error stands out {len(groups)} times, at {times}{more} s"
    sizes = [float((by_frame[first : last + 1] - usual).sum()) for first, last in groups]
    grid = _grid(groups, sizes, len(by_frame))
    if grid is not None and 2 * _at_attacks(grid[1], reference) <= len(grid[1]):
        return explanation("seams", f"{evidence}, every {grid[0]:.0f} frames")
    if usual > healthy_nats or by_frame.mean() < usual / _REMAINING_SHARE:
        return None
    if groups[-1][1] == len(by_frame) - 1 and sizes[-1] >= _MOST * sum(sizes):
        start = groups[-1][0] * seconds
        return explanation(
            "tail", f"{sizes[-1] / sum(sizes):.0%} of what stands out, from {start:.2f} s"
        )
    return explanation("places", evidence)


def _grid(
    groups: list[tuple[int, int]], sizes: list[float], frames: int
) -> tuple[float, list[tuple[int, int]]] | None:
    """Return the spacing of a grid and what stands out on it; None where most of it is on none.

    Args:
        groups: Runs of frames that stand out, (first, last).
        sizes: By how much each of them does, nats, summed over its frames.
        frames: In all.
    """
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(groups)]
    if len(groups) >= _FEWEST_SEAMS and max(gaps) - min(gaps) <= _GAP_TOLERANCE_FRAMES:
        return sum(gaps) / len(gaps), groups
    best: tuple[float, int, list[tuple[int, int]]] | None = None
    for one, other in itertools.combinations(groups[:_MOST_STARTS], 2):
        spacing = other[0] - one[0]
        if spacing < _SHORTEST_CHUNK_FRAMES:
            continue
        steps = [round((start - one[0]) / spacing) for start, _ in groups]
        on_grid = [
            abs(start - one[0] - step * spacing) <= _GAP_TOLERANCE_FRAMES
            for (start, _), step in zip(groups, steps, strict=True)
        ]
        found = list(itertools.compress(groups, on_grid))
        size = sum(itertools.compress(sizes, on_grid))
        places = len(set(itertools.compress(steps, on_grid)))
        if (
            places >= max(_FEWEST_SEAMS_AMONG_OTHERS, _MOST * (frames // spacing))
            and size >= _MOST * sum(sizes)
            and (best is None or size > best[0])
        ):
            best = size, spacing, found
    return best and (best[1], best[2])


def _at_attacks(groups: list[tuple[int, int]], reference: Tensor) -> int:
    """Return how many runs of frames lie where the original itself sets in, `[n_mels, frames]`."""
    rise = (reference[:, 1:] - reference[:, :-1]).clamp(min=0).mean(dim=0)
    attacks = 1 + (rise > rise.quantile(_ATTACK_QUANTILE)).nonzero().flatten()
    reach = _ATTACK_REACH_FRAMES
    near = [((attacks >= first - reach) & (attacks <= last + reach)) for first, last in groups]
    return sum(bool(each.any()) for each in near)


# An explanation is named when it leaves at most this share of the error: delays of 128 to 384
# samples, moved back, leave 0.25 to 0.71 of it, a wrong delay 0.99; an even gain leaves below 0.5.
_REMAINING_SHARE_OF_SHIFT = 0.85
_REMAINING_SHARE = 0.6

# And when no more than this is left, one and a half times the gate: a healthy vocoder errs by 0.10
# to 0.14 nats on the fixtures, and a wrong explanation leaves 0.38 and more.
_HEALTHY_NATS = 0.3

# Of the clip itself: the level at which a loud one is tried again; the share of bins near the floor
# that makes a frame silent; how many frames at each end an edge reaches into; and where the clip
# is called short, clipped, noise or narrow. `clip_condition` has what speech shows.
_USUAL_DBFS = -20.0
_SILENT_BINS = 0.5
_END_FRAMES = 4
_FEWEST_FRAMES = 8
_SHORT_SECONDS = 1.0
_TOO_SHORT_SECONDS = 0.3
_CLIPPED_SHARE = 0.015
_NOISY_NATS = 1.5

# Where Griffin-Lim errs by less than this share of the vocoder's error, the clip is not to blame.
# On speech it has 0.9 to 1.1 of the embedded vocoder's.
_MUCH_BETTER = 0.85

# As the sanity gate has it.
_SILENT_SHARE = Thresholds().reference_floor_share

# Samples beyond full scale by this factor are not loud, they are integers.
_INTEGER_PEAK = 4.0
_FULL_SCALE = 32_768

# Farther than any padding or codec moves a waveform.
_LARGEST_SHIFT_SECONDS = 1.0

# A delay is the same in all of a long clip.
_SEEN_SECONDS = 30.0
_COARSE_STEP_SAMPLES = 64
_FINE_STEP_SAMPLES = 8
_SMALLEST_SHIFT_SAMPLES = 32

_SMALLEST_GAIN_NATS = 0.1

# A cell is loud enough to be compared when it is this far above the floor.
_ABOVE_FLOOR_NATS = 4.0

# Of each gain in nats: the code, the likely cause, and what to do.
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
    decode: Callable[[Tensor], Tensor] | None = None,
    thresholds: Thresholds | None = None,
) -> Explanation:
    """Name the likeliest cause of the error of one round trip.

    Args:
        trip: The round trip, of any quality.
        encode: The extractor that made its mels, `[batch, samples]` -> `[batch, n_mels, frames]`
            (`MelPipeline.waveform2mel`).
        item: Which of the batch.
        baseline_mae: Mean absolute error of Griffin-Lim on the same clip, nats. Where that is
            small, the mel is a good one and the fault lies in the vocoder.
        decode: The vocoder, mel -> waveform (`MelPipeline.mel2waveform`), with which a clip is
            tried without its offset, a loud one at a lower level; None tries none.
        thresholds: What the round trip missed; None for the defaults.

    Returns:
        The likeliest cause; its code is "vocoder" or "clip" where nothing more precise holds.
            Every code is one of `melcheck.diagnosis.causes.CAUSES`. Weights are named only where
            melcheck has not verified them.
    """
    mask = trip.frame_mask[item]
    reference, estimate = (mels[item][:, mask].double() for mels in trip.mels_in_nats())

    def encode_nats(waveforms: Tensor) -> Tensor:
        return trip.recipe.in_nats(encode(waveforms))

    limits = thresholds or Thresholds()
    waveform, decoded = trip.waveform[item], trip.reconstructed_waveform[item]
    error = float(mae(reference, estimate))
    checks: tuple[Callable[[], Explanation | None], ...] = (
        lambda: _nothing(reference, trip.recipe.floor_nats),
        lambda: _levels(waveform, decoded, encode_nats, reference),
        lambda: _shift(trip, encode_nats, item, reference, estimate),
        lambda: _gain(reference, estimate, trip.recipe.floor_nats, error),
        lambda: _silence(reference, estimate, trip.recipe.floor_nats, limits),
        lambda: outlier_frames(reference, estimate, trip.recipe, healthy_nats=_HEALTHY_NATS),
    )
    for check in checks:
        found = check()
        if found is not None:
            fix = _FIXES_OF_VERIFIED.get(found.code, "") if _verified(trip.vocoder) else ""
            return dataclasses.replace(found, fix=fix or found.fix)
    if decode is not None:
        found = _of_level(trip, encode, decode, item, limits)
        if found is not None:
            return found
    if _as_good_as_any(error, baseline_mae):
        found = _of_the_clip(trip, item, reference, estimate, limits)
        if found is not None:
            return found
    return _band_limited(trip, reference) or _whose(error, baseline_mae, trip.vocoder)


def _of_level(
    trip: RoundTrip,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    item: int,
    limits: Thresholds,
) -> Explanation | None:
    """Return that the clip's offset or its level is the cause, where it passes without."""
    waveform = trip.waveform[item : item + 1, : trip.valid_samples[item]]

    def passed(changed: Tensor) -> str:
        """Return the figures of a round trip of the clip so changed; "" where it misses a gate."""
        mel = encode(changed)
        again = dataclasses.replace(
            trip,
            mel=mel,
            reconstructed_mel=encode(decode(mel)),
            valid_samples=(waveform.shape[-1],),
            whole=None,
        )
        metrics = again.metrics()[0]
        told = f"it has SNR {metrics.snr_db:.2f} dB and MAE {metrics.mae:.3f} nats"
        return told if judge(metrics, limits).passed else ""

    offset, level = float(waveform.mean()), level_dbfs(waveform)
    # An offset is a fault, and makes a clip louder than what is heard of it.
    if abs(offset) >= LARGEST_DC and (told := passed(waveform - offset)):
        return explanation("dc-offset", f"the mean of its samples is {offset:.3f}; without, {told}")
    if not level > _USUAL_DBFS:
        return None
    told = passed(waveform * 10 ** ((_USUAL_DBFS - level) / 20))
    evidence = f"its peak is at {level:.1f} dBFS; at {_USUAL_DBFS:.0f} dBFS {told}"
    return explanation("level", evidence) if told else None


def _silence(
    reference: Tensor, estimate: Tensor, log_floor: float, limits: Thresholds
) -> Explanation | None:
    silent = (reference <= log_floor + _ABOVE_FLOOR_NATS).double().mean(dim=0) > _SILENT_BINS
    # What is heard of a loud frame in the window of a silent one counts with the silence.
    near = torch.nn.functional.max_pool1d(silent.double()[None], 3, stride=1, padding=1)[0].bool()
    if not silent.any() or not _passes(reference, estimate, ~near, log_floor, limits):
        return None
    share = float(silent.double().mean())
    return explanation("silence", f"{share:.0%} of its frames are silent; without them it passes")


def _of_the_clip(
    trip: RoundTrip, item: int, reference: Tensor, estimate: Tensor, limits: Thresholds
) -> Explanation | None:
    """Return which property of the clip itself explains the miss; None where none does."""
    floor = trip.recipe.floor_nats
    frames = reference.shape[-1]
    seconds = trip.valid_samples[item] / trip.recipe.sample_rate
    inside = torch.arange(frames, device=reference.device)
    inside = (inside >= _END_FRAMES) & (inside < frames - _END_FRAMES)
    if seconds < _SHORT_SECONDS and _passes(reference, estimate, inside, floor, limits):
        return explanation("short", f"{seconds:.2f} s; without its first and last frames it passes")
    if seconds < _TOO_SHORT_SECONDS:
        return explanation("short", f"{seconds:.2f} s, {frames} frames")
    narrow = _band_limited(trip, reference)
    if narrow is not None:
        return narrow
    waveform = trip.waveform[item, : trip.valid_samples[item]]
    share = top_share(waveform)
    if share > _CLIPPED_SHARE:
        return explanation(
            "clipping",
            f"{share:.1%} of its samples lie within 2 dB of its top",
            title="the clip itself is clipped",
            fix="Use the recording before it was clipped, or accept the miss.",
        )
    if trip.audio is not None and trip.audio.codec:
        return explanation("codec", trip.audio.codec)
    spread = level_range_nats(reference)
    if spread < _NOISY_NATS:
        evidence = f"its loud frames lie only {spread:.1f} nats above its quiet ones"
        return explanation("noisy-clip", evidence)
    return None


def _passes(
    reference: Tensor, estimate: Tensor, kept: Tensor, log_floor: float, limits: Thresholds
) -> bool:
    """Return whether the frames that are kept meet every gate by themselves."""
    if int(kept.sum()) < _FEWEST_FRAMES:
        return False
    mels = (mel[None][..., kept] for mel in (reference, estimate))
    return judge(compare(*mels, log_floor=log_floor)[0], limits).passed


def _band_limited(trip: RoundTrip, reference: Tensor) -> Explanation | None:
    reach = trip.recipe.f_max
    source = trip.recipe.sample_rate if trip.audio is None else trip.audio.source_sample_rate
    if source / 2 < NARROW_SHARE * reach:
        return explanation(
            "band-limited",
            f"the file is sampled at {source:,} Hz, so that nothing lies above {source // 2:,} Hz; "
            f"the mel reaches {reach:,.0f} Hz",
        )
    highest = narrow_hz(reference, trip.recipe)
    if highest is not None:
        return explanation(
            "band-limited",
            f"nothing is heard above {highest:,.0f} Hz; the mel reaches {reach:,.0f} Hz",
        )
    return None


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
        if left <= _HEALTHY_NATS:
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
        or left > min(_HEALTHY_NATS, _REMAINING_SHARE_OF_SHIFT * unmoved)
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
    reference = trip.mels_in_nats()[0][item][:, inside].expand(len(candidates), -1, -1)
    errors = mae(reference, mels[..., inside])
    best = int(errors.argmin())
    return candidates[best], float(errors[best]), float(errors[candidates.index(0)])


def _gain(
    reference: Tensor, estimate: Tensor, log_floor: float, error: float
) -> Explanation | None:
    loud = (reference > log_floor + _ABOVE_FLOOR_NATS) & (estimate > log_floor + _ABOVE_FLOOR_NATS)
    if not bool(loud.any()):
        return None
    difference = (estimate - reference)[loud]
    gain = float(difference.median())
    left = float((difference - gain).abs().mean())
    if abs(gain) < _SMALLEST_GAIN_NATS or left > min(_HEALTHY_NATS, _REMAINING_SHARE * error):
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
        title=f"the output is {abs(gain) * DB_PER_NAT:.1f} dB too {word}",
        fix=fix,
    )


def _as_good_as_any(error: float, baseline_mae: float | None) -> bool:
    """Return whether a vocoder does about as well as Griffin-Lim, or as well as healthy ones do."""
    if baseline_mae is None:
        return error <= _HEALTHY_NATS
    return baseline_mae > _MUCH_BETTER * error


# What to do where the cause's own fix would doubt the weights.
_FIXES_OF_VERIFIED = {
    "silent-output": "The mel is far below the range of speech, or a later step mutes it.",
    "non-finite": "Run in float32, and find the first step that makes them.",
}


def _verified(vocoder: VocoderInfo) -> bool:
    """Return whether a vocoder's weights are not in doubt: melcheck has checked them, or none."""
    return vocoder.weights_sha256 in VERIFIED_WEIGHTS or vocoder.name == BASELINE


def _whose(error: float, baseline_mae: float | None, vocoder: VocoderInfo) -> Explanation:
    if baseline_mae is not None and baseline_mae > error:
        return explanation(
            "clip",
            f"the vocoder errs by {error:.2f} nats, Griffin-Lim, which has no training, by "
            f"{baseline_mae:.2f}: the mel of this clip is hard to decode",
        )
    baseline = (
        "" if baseline_mae is None else f"Griffin-Lim reaches {baseline_mae:.2f} nats on it; "
    )
    evidence = f"{baseline}no delay, gain or place explains the {error:.2f} nats"
    if not _verified(vocoder):
        return explanation("vocoder", evidence)
    if _as_good_as_any(error, baseline_mae):
        return explanation("clip", evidence)
    return explanation(
        "vocoder",
        evidence,
        fix="Its files are those that melcheck verifies: compare precision, device and versions "
        "with a run that passes, by `melcheck info`.",
    )
