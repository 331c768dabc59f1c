"""Files of arrays, read within bounds: NumPy's, torch's and safetensors, without running code.

What a file says of itself (shapes, types, sizes of storages, unpacked sizes) is compared with the
bytes that are there before memory is asked for. A pickle is read by an interpreter of its own that
knows the few names with which torch writes tensors and refuses every other; `torch.load` would ask
for the memory that a file names, and trust the sizes in it.

References:
    The format of `torch.save`: `torch/serialization.py` and `torch/_utils.py` of torch 2.11. NumPy
    enhancement proposal 1, https://numpy.org/neps/nep-0001-npy-format.html.
"""

from __future__ import annotations

import codecs
import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from melcheck.files import short

# A list takes 56 bytes of memory and one of a pickle: the bound holds what a pickle may become.
# One of two thousand tensors, as of a whole training, takes 0.3 MB.
_MAX_PICKLE_BYTES: Final = 2**21
_MAX_TENSORS: Final = 20_000
_MAX_MEMBERS: Final = 20_000
_MAX_AXES: Final = 64

_ZIP_MAGIC: Final = b"PK\x03\x04"
_NPY_MAGIC: Final = b"\x93NUMPY"
# With these two numbers begins what torch wrote before 1.6.
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL: Final = 1001
# Packing methods whose unpacking can be stopped at a number of bytes.
_METHODS: Final = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}

_STORAGES: Final[Mapping[str, torch.dtype]] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


# torch writes none of these. They take a size from the file and ask for the memory, look into a
# registry of the process, or make sets, of which one byte can make 200.
_UNUSED_OPCODES: Final = frozenset(
    code[0]
    for code in (
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4),
        *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
    )
)


_DISPATCH: Final[Mapping[int, Any]] = pickle._Unpickler.dispatch


class RefusedFile(ValueError):  # noqa: N818 - what was done with it
    """A file asks for more than a bound, or holds what is no array; the message says which."""


class HoldsCode(RefusedFile):
    """A pickle names something that torch does not write tensors with: it could run code."""


def kind_of_file(data: bytes) -> str:
    """Return what the first bytes show: ".npy", ".npz", ".pt", or "" for none of these."""
    if data.startswith(_NPY_MAGIC):
        return ".npy"
    if not data.startswith(_ZIP_MAGIC):
        return ""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except Exception:  # damaged bytes raise anything inside the parser
        return ""
    return ".pt" if any(name.endswith("/data.pkl") for name in names) else ".npz"


def read_npy(data: bytes, *, max_bytes: int) -> np.ndarray[Any, Any]:
    """Return the array of a `.npy` file, without a copy.

    Raises:
        RefusedFile: More than `max_bytes`, or no numbers.
        HoldsCode: Python objects.
        Exception: A damaged file raises anything.
    """
    if data.startswith(pickle.PROTO):
        raise HoldsCode("it is a pickle")
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise RefusedFile(f"version {version[0]}.{version[1]} of the format holds no plain array")
    try:
        shape, column_order, dtype = read(file)
    except (MemoryError, RecursionError):  # of Python's parser, on a header nested too deep
        raise ValueError("the header is nested too deep") from None
    if dtype.hasobject:
        raise HoldsCode("it is an array of Python objects")
    if any(isinstance(size, bool) or size < 0 for size in shape) or not dtype.itemsize:
        raise ValueError(f"the header has the shape {shape} and the type {dtype}")
    needed, held = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    _check_size(f"an array of {list(shape)} {dtype}", needed, max_bytes)
    if needed > held:
        raise ValueError(f"the header promises {needed:,} bytes, {held:,} are there")
    flat = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return flat.reshape(shape, order="F" if column_order else "C")


def read_npz(data: bytes, *, max_bytes: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a `.npz` file by name; raises as `read_npy` does."""
    with _archive(data, max_bytes) as archive:
        return {
            name.removesuffix(".npy"): read_npy(archive.read(name), max_bytes=max_bytes)
            for name in archive.namelist()
            if name.endswith(".npy")
        }


def read_safetensors(data: bytes, *, max_bytes: int) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file by name; raises as `read_npy` does."""
    from safetensors.torch import load

    _check_size("the file", len(data), max_bytes)
    # The library compares every shape with its bytes, and all of those with the file.
    tensors: dict[str, Tensor] = load(data)
    return tensors


def read_torch(data: bytes, *, max_bytes: int) -> Any:
    """Return what `torch.save` wrote: tensors on the CPU, in lists, tuples and dictionaries.

    Raises:
        RefusedFile: More than `max_bytes` unpacked; a tensor that is sparse, nested, quantised, on
            no device, or a view that is larger than its storage.
        HoldsCode: Any other object.
        Exception: A damaged file raises anything.
    """
    if not data.startswith(_ZIP_MAGIC):
        _check_size("the file", len(data), max_bytes)
        return _read_legacy(data)
    with _archive(data, max_bytes) as archive:
        [pickled] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder = pickled.removesuffix("data.pkl")
        if _member(archive, f"{folder}byteorder", b"little") != b"little":
            raise RefusedFile("it was written on a machine of the other byte order")
        storages: dict[str, bytearray] = {}

        def storage(key: str) -> bytearray:
            if key not in storages:
                storages[key] = bytearray(archive.read(f"{folder}data/{key}"))
            return storages[key]

        size = archive.getinfo(pickled).file_size
        _check_size("its pickle", size, _MAX_PICKLE_BYTES)
        return _Unpickler(io.BytesIO(archive.read(pickled)), storage).load()


def _check_size(what: str, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise RefusedFile(f"{what} takes {num_bytes:,} bytes, and at most {limit:,} are read")


def _archive(data: bytes, max_bytes: int) -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise RefusedFile(f"it has {len(members):,} members, and at most {_MAX_MEMBERS:,} are read")
    _check_size("unpacked, it", sum(member.file_size for member in members), max_bytes)
    for member in members:
        if member.compress_type not in _METHODS:
            raise RefusedFile(f"it is packed by method {member.compress_type}, which is not read")
    return archive


def _member(archive: zipfile.ZipFile, name: str, default: bytes) -> bytes:
    return archive.read(name) if name in archive.namelist() else default


def _read_legacy(data: bytes) -> Any:
    # Five pickles (magic number, protocol, machine, the objects, the keys of the storages), then
    # each storage as its number of elements and its bytes. Offsets are known only at the end, so
    # the pickle of objects is read twice: once for what it needs.
    file = io.BytesIO(data)

    def load(storage: Callable[[str], bytearray]) -> Any:
        return _Unpickler(file, storage).load()

    if load(_no_storage) != _LEGACY_MAGIC:
        raise ValueError("it is no file of torch.save")
    if load(_no_storage) != _LEGACY_PROTOCOL or not load(_no_storage).get("little_endian", True):
        raise RefusedFile("it was written by another version, or in the other byte order")
    begin = file.tell()
    itemsizes: dict[str, int] = {}
    _Unpickler(file, _no_storage, itemsizes).load()
    storages = {}
    for key in load(_no_storage):
        count = int.from_bytes(file.read(8), "little")
        storages[key] = bytearray(file.read(count * itemsizes[key]))
    file.seek(begin)
    return load(storages.__getitem__)


def _no_storage(key: str) -> bytearray:
    raise ValueError(f"storage {key!r:.40} is named before it is there")


class _Storage(NamedTuple):
    """What a pickle says of a storage, with its bytes."""

    dtype: torch.dtype
    data: bytearray


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, the one in Python, which asks for no memory that a file names.

    Args:
        file: Where the pickle begins.
        storage: Returns the bytes of a storage by its key.
        itemsizes: If given, storages are not read: the bytes of an element are noted here by key,
            and tensors stay empty.
    """

    def __init__(
        self,
        file: io.BytesIO,
        storage: Callable[[str], bytearray],
        itemsizes: dict[str, int] | None = None,
    ) -> None:
        super().__init__(_Bounded(file), encoding="utf-8")
        self._storage = storage
        self._itemsizes = itemsizes
        self._tensors = 0
        self._left = _MAX_PICKLE_BYTES

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; none is imported."""
        known = {
            "collections.OrderedDict": lambda: collections.OrderedDict(),
            "torch.Size": self._size,
            "torch.device": lambda *named: short(named),
            "_codecs.encode": self._encoded,
            # A tensor with attributes of its own, which are dropped.
            "torch._tensor._rebuild_from_type_v2": lambda build, _, arguments, *__: build(
                *arguments
            ),
            # Named by that, and no class that could be called.
            "torch.Tensor": "torch.Tensor",
            "torch.nn.parameter.Parameter": "torch.nn.parameter.Parameter",
        }.get(f"{module}.{name}")
        if known is not None:
            return known
        if name in _STORAGES and module in ("torch", "torch.storage", "torch.cuda"):
            return _STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "torch._utils":
            builder = {
                "_rebuild_tensor": self._tensor,
                "_rebuild_tensor_v2": self._tensor,
                "_rebuild_tensor_v3": self._typed_tensor,
                "_rebuild_parameter": lambda tensor, *_: tensor,
            }.get(name)
            if builder is not None:
                return builder
            if name.startswith("_rebuild_"):
                kind = name.removeprefix("_rebuild_").replace("_", " ").removesuffix(" tensor")
                raise RefusedFile(f"it holds a tensor that is no plain one ({kind})")
        raise HoldsCode(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return a storage; its bytes must be there."""
        kind, dtype, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError(f"it names {pid!r:.60} as a storage")
        if self._itemsizes is not None:
            self._itemsizes[key] = dtype.itemsize
            return _Storage(dtype, bytearray())
        data = self._storage(key)
        if count * dtype.itemsize > len(data):
            raise RefusedFile(
                f"its storage {key!r:.40} takes {count * dtype.itemsize:,} bytes, and "
                f"{len(data):,} are there"
            )
        return _Storage(dtype, data)

    def _tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        return self._built(storage, storage.dtype, offset, size, stride)

    def _typed_tensor(
        self, storage: _Storage, offset: int, size: Any, stride: Any, _: Any, __: Any, dtype: Any,
        *___: Any,
    ) -> Tensor:  # fmt: skip
        return self._built(storage, dtype, offset, size, stride)

    def _built(
        self, storage: _Storage, dtype: torch.dtype, offset: int, size: Any, stride: Any
    ) -> Tensor:
        self._tensors += 1
        if self._tensors > _MAX_TENSORS:
            raise RefusedFile(f"it holds more than {_MAX_TENSORS:,} tensors")
        if self._itemsizes is not None:
            return torch.empty(0)
        if len(size) > _MAX_AXES:
            raise ValueError(f"a tensor has {len(size)} axes")
        count = math.prod(size)
        if any(number < 0 for number in (offset, *size, *stride)) or len(size) != len(stride):
            raise ValueError(f"a tensor has the shape {list(size)} and the strides {list(stride)}")
        held = len(storage.data) // dtype.itemsize
        if count > held:
            raise RefusedFile(
                f"a tensor of {list(size)} takes {count * dtype.itemsize:,} bytes, and its storage "
                f"has {len(storage.data):,}: it is an expanded view. Save tensor.clone()"
            )
        if not count:
            return torch.empty(tuple(size), dtype=dtype)
        flat = torch.frombuffer(storage.data, dtype=dtype, count=held)
        return flat.as_strided(tuple(size), tuple(stride), offset)  # raises beyond the storage

    def load_build(self) -> None:
        """Drop attributes of a dictionary, as torch keeps a state's versions; refuse all others."""
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state = stack.pop()
        if not isinstance(stack[-1], collections.OrderedDict) or not isinstance(state, dict):
            raise HoldsCode(f"it sets the state of a {type(stack[-1]).__name__}")

    def _encoded(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise HoldsCode(f"it names the encoding {encoding!r:.40}")
        self._spend(len(text))
        return codecs.encode(text, encoding)

    def _size(self, sizes: tuple[int, ...]) -> torch.Size:
        self._spend(8 * len(sizes))
        return torch.Size(sizes)

    def _spend(self, num_bytes: int) -> None:
        # A few bytes of a pickle can copy one long value again and again.
        self._left -= num_bytes
        if self._left < 0:
            raise RefusedFile(f"its pickle becomes more than {_MAX_PICKLE_BYTES:,} bytes")

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: load for code, load in _DISPATCH.items() if code not in _UNUSED_OPCODES},
        pickle.BUILD[0]: load_build,
    }


class _Bounded:
    """A file of which a pickle may read so many bytes."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file
        self._left = _MAX_PICKLE_BYTES

    def read(self, size: int) -> bytes:
        return self._taken(self._file.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._taken(self._file.readline(self._left + 1))

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise RefusedFile(f"its pickle takes more than {_MAX_PICKLE_BYTES:,} bytes")
        return data
