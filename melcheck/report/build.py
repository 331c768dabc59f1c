"""From round trips to the data of a report: each case, its vocoder and recipe, and where it ran."""

from __future__ import annotations

import functools
import importlib.metadata
import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from melcheck._version import __version__
from melcheck.diagnosis.causes import Explanation
from melcheck.files import sha256_file
from melcheck.metrics import MelMetrics
from melcheck.pipeline import RoundTrip
from melcheck.recipes import MelRecipe, band_centres_hz
from melcheck.report.model import (
    METRICS,
    AudioSource,
    CaseOutcome,
    CaseResult,
    Cause,
    Environment,
    GateResult,
    RecipeSource,
    Threshold,
    VocoderSource,
    shown,
)
from melcheck.sanity import Thresholds, Verdict

# Far finer than any tolerance, and short: a case of 3 s has 382 of these numbers.
_PROFILE_DIGITS = 5

_VERSIONED = ("torchaudio", "vocos", "numpy", "soundfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """A case with the vocoder and the recipe that it refers to, as a worker writes it."""

    case: CaseResult
    vocoder: VocoderSource
    recipe: RecipeSource


def case_record(
    trip: RoundTrip,
    *,
    clip: str,
    vocoder: str,
    outcome: CaseOutcome,
    device: str | None = None,
    path: Path | None = None,
    thresholds: Thresholds | None = None,
    verdict: Verdict | None = None,
    cause: Explanation | None = None,
) -> CaseRecord:
    """Return the record of the first item of a round trip.

    Args:
        trip: What the loop produced.
        clip: Name of the clip.
        vocoder: Label of the vocoder.
        outcome: How it counts.
        device: What the run calls the device; None for the name that torch gives it.
        path: The file that `trip.audio` was read from, which is hashed; None for other waveforms.
        thresholds: The gates that apply; None for a case that none applies to.
        verdict: What the gates said; None where none applies.
        cause: What is likely wrong.
    """
    metrics = trip.metrics()[0]
    info = trip.vocoder
    recipe = _recipe_source(trip.recipe)
    gates = () if thresholds is None else _gates(metrics, run_thresholds(thresholds))
    case = CaseResult(
        clip=clip,
        vocoder=vocoder,
        device=str(trip.device) if device is None else device,
        outcome=outcome,
        reason=_reason(gates),
        metrics={
            "mae": metrics.mae,
            "pearson": metrics.pearson,
            "snr_db": metrics.snr_db,
            "centred_snr_db": metrics.centred_snr_db,
            "mse": metrics.mse,
            "max_abs_diff": metrics.max_abs_diff,
            "stft_distance": float(trip.waveform_distance()[0]),
            "reference_floor_share": metrics.reference_floor_share,
        },
        gates=gates,
        band_mae=_profile(metrics.band_mae),
        frame_mae=_profile(metrics.frame_mae),
        notes=() if verdict is None else verdict.notes,
        cause=None if cause is None else _cause(cause),
        audio=_audio_source(trip, path),
        recipe=recipe.digest,
    )
    source = VocoderSource(
        label=vocoder,
        name=info.name,
        source=info.source,
        revision=info.revision,
        weights_sha256=info.weights_sha256,
        config_sha256=info.config_sha256,
        num_parameters=info.num_parameters,
    )
    return CaseRecord(case=case, vocoder=source, recipe=recipe)


def run_thresholds(thresholds: Thresholds) -> tuple[Threshold, ...]:
    """Return the gates of `melcheck.sanity` as data."""
    return (
        Threshold(metric="mae", side="below", limit=thresholds.mae),
        Threshold(metric="pearson", side="above", limit=thresholds.pearson),
        Threshold(metric="snr_db", side="above", limit=thresholds.snr_db),
        Threshold(
            metric="reference_floor_share", side="below", limit=thresholds.reference_floor_share
        ),
    )


def environment(*, command: str, devices: Iterable[str]) -> Environment:
    """Describe this process and the devices that it used.

    Args:
        command: The command line.
        devices: Names of torch devices.
    """
    versions = {"melcheck": __version__, "Python": platform.python_version()}
    versions["torch"] = str(torch.__version__)  # which says what it was built for
    for name in _VERSIONED:
        versions[name] = importlib.metadata.version(name)
    return Environment(
        command=command,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions=versions,
        devices={name: _device_name(name) for name in dict.fromkeys(devices)},
    )


def _gates(metrics: MelMetrics, thresholds: Iterable[Threshold]) -> tuple[GateResult, ...]:
    gates = []
    for threshold in thresholds:
        value = float(getattr(metrics, threshold.metric))
        room = threshold.limit - value if threshold.side == "below" else value - threshold.limit
        gates.append(
            GateResult(
                metric=threshold.metric,
                value=value,
                side=threshold.side,
                limit=threshold.limit,
                margin=room,
                passed=room > 0,  # a NaN is not
            )
        )
    return tuple(gates)


def _reason(gates: Iterable[GateResult]) -> str:
    missed = []
    for gate in gates:
        if not gate.passed:
            metric = METRICS[gate.metric]
            unit = f" {metric.unit}" if metric.unit not in ("", "%") else ""
            value, limit = (shown(gate.metric, number) for number in (gate.value, gate.limit))
            if value == limit:
                value, limit = f"{gate.value:.6g}", f"{gate.limit:g}"
            missed.append(f"{metric.label} is {value}{unit}, must be {gate.side} {limit}{unit}")
    return "; ".join(missed)


def _cause(cause: Explanation) -> Cause:
    return Cause(code=cause.code, title=cause.title, evidence=cause.evidence, fix=cause.fix)


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
        log_floor=recipe.log_floor,
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
