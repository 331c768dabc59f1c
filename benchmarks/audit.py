"""Time an audit beside a plain loop of the same calls, in turns.

    python -m benchmarks.audit

The plain loop does for each clip what a row needs, as one would write it: hash the file, measure
the audio's faults, `load_audio`, `MelPipeline.round_trip`, its metrics and its distance, `judge`.
Both take the same clips in turns, the order drawn anew, on one thread of torch; what is compared is
their processor time, which other processes on the machine do not lengthen as they do wall time. The
ratio is the interquartile mean over the rounds, with its 99 % interval. Where rows are computed in
bf16, the clips are those of an audit that has begun: its first comparisons are done, and one of 32
clips is computed twice.

The engine against a plain loop: both have the machine, the loop with torch's own number of threads,
as one would start it, and the engine with a process for each core. It is wall time, so nothing else
may run; the engine's begins when each of its processes has returned its first block. Two processes
are compared with one in the same way.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import soundfile
import torch

from melcheck.audio import decode_audio, load_audio
from melcheck.audit.arithmetic import COMPARED_ONE_OF, is_drawn
from melcheck.audit.audio_faults import measure
from melcheck.audit.local import available_cores, run_local
from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.rows import ClipRows, make_row_maker
from melcheck.benchmark.cases import bench_vocoder
from melcheck.benchmark.paired_timing import MIN_PAIRS, no_garbage_collection, ratio_interval
from melcheck.cli.output import Terminal
from melcheck.config import MelCheckConfig
from melcheck.files import sha256_file
from melcheck.manifests import ManifestItem
from melcheck.pipeline import MelPipeline
from melcheck.sanity import ThresholdRule, judge, threshold_rule, thresholds_of
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.load import load_vocoder

SECONDS = 3.0
SPEECH = ("austen-0870.flac", "kokoro-alpha-ja.flac", "kokoro-blend-en.flac", "kokoro-kumo-en.wav")
AUDIO = Path(__file__).parents[1] / "fixtures" / "audio"
# Random weights fail every clip, and what fails is computed again and explained.
LENIENT = (threshold_rule("mae=1000, snr_db=-1000, pearson=-1, reference_floor_share=1"),)

Ratio = tuple[float, float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    Attributes:
        name: What is compared.
        ratio: How many times; with its interval, or NaN where there is none.
        must: What it must be.
        aim: What it is to be.
        note: What the ratio is of.
    """

    name: str
    ratio: Ratio
    must: str
    aim: str
    note: str

    def row(self) -> tuple[str, ...]:
        """Return the row as text."""
        middle, low, high = self.ratio
        spread = "" if low != low else f"{low:.3g} to {high:.3g}"
        return (self.name, f"{middle:.3g}", spread, self.must, self.aim, self.note)


def clips(folder: Path, count: int) -> list[AuditItem]:
    """Write clips of 3 s of speech as WAV of 16 bits, at the rates of their sources."""
    items = []
    for number in range(count):
        samples, rate = soundfile.read(AUDIO / SPEECH[number % len(SPEECH)], dtype="float32")
        path = folder / f"{number:04}.wav"
        moved = np.roll(samples, 97 * number)
        soundfile.write(path, np.resize(moved, round(SECONDS * rate)), rate)
        items.append(AuditItem(number, ManifestItem(path.stem, path)))
    return items


def plain_loop(
    vocoder: Vocoder, items: Sequence[AuditItem], rules: Sequence[ThresholdRule] = ()
) -> list[bool]:
    """Do what rows need, clip by clip, by the calls that a user would write; return verdicts."""
    pipeline = MelPipeline(vocoder=vocoder)
    verdicts = []
    for item in items:
        path = item.item.path
        sha256_file(path)
        config = MelCheckConfig(path, target_duration=None)
        decoded = decode_audio(config)
        measure([decoded.samples], decoded.sample_rate).found()
        trip = pipeline.round_trip(load_audio(config).waveform)
        metrics = trip.metrics()[0]
        trip.waveform_distance()
        limits = thresholds_of(item.item.name, rules)
        verdicts.append(judge(metrics, limits, notes=trip.notes).passed)
    return verdicts


def processor_seconds(call: Callable[[], object]) -> float:
    """Return the processor time of this thread in a call."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def in_turns(
    one: Callable[[AuditItem], object],
    other: Callable[[AuditItem], object],
    items: Sequence[AuditItem],
    rounds: int,
) -> tuple[Ratio, float, float]:
    """Return how many times as long `one` takes as `other`, and the median seconds of both."""
    order = random.Random(0)
    ratios, times = [], ([], [])  # type: tuple[list[float], tuple[list[float], list[float]]]
    one(items[0]), other(items[0])
    with no_garbage_collection():
        for _ in range(rounds):
            spent = [0.0, 0.0]
            for item in items:
                calls = [(0, one), (1, other)]
                order.shuffle(calls)
                for place, call in calls:
                    seconds = processor_seconds(lambda call=call, item=item: call(item))  # type: ignore[misc]
                    spent[place] += seconds
                    times[place].append(seconds)
            ratios.append(spent[0] / spent[1])
    return ratio_interval(ratios, confidence=0.99), *map(statistics.median, times)  # type: ignore[return-value]


def against_plain(name: str, vocoder: Vocoder, items: Sequence[AuditItem], rounds: int) -> Figure:
    """Compare rows with the plain loop, and their verdicts where about half of the clips fail."""
    random_weights = vocoder.info.weights_sha256 is None
    maker = ClipRows(AuditSettings(rules=LENIENT if random_weights else ()), vocoder=vocoder)
    used = {row.arithmetic for row in maker(items)}
    told = " and ".join(sorted(used))
    if "bf16" in used:
        items, drawn = steady(maker, items)
        told += f", {drawn} of {len(items)} computed twice"
    else:
        items = items[: len(SPEECH)]
    ratio, plain, rows = in_turns(
        lambda item: plain_loop(vocoder, [item]), lambda item: maker([item]), items, rounds
    )
    note = f"{1000 * plain:.1f} ms a clip, rows {1000 * rows:.1f} ms in {told}"
    rules = middle_limits(maker(items))
    found = ClipRows(AuditSettings(rules=rules), vocoder=vocoder)(items)
    same = plain_loop(vocoder, items, rules) == [row.outcome == "passed" for row in found]
    failed = sum(row.outcome == "failed" for row in found)
    note += f", {'same' if same else 'OTHER'} verdicts where {failed} fail"
    return Figure(name, ratio, "1.5", "2.5" if random_weights else "3", note)


def steady(maker: ClipRows, items: Sequence[AuditItem]) -> tuple[list[AuditItem], int]:
    """Return clips of which one is compared, as of a corpus, where any is; and how many are."""
    drawn, others = [], []  # type: tuple[list[AuditItem], list[AuditItem]]
    for item in items:
        key = maker.key_of(sha256_file(item.item.path), item.item)
        (drawn if is_drawn(key) else others).append(item)
    return [*drawn[:1], *others[: COMPARED_ONE_OF - 1]], len(drawn[:1])


def middle_limits(rows: Sequence[Row]) -> tuple[ThresholdRule, ...]:
    """Return a limit that about half of the clips miss."""
    median = statistics.median(row.mae for row in rows)
    return (threshold_rule(f"mae={median!r}, snr_db=-1000, pearson=-1"),)


def random_official(settings: AuditSettings) -> ClipRows:
    """Make rows by the official configuration with random weights."""
    return ClipRows(settings, vocoder=bench_vocoder("random-official", "cpu"))


def _loop(connection: Connection, official: bool) -> None:
    """Run the plain loop on the clips that come, and send the seconds it took."""
    vocoder = bench_vocoder("random-official", "cpu") if official else load_vocoder("embedded")
    with contextlib.suppress(EOFError):
        while True:
            items = connection.recv()
            begin = time.perf_counter()
            plain_loop(vocoder, items)
            connection.send(time.perf_counter() - begin)


def _engine_seconds(
    items: Sequence[AuditItem], settings: AuditSettings, workers: int, *, official: bool
) -> float:
    """Return the seconds of a clip by the local engine, once all of its processes work."""
    # The first block of each process: it has made its comparisons by then.
    size = min(12, len(items) // (2 * workers))
    bounds = [*range(0, size * workers, size), *range(size * workers, len(items), 4), len(items)]
    blocks = [items[start:end] for start, end in itertools.pairwise(bounds)]
    first = [{item.index for item in block} for block in blocks[:workers]]
    begin, before, seen = 0.0, 0, set[int]()
    made = random_official if official else make_row_maker
    for rows in run_local(blocks, settings, workers=workers, make=made):
        seen.update(row.index for row in rows)
        if not begin and all(block <= seen for block in first):
            begin, before = time.perf_counter(), len(seen)
    return (time.perf_counter() - begin) / (len(seen) - before)


def wall_turns(
    one: Callable[[], float], other: Callable[[], float], rounds: int
) -> tuple[Ratio, float, float]:
    """Return how many times as many seconds `one` returns as `other`, and the medians of both."""
    order = random.Random(0)
    times: dict[Callable[[], float], list[float]] = {one: [], other: []}
    for _ in range(rounds):
        for call in order.sample([one, other], 2):
            times[call].append(call())
    ratios = [first / second for first, second in zip(times[one], times[other], strict=True)]
    return ratio_interval(ratios, confidence=0.99), *map(statistics.median, times.values())  # type: ignore[return-value]


def engine_against_plain(
    name: str, items: Sequence[AuditItem], rounds: int, *, official: bool
) -> Figure:
    """Compare the local engine with the plain loop, both with all cores, by wall time."""
    workers = available_cores()
    settings = AuditSettings(rules=LENIENT if official else ())
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_loop, args=(there, official), daemon=True)
    process.start()

    def plain() -> float:
        here.send(items)
        return float(here.recv()) / len(items)

    def engine() -> float:
        return _engine_seconds(items, settings, workers, official=official)

    plain()
    ratio, one, other = wall_turns(plain, engine, rounds)
    here.close()
    process.join()
    note = (
        f"{1000 * one:.1f} ms a clip, the engine {1000 * other:.1f} ms; {workers} cores, wall time"
    )
    return Figure(name, ratio, "1.5", "2.5" if official else "3", note)


def audio_alone(vocoder: Vocoder, items: Sequence[AuditItem], rounds: int) -> Figure:
    """Compare an audit without a vocoder with the full one."""
    full = ClipRows(AuditSettings(), vocoder=vocoder)
    alone = ClipRows(AuditSettings(vocoder=None))
    ratio, one, other = in_turns(
        lambda item: full([item]), lambda item: alone([item]), items, rounds
    )
    note = f"{1000 * one:.1f} ms a clip, without {1000 * other:.2f} ms"
    return Figure("without a vocoder, against the full audit", ratio, "10", "30", note)


def second_run(vocoder: Vocoder, items: Sequence[AuditItem]) -> Figure:
    """Compare a run after one clip in a hundred has changed with the first run."""
    maker = ClipRows(AuditSettings(), vocoder=vocoder)
    items = items[:100]
    keys: dict[int, str] = {}

    def first() -> None:
        keys.update((row.index, row.key) for row in maker(items))

    once = processor_seconds(first)
    changed = set(range(0, len(items), 100))
    for index in changed:
        path = items[index].item.path
        samples, rate = soundfile.read(path, dtype="float32")
        soundfile.write(path, 0.9 * samples, rate)
    known = [dataclasses.replace(item, known_key=keys[item.index]) for item in items]
    # As a new process would: nothing is remembered of the files.
    maker = ClipRows(AuditSettings(), vocoder=vocoder)
    outcomes: list[str] = []
    again = processor_seconds(lambda: outcomes.extend(row.outcome for row in maker(known)))
    computed = len(outcomes) - outcomes.count("known")
    note = f"{once:.2f} s, then {again:.3f} s; {computed} of {len(items)} computed"
    nan = float("nan")
    return Figure("second run, 1 % changed, share", (again / once, nan, nan), "0.05", "0.02", note)


def two_processes(items: Sequence[AuditItem], rounds: int) -> Figure:
    """Compare the local engine of two processes with one, by wall time."""

    def seconds(workers: int) -> float:
        return _engine_seconds(items, AuditSettings(), workers, official=False)

    ratio, one, two = wall_turns(lambda: seconds(1), lambda: seconds(2), rounds)
    note = f"{1000 * one:.1f} ms a clip, with two {1000 * two:.1f} ms; wall time"
    return Figure("two processes, against one", ratio, "1.8", "1.95", note)


def figures(items: Sequence[AuditItem], rounds: int) -> Iterator[Figure]:
    """Yield the rows of the table."""
    embedded, official = load_vocoder("embedded"), bench_vocoder("random-official", "cpu")
    yield against_plain("embedded vocoder, against a plain loop", embedded, items, rounds)
    yield against_plain("official configuration, against a plain loop", official, items, rounds)
    # Nothing else may run meanwhile.
    yield engine_against_plain("embedded, engine against a loop", items, rounds, official=False)
    yield engine_against_plain("official, engine against a loop", items, rounds, official=True)
    yield audio_alone(embedded, items[: len(SPEECH)], rounds)
    yield second_run(embedded, items)
    yield two_processes(items, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each pair (12)")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    if options.rounds < MIN_PAIRS:
        parser.error(f"--rounds must be at least {MIN_PAIRS}, got {options.rounds}.")
    torch.set_num_threads(1)
    terminal = Terminal()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for figure in figures(
            clips(Path(folder), max(100, 30 * available_cores())), options.rounds
        ):
            found.append(figure)
            terminal.note(f"{figure.name}: {figure.ratio[0]:.3g}")
    header = ("audit", "times", "99 % interval", "must", "aim", "of")
    terminal.print(terminal.table(header, [figure.row() for figure in found]))
    if options.json is not None:
        content = [dataclasses.asdict(figure) for figure in found]
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
