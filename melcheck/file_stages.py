"""Adapt the two stages of the user's that work on files: the loader and the saver.

    loader   path -> waveform, or (waveform, rate)
    saver    (path, waveform, rate) -> a file at that path

The forms in which such functions are written are tried on a short file; what had to be adapted is
listed in `notes`. A waveform that is returned without a rate is taken to be at the recipe's. Its
samples stay as they are: integers are not scaled, channels are not mixed. Whether they are those of
the file is checked elsewhere: `melcheck.diagnosis.loader` and `melcheck.diagnosis.saver`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor

from melcheck.audio import LoadedAudio, check_length, load_audio
from melcheck.config import MelCheckConfig
from melcheck.probe_clips import probe
from melcheck.recipes import VOCOS
from melcheck.user_code import (
    THEIR_ERRORS,
    CallableError,
    Target,
    as_target,
    called,
    find_object,
    first_form,
    outcome,
)

_RATE_NAMES = ("sample_rate", "sampling_rate", "rate", "sr", "fs")

_PathForm = Callable[[Path], Any]
_PATH_FORMS: Mapping[str, _PathForm] = {
    "a path as text": str,
    "a pathlib.Path": lambda path: path,
}

_SaveForm = Callable[[Path, Tensor, int], tuple[Any, ...]]
_USUAL_SAVE = "(path, tensor [1, samples], rate)"
_SAVE_FORMS: Mapping[str, _SaveForm] = {
    _USUAL_SAVE: lambda path, waveform, rate: (str(path), waveform, rate),
    "(path, tensor [samples], rate)": lambda path, waveform, rate: (str(path), waveform[0], rate),
    "(path, array [samples], rate)": lambda path, waveform, rate: (
        str(path),
        waveform[0].numpy(),
        rate,
    ),
    "(tensor [1, samples], path, rate)": lambda path, waveform, rate: (waveform, str(path), rate),
    "(array [samples], path, rate)": lambda path, waveform, rate: (
        waveform[0].numpy(),
        str(path),
        rate,
    ),
    "(path, rate, array [samples])": lambda path, waveform, rate: (
        str(path),
        rate,
        waveform[0].numpy(),
    ),
    "(path, tensor [1, samples])": lambda path, waveform, _: (str(path), waveform),
    "(path, array [samples])": lambda path, waveform, _: (str(path), waveform[0].numpy()),
}
_SAVE_INPUTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Loader:
    """The user's loader, called in one way.

    Attributes:
        name: Name by which it was asked for.
        place: File and line that define it; None where that is not known.
        notes: What had to be adapted, in sentences.
    """

    name: str
    place: tuple[Path, int] | None
    notes: tuple[str, ...]
    _target: Target
    _form: _PathForm

    def __call__(self, path: Path) -> tuple[Tensor, int | None]:
        """Return what it makes of a file.

        Returns:
            `[channels, samples]`, float32, values as returned; and the rate that it returned beside
            them, in Hz, None for none.

        Raises:
            CallableError: What it raised, or returned instead of a waveform, in one line.
        """
        try:
            return _samples_and_rate(called(self._target, self._form(path)))
        except THEIR_ERRORS as error:
            raise CallableError(f"{self.name} on {path.name} {outcome(error)}") from error

    def load_audio(self, config: MelCheckConfig, *, min_samples: int = 1) -> LoadedAudio:
        """Read a file as `melcheck.audio.load_audio` does, with the samples of this loader.

        A rate that it returns and that is not the configured one is resampled.

        Raises:
            AudioError: melcheck cannot read the file, or there are too few samples.
            CallableError: It raised, or returned no single channel.
        """
        audio = load_audio(config, min_samples=min_samples)
        samples, rate = self(config.audio_path)
        if len(samples) != 1:
            raise CallableError(
                f"{self.name} on {config.audio_path.name} returned {len(samples)} channels where "
                "one is expected. Mix down with waveform.mean(dim=0)."
            )
        if rate not in (None, config.target_sr):
            samples = torchaudio.functional.resample(samples, rate, config.target_sr)
        samples = samples[:, : config.target_samples].contiguous()
        check_length(config, samples.shape[-1], min_samples)
        return dataclasses.replace(
            audio, waveform=samples, valid_samples=samples.shape[-1], decoder=self.name
        )


@dataclass(frozen=True, slots=True, eq=False)
class Saver:
    """The user's saver, called in one way.

    Attributes:
        name: Name by which it was asked for.
        place: File and line that define it; None where that is not known.
        notes: What had to be adapted, in sentences.
    """

    name: str
    place: tuple[Path, int] | None
    notes: tuple[str, ...]
    _target: Target
    _form: _SaveForm

    def __call__(self, path: Path, waveform: Tensor, rate: int) -> None:
        """Write a waveform, `[1, samples]`, to a path that ends in ".wav".

        Raises:
            CallableError: What it raised, in one line, or that it wrote no file there.
        """
        try:
            _save(self._target, self._form, path, waveform, rate)
        except THEIR_ERRORS as error:
            raise CallableError(f"{self.name} {outcome(error)}") from error


def load_loader(
    reference: str, *, sample_rate: int = VOCOS.sample_rate, folders: Iterable[Path] = ()
) -> Loader:
    """Import a loader and find out how it is called.

    Args:
        reference: "package.module:attribute": a function, a class, an object that can be called.
        sample_rate: Hz of the recipe, which an argument for a rate is given.
        folders: Folders searched for the module before what is installed.

    Raises:
        CallableError: It cannot be imported or called, or returns no waveform.
    """
    target = find_object(reference, folders=folders)
    return adapt_loader(target, name=reference, sample_rate=sample_rate)


def load_saver(
    reference: str, *, sample_rate: int = VOCOS.sample_rate, folders: Iterable[Path] = ()
) -> Saver:
    """Import a saver and find out how it is called: see `load_loader`."""
    target = find_object(reference, folders=folders)
    return adapt_saver(target, name=reference, sample_rate=sample_rate)


def adapt_loader(target: object, *, name: str, sample_rate: int = VOCOS.sample_rate) -> Loader:
    """Find out how a loader is called, by trying it on a WAV file of the recipe's rate.

    Raises:
        CallableError: No form of call gives a waveform; the message says what the first one gave.
    """
    ready = as_target(target, name=name, sample_rate=sample_rate)
    with _short_wav(sample_rate) as path:
        form, (_, rate) = first_form(
            _PATH_FORMS,
            lambda form: _samples_and_rate(called(ready, form(path))),
            target=ready,
            must=f"{name} must take a path and return a waveform, or (waveform, rate)",
        )
    notes = list(ready.notes)
    if rate is None:
        notes.append(f"{name} returns no rate: its waveform is taken to be at the recipe's")
    notes += ready.told_habits()
    return Loader(name, ready.place, tuple(notes), ready, _PATH_FORMS[form])


def adapt_saver(target: object, *, name: str, sample_rate: int = VOCOS.sample_rate) -> Saver:
    """Find out how a saver is called, by trying to write a short waveform.

    Raises:
        CallableError: No form of call writes a file; the message says what the first one did.
    """
    rate = sample_rate
    ready = as_target(target, name=name, sample_rate=rate, inputs=_SAVE_INPUTS)
    waveform = probe(rate // 2, sample_rate=rate)[None]
    with tempfile.TemporaryDirectory() as folder:
        paths = (Path(folder) / f"{number}.wav" for number in range(len(_SAVE_FORMS)))
        form, _ = first_form(
            _SAVE_FORMS,
            lambda form: _save(ready, form, next(paths), waveform, rate),
            target=ready,
            must=f"{name} must take (path, waveform, rate) and write a file",
        )
    notes = list(ready.notes)
    if form != _USUAL_SAVE:
        notes.append(f"{name} is called with {form}")
    notes += ready.told_habits()
    return Saver(name, ready.place, tuple(notes), ready, _SAVE_FORMS[form])


@contextlib.contextmanager
def _short_wav(rate: int) -> Iterator[Path]:
    import soundfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.wav"
        soundfile.write(path, probe(rate // 2, sample_rate=rate).numpy(), rate)
        yield path


def _save(target: Target, form: _SaveForm, path: Path, waveform: Tensor, rate: int) -> None:
    # A copy, so that what the saver writes into its input stays there.
    called(target, *form(path, waveform.detach().cpu().clone(), rate))
    if not path.is_file() or not path.stat().st_size:
        raise CallableError("wrote no file at the path that it was given")


def _samples_and_rate(returned: object) -> tuple[Tensor, int | None]:
    """Return `[channels, samples]` and the rate, None for none, of what a loader returned."""
    if isinstance(returned, Mapping):
        parts = list(returned.values())
        rates = [value for key, value in returned.items() if str(key).lower() in _RATE_NAMES]
    elif isinstance(returned, (tuple, list)):
        parts = list(returned)
        rates = [part for part in parts if _is_number(part)]
    else:
        # As torchcodec's AudioSamples.
        rate = getattr(returned, "sample_rate", None)
        parts = [returned if rate is None else getattr(returned, "data", returned)]
        rates = [] if rate is None else [rate]
    waveforms = [part for part in parts if isinstance(part, (np.ndarray, Tensor)) and part.ndim]
    if len(waveforms) != 1 or len(rates) > 1:
        raise CallableError(
            f"returned {_kind(returned)}. Return the waveform, or (waveform, rate)."
        )
    return _channels_first(waveforms[0]), round(float(rates[0])) if rates else None


def _is_number(value: object) -> bool:
    scalar = isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0
    return scalar or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def _kind(returned: object) -> str:
    if isinstance(returned, Mapping):
        return f"a {type(returned).__name__} with {', '.join(map(str, returned))}"
    if isinstance(returned, (tuple, list)):
        inside = ", ".join(type(part).__name__ for part in returned[:_SAVE_INPUTS])
        return f"a {type(returned).__name__} of {len(returned)} ({inside})"
    return f"{type(returned).__name__}, no array"


def _channels_first(waveform: Any) -> Tensor:
    if isinstance(waveform, np.ndarray):
        if waveform.dtype.kind not in "fiu":
            raise CallableError(f"returned an array of {waveform.dtype}, no waveform")
        waveform = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float64))
    if waveform.is_complex() or waveform.dtype == torch.bool:
        raise CallableError(f"returned a tensor of {waveform.dtype}, no waveform")
    shape = list(waveform.shape)
    found: Tensor = waveform.detach().cpu().float()
    sizes = [size for size in shape if size != 1]
    if not found.numel() or len(sizes) > 2:
        raise CallableError(f"returned {shape}, which is no waveform")
    if len(sizes) < 2:
        return found.reshape(1, -1)
    found = found.reshape(sizes)
    return found if sizes[0] < sizes[1] else found.T.contiguous()
