"""Comparison of a run with an earlier report: case by case, with the bands and frames that changed.

A case is compared with that of the same clip, vocoder and device. A clip is the same by its name;
where the folders in that differ, since another root was given, by its sha256. Numbers are compared
only where audio, part, recipe and weights are the same; otherwise the difference is reported.

Tolerances: at least 12 times the largest change without a cause, which was measured as float32
against float64 on the twelve fixture clips with the embedded vocoder (`docs/report.md` has the
table); the rest is a margin of a few percent of a gate's limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from melcheck.report.json_format import read_report
from melcheck.report.model import (
    METRICS,
    BaselineChange,
    BaselineComparison,
    CaseRecord,
    CaseResult,
    MetricChange,
    RecipeSource,
    RunReport,
    Trend,
    shown,
)
from melcheck.report.text import band_range, frame_range

TOLERANCES: Mapping[str, float] = MappingProxyType(
    {
        "mae": 0.005,
        "pearson": 0.0005,
        "snr_db": 0.2,
        "centred_snr_db": 0.2,
        "mse": 0.005,
        "max_abs_diff": 0.5,
        "stft_distance": 0.02,
        "reference_floor_share": 0.001,
    }
)
"""Largest change of each metric that counts as noise, in its unit."""

BAND_TOLERANCE = 0.03
"""Nats, in the error of one band: a gain of 0.3 dB there, which the mean over 100 bands hides."""

FRAME_TOLERANCE = 0.1
"""Nats, in the error of one frame."""

# Neighbours that changed by at least this share of the worst one belong to the same place.
_SAME_PLACE = 0.5
_NAMED_FIGURES = 3
# 1e-5 s is less than a sample.
_SAME_SECONDS = 1e-5


class Baseline:
    """A report that runs are compared with.

    Args:
        path: JSON file of the report.

    Raises:
        ReportError: The file is not a report that this version reads.
    """

    def __init__(self, path: Path) -> None:
        self.report: RunReport = read_report(path)
        self._file = path.name
        self._cases = {case.key: case for case in self.report.cases if case.metrics}
        self._by_audio: dict[tuple[str, str, str], list[CaseResult]] = {}
        for case in self._cases.values():
            self._by_audio.setdefault(_audio_key(case), []).append(case)
        self._recipes = {recipe.digest: recipe for recipe in self.report.recipes}

    def change(self, record: CaseRecord) -> BaselineChange:
        """Compare a measured case of this run with the same case of the baseline."""
        case = record.case
        before = self._before(case)
        if before is None:
            return BaselineChange(status="new")
        mismatches = tuple(self._mismatches(before, record))
        if mismatches:
            return BaselineChange(status="other", mismatches=mismatches)
        metrics = tuple(
            _metric_change(name, before.metrics[name], value)
            for name, value in case.metrics.items()
            if name in before.metrics
        )
        bands = _differences(before.band_mae, case.band_mae)
        frames = _differences(before.frame_mae, case.frame_mae)
        trends = {each.trend for each in metrics}
        trends |= {_profile_trend(bands, BAND_TOLERANCE), _profile_trend(frames, FRAME_TOLERANCE)}
        status: Trend = "worse" if "worse" in trends else "better" if "better" in trends else "same"
        place = "" if status == "same" else _words(metrics, status, bands, frames, record.recipe)
        return BaselineChange(status=status, metrics=metrics, place=place)

    def comparison(self, cases: Iterable[CaseResult]) -> BaselineComparison:
        """Summarise the comparison of all cases of a run with the baseline."""
        cases = [case for case in cases if case.outcome != "baseline"]
        matched = (self._before(case) for case in cases if case.metrics)
        present = {before.key for before in matched if before is not None}
        changes = [(case, case.change) for case in cases if case.change is not None]
        return BaselineComparison(
            file=self._file,
            finished=self.report.environment.finished,
            versions=self.report.environment.versions,
            missing=tuple(
                case.title
                for key, case in self._cases.items()
                if key not in present and case.outcome != "baseline"
            ),
            new=tuple(case.title for case, change in changes if change.status == "new"),
            other=tuple(
                f"{case.title}: {'; '.join(change.mismatches)}"
                for case, change in changes
                if change.status == "other"
            ),
        )

    def _before(self, case: CaseResult) -> CaseResult | None:
        """Return the case of the baseline that a case is compared with; None for a new one."""
        named = self._cases.get(case.key)
        if named is not None and _audio_key(named) == _audio_key(case):
            return named
        same = self._by_audio.get(_audio_key(case), []) if case.audio is not None else []
        moved = [before for before in same if _last(before.clip) == _last(case.clip)]
        return moved[0] if len(moved) == 1 else named

    def _mismatches(self, before: CaseResult, record: CaseRecord) -> Iterable[str]:
        case = record.case
        old_audio, audio = before.audio, case.audio
        if old_audio is not None and audio is not None:
            if old_audio.sha256 != audio.sha256:
                yield _other("the audio's sha256", old_audio.sha256[:12], audio.sha256[:12])
            if abs(old_audio.checked_seconds - audio.checked_seconds) > _SAME_SECONDS:
                yield _other(
                    "the length checked",
                    f"{old_audio.checked_seconds:g} s",
                    f"{audio.checked_seconds:g} s",
                )
            elif abs(old_audio.begin_seconds - audio.begin_seconds) > _SAME_SECONDS:
                yield _other(
                    "where the part begins",
                    f"{old_audio.begin_seconds:g} s",
                    f"{audio.begin_seconds:g} s",
                )
        elif old_audio is not audio:
            yield "only one of the two reports names the audio file"
        if before.recipe != case.recipe:
            old = self._recipes[before.recipe].text if before.recipe in self._recipes else ""
            yield _other("the mel recipe", *_differing(old, record.recipe.text))
        vocoders = (self.report.vocoders.get(case.vocoder), record.vocoder)
        hashes = [(source and source.weights_sha256) or "none" for source in vocoders]
        if hashes[0] != hashes[1]:
            yield _other("the vocoder's weights, sha256", *(digest[:12] for digest in hashes))
        configs = [source and source.config_sha256 for source in vocoders]
        if hashes[0] == hashes[1] and configs[0] != configs[1]:
            yield _other("the vocoder's config, sha256", *(str(each)[:12] for each in configs))


def _audio_key(case: CaseResult) -> tuple[str, str, str]:
    return "" if case.audio is None else case.audio.sha256, case.vocoder, case.device


def _last(clip: str) -> str:
    return clip.rpartition("/")[2]


def _other(what: str, before: str, after: str) -> str:
    return f"{what}: {before} in the baseline, {after} here"


def _differing(before: str, after: str) -> tuple[str, str]:
    old, new = before.split(), after.split()
    return (
        " ".join(part for part in old if part not in new) or "unknown",
        " ".join(part for part in new if part not in old) or "unknown",
    )


def _metric_change(name: str, before: float, after: float) -> MetricChange:
    better = METRICS[name].better
    sign = {"lower": 1.0, "higher": -1.0, "": 0.0}[better]
    tolerance = TOLERANCES[name]
    trend: Trend = "same"
    if sign:
        rise = _rise(sign * before, sign * after)
        trend = "worse" if rise > tolerance else "better" if rise < -tolerance else "same"
    return MetricChange(metric=name, before=before, after=after, tolerance=tolerance, trend=trend)


def _rise(before: float, after: float) -> float:
    """Return how much an error grew; infinity where it can no longer be measured."""
    if math.isnan(after):
        return 0.0 if math.isnan(before) else math.inf
    if math.isnan(before):
        return -math.inf
    return 0.0 if before == after else after - before


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [_rise(*pair) for pair in zip(before, after, strict=True)]


def _profile_trend(differences: Sequence[float], tolerance: float) -> Trend:
    return "worse" if max(differences, default=0.0) > tolerance else "same"


def _place(differences: Sequence[float], sign: int) -> tuple[int, int, float]:
    """Return where an error rose (or, with sign -1, fell) most: first, last, and by how much."""
    rises = [sign * difference for difference in differences]
    peak = max(range(len(rises)), key=rises.__getitem__)
    least = _SAME_PLACE * rises[peak]
    first = last = peak
    while first > 0 and rises[first - 1] >= least:
        first -= 1
    while last < len(rises) - 1 and rises[last + 1] >= least:
        last += 1
    return first, last, differences[peak]


def _words(
    metrics: Iterable[MetricChange],
    status: Trend,
    bands: Sequence[float],
    frames: Sequence[float],
    recipe: RecipeSource,
) -> str:
    """Name the metrics that changed, and the bands or frames that changed most."""
    moved = [each for each in metrics if each.trend == status]
    figures = [
        f"{METRICS[each.metric].label} {shown(each.metric, each.before)} → "
        f"{shown(each.metric, each.after)} ({shown(each.metric, each.delta, signed=True)}, "
        f"tolerance {each.tolerance:g})"
        for each in moved[:_NAMED_FIGURES]
    ]
    sign = -1 if status == "better" else 1
    band, frame = _place(bands, sign), _place(frames, sign)
    by_band, by_frame = sign * band[2] / BAND_TOLERANCE, sign * frame[2] / FRAME_TOLERANCE
    places = []
    if by_band > 1 or by_band >= by_frame:
        places.append(band_range(*band, recipe))
    if by_frame > 1 or by_frame > by_band:
        places.append(frame_range(*frame, recipe))
    return "; ".join([", ".join(figures) or "every metric within its tolerance", *places])
