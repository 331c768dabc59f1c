"""A vocoder of the user's: any callable mel -> waveform, as a `melcheck.vocoders.base.Vocoder`.

How it is called is found out by trying it on the mels of two probe clips. Its mel is that of its
attribute `recipe`, a `melcheck.MelRecipe`, and of Vocos at 24 kHz without one. It must return as
many samples as the recipe says; a constant surplus of at most one transform is cut off at the end.
All that was adapted is said in `CallableVocoder.notes`, the rest in one `VocoderError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from melcheck.probe_clips import probe
from melcheck.recipes import VOCOS, MelRecipe, log_mel
from melcheck.user_code import (
    THEIR_ERRORS,
    CallableError,
    Target,
    as_target,
    find_object,
    first_line,
    float_tensor,
    instance,
)
from melcheck.vocoders.base import VocoderInfo
from melcheck.vocoders.weights import VocoderError

_PROBE_SECONDS = (28_000 / 24_000, 48_000 / 24_000)
_TOLD_REFUSALS = 2
_INT16_FULL_SCALE = 32_768.0

_FORMS: tuple[tuple[str, Callable[[Tensor], Any]], ...] = (
    ("a tensor [batch, n_mels, frames]", lambda mel: mel),
    ("a tensor [n_mels, frames]", lambda mel: mel[0]),
    ("a tensor [batch, frames, n_mels]", lambda mel: mel.transpose(1, 2)),
    ("a tensor [frames, n_mels]", lambda mel: mel[0].T),
    ("a NumPy array [n_mels, frames]", lambda mel: mel[0].cpu().numpy()),
    ("a NumPy array [batch, n_mels, frames]", lambda mel: mel.cpu().numpy()),
    ("a NumPy array [frames, n_mels]", lambda mel: mel[0].T.cpu().numpy()),
)


@dataclass(frozen=True, slots=True, eq=False)
class CallableVocoder:
    """Code of the user's that makes waveforms of mels. See `melcheck.vocoders.base.Vocoder`.

    Attributes:
        info: Its name, and the file that defines it.
        recipe: The mel that it is taken to be made for.
        device: Where its input comes from and its result goes to.
        notes: What was adapted or assumed, in sentences.
        place: The file and the line that define it; None where that is not known.
    """

    info: VocoderInfo
    recipe: MelRecipe
    device: torch.device
    notes: tuple[str, ...]
    place: tuple[Path, int] | None
    _target: Target
    _form: Callable[[Tensor], Any]

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of its recipe: see `Vocoder.encode`."""
        if waveform.dim() != 2:
            raise ValueError(f"waveform must be [batch, samples], got {list(waveform.shape)}.")
        return log_mel(waveform, self.recipe)

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of each mel, one by one: see `Vocoder.decode`.

        Raises:
            ValueError: Another shape, or what the code raises or returns instead of a waveform.
        """
        if mel.dim() != 3 or mel.shape[1] != self.recipe.n_mels:
            raise ValueError(
                f"mel must be [batch, {self.recipe.n_mels}, frames], got {list(mel.shape)}."
            )
        waveforms = []
        for item in mel:
            waveform = _waveform(self._target, self._form, item[None])
            if isinstance(waveform, str):
                raise ValueError(f"{self.info.name} on a mel of {list(item.shape)} {waveform}.")
            waveforms.append(waveform[: self.recipe.num_samples(mel.shape[2])])
        return torch.stack(waveforms).to(self.device)


def load_callable_vocoder(
    reference: str, *, device: torch.device, folders: Iterable[Path] = ()
) -> CallableVocoder:
    """Import a vocoder and find out how it is called.

    Args:
        reference: "package.module:attribute": a function, a class, a `torch.nn.Module`, an object;
            one with a method `decode`, as `vocos.Vocos` has, is called by that.
        device: Where mels are and waveforms go.
        folders: Searched for the module before what is installed.

    Raises:
        VocoderError: It cannot be imported or called, or returns no waveform of the mel.
    """
    try:
        return adapt_vocoder(find_object(reference, folders=folders), name=reference, device=device)
    except CallableError as error:
        reason = str(error)
    raise VocoderError(reason)


def adapt_vocoder(
    target: object, *, name: str, device: torch.device | None = None
) -> CallableVocoder:
    """Find out how a vocoder is called, by trying.

    Args:
        target: Any callable mel -> waveform, or a class of such objects.
        name: What to call it in messages.
        device: Where mels are and waveforms go; None for the CPU.

    Raises:
        VocoderError: No form of call gives a waveform of the mel.
    """
    try:
        made, notes = instance(target, name)
        decode = getattr(made, "decode", None)
        if callable(decode):
            notes.append(f"{name} has a method `decode`, which is what is called")
        recipe = getattr(made, "recipe", None)
        if not isinstance(recipe, MelRecipe):
            recipe = VOCOS
            notes.append(
                f"{name} names no recipe: its mel is taken to be that of Vocos at 24 kHz; for "
                "another, give it an attribute `recipe`, a melcheck.MelRecipe"
            )
        ready = as_target(
            decode if callable(decode) else made, name=name, sample_rate=recipe.sample_rate
        )
    except CallableError as error:
        raise VocoderError(str(error)) from None
    notes += ready.notes
    refusals: dict[str, str] = {}
    for form_name, form in _FORMS:
        cut = _try(ready, form, recipe)
        if isinstance(cut, str):
            refusals.setdefault(cut, form_name)
            continue
        if form is not _FORMS[0][1]:
            notes.append(f"{name} is called with {form_name}")
        if cut:
            notes.append(
                f"{name} returns {cut} samples more than the recipe's frames span: the last "
                f"{cut} are cut off"
            )
        return CallableVocoder(
            info=_info(name, made, ready),
            recipe=recipe,
            device=device or torch.device("cpu"),
            notes=tuple(notes),
            place=ready.place,
            _target=ready,
            _form=form,
        )
    told = "; ".join(
        f"with {form} it {refusal}" for refusal, form in list(refusals.items())[:_TOLD_REFUSALS]
    )
    raise VocoderError(f"{name} must make a waveform of a mel: {told}.")


def _try(target: Target, form: Callable[[Tensor], Any], recipe: MelRecipe) -> int | str:
    """Return by how many samples a form of call exceeds the recipe, or why it does not work."""
    surplus, told = [], []
    for seconds in _PROBE_SECONDS:
        rate = recipe.sample_rate
        clip = probe(round(seconds * rate), sample_rate=rate)
        mel = log_mel(clip[None], recipe)
        waveform = _waveform(target, form, mel)
        if isinstance(waveform, str):
            return waveform
        expected = recipe.num_samples(mel.shape[-1])
        surplus.append(len(waveform) - expected)
        told.append(
            f"{len(waveform)} samples for {mel.shape[-1]} frames, where {expected} are expected"
        )
    if surplus[0] == surplus[1] and 0 <= surplus[0] <= recipe.n_fft:
        return surplus[0]
    return f"returned {' and '.join(told)}: its hop length or its sampling rate is another"


def _waveform(target: Target, form: Callable[[Tensor], Any], mel: Tensor) -> Tensor | str:
    """Return what the code makes of one mel, `[samples]`, or in words why that is no waveform."""
    try:
        with torch.no_grad():
            returned = target.call(form(mel.to(target.device, copy=True)))
    # Whatever the user's own code raises is the finding.
    except THEIR_ERRORS as error:
        return f"raised {first_line(error)}"
    scale = 1.0
    if str(getattr(returned, "dtype", "")).removeprefix("torch.") == "int16":
        scale = _INT16_FULL_SCALE
        returned = returned.astype("float32") if hasattr(returned, "astype") else returned.float()
    waveform, told = float_tensor(returned)
    if waveform is None:
        return f"returned {told}"
    if waveform.numel() != waveform.shape[-1:].numel():
        return f"returned {list(waveform.shape)}, which is not one waveform"
    return waveform.reshape(-1) / scale


def _info(name: str, target: object, ready: Target) -> VocoderInfo:
    size = 0
    if isinstance(target, torch.nn.Module):
        size = sum(parameter.numel() for parameter in target.parameters())
    source = "code" if ready.place is None else f"{ready.place[0]}:{ready.place[1]}"
    return VocoderInfo(
        name=name,
        source=source,
        revision=None,
        weights_sha256=None,
        config_sha256=None,
        num_parameters=size,
    )
