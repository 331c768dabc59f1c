"""Clips computed in a faster arithmetic have the verdicts of the plain vocoder."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import melcheck.audit.arithmetic as arithmetic_module
import melcheck.audit.rows as rows_module
from melcheck.audio import load_audio
from melcheck.audit.arithmetic import COMPARED_ONE_OF, FirstPass, first_pass, is_drawn
from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.rows import ClipRows
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import explanation
from melcheck.manifests import ManifestItem
from melcheck.metrics import MelMetrics
from melcheck.pipeline import MelPipeline
from melcheck.sanity import Thresholds, threshold_rule
from melcheck.speed.optimised import OptimisedVocos, optimise
from melcheck.vocoders.base import Vocoder, VocoderWrapper
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from tests.speed.test_optimised import random_vocos

HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
COUNT, SECONDS = 40, 0.4
# Random weights fail every clip by the limits of a check.
LENIENT = {"mae": 1000.0, "pearson": -1.0, "snr_db": -1000.0, "reference_floor_share": 1.0}


@dataclass(frozen=True, slots=True, eq=False)
class Moved(VocoderWrapper):
    """A vocoder whose sound ends louder or softer by up to `nats`, drawn by the mel."""

    inner: Vocoder
    nats: float

    def encode(self, waveform: Tensor) -> Tensor:
        return self.inner.encode(waveform)

    def decode(self, mel: Tensor) -> Tensor:
        seed = round(1e3 * float(mel.double().abs().mean()))
        drawn = 2 * torch.rand(1, generator=torch.Generator().manual_seed(seed)) - 1
        sound = self.inner.decode(mel)
        return sound * torch.exp(self.nats * drawn * torch.linspace(0, 1, sound.shape[-1]))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[AuditItem]:
    folder = tmp_path_factory.mktemp("clips")
    samples, rate = soundfile.read(AUDIO / "kokoro-blend-en.flac", dtype="float32")
    found = []
    for number in range(COUNT):
        path = folder / f"{number:02}.wav"
        moved = np.roll(samples, 2_003 * number)
        soundfile.write(path, moved[: round(SECONDS * rate)], rate)
        found.append(AuditItem(number, ManifestItem(path.stem, path)))
    return found


@pytest.fixture(scope="module")
def plain() -> VocosVocoder:
    return random_vocos()


@pytest.fixture(scope="module")
def exact(items: Sequence[AuditItem], plain: VocosVocoder) -> list[MelMetrics]:
    """What the plain vocoder makes of the clips."""
    pipeline = MelPipeline(vocoder=plain)
    found = []
    for each in items:
        audio = load_audio(MelCheckConfig(each.item.path, target_duration=None))
        found.append(pipeline.round_trip(audio.waveform).metrics()[0])
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 counts as fast, and a failure has its cause at once."""
    told = explanation("clip", "no more is known")
    monkeypatch.setattr(rows_module, "explain_round_trip", lambda *_, **__: told)
    monkeypatch.setattr(arithmetic_module, "_relative_time", lambda *_: 0.0)


def rows_of(plain: Vocoder, items: Sequence[AuditItem], **limits: float) -> list[Row]:
    text = ", ".join(f"{name}={value!r}" for name, value in (LENIENT | limits).items())
    return ClipRows(AuditSettings(rules=(threshold_rule(text),)), vocoder=plain)(items)


def middle(exact: Sequence[MelMetrics], metric: str) -> float:
    return statistics.median(getattr(each, metric) for each in exact)


def verdicts(exact: Sequence[MelMetrics], metric: str) -> list[str]:
    """Return what the plain vocoder says of clips by a limit that half of them miss."""
    limit = middle(exact, metric)
    values = [getattr(each, metric) for each in exact]
    passed = [value < limit if metric == "mae" else value > limit for value in values]
    assert 0.4 * COUNT < sum(passed) < 0.6 * COUNT
    return ["passed" if each else "failed" for each in passed]


@pytest.mark.skipif(not HAS_BF16, reason="this processor does not multiply in bfloat16")
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("metric", ["mae", "pearson", "snr_db"])
def test_verdicts_in_bf16_are_those_of_the_plain_vocoder(
    items: list[AuditItem], plain: VocosVocoder, exact: list[MelMetrics], metric: str
) -> None:
    rows = rows_of(plain, items, **{metric: middle(exact, metric)})
    assert [row.outcome for row in rows] == verdicts(exact, metric)
    assert {row.arithmetic for row in rows if row.outcome == "passed"} >= {"bf16"}
    for row, each in zip(rows, exact, strict=True):
        if row.outcome == "failed":
            assert row.arithmetic == "plain"
            assert row.mae == each.mae


def put_moved(monkeypatch: pytest.MonkeyPatch, nats: float) -> None:
    monkeypatch.setattr(arithmetic_module, "_in_bf16", lambda plain: Moved(plain, nats))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("metric", ["mae", "pearson", "snr_db"])
def test_what_moves_metrics_leaves_the_verdicts(
    items: list[AuditItem],
    plain: VocosVocoder,
    exact: list[MelMetrics],
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
) -> None:
    put_moved(monkeypatch, 0.4)
    found = rows_of(plain, items, **{metric: middle(exact, metric)})
    assert [row.outcome for row in found] == verdicts(exact, metric)
    assert "bf16" in {row.arithmetic for row in found}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("metric", ["mae", "snr_db"])
def test_without_what_was_seen_a_verdict_would_be_another(
    items: list[AuditItem],
    plain: VocosVocoder,
    exact: list[MelMetrics],
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
) -> None:
    put_moved(monkeypatch, 0.4)
    monkeypatch.setattr(arithmetic_module, "_TIMES_SEEN", 0.0)
    monkeypatch.setattr(arithmetic_module, "_COMPARED_FIRST", 0)
    found = rows_of(plain, items, **{metric: middle(exact, metric)})
    assert [row.outcome for row in found] != verdicts(exact, metric)


@pytest.mark.usefixtures("quick")
def test_bf16_is_given_up_where_most_clips_are_computed_twice_for_it(
    items: list[AuditItem],
    plain: VocosVocoder,
    exact: list[MelMetrics],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_moved(monkeypatch, 4.0)
    limit = 1.05 * max(each.mae for each in exact)
    found = rows_of(plain, items, mae=limit)
    assert {row.outcome for row in found} == {"passed"}
    used = [row.arithmetic for row in found]
    given_up = used.index("fp32")
    assert set(used[:given_up]) <= {"plain", "bf16"}
    assert set(used[given_up:]) == {"fp32"}


@pytest.mark.usefixtures("quick")
def test_a_row_does_not_depend_on_the_clips_before_it(
    items: list[AuditItem], plain: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_moved(monkeypatch, 0.01)
    rows = rows_of(plain, items[:12])
    assert {row.arithmetic for row in rows} == {"bf16"}
    assert rows_of(plain, items[:12][::-1])[::-1] == rows


def test_a_key_does_not_depend_on_the_arithmetic(
    plain: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = set()
    for found in (None, optimise(plain)):
        monkeypatch.setattr(arithmetic_module, "_in_bf16", lambda _, found=found: found)
        maker = ClipRows(AuditSettings(), vocoder=plain)
        keys.add(maker.key_of("0", ManifestItem("a", AUDIO / "kokoro-short.flac")))
    assert len(keys) == 1


# Which arithmetic.


@pytest.mark.skipif(not HAS_BF16, reason="this processor does not multiply in bfloat16")
@pytest.mark.usefixtures("quick")
def test_a_vocos_is_computed_in_bf16_where_that_is_faster(
    plain: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = first_pass(plain)
    assert found.arithmetic == "bf16"
    assert isinstance(found.vocoder, OptimisedVocos)
    assert found.vocoder.precision == "bf16"
    monkeypatch.setattr(arithmetic_module, "_relative_time", lambda *_: 1.0)
    assert first_pass(plain).arithmetic == "fp32"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("lacks", ["instructions", "onednn"])
def test_a_processor_without_bf16_computes_in_fp32(
    plain: VocosVocoder, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if lacks == "onednn":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    found = first_pass(plain)
    assert found.arithmetic == "fp32"
    assert isinstance(found.vocoder, OptimisedVocos)
    assert found.vocoder.precision == "fp32"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("name", "arithmetic"), [("embedded", "fp32"), ("griffin-lim", "plain")])
def test_what_magnifies_rounding_is_not_computed_in_bf16(name: str, arithmetic: str) -> None:
    assert first_pass(load_vocoder(name)).arithmetic == arithmetic


class _Slow:
    """Has a backbone that takes so much processor time."""

    def __init__(self, plain: VocosVocoder, seconds: float) -> None:
        self.recipe, self._seconds = plain.recipe, seconds

    def run_backbone(self, mel: Tensor) -> None:
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass


def test_the_time_of_both_is_compared(plain: VocosVocoder) -> None:
    quick, slow = (cast("Any", _Slow(plain, seconds)) for seconds in (0.001, 0.04))
    assert arithmetic_module._relative_time(quick, slow) < 0.5
    assert arithmetic_module._relative_time(slow, quick) > 2


# What is seen of it.


def metrics(mae: float, pearson: float = 1.0, snr_db: float = 60.0) -> MelMetrics:
    return MelMetrics(
        mae=mae,
        mse=mae**2,
        max_abs_diff=mae,
        snr_db=snr_db,
        pearson=pearson,
        centred_snr_db=snr_db,
        reference_floor_share=0.0,
        estimate_floor_share=0.0,
        band_mae=(),
        frame_mae=(),
    )


LIMITS = Thresholds()
DRAWN, OTHER = "0" * 64, "1" * 64


def first(
    arithmetic: str = "bf16", seen: Sequence[tuple[MelMetrics, MelMetrics]] = ()
) -> FirstPass:
    """Return a first pass that has seen eight clips, of which all but some are alike both ways."""
    found = FirstPass(load_vocoder("griffin-lim"), arithmetic)  # type: ignore[arg-type]
    for moved, exact in [*seen, *[(metrics(0.1), metrics(0.1))] * (8 - len(seen))]:
        found.stands(moved, exact, LIMITS)
    return found


def test_the_first_clips_and_those_drawn_are_compared() -> None:
    found = FirstPass(load_vocoder("griffin-lim"), "bf16")
    for _ in range(8):
        assert not found.suffices(metrics(0.1), LIMITS, key=OTHER)
        assert found.stands(metrics(0.1), metrics(0.1), LIMITS)
    assert found.suffices(metrics(0.1), LIMITS, key=OTHER)
    assert not found.suffices(metrics(0.1), LIMITS, key=DRAWN)
    assert first("fp32").suffices(metrics(0.1), LIMITS, key=DRAWN)


def test_one_clip_of_thirty_two_is_drawn() -> None:
    keys = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(32_000))
    # The standard deviation of a binomial draw is 31.
    assert abs(sum(map(is_drawn, keys)) - 32_000 / COMPARED_ONE_OF) < 100


@pytest.mark.parametrize(
    ("moved", "exact", "enough", "near"),
    [
        # 0.04 of the smaller: the limit of 0.2 is near from 0.168 on.
        (metrics(0.104), metrics(0.1), metrics(0.1675), metrics(0.1685)),
        (metrics(0.1), metrics(0.104), metrics(0.1675), metrics(0.1685)),
        # A hundredth of what is short of 1: the limit of 0.99 is near up to 0.9904.
        (metrics(0.1, 0.99495), metrics(0.1, 0.995), metrics(0.1, 0.99045), metrics(0.1, 0.99035)),
        # 0.2 dB: the limit of 20 is near up to 20.8.
        (metrics(0.1, 1, 24.8), metrics(0.1, 1, 25), metrics(0.1, 1, 20.9), metrics(0.1, 1, 20.7)),
        # None at all: what holds in fp32 is the least.
        (metrics(0.1), metrics(0.1), metrics(0.1995), metrics(0.1997)),
    ],
    ids=["mae", "other-way", "pearson", "snr_db", "none"],
)
def test_what_is_nearer_than_four_times_what_was_seen_is_left_to_the_plain_vocoder(
    moved: MelMetrics, exact: MelMetrics, enough: MelMetrics, near: MelMetrics
) -> None:
    found = first(seen=[(moved, exact)])
    assert found.suffices(enough, LIMITS, key=OTHER)
    assert not found.suffices(near, LIMITS, key=OTHER)
    assert not found.stands(near, near, LIMITS)


def test_a_clip_that_moves_further_than_any_before_counts_at_once() -> None:
    assert first().stands(metrics(0.15), metrics(0.15), LIMITS)
    assert not first().stands(metrics(0.15), metrics(0.19), LIMITS)
    assert not first().stands(metrics(0.15), metrics(0.21), LIMITS)
    assert not first().stands(metrics(0.15), metrics(math.nan), LIMITS)


def test_a_clip_that_fails_both_ways_says_nothing_of_those_that_pass() -> None:
    found = FirstPass(load_vocoder("griffin-lim"), "bf16")
    for bad in (metrics(0.9), metrics(math.nan)):
        assert not found.stands(bad, metrics(0.5), LIMITS)
    for _ in range(8):
        assert not found.suffices(metrics(0.1), LIMITS, key=OTHER)
        found.stands(metrics(0.1), metrics(0.1), LIMITS)
    assert found.suffices(metrics(0.19), LIMITS, key=OTHER)


@pytest.mark.parametrize(
    ("exact", "of_use"), [(metrics(0.198), False), (metrics(0.1999), True), (metrics(0.3), True)]
)
def test_it_is_of_use_unless_its_rounding_alone_has_clips_computed_twice(
    exact: MelMetrics, of_use: bool
) -> None:
    found = first(seen=[(metrics(0.101), metrics(0.1))])
    for number in range(17):
        assert found.is_of_use, number
        found.stands(exact, exact, LIMITS)
    assert found.is_of_use == of_use
    for _ in range(16):
        assert found.suffices(metrics(0.1), LIMITS, key=OTHER)
    assert found.is_of_use
