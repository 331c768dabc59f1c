"""Show versions, decoder, devices and weights of this machine.

The sha256 of the weights is verified. Nothing is downloaded, and nothing is
loaded onto a device. What does not fit in this environment stands below, with
the command that mends it.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING

from melcheck._version import __version__
from melcheck.cli.arguments import add_profile
from melcheck.cli.output import Answer, MissingError, Terminal
from melcheck.environment import installed_version, torch_fault, torchcodec_fault
from melcheck.files import plain

if TYPE_CHECKING:
    from melcheck.recipes import MelRecipe
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
    weights = _weights()
    if weights[0]["state"] != "verified":
        raise MissingError(str(weights[0]["note"]))
    python, system = platform.python_version(), platform.platform(terse=True)
    system = f"{system} {platform.machine()}"
    packages = {name: installed_version(name) for name in _PACKAGES}
    unfit, torchcodec = torch_fault(), None
    rows = [
        ("melcheck", f"{__version__}, Python {python}, {system}"),
        *((name, version or "absent") for name, version in packages.items()),
        *((str(entry["name"]), _weights_text(entry)) for entry in weights),
    ]
    data: dict[str, object] = dict.fromkeys(("decoder", "devices", "recipe", "recipe_digest"))
    if unfit is None:
        from melcheck.audio import decoder_name
        from melcheck.profiles import profile

        recipe = profile(options.profile)
        decoder, devices = decoder_name(), _devices()
        if not decoder.startswith("torchcodec"):
            torchcodec = torchcodec_fault()
        rows += [
            ("decoder", f"{decoder}; MP3 by soundfile"),
            ("devices", ", ".join(devices)),
            ("recipe", _recipe_text(options.profile, recipe)),
        ]
        data |= {
            "decoder": decoder,
            "devices": devices,
            "recipe": plain(recipe),
            "recipe_digest": recipe.digest(),
        }
    data |= {
        "python": python,
        "platform": system,
        "packages": packages,
        "weights": weights,
        "unfit": unfit,
        "torchcodec": torchcodec,
    }
    # Not in the table, which would break a command that is to be copied.
    notes = [note for note in (unfit, torchcodec) if note is not None]
    text = "\n".join([terminal.table(("what", "which"), rows), *notes])
    return Answer(passed=True, text=text, data=data)


def _recipe_text(name: str, recipe: MelRecipe) -> str:
    return (
        f"{name}, {recipe.digest()}: {recipe.sample_rate:,} Hz, n_fft {recipe.n_fft}, "
        f"hop {recipe.hop_length}, {recipe.n_mels} {recipe.mel_scale} bands "
        f"{recipe.f_min:g}-{recipe.f_max:g} Hz, power {recipe.power:g}, "
        f"floor {recipe.floor:g} ({recipe.floor_nats:.3f} nats)"
    )


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
