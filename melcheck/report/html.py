"""A run's report as one self-contained HTML page.

The page contains its style, script, pictures and audio; a Content-Security-Policy forbids anything
else. It can be read without JavaScript. `melcheck/templates/report.html.j2` lays it out: a verdict,
a table of all cases, a section for each clip, and provenance.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from melcheck.files import plain_text
from melcheck.plots import DIFFERENCE_COLOURS, MEL_COLOURS
from melcheck.report.media import (
    DIFFERENCE_LIMIT,
    PAGE_BYTES,
    CaseMedia,
    ClipMedia,
    Player,
    colour_stops,
    fit_page,
)
from melcheck.report.model import (
    METRICS,
    CaseResult,
    Key,
    MetricChange,
    RecipeSource,
    RunReport,
    by_clip,
    shown,
    shown_delta,
)
from melcheck.report.table import part_text
from melcheck.report.text import (
    BESIDE,
    STATES,
    change_text,
    change_word,
    columns_text,
    comparison_text,
    failed_tests,
    finished_text,
    frequency_ticks,
    gates_text,
    headline,
    judged_rows,
    limit_text,
    problems,
    skip_reasons,
    time_ticks,
    worst_places,
)
from melcheck.sanity import GateResult


def _clip_view(
    name: str, cases: Sequence[CaseResult], report: RunReport, media: ClipMedia
) -> dict[str, Any]:
    panels = [case for case in cases if case.outcome != "baseline"]
    states = dict.fromkeys(STATES[case.outcome] for case in panels or cases)
    best = min(panels or cases, key=lambda case: STATES[case.outcome].rank)
    audio = next((case.audio for case in cases if case.audio), None)
    file = ""
    if audio is not None:
        part = part_text(audio) or f"{audio.checked_seconds:.2f} s"
        file = (
            f"{cases[0].path or audio.file} · {audio.sample_rate:,} Hz, "
            f"{_channels(audio.channels)} · {part} checked · sha256 {audio.sha256[:12]}…"
        )
    devices = {case.device for case in cases}
    players = [] if media.original is None else [player_view("Original", media.original)]
    for case in cases:
        if case.key in media.cases:
            kind = "For comparison" if case.outcome == "baseline" else "Reconstruction"
            place = f" on {case.device}" if len(devices) > 1 else ""
            player = media.cases[case.key].reconstructed_audio
            players.append(player_view(f"{kind}: {case.vocoder}{place}", player))
    return {
        "name": name,
        "glance": _glance(best),
        "states": list(states),
        "file": file,
        "players": players,
        "panels": [_panel(case, report, media.cases.get(case.key)) for case in panels],
    }


def _glance(case: CaseResult) -> str:
    if not case.metrics:
        return case.reason.splitlines()[0] if case.reason else ""
    return " · ".join(
        f"{METRICS[name].label} {shown(name, case.metrics[name], beside=case.limits.get(name))}"
        for name in BESIDE
    )


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def player_view(label: str, player: Player) -> dict[str, str]:
    """Return a player as the templates show it."""
    notes = []
    if player.gain != 1:
        notes.append(f"beyond full scale: made quieter by a factor of {1 / player.gain:.3g}")
    if not player.finite:
        notes.append("NaN or infinite samples are played as silence")
    if player.kind == "audio/mpeg":
        notes.append("MP3")
    return {"label": label, "kind": player.kind, "data": player.data, "note": "; ".join(notes)}


def _panel(case: CaseResult, report: RunReport, media: CaseMedia | None) -> dict[str, Any]:
    recipe = next((each for each in report.recipes if each.digest == case.recipe), None)
    gates = {gate.metric: gate for gate in case.gates}
    # The reason of a case that failed for its change contains the change already.
    repeated = case.outcome == "failed" and change_word(case) in ("worse", "not comparable")
    return {
        "title": f"{case.vocoder} on {case.device}",
        "state": STATES[case.outcome],
        "reason": case.reason,
        "cause": case.cause,
        "notes": case.notes,
        "figures": [
            _figure(name, value, gates.get(name), case.changes.get(name))
            for name, value in case.metrics.items()
        ],
        "change": "" if repeated else change_text(case),
        "change_kind": "" if case.change is None else case.change.status,
        "picture": None if media is None or recipe is None else picture_view(case, media, recipe),
    }


def _figure(
    name: str, value: float, gate: GateResult | None, change: MetricChange | None
) -> dict[str, Any]:
    metric = METRICS[name]
    return {
        "label": metric.label,
        "meaning": metric.meaning,
        "text": shown(name, value, beside=None if gate is None else gate.limit),
        "unit": "" if metric.unit == "%" else metric.unit,
        "missed": gate is not None and not gate.passed,
        "gate": "" if gate is None else _gate_text(gate),
        "delta": "" if change is None else f"{shown_delta(name, change.delta)} vs. baseline",
        "trend": "" if change is None else change.trend,
    }


def _gate_text(gate: GateResult) -> str:
    limit = limit_text(gate)
    if gate.default is not None:
        limit += f" (default {gate.default:g})"
    if math.isnan(gate.margin):
        return f"must be {limit}"
    margin = shown(gate.metric, abs(gate.margin), beside=0.0)
    return f"{limit}, margin {margin}" if gate.passed else f"must be {limit}, misses by {margin}"


def _fields(data: Any) -> dict[str, Any]:
    # Not dataclasses.asdict, which would copy the pictures.
    return {name: getattr(data, name) for name in data.__slots__}


def picture_view(case: CaseResult, media: CaseMedia, recipe: RecipeSource) -> dict[str, Any]:
    """Return the maps of a case as the macro `picture` shows them."""
    low, high, limit = media.mel_low, media.mel_high, DIFFERENCE_LIMIT
    band_top, frame_top = _top(case.band_mae), _top(case.frame_mae)
    return _fields(media) | {
        "x_ticks": time_ticks(media.frames, recipe),
        "y_ticks": frequency_ticks(recipe),
        "mel_ticks": _scale_ticks(low, high, 4),
        "difference_ticks": _scale_ticks(-limit, limit, 4, signed=True),
        "frame_path": _path(
            [
                (frame + 0.5, 100 * (1 - error / frame_top))
                for frame, error in enumerate(case.frame_mae)
            ]
        ),
        "band_path": _path(
            [
                (100 * error / band_top, media.bands - band - 0.5)
                for band, error in enumerate(case.band_mae)
            ]
        ),
        "frame_top": f"{frame_top:.2g}",
        "band_top": f"{band_top:.2g}",
        "frame_label": f"Error of each frame, up to {frame_top:.2g} nats",
        "band_label": f"Error of each band, up to {band_top:.2g} nats",
        "worst": worst_places(case.band_mae, case.frame_mae, recipe),
    }


def _top(values: Sequence[float]) -> float:
    return 1.05 * max((value for value in values if math.isfinite(value)), default=0.0) or 1.0


def _scale_ticks(
    low: float, high: float, steps: int, *, signed: bool = False
) -> tuple[tuple[float, str], ...]:
    values = [low + (high - low) * step / steps for step in range(steps + 1)]
    return tuple(
        (
            round(100 * (high - value) / (high - low), 2),
            f"{value:{'+' if signed and value else ''}.1f}",
        )
        for value in values
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    # A frame that does not count is a gap.
    parts, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        parts.append(f"{pen}{x:g} {y:.1f}" if x % 1 == 0.5 else f"{pen}{x:.1f} {y:g}")
        pen = "L"
    return "".join(parts)


# So many failed clips are shown open; every clip is, in a run of at most _SMALL_RUN.
_OPEN_CLIPS = 4
_SMALL_RUN = 2

# A phone shows only the columns of the gates; each clip's section has all.
_EXTRA = frozenset(METRICS) - {"mae", "pearson", "snr_db"}


def report_html(
    report: RunReport,
    media: Mapping[Key, CaseMedia] | None = None,
    *,
    limit: int = PAGE_BYTES,
) -> str:
    """Return the page.

    Args:
        report: Data of the run.
        media: Pictures and audio by case; a case without any has only its metrics on the page.
        limit: Bytes of pictures and audio; see `melcheck.report.media`.
    """
    clips = by_clip(report.cases)
    urgent = sorted(clips, key=lambda clip: min(STATES[c.outcome].rank for c in clips[clip]))
    carried = fit_page({clip: clips[clip] for clip in urgent}, media or {}, limit=limit)
    anchors = {clip: f"clip-{number}" for number, clip in enumerate(clips, start=1)}
    opened = [
        clip for clip in urgent[:_OPEN_CLIPS] if any(c.outcome == "failed" for c in clips[clip])
    ]
    opened = urgent if len(clips) <= _SMALL_RUN else opened
    comparison, comparison_lists = comparison_text(report)
    rows = judged_rows(report)
    present = {case.outcome for case, _ in rows}
    devices = {case.device for case, _ in rows}
    state = STATES["passed" if report.verdict == "passed" else "failed"]
    return page_template("report.html.j2").render(
        report=report,
        **page_assets(["report.css"], ["report.js", "clips.js"]),
        verdict={
            "kind": "nothing" if report.verdict == "nothing measured" else report.verdict,
            "glyph": "?" if report.verdict == "nothing measured" else state.glyph,
            "word": report.verdict.capitalize(),
            "headline": headline(report),
            "counts": [
                (STATES[name], report.counts[name]) for name in STATES if name in report.counts
            ],
            "tally": ", ".join(f"{count} {name}" for name, count in report.counts.items()),
        },
        gates_text=gates_text(report.thresholds),
        finished=finished_text(report.environment.finished),
        problems=problems(report),
        failed_tests=failed_tests(report),
        anchors=anchors,
        comparison=comparison,
        comparison_lists=comparison_lists,
        rows=rows,
        beside=BESIDE,
        part=part_text,
        caption=f"{len(rows)} cases; a clip's name links to its pictures and audio. After ≈ stands "
        "Griffin-Lim's value.",
        metrics=METRICS,
        extra=_EXTRA,
        limits={gate.metric: limit_text(gate) for gate in report.thresholds},
        show_device=len(devices) > 1,
        states=STATES,
        present=[state for name, state in STATES.items() if name in present],
        shown=shown,
        shown_delta=shown_delta,
        sortable=_sortable,
        change_word=change_word,
        legend=columns_text(),
        skipped=skip_reasons(report),
        clips=[
            _clip_view(clip, cases, report, carried[clip])
            | {"anchor": anchors[clip], "open": clip in opened}
            for clip, cases in ((clip, clips[clip]) for clip in urgent)
        ],
        files={case.clip: case.audio for case in report.cases if case.audio is not None},
        channels=_channels,
        audio_note=_audio_note(carried),
    )


def page_assets(styles: Sequence[str], scripts: Sequence[str]) -> dict[str, object]:
    """Return what every page has: style and script with their hashes for the policy, colour scales.

    Args:
        styles: Files of `melcheck/templates`, put together in this order.
        scripts: The same of the script.
    """
    style, script = ("".join(map(_asset, names)) for names in (styles, scripts))
    return {
        "style": Markup(style),  # ours, and hashed in the policy
        "script": Markup(script),
        "style_hash": _policy_hash(style),
        "script_hash": _policy_hash(script),
        "gradients": (
            ("mel-scale", colour_stops(MEL_COLOURS)),
            ("difference-scale", colour_stops(DIFFERENCE_COLOURS)),
        ),
    }


@functools.cache
def page_template(name: str) -> jinja2.Template:
    """Return a template of `melcheck/templates`; all that it shows is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    return environment.get_template(name)


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("melcheck") / "templates" / name).read_text(encoding="utf-8")


def _shown(value: object) -> object:
    # What is marked up is ours.
    return plain_text(value) if type(value) is str else value


def _policy_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _sortable(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return repr(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _audio_note(carried: Mapping[str, ClipMedia]) -> str:
    players = [media.original for media in carried.values() if media.original is not None]
    for media in carried.values():
        players += [case.reconstructed_audio for case in media.cases.values()]
    if not players:
        return ""
    note = "The checked part of each clip, mono at the mel's sample rate, as 16-bit FLAC."
    if any(player.kind == "audio/mpeg" for player in players):
        note += (
            " To limit the size of the page, players marked MP3 hold a lossy copy (variable rate, "
            "best quality; players remove the encoder's delay): judge fine artifacts by the files "
            "in the artifacts folder. All metrics are computed from the exact samples."
        )
    return note
