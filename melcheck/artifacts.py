"""What a case leaves on disk: pictures to look at, sound to listen to, figures to compute with.

Every file is written beside its destination and then renamed, so that a reader, or another process
that writes the same file, never meets half of one.
"""

from __future__ import annotations

import functools
from pathlib import Path

from melcheck.files import replacing
from melcheck.pipeline import RoundTrip
from melcheck.plots import DifferencePicture, MelPicture
from melcheck.recipes import MelRecipe


def save_artifacts(trip: RoundTrip, folder: Path, *, title: str = "") -> tuple[Path, ...]:
    """Write what the first item of a round trip looks and sounds like.

    Args:
        trip: What the loop produced.
        folder: Where to; made where it does not exist.
        title: Put above the pictures.

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
