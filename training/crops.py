"""Batches to train on: random crops of the prepared audio, each heard a little differently.

The batch of a step depends on the seed and the number of the step alone, so that an interrupted
training goes on with the batches that it would have seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Wave = npt.NDArray[np.float32]

_INT16_FULL_SCALE = 32_768
# How often a crop comes from each kind of clip; within a kind, by duration.
_SHARES = {"kokoro": 0.70, "flite": 0.08, "recording": 0.13, "signal": 0.09}

# Clips peak at -3.1 dBFS: these gains put their peaks between -30 and -0.5 dBFS.
_GAIN_DB = (-26.9, 2.6)
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
_SAMPLE_RATE = 24_000


@dataclass(frozen=True, slots=True)
class Crops:
    """Makes batches out of `DATA/audio.npy` and `DATA/clips.json`, which `prepare.py` writes.

    Attributes:
        audio: int16 `[samples]`, all clips end to end.
        starts: First sample of each clip.
        lengths: Samples of each clip.
        chances: How likely a crop is to come from each clip; they add up to 1.
        crop_samples: Length of a crop.
        seed: Seed of all that is random.
    """

    audio: npt.NDArray[np.int16]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    chances: npt.NDArray[np.float64]
    crop_samples: int
    seed: int

    @classmethod
    def load(cls, data: Path, *, crop_samples: int, seed: int) -> Crops:
        """Open prepared data; clips shorter than a crop are left out.

        Raises:
            FileNotFoundError: `prepare.py` has not been run on that folder.
            ValueError: A kind of clip is missing.
        """
        clips = json.loads((data / "clips.json").read_text(encoding="utf-8"))
        clips = [clip for clip in clips if clip["samples"] > crop_samples]
        lengths = np.array([clip["samples"] for clip in clips])
        chances = np.zeros(len(clips))
        for kind, share in _SHARES.items():
            of_kind = np.array([clip["kind"] == kind for clip in clips])
            if not of_kind.any():
                raise ValueError(f"{data} must hold clips of kind {kind}, got none. Prepare again.")
            chances[of_kind] = share * lengths[of_kind] / lengths[of_kind].sum()
        return cls(
            audio=np.load(data / "audio.npy", mmap_mode="r"),
            starts=np.array([clip["start"] for clip in clips]),
            lengths=lengths,
            chances=chances / chances.sum(),
            crop_samples=crop_samples,
            seed=seed,
        )

    def batch(self, step: int, size: int) -> Tensor:
        """Return the batch of one step, `[size, crop_samples]`, all within [-1, 1]."""
        rng = np.random.default_rng([self.seed, step])
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
        clip = int(rng.choice(len(self.starts), p=self.chances))
        first = int(self.starts[clip])
        offset = first + int(rng.integers(self.lengths[clip] - self.crop_samples))
        pcm = self.audio[offset : offset + self.crop_samples]
        excerpt: Wave = pcm.astype(np.float32) / np.float32(_INT16_FULL_SCALE)
        return excerpt


def _tilted(wave: Wave, tilt: float) -> Wave:
    """Filter by y[n] = x[n] + tilt x[n - 1], scaled so that nothing grows: darker above 0."""
    delayed = np.concatenate([wave[:1], wave[:-1]])
    filtered: Wave = (wave + np.float32(tilt) * delayed) / np.float32(1 + abs(tilt))
    return filtered


def _equalised(wave: Wave, rng: np.random.Generator) -> Wave:
    """Filter by a random smooth curve, and at times cut off what lies above a corner.

    The peak stays. The filter has no delay, and takes the wave for periodic.
    """
    frequencies_hz = np.fft.rfftfreq(len(wave), 1 / _SAMPLE_RATE)
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
