"""Run copy synthesis, audio -> mel -> audio -> mel, on clips and judge the result.

Each clip is gated: MAE < 0.2 nats, correlation > 0.99, SNR > 20 dB on log-mels;
--threshold sets limits of your own. A failed clip is reported with its likely
cause. Griffin-Lim, which has no training, is shown beside each for comparison.
A file that cannot be read fails, and the others are judged.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.accepted import DEFAULT_FILE
from melcheck.cli.arguments import add_profile, add_thresholds, count, duration, offset, path_of
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
        help="seconds of each clip, or all (default: 3)",
    )
    parser.add_argument(
        "--offset",
        metavar="PLACE",
        type=offset,
        default=0.0,
        help="where they begin: start, middle, or seconds (default: start)",
    )
    parser.add_argument(
        "--sample",
        metavar="COUNT",
        type=count,
        help="check so many of the clips, chosen by their names and --seed",
    )
    parser.add_argument(
        "--seed", metavar="NUMBER", type=int, default=0, help="which clips --sample chooses"
    )
    add_thresholds(parser)
    parser.add_argument(
        "--accepted",
        metavar="FILE",
        type=Path,
        default=Path(DEFAULT_FILE),
        help="file of the misses that you have accepted (default: %(default)s)",
    )
    parser.add_argument(
        "--accept",
        action="store_true",
        help="write the checks that miss a gate now to that file; they still fail in this run, and "
        "pass as known misses from the next on",
    )
    parser.add_argument(
        "--strict-input",
        action="store_true",
        help="refuse to begin (exit code 2) where any clip cannot be read",
    )
    add_profile(parser, default=None, otherwise="that of the vocoder")
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
        "--keep-runs",
        metavar="COUNT",
        type=count,
        default=5,
        help="of how many runs that folder keeps what they wrote (default: %(default)s)",
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
    from melcheck.cli.quick import quick_part
    from melcheck.user_code import search_first

    search_first([Path.cwd()])
    if options.quick and options.artifacts:
        raise UsageError("--quick draws no pictures: leave out --artifacts, or --quick.")
    plan = _plan(options)
    clips = terminal.progress("reading", plan.clips, len(plan.clips))
    plan.check_clips(clips, strict=options.strict_input)
    absent = not options.vocoder and plan.vocoders == ("embedded",)
    skipped = _SKIPPED if absent else ""
    with stdout_to_stderr():  # what a front end of the user's prints
        vocoders = {
            plan.label(name): plan.with_frontend(plan.vocoder(name, options.device))
            for name in plan.vocoders
        }
        shaken = {
            plan.label(name): plan.handshake(recipe)
            for recipe, name in plan.recipes().items()
            if plan.frontend is not None
        }
    answer = CheckAnswer(
        shlex.join(["melcheck", *sys.argv[1:]]),
        plan,
        shaken,
        keep_media=not options.quick and any(path.suffix == ".html" for path in options.report),
        keep_records=not options.quick or bool(options.report) or options.accept,
    )
    quick = None
    if options.quick:
        quick = quick_part(plan, vocoders, answer, terminal)
    else:
        config = plan.config(plan.clips[0], plan.recipe)
        checks = check_clips(plan.clips, vocoders, config, plan=plan, artifacts=plan.artifacts)
        with stdout_to_stderr():
            for check in terminal.progress("checking", checks, len(plan.clips) * len(vocoders)):
                answer.add(check)
    if plan.stored is not None:
        answer.cache = CacheAnswer()
        with stdout_to_stderr():
            results = (check_cache(plan, clip) for clip in plan.clips)
            for result in terminal.progress("comparing", results, len(plan.clips)):
                answer.cache.add(result)
    for path in options.report:
        answer.write_report(path)
    return answer.finish(
        terminal,
        artifacts=plan.artifacts,
        reports=options.report,
        skipped=skipped,
        accepted=answer.accept(options.accepted) if options.accept else "",
        quick=quick,
    )


def _plan(options: argparse.Namespace) -> Plan:
    if options.cache_pattern is not None and options.cache is None:
        raise UsageError("--cache-pattern names the mels of a cache: give --cache DIR, too.")
    from melcheck.accepted import read_accepted
    from melcheck.clip_lists import list_clips
    from melcheck.clips import sample_clips
    from melcheck.files import writable_folder
    from melcheck.plan import Plan, default_vocoders, load_plan
    from melcheck.sanity import threshold_rule
    from melcheck.vocoders.hub import official_in_cache
    from melcheck.vocoders.weights import VocoderError

    clips = list_clips(options.audio, column=options.column)
    remarks: tuple[str, ...] = ()
    if options.sample is not None:
        clips = sample_clips(clips, options.sample, seed=options.seed)
        remarks = (f"--sample {options.sample}: chosen by name, with seed {options.seed}",)
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
        vocoders=named or default_vocoders(options.profile, official=official_in_cache()),
        devices=(options.device,),
        required=frozenset(named),
        profile=options.profile,
        sample_rate=options.sample_rate,
        duration_seconds=options.duration,
        offset=options.offset,
        rules=tuple(map(threshold_rule, options.threshold)),
        accepted=read_accepted(options.accepted),
        artifacts=artifacts,
        cache_pattern=options.cache_pattern,
        keep_runs=options.keep_runs,
        remarks=remarks,
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


def _check_report(path: Path) -> None:
    from melcheck.files import os_reason
    from melcheck.report.files import check_report_path

    try:
        check_report_path(path)
    except OSError as error:
        raise UsageError(
            f"--report {path}: its folder cannot be written ({os_reason(error)}). Name another."
        ) from None
