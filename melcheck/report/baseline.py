"""Whether a run is worse than the one on record: case by case, with the band and frames that moved.

Cases are compared only where they describe the same thing: the same bytes of audio, as much of it,
the same recipe and the same weights. A difference in any of these is said in place of numbers.

Tolerances have two parts. What changes although nothing did was measured on the twelve fixture
clips with the embedded vocoder, as the largest change of any clip. One thread against two moves
nothing. Float32 against float64 throughout, a bound on what another device's order of summation
can do:

    mae 1.2e-5   corr 1.3e-6   SNR, cSNR 1.6e-3   mse 1.7e-5   max 5.2e-4   STFT 6.6e-5   floor 0
    band 2.4e-3   frame 5.6e-3

The rest is a margin that is ours: a few percent of a gate's limit, or less, for which nobody would
hold up a merge. Every tolerance is at least 12 times what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from melcheck.report.json_format import read_report
from melcheck.report.model import (
    METRICS,
    CaseResult,
    Change,
    Comparison,
    MetricChange,
    RecipeSource,
    RunReport,
    VocoderSource,
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
"""What may be noise in each figure, in its unit."""

BAND_TOLERANCE = 0.03
"""Nats, in the error of one band: a gain of 0.3 dB there, which the mean over 100 bands hides."""

FRAME_TOLERANCE = 0.1
"""Nats, in the error of one frame."""

# Neighbours that moved by at least this share of the worst one belong to the same place.
_SAME_PLACE = 0.5
_NAMED_FIGURES = 3
# 1e-5 s is less than a sample.
_SAME_SECONDS = 1e-5

_Trend = Literal["worse", "better", "same"]


class Baseline:
    """A report that runs are held against.

    Args:
        path: A report's JSON.

    Raises:
        ReportError: The file is not a report that this version reads.
    """

    def __init__(self, path: Path) -> None:
        self.report: RunReport = read_report(path)
        self._file = path.name
        self._cases = {case.key: case for case in self.report.cases if case.metrics}
        self._vocoders = {vocoder.label: vocoder for vocoder in self.report.vocoders}
        self._recipes = {recipe.digest: recipe for recipe in self.report.recipes}

    def change(self, case: CaseResult, vocoder: VocoderSource, recipe: RecipeSource) -> Change:
        """Return what a measured case of this run is against the same case of the baseline.

        Args:
            case: Of this run.
            vocoder: That it went through.
            recipe: Of its mel.
        """
        before = self._cases.get(case.key)
        if before is None:
            return Change(status="new")
        mismatches = tuple(self._mismatches(before, case, vocoder, recipe))
        if mismatches:
            return Change(status="other", mismatches=mismatches)
        metrics = tuple(
            _metric_change(name, before.metrics[name], value)
            for name, value in case.metrics.items()
            if name in before.metrics
        )
        bands = _differences(before.band_mae, case.band_mae)
        frames = _differences(before.frame_mae, case.frame_mae)
        trends = {each.trend for each in metrics}
        trends |= {_profile_trend(bands, BAND_TOLERANCE), _profile_trend(frames, FRAME_TOLERANCE)}
        status: _Trend = (
            "worse" if "worse" in trends else "better" if "better" in trends else "same"
        )
        return Change(
            status=status,
            metrics=metrics,
            place="" if status == "same" else _words(metrics, status, bands, frames, recipe),
        )

    def comparison(self, cases: Iterable[CaseResult]) -> Comparison:
        """Return what the cases of a run, taken together, are against the baseline."""
        cases = [case for case in cases if case.outcome != "baseline"]
        present = {case.key for case in cases if case.metrics}
        changes = [(case, case.change) for case in cases if case.change is not None]
        return Comparison(
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

    def _mismatches(
        self, before: CaseResult, case: CaseResult, vocoder: VocoderSource, recipe: RecipeSource
    ) -> Iterable[str]:
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
        elif old_audio is not audio:
            yield "only one of the two names the file that it was read from"
        if before.recipe != case.recipe:
            old = self._recipes[before.recipe].text if before.recipe in self._recipes else ""
            yield _other("the mel recipe", *_differing(old, recipe.text))
        old_vocoder = self._vocoders.get(case.vocoder)
        hashes = [
            "none" if source is None else (source.weights_sha256 or "none")
            for source in (old_vocoder, vocoder)
        ]
        if hashes[0] != hashes[1]:
            yield _other("the vocoder's weights, sha256", *(digest[:12] for digest in hashes))
        configs = [source and source.config_sha256 for source in (old_vocoder, vocoder)]
        if hashes[0] == hashes[1] and configs[0] != configs[1]:
            yield _other("the vocoder's config, sha256", *(str(each)[:12] for each in configs))


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
    trend: _Trend = "same"
    if sign:
        rise = _rise(sign * before, sign * after)
        trend = "worse" if rise > tolerance else "better" if rise < -tolerance else "same"
    return MetricChange(metric=name, before=before, after=after, tolerance=tolerance, trend=trend)


def _rise(before: float, after: float) -> float:
    """Return how much an error grew; one that can no longer be measured grew without bound."""
    if math.isnan(after):
        return 0.0 if math.isnan(before) else math.inf
    if math.isnan(before):
        return -math.inf
    return 0.0 if before == after else after - before


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [_rise(*pair) for pair in zip(before, after, strict=True)]


def _profile_trend(differences: Sequence[float], tolerance: float) -> _Trend:
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
    status: _Trend,
    bands: Sequence[float],
    frames: Sequence[float],
    recipe: RecipeSource,
) -> str:
    """Name the figures that moved, the gates' own first, and the bands or frames that did most."""
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
    return "; ".join([", ".join(figures) or "every figure within its tolerance", *places])
