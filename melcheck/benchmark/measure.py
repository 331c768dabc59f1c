"""Measure one case of the benchmark: times after a warm-up, peak of memory, fraction of the limit.

Every call takes another input, and together the inputs are larger than the caches. The clock is
`time.perf_counter`; on CUDA it is read when the device's queue is empty, and the transfers of input
and output are timed apart. Percentiles and x real time are of all calls. The fraction of the
attainable (`melcheck.benchmark.roofline`) takes the fastest call, since the rates of the machine
are the best of their repeats too; it is known of a Vocos only.

Peak memory is what a call takes above what was in use before it: resident memory on the CPU, from
the high-water mark that Linux keeps, and on CUDA what torch's allocator hands out.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from melcheck._version import __version__
from melcheck.benchmark.cases import PAPER_SIZE, Case, in_mode, unavailable
from melcheck.benchmark.roofline import (
    RateMeter,
    Rates,
    Work,
    attainable_seconds,
    count_work,
    fraction,
    seconds_of,
    synchronise,
    warm_seconds_of,
)
from melcheck.speed.optimised import Precision
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.vocos import VocosVocoder

_MEBIBYTE = 2**20
_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/meminfo")


def peak_memory_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Make the call, and return its peak of memory in MiB; None where the system records none."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / _MEBIBYTE
    # Memory that was freed but not returned to the system would be used again unnoticed.
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
    """Return how much memory a call may still take, in MiB; None where that is unknown."""
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


_FULL_SECONDS = 440.0  # under 8 minutes, with some left for start and end
_FULL_CASE_SECONDS = 0.5
_SHORT_CASE_SECONDS = 0.1

# More input than the last-level cache of a desktop or of a server's core, and the L2 of GPUs, hold.
_ROTATED_BYTES = {"cpu": 2**26, "cuda": 2**28}
_ROUNDS = (3, 100)

_WARM_UPS = {"cpu": 2, "cuda": 3}

# The fewest rounds of a case, three calls to warm up, one for the peak of memory, one to count.
_CALLS = _ROUNDS[0] + 5
_CPU_MEMORY_CAP_MIB = 16 * 1024
_MEMORY_SHARE = 0.8
_AMPLITUDE = 0.1
_SEED = 0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of a case.

    Attributes:
        case: The case.
        vocoder: Name of the vocoder.
        durations_seconds: Duration of each call, in their order.
        frames: Frames of mel in the batch.
        peak_memory_mib: Peak of one call above what was in use; None where it is unknown.
        upload_seconds: Transfer of the input to the device; None on the CPU.
        download_seconds: Transfer of the output back; None on the CPU.
        work: What a call has to do; None for another vocoder than a Vocos.
        rates: The best rates of the machine in this run so far; None likewise.
        threads: Threads that torch uses on the CPU.
        device_name: "cpu", or the GPU's name.
    """

    case: Case
    vocoder: str
    durations_seconds: tuple[float, ...]
    frames: int
    peak_memory_mib: float | None
    upload_seconds: float | None
    download_seconds: float | None
    work: Work | None
    rates: Rates | None
    threads: int
    device_name: str

    @property
    def p50_seconds(self) -> float:
        """The median call."""
        return statistics.median(self.durations_seconds)

    @property
    def p95_seconds(self) -> float:
        """The 95th percentile of the calls; of few calls, nearly the slowest."""
        if len(self.durations_seconds) == 1:
            return self.durations_seconds[0]
        return statistics.quantiles(self.durations_seconds, n=20, method="inclusive")[-1]

    @property
    def x_real_time(self) -> float:
        """Seconds of audio per second of computing."""
        return self.case.size.audio_seconds / self.p50_seconds

    @property
    def frames_per_second(self) -> float:
        """Frames of mel per second of computing."""
        return self.frames / self.p50_seconds

    @property
    def fraction(self) -> float | None:
        """Attainable time over the time of the fastest call: 1 at the machine's limit."""
        if self.work is None or self.rates is None:
            return None
        return fraction(self.work, self.rates, min(self.durations_seconds))

    def extra_info(self) -> dict[str, object]:
        """Return everything but the durations, for the `extra_info` of pytest-benchmark."""
        case = self.case
        limit: dict[str, float] = {}
        if self.work is not None and self.rates is not None:
            limit = {"attainable_seconds": attainable_seconds(self.work, self.rates)}
            limit |= self.rates.as_dict()
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
            "fraction": self.fraction,
            **limit,
        }

    def __str__(self) -> str:
        """Return it as one line."""
        peak, share = self.peak_memory_mib, self.fraction
        return (
            f"{self.vocoder} {self.case!s:38} {1000 * self.p50_seconds:9.2f} ms  "
            f"{self.x_real_time:7.0f} x real time  {self.frames_per_second:9.0f} frames/s  "
            + ("peak unknown" if peak is None else f"{peak:5.0f} MiB")
            + ("" if share is None else f"  {100 * share:3.0f} % of the attainable")
        )


TimeCalls = Callable[[Callable[[Tensor], Tensor], Sequence[Tensor], int], Sequence[float]]
"""Times a call so many rounds, with the inputs in turn, and returns seconds."""


def time_calls(
    call: Callable[[Tensor], Tensor], inputs: Sequence[Tensor], rounds: int
) -> list[float]:
    """Return the seconds of each round, with the inputs in turn."""
    return [seconds_of(call, inputs[number % len(inputs)]) for number in range(rounds)]


class Sweep:
    """Measures the cases of one run, and leaves out those that exceed its time or the memory.

    Args:
        seconds: Time of the whole run; None sets no limit.
        case_seconds: How long each case is repeated, within 3 to 100 calls.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        case_seconds: float = _FULL_CASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._case_seconds = case_seconds
        self._clock = clock
        self._begin = clock()
        self._meters: dict[tuple[int, int, int], RateMeter] = {}
        self._seen: dict[tuple[str, str, str, Precision, str], tuple[Measurement, float]] = {}

    def left_out(self, vocoder: Vocoder, case: Case) -> str | None:
        """Return why a case is not measured in this run, or None where it is.

        Time and memory of a case are predicted from the last one of its kind, in proportion to the
        seconds of audio.
        """
        reason = unavailable(vocoder, case)
        seen = self._seen.get(_kind(vocoder, case))
        if reason is not None or seen is None:
            return reason
        last, last_taken = seen
        growth = case.size.audio_seconds / last.case.size.audio_seconds
        if self._seconds is not None:
            remaining = max(0.0, self._seconds - (self._clock() - self._begin))
            # What surrounds the calls does not grow with them.
            expected = max(last_taken, _CALLS * growth * last.p50_seconds)
            if expected > remaining:
                return (
                    f"it would take about {expected:.0f} s, and {remaining:.0f} s of the run's "
                    f"{self._seconds:.0f} s are left"
                )
        needed = growth * (last.peak_memory_mib or 0.0)
        limit = _memory_limit_mib(vocoder.device)
        if needed > limit:
            return (
                f"it would take about {needed / 1024:.1f} GiB of memory, and "
                f"{limit / 1024:.1f} GiB may be used"
            )
        return None

    def measure(
        self, vocoder: Vocoder, case: Case, *, time_calls: TimeCalls = time_calls
    ) -> Measurement:
        """Measure a case.

        Args:
            vocoder: On the case's device. The case's mode is made of it, with the same weights.
            case: What to measure.
            time_calls: How calls are timed, such as by pytest-benchmark.
        """
        begin = self._clock()
        device = vocoder.device
        call, inputs = prepare_call(vocoder, case)
        once = min(seconds_of(call, inputs[0]) for _ in range(_WARM_UPS[device.type]))
        work = None
        if isinstance(vocoder, VocosVocoder):
            work = count_work(vocoder, case.stage, inputs[0], precision=case.precision)
        self._rates(vocoder, case.precision)  # before and after, on a machine that may be busy
        peak = peak_memory_mib(lambda: call(inputs[-1]), device)
        fewest, most = _ROUNDS
        rounds = max(fewest, min(most, round(self._case_seconds / once)))
        durations = time_calls(call, inputs, rounds)
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
            work=work,
            rates=self._rates(vocoder, case.precision),
            threads=torch.get_num_threads(),
            device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        )
        self._seen[_kind(vocoder, case)] = measurement, self._clock() - begin
        return measurement

    def _rates(self, vocoder: Vocoder, precision: Precision) -> Rates | None:
        if not isinstance(vocoder, VocosVocoder):
            return None
        block = vocoder.model.backbone.convnext[0]
        outer, inner = block.pwconv1.weight.shape
        key = (inner, outer, vocoder.recipe.n_fft)
        if key not in self._meters:
            self._meters[key] = RateMeter((inner, outer), vocoder.recipe.n_fft)
        return self._meters[key].rates(vocoder.device, precision)


def sweep(*, full: bool) -> Sweep:
    """Return the sweep over `FULL_SIZES`, of up to 8 minutes, or over `SHORT_SIZES`, of seconds."""
    if full:
        return Sweep(seconds=_FULL_SECONDS)
    return Sweep(case_seconds=_SHORT_CASE_SECONDS)


def _kind(vocoder: Vocoder, case: Case) -> tuple[str, str, str, Precision, str]:
    return vocoder.info.name, case.stage, case.device, case.precision, case.mode


def _memory_limit_mib(device: torch.device) -> float:
    cap = math.inf if device.type == "cuda" else float(_CPU_MEMORY_CAP_MIB)
    available = available_memory_mib(device)
    return cap if available is None else min(cap, _MEMORY_SHARE * available)


def prepare_call(vocoder: Vocoder, case: Case) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """Return the call to time, which waits for a CUDA device to do it, and its inputs.

    Raises:
        ValueError: As for `melcheck.benchmark.cases.in_mode`.
        TypeError: Likewise.
        VocoderUnavailable: Likewise.
    """
    compute = _stage_call(in_mode(vocoder, case.mode, case.precision), case)

    def call(value: Tensor) -> Tensor:
        result = compute(value)
        synchronise(vocoder.device)
        return result

    return call, make_inputs(vocoder, case)


def make_inputs(vocoder: Vocoder, case: Case) -> list[Tensor]:
    """Return different inputs for a case, which together exceed the caches.

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


def _stage_call(vocoder: Vocoder, case: Case) -> Callable[[Tensor], Tensor]:
    if case.stage == "encode":
        return vocoder.encode
    if case.stage == "decode":
        return vocoder.decode
    return lambda waveform: vocoder.encode(vocoder.decode(vocoder.encode(waveform)))


def _transfers(call: Callable[[Tensor], Tensor], value: Tensor) -> tuple[float, float]:
    """Return the seconds of copying the input to the device, and the output back."""
    result = call(value)
    there, back = value.cpu(), result.cpu()
    return (
        warm_seconds_of(lambda on_device: on_device.copy_(there), torch.empty_like(value)),
        warm_seconds_of(lambda on_device: back.copy_(on_device), result),
    )
