"""Time encode, decode and round trip, and say how near the limit they are.

The limit is the operations of a Vocos over the rates of matrix products, FFTs
and copies that are measured in the same run (docs/benchmarks.md). Without
--full a few small sizes run, in seconds; --full takes up to 8 minutes, and says
what it left out. --compare sets two stored runs side by side, and times none.

What `melcheck bench` prints: a run as tables, and two runs side by side.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melcheck.cli.output import Answer, MissingError, Terminal, UsageError, stdout_to_stderr

if TYPE_CHECKING:
    from benchmarks.peers import PeerTimes
    from melcheck.benchmark.measure import Measurement
    from melcheck.benchmark.runs import RunComparison
    from melcheck.vocoders.vocos import VocosVocoder


def measured_text(
    vocoder: VocosVocoder,
    measurements: Sequence[Measurement],
    left_out: dict[str, str],
    peers: Sequence[PeerTimes],
    absent: dict[str, str],
    files: Sequence[str],
    terminal: Terminal,
) -> str:
    """Return the tables of a run, what was left out of it and why, and what it wrote."""
    first = measurements[0]
    lines = [
        f"{vocoder.info.name}: {vocoder.info.num_parameters / 1e6:.1f} M parameters, "
        f"{first.device_name}, CPU threads: {first.threads}"
    ]
    for precision in dict.fromkeys(m.case.precision for m in measurements):
        rates = [m for m in measurements if m.case.precision == precision][-1].rates
        lines.append(
            f"limit, {precision}: products {rates.products_per_second / 1e9:,.0f} GFLOP/s, "
            f"FFTs {rates.transforms_per_second / 1e9:,.0f} GFLOP/s, "
            f"copies {rates.copied_bytes_per_second / 1e9:,.0f} GB/s"
        )
    lines += ["", terminal.table(_HEADER, [_row(m) for m in measurements]), ""]
    lines.append("limit: attainable time over that of the quickest call, from those rates")
    if any(m.upload_seconds is not None for m in measurements):
        lines.append("transfers to and from the device are not in these times; --json has them")
    lines += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    if peers:
        rows = [
            (
                peer.case.mode.removeprefix("peers/"),
                peer.case.stage,
                str(peer.case.size),
                _ms(_median(peer)),
                f"{peer.case.size.audio_seconds / _median(peer):,.0f}",
                f"{peer.speedup:.2f}",
            )
            for peer in peers
        ]
        header = ("in turns", "stage", "size", "p50 ms", "x real time", "speed over eager")
        lines += ["", terminal.table(header, rows)]
    lines += [f"left out: {name}: {reason}" for name, reason in absent.items()]
    return "\n".join([*lines, *(f"wrote {path}" for path in files)])


_HEADER = ("stage", "size", "prec.", "mode", "p50 ms", "p95 ms", "x RT", "MiB", "limit")


def _row(measurement: Measurement) -> tuple[str, ...]:
    case, peak = measurement.case, measurement.peak_memory_mib
    return (
        case.stage.replace("_", " "),
        str(case.size),
        case.precision,
        case.mode,
        _ms(measurement.p50_seconds),
        _ms(measurement.p95_seconds),
        f"{measurement.x_real_time:,.0f}",
        "?" if peak is None else f"{peak:,.0f}",
        f"{100 * measurement.fraction:.0f}%",
    )


def _ms(seconds: float) -> str:
    """Return milliseconds in at most seven places, below 100,000 s."""
    milliseconds = 1000 * seconds
    digits = 2 if milliseconds < 100 else 1 if milliseconds < 1000 else 0
    return f"{milliseconds:,.{digits}f}"


def _median(peer: PeerTimes) -> float:
    return statistics.median(peer.durations_seconds)


def compared_text(paths: Sequence[Path], found: RunComparison, terminal: Terminal) -> str:
    """Return two runs as a table, and what makes them hard to compare."""
    vocoders = {case.vocoder for case in found.cases}
    rows = [
        (
            f"{case.vocoder} {case.name}" if len(vocoders) > 1 else case.name,
            _ms(case.seconds[0]),
            _ms(case.seconds[1]),
            f"{case.speedup:.2f}",
            *(f"{100 * share:.0f}%" for share in case.fractions or ()),
            *([] if case.fractions else ["", ""]),
        )
        for case in found.cases
    ]
    lines = [f"A: {paths[0]}, B: {paths[1]}, of {' and '.join(sorted(vocoders))}", ""]
    lines.append(terminal.table(("case", "A ms", "B ms", "A / B", "limit A", "limit B"), rows))
    lines.append("")
    lines.append("A / B above 1: B is faster; limit: fraction of the attainable")
    if found.differences:
        lines.append("The runs differ, so that only the fractions can be compared:")
        lines += [f"  {difference}" for difference in found.differences]
    for name, cases in (("A", found.only_a), ("B", found.only_b)):
        if cases:
            lines.append(f"only in {name}: {len(cases)} cases, such as {cases[0]}")
    return "\n".join(lines)


_PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_CUDA_ONLY = ("tf32", "fp16")
_OURS = ("official", "embedded")
_RUN_FILE = "benchmark.json"
_SHORT_SECONDS = 0.1
_PEER_SECONDS = {False: 1.0, True: 5.0}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what to time, on what, and where the results go."""
    parser.add_argument(
        "--vocoder",
        metavar="NAME",
        default="random-official",
        help="embedded, official, a folder or a hub id; random-official is as large and as fast "
        "as official, and needs no weights (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=_PRECISIONS,
        action="append",
        help="of the network; tf32 and fp16 on CUDA only; repeatable (default: fp32, and on CUDA "
        "all four)",
    )
    parser.add_argument(
        "--full", action="store_true", help="1 to 30 s in batches of 1, 16 and 64: up to 8 minutes"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also time stock vocos, librosa, ONNX Runtime and Griffin-Lim, in turns with ours",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"write {_RUN_FILE} (as pytest-benchmark does) and pictures there",
    )
    parser.add_argument(
        "--compare",
        metavar=("A.json", "B.json"),
        type=Path,
        nargs=2,
        help="compare two stored runs instead",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Compare what is stored, or measure what was asked for."""
    if options.compare is not None:
        return _compare(options.compare, terminal)
    return _measure(options, terminal)


def _measure(options: argparse.Namespace, terminal: Terminal) -> Answer:
    from melcheck.benchmark.cases import FULL_SIZES, SHORT_SIZES, cases
    from melcheck.benchmark.measure import FULL_SECONDS, Bench

    _check_precisions(options.device, options.precision or ())
    vocoder = _vocoder(options.vocoder, options.device)
    if options.output is not None:
        _make(options.output)
    bench = Bench(seconds=FULL_SECONDS) if options.full else Bench(case_seconds=_SHORT_SECONDS)
    planned = cases(
        [options.device],
        FULL_SIZES if options.full else SHORT_SIZES,
        precisions=options.precision,
    )
    measurements: list[Measurement] = []
    left_out: dict[str, str] = {}
    with stdout_to_stderr():
        for case in terminal.progress("timing", planned, len(planned)):
            reason = bench.left_out(vocoder, case)
            if reason is None:
                measurements.append(bench.measure(vocoder, case))
            else:
                left_out[str(case)] = reason
        peers, absent = _peers(vocoder, options) if options.peers else ([], {})
    files = _write(options.output, measurements, peers) if options.output is not None else []
    return Answer(
        passed=True,
        text=measured_text(vocoder, measurements, left_out, peers, absent, files, terminal),
        data={
            "vocoder": options.vocoder,
            "device": options.device,
            "threads": measurements[0].threads,
            "rates": {m.case.precision: m.rates for m in measurements},
            "cases": [{"name": str(m.case), **m.extra_info()} for m in measurements],
            "left_out": left_out,
            "peers": [peer.extra_info() for peer in peers],
            "absent_peers": absent,
            "files": files,
            "comparison": None,
        },
    )


def _check_precisions(device: str, precisions: Sequence[str]) -> None:
    for precision in precisions:
        if precision in _CUDA_ONLY and not device.startswith("cuda"):
            raise UsageError(
                f"--precision {precision} runs on CUDA only, got --device {device}. Add --device "
                "cuda, or name fp32 or bf16."
            )


def _vocoder(name: str, device: str) -> VocosVocoder:
    from melcheck.benchmark.cases import bench_vocoder
    from melcheck.vocoders.weights import VocoderError

    try:
        with stdout_to_stderr():
            return bench_vocoder(name, device)
    except VocoderError as error:
        if name in _OURS:
            raise MissingError(str(error)) from None
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {folder}: the folder cannot be made ({error.strerror}). Name another."
        ) from None


def _peers(
    vocoder: VocosVocoder, options: argparse.Namespace
) -> tuple[list[PeerTimes], dict[str, str]]:
    from benchmarks.peers import measure_peers
    from melcheck.benchmark.cases import PAPER_SIZE, SHORT_SIZES, Case
    from melcheck.benchmark.measure import make_inputs
    from melcheck.benchmark.roofline import Stage

    size = PAPER_SIZE if options.full else SHORT_SIZES[-1]
    found: list[PeerTimes] = []
    absent: dict[str, str] = {}
    stages: tuple[Stage, ...] = ("encode", "decode")
    for stage in stages:
        case = Case(stage, options.device, size, "fp32", "eager")
        times, missing = measure_peers(
            vocoder, case, make_inputs(vocoder, case), seconds=_PEER_SECONDS[options.full]
        )
        found += times
        absent |= missing
    return found, absent


def _write(
    folder: Path, measurements: Sequence[Measurement], peers: Sequence[PeerTimes]
) -> list[str]:
    import json

    from melcheck.benchmark.plots import draw_run, png
    from melcheck.benchmark.runs import document
    from melcheck.files import replacing

    contents = {_RUN_FILE: json.dumps(document(measurements, peers), indent=1).encode()}
    contents |= {name: png(figure) for name, figure in draw_run(measurements).items()}
    for name, content in contents.items():
        try:
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            raise UsageError(
                f"--output {folder}: {name} cannot be written ({error.strerror}). Name another "
                "folder."
            ) from None
    return [str(folder / name) for name in contents]


def _compare(paths: Sequence[Path], terminal: Terminal) -> Answer:
    from melcheck.benchmark.runs import compare_runs, read_run
    from melcheck.files import refuse

    runs: list[dict[str, Any]] = []
    problems = []
    for path in paths:
        try:
            runs.append(read_run(path))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}.")
        except ValueError as error:
            problems.append(str(error))
    refuse(problems)
    found = compare_runs(*runs)
    if not found.cases:
        raise UsageError(
            f"{paths[0]} and {paths[1]} must have a case in common, and have none: they were run "
            "with other vocoders, devices or sizes."
        )
    return Answer(
        passed=True,
        text=compared_text(paths, found, terminal),
        data={
            "vocoder": None,
            "device": None,
            "threads": None,
            "rates": {},
            "cases": [],
            "left_out": {},
            "peers": [],
            "absent_peers": {},
            "files": [],
            "comparison": found,
        },
    )
