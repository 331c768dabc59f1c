"""What `melcheck check --quick` says: verdicts on many clips, and how they were come by."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melcheck.cli.output import Answer, Terminal, stdout_to_stderr
from melcheck.clips import Clip

if TYPE_CHECKING:
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.causes import Explanation
    from melcheck.pipeline import MelPipeline, RoundTrip
    from melcheck.speed.screening import ScreenedClip, Screening
    from melcheck.vocoders.base import Vocoder


# A gated metric, as it is shown, and which of many values is the worst.
_GATED: tuple[tuple[str, str, str, Callable[..., float]], ...] = (
    ("mae", "MAE", ".3f", max),
    ("snr_db", "SNR", ".1f", min),
    ("pearson", "corr", ".4f", min),
)


@dataclass(frozen=True, slots=True)
class _Judged:
    """One clip; only figures outlive its turn, so that a thousand fit into memory."""

    clip: Clip
    found: ScreenedClip
    cause: Explanation | None

    @property
    def reason(self) -> str:
        verdict = self.found.verdict
        return self.found.error if verdict is None else verdict.reason


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
        config: How to read a clip; its path is not looked at.
        terminal: Where progress is shown, and how wide a table may be.
        skipped: What was left out, in a sentence; "" for nothing.
    """
    from melcheck.pipeline import MelPipeline
    from melcheck.report.table import vocoder_text
    from melcheck.speed.screening import screen

    lines: list[str] = []
    failures: list[str] = []
    documents: list[dict[str, object]] = []
    passed = 0
    for label, vocoder in vocoders.items():
        pipeline = MelPipeline(config, vocoder=vocoder)
        judged: list[_Judged] = []
        with stdout_to_stderr():  # what a vocoder of the user's prints
            screening = screen([clip.path for clip in clips], pipeline)
            turns = terminal.progress(label, screening.clips, len(clips))
            for clip, found in zip(clips, turns, strict=True):
                cause = None if found.trip is None else _cause(found.trip, pipeline)
                judged.append(_Judged(clip, dataclasses.replace(found, trip=None), cause))
        told = vocoder_text(vocoder.info)
        passed += sum(each.found.passed for each in judged)
        lines += [*_table(label, judged, terminal), _how(judged, screening)]
        lines += [f"{label}: {told}", *_read(judged), ""]
        failures += [_failure(label, each) for each in judged if not each.found.passed]
        documents.append(_document(label, told, judged, screening))
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
        "report": None,
        "quick": documents,
    }
    return Answer(passed=0 < checks == passed, text="\n".join(lines), data=data)


def _cause(trip: RoundTrip, pipeline: MelPipeline) -> Explanation:
    """Return why a clip fails; Griffin-Lim tells a bad vocoder from a hard clip."""
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
    """Return how many passed, and the worst of each metric."""
    passed = sum(each.found.passed for each in judged)
    lines = [f"{label}: {passed} of {len(judged)} clips passed"]
    measured = [each for each in judged if each.found.metrics is not None]
    if not measured:
        return lines
    rows = []
    for name, title, decimals, worst_of in _GATED:
        values = [getattr(each.found.metrics, name) for each in measured]
        worst = worst_of(values)
        clip = measured[values.index(worst)].clip.name
        median = statistics.median(values)
        rows.append([title, format(median, decimals), format(worst, decimals), clip])
    return [*lines, "", terminal.table(["metric", "median", "worst", "clip"], rows), ""]


def _how(judged: Sequence[_Judged], screening: Screening) -> str:
    plain = sum(each.found.plain for each in judged)
    proof = screening.proof
    if proof is None or screening.refused:
        return f"all in plain arithmetic: {screening.refused}"
    return (
        f"{len(judged) - plain} clips in faster arithmetic ({proof.precision}), which differed by "
        f"{proof.deviation:.1e} nats at most on {proof.clips} clips ({proof.allowed:.1e} allowed); "
        f"{plain} in plain: these, and what did not pass clearly"
    )


def _read(judged: Sequence[_Judged]) -> list[str]:
    """Return what decoded the files, and of how many only the start was taken."""
    lines = sorted({f"decoder: {each.found.decoder}" for each in judged if each.found.decoder})
    parts = sum(each.found.part for each in judged)
    if parts:
        lines.append(f"clips of which only the start was checked: {parts} (--duration all)")
    return lines


def _failure(label: str, judged: _Judged) -> str:
    told = "" if judged.cause is None else f"\n  likely cause: {judged.cause}"
    return f"failed: {judged.clip.name} with {label}: {judged.reason}{told}"


def _document(
    label: str, provenance: str, judged: Sequence[_Judged], screening: Screening
) -> dict[str, object]:
    return {
        "vocoder": label,
        "provenance": provenance,
        "proof": screening.proof,
        "refused": screening.refused,
        "clips": [
            {
                "clip": each.clip.name,
                "path": each.clip.path,
                "passed": each.found.passed,
                "plain": each.found.plain,
                "part": each.found.part,
                **{
                    name: None if each.found.metrics is None else getattr(each.found.metrics, name)
                    for name, *_ in _GATED
                },
                "reason": each.reason,
                "cause": each.cause,
            }
            for each in judged
        ],
    }
