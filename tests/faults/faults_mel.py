"""Faults that damage mels: stale, flipped, noisy, clipped, or not of this recording at all."""

from __future__ import annotations

from typing import Literal

import torch

from tests.faults.damage_mels import (
    blurred,
    clamped,
    conditioned,
    dithered,
    double_log,
    flip,
    half_filters,
    interpolated,
    log_of_zero,
    nan_sample,
    noisy,
    normalised_twice,
    overflow,
    scaled,
    short_key,
    stale,
    stretched,
    swapped,
)
from tests.faults.model import Fault, Injection, Probe, Severities

__all__ = ["MEL_FAULTS"]

# Where a golden applies and the mel keeps its shape, that fires beside the comparison of floats.
_SAME_SHAPE = ("extract", "golden-encoded", "golden-reconstructed")
_OTHER_SHAPE = ("shape", "extract")


def _mel_fault(
    name: str,
    row: int,
    tier: Literal["A", "B", "C"],
    source: str,
    inject: Injection,
    severities: Severities,
    *,
    cause: str | None = None,
    probe: Probe = "recorded",
    caught_by: tuple[str, ...] = _SAME_SHAPE,
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="front end",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=caught_by,
        cause=cause,
        probe=probe,
    )


_MATCHA = (-5.536622, 2.116101)

MEL_FAULTS: tuple[Fault, ...] = (
    _mel_fault(
        "normalised-twice",
        6,
        "A",
        "mozilla/TTS #607",
        normalised_twice,
        [("matcha", _MATCHA), ("to-unit-range", (-5.0, 7.0))],
        cause="normalisation",
    ),
    _mel_fault(
        "axes-swapped",
        9,
        "A",
        "hifi-gan #56",
        swapped,
        [("frames-first", None)],
        cause="axes-transposed",
        caught_by=("preflight", "shape", "extract"),
    ),
    _mel_fault(
        "axes-swapped-square",
        9,
        "A",
        "PWG #329",
        swapped,
        [("frames-first", None)],
        cause="axes-transposed",
        probe="square",
        caught_by=("extract",),
    ),
    _mel_fault(
        "int16-scale",
        14,
        "B",
        "waveglow #271",
        scaled,
        [("times-32768", 32_768.0), ("divided-twice", 1 / 32_768)],
        cause="int16-scale",
    ),
    _mel_fault(
        "int32-scale",
        14,
        "B",
        "vllm-omni #7901",
        scaled,
        [("24-bit", 2.0**23), ("32-bit", 2.0**31)],
        cause="gain",
        caught_by=("range", "extract", "golden-encoded", "full-scale", "golden-reconstructed"),
    ),
    _mel_fault(
        "nan-sample",
        25,
        "B",
        "AGAIN-VC #5",
        nan_sample,
        [("first", 0.0), ("middle", 0.5), ("last", 1.0)],
        cause="nan",
        caught_by=("finite", "range", "extract", "golden-encoded"),
    ),
    _mel_fault(
        "log-of-zero",
        25,
        "B",
        "AGAIN-VC #5",
        log_of_zero,
        [("no-floor", None)],
        cause="nan",
        probe="pause",
        caught_by=("finite", "range"),
    ),
    _mel_fault(
        "float16-overflow",
        25,
        "B",
        "F5-TTS #578",
        overflow,
        [("int16-samples", None)],
        cause="nan",
        caught_by=("finite", "range", "extract", "golden-encoded"),
    ),
    _mel_fault(
        "mel-in-half",
        24,
        "B",
        "pytorch/audio #2097",
        half_filters,
        [("bfloat16", torch.bfloat16), ("float16", torch.float16)],
        caught_by=("extract",),
    ),
    _mel_fault(
        "stale-cache",
        30,
        "B",
        "sh-lee-prml/BigVGAN #2",
        stale,
        [("slaney-scale", {"mel_scale": "slaney"})],
        cause="mel-scale",
    ),
    _mel_fault(
        "filter-cache",
        35,
        "C",
        "west PR #120",
        short_key,
        [("slaney-norm", {"norm": "slaney"})],
        cause="filter-norm",
    ),
    _mel_fault(
        "clamped",
        49,
        "C",
        "kokoro-ruslan #85",
        clamped,
        [("2", 2.0), ("1", 1.0), ("0", 0.0)],
        cause="clamped",
    ),
    _mel_fault(
        "double-log",
        50,
        "C",
        "transformer-vocos PR #10",
        double_log,
        [("twice", None)],
        cause="double-log",
    ),
    _mel_fault("blurred-mel", 51, "C", "tacotron2 #50", blurred, [("3", 3), ("7", 7), ("15", 15)]),
    _mel_fault(
        "noisy-mel", 51, "C", "tacotron2 #50", noisy, [("0.1", 0.1), ("0.5", 0.5), ("1", 1.0)]
    ),
    _mel_fault(
        "masked-mel",
        51,
        "C",
        "tacotron2 #50",
        conditioned,
        [("half", 0.5), ("10%", 0.1)],
        cause="padded-frames",
    ),
    _mel_fault(
        "interpolated-mel",
        52,
        "C",
        "mozilla/TTS #520",
        interpolated,
        [("0.92", 0.9188), ("0.5", 0.5)],
    ),
    _mel_fault(
        "stretched-mel",
        52,
        "C",
        "CosyVoice #788",
        stretched,
        [("1.0884", 1.0884), ("0.9188", 0.9188)],
        caught_by=_OTHER_SHAPE,
    ),
    _mel_fault(
        "hidden-dither",
        62,
        "C",
        "pytorch/audio #263",
        dithered,
        [("1e-5", 1e-5), ("1e-3", 1e-3)],
        caught_by=("extract", "golden-encoded", "repeat", "golden-reconstructed"),
    ),
    _mel_fault(
        "frequency-flipped",
        63,
        "C",
        "by reasoning",
        flip(-2),
        [("bands", None)],
        cause="frequency-flipped",
    ),
    _mel_fault(
        "time-flipped", 63, "C", "by reasoning", flip(-1), [("frames", None)], cause="time-flipped"
    ),
)
"""Faults of the front end beyond its recipe."""
