"""Vocoders: what turns a mel into sound again, each with the proof of which one it is.

`official` is charactr/vocos-mel-24khz, `embedded` the small Vocos inside the package, `griffin-lim`
a baseline without any training; a directory or a repository on the hub serves as well. One is never
swapped for another: what cannot be had raises.

A waveform is `[batch, samples]`, a mel `[batch, n_mels, frames]`, both float32 and on the vocoder's
device.

References:
    H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814.
    D. Griffin and J. Lim, "Signal estimation from modified short-time Fourier transform", 1984,
    https://doi.org/10.1109/TASSP.1984.1164317; in the fast variant of N. Perraudin, P. Balazs and
    P. Sondergaard, 2013, https://doi.org/10.1109/WASPAA.2013.6701851.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torchaudio
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures

from melcheck.recipes import VOCOS, MelRecipe, filterbank
from melcheck.user_code import is_reference
from melcheck.vocoders.checkpoint import build_vocos
from melcheck.vocoders.hub import hub_files, official_in_cache
from melcheck.vocoders.weights import (
    EMBEDDED_SHA256,
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    OFFICIAL_SHA256,
    VocoderError,
    VocoderFiles,
    VocoderUnavailable,
    embedded_files,
    local_files,
)

__all__ = [
    "EMBEDDED_SHA256",
    "OFFICIAL_REPO",
    "OFFICIAL_REVISION",
    "OFFICIAL_SHA256",
    "VOCOS_MIN_FRAMES",
    "GriffinLimVocoder",
    "Vocoder",
    "VocoderError",
    "VocoderInfo",
    "VocoderUnavailable",
    "VocosVocoder",
    "check_mel",
    "check_waveform",
    "full_float32",
    "load_vocoder",
    "official_in_cache",
]

_NAMES = ("official", "embedded", "griffin-lim")
_HUB_ID = re.compile(r"(?P<repo_id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^\s@]+))?")

# Measured on eight LJ Speech readings: 32 iterations give an MAE of 0.111 on the log-mel with
# momentum 0.99 and 0.133 without. Starting from zero phase is as good as from random phase (SNR
# 21.1 and 21.0 dB), and needs no random numbers.
_ITERATIONS = 32
_MOMENTUM = 0.99

# With `center`, one frame stands for no sample at all. Griffin-Lim transforms its own output again
# and again, so that must be long enough to be extracted: 513 samples, hence 4 frames.
VOCOS_MIN_FRAMES = 2
_GRIFFIN_LIM_MIN_FRAMES = 1 + math.ceil(VOCOS.min_samples / VOCOS.hop_length)


@dataclass(frozen=True, slots=True)
class VocoderInfo:
    """Which vocoder this is. Every report prints it.

    Attributes:
        name: "official", "embedded", "griffin-lim", the directory, or the hub id.
        source: Where it came from: "charactr/vocos-mel-24khz@0feb3fdd929b", "melcheck package".
        revision: The full commit hash on the hub; None for what has no revisions.
        weights_sha256: Hash of the file of weights; None without weights.
        config_sha256: Hash of the configuration; None without one.
        num_parameters: Number of trained values; 0 for Griffin-Lim.
    """

    name: str
    source: str
    revision: str | None
    weights_sha256: str | None
    config_sha256: str | None
    num_parameters: int


class Vocoder(Protocol):
    """What every vocoder offers. `load_vocoder` makes one."""

    @property
    def info(self) -> VocoderInfo:
        """Which vocoder this is."""
        ...

    @property
    def recipe(self) -> MelRecipe:
        """The mel that it was made for."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and where its input must be."""
        ...

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the vocoder's own log-mel of a waveform, as `MelSpectrogramFeatures` makes it.

        Shape:
            `[batch, samples]` -> `[batch, n_mels, recipe.frames(samples)]`

        Raises:
            ValueError: Another shape, or fewer than `recipe.min_samples` samples.
        """
        ...

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform that the vocoder hears in a log-mel. No gradient passes through.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, recipe.num_samples(frames)]`

        Raises:
            ValueError: Another shape, or too few frames: 2 for Vocos, 4 for Griffin-Lim.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class VocosVocoder:
    """A trained `vocos.Vocos`, kept in `model`. See `Vocoder`."""

    info: VocoderInfo
    recipe: MelRecipe
    device: torch.device
    model: Vocos

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of a waveform: see `Vocoder.encode`."""
        check_waveform(waveform, self.recipe)
        mel: Tensor = self.model.feature_extractor(waveform)
        return mel

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of a log-mel: see `Vocoder.decode`.

        Convolutions run in full float32 on CUDA too, where torch would allow TF32: its 10 bits of
        mantissa move the reconstructed mel further than 1 % of noise in a layer's weights.
        """
        check_mel(mel, self.recipe, min_frames=VOCOS_MIN_FRAMES)
        with full_float32, torch.inference_mode():
            waveform: Tensor = self.model.decode(mel)
        return waveform

    @torch.inference_mode()
    def features(self, mel: Tensor) -> Tensor:
        """Return what the backbone hands to the head, the first half of `decode`.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, channels]`
        """
        with full_float32:
            features: Tensor = self.model.backbone(mel)
        return features

    @torch.inference_mode()
    def sound(self, features: Tensor, *, first_frame: int = 0) -> Tensor:
        """Return the waveform that the head makes of features, the second half of `decode`.

        `first_frame` is for a `ConsistentISTFTHead`, where the features go on from earlier ones:
        see `Consistency.advancing`.

        Shape:
            `[batch, frames, channels]` -> `[batch, recipe.num_samples(frames)]`
        """
        with full_float32:
            resumed = (first_frame,) if first_frame else ()
            waveform: Tensor = self.model.head(features, *resumed)
        return waveform


@dataclass(frozen=True, slots=True, eq=False)
class GriffinLimVocoder:
    """A vocoder without training: magnitudes that fit the mel, and a phase that fits them.

    It is deterministic. See `Vocoder`.

    Attributes:
        extractor: The mel of Vocos.
        inverse: `[n_fft // 2 + 1, n_mels]`, the pseudo-inverse of the transposed filterbank.
        window: `[win_length]`, the extractor's.
        iterations: How often the phase is made consistent.
    """

    info: VocoderInfo
    recipe: MelRecipe
    device: torch.device
    extractor: MelSpectrogramFeatures
    inverse: Tensor
    window: Tensor
    iterations: int = _ITERATIONS

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of a waveform: see `Vocoder.encode`."""
        check_waveform(waveform, self.recipe)
        mel: Tensor = self.extractor(waveform)
        return mel

    @torch.inference_mode()
    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of a log-mel: see `Vocoder.decode`."""
        check_mel(mel, self.recipe, min_frames=_GRIFFIN_LIM_MIN_FRAMES)
        # mel = log(F^T |S|), so the least-squares |S| is pinv(F^T) exp(mel). It has small negative
        # values between the bands, where no magnitude can be: they become zero.
        magnitude = torch.clamp(self.inverse @ torch.exp(mel), min=0.0)
        waveform: Tensor = torchaudio.functional.griffinlim(
            magnitude,
            window=self.window,
            n_fft=self.recipe.n_fft,
            hop_length=self.recipe.hop_length,
            win_length=self.recipe.win_length,
            power=self.recipe.power,
            n_iter=self.iterations,
            momentum=_MOMENTUM,
            length=None,
            rand_init=False,
        )
        return waveform


def load_vocoder(
    name: str | os.PathLike[str] = "embedded",
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    download: bool = True,
) -> Vocoder:
    """Load a vocoder, and verify that it is the one that was asked for.

    Args:
        name: One of
            "official": charactr/vocos-mel-24khz at its pinned revision, held to both hashes;
            "embedded": the small Vocos inside the package, held to both hashes;
            "griffin-lim": the baseline without training;
            an existing directory with `config.yaml` and `model.safetensors` or `pytorch_model.bin`;
            "package.module:attribute", code that makes a waveform of a mel: see
            `melcheck.vocoders.from_code`;
            a repository on the hub, `owner/name` or `owner/name@revision`.
        device: Where the vocoder is put; it must exist on this machine.
        revision: For a repository: a branch, a tag or a full commit hash; the default is `main`.
        download: False takes a repository from the Hugging Face cache only.

    Returns:
        The vocoder: a `VocosVocoder`, but for "griffin-lim" and for code.

    Raises:
        ValueError: A name that is none of these, a revision where there is none, or a device that
            torch does not know.
        VocoderUnavailable: The weights are not in the cache and cannot be downloaded, or this
            machine has no such device. The message says how to get them.
        VocoderError: The files are damaged, are not what they should be, or do not fit together.
    """
    text = os.fspath(name)
    target = _checked_device(device)
    if text in _NAMES and revision is not None:
        raise ValueError(
            f"revision must be None for {text!r}, got {revision!r}. "
            f"Name the repository for another revision, such as {OFFICIAL_REPO}@{revision}."
        )
    if text == "griffin-lim":
        return _griffin_lim(target)
    if is_reference(text) and not os.path.exists(text):
        # It makes what this module defines, so it comes in when both are there.
        from melcheck.vocoders.from_code import load_callable_vocoder

        return load_callable_vocoder(text, device=target)
    return _vocos(text, _find(text, revision, download), target)


class _FullFloat32:
    """Convolutions in full float32 while any thread is inside: the setting is the process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        cudnn = torch.backends.cudnn
        with self._lock:
            if self._inside == 0:
                self._before, cudnn.allow_tf32 = cudnn.allow_tf32, False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.cudnn.allow_tf32 = self._before


full_float32 = _FullFloat32()
"""Keeps CUDA from multiplying float32 with TF32's 10 bits of mantissa: `with full_float32:`."""


def _find(name: str, revision: str | None, download: bool) -> VocoderFiles:
    if name == "official":
        return hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION, download=download)
    if name == "embedded":
        return embedded_files()
    if os.path.isdir(name):
        if revision is not None:
            raise ValueError(f"revision must be None for a directory, got {revision!r}.")
        return local_files(Path(name))
    match = None if os.path.exists(name) else _HUB_ID.fullmatch(name)
    if match is None:
        raise ValueError(_unknown(name))
    inline = match["revision"]
    if inline is not None and revision is not None and inline != revision:
        raise ValueError(f"revision must be {inline!r} as in {name!r}, got {revision!r}.")
    return hub_files(match["repo_id"], revision=inline or revision, download=download)


def _unknown(name: str) -> str:
    guesses = difflib.get_close_matches(name.lower(), _NAMES, n=1)
    guess = f" Did you mean {guesses[0]!r}?" if guesses else ""
    if os.path.isfile(name):
        guess = (
            f" That is a file: give the directory that holds it, {os.path.dirname(name) or '.'}."
        )
    return (
        f"name must be {', '.join(map(repr, _NAMES))}, an existing directory, a repository "
        f"such as {OFFICIAL_REPO!r}, or package.module:attribute, got {name!r}.{guess}"
    )


def _vocos(name: str, files: VocoderFiles, device: torch.device) -> VocosVocoder:
    model, recipe = build_vocos(files)
    info = VocoderInfo(
        name=name,
        source=files.source,
        revision=files.revision,
        weights_sha256=files.weights.sha256,
        config_sha256=files.config.sha256,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    return VocosVocoder(info, recipe, device, model.to(device))


def _griffin_lim(device: torch.device) -> GriffinLimVocoder:
    info = VocoderInfo(
        name="griffin-lim",
        source="torchaudio.functional.griffinlim",
        revision=None,
        weights_sha256=None,
        config_sha256=None,
        num_parameters=0,
    )
    extractor = MelSpectrogramFeatures(
        sample_rate=VOCOS.sample_rate,
        n_fft=VOCOS.n_fft,
        hop_length=VOCOS.hop_length,
        n_mels=VOCOS.n_mels,
        padding=VOCOS.padding,
    )
    # In float64: the filters overlap, and their inverse amplifies rounding.
    inverse = torch.linalg.pinv(filterbank(VOCOS).double().T).float()
    return GriffinLimVocoder(
        info,
        VOCOS,
        device,
        extractor.to(device),
        inverse.to(device),
        torch.hann_window(VOCOS.win_length, device=device),
    )


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device must be one that torch knows, such as 'cpu' or 'cuda:0', got {device!r}."
        ) from None
    try:
        # The only reliable question is whether a tensor can go there and come back.
        torch.zeros(1, device=checked).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise VocoderUnavailable(
            f"device must exist on this machine, got {str(checked)!r}: {reason:.120}\n"
            "Use device='cpu', or a machine that has it and a torch built for it."
        ) from None
    return checked


def check_waveform(waveform: Tensor, recipe: MelRecipe) -> None:
    """Raise ValueError unless a waveform is `[batch, samples]` and long enough for the recipe."""
    if waveform.ndim != 2:
        raise ValueError(
            f"waveform must be [batch, samples], got {list(waveform.shape)}. "
            "One waveform is a batch of one: waveform[None]."
        )
    recipe.frames(waveform.shape[-1])  # raises on a waveform that is too short


def check_mel(mel: Tensor, recipe: MelRecipe, *, min_frames: int) -> None:
    """Raise ValueError unless a mel is `[batch, n_mels, frames]` with as many frames as named."""
    if mel.ndim != 3 or mel.shape[1] != recipe.n_mels:
        transposed = mel.ndim == 3 and mel.shape[2] == recipe.n_mels
        hint = "It looks transposed: mel.transpose(1, 2)." if transposed else "Time is last."
        raise ValueError(
            f"mel must be [batch, {recipe.n_mels}, frames], got {list(mel.shape)}. {hint}"
        )
    if mel.shape[-1] < min_frames:
        raise ValueError(
            f"mel must have at least {min_frames} frames, got {mel.shape[-1]}. Use a longer clip."
        )
