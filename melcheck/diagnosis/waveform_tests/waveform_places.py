"""Where the error of a waveform sits: on the grid of chunks, at the end, or in some places."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from melcheck.diagnosis.explanations import Explanation, explanation

__all__ = ["located"]

_QUIET_SHARE = 0.05
_BLOCK_SAMPLES = 256
_FEWEST_BLOCKS = 12
# Between the seams of chunks with context enough, nothing but float32's rounding is left.
_SOUND_BLOCK = 1e-4
_SOUND_SAMPLES = 3e-6
_DAMAGED_SHARE = 0.8
# What float16 leaves of a file, 1.3e-4, is twice what it leaves of the blocks below the bound;
# where some places are wrong, the others have a hundredth of it and less.
_CONTRAST = 10.0
# One place is on every grid. Gaps between seams, of which silence may hide an end, may differ by
# this share, and silence hides half of them at most. Two places are as far apart as the first is
# from the start by chance too often: they must be so to a few blocks.
_FEWEST_SEAMS = 2
_SEEN_SHARE = 0.5
_GRID_TOLERANCE = 0.2
_TWO_SEAMS_TOLERANCE_BLOCKS = 2.0
_LISTED = 5
# The step of the error across an edge, against the median of its steps nearby: up to 10 where
# nothing was joined, 12 to 60 in at least two places where chunks of 32 frames were.
_JUMP = 10.0
_LARGE_JUMP = 15.0
_FEWEST_JUMPS = 2
_SHORTEST_CHUNK_BLOCKS = 8


def located(wanted: Tensor, given: Tensor, rate: int) -> Explanation | None:
    """Explain an error that sits in some places, or that is larger there: on a grid, or the end."""
    blocks = min(len(wanted), len(given)) // _BLOCK_SAMPLES
    if blocks < _FEWEST_BLOCKS:
        return None
    samples = blocks * _BLOCK_SAMPLES
    wanted, given = (each[:samples].view(blocks, _BLOCK_SAMPLES) for each in (wanted, given))
    quiet = max(_QUIET_SHARE * float(wanted.square().mean().sqrt()), 1e-30)
    level = wanted.square().mean(dim=1).sqrt()
    size = (given - wanted).square().mean(dim=1).sqrt()
    damaged = size > _SOUND_BLOCK * level.clamp(min=quiet) + _SOUND_SAMPLES
    # A block without sound that is not damaged says nothing: there was nothing to damage.
    heard = level > quiet
    sound = heard & ~damaged
    error = size / level.clamp(min=quiet)
    if not bool(damaged.any()):
        return None
    everywhere = int(sound.sum()) < (1 - _DAMAGED_SHARE) * int(heard.sum())
    if everywhere or float(error[damaged].median()) < _CONTRAST * float(error[sound].median()):
        return _jumps(given - wanted, rate)
    groups = _groups(damaged.tolist(), sound.tolist())
    times = ", ".join(f"{begin * _BLOCK_SAMPLES / rate:.2f}" for begin, _ in groups[:_LISTED])
    evidence = f"an error of up to {float(error[damaged].max()):.2%} of the level, from {times} s"
    late = groups[0][0] >= blocks / 2
    if late and len(groups) == 1 and not bool(sound[groups[0][1] :].any()):
        return explanation("tail", evidence)
    middles = [0.0, *((first + last) / 2 for first, last in groups)]
    gaps = [after - before for before, after in itertools.pairwise(middles)]
    tolerance = (
        _GRID_TOLERANCE * max(gaps) if len(groups) > _FEWEST_SEAMS else _TWO_SEAMS_TOLERANCE_BLOCKS
    )
    blocks_apart = sum(gaps) / len(gaps)
    seen = len(groups) >= max(_FEWEST_SEAMS, _SEEN_SHARE * int(blocks / blocks_apart))
    if seen and max(gaps) - min(gaps) <= tolerance:
        return explanation("seams", f"{evidence}, every {blocks_apart:.0f} blocks")
    return explanation("places", evidence)


def _jumps(difference: Tensor, rate: int) -> Explanation | None:
    """Explain jumps at the edges of blocks: chunks that each feel their ends, and do not meet.

    Args:
        difference: `[blocks, samples]`.
        rate: Hz.
    """
    steps = difference.flatten().diff().abs()
    edges = torch.arange(1, len(difference)) * _BLOCK_SAMPLES - 1
    about = steps.unfold(0, _BLOCK_SAMPLES, _BLOCK_SAMPLES // 2)[1::2][: len(edges)]
    usual = about.median(dim=1).values.clamp(min=1e-9)
    ratio = steps[edges[: len(usual)]] / usual
    blocks = [int(block) + 1 for block in (ratio > _JUMP).nonzero()[:, 0]]
    if len(blocks) < _FEWEST_JUMPS or float(ratio.max()) < _LARGE_JUMP:
        return None
    chunk = math.gcd(*blocks)
    edges_of_chunks = len(difference) // chunk
    if chunk < _SHORTEST_CHUNK_BLOCKS or len(blocks) < _SEEN_SHARE * edges_of_chunks:
        return None
    times = ", ".join(f"{block * _BLOCK_SAMPLES / rate:.2f}" for block in blocks[:_LISTED])
    return explanation("seams", f"{len(blocks)} jumps between neighbouring samples, at {times} s")


def _groups(damaged: list[bool], sound: list[bool]) -> list[tuple[int, int]]:
    """Return runs of damaged blocks as (first, last), parted by sound ones."""
    groups: list[tuple[int, int]] = []
    parted = True
    for block, (bad, good) in enumerate(zip(damaged, sound, strict=True)):
        if bad and parted:
            groups.append((block, block))
        elif bad:
            groups[-1] = (groups[-1][0], block)
        parted = good or (parted and not bad)
    return groups
