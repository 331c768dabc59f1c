"""Write the mels of a folder of clips: `python -m mytts.preprocess data/samples data/mels`."""

import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from mytts.audio import SAMPLE_RATE, mel_spectrogram


def main(clips: Path, mels: Path) -> None:
    """Write a mel beside no other: one `.npy` of float16 for each clip."""
    mels.mkdir(parents=True, exist_ok=True)
    for path in sorted(clips.glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = torch.from_numpy(samples).mean(dim=1)[None]
        waveform = torchaudio.functional.resample(waveform, rate, SAMPLE_RATE)
        np.save(mels / f"{path.stem}.npy", mel_spectrogram(waveform)[0].numpy().astype("float16"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
