"""A front end of the user's, whatever its form, as `[batch, samples]` -> `[batch, n_mels, frames]`.

`load_frontend` tries the forms in which mel functions are written on two probe clips of different
lengths. What the results leave no doubt about is adapted, and said in `Frontend.notes`: which axis
is time shows in what grows with the clip. All else is told in one `FrontendError`. Modules run in
evaluation mode, and everything without gradients. Whether the mel is the right one is not asked
here: that is for `melcheck.diagnosis.handshake.handshake`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from melcheck.probe_clips import probe
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import (
    THEIR_ERRORS,
    CallableError,
    Target,
    as_target,
    find_object,
    first_line,
    float_tensor,
)

if TYPE_CHECKING:
    from melcheck.vocoders.base import Vocoder, VocoderInfo


# Their mels have 110 and 188 frames with Vocos, neither of which is a number of bands in use. At
# any other recipe they still differ by what 20,000 samples make.
_PROBE_SECONDS = (28_000 / 24_000, 48_000 / 24_000)

_TOLD_REFUSALS = 2

_Form = Callable[[Tensor], Any]


class FrontendError(ValueError):
    """A front end that cannot be used; the message says what it did and what to write instead."""


_FORMS: tuple[tuple[str, _Form], ...] = (
    ("a tensor [batch, samples]", lambda waveform: waveform),
    ("a tensor [samples]", lambda waveform: waveform[0]),
    ("a NumPy array [samples]", lambda waveform: waveform[0].cpu().numpy()),
    ("a tensor [batch, samples] of float64", lambda waveform: waveform.double()),
    ("a tensor [samples] of float64", lambda waveform: waveform[0].double()),
)


@dataclass(frozen=True, slots=True, eq=False)
class Frontend:
    """A front end that is called in one way, whatever its own is.

    Attributes:
        name: As it was asked for.
        place: The file and the line that define it; None where that is not known.
        notes: What had to be adapted, in sentences; empty for a front end that is called as it is.
    """

    name: str
    place: tuple[Path, int] | None
    notes: tuple[str, ...]
    _target: Target
    _form: _Form
    _item: str | int | None
    _frames_first: bool
    _batched: bool

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return the mel of each waveform.

        Shape:
            `[batch, samples]` -> `[batch, n_mels, frames]`, float32, on the waveform's device.

        Raises:
            ValueError: Another shape, or a result that is no mel of this batch.
            Exception: Whatever the front end raises.
        """
        if waveform.dim() != 2:
            raise ValueError(f"waveform must be [batch, samples], got {list(waveform.shape)}.")
        if self._batched:
            return self._mels(waveform).to(waveform.device)
        items = [self._mels(item[None]) for item in waveform]
        return torch.cat(items).to(waveform.device)

    def encode(self, waveform: Tensor) -> Tensor:
        """Do the same, and tell in one line what the front end raised.

        Raises:
            FrontendError: Whatever went wrong.
        """
        try:
            return self(waveform)
        except THEIR_ERRORS as error:
            told = first_line(error)
        raise FrontendError(f"{self.name} on a waveform of {list(waveform.shape)}: {told}")

    def _mels(self, waveform: Tensor) -> Tensor:
        # A copy, so that what the front end writes into its input stays there.
        with torch.no_grad():
            returned = self._target.call(self._form(waveform.to(self._target.device, copy=True)))
        mel, told = float_tensor(returned if self._item is None else returned[self._item])
        if mel is None:
            raise ValueError(f"it returned {told}")
        shape = list(mel.shape)
        batch = len(waveform)
        while mel.dim() > 3 and 1 in mel.shape[:-2]:
            mel = mel.squeeze(next(axis for axis in range(mel.dim() - 2) if mel.shape[axis] == 1))
        if mel.dim() == 2:
            mel = mel[None]
        if mel.dim() != 3 or len(mel) != batch:
            raise ValueError(f"it returned {shape} for {batch} waveforms")
        return mel.transpose(1, 2) if self._frames_first else mel


@dataclass(frozen=True, slots=True, eq=False)
class VocoderWithFrontend:
    """A vocoder whose mels the user's front end extracts. See `melcheck.vocoders.base.Vocoder`."""

    frontend: Frontend
    vocoder: Vocoder

    @property
    def info(self) -> VocoderInfo:
        """Which vocoder decodes."""
        return self.vocoder.info

    @property
    def recipe(self) -> MelRecipe:
        """The mel that the vocoder was made for."""
        return self.vocoder.recipe

    @property
    def device(self) -> torch.device:
        """Where the vocoder is."""
        return self.vocoder.device

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the front end's mel of a waveform: see `Frontend.encode`."""
        return self.frontend.encode(waveform)

    def decode(self, mel: Tensor) -> Tensor:
        """Return the vocoder's waveform of a mel."""
        return self.vocoder.decode(mel)


def load_frontend(
    reference: str, *, expected: MelRecipe = VOCOS, folders: Iterable[Path] = ()
) -> Frontend:
    """Import a front end and find out how it is called.

    Args:
        reference: "package.module:attribute": a function, a class, a `torch.nn.Module`, an object.
        expected: The recipe that it should follow: its rate, and its number of bands where the
            front end returns more than one array.
        folders: Searched for the module before what is installed.

    Raises:
        FrontendError: It cannot be imported or called, or returns no mel.
    """
    try:
        return adapt_frontend(
            find_object(reference, folders=folders), name=reference, expected=expected
        )
    except CallableError as error:
        reason = str(error)
    raise FrontendError(reason)


def adapt_frontend(target: object, *, name: str, expected: MelRecipe = VOCOS) -> Frontend:
    """Find out how a front end is called, by trying.

    Args:
        target: A function, a class that needs no arguments, a `torch.nn.Module`, any callable.
        name: What to call it in messages.
        expected: As in `load_frontend`.

    Raises:
        FrontendError: No form of call gives a mel; the message says what each gave.
    """
    try:
        ready = as_target(target, name=name, sample_rate=expected.sample_rate)
    except CallableError as error:
        raise FrontendError(str(error)) from None
    refusals: dict[str, str] = {}
    for form_name, form in _FORMS:
        found = _try(ready, form, expected)
        if not isinstance(found, str):
            notes = list(ready.notes)
            if form_name != _FORMS[0][0]:
                notes.append(f"{name} is called with {form_name}, one clip at a time")
            return _described(found, notes)
        refusals.setdefault(found, form_name)
    told = "; ".join(
        f"with {form} it {refusal}" for refusal, form in list(refusals.items())[:_TOLD_REFUSALS]
    )
    raise FrontendError(
        f"{name} must take [batch, samples] and return [batch, n_mels, frames]: {told}."
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A form of call that works."""

    frontend: Frontend
    converted: str
    dimensions: int


def _try(target: Target, form: _Form, expected: MelRecipe) -> _Found | str:
    """Return how a form of call works, or in words why it does not."""
    item: str | int | None = None
    shapes, converted = [], ""
    for seconds in _PROBE_SECONDS:
        clip = probe(round(seconds * expected.sample_rate), sample_rate=expected.sample_rate)
        try:
            with torch.no_grad():
                returned = target.call(form(clip[None].to(target.device, copy=True)))
        # Whatever the user's own code raises is the finding.
        except THEIR_ERRORS as error:
            return f"raised {first_line(error)}"
        if isinstance(returned, (Mapping, tuple, list)):
            chosen = _chosen(returned, expected.n_mels)
            if isinstance(chosen, str):
                return chosen
            (item,) = chosen
            returned = returned[item]  # type: ignore[index]
        mel, converted = float_tensor(returned)
        if mel is None:
            return f"returned {converted}{_hint(converted)}"
        shapes.append(tuple(mel.shape))
    frames_first = _frames_first(*shapes)
    if isinstance(frames_first, str):
        return frames_first
    frontend = Frontend(
        target.name, target.place, (), target, form, item, frames_first, _batched=False
    )
    return _Found(frontend, converted, len(shapes[0]))


def _described(found: _Found, notes: list[str]) -> Frontend:
    """Return the front end of a form that works, with notes on what was adapted."""
    alone = found.frontend
    name = alone.name
    if alone._item is not None:
        notes.append(f"of what {name} returns, item {alone._item!r} is taken as the mel")
    if found.converted:
        notes.append(f"what {name} returns ({found.converted}) becomes a float32 tensor")
    if alone._frames_first:
        notes.append(f"{name} returns [frames, n_mels]: its axes are swapped for the vocoder")
    if found.dimensions > 3:
        notes.append(f"{name} returns {found.dimensions} axes: those of size 1 are dropped")
    batched = alone._form is _FORMS[0][1]
    if batched and not _takes_batches(alone):
        batched = False
        notes.append(f"{name} takes no batch of two: it is called with one clip at a time")
    return dataclasses.replace(alone, notes=tuple(notes), _batched=batched)


def _takes_batches(alone: Frontend) -> bool:
    clip = probe(28_000)
    try:
        return len(alone._mels(torch.stack([clip, clip.flip(0)]))) == 2
    except THEIR_ERRORS:
        return False


def _chosen(returned: Any, n_mels: int) -> tuple[str | int] | str:
    """Return which item of a dictionary or a tuple is the mel, or in words why none is."""
    items = list(returned.items() if isinstance(returned, Mapping) else enumerate(returned))
    arrays = []
    for key, value in items:
        array, _ = float_tensor(value)
        if array is not None and array.dim() >= 2:
            arrays.append((key, array))
    fitting = [key for key, array in arrays if n_mels in array.shape[-2:]]
    candidates = fitting or [key for key, _ in arrays]
    if len(candidates) == 1:
        return (candidates[0],)
    shapes = ", ".join(f"{key!r} {list(array.shape)}" for key, array in arrays) or "no mel"
    return (
        f"returned a {type(returned).__name__} with {shapes}; name a function that returns the "
        "mel alone"
    )


def _frames_first(short: tuple[int, ...], long: tuple[int, ...]) -> bool | str:
    """Return whether the axis that grew is the one before the last, or in words what is wrong."""
    told = f"returned {list(short)} for a short clip and {list(long)} for a longer one"
    if len(short) < 2 or len(short) != len(long) or set(short[:-2]) | set(long[:-2]) > {1}:
        return f"{told}, which is not one mel"
    if 1 in short[-2:]:
        return f"{told}, which has no bands"
    grown = [after > before for before, after in zip(short[-2:], long[-2:], strict=True)]
    kept = [after == before for before, after in zip(short[-2:], long[-2:], strict=True)]
    if all(kept):
        return f"{told}: it pads or cuts to a fixed length, take that out"
    if grown == [False, True] and kept[0]:
        return False
    if grown == [True, False] and kept[1]:
        return True
    return f"{told}, in which no axis is the frames"


def _hint(told: str) -> str:
    if told.startswith("complex"):
        return ": a complex spectrum. Take its magnitude, the mel bands and the logarithm first"
    if told.startswith(("int", "uint", "bool")):
        return ": a mel must be floating point"
    return ""
