"""Measure one mel against another: metrics, gate, and a map of where they differ.

A is the reference and B the estimate, [n_mels, frames] or [frames, n_mels], in
.npy, .npz, .pt or .safetensors. No code in the files is run. The gate is that
of `check`. Two folders are compared file by file, by relative paths.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.arguments import add_array, add_profile, add_thresholds, path_of, upright
from melcheck.cli.output import Answer, Terminal, UsageError
from melcheck.files import check_writable, error_text, os_reason, refuse, replacing, unwritten

if TYPE_CHECKING:
    from torch import Tensor

    from melcheck.metrics import MelMetrics
    from melcheck.recipes import MelRecipe


_ROWS = (
    # key, name, unit, better, digits
    ("mae", "MAE", "nats", "lower", 4),
    ("mse", "MSE", "nats2", "lower", 4),
    ("max_abs_diff", "max", "nats", "lower", 3),
    ("snr_db", "SNR", "dB", "higher", 2),
    ("pearson", "corr", "", "higher", 5),
    ("centred_snr_db", "cSNR (without the mean)", "dB", "higher", 2),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the two files, the recipe and the picture."""
    parser.add_argument(
        "reference", metavar="A", type=path_of, help="reference: a file or a folder"
    )
    parser.add_argument("estimate", metavar="B", type=path_of, help="what to measure: likewise")
    parser.add_argument(
        "--plot", metavar="PNG", type=path_of, help="write the difference map there"
    )
    add_thresholds(parser)
    add_profile(parser)
    add_array(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Read both mels, measure, judge, and draw where that is asked for."""
    from melcheck.metrics import compare
    from melcheck.profiles import profile
    from melcheck.sanity import judge, threshold_rule, thresholds_of

    recipe = profile(options.profile)
    folders = [path for path in (options.reference, options.estimate) if path.is_dir()]
    if folders:
        return _of_folders(options, recipe, folders, terminal)
    if options.plot is not None:
        _check_plot(options)
    reference, estimate, notes = _read(options, recipe)
    in_nats = (recipe.in_nats(mel)[None] for mel in (reference, estimate))
    metrics = compare(*in_nats, log_floor=recipe.floor_nats)[0]
    rules = tuple(map(threshold_rule, options.threshold))
    verdict = judge(metrics, thresholds_of("", rules))
    problem = ""
    if options.plot is not None:
        problem = _plot(options.plot, reference, estimate, recipe)
    text = [
        f"A: {options.reference}, B: {options.estimate}, both {list(reference.shape)}",
        *notes,
        "",
        _table(metrics, terminal),
        "",
        _worst(metrics, recipe),
        str(verdict),
        *([f"difference map: {options.plot}"] if options.plot and not problem else []),
    ]
    return Answer(
        passed=verdict.passed,
        text="\n".join(text),
        data={
            "reference": options.reference,
            "estimate": options.estimate,
            "profile": options.profile,
            "shape": list(reference.shape),
            "metrics": metrics,
            "verdict": {"failures": verdict.failures, "notes": verdict.notes},
            "notes": notes,
            "plot": options.plot,
        },
        unwritten=(problem,) if problem else (),
    )


def _of_folders(
    options: argparse.Namespace, recipe: MelRecipe, folders: list[Path], terminal: Terminal
) -> Answer:
    from melcheck.cli.compare_folders import compare_folders

    if len(folders) == 1:
        raise UsageError(
            f"{folders[0]} is a folder, and the other is not. Name two files or two folders."
        )
    if options.plot is not None:
        raise UsageError("--plot draws two files. Leave it out, or name two files.")
    reference, estimate = folders
    return compare_folders(
        reference, estimate, recipe=recipe, array=options.array, terminal=terminal
    )


def _read(options: argparse.Namespace, recipe: MelRecipe) -> tuple[Tensor, Tensor, list[str]]:
    from melcheck.mel_files import read_mel

    mels, notes, problems = [], [], []
    for path in (options.reference, options.estimate):
        try:
            mel = read_mel(path, array=options.array).mel
            if not upright(path, list(mel.shape), recipe):
                notes.append(f"{path} is [frames, n_mels]: its axes were swapped.")
                mel = mel.T.contiguous()
        except (ValueError, OSError) as error:
            problems.append(error_text(error))
        else:
            mels.append(mel)
    refuse(problems)
    reference, estimate = mels
    if reference.shape != estimate.shape:
        raise UsageError(
            f"{options.reference} and {options.estimate} must have one shape, got "
            f"{list(reference.shape)} and {list(estimate.shape)}. They belong to two clips or to "
            "two recipes: `melcheck diagnose --audio CLIP --mel FILE` names the recipe of each."
        )
    return reference, estimate, notes


def _table(metrics: MelMetrics, terminal: Terminal) -> str:
    rows = [
        (name, f"{getattr(metrics, key):.{digits}f}", unit, better)
        for key, name, unit, better, digits in _ROWS
    ]
    for name, share in (
        ("A at the floor", metrics.reference_floor_share),
        ("B at the floor", metrics.estimate_floor_share),
    ):
        rows.append((name, f"{100 * share:.1f}", "% of bins", ""))
    return terminal.table(("metric", "value", "unit", "better"), rows)


def _worst(metrics: MelMetrics, recipe: MelRecipe) -> str:
    from melcheck.recipes import band_centres_hz

    band = max(range(len(metrics.band_mae)), key=metrics.band_mae.__getitem__)
    frame = max(range(len(metrics.frame_mae)), key=metrics.frame_mae.__getitem__)
    return (
        f"worst band: {band} ({band_centres_hz(recipe)[band]:,.0f} Hz), "
        f"MAE {metrics.band_mae[band]:.3f}; worst frame: {frame} "
        f"({frame / recipe.frames_per_second:.2f} s), MAE {metrics.frame_mae[frame]:.3f}"
    )


def _check_plot(options: argparse.Namespace) -> None:
    """Refuse a place for the picture that cannot be written, or is one of the mels."""
    path = options.plot
    for name in ("reference", "estimate"):
        mel = getattr(options, name)
        if path.exists() and mel.exists() and path.samefile(mel):
            raise UsageError(f"--plot {path} would overwrite the mel {mel}. Name another file.")
    try:
        check_writable(path)
    except OSError as error:
        raise UsageError(
            f"--plot {path}: the picture cannot be written ({os_reason(error)}). Name a file in a "
            "folder that exists and can be written."
        ) from None


def _plot(path: Path, reference: Tensor, estimate: Tensor, recipe: MelRecipe) -> str:
    """Write the picture; return why that failed, "" where it did not."""
    from melcheck.plots import DifferencePicture

    picture = DifferencePicture(recipe, reference.shape[1])
    picture.show(reference, estimate, title="A minus B")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(picture.png())
    except OSError as error:
        return unwritten(f"--plot {path}", error)
    return ""
