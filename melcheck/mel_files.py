"""Mels on disk: `.npy`, `.npz`, `.pt` and `.safetensors`, read without running any code of theirs.

A pickle that holds more than tensors is refused, not executed. A file without a usable mel (several
arrays without a name, integers, NaN, nothing, half a file) raises a `MelFileError` with the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melcheck.files import one_line, os_reason, read_bytes
from melcheck.tensor_files import (
    HoldsCode,
    RefusedFile,
    kind_of_file,
    read_npy,
    read_npz,
    read_safetensors,
    read_torch,
)
from melcheck.user_code import first_line, float_tensor

_USUAL_NAME = "mel"
_LISTED_NAMES = 6


class MelFileError(ValueError):
    """A file holds no usable mel; the message names the file and the fix."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredMel:
    """A mel as a file holds it.

    Attributes:
        path: The file.
        mel: `[rows, columns]`, float32: which of them are the bands is not known here.
        array: Name of the array in the file; "" where it holds one alone.
        dtype: Type in which the file stores it: "float16", "bfloat16", "float32" or "float64".
        shape: Shape in the file, with leading axes of size 1.
        broken: How many values are NaN or infinite.
    """

    path: Path
    mel: Tensor
    array: str
    dtype: str
    shape: tuple[int, ...]
    broken: int

    def __str__(self) -> str:
        name = f", array {self.array!r}" if self.array else ""
        broken = f", {self.broken} values NaN or infinite" if self.broken else ""
        return f"{one_line(self.path)}: {list(self.shape)} {self.dtype}{name}{broken}"


def find_mels(folder: Path) -> tuple[Path, ...]:
    """Return the files of mels in a folder and below, sorted; hidden ones are passed over.

    Raises:
        NotADirectoryError: There is no such folder.
        MelFileError: It holds none.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder. Check the path.")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in MEL_SUFFIXES
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise MelFileError(f"{folder}: no mels in this folder. Looked for {_suffixes()}.")
    return tuple(found)


def read_mel(path: Path, *, array: str | None = None, finite: bool = True) -> StoredMel:
    """Read one mel.

    Args:
        path: A file that ends in one of `MEL_SUFFIXES`.
        array: Which array of it; None takes the only one, or the one that is called "mel".
        finite: Whether NaN and infinite values are refused; they are counted otherwise.

    Raises:
        FileNotFoundError: There is no such file.
        MelFileError: It holds no mel, or several without a name.
    """
    suffix = path.suffix.lower()
    try:
        data = read_bytes(path, max_bytes=_MAX_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(f"{one_line(path)}: no such file. Check the path.") from None
    except OSError as error:
        raise MelFileError(
            f"{one_line(path)}: it cannot be read: {os_reason(error)}. Name the file of one mel."
        ) from None
    if suffix not in _READERS:
        raise MelFileError(
            f"{one_line(path)}: a mel must end in {_suffixes()}, got {path.suffix!r}."
        )
    if not data:
        raise MelFileError(f"{one_line(path)}: the file is empty. Write it again.")
    try:
        content = _READERS[suffix](data, max_bytes=_MAX_BYTES)
    except HoldsCode as error:
        problem = (
            f"it holds Python objects, which could run code ({error}). Save the array alone: "
            "np.save(path, mel), or torch.save(mel, path)."
        )
    except RefusedFile as error:
        problem = f"it is not read: {error}. Save one float array, [n_mels, frames]."
    except MemoryError:
        raise
    # Damaged bytes raise anything inside a parser.
    except Exception as error:
        found = kind_of_file(data)
        problem = f"it cannot be read ({first_line(error):.160})."
        if found not in ("", suffix.replace("pth", "pt")):
            problem += f" By its content it is a {found}: name it so."
        else:
            problem += " It is truncated or damaged: write it again."
    else:
        return _stored(path, content, array, finite)
    raise MelFileError(f"{one_line(path)}: {problem}")


# A mel of an hour in float64 takes 270 MB.
_MAX_BYTES = 2**29

_READERS: Mapping[str, Callable[..., object]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".pt": read_torch,
    ".pth": read_torch,
    ".safetensors": read_safetensors,
}

MEL_SUFFIXES = tuple(_READERS)
"""What a file of a mel ends in."""


def _stored(path: Path, content: object, array: str | None, finite: bool) -> StoredMel:
    name, value = _picked(path, content, array)
    shape = tuple(getattr(value, "shape", ()))
    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    mel, kind = float_tensor(value)
    if mel is None:
        raise MelFileError(
            f"{one_line(path)}: a mel must be floating point, got {kind}. Store it as float32 "
            "or float16, and the magnitude of what is complex."
        )
    if not mel.numel():
        raise MelFileError(f"{one_line(path)}: the mel is empty, {list(shape)}. Write it again.")
    while mel.dim() > 2 and mel.shape[0] == 1:
        mel = mel[0]
    if mel.dim() != 2:
        raise MelFileError(
            f"{one_line(path)}: a mel must be [n_mels, frames] up to leading axes of size 1, got "
            f"{list(shape)}. Store the items of a batch one by one."
        )
    broken = int((~torch.isfinite(mel)).sum())
    if broken and finite:
        raise MelFileError(
            f"{one_line(path)}: {broken} of {mel.numel()} values are NaN or infinite. Find the "
            "first step that makes them, such as a logarithm without a floor."
        )
    return StoredMel(path, mel.contiguous(), name, dtype, shape, broken)


def _picked(path: Path, content: object, array: str | None) -> tuple[str, Any]:
    if isinstance(content, (list, tuple)):
        content = {str(index): value for index, value in enumerate(content)}
    if not isinstance(content, Mapping):
        if array is not None:
            raise MelFileError(
                f"{one_line(path)}: it holds one array without a name, not {array!r}."
            )
        return "", content
    arrays = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, (np.ndarray, Tensor)) and value.ndim >= 2
    }
    named = arrays if array is None else {array: arrays[array]} if array in arrays else {}
    if len(named) > 1 and _USUAL_NAME in named:
        named = {_USUAL_NAME: named[_USUAL_NAME]}
    if len(named) == 1:
        return next(iter(named.items()))
    listed = ", ".join(
        f"{name!r} {list(value.shape)}" for name, value in list(arrays.items())[:_LISTED_NAMES]
    )
    if array is not None:
        raise MelFileError(f"{one_line(path)}: no array {array!r}. It holds {listed or 'none'}.")
    if not arrays:
        raise MelFileError(
            f"{one_line(path)}: it holds no array of two axes. Store [n_mels, frames]."
        )
    raise MelFileError(
        f"{one_line(path)}: it holds several arrays, {listed}, and none is called {_USUAL_NAME!r}. "
        "Name one."
    )


def _suffixes() -> str:
    return ", ".join(MEL_SUFFIXES)
