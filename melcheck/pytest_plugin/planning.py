"""From options and ini keys to the plan of a run.

All that cannot be used is said here, before the first test, in one `ValueError`, `TypeError` or
`OSError` that the plugin turns into pytest's usage error.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from melcheck.clips import Clip, find_clips, load_manifest
from melcheck.config import DEFAULT_DURATION_SECONDS
from melcheck.diagnosis.cache_matches import Matches, match_mels
from melcheck.frontends import load_frontend
from melcheck.mel_files import find_mels
from melcheck.pytest_plugin.options import from_command_line, paths, texts
from melcheck.pytest_plugin.plan import LISTED_PATHS, Plan
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import search_first
from melcheck.vocoders.base import VocoderError, VocoderUnavailable

__all__ = ["DEFAULT_ARTIFACTS", "REQUIRABLE", "make_plan"]

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
        more = len(problems) - LISTED_PATHS
        listed = "\n".join(problems[:LISTED_PATHS])
        raise ValueError(listed + (f"\n... and {more} more files" if more > 0 else ""))
