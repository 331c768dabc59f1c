"""Crops of generated signals, each changed at random as rooms, microphones and rates change audio.

The batch of a number depends on the seed and that number alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.signals import SAMPLE_RATE, signal

Wave = npt.NDArray[np.float32]

_SIGNALS = 120
_SIGNAL_SAMPLES = 4 * SAMPLE_RATE
_GAIN_DB = (-30.0, -0.5)
_TILT = 0.7
_TILT_CHANCE = 0.5
_NOISE_DBFS = (-85.0, -38.0)
_NOISE_CHANCE = 0.5
_MIX_CHANCE = 0.12
_MIX_GAIN = (0.1, 0.7)
_SILENCE_CHANCE = 0.06
# What a room and a microphone do to a voice, and what the rate of a recording cuts off: levels at
# knots on a scale of octaves, and a corner frequency.
_EQUALISED_CHANCE = 0.6
_KNOTS_HZ = (60.0, 150.0, 375.0, 940.0, 2_350.0, 5_900.0, 12_000.0)
_LEVEL_DB = 12.0
_CUT_CHANCE = 0.2
_CORNER_HZ = (3_500.0, 11_600.0)
_CUT_DB_PER_OCTAVE = (200.0, 1_500.0)


class Crops:
    """Makes batches of crops.

    Args:
        crop_samples: Length of a crop.
        seed: Seed of all that is random.
    """

    def __init__(self, *, crop_samples: int, seed: int) -> None:
        self.crop_samples = crop_samples
        self.seed = seed

        self._signals: dict[int, Wave] = {}

    def batch(self, number: int, size: int) -> Tensor:
        """Return batch number `number`, `[size, crop_samples]`, all within [-1, 1]."""
        rng = np.random.default_rng([self.seed, number])
        return torch.from_numpy(np.stack([self._crop(rng) for _ in range(size)]))

    def _crop(self, rng: np.random.Generator) -> Wave:
        wave = self._excerpt(rng)
        if rng.random() < _MIX_CHANCE:
            wave = wave + float(rng.uniform(*_MIX_GAIN)) * self._excerpt(rng)
        if rng.random() < _TILT_CHANCE:
            wave = _tilted(wave, float(rng.uniform(-_TILT, _TILT)))
        if rng.random() < _EQUALISED_CHANCE:
            wave = _equalised(wave, rng)
        wave = wave * np.float32(rng.choice([-1, 1]) * _ratio(rng.uniform(*_GAIN_DB)))
        if rng.random() < _SILENCE_CHANCE:
            start = int(rng.integers(len(wave)))
            wave[start : start + int(rng.integers(len(wave)))] = 0.0
        elif rng.random() < _NOISE_CHANCE:
            hiss = rng.standard_normal(len(wave), dtype=np.float32)
            hiss = _tilted(hiss, float(rng.uniform(-_TILT, _TILT)))
            wave = wave + hiss * np.float32(_ratio(rng.uniform(*_NOISE_DBFS)))
        limited: Wave = np.clip(wave, -1.0, 1.0).astype(np.float32)
        return limited

    def _excerpt(self, rng: np.random.Generator) -> Wave:
        index = int(rng.integers(_SIGNALS))
        if index not in self._signals:
            self._signals[index] = signal(self.seed, index, _SIGNAL_SAMPLES).astype(np.float32)
        wave = self._signals[index]
        start = int(rng.integers(_SIGNAL_SAMPLES - self.crop_samples))
        return wave[start : start + self.crop_samples]


def _tilted(wave: Wave, tilt: float) -> Wave:
    """Filter by y[n] = x[n] + tilt x[n - 1], scaled so that nothing grows: darker above 0."""
    delayed = np.concatenate([wave[:1], wave[:-1]])
    filtered: Wave = (wave + np.float32(tilt) * delayed) / np.float32(1 + abs(tilt))
    return filtered


def _equalised(wave: Wave, rng: np.random.Generator) -> Wave:
    """Filter by a random smooth curve, and at times cut off what lies above a corner.

    The peak stays. The filter has no delay, and takes the wave for periodic.
    """
    frequencies_hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    octaves = np.log2(np.maximum(frequencies_hz, 1.0))
    levels = rng.uniform(-_LEVEL_DB, _LEVEL_DB, len(_KNOTS_HZ))
    level_db = np.interp(octaves, np.log2(_KNOTS_HZ), levels)
    if rng.random() < _CUT_CHANCE:
        above = np.maximum(octaves - np.log2(rng.uniform(*_CORNER_HZ)), 0.0)
        level_db = level_db - np.minimum(above * rng.uniform(*_CUT_DB_PER_OCTAVE), 120.0)
    filtered = np.fft.irfft(np.fft.rfft(wave) * 10 ** (level_db / 20), len(wave))
    peak = np.abs(wave).max()
    scaled: Wave = (filtered * (peak / max(np.abs(filtered).max(), 1e-9))).astype(np.float32)
    return scaled


def _ratio(level_db: float) -> float:
    return float(10 ** (level_db / 20))
