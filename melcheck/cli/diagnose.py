"""Say which recipe made a mel.

With --audio the mel is recomputed under each hypothesis (power, scale, norm,
logarithm, padding, hop, delay, gain, ...), and a cause is named only where one
fits and the next does not; a fault, or a mel that nothing explains, fails.
Without --audio, the command reports what the array alone shows and gates
nothing; --profile then adds whether it could be a mel of that recipe.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from melcheck.cli.arguments import add_array, duration, path_of
from melcheck.cli.output import Answer, Terminal, UsageError
from melcheck.files import error_text, refuse

if TYPE_CHECKING:
    from torch import Tensor

    from melcheck.mel_files import StoredMel
    from melcheck.recipes import MelRecipe


_PROFILE = "vocos"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the mel, its audio, and the expected recipe."""
    parser.add_argument(
        "--mel", metavar="FILE", type=path_of, required=True, help="file of the mel"
    )
    parser.add_argument(
        "--audio", metavar="CLIP", type=path_of, help="audio that the mel was extracted from"
    )
    parser.add_argument(
        "--duration",
        metavar="SECONDS",
        type=duration,
        default="all",
        help="seconds of the audio, from its start, that the mel covers, or all (default: all)",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        help="recipe that the mel should follow: vocos, f5-tts, bigvgan-24k, ...; an unknown name "
        f"lists all (with --audio, default: {_PROFILE})",
    )
    parser.add_argument(
        "--sample-rate",
        metavar="HZ",
        type=_hz,
        help="rate of the audio, without --audio; leaves out profiles of other rates",
    )
    add_array(parser)


def _hz(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of Hz above 0, got {text!r}")
    return int(text)


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Read what there is, and diagnose or identify it."""
    del terminal
    from melcheck.profiles import profile

    name = options.profile
    if name is None and options.audio is not None:
        name = _PROFILE
    expected = profile(_PROFILE if name is None else name)
    stored, waveform, channels = _read(options, expected)
    read = f"mel: {stored}"
    data: dict[str, object] = {
        "mel": options.mel,
        "audio": options.audio,
        "profile": name,
        "shape": list(stored.shape),
        "dtype": stored.dtype,
    }
    if waveform is None:
        from melcheck.diagnosis.identify import identify

        identity = identify(stored.mel, sample_rate=options.sample_rate)
        lines = [read, *_lines(identity.message())]
        if name is not None:
            against = identity.contradictions.get(name)
            verdict = (
                f"cannot be a mel of {name}: {against}" if against else f"may be one of {name}"
            )
            lines.append(f"it {verdict}")
        text = "\n".join(lines)
        return Answer(passed=True, text=text, data=data | {"identity": identity})
    from melcheck.diagnosis.diagnose import diagnose

    diagnosis = diagnose(waveform, stored.mel, expected=expected)
    if channels is not None and diagnosis.kind in ("fault", "unknown"):
        # How they were mixed may be the fault. The waveform is their mean, up to rounding.
        diagnosis = diagnose(channels, stored.mel, expected=expected)
    source = (
        f"audio: {options.audio}, {waveform.shape[-1]:,} samples at {expected.sample_rate:,} Hz"
    )
    if channels is not None:
        source += f", the mean of {len(channels)} channels"
    text = "\n".join([read, source, *_lines(diagnosis.message())])
    return Answer(
        passed=diagnosis.kind in ("identical", "benign"),
        text=text,
        data=data | {"diagnosis": diagnosis},
    )


def _read(
    options: argparse.Namespace, expected: MelRecipe
) -> tuple[StoredMel, Tensor | None, Tensor | None]:
    """Return the mel; and where there is audio, its mean, and its channels if it has several."""
    from melcheck.audio import decode_audio, load_audio, resample
    from melcheck.config import MelCheckConfig
    from melcheck.mel_files import read_mel

    if options.audio is not None and options.sample_rate is not None:
        raise UsageError("--sample-rate is for a mel without its audio. Leave out one of the two.")
    problems, found = [], []
    waveform = channels = None
    try:
        # A mel with NaN is read: that is a finding.
        found.append(read_mel(options.mel, array=options.array, finite=False))
    except (ValueError, OSError) as error:
        problems.append(error_text(error))
    if options.audio is not None:
        try:
            config = MelCheckConfig(options.audio, expected.sample_rate, options.duration)
            loaded = load_audio(config, min_samples=expected.min_samples)
            waveform = loaded.waveform
            if loaded.source_channels > 1:
                channels = resample(decode_audio(config), config).samples
        except (ValueError, OSError) as error:
            problems.append(error_text(error))
    refuse(problems)
    return found[0], waveform, channels


def _lines(message: str) -> list[str]:
    return message.split(" | ")
