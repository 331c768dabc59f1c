"""Take clips round the loop audio -> mel -> audio -> mel, and judge the result.

Each clip is gated: MAE < 0.2 nats, correlation > 0.99, SNR > 20 dB on log-mels.
One that fails is told with its likely cause. Griffin-Lim, which has no
training, is shown beside each for comparison. All files that cannot be read are
named before the first one runs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.arguments import clips_of, duration, refuse
from melcheck.cli.output import Answer, MissingError, Terminal, UsageError, stdout_to_stderr

if TYPE_CHECKING:
    from melcheck.clips import Clip
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.handshake import Handshake
    from melcheck.frontends import Frontend
    from melcheck.recipes import MelRecipe
    from melcheck.vocoders.base import Vocoder


_OURS = ("official", "embedded")
_SPEECH_CLIPS = 3
_ARTIFACTS = Path("mel-artifacts")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what to check, with what, and where the results go."""
    parser.add_argument("audio", metavar="AUDIO", type=Path, nargs="+", help="files or folders")
    parser.add_argument(
        "--vocoder",
        metavar="NAME",
        action="append",
        help="embedded, official, griffin-lim, a folder, a hub id, or package.module:attribute; "
        "repeatable (default: embedded, and official where its weights are in the cache)",
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
        help="your own mel function: it must make the vocoder's mel, and is what goes round",
    )
    parser.add_argument(
        "--artifacts",
        metavar="DIR",
        type=Path,
        help=f"folder for pictures and sound (default: {_ARTIFACTS})",
    )
    parser.add_argument(
        "--no-artifacts", action="store_true", help="write neither pictures nor sound"
    )
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="write a report: .html (one page), .md or .json; repeatable",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="verdicts alone, for many clips, computed side by side: no pictures, no baseline",
    )


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Prepare all, so that what cannot be used is said first; then check clip by clip."""
    from melcheck.cli.check_clips import check_clips, labels
    from melcheck.cli.check_text import CheckAnswer
    from melcheck.cli.quick import quick_answer
    from melcheck.frontends import VocoderWithFrontend
    from melcheck.user_code import search_first

    search_first([Path.cwd()])
    _check_quick(options)
    clips = clips_of(options.audio)
    artifacts = None
    if not (options.no_artifacts or options.quick):
        artifacts = _writable(options.artifacts or _ARTIFACTS, "--artifacts")
    for path in options.report:
        _check_report(path)
    names, absent = _vocoder_names(options)
    short = labels(names)
    vocoders = {short[name]: _load(name, options, download=name != absent) for name in names}
    config = _config(options, clips, vocoders)
    _check_readable(clips, config, vocoders, terminal)
    skipped = "" if absent is None or absent in names else _SKIPPED
    if options.quick:
        return quick_answer(clips, vocoders, config, terminal, skipped=skipped)
    shaken: dict[str, Handshake] = {}
    frontend: Frontend | None = None
    if options.frontend is not None:
        frontend, shaken = _shake_hands(options.frontend, clips, config, vocoders)
        vocoders = {name: VocoderWithFrontend(frontend, each) for name, each in vocoders.items()}

    command = shlex.join(["melcheck", *sys.argv[1:]])
    answer = CheckAnswer(
        command, frontend, shaken, keep_media=any(path.suffix == ".html" for path in options.report)
    )
    checks = check_clips(clips, vocoders, config, artifacts=artifacts)
    with stdout_to_stderr():  # what a front end or a vocoder of the user's prints
        for check in terminal.progress("checking", checks, len(clips) * len(vocoders)):
            answer.add(check)
    for path in options.report:
        answer.write_report(path)
    return answer.finish(terminal, artifacts=artifacts, reports=options.report, skipped=skipped)


_SKIPPED = "official: not in the Hugging Face cache, so not checked; `melcheck fetch` gets it"


def _check_quick(options: argparse.Namespace) -> None:
    given = {
        "--frontend": options.frontend,
        "--artifacts": options.artifacts,
        "--report": options.report,
    }
    for name, value in given.items():
        if options.quick and value:
            raise UsageError(f"--quick gives verdicts alone: leave out {name}, or --quick.")


def _vocoder_names(options: argparse.Namespace) -> tuple[list[str], str | None]:
    """Return what to load, and which of it nobody named: it must be in the cache."""
    if options.vocoder:
        return list(dict.fromkeys(options.vocoder)), None
    from melcheck.vocoders.hub import official_in_cache

    return ["embedded", *(["official"] if official_in_cache() else [])], "official"


def _load(name: str, options: argparse.Namespace, *, download: bool) -> Vocoder:
    from melcheck.vocoders.load import load_vocoder
    from melcheck.vocoders.weights import VocoderError

    try:
        with stdout_to_stderr():
            return load_vocoder(name, device=options.device, download=download)
    except VocoderError as error:
        if name in _OURS:
            raise MissingError(str(error)) from None
        raise


def _config(
    options: argparse.Namespace, clips: tuple[Clip, ...], vocoders: Mapping[str, Vocoder]
) -> MelCheckConfig:
    from melcheck.config import MelCheckConfig

    rates = {name: vocoder.recipe.sample_rate for name, vocoder in vocoders.items()}
    if len(set(rates.values())) > 1:
        told = ", ".join(f"{name} {rate:,} Hz" for name, rate in rates.items())
        raise UsageError(f"--vocoder must name vocoders of one rate, got {told}. Check one by one.")
    [rate] = set(rates.values())
    if options.sample_rate not in (None, rate):
        raise UsageError(
            f"--sample-rate must be {rate}, the rate of the mels of {next(iter(rates))}, got "
            f"{options.sample_rate}. Audio of any other rate is resampled to it."
        )
    return MelCheckConfig(clips[0].path, rate, options.duration)


def _check_readable(
    clips: tuple[Clip, ...],
    config: MelCheckConfig,
    vocoders: Mapping[str, Vocoder],
    terminal: Terminal,
) -> None:
    from melcheck.cli.check_clips import unreadable

    shortest = max(vocoder.recipe.min_round_trip_samples for vocoder in vocoders.values())
    refuse(
        problem
        for clip in terminal.progress("reading", clips, len(clips))
        for problem in unreadable([clip], config, min_samples=shortest).values()
    )


def _shake_hands(
    reference: str,
    clips: tuple[Clip, ...],
    config: MelCheckConfig,
    vocoders: Mapping[str, Vocoder],
) -> tuple[Frontend, dict[str, Handshake]]:
    """Load the front end and hold it against what each vocoder expects, on probes and speech."""
    import dataclasses

    from melcheck.audio import load_audio
    from melcheck.diagnosis.handshake import handshake
    from melcheck.frontends import load_frontend
    from melcheck.speed.audio_blocks import start_of

    speech = [
        load_audio(start_of(dataclasses.replace(config, audio_path=clip.path))).waveform[0]
        for clip in clips[:_SPEECH_CLIPS]
    ]
    recipes: dict[MelRecipe, str] = {}
    for name, vocoder in vocoders.items():
        recipes.setdefault(vocoder.recipe, name)
    with stdout_to_stderr():
        frontend = load_frontend(reference, expected=next(iter(recipes)))
        shaken = {
            name: handshake(frontend, expected=recipe, speech=speech)
            for recipe, name in recipes.items()
        }
    return frontend, shaken


def _writable(path: Path, option: str) -> Path:
    # The folder itself is made with the first picture; here it is tried whether it could be.
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UsageError(f"{option} {path}: {nearest} is a file. Name a folder.")
    try:
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".melcheck-"):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} {path}: {nearest} cannot be written ({error.strerror}). Name another "
            "folder, or give --no-artifacts."
        ) from None
    return path


def _check_report(path: Path) -> None:
    from melcheck.report.files import check_report_path

    try:
        check_report_path(path)
    except OSError as error:
        raise UsageError(
            f"--report {path}: its folder cannot be written ({error.strerror}). Name another."
        ) from None
