"""Time encode, decode and round trip, and compare them with this machine's limit.

The limit is the operations of a Vocos over the rates of matrix products, FFTs
and copies that are measured in the same run (docs/benchmarks.md). Without
--full a few small sizes run, in seconds; --full takes up to 8 minutes, and
prints what it left out. Nothing is gated. To keep runs and compare them, run
the same cases by pytest -m benchmark --benchmark-autosave.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.arguments import add_profile, path_of
from melcheck.cli.output import Answer, MissingError, Terminal, UsageError, stdout_to_stderr
from melcheck.files import os_reason, unwritten

if TYPE_CHECKING:
    from melcheck.benchmark.measure import Measurement
    from melcheck.speed.optimised import Precision
    from melcheck.vocoders.base import Vocoder

_PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_CUDA_ONLY = ("tf32", "fp16")
_OURS = ("official", "embedded")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what to time, on what device, and where pictures go."""
    parser.add_argument(
        "--vocoder",
        metavar="NAME",
        default="random-official",
        help="embedded, official, griffin-lim, a folder, a hub id, or package.module:attribute; "
        "random-official is as large and as fast as official, and needs no weights (default: "
        "%(default)s)",
    )
    add_profile(parser, default=None, otherwise="that of the vocoder")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=_PRECISIONS,
        action="append",
        help="precision of the network; tf32 and fp16 on CUDA only; repeatable (default: fp32, and "
        "on CUDA all four)",
    )
    parser.add_argument(
        "--full", action="store_true", help="1 to 30 s in batches of 1, 16 and 64: up to 8 minutes"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=path_of,
        help="write pictures of throughput and of the fraction of the limit there",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Measure the cases that were asked for."""
    from melcheck.benchmark.cases import FULL_SIZES, SHORT_SIZES, cases
    from melcheck.benchmark.measure import sweep

    _check_precisions(options.device, options.precision or ())
    vocoder = _vocoder(options.vocoder, options.device, options.profile)
    _check_device(vocoder, options.precision or ())
    if options.output is not None:
        _make(options.output)
    planned = cases(
        [options.device],
        FULL_SIZES if options.full else SHORT_SIZES,
        precisions=options.precision,
    )
    bench = sweep(full=options.full)
    measurements: list[Measurement] = []
    left_out: dict[str, str] = {}
    with stdout_to_stderr():
        for case in terminal.progress("timing", planned, len(planned)):
            reason = bench.left_out(vocoder, case)
            if reason is None:
                measurements.append(bench.measure(vocoder, case))
            else:
                left_out[str(case)] = reason
    files: list[str] = []
    problem = ""
    if options.output is not None:
        try:
            _write(options.output, measurements, files)
        except OSError as error:
            problem = unwritten(f"--output {options.output}", error)
    return Answer(
        passed=True,
        text=measured_text(vocoder, measurements, left_out, files, terminal),
        data={
            "vocoder": options.vocoder,
            "device": options.device,
            "threads": measurements[0].threads if measurements else None,
            "rates": {m.case.precision: m.rates for m in measurements if m.rates is not None},
            "cases": [{"name": str(m.case), **m.extra_info()} for m in measurements],
            "left_out": left_out,
            "files": files,
        },
        unwritten=(problem,) if problem else (),
    )


def measured_text(
    vocoder: Vocoder,
    measurements: Sequence[Measurement],
    left_out: dict[str, str],
    files: Sequence[str],
    terminal: Terminal,
) -> str:
    """Return the table of a run, what was left out of it and why, and which files it wrote."""
    lines = [f"{vocoder.info.name}: {(vocoder.info.num_parameters or 0) / 1e6:.1f} M parameters"]
    if measurements:
        first = measurements[0]
        lines[0] += f", {first.device_name}, CPU threads: {first.threads}"
    rates = {m.case.precision: m.rates for m in measurements if m.rates is not None}
    for precision, rate in rates.items():
        lines.append(
            f"limit, {precision}: products {rate.products_per_second / 1e9:,.0f} GFLOP/s, "
            f"FFTs {rate.transforms_per_second / 1e9:,.0f} GFLOP/s, "
            f"copies {rate.copied_bytes_per_second / 1e9:,.0f} GB/s"
        )
    if measurements:
        lines += ["", terminal.table(_HEADER, [_row(m) for m in measurements]), ""]
    if rates:
        lines.append("limit: attainable time over that of the fastest call, from those rates")
    if any(m.upload_seconds is not None for m in measurements):
        lines.append("transfers to and from the device are not in these times; --json has them")
    lines += [f"left out: {name}: {reason}" for name, reason in left_out.items()]
    return "\n".join([*lines, *(f"wrote {path}" for path in files)])


_HEADER = ("stage", "size", "prec.", "mode", "p50 ms", "p95 ms", "x RT", "MiB", "limit")


def _row(measurement: Measurement) -> tuple[str, ...]:
    case, peak, share = measurement.case, measurement.peak_memory_mib, measurement.fraction
    return (
        case.stage.replace("_", " "),
        str(case.size),
        case.precision,
        case.mode,
        _ms(measurement.p50_seconds),
        _ms(measurement.p95_seconds),
        f"{measurement.x_real_time:,.0f}",
        "?" if peak is None else f"{peak:,.0f}",
        "?" if share is None else f"{100 * share:.0f}%",
    )


def _ms(seconds: float) -> str:
    """Return milliseconds in at most seven characters, below 100,000 s."""
    milliseconds = 1000 * seconds
    digits = 2 if milliseconds < 100 else 1 if milliseconds < 1000 else 0
    return f"{milliseconds:,.{digits}f}"


def _check_precisions(device: str, precisions: Sequence[str]) -> None:
    for precision in precisions:
        if precision in _CUDA_ONLY and not device.startswith("cuda"):
            raise UsageError(
                f"--precision {precision} runs on CUDA only, got --device {device}. Add --device "
                "cuda, or name fp32 or bf16."
            )


def _check_device(vocoder: Vocoder, precisions: Sequence[Precision]) -> None:
    """Refuse a precision that the user names and the device lacks."""
    from melcheck.speed.optimised import check_precision
    from melcheck.vocoders.weights import VocoderUnavailable

    try:
        for precision in precisions:
            check_precision(vocoder.device, precision)
    except VocoderUnavailable as error:
        raise MissingError(str(error)) from None


def _vocoder(name: str, device: str, profile: str | None) -> Vocoder:
    from melcheck.benchmark.cases import bench_vocoder
    from melcheck.plan import check_decodes, profile_recipe
    from melcheck.vocoders.weights import VocoderError

    try:
        with stdout_to_stderr():
            vocoder = bench_vocoder(name, device, recipe=profile_recipe(profile))
    except VocoderError as error:
        if name in _OURS:
            raise MissingError(str(error)) from None
        raise
    if profile is not None:
        check_decodes(f"--vocoder {name}", vocoder.recipe, profile, "--profile")
    return vocoder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {folder}: the folder cannot be made ({os_reason(error)}). Name another."
        ) from None


def _write(folder: Path, measurements: Sequence[Measurement], files: list[str]) -> None:
    """Write the pictures, and note each that is there."""
    from melcheck.benchmark.plots import draw_run, png
    from melcheck.files import replacing

    figures = draw_run(measurements) if measurements else {}
    for name, figure in figures.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(png(figure))
        files.append(str(folder / name))
