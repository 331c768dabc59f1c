"""Load a vocoder by its name: a model, a directory, a repository on the hub, the user's code.

One is never swapped for another: what cannot be loaded raises.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import torch

from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import is_reference
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.from_code import load_callable_vocoder
from melcheck.vocoders.griffin_lim import griffin_lim_vocoder
from melcheck.vocoders.hub import hub_files
from melcheck.vocoders.vocos import vocos_vocoder
from melcheck.vocoders.weights import (
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    VocoderFiles,
    VocoderUnavailable,
    embedded_files,
    fix_for,
    local_files,
)

_NAMES = ("official", "embedded", "griffin-lim")
_HUB_ID = re.compile(r"(?P<repo_id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[^\s@]+))?")


def is_ours(name: str) -> bool:
    """Return whether a name is that of a vocoder of melcheck's, which claims to be no other."""
    return name in _NAMES


def load_vocoder(
    name: str | os.PathLike[str] = "embedded",
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    download: bool = True,
    recipe: MelRecipe | None = None,
) -> Vocoder:
    """Load a vocoder, and verify that it is the one that was asked for.

    Args:
        name: One of
            "official": charactr/vocos-mel-24khz at its pinned revision, both hashes verified;
            "embedded": the small Vocos inside the package, both hashes verified;
            "griffin-lim": the baseline without training;
            an existing directory with `config.yaml` and `model.safetensors` or `pytorch_model.bin`;
            "package.module:attribute", code that makes a waveform of a mel: see
            `melcheck.vocoders.from_code`;
            a repository on the hub, `owner/name` or `owner/name@revision`.
        device: Where the vocoder is put; it must exist on this machine.
        revision: For a repository: a branch, a tag or a full commit hash; the default is `main`.
        download: False takes a repository from the Hugging Face cache only.
        recipe: The mel that is to be decoded. Griffin-Lim follows it, and it is that of code which
            names none of its own; None is that of Vocos. Weights have their own.

    Returns:
        The vocoder: a `VocosVocoder`, but for "griffin-lim" and for code.

    Raises:
        ValueError: A name that is none of these, a revision where there is none, or a device that
            torch does not know.
        VocoderUnavailable: The weights are not in the cache and cannot be downloaded, or this
            machine has no such device. The message names the way to get them.
        VocoderError: The files are damaged, are not what they should be, or do not fit together.
    """
    text = os.fspath(name)
    target = _checked_device(device)
    if text in _NAMES and revision is not None:
        raise ValueError(
            f"revision must be None for {text!r}, got {revision!r}. "
            f"Name the repository for a different revision, such as {OFFICIAL_REPO}@{revision}."
        )
    if text == "griffin-lim":
        return griffin_lim_vocoder(target, recipe or VOCOS)
    if is_reference(text) and not os.path.exists(text):
        return load_callable_vocoder(text, device=target, expected=recipe)
    return vocos_vocoder(text, _find(text, revision, download), target)


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
        folder = os.path.dirname(os.path.abspath(name))
        fix = fix_for([os.path.basename(name)], f"Give the directory that holds it: {folder}")
        guess = f" That is a file. {fix}"
    return (
        f"name must be {', '.join(map(repr, _NAMES))}, an existing directory, a repository "
        f"such as {OFFICIAL_REPO!r}, or package.module:attribute, got {name!r}.{guess}"
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
