"""A run is compared with a baseline: what is worse is found and named, what is the same is not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from melcheck.report.baseline import BAND_TOLERANCE, FRAME_TOLERANCE, TOLERANCES, Baseline
from melcheck.report.files import write_report
from melcheck.report.model import METRICS, BaselineChange, CaseRecord, CaseResult, make_run_report
from melcheck.sanity import Thresholds
from tests.report import report_samples


@pytest.fixture(scope="module")
def record() -> CaseRecord:
    return report_samples.record("clip", "passed", report_samples.trip(0))


@pytest.fixture
def baseline(record: CaseRecord, tmp_path: Path) -> Baseline:
    return _baseline(tmp_path, record, record.case)


def _baseline(folder: Path, record: CaseRecord, *cases: CaseResult) -> Baseline:
    report = make_run_report(
        cases,
        [record],
        thresholds=Thresholds().gates(),
        environment=report_samples.ENVIRONMENT,
    )
    path = folder / "main.json"
    write_report(report, path)
    return Baseline(path)


def _change(baseline: Baseline, record: CaseRecord, case: CaseResult) -> BaselineChange:
    return baseline.change(dataclasses.replace(record, case=case))


def _moved(case: CaseResult, **deltas: float) -> CaseResult:
    metrics = {name: value + deltas.get(name, 0.0) for name, value in case.metrics.items()}
    return dataclasses.replace(case, metrics=metrics)


WORSE = {"lower": 1, "higher": -1}
JUDGED = [name for name, metric in METRICS.items() if metric.better]


def test_every_figure_has_a_tolerance() -> None:
    assert TOLERANCES.keys() == METRICS.keys()
    assert all(tolerance > 0 for tolerance in TOLERANCES.values())


def test_an_unchanged_case_is_the_same(baseline: Baseline, record: CaseRecord) -> None:
    change = _change(baseline, record, record.case)
    assert change.status == "same"
    assert change.place == ""
    assert [each.delta for each in change.metrics] == [0.0] * len(METRICS)


@pytest.mark.parametrize("metric", JUDGED)
def test_a_change_counts_beyond_the_tolerance_of_its_metric(
    baseline: Baseline, record: CaseRecord, metric: str
) -> None:
    def change(tolerances: float) -> BaselineChange:
        moved = WORSE[METRICS[metric].better] * tolerances * TOLERANCES[metric]
        return _change(baseline, record, _moved(record.case, **{metric: moved}))

    assert [change(share).status for share in (0.9, -0.9)] == ["same", "same"]
    for share, status in ((1.1, "worse"), (-1.1, "better")):
        assert change(share).status == status
        assert change(share).place.startswith(f"{METRICS[metric].label} ")


def test_one_gain_does_not_make_up_for_a_loss(baseline: Baseline, record: CaseRecord) -> None:
    moved = _moved(record.case, mae=-0.1, snr_db=-1.0)
    assert _change(baseline, record, moved).status == "worse"


def test_a_figure_that_can_no_longer_be_measured_is_worse(
    baseline: Baseline, record: CaseRecord
) -> None:
    moved = _moved(record.case, pearson=math.nan)
    assert _change(baseline, record, moved).status == "worse"


def test_the_same_infinity_is_no_change(record: CaseRecord, tmp_path: Path) -> None:
    perfect = _moved(record.case, snr_db=math.inf)
    baseline = _baseline(tmp_path, record, perfect)
    assert _change(baseline, record, perfect).status == "same"


def test_bands_that_are_worse_are_named_though_the_mean_hides_them(
    baseline: Baseline, record: CaseRecord
) -> None:
    bands = list(record.case.band_mae)
    for band in range(80, 85):
        bands[band] += 2 * BAND_TOLERANCE
    change = _change(baseline, record, dataclasses.replace(record.case, band_mae=tuple(bands)))
    assert change.status == "worse"
    assert "bands 80 to 84 (6.5 to 7.3 kHz) by up to +0.06 nats" in change.place
    assert "frame" not in change.place


def test_frames_that_are_worse_are_named_though_the_mean_hides_them(
    baseline: Baseline, record: CaseRecord
) -> None:
    frames = list(record.case.frame_mae)
    frames[150] += 2 * FRAME_TOLERANCE
    change = _change(baseline, record, dataclasses.replace(record.case, frame_mae=tuple(frames)))
    assert change.status == "worse"
    assert "frame 150 (1.60 s) by +0.20 nats" in change.place
    assert "band" not in change.place


def test_a_frame_that_no_longer_counts_is_worse(baseline: Baseline, record: CaseRecord) -> None:
    frames = (math.nan, *record.case.frame_mae[1:])
    change = _change(baseline, record, dataclasses.replace(record.case, frame_mae=frames))
    assert change.status == "worse"


# What does not describe the same thing is not compared.


def _other_audio(record: CaseRecord, **changes: object) -> CaseRecord:
    audio = dataclasses.replace(record.case.audio, **changes)  # type: ignore[arg-type, type-var]
    return dataclasses.replace(record, case=dataclasses.replace(record.case, audio=audio))


def _other_recipe(record: CaseRecord) -> CaseRecord:
    text = record.recipe.text.replace("hop_length=256", "hop_length=300")
    recipe = dataclasses.replace(record.recipe, digest="0123456789ab", text=text)
    case = dataclasses.replace(record.case, recipe=recipe.digest)
    return dataclasses.replace(record, case=case, recipe=recipe)


def _other_vocoder(record: CaseRecord, **changes: str) -> CaseRecord:
    return dataclasses.replace(record, vocoder=dataclasses.replace(record.vocoder, **changes))


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        pytest.param(
            lambda record: _other_audio(record, sha256="0" * 64), "the audio's sha256", id="audio"
        ),
        pytest.param(
            lambda record: _other_audio(record, checked_seconds=1.5),
            "the length checked: 3 s in the baseline, 1.5 s here",
            id="duration",
        ),
        pytest.param(
            _other_recipe,
            "the mel recipe: hop_length=256 in the baseline, hop_length=300 here",
            id="recipe",
        ),
        pytest.param(
            lambda record: _other_vocoder(record, weights_sha256="1" * 64),
            "the vocoder's weights, sha256",
            id="weights",
        ),
        pytest.param(
            lambda record: _other_vocoder(record, config_sha256="1" * 64),
            "the vocoder's config, sha256",
            id="config",
        ),
        pytest.param(
            lambda record: dataclasses.replace(
                record, case=dataclasses.replace(record.case, audio=None)
            ),
            "only one of the two reports names the audio file",
            id="no-file",
        ),
    ],
)
def test_another_thing_is_not_compared(
    baseline: Baseline, record: CaseRecord, alter: object, says: str
) -> None:
    other = alter(record)  # type: ignore[operator]
    change = baseline.change(other)
    assert change.status == "other"
    assert change.metrics == ()
    assert any(says in mismatch for mismatch in change.mismatches)


def test_a_case_that_the_baseline_does_not_have_is_new(
    baseline: Baseline, record: CaseRecord
) -> None:
    added = dataclasses.replace(record.case, clip="added")
    assert _change(baseline, record, added) == BaselineChange(status="new")


def test_a_case_that_the_baseline_skipped_is_new(record: CaseRecord, tmp_path: Path) -> None:
    skipped = CaseResult(clip="clip", vocoder="embedded", device="cpu", outcome="skipped")
    baseline = _baseline(tmp_path, record, skipped)
    assert _change(baseline, record, record.case) == BaselineChange(status="new")


def test_cases_on_one_side_only_are_named(record: CaseRecord, tmp_path: Path) -> None:
    gone = dataclasses.replace(record.case, clip="gone")
    baseline = _baseline(tmp_path, record, record.case, gone)
    added = dataclasses.replace(record.case, clip="added", change=BaselineChange(status="new"))
    comparison = baseline.comparison([record.case, added])
    assert comparison.missing == ("gone (embedded on cpu)",)
    assert comparison.new == ("added (embedded on cpu)",)
    assert comparison.file == "main.json"


def test_a_clip_of_another_root_is_compared_by_its_audio(
    baseline: Baseline, record: CaseRecord
) -> None:
    moved = dataclasses.replace(record.case, clip="emma/clip")
    assert _change(baseline, record, moved).status == "same"
    assert _change(baseline, record, _moved(moved, mae=0.1)).status == "worse"
    assert baseline.comparison([moved]).missing == ()


def test_of_two_clips_with_one_audio_the_name_decides(record: CaseRecord, tmp_path: Path) -> None:
    copy = _moved(dataclasses.replace(record.case, clip="copy/clip"), mae=0.1)
    both = _baseline(tmp_path, record, record.case, copy)
    assert [_change(both, record, case).status for case in (record.case, copy)] == ["same", "same"]
    third = dataclasses.replace(record.case, clip="third/clip")
    assert _change(both, record, third).status == "new"


def test_another_part_of_a_clip_is_not_compared(baseline: Baseline, record: CaseRecord) -> None:
    assert record.case.audio is not None
    audio = dataclasses.replace(record.case.audio, begin_seconds=1.5)
    change = _change(baseline, record, dataclasses.replace(record.case, audio=audio))
    assert change.mismatches == ("where the part begins: 0 s in the baseline, 1.5 s here",)
