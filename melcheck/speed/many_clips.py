"""Many clips round the loop, faster than one after the other, and with the same numbers.

While clips are computed the next ones are decoded from their files in the background. On a CPU the
clips run side by side, a thread each: within one clip the threads wait for each other at every
layer. On a GPU, which one clip does not fill, clips of equal length run as a batch. Clips of
different lengths never share a batch: a Vocos pads inside its layers where a clip ends, which
padding of the clip cannot imitate.

What comes out is in order, and a bounded number of clips is in memory at any time. A file that
cannot be used says so in its place.

Where a plain loop spends its time, official configuration, clips of 3 s at 44.1 kHz, one core: 82 %
decoding, 11 % the distance of waveforms (`RoundTrip.waveform_distance`, which a gate does not
need), 2 % each file, encoding, encoding again, metrics. Batches gain nothing there: 112 to 120 ms a
clip to decode, alone or by 16.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from melcheck.audio import LoadedAudio, load_audio
from melcheck.metrics import MelMetrics
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.speed.optimised import OptimisedVocos
from melcheck.vocoders.griffin_lim import GriffinLimVocoder
from melcheck.vocoders.vocos import VocosVocoder

# Of our own, whose calls may overlap: they keep no state. Whoever wrote another vocoder or front
# end need not have thought of threads.
_THREAD_SAFE = (VocosVocoder, OptimisedVocos, GriffinLimVocoder)
_CUDA_BATCH = 16
# Measured, two threads, ms a clip alone and by 4: 48 and 42 in fp32, 30 and 26 in bf16. As torch
# runs it, batches gain nothing.
_OPTIMISED_BATCH = 4
# A round is decoded from its files, one is computed, one is handed out: so many for each worker.
_CLIPS_A_ROUND = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileTrip:
    """A file through one pipeline.

    Attributes:
        path: The file.
        trip: As `MelPipeline.round_trip` gives it; None where it came to no end.
        metrics: Those of the trip.
        error: Why it came to no end; "" where it did.
    """

    path: Path
    trip: RoundTrip | None = None
    metrics: MelMetrics | None = None
    error: str = ""


def check_many(
    paths: Iterable[str | os.PathLike[str]],
    pipeline: MelPipeline,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Iterator[FileTrip]:
    """Take many files round the loop.

    Args:
        paths: The files.
        pipeline: The vocoder, and how to read a file; the path in its configuration is not used.
        workers: How many clips run side by side. None means as many as torch has threads on a CPU,
            and 1 on a GPU or for a vocoder of the user's, which may not bear it.
        batch_size: How many clips of equal length run at once. None means 16 on a GPU, and on
            a CPU 4 for a vocoder that `melcheck.speed.optimised.optimise` arranged, else 1.

    Yields:
        One for each file, in order. A file or a clip that cannot be used has its `error`.

    Raises:
        ValueError: `workers` or `batch_size` is below 1.
    """
    for [each] in trips_of_files(paths, [pipeline], workers=workers, batch_size=batch_size):
        yield each


def trips_of_files(
    paths: Iterable[str | os.PathLike[str]],
    pipelines: Sequence[MelPipeline],
    *,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[FileTrip, ...]]:
    """Take many files round the loop with several vocoders, decoding each file once.

    Args:
        paths: The files.
        pipelines: All on one device, reading files in the same way.
        workers: As for `check_many`.
        batch_size: As for `check_many`.

    Yields:
        For each file, in order, one `FileTrip` a pipeline.

    Raises:
        ValueError: `workers` or `batch_size` is below 1, or pipelines that read files differently.
    """
    files = [Path(path) for path in paths]
    config = pipelines[0].config
    for other in pipelines[1:]:
        if dataclasses.replace(other.config, audio_path=config.audio_path) != config:
            raise ValueError(
                f"pipelines must read files in one way, got {config} and {other.config}."
            )
    on_cpu = pipelines[0].device.type == "cpu"
    safe = all(isinstance(pipeline.vocoder, _THREAD_SAFE) for pipeline in pipelines)
    threads = torch.get_num_threads()
    if workers is None:
        workers = threads if on_cpu and safe else 1
    if batch_size is None:
        batch_size = 1
        if safe and not on_cpu:
            batch_size = _CUDA_BATCH
        elif all(isinstance(pipeline.vocoder, OptimisedVocos) for pipeline in pipelines):
            batch_size = _OPTIMISED_BATCH
    if workers < 1 or batch_size < 1:
        raise ValueError(
            f"workers and batch_size must be at least 1, got {workers} and {batch_size}."
        )
    workers = max(1, min(workers, len(files)))
    size = _CLIPS_A_ROUND * workers * batch_size
    shortest = max(pipeline.recipe.min_round_trip_samples for pipeline in pipelines)

    def load(path: Path) -> LoadedAudio | str:
        try:
            own = dataclasses.replace(config, audio_path=path)
            return load_audio(own, min_samples=shortest)
        except (ValueError, OSError) as error:
            return str(error)

    def compute(batch: Sequence[tuple[Path, LoadedAudio]]) -> list[tuple[FileTrip, ...]]:
        return list(zip(*(_trips(batch, pipeline) for pipeline in pipelines), strict=True))

    rounds = [files[start : start + size] for start in range(0, len(files), size)]
    with _Pool(workers, max(1, threads // workers)) as pool, ThreadPoolExecutor(1) as loader:
        loading: deque[list[tuple[Path, Future[LoadedAudio | str]]]] = deque()
        computing: deque[list[Callable[[], tuple[FileTrip, ...]]]] = deque()
        try:
            # A round is behind the one before in each of three stages: load, compute, hand out.
            for stage in range(len(rounds) + 2):
                if stage < len(rounds):
                    loading.append([(path, loader.submit(load, path)) for path in rounds[stage]])
                if 0 < stage <= len(rounds):
                    loaded = [(path, future.result()) for path, future in loading.popleft()]
                    computing.append(_start(loaded, batch_size, len(pipelines), pool, compute))
                if stage > 1:
                    yield from (result() for result in computing.popleft())
        finally:
            loader.shutdown(cancel_futures=True)


_Compute = Callable[[Sequence[tuple[Path, LoadedAudio]]], list[tuple[FileTrip, ...]]]


class _Pool:
    """Threads that compute, each with its share of torch's; a single one is the caller's own."""

    def __init__(self, workers: int, threads: int) -> None:
        self._executor: ThreadPoolExecutor | None = None
        if workers > 1:
            self._executor = ThreadPoolExecutor(
                workers, initializer=torch.set_num_threads, initargs=(threads,)
            )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            # What the threads set holds for all in MKL, which is told anew with this.
            torch.set_num_threads(torch.get_num_threads())

    def start(
        self, compute: _Compute, batch: Sequence[tuple[Path, LoadedAudio]]
    ) -> Callable[[], list[tuple[FileTrip, ...]]]:
        """Return what waits for the result, or computes it when it is asked for."""
        if self._executor is not None:
            return self._executor.submit(compute, batch).result
        results: list[tuple[FileTrip, ...]] = []

        def once() -> list[tuple[FileTrip, ...]]:
            if not results:
                results.extend(compute(batch))
            return results

        return once


def _start(
    loaded: Sequence[tuple[Path, LoadedAudio | str]],
    batch_size: int,
    pipelines: int,
    pool: _Pool,
    compute: _Compute,
) -> list[Callable[[], tuple[FileTrip, ...]]]:
    """Begin to compute a round; return what gives each clip's result, in their order."""
    by_length: dict[int, list[int]] = defaultdict(list)
    results: dict[int, Callable[[], tuple[FileTrip, ...]]] = {}
    for index, (path, audio) in enumerate(loaded):
        if isinstance(audio, str):
            failed = (FileTrip(path=path, error=audio),) * pipelines
            results[index] = lambda failed=failed: failed  # type: ignore[misc]
        else:
            by_length[audio.waveform.shape[-1]].append(index)
    batches = [
        indices[start : start + batch_size]
        for indices in by_length.values()
        for start in range(0, len(indices), batch_size)
    ]
    for indices in sorted(batches):
        items = [(path, audio) for path, audio in map(loaded.__getitem__, indices)]
        batch = pool.start(compute, items)  # type: ignore[arg-type]
        for place, index in enumerate(indices):
            results[index] = lambda batch=batch, place=place: batch()[place]  # type: ignore[misc]
    return [results[index] for index in range(len(loaded))]


def _trips(batch: Sequence[tuple[Path, LoadedAudio]], pipeline: MelPipeline) -> list[FileTrip]:
    waveform = torch.cat([audio.waveform for _, audio in batch]).to(pipeline.device)
    try:
        trip = pipeline.round_trip(
            waveform, valid_samples=[audio.valid_samples for _, audio in batch]
        )
        metrics = trip.metrics()
    except (ValueError, OSError) as error:
        if len(batch) == 1:
            return [FileTrip(path=batch[0][0], error=str(error))]
        return [each for item in batch for each in _trips([item], pipeline)]
    finite = torch.isfinite(trip.reconstructed_waveform).all(dim=1).tolist()
    return [
        FileTrip(path=path, trip=_item(trip, index, audio), metrics=metrics[index])
        if finite[index]
        else FileTrip(path=path, error="the decoded waveform holds NaN or infinity")
        for index, (path, audio) in enumerate(batch)
    ]


def _item(trip: RoundTrip, index: int, audio: LoadedAudio) -> RoundTrip:
    one = slice(index, index + 1)
    return dataclasses.replace(
        trip,
        waveform=trip.waveform[one],
        mel=trip.mel[one],
        reconstructed_waveform=trip.reconstructed_waveform[one],
        reconstructed_mel=trip.reconstructed_mel[one],
        valid_samples=trip.valid_samples[one],
        audio=dataclasses.replace(audio, waveform=trip.waveform[one]),
    )
