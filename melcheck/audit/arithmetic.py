"""In which arithmetic a clip is computed first, and whether what that finds can stand.

plain  the vocoder as `melcheck check` runs it
fp32   optimised layers, which sum in another order
bf16   optimised layers, of which the backbone multiplies with 8 bits of mantissa

A clip near a limit or beyond is computed again by the plain vocoder, which then decides. How near
is too near is known for fp32. How far bf16 moves a metric depends on the weights and on the clips,
so it is seen on the way: the first clips are computed both ways, and later those that their keys
draw. What lies nearer to a limit than several times the largest movement seen is left to the plain
vocoder. That no other clip moves further is likely, and not proven.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from melcheck.metrics import MelMetrics
from melcheck.sanity import Thresholds, judge
from melcheck.speed.optimised import OptimisedVocos, optimise
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable

Arithmetic = Literal["plain", "fp32", "bf16"]

# Optimised layers move an MAE by 3e-4 of itself at most (`tests/speed/test_many_clips.py`): what is
# nearer to a limit than this share of it is decided by the plain ones.
_NEAR_A_LIMIT = 2e-3

COMPARED_ONE_OF = 32
"""One clip of so many is computed both ways."""

# Of bf16: so many clips are compared before, and what was seen counts so often.
_COMPARED_FIRST = 8
_TIMES_SEEN = 4.0
# It is given up where more than half of so many clips were computed twice for its rounding alone.
_RECENT = 32

# A share of an error of 20 dB is more than as large a change of the ratio: 20 / ln 10 = 8.7.
_SNR_SCALE_DB = 20.0
# The floor's share is of the original mel, which no layer changes.
_MOVED = ("mae", "pearson", "snr_db")

# Optimised layers take 0.9 of the plain ones' time in fp32, and bf16 has its comparisons to pay.
_WORTH_ITS_TIME = 0.6
_TIMED_FRAMES, _TIMED_TURNS = 94, 3


class FirstPass:
    """A vocoder that computes clips first, and how far from a limit its figures stand.

    Args:
        vocoder: That vocoder.
        arithmetic: What it computes in.
    """

    def __init__(self, vocoder: Vocoder, arithmetic: Arithmetic) -> None:
        self.vocoder = vocoder
        self.arithmetic: Arithmetic = arithmetic
        self._moved = dict.fromkeys(_MOVED, 0.0)
        self._compared = 0
        self._too_near: deque[bool] = deque(maxlen=_RECENT)

    @property
    def is_of_use(self) -> bool:
        """Whether no more than half of the last clips were computed twice for rounding alone."""
        return sum(self._too_near) <= _RECENT // 2

    def suffices(self, metrics: MelMetrics, limits: Thresholds, *, key: str) -> bool:
        """Return whether the plain vocoder need not be asked.

        Args:
            metrics: What was found of the clip.
            limits: What it is judged by.
            key: Key of its row, which draws the clips that are compared.
        """
        if self.arithmetic == "plain":
            return True
        if self.arithmetic == "bf16" and (self._compared < _COMPARED_FIRST or is_drawn(key)):
            return False
        enough = _clearly_passed(metrics, limits, self._margins())
        if enough:
            self._too_near.append(False)
        return enough

    def stands(self, metrics: MelMetrics, plain: MelMetrics, limits: Thresholds) -> bool:
        """Return whether what was found stands beside what the plain vocoder found.

        A clip that was compared and is far from its limits keeps the figures that it would have
        had without, so that they do not depend on which clips its worker computed before it.
        """
        if self.arithmetic == "fp32":
            return False
        if judge(metrics, limits).passed or judge(plain, limits).passed:
            self._compared += 1
            for name, moved in self._moved.items():
                here = _movement(name, getattr(metrics, name), getattr(plain, name))
                self._moved[name] = max(moved, here)
        stands = _clearly_passed(metrics, limits, self._margins())
        # What fails, or is near a limit, would have been computed twice in fp32 as well.
        alike = dict.fromkeys(_MOVED, _NEAR_A_LIMIT)
        self._too_near.append(not stands and _clearly_passed(plain, limits, alike))
        return stands

    def _margins(self) -> dict[str, float]:
        """Return how far from its limit each metric has to be, as a share of its scale."""
        return {
            name: max(_NEAR_A_LIMIT, _TIMES_SEEN * moved) for name, moved in self._moved.items()
        }


def first_pass(vocoder: Vocoder, *, bf16: bool = True) -> FirstPass:
    """Return the fastest way to compute a clip first.

    Args:
        vocoder: The plain vocoder. Only a Vocos has layers to optimise.
        bf16: Whether its backbone may multiply in bf16, on a processor that is faster so.
    """
    if not isinstance(vocoder, VocosVocoder):
        return FirstPass(vocoder, "plain")
    rounded = _in_bf16(vocoder) if bf16 else None
    if rounded is not None:
        return FirstPass(rounded, "bf16")
    return FirstPass(optimise(vocoder), "fp32")


def is_drawn(key: str) -> bool:
    """Return whether the clip of a row's key is one of those that bf16 is compared by."""
    return int(key[:8] or "0", 16) % COMPARED_ONE_OF == 0


def _in_bf16(vocoder: VocosVocoder) -> OptimisedVocos | None:
    """Return a Vocos in bf16, or None where this would be wrong or slow.

    Processors with AVX-512 and no instructions for bf16 compute it too, in four times the time.
    """
    if vocoder.device.type != "cpu" or vocoder.magnifies_rounding:
        return None
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    try:
        rounded = optimise(vocoder, precision="bf16")
    except VocoderUnavailable:
        return None
    return rounded if _relative_time(rounded, vocoder) < _WORTH_ITS_TIME else None


def _relative_time(rounded: OptimisedVocos, plain: VocosVocoder) -> float:
    """Return the least processor time of one's backbone over that of the other."""
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(1, plain.recipe.n_mels, _TIMED_FRAMES, generator=generator)

    def seconds(run: Callable[[Tensor], Tensor]) -> float:
        begin = time.thread_time()
        run(mel)
        return time.thread_time() - begin

    turns = [
        (seconds(rounded.run_backbone), seconds(plain.run_backbone)) for _ in range(_TIMED_TURNS)
    ]
    least, other = map(min, zip(*turns, strict=True))
    return least / other if other > 0 else math.inf  # where clocks are coarse


def _clearly_passed(metrics: MelMetrics, limits: Thresholds, margins: Mapping[str, float]) -> bool:
    """Return whether a round trip passes each gate by more than a share of its scale."""
    verdict = judge(metrics, limits)
    return verdict.passed and all(
        gate.margin > margins[gate.metric] * _scale(gate.metric, gate.limit)
        for gate in verdict.gates
        if gate.metric in margins
    )


def _movement(metric: str, one: float, other: float) -> float:
    """Return how far apart two values of a metric are, as a share of the smaller scale."""
    if one == other:
        return 0.0
    scale = min(_scale(metric, one), _scale(metric, other))
    moved = abs(one - other) / scale if scale > 0 else math.inf
    return math.inf if math.isnan(moved) else moved


def _scale(metric: str, value: float) -> float:
    """Return what a change of a metric is a share of: an error, or what is short of 1."""
    if metric == "snr_db":
        return _SNR_SCALE_DB
    return 1 - value if metric == "pearson" else value
