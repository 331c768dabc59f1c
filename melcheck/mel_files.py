"""Mels on disk: `.npy`, `.npz`, `.pt` and `.safetensors`, read without running any code of theirs.

A pickle that holds more than tensors is refused, not executed. A file without a usable mel (several
arrays without a name, integers, NaN, nothing, half a file) raises a `MelFileError` with the fix.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from melcheck.files import one_line
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
    if not path.is_file():
        raise FileNotFoundError(f"{one_line(path)}: no such file. Check the path.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise MelFileError(
            f"{one_line(path)}: a mel must end in {_suffixes()}, got {path.suffix!r}."
        )
    if not path.stat().st_size:
        raise MelFileError(f"{one_line(path)}: the file is empty. Write it again.")
    try:
        content = reader(path)
    except pickle.UnpicklingError:
        problem = (
            "it holds Python objects, which could run code. Save the tensor alone: "
            "torch.save(mel, path)."
        )
    except _DAMAGE as error:
        reason = first_line(error)
        problem = f"it cannot be read ({reason:.160}). It is truncated or damaged: write it again."
        if "allow_pickle" in reason:
            problem = "it holds Python objects, not numbers. Save a float array: np.save(path, mel)"
    else:
        return _stored(path, content, array, finite)
    raise MelFileError(f"{one_line(path)}: {problem}")


_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    KeyError,
    SafetensorError,
    zipfile.BadZipFile,
    zlib.error,
)


# NumPy leaves a file that it opened itself open, where the file is damaged.


def _read_npy(path: Path) -> object:
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


def _read_npz(path: Path) -> object:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_pt(path: Path) -> object:
    with warnings.catch_warnings():
        # On pickles that torch did not write; they are refused all the same, in our words.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    return load_file(path)


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": _read_safetensors,
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
