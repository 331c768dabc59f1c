"""Adapt the user's own vocoder, any callable mel -> waveform, as a `Vocoder`.

How it is called is found out by trying it on the mels of two probe clips. Its mel is that of its
attribute `recipe`, a `melcheck.MelRecipe` or the name of a profile; without one it is the recipe
that the run expects, else that of Vocos at 24 kHz. It must return as many samples as the recipe
says; a constant surplus of at most one transform is cut off at the end. A function of no arguments
makes the vocoder. Code that takes a batch gets one; other code gets the items one by one. A method
`decode_batch(mels)` takes a list of `[n_mels, frames]` of different lengths and returns a waveform
for each, which `melcheck.diagnosis.vocoder` compares with what each mel gives alone. What was
adapted is listed in `CallableVocoder.notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melcheck.probe_clips import TRIED_SECONDS, probe
from melcheck.process_state import their_turn
from melcheck.profiles import profile
from melcheck.recipes import VOCOS, MelRecipe, log_mel
from melcheck.user_code import (
    THEIR_ERRORS,
    CallableError,
    Target,
    as_target,
    blaming,
    called,
    find_object,
    first_form,
    float_tensor,
    made_by,
    outcome,
)
from melcheck.vocoders.base import VocoderInfo, check_mel, check_waveform
from melcheck.vocoders.weights import VocoderError

INT16_FULL_SCALE = 32_768.0
"""What code that returns int16 calls full scale."""

_CPU = torch.device("cpu")

_NAME_A_RECIPE = (
    'give it an attribute `recipe`, the name of a profile ("hifigan-22k") or a melcheck.MelRecipe, '
    "or set mel_profile"
)

_Form = Callable[[Tensor], Any]

_USUAL = "a tensor [batch, n_mels, frames]"
_FORMS: Mapping[str, _Form] = {
    _USUAL: lambda mel: mel,
    "a tensor [n_mels, frames]": lambda mel: mel[0],
    "a tensor [batch, frames, n_mels]": lambda mel: mel.transpose(1, 2),
    "a tensor [frames, n_mels]": lambda mel: mel[0].T,
    "a NumPy array [n_mels, frames]": lambda mel: mel[0].cpu().numpy(),
    "a NumPy array [batch, n_mels, frames]": lambda mel: mel.cpu().numpy(),
    "a NumPy array [frames, n_mels]": lambda mel: mel[0].T.cpu().numpy(),
}
_BATCHED_FORMS = tuple(name for name in _FORMS if "[batch, " in name)


@dataclass(frozen=True, slots=True, eq=False)
class CallableVocoder:
    """The user's code that decodes mels. See `melcheck.vocoders.base.Vocoder`.

    Attributes:
        info: Its name, and the file that defines it.
        recipe: Recipe of the mel that it is assumed to decode.
        device: Device of its input and its result.
        notes: What was adapted or assumed, in sentences.
        place: File and line that define it; None where that is not known.
    """

    info: VocoderInfo
    recipe: MelRecipe
    device: torch.device
    notes: tuple[str, ...]
    place: tuple[Path, int] | None
    _target: Target
    _form: _Form
    _batched: bool
    _decode_list: Callable[[list[Tensor]], Any] | None

    @property
    def context_frames(self) -> None:
        """Frames on which a sample depends: unknown."""
        return

    @property
    def magnifies_rounding(self) -> bool:
        """Whether it magnifies rounding: unknown, and not assumed."""
        return False

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of its recipe: see `Vocoder.encode`."""
        check_waveform(waveform, self.recipe)
        return log_mel(waveform, self.recipe)

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of each mel: see `Vocoder.decode`.

        Raises:
            ValueError: Another shape, or what the code raises or returns instead of a waveform.
        """
        check_mel(mel, self.recipe, min_frames=1)
        waveforms = []
        for batch in [mel] if self._batched else [item[None] for item in mel]:
            try:
                found = _waveforms(self._target, self._form, batch)
            except THEIR_ERRORS as error:
                raise self._error(error, f"a mel of {list(batch.shape)}") from error
            waveforms.append(found[:, : self.recipe.num_samples(mel.shape[2])])
        return torch.cat(waveforms).to(self.device)

    @property
    def decodes_lists(self) -> bool:
        """Whether it has a method `decode_batch` for mels of different lengths."""
        return self._decode_list is not None

    def decode_list(self, mels: Sequence[Tensor]) -> list[Tensor]:
        """Return the waveform, `[samples]`, of each mel, `[n_mels, frames]`, by `decode_batch`.

        Raises:
            ValueError: It has none, or what that raises or returns instead of the waveforms.
        """
        if self._decode_list is None:
            raise ValueError(f"{self.info.name} must have a method decode_batch, it has none.")
        try:
            with their_turn(self._target.habits), torch.no_grad():
                returned = list(self._decode_list([mel.clone() for mel in mels]))
            if len(returned) != len(mels):
                raise CallableError(f"returned {len(returned)} waveforms")
            found = [_float_waveforms(waveform, items=1)[0] for waveform in returned]
        except THEIR_ERRORS as error:
            raise self._error(error, f"a list of {len(mels)} mels (decode_batch)") from error
        lengths = [self.recipe.num_samples(mel.shape[-1]) for mel in mels]
        return [waveform[:length] for waveform, length in zip(found, lengths, strict=True)]

    def _error(self, error: BaseException, given: str) -> ValueError:
        return ValueError(f"{self.info.name} on {given} {outcome(error)}.")


def load_callable_vocoder(
    reference: str,
    *,
    device: torch.device,
    folders: Iterable[Path] = (),
    expected: MelRecipe | None = None,
) -> CallableVocoder:
    """Import a vocoder and find out how it is called.

    Args:
        reference: "package.module:attribute": a function, a class, a `torch.nn.Module`, an object;
            one with a method `decode`, as `vocos.Vocos` has, is called by that; a function without
            arguments is called once, and makes one of these.
        device: Device of mels and waveforms.
        folders: Folders searched for the module before what is installed.
        expected: Recipe of its mel where it names none; None for that of Vocos.

    Raises:
        VocoderError: It cannot be imported or called, or returns no waveform of the mel.
    """
    try:
        target = find_object(reference, folders=folders)
        return adapt_vocoder(target, name=reference, device=device, expected=expected)
    except CallableError as error:
        raise VocoderError(str(error)) from error


def adapt_vocoder(
    target: object,
    *,
    name: str,
    device: torch.device = _CPU,
    expected: MelRecipe | None = None,
) -> CallableVocoder:
    """Find out how a vocoder is called, by trying.

    Args:
        target: Any callable mel -> waveform, or a class of such objects.
        name: What to call it in messages.
        device: Device of mels and waveforms.
        expected: As in `load_callable_vocoder`.

    Raises:
        CallableError: No form of call gives a waveform of the mel; the message says what the first
            one gave, and that no recipe was named where that may be why.
    """
    made, notes = made_by(target, name)
    with blaming(name, "reading its attributes `decode` and `decode_batch`"):
        decode, decode_list = getattr(made, "decode", None), getattr(made, "decode_batch", None)
    if callable(decode):
        notes.append(f"{name} has a method `decode`, which is what is called")
    with blaming(name, "reading its attribute `recipe`"):
        own = _own_recipe(made, target, name)
    recipe = own or expected or VOCOS
    if own is None and expected is None:
        notes.append(
            f"{name} names no recipe: its mel is assumed to be that of Vocos at 24 kHz; for "
            f"another, {_NAME_A_RECIPE}"
        )
    ready = as_target(
        decode if callable(decode) else made, name=name, sample_rate=recipe.sample_rate
    )
    notes += ready.notes
    try:
        form, surplus = first_form(
            _FORMS,
            lambda form: _surplus(ready, form, recipe),
            target=ready,
            must=f"{name} must make a waveform of a mel",
        )
    except CallableError as error:
        if own is not None:
            raise
        tried = "of the profile" if expected is not None else "of Vocos at 24 kHz"
        raise CallableError(
            f"{error} It names no recipe, so the mel {tried} was tried: {recipe.n_mels} bands at "
            f"{recipe.sample_rate:,} Hz. If its mel is another, {_NAME_A_RECIPE}."
        ) from error.__cause__
    if form != _USUAL:
        notes.append(f"{name} is called with {form}")
    if surplus:
        notes.append(
            f"{name} returns {surplus} samples more than the recipe's frames span: the last "
            f"{surplus} are cut off"
        )
    notes += ready.told_habits()
    module = isinstance(made, torch.nn.Module)
    info = VocoderInfo(
        name=name,
        source="code" if ready.place is None else f"{ready.place[0]}:{ready.place[1]}",
        num_parameters=sum(each.numel() for each in made.parameters()) if module else 0,
    )
    return CallableVocoder(
        info,
        recipe,
        device,
        tuple(notes),
        ready.place,
        ready,
        _FORMS[form],
        form in _BATCHED_FORMS and _takes_batches(ready, _FORMS[form], recipe),
        decode_list if callable(decode_list) else None,
    )


def _own_recipe(made: object, target: object, name: str) -> MelRecipe | None:
    """Return the recipe that a vocoder, or the function that made it, has; None without."""
    found = getattr(made, "recipe", None) or getattr(target, "recipe", None)
    if isinstance(found, str):
        try:
            return profile(found)
        except ValueError as error:
            raise CallableError(f"{name}: its {error}") from None
    return found if isinstance(found, MelRecipe) else None


def _surplus(target: Target, form: _Form, recipe: MelRecipe) -> int:
    """Return by how many samples the code's waveforms exceed the recipe's."""
    surplus, found = [], []
    for seconds in TRIED_SECONDS:
        mel = _probe_mel(seconds, recipe)
        samples = _waveforms(target, form, mel).shape[-1]
        frames = mel.shape[-1]
        expected = recipe.num_samples(frames)
        surplus.append(samples - expected)
        found.append(f"{samples} samples for {frames} frames, where {expected} are expected")
    if surplus[0] == surplus[1] and 0 <= surplus[0] <= recipe.n_fft:
        return surplus[0]
    if surplus[0] == surplus[1]:
        how = f"{abs(surplus[0]):,} samples {'fewer' if surplus[0] < 0 else 'more'}"
        cause = f"always {how}: its ends are {'cut' if surplus[0] < 0 else 'padded'}"
    else:
        cause = "it has a different hop length or sampling rate"
    raise CallableError(f"returned {' and '.join(found)}: {cause}")


def _probe_mel(seconds: float, recipe: MelRecipe) -> Tensor:
    rate = recipe.sample_rate
    return log_mel(probe(round(seconds * rate), sample_rate=rate)[None], recipe)


def _takes_batches(target: Target, form: _Form, recipe: MelRecipe) -> bool:
    mel = _probe_mel(TRIED_SECONDS[0], recipe)
    try:
        return len(_waveforms(target, form, mel.repeat(2, 1, 1))) == 2
    except THEIR_ERRORS:
        return False


def _waveforms(target: Target, form: _Form, mel: Tensor) -> Tensor:
    """Return what the code makes of mels, `[batch, samples]`."""
    returned = called(target, form(mel.to(target.device, copy=True)))
    return _float_waveforms(returned, items=len(mel))


def _float_waveforms(returned: Any, *, items: int) -> Tensor:
    scale = 1.0
    if isinstance(returned, np.ndarray) and returned.dtype == np.int16:
        scale, returned = INT16_FULL_SCALE, returned.astype("float32")
    elif isinstance(returned, Tensor) and returned.dtype == torch.int16:
        scale, returned = INT16_FULL_SCALE, returned.float()
    waveform, found = float_tensor(returned)
    if waveform is None:
        raise CallableError(f"returned {found}")
    shape = list(waveform.shape)
    if waveform.numel() != items * shape[-1] or (items > 1 and shape[0] != items):
        number = "one waveform" if items == 1 else f"{items} waveforms"
        raise CallableError(f"returned {shape}, which is not {number}")
    return waveform.reshape(items, -1) / scale
