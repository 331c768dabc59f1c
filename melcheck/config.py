"""What to check: one audio file, the rate to read it at, and how much of it.

The configuration is a value: frozen, compared by content, validated when it is made. It imports
nothing but the standard library, so that it can be built where torch is not wanted.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEFAULT_SAMPLE_RATE = 24_000
"""Hz. The rate of `charactr/vocos-mel-24khz`."""

DEFAULT_DURATION_SECONDS = 3.0
"""Seconds. Ten times what one decoded frame can see (27 frames on each side, 0.58 s in all)."""

_MAX_DURATION_SECONDS = 366 * 24 * 3600


@dataclass(frozen=True, slots=True)
class MelCheckConfig:
    """One audio file for a round trip, and how to read it.

    Attributes:
        audio_path: The audio file; a string or any `os.PathLike`, kept as a `pathlib.Path`. Whether
            it exists is checked when it is read, not here.
        target_sr: Sampling rate in Hz that the audio is resampled to. It must be the rate of the
            vocoder's recipe, which `MelPipeline` checks: 24,000 for Vocos.
        target_duration: Seconds to keep: a longer file is cut to exactly `target_samples`, and only
            that part is decoded. None keeps the file to its end.
        pad_short: What happens to a file shorter than `target_duration`. False keeps its own
            length; True appends zeros, and the padded frames stay out of every metric.
        offset: Where the part begins: seconds from the start, or "middle". It begins earlier where
            the file ends before `target_duration` is reached.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value out of range: an empty path, a rate below 1 Hz, a duration that is
            zero, negative, NaN or infinite, or one that is less than a single sample; an offset
            that is negative or not finite.

    Example:
        >>> MelCheckConfig("clip.wav", 24_000, 3.0).target_samples
        72000
    """

    audio_path: Path
    target_sr: int = DEFAULT_SAMPLE_RATE
    target_duration: float | None = DEFAULT_DURATION_SECONDS
    pad_short: bool = False
    offset: float | Literal["middle"] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "audio_path", _validated_path(self.audio_path))
        _validate_rate(self.target_sr)
        if self.target_duration is not None:
            duration = _validated_duration(self.target_duration, self.target_sr)
            object.__setattr__(self, "target_duration", duration)
        if not isinstance(self.pad_short, bool):
            raise TypeError(
                f"pad_short must be True or False, got {self.pad_short!r}. "
                "True zero-pads a file that is shorter than target_duration."
            )
        if self.pad_short and self.target_duration is None:
            raise ValueError(
                "pad_short must be False when target_duration is None, got True. "
                "There is no length to pad to: give target_duration in seconds."
            )
        if self.offset != "middle":
            object.__setattr__(self, "offset", _validated_offset(self.offset))

    @property
    def target_samples(self) -> int | None:
        """Samples at `target_sr` that `target_duration` stands for; None for the whole file."""
        if self.target_duration is None:
            return None
        return round(self.target_duration * self.target_sr)


def seconds_or_all(text: str) -> float | None:
    """Return a duration as an option has it: seconds, or None for "all".

    Raises:
        ValueError: It is neither.

    Example:
        >>> seconds_or_all("2.5"), seconds_or_all("all")
        (2.5, None)
    """
    if text == "all":
        return None
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError(f"must be above 0 and finite, got {text!r}")
    return seconds


def offset_of(text: str) -> float | Literal["middle"]:
    """Return an offset as an option has it: "start", "middle", or seconds.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> offset_of("start"), offset_of("middle"), offset_of("12.5")
        (0.0, 'middle', 12.5)
    """
    if text == "middle":
        return "middle"
    return 0.0 if text == "start" else _validated_offset(float(text))


def _validated_offset(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"offset must be a number of seconds or 'middle', got {value!r} "
            f"({type(value).__name__})."
        )
    if not 0 <= value <= _MAX_DURATION_SECONDS:
        raise ValueError(f"offset must be seconds from 0 up, or 'middle', got {value!r}.")
    return float(value)


def _validated_path(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"audio_path must be a path to an audio file, got {value!r} "
            f"({type(value).__name__}). Pass a string or a pathlib.Path."
        )
    text = os.fspath(value)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if not text.strip():
        raise ValueError(f"audio_path must name a file, got {text!r}. Pass the path of a clip.")
    if "\0" in text:
        raise ValueError(f"audio_path must not hold a NUL character, got {text!r}.")
    return Path(text)


def _validate_rate(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"target_sr must be a whole number of Hz, got {value!r} ({type(value).__name__}). "
            f"Vocos works at {DEFAULT_SAMPLE_RATE}."
        )
    if value < 1:
        raise ValueError(
            f"target_sr must be at least 1 Hz, got {value}. Vocos works at {DEFAULT_SAMPLE_RATE}."
        )


def _validated_duration(value: object, sample_rate: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"target_duration must be a number of seconds or None, got {value!r} "
            f"({type(value).__name__}). None keeps the whole file."
        )
    if not 0 < value < math.inf:
        raise ValueError(
            f"target_duration must be a positive, finite number of seconds, got {value}. "
            "None keeps the whole file."
        )
    if value > _MAX_DURATION_SECONDS:
        raise ValueError(
            f"target_duration must be at most {_MAX_DURATION_SECONDS:,} s (a year), got {value}. "
            "The unit is seconds; None keeps the whole file."
        )
    if round(value * sample_rate) < 1:
        raise ValueError(
            f"target_duration must be at least one sample, got {value} s at {sample_rate} Hz. "
            "The unit is seconds."
        )
    return float(value)
