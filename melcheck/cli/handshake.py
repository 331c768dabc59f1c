"""Check whether your own front end extracts the vocoder's mel, and if not, why.

FRONTEND is package.module:attribute, searched in this folder and in installed
packages: a function, a class or a torch.nn.Module that takes [batch, samples]
and returns [batch, n_mels, frames]. Other layouts and NumPy are adapted, with a
note. The front end and the recipe are compared on probe signals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.arguments import add_profile, path_of
from melcheck.cli.output import Answer, Terminal, stdout_to_stderr
from melcheck.files import error_text, refuse

if TYPE_CHECKING:
    from torch import Tensor

    from melcheck.recipes import MelRecipe


_SPEECH_SECONDS = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the front end, and clips of speech."""
    parser.add_argument("frontend", metavar="FRONTEND", help="such as mytts.audio:mel_spectrogram")
    parser.add_argument(
        "--audio",
        metavar="PATH",
        type=path_of,
        nargs="+",
        default=[],
        help=f"clips, folders or lists to compare on as well, {_SPEECH_SECONDS:g} s of each",
    )
    add_profile(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Load the front end, try it on probes and speech, and compare."""
    from melcheck.diagnosis.handshake import handshake
    from melcheck.frontends import load_frontend
    from melcheck.profiles import profile

    expected = profile(options.profile)
    speech = _speech(options.audio, expected, terminal)
    with stdout_to_stderr():  # what the front end prints is not the answer
        frontend = load_frontend(options.frontend, expected=expected, folders=[Path.cwd()])
        found = handshake(frontend, expected=expected, speech=speech)
    place = _place(*frontend.place) if frontend.place else None
    lines = [
        f"{options.frontend} against {options.profile}" + (f" ({place})" if place else ""),
        *(f"note: {note}" for note in frontend.notes),
        *(part for line in found.message().splitlines() for part in line.split(" | ")),
    ]
    return Answer(
        passed=found.compatible,
        text="\n".join(lines),
        data={
            "frontend": options.frontend,
            "place": place,
            "profile": options.profile,
            "notes": frontend.notes,
            "handshake": found,
        },
    )


def _place(path: Path, line: int) -> str:
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def _speech(paths: list[Path], expected: MelRecipe, terminal: Terminal) -> list[Tensor]:
    from melcheck.audio import load_audio
    from melcheck.clip_lists import file_clips, list_clips
    from melcheck.config import MelCheckConfig

    waveforms, problems = [], []
    clips = file_clips(list_clips(paths))
    for clip in terminal.progress("reading", clips, len(clips)):
        try:
            if clip.problem:
                raise ValueError(clip.problem)
            config = MelCheckConfig(clip.path, expected.sample_rate, _SPEECH_SECONDS)
            waveforms.append(load_audio(config, min_samples=expected.min_samples).waveform[0])
        except (ValueError, OSError) as error:
            problems.append(error_text(error))
    refuse(problems)
    return waveforms
