"""Why clips of a corpus fail, and what to do: a code for each row, in words of the diagnosis."""

from __future__ import annotations

from melcheck.audit.model import Row
from melcheck.diagnosis.causes import CAUSES, PROFILE_PREFIX, Explanation, cause
from melcheck.diagnosis.stored_mels import fix_of_stored

FAILED = frozenset({"failed", "unreadable", "unfinished"})
"""Outcomes of a clip that fails, whatever else its row says."""

_STALE, _MISSING = "stale", "missing"  # of the column `cache`

RAISED = "raised"
"""Cause of a clip that was read, with which the code that follows raised an error."""

_OWN = {
    "unreadable": Explanation(
        "unreadable",
        "the audio cannot be read",
        "",
        "Correct the path, replace the file, or leave the clip out: drop.txt lists it.",
    ),
    RAISED: Explanation(
        RAISED,
        "the front end or the vocoder raises an error with the clip",
        "",
        "Its reason in drop.txt has the error: correct the code, and audit again.",
    ),
    "unfinished": Explanation(
        "unfinished",
        "the worker died, or ran out of time or memory",
        "",
        "Audit again, which measures just these; else check a shorter part of each clip.",
    ),
    "broken": Explanation(
        "broken",
        "samples of the audio are NaN or infinite",
        "",
        "Write the file again from its source, or leave the clip out: drop.txt lists it.",
    ),
    "missing": Explanation(
        "missing",
        "no stored mel of the clip is in the cache",
        "",
        "Extract it, or leave the clip out: drop.txt lists it.",
    ),
    "stale": Explanation(
        "stale",
        "the stored mel does not belong to the audio or the recipe",
        "",
        "Extract the stored mels again, after the last change of audio and settings.",
    ),
    "quiet": Explanation(
        "quiet", "the clip is quiet", "", "Raise its level, or leave the clip out."
    ),
    "clipped": Explanation(
        "clipped",
        "the clip itself is clipped",
        "",
        "Use the recording before it was clipped, or leave the clip out.",
    ),
}

# Of a stored mel: what the code of its cause begins with.
_STORED_PREFIX = "stored:"
# What a code means for the audio of a clip that the loop gets through, and of one that fails.
_OF_AUDIO = {"level": "quiet", "clipping": "clipped"}
_OF_FAILED = {"clipping": "clipped"}


def fails(row: Row) -> bool:
    """Return whether a clip should not go into training as it is.

    It does not survive the loop, cannot be read, was not finished, holds samples that are NaN or
    infinite, or has a stored mel that is stale.
    """
    return row.outcome in FAILED or row.broken_samples > 0 or row.cache == _STALE


def code_of(row: Row) -> str:
    """Return the code of what is wrong with a clip; "" for nothing.

    A clip that does not fail may have one: its audio is clipped, say, and survives the loop.
    """
    if row.broken_samples > 0:
        return "broken"
    if row.outcome in ("unreadable", "unfinished"):
        return row.cause if (row.outcome, row.cause) == ("unreadable", RAISED) else row.outcome
    if row.cache in (_STALE, _MISSING) and row.cause in ("", row.cache_cause):
        known = row.cache == _STALE and row.cause
        return f"{_STORED_PREFIX}{row.cause}" if known else row.cache if fails(row) else ""
    if row.cause:
        return (_OF_FAILED if fails(row) else _OF_AUDIO).get(row.cause, row.cause)
    return "unknown" if row.outcome == "failed" else ""


def meaning(code: str) -> Explanation:
    """Return what a code means and what to do, without evidence; of a code of others just itself.

    Example:
        >>> meaning("clipping").title
        'the waveform was clipped'
        >>> meaning("new").title, meaning("new").fix
        ('new', '')
    """
    if code.startswith(_STORED_PREFIX):
        own = meaning(code.removeprefix(_STORED_PREFIX))
        again = f"{_OWN['stale'].fix} {own.fix if own.code not in _OWN else ''}".rstrip()
        title = own.title if own.code != "unreadable" else "the file cannot be read"
        return Explanation(
            code, f"a stored mel is stale: {title}", "", fix_of_stored(own.code) or again
        )
    if code in _OWN:
        return _OWN[code]
    if code in CAUSES or code.startswith(PROFILE_PREFIX):
        return cause(code)
    return Explanation(code, code, "", "")
