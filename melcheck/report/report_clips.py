"""The sections of a report's page, one a clip: players, figures, pictures with their axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from melcheck.report.media import DIFFERENCE_LIMIT, CaseMedia, Sound
from melcheck.report.model import CaseResult, GateResult, MetricChange, RecipeSource, RunReport
from melcheck.report.report_budget import ClipMedia
from melcheck.report.report_metrics import METRICS, shown, shown_delta
from melcheck.report.report_places import frequency_ticks, time_ticks, worst_places
from melcheck.report.text import STATES, ChangeText, change_text

__all__ = ["changes", "channels", "clip_view", "fields"]


def fields(data: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without copying what they hold."""
    return {name: getattr(data, name) for name in data.__slots__}


def changes(case: CaseResult) -> dict[str, MetricChange]:
    """Return the changes of a case against the baseline by metric."""
    return {} if case.change is None else {each.metric: each for each in case.change.metrics}


def clip_view(
    name: str, cases: Sequence[CaseResult], report: RunReport, media: ClipMedia
) -> dict[str, Any]:
    """Return what the template shows of one clip.

    Args:
        name: Of the clip.
        cases: All of it.
        report: The run that they belong to.
        media: The pictures and sound that fit on the page.
    """
    panels = [case for case in cases if case.outcome != "baseline"]
    states = dict.fromkeys(STATES[case.outcome] for case in panels or cases)
    best = min(panels or cases, key=lambda case: STATES[case.outcome].rank)
    audio = next((case.audio for case in cases if case.audio), None)
    file = ""
    if audio is not None:
        length = f" of {audio.seconds:.2f}" if audio.seconds > audio.checked_seconds + 0.01 else ""
        file = (
            f"{audio.file} · {audio.sample_rate:,} Hz, {channels(audio.channels)} · "
            f"{audio.checked_seconds:.2f}{length} s checked · sha256 {audio.sha256[:12]}…"
        )
    devices = {case.device for case in cases}
    players = [] if media.original is None else [_player("Original", media.original)]
    for case in cases:
        if case.key in media.cases:
            kind = "For comparison" if case.outcome == "baseline" else "Reconstruction"
            place = f" on {case.device}" if len(devices) > 1 else ""
            sound = media.cases[case.key].reconstructed_sound
            players.append(_player(f"{kind}: {case.vocoder}{place}", sound))
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
        f"{METRICS[name].label} {shown(name, case.metrics[name])}"
        for name in ("mae", "pearson", "snr_db")
    )


def channels(count: int) -> str:
    """Return a number of channels in words."""
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels")


def _player(label: str, sound: Sound) -> dict[str, str]:
    notes = []
    if sound.gain != 1:
        notes.append(f"beyond full scale: made quieter by a factor of {1 / sound.gain:.3g}")
    if not sound.finite:
        notes.append("NaN or infinite samples are played as silence")
    if sound.kind == "audio/mpeg":
        notes.append("MP3")
    return {"label": label, "kind": sound.kind, "data": sound.data, "note": "; ".join(notes)}


def _panel(case: CaseResult, report: RunReport, media: CaseMedia | None) -> dict[str, Any]:
    recipe = next((each for each in report.recipes if each.digest == case.recipe), None)
    gates = {gate.metric: gate for gate in case.gates}
    moved = changes(case)
    return {
        "title": f"{case.vocoder} on {case.device}",
        "state": STATES[case.outcome],
        "reason": case.reason,
        "cause": case.cause,
        "notes": case.notes,
        "figures": [
            _figure(name, value, gates.get(name), moved.get(name))
            for name, value in case.metrics.items()
        ],
        "change": _change(case),
        "picture": None if media is None or recipe is None else _picture(case, media, recipe),
    }


def _change(case: CaseResult) -> ChangeText | None:
    # What failed for its change says so in its reason already.
    change = change_text(case)
    told = change is not None and change.kind in ("worse", "other") and case.outcome == "failed"
    return None if told else change


def _figure(
    name: str, value: float, gate: GateResult | None, change: MetricChange | None
) -> dict[str, Any]:
    metric = METRICS[name]
    return {
        "label": metric.label,
        "meaning": metric.meaning,
        "text": shown(name, value),
        "unit": "" if metric.unit == "%" else metric.unit,
        "missed": gate is not None and not gate.passed,
        # That a clip has sound in it is worth a word only where it has none.
        "gate": "" if gate is None or (gate.passed and not metric.better) else _gate_text(gate),
        "delta": "" if change is None else f"{shown_delta(name, change.delta)} vs. baseline",
        "trend": "" if change is None else change.trend,
    }


def _gate_text(gate: GateResult) -> str:
    sign = "<" if gate.side == "below" else ">"
    limit = f"{100 * gate.limit:g}%" if METRICS[gate.metric].unit == "%" else f"{gate.limit:g}"
    if math.isnan(gate.margin):
        return f"must be {sign} {limit}"
    room = shown(gate.metric, abs(gate.margin))
    if gate.passed:
        return f"{sign} {limit}, {room} to spare"
    return f"must be {sign} {limit}, misses by {room}"


def _picture(case: CaseResult, media: CaseMedia, recipe: RecipeSource) -> dict[str, Any]:
    low, high, limit = media.mel_low, media.mel_high, DIFFERENCE_LIMIT
    band_top, frame_top = _top(case.band_mae), _top(case.frame_mae)
    return fields(media) | {
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
