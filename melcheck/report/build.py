"""From round trips to the data of a report: each case, its vocoder and recipe, and where it ran."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import torch

from melcheck._version import __version__
from melcheck.diagnosis.causes import Explanation
from melcheck.files import place, sha256_file
from melcheck.pipeline import RoundTrip
from melcheck.recipes import MelRecipe, band_centres_hz
from melcheck.report.model import (
    METRICS,
    AudioSource,
    CaseOutcome,
    CaseRecord,
    CaseResult,
    Environment,
    RecipeSource,
    shown,
)
from melcheck.report.text import limit_words
from melcheck.sanity import GateResult, Verdict

# Far finer than any tolerance, and short: a case of 3 s has 382 of these numbers.
_PROFILE_DIGITS = 5

_VERSIONED = ("torchaudio", "vocos", "numpy", "soundfile")


def case_record(
    trip: RoundTrip,
    *,
    clip: str,
    vocoder: str,
    outcome: CaseOutcome,
    device: str | None = None,
    path: Path | None = None,
    source: Path | None = None,
    verdict: Verdict | None = None,
    cause: Explanation | None = None,
    artifacts: Path | None = None,
    problem: str = "",
) -> CaseRecord:
    """Return the record of the first item of a round trip.

    Args:
        trip: The round trip.
        clip: Name of the clip.
        vocoder: Label of the vocoder.
        outcome: Outcome of the case.
        device: Name of the device in this run; None for the name that torch gives it.
        path: File that `trip.audio` was read from, which is hashed; None for other waveforms.
        source: The user's file that holds it, to be shown; None for `path`.
        verdict: Verdict of the gates; None where none applies.
        cause: Likely cause of a failure.
        artifacts: Folder of its pictures and audio; None where none were written.
        problem: What is wrong beside the gates; "" for nothing.
    """
    metrics = trip.metrics()[0]
    values = {name: getattr(metrics, name) for name in METRICS if name != "stft_distance"}
    values["stft_distance"] = float(trip.waveform_distance()[0])
    recipe = _recipe_source(trip.recipe)
    missed = () if verdict is None else verdict.failures
    notes = () if outcome == "baseline" else trip.notes if verdict is None else verdict.notes
    case = CaseResult(
        clip=clip,
        vocoder=vocoder,
        device=str(trip.device) if device is None else device,
        outcome=outcome,
        reason="; ".join([*([problem] if problem else []), *map(_missed, missed)]),
        metrics={name: values[name] for name in METRICS},
        gates=() if verdict is None else verdict.gates,
        band_mae=_profile(metrics.band_mae),
        frame_mae=_profile(metrics.frame_mae),
        notes=notes,
        cause=cause,
        audio=_audio_source(trip, path),
        recipe=recipe.digest,
        path="" if path is None else place(source or path),
    )
    folder = "" if artifacts is None else str(artifacts)
    return CaseRecord(case=case, vocoder=trip.vocoder, recipe=recipe, artifacts=folder)


def environment(*, command: str, devices: Iterable[str]) -> Environment:
    """Describe this process and the devices that it used.

    Args:
        command: The command line.
        devices: Names of torch devices.
    """
    versions = {"melcheck": __version__, "Python": platform.python_version()}
    versions["torch"] = str(torch.__version__)  # which says what it was built for
    versions |= {name: importlib.metadata.version(name) for name in _VERSIONED}
    return Environment(
        command=command,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=versions,
        devices={name: _device_name(name) for name in dict.fromkeys(devices)},
    )


def _missed(gate: GateResult) -> str:
    metric = METRICS[gate.metric]
    unit = f" {metric.unit}" if metric.unit not in ("", "%") else ""
    value = shown(gate.metric, gate.value, beside=gate.limit)
    return f"{metric.label} is {value}{unit}, must be {limit_words(gate)}"


def _profile(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(
        round(value, _PROFILE_DIGITS) if math.isfinite(value) else value for value in values
    )


def _audio_source(trip: RoundTrip, path: Path | None) -> AudioSource | None:
    if trip.audio is None or path is None:
        return None
    return AudioSource(
        file=path.name,
        sha256=_hash(path),
        sample_rate=trip.audio.source_sample_rate,
        channels=trip.audio.source_channels,
        seconds=trip.audio.source_seconds,
        checked_seconds=trip.checked_seconds,
        begin_seconds=trip.audio.begin_seconds,
        decoder=trip.audio.decoder,
    )


@functools.lru_cache(maxsize=64)
def _hash(path: Path) -> str:
    return sha256_file(path)


@functools.lru_cache(maxsize=8)
def _recipe_source(recipe: MelRecipe) -> RecipeSource:
    return RecipeSource(
        digest=recipe.digest(),
        text=recipe.text(),
        sample_rate=recipe.sample_rate,
        frames_per_second=recipe.frames_per_second,
        log_floor=recipe.floor_nats,
        band_centres_hz=tuple(round(hz, 1) for hz in band_centres_hz(recipe)),
    )


def _device_name(name: str) -> str:
    if name.startswith("cuda"):
        return torch.cuda.get_device_name(name)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
