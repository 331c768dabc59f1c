"""What code of the user's changes in the process: undone after each call, kept for the next one.

A front end may leave autocast on, set a default device or replace a function of torch. Its next
call finds that, as it would in training; melcheck computes without. Its end of the process with
status 0 becomes an exception, since it would pass for a verdict.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import math
import os
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

_LISTED = 6
# Whose exceptions end or skip a test, or a whole run.
_RUNNERS = ("_pytest.outcomes", "unittest.case", "bdb")
_ABSENT = object()


class Escaped(Exception):  # noqa: N818 - it stands for the exception that it holds
    """Code of the user's raised what is meant for the program that runs it, such as `pytest.skip`.

    Attributes:
        error: The exception.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


def _autocast(device: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def get() -> tuple[bool, torch.dtype]:
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def put(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])

    return get, put


def _default_device() -> torch.device:
    return torch.empty(0).device


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


def float32_precision() -> tuple[Any, Any]:
    """Return how CUDA rounds products and convolutions, for `set_float32_precision`.

    torch 2.9 has a second interface, `fp32_precision`, for each operator. What is set by it alone
    the first one does not tell: it raises, and the second is read.
    """

    def read(old: Callable[[], Any], operators: Callable[[], tuple[Any, ...]]) -> Any:
        try:
            return old()
        except RuntimeError:
            return tuple(each.fp32_precision for each in operators())

    products = read(torch.get_float32_matmul_precision, _products)
    return products, read(lambda: torch.backends.cudnn.allow_tf32, _convolutions)


def set_float32_precision(value: tuple[Any, Any]) -> None:
    """Set what `float32_precision` returned."""
    products, convolutions = value
    if isinstance(products, tuple):
        for each, precision in zip(_products(), products, strict=True):
            each.fp32_precision = precision
    else:
        torch.set_float32_matmul_precision(products)
    if isinstance(convolutions, tuple):
        for each, precision in zip(_convolutions(), convolutions, strict=True):
            each.fp32_precision = precision
    else:
        torch.backends.cudnn.allow_tf32 = convolutions


def _products() -> tuple[Any, ...]:
    backends: Any = torch.backends
    return backends.cuda.matmul, backends.mkldnn.matmul


def _convolutions() -> tuple[Any, ...]:
    backends: Any = torch.backends
    return backends.cudnn.conv, backends.cudnn.rnn


_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]

# What may change, with how it is read and set.
_SETTINGS: Mapping[str, _Setting] = {
    "autocast on the CPU": _autocast("cpu"),
    "autocast on CUDA": _autocast("cuda"),
    "the default device": (_default_device, _set_default_device),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "the precision of products": (float32_precision, set_float32_precision),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the working directory": (os.getcwd, os.chdir),
    "the errors of NumPy": (np.geterr, lambda value: np.seterr(**value)),
    "sys.stdout or sys.stderr": (lambda: (sys.stdout, sys.stderr), _set_streams),
}

# Where functions may be replaced that melcheck calls.
_PATCHABLE: tuple[Any, ...] = (
    *(builtins, math, os, time, np, np.fft),
    *(torch, torch.Tensor, torch.fft, torch.functional, torch.nn.functional, torch.nn.Module),
    *(torchaudio.functional, torchaudio.functional.functional),
)
# Python's own folder is above that of what is installed.
_LIBRARIES = tuple(
    f"{Path(module.__file__).parent}{os.sep}"
    for module in (torch, torchaudio, np, os, sys.modules[__name__])
    if module.__file__ is not None
)
_SITES = tuple(f"{Path(os.__file__).parent}{os.sep}{name}" for name in ("site-", "dist-"))

_Patches = dict[tuple[int, str], Any]

# What the user's code has set and replaced, which its next call finds again.
_their_settings: dict[str, Any] = {}
_their_patches: _Patches = {}


@contextlib.contextmanager
def their_turn(changes: dict[str, None]) -> Iterator[None]:
    """Run code of the user's: what it changes in the process is undone at the end, and noted.

    Args:
        changes: Gets the names of what was changed.

    Raises:
        Escaped: The code raised what is no `Exception`, but for `KeyboardInterrupt` and
            `SystemExit`.
    """
    _watch_the_end()
    before, functions = _settings(), [dict(vars(place)) for place in _PATCHABLE]
    modes = _modes()
    _put_settings(_their_settings, before, {})
    for (index, name), value in _their_patches.items():
        _patch(index, name, value)
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, Exception) and not _is_for_a_runner(error):
            raise
        raise Escaped(error) from error
    finally:
        for index, place in enumerate(_PATCHABLE):
            for name, value in _replaced(functions[index], place):
                _their_patches[index, name] = value
                changes[f"{getattr(place, '__name__', place)}.{name} is replaced"] = None
                _patch(index, name, functions[index].get(name, _ABSENT))
        for name in _pop_modes(modes):
            changes[f"{name} is still entered"] = None
        now = _settings()
        for name, value in now.items():
            if value != before[name]:
                _their_settings[name] = value
                changes[f"{name} {_are(name)} changed"] = None
        _put_settings(before, now, changes)


def listed(changes: Mapping[str, None]) -> str:
    """Return changes as one text."""
    names = list(changes)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _is_for_a_runner(error: BaseException) -> bool:
    return any(kind.__module__ in _RUNNERS for kind in type(error).__mro__)


def _are(name: str) -> str:
    return "are" if name in ("gradients", "deterministic algorithms") else "is"


def _settings() -> dict[str, Any]:
    found = {}
    for name, (get, _) in _SETTINGS.items():
        with contextlib.suppress(Exception):  # a working directory may be gone
            found[name] = get()
    return {name: found.get(name) for name in _SETTINGS}


def _put_settings(
    values: Mapping[str, Any], now: Mapping[str, Any], changes: dict[str, None]
) -> None:
    for name, value in values.items():
        if value == now[name]:
            continue
        try:
            _SETTINGS[name][1](value)
        except Exception as error:
            changes[f"{name} cannot be set back ({type(error).__name__})"] = None


def _replaced(before: Mapping[str, Any], place: Any) -> list[tuple[str, Any]]:
    # A library that is imported replaces functions of its own, and what is new hides nothing but
    # where a class inherits.
    inherited = {name for base in getattr(place, "__mro__", ())[1:] for name in vars(base)}
    return [
        (name, value)
        for name, value in vars(place).items()
        if before.get(name, _ABSENT if name in inherited else value) is not value
        and callable(before.get(name, value))
        and not _of_a_library(value)
    ]


def _of_a_library(value: object) -> bool:
    code = getattr(getattr(value, "__func__", value), "__code__", None)
    return isinstance(code, types.CodeType) and is_library(code.co_filename)


def is_library(file: str) -> bool:
    """Return whether a source file is of Python, torch, NumPy or melcheck: not the user's."""
    ours = [folder for folder in _LIBRARIES if file.startswith(folder)]
    return file.startswith("<frozen") or any(
        not (file.startswith(_SITES) and _SITES[0].startswith(folder)) for folder in ours
    )


def _patch(index: int, name: str, value: Any) -> None:
    if value is _ABSENT:
        delattr(_PATCHABLE[index], name)
    else:
        setattr(_PATCHABLE[index], name, value)


def _modes() -> tuple[int, int]:
    stacks = torch._C
    return stacks._len_torch_function_stack(), stacks._len_torch_dispatch_stack()


def _pop_modes(before: tuple[int, int]) -> list[str]:
    """Leave the contexts that are still entered; `torch.set_default_device` enters one too."""
    functions, dispatches = before
    left = []
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    while torch._C._len_torch_function_stack() > functions + (context is not None):
        left.append(type(torch._C._pop_torch_function_stack()).__name__)
    while torch._C._len_torch_dispatch_stack() > dispatches:
        left.append(type(torch._C._pop_torch_dispatch_stack(None)).__name__)
    return left


@functools.cache
def _watch_the_end() -> None:
    """Let no code of this process end it with status 0 past Python, from now on."""
    process = os.getpid()

    def watched(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(original)
        def end(*arguments: Any, **named: Any) -> Any:
            # A child ends itself so, and a status that is no 0 passes for no verdict.
            passes = name != "_exit" or [*arguments, *named.values()] == [0]
            if os.getpid() == process and passes:
                raise Escaped(RuntimeError(f"os.{name} would end the process without a verdict"))
            return original(*arguments, **named)

        return end

    for module in {os, sys.modules.get("posix", os), sys.modules.get("nt", os)}:
        for name in ("_exit", "execv", "execve"):
            if hasattr(module, name):
                setattr(module, name, watched(getattr(module, name), name))
