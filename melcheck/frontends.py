"""Adapt the user's front end, whatever its form: `[batch, samples]` -> `[batch, n_mels, frames]`.

`load_frontend` tries the forms in which mel functions are written on two probe clips of different
lengths. What the results leave no doubt about is adapted and listed in `Frontend.notes`: which axis
is time shows in what grows with the clip. Everything else is reported in one `CallableError`.
Modules run in evaluation mode, and everything without gradients. Whether the mel is the vocoder's
is checked elsewhere, by `melcheck.diagnosis.handshake.handshake`.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from melcheck.probe_clips import TRIED_SECONDS, probe
from melcheck.process_state import their_turn
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import (
    THEIR_ERRORS,
    CallableError,
    NeedsArgumentsError,
    Target,
    as_target,
    blaming,
    called,
    find_object,
    first_form,
    first_line,
    float_tensor,
)
from melcheck.vocoders.base import Vocoder, VocoderWrapper

_Form = Callable[[Tensor], Any]

_BATCHED = "a tensor [batch, samples]"
_FORMS: Mapping[str, _Form] = {
    _BATCHED: lambda waveform: waveform,
    "a tensor [samples]": lambda waveform: waveform[0],
    "a NumPy array [samples]": lambda waveform: waveform[0].cpu().numpy(),
    "a tensor [batch, samples] of float64": lambda waveform: waveform.double(),
    "a tensor [samples] of float64": lambda waveform: waveform[0].double(),
    "a tensor [batch, 1, samples]": lambda waveform: waveform[:, None],
    "a list of NumPy arrays [samples]": lambda waveform: [each.cpu().numpy() for each in waveform],
    "a NumPy array [samples] of int16": lambda waveform: _int16(waveform[0]).numpy(),
    "a tensor [samples] of int16": lambda waveform: _int16(waveform[0]),
    "the path of a WAV file": lambda waveform: _Path(waveform[0].cpu()),
}
# Forms that a function may take as well, and make something else of.
_ALSO = ("a tensor [samples]",)


def _int16(waveform: Tensor) -> Tensor:
    return (waveform * 32_768).round().clamp(-32_768, 32_767).to(torch.int16).cpu()


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """A waveform that is written to a file for the time of a call."""

    waveform: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Frontend:
    """A front end that is called in one way, whatever its own is.

    Attributes:
        name: Name by which it was asked for.
        place: File and line that define it; None where that is not known.
        notes: What had to be adapted, in sentences; empty for a front end that is called as it is.
        frames_first: Whether it returns [frames, n_mels], of which the axes are swapped.
        other: The same front end in another form of call, where that gives a different mel; None
            where all forms that work agree.
        other_form: That form, in words.
    """

    name: str
    place: tuple[Path, int] | None
    notes: tuple[str, ...]
    frames_first: bool
    _target: Target
    _form: _Form
    _item: Any
    _rate: int
    _batched: bool
    other: Frontend | None = None
    other_form: str = ""

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
        batches = [waveform] if self._batched else [item[None] for item in waveform]
        return torch.cat([self._mels(batch) for batch in batches]).to(waveform.device)

    def encode(self, waveform: Tensor) -> Tensor:
        """Do the same, and report in one line what the front end raised.

        Raises:
            CallableError: Whatever went wrong.
        """
        try:
            return self(waveform)
        except THEIR_ERRORS as error:
            raise CallableError(
                f"{self.name} on a waveform of {list(waveform.shape)}: {first_line(error)}"
            ) from error

    def _mels(self, waveform: Tensor) -> Tensor:
        returned = _unlisted(_call(self._target, self._form, waveform, self._rate))
        if self._item is not None:
            with blaming(self.name, "taking the mel out of what it returned"):
                returned = returned[self._item]
        mel, found = float_tensor(returned)
        if mel is None:
            raise CallableError(f"it returned {found}")
        shape = list(mel.shape)
        # Axes of size 1 before the last two are dropped, but for that of the batch.
        inner = [size for size in shape[:-2] if size != 1]
        mel = mel.reshape(*(inner or [1]), *shape[-2:])
        if mel.dim() != 3 or len(mel) != len(waveform):
            raise CallableError(f"it returned {shape} for {len(waveform)} waveforms")
        return mel.transpose(1, 2) if self.frames_first else mel


@dataclass(frozen=True, slots=True, eq=False)
class VocoderWithFrontend(VocoderWrapper):
    """A vocoder whose mels the user's front end extracts. See `melcheck.vocoders.base.Vocoder`."""

    frontend: Frontend
    inner: Vocoder

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the front end's mel of a waveform: see `Frontend.encode`."""
        return self.frontend.encode(waveform)

    def decode(self, mel: Tensor) -> Tensor:
        """Return the vocoder's waveform of a mel."""
        return self.inner.decode(mel)


def load_frontend(
    reference: str, *, expected: MelRecipe = VOCOS, folders: Iterable[Path] = ()
) -> Frontend:
    """Import a front end and find out how it is called.

    Args:
        reference: "package.module:attribute": a function, a class, a `torch.nn.Module`, an object.
        expected: The recipe that it should follow: its rate, and its number of bands where the
            front end returns more than one array.
        folders: Folders searched for the module before what is installed.

    Raises:
        CallableError: It cannot be imported or called, or returns no mel.
    """
    target = find_object(reference, folders=folders)
    return adapt_frontend(target, name=reference, expected=expected)


def adapt_frontend(target: object, *, name: str, expected: MelRecipe = VOCOS) -> Frontend:
    """Find out how a front end is called, by trying.

    Args:
        target: A function, a class that needs no arguments, a `torch.nn.Module`, any callable.
        name: What to call it in messages.
        expected: As in `load_frontend`.

    Raises:
        CallableError: No form of call gives a mel; the message says what the first one gave.
    """
    try:
        ready = as_target(target, name=name, sample_rate=expected.sample_rate)
    except NeedsArgumentsError as error:
        raise CallableError(f"{error}\n{_wrapper(name, error, expected)}") from None
    notes = list(ready.notes)

    def use(form: _Form) -> tuple[Frontend, list[str]]:
        return _tried(ready, form, expected)

    form, (frontend, adapted) = first_form(
        _FORMS,
        use,
        target=ready,
        must=f"{name} must take [batch, samples] and return [batch, n_mels, frames]",
    )
    if form != _BATCHED:
        notes.append(f"{name} is called with {form}, one clip at a time")
    notes += adapted
    batched = form == _BATCHED and _takes_batches(frontend)
    if form == _BATCHED and not batched:
        notes.append(f"{name} takes no batch of two: it is called with one clip at a time")
    other, other_form = _another(frontend, form, use)
    if other is not None:
        notes.append(f"{name} gives a different mel when it is called with {other_form}")
    notes += ready.told_habits()
    return dataclasses.replace(
        frontend, notes=tuple(notes), _batched=batched, other=other, other_form=other_form
    )


def _another(
    frontend: Frontend, form: str, use: Callable[[_Form], tuple[Frontend, list[str]]]
) -> tuple[Frontend | None, str]:
    """Return the front end in another form of call, if it takes it and gives another mel.

    Code for [samples] may take [batch, samples] without an error and slice the wrong axis.
    """
    clip = probe(28_000)[None]
    for also in _ALSO:
        if also == form:
            continue
        try:
            other, _ = use(_FORMS[also])
            one, two = frontend(clip), other(clip)
        except THEIR_ERRORS:
            continue
        if one.shape != two.shape or not torch.allclose(one, two, rtol=0, atol=_SAME_MEL):
            return other, f"called with {also}"
    return None, ""


# Forms of call that round differently are one; slicing the wrong axis moves bins by a nat.
_SAME_MEL = 0.05

# What numbers of a recipe are called in code that takes them as arguments.
_ARGUMENTS = {
    "n_fft": "n_fft fft_size filter_length nfft fft_length",
    "win_length": "win_length win_size window_size window_length",
    "hop_length": "hop_length hop_size hop frame_shift",
    "n_mels": "n_mels num_mels n_mel_channels mel_bins num_mel_bins n_mel",
    "sample_rate": "sample_rate sampling_rate sr fs target_sample_rate samplerate",
    "f_min": "f_min fmin mel_fmin low_freq",
    "f_max": "f_max fmax mel_fmax high_freq",
    "power": "power",
    "norm": "norm",
    "mel_scale": "mel_scale",
}


def _wrapper(name: str, error: NeedsArgumentsError, expected: MelRecipe) -> str:
    """Return a module that can be named instead of what needs arguments, ready to be pasted."""
    module, _, attribute = name.partition(":")
    known = {alias: key for key, names in _ARGUMENTS.items() for alias in names.split()}
    values = {
        each: repr(getattr(expected, known[each])) if each in known else "..."
        for each in error.missing
    }
    arguments = ", ".join(f"{each}={value}" for each, value in values.items())
    outer = attribute.split(".")[0]
    if error.is_class:
        body = (
            f"made = {attribute}({arguments})\n\n\n"
            "def front_end(waveform):\n    return made(waveform)"
        )
    else:
        body = f"def front_end(waveform):\n    return {attribute}(waveform, {arguments})"
    imported = f"from {module} import {outer}\n\n\n" if attribute else ""
    text = f"{imported}{body}"
    lines = "\n".join(f"    {line}".rstrip() for line in text.splitlines())
    return f"Write this as my_front_end.py, and name my_front_end:front_end:\n{lines}"


def _tried(target: Target, form: _Form, expected: MelRecipe) -> tuple[Frontend, list[str]]:
    """Return the front end in a form of call that works, and what of its results was adapted."""
    name, item, shapes, converted = target.name, None, [], ""
    for seconds in TRIED_SECONDS:
        clip = probe(round(seconds * expected.sample_rate), sample_rate=expected.sample_rate)
        returned = _unlisted(_call(target, form, clip[None], expected.sample_rate))
        if isinstance(returned, (Mapping, tuple, list)):
            with their_turn(target.habits):
                item = _chosen(returned, expected.n_mels)
                returned = returned[item]
        mel, converted = float_tensor(returned)
        if mel is None:
            raise CallableError(f"returned {converted}{_hint(converted)}")
        shapes.append(tuple(mel.shape))
    frames_first = _frames_first(*shapes)
    notes = []
    if item is not None:
        notes.append(f"of what {name} returns, item {item!r} is taken as the mel")
    if converted:
        notes.append(f"what {name} returns ({converted}) becomes a float32 tensor")
    if frames_first:
        notes.append(f"{name} returns [frames, n_mels]: its axes are swapped for the vocoder")
    if len(shapes[0]) > 3:
        notes.append(f"{name} returns {len(shapes[0])} axes: those of size 1 are dropped")
    rate = expected.sample_rate
    return Frontend(name, target.place, (), frames_first, target, form, item, rate, False), notes


def _call(target: Target, form: _Form, waveform: Tensor, rate: int) -> Any:
    # A copy, so that what the front end writes into its input stays there.
    given = form(waveform.to(target.device, copy=True))
    if not isinstance(given, _Path):
        return called(target, given)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        soundfile.write(path, given.waveform.numpy(), rate, subtype="FLOAT")
        return called(target, str(path))


def _unlisted(returned: Any) -> Any:
    """Return the one array of a list or a tuple that holds no other."""
    while isinstance(returned, (list, tuple)) and len(returned) == 1:
        returned = returned[0]
    return returned


def _takes_batches(alone: Frontend) -> bool:
    clip = probe(28_000)
    try:
        return len(alone._mels(torch.stack([clip, clip.flip(0)]))) == 2
    except THEIR_ERRORS:
        return False


_MOST_BANDS = 256


def _chosen(returned: Any, n_mels: int) -> Any:
    """Return which item of a dictionary or a tuple is the mel."""
    items = returned.items() if isinstance(returned, Mapping) else enumerate(returned)
    tensors = {key: float_tensor(value)[0] for key, value in items}
    shapes = {
        key: list(each.shape)
        for key, each in tensors.items()
        if each is not None and each.dim() >= 2
    }
    candidates = list(shapes)
    # An energy is [1, frames], a linear spectrum has 513 bins: neither is a mel beside one.
    for choice in (
        lambda shape: n_mels in shape[-2:],
        lambda shape: 1 not in shape[-2:],
        lambda shape: min(shape[-2:]) <= _MOST_BANDS,
    ):
        kept = [key for key in candidates if choice(shapes[key])]
        candidates = kept or candidates
        if len(candidates) == 1:
            return candidates[0]
    named = [key for key in candidates if isinstance(key, str) and "mel" in key.lower()]
    if len(named) == 1:
        return named[0]
    found = ", ".join(f"{key!r} {shape}" for key, shape in shapes.items()) or "no mel"
    raise CallableError(
        f"returned a {type(returned).__name__} with {found}; name a function that returns the "
        "mel alone"
    )


def _frames_first(short: tuple[int, ...], long: tuple[int, ...]) -> bool:
    """Return whether the axis that grew is the one before the last."""
    found = f"returned {list(short)} for a short clip and {list(long)} for a longer one"
    if len(short) < 2 or len(short) != len(long) or set(short[:-2]) | set(long[:-2]) > {1}:
        raise CallableError(f"{found}, which is not one mel")
    if 1 in short[-2:]:
        raise CallableError(f"{found}, which has no bands")
    if short == long:
        raise CallableError(f"{found}: it pads or cuts to a fixed length, take that out")
    if short[-2] == long[-2] and short[-1] < long[-1]:
        return False
    if short[-1] == long[-1] and short[-2] < long[-2]:
        return True
    raise CallableError(f"{found}, in which no axis is the frames")


def _hint(found: str) -> str:
    if found.startswith("complex"):
        return ": a complex spectrum. Take its magnitude, the mel bands and the logarithm first"
    if found.startswith(("int", "uint", "bool")):
        return ": a mel must be floating point"
    return ""
