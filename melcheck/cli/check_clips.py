"""Copy synthesis of clips outside pytest: each judged, explained where it fails, and drawn.

A check is one clip through one vocoder. A round trip that fails is a failed check, never a missing
one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from melcheck.artifacts import case_folder, case_title, make_folder, save_artifacts
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.files import one_line, unwritten
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.plan import Judged, Plan
from melcheck.speed.many_clips import FileTrip, trips_of_files
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.griffin_lim import BASELINE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipCheck:
    """One clip through one vocoder.

    Attributes:
        clip: The clip.
        vocoder: Label of the vocoder.
        device: Where it ran.
        baseline: Griffin-Lim's round trip of the same clip; None where it did not finish, was not
            wanted, or is the vocoder itself.
        trip: The round trip; None if it did not finish.
        judged: The gates and what the project has accepted; None where there is nothing to judge.
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
    judged: Judged | None = None
    cause: Explanation | None = None
    error: str = ""
    artifacts: Path | None = None
    unwritten: str = ""

    @property
    def outcome(self) -> Literal["passed", "failed", "known miss"]:
        """The outcome; "failed" too where the round trip did not finish."""
        return "failed" if self.judged is None else self.judged.outcome

    @property
    def reason(self) -> str:
        """Why it failed, in words; "" where it did not."""
        if self.outcome != "failed":
            return ""
        if self.judged is None:
            return self.error.removeprefix(f"{one_line(self.clip.path)}: ")
        reasons = (self.judged.problem, self.judged.verdict.reason)
        return "; ".join(filter(None, reasons))


def check_clips(
    clips: Sequence[Clip],
    vocoders: Mapping[str, Vocoder],
    config: MelCheckConfig,
    *,
    plan: Plan | None = None,
    artifacts: Path | None = None,
) -> Iterator[ClipCheck]:
    """Run copy synthesis on each clip with each vocoder, and judge the result.

    Args:
        clips: The clips.
        vocoders: Loaded vocoders, by label, all on one device and of one rate; with the user's
            front end where there is one.
        config: How to read a clip; its path is replaced by the clip's.
        plan: The thresholds, what is accepted, and the front end; None for the defaults.
        artifacts: Folder for pictures and audio, with a folder for each check; None for none.

    Yields:
        The checks, clip by clip.

    Raises:
        ValueError: The configured rate is not that of a vocoder.
    """
    if not clips or not vocoders:
        return
    plan = plan or Plan(clips=tuple(clips), vocoders=tuple(vocoders), devices=("cpu",))
    pipelines = {label: MelPipeline(config, vocoder=each) for label, each in vocoders.items()}
    device = str(next(iter(pipelines.values())).device)
    beside = {
        each.recipe: MelPipeline(
            config, vocoder=plan.with_frontend(plan.baseline(each.recipe, device))
        )
        for each in vocoders.values()
        if each.info.name != BASELINE
    }
    everything = trips_of_files(
        [clip.path for clip in clips], [*pipelines.values(), *beside.values()]
    )
    for clip, trips in zip(clips, everything, strict=True):
        baselines = dict(zip(beside, trips[len(pipelines) :], strict=True))
        for (label, pipeline), found in zip(pipelines.items(), trips, strict=False):
            own = pipeline.vocoder.info.name == BASELINE
            baseline = None if own else baselines[pipeline.recipe].trip
            check = judged_check(plan, clip, label, pipeline, found, lambda _: baseline)  # noqa: B023
            check = dataclasses.replace(check, baseline=baseline)
            if artifacts is not None and check.trip is not None:
                check = _drawn(check, check.trip, pipeline, artifacts)
            yield check


def judged_check(
    plan: Plan,
    clip: Clip,
    label: str,
    pipeline: MelPipeline,
    found: FileTrip,
    beside: Callable[[RoundTrip], RoundTrip | None],
) -> ClipCheck:
    """Return the check of a round trip, with its likely cause where it failed.

    Args:
        plan: The thresholds, what is accepted, and the front end.
        clip: The clip.
        label: Label of the vocoder.
        pipeline: What made the round trip.
        found: The round trip, or why there is none.
        beside: Returns Griffin-Lim's round trip of the same clip, where a failure asks for it.
    """
    check = ClipCheck(clip=clip, vocoder=label, device=str(pipeline.device), baseline=None)
    trip = found.trip
    if trip is None:
        return dataclasses.replace(check, error=clip.problem or found.error)
    judged = plan.judge(clip, label, trip)
    cause = None
    if judged.outcome == "failed" and not judged.verdict.passed:
        cause = plan.explain(clip, trip, pipeline, beside(trip))
    return dataclasses.replace(check, trip=trip, judged=judged, cause=cause)


def _drawn(check: ClipCheck, trip: RoundTrip, pipeline: MelPipeline, folder: Path) -> ClipCheck:
    own = case_folder(folder, check.clip.name, check.vocoder, pipeline.device)
    metrics = trip.metrics()[0]
    title = case_title(check.clip.name, check.vocoder, pipeline.device, metrics)
    try:
        make_folder(folder)
        save_artifacts(trip, own, title=f"{title}\n{trip.part}".rstrip())
    except OSError as error:
        return dataclasses.replace(check, unwritten=unwritten("pictures and audio", error))
    return dataclasses.replace(check, artifacts=own)
