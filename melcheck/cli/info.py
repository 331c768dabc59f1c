"""Show versions, decoder, devices and weights of this machine.

The sha256 of the weights is verified. Nothing is downloaded, and nothing is
loaded onto a device.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from melcheck._version import __version__
from melcheck.cli.arguments import add_profile
from melcheck.cli.output import Answer, MissingError, Terminal
from melcheck.files import plain

if TYPE_CHECKING:
    from melcheck.vocoders.weights import VocoderFiles

# Distributions whose versions can change a figure or a verdict.
_PACKAGES = (
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the recipe to show."""
    add_profile(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Describe this machine; the packaged weights must be intact."""
    from melcheck.audio import decoder_name
    from melcheck.profiles import profile

    recipe = profile(options.profile)
    weights = _weights()
    if weights[0]["state"] != "verified":
        raise MissingError(str(weights[0]["note"]))
    python, system = platform.python_version(), platform.platform(terse=True)
    system = f"{system} {platform.machine()}"
    packages = {name: _version(name) for name in _PACKAGES}
    devices = _devices()
    rate = f"{recipe.sample_rate:,} Hz"
    rows = [
        ("melcheck", f"{__version__}, Python {python}, {system}"),
        *((name, version or "absent") for name, version in packages.items()),
        ("decoder", f"{decoder_name()}; MP3 by soundfile"),
        ("devices", ", ".join(devices)),
        *((str(entry["name"]), _weights_text(entry)) for entry in weights),
        (
            "recipe",
            f"{options.profile}, {recipe.digest()}: {rate}, n_fft {recipe.n_fft}, "
            f"hop {recipe.hop_length}, {recipe.n_mels} {recipe.mel_scale} bands "
            f"{recipe.f_min:g}-{recipe.f_max:g} Hz, power {recipe.power:g}, floor {recipe.floor:g} "
            f"({recipe.floor_nats:.3f} nats)",
        ),
    ]
    data = {
        "python": python,
        "platform": system,
        "packages": packages,
        "decoder": decoder_name(),
        "devices": devices,
        "weights": weights,
        "recipe": plain(recipe),
        "recipe_digest": recipe.digest(),
    }
    return Answer(passed=True, text=terminal.table(("what", "which"), rows), data=data)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [
        f"cpu ({torch.get_num_threads()} threads)",
        *(f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count)),
    ]


def _weights() -> list[dict[str, str | None]]:
    """Return the state of the embedded and of the official weights, as the answer has it."""
    from melcheck.vocoders.hub import hub_files
    from melcheck.vocoders.weights import OFFICIAL_REPO, OFFICIAL_REVISION, embedded_files

    def official() -> VocoderFiles:
        return hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION, download=False)

    return [
        _state("embedded", "melcheck package", embedded_files),
        _state("official", f"{OFFICIAL_REPO}@{OFFICIAL_REVISION[:12]}", official),
    ]


def _state(name: str, source: str, read: Callable[[], VocoderFiles]) -> dict[str, str | None]:
    from melcheck.vocoders.weights import VocoderError, VocoderUnavailable

    entry = {"name": name, "source": source, "weights_sha256": None, "config_sha256": None}
    try:
        files = read()
    except VocoderUnavailable:
        note = "Not in the Hugging Face cache: `melcheck fetch` downloads it."
        return {**entry, "state": "absent", "note": note}
    except VocoderError as error:
        return {**entry, "state": "damaged", "note": str(error)}
    hashes = {"weights_sha256": files.weights.sha256, "config_sha256": files.config.sha256}
    return {**entry, **hashes, "source": files.source, "state": "verified", "note": ""}


def _weights_text(entry: dict[str, str | None]) -> str:
    sha256 = entry["weights_sha256"]
    end = f". {entry['note']}" if sha256 is None else f", weights sha256 {sha256[:12]}"
    return f"{entry['state']}: {entry['source']}{end}"
