"""Check whether your own stages do what the reference does, and if not, why.

FRONTEND and the other stages are package.module:attribute, searched in this
folder and in installed packages: a function, a class, a torch.nn.Module.

  loader     path -> waveform, or (waveform, rate)
  front end  [batch, samples] -> [batch, n_mels, frames]
  vocoder    mel -> waveform, against the checkpoint that --reference names
  saver      (path, waveform, rate) -> a file

Other layouts and NumPy are adapted, with a note. Each stage is compared with
the reference on probes, and on the clips of --audio.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melcheck.cli.arguments import add_profile, path_of
from melcheck.cli.output import Answer, Terminal, UsageError, stdout_to_stderr
from melcheck.files import error_text, refuse

if TYPE_CHECKING:
    from torch import Tensor

    from melcheck.clips import Clip
    from melcheck.recipes import MelRecipe

_SPEECH_SECONDS = 3.0
_OFFICIAL = "official"

_Place = tuple[Path, int]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the stages, and clips of speech."""
    parser.add_argument(
        "frontend",
        metavar="FRONTEND",
        nargs="?",
        help="your front end, such as mytts.audio:mel_spectrogram",
    )
    parser.add_argument("--frontend", metavar="MODULE:NAME", dest="named", help="the same")
    parser.add_argument("--loader", metavar="MODULE:NAME", help="your loader")
    parser.add_argument("--vocoder", metavar="NAME", help="your vocoder; a folder or hub id, too")
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="the checkpoint that the vocoder claims to be: official, embedded, a folder, a hub id "
        f"(default: {_OFFICIAL}, from the cache)",
    )
    parser.add_argument("--saver", metavar="MODULE:NAME", help="your saver")
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
    """Load each stage, try it on probes and speech, and compare, in the order of the loop."""
    from melcheck.clip_lists import file_clips, list_clips
    from melcheck.profiles import profile
    from melcheck.user_code import search_first

    frontend = _frontend(options)
    named = {
        "loader": options.loader,
        "front end": frontend,
        "vocoder": options.vocoder,
        "saver": options.saver,
    }
    if not any(named.values()):
        raise UsageError("name a stage: FRONTEND, --loader, --vocoder or --saver.")
    if options.reference and not options.vocoder:
        raise UsageError("--reference must stand beside --vocoder, the code that is compared.")
    expected = profile(options.profile)
    clips = file_clips(list_clips(options.audio))
    speech = _speech(clips, expected, terminal)
    search_first([Path.cwd()])
    tried: dict[str, Callable[[], _Tried]] = {
        "loader": lambda: _loader(options.loader, expected, clips),
        "front end": lambda: _front_end(str(frontend), options.profile, expected, speech),
        "vocoder": lambda: _vocoder(options.vocoder, options.reference, speech),
        "saver": lambda: _saver(options.saver, expected, speech),
    }
    with stdout_to_stderr():  # what the user's code prints is not the answer
        found = {stage: tried[stage]() for stage, name in named.items() if name}
    first = next((stage for stage, each in found.items() if not each.passed), None)
    lines = [line for each in found.values() for line in each.lines()]
    if len(found) > 1:
        told = f"first to differ: {first}" if first else "every stage does what the reference does"
        lines += ["", told]
    of_front_end = found.get("front end")
    return Answer(
        passed=first is None,
        text="\n".join(lines),
        data={
            "frontend": frontend,
            "place": of_front_end and of_front_end.where,
            "profile": options.profile,
            "notes": of_front_end.notes if of_front_end else (),
            "handshake": of_front_end and of_front_end.found,
            "stages": [each.data(stage) for stage, each in found.items() if stage != "front end"],
            "first": first,
        },
    )


class _Tried:
    """One stage, with what its handshake found."""

    def __init__(self, code: Any, found: Any, *, against: str = "", passed: bool) -> None:
        self.name: str = code.info.name if hasattr(code, "info") else code.name
        self.notes: tuple[str, ...] = tuple(getattr(code, "notes", ()))
        place: _Place | None = getattr(code, "place", None)
        self.where = _place(*place) if place else None
        self.found, self.passed, self.against = found, passed, against

    def lines(self) -> list[str]:
        where = f" ({self.where})" if self.where else ""
        told = [part for line in self.found.message().splitlines() for part in line.split(" | ")]
        notes = [f"note: {note}" for note in self.notes]
        if self.against:
            return [f"{self.name} against {self.against}{where}", *notes, *told]
        return [f"{told[0]}{where}", *notes, *told[1:]]

    def data(self, stage: str) -> Mapping[str, object]:
        found = self.found
        return {
            "stage": stage,
            "name": self.name,
            "place": self.where,
            "reference": found.reference,
            "notes": self.notes,
            "kind": found.kind,
            "passed": found.passed,
            "cause": found.cause,
            "results": found.results,
        }


def _loader(name: str, expected: MelRecipe, clips: tuple[Clip, ...]) -> _Tried:
    from melcheck.diagnosis.loader import handshake_loader
    from melcheck.file_stages import load_loader

    loader = load_loader(name, sample_rate=expected.sample_rate)
    found = handshake_loader(loader, expected=expected, clips=[clip.path for clip in clips])
    return _Tried(loader, found, passed=found.passed)


def _front_end(
    name: str, profile: str, expected: MelRecipe, speech: Mapping[str, Tensor]
) -> _Tried:
    from melcheck.diagnosis.handshake import handshake
    from melcheck.frontends import load_frontend

    frontend = load_frontend(name, expected=expected)
    found = handshake(frontend, expected=expected, speech=list(speech.values()))
    return _Tried(frontend, found, against=profile, passed=found.compatible)


def _vocoder(name: str, reference: str | None, speech: Mapping[str, Tensor]) -> _Tried:
    from melcheck.diagnosis.vocoder import handshake_vocoder
    from melcheck.vocoders.load import load_vocoder

    vocoder = load_vocoder(name)
    right = load_vocoder(reference or _OFFICIAL, download=reference is not None)
    found = handshake_vocoder(vocoder, reference=right, waveforms=speech)
    return _Tried(vocoder, found, passed=found.passed)


def _saver(name: str, expected: MelRecipe, speech: Mapping[str, Tensor]) -> _Tried:
    from melcheck.diagnosis.saver import handshake_saver
    from melcheck.file_stages import load_saver

    saver = load_saver(name, sample_rate=expected.sample_rate)
    found = handshake_saver(saver, expected=expected, waveforms=speech)
    return _Tried(saver, found, passed=found.passed)


def _frontend(options: argparse.Namespace) -> str | None:
    if options.frontend and options.named:
        raise UsageError("FRONTEND and --frontend are the same. Give one of them.")
    named: str | None = options.frontend or options.named
    return named


def _place(path: Path, line: int) -> str:
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


def _speech(clips: tuple[Clip, ...], expected: MelRecipe, terminal: Terminal) -> dict[str, Tensor]:
    from melcheck.audio import load_audio
    from melcheck.config import MelCheckConfig

    waveforms, problems = {}, []
    for clip in terminal.progress("reading", clips, len(clips)):
        try:
            if clip.problem:
                raise ValueError(clip.problem)
            config = MelCheckConfig(clip.path, expected.sample_rate, _SPEECH_SECONDS)
            audio = load_audio(config, min_samples=expected.min_samples)
            waveforms[clip.name] = audio.waveform[0]
        except (ValueError, OSError) as error:
            problems.append(error_text(error))
    refuse(problems)
    return waveforms
