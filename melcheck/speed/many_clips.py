"""The round trips of many clips at once, with the same figures as one after the other.

While clips are computed the next ones are decoded from their files in the background. On a CPU the
clips run side by side, a thread each: within one clip the threads wait for each other at every
layer. On a GPU, which one clip does not fill, clips of equal length run as a batch. Clips of
different lengths never share a batch: a Vocos pads inside its layers where a clip ends, which
padding of the clip cannot imitate. A long file runs by itself, in chunks.

Results are in order, and a bounded number of clips is in memory at any time. A file that cannot be
used has its error in its place.
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
from melcheck.files import error_text
from melcheck.metrics import MelMetrics
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.speed.audio_blocks import is_long
from melcheck.speed.long_audio import round_trip_of_file
from melcheck.speed.optimised import OptimisedVocos
from melcheck.vocoders.griffin_lim import GriffinLimVocoder
from melcheck.vocoders.vocos import VocosVocoder

# Calls of these may overlap: they keep no state. A user's vocoder or front end may keep some.
_THREAD_SAFE = (VocosVocoder, OptimisedVocos, GriffinLimVocoder)
_CUDA_BATCH = 16
# On a CPU, batches gain a tenth with the optimised layers, nothing with torch's.
_OPTIMISED_BATCH = 4
# Clips of a round for each worker: one round is read, one is computed, one is yielded.
_CLIPS_A_ROUND = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileTrip:
    """A file through one pipeline.

    Attributes:
        path: The file.
        trip: As `melcheck.speed.long_audio.round_trip_of_file` gives it; None where it failed.
        metrics: Metrics of the trip.
        error: Why there is no trip; "" where there is one.
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
    """Compute the round trips of many files.

    Args:
        paths: The files.
        pipeline: The vocoder, and how to read a file; the path in its configuration is not used.
        workers: How many clips run side by side. None means as many as torch has threads on a CPU,
            and 1 on a GPU or for a user's vocoder, which may not be thread-safe.
        batch_size: How many clips of equal length run at once. None means 16 on a GPU, and on
            a CPU 4 for a vocoder of `melcheck.speed.optimised.optimise`, else 1.

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
    """Compute the round trips of many files with several vocoders, decoding each file once.

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
                f"pipelines must read files in the same way, got {config} and {other.config}."
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

    def load(path: Path) -> LoadedAudio | str | None:
        own = dataclasses.replace(config, audio_path=path)
        try:
            return None if is_long(own) else load_audio(own, min_samples=shortest)
        except (ValueError, OSError) as error:
            return error_text(error)

    def compute(batch: _Batch) -> list[tuple[FileTrip, ...]]:
        return list(zip(*(_trips(batch, pipeline) for pipeline in pipelines), strict=True))

    rounds = [files[start : start + size] for start in range(0, len(files), size)]
    with _Pool(workers, max(1, threads // workers)) as pool, ThreadPoolExecutor(1) as loader:
        loading: deque[list[tuple[Path, Future[LoadedAudio | str | None]]]] = deque()
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


# Files and what was read of them: None for a long one, which is a batch by itself.
_Batch = Sequence[tuple[Path, LoadedAudio | None]]
_Compute = Callable[[_Batch], list[tuple[FileTrip, ...]]]


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
            # The threads' setting is MKL's for the whole process, which this sets again.
            torch.set_num_threads(torch.get_num_threads())

    def start(self, compute: _Compute, batch: _Batch) -> Callable[[], list[tuple[FileTrip, ...]]]:
        """Return a call that waits for the result, or computes it."""
        if self._executor is not None:
            return self._executor.submit(compute, batch).result
        results: list[tuple[FileTrip, ...]] = []

        def once() -> list[tuple[FileTrip, ...]]:
            if not results:
                results.extend(compute(batch))
            return results

        return once


def _start(
    loaded: Sequence[tuple[Path, LoadedAudio | str | None]],
    batch_size: int,
    pipelines: int,
    pool: _Pool,
    compute: _Compute,
) -> list[Callable[[], tuple[FileTrip, ...]]]:
    """Begin to compute a round; return a call for each clip's result, in their order."""
    by_length: dict[int, list[int]] = defaultdict(list)
    results: dict[int, Callable[[], tuple[FileTrip, ...]]] = {}
    for index, (path, audio) in enumerate(loaded):
        if isinstance(audio, str):
            failed = (FileTrip(path=path, error=audio),) * pipelines
            results[index] = lambda failed=failed: failed  # type: ignore[misc]
        else:
            length = -index - 1 if audio is None else audio.waveform.shape[-1]
            by_length[length].append(index)
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


def _trips(batch: _Batch, pipeline: MelPipeline) -> list[FileTrip]:
    audios = [audio for _, audio in batch if audio is not None]
    paths = [path for path, _ in batch]
    try:
        if not audios:
            config = dataclasses.replace(pipeline.config, audio_path=paths[0])
            trip = round_trip_of_file(MelPipeline(config, vocoder=pipeline.vocoder))
            return [_checked(paths[0], trip, trip.metrics()[0])]
        trip = pipeline.round_trip(
            torch.cat([audio.waveform for audio in audios]).to(pipeline.device),
            valid_samples=[audio.valid_samples for audio in audios],
        )
        metrics = trip.metrics()
    except (ValueError, OSError) as error:
        if len(batch) == 1:
            return [FileTrip(path=paths[0], error=error_text(error))]
        return [each for item in batch for each in _trips([item], pipeline)]
    return [
        _checked(path, _item(trip, index, audio), metrics[index])
        for index, (path, audio) in enumerate(zip(paths, audios, strict=True))
    ]


def _checked(path: Path, trip: RoundTrip, metrics: MelMetrics) -> FileTrip:
    if not torch.isfinite(trip.reconstructed_waveform).all():
        return FileTrip(path=path, error="the decoded waveform holds NaN or infinity")
    return FileTrip(path=path, trip=trip, metrics=metrics)


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
