"""Why clips of a corpus fail, and what to do: a code for each row, in words of the diagnosis."""

from __future__ import annotations

from melcheck.audit.model import Row
from melcheck.diagnosis.causes import CAUSES, PROFILE_PREFIX, Explanation, cause

FAILED = frozenset({"failed", "unreadable", "unfinished"})
"""Outcomes of a clip that fails, whatever else its row says."""

STALE = "stale"
"""What the column `cache` says of a stored mel that does not belong to the audio."""

_OWN = {
    "unreadable": Explanation(
        "unreadable",
        "the audio cannot be read",
        "",
        "Correct the path, replace the file, or leave the clip out: drop.txt lists it.",
    ),
    "unfinished": Explanation(
        "unfinished",
        "the worker died, or ran out of time or memory",
        "",
        "Audit again, which measures just these; else check a shorter part of each clip.",
    ),
    "nan": Explanation(
        "nan",
        "samples of the audio are NaN or infinite",
        "",
        "Write the file again from its source, or leave the clip out: drop.txt lists it.",
    ),
    STALE: Explanation(
        STALE,
        "the stored mel does not belong to the audio or the recipe",
        "",
        "Extract the stored mels again, after the last change of audio and settings.",
    ),
}


def fails(row: Row) -> bool:
    """Return whether a clip should not go into training as it is.

    It does not survive the loop, cannot be read, was not finished, holds samples that are NaN or
    infinite, or has a stored mel that is stale.
    """
    return row.outcome in FAILED or row.broken_samples > 0 or row.cache == STALE


def code_of(row: Row) -> str:
    """Return the code of what is wrong with a clip; "" for nothing.

    A clip that does not fail may have one: its audio is clipped, say, and survives the loop.
    """
    if row.outcome in ("unreadable", "unfinished"):
        return row.outcome
    if row.cause:
        return row.cause
    if row.broken_samples > 0:
        return "nan"
    if row.cache == STALE:
        return STALE
    return "unknown" if row.outcome == "failed" else ""


def meaning(code: str) -> Explanation:
    """Return what a code means and what to do, without evidence; of a code of others just itself.

    Example:
        >>> meaning("clipping").title
        'the waveform was clipped'
        >>> meaning("new").title, meaning("new").fix
        ('new', '')
    """
    if code in _OWN:
        return _OWN[code]
    if code in CAUSES or code.startswith(PROFILE_PREFIX):
        return cause(code)
    return Explanation(code, code, "", "")
