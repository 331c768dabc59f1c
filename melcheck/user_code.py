"""Import the user's own code by its name "package.module:attribute" and find out how to call it.

What cannot be used is reported in one `CallableError`, in one line that names the module or the
argument that is missing and what to write instead; its cause is the exception of the user's code.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor

from melcheck.files import plain_text
from melcheck.process_state import Escaped, is_library, listed, their_turn

_RATE_ARGUMENTS = (
    *("sample_rate", "sampling_rate", "target_sample_rate", "samplerate", "sample_frequency"),
    *("orig_sr", "rate", "sr", "fs"),
)
# What an input is called where it can be given by name alone.
_INPUT_NAMES = (
    *("y", "x", "waveform", "audio", "wav", "wave", "raw_speech", "speech", "signal", "samples"),
    *("data", "input", "inputs", "mel", "features"),
)
# What the extractors of transformers take beside their audio: neither padded nor cut.
_PLAIN_BATCHES = {"padding": False, "return_tensors": "np"}
_LISTED_NAMES = 8
# Where a repository keeps its packages.
_SOURCE_FOLDERS = ("", "src")

_Result = TypeVar("_Result")
_Form = TypeVar("_Form")

THEIR_ERRORS: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What the user's code may raise: a `sys.exit(0)` in it must not end a gate as passed."""

# Built-in errors with which code may refuse the type or the shape of its input. A library's own
# errors may mean the same; any other built-in one comes from the code whatever it is given.
_REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, IndexError)


FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of numbers that a mel, a waveform or weights may have."""


class CallableError(ValueError):
    """The user's code cannot be imported or called; the message says why."""


class NeedsArgumentsError(CallableError):
    """The user's code needs more than its input; a wrapper can give it that.

    Attributes:
        missing: Names of the arguments that nobody gives.
        is_class: Whether it is a class, whose instance needs them.
    """

    def __init__(self, text: str, missing: list[str], *, is_class: bool) -> None:
        super().__init__(text)
        self.missing = tuple(missing)
        self.is_class = is_class


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A callable that is ready.

    Attributes:
        name: Name by which it was asked for.
        call: Function of its inputs; in evaluation mode where it is a `torch.nn.Module`.
        device: Device of its parameters and buffers; the CPU where it has none.
        place: File and line that define it; None where that is not known.
        notes: What was done to make it ready, in sentences.
        habits: What the code does beside its work, in words, as its calls show it.
    """

    name: str
    call: Callable[..., Any]
    device: torch.device
    place: tuple[Path, int] | None
    notes: tuple[str, ...]
    habits: dict[str, None]

    def told_habits(self) -> tuple[str, ...]:
        """Return a sentence on what it does beside its work; none where it does nothing."""
        if not self.habits:
            return ()
        place = "" if self.place is None else f" ({self.place[0]}:{self.place[1]})"
        return (
            f"{self.name}{place} changes more than its result: {listed(self.habits)}. melcheck "
            "works without these changes; in training they stay",
        )


@contextlib.contextmanager
def blaming(name: str, doing: str, habits: dict[str, None] | None = None) -> Iterator[None]:
    """Run code of the user's that is called by the way, as by `getattr`.

    Args:
        name: What the code is called in messages.
        doing: What is done with it, as in "reading its attribute `recipe`".
        habits: Gets the names of what it changes in the process.

    Raises:
        CallableError: Whatever it raises.
    """
    try:
        with their_turn({} if habits is None else habits):
            yield
    except CallableError:
        raise
    except THEIR_ERRORS as error:
        text, _, place = located(error).rpartition(" (")
        raise CallableError(f"{name}: {doing} raised {text}. See {place[:-1]}.") from error


def called(target: Target, *arguments: Any) -> Any:
    """Call code of the user's; what it changes in the process is undone and noted.

    Raises:
        Exception: Whatever it raises; `Escaped` for what is no `Exception`.
    """
    before = [_copied(argument) for argument in arguments]
    with their_turn(target.habits), torch.no_grad():
        returned = target.call(*arguments)
        if not all(map(_same, before, arguments)):
            target.habits["its input is changed in place"] = None
        if isinstance(returned, Tensor):
            with torch._C.DisableTorchFunctionSubclass():  # a class of its own may do anything
                return returned.as_subclass(Tensor)
        return returned


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else np.array(value)


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, Tensor):
        return before.shape == now.shape and torch.equal(before, now)
    return bool(np.array_equal(before, now))


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
        folders: Folders searched before what is installed, each with its folder `src`; they stay
            on the search path, since code may import more when it is called.

    Raises:
        CallableError: No such module or attribute, or a module that fails when it is imported.
    """
    if not is_reference(reference):
        raise CallableError(_misspelt(reference))
    search_first(folders)
    # A module that was written a moment ago is missing from the caches of the import system.
    importlib.invalidate_caches()
    module, _, attribute = reference.partition(":")
    outer, _, name = attribute.rpartition(".")
    try:
        with their_turn(_at_import.setdefault(module, {})):
            owner = pkgutil.resolve_name(f"{module}:{outer}")
            found: object = pkgutil.resolve_name(reference)
    # Whatever a module does when it is imported, the run has not begun.
    except THEIR_ERRORS as error:
        with blaming(reference, "reading its attributes"):
            _explain(reference, error)
    with blaming(reference, "reading its attributes"):
        if inspect.isclass(owner) and isinstance(
            inspect.getattr_static(owner, name), types.FunctionType
        ):
            return getattr(instance(owner, reference)[0], name)
    return found


# What modules changed in the process when they were imported.
_at_import: dict[str, dict[str, None]] = {}


def search_first(folders: Iterable[Path]) -> None:
    """Put folders, each with its folder `src`, before what Python searches for modules."""
    for folder in reversed(list(folders)):
        for source in reversed(_SOURCE_FOLDERS):
            path = str((folder / source).resolve())
            if path not in sys.path and (folder / source).is_dir():
                sys.path.insert(0, path)


def as_target(target: object, *, name: str, sample_rate: int, inputs: int = 1) -> Target:
    """Make a function, a class or a module ready to be called with so many arguments.

    A class is instantiated without arguments. A further argument that is named like a sampling rate
    and has no default is given `sample_rate`.

    Raises:
        CallableError: It cannot be called, or needs more arguments.
    """
    habits = dict(_at_import.get(name.partition(":")[0], {}))
    target, notes = instance(target, name)
    with blaming(name, "looking at it", habits):
        return _as_target(
            target, notes, name=name, sample_rate=sample_rate, inputs=inputs, habits=habits
        )


def _as_target(
    target: Any,
    notes: list[str],
    *,
    name: str,
    sample_rate: int,
    inputs: int,
    habits: dict[str, None],
) -> Target:
    if not callable(target):
        raise CallableError(
            f"{name} must be callable, got {type(target).__name__}. Name a function, or a method "
            "as module:Class.method."
        )
    device = torch.device("cpu")
    module = target if isinstance(target, torch.nn.Module) else getattr(target, "__self__", None)
    if isinstance(module, torch.nn.Module):
        module.eval()
        tensors = (*module.parameters(), *module.buffers())
        device = tensors[0].device if tensors else device
    parameters = _parameters(target)
    by_name = _input_by_name(parameters) if inputs == 1 else ""
    missing = [each for each in _required(target, inputs=inputs) if each != by_name]
    others = [argument for argument in missing if argument not in _RATE_ARGUMENTS]
    if others:
        raise NeedsArgumentsError(
            f"{name} needs {' and '.join(others)} beside its input. Name a function of the input "
            "alone, such as `def mel(waveform): return mel_spectrogram(waveform, ...)`.",
            others,
            is_class=False,
        )
    given: dict[str, Any] = dict.fromkeys(missing, sample_rate)
    for argument in parameters:
        if argument.name in _RATE_ARGUMENTS and argument.default is None:
            given[argument.name] = sample_rate
    if _PLAIN_BATCHES.keys() <= {argument.name for argument in parameters}:
        given |= _PLAIN_BATCHES
    if given:
        told = " and ".join(f"{argument}={value!r}" for argument, value in given.items())
        notes.append(f"{name} is called with {told}")
    call: Callable[..., Any] = functools.partial(target, **given)
    if by_name:
        notes.append(f"{name} is given its input as {by_name}=")
        call = _named(call, by_name)
    return Target(name, call, device, _place(target), tuple(notes), habits)


def _named(call: Callable[..., Any], argument: str) -> Callable[[Any], Any]:
    return lambda value: call(**{argument: value})


def _parameters(target: Any) -> list[inspect.Parameter]:
    """Return the parameters of a callable; none of code in C, which does not tell them."""
    function = target.forward if isinstance(target, torch.nn.Module) else target
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


_BY_PLACE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def _input_by_name(parameters: list[inspect.Parameter]) -> str:
    """Return the argument that is the input where none can be given by its place; "" else."""
    if any(each.kind in _BY_PLACE for each in parameters):
        return ""
    named = {each.name: each for each in parameters if each.kind is each.KEYWORD_ONLY}
    usual = [name for name in _INPUT_NAMES if name in named]
    needed = [name for name, each in named.items() if each.default is each.empty]
    # `functools.partial` makes keywords of what follows the one that it gives.
    likely = [name for name in usual if name in needed] or usual or needed
    return likely[0] if likely else ""


def instance(target: Any, name: str) -> tuple[Any, list[str]]:
    """Return an object as it is, and an instance of a class, with a note that says so.

    Raises:
        CallableError: A class that needs arguments, or fails without.
    """
    if not inspect.isclass(target):
        return target, []
    with blaming(name, "looking at its arguments"):
        missing = _required(target, inputs=0)
    if missing:
        raise NeedsArgumentsError(
            f"{name}: {target.__name__} is a class that needs {' and '.join(missing)}. Make an "
            f"instance in your module, `made = {target.__name__}(...)`, and name that.",
            missing,
            is_class=True,
        )
    with blaming(name, "making an instance"):
        made = target()
    return made, [f"{name} is a class; an instance was made without arguments"]


def made_by(target: Any, name: str) -> tuple[Any, list[str]]:
    """Return what a function without arguments makes; anything else as `instance` does.

    Raises:
        CallableError: A class that needs arguments, or what fails without.
    """
    if not inspect.isfunction(target):
        return instance(target, name)
    with blaming(name, "looking at its arguments"):
        try:
            takes_nothing = not inspect.signature(target).parameters
        except (TypeError, ValueError):
            takes_nothing = False
    if not takes_nothing:
        return target, []
    with blaming(name, "calling it"):
        made = target()
    return made, [f"{name} takes no arguments; what it returned is used"]


def first_form(
    forms: Mapping[str, _Form],
    use: Callable[[_Form], _Result],
    *,
    target: Target,
    must: str,
) -> tuple[str, _Result]:
    """Return the first form of call that the user's code accepts, and what came of it.

    Further forms are tried only after an error or a result that may be owed to the form; if none
    works, the first form's is reported.

    Args:
        forms: What the code is called with, by name: from what melcheck has.
        use: Calls the code in one form; raises `CallableError` where the result is of no use.
        target: The user's code.
        must: What the code must do, which begins the message.

    Raises:
        CallableError: No form works.
    """
    failures: list[tuple[str, BaseException]] = []
    for name, form in forms.items():
        try:
            return name, use(form)
        except THEIR_ERRORS as error:
            failures.append((name, error))
            own = type(error).__module__ == "builtins" and not isinstance(error, _REFUSALS)
            own = own or isinstance(error, Escaped)
            if own or isinstance(error, (NotImplementedError, torch.cuda.OutOfMemoryError)):
                break
    name, first = failures[0]
    told = str(first) if isinstance(first, CallableError) else f"raised {located(first)}"
    habits = " ".join(target.told_habits())
    raise CallableError(f"{must}: with {name} it {told}. {habits}".rstrip()) from first


def float_tensor(value: object) -> tuple[Tensor | None, str]:
    """Return an array of floating point numbers as a tensor on the CPU, float32.

    Returns:
        The tensor, detached, with what was converted, "" for nothing; or None with what the value
        is instead.
    """
    try:
        return _float_tensor(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of a subclass, or of an array that torch cannot hold
        return None, f"{type(value).__name__}, which cannot be read ({first_line(error)})"


def _float_tensor(value: object) -> tuple[Tensor | None, str]:
    converted = ""
    if isinstance(value, np.ndarray):
        kind, size = value.dtype.kind, value.dtype.itemsize
        if kind not in "fiubc" or size > 8 * (1 + (kind == "c")):
            return None, f"a NumPy array of {value.dtype}"
        if kind != "f":
            return None, f"{value.dtype} of shape {list(value.shape)}"
        native = value.dtype.newbyteorder("=")
        # A copy: an array may be read-only, or its maker's buffer.
        value = torch.from_numpy(np.array(value, dtype=native, order="C"))
        converted = "NumPy"
    if not isinstance(value, Tensor):
        return None, f"{type(value).__name__}, which is no array"
    odd = (
        "nested" if value.is_nested else
        "without values, on the device meta" if value.is_meta else
        "" if value.layout == torch.strided else str(value.layout).removeprefix("torch.")
    )  # fmt: skip
    if odd:
        return None, f"a tensor that is {odd}"
    name = str(value.dtype).removeprefix("torch.")
    if value.dtype not in FLOAT_TYPES:
        return None, f"{name} of shape {list(value.shape)}"
    if value.dtype != torch.float32:
        converted = ", ".join(filter(None, (converted, name)))
    # A copy: its maker may use the memory again.
    return value.detach().to("cpu", torch.float32, copy=True), converted


def name_of(code: object) -> str:
    """Return the name of a function or a class, or of the class of anything else."""
    return str(getattr(code, "__name__", type(code).__name__))


def first_line(error: BaseException) -> str:
    """Return an exception as one line: its type and the first line of its message."""
    if isinstance(error, Escaped):
        error = error.error
    try:
        lines = str(error).strip().splitlines() or ["no message"]
    except Exception:  # of the user's own class
        lines = ["no message"]
    return plain_text(f"{type(error).__name__}: {lines[0]}")


def outcome(error: BaseException) -> str:
    """Return what code of the user's did instead: "returned ..." or "raised ...", in one line."""
    return str(error) if isinstance(error, CallableError) else f"raised {first_line(error)}"


def located(error: BaseException) -> str:
    """Return an exception as one line, with the file and the line that raised it."""
    raised = error.error if isinstance(error, Escaped) and error.error.__traceback__ else error
    frames = traceback.extract_tb(raised.__traceback__)
    # What a library raises is owed to who called it.
    theirs = [frame for frame in frames if not is_library(frame.filename)] or frames
    return f"{first_line(error)} ({theirs[-1].filename}:{theirs[-1].lineno})"


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


def _explain(reference: str, error: BaseException) -> NoReturn:
    """Raise what an error means that came of resolving a reference."""
    module, _, attribute = reference.partition(":")
    problem = f"importing it raised {located(error)}."
    if isinstance(error, ModuleNotFoundError):
        missing = error.name or ""
        problem = f"it imports {missing!r}, which is not installed. Install it."
        if module == missing or module.startswith(f"{missing}."):
            problem = (
                f"no module {missing!r}. Run from the root of the repository that holds it, or "
                "install it: pip install -e ."
            )
    elif isinstance(error, AttributeError) and module in sys.modules:
        owner: object = sys.modules[module]
        for name in attribute.split("."):
            if not hasattr(owner, name):
                break
            owner = getattr(owner, name)
        public = [other for other in dir(owner) if not other.startswith("_")]
        close = difflib.get_close_matches(name, public, n=1)
        known = ", ".join(public[:_LISTED_NAMES]) or "nothing"
        hint = f"Did you mean {close[0]!r}?" if close else f"It has {known}."
        where = getattr(owner, "__name__", type(owner).__name__)
        problem = f"{where} has no attribute {name!r}. {hint}"
    raise CallableError(f"{reference}: {problem}") from error


def _required(target: Any, *, inputs: int) -> list[str]:
    """Return the arguments that have no default, but for the first `inputs` ones."""
    parameters = _parameters(target)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    first = [each for each in parameters if each.kind in by_place][:inputs]
    return [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in variable and each not in first
    ]


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
