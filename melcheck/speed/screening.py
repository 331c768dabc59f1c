"""The verdicts of plain arithmetic on many clips, most of them without it.

A verdict needs no more than to know on which side of the gates a clip lies, and faster arithmetic
(`melcheck.speed.optimised`) knows that of most clips:

1. Some clips, spread over all, are taken round both ways. Where the mels differ by more than was
   measured of this arithmetic elsewhere, this machine or these weights are not what it was measured
   on, and all clips are computed plainly.
2. The others are taken round fast. One passes where it would still pass had its mels been as far
   off as is allowed, in the worst of directions (`at_worst`).
3. Whatever does not pass so is computed again, plainly. So a failure and its figures, and what lies
   near a threshold, are always those of plain arithmetic.

What is not proven is that a clip which nobody computed plainly deviates no more than is allowed:
that was measured on 140, and the clips of the first step show it again in each run. For a head that
magnifies rounding, as that of the embedded vocoder does, it does not hold: all clips are computed
plainly, side by side.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor

from melcheck.metrics import MelMetrics
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.sanity import Thresholds, Verdict, judge
from melcheck.speed.many_clips import FileTrip, check_many
from melcheck.speed.optimised import Precision, check_precision, optimise
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable

# Root mean square of the difference to plain arithmetic, nats, both mels together. The twelve
# fixture clips and eight readings of LJ Speech as they are, at -20 and -50 dB, overdriven by 6 dB,
# resampled from 6 and 8 kHz, and from 6 kHz at -20 dB, with a trained Vocos of 2.8 M parameters:
# 9.4e-3 at most as they are and 2.6e-2 in all (bf16); 2.1e-4 and 1.3e-3 (fp32, every second clip).
# Half as much again is allowed, in fp32 three times. Beyond it lies a constant in place of sound,
# 0.12, which no vocoder brings back: it fails by 4 nats.
_ALLOWED: dict[Precision, float] = {"bf16": 4e-2, "fp32": 4e-3}
# One clip in so many is taken round both ways, and no fewer than a few.
_PROOF_EVERY = 32
_FEWEST_PROOFS = 4
# The share of a mel's cells that may leave or reach its floor.
_FLOOR_SHARE = 0.01
# In bf16 the proof of four clips saves nothing on eight, and a quarter of the time on these.
_FEWEST_CLIPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether faster arithmetic may pass verdicts in this run.

    Attributes:
        precision: In which the network's layers multiply.
        clips: How many clips were taken round both ways.
        deviation: The largest root mean square by which their mels differ, nats; NaN without any.
        allowed: What it may be.
    """

    precision: Precision
    clips: int = 0
    deviation: float = math.nan
    allowed: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScreenedClip:
    """A file, and what the gates say of it.

    Attributes:
        path: The file.
        metrics: Of plain arithmetic where `plain`, else of the faster; None where the loop came to
            no end.
        verdict: That of plain arithmetic, as far as the module says; None where the loop came to no
            end.
        plain: Whether plain arithmetic took it round.
        part: Whether the file is longer than what was taken of it.
        decoder: What decoded the file; "" where it could not be used.
        trip: What that produced of a clip that fails; None for one that passes.
        error: Why the loop came to no end; "" where it did.
    """

    path: Path
    metrics: MelMetrics | None = None
    verdict: Verdict | None = None
    plain: bool = True
    part: bool = False
    decoder: str = ""
    trip: RoundTrip | None = None
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the clip came round and every gate is met."""
        return self.verdict is not None and self.verdict.passed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Screening:
    """What `screen` returns.

    Attributes:
        clips: One for each file, in order, computed as they are taken.
        proof: What was tried of faster arithmetic; None where nothing was.
        refused: Why all clips are computed plainly; "" where they are not.
    """

    clips: Iterator[ScreenedClip]
    proof: Proof | None = None
    refused: str = ""


def screen(
    paths: Iterable[str | os.PathLike[str]],
    pipeline: MelPipeline,
    *,
    thresholds: Thresholds | None = None,
) -> Screening:
    """Judge many files.

    Args:
        paths: The files.
        pipeline: The plain loop, and how to read a file; its own path is not used.
        thresholds: The gates; None for the defaults.

    Returns:
        The proof, made before this returns, and the verdicts. A file that cannot be used has its
        `error`.
    """
    files = [Path(path) for path in paths]
    refused = _nothing_faster(pipeline, len(files))
    if refused:
        return Screening(clips=_plainly(files, pipeline, thresholds), refused=refused)
    fast, proof = _faster(pipeline)
    step = min(_PROOF_EVERY, len(files) // _FEWEST_PROOFS)
    proof, refused, proven = _prove(files[::step], pipeline, fast, proof, thresholds)
    rest = [path for index, path in enumerate(files) if index % step]
    if refused:
        others = _plainly(rest, pipeline, thresholds)
    else:
        others = _screened(rest, pipeline, fast, proof, thresholds)
    clips = (next(others) if index % step else proven[index // step] for index in range(len(files)))
    return Screening(clips=clips, proof=proof, refused=refused)


def at_worst(metrics: MelMetrics, deviation: float) -> MelMetrics:
    """Return the worst that the gated metrics could be, had the mels been elsewhere.

    Adding errors of root mean square d to a difference of root mean square e gives e + d at most;
    it adds d to the mean absolute error at most, and turns a centred mel of standard deviation s
    by asin(d / s) at most, whose cosine the correlation is.

    Args:
        metrics: What was measured.
        deviation: How far both mels together may lie elsewhere, root mean square, nats.

    Returns:
        `metrics` with another `mae`, `snr_db`, `pearson` and `reference_floor_share`; NaN, which
        no gate passes, where these cannot be told.
    """
    error = math.sqrt(metrics.mse)
    # Both ratios are those of a root mean square to that of the error.
    signal = error * 10 ** (metrics.snr_db / 20)
    spread = error * 10 ** (metrics.centred_snr_db / 20)
    snr_db = pearson = math.nan
    if math.isfinite(signal) and signal > deviation:
        snr_db = 20 * math.log10((signal - deviation) / (error + deviation))
    # The centred reconstruction is no shorter than the centred original less the error.
    shortest = spread - error
    if math.isfinite(metrics.pearson) and shortest > deviation:
        turned = math.acos(metrics.pearson) + math.asin(deviation / shortest)
        pearson = math.cos(min(math.pi, turned))
    return dataclasses.replace(
        metrics,
        mae=metrics.mae + deviation,
        snr_db=snr_db,
        pearson=pearson,
        reference_floor_share=metrics.reference_floor_share + _FLOOR_SHARE,
    )


def _nothing_faster(pipeline: MelPipeline, clips: int) -> str:
    """Return why there is nothing faster that could be tried; "" where there is."""
    vocoder = pipeline.vocoder
    if not isinstance(vocoder, VocosVocoder):
        return f"{vocoder.info.name} is no Vocos, and has no faster form"
    if vocoder.magnifies_rounding:
        # On clips of narrow band, rounding moved a mel by up to 0.05 nats.
        return f"the head of {vocoder.info.name} magnifies the rounding of faster arithmetic"
    if pipeline.device.type != "cpu":
        return f"faster arithmetic was not measured on {pipeline.device}"
    if clips < _FEWEST_CLIPS:
        return f"fewer than {_FEWEST_CLIPS} clips are sooner done than proven"
    return ""


def _faster(pipeline: MelPipeline) -> tuple[MelPipeline, Proof]:
    """Return the fast loop, and what it may deviate."""
    vocoder = cast("VocosVocoder", pipeline.vocoder)
    precision = _lowest_precision(vocoder)
    fast = MelPipeline(pipeline.config, vocoder=optimise(vocoder, precision=precision))
    return fast, Proof(precision=precision, allowed=_ALLOWED[precision])


def _lowest_precision(vocoder: VocosVocoder) -> Precision:
    try:
        check_precision(vocoder.device, "bf16")
    except VocoderUnavailable:
        return "fp32"
    return "bf16"


def _prove(
    files: Sequence[Path],
    plain: MelPipeline,
    fast: MelPipeline,
    proof: Proof,
    thresholds: Thresholds | None,
) -> tuple[Proof, str, list[ScreenedClip]]:
    """Take files round both ways; return what that proves or why it does not, and verdicts."""
    trips = list(check_many(files, plain))
    deviations: list[float] = []
    clear = 0
    for trip, faster in zip(trips, check_many(files, fast), strict=True):
        if trip.trip is not None:
            deviations.append(_deviation(trip.trip, faster.trip))
            clear += _clearly_passes(faster, proof, thresholds)
    largest = max(deviations, default=math.nan)
    refused = ""
    if not deviations:
        refused = f"none of the {len(files)} clips that were tried first came round"
    elif not all(each <= proof.allowed for each in deviations):  # NaN too
        refused = (
            f"with {proof.precision}, {len(deviations)} clips that were computed both ways differ "
            f"by up to {largest:.2g} nats, {proof.allowed:.2g} allowed"
        )
    elif 2 * clear < len(deviations):
        refused = (
            f"of {len(deviations)} clips {clear} pass so clearly that plain arithmetic is not "
            "needed"
        )
    proof = dataclasses.replace(proof, clips=len(deviations), deviation=largest)
    return proof, refused, [_judged(trip, thresholds) for trip in trips]


def _plainly(
    files: Sequence[Path], plain: MelPipeline, thresholds: Thresholds | None
) -> Iterator[ScreenedClip]:
    return (_judged(trip, thresholds) for trip in check_many(files, plain))


def _screened(
    files: Sequence[Path],
    plain: MelPipeline,
    fast: MelPipeline,
    proof: Proof,
    thresholds: Thresholds | None,
) -> Iterator[ScreenedClip]:
    for trip in check_many(files, fast):
        if _clearly_passes(trip, proof, thresholds):
            yield dataclasses.replace(_judged(trip, thresholds), plain=False)
        else:
            yield from _plainly([trip.path], plain, thresholds)


def _clearly_passes(trip: FileTrip, proof: Proof, thresholds: Thresholds | None) -> bool:
    if trip.metrics is None:
        return False
    return judge(at_worst(trip.metrics, proof.allowed), thresholds).passed


def _judged(found: FileTrip, thresholds: Thresholds | None) -> ScreenedClip:
    if found.metrics is None:
        return ScreenedClip(path=found.path, error=found.error)
    verdict = judge(found.metrics, thresholds)
    # Of those that pass only figures are kept, so that many fit into memory.
    trip = None if verdict.passed else found.trip
    audio = None if found.trip is None else found.trip.audio
    return ScreenedClip(
        path=found.path,
        metrics=found.metrics,
        verdict=verdict,
        part=audio is not None and audio.is_part,
        decoder="" if audio is None else audio.decoder,
        trip=trip,
    )


def _deviation(plain: RoundTrip, fast: RoundTrip | None) -> float:
    """Return by how much both mels differ, over the frames that count, RMS, nats."""
    if fast is None:
        return math.inf
    counted = plain.frame_mask[:, None, :].expand_as(plain.mel)

    def apart(one: Tensor, other: Tensor) -> float:
        return (one - other)[counted].square().mean().sqrt().item()

    return apart(plain.mel, fast.mel) + apart(plain.reconstructed_mel, fast.reconstructed_mel)
