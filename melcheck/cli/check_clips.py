"""Copy synthesis of clips outside pytest: each judged, explained where it fails, and drawn.

A check is one clip through one vocoder. A round trip that fails is a failed check, never a missing
one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from melcheck.artifacts import case_folder, case_title, save_artifacts
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.round_trip import explain_round_trip
from melcheck.files import unwritten
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.sanity import Verdict, judge
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
        baseline: Griffin-Lim's round trip of the same clip; None where it takes a different mel,
            or is the vocoder itself.
        trip: The round trip; None if it did not finish.
        verdict: The result of the gates; None where there is nothing to judge.
        cause: Likely cause of a failure; None where nothing failed.
        error: Why the round trip did not finish; "" where it did.
        artifacts: Folder with its pictures and audio; None without.
        unwritten: Why they could not be written; "" where they were.
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
    unwritten: str = ""

    @property
    def passed(self) -> bool:
        """Whether the round trip finished and every gate is met."""
        return self.verdict is not None and self.verdict.passed

    @property
    def reason(self) -> str:
        """Why it failed, in words; "" where it passed."""
        if self.passed:
            return ""
        return self.error if self.verdict is None else self.verdict.reason


def check_clips(
    clips: Sequence[Clip],
    vocoders: Mapping[str, Vocoder],
    config: MelCheckConfig,
    *,
    artifacts: Path | None = None,
) -> Iterator[ClipCheck]:
    """Run copy synthesis on each clip with each vocoder, and judge the result.

    Args:
        clips: The clips.
        vocoders: Loaded vocoders, by label, all on one device.
        config: How to read a clip; its path is replaced by the clip's.
        artifacts: Folder for pictures and audio, with a folder for each check; None for none.

    Yields:
        The checks, clip by clip.

    Raises:
        ValueError: The configured rate is not that of a vocoder.
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
            # Where the baseline did not finish, the check is judged without it.
            beside = trips[-1].trip if label in comparable else None
            yield _check(clip, label, pipeline, found, beside, artifacts)


def _check(
    clip: Clip,
    label: str,
    pipeline: MelPipeline,
    found: FileTrip,
    baseline: RoundTrip | None,
    artifacts: Path | None,
) -> ClipCheck:
    check = ClipCheck(clip=clip, vocoder=label, device=str(pipeline.device), baseline=baseline)
    trip, metrics = found.trip, found.metrics
    if trip is None or metrics is None:
        return dataclasses.replace(check, error=found.error)
    verdict = judge(metrics, notes=trip.notes)
    cause = None
    if not verdict.passed:
        cause = explain_round_trip(
            trip,
            pipeline.waveform2mel,
            baseline_mae=None if baseline is None else baseline.metrics()[0].mae,
        )
    check = dataclasses.replace(check, trip=trip, verdict=verdict, cause=cause)
    if artifacts is None:
        return check
    folder = case_folder(artifacts, clip.name, label, pipeline.device)
    title = case_title(clip.name, label, pipeline.device, metrics)
    try:
        save_artifacts(trip, folder, title=f"{title}\n{trip.part}".rstrip())
    except OSError as error:
        return dataclasses.replace(check, unwritten=unwritten("pictures and audio", error))
    return dataclasses.replace(check, artifacts=folder)
