"""How fast the loop runs: encode, decode and round trip, by duration, batch and device.

`pytest -m benchmark --benchmark-autosave` stores a run, `--benchmark-compare` sets the next one
beside it. Each row carries in `extra_info`: `x_real_time` (seconds of audio for each second of
computing), `frames_per_second`, and the peak of memory above what was in use before.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.vocoders import Vocoder

STAGES = ("encode", "decode", "round_trip")
# A median of few short calls is that of the machine's moods: each row is measured for about this
# long, in at least and at most so many rounds.
MEASURED_SECONDS = 0.3
ROUNDS = (5, 200)
MEBIBYTE = 2**20

# (seconds, batch). The last is the protocol of the Vocos paper's table of speeds: 16 x 1 s.
SIZES = ((1.0, 1), (3.0, 1), (10.0, 1), (3.0, 8), (1.0, 16))


@pytest.mark.benchmark(group="loop")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("seconds", "batch"),
    SIZES,
    ids=[f"{batch}x{seconds:g}s" for seconds, batch in SIZES[:-1]] + ["vocos-paper-16x1s"],
)
def test_speed_of_the_loop(
    benchmark: Any,
    mel_vocoder: Vocoder,
    mel_speed: Callable[[str], None],
    stage: str,
    seconds: float,
    batch: int,
) -> None:
    pipeline = MelPipeline(MelCheckConfig("no-file.wav"), vocoder=mel_vocoder)
    generator = torch.Generator().manual_seed(0)
    samples = round(seconds * pipeline.recipe.sample_rate)
    waveform = (0.1 * torch.randn(batch, samples, generator=generator)).to(pipeline.device)
    mel = pipeline.waveform2mel(waveform)
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: pipeline.waveform2mel(waveform),
        "decode": lambda: pipeline.mel2waveform(mel),
        "round_trip": lambda: pipeline.round_trip(waveform),
    }
    run = _synchronised(calls[stage], pipeline.device)
    benchmark.extra_info.update(
        vocoder=mel_vocoder.info.name,
        device=_device_name(pipeline.device),
        threads=torch.get_num_threads(),
        peak_memory_mib=_peak_memory_mib(run, pipeline.device),
    )
    extra = benchmark.extra_info
    benchmark.pedantic(run, rounds=_rounds(run), warmup_rounds=1)
    if benchmark.stats is None:
        return  # --benchmark-disable: the call ran, nothing was timed
    median = benchmark.stats.stats.median
    audio_seconds = batch * samples / pipeline.recipe.sample_rate
    extra["x_real_time"] = audio_seconds / median
    extra["frames_per_second"] = batch * mel.shape[-1] / median
    peak = extra["peak_memory_mib"]
    mel_speed(
        f"{stage:10} {batch:2} x {seconds:4g} s  {extra['vocoder']:11} {extra['device']:4} "
        f"{extra['x_real_time']:7.0f} x real time  {extra['frames_per_second']:8.0f} frames/s  "
        + ("peak unknown" if peak is None else f"{peak:5.0f} MiB")
    )
    assert extra["x_real_time"] > 0


def _rounds(run: Callable[[], object]) -> int:
    begin = time.perf_counter()
    run()
    one = time.perf_counter() - begin
    fewest, most = ROUNDS
    return max(fewest, min(most, round(MEASURED_SECONDS / one)))


def _synchronised(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        return call

    def run() -> object:
        # The call only queues work; the clock must not stop before the device has done it.
        torch.cuda.synchronize(device)
        result = call()
        torch.cuda.synchronize(device)
        return result

    return run


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _peak_memory_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """Return the peak of one call above what was in use before it; None where it is unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / MEBIBYTE
    clear_refs, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not clear_refs.exists():
        return None
    # Memory that was freed but not given back would be used again without being seen.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    # Linux: writing 5 resets the high-water mark of resident memory (proc(5)).
    try:
        clear_refs.write_text("5")
    except OSError:
        return None
    before_kib = _status_kib(status, "VmRSS")
    run()
    return max(0, _status_kib(status, "VmHWM") - before_kib) / 1024


def _status_kib(status: Path, field: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])
