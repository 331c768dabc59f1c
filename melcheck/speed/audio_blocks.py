"""A long audio file as a waveform in blocks: memory does not grow with its length.

The blocks, one after the other, are the waveform that `melcheck.audio.load_audio` returns for the
whole file when soundfile decodes it. Resampling is blockwise too: a block begins at a whole period
of the ratio of the two rates, is resampled together with what the kernel reaches on each side, and
that is cut off again. TorchCodec is not used: only soundfile reads on without looking back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor

from melcheck.audio import (
    LOWPASS_FILTER_WIDTH,
    ROLLOFF,
    UNKNOWN_LENGTH,
    SourcePart,
    check_complete,
    check_finite,
    check_length,
    check_rates,
    checked_head,
    load_audio,
    no_samples,
    soundfile_name,
    soundfile_reason,
    source_part_of,
    undecodable,
    unknown_length,
)
from melcheck.audio_notes import decoder_notes, sound_info
from melcheck.config import MelCheckConfig

LONG_SECONDS = 600.0
"""A file of which more than this is checked is computed in chunks."""

_BLOCK_SECONDS = 5.0
_MP3 = ("MP3", "MPEG")


def is_long(config: MelCheckConfig) -> bool:
    """Return whether more than `LONG_SECONDS` of a file are to be checked.

    False also where soundfile cannot read the file, or its header does not give a length.
    """
    import soundfile

    wanted = math.inf if config.target_duration is None else config.target_duration
    if wanted <= LONG_SECONDS or config.pad_short or not config.audio_path.is_file():
        return False
    try:
        info = sound_info(config.audio_path)
    except soundfile.LibsndfileError:
        return False
    begin = 0.0 if config.offset == "middle" else config.offset
    return bool(info.frames != UNKNOWN_LENGTH and info.duration - begin > LONG_SECONDS)


def start_of(config: MelCheckConfig) -> MelCheckConfig:
    """Return how to read no more than `LONG_SECONDS` of what is to be checked."""
    wanted = LONG_SECONDS if config.target_duration is None else config.target_duration
    return dataclasses.replace(config, target_duration=min(wanted, LONG_SECONDS))


def check_readable(config: MelCheckConfig, *, min_samples: int) -> None:
    """Read a file and forget it; a long one in blocks.

    Raises:
        FileNotFoundError: There is no such file.
        AudioError: It cannot be used: see `melcheck.audio.load_audio`.
    """
    if not is_long(config):
        load_audio(config, min_samples=min_samples)
        return
    for _ in audio_blocks(config, min_samples=min_samples):
        pass


def audio_blocks(
    config: MelCheckConfig,
    *,
    min_samples: int = 1,
    block_seconds: float = _BLOCK_SECONDS,
    found: dict[str, None] | None = None,
) -> Iterator[Tensor]:
    """Read an audio file block by block, as a mono waveform at the wanted rate.

    Args:
        config: The file, the rate in Hz, and the duration in seconds; nothing is padded.
        min_samples: The fewest samples that can be used, at `config.target_sr`.
        block_seconds: How much is read at a time.
        found: Gets what `melcheck.audio_notes.decoder_notes` finds.

    Yields:
        `[1, samples]`, float32, full scale +-1, of any number of samples from 1 up.

    Raises:
        FileNotFoundError: There is no such file.
        AudioError: As `load_audio`; for a truncated file, after the blocks before the cut.
    """
    left = config.target_samples
    given = 0
    for block in _at_target_rate(config, block_seconds, {} if found is None else found):
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
    """The samples of a waveform that comes in blocks, from the first that is still needed.

    Args:
        blocks: `[1, samples]` each, float32.

    Attributes:
        ended: Whether the last block was read.
    """

    def __init__(self, blocks: Iterable[Tensor]) -> None:
        self._blocks = iter(blocks)
        self._held = torch.zeros(1, 0)
        self._begin = 0
        self.ended = False

    @property
    def end(self) -> int:
        """How many samples were read."""
        return self._begin + self._held.shape[-1]

    def read_to(self, sample: int) -> None:
        """Read on to a sample, or to the end."""
        pieces, end = [self._held], self.end
        while end < sample and not self.ended:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                break
            pieces.append(block)
            end += block.shape[-1]
        self._held = torch.cat(pieces, dim=-1)

    def between(self, begin: int, end: int | None) -> Tensor:
        """Return the samples from `begin` to `end`, or to the last."""
        return self._held[:, begin - self._begin : None if end is None else end - self._begin]

    def forget(self, begin: int) -> None:
        """Drop the samples before `begin`."""
        self._held = self._held[:, begin - self._begin :].clone()
        self._begin = begin


def _at_target_rate(
    config: MelCheckConfig, block_seconds: float, found: dict[str, None]
) -> Iterator[Tensor]:
    import soundfile

    path = config.audio_path
    checked_head(path)
    promised = 0
    try:
        with decoder_notes({}):
            opened = soundfile.SoundFile(path)
        with opened as file:
            promised = file.frames
            check_rates(path, file.samplerate, config.target_sr)
            part = source_part_of(path, file, config)
            size = max(1, round(block_seconds * file.samplerate))
            blocks = _mono_blocks(file, path, part, size, found)
            skipped = part.skipped
            for block in resample_blocks(blocks, file.samplerate, config.target_sr):
                if block.shape[-1] > skipped:
                    yield block[:, skipped:]
                skipped = max(0, skipped - block.shape[-1])
    except soundfile.LibsndfileError as error:
        if promised == UNKNOWN_LENGTH:
            raise unknown_length(path) from None
        reason = RuntimeError(soundfile_reason(error))
        raise undecodable(path, soundfile_name(), reason) from None


def _mono_blocks(
    file: Any, path: Path, part: SourcePart, block_samples: int, found: dict[str, None]
) -> Iterator[Tensor]:
    """Yield the mean of the channels, `[1, samples]`, of as much as the part needs."""
    rate, wanted = file.samplerate, part.count
    if part.begin:
        file.seek(part.begin)
    if wanted is None and file.frames == UNKNOWN_LENGTH:
        raise unknown_length(path)
    got = 0
    while wanted is None or got < wanted:
        asked = block_samples if wanted is None else min(block_samples, wanted - got)
        # soundfile gives [samples, channels].
        with decoder_notes(found) if file.format in _MP3 else contextlib.nullcontext():
            read = file.read(asked, dtype="float32", always_2d=True)
        samples = torch.from_numpy(read.T.copy())
        if samples.shape[-1] == 0:
            break
        check_finite(path, samples, rate, earlier=part.begin + got)
        got += samples.shape[-1]
        yield samples.mean(dim=0, keepdim=True)
    if got == 0:
        raise no_samples(path)
    check_complete(path, got, file.frames - part.begin, wanted)
