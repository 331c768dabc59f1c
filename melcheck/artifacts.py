"""What a case leaves on disk: pictures of its mels, and the decoded audio.

Every file is written beside its destination and then renamed, so that no reader and no other
process that writes the same file meets half of it.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from melcheck.files import file_name, replacing
from melcheck.metrics import MelMetrics
from melcheck.pipeline import RoundTrip
from melcheck.plots import DifferencePicture, MelPicture
from melcheck.recipes import MelRecipe


def case_folder(folder: Path, clip: str, vocoder: str, device: torch.device) -> Path:
    """Return the folder of one case, below the folder of the run."""
    return folder / file_name(f"{clip}-{vocoder}-{device}")


def case_title(clip: str, vocoder: str, device: torch.device, metrics: MelMetrics) -> str:
    """Return the title above the pictures of one case."""
    return (
        f"{clip}: {vocoder} on {device}\n"
        f"MAE {metrics.mae:.3f} nats, corr {metrics.pearson:.4f}, SNR {metrics.snr_db:.1f} dB"
    )


def save_artifacts(trip: RoundTrip, folder: Path, *, title: str = "") -> tuple[Path, ...]:
    """Write the pictures and the audio of the first item of a round trip.

    Args:
        trip: The round trip.
        folder: Folder of the files; made where it does not exist.
        title: Title above the pictures.

    Returns:
        `mels.png` (both mels side by side), `difference.png` (original minus reconstructed, with
        the error of each band and frame) and `reconstructed.wav` (16 bit).

    Raises:
        OSError: The folder cannot be made or written.
    """
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    both, difference = _pictures(trip.recipe, trip.mel.shape[-1])
    mels = trip.mel[0], trip.reconstructed_mel[0]
    both.show(*mels, title=title)
    difference.show(*mels, frame_mask=trip.frame_mask[0].tolist(), title=title)
    pictures = {"mels.png": both.png(), "difference.png": difference.png()}
    for name, content in pictures.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    sound = folder / "reconstructed.wav"
    with replacing(sound) as temporary:
        soundfile.write(
            temporary,
            trip.reconstructed_waveform[0].cpu().numpy(),
            trip.recipe.sample_rate,
            subtype="PCM_16",
            format="WAV",
        )
    return (*(folder / name for name in pictures), sound)


@functools.lru_cache(maxsize=8)
def _pictures(recipe: MelRecipe, frames: int) -> tuple[MelPicture, DifferencePicture]:
    return MelPicture(recipe, frames), DifferencePicture(recipe, frames)
