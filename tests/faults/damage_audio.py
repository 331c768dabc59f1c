"""Damage to reading and saving: rates, channels, levels and delays, in real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.recipes import VOCOS
from tests.faults.model import InjectionTarget, Project, read

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


def _file_of_rate(target: InjectionTarget, rate: int) -> Path:
    path = target.folder / f"clip-{rate}.wav"
    _write(path, _resample(target.waveform, _RATE, rate), rate)
    return path


def _mono(path: Path) -> Tensor:
    return _read(path)[0].mean(dim=0, keepdim=True)


def rate_ignored(target: InjectionTarget, rate: int) -> Project:
    """Read a file of another rate and take its samples as they are."""
    return target.with_loader(_mono, clip=_file_of_rate(target, rate))


def rate_ignored_and_cut(target: InjectionTarget, rate: int) -> Project:
    """Read a file of another rate as it is, and cut or pad it to the length that is expected."""
    return target.with_loader(
        lambda path: _fitted(_mono(path), read(Path(path)).shape[-1]),
        clip=_file_of_rate(target, rate),
    )


def via(target: InjectionTarget, rate: int) -> Project:
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


def stereo(target: InjectionTarget, mix: Callable[[Tensor], Tensor]) -> Project:
    """Read files of two channels and reduce them, `[2, samples]`, by some function."""

    def load(path: Path) -> tuple[Tensor, int]:
        channels, rate = _read(path)
        return (mix(channels) if len(channels) > 1 else channels), rate

    return target.with_loader(load, clip=_stereo_file(target))


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


def gain(target: InjectionTarget, decibels: float) -> Project:
    """Read the clip louder."""
    return target.with_input(lambda healthy: healthy * 10 ** (decibels / 20))


def offset(target: InjectionTarget, offset: float) -> Project:
    """Read the clip with a constant added."""
    return target.with_input(lambda healthy: healthy + offset)


def clipped(target: InjectionTarget, share: float) -> Project:
    """Cut the clip off at a share of its peak."""

    def clip(healthy: Tensor) -> Tensor:
        limit = share * healthy.abs().max().item()
        return healthy.clip(-limit, limit)

    return target.with_input(clip)


def late(target: InjectionTarget, samples: int) -> Project:
    """Read the clip after so many zeros, its end cut off."""

    def delay(healthy: Tensor) -> Tensor:
        return torch.nn.functional.pad(healthy, (samples, 0))[..., : healthy.shape[-1]]

    return target.with_input(delay)


def early(target: InjectionTarget, samples: int) -> Project:
    """Read the clip without its first samples, zeros at its end."""
    return target.with_input(lambda healthy: _fitted(healthy[..., samples:], healthy.shape[-1]))


def ranges(target: InjectionTarget, lost: int) -> Project:
    """Read in ranges of half a second, each short of its last samples."""
    return target.with_input(
        lambda healthy: torch.cat(
            [part[..., :-lost] for part in torch.split(healthy, _RATE // 2, dim=-1)], dim=-1
        )
    )


def packets(target: InjectionTarget, milliseconds: int) -> Project:
    """Resample each packet on its own, with a filter that begins anew at each edge."""

    def load(path: Path) -> Tensor:
        rate = _read(path)[1]
        packets = torch.split(_mono(path), rate * milliseconds // 1000, dim=-1)
        return torch.cat([_resample(packet, rate, _RATE) for packet in packets], dim=-1)

    return target.with_loader(load, clip=_file_of_rate(target, 2 * _RATE))


def crude(target: InjectionTarget, how: tuple[int, Callable[[Tensor, int], Tensor]]) -> Project:
    """Read a file of another rate and resample it without a filter."""
    rate, resample = how
    return target.with_loader(
        lambda path: resample(_mono(path), _read(path)[1]), clip=_file_of_rate(target, rate)
    )


def interpolated(mode: str) -> Callable[[Tensor, int], Tensor]:
    """Draw a line or a step between samples, which leaves images."""

    def resample(samples: Tensor, rate: int) -> Tensor:
        size = round(samples.shape[-1] * _RATE / rate)
        return torch.nn.functional.interpolate(samples[None], size=size, mode=mode)[0]

    return resample


def sliced(samples: Tensor, rate: int) -> Tensor:
    """Take the sample before each place, which folds the upper half of the spectrum down."""
    places = torch.arange(round(samples.shape[-1] * _RATE / rate)) * rate // _RATE
    return samples[..., places]


def read_as(target: InjectionTarget, change: Callable[[Tensor], Tensor]) -> Project:
    """Read the clip changed by any function."""
    return target.with_input(change)


# On the way out.


def saturated(target: InjectionTarget, scale: float) -> Project:
    """Give integer samples to a writer that takes them for floats and clips at full scale."""

    def save(path: Path, waveform: Tensor, rate: int) -> None:
        integers = (scale * waveform).round()
        soundfile.write(path, integers[0].numpy(), _RATE, subtype="PCM_16")

    return target.with_saver(save)


def wrapped(target: InjectionTarget, decibels: float) -> Project:
    """Convert to int16 without a limit, `decibels` above a result that just fits."""

    def save(path: Path, waveform: Tensor, rate: int) -> None:
        factor = 10 ** (decibels / 20) / waveform.abs().max()
        integers = (factor * waveform * _INT16).round().int()
        wrapped = (integers + 2**15) % 2**16 - 2**15
        soundfile.write(path, wrapped[0].to(torch.int16).numpy(), _RATE)

    return target.with_saver(save)


def header(target: InjectionTarget, rate: int) -> Project:
    """Write the samples under a header of another rate."""
    return target.with_saver(lambda path, waveform, _: _write(path, waveform, rate))


def loud_output(target: InjectionTarget, decibels: float) -> Project:
    """Amplify before saving 16 bits: what passes full scale is cut."""

    def save(path: Path, waveform: Tensor, rate: int) -> None:
        factor = 10 ** (decibels / 20) / waveform.abs().max()
        soundfile.write(path, (factor * waveform)[0].numpy(), _RATE, subtype="PCM_16")

    return target.with_saver(save)


def output_gain(target: InjectionTarget, decibels: float) -> Project:
    """Write the result louder."""
    factor = 10 ** (decibels / 20)
    return target.with_saver(lambda path, waveform, rate: _write(path, factor * waveform, rate))
