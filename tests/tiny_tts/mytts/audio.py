"""The mel spectrograms that the model is trained on."""

import torch
import torchaudio

SAMPLE_RATE = 24_000

_mel = torchaudio.transforms.MelSpectrogram(
    sample_rate=SAMPLE_RATE,
    n_fft=1024,
    hop_length=256,
    n_mels=100,
    power=1.0,
    center=True,
    mel_scale="htk",
    norm=None,
)


def mel_spectrogram(waveform: torch.Tensor) -> torch.Tensor:
    """Return the log-mel of [batch, samples] as [batch, 100, frames]."""
    mel = _mel(waveform)
    return torch.log(mel.clamp(min=1e-5))
