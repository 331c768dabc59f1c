"""One likely cause of a bad waveform, by its name in `causes`, with what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from melcheck.diagnosis.causes import cause

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


def explanation(
    code: str, evidence: str, *, title: str | None = None, fix: str | None = None
) -> Explanation:
    """Return the cause of a code, with evidence.

    Args:
        code: As in `melcheck.diagnosis.causes`.
        evidence: What was measured.
        title: Where the cause's own is about a mel, or says less; None for the cause's own.
        fix: Likewise.

    Raises:
        KeyError: No cause has this code.
    """
    known = cause(code)
    return Explanation(code, title or known.title, evidence, fix or known.fix)
