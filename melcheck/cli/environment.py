"""What there is to check with: versions, the audio decoder, devices, weights and their hashes.

Nothing is downloaded and nothing is loaded onto a device.
"""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

from melcheck._version import __version__
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.vocoders.hub import hub_files
from melcheck.vocoders.weights import (
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    VocoderError,
    VocoderFiles,
    VocoderUnavailable,
    embedded_files,
)

__all__ = ["PACKAGES", "Environment", "Weights", "describe_environment"]

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
"""Distributions whose versions can change a figure or a verdict."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A vocoder's two files on this machine.

    Attributes:
        name: As `--vocoder` takes it.
        state: "verified", "absent", or "damaged".
        source: The repository and commit, or the package.
        weights_sha256: Hash of the weights; None where they are not verified.
        config_sha256: Hash of `config.yaml`, likewise.
        note: What is wrong and what to do; empty where nothing is.
    """

    name: str
    state: str
    source: str
    weights_sha256: str | None = None
    config_sha256: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a report of a fault should name.

    Attributes:
        melcheck: Version.
        python: Version.
        platform: Operating system and processor.
        packages: Versions by distribution; None for one that is absent.
        decoder: What reads audio files, all but MP3.
        devices: Names of torch devices with what they are: "cpu (2 threads)".
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


def describe_environment() -> Environment:
    """Look at this machine; both vocoders' files are read and held to their hashes."""
    from melcheck.audio import decoder_name

    return Environment(
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
    try:
        return _verified("embedded", embedded_files())
    except VocoderError as error:
        return Weights("embedded", "damaged", "melcheck package", note=str(error))


def _official() -> Weights:
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
