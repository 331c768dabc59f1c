"""A front end is adapted where its results leave no doubt, and explained where they do."""

from __future__ import annotations

import dataclasses
import functools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck.frontends import Frontend, adapt_frontend, load_frontend
from melcheck.probe_clips import probe
from melcheck.recipes import VOCOS, log_mel
from melcheck.user_code import CallableError, find_object, is_reference

CLIP = probe(36_000)


class Module(torch.nn.Module):
    """As torchaudio's transforms are used."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            24_000, 1024, hop_length=256, n_mels=100, power=1
        )

    def forward(self, waveform: Tensor) -> Tensor:
        return self.mel(waveform).clamp(1e-7).log()


class Extractor:
    """Neither a function nor callable."""

    def extract(self, waveform: Tensor) -> Tensor:
        return log_mel(waveform)


class WithArguments:
    """An instance takes a decision."""

    def __init__(self, n_fft: int) -> None:
        self.n_fft = n_fft


def of_librosa(y: np.ndarray, sr: int) -> np.ndarray:
    """Return the mel as a function of NumPy alone does, which also wants the rate."""
    mel = librosa.feature.melspectrogram(
        y=y, sr=sr, n_fft=1024, hop_length=256, n_mels=100, power=1.0, htk=True, norm=None
    )
    # librosa pads with zeros unless it is told otherwise.
    assert mel.shape[0] == 100
    return np.log(np.maximum(mel, 1e-7))


def one_dimensional(waveform: Tensor) -> Tensor:
    if waveform.dim() != 1:
        raise ValueError("expected one clip")
    return log_mel(waveform)


def of_float64(waveform: Tensor) -> Tensor:
    if waveform.dtype != torch.float64:
        raise RuntimeError("expected Double but found Float")
    return log_mel(waveform).float()


def ready(target: object) -> Frontend:
    return adapt_frontend(target, name="mytts:mel")


@pytest.mark.parametrize(
    ("target", "notes"),
    [
        pytest.param(log_mel, [], id="function"),
        pytest.param(Module(), [], id="module"),
        pytest.param(Module, ["is a class"], id="class"),
        pytest.param(Extractor().extract, [], id="method"),
        pytest.param(one_dimensional, ["with a tensor [samples]"], id="1-d"),
        pytest.param(of_float64, ["with a tensor [batch, samples] of float64"], id="float64-in"),
        pytest.param(lambda x: log_mel(x).double(), ["(float64)"], id="float64-out"),
        pytest.param(lambda x: log_mel(x).numpy(), ["(NumPy)"], id="numpy-out"),
        pytest.param(lambda x: log_mel(x).mT, ["axes are swapped"], id="frames-first"),
        pytest.param(lambda x: log_mel(x)[:, None], ["4 axes"], id="channel-axis"),
        pytest.param(lambda x: log_mel(x[0]), ["takes no batch"], id="no-batch"),
        pytest.param(lambda x: (log_mel(x), torch.ones(1)), ["item 0"], id="tuple"),
        pytest.param(lambda x: {"f0": x, "mel": log_mel(x)}, ["item 'mel'"], id="dictionary"),
    ],
)
def test_what_is_unambiguous_is_adapted_and_said(target: object, notes: list[str]) -> None:
    frontend = ready(target)
    assert len(frontend.notes) == len(notes)
    for said, note in zip(frontend.notes, notes, strict=True):
        assert note in said
    batch = torch.stack([CLIP, CLIP.flip(0)])
    # Quiet cells, where float32 and float64 transforms differ by 0.006 nats.
    torch.testing.assert_close(frontend(batch), log_mel(batch), rtol=0, atol=0.01)


def test_a_function_of_numpy_that_wants_the_rate_is_given_both() -> None:
    frontend = ready(of_librosa)
    assert ["sr=24000" in frontend.notes[0], "NumPy array" in frontend.notes[1]] == [True, True]
    inner = slice(3, -3)  # librosa pads the ends with zeros
    expected = log_mel(CLIP[None])[..., inner]
    close = (frontend(CLIP[None])[..., inner] - expected).abs() < 0.01
    assert float(close.double().mean()) > 0.999


def test_as_many_frames_as_bands_do_not_confuse_the_axes() -> None:
    square = probe(25_400)[None]
    assert torch.equal(ready(lambda x: log_mel(x).mT)(square), log_mel(square))


def fails(_: Tensor) -> Tensor:
    raise RuntimeError("no way\nand more")


def leaves(_: Tensor) -> Tensor:
    raise SystemExit(0)


class Leaving:
    """Code that ends its process, as a script does that was made for the command line."""

    def __init__(self) -> None:
        raise SystemExit(0)

    def __call__(self, waveform: Tensor) -> Tensor:
        return log_mel(waveform)


def complex_spectrum(waveform: Tensor) -> Tensor:
    window = torch.hann_window(1024)
    return torch.stft(waveform, 1024, 256, window=window, return_complex=True)


def with_arguments(waveform: Tensor, n_fft: int, num_mels: int) -> Tensor:
    return log_mel(waveform)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        pytest.param(3, "must be callable, got int", id="no-code"),
        pytest.param(Extractor(), "must be callable, got Extractor", id="object"),
        pytest.param(fails, "it raised RuntimeError: no way (", id="exception"),
        pytest.param(leaves, "it raised SystemExit: 0 (", id="exit"),
        pytest.param(Leaving, "an instance raised SystemExit: 0.", id="class-that-exits"),
        pytest.param(complex_spectrum, "complex spectrum. Take its magnitude", id="complex"),
        pytest.param(lambda x: torch.zeros(1, 80, 3000), "to a fixed length", id="fixed-length"),
        pytest.param(lambda x: x, "which has no bands", id="waveform"),
        pytest.param(lambda x: log_mel(x).long(), "a mel must be floating point", id="integers"),
        pytest.param(lambda x: None, "returned NoneType, which is no array", id="nothing"),
        pytest.param(lambda x: (log_mel(x), log_mel(x)), "0 [1, 100, 110], 1 [", id="two-mels"),
        pytest.param(lambda x: {"length": 3}, "a dict with no mel", id="no-mel"),
        pytest.param(lambda x: log_mel(x)[:, : len(x[0]) // 400], "no axis is", id="both-grow"),
    ],
)
def test_what_is_not_is_explained_in_one_line(target: object, says: str) -> None:
    with pytest.raises(CallableError) as caught:
        ready(target)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "calls"), [(KeyError("config"), 1), (OSError("disk full"), 1), (TypeError("no"), 10)]
)
def test_an_error_of_the_code_itself_is_raised_from_it_and_not_provoked_again(
    error: Exception, calls: int
) -> None:
    """A TypeError may mean that the input has another form, so the others are tried."""
    seen = []

    def broken(waveform: Any) -> Tensor:
        seen.append(waveform)
        raise error

    with pytest.raises(CallableError) as caught:
        ready(broken)
    assert (len(seen), caught.value.__cause__) == (calls, error)
    assert f"{type(error).__name__}: {error} ({__file__}:" in str(caught.value)


def test_dropout_is_off() -> None:
    noisy = torch.nn.Sequential(Module(), torch.nn.Dropout(0.5)).train()
    assert torch.equal(ready(noisy)(CLIP[None]), ready(Module())(CLIP[None]))


def test_a_front_end_cannot_change_its_input() -> None:
    def scribbling(waveform: Tensor) -> Tensor:
        mel = log_mel(waveform)
        waveform.zero_()
        return mel

    frontend, clip = ready(scribbling), CLIP[None].clone()
    frontend(clip)
    assert torch.equal(clip, CLIP[None])


def test_no_gradient_leaves() -> None:
    gain = torch.nn.Parameter(torch.ones(1))
    assert not ready(lambda x: gain * log_mel(x))(CLIP[None]).requires_grad


@pytest.mark.parametrize("error", [RuntimeError("too short"), SystemExit(0)])
def test_what_it_raises_later_is_told_in_one_line(error: BaseException) -> None:
    def picky(waveform: Tensor) -> Tensor:
        if waveform.shape[-1] == 5_000:
            raise error
        return log_mel(waveform)

    says = rf"mytts:mel on a waveform of \[1, 5000\]: {type(error).__name__}"
    with pytest.raises(CallableError, match=says):
        ready(picky).encode(torch.zeros(1, 5_000))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[batch, samples\], got \[36000\]"):
        ready(log_mel)(CLIP)


def test_its_place_is_known() -> None:
    path, line = ready(one_dimensional).place or (Path(), 0)
    assert path == Path(__file__)
    assert path.read_text(encoding="utf-8").splitlines()[line - 1].startswith("def one_dim")


# Finding it.


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write `labmel/audio.py` into a new repository."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str, *, folder: str = "") -> Path:
        module = tmp_path / folder / "labmel"
        module.mkdir(parents=True)
        (module / "__init__.py").write_text("")
        (module / "audio.py").write_text(text)
        return tmp_path

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "labmel"]:
        del sys.modules[name]


SOURCE = "from melcheck.recipes import log_mel\n\n\nclass Front:\n    mel = staticmethod(log_mel)\n"


@pytest.mark.parametrize("folder", ["", "src"])
def test_a_module_of_the_repository_is_found(package: Any, folder: str) -> None:
    root = package(SOURCE, folder=folder)
    frontend = load_frontend("labmel.audio:Front.mel", folders=[root])
    assert frontend.name == "labmel.audio:Front.mel"
    assert list(frontend(CLIP[None]).shape) == [1, 100, VOCOS.frames(36_000)]


def test_a_method_of_a_class_is_bound_to_an_instance(package: Any) -> None:
    root = package(
        "from melcheck.recipes import log_mel\n\n\n"
        "class Front:\n    def mel(self, waveform):\n        return log_mel(waveform)\n"
    )
    found = load_frontend("labmel.audio:Front.mel", folders=[root])
    assert torch.equal(found(CLIP[None]), log_mel(CLIP[None]))


@pytest.mark.parametrize(
    ("reference", "text", "says"),
    [
        ("labmel.audio.mel", "", "Did you mean 'labmel.audio:mel'?"),
        ("src/labmel/audio.py:mel", "", "not the file: labmel.audio:NAME"),
        ("labmel.audio", "", "Did you mean 'labmel:audio'?"),
        ("labmell.audio:mel", "", "no module 'labmell'"),
        ("labmel.sound:mel", "", "no module 'labmel.sound'"),
        ("labmel.audio:mel", "import no_such_package", "imports 'no_such_package', which is not"),
        ("labmel.audio:mel", "1 / 0", "importing it raised ZeroDivisionError: division by zero"),
        ("labmel.audio:mel", "raise SystemExit(3)", "importing it raised SystemExit: 3"),
        ("labmel.audio:mell", "def mel(): ...", "Did you mean 'mel'?"),
        ("labmel.audio:x", "def mel(): ...", "It has mel."),
    ],
)
def test_what_cannot_be_imported_is_told(
    package: Any, reference: str, text: str, says: str
) -> None:
    root = package(text)
    with pytest.raises(CallableError) as caught:
        load_frontend(reference, folders=[root])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_import_that_fails_names_its_line(package: Any) -> None:
    root = package("a = 1\nb = a / 0\n")
    with pytest.raises(CallableError, match=r"audio\.py:2"):
        find_object("labmel.audio:mel", folders=[root])


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("a:b", True), ("a.b:C.d", True), ("a", False), ("a:", False), ("a/b:c", False)],
)
def test_a_reference_is_told_from_other_names(text: str, is_one: bool) -> None:
    assert is_reference(text) is is_one


# How other people's code wants to be called.


def of_keywords(*, y: np.ndarray, sr: int) -> np.ndarray:
    return log_mel(torch.from_numpy(y)).numpy()


def of_a_path(filename: str) -> np.ndarray:
    samples, rate = soundfile.read(filename, dtype="float32")
    assert rate == 24_000
    return log_mel(torch.from_numpy(samples)).numpy()


def with_an_energy(waveform: Tensor) -> tuple[Tensor, Tensor]:
    mel = log_mel(waveform)
    return mel, mel.exp().norm(dim=1)


def of_int16(samples: np.ndarray) -> Tensor:
    if samples.dtype != np.int16:
        raise TypeError("expected int16")
    return log_mel(torch.from_numpy(samples.astype(np.float32) / 32_768))


def of_a_list(audios: list[np.ndarray]) -> list[np.ndarray]:
    if not isinstance(audios, list):
        raise TypeError("expected a list")
    return [log_mel(torch.from_numpy(audio)).numpy() for audio in audios]


def of_channels(audio: Tensor) -> Tensor:
    batch, _, _ = audio.shape
    return log_mel(audio.reshape(batch, -1))


def extractor_of_transformers(
    raw_speech: np.ndarray,
    padding: bool | str = "max_length",
    return_tensors: str | None = None,
    sampling_rate: int | None = None,
) -> dict[str, np.ndarray]:
    if sampling_rate != 24_000 or padding or return_tensors != "np":
        raise ValueError("called as nobody calls it")
    return {"input_features": log_mel(torch.as_tensor(raw_speech))[None].numpy()}


def configured(n_fft: int, hop: int, audio: Tensor) -> Tensor:
    return log_mel(audio, dataclasses.replace(VOCOS, n_fft=n_fft, hop_length=hop))


@pytest.mark.parametrize(
    ("target", "note"),
    [
        pytest.param(of_keywords, "is given its input as y=", id="keyword-only"),
        pytest.param(of_a_path, "with the path of a WAV file", id="path"),
        pytest.param(with_an_energy, "item 0 is taken as the mel", id="mel-and-energy"),
        pytest.param(of_int16, "of int16", id="int16"),
        pytest.param(of_a_list, "with a list of NumPy arrays", id="list"),
        pytest.param(of_channels, "[batch, 1, samples]", id="channels"),
        pytest.param(extractor_of_transformers, "sampling_rate=24000", id="transformers"),
        pytest.param(functools.partial(configured, n_fft=1024, hop=256), "as audio=", id="partial"),
        pytest.param(lambda x, samplerate: log_mel(x), "samplerate=24000", id="samplerate"),
    ],
)
def test_code_is_called_as_it_wants_to_be(target: object, note: str) -> None:
    frontend = ready(target)
    assert any(note in each for each in frontend.notes), frontend.notes
    # int16 samples are 1.5e-5 apart.
    inner = log_mel(CLIP[None]) > -2
    off = (frontend(CLIP[None]) - log_mel(CLIP[None]))[inner].abs()
    assert float(off.max()) < 0.05


def test_of_a_mel_of_other_bands_the_energy_is_told_apart() -> None:
    recipe = dataclasses.replace(VOCOS, n_mels=80)
    frontend = ready(lambda x: (log_mel(x, recipe), log_mel(x, recipe).norm(dim=1)))
    assert list(frontend(CLIP[None]).shape) == [1, 80, VOCOS.frames(36_000)]


@pytest.mark.parametrize(
    ("target", "name", "says", "wrapper"),
    [
        pytest.param(
            WithArguments,
            "mytts.audio:WithArguments",
            "is a class that needs n_fft",
            "from mytts.audio import WithArguments\n\n\nmade = WithArguments(n_fft=1024)\n",
            id="class",
        ),
        pytest.param(
            with_arguments,
            "mytts.audio:mel",
            "needs n_fft and num_mels beside its input",
            "def front_end(waveform):\n    return mel(waveform, n_fft=1024, num_mels=100)",
            id="function",
        ),
    ],
)
def test_what_needs_arguments_is_refused_with_the_wrapper_to_write(
    target: object, name: str, says: str, wrapper: str
) -> None:
    with pytest.raises(CallableError) as caught:
        adapt_frontend(target, name=name)
    first, *code = str(caught.value).splitlines()
    assert says in first
    assert wrapper in textwrap.dedent("\n".join(code[1:]))


def test_forms_of_call_that_disagree_are_told() -> None:
    def of_one_clip(x: Tensor) -> Tensor:
        return log_mel(torch.cat([x[:1], x[1:] - 0.97 * x[:-1]]))

    frontend = ready(of_one_clip)
    assert frontend.other is not None
    assert any("a different mel when it is called with" in note for note in frontend.notes)
    assert ready(log_mel).other is None
