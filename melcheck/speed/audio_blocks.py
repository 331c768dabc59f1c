"""A long audio file as a waveform in blocks, in memory that its length does not change.

The blocks, one after the other, are the waveform that `melcheck.audio.load_audio` makes of the
whole file by soundfile. Resampling is blockwise too: a block begins at a whole period of the ratio
of the two rates, is resampled together with what the kernel reaches on each side, and that is cut
off again.

TorchCodec is not used: libsndfile reads WAV, FLAC, OGG and MP3 on without looking back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torchaudio
from torch import Tensor

from melcheck.audio import (
    LOWPASS_FILTER_WIDTH,
    ROLLOFF,
    UNKNOWN_LENGTH,
    check_complete,
    check_finite,
    check_length,
    check_rates,
    checked_head,
    no_samples,
    soundfile_name,
    soundfile_reason,
    source_samples,
    undecodable,
    unknown_length,
)
from melcheck.config import MelCheckConfig

_BLOCK_SECONDS = 5.0


def audio_blocks(
    config: MelCheckConfig, *, min_samples: int = 1, block_seconds: float = _BLOCK_SECONDS
) -> Iterator[Tensor]:
    """Read an audio file block by block, as a mono waveform at the wanted rate.

    Args:
        config: The file, the rate in Hz, and the duration in seconds. `pad_short` must be False.
        min_samples: The fewest samples that are of use, at `config.target_sr`.
        block_seconds: How much is read at a time.

    Yields:
        `[1, samples]`, float32, full scale +-1, of any number of samples from 1 up.

    Raises:
        ValueError: `config.pad_short` is set.
        FileNotFoundError: There is no such file.
        AudioError: What `load_audio` raises; of a file that breaks off, after the blocks before.
    """
    if config.pad_short:
        raise ValueError(
            "pad_short must be False for audio that is read in blocks, got True. Padding is for "
            "clips that are shorter than the rest of a batch."
        )
    left = config.target_samples
    given = 0
    for block in _at_target_rate(config, block_seconds):
        kept = block if left is None else block[:, : left - given]
        given += kept.shape[-1]
        if kept.shape[-1]:
            yield kept
    check_length(config, given, min_samples)


def resample_blocks(
    blocks: Iterable[Tensor], source_rate: int, target_rate: int
) -> Iterator[Tensor]:
    """Resample a waveform that comes in blocks, as `torchaudio.functional.resample` does a whole.

    Args:
        blocks: `[1, samples]` each, float32, one after the other.
        source_rate: Hz.
        target_rate: Hz.

    Yields:
        `[1, samples]`, together ceil(samples * target_rate / source_rate).
    """
    if source_rate == target_rate:
        yield from blocks
        return
    divisor = math.gcd(source_rate, target_rate)
    period, outputs = source_rate // divisor, target_rate // divisor
    # In float32, as the function computes its kernel for a float32 waveform.
    resample = torchaudio.transforms.Resample(
        source_rate,
        target_rate,
        lowpass_filter_width=LOWPASS_FILTER_WIDTH,
        rolloff=ROLLOFF,
        dtype=torch.float32,
    )
    # The kernel reaches `width` samples to each side of a period.
    reach = math.ceil(resample.width / period)
    held, done = torch.zeros(1, 0), 0  # `done` periods of those held are context alone
    for block in blocks:
        held = torch.cat([held, block], dim=-1)
        ready = held.shape[-1] // period - reach
        if ready > done:
            yield resample(held)[:, done * outputs : ready * outputs]
            dropped = max(ready - reach, 0)
            held, done = held[:, dropped * period :], ready - dropped
    rest = resample(held)[:, done * outputs :] if held.shape[-1] else held
    if rest.shape[-1]:
        yield rest


class Stretch:
    """The samples of a waveform that comes in blocks, from where they are still wanted.

    Args:
        blocks: `[1, samples]` each, float32.

    Attributes:
        ended: Whether the last block has come.
    """

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)
        self._held = torch.zeros(1, 0)
        self._begin = 0
        self.ended = False

    @property
    def end(self) -> int:
        """How many samples have come."""
        return self._begin + self._held.shape[-1]

    def read_to(self, sample: int) -> None:
        """Read on to a sample, or to the end.

        Raises:
            ValueError: A block of another shape or dtype.
        """
        pieces, end = [self._held], self.end
        while end < sample and not self.ended:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                break
            if block.dim() != 2 or block.shape[0] != 1 or block.dtype != torch.float32:
                raise ValueError(
                    "each of blocks must be [1, samples], float32, got "
                    f"{list(block.shape)}, {block.dtype}."
                )
            pieces.append(block.cpu())
            end += block.shape[-1]
        self._held = torch.cat(pieces, dim=-1)

    def between(self, begin: int, end: int | None) -> Tensor:
        """Return the samples from one place to another, or to the end."""
        return self._held[:, begin - self._begin : None if end is None else end - self._begin]

    def forget(self, begin: int) -> None:
        """Let go of what lies before a sample."""
        self._held = self._held[:, begin - self._begin :].clone()
        self._begin = begin


def _at_target_rate(config: MelCheckConfig, block_seconds: float) -> Iterator[Tensor]:
    import soundfile

    path = config.audio_path
    checked_head(path)
    promised = 0
    try:
        with soundfile.SoundFile(path) as file:
            promised = file.frames
            if file.samplerate != config.target_sr:
                check_rates(path, file.samplerate, config.target_sr)
            blocks = _mono_blocks(file, config, max(1, round(block_seconds * file.samplerate)))
            yield from resample_blocks(blocks, file.samplerate, config.target_sr)
    except soundfile.LibsndfileError as error:
        if promised == UNKNOWN_LENGTH:
            raise unknown_length(path) from None
        reason = RuntimeError(soundfile_reason(error))
        raise undecodable(path, soundfile_name(), reason) from None


def _mono_blocks(file: Any, config: MelCheckConfig, block_samples: int) -> Iterator[Tensor]:
    """Yield the mean of the channels, `[1, samples]`, of as much as the duration needs."""
    path, rate = config.audio_path, file.samplerate
    wanted = source_samples(rate, config)
    if wanted is None and file.frames == UNKNOWN_LENGTH:
        raise unknown_length(path)
    got = 0
    while wanted is None or got < wanted:
        asked = block_samples if wanted is None else min(block_samples, wanted - got)
        # soundfile gives [samples, channels].
        samples = torch.from_numpy(file.read(asked, dtype="float32", always_2d=True).T.copy())
        if samples.shape[-1] == 0:
            break
        check_finite(path, samples, rate, earlier=got)
        got += samples.shape[-1]
        yield samples.mean(dim=0, keepdim=True)
    if got == 0:
        raise no_samples(path)
    check_complete(path, got, file.frames, wanted)
