"""Run copy synthesis, audio -> mel -> audio -> mel, on clips and judge the result.

Each clip is gated: MAE < 0.2 nats, correlation > 0.99, SNR > 20 dB on log-mels.
A failed clip is reported with its likely cause. Griffin-Lim, which has no
training, is shown beside each for comparison. All files that cannot be read are
named before the first one runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.arguments import duration, path_of
from melcheck.cli.output import Answer, MissingError, Terminal, UsageError, stdout_to_stderr

if TYPE_CHECKING:
    from melcheck.plan import Plan

# Their weights come with melcheck or with `melcheck fetch`, and are no input of the user's.
_OURS = ("official", "embedded")
_ARTIFACTS = Path("mel-artifacts")
_SKIPPED = "official: not in the Hugging Face cache, so not checked; `melcheck fetch` gets it"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what to check, with what, and where the results go."""
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        type=path_of,
        nargs="+",
        help="files, folders, or lists of clips: .csv, .tsv, .txt, .jsonl, .parquet, .arrow, .tar",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="column or key of a list that names the audio"
    )
    parser.add_argument(
        "--vocoder",
        metavar="NAME",
        action="append",
        help="embedded, official, griffin-lim, a folder, a hub id, or package.module:attribute; "
        "repeatable; must be available (default: embedded, and official where its weights are in "
        "the cache)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument(
        "--duration",
        metavar="SECONDS",
        type=duration,
        default=3.0,
        help="seconds of each clip, from its start, or all (default: 3)",
    )
    parser.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=int,
        help="rate to read audio at; must be the vocoder's (default: that)",
    )
    parser.add_argument(
        "--frontend",
        metavar="MODULE:NAME",
        help="your own mel function, which must extract the vocoder's mel; it replaces the "
        "vocoder's own in the round trip",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        help="folder of stored mels, each of which must be the one that is extracted today",
    )
    parser.add_argument(
        "--cache-pattern",
        metavar="PATTERN",
        help="names of the mels in the cache, as '{speaker}-mel-{stem}.npy' (default: their stems)",
    )
    parser.add_argument(
        "--artifacts",
        metavar="DIR",
        type=path_of,
        help=f"folder for pictures and audio (default: {_ARTIFACTS})",
    )
    parser.add_argument(
        "--no-artifacts", action="store_true", help="write neither pictures nor audio"
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=path_of,
        action="append",
        default=[],
        help="write a report: .html (one page), .md or .json; repeatable",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only verdicts, for many clips, computed side by side: no pictures, no baseline",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Prepare everything, so that wrong input is reported first; then check clip by clip."""
    from melcheck.caches import check_cache
    from melcheck.cli.check_cache import CacheAnswer
    from melcheck.cli.check_clips import check_clips
    from melcheck.cli.check_text import CheckAnswer
    from melcheck.cli.quick import quick_answer
    from melcheck.user_code import search_first

    search_first([Path.cwd()])
    _check_quick(options)
    plan = _plan(options)
    plan.check_clips(terminal.progress("reading", plan.clips, len(plan.clips)))
    absent = not options.vocoder and "official" not in plan.vocoders
    skipped = _SKIPPED if absent else ""
    loaded = {plan.label(name): plan.vocoder(name, options.device) for name in plan.vocoders}
    config = plan.config(plan.clips[0], plan.recipe)
    if options.quick:
        return quick_answer(plan.clips, loaded, config, terminal, skipped=skipped)
    vocoders = {label: plan.with_frontend(vocoder) for label, vocoder in loaded.items()}
    with stdout_to_stderr():  # what a front end of the user's prints
        shaken = {
            plan.label(name): plan.handshake(recipe)
            for recipe, name in plan.recipes().items()
            if plan.frontend is not None
        }
    answer = CheckAnswer(
        shlex.join(["melcheck", *sys.argv[1:]]),
        plan.frontend,
        shaken,
        keep_media=any(path.suffix == ".html" for path in options.report),
    )
    checks = check_clips(plan.clips, vocoders, config, artifacts=plan.artifacts)
    with stdout_to_stderr():
        for check in terminal.progress("checking", checks, len(plan.clips) * len(vocoders)):
            answer.add(check)
    if plan.stored is not None:
        answer.cache = CacheAnswer(plan.notes())
        with stdout_to_stderr():
            results = (check_cache(plan, clip) for clip in plan.clips)
            for result in terminal.progress("comparing", results, len(plan.clips)):
                answer.cache.add(result)
    for path in options.report:
        answer.write_report(path)
    return answer.finish(
        terminal, artifacts=plan.artifacts, reports=options.report, skipped=skipped
    )


def _plan(options: argparse.Namespace) -> Plan:
    if options.cache_pattern is not None and options.cache is None:
        raise UsageError("--cache-pattern names the mels of a cache: give --cache DIR, too.")
    from melcheck.clip_lists import list_clips
    from melcheck.files import writable_folder
    from melcheck.plan import Plan, load_plan
    from melcheck.vocoders.hub import official_in_cache
    from melcheck.vocoders.weights import VocoderError

    clips = list_clips(options.audio, column=options.column)
    artifacts = None
    if not (options.no_artifacts or options.quick):
        otherwise = "Name another folder, or give --no-artifacts."
        folder = options.artifacts or _ARTIFACTS
        artifacts = writable_folder(folder, "--artifacts", otherwise=otherwise)
    for path in options.report:
        _check_report(path)
    named = tuple(dict.fromkeys(options.vocoder or ()))
    plan = Plan(
        clips=clips,
        vocoders=named or ("embedded", *(["official"] if official_in_cache() else [])),
        devices=(options.device,),
        required=frozenset(named),
        sample_rate=options.sample_rate,
        duration_seconds=options.duration,
        artifacts=artifacts,
        cache_pattern=options.cache_pattern,
    )
    rates = {}
    with stdout_to_stderr():  # what code of the user's prints
        for name in plan.vocoders:
            try:
                rates[plan.label(name)] = plan.vocoder(name, options.device).recipe.sample_rate
            except VocoderError as error:
                if name in _OURS:
                    raise MissingError(str(error)) from None
                raise
        if len(set(rates.values())) > 1:
            listed = ", ".join(f"{name} {rate:,} Hz" for name, rate in rates.items())
            raise UsageError(
                f"--vocoder must name vocoders of one rate, got {listed}. Check one by one."
            )
        return load_plan(plan, frontend=options.frontend, cache=options.cache)


def _check_quick(options: argparse.Namespace) -> None:
    given = {
        "--frontend": options.frontend,
        "--artifacts": options.artifacts,
        "--report": options.report,
        "--cache": options.cache,
    }
    for name, value in given.items():
        if options.quick and value:
            raise UsageError(f"--quick gives only verdicts: leave out {name}, or --quick.")


def _check_report(path: Path) -> None:
    from melcheck.files import os_reason
    from melcheck.report.files import check_report_path

    try:
        check_report_path(path)
    except OSError as error:
        raise UsageError(
            f"--report {path}: its folder cannot be written ({os_reason(error)}). Name another."
        ) from None
