"""Training repositories in the shape of public ones, written into a folder.

Each has two clips, a list that names them, a front end, a cache of mels and one test file.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from melcheck.profiles import profile
from melcheck.recipes import log_mel

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
CLIPS = {"austen": ("austen-0890.flac", 2.0), "short": ("kokoro-short.flac", 0.8)}
TEST = "from melcheck.suite import *  # noqa: F403\n"

# As F5-TTS extracts its mels, and lists its audio.
F5_FRONT_END = """
import torch
import torchaudio

extract = torchaudio.transforms.MelSpectrogram(
    sample_rate=24_000, n_fft=1024, win_length=1024, hop_length=256, n_mels=100, power=1,
    center=True, normalized=False, norm=None,
)


def mel_spectrogram(waveform):
    return extract(waveform).clamp(min=1e-5).log()
"""

# As Matcha-TTS extracts and normalises its mels, of HiFi-GAN.
MATCHA_FRONT_END = """
import torch
import torchaudio

MEAN, STD = -5.536622, 2.116101
filters = torchaudio.functional.melscale_fbanks(
    513, 0.0, 8_000.0, 80, 22_050, norm="slaney", mel_scale="slaney"
).T


def mel_spectrogram(y):
    y = torch.nn.functional.pad(y[:, None], (384, 384), mode="reflect")[:, 0]
    window = torch.hann_window(1024)
    spec = torch.stft(y, 1024, 256, 1024, window, center=False, return_complex=True)
    spec = torch.sqrt(spec.abs().square() + 1e-9)
    mel = torch.log(torch.clamp(filters @ spec, min=1e-5))
    return (mel - MEAN) / STD
"""

# In place of a checkpoint of HiFi-GAN: another vocoder of the same recipe.
MATCHA_VOCODER = """
import torch
import torchaudio

from melcheck.profiles import profile
from melcheck.recipes import filterbank

RECIPE = profile("matcha-22k")
inverse = torch.linalg.pinv(filterbank(RECIPE).double().T).float()


class Vocoder:
    recipe = RECIPE

    def decode(self, mel):
        magnitude = torch.clamp(inverse @ torch.exp(mel * RECIPE.std + RECIPE.mean), min=0.0)
        waveform = torchaudio.functional.griffinlim(
            magnitude, torch.hann_window(1024), 1024, 256, 1024, 1.0, 64, 0.99, None, False
        )
        return torch.nn.functional.pad(waveform, (128, 128))
"""


@dataclass(frozen=True)
class Shape:
    """What one kind of repository has.

    Attributes:
        profile: Name of the recipe of its mels.
        keys: Of its pytest configuration.
        files: Its own files, by path.
        mel: Where the mel of a clip is stored; a format.
        form: What a list has for a clip; a format.
        list: Path of the list.
        header: Its first line, if it has one.
    """

    profile: str
    keys: str
    files: Mapping[str, str]
    mel: str
    form: str
    list: str
    header: str = ""


F5 = Shape(
    profile="f5-tts",
    keys="""
        mel_audio = ["data/metadata.csv"]
        mel_frontend = "f5.modules:mel_spectrogram"
        mel_vocoder = ["embedded"]
        mel_cache = "data/mels"
        """,
    files={"f5/modules.py": F5_FRONT_END},
    mel="data/mels/{}.npy",
    form="wavs/{}.wav|What it says.",
    list="data/metadata.csv",
    header="audio_file|text\n",
)
MATCHA = Shape(
    profile="matcha-22k",
    keys="""
        mel_audio = ["data/filelists/train.txt"]
        mel_frontend = "matcha.audio:mel_spectrogram"
        mel_vocoder = ["matcha.vocoder:Vocoder"]
        mel_cache = "data/mels"
        mel_cache_pattern = "LJSpeech-mel-{stem}.npy"
        """,
    files={"matcha/audio.py": MATCHA_FRONT_END, "matcha/vocoder.py": MATCHA_VOCODER},
    mel="data/mels/LJSpeech-mel-{}.npy",
    form="data/wavs/{}.wav|What it says.",
    list="data/filelists/train.txt",
)


def make(shape: Shape, folder: Path) -> Path:
    """Write a repository that is right."""
    keys = textwrap.dedent(shape.keys)
    files = {
        "pyproject.toml": f"[tool.pytest.ini_options]\ntestpaths = ['tests']\n{keys}",
        "tests/test_mel.py": TEST,
        shape.list: shape.header + "".join(f"{shape.form.format(name)}\n" for name in CLIPS),
        **shape.files,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    recipe = profile(shape.profile)
    (folder / "data" / "wavs").mkdir(parents=True)
    (folder / "data" / "mels").mkdir()
    for name, (source, seconds) in CLIPS.items():
        samples, rate = soundfile.read(AUDIO / source, dtype="float32", always_2d=True)
        waveform = torch.from_numpy(samples[: round(seconds * rate)].mean(axis=1))
        waveform = torchaudio.functional.resample(waveform, rate, recipe.sample_rate)
        path = folder / "data" / "wavs" / f"{name}.wav"
        soundfile.write(path, waveform.numpy(), recipe.sample_rate, subtype="FLOAT")
        np.save(folder / shape.mel.format(name), log_mel(waveform, recipe).numpy())
    return folder
