"""What a run of the suite checks: every clip with every vocoder on every device.

`melcheck.pytest_plugin.plan.make_plan` makes one, once, before the first test.

From options and ini keys to the plan of a run.

All that cannot be used is said here, before the first test, in one `ValueError`, `TypeError` or
`OSError` that the plugin turns into pytest's usage error.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from melcheck.clips import Clip, find_clips, load_manifest
from melcheck.config import DEFAULT_DURATION_SECONDS, DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.diagnosis.stored_mels import Matches, match_mels
from melcheck.files import one_line
from melcheck.frontends import Frontend, VocoderWithFrontend, load_frontend
from melcheck.mel_files import find_mels
from melcheck.pytest_plugin.options import from_command_line, paths, texts
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import search_first
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError, VocoderUnavailable

REQUIRABLE = ("official", "cuda")
"""What `--mel-require` takes."""

DEFAULT_ARTIFACTS = "mel-artifacts"
"""Folder for pictures, in the folder that pytest was started in."""


def make_plan(config: pytest.Config, *, check_clips: bool, artifacts: str | None = None) -> Plan:
    """Make the plan that the options and ini keys ask for.

    Args:
        config: Of pytest, with the options of `melcheck.pytest_plugin.plugin`.
        check_clips: Whether to read each of the user's files now, and name all bad ones at once.
        artifacts: Where pictures go, if that is settled; None takes it from the options.

    Raises:
        ValueError: An option out of range, a clip, vocoder or front end that cannot be used.
        OSError: A path that does not exist or cannot be written.
    """
    search_first((config.invocation_params.dir, config.rootpath))
    clips, from_manifest = _clips(config)
    goldens, goldens_are_ours = _goldens(config, from_manifest=from_manifest)
    required = _names(texts(config, "require"), config.rootpath)
    for name in required:
        if name not in REQUIRABLE:
            raise ValueError(f"--mel-require takes {' and '.join(REQUIRABLE)}, got {name!r}.")
    given = from_command_line(config, "vocoder")
    vocoders = _names(
        texts(config, "vocoder"), config.invocation_params.dir if given else config.rootpath
    )
    devices = _names(texts(config, "device"), config.rootpath)
    for size in texts(config, "bench"):
        if size not in ("short", "full"):
            raise ValueError(f"--mel-bench must be short or full, got {size!r}.")
    folder, elsewhere = _artifacts(config) if artifacts is None else (Path(artifacts), "")
    plan = Plan(
        clips=clips,
        vocoders=_with(vocoders or ["embedded", "official"], "official", required),
        devices=_with(_devices(devices), "cuda", required),
        required=frozenset([*required, *vocoders, *devices]),
        sample_rate=_number(config, "sample-rate", int, "a whole number of Hz", None),
        duration_seconds=_number(
            config, "duration", _seconds, "seconds above 0, or all", DEFAULT_DURATION_SECONDS
        ),
        artifacts=folder,
        goldens=goldens,
        goldens_are_ours=goldens_are_ours,
        recipe=VOCOS,
        frontend=None,
        stored=_stored(config, clips),
        written_elsewhere=elsewhere,
        _loaded={},
    )
    recipes = _recipes(plan)
    if check_clips:
        _check_clips(plan, recipes)
    frontends = [
        # One front end cannot make the mels of two recipes.
        load_frontend(reference, expected=recipes[0])
        for reference in texts(config, "frontend")
    ]
    return dataclasses.replace(
        plan, recipe=recipes[0], frontend=frontends[0] if frontends else None
    )


def _clips(config: pytest.Config) -> tuple[tuple[Clip, ...], bool]:
    """Return the clips, and whether they come from a manifest."""
    audio, manifests = paths(config, "audio"), paths(config, "manifest")
    named = from_command_line(config, "audio"), from_command_line(config, "manifest")
    if audio and manifests and named[0] == named[1]:
        raise ValueError("--mel-audio and --mel-manifest exclude each other. Name one of them.")
    if audio and not named[1]:
        return find_clips(audio), False
    for manifest in manifests:
        clips = load_manifest(manifest)
        if not any(clip.gated for clip in clips):
            raise ValueError(f"{manifest}: no clip of speech, so the gate would check nothing.")
        return clips, True
    raise ValueError("no clips to check. Name some with --mel-audio PATH.")


def _goldens(config: pytest.Config, *, from_manifest: bool) -> tuple[Path | None, bool]:
    """Return the folder of goldens, and whether it comes with the manifest."""
    folders = paths(config, "goldens")
    if not folders or from_command_line(config, "goldens"):
        return (folders[0] if folders else None), False
    # Those of the configuration belong to the clips of the configuration.
    if from_command_line(config, "audio") or from_command_line(config, "manifest"):
        return None, False
    return folders[0], from_manifest


def _stored(config: pytest.Config, clips: tuple[Clip, ...]) -> Matches | None:
    for folder in paths(config, "cache"):
        files = find_mels(folder)
        matches = match_mels(files, clips)
        if not matches.mels:
            raise ValueError(
                f"--mel-cache {folder}: none of its {len(files)} mels has the name of a clip. A "
                f"mel of {clips[0].path.name} is called {clips[0].path.stem}{files[0].suffix}."
            )
        return matches
    return None


def _artifacts(config: pytest.Config) -> tuple[Path, str]:
    """Return the folder for pictures, and why it is not where it was expected, "" if it is."""
    named = paths(config, "artifacts")
    folder = named[0] if named else config.invocation_params.dir / DEFAULT_ARTIFACTS
    try:
        return _writable(folder), ""
    except ValueError:
        if named:
            raise
    temporary = Path(tempfile.mkdtemp(prefix=f"{DEFAULT_ARTIFACTS}-"))
    return temporary, (
        f"{folder} cannot be written: pictures are in {temporary}. --mel-artifacts DIR names "
        "another folder."
    )


def _names(values: Iterable[str], folder: Path) -> list[str]:
    # A directory may have a comma in its name; then it is one name.
    names: list[str] = []
    for value in values:
        parts = [value] if (folder / value).is_dir() else value.split(",")
        stripped = [part.strip() for part in parts]
        whole = [
            # What is written in a file of the repository is not relative to where pytest runs.
            str(folder / part) if folder != Path.cwd() and (folder / part).is_dir() else part
            for part in stripped
            if part
        ]
        names += [name for name in whole if name not in names]
    return names


def _with(names: list[str], name: str, required: list[str]) -> tuple[str, ...]:
    present = any(planned.split(":")[0] == name for planned in names)
    return (*names, name) if name in required and not present else tuple(names)


def _devices(named: list[str]) -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in named:
        match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
        if match is None:
            raise ValueError(f"--mel-device must be cpu, cuda or cuda:N, got {name!r}.")
        if name != "cpu" and int(match[1] or 0) >= count:
            raise ValueError(
                f"--mel-device {name}: torch {torch.__version__} sees {count} CUDA devices. Check "
                "the driver with nvidia-smi, or leave the option out."
            )
    return named or (["cpu", "cuda"] if count else ["cpu"])


def _seconds(text: str) -> float | None:
    if text == "all":
        return None
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def _number(
    config: pytest.Config, option: str, convert: Callable[[str], Any], expected: str, default: Any
) -> Any:
    given = texts(config, option)
    if not given:
        return default
    try:
        return convert(given[0])
    except ValueError:
        raise ValueError(f"--mel-{option} must be {expected}, got {given[0]!r}.") from None


def _writable(path: Path) -> Path:
    # The folder itself is made with the first picture; here it is tried whether it could be.
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        raise ValueError(f"--mel-artifacts must be a folder, but {nearest} is a file.")
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".melcheck-"):
            pass
    except OSError as error:
        raise ValueError(
            f"--mel-artifacts {path}: {nearest} cannot be written ({error.strerror}). "
            "Name another folder."
        ) from None
    return path


def _recipes(plan: Plan) -> list[MelRecipe]:
    """Load what can be loaded, and return the recipes of the mels that it takes, in order."""
    recipes: dict[MelRecipe, None] = {}
    for name in plan.vocoders:
        try:
            recipe = plan.vocoder(name, plan.devices[0]).recipe
        except VocoderUnavailable:
            continue  # its tests are skipped, or fail where it is required, each with the reason
        except (VocoderError, ValueError) as error:
            raise ValueError(f"--mel-vocoder {name}: {error}") from None
        if plan.sample_rate not in (None, recipe.sample_rate):
            raise ValueError(
                f"--mel-sample-rate must be {recipe.sample_rate}, the rate of the mels of "
                f"{name!r}, got {plan.sample_rate}. Audio of any other rate is resampled to it."
            )
        recipes[recipe] = None
    return list(recipes) or [VOCOS]


def _check_clips(plan: Plan, recipes: list[MelRecipe]) -> None:
    from melcheck.speed.audio_blocks import check_readable

    problems: list[str] = []
    for clip in plan.clips:
        if clip.kind != "user":
            continue  # a manifest's clips are held to their hashes
        for recipe in recipes:
            try:
                own = plan.config(clip, recipe)
                check_readable(own, min_samples=recipe.min_round_trip_samples)
            except (ValueError, OSError) as error:
                hint = ""
                if clip.path.suffix == ".py":
                    hint = " To name tests as well, put `--` before them."
                problems.append(f"{error}{hint}")
                break
    if problems:
        more = len(problems) - LISTED_PATHS
        listed = "\n".join(problems[:LISTED_PATHS])
        raise ValueError(listed + (f"\n... and {more} more files" if more > 0 else ""))


LISTED_PATHS = 16
"""As many paths are named in a message; of more, the number."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a run checks.

    Attributes:
        clips: The audio files.
        vocoders: Names for `melcheck.vocoders.load.load_vocoder`.
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

    def with_frontend(self, vocoder: Vocoder) -> Vocoder:
        """Return a vocoder as the loop has it: with the user's front end, where there is one."""
        return vocoder if self.frontend is None else VocoderWithFrontend(self.frontend, vocoder)

    def has(self, option: str) -> bool:
        """Return whether "frontend" or "cache" was asked for."""
        return {"frontend": self.frontend, "cache": self.stored}[option] is not None

    def speech(self, recipe: MelRecipe) -> tuple[Tensor, ...]:
        """Return the first clip that the thresholds apply to, `[samples]`, for a handshake."""
        from melcheck.audio import load_audio
        from melcheck.speed.audio_blocks import start_of

        clip = next(clip for clip in self.clips if clip.gated)
        return (load_audio(start_of(self.config(clip, recipe)), min_samples=1).waveform[0],)

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
