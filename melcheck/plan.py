"""What a run checks: every clip with every vocoder on every device.

pytest and the command line share this one plan. Each turns its options into the plain values of a
`Plan`, and `load_plan` loads what they name, so that what cannot be used is reported before the
first check, in the spelling of the option.
"""

from __future__ import annotations

import atexit
import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from melcheck.audio import load_audio
from melcheck.clip_lists import with_files
from melcheck.clips import Clip
from melcheck.config import DEFAULT_DURATION_SECONDS, DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import Handshake, explain_front_end, handshake
from melcheck.diagnosis.stored_mels import (
    Matches,
    check_pattern,
    match_by_pattern,
    match_mels,
    name_of_mel,
)
from melcheck.files import MAX_LISTED, error_text, one_line, refuse
from melcheck.frontends import Frontend, VocoderWithFrontend, load_frontend
from melcheck.mel_files import find_mels
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.speed.audio_blocks import check_readable, start_of
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError, VocoderUnavailable

_SPEECH_CLIPS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What a run checks.

    Attributes:
        clips: The audio files.
        vocoders: Names for `melcheck.vocoders.load.load_vocoder`.
        devices: Names of torch devices.
        required: Vocoders and devices that must be available; others are skipped where they are
            not. Only what is required may be downloaded.
        sample_rate: Hz that audio is read at; None takes the rate of each vocoder's recipe.
        duration_seconds: Seconds of each clip; None takes all of it.
        artifacts: Folder that pictures are written to; None for none.
        goldens: Folder that goldens are kept in; None where there is none.
        recipe: The mel of the first vocoder that is available; that of Vocos where none is.
        frontend: The user's front end; None takes each vocoder's own extractor.
        stored: The mels of a cache, by clip; None where no cache was named.
        cache_pattern: How the mels of the cache are called; None where their stems decide.
        remarks: Notes for the end of the run that are known beforehand.
    """

    clips: tuple[Clip, ...]
    vocoders: tuple[str, ...]
    devices: tuple[str, ...]
    required: frozenset[str] = frozenset()
    sample_rate: int | None = None
    duration_seconds: float | None = DEFAULT_DURATION_SECONDS
    artifacts: Path | None = None
    goldens: Path | None = None
    recipe: MelRecipe = VOCOS
    frontend: Frontend | None = None
    stored: Matches | None = None
    cache_pattern: str | None = None
    remarks: tuple[str, ...] = ()
    _loaded: dict[tuple[str, str], Vocoder | VocoderError] = dataclasses.field(default_factory=dict)
    _handshakes: dict[MelRecipe, Handshake] = dataclasses.field(default_factory=dict)

    def config(self, clip: Clip, recipe: MelRecipe | None = None) -> MelCheckConfig:
        """Return the configuration that reads a clip of this plan for mels of a recipe."""
        rate = DEFAULT_SAMPLE_RATE if recipe is None else recipe.sample_rate
        return MelCheckConfig(clip.path, self.sample_rate or rate, self.duration_seconds)

    def vocoder(self, name: str, device: str) -> Vocoder:
        """Return a vocoder, loaded once; one that failed fails again without a new try.

        Raises:
            VocoderError: It cannot be loaded, or (`VocoderUnavailable`) is not available.
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

    def with_frontend(self, vocoder: Vocoder) -> Vocoder:
        """Return a vocoder whose mels the user's front end extracts, where there is one."""
        return vocoder if self.frontend is None else VocoderWithFrontend(self.frontend, vocoder)

    def recipes(self) -> dict[MelRecipe, str]:
        """Return the recipes of the available vocoders, each with the first that has it."""
        recipes: dict[MelRecipe, str] = {}
        for name in self.vocoders:
            try:
                recipes.setdefault(self.vocoder(name, self.devices[0]).recipe, name)
            except VocoderUnavailable:
                continue  # skipped, or failed where it is required, with the reason
        return recipes

    def check_clips(self, clips: Iterable[Clip], *, hint: str = "") -> None:
        """Read each of the user's clips; a manifest's are compared with their hashes instead.

        Args:
            clips: Those of the plan, as an iterator that shows progress may give them.
            hint: What to add where a clip is a Python file.

        Raises:
            ValueError: One or more cannot be used; all are named.
        """
        recipes = list(self.recipes()) or [VOCOS]
        problems: list[str] = []
        for clip in clips:
            for recipe in recipes if clip.kind == "user" else ():
                try:
                    if clip.problem:
                        raise ValueError(clip.problem)
                    own = self.config(clip, recipe)
                    check_readable(own, min_samples=recipe.min_round_trip_samples)
                except (ValueError, OSError) as error:
                    problems.append(error_text(error) + (hint if clip.path.suffix == ".py" else ""))
                    break
        refuse(problems)

    def handshake(self, recipe: MelRecipe) -> Handshake:
        """Compare the front end with a recipe, once, on probes and the first clips of speech.

        Raises:
            ValueError: There is no front end, or a clip cannot be used.
        """
        if self.frontend is None:
            raise ValueError("a handshake needs a front end, and this plan has none.")
        if recipe not in self._handshakes:
            self._handshakes[recipe] = handshake(
                self.frontend, expected=recipe, speech=self._speech(recipe)
            )
        return self._handshakes[recipe]

    def _speech(self, recipe: MelRecipe) -> list[Tensor]:
        gated = [clip for clip in self.clips if clip.gated][:_SPEECH_CLIPS]
        configs = [start_of(self.config(clip, recipe)) for clip in gated]
        return [load_audio(config, min_samples=1).waveform[0] for config in configs]

    def front_end_fault(self, recipe: MelRecipe) -> Explanation | None:
        """Return why the front end does not extract a recipe's mel; None where it does."""
        if self.frontend is None:
            return None
        return explain_front_end(self.frontend.name, self.handshake(recipe))

    def label(self, vocoder: str) -> str:
        """Return a short name for a vocoder: of a path or hub id its last part, if that is unique.

        It is part of test ids, artifact paths and the table.

        Example:
            >>> names = ("embedded", "models/v1/", "a/vocos", "b/vocos")
            >>> plan = Plan(clips=(), vocoders=names, devices=("cpu",))
            >>> [plan.label(name) for name in names]
            ['embedded', 'v1', 'a/vocos', 'b/vocos']
        """
        labels = [_last_part(name) for name in self.vocoders]
        label = _last_part(vocoder)
        return label if labels.count(label) <= 1 else vocoder

    def described(self) -> list[str]:
        """Return what will be checked, in one line or a few."""
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
        notes = [*(self.frontend.notes if self.frontend is not None else ())]
        for loaded in self._loaded.values():
            notes += getattr(loaded, "notes", ())
        if self.stored is not None and self.stored.without_audio:
            lost = self.stored.without_audio
            listed = ", ".join(one_line(path) for path in lost[:MAX_LISTED])
            more = f" and {len(lost) - MAX_LISTED} more" if len(lost) > MAX_LISTED else ""
            notes.append(f"{len(lost)} stored mels belong to no clip of this run: {listed}{more}")
        return [*notes, *self.remarks]


def load_plan(
    plan: Plan, *, frontend: str | None = None, cache: Path | None = None, prefix: str = "--"
) -> Plan:
    """Return a plan with its vocoders, front end and stored mels loaded, and its clips as files.

    Args:
        plan: The plan.
        frontend: "package.module:attribute" of the user's front end; None without one.
        cache: Folder of stored mels; None without one.
        prefix: How the options begin, for messages: "--" or "--mel-".

    Raises:
        ValueError: A vocoder, rate, front end or cache that cannot be used.
        OSError: A cache that does not exist.
    """
    plan = dataclasses.replace(plan, clips=_files_of(plan.clips))
    if cache is not None:
        plan = dataclasses.replace(plan, stored=_stored(cache, plan, prefix))
    for name in plan.vocoders:
        try:
            rate = plan.vocoder(name, plan.devices[0]).recipe.sample_rate
        except VocoderUnavailable:
            continue
        except (VocoderError, ValueError) as error:
            raise ValueError(f"{prefix}vocoder {name}: {error}") from None
        if plan.sample_rate not in (None, rate):
            raise ValueError(
                f"{prefix}sample-rate must be {rate}, the rate of the mels of {name!r}, got "
                f"{plan.sample_rate}. Audio of any other rate is resampled to it."
            )
    recipe = next(iter(plan.recipes()), VOCOS)
    # One front end cannot extract the mels of two recipes.
    loaded = None if frontend is None else load_frontend(frontend, expected=recipe)
    return dataclasses.replace(plan, recipe=recipe, frontend=loaded)


def _files_of(clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    """Return clips that are files; parts of other files are written to a folder of the run."""
    if all(clip.item is None for clip in clips):
        return clips
    folder = Path(tempfile.mkdtemp(prefix="melcheck-clips-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return with_files(clips, folder)


def _stored(folder: Path, plan: Plan, prefix: str) -> Matches:
    pattern, clips = plan.cache_pattern, plan.clips
    if pattern is not None:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"{prefix}cache-pattern {error}") from None
    files = find_mels(folder)
    if pattern is None:
        matches, wanted = match_mels(files, clips), f"{clips[0].path.stem}{files[0].suffix}"
    else:
        matches = match_by_pattern(folder, files, clips, pattern)
        wanted = name_of_mel(pattern, clips[0])
    if not matches.mels:
        raise ValueError(
            f"{prefix}cache {folder}: none of its {len(files)} mels has the name of a clip. A "
            f"mel of {clips[0].path.name} is called {wanted}, and there is "
            f"{one_line(files[0].relative_to(folder))}. Give the pattern of the names: "
            f"{prefix}cache-pattern '{{speaker}}-mel-{{stem}}.npy'."
        )
    return matches


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name
