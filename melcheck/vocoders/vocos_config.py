"""Check a vocoder's `config.yaml`: sizes of Vocos classes that melcheck knows by name.

A configuration that asks for another class, an argument that vocos does not have, or sizes that
contradict each other is refused with the name of the file and the fix. Nothing that a file names is
imported.

References:
    `MelSpectrogramFeatures`, `VocosBackbone` and `ISTFTHead` of vocos 0.1.0, and
    `ConsistentISTFTHead` of this package.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.files import load_yaml, short
from melcheck.recipes import MelRecipe
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.weights import OFFICIAL_REPO, ReadFile, VocoderError

_PADDING: Final = ("center", "same")

# About ten times what published models use: these bounds stop a typing error, or a hostile file,
# from filling the memory before a message can be printed.
_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "sample_rate": (1_000, 384_000),
    "n_fft": (16, 16_384),
    "hop_length": (1, 8_192),
    "n_mels": (1, 512),
    "input_channels": (1, 512),
    "dim": (1, 8_192),
    "intermediate_dim": (1, 32_768),
    "num_layers": (1, 128),
    "num_projections": (0, 64),
    "num_quarter_projections": (0, 64),
    "num_eighth_projections": (0, 64),
    "num_descent_steps": (0, 64),
}
CLASSES: Final[Mapping[str, Mapping[str, type]]] = {
    "feature_extractor": {
        "vocos.feature_extractors.MelSpectrogramFeatures": MelSpectrogramFeatures
    },
    "backbone": {"vocos.models.VocosBackbone": VocosBackbone},
    "head": {
        "vocos.heads.ISTFTHead": ISTFTHead,
        "melcheck.vocoders.phase_head.ConsistentISTFTHead": ConsistentISTFTHead,
    },
}
"""The classes that a configuration may name, by section."""

# What must agree between the sections, or the vocoder decodes something else than it encodes: a
# head with other padding than its extractor shifts the waveform and changes its length.
_AGREEMENTS: Final = (
    ("head", "padding", "feature_extractor", "padding"),
    ("head", "hop_length", "feature_extractor", "hop_length"),
    ("head", "n_fft", "feature_extractor", "n_fft"),
    ("backbone", "input_channels", "feature_extractor", "n_mels"),
    ("head", "dim", "backbone", "dim"),
    ("head", "sample_rate", "feature_extractor", "sample_rate"),
    ("head", "n_mels", "feature_extractor", "n_mels"),
)

# Twenty times what published models use.
_MAX_FRAMES_PER_SECOND: Final = 2_000

_MAX_CONFIG_BYTES: Final = 65_536
_MAX_NAME: Final = 200
_FLOOR: Final = 1e-7  # vocos.modules.safe_log


def parse_config(file: ReadFile) -> dict[str, dict[str, Any]]:
    """Return the init arguments of the three classes, complete and checked.

    Returns:
        By section ("feature_extractor", "backbone", "head"), all arguments by name, with the
        defaults of the class where the file has none.

    Raises:
        VocoderError: The file is not YAML, or asks for what is no mel Vocos or contradicts itself.
    """
    # Messages quote values through `short`: aliases let a small file describe an endless value.
    sections = _load_yaml(file)
    config = {
        section: _parse_section(file.path, section, sections.get(section)) for section in CLASSES
    }
    for section, name, other_section, other_name in _AGREEMENTS:
        value, other = config[section].get(name), config[other_section][other_name]
        if name in config[section] and value != other:
            raise VocoderError(
                f"{file.path}: {section}.{name} must equal {other_section}.{other_name}, "
                f"got {short(value)} and {short(other)}.\n"
                "Use the config.yaml that these weights were trained with."
            )
    extractor = config["feature_extractor"]
    if 2 * extractor["hop_length"] > extractor["n_fft"]:
        raise VocoderError(
            f"{file.path}: hop_length must be at most half of n_fft, got "
            f"{extractor['hop_length']} and {extractor['n_fft']}.\n"
            "Windows further apart do not overlap enough to be inverted: correct the two numbers."
        )
    if extractor["sample_rate"] > _MAX_FRAMES_PER_SECOND * extractor["hop_length"]:
        raise VocoderError(
            f"{file.path}: hop_length must make at most {_MAX_FRAMES_PER_SECOND:,} frames per "
            f"second, got {extractor['hop_length']} at {extractor['sample_rate']} Hz.\n"
            "So many frames would fill the memory: correct the two numbers."
        )
    return config


def vocos_recipe(
    *, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, padding: Any
) -> MelRecipe:
    """Return the recipe that `MelSpectrogramFeatures` follows for these init arguments."""
    return MelRecipe(
        sample_rate=sample_rate,
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=hop_length,
        n_mels=n_mels,
        f_min=0.0,
        f_max=float(sample_rate // 2),
        padding=padding,
        floor=_FLOOR,
    )


def _load_yaml(file: ReadFile) -> dict[str, Any]:
    if len(file.data) > _MAX_CONFIG_BYTES:
        raise VocoderError(
            f"{file.path} must be at most {_MAX_CONFIG_BYTES:,} bytes, got {len(file.data):,}.\n"
            "Give the config.yaml of the vocoder."
        )
    try:
        sections = load_yaml(file.data)
    except ValueError as error:
        raise VocoderError(
            f"{file.path} is not plain YAML: {error}.\n"
            f"It must hold the sections {', '.join(CLASSES)} with numbers and strings only."
        ) from None
    if not isinstance(sections, dict) or set(sections) != set(CLASSES):
        found = short(list(sections) if isinstance(sections, dict) else sections)
        raise VocoderError(
            f"{file.path} must hold the sections {', '.join(CLASSES)}, got {found}.\n"
            "Of a training configuration, copy these three out of `model.init_args`."
        )
    return sections


def _parse_section(path: Path, section: str, content: object) -> dict[str, Any]:
    classes = CLASSES[section]
    if not isinstance(content, dict) or not set(content) <= {"class_path", "init_args"}:
        raise VocoderError(
            f"{path}: {section} must hold class_path and init_args, got {short(content)}.\n"
            "Write it as the official config.yaml does."
        )
    class_path = content.get("class_path")
    if not isinstance(class_path, str) or class_path not in classes:
        # The whole name of a class says which model it is.
        named = isinstance(class_path, str) and len(class_path) < _MAX_NAME
        found = repr(class_path) if named else short(class_path)
        raise VocoderError(
            f"{path}: {section}.class_path must be {' or '.join(classes)}, "
            f"got {found}.\n"
            "melcheck builds mel Vocos models only, and imports nothing that a file names. Take "
            f"the variant that decodes mels, such as {OFFICIAL_REPO}, or name your code "
            "that decodes them: package.module:attribute."
        )
    settings = inspect.signature(classes[class_path]).parameters
    arguments = content.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise VocoderError(
            f"{path}: {section}.init_args must hold numbers by name, "
            f"got {short(arguments)}.\nWrite it as the official config.yaml does."
        )
    if not set(arguments) <= set(settings):
        unknown = short(sorted(str(name) for name in set(arguments) - set(settings)))
        raise VocoderError(
            f"{path}: {section}.init_args must be among {', '.join(settings)}, got {unknown}.\n"
            "Remove what that class does not know, or correct its spelling."
        )
    given = {name: arguments.get(name, each.default) for name, each in settings.items()}
    for name, value in given.items():
        _check_setting(f"{path}: {section}.{name}", name, value)
    return given


def _check_setting(where: str, name: str, value: object) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if name == "padding":
        good, expected = value in _PADDING, " or ".join(_PADDING)
    elif name == "layer_scale_init_value":
        good, expected = value is None or (number and 0 < value <= 1), "in (0, 1], or null"  # type: ignore[operator]
    elif name == "adanorm_num_embeddings":
        good, expected = value is None, "null (models conditioned on a bandwidth have no mel)"
    else:
        low, high = _BOUNDS[name]
        good = number and isinstance(value, int) and low <= value <= high
        expected = f"a whole number from {low:,} to {high:,}"
        if name == "n_fft":  # the head makes n_fft / 2 + 1 magnitudes
            good, expected = good and value % 2 == 0, f"an even {expected[2:]}"  # type: ignore[operator]
    if not good:
        absent = value is inspect.Parameter.empty
        got = "nothing" if absent else f"{short(value)} ({type(value).__name__})"
        raise VocoderError(f"{where} must be {expected}, got {got}.\nCorrect it in that file.")
