"""Code of the user's, named "package.module:attribute": imported and made ready to be called.

What cannot be used is told in one `CallableError`, which names the module or the argument that is
missing and what to write instead.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_RATE_ARGUMENTS = ("sample_rate", "sampling_rate", "target_sample_rate", "sr", "fs")
_LISTED_NAMES = 8
# Where a repository keeps its packages.
_SOURCE_FOLDERS = ("", "src")


THEIR_ERRORS: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What code of the user's may raise: a `sys.exit(0)` in it must not end a gate as passed."""


class CallableError(ValueError):
    """Code of the user's that cannot be imported or called; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A callable that is ready.

    Attributes:
        name: As it was asked for.
        call: Takes one argument; in evaluation mode where it is a `torch.nn.Module`.
        device: Where its parameters and buffers are; the CPU where it has none.
        place: The file and the line that define it; None where that is not known.
        notes: What was done to make it ready, in sentences.
    """

    name: str
    call: Callable[[Any], Any]
    device: torch.device
    place: tuple[Path, int] | None
    notes: tuple[str, ...]


def is_reference(text: str) -> bool:
    """Return whether a text has the form "package.module:attribute".

    Example:
        >>> is_reference("mytts.audio:mel"), is_reference("charactr/vocos-mel-24khz")
        (True, False)
    """
    module, colon, attribute = text.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def find_object(reference: str, *, folders: Iterable[Path] = ()) -> object:
    """Import a module and return what it calls by a name.

    Args:
        reference: "package.module:attribute"; the attribute may be dotted. A method of a class
            is bound to an instance that is made without arguments.
        folders: Searched before what is installed, each with its folder `src`; they stay on the
            search path, since code may import more when it is called.

    Raises:
        CallableError: No such module or attribute, or a module that fails when it is imported.
    """
    if not is_reference(reference):
        raise CallableError(_misspelt(reference))
    search_first(folders)
    # A module that was written a moment ago is missing from the caches of the import system.
    importlib.invalidate_caches()
    module_name, _, attribute = reference.partition(":")
    found: object = _import(module_name, reference)
    for name in attribute.split("."):
        found = _attribute(found, name, reference)
    return found


def search_first(folders: Iterable[Path]) -> None:
    """Put folders, each with its folder `src`, before what Python searches for modules."""
    for folder in reversed(list(folders)):
        for source in reversed(_SOURCE_FOLDERS):
            path = str((folder / source).resolve())
            if path not in sys.path and (folder / source).is_dir():
                sys.path.insert(0, path)


def as_target(target: object, *, name: str, sample_rate: int) -> Target:
    """Make a function, a class or a module ready to be called with one argument.

    A class is instantiated without arguments. An argument that is named like a sampling rate and
    has no default is given `sample_rate`.

    Raises:
        CallableError: It cannot be called, or needs more arguments.
    """
    target, notes = instance(target, name)
    if not callable(target):
        raise CallableError(
            f"{name} must be callable, got {type(target).__name__}. Name a function, or a method "
            "as module:Class.method."
        )
    call: Callable[..., Any] = target
    device = torch.device("cpu")
    module = target if isinstance(target, torch.nn.Module) else getattr(target, "__self__", None)
    if isinstance(module, torch.nn.Module):
        module.eval()
        tensors = (*module.parameters(), *module.buffers())
        device = tensors[0].device if tensors else device
    missing = _required(target, positional=1)
    rates = [argument for argument in missing if argument in _RATE_ARGUMENTS]
    others = [argument for argument in missing if argument not in _RATE_ARGUMENTS]
    if others:
        raise CallableError(
            f"{name} needs {_listed(others)} beside its input. Name a function of the input "
            "alone, such as `def mel(waveform): return mel_spectrogram(waveform, ...)`."
        )
    if rates:
        call = _with_arguments(call, dict.fromkeys(rates, sample_rate))
        notes.append(f"{name} is called with {_listed(f'{rate}={sample_rate}' for rate in rates)}")
    return Target(name, call, device, _place(target), tuple(notes))


def instance(target: Any, name: str) -> tuple[Any, list[str]]:
    """Return an object as it is, and an instance of a class, with a note that says so.

    Raises:
        CallableError: A class that needs arguments, or fails without.
    """
    if not inspect.isclass(target):
        return target, []
    missing = _required(target, positional=0)
    if missing:
        raise CallableError(
            f"{name} is a class that needs {_listed(missing)}. Make an instance in your "
            f"module, `mel = {target.__name__}(...)`, and name that."
        )
    return _instance(target, name), [f"{name} is a class; an instance was made without arguments"]


def float_tensor(value: object) -> tuple[Tensor | None, str]:
    """Return an array of floating point numbers as a tensor on the CPU, float32.

    Returns:
        The tensor, detached, with what was converted, "" for nothing; or None with what the value
        is instead.
    """
    converted = ""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiubc":
            return None, f"a NumPy array of {value.dtype}"
        native = value.dtype.newbyteorder("=")
        value = torch.from_numpy(np.ascontiguousarray(value, dtype=native))
        converted = "NumPy"
    if not isinstance(value, Tensor):
        return None, f"{type(value).__name__}, which is no array"
    shape = f"{value.dtype} of shape {list(value.shape)}".removeprefix("torch.")
    if not value.is_floating_point() or value.layout != torch.strided:
        return None, shape
    if value.dtype != torch.float32:
        converted = ", ".join(filter(None, (converted, str(value.dtype).removeprefix("torch."))))
    return value.detach().cpu().float(), converted


def first_line(error: BaseException) -> str:
    """Return an exception as one line: its type and the first line of its message."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def _misspelt(reference: str) -> str:
    hint = "Put the attribute behind a colon."
    path = Path(reference.partition(":")[0])
    if path.suffix == ".py" or "/" in reference or "\\" in reference:
        parts = path.with_suffix("").parts
        dotted = ".".join(parts[1:] if parts[0] in _SOURCE_FOLDERS else parts)
        hint = f"Name the module, not the file: {dotted}:NAME."
    elif ":" not in reference and "." in reference:
        hint = f"Did you mean {':'.join(reference.rsplit('.', 1))!r}?"
    return f"{reference!r} must have the form package.module:attribute. {hint}"


def _import(module: str, reference: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            problem = (
                f"no module {missing!r}. Run from the root of the repository that holds it, or "
                "install it: pip install -e ."
            )
        else:
            problem = f"it imports {missing!r}, which is not installed. Install it."
    # Whatever a module does when it is imported, the run has not begun.
    except THEIR_ERRORS as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"importing it raised {first_line(error)} ({last.filename}:{last.lineno})."
    raise CallableError(f"{reference}: {problem}")


def _attribute(owner: object, name: str, reference: str) -> object:
    if not hasattr(owner, name):
        public = [other for other in dir(owner) if not other.startswith("_")]
        close = difflib.get_close_matches(name, public, n=1)
        known = ", ".join(public[:_LISTED_NAMES]) or "nothing"
        hint = f"Did you mean {close[0]!r}?" if close else f"It has {known}."
        where = getattr(owner, "__name__", type(owner).__name__)
        raise CallableError(f"{reference}: {where} has no attribute {name!r}. {hint}")
    if inspect.isclass(owner) and isinstance(
        inspect.getattr_static(owner, name), types.FunctionType
    ):
        missing = _required(owner, positional=0)
        if missing:
            raise CallableError(
                f"{reference}: the class {owner.__name__} needs {_listed(missing)}. Make an "
                f"instance in your module and name its method."
            )
        owner = _instance(owner, reference)
    return getattr(owner, name)


def _instance(cls: type, name: str) -> Any:
    try:
        return cls()
    except THEIR_ERRORS as error:
        raise CallableError(f"{name}: making an instance raised {first_line(error)}.") from None


def _required(target: Any, *, positional: int) -> list[str]:
    """Return the arguments that have no default, but for the first `positional` ones."""
    function = target.forward if isinstance(target, torch.nn.Module) else target
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []  # code in C tells nothing of its arguments; the call itself will
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = [each.name for each in parameters if each.kind in by_place][:positional]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in variable and each.name not in first
    ]


def _with_arguments(call: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[Any], Any]:
    def with_arguments(value: Any) -> Any:
        return call(value, **arguments)

    return with_arguments


def _place(target: object) -> tuple[Path, int] | None:
    if isinstance(target, torch.nn.Module):
        target = type(target).forward
    elif not inspect.isroutine(target):
        target = type(target)
    try:
        file = inspect.getsourcefile(inspect.unwrap(target))
        _, line = inspect.getsourcelines(inspect.unwrap(target))
    except (OSError, TypeError):
        return None
    return None if file is None else (Path(file), line)


def _listed(names: Iterable[str]) -> str:
    parts: Sequence[str] = list(names)
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
