"""The catalogue of faults that really happen between audio, mel and vocoder, and how each is tried.

Each fault comes from a public report. It is injected for real into a healthy loop, which then
passes every gate of `tests.faults.gates`: a fault that no gate sees is a hole in the suite. What no
mel can show is in the catalogue too, and says why.

Faults of a front end that follows another recipe: one number or another is not the vocoder's.

Faults that damage mels: stale, flipped, noisy, clipped, or not of this recording at all.

Faults of what comes before the mel and after the decoder: files, rates, channels, levels.

Faults of the vocoder: weights, arithmetic, padding, chunks, batches, inverse transforms.

Faults of the environment: files, checkpoints, devices and libraries that are not what they seem.

The loader must refuse each of them with an error that names the file and the fix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from melcheck import audio
from melcheck.clips import Clip
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError
from tests.faults.damage_audio import (
    across_channels,
    clipped,
    early,
    gain,
    header,
    interleaved,
    late,
    loud_output,
    offset,
    output_gain,
    packets,
    ranges,
    rate_ignored,
    rate_ignored_and_cut,
    read_as,
    saturated,
    side,
    sliced,
    stereo,
    upsampled,
    via,
    wrapped,
)
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
    without_warnings,
)
from tests.faults.damage_vocoders import (
    chunked,
    half_backbone,
    head_gain,
    head_padding,
    head_padding_cut,
    int8,
    lost_gain,
    own_istft,
    padded_batch,
    raw_weights,
    reordered,
    reset,
    rounded_weights,
    short_chunks,
    tf32,
    transform,
)
from tests.faults.gates import inspect
from tests.faults.model import (
    Bench,
    Expectation,
    Fault,
    Injection,
    Loop,
    Probe,
    Severities,
    expect,
    recipe_change,
)

# Where a golden applies and the mel keeps its shape, that fires beside the comparison of floats.
_SAME_SHAPE = ("extract", "golden-encoded", "golden-reconstructed")
_OTHER_SHAPE = ("shape", "extract")


def _recipe_fault(
    name: str,
    row: int,
    tier: Literal["A", "B", "C"],
    source: str,
    cause: str | None,
    severities: Severities,
    *,
    inject: Injection = recipe_change,
    probe: Probe = "recorded",
    caught_by: tuple[str, ...] = _SAME_SHAPE,
    reaches_reference: bool = False,
    invisible: str = "",
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="front end",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=() if invisible else caught_by,
        cause=cause,
        probe=probe,
        reaches_reference=reaches_reference,
        visible=not invisible,
        reason=invisible,
    )


def _each(name: str, *values: float | str) -> Severities:
    """Return several values of one attribute of the recipe, each labelled by itself."""
    return [(v if isinstance(v, str) else f"{v:g}", {name: v}) for v in values]


_MATCHA = (-5.536622, 2.116101)

RECIPE_FAULTS: tuple[Fault, ...] = (
    _recipe_fault(
        "mel-of-bigvgan",
        1,
        "A",
        "F5-TTS #654",
        "profile:bigvgan-24k",
        [
            (
                "24k-100",
                {
                    "mel_scale": "slaney",
                    "norm": "slaney",
                    "padding": "same",
                    "magnitude_eps": 1e-9,
                    "floor": 1e-5,
                },
            )
        ],
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "slaney-scale", 3, "A", "pytorch/audio #1058", "mel-scale", _each("mel_scale", "slaney")
    ),
    _recipe_fault(
        "slaney-norm", 4, "A", "pytorch/audio #287", "filter-norm", _each("norm", "slaney")
    ),
    _recipe_fault("log10", 5, "A", "DiffSinger #195", "log-base", [("log10", {"log_base": "10"})]),
    _recipe_fault(
        "decibels",
        5,
        "A",
        "tacotron2 #379",
        "decibels",
        [
            ("20log10", {"log_base": "10", "log_scale": 20.0}),
            ("20log10-floor-1e-5", {"log_base": "10", "log_scale": 20.0, "floor": 1e-5}),
        ],
        caught_by=("range", "extract", "golden-encoded", "golden-reconstructed"),
    ),
    _recipe_fault(
        "normalised",
        6,
        "A",
        "Matcha-TTS #9",
        "normalisation",
        [
            ("matcha", {"mean": _MATCHA[0], "std": _MATCHA[1]}),
            ("to-unit-range", {"mean": -5.0, "std": 7.0}),
            ("tenth", {"std": 10.0}),
        ],
    ),
    _recipe_fault(
        "padding",
        8,
        "A",
        "vocos #18",
        "padding",
        _each("padding", "same", "none"),
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "last-frame-dropped",
        8,
        "A",
        "hifi-gan #53",
        None,
        [("one", {"tail": "drop_last"})],
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "floor-too-high",
        10,
        "A",
        "kokoro-ruslan #85",
        "floor",
        [("1e-5", {"floor": 1e-5}), ("1e-4", {"floor": 1e-4})],
        probe="pause",
        caught_by=("extract",),
    ),
    _recipe_fault(
        "floor-too-low",
        10,
        "A",
        "kokoro-ruslan #85",
        "floor",
        [("1e-9", {"floor": 1e-9}), ("1e-10", {"floor": 1e-10})],
        probe="pause",
        caught_by=("range",),
    ),
    _recipe_fault(
        "floor-without-silence",
        10,
        "A",
        "F5-TTS modules.py",
        None,
        [("1e-5", {"floor": 1e-5}), ("1e-9", {"floor": 1e-9})],
        probe="hiss",
        invisible="No cell is as low as either floor, so both mels are one.",
    ),
    _recipe_fault(
        "magnitude-eps",
        10,
        "A",
        "hifi-gan meldataset.py",
        "magnitude-eps",
        [("1e-6", {"magnitude_eps": 1e-6}), ("1e-5", {"magnitude_eps": 1e-5})],
    ),
    _recipe_fault("power", 12, "A", "hifi-gan #170", "power", [("2", {"power": 2.0})]),
    _recipe_fault(
        "hop-length",
        15,
        "B",
        "F5-TTS #491",
        "hop-length",
        _each("hop_length", 240, 300, 128),
        caught_by=_OTHER_SHAPE,
    ),
    _recipe_fault(
        "n-fft",
        15,
        "B",
        "UniversalVocoding #3",
        "n-fft",
        [("2048-window-1024", {"n_fft": 2048}), ("2048", {"n_fft": 2048, "win_length": 2048})],
    ),
    _recipe_fault(
        "win-length", 15, "B", "F5-TTS #491", "win-length", _each("win_length", 640, 800, 1000)
    ),
    _recipe_fault(
        "f-max", 16, "B", "FastSpeech2 #37", "f-max", _each("f_max", 7600.0, 8000.0, 11_000.0)
    ),
    _recipe_fault(
        "f-min", 16, "B", "PWG configs (80 to 7600 Hz)", "f-min", _each("f_min", 20.0, 50.0, 80.0)
    ),
    _recipe_fault(
        "filterbank-rate",
        17,
        "B",
        "StarGANv2-VC #56",
        "filterbank-rate",
        [
            ("16000", {"filterbank_rate": 16_000, "f_max": 8000.0}),
            ("16000-beyond-its-half", {"filterbank_rate": 16_000}),
            ("22050", {"filterbank_rate": 22_050, "f_max": 11_025.0}),
            ("48000", {"filterbank_rate": 48_000, "f_max": 24_000.0}),
        ],
        inject=without_warnings,
    ),
    _recipe_fault(
        "pad-mode",
        33,
        "C",
        "pytorch/audio #2208",
        "pad-mode",
        _each("pad_mode", "constant", "replicate"),
        probe="hiss",
        caught_by=("extract",),
    ),
    _recipe_fault(
        "pad-mode-at-silent-edges",
        33,
        "C",
        "librosa PR #1382",
        None,
        _each("pad_mode", "constant", "replicate"),
        probe="silent edges",
        invisible="Mirrored, repeated and inserted zeros are all zeros.",
    ),
    _recipe_fault(
        "window",
        34,
        "C",
        "mlx-audio #920",
        "window",
        [
            ("symmetric", {"periodic": False}),
            ("hamming", {"window": "hamming"}),
            ("sqrt-hann", {"window": "sqrt_hann"}),
            ("rectangular", {"window": "rectangular"}),
        ],
    ),
    _recipe_fault(
        "stft-normalized",
        36,
        "C",
        "speechbrain #1694",
        "stft-normalized",
        [("window", {"normalized": "window"}), ("frame-length", {"normalized": "frame_length"})],
    ),
    _recipe_fault(
        "pre-emphasis",
        37,
        "C",
        "tacotron2 #75",
        "pre-emphasis",
        _each("pre_emphasis", 0.97, 0.9, 0.5),
    ),
    _recipe_fault(
        "no-log",
        50,
        "C",
        "transformer-vocos PR #10",
        "no-log",
        [("linear", {"log_base": None})],
        caught_by=("range", "extract", "golden-encoded", "full-scale", "golden-reconstructed"),
    ),
    _recipe_fault(
        "rounded-hop",
        53,
        "C",
        "VoiceFlow #11",
        "hop-length",
        _each("hop_length", 255, 257),
        caught_by=("extract",),
    ),
    _recipe_fault(
        "empty-bands",
        57,
        "C",
        "librosa #478",
        "n-fft",
        [
            ("n-fft-512", {"n_fft": 512, "win_length": 512}),
            ("n-fft-256", {"n_fft": 256, "win_length": 256}),
        ],
        inject=without_warnings,
    ),
    _recipe_fault(
        "n-mels",
        58,
        "C",
        "hifi-gan #166",
        "n-mels",
        _each("n_mels", 80, 128),
        caught_by=("preflight", "shape", "extract"),
    ),
    _recipe_fault(
        "library-drift",
        56,
        "C",
        "librosa PR #1382",
        None,
        [
            ("window", {"periodic": False}),
            ("filters", {"mel_scale": "slaney"}),
            ("filter-norm", {"norm": "slaney"}),
        ],
        caught_by=("golden-encoded", "golden-reconstructed"),
        reaches_reference=True,
    ),
)
"""Faults of the recipe."""


# Where a golden applies and the mel keeps its shape, that fires beside the comparison of floats.
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

AUDIO_FAULTS: tuple[Fault, ...] = (
    Fault(
        name="rate-ignored",
        row=2,
        tier="A",
        stage="audio",
        source="F5-TTS #666",
        inject=rate_ignored,
        cause="sample-rate",
        caught_by=("load", "shape"),
        severities=[
            ("48000", 48_000),
            ("44100", 44_100),
            ("32000", 32_000),
            ("22050", 22_050),
            ("16000", 16_000),
        ],
    ),
    Fault(
        name="rate-ignored-and-cut",
        row=2,
        tier="A",
        stage="audio",
        source="Matcha-TTS #122",
        inject=rate_ignored_and_cut,
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("48000", 48_000), ("25000", 25_000)],
    ),
    Fault(
        name="stereo-summed",
        row=11,
        tier="A",
        stage="audio",
        source="vosk-tts #28",
        inject=stereo(lambda channels: channels.sum(dim=0, keepdim=True)),
        cause="stereo-sum",
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("sum", None)],
    ),
    Fault(
        name="stereo-one-side",
        row=11,
        tier="A",
        stage="audio",
        source="vits-finetuning #26",
        inject=side,
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("left", 0), ("right", 1)],
    ),
    Fault(
        name="stereo-as-batch",
        row=11,
        tier="A",
        stage="audio",
        source="tacotron2 #479",
        inject=stereo(lambda channels: channels),
        caught_by=("load", "shape"),
        severities=[("two", None)],
    ),
    Fault(
        name="librosa-default-rate",
        row=18,
        tier="B",
        stage="audio",
        source="mozilla/TTS #205",
        inject=via,
        cause="band-limited",
        caught_by=("golden-encoded", "golden-reconstructed"),
        severities=[("22050", 22_050)],
    ),
    Fault(
        name="layout-misread",
        row=28,
        tier="B",
        stage="audio",
        source="torchcodec #661",
        inject=lambda bench, mix: stereo(mix)(bench, None),
        caught_by=("load",),
        severities=[("interleaved", interleaved), ("across-channels", across_channels)],
    ),
    Fault(
        name="level-changed",
        row=29,
        tier="B",
        stage="audio",
        source="F5-TTS #818",
        inject=gain,
        cause="gain",
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("-12dB", -12.0), ("-1dB", -1.0), ("+1dB", 1.0), ("+6dB", 6.0)],
    ),
    Fault(
        name="silent-input",
        row=25,
        tier="B",
        stage="audio",
        source="F5-TTS #356",
        inject=read_as,
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("zeros", torch.zeros_like)],
    ),
    Fault(
        name="dc-offset",
        row=38,
        tier="C",
        stage="audio",
        source="OpenUtau PR #1763",
        inject=offset,
        cause="dc-offset",
        severities=[("0.001", 0.001), ("0.01", 0.01), ("0.05", 0.05)],
        caught_by=("golden-encoded", "golden-reconstructed"),
    ),
    Fault(
        name="clipped-input",
        row=39,
        tier="C",
        stage="audio",
        source="FastSpeech2 #81",
        inject=clipped,
        cause="clipping",
        caught_by=("golden-encoded", "full-scale", "golden-reconstructed"),
        severities=[("0.7", 0.7), ("0.5", 0.5), ("0.25", 0.25)],
    ),
    Fault(
        name="codec-delay",
        row=40,
        tier="C",
        stage="audio",
        source="pytorch/audio #1500",
        inject=late,
        cause="frame-shift",
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("528", 528), ("1105", 1105), ("2160", 2160)],
    ),
    Fault(
        name="codec-early",
        row=40,
        tier="C",
        stage="audio",
        source="senselab #573",
        inject=early,
        cause="frame-shift",
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("1105", 1105)],
    ),
    Fault(
        name="range-reads",
        row=41,
        tier="C",
        stage="audio",
        source="torchcodec #1601",
        inject=ranges,
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[("1", 1), ("8", 8)],
    ),
    Fault(
        name="packet-resampling",
        row=42,
        tier="C",
        stage="audio",
        source="F5-TTS #1241",
        inject=packets,
        severities=[("10ms", 10), ("20ms", 20), ("100ms", 100)],
        caught_by=("golden-encoded", "golden-reconstructed"),
    ),
    Fault(
        name="no-anti-alias",
        row=44,
        tier="C",
        stage="audio",
        source="DeepSpeech #1726",
        inject=read_as,
        cause="aliasing",
        caught_by=("load", "golden-encoded", "golden-reconstructed"),
        severities=[
            ("line-from-16000", upsampled("linear", 16_000)),
            ("step-from-12000", upsampled("nearest", 12_000)),
            ("every-second-sample", sliced),
        ],
    ),
    Fault(
        name="band-limited",
        row=45,
        tier="C",
        stage="audio",
        source="F5-TTS #93",
        inject=via,
        cause="band-limited",
        caught_by=("golden-encoded", "golden-reconstructed"),
        severities=[("16000", 16_000), ("12000", 12_000)],
    ),
    Fault(
        name="polarity",
        row=64,
        tier="C",
        stage="audio",
        source="by reasoning",
        inject=read_as,
        severities=[("inverted", torch.neg)],
        visible=False,
        reason="A magnitude has no sign: the mel of -x is that of x, and it sounds the same.",
    ),
    Fault(
        name="saturated-save",
        row=13,
        tier="A",
        stage="output",
        source="pytorch/audio #4211",
        inject=saturated,
        cause="saturated",
        caught_by=("save", "full-scale"),
        severities=[("int16", 32_767.0), ("int8", 127.0)],
    ),
    Fault(
        name="header-rate",
        row=19,
        tier="B",
        stage="output",
        source="CosyVoice #475",
        inject=header,
        cause="header-rate",
        caught_by=("save",),
        severities=[("48000", 48_000), ("22050", 22_050), ("12000", 12_000)],
    ),
    Fault(
        name="int16-wrap",
        row=26,
        tier="B",
        stage="output",
        source="FastSpeech2 #34",
        inject=wrapped,
        cause="int16-wrap",
        caught_by=("save",),
        severities=[("+1dB", 1.0), ("+3dB", 3.0), ("+6.8dB", 6.8)],
    ),
    Fault(
        name="clipped-output",
        row=39,
        tier="C",
        stage="output",
        source="torchaudio PR #4039",
        inject=loud_output,
        cause="clipping",
        caught_by=("save",),
        severities=[("+3dB", 3.0), ("+6dB", 6.0), ("+12dB", 12.0)],
    ),
    Fault(
        name="loudness-left-in",
        row=29,
        tier="B",
        stage="output",
        source="hifi-gan inference.py",
        inject=output_gain,
        cause="gain",
        caught_by=("save",),
        severities=[("0.95", 20 * math.log10(0.95)), ("-6dB", -6.0)],
    ),
)
"""Faults of loading and saving."""


def _vocoder_fault(
    name: str,
    row: int,
    tier: Literal["A", "B", "C"],
    source: str,
    inject: Callable[[Bench, Any], Loop],
    severities: Severities,
    *,
    cause: str | None = None,
    caught_by: tuple[str, ...] = ("decode", "golden-reconstructed"),
    reaches_reference: bool = False,
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="vocoder",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=caught_by,
        cause=cause,
        reaches_reference=reaches_reference,
    )


VOCODER_FAULTS: tuple[Fault, ...] = (
    _vocoder_fault(
        "batch-padding",
        20,
        "B",
        "hifi-gan #50",
        padded_batch,
        [("0", 0.0), ("-4", -4.0), ("-11.5", -11.5)],
        caught_by=("batch",),
        cause="tail",
    ),
    _vocoder_fault(
        "chunk-seams",
        21,
        "B",
        "hifi-gan #132",
        chunked,
        [("32", (32, 0)), ("64", (64, 0))],
        cause="seams",
    ),
    # Some context leaves so little of the seam that statistics of a whole mel need not show it.
    _vocoder_fault(
        "chunk-seams-in-context",
        21,
        "B",
        "hifi-gan #132",
        chunked,
        [("40", (40, 8)), ("64", (64, 8))],
        caught_by=("decode",),
        cause="seams",
    ),
    _vocoder_fault(
        "chunks-lose-samples",
        21,
        "B",
        "sglang-omni #1355",
        short_chunks,
        [("47", 47), ("64", 64)],
        caught_by=("shape", "decode"),
    ),
    _vocoder_fault(
        "weights-partly-loaded",
        22,
        "B",
        "F5-TTS #1292",
        reset,
        [
            ("one-layer", "backbone.convnext.2.dwconv"),
            ("one-block", "backbone.convnext.1"),
            ("head", "head.out"),
            ("backbone", "backbone"),
        ],
        cause="weights",
    ),
    _vocoder_fault(
        "half-precision",
        24,
        "B",
        "sglang-omni #1715",
        half_backbone,
        [("bfloat16", torch.bfloat16), ("float16", torch.float16)],
        caught_by=("decode",),
        cause="rounding",
    ),
    _vocoder_fault(
        "rounded-weights",
        24,
        "B",
        "ComfyUI #13219",
        rounded_weights,
        [("bfloat16", torch.bfloat16)],
    ),
    _vocoder_fault(
        "reversed-irfft",
        27,
        "B",
        "pytorch #126649",
        transform,
        [
            ("reversed", own_istft("squared", reverse=True)),
            ("conjugate", own_istft("squared", conjugate=True)),
        ],
    ),
    _vocoder_fault(
        "raw-for-averaged-weights",
        31,
        "B",
        "F5-TTS #895",
        raw_weights,
        [("1%", 0.01), ("5%", 0.05), ("20%", 0.2)],
    ),
    _vocoder_fault(
        "summation-order",
        32,
        "B",
        "vllm-omni #7231",
        reordered,
        [("random", None)],
        caught_by=("repeat",),
    ),
    _vocoder_fault(
        "half-precision-everywhere",
        24,
        "B",
        "ComfyUI #13219",
        half_backbone,
        [("bfloat16", torch.bfloat16)],
        caught_by=("golden-reconstructed",),
        reaches_reference=True,
    ),
    _vocoder_fault(
        "tf32",
        32,
        "B",
        "vllm-omni #7231",
        tf32,
        [("10-bits", 10)],
        caught_by=("decode",),
        cause="rounding",
    ),
    _vocoder_fault(
        "istft-envelope",
        46,
        "C",
        "kesha #718",
        transform,
        [("none", own_istft("none")), ("window", own_istft("window"))],
        cause="gain",
    ),
    _vocoder_fault(
        "istft-gain",
        46,
        "C",
        "tensorflow #16465",
        head_gain,
        [("half", 0.5), ("1.05", 1.05), ("2", 2.0)],
        cause="gain",
    ),
    _vocoder_fault(
        "exported-head",
        47,
        "C",
        "vocos #38",
        transform,
        [("half-window-late", own_istft("squared", late=512))],
        cause="shifted",
    ),
    # To a mel, one sample is nothing: as harmless as in what is read (tests/faults/test_benign.py).
    _vocoder_fault(
        "exported-head-one-late",
        47,
        "C",
        "vocos #38",
        transform,
        [("1-sample-late", own_istft("squared", late=1))],
        caught_by=("decode",),
        cause="shifted",
    ),
    _vocoder_fault(
        "exported-in-8-bits", 47, "C", "focalcodec #9", int8, [("head", "head.out"), ("all", "")]
    ),
    _vocoder_fault(
        "head-padding",
        48,
        "C",
        "vocos #18",
        head_padding,
        [("same", None)],
        caught_by=("preflight",),
    ),
    _vocoder_fault(
        "head-padding-cut",
        48,
        "C",
        "wavenext #4",
        head_padding_cut,
        [("same", None)],
        cause="shifted",
    ),
    _vocoder_fault(
        "weight-norm-lost",
        60,
        "C",
        "FlowSE #5",
        lost_gain,
        [("one-layer", "backbone.convnext.2.pwconv1.weight"), ("head", "head.out.weight")],
        cause="weights",
    ),
    _vocoder_fault(
        "output-inverted",
        64,
        "C",
        "by reasoning",
        head_gain,
        [("-1", -1.0)],
        caught_by=("decode",),
        cause="polarity",
    ),
)
"""Faults of the vocoder."""

_EMBEDDED = Path(audio.__file__).parent / "data" / "embedded"
_CONFIG, _WEIGHTS, _PICKLE = "config.yaml", "model.safetensors", "pytorch_model.bin"


def _loaded(bench: Bench, folder: Path) -> Loop:
    pipeline = MelPipeline(bench.expected.pipeline.config, vocoder=load_vocoder(folder))
    return bench.decode(pipeline.mel2waveform)


def _checkpoint(bench: Bench, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Loop:
    """Load the embedded vocoder from a folder, with its tensors changed."""
    shutil.copy(_EMBEDDED / _CONFIG, bench.folder)
    save_file(change(load_file(_EMBEDDED / _WEIGHTS)), bench.folder / _WEIGHTS)
    return _loaded(bench, bench.folder)


def _weights_file(bench: Bench, content: Callable[[bytes], bytes]) -> Loop:
    shutil.copy(_EMBEDDED / _CONFIG, bench.folder)
    data = (_EMBEDDED / _WEIGHTS).read_bytes()
    (bench.folder / _WEIGHTS).write_bytes(content(data))
    return _loaded(bench, bench.folder)


def _configuration(bench: Bench, change: tuple[str, str, Any]) -> Loop:
    section, name, value = change
    config = yaml.safe_load((_EMBEDDED / _CONFIG).read_text())
    config[section]["init_args"][name] = value
    (bench.folder / _CONFIG).write_text(yaml.safe_dump(config))
    shutil.copy(_EMBEDDED / _WEIGHTS, bench.folder)
    return _loaded(bench, bench.folder)


def _pickled_code(bench: Bench, _: None) -> Loop:
    shutil.copy(_EMBEDDED / _CONFIG, bench.folder)
    # A whole object instead of its tensors: what torch.save(model) writes.
    torch.save(torch.nn.Linear(2, 2), bench.folder / _PICKLE)
    return _loaded(bench, bench.folder)


def _pointer(data: bytes) -> bytes:
    return (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\n"
        b"size " + str(len(data)).encode() + b"\n"
    )


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _page(_: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>Sign in to download</body></html>"


def _prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def _without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(part)}


def _diverged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors["head.out.weight"][0, 0] = math.nan
    return tensors


def _other_filters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(name for name in tensors if name.endswith("mel_scale.fb"))
    return {**tensors, name: tensors[name].flip(0).contiguous()}


def _read_file(bench: Bench, path: Path) -> Loop:
    waveform = bench.expected.loop.load(path)
    return bench.read(lambda _: waveform)


@contextlib.contextmanager
def _no_torchcodec() -> Iterator[None]:
    # None in sys.modules makes `import` fail, as an installation without FFmpeg does.
    audio._torchcodec_name.cache_clear()
    with mock.patch.dict(sys.modules, {"torchcodec": None, "torchcodec.decoders": None}):
        yield
    audio._torchcodec_name.cache_clear()


def _no_decoder(bench: Bench, suffix: str) -> Loop:
    """Read, where FFmpeg does not load, a container that only FFmpeg knows."""
    path = bench.folder / f"clip{suffix}"
    # The first box of an MPEG-4 file.
    path.write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + bytes(4096))
    with _no_torchcodec():
        return _read_file(bench, path)


def _headerless(bench: Bench, dtype: torch.dtype) -> Loop:
    """Read samples without a header, under the name of a WAV."""
    path = bench.folder / "clip.wav"
    path.write_bytes((32_767 * bench.waveform).to(dtype).numpy().tobytes())
    return _read_file(bench, path)


def _file_of(bench: Bench, samples: Callable[[Tensor], Tensor]) -> Loop:
    path = bench.folder / "clip.wav"
    soundfile.write(path, samples(bench.waveform)[0].numpy(), VOCOS.sample_rate, subtype="FLOAT")
    return _read_file(bench, path)


def _with_nan(waveform: Tensor) -> Tensor:
    broken = waveform.clone()
    broken[..., 1000] = math.nan
    return broken


def _elsewhere(bench: Bench, stage: str) -> Loop:
    """Leave one tensor on another device than the model."""
    pipeline = bench.expected.pipeline
    if stage == "mel":
        return bench.decode(lambda mel: pipeline.mel2waveform(mel.to("meta")))
    return bench.extract(lambda waveform: pipeline.waveform2mel(waveform.to("meta")))


def _missing_device(bench: Bench, device: str) -> Loop:
    config = bench.expected.pipeline.config
    return bench.decode(MelPipeline(config, vocoder="embedded", device=device).mel2waveform)


def _half_input(bench: Bench, dtype: torch.dtype) -> Loop:
    pipeline = bench.expected.pipeline
    return bench.decode(lambda mel: pipeline.mel2waveform(mel.to(dtype)))


def _environment_fault(
    name: str, row: int, tier: Any, source: str, inject: Any, severities: Severities
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="environment",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=("preflight",),
    )


FILE_FAULTS: tuple[Fault, ...] = (
    _environment_fault("no-ffmpeg", 7, "A", "F5-TTS #1234", _no_decoder, [("m4a", ".m4a")]),
    _environment_fault(
        "prefixed-weights",
        22,
        "B",
        "rfwave #10",
        _checkpoint,
        [
            ("compiled", _prefixed("_orig_mod.")),
            ("data-parallel", _prefixed("module.")),
            ("generator", _prefixed("generator.")),
        ],
    ),
    _environment_fault(
        "missing-weights",
        22,
        "B",
        "F5-TTS #1292",
        _checkpoint,
        [("one-key", _without("head.out.bias")), ("backbone", _without("backbone"))],
    ),
    _environment_fault(
        "damaged-checkpoint",
        23,
        "B",
        "coqui #2422",
        _weights_file,
        [("lfs-pointer", _pointer), ("cut-short", _cut), ("html-page", _page)],
    ),
    _environment_fault(
        "pickled-code",
        23,
        "B",
        "ultimatevocalremovergui #2290",
        _pickled_code,
        [("whole-model", None)],
    ),
    _environment_fault(
        "averaged-weights", 31, "B", "F5-TTS #293", _checkpoint, [("ema", _prefixed("ema_model."))]
    ),
    _environment_fault(
        "half-input",
        24,
        "B",
        "F5-TTS #345",
        _half_input,
        [("float16", torch.float16), ("bfloat16", torch.bfloat16)],
    ),
    _environment_fault("nan-weights", 25, "B", "F5-TTS #578", _checkpoint, [("one", _diverged)]),
    _environment_fault("nan-in-file", 25, "B", "AGAIN-VC #5", _file_of, [("one", _with_nan)]),
    _environment_fault(
        "filters-of-another-mel", 1, "A", "F5-TTS #141", _checkpoint, [("flipped", _other_filters)]
    ),
    _environment_fault(
        "head-padding-in-config",
        48,
        "C",
        "vocos #18",
        _configuration,
        [("same", ("head", "padding", "same"))],
    ),
    _environment_fault(
        "short-clip",
        54,
        "C",
        "whisper.cpp #3925",
        _file_of,
        [
            ("400", lambda waveform: waveform[..., :400]),
            ("512", lambda waveform: waveform[..., :512]),
        ],
    ),
    _environment_fault(
        "other-device",
        55,
        "C",
        "ChatTTS #741",
        _elsewhere,
        [("mel", "mel"), ("waveform", "waveform")],
    ),
    _environment_fault(
        "missing-device", 55, "C", "pytorch #30865", _missing_device, [("cuda-99", "cuda:99")]
    ),
    _environment_fault(
        "newer-config",
        56,
        "C",
        "hifi-gan #176",
        _configuration,
        [("unknown-argument", ("head", "clip_magnitude", 100))],
    ),
    _environment_fault(
        "unreadable-audio",
        59,
        "C",
        "vits2 #17",
        _headerless,
        [("int16", torch.int16), ("int32", torch.int32)],
    ),
)
"""Faults of the environment."""

FAULTS: tuple[Fault, ...] = (
    *RECIPE_FAULTS,
    *MEL_FAULTS,
    *AUDIO_FAULTS,
    *VOCODER_FAULTS,
    *FILE_FAULTS,
)
"""Every fault, in the order of the stages."""

_PAUSE_SECONDS = 0.3
_HISS = 0.01


def expect_probe(
    clip: Clip, pipeline: MelPipeline, probe: Probe, *, goldens: Path | None = None
) -> Expectation:
    """Return what the healthy loop does with a clip, prepared as a probe asks.

    Args:
        clip: The clip.
        pipeline: The healthy loop.
        probe: See `tests.faults.model.Probe`.
        goldens: Folder of the clip's goldens, which apply to the clip as recorded only.
    """
    if probe == "recorded":
        return expect(clip, pipeline, goldens=goldens)
    changed = dataclasses.replace(pipeline.config, audio_path=clip.path)
    waveform = MelPipeline(changed, vocoder=pipeline.vocoder).load_audio()
    return expect(clip, pipeline, waveform=_probe(waveform, probe))


def _probe(waveform: Tensor, probe: Probe) -> Tensor:
    samples = waveform.shape[-1]
    waveform = waveform.clone()
    if probe == "pause":
        begin = samples // 2
        waveform[..., begin : begin + round(_PAUSE_SECONDS * VOCOS.sample_rate)] = 0.0
    elif probe == "hiss":
        generator = torch.Generator().manual_seed(0)
        waveform += _HISS * torch.randn(waveform.shape, generator=generator)
    elif probe == "silent edges":
        waveform[..., : VOCOS.n_fft] = 0.0
        waveform[..., -VOCOS.n_fft :] = 0.0
    elif probe == "square":
        length = VOCOS.num_samples(VOCOS.n_mels) + VOCOS.hop_length // 2
        waveform = waveform.repeat(1, -(-length // samples))
        # About the loudest sample, so that there is something to see.
        loudest = int(waveform.abs().argmax())
        begin = min(max(0, loudest - length // 2), waveform.shape[-1] - length)
        waveform = waveform[..., begin : begin + length]
    return waveform


def run_fault(
    fault: Fault,
    severity: str,
    expected: Expectation,
    folder: Path,
    *,
    gates: Collection[str] | None = None,
) -> dict[str, str]:
    """Inject a fault and return what each gate that fires has found, by the gate's name.

    Args:
        fault: The fault.
        severity: The label of one of its severities.
        expected: What the healthy loop does, as `expect_probe` gives it for `fault.probe`.
        folder: An empty folder that may be written to.
        gates: Names of the gates to run; None for all.

    Raises:
        KeyError: The fault has no such severity.
    """
    parameter = dict(fault.severities)[severity]
    try:
        loop = fault.inject(Bench(expected, folder), parameter)
    except (ValueError, VocoderError) as error:  # refused before there is a loop at all
        return {"preflight": str(error)}
    if fault.reaches_reference:
        mel = loop.extract(expected.waveform)
        decoded = loop.decode(mel)
        expected = dataclasses.replace(
            expected, loop=loop, mel=mel, decoded=decoded, decoded_mel=loop.extract(decoded)
        )
    return inspect(loop, expected, folder, gates=gates)
