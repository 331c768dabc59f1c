"""Does a front end make the mels that a vocoder expects? Run probes through both and compare.

`handshake` takes the user's own function, so that what is checked is what will run in training. It
says identical, "differs only at the floor", or incompatible; where (edges, bands, floor, length);
and, by `melcheck.forensics.diagnose`, why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from melcheck.callables import THEIR_ERRORS
from melcheck.diagnosis import Diagnosis
from melcheck.forensics import diagnose
from melcheck.inspection import as_mel, storage_of, storage_step
from melcheck.probes import Probe, probes
from melcheck.recipes import VOCOS, MelRecipe, log_mel

__all__ = ["Handshake", "ProbeResult", "handshake"]

Verdict = Literal["identical", "differs only at the floor", "incompatible", "failed"]

# A cell differs beyond the rounding of another library.
_DIFFERS_NATS = 1e-3
# And beyond that of the type that it returns: float16 and bfloat16 resolve 0.004 and 0.03 nats at
# -16, which no vocoder minds.
_STORAGE_ROUNDINGS = 2.0
# Below the floors in use, from 1e-5 down, a difference is one of the floor.
_FLOOR_MAGNITUDE = 1.2e-5
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
    """

    probe: str
    frames: int
    expected_frames: int
    max_abs_diff: float
    where: tuple[str, ...]
    diagnosis: Diagnosis | None
    error: str = ""


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
                lines.append(
                    f"{result.probe}: {result.frames} frames, {result.expected_frames} expected; "
                    f"differs at {', '.join(result.where)}, by up to {result.max_abs_diff:.4g}"
                )
        if self.diagnosis is not None and self.verdict != "identical":
            lines.append(self.diagnosis.message())
        return "\n".join(lines)

    def cause(self) -> tuple[str, str]:
        """Return the likely cause, and the fix; empty where nothing differs."""
        if self.verdict == "failed":
            told = next(result.error for result in self.results if result.error)
            return told, "Call it with that input and see."
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
    speech: Sequence[Tensor] = (),
) -> Handshake:
    """Run probe clips through a front end and compare its mels with the reference.

    Args:
        frontend: Takes a waveform `[1, samples]`, float32, at `expected.sample_rate`, and returns
            its mel: `[batch, n_mels, frames]`, `[n_mels, frames]` or with the last two axes
            swapped; a tensor or a NumPy array.
        expected: The recipe of the vocoder.
        speech: More clips, `[samples]` or `[1, samples]`: real speech settles what noise cannot.

    Returns:
        The verdict, where the mels differ, and the diagnosis.
    """
    clips = list(probes(sample_rate=expected.sample_rate))
    clips += [Probe(f"{_SPEECH} {index}", clip.reshape(-1)) for index, clip in enumerate(speech, 1)]
    answers = [_ask(frontend, clip) for clip in clips]
    diagnoses, agreed = _diagnosed(clips, answers, expected)
    results, layouts = [], []
    for clip, answer, diagnosis in zip(clips, answers, diagnoses, strict=True):
        if answer.mel is None:
            frames = expected.frames(clip.waveform.shape[-1])
            results.append(ProbeResult(clip.name, 0, frames, torch.nan, (), None, answer.error))
            continue
        told = diagnosis or agreed
        swapped = told is not None and told.names("axes-transposed")
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


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What the front end gave for one clip.

    Attributes:
        mel: Of two dimensions, axes as they came; None where it gave none.
        dimensions: That it came with.
        error: What went wrong, in one line; "" for nothing.
    """

    mel: Tensor | None
    dimensions: int
    error: str = ""


def _ask(frontend: Callable[[Tensor], Any], clip: Probe) -> _Answer:
    waveform = clip.waveform[None].clone()
    try:
        returned = frontend(waveform)
    # Whatever the user's own code raises is the finding.
    except THEIR_ERRORS as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        text = f"the front end raised {type(error).__name__} on input {list(waveform.shape)}"
        return _Answer(None, 0, f"{text}: {reason}")
    try:
        return _Answer(as_mel(returned), len(getattr(returned, "shape", ())))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        text = f"the front end returned {type(returned).__name__}, no mel: {reason}"
        return _Answer(None, 0, text)


def _diagnosed(
    clips: Sequence[Probe], answers: Sequence[_Answer], expected: MelRecipe
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
    difference = (mel - reference).abs()
    step = _STORAGE_ROUNDINGS * storage_step(storage_of(mel))
    off = ~(difference <= _DIFFERS_NATS + step * reference.abs())
    largest = float(difference.max())
    # The logarithm of zero is no other floor: it makes a loss NaN.
    broken = ~torch.isfinite(mel)
    if broken.any():
        found.append(f"{int(broken.sum())} cells that are NaN or infinite")
    at_floor = off & ~broken & _low(reference, expected) & _low(mel, expected)
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
