"""The same clips by the engines of an audit, in turns: Ray against processes of this machine.

    pip install -e '.[ray,peers]' && python -m benchmarks.audit_ray

Two figures, each for the whole run and for what follows the first block, when all is loaded: clips
a second, and processor seconds a clip of all processes that the engine starts, its own servers
among them. On a machine that does other work, too, only the second says something.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import soundfile

from melcheck.audio import load_audio
from melcheck.audit.local import run_local
from melcheck.audit.model import AuditItem, AuditSettings, Engine
from melcheck.audit.ray_engine import run_ray
from melcheck.config import MelCheckConfig
from melcheck.manifests import ManifestItem

_SPEECH = Path(__file__).parents[1] / "fixtures" / "audio" / "austen-0870.flac"
_RATE = 24_000
_FILES = 50
_BLOCK_CLIPS = 64
_LOOK_SECONDS = 0.2

ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}


class Processes:
    """Adds up the processor time of this process and of all below it, those that ended too."""

    def __init__(self) -> None:
        self._own = psutil.Process()
        self._seconds: dict[tuple[int, float], float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Processes:
        self._before = self.seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def seconds(self) -> float:
        """Return processor seconds up to now."""
        with self._lock:
            for process in (self._own, *self._own.children(recursive=True)):
                try:
                    times = process.cpu_times()
                    key = (process.pid, process.create_time())
                except psutil.Error:  # it has just ended
                    continue
                self._seconds[key] = times.user + times.system
            return sum(self._seconds.values())

    def since_the_start(self) -> float:
        """Return processor seconds since the block was entered."""
        return self.seconds() - self._before

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.seconds()


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took for each clip; the second of each pair after the first block.

    Attributes:
        wall_seconds: By the clock.
        processor_seconds: Of all processes.
    """

    wall_seconds: tuple[float, float]
    processor_seconds: tuple[float, float]


def measure(
    engine: Engine, items: Sequence[AuditItem], settings: AuditSettings, workers: int
) -> Run:
    """Run an engine once."""
    blocks = (items[at : at + _BLOCK_CLIPS] for at in range(0, len(items), _BLOCK_CLIPS))
    with Processes() as processes:
        begun, clips, first = time.monotonic(), 0, (0, 0.0, 0.0)
        for rows in engine(blocks, settings, workers=workers):
            wrong = [row for row in rows if row.outcome not in ("passed", "failed", "checked")]
            if wrong:
                raise RuntimeError(f"{wrong[0].path}: {wrong[0].outcome}, {wrong[0].reason}")
            clips += len(rows)
            last = (clips, time.monotonic() - begun, processes.since_the_start())
            first = first if first[0] else last
        wall, processor = time.monotonic() - begun, processes.since_the_start()
    if clips != len(items):
        raise RuntimeError(f"{clips} rows for {len(items)} clips")
    later = last[0] - first[0]
    return Run(
        (wall / clips, (last[1] - first[1]) / later),
        (processor / clips, (last[2] - first[2]) / later),
    )


def clips_of(folder: Path, count: int, seconds: float) -> list[AuditItem]:
    """Write clips of one length, and return as many items as are wanted."""
    speech = load_audio(MelCheckConfig(_SPEECH, target_duration=None)).waveform[0]
    samples = round(_RATE * seconds)
    for number in range(_FILES):
        clip = speech.roll(-997 * number).repeat(1 + samples // len(speech))[:samples]
        soundfile.write(folder / f"{number}.flac", clip.numpy(), _RATE, subtype="PCM_16")
    return [
        AuditItem(index, ManifestItem(f"{index}", folder / f"{index % _FILES}.flac"))
        for index in range(count)
    ]


def in_turns(
    items: Sequence[AuditItem], settings: AuditSettings, workers: int, turns: int
) -> Iterator[dict[str, Run]]:
    """Yield the runs of each turn; who begins changes."""
    names = list(ENGINES)
    for turn in range(turns):
        order = names[turn % 2 :] + names[: turn % 2]
        runs = {name: measure(ENGINES[name], items, settings, workers) for name in order}
        yield {name: runs[name] for name in names}


def lines(runs: Iterable[dict[str, Run]]) -> Iterator[str]:
    """Yield the table, turn by turn, and the median ratios at its end."""
    after = "after the first block"
    yield f"| turn | engine | clips/s | {after} | CPU s a clip | {after} |"
    yield "|---|---|---|---|---|---|"
    ratios: list[list[float]] = []
    for turn, both in enumerate(runs, 1):
        for name, run in both.items():
            rates = " | ".join(f"{1 / each:.2f}" for each in run.wall_seconds)
            costs = " | ".join(f"{each:.4f}" for each in run.processor_seconds)
            yield f"| {turn} | {name} | {rates} | {costs} |"
        local, ray = both["local"], both["ray"]
        ratios.append(
            [
                one / other
                for one, other in zip(
                    (*local.wall_seconds, *local.processor_seconds),
                    (*ray.wall_seconds, *ray.processor_seconds),
                    strict=True,
                )
            ]
        )
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    yield "| median | ray / local | " + " | ".join(f"{each:.2f} x" for each in medians) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Time both engines, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit_ray", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--clips", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--vocoder", default="embedded", help="or none (default: %(default)s)")
    options = parser.parse_args(arguments)
    vocoder = None if options.vocoder == "none" else options.vocoder
    settings = AuditSettings(vocoder=vocoder)
    with tempfile.TemporaryDirectory(prefix="melcheck-ray-") as folder:
        items = clips_of(Path(folder), options.clips, options.seconds)
        for line in lines(in_turns(items, settings, options.workers, options.turns)):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
