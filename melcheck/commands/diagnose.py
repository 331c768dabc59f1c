"""Say which recipe made a mel.

With --audio the mel is recomputed under each hypothesis (power, scale, norm,
logarithm, padding, hop, delay, gain, ...) and a cause is named only where one
fits and the next does not; a fault, or a mel that nothing explains, fails.
Without it, what the array alone shows is told, and nothing is gated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.commands.options import add_array, add_profile, duration, refuse
from melcheck.commands.terminal import Answer, Terminal, plain

if TYPE_CHECKING:
    from torch import Tensor

    from melcheck.mel_files import StoredMel
    from melcheck.recipes import MelRecipe

__all__ = ["add_options", "run"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the mel, its audio, and what is expected."""
    parser.add_argument("--mel", metavar="FILE", type=Path, required=True, help="file of the mel")
    parser.add_argument("--audio", metavar="CLIP", type=Path, help="the audio that it was made of")
    parser.add_argument(
        "--duration",
        metavar="SECONDS",
        type=duration,
        default="all",
        help="seconds of the audio, from its start, that the mel is of, or all (default: all)",
    )
    add_profile(parser)
    add_array(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Read what there is, and diagnose or identify it."""
    del terminal
    from melcheck.profiles import profile

    expected = profile(options.profile)
    stored, waveform = _read(options, expected)
    read = f"mel: {stored}"
    data: dict[str, object] = {
        "mel": options.mel,
        "audio": options.audio,
        "profile": options.profile,
        "shape": list(stored.shape),
        "dtype": stored.dtype,
    }
    if waveform is None:
        from melcheck.bare import identify

        identity = identify(stored.mel)
        text = "\n".join([read, *_lines(identity.message())])
        return Answer(passed=True, text=text, data=data | {"identity": plain(identity)})
    from melcheck.forensics import diagnose

    diagnosis = diagnose(waveform, stored.mel, expected=expected)
    heard = f"audio: {options.audio}, {waveform.shape[-1]:,} samples at {expected.sample_rate:,} Hz"
    text = "\n".join([read, heard, *_lines(diagnosis.message())])
    return Answer(
        passed=diagnosis.kind in ("identical", "benign"),
        text=text,
        data=data | {"diagnosis": plain(diagnosis)},
    )


def _read(options: argparse.Namespace, expected: MelRecipe) -> tuple[StoredMel, Tensor | None]:
    from melcheck.audio import load_audio
    from melcheck.config import MelCheckConfig
    from melcheck.mel_files import read_mel

    problems, found = [], []
    waveform = None
    try:
        # A mel with NaN is read: that is a finding.
        found.append(read_mel(options.mel, array=options.array, finite=False))
    except (ValueError, OSError) as error:
        problems.append(str(error))
    if options.audio is not None:
        try:
            config = MelCheckConfig(options.audio, expected.sample_rate, options.duration)
            waveform = load_audio(config, min_samples=expected.min_samples).waveform
        except (ValueError, OSError) as error:
            problems.append(str(error))
    refuse(problems)
    return found[0], waveform


def _lines(message: str) -> list[str]:
    return message.split(" | ")
