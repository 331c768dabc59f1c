"""Screening gives the verdicts of plain arithmetic, and uses faster only where it is proven."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from melcheck.benchmark.cases import bench_vocoder
from melcheck.clips import load_manifest
from melcheck.config import MelCheckConfig
from melcheck.metrics import MelMetrics, compare
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.sanity import Thresholds, judge
from melcheck.speed import screening
from melcheck.speed.many_clips import FileTrip, check_many
from melcheck.speed.optimised import OptimisedVocos, optimise
from melcheck.speed.screening import at_worst, screen
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder

FIXTURES = Path(__file__).parents[2] / "fixtures"
GATED = ("mae", "snr_db", "pearson", "reference_floor_share")
SECONDS = 1.0


@pytest.fixture(scope="module")
def embedded() -> VocosVocoder:
    loaded = load_vocoder("embedded")
    assert isinstance(loaded, VocosVocoder)
    return loaded


@pytest.fixture(scope="module")
def pipeline(embedded: VocosVocoder) -> MelPipeline:
    return MelPipeline(MelCheckConfig("no-file.wav", target_duration=SECONDS), vocoder=embedded)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    # Of the cowbell, nearly all is silence, which always lies near a gate.
    clips = load_manifest(FIXTURES / "clips.yaml")
    return [clip.path for clip in clips if clip.name != "cowbell-sparse"]


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the embedded vocoder, which passes gates, stand for a Vocos that may be screened."""
    monkeypatch.setattr(screening, "is_consistent", lambda vocoder: False)
    monkeypatch.setattr(screening, "_lowest_precision", lambda vocoder: "fp32")
    monkeypatch.setattr(screening, "_ALLOWED", {"fp32": 7.8e-3})
    monkeypatch.setattr(screening, "_FEWEST_CLIPS", 8)


@pytest.fixture(scope="module")
def plain(files: list[Path], pipeline: MelPipeline) -> list[FileTrip]:
    return list(check_many(files, pipeline))


def metrics_of(reference: Tensor, estimate: Tensor) -> MelMetrics:
    return compare(reference, estimate, log_floor=VOCOS.log_floor)[0]


def maes(plain: list[FileTrip]) -> list[float]:
    return [each.metrics.mae for each in plain if each.metrics is not None]


def louder(factor: float) -> Callable[..., OptimisedVocos]:
    """Return an `optimise` whose sound is off by a factor."""

    def damaged(vocoder: VocosVocoder, **kwargs: str) -> OptimisedVocos:
        fast = optimise(vocoder, **kwargs)  # type: ignore[arg-type]
        return dataclasses.replace(fast, head=lambda features: factor * fast.head(features))

    return damaged


@pytest.mark.parametrize("deviation", [1e-3, 3e-2, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_no_deviation_is_worse_than_the_worst(seed: int, deviation: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = 2.5 * torch.randn(1, 100, 60, generator=generator, dtype=torch.float64) - 6
    error = 0.2 * torch.randn(reference.shape, generator=generator, dtype=torch.float64)
    estimate = reference + error
    bound = at_worst(metrics_of(reference, estimate), deviation)
    centred = estimate - estimate.mean()
    directions = {
        "noise": torch.randn(reference.shape, generator=generator, dtype=torch.float64),
        "more of the error": error,
        "all one way": error.sign(),
        # What turns the reconstruction away from the original without any change of length.
        "turned": error - (error * centred).sum() / centred.square().sum() * centred,
        "an offset": torch.ones_like(error),
    }
    measured = {}
    for name, direction in directions.items():
        moved = estimate + deviation * direction / direction.square().mean().sqrt()
        found = measured[name] = metrics_of(reference, moved)
        assert found.mae <= bound.mae + 1e-9, name
        assert found.snr_db >= bound.snr_db - 1e-9, name
        assert found.pearson >= bound.pearson - 1e-9, name
    # The bounds are no looser than they must be.
    assert measured["all one way"].mae == pytest.approx(bound.mae, abs=1e-9)
    # But for the share of the deviation that would change the original, six nats from zero.
    quieter = -20 * math.log10(1 - deviation / 6)
    assert measured["more of the error"].snr_db == pytest.approx(bound.snr_db, abs=quieter)
    gap = measured["turned"].pearson - bound.pearson
    assert gap < 0.2 * (1 - bound.pearson)


def test_a_mel_that_came_back_exactly_or_constant_is_in_doubt() -> None:
    exact = torch.randn(1, 100, 20)
    silent = torch.full((1, 100, 20), VOCOS.log_floor)
    for reference, estimate in ((exact, exact), (silent, silent + 0.1), (exact, silent)):
        bound = at_worst(metrics_of(reference, estimate), 1e-3)
        assert math.isnan(bound.pearson)
        assert not judge(bound).passed


@pytest.mark.usefixtures("faster")
def test_the_verdicts_are_the_plain_ones_in_order(
    files: list[Path], pipeline: MelPipeline, plain: list[FileTrip]
) -> None:
    # Two fail, and one passes so nearly that faster arithmetic cannot tell.
    limit = sorted(maes(plain))[-3] + 1e-4
    thresholds = Thresholds(mae=limit, snr_db=-20.0, pearson=-0.9)
    result = screen(files, pipeline, thresholds=thresholds)
    assert result.refused == ""
    assert result.proof.clips == len(files[::2])
    assert 0 < result.proof.deviation < result.proof.allowed
    judged = list(result.clips)
    assert [each.path for each in judged] == files
    for each, expected in zip(judged, plain, strict=True):
        assert expected.metrics is not None
        assert each.metrics is not None
        verdict = judge(expected.metrics, thresholds)
        assert each.passed == verdict.passed
        # Threads round otherwise; the embedded vocoder magnifies it.
        assert each.metrics.mae == pytest.approx(expected.metrics.mae, abs=1e-4)
        near = at_worst(expected.metrics, result.proof.allowed).mae >= limit
        assert each.plain or not near
        assert (each.trip is None) == each.passed
    assert sum(each.plain for each in judged) < len(judged)
    assert sum(not each.passed for each in judged) == 2


@pytest.mark.usefixtures("faster")
def test_what_lies_near_a_gate_is_computed_again(
    files: list[Path], pipeline: MelPipeline, plain: list[FileTrip]
) -> None:
    def plainly(limit: float) -> set[Path]:
        thresholds = Thresholds(mae=limit, snr_db=-20.0, pearson=-0.9)
        clips = screen(files, pipeline, thresholds=thresholds).clips
        return {each.path for each in clips if each.plain}

    proofs = set(files[::2])
    assert plainly(1.0) == proofs
    values = dict(zip(files, maes(plain), strict=True))
    worst = max(values.keys() - proofs, key=values.__getitem__)
    assert worst in plainly(values[worst] + 1e-3)


@pytest.mark.usefixtures("faster")
def test_what_fails_is_what_plain_arithmetic_made(
    files: list[Path],
    pipeline: MelPipeline,
    plain: list[FileTrip],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So little that it is allowed, and enough to be told by its level.
    monkeypatch.setattr(screening, "optimise", louder(1.005))
    thresholds = Thresholds(mae=sorted(maes(plain))[-4], snr_db=-20.0, pearson=-0.9)
    result = screen(files, pipeline, thresholds=thresholds)
    assert 0.004 < result.proof.deviation < result.proof.allowed
    failed = [(a, b) for a, b in zip(result.clips, plain, strict=True) if not a.passed]
    assert len(failed) >= 4
    for each, expected in failed:
        assert each.trip is not None
        assert expected.trip is not None
        level = each.trip.reconstructed_waveform.square().mean().sqrt()
        wanted = expected.trip.reconstructed_waveform.square().mean().sqrt()
        assert float(level / wanted) == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("faster")
def test_a_file_that_cannot_be_used_says_so_in_its_place(
    files: list[Path], pipeline: MelPipeline, tmp_path: Path
) -> None:
    absent, empty = tmp_path / "absent.wav", tmp_path / "empty.wav"
    soundfile.write(empty, torch.zeros(0).numpy(), VOCOS.sample_rate)
    # The first of all is among those that are tried first, the other is not.
    given = [absent, empty, *files]
    judged = list(screen(given, pipeline).clips)
    assert [each.path for each in judged] == given
    for each in judged[:2]:
        assert str(each.path) in each.error
        assert not each.passed
        assert each.metrics is None
    assert all(each.metrics is not None for each in judged[2:])


@pytest.mark.usefixtures("faster")
def test_nothing_that_comes_round_proves_nothing(pipeline: MelPipeline, tmp_path: Path) -> None:
    result = screen([tmp_path / f"{index}.wav" for index in range(8)], pipeline)
    assert result.refused == "none of the 4 clips that were tried first came round"
    assert all(each.error for each in result.clips)


@pytest.mark.usefixtures("faster")
def test_arithmetic_that_deviates_passes_no_verdict(
    files: list[Path],
    pipeline: MelPipeline,
    plain: list[FileTrip],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screening, "optimise", louder(1.02))
    result = screen(files, pipeline)
    assert "6 clips that were computed both ways differ by up to 0.02" in result.refused
    judged = list(result.clips)
    assert all(each.plain for each in judged)
    assert [each.metrics for each in judged] == [each.metrics for each in plain]


@pytest.mark.usefixtures("faster")
def test_arithmetic_that_comes_to_no_end_passes_no_verdict(
    files: list[Path], pipeline: MelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(vocoder: VocosVocoder, **kwargs: str) -> OptimisedVocos:
        fast = optimise(vocoder, **kwargs)  # type: ignore[arg-type]
        return dataclasses.replace(fast, head=lambda features: fast.head(features) / 0)

    monkeypatch.setattr(screening, "optimise", broken)
    result = screen(files, pipeline)
    assert result.proof.deviation == math.inf
    assert all(each.plain and each.metrics for each in result.clips)


@pytest.mark.usefixtures("faster")
def test_clips_of_which_few_pass_clearly_are_computed_plainly(
    files: list[Path], pipeline: MelPipeline
) -> None:
    result = screen(files, pipeline, thresholds=Thresholds(mae=0.01))
    assert result.refused.startswith("of 6 clips 0 pass so clearly")
    judged = list(result.clips)
    assert all(each.plain and not each.passed and each.trip is not None for each in judged)


def test_what_cannot_be_faster_is_computed_plainly(
    files: list[Path], pipeline: MelPipeline, plain: list[FileTrip]
) -> None:
    embedded = screen(files, pipeline)
    assert embedded.refused.startswith("the head of embedded magnifies the rounding")
    assert embedded.proof is None
    assert [each.metrics for each in embedded.clips] == [each.metrics for each in plain]
    griffin_lim = MelPipeline(pipeline.config, vocoder="griffin-lim")
    other = screen(files, griffin_lim)
    assert other.refused == "griffin-lim is no Vocos, and has no faster form"
    assert next(other.clips).plain


def test_a_plain_vocos_is_screened_in_as_few_bits_as_the_processor_has(
    files: list[Path], pipeline: MelPipeline
) -> None:
    official = MelPipeline(pipeline.config, vocoder=bench_vocoder("random-official", "cpu"))
    few = screen(files, official)
    assert few.refused == "fewer than 16 clips are sooner done than proven"
    assert len(list(few.clips)) == len(files)
    many = screen([*files, *files], official)
    assert many.proof is not None
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert many.proof.precision == ("bf16" if has_bf16 else "fp32")
    assert many.proof.deviation < many.proof.allowed
    # Random weights make nothing that would pass.
    assert "0 pass so clearly" in many.refused
