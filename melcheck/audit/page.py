"""The page of an audit: the verdict on top, what is wrong, distributions, groups, the worst clips.

It is one file without network, laid out by `melcheck/templates/audit.html.j2` in the style of a
run's report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from melcheck._version import __version__
from melcheck.audit.causes import code_of, fails, meaning
from melcheck.audit.distribution import Histogram
from melcheck.audit.model import METRIC_COLUMNS, AuditSettings
from melcheck.audit.summary import (
    cause_line,
    column,
    decision_text,
    error_headers,
    group_errors,
    group_name,
    group_note,
    headline,
    length_text,
    number,
    outcome_counts,
    percent,
    quantile_note,
    share_text,
    span,
    summary_lines,
    units_text,
)
from melcheck.audit.verdict import LEVELS, CorpusVerdict, Point
from melcheck.audit.worst import SHOWN_SECONDS, ShownClip, show_clips
from melcheck.files import replacing
from melcheck.manifests import ManifestItem
from melcheck.report.html import page_assets, page_template, picture_view, player_view
from melcheck.report.media import PAGE_BYTES, ClipMedia, fit_page
from melcheck.report.text import STATES, State, finished_text

__all__ = ["PAGE_NAME", "audit_html", "summary_lines", "write_page"]

PAGE_NAME = "audit.html"

_MOST_GROUPS = 200
_MOST_CAUSES = 50
_OPEN_CLIPS = 2
_TICKS = 5

_OUTCOMES = {
    "failed": STATES["failed"],
    "unreadable": State("failed", "✕", "unreadable", 0),
    "unfinished": State("failed", "✕", "unfinished", 0),
    "passed": STATES["passed"],
    "checked": State("measured", "·", "checked", 3),
}
# Of the audio, beside the metrics of the loop.
_AUDIO = ("duration_seconds", "level_dbfs", "bandwidth_hz")


def write_page(
    folder: Path,
    verdict: CorpusVerdict,
    settings: AuditSettings,
    *,
    source: str = "",
    items: Mapping[int, ManifestItem] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Path:
    """Decode the worst clips again, but for those that an earlier run has, and write the page.

    Args:
        folder: Folder of the audit, in which `PAGE_NAME` is written atomically. What is shown of
            the worst clips is kept in its folder "worst".
        verdict: The verdict.
        settings: Settings of the audit.
        source: What was audited, for the heading.
        items: By a row's index, the clip in its source: see `melcheck.audit.worst.show_clips`.
        provenance: What else to say of the run, by its label.

    Returns:
        The page's path.

    Raises:
        OSError: It cannot be written.
    """
    shown = show_clips(verdict.worst, settings, items=items, kept=folder / "worst")
    text = audit_html(verdict, settings, shown, source=source, provenance=provenance)
    path = folder / PAGE_NAME
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def audit_html(
    verdict: CorpusVerdict,
    settings: AuditSettings,
    shown: Sequence[ShownClip],
    *,
    source: str = "",
    provenance: Mapping[str, str] | None = None,
    limit: int = PAGE_BYTES,
) -> str:
    """Return the page.

    Args:
        verdict: The verdict.
        settings: Settings of the audit.
        shown: The worst clips with their audio and maps.
        source: What was audited, for the heading.
        provenance: What else to say of the run, by its label.
        limit: Bytes of pictures and audio; see `melcheck.report.media`.
    """
    # Names need not be unique in a corpus, places in its source are.
    records = {str(clip.row.index): clip.record for clip in shown if clip.record is not None}
    carried = fit_page(
        {clip: [record.case] for clip, record in records.items()},
        {
            clip.record.case.key: clip.media
            for clip in shown
            if clip.record is not None and clip.media is not None
        },
        limit=limit,
    )
    word, kind = _word(verdict)
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    groups = verdict.groups[:_MOST_GROUPS]
    return page_template("audit.html.j2").render(
        **page_assets(["report.css", "audit.css"], ["clips.js"]),
        verdict=verdict,
        word=word,
        kind=kind,
        glyph={"passed": "✓", "failed": "✕", "nothing": "?"}[kind],
        headline=headline(verdict),
        decision=decision_text(verdict),
        counts=[(_OUTCOMES[name], f"{n:,}") for name, n in outcome_counts(verdict).items()],
        facts=_facts(verdict, settings, source),
        finished=finished,
        finished_text=finished_text(finished),
        causes=[
            {
                "count": cause_line(cause),
                "title": cause.explanation.title,
                "fix": cause.explanation.fix,
                "examples": cause.examples,
                "fails": cause.failures > 0,
            }
            for cause in verdict.causes[:_MOST_CAUSES]
        ],
        more_causes=max(0, len(verdict.causes) - _MOST_CAUSES),
        levels=[f"{percent(level)} %" for level in LEVELS],
        quantiles=[
            (column(name), [(number(name, each.value), span(name, each)) for each in found])
            for name, found in verdict.quantiles.items()
        ],
        quantile_note=" ".join(filter(None, (units_text(verdict), quantile_note(verdict)))),
        histograms=[_bars(name, found) for name, found in verdict.histograms.items()],
        map=_map(verdict.points),
        group_levels=error_headers(verdict),
        groups=[
            {
                "name": group_name(group.name),
                "clips": f"{group.clips:,}",
                "few": group.few,
                "failures": f"{group.failures:,}",
                "share": share_text(group),
                "mae": group_errors(verdict, group),
                "stands_out": group.stands_out,
            }
            for group in groups
        ],
        more_groups=max(0, len(verdict.groups) - len(groups)),
        group_note=group_note(verdict) if groups else "",
        clips=[
            _clip(clip, carried.get(str(clip.row.index)), opened=place < _OPEN_CLIPS)
            for place, clip in enumerate(shown)
        ],
        shown_seconds=f"{SHOWN_SECONDS:g}",
        provenance=dict(provenance or {}) | {"melcheck": __version__},
    )


def _word(verdict: CorpusVerdict) -> tuple[str, str]:
    decision = verdict.decision
    if verdict.limit is None:
        # Without a limit no clip may fail; of a part that can only be refuted.
        decision = "above" if verdict.failures else "below" if verdict.whole else None
    return {
        "below": ("Passed", "passed"),
        "above": ("Failed", "failed"),
        None: ("Undecided", "nothing"),
    }[decision]


def _facts(verdict: CorpusVerdict, settings: AuditSettings, source: str) -> list[tuple[str, str]]:
    clips = f"{verdict.clips:,} of {verdict.corpus_size:,} clips"
    part = "all of each clip"
    if settings.duration_seconds is not None:
        part = f"{settings.duration_seconds:g} s of each clip at most"
    facts = [
        ("Source", source),
        ("Measured", f"{clips}, {length_text(verdict.seconds)}; {part}"),
        ("Vocoder", "none: audio and stored mels alone"),
    ]
    if settings.vocoder is not None:
        facts[-1] = ("Vocoder", f"{settings.vocoder} on {settings.device}")
    caches = ", ".join(f"{count:,} {name}" for name, count in verdict.caches.items())
    facts += [
        ("Profile", settings.profile or ""),
        ("Front end", settings.frontend or ""),
        ("Stored mels", caches),
        ("Thresholds of this project", "; ".join(map(str, settings.rules))),
    ]
    return [(label, text) for label, text in facts if text]


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return (percent of the way from low to high, text) of round values."""
    values = [v for v in MaxNLocator(_TICKS).tick_values(low, high) if low <= v <= high]
    return [(round(100 * (v - low) / (high - low), 2), f"{v:,.10g}") for v in values]


def _bars(name: str, histogram: Histogram) -> dict[str, Any]:
    kind = column(name)
    low, high = histogram.edges[0], histogram.edges[-1]
    top = max(histogram.counts)
    heights = (f"{100 * (1 - count / top):.2f}" for count in histogram.counts)
    path = "M0 100" + "".join(f"V{height}H{bar}" for bar, height in enumerate(heights, start=1))
    beyond = [
        f"{count:,} {side} {number(name, end)}"
        for count, side, end in (
            (histogram.below, "below", low),
            (histogram.above, "above", high),
        )
        if count
    ]
    return {
        "label": kind.label,
        "unit": kind.unit,
        "meaning": kind.meaning,
        "bars": len(histogram.counts),
        "path": f"{path}V100Z",
        "top": f"{top:,}",
        "ticks": _ticks(low, high),
        "beyond": "; ".join(beyond),
        "described": f"{kind.label} from {number(name, low)} to {number(name, high)} {kind.unit}, "
        f"at most {top:,} clips in one of {len(histogram.counts)} bins",
    }


def _map(points: Sequence[Point]) -> dict[str, Any] | None:
    """Return the map of loudness against SNR; None where it would be empty."""
    if not points:
        return None
    xs, ys = [point.level_dbfs for point in points], [point.snr_db for point in points]
    left, right = _around(xs)
    bottom, top = _around(ys)
    return {
        "x_ticks": _ticks(left, right),
        "y_ticks": [(round(100 - at, 2), text) for at, text in _ticks(bottom, top)],
        # Clips that fail are drawn last, on top.
        "points": [
            (
                f"{100 * (point.level_dbfs - left) / (right - left):.1f}",
                f"{100 * (top - point.snr_db) / (top - bottom):.1f}",
                point.failed,
                point.name if point.failed else "",
            )
            for point in sorted(points, key=lambda point: point.failed)
        ],
        "failed": f"{sum(point.failed for point in points):,}",
        "others": f"{sum(not point.failed for point in points):,}",
    }


def _around(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def _clip(shown: ShownClip, media: ClipMedia | None, *, opened: bool) -> dict[str, Any]:
    row = shown.row
    names = [name for name in (*METRIC_COLUMNS, *_AUDIO) if not math.isnan(getattr(row, name))]
    players = [] if shown.original is None else [player_view("Original", shown.original)]
    picture = None
    if shown.record is not None and media is not None and media.original is not None:
        case = shown.record.case
        found = media.cases[case.key]
        players = [
            player_view("Original", media.original),
            player_view("Reconstruction", found.reconstructed_audio),
        ]
        picture = picture_view(case, found, shown.record.recipe)
    code = code_of(row)
    glance = [f"{column(n).label} {number(n, getattr(row, n))}" for n in ("mae", "snr_db")]
    seconds = f", {row.duration_seconds:.2f} s" if row.duration_seconds > 0 else ""
    begin = f" from {row.offset_seconds:.2f} s" if row.offset_seconds else ""
    return {
        "anchor": f"clip-{row.index}",
        "name": row.name,
        "glance": " · ".join(glance) if not math.isnan(row.mae) else "",
        "state": _OUTCOMES[row.outcome] if row.outcome == "failed" or not fails(row) else _UNFIT,
        "file": f"{row.path}{begin}{seconds}",
        "place": row.place,
        "group": row.group,
        "reason": row.reason,
        "cause": meaning(code) if code else None,
        "notes": row.notes,
        "figures": [
            {
                "label": column(name).label,
                "meaning": column(name).meaning,
                "text": number(name, getattr(row, name)),
                "unit": "" if column(name).unit == "%" else column(name).unit,
            }
            for name in names
        ],
        "players": players,
        "picture": picture,
        "problem": shown.problem or _left_out(shown, picture),
        "open": opened,
    }


# What is wrong is not of the loop: samples that are NaN, a stored mel that is stale.
_UNFIT = State("failed", "✕", "not fit for training", 0)


def _left_out(shown: ShownClip, picture: object) -> str:
    if shown.record is not None and picture is None:
        return "No pictures and no audio: the page would be too large."
    return ""
