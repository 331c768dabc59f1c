"""Output of `melcheck check --quick`: verdicts on many clips, computed side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melcheck.cli.output import Answer, Terminal, stdout_to_stderr
from melcheck.clips import Clip

if TYPE_CHECKING:
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.causes import Explanation
    from melcheck.metrics import MelMetrics
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.sanity import Verdict
    from melcheck.speed.many_clips import FileTrip
    from melcheck.vocoders.base import Vocoder


# A gated metric, its title and format, and which of many values is the worst.
_GATED: tuple[tuple[str, str, str, Callable[..., float]], ...] = (
    ("mae", "MAE", ".3f", max),
    ("snr_db", "SNR", ".1f", min),
    ("pearson", "corr", ".4f", min),
)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The figures of one clip: tensors are dropped, so that a thousand clips fit into memory."""

    clip: Clip
    metrics: MelMetrics | None
    verdict: Verdict | None
    error: str
    cause: Explanation | None
    is_part: bool
    decoder: str

    @property
    def passed(self) -> bool:
        return self.verdict is not None and self.verdict.passed

    @property
    def reason(self) -> str:
        return self.error if self.verdict is None else self.verdict.reason


def quick_answer(
    clips: Sequence[Clip],
    vocoders: Mapping[str, Vocoder],
    config: MelCheckConfig,
    terminal: Terminal,
    *,
    skipped: str,
) -> Answer:
    """Judge each clip with each vocoder.

    Args:
        clips: The clips.
        vocoders: Loaded, by label.
        config: How to read a clip; its path is not used.
        terminal: Where progress is shown, and how wide a table may be.
        skipped: What was left out, in a sentence; "" for nothing.
    """
    from melcheck.pipeline import MelPipeline
    from melcheck.report.table import vocoder_text
    from melcheck.speed.many_clips import check_many

    lines: list[str] = []
    failures: list[str] = []
    documents: list[dict[str, object]] = []
    passed = 0
    for label, vocoder in vocoders.items():
        pipeline = MelPipeline(config, vocoder=vocoder)
        with stdout_to_stderr():  # what a vocoder of the user's prints
            found = check_many([clip.path for clip in clips], pipeline)
            turns = terminal.progress(label, found, len(clips))
            judged = [
                _judged(clip, each, pipeline) for clip, each in zip(clips, turns, strict=True)
            ]
        source = vocoder_text(vocoder.info)
        passed += sum(each.passed for each in judged)
        lines += [*_table(label, judged, terminal), f"{label}: {source}", *_read(judged), ""]
        failures += [_failure(label, each) for each in judged if not each.passed]
        documents.append(
            {"vocoder": label, "provenance": source, "clips": [_document(each) for each in judged]}
        )
    lines += failures
    lines += [skipped] if skipped else []
    checks = len(clips) * len(vocoders)
    lines.append(f"{passed} of {checks} checks passed")
    data = {
        "checks": checks,
        "checks_passed": passed,
        "skipped": [skipped] if skipped else [],
        "artifacts": None,
        "frontend": None,
        "cache": None,
        "report": None,
        "quick": documents,
    }
    return Answer(passed=0 < checks == passed, text="\n".join(lines), data=data)


def _judged(clip: Clip, found: FileTrip, pipeline: MelPipeline) -> _Judged:
    from melcheck.sanity import judge

    trip, metrics = found.trip, found.metrics
    if trip is None or metrics is None:
        return _Judged(clip, None, None, found.error, None, is_part=False, decoder="")
    verdict = judge(metrics, notes=trip.notes)
    cause = None if verdict.passed else _cause(trip, pipeline)
    decoder = "" if trip.audio is None else trip.audio.decoder
    return _Judged(clip, metrics, verdict, "", cause, trip.is_part, decoder)


def _cause(trip: RoundTrip, pipeline: MelPipeline) -> Explanation:
    """Return why a clip fails; Griffin-Lim's error tells a bad vocoder from a hard clip."""
    from melcheck.diagnosis.round_trip import explain_round_trip
    from melcheck.pipeline import MelPipeline
    from melcheck.vocoders.griffin_lim import BASELINE
    from melcheck.vocoders.load import load_vocoder

    untrained = load_vocoder(BASELINE, device=pipeline.device)
    baseline_mae = None
    if pipeline.vocoder.info.name != BASELINE and untrained.recipe == pipeline.recipe:
        beside = MelPipeline(pipeline.config, vocoder=untrained)
        again = beside.round_trip(trip.waveform, valid_samples=trip.valid_samples)
        baseline_mae = again.metrics()[0].mae
    return explain_round_trip(trip, pipeline.waveform2mel, baseline_mae=baseline_mae)


def _table(label: str, judged: Sequence[_Judged], terminal: Terminal) -> list[str]:
    """Return how many clips passed, and the worst of each metric."""
    passed = sum(each.passed for each in judged)
    lines = [f"{label}: {passed} of {len(judged)} clips passed"]
    measured = [each for each in judged if each.metrics is not None]
    if not measured:
        return lines
    rows = []
    for name, title, decimals, worst_of in _GATED:
        values = [getattr(each.metrics, name) for each in measured]
        worst = worst_of(values)
        clip = measured[values.index(worst)].clip.name
        median = statistics.median(values)
        rows.append([title, format(median, decimals), format(worst, decimals), clip])
    return [*lines, "", terminal.table(["metric", "median", "worst", "clip"], rows), ""]


def _read(judged: Sequence[_Judged]) -> list[str]:
    """Return what decoded the files, and which were not computed whole."""
    lines = sorted({f"decoder: {each.decoder}" for each in judged if each.decoder})
    parts = sum(each.is_part for each in judged)
    if parts:
        lines.append(f"clips of which only the start was checked: {parts} (--duration all)")
    for each in judged:
        if each.passed and each.verdict is not None:
            lines += [f"{each.clip.name}: {note}" for note in each.verdict.notes]
    return lines


def _failure(label: str, judged: _Judged) -> str:
    cause = "" if judged.cause is None else f"\n  likely cause: {judged.cause}"
    return f"failed: {judged.clip.name} with {label}: {judged.reason}{cause}"


def _document(judged: _Judged) -> dict[str, object]:
    return {
        "clip": judged.clip.name,
        "path": judged.clip.path,
        "passed": judged.passed,
        "part": judged.is_part,
        **{
            name: None if judged.metrics is None else getattr(judged.metrics, name)
            for name, *_ in _GATED
        },
        "reason": judged.reason,
        "cause": judged.cause,
    }
