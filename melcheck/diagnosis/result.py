"""The result of a diagnosis: the kind of verdict, its causes, its evidence, and the message."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from melcheck.diagnosis.causes import Explanation, cause

Kind = Literal["identical", "benign", "fault", "unknown"]

_ANY_CONSTANT = "gain"
_RULED_OUT = (
    "every known profile, and each usual rate, hop, transform, window, pre-emphasis, mel scale, "
    "filter norm, band limit and power, alone and in pairs, at any place, level, logarithm and "
    "normalisation"
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the verdict rests on.

    Attributes:
        residual: What the best hypothesis leaves unexplained, root mean square in nats.
        runner_up_residual: Residual of the best hypothesis that predicts a different mel.
        runner_up: That hypothesis.
        slope: Candidate's units per nat of the hypothesis; 1 where nothing was scaled.
        offset: What was added, in the candidate's unit.
        frames: Frames of the candidate.
        expected_frames: Frames of the expected recipe, for this waveform.
        floor: The candidate's lowest value where many cells share it, else None.
    """

    residual: float
    runner_up_residual: float
    runner_up: str
    slope: float
    offset: float
    frames: int
    expected_frames: int
    floor: float | None


@dataclass(frozen=True, slots=True)
class Nearest:
    """A hypothesis that came near.

    Attributes:
        codes: What it changes.
        text: The same with numbers.
        residual: What it leaves unexplained, nats.
    """

    codes: tuple[str, ...]
    text: str
    residual: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Which recipe made a mel, as far as the audio shows.

    Attributes:
        kind: "identical", "benign", "fault" or "unknown".
        causes: What was found, the likeliest first; for "benign", what the difference consists of.
        evidence: What that rests on.
        nearest: The three hypotheses that came nearest, best first.
        notes: What else was seen, in sentences.
        explained: Whether the causes are all that differs; else `nearest` shows what else may.
    """

    kind: Kind
    causes: tuple[Explanation, ...]
    evidence: Evidence
    nearest: tuple[Nearest, ...]
    notes: tuple[str, ...] = ()
    explained: bool = True

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the causes, in order, without alternatives."""
        return tuple(named.code for named in self.causes)

    @property
    def fix(self) -> str:
        """What to do, in one line; empty where there is nothing to do."""
        fixes: dict[str, None] = dict.fromkeys(named.fix for named in self.causes)
        for named in self.causes:
            # A gain is the same fix as the constant that is named; other causes have their own.
            for code in named.alternatives:
                if code != _ANY_CONSTANT:
                    fixes[f"Or, if it is {code}: {cause(code).fix}"] = None
        return " ".join(fixes)

    def names(self, code: str) -> bool:
        """Return whether a cause is among those named, alternatives included."""
        return any(code == named.code or code in named.alternatives for named in self.causes)

    def message(self) -> str:
        """Return the verdict in plain words: what | evidence | cause | do this | confidence."""
        return " | ".join(part for part in self._parts() if part)

    def __str__(self) -> str:
        return self.message()

    def _parts(self) -> list[str]:
        evidence = self.evidence
        if self.kind == "identical":
            return ["identical: the candidate is the expected mel", *self.notes]
        seen = f"{evidence.frames} frames, {evidence.expected_frames} expected"
        if evidence.floor is not None:
            seen += f"; lowest value {evidence.floor:.4f}"
        if math.isfinite(evidence.slope):
            seen += f"; slope {evidence.slope:.4f}, offset {evidence.offset:+.4f}"
        notes = " ".join(self.notes)
        near = "; ".join(f"{each.text} ({each.residual:.3f})" for each in self.nearest)
        nearest = f"nearest three (residual in nats): {near or 'none'}"
        if self.kind == "unknown":
            return [
                "unknown: no known recipe explains this mel",
                f"evidence: {seen}",
                nearest,
                notes,
                f"ruled out: {_RULED_OUT}",
                "do this: compare every number of the front end with the expected recipe, first "
                "those in which the nearest differ from it",
            ]
        causes = "; ".join(named.summary for named in self.causes)
        if self.kind == "benign":
            by = f", differs only by {causes}" if causes else ""
            return [f"benign: same recipe{by}", f"evidence: {seen}", notes]
        alike = [
            f"a mel does not distinguish {named.code} from {' or '.join(named.alternatives)}"
            for named in self.causes
            if named.alternatives
        ]
        return [
            "fault: this is not the expected mel",
            f"evidence: {seen}",
            f"likely cause: {causes}",
            "; ".join(alike),
            f"do this: {self.fix}",
            "" if self.explained else nearest,
            ""
            if not self.explained
            else f"confidence: residual {evidence.residual:.4f} nats, next best "
            f"{evidence.runner_up_residual:.4f} ({evidence.runner_up})",
            notes,
        ]
