"""Compare two loops stage by stage on a clip: which stage is the first to differ?

A and B are vocoders: embedded, official, griffin-lim, a folder, a hub id, or
package.module:attribute. The loops read the clip, extract, decode and extract
again; A is the reference. --loader and --frontend replace those stages of B.
Each stage runs on what B's own earlier stages gave it, and alone on what A's
did: an error that enters early goes through everything that follows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from melcheck.cli.arguments import add_profile, duration, path_of
from melcheck.cli.output import Answer, Terminal, UsageError, stdout_to_stderr


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the two loops, and the clip."""
    parser.add_argument("reference", metavar="A", help="vocoder of the reference")
    parser.add_argument("candidate", metavar="B", help="vocoder of what is measured")
    parser.add_argument(
        "--audio", metavar="CLIP", type=path_of, required=True, help="an audio file"
    )
    parser.add_argument("--loader", metavar="MODULE:NAME", help="B's loader")
    parser.add_argument("--frontend", metavar="MODULE:NAME", help="B's front end")
    parser.add_argument(
        "--duration",
        metavar="SECONDS",
        type=duration,
        default=3.0,
        help="seconds of the clip, from its start, or all (default: 3)",
    )
    add_profile(parser, default=None, otherwise="that of A")


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Run both loops and compare what each stage gives."""
    from melcheck.audio import load_audio
    from melcheck.config import MelCheckConfig
    from melcheck.diagnosis.stages import (
        audio_stages,
        bisect_stages,
        read_stage,
        stage_tolerances,
        vocoder_stages,
    )
    from melcheck.file_stages import load_loader
    from melcheck.frontends import VocoderWithFrontend, load_frontend
    from melcheck.plan import check_decodes
    from melcheck.user_code import search_first
    from melcheck.vocoders.load import load_vocoder

    search_first([Path.cwd()])
    with stdout_to_stderr():  # what the user's code prints is not the answer
        right, tried = load_vocoder(options.reference), load_vocoder(options.candidate)
        recipe = right.recipe
        if options.profile is not None:
            check_decodes(options.reference, recipe, options.profile, "--profile")
        if tried.recipe != recipe:
            raise UsageError(
                f"{options.candidate} must decode the mels of {options.reference}, but its recipe "
                "is a different one. Compare two vocoders of one recipe."
            )
        config = MelCheckConfig(options.audio, recipe.sample_rate, options.duration)
        load_audio(config, min_samples=recipe.min_round_trip_samples)
        own = (
            load_loader(options.loader, sample_rate=recipe.sample_rate) if options.loader else None
        )
        if options.frontend:
            frontend = load_frontend(options.frontend, expected=recipe)
            tried = VocoderWithFrontend(frontend, tried)
        reads = audio_stages(config) if own is None else read_stage(config, load_audio)
        reads_own = reads if own is None else read_stage(config, own.load_audio)
        found = bisect_stages(
            {**reads, **vocoder_stages(right)},
            {**reads_own, **vocoder_stages(tried)},
            options.audio,
            recipe=recipe,
            tolerances=stage_tolerances(right),
        )
    rows = [
        (
            each.stage,
            f"{each.cumulative:.2g}",
            f"{each.tolerance.carried:.2g}",
            f"{each.isolated:.2g}",
            f"{each.tolerance.own:.2g}",
        )
        for each in found.stages
    ]
    header = ("stage", "deviation", "allowed", "alone", "allowed")
    lines = [
        f"A: {options.reference}, B: {options.candidate}, on {options.audio}",
        "",
        terminal.table(header, rows),
        "",
        str(found),
    ]
    return Answer(
        passed=found.first is None,
        text="\n".join(lines),
        data={
            "reference": options.reference,
            "candidate": options.candidate,
            "audio": options.audio,
            "stages": found.stages,
            "first": None if found.first is None else found.first.stage,
        },
    )
