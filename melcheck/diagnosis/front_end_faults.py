"""A front end that makes another mel than the vocoder's, as the cause of a bad round trip."""

from __future__ import annotations

from melcheck.diagnosis.explanations import Explanation
from melcheck.diagnosis.handshake import Handshake

__all__ = ["explain_front_end"]


def explain_front_end(name: str, found: Handshake) -> Explanation | None:
    """Return what is wrong with a front end; None where the vocoder can take its mel.

    Args:
        name: Of the front end.
        found: What it was found to be.
    """
    if found.compatible:
        return None
    cause, fix = found.cause()
    return Explanation("front-end", f"{name}: {cause}", found.verdict, fix)
