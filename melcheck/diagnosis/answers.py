"""What a front end gives for a clip: one mel, the same when it is asked again, or what is wrong.

What it raises, what it returns instead of a mel and what differs from call to call are told in one
line each, with what to do; none of them is worth a diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    as_mel,
    kind_of,
    storage_of,
    storage_step,
)
from melcheck.probe_clips import Probe
from melcheck.user_code import THEIR_ERRORS

__all__ = ["Answer", "ask", "differs"]

# A cell differs beyond the rounding of another library, and beyond that of the type that it
# returns: float16 and bfloat16 resolve 0.004 and 0.03 nats at -16, which no vocoder minds.
_DIFFERS_NATS = 1e-3
# Rounding that differs from call to call, as on several threads, was seen to move 0.05 % of the
# cells, the quiet ones beside loud ones, and none by more than 0.005 nats.
_OTHER_SHARE = 0.01
_OTHER_NATS = 0.05
_RETURN_A_MEL = "Return a mel, [n_mels, frames] or [batch, n_mels, frames], floating point."


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the front end gave for one clip.

    Attributes:
        mel: Of two dimensions, axes as they came; None where it gave none.
        dimensions: That it came with.
        error: What went wrong, in one line; "" for nothing.
        fix: What to do about it.
    """

    mel: Tensor | None
    dimensions: int
    error: str = ""
    fix: str = ""


def ask(frontend: Callable[[Tensor], Any], clip: Probe) -> Answer:
    """Return what a front end gives for a clip, if it gives that twice."""
    first = _ask_once(frontend, clip)
    if first.mel is None:
        return first
    again = _ask_once(frontend, clip)
    if again.mel is None:
        return again
    if first.mel.shape != again.mel.shape:
        how = f"{list(first.mel.shape)}, then {list(again.mel.shape)}"
    elif _same(first.mel, again.mel):
        return first
    else:
        apart = (first.mel - again.mel).abs().nan_to_num(0.0, posinf=0.0)
        how = f"up to {float(apart.max()):.3g} apart" if apart.any() else "NaN in other places"
    return Answer(
        None,
        0,
        f"the front end is not deterministic: of the same samples it gives other mels, {how}",
        "Put a module into evaluation mode, and leave out dither, random gain and cropping.",
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two mels are one but for rounding."""
    # What is NaN, or the same infinity, in both is no difference, and is told elsewhere.
    agree = (one == other) | (one.isnan() & other.isnan())
    other_share = float((differs(one, other) & ~agree).float().mean())
    return other_share < _OTHER_SHARE and bool(
        (agree | ~differs(one, other, nats=_OTHER_NATS)).all()
    )


def _ask_once(frontend: Callable[[Tensor], Any], clip: Probe) -> Answer:
    waveform = clip.waveform[None].clone()
    try:
        returned = frontend(waveform)
    # Whatever the user's own code raises is the finding.
    except THEIR_ERRORS as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        text = f"the front end raised {type(error).__name__} on input {list(waveform.shape)}"
        return Answer(None, 0, f"{text}: {reason}", "Call it with that input and see.")
    told = f"the front end returned {kind_of(returned)}, no mel"
    if not hasattr(returned, "__array__"):
        return Answer(None, 0, told, "Return the mel alone, a tensor or a NumPy array.")
    shape = list(returned.shape) if hasattr(returned, "shape") else []
    try:
        mel = as_mel(returned, name="it")
    except (TypeError, ValueError) as error:
        return Answer(None, 0, f"the front end returned no mel: {error}", _RETURN_A_MEL)
    if 1 in mel.shape:
        return Answer(None, 0, f"the front end returned {shape}, no mel: one band", _RETURN_A_MEL)
    return Answer(mel, len(shape))


def differs(reference: Tensor, mel: Tensor, *, nats: float = _DIFFERS_NATS) -> Tensor:
    """Return which cells differ by more than so much and rounding; NaN does."""
    step = STORAGE_ROUNDINGS * storage_step(storage_of(mel))
    return ~((mel - reference).abs() <= nats + step * reference.abs())
