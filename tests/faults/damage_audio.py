"""Damage to reading and saving: rates, channels, levels and delays, in real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.recipes import VOCOS
from tests.faults.model import InjectionTarget, LoopUnderTest

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


def rate_ignored(target: InjectionTarget, rate: int) -> LoopUnderTest:
    """Read a file of another rate and take its samples as they are."""
    path = target.folder / "input.wav"
    _write(path, _resample(target.waveform, _RATE, rate), rate)
    return target.with_input(lambda _: _read(path)[0])


def rate_ignored_and_cut(target: InjectionTarget, rate: int) -> LoopUnderTest:
    """Read a file of another rate as it is, and cut or pad it to the length that is expected."""
    path = target.folder / "input.wav"
    _write(path, _resample(target.waveform, _RATE, rate), rate)
    return target.with_input(lambda healthy: _fitted(_read(path)[0], healthy.shape[-1]))


def via(target: InjectionTarget, rate: int) -> LoopUnderTest:
    """Resample to another rate and back."""

    def there_and_back(healthy: Tensor) -> Tensor:
        back = _resample(_resample(healthy, _RATE, rate), rate, _RATE)
        return _fitted(back, healthy.shape[-1])

    return target.with_input(there_and_back)


def _stereo_file(target: InjectionTarget) -> Path:
    """Write two different channels whose mean is the clip."""
    path = target.folder / "stereo.wav"
    side = 0.3 * target.waveform.roll(40, dims=-1)
    _write(path, torch.cat([target.waveform + side, target.waveform - side]))
    return path


def stereo(target: InjectionTarget, mix: Callable[[Tensor], Tensor]) -> LoopUnderTest:
    """Read a file of two channels and reduce them, `[2, samples]`, by some function."""
    path = _stereo_file(target)
    return target.with_input(lambda _: mix(_read(path)[0]))


def summed(channels: Tensor) -> Tensor:
    """Add the channels in place of their mean."""
    return channels.sum(dim=0, keepdim=True)


def left(channels: Tensor) -> Tensor:
    """Take the first channel alone."""
    return channels[:1]


def right(channels: Tensor) -> Tensor:
    """Take the second channel alone."""
    return channels[1:]


def unmixed(channels: Tensor) -> Tensor:
    """Take two channels for a batch of two."""
    return channels


def interleaved(channels: Tensor) -> Tensor:
    """Take two channels for one, sample by sample in turn."""
    return channels.T.reshape(1, -1)


def across_channels(channels: Tensor) -> Tensor:
    """Resample along the channels in place of the samples."""
    # soundfile gives [samples, channels]: the last axis has two values to resample.
    return _resample(channels.T, 48_000, _RATE).T.mean(dim=0, keepdim=True)


def gain(target: InjectionTarget, decibels: float) -> LoopUnderTest:
    """Read the clip louder."""
    return target.with_input(lambda healthy: healthy * 10 ** (decibels / 20))


def offset(target: InjectionTarget, offset: float) -> LoopUnderTest:
    """Read the clip with a constant added."""
    return target.with_input(lambda healthy: healthy + offset)


def clipped(target: InjectionTarget, share: float) -> LoopUnderTest:
    """Cut the clip off at a share of its peak."""

    def clip(healthy: Tensor) -> Tensor:
        limit = share * healthy.abs().max().item()
        return healthy.clip(-limit, limit)

    return target.with_input(clip)


def late(target: InjectionTarget, samples: int) -> LoopUnderTest:
    """Read the clip after so many zeros, its end cut off."""

    def delay(healthy: Tensor) -> Tensor:
        return torch.nn.functional.pad(healthy, (samples, 0))[..., : healthy.shape[-1]]

    return target.with_input(delay)


def early(target: InjectionTarget, samples: int) -> LoopUnderTest:
    """Read the clip without its first samples, zeros at its end."""
    return target.with_input(lambda healthy: _fitted(healthy[..., samples:], healthy.shape[-1]))


def ranges(target: InjectionTarget, lost: int) -> LoopUnderTest:
    """Read in ranges of half a second, each short of its last samples."""
    ranges = torch.split(target.waveform, _RATE // 2, dim=-1)
    return target.with_input(
        lambda _: torch.cat([part[..., : -lost or None] for part in ranges], dim=-1)
    )


def packets(target: InjectionTarget, milliseconds: int) -> LoopUnderTest:
    """Resample each packet on its own, with a filter that begins anew at each edge."""
    source = _resample(target.waveform, _RATE, 2 * _RATE)
    packets = torch.split(source, 2 * _RATE * milliseconds // 1000, dim=-1)

    def resample(healthy: Tensor) -> Tensor:
        joined = torch.cat([_resample(packet, 2 * _RATE, _RATE) for packet in packets], dim=-1)
        return _fitted(joined, healthy.shape[-1])

    return target.with_input(resample)


def upsampled(mode: str, rate: int) -> Callable[[Tensor], Tensor]:
    """Upsample from a lower rate with a line or a step between samples, which leaves images."""

    def upsample(healthy: Tensor) -> Tensor:
        low = _resample(healthy, _RATE, rate)
        up = torch.nn.functional.interpolate(low[None], size=healthy.shape[-1], mode=mode)
        return up[0]

    return upsample


def sliced(healthy: Tensor) -> Tensor:
    """Take every second sample, which folds the upper half of the spectrum onto the lower."""
    return _fitted(_resample(healthy[..., ::2], _RATE // 2, _RATE), healthy.shape[-1])


def read_as(target: InjectionTarget, change: Callable[[Tensor], Tensor]) -> LoopUnderTest:
    """Read the clip changed by any function."""
    return target.with_input(change)


# On the way out.


def saturated(target: InjectionTarget, scale: float) -> LoopUnderTest:
    """Give integer samples to a writer that takes them for floats and clips at full scale."""

    def save(path: Path, waveform: Tensor) -> None:
        integers = (scale * waveform).round()
        soundfile.write(path, integers[0].numpy(), _RATE, subtype="PCM_16")

    return target.with_saver(save)


def wrapped(target: InjectionTarget, decibels: float) -> LoopUnderTest:
    """Convert to int16 without a limit, `decibels` above a result that just fits."""

    def save(path: Path, waveform: Tensor) -> None:
        factor = 10 ** (decibels / 20) / waveform.abs().max()
        integers = (factor * waveform * _INT16).round().int()
        wrapped = (integers + 2**15) % 2**16 - 2**15
        soundfile.write(path, wrapped[0].to(torch.int16).numpy(), _RATE)

    return target.with_saver(save)


def header(target: InjectionTarget, rate: int) -> LoopUnderTest:
    """Write the samples under a header of another rate."""
    return target.with_saver(lambda path, waveform: _write(path, waveform, rate))


def loud_output(target: InjectionTarget, decibels: float) -> LoopUnderTest:
    """Amplify before saving 16 bits: what passes full scale is cut."""

    def save(path: Path, waveform: Tensor) -> None:
        factor = 10 ** (decibels / 20) / waveform.abs().max()
        soundfile.write(path, (factor * waveform)[0].numpy(), _RATE, subtype="PCM_16")

    return target.with_saver(save)


def output_gain(target: InjectionTarget, decibels: float) -> LoopUnderTest:
    """Write the result louder."""
    return target.with_saver(lambda path, waveform: _write(path, 10 ** (decibels / 20) * waveform))
