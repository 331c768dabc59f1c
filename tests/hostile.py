"""Files that ask for more than they hold, or hold what is no array: bytes by kind.

Tests and `tests.fuzz` read each as a stored mel and as the weights of a vocoder.
"""

from __future__ import annotations

import functools
import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# More than any limit of melcheck's.
_BOMB_BYTES = 2**30 + 2**24

LARGE = 2**40
"""Numbers that a file of a few kB asks for."""


def saved(content: object, *, legacy: bool = False) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], bytes], *, method: int = 0) -> bytes:
    """Return a zip file with the content of its members changed, and packed by a method."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a `.npy` file with a header of one's own."""
    text = header.encode("latin1") + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text) & 0xFFFF)
    return b"\x93NUMPY" + bytes(version) + length + text + data


def header(shape: object, *, kind: str = "<f4") -> str:
    """Return the header of a `.npy` file."""
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"


def _npz(arrays: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def array_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """Return the `.npy` file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def larger(numbers: int, *, legacy: bool = False) -> bytes:
    """Return a file of torch whose pickle names a storage of more numbers than are there."""
    small, honest = 1234, struct.pack("<H", 1234)
    data = saved({"mel": torch.zeros(small)}, legacy=legacy)
    claimed = pickle.LONG1 + b"\x08" + struct.pack("<q", numbers)

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        # The number of the storage is the first, and that of the shape the second.
        return content.replace(pickle.BININT2 + honest, claimed)

    return change("data.pkl", data) if legacy else repacked(data, change)


def deep(levels: int) -> bytes:
    """Return a pickle of lists in lists."""
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


class _Calls:
    """Unpickles into a call of something that is harmless, but large."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def _lists(number: int) -> bytes:
    return b"\x80\x02(" + b"]" * number + b"l."


MEL = torch.zeros(100, 40)
VIEW = torch.zeros(1).expand(LARGE)


def _odd_tensors() -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors of this kind are new
        csr = MEL.to_sparse_csr()
    return {
        "expanded": VIEW,
        "expanded-to-a-mel": torch.zeros(1).expand(100, 100_000_000),
        "meta": torch.zeros(100, LARGE, device="meta"),
        "sparse": MEL.to_sparse(),
        "sparse-csr": csr,
        "quantised": torch.quantize_per_tensor(MEL, 1.0, 0, torch.quint8),
    }


@functools.cache
def torch_files() -> dict[str, bytes]:
    """Return files of `torch.save`, by what is wrong with them."""
    files = {
        f"{name}-{'legacy' if legacy else 'zip'}": saved({"mel": tensor}, legacy=legacy)
        for name, tensor in _odd_tensors().items()
        for legacy in (False, True)
    }
    whole = saved({"mel": MEL})
    return files | {
        "storage-larger-than-its-bytes": larger(LARGE),
        "storage-larger-than-its-bytes-legacy": larger(LARGE, legacy=True),
        "storage-of-negative-size": larger(-5),
        "bytearray": saved({"mel": _Calls(bytearray, LARGE)}),
        "bytearray-legacy": saved({"mel": _Calls(bytearray, LARGE)}, legacy=True),
        "deflated-bomb": _deflated_bomb(),
        "lzma": repacked(whole, lambda _, data: data, method=zipfile.ZIP_LZMA),
        "bzip2": repacked(whole, lambda _, data: data, method=zipfile.ZIP_BZIP2),
        "big-endian": repacked(
            whole, lambda name, data: b"big" if name.endswith("byteorder") else data
        ),
        "deep": repacked(
            whole, lambda name, data: deep(50_000) if name.endswith("data.pkl") else data
        ),
        "many-lists": repacked(
            whole, lambda name, data: _lists(2**23) if name.endswith("data.pkl") else data
        ),
        "no-pickle": _npz({"mel": array_bytes(MEL.numpy())}),
        "pickle-of-memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
        "pickle-of-bytes": b"\x80\x05\x8e" + struct.pack("<Q", LARGE) + b"abc",
        "pickle-of-bytearray": b"\x80\x05\x96" + struct.pack("<Q", LARGE) + b"abc",
        "pickle-of-unicode": b"\x80\x04\x8d" + struct.pack("<Q", LARGE) + b"abc",
        "extension": b"\x80\x02\x82\x01.",
        "ordered": saved(OrderedDict({str(n): OrderedDict() for n in range(3)}))[:-200],
    }


def _deflated_bomb() -> bytes:
    """Return a file of 5 MB that unpacks to more than 1 GiB."""
    buffer = io.BytesIO()
    whole = saved({"mel": torch.zeros(4)})
    with (
        zipfile.ZipFile(io.BytesIO(whole)) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in old.namelist():
            if name.endswith("data/0"):
                _write_zeros(new, name)
            else:
                new.writestr(name, old.read(name))
    return buffer.getvalue()


def _write_zeros(archive: zipfile.ZipFile, name: str, beginning: bytes = b"") -> None:
    block = bytes(2**24)
    with archive.open(name, "w", force_zip64=True) as file:
        file.write(beginning)
        for _ in range(_BOMB_BYTES // len(block)):
            file.write(block)


def _npz_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        _write_zeros(archive, "mel.npy", npy(header((100, _BOMB_BYTES // 400))))
    return buffer.getvalue()


@functools.cache
def npy_files() -> dict[str, bytes]:
    """Return files of NumPy, by what is wrong with them."""
    zeros = bytes(4000)
    return {
        "asks-for-4-tb": npy(header((100, LARGE)), zeros),
        "negative": npy(header((-100, -10)), zeros),
        "bool": npy(header((True, 10)), zeros),
        "of-no-size": npy(header((100, LARGE), kind="<U0"), zeros),
        "not-closed": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (100, 10)", zeros),
        "deep-header": npy("(" * 3000 + ")" * 3000, zeros),
        "deep-negation": npy("-" * 9000 + "1", zeros),
        "empty-header": npy("", zeros),
        "no-dictionary": npy("[1, 2]", zeros),
        "no-type": npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': ()}", zeros),
        "type-of-types": npy(
            "{'descr': [('a', '<f4', (10,))], 'fortran_order': False, 'shape': (10,)}", zeros
        ),
        "65-axes": npy(header((1,) * 65), zeros),
        "text-in-the-shape": npy(header("('a', 'b')"), zeros),
        "version-3": npy(header((100, 10)), zeros, version=(3, 0)),
        "version-9": npy(header((100, 10)), zeros, version=(9, 0)),
        "longdouble": array_bytes(np.zeros((100, 40), np.longdouble)),
        "complex-longdouble": array_bytes(np.zeros((100, 40), np.clongdouble)),
        "uint16": array_bytes(np.zeros((100, 40), np.uint16)),
        "dates": array_bytes(np.zeros((100, 40), "datetime64[s]")),
        "renamed-npz": _npz({"mel": array_bytes(MEL.numpy())}),
        "renamed-pt": saved(MEL),
        "pickle": pickle.dumps(MEL.numpy()),
    }


@functools.cache
def npz_files() -> dict[str, bytes]:
    """Return archives of NumPy, by what is wrong with them."""
    inner = {f"member-{name}": _npz({"mel": data}) for name, data in npy_files().items()}
    whole = _npz({"mel": array_bytes(MEL.numpy())})
    central = b"PK\x01\x02\x14\x03\x14\x00"
    return inner | {
        "bomb": _npz_bomb(),
        "lzma": _npz({"mel": array_bytes(MEL.numpy())}, zipfile.ZIP_LZMA),
        "bzip2": _npz({"mel": array_bytes(MEL.numpy())}, zipfile.ZIP_BZIP2),
        "renamed-npy": array_bytes(MEL.numpy()),
        "cut": whole[:-30],
        "encrypted": whole.replace(central + b"\x00", central + b"\x01"),
        "no-member": _npz({}),
    }


def safetensors_file(entries: str, data: bytes = bytes(16_000), length: int | None = None) -> bytes:
    """Return a file of safetensors with a header of one's own."""
    text = entries.encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@functools.cache
def safetensors_files() -> dict[str, bytes]:
    """Return files of safetensors, by what is wrong with them."""

    def entry(kind: str, shape: str, end: int = 16_000) -> str:
        return f'{{"mel":{{"dtype":"{kind}","shape":{shape},"data_offsets":[0,{end}]}}}}'

    return {
        "header-of-8-tb": safetensors_file("{}", length=2**43),
        "header-of-all": safetensors_file("{}", length=2**64 - 1),
        "asks-for-4-tb": safetensors_file(entry("F32", f"[100,{LARGE}]")),
        "wraps-around": safetensors_file(entry("F32", f"[{2**62},4]", 0), b""),
        "deep": safetensors_file("[" * 100_000),
        "no-json": safetensors_file("\x00\xff"),
        "no-dictionary": safetensors_file("[]"),
        "unknown-type": safetensors_file(entry("F99", "[100,40]")),
        "float8": safetensors_file(entry("F8_E4M3", "[100,160]")),
        "renamed-npy": array_bytes(MEL.numpy()),
    }
