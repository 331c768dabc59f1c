"""What a case leaves on disk: pictures of its mels, and the decoded audio.

Every file is written beside its destination and then renamed, so that no reader and no other
process that writes the same file meets half of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from melcheck.files import file_name, replacing
from melcheck.metrics import MelMetrics
from melcheck.pipeline import RoundTrip
from melcheck.plots import DifferencePicture, MelPicture
from melcheck.recipes import MelRecipe

_FILES = ("mels.png", "difference.png", "reconstructed.wav")
_RUNS_FILE = ".runs.json"


def case_folder(folder: Path, clip: str, vocoder: str, device: torch.device) -> Path:
    """Return the folder of one case, below the folder of the run."""
    *above, name = clip.split("/")
    return folder.joinpath(*map(file_name, above), file_name(f"{name}-{vocoder}-{device}"))


def make_folder(folder: Path) -> None:
    """Make the folder of all cases; a new one is left out of git.

    Raises:
        OSError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def keep_last_runs(folder: Path, written: Iterable[Path], keep: int) -> None:
    """Note what a run has written, and remove the cases that only older runs wrote.

    Nothing is removed that is not one of the files of `save_artifacts`, of a case that a run noted.

    Args:
        folder: Folder of all cases.
        written: Folders of this run's cases; those in other places are left alone.
        keep: How many runs are kept, this one included.
    """
    notes = folder / _RUNS_FILE
    try:
        runs = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        runs = []
    known = [
        [name for name in run if isinstance(name, str) and ".." not in Path(name).parts]
        for run in runs
        if isinstance(run, list)
    ]
    inside = (each for each in written if each.is_relative_to(folder))
    run = sorted({each.relative_to(folder).as_posix() for each in inside})
    known.insert(0, run)
    kept = {name for each in known[:keep] for name in each}
    for name in {name for each in known[keep:] for name in each} - kept:
        for file in _FILES:
            (folder / name / file).unlink(missing_ok=True)
        for place in (folder / name, *(folder / name).parents):
            if place == folder or not place.is_relative_to(folder):
                break
            with contextlib.suppress(OSError):  # it is gone, or holds something else
                place.rmdir()
    with replacing(notes) as temporary:
        temporary.write_text(json.dumps(known[:keep]), encoding="utf-8")


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
    counted = trip.frame_mask[0].tolist()
    both, difference = _pictures(trip.recipe, len(counted))
    mels = [mel[0, :, : len(counted)] for mel in (trip.mel, trip.reconstructed_mel)]
    both.show(*mels, title=title)
    difference.show(*mels, frame_mask=counted, title=title)
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
