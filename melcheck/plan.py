"""What a run of the suite checks: every clip with every vocoder on every device.

A plan is made once, before the first test, from the command line or a manifest. All that cannot be
used is said then, in one `ValueError`, `TypeError` or `OSError` that the plugin turns into
pytest's usage error.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from melcheck.clips import Clip, find_clips, load_manifest
from melcheck.config import DEFAULT_DURATION_SECONDS, DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.vocoders import Vocoder, VocoderError, VocoderUnavailable, load_vocoder

__all__ = ["BASELINE", "REQUIRABLE", "Plan", "make_plan"]

BASELINE = "griffin-lim"
"""The vocoder that each clip is compared with, and that the gate does not judge."""

REQUIRABLE = ("official", "cuda")
"""What `--mel-require` takes."""

_LISTED_PROBLEMS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a run checks.

    Attributes:
        clips: The audio files.
        vocoders: Names for `melcheck.vocoders.load_vocoder`.
        devices: Names of torch devices.
        required: Vocoders and devices whose absence fails a test; others are skipped. What is
            named on the command line is required.
        sample_rate: Hz that audio is read at; None takes the rate of each vocoder's recipe.
        duration_seconds: Seconds of each clip; None takes all of it.
        artifacts: Folder that pictures are written to.
        goldens: Folder that goldens are kept in; None where there is none.
        goldens_are_ours: Whether that folder comes with the manifest, so that a vocoder other than
            the embedded one need not be on record there.
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

    def label(self, vocoder: str) -> str:
        """Return a short name for a vocoder of this plan: of a path, its last part.

        It stands in test ids, artifact paths and the table; where two would get the same, each
        keeps its full name.
        """
        labels = [_last_part(name) for name in self.vocoders]
        label = _last_part(vocoder)
        return label if labels.count(label) <= 1 else vocoder


def make_plan(config: pytest.Config, *, check_clips: bool) -> Plan:
    """Make the plan that the options and ini keys ask for.

    Args:
        config: Of pytest, with the options of `melcheck.plugin`.
        check_clips: Whether to read each of the user's files now, and name all bad ones at once.

    Raises:
        ValueError: An option out of range, a clip or vocoder that cannot be used.
        OSError: A path that does not exist or cannot be written.
    """
    here = config.invocation_params.dir
    paths = config.getoption("mel_audio")
    manifest = config.getini("mel_manifest")
    goldens = config.getoption("mel_goldens")
    ours = config.getini("mel_goldens")
    if paths:
        clips = find_clips([here / path for path in paths])
    elif manifest:
        clips = load_manifest(config.rootpath / manifest)
    else:
        raise ValueError("no clips to check. Name some with --mel-audio PATH.")
    if not any(clip.gated for clip in clips):
        raise ValueError(f"{manifest}: no clip of speech, so that the gate would check nothing.")

    required = _names(config.getoption("mel_require"))
    for name in required:
        if name not in REQUIRABLE:
            raise ValueError(f"--mel-require takes {' and '.join(REQUIRABLE)}, got {name!r}.")
    vocoders = _names(config.getoption("mel_vocoder"))
    devices = _names(config.getoption("mel_device"))
    goldens_are_ours = bool(not goldens and not paths and ours)
    plan = Plan(
        clips=clips,
        vocoders=_with(vocoders or ["embedded", "official"], "official", required),
        devices=_with(_devices(devices), "cuda", required),
        required=frozenset([*required, *vocoders, *devices]),
        sample_rate=_number(config, "mel_sample_rate", int, "a whole number of Hz", None),
        duration_seconds=_number(
            config, "mel_duration", _seconds, "seconds, or all", DEFAULT_DURATION_SECONDS
        ),
        artifacts=_writable(here / config.getoption("mel_artifacts")),
        goldens=(config.rootpath / ours) if goldens_are_ours else (goldens and here / goldens),
        goldens_are_ours=goldens_are_ours,
        _loaded={},
    )
    recipes = _recipes(plan)
    if check_clips:
        _check_clips(plan, recipes)
    return plan


def _names(values: Iterable[str] | None) -> list[str]:
    # A directory may have a comma in its name; then it is one name.
    names: list[str] = []
    for value in values or ():
        parts = [value] if Path(value).is_dir() else value.split(",")
        names += [name for part in parts if (name := part.strip()) and name not in names]
    return names


def _with(names: list[str], name: str, required: list[str]) -> tuple[str, ...]:
    present = any(planned.split(":")[0] == name for planned in names)
    return (*names, name) if name in required and not present else tuple(names)


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


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
    return None if text == "all" else float(text)


def _number(
    config: pytest.Config, option: str, convert: Callable[[str], Any], expected: str, default: Any
) -> Any:
    text = config.getoption(option)
    if text is None:
        return default
    try:
        return convert(text)
    except ValueError:
        name = option.replace("_", "-")
        raise ValueError(f"--{name} must be {expected}, got {text!r}.") from None


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


def _recipes(plan: Plan) -> set[MelRecipe]:
    """Load what can be loaded, and return the recipes of the mels that it takes."""
    recipes = set()
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
        recipes.add(recipe)
    return recipes or {VOCOS}


def _check_clips(plan: Plan, recipes: set[MelRecipe]) -> None:
    from melcheck.audio import load_audio

    problems: list[str] = []
    for clip in plan.clips:
        if clip.kind != "user":
            continue  # a manifest's clips are held to their hashes
        for recipe in recipes:
            try:
                load_audio(plan.config(clip, recipe), min_samples=recipe.min_round_trip_samples)
            except (ValueError, OSError) as error:
                hint = ""
                if clip.path.suffix == ".py":
                    hint = " To name tests as well, put `--` before them."
                problems.append(f"{error}{hint}")
                break
    if problems:
        more = len(problems) - _LISTED_PROBLEMS
        listed = "\n".join(problems[:_LISTED_PROBLEMS])
        raise ValueError(listed + (f"\n... and {more} more files" if more > 0 else ""))
