"""A CUDA device that is not there: tensors of the CPU that say they are on `cuda:0`.

Inside `pretend_cuda()` torch sees one CUDA device, whose tensors hold numbers of the CPU. An
operation that takes tensors of both devices raises, as on a real one, `numpy()` of such a tensor
does too, and a generator must be of the device that draws. So a mistake that only another device
shows is seen without one. Kernels, their rounding and their streams are not imitated.

`PretendedCuda.waits` counts how often a value was read back to Python. Where a real device must
finish its queue for that, and where a CUDA graph cannot be captured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
_aten: Any = torch.ops.aten
_MAY_MIX = (_aten.copy_, _aten._to_copy, _aten.set_)
# A tensor on CUDA takes indices from the CPU.
_TAKES_INDICES = (_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_)
# What depends on values, and not on shapes alone.
_READS_A_VALUE = (
    *(_aten._local_scalar_dense, _aten.equal, _aten.is_nonzero),
    *(_aten.nonzero, _aten.masked_select, _aten._unique2),
)


class PretendedTensor(Tensor):
    """A tensor that holds one of the CPU, and says that it is on `CUDA`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendedTensor:
        # torch's own code sees "meta", which needs no driver, and the mode sees what it does.
        # In inference mode, a view of a tensor from outside is no inference tensor.
        with torch.inference_mode(held.is_inference()):
            made: PretendedTensor = Tensor._make_wrapper_subclass(
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device="meta",
                requires_grad=held.requires_grad,
            )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"{self.held!r} on {CUDA}"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a pretended CUDA device outside of pretend_cuda()")


class PretendedCuda(TorchDispatchMode):
    """Runs what is asked of the pretended device on the CPU.

    Attributes:
        waits: How often a value was read back.
        operations: How many operations the device did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation, and raise where its tensors are on two devices."""
        kwargs = dict(kwargs or {})
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            # Of tensors made in inference mode these arrive whole.
            with self:
                return func.decompose(*args, **kwargs)
        flat, _ = tree_flatten((args, kwargs))
        there = [each for each in flat if isinstance(each, PretendedTensor)]
        here = [
            each
            for each in flat
            if isinstance(each, Tensor) and not isinstance(each, PretendedTensor)
        ]
        packet = func.overloadpacket
        if there and packet not in _MAY_MIX:
            mixed = [each for each in here if each.dim() or func._schema.is_mutable]
            if packet in _TAKES_INDICES:
                mixed = mixed if here and args[0] is here[0] else []
            if mixed:
                raise RuntimeError(f"{func}: tensors on cuda:0 and on the CPU in one operation")
        target = kwargs.get("device")
        on_device = bool(there) if target is None else _is_ours(target)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        generator = kwargs.get("generator")
        if generator is not None and on_device:
            raise RuntimeError(f"{func}: a generator of {generator.device} draws on cuda:0")
        if packet is _aten.copy_:
            on_device = isinstance(args[0], PretendedTensor)
            self.waits += on_device != any(each is args[1] for each in there)
        back = packet is _aten._to_copy and not on_device
        self.waits += bool(there) and (back or packet in _READS_A_VALUE)
        self.operations += on_device
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if there and torch.Tag.inplace_view in func.tags:
            with no_dispatch():  # sizes and strides of the one that shows them
                func(*args, **kwargs)
        if not on_device:
            return result
        known = {id(each.held): each for each in there}
        return tree_map(lambda each: _shown(each, known), result)


class _WithIndex(TorchFunctionMode):
    """Spells "cuda" as `CUDA`: without an index, torch asks the driver which device is meant."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map(_indexed, args), tree_map(_indexed, kwargs or {})
        if func is Tensor.cuda:
            return args[0].to(CUDA)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == CUDA:
            return func(*args, **{**kwargs, "device": "cpu"}).to(CUDA)
        return func(*args, **kwargs)


def _indexed(value: Any) -> Any:
    return CUDA if isinstance(value, (str, torch.device)) and str(value) == "cuda" else value


def _is_ours(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendedTensor) else value


def _shown(value: Any, known: dict[int, PretendedTensor]) -> Any:
    if not isinstance(value, Tensor):
        return value
    same = known.get(id(value))
    return PretendedTensor(value) if same is None else same


@contextlib.contextmanager
def pretend_cuda() -> Iterator[PretendedCuda]:
    """Let torch see one CUDA device, in this thread, while the block lasts."""
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "pretended",
        "synchronize": lambda *_: None,
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda *_: (2**33, 2**33),
    }
    with mock.patch.multiple("torch.cuda", **cuda), _WithIndex(), PretendedCuda() as mode:
        yield mode
