"""One likely cause of a bad waveform, in the words of `melcheck.causes`, with what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from melcheck.causes import cause

__all__ = ["Explanation", "explanation"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One likely cause of a bad reconstruction.

    Attributes:
        code: Stable name, kebab-case.
        title: What is wrong, in a few words.
        evidence: What was measured.
        fix: What to do, in one line.
    """

    code: str
    title: str
    evidence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.title} ({self.evidence}). {self.fix}"


def explanation(code: str, evidence: str) -> Explanation:
    """Return the cause of a code, with evidence.

    Raises:
        KeyError: No cause has this code.
    """
    known = cause(code)
    return Explanation(code, known.title, evidence, known.fix)
