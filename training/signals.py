"""Generated signals to train on: harmonic sweeps, noises, clicks and silence.

They cover what speech data lack: pitches from 50 to 1,200 Hz at every loudness, noise of every
slope, single samples, and digital silence.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 24_000

Wave = npt.NDArray[np.float64]


def harmonic_sweep(rng: np.random.Generator, num_samples: int) -> Wave:
    """Glide all harmonics of a wandering pitch through three moving resonances.

    The pitch goes through random points on a logarithmic scale; a harmonic fades out towards half
    the sample rate, where it would fold back.
    """
    seconds = num_samples / SAMPLE_RATE
    time = np.linspace(0.0, seconds, num_samples)
    knots = np.linspace(0.0, seconds, int(rng.integers(2, 6)))
    log_pitch = np.interp(time, knots, rng.uniform(np.log(50), np.log(1200), len(knots)))
    vibrato = rng.uniform(0, 0.03) * np.sin(2 * np.pi * rng.uniform(3, 7) * time)
    pitch_hz = np.exp(log_pitch + vibrato)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    resonances = [
        np.interp(time, knots, rng.uniform(low, high, len(knots)))
        for low, high in ((200, 900), (800, 2600), (2000, 5000))
    ]
    tilt = rng.uniform(0.3, 1.6)
    wave = np.zeros(num_samples)
    for harmonic in range(1, int(SAMPLE_RATE / 2 / pitch_hz.min()) + 1):
        frequency_hz = harmonic * pitch_hz
        audible = np.clip((0.98 * SAMPLE_RATE / 2 - frequency_hz) / 200, 0.0, 1.0)
        if not audible.any():
            break
        peaks = sum(1 / (1 + ((frequency_hz - centre) / 180) ** 2) for centre in resonances)
        offset = rng.uniform(0, 2 * np.pi) if tilt > 1 else 0.0
        wave += audible * (0.05 + peaks) * harmonic**-tilt * np.sin(harmonic * phase + offset)
    breath = noise(rng, num_samples)
    voiced: Wave = wave / np.abs(wave).max() + 10 ** rng.uniform(-3.5, -1) * breath
    return voiced


def noise(rng: np.random.Generator, num_samples: int) -> Wave:
    """Make noise whose spectrum has one slope and whose loudness comes and goes; peak 1."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    bins = np.arange(1, len(spectrum) + 1)
    wave = np.fft.irfft(spectrum * bins ** -rng.uniform(0, 1.0), num_samples)
    knots = np.linspace(0, num_samples, int(rng.integers(3, 12)))
    loudness = np.interp(np.arange(num_samples), knots, rng.uniform(0, 1, len(knots)) ** 2)
    shaped: Wave = wave * loudness
    shaped /= np.abs(shaped).max()
    return shaped


def clicks(rng: np.random.Generator, num_samples: int) -> Wave:
    """Scatter single samples and short decays in exact silence; peak 1."""
    wave = np.zeros(num_samples)
    for _ in range(int(rng.integers(2, 40))):
        start = int(rng.integers(num_samples - 1))
        length = min(int(rng.choice([1, 8, 200, 1200])), num_samples - start)
        decay = np.exp(-np.arange(length) / max(length / 5, 0.1))
        wave[start : start + length] += rng.uniform(-1, 1) * decay * rng.choice([-1, 1], length)
    wave /= np.abs(wave).max()
    return wave


_KINDS: tuple[tuple[Callable[[np.random.Generator, int], Wave], float], ...] = (
    (harmonic_sweep, 0.6),
    (noise, 0.25),
    (clicks, 0.15),
)


def signal(seed: int, index: int, num_samples: int) -> Wave:
    """Make generated signal number `index`, a third of them with a stretch of silence; peak 1."""
    rng = np.random.default_rng([seed, index])
    kinds, shares = zip(*_KINDS, strict=True)
    wave: Wave = kinds[int(rng.choice(len(kinds), p=shares))](rng, num_samples)
    if rng.random() < 1 / 3:
        start = int(rng.integers(num_samples))
        wave[start : start + int(rng.integers(num_samples // 2))] = 0.0
    wave /= max(np.abs(wave).max(), 1e-9)
    return wave
