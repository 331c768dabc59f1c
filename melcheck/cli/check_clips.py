"""Clips round the loop, outside pytest: each judged, explained where it fails, and drawn.

A check is a clip through a vocoder. What cannot be used is said before the first one runs, all bad
files at once; what fails later is a failed check, never a missing one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from melcheck.artifacts import save_artifacts
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.round_trip import explain_round_trip
from melcheck.files import file_name
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.sanity import Thresholds, Verdict, judge
from melcheck.speed.audio_blocks import check_readable
from melcheck.speed.many_clips import FileTrip, trips_of_files
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.griffin_lim import BASELINE
from melcheck.vocoders.load import load_vocoder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipCheck:
    """One clip through one vocoder.

    Attributes:
        clip: The clip.
        vocoder: Label of the vocoder.
        device: Where it ran.
        baseline: Griffin-Lim's round trip of the same clip; None where it takes another mel, or is
            the vocoder itself.
        trip: What the loop produced; None where it came to no end.
        verdict: What the gates say; None where there is nothing to judge.
        cause: Why it failed, as far as that can be told.
        error: Why the loop came to no end; "" where it did.
        artifacts: Folder with its pictures and sound; None without.
    """

    clip: Clip
    vocoder: str
    device: str
    baseline: RoundTrip | None
    trip: RoundTrip | None = None
    verdict: Verdict | None = None
    cause: Explanation | None = None
    error: str = ""
    artifacts: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether the clip came round and every gate is met."""
        return self.verdict is not None and self.verdict.passed

    @property
    def reason(self) -> str:
        """Why it failed, in words; "" where it passed."""
        if self.passed:
            return ""
        return self.error if self.verdict is None else self.verdict.reason


def unreadable(
    clips: Sequence[Clip], config: MelCheckConfig, *, min_samples: int
) -> dict[Path, str]:
    """Return which of the clips cannot be used, and why.

    Args:
        clips: The clips.
        config: How to read them; its own path is not looked at.
        min_samples: The fewest samples that are of use.
    """
    problems = {}
    for clip in clips:
        try:
            own = dataclasses.replace(config, audio_path=clip.path)
            check_readable(own, min_samples=min_samples)
        except (ValueError, OSError) as error:
            problems[clip.path] = str(error)
    return problems


def check_clips(
    clips: Sequence[Clip],
    vocoders: Mapping[str, Vocoder],
    config: MelCheckConfig,
    *,
    artifacts: Path | None = None,
    thresholds: Thresholds | None = None,
) -> Iterator[ClipCheck]:
    """Take each clip round the loop with each vocoder, and judge what came back.

    Args:
        clips: The clips.
        vocoders: Loaded, by label, all on one device.
        config: How to read a clip; its path is replaced by the clip's.
        artifacts: Folder for pictures and sound, in a folder for each check; None for none.
        thresholds: The gates; None for the defaults.

    Yields:
        The checks, clip by clip.

    Raises:
        ValueError: The configured rate is not that of a vocoder.
        OSError: The artifacts cannot be written.
    """
    if not clips or not vocoders:
        return
    pipelines = {label: MelPipeline(config, vocoder=each) for label, each in vocoders.items()}
    device = next(iter(pipelines.values())).device
    untrained = load_vocoder(BASELINE, device=device)
    comparable = {
        label
        for label, vocoder in vocoders.items()
        if vocoder.info.name != BASELINE and vocoder.recipe == untrained.recipe
    }
    running = list(pipelines.values())
    if comparable:
        running.append(MelPipeline(config, vocoder=untrained))
    everything = trips_of_files([clip.path for clip in clips], running)
    for clip, trips in zip(clips, everything, strict=True):
        for (label, pipeline), found in zip(pipelines.items(), trips, strict=False):
            # A baseline that came to no end is told by the check itself.
            beside = trips[-1].trip if label in comparable else None
            yield _check(clip, label, pipeline, found, beside, artifacts, thresholds)


def _check(
    clip: Clip,
    label: str,
    pipeline: MelPipeline,
    found: FileTrip,
    baseline: RoundTrip | None,
    artifacts: Path | None,
    thresholds: Thresholds | None,
) -> ClipCheck:
    check = ClipCheck(clip=clip, vocoder=label, device=str(pipeline.device), baseline=baseline)
    trip, metrics = found.trip, found.metrics
    if trip is None or metrics is None:
        return dataclasses.replace(check, error=found.error)
    verdict = judge(metrics, thresholds, notes=trip.notes)
    cause = None
    if not verdict.passed:
        cause = explain_round_trip(
            trip,
            pipeline.waveform2mel,
            baseline_mae=None if baseline is None else baseline.metrics()[0].mae,
        )
    folder = None
    if artifacts is not None:
        folder = artifacts / file_name(f"{clip.name}-{label}-{pipeline.device}")
        title = (
            f"{clip.name}: {label} on {pipeline.device}\n"
            f"MAE {metrics.mae:.3f} nats, corr {metrics.pearson:.4f}, SNR {metrics.snr_db:.1f} dB"
        )
        save_artifacts(trip, folder, title=f"{title}\n{trip.part}".rstrip())
    return dataclasses.replace(check, trip=trip, verdict=verdict, cause=cause, artifacts=folder)


def labels(names: Sequence[str]) -> dict[str, str]:
    """Return a short name for each vocoder: of a path or hub id its last part, if that is unique.

    Example:
        >>> labels(["embedded", "models/v1/", "a/vocos", "b/vocos"])
        {'embedded': 'embedded', 'models/v1/': 'v1', 'a/vocos': 'a/vocos', 'b/vocos': 'b/vocos'}
    """
    short = {name: Path(name).name or name for name in names}
    parts = list(short.values())
    return {name: part if parts.count(part) == 1 else name for name, part in short.items()}
