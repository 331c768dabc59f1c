"""How often forensics is right, measured on the bundled clips: `pytest -m figures -s` prints it.

Clips: the first three seconds of the speech fixtures, and windows of all fixtures for the false
alarms. Seeds are those of the generators below. What must hold is asserted; what was measured is
printed. Each fault is tried on one clip, in turn, with some of the pairs and windows; with
MELCHECK_FIGURES=full in the environment on each of them, with all pairs and windows, and with every
rung of the ladder on every window. What lies outside the bank is measured in
`test_diagnose_outsiders.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.result import Diagnosis
from melcheck.profiles import profile
from melcheck.recipes import VOCOS, log_mel

pytestmark = [
    pytest.mark.figures,
    # Some of the recipes leave bands without a bin, of which torchaudio warns.
    pytest.mark.filterwarnings("ignore:At least one mel filterbank:UserWarning"),
]

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
SPEECH = ("kokoro-alpha-ja.flac", "kokoro-blend-en.flac", "kokoro-kumo-en.wav", "austen-0870.flac")
ALL = (*SPEECH, "austen-0890.flac", "austen-0930.flac", "kokoro-gap.flac", "guitar-stereo.flac")
# The samples that a diagnosis transforms, in units of the clip's own spectrogram: 127 were measured
# at most, for a recipe that has no name, and a median of 32 for the usual ones.
MOST_SPECTROGRAMS = 190
USUAL_SPECTROGRAMS = 48
FULL = os.environ.get("MELCHECK_FIGURES") == "full"
PAIRS = 64 if FULL else 24
FALSE_ALARM_WINDOWS = 200 if FULL else 80
# One of the slower rungs on every so-many-th window.
SLOW_EVERY = 1 if FULL else 5

Front = Callable[[Tensor], Tensor]


def clip(name: str) -> Tensor:
    config = MelCheckConfig(AUDIO / name, target_sr=24_000, target_duration=3.0)
    return load_audio(config).waveform[0]


def recipe(**numbers: object) -> Front:
    return lambda waveform: log_mel(waveform, dataclasses.replace(VOCOS, **numbers))  # type: ignore[arg-type]


def on_audio(change: Front) -> Front:
    return lambda waveform: log_mel(change(waveform))


def on_mel(change: Front) -> Front:
    return lambda waveform: change(log_mel(waveform))


def at_rate(rate: int) -> Front:
    return lambda waveform: log_mel(torchaudio.functional.resample(waveform, 24_000, rate))


# Mel faults of tiers A and B: what is injected, and the code that has to come first.
SINGLES: dict[str, tuple[str, Front]] = {
    "bigvgan mel": ("profile:bigvgan-24k", lambda w: log_mel(w, profile("bigvgan-24k"))),
    "48 kHz as 24": ("sample-rate", at_rate(48_000)),
    "44.1 kHz as 24": ("sample-rate", at_rate(44_100)),
    "32 kHz as 24": ("sample-rate", at_rate(32_000)),
    "22.05 kHz as 24": ("sample-rate", at_rate(22_050)),
    "16 kHz as 24": ("sample-rate", at_rate(16_000)),
    "slaney scale": ("mel-scale", recipe(mel_scale="slaney")),
    "slaney norm": ("filter-norm", recipe(norm="slaney")),
    "log10": ("log-base", recipe(log_base="10")),
    "20 log10": ("decibels", recipe(log_base="10", log_scale=20.0)),
    "matcha statistics": ("normalisation", recipe(mean=-5.536622, std=2.116101)),
    "[-12, 2] to [-1, 1]": ("normalisation", recipe(mean=-5.0, std=7.0)),
    "feat_scale": ("normalisation", recipe(std=10.0)),
    "own statistics": ("normalisation", recipe(mean=-6.3, std=2.71)),
    "statistics twice": (
        "normalisation",
        on_mel(lambda m: ((m + 5.536622) / 2.116101 + 5.536622) / 2.116101),
    ),
    "same padding": ("padding", recipe(padding="same")),
    "no padding": ("padding", recipe(padding="none")),
    "axes swapped": ("axes-transposed", on_mel(lambda m: m.T)),
    "floor 1e-3": ("floor", recipe(floor=1e-3)),
    "stereo summed": ("stereo-sum", on_audio(lambda w: 2 * w)),
    "power 2": ("power", recipe(power=2.0)),
    "int16 unscaled": ("int16-scale", on_audio(lambda w: 32_768 * w)),
    "n_fft 2048, window 1024": ("n-fft", recipe(n_fft=2048)),
    "n_fft 2048": ("n-fft", recipe(n_fft=2048, win_length=2048)),
    "n_fft 512": ("n-fft", recipe(n_fft=512, win_length=512)),
    "window 600": ("win-length", recipe(win_length=600)),
    "hop 240": ("hop-length", recipe(hop_length=240)),
    "hop 300": ("hop-length", recipe(hop_length=300)),
    "hop 160": ("hop-length", recipe(hop_length=160)),
    "f_max 8000": ("f-max", recipe(f_max=8_000.0)),
    "f_max 7600": ("f-max", recipe(f_max=7_600.0)),
    "f_min 20": ("f-min", recipe(f_min=20.0)),
    "f_min 50": ("f-min", recipe(f_min=50.0)),
    "filters for 16 kHz": (
        "filterbank-rate",
        recipe(filterbank_rate=16_000, f_max=8_000.0),
    ),
    "80 bands": ("n-mels", recipe(n_mels=80)),
    "frames of zero": (
        "padded-frames",
        on_mel(lambda m: torch.nn.functional.pad(m, (0, 24))),
    ),
    "NaN": ("nan", on_mel(lambda m: m.index_fill(1, torch.tensor([50, 51]), math.nan))),
    "gain 0.3": ("gain", on_audio(lambda w: 0.3 * w)),
    "gain 1.7": ("gain", on_audio(lambda w: 1.7 * w)),
}
FILTERS = {
    "power": {"power": 2.0},
    "mel-scale": {"mel_scale": "slaney"},
    "filter-norm": {"norm": "slaney"},
    "f-max": {"f_max": 8_000.0},
    "f-min": {"f_min": 50.0},
    "filterbank-rate": {"filterbank_rate": 16_000, "f_max": 8_000.0},
    "n-fft": {"n_fft": 2048, "win_length": 2048},
    "win-length": {"win_length": 600},
    "window": {"window": "hamming"},
    "pre-emphasis": {"pre_emphasis": 0.97},
    "padding": {"padding": "same"},
    "log-base": {"log_base": "10"},
    "normalisation": {"mean": -5.536622, "std": 2.116101},
}
LEVELS = {"gain": 0.4, "int16-scale": 32_768.0, "stereo-sum": 2.0}


def pairs() -> list[tuple[str, str, Front]]:
    found: list[tuple[str, str, Front]] = []
    for first, second in itertools.combinations(FILTERS, 2):
        numbers = {**FILTERS[first], **FILTERS[second]}
        overlap = set(FILTERS[first]) & set(FILTERS[second])
        if overlap or {first, second} == {"f-min", "filterbank-rate"}:
            continue
        found.append((first, second, recipe(**numbers)))
    for level, gain in LEVELS.items():
        for code in ("log-base", "mel-scale", "power", "filter-norm", "f-max"):
            front = recipe(**FILTERS[code])
            found.append((level, code, lambda w, front=front, gain=gain: front(gain * w)))
    for rate in (48_000, 22_050):
        for code in ("log-base", "power", "mel-scale"):
            front = recipe(**FILTERS[code])
            found.append(
                (
                    "sample-rate",
                    code,
                    lambda w, front=front, rate=rate: front(
                        torchaudio.functional.resample(w, 24_000, rate)
                    ),
                )
            )
    return found


# What is named at the first look, and what takes all of the search.
USUAL = ("power 2", "slaney scale", "same padding", "window 600", "bigvgan mel", "48 kHz as 24")
TIMED: dict[str, Front] = {
    **{name: SINGLES[name][1] for name in USUAL},
    "a delay": on_audio(lambda w: torch.nn.functional.pad(w, (1_105, 0))),
    "clipping": on_audio(lambda w: w.clamp(-0.1, 0.1)),
    "another place": on_audio(lambda w: w.roll(36_000)),
    "noise": lambda w: torch.randn(
        100, 1 + len(w) // 256, generator=torch.Generator().manual_seed(0)
    ),
    "odd transform": recipe(n_fft=900, win_length=900),
    "odd window, other scale": recipe(win_length=700, mel_scale="slaney", n_fft=1536),
}


def first_is(diagnosis: Diagnosis, code: str) -> bool:
    if not diagnosis.causes:
        return False
    cause = diagnosis.causes[0]
    return code == cause.code or code in cause.alternatives


Say = Callable[[str], None]


@pytest.fixture
def say(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> Say:
    """Write a line to the terminal, whatever is captured."""
    writer = pytestconfig.get_terminal_writer()

    def write(line: str) -> None:
        with capsys.disabled():
            writer.line(f"\n{line}")

    return write


def test_single_faults_of_tiers_a_and_b_are_named_first(say: Say) -> None:
    clips = [clip(name) for name in SPEECH]
    missed = []
    cases = [
        (name, code, front, waveform)
        for index, (name, (code, front)) in enumerate(SINGLES.items())
        for position, waveform in enumerate(clips)
        if FULL or position == index % len(clips)
    ]
    for name, code, front, waveform in cases:
        mel = front(waveform)
        diagnosis = diagnose(waveform, mel)
        if not first_is(diagnosis, code):
            missed.append((name, diagnosis.kind, diagnosis.codes))
    total = len(cases)
    share = 1 - len(missed) / total
    say(f"single faults named first: {share:.1%} of {total} (clips {SPEECH}); {missed}")
    assert share >= 0.95, missed


def test_both_faults_of_a_pair_are_named(say: Say) -> None:
    clips = [clip(name) for name in SPEECH]
    everything = pairs()
    cases = everything if FULL else random.Random(2).sample(everything, PAIRS)
    missed = []
    for index, (first, second, front) in enumerate(cases):
        waveform = clips[index % len(clips)]
        diagnosis = diagnose(waveform, front(waveform))
        if not (diagnosis.names(first) and diagnosis.names(second)):
            missed.append((first, second, diagnosis.kind, diagnosis.codes))
    share = 1 - len(missed) / len(cases)
    say(f"pairs both named: {share:.1%} of {len(cases)} (clips {SPEECH} in turn, seed 2); {missed}")
    assert len(cases) >= PAIRS
    assert share >= 0.80, missed


def test_the_work_of_a_diagnosis_is_bounded(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    waveform = clip("kokoro-kumo-en.wav")
    transform, sizes = torch.fft.rfft, []

    def counted(values: Tensor, *args: object, **options: object) -> Tensor:
        sizes.append(values.numel())
        return transform(values, *args, **options)

    monkeypatch.setattr(torch.fft, "rfft", counted)
    own = VOCOS.frames(len(waveform)) * VOCOS.n_fft
    work, seconds = {}, {}
    for name, front in TIMED.items():
        mel = front(waveform)
        sizes.clear()
        start = time.process_time()
        diagnose(waveform, mel)
        seconds[name] = time.process_time() - start
        work[name] = sum(sizes) / own
    lines = [f"{name} {work[name]:.1f} ({seconds[name]:.2f} s)" for name in work]
    say(f"samples transformed by a diagnosis of 3 s, in spectrograms of it: {', '.join(lines)}")
    assert max(work.values()) < MOST_SPECTROGRAMS, work
    assert statistics.median(work[name] for name in USUAL) < USUAL_SPECTROGRAMS, work


LADDER: dict[str, Front] = {
    "itself": log_mel,
    "float16": on_mel(lambda m: m.half().float()),
    "bfloat16": on_mel(lambda m: m.bfloat16().float()),
    "half waveform": on_audio(lambda w: w.half().float()),
    "floor 1e-5": recipe(floor=1e-5),
    "added 1e-9": recipe(floor=1e-9, floor_mode="add"),
    "zipvoice": recipe(tail="round"),
    "pcm16": on_audio(lambda w: (w * 32_768).round() / 32_768),
    "one sample late": on_audio(lambda w: torch.nn.functional.pad(w, (1, 0))[:-1]),
    "resampled": on_audio(
        lambda w: torchaudio.functional.resample(
            torchaudio.functional.resample(w, 24_000, 48_000, lowpass_filter_width=32),
            48_000,
            24_000,
        )
    ),
}
QUICK = ("itself", "float16", "bfloat16", "floor 1e-5")


def test_clean_clips_raise_no_alarm(say: Say) -> None:
    generator = random.Random(1)
    sources = [clip(name) for name in ALL]
    alarms, runs = [], 0
    slow = [name for name in LADDER if name not in QUICK]
    for index in range(FALSE_ALARM_WINDOWS):
        source = sources[index % len(sources)]
        length = generator.randrange(20_000, len(source) + 1)
        start = generator.randrange(0, len(source) - length + 1)
        gain = 10 ** (generator.uniform(-30.0, 3.0) / 20)
        waveform = (gain * source[start : start + length]).clamp(-1, 1)
        turn = (slow[index // SLOW_EVERY % len(slow)],) if index % SLOW_EVERY == 0 else ()
        for name in (*QUICK, *(slow if FULL else turn)):
            runs += 1
            diagnosis = diagnose(waveform, LADDER[name](waveform))
            if diagnosis.kind not in ("identical", "benign"):
                alarms.append((name, ALL[index % len(ALL)], length, start, gain, diagnosis.codes))
    say(f"false alarms: {len(alarms)} of {runs}, {FALSE_ALARM_WINDOWS} windows (seed 1); {alarms}")
    assert not alarms
