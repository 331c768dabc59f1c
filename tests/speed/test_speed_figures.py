"""How much faster the optimised paths are, side by side: the table of docs/benchmarks.md.

    MELCHECK_FIGURES=full pytest -s tests/speed/test_speed_figures.py

prints it. Each row is a ratio within pairs of calls in turns, with its interval; weights are random
ones of the official configuration, but for the embedded vocoder. On a busy machine a row may end
undecided: it is printed all the same, as wide as it is.
"""

# It prints (T201).
# ruff: noqa: T201

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from melcheck.benchmark.cases import bench_vocoder
from melcheck.benchmark.speed_gate import SpeedComparison, compare_speed
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.sanity import Thresholds, judge
from melcheck.speed import screening
from melcheck.speed.many_clips import check_many
from melcheck.speed.optimised import OptimisedVocos, Precision, optimise
from melcheck.speed.screening import screen
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable

pytestmark = [
    pytest.mark.figures,
    pytest.mark.skipif(
        os.environ.get("MELCHECK_FIGURES") != "full",
        reason="a table of speeds takes minutes and a quiet machine: MELCHECK_FIGURES=full",
    ),
]

RATE = 24_000
NUM_CLIPS = 200
SPEECH = Path(__file__).parents[2] / "fixtures" / "audio" / "kokoro-kumo-en.wav"
# Random weights pass no gate. That a clip passes clearly is asserted of them, not computed.
LENIENT = Thresholds(mae=100.0, snr_db=-100.0, pearson=-1.0)
Pair = tuple[Callable[[], object], Callable[[], object]]


def noise(batch: int, seconds: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(batch, round(seconds * RATE), generator=generator)


@pytest.fixture(scope="module")
def official() -> VocosVocoder:
    return bench_vocoder("random-official", "cpu")


def optimised(vocoder: VocosVocoder, precision: Precision) -> OptimisedVocos:
    try:
        return optimise(vocoder, precision=precision)
    except VocoderUnavailable as error:
        pytest.skip(str(error))


def decoding(official: VocosVocoder, seconds: float, precision: Precision) -> Pair:
    fast = optimised(official, precision)
    mel = official.encode(noise(1, seconds))
    return lambda: fast.decode(mel), lambda: official.model.decode(mel)


def _embedded() -> VocosVocoder:
    vocoder = load_vocoder("embedded")
    assert isinstance(vocoder, VocosVocoder)
    return vocoder


def encoding(official: VocosVocoder, batch: int, seconds: float) -> Pair:
    fast = optimise(official)
    waveform = noise(batch, seconds)
    return lambda: fast.encode(waveform), lambda: official.model.feature_extractor(waveform)


def embedded_decoding(official: VocosVocoder, *, faster: bool) -> Pair:
    embedded = _embedded()
    candidate = optimise(embedded) if faster else embedded
    mel = official.encode(noise(1, 3))
    return lambda: candidate.decode(mel), lambda: official.model.decode(mel)


def gating(vocoder: VocosVocoder, folder: Path, thresholds: Thresholds) -> Pair:
    """Files of 3 s judged: screened, and one by one in a plain loop."""
    paths = written(folder)
    pipeline = MelPipeline(MelCheckConfig(paths[0]), vocoder=vocoder)

    def screened() -> None:
        screening = screen(paths, pipeline, thresholds=thresholds)
        assert (screening.refused == "") == (vocoder.info.name != "embedded")
        assert all(clip.passed for clip in screening.clips)

    return screened, one_by_one(vocoder, paths, thresholds)


def gating_in_float32(vocoder: VocosVocoder, folder: Path) -> Pair:
    """The same side by side in rearranged float32, as where the processor has no bf16."""
    paths = written(folder)
    fast = MelPipeline(MelCheckConfig(paths[0]), vocoder=optimise(vocoder))
    return lambda: list(check_many(paths, fast)), one_by_one(vocoder, paths, LENIENT)


def written(folder: Path) -> list[Path]:
    speech = MelPipeline(MelCheckConfig(SPEECH)).load_audio()[0].numpy()
    paths = [folder / f"{index}.wav" for index in range(NUM_CLIPS)]
    for path in paths:
        soundfile.write(path, speech, RATE)
    return paths


def one_by_one(
    vocoder: VocosVocoder, paths: list[Path], thresholds: Thresholds
) -> Callable[[], object]:
    def run() -> None:
        for path in paths:
            trip = MelPipeline(MelCheckConfig(path), vocoder=vocoder).round_trip()
            assert judge(trip.metrics()[0], thresholds).passed

    return run


ROWS: dict[str, Callable[[VocosVocoder, Path], Pair]] = {
    "decode 3 s": lambda vocoder, _: decoding(vocoder, 3, "fp32"),
    "decode 10 s": lambda vocoder, _: decoding(vocoder, 10, "fp32"),
    "decode 3 s, bf16 backbone": lambda vocoder, _: decoding(vocoder, 3, "bf16"),
    "decode 10 s, bf16 backbone": lambda vocoder, _: decoding(vocoder, 10, "bf16"),
    "encode 16 x 3 s": lambda vocoder, _: encoding(vocoder, 16, 3),
    "encode 3 s": lambda vocoder, _: encoding(vocoder, 1, 3),
    "embedded decode 3 s": lambda vocoder, _: embedded_decoding(vocoder, faster=False),
    "embedded decode 3 s, optimised": lambda vocoder, _: embedded_decoding(vocoder, faster=True),
    "gate over 200 clips of 3 s": lambda vocoder, folder: gating(vocoder, folder, LENIENT),
    "gate, embedded": lambda _, folder: gating(_embedded(), folder, Thresholds()),
    "gate, rearranged fp32": gating_in_float32,
}


@pytest.mark.parametrize("row", ROWS)
def test_the_optimised_path_is_faster(
    row: str, official: VocosVocoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row == "gate over 200 clips of 3 s":
        monkeypatch.setattr(screening, "at_worst", lambda metrics, deviation: metrics)
    candidate, reference = ROWS[row](official, tmp_path)
    found: SpeedComparison = compare_speed(
        candidate,
        reference,
        allowed_ratio=1.0,
        confidence=0.95,
        pairs=10 if row.startswith("gate") else 30,
        budget_seconds=240.0 if row.startswith("gate") else 45.0,
        clock=time.perf_counter,
    )
    # Of times: that of the reference over that of the candidate, so that more is better.
    times = f"{1 / found.ratio:5.2f} x ({1 / found.high:.2f} to {1 / found.low:.2f})"
    print(f"\n| {row} | {times} | {found.pairs} pairs |")
    assert found.passed, found.message()
