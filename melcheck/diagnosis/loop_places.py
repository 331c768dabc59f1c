"""Where the error of a mel that came back sits: on a grid of chunks, at the end, in some places."""

from __future__ import annotations

import itertools

from torch import Tensor

from melcheck.diagnosis.explanations import Explanation, explanation
from melcheck.recipes import MelRecipe

__all__ = ["located"]

# Frames whose error is more than so many times the median stand out; some places explain a round
# trip where without them the mean error falls to this share.
_OUTLIER_FACTOR = 3.0
_REMAINING_SHARE = 0.6
# A healthy frame stands out here and there. The end alone is wrong, and seams lie on a grid, where
# so much of what stands out does; of the grid's places, as many do.
_MOST = 0.75
_FEWEST_SEAMS = 3
_FEWEST_SEAMS_AMONG_OTHERS = 4
_SHORTEST_CHUNK_FRAMES = 8
# Two neighbours of a grid are among so many of the first.
_MOST_STARTS = 16
_GAP_TOLERANCE_FRAMES = 2
# A vocoder errs most where a sound begins, and beats are as even as chunks. Of the places where a
# healthy result of the fixtures stands out, 36 of 40 are within two frames of the twentieth of all
# frames that rise most; of the seams that chunks of 32 and 64 leave, 22 of 135.
_ATTACK_QUANTILE = 0.95
_ATTACK_REACH_FRAMES = 2
_LISTED_PLACES = 5


def located(
    reference: Tensor, estimate: Tensor, recipe: MelRecipe, *, sound_nats: float
) -> Explanation | None:
    """Explain an error of a mel that stands out in some frames: on a grid, at the end, in places.

    Args:
        reference: `[n_mels, frames]`.
        estimate: Likewise.
        recipe: Of both.
        sound_nats: What the other frames err at most where no more than some places are wrong.
    """
    by_frame = (reference - estimate).abs().mean(dim=0)
    usual = float(by_frame.median())
    groups = _groups((by_frame > _OUTLIER_FACTOR * usual).nonzero().flatten().tolist())
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
    if usual > sound_nats or by_frame.mean() < usual / _REMAINING_SHARE:
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


def _groups(frames: list[int]) -> list[tuple[int, int]]:
    """Return runs of frames as (first, last), those at most 4 apart taken together."""
    groups: list[tuple[int, int]] = []
    for frame in frames:
        if groups and frame - groups[-1][1] <= 4:
            groups[-1] = (groups[-1][0], frame)
        else:
            groups.append((frame, frame))
    return groups
