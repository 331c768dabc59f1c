"""Sentences of a report, shared by HTML, Markdown and the terminal, and ticks of its pictures.

Bands and frames are counted from 0; positions of ticks are percent of a picture's size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from melcheck.diagnosis.causes import Explanation
from melcheck.files import MAX_LISTED
from melcheck.report.model import METRICS, CaseResult, FailedTest, RecipeSource, RunReport
from melcheck.sanity import Gate, GateResult

Ticks = tuple[tuple[float, str], ...]

BESIDE = ("mae", "pearson", "snr_db")
"""Metrics of which Griffin-Lim's value is shown beside a case's own."""

_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
_STEPS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_MOST_TIME_TICKS = 7


def band_place(band: int, recipe: RecipeSource) -> str:
    """Return a band in words: `band 61 (3.1 kHz)`."""
    hz = recipe.band_centres_hz[band]
    return f"band {band} ({hz / 1000:.2g} kHz)" if hz >= 1000 else f"band {band} ({hz:.0f} Hz)"


def frame_place(frame: int, recipe: RecipeSource) -> str:
    """Return a frame in words: `frame 113 (1.21 s)`."""
    return f"frame {frame} ({frame / recipe.frames_per_second:.2f} s)"


def band_range(first: int, last: int, change: float, recipe: RecipeSource) -> str:
    """Return bands and their change: `bands 80 to 99 (6.1 to 12 kHz) by up to +0.90 nats`."""
    low, high = (recipe.band_centres_hz[band] / 1000 for band in (first, last))
    many = f"bands {first} to {last} ({low:.2g} to {high:.2g} kHz) by up to"
    return f"{band_place(first, recipe) + ' by' if first == last else many} {change:+.2f} nats"


def frame_range(first: int, last: int, change: float, recipe: RecipeSource) -> str:
    """Return frames and their change, as `band_range` does."""
    start, end = (frame / recipe.frames_per_second for frame in (first, last))
    many = f"frames {first} to {last} ({start:.2f} to {end:.2f} s) by up to"
    return f"{frame_place(first, recipe) + ' by' if first == last else many} {change:+.2f} nats"


def worst_places(bands: Sequence[float], frames: Sequence[float], recipe: RecipeSource) -> str:
    """Return the band and the frame with the largest error; empty where nothing was measured."""
    band, frame = _largest(bands), _largest(frames)
    if band is None or frame is None:
        return ""
    return (
        f"Largest mean errors: {bands[band]:.2f} nats in {band_place(band, recipe)}, "
        f"{frames[frame]:.2f} nats in {frame_place(frame, recipe)}."
    )


def frequency_ticks(recipe: RecipeSource) -> Ticks:
    """Return (percent from the top, kHz) of round frequencies."""
    centres = recipe.band_centres_hz
    ticks = []
    for hz in _TICKS_HZ:
        above = next((band for band, centre in enumerate(centres) if centre >= hz), None)
        if above is None or hz < centres[0]:
            continue
        below = max(0, above - 1)
        gap = centres[above] - centres[below]
        band = above - (centres[above] - hz) / gap if gap else float(above)
        ticks.append((round(100 * (1 - (band + 0.5) / len(centres)), 2), f"{hz / 1000:g}"))
    return tuple(ticks)


def time_ticks(frames: int, recipe: RecipeSource) -> Ticks:
    """Return (percent from the left, seconds) of round times."""
    seconds = frames / recipe.frames_per_second
    fitting = (step for step in _STEPS_SECONDS if seconds / step <= _MOST_TIME_TICKS)
    step = next(fitting, seconds / _MOST_TIME_TICKS)
    count = math.floor((frames - 1) / recipe.frames_per_second / step) + 1
    # Frame t is drawn from t to t + 1 and centred on its time.
    places = (100 * (step * n * recipe.frames_per_second + 0.5) / frames for n in range(count))
    return tuple((round(place, 2), f"{step * n:g}") for n, place in enumerate(places))


def _largest(values: Sequence[float]) -> int | None:
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    return max(finite, key=lambda index: values[index], default=None)


@dataclass(frozen=True, slots=True)
class State:
    """How an outcome is shown: never by its colour alone.

    Attributes:
        kind: Name in style sheets.
        glyph: Sign.
        word: The outcome in words.
        rank: Position in the order of attention: 0 is the most urgent.
    """

    kind: str
    glyph: str
    word: str
    rank: int


STATES: Mapping[str, State] = MappingProxyType(
    {
        outcome: State(outcome.replace(" ", "-"), glyph, word, rank)
        for rank, (outcome, glyph, word) in enumerate(
            (
                ("failed", "✕", "failed"),
                ("no result", "✕", "no result"),
                ("known miss", "!", "known miss"),
                ("passed", "✓", "passed"),
                ("measured", "·", "measured"),
                ("skipped", "-", "skipped"),
                ("baseline", "≈", "for comparison"),
            )
        )
    }
)
"""State of each outcome, the most urgent first."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that failed.

    Attributes:
        clip: Its clip.
        title: The case in words.
        reason: Which gates it missed, or why there is no result.
        cause: The likely cause; None where none is known.
    """

    clip: str
    title: str
    reason: str
    cause: Explanation | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Cases that failed for one cause.

    Attributes:
        cause: The likely cause and what to do; empty where none is known.
        cases: Of each its clip, the case in words, and the reason, with the evidence where several
            share the cause.
    """

    cause: str
    cases: tuple[tuple[str, str, str], ...]


def problems_of(failures: Iterable[Failure]) -> list[Problem]:
    """Return failures by cause, in the order of the first of each; those without stay alone."""
    groups: dict[object, list[Failure]] = {}
    for number, each in enumerate(failures):
        known = each.cause
        groups.setdefault(
            number if known is None else (known.code, known.title, known.fix), []
        ).append(each)
    found = []
    for group in groups.values():
        cause = group[0].cause
        shared = cause is not None and len(group) > 1
        evidence = {each.cause.evidence for each in group if each.cause is not None}
        common = f" ({evidence.pop()})" if len(evidence) == 1 else ""
        cases = tuple(
            (
                each.clip,
                each.title,
                f"{each.reason} ({each.cause.evidence})"
                if shared and not common and each.cause is not None and each.cause.evidence
                else each.reason,
            )
            for each in group
        )
        text = "" if cause is None else f"{cause.title}{common}. {cause.fix}"
        found.append(Problem(text, cases))
    return found


def failure_lines(failures: Iterable[Failure]) -> list[str]:
    """Return failures for a terminal: a cause that several share is said once, with how many."""
    lines = []
    for problem in problems_of(failures):
        if len(problem.cases) == 1:
            [(_, title, reason)] = problem.cases
            lines.append(f"failed: {title}: {reason}")
            lines += [f"  likely cause: {problem.cause}"] if problem.cause else []
            continue
        lines.append(f"failed: {len(problem.cases)} cases, one likely cause: {problem.cause}")
        lines += [f"  {title}: {reason}" for _, title, reason in problem.cases[:MAX_LISTED]]
        if len(problem.cases) > MAX_LISTED:
            lines.append(f"  ... and {len(problem.cases) - MAX_LISTED} more")
    return lines


def headline(report: RunReport) -> str:
    """Return the verdict in one sentence."""
    counts = report.counts
    bad = counts.get("failed", 0) + counts.get("no result", 0)
    good, known = counts.get("passed", 0), counts.get("known miss", 0)
    judged = bad + good + known
    if report.verdict == "nothing measured":
        if counts.get("skipped"):
            return "Every case was skipped, so nothing was measured."
        return "No case was planned, so nothing was measured."
    if report.verdict == "failed":
        if bad:
            return f"{bad} of {judged} judged {_plural(judged, 'case')} failed."
        failed = len(report.failed_tests)
        return f"No case missed its gates, but {failed} other {_plural(failed, 'test')} failed."
    if not judged:
        return "Measured only: the gates apply to none of these clips."
    missed = f"; {known} {_plural(known, 'is a known miss', 'are known misses')}" if known else ""
    return f"{good} of {judged} judged {_plural(judged, 'case')} passed{missed}."


def problems(report: RunReport) -> list[Problem]:
    """Return the cases that failed, by cause, then the tests that are about nothing of the user's.

    Those about the front end and the stored mels are in `failed_tests`.
    """
    cases = [
        Failure(case.clip, case.title, case.reason or "it did not finish", case.cause)
        for case in report.cases
        if case.outcome in ("failed", "no result")
    ]
    others = [
        Failure("", test.name, test.message, None)
        for test in report.failed_tests
        if test.kind == "other"
    ]
    return problems_of([*cases, *others])


def failed_tests(report: RunReport) -> dict[str, list[FailedTest]]:
    """Return the failed tests about the front end and stored mels, by the title of their table."""
    titles = {"front end": "Front end", "stored mel": "Stored mels"}
    found = {
        title: [test for test in report.failed_tests if test.kind == kind]
        for kind, title in titles.items()
    }
    return {title: tests for title, tests in found.items() if tests}


def judged_rows(report: RunReport) -> list[tuple[CaseResult, CaseResult | None]]:
    """Return each case with Griffin-Lim's of its clip, the most urgent first.

    Griffin-Lim's has a row of its own only where there is no case that it stands beside.
    """
    place = {id(case): (case.clip, case.device, case.recipe) for case in report.cases}
    judged = {place[id(case)] for case in report.cases if case.outcome != "baseline"}
    beside = {place[id(case)]: case for case in report.cases if case.outcome == "baseline"}
    rows = [
        (case, None if case.outcome == "baseline" else beside.get(place[id(case)]))
        for case in report.cases
        if case.outcome != "baseline" or place[id(case)] not in judged
    ]
    return sorted(rows, key=lambda row: STATES[row[0].outcome].rank)


def skip_reasons(report: RunReport) -> list[str]:
    """Return each reason for skips, with the number of cases."""
    reasons = Counter(case.reason for case in report.cases if case.outcome == "skipped")
    return [f"{count} {_plural(count, 'case')} skipped: {why}" for why, count in reasons.items()]


def limit_text(gate: Gate | GateResult) -> str:
    """Return a gate without its metric: `< 0.2`."""
    return f"{'<' if gate.side == 'below' else '>'} {_number(gate.metric, gate.limit)}"


def limit_words(gate: Gate | GateResult) -> str:
    """Return a gate without its metric, in words: `above 18 dB (default 20)`."""
    return f"{gate.side} {_number(gate.metric, gate.limit)}{_unit(gate.metric)}{_default(gate)}"


def gates_text(gates: Iterable[Gate]) -> str:
    """Return the gates in one line: `MAE < 0.2 nats, SNR > 18 dB (default 20)`."""
    texts = (
        f"{METRICS[gate.metric].label} {limit_text(gate)}{_unit(gate.metric)}{_default(gate)}"
        for gate in gates
    )
    return ", ".join(texts) or "none"


def _number(metric: str, value: float) -> str:
    return f"{100 * value:g}%" if METRICS[metric].unit == "%" else f"{value:g}"


def _unit(metric: str) -> str:
    unit = METRICS[metric].unit
    return f" {unit}" if unit not in ("", "%") else ""


def _default(gate: Gate | GateResult) -> str:
    return "" if gate.default is None else f" (default {_number(gate.metric, gate.default)})"


def finished_text(finished: str) -> str:
    """Return a time for people: `2026-01-31 12:00 UTC`."""
    return f"{finished[:10]} {finished[11:16]} UTC"


def columns_text() -> str:
    """Return the meaning of each column, in one line."""
    meanings = "; ".join(f"{metric.label}: {metric.meaning}" for metric in METRICS.values())
    return f"{meanings}. After ≈ stands Griffin-Lim's, which is untrained, for comparison."


def change_text(case: CaseResult) -> str:
    """Return a case's change against the baseline in a sentence; empty without a baseline."""
    change = case.change
    if change is None or case.outcome == "baseline":
        return ""
    text = {
        "worse": "Worse than the baseline",
        "better": "Better than the baseline",
        "same": "Same as the baseline, within the tolerances",
        "other": "Cannot be compared with the baseline",
        "new": "The baseline has no such case",
    }[change.status]
    return ": ".join(filter(None, (text, "; ".join(change.mismatches), change.place))) + "."


def change_word(case: CaseResult) -> str:
    """Return a case's change in a word or two, "" without a baseline or a change."""
    if case.change is None or case.outcome == "baseline" or case.change.status == "same":
        return ""
    return "not comparable" if case.change.status == "other" else case.change.status


def comparison_text(report: RunReport) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the comparison with the baseline: a sentence, and lists of cases by their title.

    Both are empty for a report without a baseline.
    """
    comparison = report.comparison
    if comparison is None:
        return "", {}
    changes = [
        (case, case.change) for case in report.cases if case.change and case.outcome != "baseline"
    ]
    counts = Counter[str](change.status for _, change in changes)
    words = {
        "worse": "worse",
        "better": "better",
        "same": "same",
        "other": "not comparable",
        "new": "not in the baseline",
    }
    parts = [f"{counts[status]} {word}" for status, word in words.items() if counts[status]]
    ours = report.environment.versions
    versions = ", ".join(
        f"{name} {version}"
        for name, version in comparison.versions.items()
        if ours.get(name) != version
    )
    text = (
        f"{', '.join(parts) or 'No case in common'}. Baseline {comparison.file}, made "
        f"{finished_text(comparison.finished)}{f' with {versions}' if versions else ''}."
    )
    lists = {
        "Not comparable": comparison.other,
        "Better": tuple(
            f"{case.title}: {change.place}" for case, change in changes if change.status == "better"
        ),
        "In the baseline, but not in this run": comparison.missing,
        "In this run, but not in the baseline": comparison.new,
    }
    return text, {title: lines for title, lines in lists.items() if lines}


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"
