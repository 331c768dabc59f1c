"""Faults of what comes before the mel and after the decoder: files, rates, channels, levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.injections import Bench, Fault
from melcheck.loops import Loop
from melcheck.recipes import VOCOS

__all__ = ["AUDIO_FAULTS"]

_RATE = VOCOS.sample_rate
_INT16 = 32_767


def _resample(waveform: Tensor, source: int, target: int) -> Tensor:
    resampled: Tensor = torchaudio.functional.resample(waveform, source, target)
    return resampled


def _fitted(waveform: Tensor, samples: int) -> Tensor:
    missing = samples - waveform.shape[-1]
    return torch.nn.functional.pad(waveform, (0, max(0, missing)))[..., :samples]


def _write(path: Path, waveform: Tensor, rate: int = _RATE) -> None:
    soundfile.write(path, waveform.T.numpy(), rate, subtype="FLOAT")


def _read(path: Path) -> tuple[Tensor, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(samples.T.copy()), rate


# On the way in.


def _rate_ignored(bench: Bench, rate: int) -> Loop:
    """Read a file of another rate and take its samples as they are."""
    path = bench.folder / "input.wav"
    _write(path, _resample(bench.waveform, _RATE, rate), rate)
    return bench.read(lambda _: _read(path)[0])


def _rate_ignored_and_cut(bench: Bench, rate: int) -> Loop:
    path = bench.folder / "input.wav"
    _write(path, _resample(bench.waveform, _RATE, rate), rate)
    return bench.read(lambda healthy: _fitted(_read(path)[0], healthy.shape[-1]))


def _via(bench: Bench, rate: int) -> Loop:
    def there_and_back(healthy: Tensor) -> Tensor:
        back = _resample(_resample(healthy, _RATE, rate), rate, _RATE)
        return _fitted(back, healthy.shape[-1])

    return bench.read(there_and_back)


def _stereo_file(bench: Bench) -> Path:
    """Write two different channels whose mean is the clip."""
    path = bench.folder / "stereo.wav"
    side = 0.3 * bench.waveform.roll(40, dims=-1)
    _write(path, torch.cat([bench.waveform + side, bench.waveform - side]))
    return path


def _stereo(mix: Callable[[Tensor], Tensor]) -> Callable[[Bench, None], Loop]:
    def inject(bench: Bench, _: None) -> Loop:
        path = _stereo_file(bench)
        return bench.read(lambda _: mix(_read(path)[0]))

    return inject


def _side(bench: Bench, channel: int) -> Loop:
    path = _stereo_file(bench)
    return bench.read(lambda _: _read(path)[0][channel : channel + 1])


def _interleaved(channels: Tensor) -> Tensor:
    return channels.T.reshape(1, -1)


def _across_channels(channels: Tensor) -> Tensor:
    # soundfile gives [samples, channels]: the last axis has two values to resample.
    return _resample(channels.T, 48_000, _RATE).T.mean(dim=0, keepdim=True)


def _gain(bench: Bench, decibels: float) -> Loop:
    return bench.read(lambda healthy: healthy * 10 ** (decibels / 20))


def _offset(bench: Bench, offset: float) -> Loop:
    return bench.read(lambda healthy: healthy + offset)


def _clipped(bench: Bench, share: float) -> Loop:
    def clip(healthy: Tensor) -> Tensor:
        limit = share * healthy.abs().max().item()
        return healthy.clip(-limit, limit)

    return bench.read(clip)


def _late(bench: Bench, samples: int) -> Loop:
    def delay(healthy: Tensor) -> Tensor:
        return torch.nn.functional.pad(healthy, (samples, 0))[..., : healthy.shape[-1]]

    return bench.read(delay)


def _early(bench: Bench, samples: int) -> Loop:
    return bench.read(lambda healthy: _fitted(healthy[..., samples:], healthy.shape[-1]))


def _ranges(bench: Bench, lost: int) -> Loop:
    """Read in ranges of half a second, each short of its last samples."""
    ranges = torch.split(bench.waveform, _RATE // 2, dim=-1)
    return bench.read(lambda _: torch.cat([part[..., : -lost or None] for part in ranges], dim=-1))


def _packets(bench: Bench, milliseconds: int) -> Loop:
    """Resample each packet on its own, with a filter that begins anew at each edge."""
    source = _resample(bench.waveform, _RATE, 2 * _RATE)
    packets = torch.split(source, 2 * _RATE * milliseconds // 1000, dim=-1)

    def resample(healthy: Tensor) -> Tensor:
        joined = torch.cat([_resample(packet, 2 * _RATE, _RATE) for packet in packets], dim=-1)
        return _fitted(joined, healthy.shape[-1])

    return bench.read(resample)


def _upsampled(mode: str, rate: int) -> Callable[[Tensor], Tensor]:
    """Upsample from a lower rate with a line or a step between samples, which leaves images."""

    def upsample(healthy: Tensor) -> Tensor:
        low = _resample(healthy, _RATE, rate)
        up = torch.nn.functional.interpolate(low[None], size=healthy.shape[-1], mode=mode)
        return up[0]

    return upsample


def _sliced(healthy: Tensor) -> Tensor:
    """Take every second sample, which folds the upper half of the spectrum onto the lower."""
    return _fitted(_resample(healthy[..., ::2], _RATE // 2, _RATE), healthy.shape[-1])


def _read_as(bench: Bench, change: Callable[[Tensor], Tensor]) -> Loop:
    return bench.read(change)


# On the way out.


def _saturated(bench: Bench, scale: float) -> Loop:
    """Give integer samples to a writer that takes them for floats and clips at full scale."""

    def save(path: Path, waveform: Tensor) -> None:
        integers = (scale * waveform).round()
        soundfile.write(path, integers[0].numpy(), _RATE, subtype="PCM_16")

    return bench.save(save)


def _wrapped(bench: Bench, decibels: float) -> Loop:
    """Convert to int16 without a limit, `decibels` above a result that just fits."""

    def save(path: Path, waveform: Tensor) -> None:
        factor = 10 ** (decibels / 20) / waveform.abs().max()
        integers = (factor * waveform * _INT16).round().int()
        wrapped = (integers + 2**15) % 2**16 - 2**15
        soundfile.write(path, wrapped[0].to(torch.int16).numpy(), _RATE)

    return bench.save(save)


def _header(bench: Bench, rate: int) -> Loop:
    return bench.save(lambda path, waveform: _write(path, waveform, rate))


def _loud_output(bench: Bench, decibels: float) -> Loop:
    """Amplify before saving 16 bits: what passes full scale is cut."""

    def save(path: Path, waveform: Tensor) -> None:
        factor = 10 ** (decibels / 20) / waveform.abs().max()
        soundfile.write(path, (factor * waveform)[0].numpy(), _RATE, subtype="PCM_16")

    return bench.save(save)


def _output_gain(bench: Bench, decibels: float) -> Loop:
    return bench.save(lambda path, waveform: _write(path, 10 ** (decibels / 20) * waveform))


AUDIO_FAULTS: tuple[Fault, ...] = (
    Fault(
        name="rate-ignored",
        row=2,
        tier="A",
        stage="audio",
        source="F5-TTS #666",
        inject=_rate_ignored,
        cause="sample-rate",
        caught_by=(
            "load",
            "shape",
        ),
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
        inject=_rate_ignored_and_cut,
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("48000", 48_000), ("25000", 25_000)],
    ),
    Fault(
        name="stereo-summed",
        row=11,
        tier="A",
        stage="audio",
        source="vosk-tts #28",
        inject=_stereo(lambda channels: channels.sum(dim=0, keepdim=True)),
        cause="stereo-sum",
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("sum", None)],
    ),
    Fault(
        name="stereo-one-side",
        row=11,
        tier="A",
        stage="audio",
        source="vits-finetuning #26",
        inject=_side,
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("left", 0), ("right", 1)],
    ),
    Fault(
        name="stereo-as-batch",
        row=11,
        tier="A",
        stage="audio",
        source="tacotron2 #479",
        inject=_stereo(lambda channels: channels),
        caught_by=(
            "load",
            "shape",
        ),
        severities=[("two", None)],
    ),
    Fault(
        name="librosa-default-rate",
        row=18,
        tier="B",
        stage="audio",
        source="mozilla/TTS #205",
        inject=_via,
        cause="band-limited",
        caught_by=(
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("22050", 22_050)],
    ),
    Fault(
        name="layout-misread",
        row=28,
        tier="B",
        stage="audio",
        source="torchcodec #661",
        inject=lambda bench, mix: _stereo(mix)(bench, None),
        caught_by=("load",),
        severities=[("interleaved", _interleaved), ("across-channels", _across_channels)],
    ),
    Fault(
        name="level-changed",
        row=29,
        tier="B",
        stage="audio",
        source="F5-TTS #818",
        inject=_gain,
        cause="gain",
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("-12dB", -12.0), ("-1dB", -1.0), ("+1dB", 1.0), ("+6dB", 6.0)],
    ),
    Fault(
        name="silent-input",
        row=25,
        tier="B",
        stage="audio",
        source="F5-TTS #356",
        inject=_read_as,
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("zeros", torch.zeros_like)],
    ),
    Fault(
        name="dc-offset",
        row=38,
        tier="C",
        stage="audio",
        source="OpenUtau PR #1763",
        inject=_offset,
        cause="dc-offset",
        severities=[("0.001", 0.001), ("0.01", 0.01), ("0.05", 0.05)],
        caught_by=(
            "golden-encoded",
            "golden-reconstructed",
        ),
    ),
    Fault(
        name="clipped-input",
        row=39,
        tier="C",
        stage="audio",
        source="FastSpeech2 #81",
        inject=_clipped,
        cause="clipping",
        caught_by=(
            "golden-encoded",
            "full-scale",
            "golden-reconstructed",
        ),
        severities=[("0.7", 0.7), ("0.5", 0.5), ("0.25", 0.25)],
    ),
    Fault(
        name="codec-delay",
        row=40,
        tier="C",
        stage="audio",
        source="pytorch/audio #1500",
        inject=_late,
        cause="frame-shift",
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("528", 528), ("1105", 1105), ("2160", 2160)],
    ),
    Fault(
        name="codec-early",
        row=40,
        tier="C",
        stage="audio",
        source="senselab #573",
        inject=_early,
        cause="frame-shift",
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("1105", 1105)],
    ),
    Fault(
        name="range-reads",
        row=41,
        tier="C",
        stage="audio",
        source="torchcodec #1601",
        inject=_ranges,
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("1", 1), ("8", 8)],
    ),
    Fault(
        name="packet-resampling",
        row=42,
        tier="C",
        stage="audio",
        source="F5-TTS #1241",
        inject=_packets,
        severities=[("10ms", 10), ("20ms", 20), ("100ms", 100)],
        caught_by=(
            "golden-encoded",
            "golden-reconstructed",
        ),
    ),
    Fault(
        name="no-anti-alias",
        row=44,
        tier="C",
        stage="audio",
        source="DeepSpeech #1726",
        inject=_read_as,
        cause="aliasing",
        caught_by=(
            "load",
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[
            ("line-from-16000", _upsampled("linear", 16_000)),
            ("step-from-12000", _upsampled("nearest", 12_000)),
            ("every-second-sample", _sliced),
        ],
    ),
    Fault(
        name="band-limited",
        row=45,
        tier="C",
        stage="audio",
        source="F5-TTS #93",
        inject=_via,
        cause="band-limited",
        caught_by=(
            "golden-encoded",
            "golden-reconstructed",
        ),
        severities=[("16000", 16_000), ("12000", 12_000)],
    ),
    Fault(
        name="polarity",
        row=64,
        tier="C",
        stage="audio",
        source="by reasoning",
        inject=_read_as,
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
        inject=_saturated,
        cause="saturated",
        caught_by=(
            "save",
            "full-scale",
        ),
        severities=[("int16", 32_767.0), ("int8", 127.0)],
    ),
    Fault(
        name="header-rate",
        row=19,
        tier="B",
        stage="output",
        source="CosyVoice #475",
        inject=_header,
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
        inject=_wrapped,
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
        inject=_loud_output,
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
        inject=_output_gain,
        cause="gain",
        caught_by=("save",),
        severities=[("0.95", 20 * math.log10(0.95)), ("-6dB", -6.0)],
    ),
)
"""Faults of loading and saving."""
