"""A run's report as one self-contained HTML page, made to be mailed.

The page carries its style, script, pictures and sound, and forbids itself everything else by a
Content-Security-Policy. Without JavaScript it is a plain page whose sections open by themselves.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from melcheck.plots import DIFFERENCE_COLOURS, MEL_COLOURS
from melcheck.report.media import CaseMedia, colour_stops
from melcheck.report.model import CaseResult, RunReport
from melcheck.report.report_budget import PAGE_BYTES, ClipMedia, fit
from melcheck.report.report_clips import changes, channels, clip_view, fields
from melcheck.report.report_metrics import METRICS, shown, shown_delta
from melcheck.report.store import Key
from melcheck.report.text import (
    STATES,
    change_word,
    comparison_text,
    finished_text,
    gates_text,
    headline,
    legend,
    problems,
    skip_reasons,
    threshold_text,
)

__all__ = ["report_html"]

# As many failed clips are shown open; any clip is, in a run of no more than _SMALL_RUN.
_OPEN_CLIPS = 4
_SMALL_RUN = 2
# On a phone the table keeps the columns of the gates; each clip's section has them all.
_EXTRA = frozenset(METRICS) - {"mae", "pearson", "snr_db"}


def report_html(
    report: RunReport,
    media: Mapping[Key, CaseMedia] | None = None,
    *,
    limit: int = PAGE_BYTES,
) -> str:
    """Return the page.

    Args:
        report: The run.
        media: Pictures and sound by case; a case without any is shown in figures alone.
        limit: Bytes of pictures and sound; see `melcheck.report.report_budget`.
    """
    by_clip: dict[str, list[CaseResult]] = {}
    for case in report.cases:
        by_clip.setdefault(case.clip, []).append(case)
    urgent = sorted(by_clip, key=lambda clip: min(STATES[c.outcome].rank for c in by_clip[clip]))
    carried = fit({clip: by_clip[clip] for clip in urgent}, media or {}, limit=limit)
    anchors = {clip: f"clip-{number}" for number, clip in enumerate(by_clip, start=1)}
    opened = urgent[:_OPEN_CLIPS] if len(by_clip) > _SMALL_RUN else urgent
    opened = [
        clip
        for clip in opened
        if len(by_clip) <= _SMALL_RUN or any(c.outcome == "failed" for c in by_clip[clip])
    ]
    style, script = _asset("report.css"), _asset("report.js")
    present = {case.outcome for case in report.cases}
    devices = {case.device for case in report.cases}
    state = STATES["passed" if report.verdict == "passed" else "failed"]
    return _template().render(
        report=report,
        style=Markup(style),  # ours, and hashed in the policy
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        gradients=(
            ("mel-scale", colour_stops(MEL_COLOURS)),
            ("difference-scale", colour_stops(DIFFERENCE_COLOURS)),
        ),
        verdict={
            "kind": "nothing" if report.verdict == "nothing measured" else report.verdict,
            "glyph": "?" if report.verdict == "nothing measured" else state.glyph,
            "word": report.verdict.capitalize(),
            "headline": headline(report),
            "counts": _counts(report),
            "tally": ", ".join(f"{count} {name}" for name, count in report.counts.items()),
        },
        gates_text=gates_text(report.thresholds),
        finished=finished_text(report.environment.finished),
        problems=[
            {"anchor": anchors.get(problem.clip), **fields(problem)} for problem in problems(report)
        ],
        comparison=comparison_text(report),
        caption=f"{len(report.cases)} cases; a clip's name leads to its pictures and sound.",
        columns=_columns(report, show_device=len(devices) > 1),
        show_device=len(devices) > 1,
        states=[fields(STATES[name]) for name in STATES if name in present],
        rows=[_row(case, anchors) for case in report.cases],
        legend=legend(),
        skipped=skip_reasons(report),
        clips=[
            clip_view(clip, cases, report, carried[clip])
            | {"anchor": anchors[clip], "open": clip in opened}
            for clip, cases in by_clip.items()
        ],
        without_media=(
            "No picture and no sound of this case: none was made, or the page would be too large."
        ),
        files=_files(report),
        sound_note=_sound_note(carried),
    )


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("melcheck") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("report.html.j2"))


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _counts(report: RunReport) -> list[dict[str, Any]]:
    return [
        fields(STATES[name]) | {"count": report.counts[name]}
        for name in STATES
        if report.counts.get(name)
    ]


def _columns(report: RunReport, *, show_device: bool) -> list[dict[str, str]]:
    columns = [_column("clip"), _column("vocoder", kind="wide")]
    if show_device:
        columns.append(_column("device", kind="wide"))
    columns.append(_column("state", kind="wide rank"))
    limits = {threshold.metric: threshold_text(threshold) for threshold in report.thresholds}
    for name, metric in METRICS.items():
        unit = f" {metric.unit}" if metric.unit and metric.unit != "%" else ""
        limit = f"{limits[name]}{unit}" if name in limits else unit.strip()
        columns.append(
            {
                "kind": "number extra" if name in _EXTRA else "number",
                "label": metric.label,
                "limit": limit,
                "meaning": metric.meaning,
            }
        )
    return columns


def _column(label: str, *, kind: str = "") -> dict[str, str]:
    return {"kind": kind, "label": label, "limit": "", "meaning": ""}


def _row(case: CaseResult, anchors: Mapping[str, str]) -> dict[str, Any]:
    missed = {gate.metric for gate in case.gates if not gate.passed}
    moved = changes(case)
    cells = []
    for name in METRICS:
        value = case.metrics.get(name)
        change = moved.get(name)
        cells.append(
            {
                "kind": "extra" if name in _EXTRA else "",
                "value": "" if value is None else _sortable(value),
                "text": "" if value is None else shown(name, value),
                "missed": name in missed,
                "delta": "" if change is None else shown_delta(name, change.delta),
                "trend": "" if change is None else change.trend,
            }
        )
    return {
        "clip": case.clip,
        "vocoder": case.vocoder,
        "device": case.device,
        "anchor": anchors.get(case.clip),
        "state": STATES[case.outcome],
        "change": change_word(case),
        "cells": cells,
    }


def _sortable(value: float) -> str:
    if math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _files(report: RunReport) -> list[dict[str, str]]:
    sources = {case.clip: case.audio for case in report.cases if case.audio is not None}
    return [
        {
            "name": audio.file,
            "format": f"{audio.sample_rate:,} Hz, {channels(audio.channels)}",
            "checked": f"{audio.checked_seconds:.2f} of {audio.seconds:.2f} s",
            "decoder": audio.decoder,
            "sha256": audio.sha256,
        }
        for audio in sources.values()
    ]


def _sound_note(carried: Mapping[str, ClipMedia]) -> str:
    sounds = [media.original for media in carried.values() if media.original is not None]
    for media in carried.values():
        sounds += [case.reconstructed_sound for case in media.cases.values()]
    if not sounds:
        return ""
    note = (
        "What went round, mono at the mel's rate, as FLAC of 16 bit, which loses nothing audible."
    )
    if any(sound.kind == "audio/mpeg" for sound in sounds):
        note += (
            " To keep the page small, players marked MP3 hold a lossy copy (variable rate, best "
            "quality; players cut off the encoder's delay): judge fine artifacts by the files in "
            "the artifacts folder. All figures are of the exact samples."
        )
    return note
