"""A verdict is strict, names each metric that missed, and never passes what was not measured."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch

from melcheck.metrics import MelMetrics, compare
from melcheck.recipes import VOCOS
from melcheck.sanity import (
    GateResult,
    Side,
    Thresholds,
    judge,
    threshold_rule,
    thresholds_of,
)

_GOOD = MelMetrics(
    mae=0.1,
    mse=0.02,
    max_abs_diff=3.0,
    snr_db=25.0,
    pearson=0.998,
    centred_snr_db=18.0,
    reference_floor_share=0.1,
    estimate_floor_share=0.1,
    band_mae=(0.1,),
    frame_mae=(0.1,),
)


def _metrics(**changes: float) -> MelMetrics:
    return dataclasses.replace(_GOOD, **changes)  # type: ignore[arg-type]


def test_the_gates_are_those_of_the_project() -> None:
    thresholds = Thresholds()
    assert dataclasses.astuple(thresholds) == (0.2, 0.99, 20.0, 0.999)


def test_good_metrics_pass_every_gate_by_a_positive_margin() -> None:
    verdict = judge(_GOOD, Thresholds(mae=0.5, pearson=0.5, snr_db=16.0))
    assert [(gate.metric, gate.side) for gate in verdict.gates] == [
        ("mae", "below"),
        ("pearson", "above"),
        ("snr_db", "above"),
        ("reference_floor_share", "below"),
    ]
    assert [gate.margin for gate in verdict.gates] == pytest.approx([0.4, 0.498, 9.0, 0.899])
    assert verdict.passed
    assert verdict.failures == verdict.notes == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"mae": math.nextafter(0.2, 0.0)}, id="mae"),
        pytest.param({"pearson": math.nextafter(0.99, 1.0)}, id="pearson"),
        pytest.param({"snr_db": math.nextafter(20.0, 30.0)}, id="snr_db"),
        pytest.param({"reference_floor_share": math.nextafter(0.999, 0.0)}, id="floor-share"),
        pytest.param({"mae": 0.0, "pearson": 1.0, "snr_db": math.inf}, id="identical-mels"),
    ],
)
def test_the_best_side_of_the_limit_passes(change: dict[str, float]) -> None:
    assert judge(_metrics(**change)).passed


@pytest.mark.parametrize(
    ("metric", "limit"),
    [("mae", 0.2), ("pearson", 0.99), ("snr_db", 20.0), ("reference_floor_share", 0.999)],
)
def test_a_value_at_the_limit_fails(metric: str, limit: float) -> None:
    assert not judge(_metrics(**{metric: limit})).passed


@pytest.mark.parametrize(
    ("metric", "value", "side", "limit", "margin"),
    [
        # Powers of two, so that each margin is exact.
        pytest.param("mae", 0.75, "below", 0.5, -0.25, id="mae"),
        pytest.param("pearson", 0.25, "above", 0.5, -0.25, id="pearson"),
        pytest.param("snr_db", 14.0, "above", 16.0, -2.0, id="snr_db"),
        pytest.param("reference_floor_share", 0.75, "below", 0.5, -0.25, id="floor-share"),
        pytest.param("mae", math.inf, "below", 0.5, -math.inf, id="mae-infinite"),
        pytest.param("snr_db", -math.inf, "above", 16.0, -math.inf, id="snr-of-no-signal"),
    ],
)
def test_a_metric_that_fails_alone_is_named_with_its_negative_margin(
    metric: str, value: float, side: Side, limit: float, margin: float
) -> None:
    thresholds = Thresholds(mae=0.5, pearson=0.5, snr_db=16.0, reference_floor_share=0.5)
    [failure] = judge(_metrics(**{metric: value}), thresholds).failures
    assert failure == GateResult(
        metric=metric, value=value, side=side, limit=limit, margin=margin, passed=False
    )


@pytest.mark.parametrize("metric", ["mae", "pearson", "snr_db", "reference_floor_share"])
def test_a_metric_that_is_nan_fails_alone(metric: str) -> None:
    failures = judge(_metrics(**{metric: math.nan})).failures
    assert [(failure.metric, math.isnan(failure.margin)) for failure in failures] == [
        (metric, True)
    ]


def test_all_that_missed_are_named_in_order() -> None:
    verdict = judge(_metrics(reference_floor_share=1.0, snr_db=1.0, pearson=0.1, mae=2.0))
    assert [failure.metric for failure in verdict.failures] == [
        "mae",
        "pearson",
        "snr_db",
        "reference_floor_share",
    ]


@pytest.mark.parametrize("field", ["mse", "max_abs_diff", "centred_snr_db", "estimate_floor_share"])
def test_a_metric_without_a_gate_decides_nothing(field: str) -> None:
    assert judge(_metrics(**{field: math.nan})) == judge(_GOOD)


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        pytest.param({"mae": 0.3}, True, id="looser-passes"),
        pytest.param({"mae": 0.5}, False, id="at-the-looser-limit-fails"),
    ],
)
def test_thresholds_that_are_given_take_the_place_of_the_gates(
    change: dict[str, float], outcome: bool
) -> None:
    assert judge(_metrics(**change), Thresholds(mae=0.5)).passed is outcome


@pytest.mark.parametrize(
    ("share", "notes"), [(1.0, 1), (0.999, 1), (0.998, 0), (math.nan, 0)], ids=str
)
def test_a_silent_clip_is_noted(share: float, notes: int) -> None:
    assert len(judge(_metrics(reference_floor_share=share)).notes) == notes


def test_silence_that_comes_back_perfectly_fails() -> None:
    silence = torch.full((1, 100, 20), VOCOS.log_floor)
    (metrics,) = compare(silence, silence, log_floor=VOCOS.log_floor)
    assert [failure.metric for failure in judge(metrics).failures] == ["reference_floor_share"]


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        pytest.param(_GOOD, "passed", id="passed"),
        pytest.param(
            _metrics(mae=0.25),
            "failed: mae 0.25 must be below 0.2, misses it by 0.05",
            id="failed",
        ),
        pytest.param(
            _metrics(pearson=0.98, snr_db=17.5),
            "failed: pearson 0.98 must be above 0.99, misses it by 0.01; "
            "snr_db 17.5 must be above 20, misses it by 2.5",
            id="failed-twice",
        ),
        pytest.param(
            _metrics(pearson=math.nan), "failed: pearson is NaN, must be above 0.99", id="nan"
        ),
        pytest.param(
            _metrics(reference_floor_share=1.0),
            "failed: reference_floor_share 1 must be below 0.999, misses it by 0.001 | "
            "silent clip: 100.0% of its mel is at the floor, so the other metrics mean nothing; "
            "use a clip that is not silent (two channels in antiphase cancel when they are mixed)",
            id="silent",
        ),
    ],
)
def test_a_verdict_explains_itself(metrics: MelMetrics, text: str) -> None:
    assert str(judge(metrics)) == text


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        pytest.param({"mae": 0.0}, "mae must be positive.*got 0.0", id="mae-zero"),
        pytest.param({"mae": -0.2}, "mae must be positive.*got -0.2", id="mae-negative"),
        pytest.param({"mae": math.nan}, "mae must be positive.*got nan", id="mae-nan"),
        pytest.param({"mae": math.inf}, "mae must be positive.*got inf", id="mae-infinite"),
        pytest.param({"pearson": 1.0}, r"pearson must lie in \[-1, 1\), got 1.0", id="pearson-1"),
        pytest.param({"pearson": -1.1}, "pearson must lie in.*got -1.1", id="pearson-low"),
        pytest.param({"pearson": math.nan}, "pearson must lie in.*got nan", id="pearson-nan"),
        pytest.param({"snr_db": math.inf}, "snr_db must be finite.*got inf", id="snr-infinite"),
        pytest.param({"snr_db": -math.inf}, "snr_db must be finite.*got -inf", id="snr-no-bound"),
        pytest.param({"reference_floor_share": 0.0}, r"\(0, 1\], got 0.0", id="floor-share-0"),
        pytest.param({"reference_floor_share": 1.1}, r"\(0, 1\], got 1.1", id="floor-share-high"),
        pytest.param(
            {"reference_floor_share": math.nan}, r"\(0, 1\], got nan", id="floor-share-nan"
        ),
        pytest.param({"snr_db": math.nan}, "snr_db must be finite.*got nan", id="snr-nan"),
    ],
)
def test_a_bound_that_gates_nothing_is_refused(bound: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Thresholds(**bound)


# A project's own thresholds.


def test_a_later_rule_beats_an_earlier_one_for_the_clips_that_it_names() -> None:
    rules = [threshold_rule(text) for text in ("snr_db=18", "noisy/*: snr_db=15, mae=0.3")]
    assert thresholds_of("clean/1", rules) == Thresholds(snr_db=18.0)
    assert thresholds_of("noisy/1", rules) == Thresholds(snr_db=15.0, mae=0.3)


def test_a_gate_of_the_project_says_what_the_default_is() -> None:
    gates = {gate.metric: gate.default for gate in Thresholds(snr_db=18.0).gates()}
    assert gates == {"mae": None, "pearson": None, "snr_db": 20.0, "reference_floor_share": None}


def test_a_pass_that_the_defaults_would_refuse_is_never_silent() -> None:
    verdict = judge(_metrics(snr_db=19.0), Thresholds(snr_db=18.0))
    assert verdict.passed
    assert "project's own threshold: snr_db 19 must be above 18 (default 20)" in str(verdict)
    assert judge(_metrics(), Thresholds(snr_db=18.0)).notes == ()


def test_a_miss_has_the_digits_that_show_it() -> None:
    assert "snr_db 19.9996 must be above 20" in str(judge(_metrics(snr_db=19.9996)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("snr=18", "Did you mean 'snr_db'?"),
        ("snr_db", "such as snr_db=20, got 'snr_db'"),
        ("mae=loud", "such as mae=0.2, got 'mae=loud'"),
        ("mae=-1", "mae must be positive"),
        ("", "must be METRIC=NUMBER"),
    ],
)
def test_a_threshold_that_says_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        threshold_rule(text)
