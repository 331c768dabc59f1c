"""Build the `vocos.Vocos` that the bytes of two files describe.

The weights must fit the configuration to the last key, shape and buffer, and hold nothing but
finite numbers; reading them runs no code. Whatever is wrong is a `VocoderError` that names the file
and the fix.

References:
    H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.recipes import MelRecipe
from melcheck.tensor_files import HoldsCode, RefusedFile, read_safetensors, read_torch
from melcheck.user_code import FLOAT_TYPES, first_line
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos_config import parse_config, vocos_recipe
from melcheck.vocoders.weights import MAX_BYTES, ReadFile, VocoderError, VocoderFiles

# Windows and filterbank are stored beside the weights. Computed by another version of torchaudio
# they may differ by rounding (values up to 1); another mel scale differs by tenths.
_BUFFER_ATOL: Final = 1e-3

_MAX_LISTED: Final = 3

# A configuration of up to this many times the numbers in the file, or in a model that is small
# anyway, is built, so that the error can name the tensors that do not fit.
_MAX_SIZE_RATIO: Final = 4
_SMALL_MODEL: Final = 20_000_000

_KEY_HINTS: Final[Mapping[str, str]] = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel",
    "ema": "a moving average of the weights",
    "generator.": "a GAN's generator",
}


def build_vocos(files: VocoderFiles) -> tuple[Vocos, MelRecipe]:
    """Build the model that two files describe.

    Returns:
        The model on the CPU, float32 whatever the precision it is stored in, in evaluation mode,
        its parameters without gradients; and the recipe of its mel.

    Raises:
        VocoderError: The configuration is not a Vocos that melcheck knows, or is inconsistent; the
            weights do not fit it exactly, are not finite, or cannot be read safely.
    """
    config = parse_config(files.config)
    state = _read_state(files.weights)
    return _build(config, state, files.weights.path), vocos_recipe(**config["feature_extractor"])


def _read_state(file: ReadFile) -> dict[str, Tensor]:
    if file.path.suffix == ".safetensors":
        loaded: object = _read_safetensors(file)
    else:
        loaded = _read_pickle(file)
    if isinstance(loaded, dict) and loaded:
        if all(isinstance(key, str) and isinstance(v, Tensor) for key, v in loaded.items()):
            return loaded
        nested = [key for key, value in loaded.items() if isinstance(value, dict) and value]
        found = f"a dictionary of {', '.join(map(reprlib.repr, list(loaded)[:_MAX_LISTED]))}"
    else:
        nested, found = [], reprlib.repr(loaded)
    inner = f"[{nested[0]!r}]" if nested else ""
    raise VocoderError(
        f"{file.path} must hold tensors by name, got {found}.\n"
        f"Save the generator's state alone: torch.save(checkpoint{inner}, 'pytorch_model.bin')."
    )


def _read_safetensors(file: ReadFile) -> dict[str, Tensor]:
    try:
        return read_safetensors(file.data, max_bytes=MAX_BYTES)
    except MemoryError:
        raise
    except Exception as error:  # an unknown type of numbers is a KeyError
        expected = _announced_bytes(file.data)
        size = f"{len(file.data):,} bytes" + (f" of {expected:,}" if expected else "")
        raise VocoderError(
            f"{file.path} is cut short or damaged: {size} ({error}).\n{file.remedy}"
        ) from None


def _announced_bytes(data: bytes) -> int | None:
    # A safetensors file is 8 bytes of header length (little-endian), the header as JSON with the
    # [begin, end) of each tensor counted from the header's end, then the tensors.
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:1] != "_"]
        return start + int(max(ends))
    except Exception:  # whatever the header is instead
        return None


def _read_pickle(file: ReadFile) -> object:
    try:
        return read_torch(file.data, max_bytes=MAX_BYTES)
    except HoldsCode as error:
        raise VocoderError(
            f"{file.path} is not a plain dictionary of tensors, and was not executed: {error}.\n"
            "Save the tensors alone, as safetensors or with torch.save(model.state_dict(), ...)."
        ) from None
    except RefusedFile as error:
        raise VocoderError(
            f"{file.path} is not read: {error}.\n"
            "Save the weights as plain tensors, each with its own storage, unpacked."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes can raise anything inside the parser
        raise VocoderError(
            f"{file.path} is cut short or damaged: {len(file.data):,} bytes "
            f"({first_line(error):.200}).\n{file.remedy}"
        ) from None


def _build(config: Mapping[str, Mapping[str, Any]], state: dict[str, Tensor], path: Path) -> Vocos:
    _check_size(config, state, path)
    extractor = MelSpectrogramFeatures(**config["feature_extractor"])
    # The layers begin with random numbers, which must not come from the caller's generator. (On
    # the meta device there would be none, at the price of importing torch's compiler: a second.)
    with torch.random.fork_rng(devices=[]):
        head_class = ConsistentISTFTHead if "num_projections" in config["head"] else ISTFTHead
        try:
            backbone, head = VocosBackbone(**config["backbone"]), head_class(**config["head"])
        except ValueError as error:
            raise VocoderError(
                f"{path} cannot have a {head_class.__name__} of these sizes: {error}\n"
                "Use the config.yaml that these weights were trained with."
            ) from None
    model = Vocos(extractor, backbone, head)
    expected = model.state_dict()
    _check_keys(expected, state, path)
    _check_tensors(expected, state, path)
    computed = dict(extractor.state_dict(prefix="feature_extractor."))
    computed["head.istft.window"] = torch.hann_window(config["head"]["n_fft"])
    _check_buffers(computed, state, path)
    model.load_state_dict({key: state[key].float() for key in expected}, assign=True)
    return model.eval().requires_grad_(False)


def _check_size(
    config: Mapping[str, Mapping[str, Any]], state: Mapping[str, Tensor], path: Path
) -> None:
    """Refuse a configuration that asks for far more memory than the file fills."""
    backbone, head = config["backbone"], config["head"]
    # The matrices of the embedding, the blocks and the head; the rest is small beside them.
    described = (
        7 * backbone["input_channels"] * backbone["dim"]
        + 2 * backbone["num_layers"] * backbone["dim"] * backbone["intermediate_dim"]
        + head["dim"] * (head["n_fft"] + 2)
    )
    found = sum(tensor.numel() for tensor in state.values())
    if described > _MAX_SIZE_RATIO * max(found, _SMALL_MODEL):
        raise VocoderError(
            f"{path} must hold the {described:,} numbers of its configuration, got {found:,}.\n"
            "The configuration is of a different model size: use the config.yaml of these weights."
        )


_PARTS = ("feature_extractor.", "backbone.", "head.")


def _check_keys(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if not missing and not unexpected:
        return
    hints = [
        f"{fragment!r} in the names comes from {origin}: save that part alone, without it. "
        for fragment, origin in _KEY_HINTS.items()
        if any(fragment in key for key in unexpected)
    ]
    if not missing and not any(key.startswith(_PARTS) for key in unexpected):
        hints = [
            f"They belong to its training. Keep the names that begin with {', '.join(_PARTS)}: "
            f"torch.save({{k: v for k, v in state.items() if k.startswith({_PARTS})}}, ...). "
        ]
    raise VocoderError(
        f"{path} does not fit its {len(expected)} names: {len(missing)} missing "
        f"{_listed(missing)}, {len(unexpected)} unexpected {_listed(unexpected)}.\n"
        f"{''.join(hints[:1])}All names must match: use the config.yaml of these weights."
    )


def _check_tensors(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    shapes = [
        f"{key} expected {list(tensor.shape)}, got {list(state[key].shape)}"
        for key, tensor in expected.items()
        if state[key].shape != tensor.shape
    ]
    if shapes:
        raise VocoderError(
            f"{path} has {len(shapes)} tensors of a different shape {_listed(shapes)}.\n"
            "The configuration is of a different model size: use the config.yaml of these weights."
        )
    integral = [key for key in expected if state[key].dtype not in FLOAT_TYPES]
    if integral:
        raise VocoderError(
            f"{path} must hold floating-point tensors, got others {_listed(integral)}.\n"
            "Save the weights unquantized: float16, bfloat16, float32 or float64."
        )
    # As float32, in which the model computes: 1e300 of float64 is none.
    broken = [key for key in expected if not bool(torch.isfinite(state[key].float()).all())]
    if broken:
        raise VocoderError(
            f"{path} has NaN or infinity in {len(broken)} tensors {_listed(broken)}.\n"
            "The training diverged, or the export overflowed float16: take an earlier checkpoint."
        )


def _check_buffers(computed: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    for key, buffer in computed.items():
        difference = float((state[key].float() - buffer).abs().max())
        if difference > _BUFFER_ATOL:
            raise VocoderError(
                f"{path}: {key} must be what the configuration defines, "
                f"got values that differ by {difference:.3g}.\n"
                "The weights were made for a different mel: use the config.yaml of these weights."
            )


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    more = f", and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return f"({', '.join(items[:_MAX_LISTED]) or 'none'}{more})"
