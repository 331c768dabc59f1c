"""Output of `melcheck check --quick`: verdicts on many clips, computed side by side."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melcheck.cli.output import Terminal, stdout_to_stderr
from melcheck.files import MAX_LISTED

if TYPE_CHECKING:
    from melcheck.cli.check_clips import ClipCheck
    from melcheck.cli.check_text import CheckAnswer, QuickPart
    from melcheck.metrics import MelMetrics
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.plan import Plan
    from melcheck.vocoders.base import Vocoder


# A gated metric, its title and format, and which of many values is the worst.
_GATED: tuple[tuple[str, str, str, Callable[..., float]], ...] = (
    ("mae", "MAE", ".3f", max),
    ("snr_db", "SNR", ".1f", min),
    ("pearson", "corr", ".4f", min),
)


@dataclass(frozen=True, slots=True)
class _Figures:
    """The figures of one check: tensors are dropped, so that a thousand clips fit into memory."""

    clip: str
    path: str
    metrics: MelMetrics | None
    outcome: str
    reason: str
    cause: object
    notes: tuple[str, ...]
    is_part: bool
    decoder: str

    @property
    def passed(self) -> bool:
        return self.outcome != "failed"


def quick_part(
    plan: Plan, vocoders: Mapping[str, Vocoder], answer: CheckAnswer, terminal: Terminal
) -> QuickPart:
    """Judge each clip with each vocoder, and return the text and the JSON of that.

    Args:
        plan: What is checked.
        vocoders: Loaded, by label, with the user's front end where there is one.
        answer: Takes in every check.
        terminal: Where progress is shown, and how wide a table may be.
    """
    from melcheck.cli.check_clips import judged_check
    from melcheck.cli.check_text import QuickPart
    from melcheck.pipeline import MelPipeline
    from melcheck.report.table import vocoder_text
    from melcheck.speed.many_clips import check_many

    config = plan.config(plan.clips[0], plan.recipe)
    lines: list[str] = []
    documents: list[dict[str, object]] = []
    for label, vocoder in vocoders.items():
        pipeline = MelPipeline(config, vocoder=vocoder)
        figures = []
        with stdout_to_stderr():  # what a vocoder of the user's prints
            found = check_many([clip.path for clip in plan.clips], pipeline)
            turns = terminal.progress(label, found, len(plan.clips))
            for clip, each in zip(plan.clips, turns, strict=True):
                # Griffin-Lim, which explains a failure, runs for those alone.
                beside = functools.partial(_baseline, plan, pipeline)
                check = judged_check(plan, clip, label, pipeline, each, beside)
                answer.add(check)
                figures.append(_figures(check))
        source = vocoder_text(vocoder.info)
        lines += [*_table(label, figures, terminal), f"{label}: {source}", *_read(figures), ""]
        documents.append(
            {"vocoder": label, "provenance": source, "clips": list(map(_document, figures))}
        )
    return QuickPart(lines, documents)


def _baseline(plan: Plan, pipeline: MelPipeline, trip: RoundTrip) -> RoundTrip | None:
    from melcheck.pipeline import MelPipeline
    from melcheck.vocoders.griffin_lim import BASELINE

    if pipeline.vocoder.info.name == BASELINE:
        return None
    untrained = plan.with_frontend(plan.baseline(pipeline.recipe, str(pipeline.device)))
    beside = MelPipeline(pipeline.config, vocoder=untrained)
    return beside.round_trip(trip.waveform, valid_samples=trip.valid_samples)


def _figures(check: ClipCheck) -> _Figures:
    from melcheck.files import place

    trip, judged = check.trip, check.judged
    return _Figures(
        clip=check.clip.name,
        path=place(check.clip.source),
        metrics=None if trip is None else trip.metrics()[0],
        outcome=check.outcome,
        reason=check.reason,
        cause=check.cause,
        notes=() if judged is None else judged.verdict.notes,
        is_part=trip is not None and trip.is_part,
        decoder="" if trip is None or trip.audio is None else trip.audio.decoder,
    )


def _table(label: str, judged: Sequence[_Figures], terminal: Terminal) -> list[str]:
    """Return how many clips passed, and the worst of each metric."""
    passed = sum(each.passed for each in judged)
    known = sum(each.outcome == "known miss" for each in judged)
    lines = [
        f"{label}: {passed} of {len(judged)} clips passed"
        + (f", {known} of them as known misses" if known else "")
    ]
    measured = [each for each in judged if each.metrics is not None]
    if not measured:
        return lines
    rows = []
    for name, title, decimals, worst_of in _GATED:
        values = [getattr(each.metrics, name) for each in measured]
        worst = worst_of(values)
        clip = measured[values.index(worst)].path
        median = statistics.median(values)
        rows.append([title, format(median, decimals), format(worst, decimals), clip])
    return [*lines, "", terminal.table(["metric", "median", "worst", "clip"], rows), ""]


def _read(judged: Sequence[_Figures]) -> list[str]:
    """Return what decoded the files, which were not looked at whole, and the notes of each."""
    lines = sorted({f"decoder: {each.decoder}" for each in judged if each.decoder})
    parts = sum(each.is_part for each in judged)
    if parts:
        lines.append(f"clips of which only a part was checked: {parts} (--duration all)")
    noted: dict[str, list[str]] = {}
    for each in judged:
        for note in each.notes:
            noted.setdefault(note, []).append(each.clip)
    return lines + [
        f"{', '.join(clips[:MAX_LISTED])}{', ...' if len(clips) > MAX_LISTED else ''}: {note}"
        for note, clips in noted.items()
    ]


def _document(judged: _Figures) -> dict[str, object]:
    return {
        "clip": judged.clip,
        "path": judged.path,
        "passed": judged.passed,
        "outcome": judged.outcome,
        "part": judged.is_part,
        **{
            name: None if judged.metrics is None else getattr(judged.metrics, name)
            for name, *_ in _GATED
        },
        "notes": judged.notes,
        "reason": judged.reason,
        "cause": judged.cause,
    }
