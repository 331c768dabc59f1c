"""What a report says in words, the same in HTML and in Markdown.

Where in a mel something is, in words and as a share of a picture's width or height.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from melcheck.report.model import METRICS, CaseResult, RecipeSource, RunReport, Threshold

Ticks = tuple[tuple[float, str], ...]

_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000, 16000)
_STEPS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
_MOST_TIME_TICKS = 7


def band_place(band: int, recipe: RecipeSource) -> str:
    """Return a band in words: `band 61 (3.1 kHz)`; bands are counted from 0."""
    hz = recipe.band_centres_hz[band]
    return f"band {band} ({hz / 1000:.2g} kHz)" if hz >= 1000 else f"band {band} ({hz:.0f} Hz)"


def frame_place(frame: int, recipe: RecipeSource) -> str:
    """Return a frame in words: `frame 113 (1.21 s)`; frames are counted from 0."""
    return f"frame {frame} ({frame / recipe.frames_per_second:.2f} s)"


def band_range(first: int, last: int, change: float, recipe: RecipeSource) -> str:
    """Return bands and by how much they changed: `bands 80 to 99 (6.1 to 12 kHz) by +0.90 nats`."""
    if first == last:
        return f"{band_place(first, recipe)} by {change:+.2f} nats"
    low, high = (recipe.band_centres_hz[band] / 1000 for band in (first, last))
    return f"bands {first} to {last} ({low:.2g} to {high:.2g} kHz) by up to {change:+.2f} nats"


def frame_range(first: int, last: int, change: float, recipe: RecipeSource) -> str:
    """Return frames and by how much they changed; as `band_range`."""
    if first == last:
        return f"{frame_place(first, recipe)} by {change:+.2f} nats"
    start, end = (frame / recipe.frames_per_second for frame in (first, last))
    return f"frames {first} to {last} ({start:.2f} to {end:.2f} s) by up to {change:+.2f} nats"


def worst_places(bands: Sequence[float], frames: Sequence[float], recipe: RecipeSource) -> str:
    """Say which band and which frame err most; empty where nothing was measured."""
    band, frame = _largest(bands), _largest(frames)
    if band is None or frame is None:
        return ""
    return (
        f"Errs most in {band_place(band, recipe)}, by {bands[band]:.2f} nats, "
        f"and in {frame_place(frame, recipe)}, by {frames[frame]:.2f} nats."
    )


def frequency_ticks(recipe: RecipeSource) -> Ticks:
    """Return (percent from the top, kHz) of round frequencies on a picture of the bands."""
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
    """Return (percent from the left, seconds) of round times on a picture of the frames."""
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
        kind: Name for style sheets.
        glyph: A sign.
        word: The outcome.
        rank: What needs attention first has the lowest.
    """

    kind: str
    glyph: str
    word: str
    rank: int


STATES: Mapping[str, State] = MappingProxyType(
    {
        "failed": State("failed", "✕", "failed", 0),
        "no result": State("no-result", "✕", "no result", 1),
        "known miss": State("known-miss", "!", "known miss", 2),
        "passed": State("passed", "✓", "passed", 3),
        "measured": State("measured", "·", "measured", 4),
        "skipped": State("skipped", "-", "skipped", 5),
        "baseline": State("baseline", "≈", "for comparison", 6),
    }
)
"""By outcome, what needs attention first."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that failed.

    Attributes:
        clip: Whose section to look at; empty for a test that belongs to no case.
        title: What failed.
        reason: Why, in words.
        cause: The likely cause in a few words; empty where none is known.
    """

    clip: str
    title: str
    reason: str
    cause: str


@dataclass(frozen=True, slots=True)
class ChangeText:
    """A case's change against the baseline: its status, and a sentence."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ComparisonText:
    """What the comparison with a baseline found: a sentence, and lists with their titles."""

    text: str
    lists: tuple[tuple[str, tuple[str, ...]], ...]


def headline(report: RunReport) -> str:
    """Return the verdict in one sentence."""
    counts = report.counts
    bad = counts.get("failed", 0) + counts.get("no result", 0)
    good, known = counts.get("passed", 0), counts.get("known miss", 0)
    judged = bad + good + known
    if report.verdict == "nothing measured":
        if counts.get("skipped"):
            return "Every case was skipped, so that this run says nothing of any mel."
        return "No case was planned, so that this run says nothing of any mel."
    if report.verdict == "failed":
        if bad:
            return f"{bad} of {judged} judged {_plural(judged, 'case')} failed."
        failed = len(report.failed_tests)
        return (
            f"No judged case missed its gates, but {failed} {_plural(failed, 'test')} of the run "
            "failed."
        )
    missed = f"; {known} {_plural(known, 'misses', 'miss')} a gate as is on record" if known else ""
    if not judged:
        return "Measured only: the gates apply to none of these clips."
    return f"{good} of {judged} judged {_plural(judged, 'case')} survived the loop{missed}."


def problems(report: RunReport) -> list[Problem]:
    """Return what failed: cases first, then tests that belong to none of those."""
    found = [
        Problem(
            case.clip,
            case.title,
            case.reason or "it never came to its end",
            "" if case.cause is None else f"{case.cause.title}. {case.cause.fix}",
        )
        for case in report.cases
        if case.outcome in ("failed", "no result")
    ]
    return found + [Problem("", test.name, test.message, "") for test in report.failed_tests]


def skip_reasons(report: RunReport) -> list[str]:
    """Return why cases were skipped, each reason with the number of cases."""
    reasons = Counter(case.reason for case in report.cases if case.outcome == "skipped")
    return [f"{count} {_plural(count, 'case')} skipped: {why}" for why, count in reasons.items()]


def threshold_text(threshold: Threshold) -> str:
    """Return a gate without its metric: `< 0.2`."""
    sign = "<" if threshold.side == "below" else ">"
    percent = METRICS[threshold.metric].unit == "%"
    return f"{sign} {100 * threshold.limit:g}%" if percent else f"{sign} {threshold.limit:g}"


def gates_text(thresholds: Iterable[Threshold]) -> str:
    """Return the gates in one line, on the log-mel of each clip of speech."""
    texts = []
    for threshold in thresholds:
        metric = METRICS[threshold.metric]
        unit = f" {metric.unit}" if metric.unit not in ("", "%") else ""
        texts.append(f"{metric.label} {threshold_text(threshold)}{unit}")
    return ", ".join(texts) or "none"


def finished_text(finished: str) -> str:
    """Return a time for people: `2026-01-31 12:00 UTC`."""
    return f"{finished[:10]} {finished[11:16]} UTC"


def legend() -> str:
    """Return what the columns are, in one line."""
    meanings = "; ".join(f"{metric.label}: {metric.meaning}" for metric in METRICS.values())
    return f"{meanings}. Griffin-Lim is untrained and stands there for comparison."


def change_text(case: CaseResult) -> ChangeText | None:
    """Return a case's change against the baseline in words; None without a baseline."""
    change = case.change
    if change is None or case.outcome == "baseline":
        return None
    text = {
        "worse": "Worse than the baseline",
        "better": "Better than the baseline",
        "same": "As in the baseline, within the tolerances",
        "other": "Not compared with the baseline",
        "new": "The baseline has no such case",
    }[change.status]
    if change.mismatches:
        text += ": " + "; ".join(change.mismatches)
    if change.place:
        text += f": {change.place}"
    return ChangeText(change.status, f"{text}.")


def change_word(case: CaseResult) -> str:
    """Return a case's change in a word or two, "" without a baseline or a change."""
    if case.change is None or case.outcome == "baseline":
        return ""
    words = {"worse": "worse", "better": "better", "other": "not comparable", "new": "new"}
    return words.get(case.change.status, "")


def comparison_text(report: RunReport) -> ComparisonText | None:
    """Return what the comparison with a baseline found; None without a baseline."""
    comparison = report.comparison
    if comparison is None:
        return None
    changed = [case for case in report.cases if case.change and case.outcome != "baseline"]
    counts = {
        status: sum(case.change is not None and case.change.status == status for case in changed)
        for status in ("worse", "better", "same", "other", "new")
    }
    words = {"other": "not comparable", "new": "not in the baseline"}
    told = ", ".join(
        f"{number} {words.get(name, name)}" for name, number in counts.items() if number
    )
    made = ", ".join(f"{name} {version}" for name, version in _other_versions(report).items())
    text = (
        f"{told[:1].upper()}{told[1:] or 'No case in common'}. Baseline {comparison.file}, made "
        f"{finished_text(comparison.finished)}{f' with {made}' if made else ''}."
    )
    lists = {
        "Not compared, since they do not describe the same thing": comparison.other,
        "Better": _places(changed, "better"),
        "In the baseline, but not in this run": comparison.missing,
        "In this run, but not in the baseline": comparison.new,
    }
    return ComparisonText(text, tuple((title, lines) for title, lines in lists.items() if lines))


def _places(cases: Iterable[CaseResult], status: str) -> tuple[str, ...]:
    return tuple(
        f"{case.title}: {case.change.place}"
        for case in cases
        if case.change is not None and case.change.status == status
    )


def _other_versions(report: RunReport) -> dict[str, str]:
    if report.comparison is None:
        return {}
    ours = report.environment.versions
    return {
        name: version
        for name, version in report.comparison.versions.items()
        if ours.get(name) != version
    }


def _plural(count: int, one: str, many: str = "") -> str:
    return one if count == 1 else many or f"{one}s"
