"""A run to make reports of: every outcome, a comparison, and no vocoder that takes its time.

Each clip is a tone; what came back of it is the tone with noise, so that figures differ by clip.
"""

from __future__ import annotations

import dataclasses
import hashlib

import torch

from melcheck.audio import LoadedAudio
from melcheck.diagnosis.causes import Explanation
from melcheck.pipeline import RoundTrip
from melcheck.recipes import VOCOS, log_mel
from melcheck.report.build import case_record
from melcheck.report.media import CaseMedia, case_media
from melcheck.report.model import (
    AudioSource,
    BaselineChange,
    BaselineComparison,
    CaseOutcome,
    CaseRecord,
    CaseResult,
    Environment,
    FailedTest,
    Key,
    MetricChange,
    RunReport,
    make_run_report,
)
from melcheck.sanity import Thresholds, judge
from melcheck.vocoders.base import VocoderInfo

SECONDS = 3.0
FRAMES, BANDS = 282, 100
DRAWN_CASES = 4

CAUSE = Explanation("shifted", "the output is late", "it is <b>200</b> late", "Cut it off.")
ENVIRONMENT = Environment(
    command="pytest -m sanity",
    finished="2026-01-31T12:00:00Z",
    platform="Linux",
    versions={"melcheck": "0.1.0", "torch": "2.11.0"},
    devices={"cpu": "a processor, 1 threads"},
)


def trip(number: int, *, noise: float = 0.01, vocoder: str = "embedded") -> RoundTrip:
    """Return the round trip of a tone with noise, the same for the same number and noise."""
    time = torch.arange(int(SECONDS * VOCOS.sample_rate)) / VOCOS.sample_rate
    waveform = 0.3 * torch.sin(2 * torch.pi * (200 + 100 * number) * time)[None]
    waveform = waveform + 0.01 * torch.randn(
        waveform.shape, generator=torch.Generator().manual_seed(number)
    )
    added = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(1000 + number))
    frames = VOCOS.frames(waveform.shape[-1])
    decoded = (waveform + noise * added)[:, : VOCOS.num_samples(frames)]
    audio = LoadedAudio(
        waveform, VOCOS.sample_rate, waveform.shape[-1], 24_000, 1, 3.5, "a decoder"
    )
    weights = hashlib.sha256(vocoder.encode()).hexdigest()
    return RoundTrip(
        waveform=waveform,
        mel=log_mel(waveform),
        reconstructed_waveform=decoded,
        reconstructed_mel=log_mel(decoded),
        valid_samples=(waveform.shape[-1],),
        recipe=VOCOS,
        vocoder=VocoderInfo(vocoder, f"the {vocoder} vocoder", None, weights, weights, 1000),
        device=torch.device("cpu"),
        audio=audio,
    )


def record(
    clip: str,
    outcome: CaseOutcome,
    loop: RoundTrip,
    *,
    file: str = "",
    cause: Explanation | None = None,
) -> CaseRecord:
    """Return the record of a round trip, with gates where its outcome says that they apply."""
    gated = outcome in ("passed", "failed", "known miss")
    made = case_record(
        loop,
        clip=clip,
        vocoder=loop.vocoder.name,
        outcome=outcome,
        verdict=judge(loop.metrics()[0]) if gated else None,
        cause=cause,
    )
    audio = AudioSource(
        file=file or f"{clip}.wav",
        sha256=hashlib.sha256(clip.encode()).hexdigest(),
        sample_rate=24_000,
        channels=1,
        seconds=3.5,
        checked_seconds=SECONDS,
        decoder="a decoder",
    )
    return dataclasses.replace(made, case=dataclasses.replace(made.case, audio=audio))


def run(hostile: str) -> tuple[RunReport, dict[Key, CaseMedia]]:
    """Return a run with every outcome, and a clip of any name, with its pictures and audio."""
    loops = {
        "tone-0": trip(0, noise=0.2),
        "tone-1": trip(1, noise=0.0001),
        hostile: trip(2, noise=0.05),
        "tone-3": trip(3),
    }
    outcomes: dict[str, CaseOutcome] = {
        "tone-0": "failed",
        "tone-1": "passed",
        hostile: "known miss",
        "tone-3": "measured",
    }
    records, media = [], {}
    for number, (clip, outcome) in enumerate(outcomes.items()):
        cause = CAUSE if outcome == "failed" else None
        made = [record(clip, outcome, loops[clip], cause=cause, file=clip)]
        media[made[0].case.key] = case_media(loops[clip])
        if clip in ("tone-0", "tone-1"):
            baseline = trip(number, noise=0.02, vocoder="griffin-lim")
            made.append(record(clip, "baseline", baseline, file=clip))
            media[made[1].case.key] = case_media(baseline)
        records += made
    moved = MetricChange(metric="mae", before=0.1, after=0.3, tolerance=0.005, trend="worse")
    changed = dataclasses.replace(
        records[0].case, change=BaselineChange(status="worse", metrics=(moved,), place="band 3")
    )
    skipped = CaseResult(
        clip="tone-1", vocoder="official", device="cpu", outcome="skipped", reason="no <weights>"
    )
    report = make_run_report(
        [changed, *(each.case for each in records[1:]), skipped],
        records,
        thresholds=Thresholds().gates(),
        environment=ENVIRONMENT,
        failed_tests=[FailedTest(name="tests/test_other.py::test_it", message="<b>assert</b> 0")],
        comparison=BaselineComparison(
            file="main.json", finished=ENVIRONMENT.finished, versions={}, missing=("gone (a on b)",)
        ),
    )
    return report, media
