"""What a run of the suite checks: every clip with every vocoder on every device.

`melcheck.pytest_plugin.planning.make_plan` makes one, once, before the first test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from melcheck.clips import Clip, one_line
from melcheck.config import DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.diagnosis.cache_matches import Matches
from melcheck.frontends import FedVocoder, Frontend
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import Vocoder, VocoderError, load_vocoder

__all__ = ["BASELINE", "LISTED_PATHS", "Plan"]

BASELINE = "griffin-lim"
"""The vocoder that each clip is compared with, and that the gate does not judge."""

LISTED_PATHS = 16
"""As many paths are named in a message; of more, the number."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a run checks.

    Attributes:
        clips: The audio files.
        vocoders: Names for `melcheck.vocoders.base.load_vocoder`.
        devices: Names of torch devices.
        required: Vocoders and devices whose absence fails a test; others are skipped. What is
            named on the command line is required.
        sample_rate: Hz that audio is read at; None takes the rate of each vocoder's recipe.
        duration_seconds: Seconds of each clip; None takes all of it.
        artifacts: Folder that pictures are written to.
        goldens: Folder that goldens are kept in; None where there is none.
        goldens_are_ours: Whether that folder comes with the manifest, so that a vocoder other than
            the embedded one need not be on record there.
        recipe: The mel of the first vocoder that is there; that of Vocos where none is.
        frontend: The user's front end; None takes each vocoder's own extractor.
        stored: The mels of a cache, by clip; None where none was named.
        written_elsewhere: Why `artifacts` is a temporary folder; "" where it is not.
    """

    clips: tuple[Clip, ...]
    vocoders: tuple[str, ...]
    devices: tuple[str, ...]
    required: frozenset[str]
    sample_rate: int | None
    duration_seconds: float | None
    artifacts: Path
    goldens: Path | None
    goldens_are_ours: bool
    recipe: MelRecipe
    frontend: Frontend | None
    stored: Matches | None
    written_elsewhere: str
    _loaded: dict[tuple[str, str], Vocoder | VocoderError]

    def config(self, clip: Clip, recipe: MelRecipe | None = None) -> MelCheckConfig:
        """Return the configuration that reads a clip of this plan for mels of a recipe."""
        rate = DEFAULT_SAMPLE_RATE if recipe is None else recipe.sample_rate
        return MelCheckConfig(clip.path, self.sample_rate or rate, self.duration_seconds)

    def vocoder(self, name: str, device: str) -> Vocoder:
        """Return a vocoder that is loaded once; what failed once fails again without a new try.

        Only what is required may take the time and the traffic of a download.

        Raises:
            VocoderError: It cannot be loaded, or (`VocoderUnavailable`) is not to be had.
        """
        key = (name, device)
        if key not in self._loaded:
            try:
                download = name in self.required
                self._loaded[key] = load_vocoder(name, device=device, download=download)
            except VocoderError as error:
                self._loaded[key] = error
        found = self._loaded[key]
        if isinstance(found, VocoderError):
            raise found
        return found

    def fed(self, vocoder: Vocoder) -> Vocoder:
        """Return a vocoder as the loop has it: with the user's front end, where there is one."""
        return vocoder if self.frontend is None else FedVocoder(self.frontend, vocoder)

    def has(self, option: str) -> bool:
        """Return whether "frontend" or "cache" was asked for."""
        return {"frontend": self.frontend, "cache": self.stored}[option] is not None

    def speech(self, recipe: MelRecipe) -> tuple[Tensor, ...]:
        """Return the first clip that the thresholds apply to, `[samples]`, for a handshake."""
        from melcheck.audio import load_audio

        clip = next(clip for clip in self.clips if clip.gated)
        return (load_audio(self.config(clip, recipe), min_samples=1).waveform[0],)

    def described(self) -> list[str]:
        """Return what will be checked, in a line or a few."""
        vocoders = " and ".join(self.label(name) for name in self.vocoders)
        lines = [f"{len(self.clips)} clips, {vocoders} on {' and '.join(self.devices)}"]
        if self.frontend is not None:
            place = self.frontend.place
            where = "" if place is None else f" ({place[0]}:{place[1]})"
            lines.append(f"front end {self.frontend.name}{where}")
        if self.stored is not None:
            count = sum(map(len, self.stored.mels.values()))
            lines.append(f"{count} stored mels of {len(self.stored.mels)} clips")
        return lines

    def notes(self) -> list[str]:
        """Return what was adapted in the user's code, and what was left out."""
        notes = list(self.frontend.notes) if self.frontend is not None else []
        for loaded in self._loaded.values():
            notes += getattr(loaded, "notes", ())
        if self.stored is not None and self.stored.without_audio:
            lost = self.stored.without_audio
            listed = ", ".join(one_line(path) for path in lost[:LISTED_PATHS])
            more = f" and {len(lost) - LISTED_PATHS} more" if len(lost) > LISTED_PATHS else ""
            notes.append(f"{len(lost)} stored mels belong to no clip of this run: {listed}{more}")
        if self.written_elsewhere:
            notes.append(self.written_elsewhere)
        return notes

    def label(self, vocoder: str) -> str:
        """Return a short name for a vocoder of this plan: of a path, its last part.

        It stands in test ids, artifact paths and the table; where two would get the same, each
        keeps its full name.
        """
        labels = [_last_part(name) for name in self.vocoders]
        label = _last_part(vocoder)
        return label if labels.count(label) <= 1 else vocoder


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]
