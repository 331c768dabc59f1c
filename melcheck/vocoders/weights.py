"""Read a vocoder's two files, and verify that they are the right ones.

A vocoder is a `config.yaml` and a file of weights. Each is read once, into memory, and checked
there: what is hashed is what is parsed later. The official model and the embedded one are pinned by
sha256; any other carries the hashes that were computed. There is no switch that skips a check.

Nothing here imports torch: the files are verified before torch sees a byte of them.

References:
    The official files: https://huggingface.co/charactr/vocos-mel-24khz, revision
    0feb3fdd929bcd6649e0e7c5a688cf7dd012ef21 (MIT). The pointer format: Git LFS specification 1,
    https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
"""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from melcheck.files import os_reason, read_bytes

CONFIG_FILE: Final = "config.yaml"
WEIGHTS_FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""Accepted names of the weights; where both exist the first is taken, as it cannot hold code."""

OFFICIAL_REPO: Final = "charactr/vocos-mel-24khz"
OFFICIAL_REVISION: Final = "0feb3fdd929bcd6649e0e7c5a688cf7dd012ef21"
OFFICIAL_SHA256: Mapping[str, str] = MappingProxyType(
    {
        "config.yaml": "da9033922f969a47f0c160010226919e59f27761fd5066f3828d46de6650b0fc",
        "pytorch_model.bin": "97ec976ad1fd67a33ab2682d29c0ac7df85234fae875aefcc5fb215681a91b2a",
    }
)
"""The files of `OFFICIAL_REPO` at `OFFICIAL_REVISION`, by name."""

EMBEDDED_SHA256: Mapping[str, str] = MappingProxyType(
    {
        "config.yaml": "22441018726b6f5be67c7e5cb1933a25aab20805a3509e35530fbee188b70976",
        "model.safetensors": "5065e80ae7e68335ed13c65cc739ea277b4e67716f319e64002ddaf12677aa71",
    }
)
"""The files of the small Vocos inside the package, by name."""

VERIFIED_WEIGHTS: Final = frozenset(
    {OFFICIAL_SHA256["pytorch_model.bin"], EMBEDDED_SHA256["model.safetensors"]}
)
"""Hashes of weights that are never in doubt, since they are checked before every use."""

OFFICIAL_BYTES: Mapping[str, int] = MappingProxyType(
    {"config.yaml": 461, "pytorch_model.bin": 54_365_991}
)
_EMBEDDED_DIR = Path(__file__).parents[1] / "data" / "embedded"

# The official weights take 54 MB. Larger than this is not a Vocos, and would fill the memory.
MAX_BYTES = 2**30
"""Most bytes that a file of a vocoder may have, packed or unpacked."""
_LFS_POINTER = b"version https://git-lfs"
_HTML_PAGE = (b"<!doctype html", b"<html")


class VocoderError(RuntimeError):
    """Something about the vocoder itself is wrong: its files, its configuration, its weights."""


class VocoderUnavailable(VocoderError):  # noqa: N818 - a state of the machine, not a mistake
    """The vocoder is not on this machine and cannot be had now: a caller may skip it."""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file that was read once and passed its checks.

    Attributes:
        path: Path that it was read from, for messages.
        data: All of its bytes.
        sha256: Their hash, in hexadecimal.
        remedy: Sentence on how to get a better copy, should parsing find it damaged.
    """

    path: Path
    data: bytes = field(repr=False)
    sha256: str
    remedy: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class VocoderFiles:
    """The two files of one vocoder, and where they came from.

    Attributes:
        source: Origin as reports print it: a repository with its short commit, a directory.
        revision: The full commit hash on the hub; None for what has no revisions.
        config: `config.yaml`.
        weights: One of `WEIGHTS_FILES`.
    """

    source: str
    revision: str | None
    config: ReadFile
    weights: ReadFile


def embedded_files() -> VocoderFiles:
    """Read the vocoder inside the package.

    Raises:
        VocoderError: A file is absent, or is not the one that this version was released with.
    """
    remedy = "The installed package is damaged: reinstall melcheck."
    config, weights = (
        read_file(_EMBEDDED_DIR / name, remedy=remedy, pinned=sha256)
        for name, sha256 in EMBEDDED_SHA256.items()
    )
    return VocoderFiles("melcheck package", None, config, weights)


def local_files(directory: Path) -> VocoderFiles:
    """Read a vocoder from a directory. It has no pins: the hashes are computed and reported.

    Raises:
        VocoderError: A file is absent or cannot be what its name says.
    """
    present = [name for name in WEIGHTS_FILES if (directory / name).is_file()]
    if not (directory / CONFIG_FILE).is_file() or not present:
        try:
            names = sorted(entry.name for entry in directory.iterdir())
            found = ", ".join(names[:5]) or "nothing"
        except OSError as error:
            names, found = [], f"a folder that cannot be read ({os_reason(error)})"
        fix = fix_for(names, "Put both files there, or give the directory that holds them.")
        raise VocoderError(
            f"{directory} must hold {CONFIG_FILE} and {' or '.join(WEIGHTS_FILES)}, "
            f"got {found}.\n{fix}"
        )
    remedy = "Put the real file there: download it again, or run `git lfs pull` in a git checkout."
    config, weights = (
        read_file(directory / name, remedy=remedy) for name in (CONFIG_FILE, present[0])
    )
    return VocoderFiles(str(directory), None, config, weights)


# What other vocoders are released as.
_OTHER_VOCODERS = {
    "*.onnx": "a model in ONNX",
    "*.pt2": "an exported program of torch",
    "bigvgan_generator*": "BigVGAN",
    "generator*": "HiFi-GAN",
    "g_[0-9]*": "HiFi-GAN",
}


def fix_for(names: Iterable[str], otherwise: str) -> str:
    """Return what to do about files that are no Vocos: name code where they are another vocoder."""
    names = list(names)
    for pattern, kind in _OTHER_VOCODERS.items():
        if fnmatch.filter(names, pattern):
            return f"It looks like {kind}: name your code that decodes with it, {_REFERENCE}."
    return otherwise


_REFERENCE = "package.module:attribute"


def read_file(
    path: Path, *, remedy: str, pinned: str | None = None, num_bytes: int | None = None
) -> ReadFile:
    """Read a file once, and check what was read.

    Args:
        path: The file.
        remedy: The sentence of an error that says what to do.
        pinned: The sha256 that it must have; None accepts any hash.
        num_bytes: The size that goes with `pinned`, to recognise a file cut short.

    Raises:
        VocoderError: The file is unreadable, empty, absurdly large, an LFS pointer, an HTML page,
            or not the pinned one.
    """
    try:
        data = read_bytes(path, max_bytes=MAX_BYTES)
    except OSError as error:
        raise VocoderError(f"{path} cannot be read: {os_reason(error)}.\n{remedy}") from None
    sha256 = checked_bytes(data, str(path), remedy=remedy, pinned=pinned, num_bytes=num_bytes)
    return ReadFile(path, data, sha256, remedy)


def checked_bytes(
    data: bytes, what: str, *, remedy: str, pinned: str | None, num_bytes: int | None
) -> str:
    """Return the sha256 of a file's bytes.

    Args:
        data: All of them.
        what: What the file is called in messages.
        remedy: As for `read_file`.
        pinned: As for `read_file`.
        num_bytes: As for `read_file`.

    Raises:
        VocoderError: They are empty, an LFS pointer, an HTML page, or not the pinned ones.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    problem = _problem(data, sha256, pinned, num_bytes)
    if problem is not None:
        raise VocoderError(f"{what} {problem}.\n{remedy}")
    return sha256


def _problem(data: bytes, sha256: str, pinned: str | None, num_bytes: int | None) -> str | None:
    # Recognisable wrong files come before the hash, which would only show that they differ.
    if sha256 == pinned:
        return None
    if not data:
        return "is empty"
    if data.startswith(_LFS_POINTER):
        return f"is a Git LFS pointer of {len(data)} bytes, not the file that it stands for"
    if data[:1024].lstrip().lower().startswith(_HTML_PAGE):
        return f"is an HTML page of {len(data)} bytes, as a login or error page would be"
    if pinned is None:
        return None
    if num_bytes is not None and len(data) < num_bytes:
        return f"is cut short: {len(data):,} of {num_bytes:,} bytes"
    return f"must have sha256 {pinned}, got {sha256} ({len(data):,} bytes)"
