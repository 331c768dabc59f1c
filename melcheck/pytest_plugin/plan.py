"""From pytest's options and ini keys to the plan of a run.

What cannot be used is reported here, before the first test, in one `ValueError`, `TypeError` or
`OSError` that the plugin turns into pytest's usage error.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from melcheck.accepted import DEFAULT_FILE, read_accepted
from melcheck.clip_lists import list_clips
from melcheck.clips import Clip, load_manifest, sample_clips
from melcheck.config import DEFAULT_DURATION_SECONDS, offset_of, seconds_or_all
from melcheck.files import writable_folder
from melcheck.manifests import is_manifest
from melcheck.plan import (
    DEFAULT_KEEP_RUNS,
    Plan,
    default_vocoders,
    load_plan,
    profile_recipe,
)
from melcheck.pytest_plugin.options import from_command_line, paths, switched_on, texts
from melcheck.sanity import threshold_rule
from melcheck.user_code import search_first

_REQUIRABLE = ("official", "cuda")
_ARTIFACTS = "mel-artifacts"


def make_plan(config: pytest.Config, *, check_clips: bool, artifacts: str | None = None) -> Plan:
    """Make the plan that the options and ini keys ask for.

    Args:
        config: pytest's, with the options of `melcheck.pytest_plugin.options`.
        check_clips: Whether to read each of the user's files now, and name all bad ones at once.
        artifacts: Where pictures go, if that is settled; None takes it from the options.

    Raises:
        ValueError: An option out of range, a clip, vocoder or front end that cannot be used.
        OSError: A path that does not exist or cannot be written.
    """
    root, here = config.rootpath, config.invocation_params.dir
    search_first((here, root))
    clips = _clips(config)
    count = _number(config, "sample", _count, "a whole number from 1 up", None)
    seed = _number(config, "seed", int, "a whole number", 0)
    if count is not None:
        clips = sample_clips(clips, count, seed=seed)
    expected = next(iter(texts(config, "profile")), None)
    _named("profile", profile_recipe, expected)
    required = _names(texts(config, "require"), root)
    for name in required:
        if name not in _REQUIRABLE:
            raise ValueError(f"--mel-require takes {' and '.join(_REQUIRABLE)}, got {name!r}.")
    given = from_command_line(config, "vocoder")
    vocoders = _names(texts(config, "vocoder"), here if given else root)
    given = from_command_line(config, "vocoder-reference")
    references = _names(texts(config, "vocoder-reference"), here if given else root)
    devices = _names(texts(config, "device"), root)
    for size in texts(config, "bench"):
        if size not in ("short", "full"):
            raise ValueError(f"--mel-bench must be short or full, got {size!r}.")
    folder, remarks = _artifacts(config) if artifacts is None else (Path(artifacts), ())
    plan = Plan(
        clips=clips,
        vocoders=_with(
            vocoders or list(default_vocoders(expected, official=True)), "official", required
        ),
        devices=_with(_devices(devices), "cuda", required),
        required=frozenset([*required, *vocoders, *devices, *references]),
        vocoder_reference=next(iter(references), None),
        profile=expected,
        sample_rate=_number(config, "sample-rate", int, "a whole number of Hz", None),
        duration_seconds=_number(
            config, "duration", seconds_or_all, "seconds above 0, or all", DEFAULT_DURATION_SECONDS
        ),
        offset=_number(config, "offset", offset_of, "start, middle, or seconds from 0 up", 0.0),
        rules=tuple(
            _named("thresholds", threshold_rule, text) for text in texts(config, "thresholds")
        ),
        accepted=_named("accepted", read_accepted, accepted_file(config)),
        artifacts=folder,
        keep_runs=_number(
            config, "keep-runs", _count, "a whole number from 1 up", DEFAULT_KEEP_RUNS
        ),
        goldens=_goldens(config),
        cache_pattern=next(iter(texts(config, "cache-pattern")), None),
        remarks=(*remarks, *_sampled(count, seed)),
    )
    plan = load_plan(
        plan,
        loader=next(iter(texts(config, "loader")), None),
        frontend=next(iter(texts(config, "frontend")), None),
        saver=next(iter(texts(config, "saver")), None),
        cache=next(iter(paths(config, "cache")), None),
        prefix="--mel-",
    )
    if check_clips:
        plan.check_clips(
            plan.clips,
            strict=switched_on(config, "strict-input"),
            hint=" To name tests as well, put `--` before them.",
        )
    return plan


def accepted_file(config: pytest.Config) -> Path:
    """Return the file of accepted misses, whether it exists or not."""
    return next(iter(paths(config, "accepted")), config.rootpath / DEFAULT_FILE)


def _sampled(count: int | None, seed: int) -> list[str]:
    return [] if count is None else [f"--mel-sample {count}: chosen by name, with seed {seed}"]


def _named(option: str, read: Callable[[Any], Any], value: Any) -> Any:
    """Return what a value means, with the option in front of what is wrong with it."""
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"--mel-{option}: {error}") from None


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _clips(config: pytest.Config) -> tuple[Clip, ...]:
    audio, manifests = paths(config, "audio"), paths(config, "manifest")
    named = from_command_line(config, "audio"), from_command_line(config, "manifest")
    if audio and manifests and named[0] == named[1]:
        raise ValueError("--mel-audio and --mel-manifest exclude each other. Name one of them.")
    column = next(iter(texts(config, "column")), None)
    if audio and not named[1]:
        return list_clips(audio, column=column)
    for manifest in manifests:
        if is_manifest(manifest):
            return list_clips([manifest], column=column)
        clips = load_manifest(manifest)
        if not any(clip.gated for clip in clips):
            raise ValueError(f"{manifest}: no clip of speech, so the gate would check nothing.")
        return clips
    raise ValueError("no clips to check. Name some with --mel-audio PATH.")


def _goldens(config: pytest.Config) -> Path | None:
    # Goldens of the configuration belong to the clips of the configuration.
    other_clips = from_command_line(config, "audio") or from_command_line(config, "manifest")
    if other_clips and not from_command_line(config, "goldens"):
        return None
    return next(iter(paths(config, "goldens")), None)


def _artifacts(config: pytest.Config) -> tuple[Path, tuple[str, ...]]:
    """Return the folder for pictures, and a remark where it is not the expected one."""
    named = paths(config, "artifacts")
    folder = named[0] if named else config.invocation_params.dir / _ARTIFACTS
    try:
        return writable_folder(folder, "--mel-artifacts"), ()
    except ValueError:
        if named:
            raise
    temporary = Path(tempfile.mkdtemp(prefix=f"{_ARTIFACTS}-"))
    remark = (
        f"{folder} cannot be written: pictures are in {temporary}. --mel-artifacts DIR names "
        "another folder."
    )
    return temporary, (remark,)


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
