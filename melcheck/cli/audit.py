"""Audit a corpus: each clip's loop, audio and stored mel, and one verdict.

SOURCE is a folder or a list of clips; of any length, since it is read as it is
walked through. Each clip becomes a row of a table in --output, and a run that
was stopped goes on where it was. Without a vocoder (--vocoder none) the audio
and the stored mels are checked, many times as fast. --sample measures some of
the clips, --until decided as few as show whether more than --at-most fail.
"""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melcheck.cli.arguments import add_profile, add_thresholds, count, duration, path_of
from melcheck.cli.output import Answer, MissingError, Terminal, UsageError, stdout_to_stderr

if TYPE_CHECKING:
    from melcheck.audit.model import AuditSettings, Engine
    from melcheck.audit.run import Audit, Finished

_NO_VOCODER = "none"
_DECIDED = "decided"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the corpus, what is measured, how much of it, and by what."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder, or a list of clips: .csv, .tsv, .txt, .jsonl, .jsonl.gz, .parquet, "
        ".arrow, .tar, a folder of these, or the address of one: s3://, gs://, https://",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=path_of,
        required=True,
        help="folder of the table; one that an audit of the same source has begun goes on",
    )
    parser.add_argument(
        "--vocoder",
        metavar="NAME",
        default="embedded",
        help="embedded, official, griffin-lim, a folder, a hub id, package.module:attribute, or "
        f"{_NO_VOCODER} for the audio and the stored mels alone (default: embedded)",
    )
    add_profile(parser, default=None, otherwise="that of the vocoder")
    parser.add_argument("--frontend", metavar="MODULE:NAME", help="your own mel function")
    parser.add_argument("--cache", metavar="DIR", type=Path, help="folder of stored mels")
    parser.add_argument(
        "--cache-pattern",
        metavar="PATTERN",
        help="names of the mels in the cache, as '{speaker}-mel-{stem}.npy' (default: their stems)",
    )
    add_thresholds(parser)
    parser.add_argument(
        "--duration",
        metavar="SECONDS",
        type=duration,
        default=None,
        help="seconds of each clip, or all (default: all)",
    )
    parser.add_argument(
        "--sample", metavar="COUNT", type=count, help="measure so many clips, drawn at random"
    )
    parser.add_argument(
        "--until",
        metavar=_DECIDED.upper(),
        choices=[_DECIDED],
        help="decided: draw clips at random until it is known whether more than --at-most fail",
    )
    parser.add_argument(
        "--seed", metavar="NUMBER", type=int, default=0, help="which clips are drawn (default: 0)"
    )
    parser.add_argument(
        "--at-most",
        metavar="SHARE",
        type=_share,
        help="share of clips that may fail, such as 1%% (default: none may)",
    )
    parser.add_argument(
        "--by",
        metavar="COLUMN",
        help="judge by the values of a column, such as speaker, or by folder",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="column or key of a list that names the audio"
    )
    parser.add_argument(
        "--filtered",
        metavar="PATH",
        type=path_of,
        help="write the source again, in its own format, without the clips that fail",
    )
    parser.add_argument(
        "--remote",
        action="store_true",
        help="let a list of this machine name addresses, too; one at an address may anyway",
    )
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="processes of this machine, or workers of a Ray cluster (default: local)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="cluster to join; without it one is started on this machine",
    )
    parser.add_argument(
        "--workers",
        metavar="COUNT",
        type=count,
        help="how many (default: one for each processor of this machine, or of the cluster)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument(
        "--clip-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=120.0,
        help="how long one clip of up to a minute may take before it is given up; a longer one has "
        "as many times that as it has minutes (default: 120)",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Check what the options name, measure what is missing, and judge."""
    from melcheck.audit.progress import Progress
    from melcheck.audit.run import run_audit
    from melcheck.audit.store import WriteError

    audit = _audit(options)
    with stdout_to_stderr():  # what code of the user's prints
        made_by = _made_by(audit.settings)
        progress = Progress(terminal.note, watched=terminal.watched)
        try:
            finished = run_audit(audit, progress, made_by=made_by)
        except WriteError as error:
            raise MissingError(str(error)) from None
        except KeyboardInterrupt:
            terminal.note(
                "stopped: what was measured is kept. Start the same command again to go on."
            )
            raise
    return _answer(audit, finished, terminal)


def _audit(options: argparse.Namespace) -> Audit:
    from melcheck.audit.local import available_cores
    from melcheck.audit.model import AuditSettings
    from melcheck.audit.run import Audit
    from melcheck.audit.sources import Source
    from melcheck.files import writable_folder
    from melcheck.sanity import threshold_rule

    if options.cache_pattern is not None and options.cache is None:
        raise UsageError("--cache-pattern names the mels of a cache: give --cache DIR, too.")
    if options.sample is not None and options.until is not None:
        raise UsageError("--until decided draws as many clips as it takes: leave out --sample.")
    if options.until is not None and options.at_most is None:
        raise UsageError("--until decided needs a limit to decide: give --at-most, such as 1%.")
    if options.filtered is not None and (options.sample or options.until):
        raise UsageError(
            "--filtered leaves out the clips that fail, so all must be measured: leave out "
            f"{'--sample' if options.sample else '--until'}."
        )
    if options.ray_address is not None and options.engine != "ray":
        raise UsageError("--ray-address names a cluster of Ray: give --engine ray, too.")
    vocoder = None if options.vocoder == _NO_VOCODER else options.vocoder
    writable_folder(options.output, "--output")
    # Of a cluster, those of the cluster.
    workers = options.workers or (0 if options.engine == "ray" else available_cores())
    return Audit(
        source=Source(options.source, by=options.by, column=options.column, remote=options.remote),
        output=options.output,
        settings=AuditSettings(
            vocoder=vocoder,
            device=options.device,
            profile=options.profile,
            frontend=options.frontend,
            cache=options.cache,
            cache_pattern=options.cache_pattern,
            rules=tuple(map(threshold_rule, options.threshold)),
            duration_seconds=options.duration,
            limit_seconds=options.clip_timeout,
        ),
        engine=_engine(options),
        workers=workers,
        sample=options.sample,
        until_decided=options.until is not None,
        seed=options.seed,
        limit=options.at_most,
        filtered=options.filtered,
    )


def _engine(options: argparse.Namespace) -> Engine:
    if options.engine == "ray":
        from melcheck.audit.ray_engine import run_ray

        return functools.partial(run_ray, address=options.ray_address)
    from melcheck.audit.local import run_local

    return run_local


def _made_by(settings: AuditSettings) -> dict[str, object]:
    """Load what the workers will load, so that what cannot be used is told before they start.

    Returns:
        What made the rows: recipe, weights, front end, versions.
    """
    import torch

    from melcheck.audio import decoder_name
    from melcheck.environment import installed_version
    from melcheck.frontends import load_frontend
    from melcheck.plan import check_decodes, profile_recipe
    from melcheck.recipes import VOCOS
    from melcheck.user_code import search_first
    from melcheck.vocoders.load import is_ours, load_vocoder
    from melcheck.vocoders.weights import VocoderError

    search_first([Path.cwd()])
    recipe, vocoder = profile_recipe(settings.profile), None
    if settings.vocoder is not None:
        try:
            vocoder = load_vocoder(settings.vocoder, recipe=recipe)
        except VocoderError as error:
            if is_ours(settings.vocoder):
                raise MissingError(str(error)) from None
            raise
        except ValueError as error:
            raise UsageError(f"--vocoder must be {_NO_VOCODER} or a vocoder: {error}") from None
        if settings.profile is not None:
            name = f"--vocoder {settings.vocoder}"
            check_decodes(name, vocoder.recipe, settings.profile, "--profile")
    recipe = recipe or (VOCOS if vocoder is None else vocoder.recipe)
    frontend = None
    if settings.frontend is not None:
        frontend = load_frontend(settings.frontend, expected=recipe).name
    packages = ("torchaudio", "torchcodec", "vocos", "soundfile", "numpy", "scipy")
    return {
        "recipe": recipe,
        "recipe_digest": recipe.digest(),
        "vocoder": None if vocoder is None else vocoder.info,
        "frontend": frontend,
        "decoder": decoder_name(),
        "versions": {
            "torch": torch.__version__,
            **{name: installed_version(name) for name in packages},
        },
    }


def _answer(audit: Audit, finished: Finished, terminal: Terminal) -> Answer:
    from melcheck.audit.run import DROP_LIST
    from melcheck.audit.store import ROWS_FOLDER
    from melcheck.audit.summary import summary_lines
    from melcheck.files import place

    verdict, folder = finished.verdict, place(audit.output)
    lines = summary_lines(verdict, width=terminal.width)
    known = verdict.clips - finished.measured
    earlier = f", {known:,} of them by an earlier run" if known > 0 else ""
    lines += ["", f"table: {folder}/{ROWS_FOLDER}, {verdict.clips:,} clips{earlier}"]
    if finished.page is not None:
        lines.append(f"page: {place(finished.page)}")
    if finished.dropped:
        lines.append(f"clips that fail: {folder}/{DROP_LIST}, {finished.dropped:,} lines")
    if finished.kept is not None:
        lines.append(f"without them: {place(audit.filtered or Path())}, {finished.kept:,} clips")
    data: dict[str, Any] = {
        "output": audit.output,
        "page": finished.page,
        "clips": verdict.clips,
        "measured": finished.measured,
        "corpus_size": verdict.corpus_size,
        "failures": verdict.failures,
        "share": verdict.share,
        "confidence": verdict.confidence,
        "limit": verdict.limit,
        "decision": verdict.decision,
        "quantiles": verdict.quantiles,
        "causes": verdict.causes,
        "groups": verdict.groups,
        "dropped": finished.dropped,
        "filtered": audit.filtered,
    }
    return Answer(
        passed=finished.passed, text="\n".join(lines), data=data, unwritten=finished.unwritten
    )


def _share(text: str) -> float:
    """Return a share from 0 to 1, of a number or of percent.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        message = f"must be a share such as 1% or 0.01, below 100%, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return share


def _seconds(text: str) -> float:
    """Return seconds above 0.

    Raises:
        argparse.ArgumentTypeError: It is something else.
    """
    seconds = duration(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, got {text!r}")
    return seconds
