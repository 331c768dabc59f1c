"""How much faster the optimised paths are, side by side: the table of docs/benchmarks.md.

    MELCHECK_FIGURES=full pytest -s tests/speed/test_speed_figures.py

prints it. Each row is a ratio within pairs of calls in turns, with its interval; weights are random
ones of the official configuration, but for the embedded vocoder. No time is asserted: on a busy
machine a row may end undecided, and is printed as wide as it is.
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
from melcheck.speed.many_clips import check_many
from melcheck.speed.optimised import OptimisedVocos, Precision, optimise
from melcheck.vocoders.base import Vocoder
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


def gating(plain: VocosVocoder, candidate: Vocoder, folder: Path) -> Pair:
    """Files of 3 s side by side, and one by one in a plain loop."""
    paths = written(folder)
    pipeline = MelPipeline(MelCheckConfig(paths[0]), vocoder=candidate)

    def one_by_one() -> None:
        for path in paths:
            MelPipeline(MelCheckConfig(path), vocoder=plain).round_trip().metrics()

    return lambda: list(check_many(paths, pipeline)), one_by_one


def around(vocoder: VocosVocoder, *, decode: bool) -> Pair:
    """A call of the pipeline, and of the model alone."""
    pipeline = MelPipeline(MelCheckConfig("no-file.wav"), vocoder=vocoder)
    waveform = noise(1, 3)
    mel = vocoder.encode(waveform)
    if decode:
        return lambda: pipeline.mel2waveform(mel), lambda: vocoder.model.decode(mel)
    return lambda: pipeline.waveform2mel(waveform), lambda: vocoder.model.feature_extractor(
        waveform
    )


def written(folder: Path) -> list[Path]:
    speech = MelPipeline(MelCheckConfig(SPEECH)).load_audio()[0].numpy()
    paths = [folder / f"{index}.wav" for index in range(NUM_CLIPS)]
    for path in paths:
        soundfile.write(path, speech, RATE)
    return paths


ROWS: dict[str, Callable[[VocosVocoder, Path], Pair]] = {
    "decode 3 s": lambda vocoder, _: decoding(vocoder, 3, "fp32"),
    "decode 10 s": lambda vocoder, _: decoding(vocoder, 10, "fp32"),
    "decode 3 s, bf16 backbone": lambda vocoder, _: decoding(vocoder, 3, "bf16"),
    "decode 10 s, bf16 backbone": lambda vocoder, _: decoding(vocoder, 10, "bf16"),
    "encode 16 x 3 s": lambda vocoder, _: encoding(vocoder, 16, 3),
    "encode 3 s": lambda vocoder, _: encoding(vocoder, 1, 3),
    "embedded decode 3 s": lambda vocoder, _: embedded_decoding(vocoder, faster=False),
    "embedded decode 3 s, optimised": lambda vocoder, _: embedded_decoding(vocoder, faster=True),
    "gate, optimised fp32": lambda vocoder, folder: gating(vocoder, optimise(vocoder), folder),
    "gate, embedded": lambda _, folder: gating(_embedded(), _embedded(), folder),
    "pipeline around encode 3 s": lambda vocoder, _: around(vocoder, decode=False),
    "pipeline around decode 3 s": lambda vocoder, _: around(vocoder, decode=True),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table(row: str, official: VocosVocoder, tmp_path: Path) -> None:
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
    # The time of the reference over that of the candidate, so that more is better.
    times = f"{1 / found.ratio:5.2f} x ({1 / found.high:.2f} to {1 / found.low:.2f})"
    print(f"\n| {row} | {times} | {found.pairs} pairs |")
    assert found.pairs > 0
