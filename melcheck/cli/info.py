"""Show versions, decoder, devices and weights of this machine.

The sha256 of the weights is verified. Nothing is downloaded, and nothing is
loaded onto a device.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melcheck._version import __version__
from melcheck.cli.output import Answer, MissingError, Terminal
from melcheck.files import plain

if TYPE_CHECKING:
    from melcheck.recipes import MelRecipe
    from melcheck.vocoders.weights import VocoderFiles

PACKAGES = (
    "torch",
    "torchaudio",
    "torchcodec",
    "vocos",
    "soundfile",
    "numpy",
    "matplotlib",
    "huggingface-hub",
    "pytest",
)
"""Distributions whose versions can change a metric or a verdict."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A vocoder's two files on this machine.

    Attributes:
        name: Name for `--vocoder`.
        state: "verified", "absent", or "damaged".
        source: Repository and commit, or the package.
        weights_sha256: Hash of the weights; None where they are not verified.
        config_sha256: Hash of `config.yaml`, likewise.
        note: Problem and fix; empty for verified files.
    """

    name: str
    state: str
    source: str
    weights_sha256: str | None = None
    config_sha256: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """Everything that a bug report should name.

    Attributes:
        melcheck: Version.
        python: Version.
        platform: Operating system and processor.
        packages: Versions by distribution; None for one that is absent.
        decoder: Decoder of audio files other than MP3.
        devices: Names and descriptions of torch devices: "cpu (2 threads)".
        weights: The embedded and the official vocoder.
        recipe: The recipe of the official vocoder's mel.
        recipe_digest: Its name in twelve digits.
    """

    melcheck: str
    python: str
    platform: str
    packages: dict[str, str | None]
    decoder: str
    devices: tuple[str, ...]
    weights: tuple[Weights, ...]
    recipe: MelRecipe
    recipe_digest: str


def describe_installation() -> Installation:
    """Describe this machine; the hashes of both vocoders' files are verified."""
    from melcheck.audio import decoder_name
    from melcheck.recipes import VOCOS

    return Installation(
        melcheck=__version__,
        python=platform.python_version(),
        platform=platform.platform(terse=True) + " " + platform.machine(),
        packages={name: _version(name) for name in PACKAGES},
        decoder=decoder_name(),
        devices=_devices(),
        weights=(_embedded(), _official()),
        recipe=VOCOS,
        recipe_digest=VOCOS.digest(),
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[str, ...]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return (
        f"cpu ({torch.get_num_threads()} threads)",
        *(f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count)),
    )


def _embedded() -> Weights:
    from melcheck.vocoders.weights import VocoderError, embedded_files

    try:
        return _verified("embedded", embedded_files())
    except VocoderError as error:
        return Weights("embedded", "damaged", "melcheck package", note=str(error))


def _official() -> Weights:
    from melcheck.vocoders.hub import hub_files
    from melcheck.vocoders.weights import (
        OFFICIAL_REPO,
        OFFICIAL_REVISION,
        VocoderError,
        VocoderUnavailable,
    )

    source = f"{OFFICIAL_REPO}@{OFFICIAL_REVISION[:12]}"
    try:
        return _verified(
            "official", hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION, download=False)
        )
    except VocoderUnavailable:
        note = "Not in the Hugging Face cache: `melcheck fetch` downloads it."
        return Weights("official", "absent", source, note=note)
    except VocoderError as error:
        return Weights("official", "damaged", source, note=str(error))


def _verified(name: str, files: VocoderFiles) -> Weights:
    return Weights(name, "verified", files.source, files.weights.sha256, files.config.sha256)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""
    del parser


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Describe the installation; damaged weights inside the package count as missing."""
    del options
    found = describe_installation()
    embedded = found.weights[0]
    if embedded.state != "verified":
        raise MissingError(embedded.note)
    rows = [
        ("melcheck", f"{found.melcheck}, Python {found.python}, {found.platform}"),
        *((name, version or "absent") for name, version in found.packages.items()),
        ("decoder", f"{found.decoder}; MP3 by soundfile"),
        ("devices", ", ".join(found.devices)),
        *((entry.name, _weights(entry)) for entry in found.weights),
        ("recipe", f"{found.recipe_digest}: {_recipe(found.recipe)}"),
    ]
    return Answer(passed=True, text=terminal.table(("what", "which"), rows), data=_data(found))


def _data(found: object) -> dict[str, object]:
    data: dict[str, object] = plain(found)
    del data["melcheck"]  # stands in every answer
    return data


def _weights(entry: Weights) -> str:
    if entry.weights_sha256 is None:
        return f"{entry.state}: {entry.source}. {entry.note}"
    return f"{entry.state}: {entry.source}, weights sha256 {entry.weights_sha256[:12]}"


def _recipe(recipe: MelRecipe) -> str:
    return (
        f"{recipe.sample_rate:,} Hz, n_fft {recipe.n_fft}, hop {recipe.hop_length}, "
        f"{recipe.n_mels} {recipe.mel_scale} bands {recipe.f_min:g}-{recipe.f_max:g} Hz, "
        f"power {recipe.power:g}, ln of clip at {recipe.floor:g} ({recipe.log_floor:.3f})"
    )
