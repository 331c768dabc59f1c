"""Does a front end make the mels that a vocoder expects? Run probes through both and compare.

`handshake` takes the user's own function, so that what is checked is what will run in training. It
says identical, "differs only at the floor", or incompatible; where (edges, bands, floor, length);
and, by `melcheck.diagnosis.diagnose.diagnose`, why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from melcheck.diagnosis.answers import Answer, ask, differs
from melcheck.diagnosis.diagnose import diagnose
from melcheck.diagnosis.recipe_search.audio_readings import as_clip
from melcheck.diagnosis.recipe_search.mel_values import as_tensor
from melcheck.diagnosis.result import Diagnosis
from melcheck.probe_clips import Probe, probes
from melcheck.recipes import VOCOS, MelRecipe, log_mel

__all__ = ["Handshake", "ProbeResult", "handshake"]

Verdict = Literal["identical", "differs only at the floor", "incompatible", "failed"]

# Below the floors in use, from 1e-5 down, a difference is one of the floor.
_FLOOR_MAGNITUDE = 1.2e-5
# Of a magnitude, relative to the loudest of its frame: transforms of float64, and librosa's, were
# seen to differ by a quarter of it.
_ROUNDING = 1e-7
_EDGE_FRAMES = 2
_MEL_DIM = 2
_SPEECH = "speech"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe showed.

    Attributes:
        probe: Its name.
        frames: Of the front end's mel; 0 where there is none.
        expected_frames: Of the reference.
        max_abs_diff: Over the common frames, nats; NaN where the shapes cannot be compared.
        where: Where it differs: "length", "floor", "edges", "bands 3-7", "everywhere".
        diagnosis: Of this probe; None where it failed, or where two others had agreed before.
        error: What the front end raised or returned instead, in one line; "" for nothing.
        fix: What to do about that.
    """

    probe: str
    frames: int
    expected_frames: int
    max_abs_diff: float
    where: tuple[str, ...]
    diagnosis: Diagnosis | None
    error: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The verdict on a front end.

    Attributes:
        verdict: "identical" (up to the precision of what it returns), "differs only at the floor",
            "incompatible" or "failed".
        results: One for each probe, in order.
        diagnosis: The most telling of the probes' diagnoses, None where all failed.
        layout: How the front end's axes lie, as "[batch, n_mels, frames]".
    """

    verdict: Verdict
    results: tuple[ProbeResult, ...]
    diagnosis: Diagnosis | None
    layout: str

    @property
    def compatible(self) -> bool:
        """Whether the vocoder can take these mels as they are."""
        return self.verdict in ("identical", "differs only at the floor")

    def message(self) -> str:
        """Return the verdict in words, one line for each probe that differs."""
        lines = [f"{self.verdict} (the front end returns {self.layout})"]
        for result in self.results:
            if result.error:
                lines.append(f"{result.probe}: {result.error}")
            elif result.where:
                largest = result.max_abs_diff
                lines.append(
                    f"{result.probe}: {result.frames} frames, {result.expected_frames} expected; "
                    f"differs at {', '.join(result.where)}"
                    + (f", by up to {largest:.4g}" if math.isfinite(largest) else "")
                )
        if self.verdict == "failed":
            lines.append(f"do this: {self.cause()[1]}")
        if self.diagnosis is not None and self.verdict != "identical":
            lines.append(self.diagnosis.message())
        return "\n".join(lines)

    def cause(self) -> tuple[str, str]:
        """Return the likely cause, and the fix; empty where nothing differs."""
        if self.verdict == "failed":
            return next((result.error, result.fix) for result in self.results if result.error)
        found = self.diagnosis
        if found is None or self.verdict == "identical":
            return "", ""
        if not found.causes:
            near = found.nearest[0].text if found.nearest else "nothing known"
            return (
                f"unknown: no known recipe explains its mel; nearest is {near}",
                "Compare every number of the front end with the vocoder's recipe.",
            )
        named = "; ".join(
            f"{each.code}: {each.title}" + (f" ({each.detail})" if each.detail else "")
            for each in found.causes
        )
        return named, found.fix

    def __str__(self) -> str:
        return self.message()


def handshake(
    frontend: Callable[[Tensor], Any],
    *,
    expected: MelRecipe = VOCOS,
    speech: Sequence[Any] = (),
) -> Handshake:
    """Run probe clips through a front end and compare its mels with the reference.

    Each clip goes through it twice: a front end that gives another mel the second time fails, since
    what a diagnosis named would be of that one call.

    Args:
        frontend: Takes a waveform `[1, samples]`, float32, at `expected.sample_rate`, and returns
            its mel: `[batch, n_mels, frames]`, `[n_mels, frames]` or with the last two axes
            swapped; a tensor or a NumPy array.
        expected: The recipe of the vocoder.
        speech: More clips, `[samples]` or `[1, samples]`, tensors or NumPy arrays: real speech
            settles what noise cannot.

    Returns:
        The verdict, where the mels differ, and the diagnosis.

    Raises:
        TypeError: The front end cannot be called, or speech is no array.
        ValueError: A clip of speech that is not one channel, has NaN, or is too short for a mel.
    """
    if not callable(frontend):
        raise TypeError(
            f"frontend must be callable, got {type(frontend).__name__}. Pass a function from "
            "[1, samples] to a mel; melcheck.frontends.load_frontend makes one of "
            '"package.module:attribute".'
        )
    clips = list(probes(sample_rate=expected.sample_rate))
    clips += [_spoken(index, clip, expected) for index, clip in enumerate(speech, 1)]
    answers = [ask(frontend, clip) for clip in clips]
    diagnoses, agreed = _diagnosed(clips, answers, expected)
    results, layouts = [], []
    for clip, answer, diagnosis in zip(clips, answers, diagnoses, strict=True):
        if answer.mel is None:
            frames = expected.frames(clip.waveform.shape[-1])
            told = (answer.error, answer.fix)
            results.append(ProbeResult(clip.name, 0, frames, torch.nan, (), None, *told))
            continue
        known = diagnosis or agreed
        swapped = known is not None and known.names("axes-transposed")
        bands_last = swapped != (expected.axes == "frames_first")
        layout = "[frames, n_mels]" if bands_last else "[n_mels, frames]"
        layouts.append(layout.replace("[", "[batch, ") if answer.dimensions > _MEL_DIM else layout)
        upright = answer.mel.T if bands_last else answer.mel
        reference = log_mel(clip.waveform, expected)
        if expected.axes == "frames_first":
            reference = reference.T
        where, largest = _where(reference, upright, expected)
        frames, wanted = upright.shape[-1], reference.shape[-1]
        results.append(ProbeResult(clip.name, frames, wanted, largest, where, diagnosis))
    return Handshake(
        verdict=_verdict(results),
        results=tuple(results),
        diagnosis=_most_telling(results),
        layout=layouts[0] if layouts else "nothing usable",
    )


def _spoken(index: int, clip: object, expected: MelRecipe) -> Probe:
    """Return a clip of speech as a probe; one that cannot be used is named by its number."""
    name = f"{_SPEECH} {index}"
    try:
        if not as_tensor(clip, "waveform").dim():
            raise ValueError("waveform must be [samples], got one number. Pass a list of clips.")
        waveform, channels = as_clip(clip)
        if channels is not None:
            raise ValueError(
                f"waveform must be [samples] or [1, samples], got {list(channels.shape)}. Mix the "
                "channels down as your training does: clip.mean(dim=0)."
            )
        expected.frames(len(waveform))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return Probe(name, waveform)


def _diagnosed(
    clips: Sequence[Probe], answers: Sequence[Answer], expected: MelRecipe
) -> tuple[list[Diagnosis | None], Diagnosis | None]:
    """Diagnose clips until two say the same of a mel that is not sound.

    What no recipe explains takes longest, and a third clip would say it again. Speech comes first
    and a probe second, so that those two are as unlike as they can be.

    Returns:
        A diagnosis for each clip, None where there is no mel or no need; and what two agreed on.
    """
    found: list[Diagnosis | None] = [None] * len(clips)
    speech = [index for index, clip in enumerate(clips) if clip.name.startswith(_SPEECH)]
    order = [*speech[:1], *(index for index in range(len(clips)) if index not in speech[:1])]
    said: set[tuple[str, tuple[str, ...]]] = set()
    for index in order:
        mel = answers[index].mel
        if mel is None:
            continue
        diagnosis = diagnose(clips[index].waveform, mel, expected=expected)
        found[index] = diagnosis
        if diagnosis.kind not in ("fault", "unknown"):
            continue
        if (diagnosis.kind, diagnosis.codes) in said:
            return found, diagnosis
        said.add((diagnosis.kind, diagnosis.codes))
    return found, None


def _where(reference: Tensor, mel: Tensor, expected: MelRecipe) -> tuple[tuple[str, ...], float]:
    """Return where a mel leaves its reference, and by how much at most."""
    found = []
    if mel.shape[0] != reference.shape[0]:
        return (f"{mel.shape[0]} bands for {reference.shape[0]}",), float("nan")
    if mel.shape[1] != reference.shape[1]:
        found.append("length")
    frames = min(mel.shape[1], reference.shape[1])
    reference, mel = reference[:, :frames], mel[:, :frames]
    low = _low(reference, expected) & _low(mel, expected)
    off = differs(reference, mel) & (low | ~_rounded(reference, mel, expected))
    largest = float((mel - reference).abs().max())
    # The logarithm of zero is no other floor: it makes a loss NaN.
    broken = ~torch.isfinite(mel)
    if broken.any():
        found.append(f"{int(broken.sum())} cells that are NaN or infinite")
    at_floor = off & ~broken & low
    if at_floor.any():
        found.append("floor")
    off &= ~at_floor & ~broken
    columns, rows = off.any(dim=0).nonzero()[:, 0], off.any(dim=1).nonzero()[:, 0]
    if not len(columns):
        return tuple(found), largest
    edges = (columns < _EDGE_FRAMES) | (columns >= frames - _EDGE_FRAMES)
    if edges.all():
        found.append("edges")
    elif len(rows) < reference.shape[0] // 3:
        found.append(f"bands {int(rows[0])}-{int(rows[-1])}")
    else:
        found.append("everywhere")
    return tuple(found), largest


def _rounded(reference: Tensor, mel: Tensor, expected: MelRecipe) -> Tensor:
    """Return which cells differ by the rounding of a transform: relative to each loudest bin."""
    if expected.log_base is None:
        return torch.zeros_like(mel, dtype=torch.bool)
    unit = expected.log_scale / (math.log(10) if expected.log_base == "10" else 1.0)
    one, other = (
        ((each.double() * expected.std + expected.mean) / unit / expected.power).exp()
        for each in (reference, mel)
    )
    return (other - one).abs() <= _ROUNDING * one.amax(dim=0)


def _low(mel: Tensor, expected: MelRecipe) -> Tensor:
    limit = expected.normalised(expected.logarithm(max(_FLOOR_MAGNITUDE, 1.2 * expected.floor)))
    return mel <= limit


def _verdict(results: list[ProbeResult]) -> Verdict:
    if any(result.error for result in results):
        return "failed"
    places = {place for result in results for place in result.where}
    transposed = any(r.diagnosis and r.diagnosis.names("axes-transposed") for r in results)
    if not places and not transposed:
        return "identical"
    if places == {"floor"} and not transposed:
        return "differs only at the floor"
    return "incompatible"


def _most_telling(results: list[ProbeResult]) -> Diagnosis | None:
    """Return the diagnosis that names most; one of speech before one of a probe."""
    order = {"fault": 3, "unknown": 2, "benign": 1, "identical": 0}
    best: tuple[int, int, int] | None = None
    chosen = None
    for result in results:
        if result.diagnosis is None:
            continue
        speech = int(result.probe.startswith(_SPEECH))
        key = (order[result.diagnosis.kind], speech, len(result.diagnosis.causes))
        if best is None or key > best:
            best, chosen = key, result.diagnosis
    return chosen
