"""What one look at a mel has found: a cause with its numbers, before it is put into words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a mel shows.

    Attributes:
        code: As in `melcheck.diagnosis.causes`, or "" where it is no cause.
        text: Its numbers, or what was seen.
        benign: Whether no vocoder minds.
    """

    code: str
    text: str
    benign: bool = False
