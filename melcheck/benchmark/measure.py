"""Time one case of the benchmark: warm, on inputs that no cache holds, beside the machine's limit.

On the CPU the clock is `time.perf_counter`; on CUDA each call lies between two events on its
stream, and the transfers of input and output are timed apart. Percentiles and x real time are of
the calls' times; the fraction of the attainable (`melcheck.benchmark.roofline`) takes the quickest
call: the rates that it is held against are the best of their repeats too.

How much memory a call takes at its peak, above what was in use before it.

On the CPU that is resident memory, from Linux' high-water mark; on CUDA, what torch's allocator
hands out.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from melcheck._version import __version__
from melcheck.benchmark.cases import PAPER_SIZE, Case, in_mode
from melcheck.benchmark.roofline import (
    RateMeter,
    Rates,
    Work,
    attainable_seconds,
    count_work,
    fraction,
    seconds_of,
    warm_seconds_of,
)
from melcheck.speed.optimised import Precision
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.vocos import VocosVocoder

_MEBIBYTE = 2**20
_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/meminfo")


def peak_memory_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Make the call, and return the peak of its memory in MiB; None where the system keeps none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / _MEBIBYTE
    # Memory that was freed but not given back would be used again without being seen.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        # Linux: writing 5 resets the high-water mark of resident memory (proc(5)).
        (_PROCESS / "clear_refs").write_text("5")
        before_kib = _kib(_PROCESS / "status", "VmRSS")
    except OSError:
        call()
        return None
    call()
    return max(0, _kib(_PROCESS / "status", "VmHWM") - before_kib) / 1024


def available_memory_mib(device: torch.device) -> float | None:
    """Return how much memory a call may still take, in MiB; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + kept) / _MEBIBYTE
    try:
        return _kib(_MACHINE, "MemAvailable") / 1024
    except OSError:
        return None


def _kib(path: Path, field: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


FULL_SECONDS = 440.0
"""What a full sweep may take: under 8 minutes, with some left for what surrounds it."""

# As much input as no last-level cache of a desktop or a server's core, and no GPU's L2, holds.
_ROTATED_BYTES = {"cpu": 2**26, "cuda": 2**28}
_ROUNDS = (3, 100)

# A case makes its fewest rounds, one call to warm up and one for the peak of memory.
_CALLS = _ROUNDS[0] + 2
_CUDA_WARM_UPS = 3
_CPU_MEMORY_CAP_MIB = 16 * 1024
_MEMORY_SHARE = 0.8
_AMPLITUDE = 0.1
_SEED = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was seen of a case.

    Attributes:
        case: What was measured.
        vocoder: Its name.
        durations_seconds: Of each call, in their order.
        frames: Frames of mel in the batch.
        peak_memory_mib: Of one call, above what was in use; None where the system keeps none.
        upload_seconds: Of the input to the device; None on the CPU.
        download_seconds: Of the output back; None on the CPU.
        work: What the call had to do.
        rates: The machine's best rates in this run, until now.
        threads: That torch uses on the CPU.
        device_name: "cpu", or the GPU's.
    """

    case: Case
    vocoder: str
    durations_seconds: tuple[float, ...]
    frames: int
    peak_memory_mib: float | None
    upload_seconds: float | None
    download_seconds: float | None
    work: Work
    rates: Rates
    threads: int
    device_name: str

    @property
    def p50_seconds(self) -> float:
        """The median call."""
        return statistics.median(self.durations_seconds)

    @property
    def p95_seconds(self) -> float:
        """What 95 % of the calls stay under; of few calls, nearly the slowest."""
        if len(self.durations_seconds) == 1:
            return self.durations_seconds[0]
        return statistics.quantiles(self.durations_seconds, n=20, method="inclusive")[-1]

    @property
    def x_real_time(self) -> float:
        """Seconds of audio for each second of computing."""
        return self.case.size.audio_seconds / self.p50_seconds

    @property
    def frames_per_second(self) -> float:
        """Frames of mel for each second of computing."""
        return self.frames / self.p50_seconds

    @property
    def fraction(self) -> float:
        """Attainable time over that of the quickest call: 1 at the machine's limit."""
        return fraction(self.work, self.rates, min(self.durations_seconds))

    def extra_info(self) -> dict[str, object]:
        """Return all of it for pytest-benchmark's `extra_info`."""
        case = self.case
        return {
            "vocoder": self.vocoder,
            "stage": case.stage,
            "device": case.device,
            "device_name": self.device_name,
            "batch": case.size.batch,
            "seconds": case.size.seconds,
            "precision": case.precision,
            "mode": case.mode,
            "paper": case.size == PAPER_SIZE,
            "threads": self.threads,
            "torch": torch.__version__,
            "melcheck": __version__,
            "p50_seconds": self.p50_seconds,
            "p95_seconds": self.p95_seconds,
            "x_real_time": self.x_real_time,
            "frames_per_second": self.frames_per_second,
            "peak_memory_mib": self.peak_memory_mib,
            "upload_seconds": self.upload_seconds,
            "download_seconds": self.download_seconds,
            "attainable_seconds": attainable_seconds(self.work, self.rates),
            "fraction": self.fraction,
            **self.rates.as_dict(),
        }

    def __str__(self) -> str:
        """Return it as one line."""
        peak = self.peak_memory_mib
        return (
            f"{self.vocoder} {self.case!s:38} {1000 * self.p50_seconds:9.2f} ms  "
            f"{self.x_real_time:7.0f} x real time  {self.frames_per_second:9.0f} frames/s  "
            + ("peak unknown" if peak is None else f"{peak:5.0f} MiB")
            + f"  {100 * self.fraction:3.0f} % of the attainable"
        )


class Bench:
    """Measures cases of one run, and leaves out what it has no time or memory for.

    Args:
        seconds: Of the whole run; None sets no limit.
        case_seconds: For which a case is repeated, within 3 to 100 calls.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        case_seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._case_seconds = case_seconds
        self._clock = clock
        self._begin = clock()
        self._meters: dict[tuple[int, int, int], RateMeter] = {}
        self._seen: dict[tuple[str, str, str, Precision, str], tuple[Measurement, float]] = {}

    def left_out(self, vocoder: VocosVocoder, case: Case) -> str | None:
        """Return why a case does not fit this run, or None where it does.

        What a case takes is foretold from the last one of its kind, by the seconds of audio.
        """
        seen = self._seen.get(_kind(vocoder, case))
        if seen is None:
            return None
        last, last_taken = seen
        growth = case.size.audio_seconds / last.case.size.audio_seconds
        if self._seconds is not None:
            remaining = max(0.0, self._seconds - (self._clock() - self._begin))
            # What surrounds the calls does not grow with them.
            expected = max(last_taken, _CALLS * growth * last.p50_seconds)
            if expected > remaining:
                return (
                    f"it would take about {expected:.0f} s, of which {remaining:.0f} are left of "
                    f"the run's {self._seconds:.0f}"
                )
        needed = growth * (last.peak_memory_mib or 0.0)
        limit = _memory_limit_mib(vocoder.device)
        if needed > limit:
            return (
                f"it would take about {needed / 1024:.1f} GiB of memory, of which "
                f"{limit / 1024:.1f} may be taken"
            )
        return None

    def measure(self, vocoder: VocosVocoder, case: Case) -> Measurement:
        """Time a case.

        Args:
            vocoder: On the case's device. The case's mode is made of it, with the same weights.
            case: What to time.
        """
        begin = self._clock()
        device = vocoder.device
        candidate = in_mode(vocoder, case.mode, case.precision)
        inputs = make_inputs(vocoder, case)
        call = stage_call(candidate, case)
        for _ in range(_CUDA_WARM_UPS if device.type == "cuda" else 1):
            call(inputs[0])
        self._rates(vocoder, case.precision)  # before and after: a busy moment passes
        peak = peak_memory_mib(lambda: call(inputs[-1]), device)
        durations: list[float] = []
        fewest, most = _ROUNDS
        while len(durations) < fewest or (
            sum(durations) < self._case_seconds and len(durations) < most
        ):
            durations.append(seconds_of(call, inputs[len(durations) % len(inputs)]))
        rates = self._rates(vocoder, case.precision)
        samples = round(case.size.seconds * vocoder.recipe.sample_rate)
        upload, download = _transfers(call, inputs[0]) if device.type == "cuda" else (None, None)
        measurement = Measurement(
            case=case,
            vocoder=vocoder.info.name,
            durations_seconds=tuple(durations),
            frames=case.size.batch * vocoder.recipe.frames(samples),
            peak_memory_mib=peak,
            upload_seconds=upload,
            download_seconds=download,
            work=count_work(
                vocoder, case.stage, case.size.batch, samples, precision=case.precision
            ),
            rates=rates,
            threads=torch.get_num_threads(),
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        )
        self._seen[_kind(vocoder, case)] = measurement, self._clock() - begin
        return measurement

    def _rates(self, vocoder: VocosVocoder, precision: Precision) -> Rates:
        block = vocoder.model.backbone.convnext[0]
        outer, inner = block.pwconv1.weight.shape
        key = (inner, outer, vocoder.recipe.n_fft)
        if key not in self._meters:
            self._meters[key] = RateMeter((inner, outer), vocoder.recipe.n_fft)
        return self._meters[key].rates(vocoder.device, precision)


def _kind(vocoder: Vocoder, case: Case) -> tuple[str, str, str, Precision, str]:
    return vocoder.info.name, case.stage, case.device, case.precision, case.mode


def _memory_limit_mib(device: torch.device) -> float:
    cap = math.inf if device.type == "cuda" else float(_CPU_MEMORY_CAP_MIB)
    available = available_memory_mib(device)
    return cap if available is None else min(cap, _MEMORY_SHARE * available)


def make_inputs(vocoder: Vocoder, case: Case) -> list[Tensor]:
    """Return inputs for a case, all different, together more than the caches hold.

    Shape:
        each `[batch, samples]`, or `[batch, n_mels, frames]` for "decode"
    """
    device = vocoder.device
    samples = round(case.size.seconds * vocoder.recipe.sample_rate)
    generator = torch.Generator().manual_seed(_SEED)
    noise = _AMPLITUDE * torch.randn(case.size.batch, samples, generator=generator)
    first = noise.to(device)
    if case.stage == "decode":
        first = vocoder.encode(first)
    size = first.numel() * first.element_size()
    count = max(2, -(-_ROTATED_BYTES[device.type] // size))
    # The same values elsewhere in the batch: as much work, other memory.
    return [first.roll(number, dims=0 if len(first) > 1 else -1) for number in range(count)]


def stage_call(vocoder: Vocoder, case: Case) -> Callable[[Tensor], Tensor]:
    """Return the function to time."""
    if case.stage == "encode":
        return vocoder.encode
    if case.stage == "decode":
        return vocoder.decode
    return lambda waveform: vocoder.encode(vocoder.decode(vocoder.encode(waveform)))


def _transfers(call: Callable[[Tensor], Tensor], value: Tensor) -> tuple[float, float]:
    """Return the seconds of the input's way to the device, and of the output's way back."""
    result = call(value)
    there, back = value.cpu(), result.cpu()
    return (
        warm_seconds_of(lambda on_device: on_device.copy_(there), torch.empty_like(value)),
        warm_seconds_of(lambda on_device: back.copy_(on_device), result),
    )
