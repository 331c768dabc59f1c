"""What the user's code raises, returns, changes or ends is its own, and is told with its place."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import unittest
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from melcheck import process_state
from melcheck.diagnosis.handshake import handshake
from melcheck.frontends import Frontend, adapt_frontend
from melcheck.probe_clips import probe
from melcheck.recipes import log_mel
from melcheck.user_code import CallableError
from melcheck.vocoders.from_code import adapt_vocoder
from melcheck.vocoders.load import load_vocoder

REPOSITORY = Path(__file__).parents[2]
CLIP = probe(24_000)[None]
EXPECTED = log_mel(CLIP)
EMBEDDED = load_vocoder("embedded")

HERE = __file__


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_state, "_their_settings", {})
    monkeypatch.setattr(process_state, "_their_patches", {})


def ready(target: object) -> Frontend:
    return adapt_frontend(target, name="mytts:mel")


# What it leaves behind.


def autocast(waveform: Tensor) -> Tensor:
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__()
    return log_mel(waveform)


def default_device(waveform: Tensor) -> Tensor:
    mel = log_mel(waveform)
    torch.set_default_device("meta")
    return mel


def entered_device(waveform: Tensor) -> Tensor:
    mel = log_mel(waveform)
    torch.device("meta").__enter__()
    return mel


def default_dtype(waveform: Tensor) -> Tensor:
    mel = log_mel(waveform)
    torch.set_default_dtype(torch.float64)
    return mel


def recursion(waveform: Tensor) -> Tensor:
    sys.setrecursionlimit(12_345)
    return log_mel(waveform)


def working_directory(waveform: Tensor) -> Tensor:
    os.chdir("/")
    return log_mel(waveform)


def numpy_errors(waveform: Tensor) -> Tensor:
    np.seterr(all="raise")
    return log_mel(waveform)


def gradients(waveform: Tensor) -> Tensor:
    torch.set_grad_enabled(True)
    return log_mel(waveform)


def streams(waveform: Tensor) -> Tensor:
    sys.stdout = None  # type: ignore[assignment]
    return log_mel(waveform)


def patched(waveform: Tensor) -> Tensor:
    torch.istft = lambda *_, **__: None  # type: ignore[assignment]
    return log_mel(waveform)


def patched_method(waveform: Tensor) -> Tensor:
    torch.Tensor.clamp = lambda *_, **__: None  # type: ignore[assignment, method-assign]
    return log_mel(waveform)


def in_place(waveform: Tensor) -> Tensor:
    mel = log_mel(waveform)
    waveform.mul_(0.5)
    return mel


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (autocast, "autocast on the CPU is changed"),
        (default_device, "the default device is changed"),
        (entered_device, "DeviceContext is still entered"),
        (default_dtype, "the default dtype is changed"),
        (recursion, "the recursion limit is changed"),
        (working_directory, "the working directory is changed"),
        (numpy_errors, "the errors of NumPy is changed"),
        (streams, "sys.stdout or sys.stderr is changed"),
        (patched, "torch.istft is replaced"),
        (patched_method, "Tensor.clamp is replaced"),
        (in_place, "its input is changed in place"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_it_changes_is_undone_and_told_with_its_place(
    target: Callable[[Tensor], Tensor], says: str
) -> None:
    before = process_state._settings(), torch.istft, torch.Tensor.clamp
    [note] = [note for note in ready(target).notes if "changes more than its result" in note]
    assert (process_state._settings(), torch.istft, torch.Tensor.clamp) == before
    assert says in note
    assert f"mytts:mel ({HERE}:" in note


def test_what_it_changes_is_there_when_it_is_called_again() -> None:
    """As in training, where nothing undoes it."""
    seen = []

    def front(waveform: Tensor) -> Tensor:
        seen.append(torch.get_default_dtype())
        torch.set_default_dtype(torch.float64)
        return log_mel(waveform)

    ready(front)
    assert seen[:2] == [torch.float32, torch.float64]
    assert torch.get_default_dtype() == torch.float32


def test_code_that_breaks_torch_for_itself_is_blamed() -> None:
    def front(waveform: Tensor) -> Tensor:
        mel = log_mel(waveform)
        torch.stft = lambda *_, **__: None  # type: ignore[assignment]
        return mel

    before = torch.stft
    with pytest.raises(CallableError, match=r"torch.stft is replaced") as caught:
        ready(front)
    assert torch.stft is before
    assert f"({HERE}:" in str(caught.value).partition(" changes more")[0]


def test_code_that_changes_nothing_is_not_accused() -> None:
    assert ready(log_mel).notes == ()


def same_buffer() -> Callable[[Tensor], Tensor]:
    buffer = torch.empty(100, 1000)

    def front(waveform: Tensor) -> Tensor:
        mel = log_mel(waveform)[0]
        buffer[:, : mel.shape[1]] = mel
        return buffer[:, : mel.shape[1]]

    return front


@pytest.mark.parametrize("numpy", [False, True], ids=["tensor", "numpy"])
@pytest.mark.parametrize("adapted", [False, True], ids=["raw", "adapted"])
def test_a_buffer_that_is_filled_again_is_copied(adapted: bool, numpy: bool) -> None:
    front = same_buffer()
    target = (lambda waveform: front(waveform).numpy()) if numpy else front
    assert handshake(ready(target) if adapted else target).verdict == "identical"


# What it raises.


class Own(BaseException):
    """An exception that is not meant to be caught."""


class UnreadableError(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


RAISED = [
    Own("out"),
    SystemExit(0),
    GeneratorExit(),
    asyncio.CancelledError(),
    pytest.skip.Exception("not today"),
    pytest.fail.Exception("no"),
    pytest.xfail.Exception("known"),
    pytest.exit.Exception("stop", returncode=0),
    unittest.SkipTest("not today"),
    UnreadableError(),
    RecursionError("deep"),
    ValueError("\x1b[2Ja\u202eb\n::error::c"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_it_raises_is_its_own_fault(error: BaseException) -> None:
    def front(_: Tensor) -> Tensor:
        raise error

    with pytest.raises(CallableError, match=f"it raised {type(error).__name__}: ") as caught:
        ready(front)
    assert f"({HERE}:" in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_it_raises_later_fails_the_handshake(error: BaseException) -> None:
    def front(waveform: Tensor) -> Tensor:
        if waveform.shape[-1] > 50_000:
            raise error
        return log_mel(waveform)

    for target in (front, ready(front)):
        found = handshake(target)
        assert found.verdict == "failed"
        assert found.cause()[0].startswith(f"the front end raised {type(error).__name__}")


def test_an_interruption_is_none_of_it() -> None:
    def front(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ready(front)


class AttributesRaise:
    """An object none of whose attributes can be read."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __call__(self, waveform: Tensor) -> Tensor:
        return log_mel(waveform)


class SignatureRaises:
    """An object that hides how it is called."""

    @property
    def __signature__(self) -> Any:
        raise OSError("hidden")

    def __call__(self, waveform: Tensor) -> Tensor:
        return log_mel(waveform)


class RecipeRaises:
    """A vocoder that does not tell its recipe."""

    @property
    def recipe(self) -> Any:
        raise Own("secret")

    def decode(self, mel: Tensor) -> Tensor:
        return EMBEDDED.decode(mel)


class DecodeRaises:
    """A vocoder whose method cannot be had."""

    @property
    def decode(self) -> Any:
        raise pytest.skip.Exception("not today")


class ModuleRaises(torch.nn.Module):
    """A module that has no evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        raise Own(f"no mode {mode}")

    def forward(self, waveform: Tensor) -> Tensor:
        return log_mel(waveform)


class ItemsRaise(Mapping[str, Any]):
    """A dictionary that does not tell its items."""

    def __getitem__(self, key: str) -> Any:
        raise Own(key)

    def __iter__(self) -> Iterator[str]:
        raise Own("items")

    def __len__(self) -> int:
        raise Own("length")


@pytest.mark.parametrize(
    "target",
    [AttributesRaise(), AttributesRaise, SignatureRaises(), ModuleRaises()],
    ids=["attributes", "attributes-of-an-instance", "signature", "module"],
)
def test_an_object_that_raises_when_it_is_looked_at_is_blamed(target: object) -> None:
    with pytest.raises(CallableError, match=r"mytts:mel: .* raised \w+: ") as caught:
        ready(target)
    assert HERE in str(caught.value)


@pytest.mark.parametrize("target", [RecipeRaises(), DecodeRaises()], ids=["recipe", "decode"])
def test_a_vocoder_that_raises_when_it_is_looked_at_is_blamed(target: object) -> None:
    with pytest.raises(CallableError, match="mytts:vocoder: reading its attribute") as caught:
        adapt_vocoder(target, name="mytts:vocoder")
    assert HERE in str(caught.value)


# What it returns.


class Subclass(torch.Tensor):
    """A tensor that allows nothing."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise Own("hands off")


def nested(mel: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([mel[0], mel[0, :50]])


RETURNED: dict[str, Callable[[Tensor], Any]] = {
    "meta": lambda mel: mel.to("meta"),
    "nested": nested,
    "sparse": lambda mel: mel.to_sparse(),
    "quantised": lambda mel: torch.quantize_per_tensor(mel, 1.0, 0, torch.quint8),
    "longdouble": lambda mel: mel.numpy().astype(np.longdouble),
    "float8": lambda mel: mel.to(torch.float8_e4m3fn),
    "objects": lambda mel: mel.numpy().astype(object),
    "items": lambda _: ItemsRaise(),
    "none": lambda _: None,
}


@pytest.mark.parametrize("name", RETURNED)
def test_what_is_no_mel_is_told_and_no_fault_of_ours(name: str) -> None:
    def front(waveform: Tensor) -> Any:
        return RETURNED[name](log_mel(waveform))

    with pytest.raises(CallableError, match=r"it (returned|raised)"):
        ready(front)
    assert handshake(front).verdict == "failed"


@pytest.mark.parametrize("name", RETURNED)
def test_what_is_no_waveform_is_told_and_no_fault_of_ours(name: str) -> None:
    def decode(mel: Tensor) -> Any:
        return RETURNED[name](torch.zeros(1, 100, mel.shape[-1]))

    with pytest.raises(CallableError, match=r"it (returned|raised)"):
        adapt_vocoder(decode, name="mytts:vocoder")


def test_a_tensor_of_its_own_class_is_taken_as_a_plain_one() -> None:
    frontend = ready(lambda waveform: log_mel(waveform).as_subclass(Subclass))
    assert torch.equal(frontend(CLIP), EXPECTED)


# Where it ends the process, or writes to its streams.

ENDS = {
    "os-exit": "os._exit(0)",
    "posix-exit": "import posix; posix._exit(0)",
    "in-a-thread": "thread = threading.Thread(target=os._exit, args=(0,)); thread.start(); "
    "thread.join(); raise ValueError('still here')",
    "execv": "os.execv('/bin/true', ['true'])",
    "execlp": "os.execlp('true', 'true')",
    "sys-exit": "sys.exit(0)",
    "skip": "import pytest; pytest.skip('not today')",
    "unittest-skip": "import unittest; raise unittest.SkipTest('not today')",
    "pytest-exit": "import pytest; pytest.exit('stop', returncode=0)",
}
MODULE = """
import atexit, os, subprocess, sys, threading
from melcheck.recipes import log_mel

calls = []

def mel(waveform):
    calls.append(1)
    if len(calls) > {spared}:
        {end}
    return log_mel(waveform)
"""


def run(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in a folder."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# One process for all: that it comes to the last is the claim.
_RUN_ALL = """
import json, sys
from melcheck.cli.main import main
codes = {name: main(["handshake", f"{name}:mel"]) for name in sys.argv[1:]}
print(json.dumps(codes))
"""


def test_code_that_ends_the_process_is_no_pass(tmp_path: Path) -> None:
    names = {name: f"ends_{name.replace('-', '_')}" for name in ENDS}
    for name, module in names.items():
        text = MODULE.format(spared=4 if name.startswith("os") else 0, end=ENDS[name])
        (tmp_path / f"{module}.py").write_text(text)
    (tmp_path / "ends_import.py").write_text("import os\nos._exit(0)\n")
    (tmp_path / "all.py").write_text(_RUN_ALL)
    result = run(tmp_path, "all", *names.values(), "ends_import")
    codes = json.loads(result.stdout.splitlines()[-1])
    assert {module for module, code in codes.items() if code not in (1, 2)} == set()
    assert "a fault in melcheck" not in result.stderr
    assert "os._exit would end the process without a verdict" in result.stderr


@pytest.mark.parametrize("name", ["os-exit", "pytest-exit"])
def test_code_that_ends_the_process_fails_the_gate_of_pytest(tmp_path: Path, name: str) -> None:
    text = MODULE.format(spared=4, end=ENDS[name])
    (tmp_path / "ends.py").write_text(text)
    clip = REPOSITORY / "fixtures" / "audio" / "kokoro-kumo-en.wav"
    result = run(
        tmp_path,
        *("pytest", "-q", "-p", "no:cacheprovider", "--pyargs", "melcheck.suite", "-m", "sanity"),
        *(f"--mel-audio={clip}", "--mel-vocoder=embedded", "--mel-frontend=ends:mel"),
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "skipped" not in result.stdout.splitlines()[-1]


def test_a_child_may_end_as_it_likes(tmp_path: Path) -> None:
    process_state._watch_the_end()
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


WRITES = (
    "os.write(1, b'raw'); print('printed'); print('dunder', file=sys.__stdout__); "
    "subprocess.run(['echo', 'child']); os.system('echo system'); "
    "atexit.register(print, 'at the end'); atexit.register(os.write, 1, b'raw at the end')"
)


def test_stdout_holds_json_alone_whatever_the_code_writes(tmp_path: Path) -> None:
    (tmp_path / "writes.py").write_text(MODULE.format(spared=0, end=WRITES))
    result = run(tmp_path, "melcheck", "handshake", "writes:mel", "--json")
    assert json.loads(result.stdout)["passed"] is True
    for text in ("raw", "printed", "dunder", "child", "system", "at the end", "raw at the end"):
        assert text in result.stderr
