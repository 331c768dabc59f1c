"""What an audit of a corpus costs, from what each of its steps costs here.

    python -m benchmarks.audit_scale                    # measures, and prints: minutes
    python -m benchmarks.audit_scale --of docs/scale.md # the same tables from measured costs

It prints the tables of docs/scale.md. Each step is timed on clips of two lengths, in turns with all
others, by the processor time of one thread; the least of the turns counts, as what else runs only
adds to it. A line through the two lengths is the step's cost: so much a clip, so much a second of
audio. Clips of a third length tell how far the line is from what is measured.

The model is `Model`: workers side by side, one driver, one link to the audio, and the slowest of
the three decides.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from melcheck.audio import load_audio
from melcheck.audit.arithmetic import first_pass
from melcheck.audit.audio_faults import measure as measure_faults
from melcheck.audit.model import AuditItem, AuditSettings, Row, RowMaker
from melcheck.audit.ray_engine import run_ray
from melcheck.audit.rows import make_row_maker
from melcheck.audit.sources import items_of
from melcheck.audit.store import AuditStore
from melcheck.audit.verdict import UntilDecided, judge_corpus
from melcheck.benchmark.cases import RANDOM, bench_vocoder
from melcheck.config import MelCheckConfig
from melcheck.files import sha256_file
from melcheck.manifests import ManifestItem
from melcheck.recipes import VOCOS
from melcheck.speed.long_audio import RunningMetrics
from melcheck.speed.optimised import optimise
from melcheck.speed.stft_distance import stft_distance
from melcheck.vocoders.vocos import VocosVocoder

CORPUS_HOURS = 100_000
CLIP_SECONDS = 6.0
"""About the mean of LibriTTS (585 hours, 375,086 utterances; Zen et al. 2019)."""
LINK_BYTES = 1.25e9
"""A second, over a link of 10 Gbit/s: arithmetic, not measured."""
WORKERS = (1, 16, 1000)
BLOCK_CLIPS = 64
LIMIT = 0.01
"""The share that may fail, in what "until decided" costs."""
FAILING = {"no clip fails": 0, "3 % fail": 33}
"""Corpora that are decided: every so many-th clip fails; 0 for none."""

_LENGTHS = (3.0, 9.0)
_CLIPS = 4
_TURNS = 7
_DRIVER_CLIPS = 6400
_DIGITS = 3
_SPEECH = Path(__file__).parents[1] / "fixtures" / "audio" / "austen-0870.flac"

READ, DECODE = "read and hash", "decode FLAC, 24 kHz"
DECODE_OTHERS = ("decode WAV, 24 kHz", "decode MP3, 24 kHz", "decode FLAC, 44.1 kHz, resampled")
FAULTS, MEL, METRICS, DISTANCE = "faults of the audio", "mel", "metrics", "STFT distance"
EMBEDDED, OFFICIAL = "vocoder, embedded", "vocoder, official sizes"
OFFICIAL_FP32 = f"{OFFICIAL}, fp32"
ROW_WITHOUT, ROW_EMBEDDED = "row without a vocoder", "row, embedded"
LIST, RAY, WRITE = "driver: line of a list", "driver: to and from Ray", "driver: row written"
JUDGE = "driver: verdict"
DRIVER_STEPS = (LIST, RAY, WRITE, JUDGE)
FLAC_BYTES, ROW_BYTES = "FLAC, 24 kHz", "row"


@dataclass(frozen=True, slots=True)
class Audit:
    """A kind of audit.

    Attributes:
        row: What a worker does for a clip, added up from what was measured.
        steps: How often each step is part of that.
    """

    row: Mapping[str, int]
    steps: Mapping[str, int]


_AUDIO = {READ: 1, DECODE: 1, FAULTS: 1}
_LOOP = {**_AUDIO, MEL: 2, METRICS: 1, DISTANCE: 1}
AUDITS: Mapping[str, Audit] = {
    "without a vocoder": Audit({ROW_WITHOUT: 1}, _AUDIO),
    "embedded": Audit({ROW_EMBEDDED: 1}, {**_LOOP, EMBEDDED: 1}),
    # With random weights no clip passes, and a row that fails is another row.
    **{
        step.removeprefix("vocoder, "): Audit(
            {ROW_EMBEDDED: 1, EMBEDDED: -1, step: 1}, {**_LOOP, step: 1}
        )
        for step in (OFFICIAL, OFFICIAL_FP32)
    },
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one clip: a line over its length.

    Attributes:
        a_clip: Milliseconds, or bytes, whatever its length.
        a_second: As much for each second of audio.
    """

    a_clip: float
    a_second: float

    def of(self, seconds: float) -> float:
        """Return what a clip of a length costs, in milliseconds or bytes."""
        return self.a_clip + self.a_second * seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured here.

    Attributes:
        costs: Milliseconds of processor time, by step.
        sizes: Bytes.
        checks: Time of a row of `CLIP_SECONDS` over that of its cost's line, and the sum of its
            steps over it.
    """

    costs: Mapping[str, Cost]
    sizes: Mapping[str, Cost]
    checks: Mapping[str, float]


_COSTS = "| step | ms a clip | ms a second of audio |"
_SIZES = "| size | bytes a clip | bytes a second of audio |"
_CHECKS = f"| clip of {CLIP_SECONDS:g} s | ratio |"


def measured_tables(measured: Measured) -> str:
    """Return what was measured, as tables in Markdown."""
    lines = [_COSTS, "|---|---|---|"]
    lines += [_line(name, each.a_clip, each.a_second) for name, each in measured.costs.items()]
    lines += ["", _SIZES, "|---|---|---|"]
    lines += [_line(name, each.a_clip, each.a_second) for name, each in measured.sizes.items()]
    lines += ["", _CHECKS, "|---|---|"]
    lines += [_line(name, each) for name, each in measured.checks.items()]
    return "\n".join(lines)


def read_measured(text: str) -> Measured:
    """Return what tables in Markdown say was measured.

    Raises:
        ValueError: A table is missing.
    """
    return Measured(
        costs={name: Cost(*values) for name, values in _rows(text, _COSTS)},
        sizes={name: Cost(*values) for name, values in _rows(text, _SIZES)},
        checks={name: value for name, [value] in _rows(text, _CHECKS)},
    )


def _line(name: str, *values: float) -> str:
    return " | ".join([f"| {name}", *(f"{value:.{_DIGITS}g}" for value in values)]) + " |"


def _rows(text: str, header: str) -> Iterator[tuple[str, list[float]]]:
    _, found, rest = text.partition(header + "\n")
    if not found:
        raise ValueError(f"there is no table {header}")
    for line in rest.splitlines()[1:]:
        if not line.startswith("|"):
            return
        name, *values = (cell.strip() for cell in line.strip("|").split("|"))
        yield name, [float(value) for value in values]


# The model.


@dataclass(frozen=True, slots=True)
class Model:
    """Clips of one length through one kind of audit.

    Attributes:
        measured: What the steps cost.
        audit: A name of `AUDITS`.
    """

    measured: Measured
    audit: str

    @property
    def worker_seconds(self) -> float:
        """Processor time of a worker for one clip."""
        return _added(self.measured.costs, AUDITS[self.audit].row) / 1000

    @property
    def driver_seconds(self) -> float:
        """Processor time of the one process that lists, hands out and writes, for one clip."""
        return _added(self.measured.costs, dict.fromkeys(DRIVER_STEPS, 1)) / 1000

    @property
    def clip_bytes(self) -> float:
        """Size of one clip."""
        return self.measured.sizes[FLAC_BYTES].of(CLIP_SECONDS)

    def largest_step(self) -> str:
        """Return the step that takes most of a worker's time."""
        steps = AUDITS[self.audit].steps
        return max(steps, key=lambda step: _added(self.measured.costs, {step: steps[step]}))

    def limits(self, workers: int) -> dict[str, float]:
        """Return how many clips a second each part can take."""
        return {
            f"the workers, most of it {self.largest_step()}": workers / self.worker_seconds,
            "the driver": 1 / self.driver_seconds,
            "the link to the audio": LINK_BYTES / self.clip_bytes,
        }

    def core_hours(self) -> float:
        """Return what the corpus costs."""
        return self.clips() * (self.worker_seconds + self.driver_seconds) / 3600

    def core_hours_beside_gpus(self) -> float:
        """Return what is left for processors where GPUs take over mel and vocoder."""
        steps = {
            step: count
            for step, count in AUDITS[self.audit].steps.items()
            if step in (MEL, EMBEDDED, OFFICIAL)
        }
        return self.core_hours() - self.clips() * _added(self.measured.costs, steps) / 3.6e6

    def clips(self) -> float:
        """Return how many clips the corpus has."""
        return CORPUS_HOURS * 3600 / CLIP_SECONDS


def _added(costs: Mapping[str, Cost], counts: Mapping[str, int]) -> float:
    return sum(count * costs[step].of(CLIP_SECONDS) for step, count in counts.items())


def model_tables(measured: Measured) -> str:
    """Return what a corpus costs, and what limits it, as tables in Markdown."""
    models = {name: Model(measured, name) for name in AUDITS}
    decided = {
        name: clips_until_decided(round(models["embedded"].clips()), every)
        for name, every in FAILING.items()
    }
    lines = [
        f"| {CORPUS_HOURS:,} hours in clips of {CLIP_SECONDS:g} s | core-hours | "
        + " | ".join(f"{100 * LIMIT:g} % decided, {name}" for name in FAILING)
        + " | table |",
        "|---|---|---|---|---|",
    ]
    for name, model in models.items():
        until = " | ".join(
            f"{_round(clips * model.worker_seconds)} core-seconds ({clips:,} clips)"
            for clips in decided.values()
        )
        size = model.clips() * measured.sizes[ROW_BYTES].of(CLIP_SECONDS) / 1e9
        lines.append(f"| {name} | {_round(model.core_hours())} | {until} | {_round(size)} GB |")
    lines += [
        "",
        f"Beside GPUs, which take over mel and vocoder, "
        f"{_round(models['embedded'].core_hours_beside_gpus())} core-hours remain.",
    ]
    for name, model in models.items():
        lines += [
            "",
            f"| {name}: workers | clips a second | days | reads | driver busy | first limit |",
            "|---|---|---|---|---|---|",
        ]
        for workers in WORKERS:
            limits = model.limits(workers)
            first = min(limits, key=lambda each: limits[each])
            rate = limits[first]
            days = model.clips() / rate / 86_400
            lines.append(
                f"| {workers:,} | {_round(rate)} | {_round(days)} | "
                f"{_round(rate * model.clip_bytes / 1e6)} MB/s | "
                f"{100 * rate * model.driver_seconds:.1f} % | {first} |"
            )
        full = model.worker_seconds / model.driver_seconds
        link = LINK_BYTES / model.clip_bytes * model.worker_seconds
        lines += [
            "",
            f"The driver is busy all the time from {_round(full)} workers on, a link of 10 Gbit/s "
            f"from {_round(link)}.",
        ]
    return "\n".join(lines)


def clips_until_decided(corpus: int, every: int) -> int:
    """Return how many clips decide a corpus of which every so many-th clip fails; 0 for none."""
    until = UntilDecided(LIMIT, corpus)
    while until.decision is None:
        until.add(bool(every) and (until.clips + 1) % every == 0)
    return until.clips


def _round(value: float) -> str:
    """Return a number with two digits that count: more the model does not know."""
    if not value:
        return "0"
    rounded = round(value, 1 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:.2g}"


# Measuring.


def measure(folder: Path) -> Measured:
    """Time each step here, on one thread.

    Args:
        folder: Where clips are written.
    """
    torch.set_num_threads(1)
    lengths = (*_LENGTHS, CLIP_SECONDS)
    calls: dict[tuple[str, float], Callable[[], object]] = {}
    clips = {seconds: _clips(folder / f"{seconds:g}", seconds) for seconds in lengths}
    for seconds in lengths:
        for step, call in _steps(clips[seconds]).items():
            calls[step, seconds] = call
    least = _least(calls)
    costs, checks = {}, {}
    for step in dict.fromkeys(step for step, _ in calls):
        costs[step] = _through(*((each, least[step, each]) for each in _LENGTHS))
    for audit, row in (("without a vocoder", ROW_WITHOUT), ("embedded", ROW_EMBEDDED)):
        parts = AUDITS[audit].steps
        added = sum(parts[step] * least[step, CLIP_SECONDS] for step in parts)
        checks[f"{row}: measured over its line"] = least[row, CLIP_SECONDS] / costs[row].of(
            CLIP_SECONDS
        )
        checks[f"{row}: sum of its steps over it"] = added / least[row, CLIP_SECONDS]
    rows = make_row_maker(AuditSettings(vocoder=None))(_items(clips[CLIP_SECONDS]))
    driver, row_bytes = _driver(folder, rows[0])
    costs |= {step: Cost(milliseconds, 0) for step, milliseconds in driver.items()}
    flac = _through(*((each, _mean_size(clips[each])) for each in _LENGTHS))
    measured = Measured(costs, {FLAC_BYTES: flac, ROW_BYTES: Cost(row_bytes, 0)}, checks)
    # As it will be read from its table.
    return read_measured(measured_tables(measured))


def _clips(folder: Path, seconds: float) -> list[Path]:
    """Write clips of one length, in several formats; no two are alike."""
    folder.mkdir(parents=True)
    speech = load_audio(MelCheckConfig(_SPEECH, target_duration=None)).waveform[0]
    written = []
    for number in range(_CLIPS):
        written.append(folder / f"{number}.flac")
        formats = {".flac": 24_000, ".wav": 24_000, ".mp3": 24_000, ".44.flac": 44_100}
        for suffix, rate in formats.items():
            count = round(rate * seconds)
            clip = speech.roll(-4801 * number).repeat(math.ceil(count / len(speech)))[:count]
            subtype = None if suffix == ".mp3" else "PCM_16"
            soundfile.write(folder / f"{number}{suffix}", clip.numpy(), rate, subtype=subtype)
    return written


def _items(clips: Sequence[Path]) -> list[AuditItem]:
    return [AuditItem(index, ManifestItem(clip.stem, clip)) for index, clip in enumerate(clips)]


def _steps(clips: Sequence[Path]) -> dict[str, Callable[[], object]]:
    vocoders = {
        EMBEDDED: optimise(load_vocos("embedded")),
        # In bf16 where the processor has it.
        OFFICIAL: first_pass(load_vocos(RANDOM)).vocoder,
        OFFICIAL_FP32: optimise(load_vocos(RANDOM)),
    }
    encode = vocoders[EMBEDDED].encode
    waveforms = [_load(clip) for clip in clips]
    mels = [encode(waveform) for waveform in waveforms]
    decoded = [vocoders[EMBEDDED].decode(mel) for mel in mels]
    # Decoding is shorter than its source by design.
    pairs = [
        (mel[0][:, : len(again[0, 0])], again[0])
        for mel, again in zip(mels, map(encode, decoded), strict=True)
    ]
    makers = {
        ROW_WITHOUT: make_row_maker(AuditSettings(vocoder=None)),
        ROW_EMBEDDED: make_row_maker(AuditSettings(vocoder="embedded")),
    }
    items = _items(clips)
    formats = (".flac", ".wav", ".mp3", ".44.flac")
    steps: dict[str, Callable[[], object]] = {READ: lambda: [sha256_file(clip) for clip in clips]}
    for step, suffix in zip((DECODE, *DECODE_OTHERS), formats, strict=True):
        files = [clip.with_suffix(suffix) for clip in clips]
        steps[step] = lambda files=files: [_load(file) for file in files]  # type: ignore[misc]
    steps[MEL] = lambda: [encode(each) for each in waveforms]
    for step, vocoder in vocoders.items():
        steps[step] = lambda decode=vocoder.decode: [decode(mel) for mel in mels]  # type: ignore[misc]
    steps[METRICS] = lambda: [_metrics(*pair) for pair in pairs]
    steps[DISTANCE] = lambda: [
        stft_distance(one[0], other[0]) for one, other in zip(waveforms, decoded, strict=True)
    ]
    steps[FAULTS] = lambda: [measure_faults([each], 24_000) for each in waveforms]
    for step, maker in makers.items():
        steps[step] = lambda maker=maker: maker(items)  # type: ignore[misc]
    return steps


def _load(clip: Path) -> torch.Tensor:
    return load_audio(MelCheckConfig(clip, target_duration=None)).waveform


def load_vocos(name: str) -> VocosVocoder:
    """Return a Vocos, as rows are made with it."""
    vocoder = bench_vocoder(name, "cpu")
    if not isinstance(vocoder, VocosVocoder):
        raise TypeError(f"the vocoder must be a Vocos, got {type(vocoder).__name__}.")
    return vocoder


def _metrics(mel: torch.Tensor, again: torch.Tensor) -> object:
    running = RunningMetrics(log_floor=VOCOS.floor_nats)
    running.update(mel, again)
    return running.result()


def _least(
    calls: Mapping[tuple[str, float], Callable[[], object]],
) -> dict[tuple[str, float], float]:
    """Return the least milliseconds a clip of each call over the turns."""
    least = dict.fromkeys(calls, math.inf)
    for _ in range(_TURNS):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            least[name] = min(least[name], 1000 * (time.process_time() - begun) / _CLIPS)
    return least


def _through(first: tuple[float, float], second: tuple[float, float]) -> Cost:
    """Return the line through two points; what is below nothing is nothing."""
    (x, y), (to_x, to_y) = first, second
    slope = max(0.0, (to_y - y) / (to_x - x))
    return Cost(max(0.0, y - slope * x), slope)


def _mean_size(clips: Sequence[Path]) -> float:
    return sum(clip.stat().st_size for clip in clips) / len(clips)


def _driver(folder: Path, row: Row) -> tuple[dict[str, float], float]:
    """Return milliseconds a clip of what one process does for all workers; and bytes a row."""
    listed = folder / "list.jsonl"
    with listed.open("w") as file:
        for number in range(_DRIVER_CLIPS):
            line = {"audio_filepath": f"{folder}/{number}.flac", "duration": CLIP_SECONDS}
            file.write(json.dumps(line) + "\n")
    begun = time.process_time()
    items = list(items_of(str(listed)))
    listing = time.process_time() - begun

    blocks = [items[at : at + BLOCK_CLIPS] for at in range(0, len(items), BLOCK_CLIPS)]
    run = run_ray(blocks, AuditSettings(), workers=1, make=_copying(row))
    next(run)  # its start is not part of a clip's cost
    begun = time.process_time()
    handed_out = sum(map(len, run))
    handing_out = time.process_time() - begun

    store = AuditStore(folder / "audit", source="list", settings={})
    made = [_numbered(row, item) for item in items]
    begun = time.process_time()
    for at in range(0, len(made), BLOCK_CLIPS):
        for item in items[at : at + BLOCK_CLIPS]:
            store.known_key(item)
        store.add(made[at : at + BLOCK_CLIPS])
    store.flush()
    writing = time.process_time() - begun
    store.close()
    begun = time.process_time()
    judge_corpus(made, limit=LIMIT)
    judging = time.process_time() - begun
    parts = (folder / "audit").rglob("*.parquet")
    size = sum(part.stat().st_size for part in parts) / len(made)
    seconds = {LIST: listing, RAY: handing_out, WRITE: writing, JUDGE: judging}
    counts = {LIST: len(items), RAY: handed_out, WRITE: len(made), JUDGE: len(made)}
    return {step: 1000 * seconds[step] / counts[step] for step in seconds}, size


def _numbered(row: Row, item: AuditItem) -> Row:
    digest = hashlib.sha256(str(item.index).encode()).hexdigest()
    return dataclasses.replace(
        row,
        index=item.index,
        name=item.item.name,
        path=str(item.item.path),
        audio_sha256=digest,
        key=digest,
        peak_dbfs=row.peak_dbfs - item.index / 1e5,
    )


def _copying(row: Row) -> Callable[[AuditSettings], RowMaker]:
    def make(_: AuditSettings) -> RowMaker:
        return lambda items: [_numbered(row, item) for item in items]

    return make


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and what was measured before them unless it is read from a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--of", type=Path, metavar="FILE", help="take what FILE says was measured")
    options = parser.parse_args(arguments)
    if options.of is not None:
        measured = read_measured(options.of.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory(prefix="melcheck-scale-") as folder:
            measured = measure(Path(folder))
    # As it is: a table that is wrapped is none.
    sys.stdout.write(f"{measured_tables(measured)}\n\n{model_tables(measured)}\n")


if __name__ == "__main__":
    main()
