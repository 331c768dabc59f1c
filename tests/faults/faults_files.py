"""Faults of the environment: files, checkpoints, devices and libraries that are not what they seem.

The loader must refuse each of them with an error that names the file and the fix.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from melcheck import audio
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.base import load_vocoder
from tests.faults.loops import Loop
from tests.faults.model import Bench, Fault, Severities

__all__ = ["FILE_FAULTS"]

_EMBEDDED = Path(audio.__file__).parent / "data" / "embedded"
_CONFIG, _WEIGHTS, _PICKLE = "config.yaml", "model.safetensors", "pytorch_model.bin"


def _loaded(bench: Bench, folder: Path) -> Loop:
    pipeline = MelPipeline(bench.expected.pipeline.config, vocoder=load_vocoder(folder))
    return bench.decode(pipeline.mel2waveform)


def _checkpoint(bench: Bench, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Loop:
    """Load the embedded vocoder from a folder, with its tensors changed."""
    shutil.copy(_EMBEDDED / _CONFIG, bench.folder)
    save_file(change(load_file(_EMBEDDED / _WEIGHTS)), bench.folder / _WEIGHTS)
    return _loaded(bench, bench.folder)


def _weights_file(bench: Bench, content: Callable[[bytes], bytes]) -> Loop:
    shutil.copy(_EMBEDDED / _CONFIG, bench.folder)
    data = (_EMBEDDED / _WEIGHTS).read_bytes()
    (bench.folder / _WEIGHTS).write_bytes(content(data))
    return _loaded(bench, bench.folder)


def _configuration(bench: Bench, change: tuple[str, str, Any]) -> Loop:
    section, name, value = change
    config = yaml.safe_load((_EMBEDDED / _CONFIG).read_text())
    config[section]["init_args"][name] = value
    (bench.folder / _CONFIG).write_text(yaml.safe_dump(config))
    shutil.copy(_EMBEDDED / _WEIGHTS, bench.folder)
    return _loaded(bench, bench.folder)


def _pickled_code(bench: Bench, _: None) -> Loop:
    shutil.copy(_EMBEDDED / _CONFIG, bench.folder)
    # A whole object instead of its tensors: what torch.save(model) writes.
    torch.save(torch.nn.Linear(2, 2), bench.folder / _PICKLE)
    return _loaded(bench, bench.folder)


def _pointer(data: bytes) -> bytes:
    return (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\n"
        b"size " + str(len(data)).encode() + b"\n"
    )


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _page(_: bytes) -> bytes:
    return b"<!DOCTYPE html><html><body>Sign in to download</body></html>"


def _prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def _without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(part)}


def _diverged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors["head.out.weight"][0, 0] = math.nan
    return tensors


def _other_filters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    name = next(name for name in tensors if name.endswith("mel_scale.fb"))
    return {**tensors, name: tensors[name].flip(0).contiguous()}


def _read_file(bench: Bench, path: Path) -> Loop:
    waveform = bench.expected.loop.load(path)
    return bench.read(lambda _: waveform)


@contextlib.contextmanager
def _no_torchcodec() -> Iterator[None]:
    # None in sys.modules makes `import` fail, as an installation without FFmpeg does.
    audio._torchcodec_name.cache_clear()
    with mock.patch.dict(sys.modules, {"torchcodec": None, "torchcodec.decoders": None}):
        yield
    audio._torchcodec_name.cache_clear()


def _no_decoder(bench: Bench, suffix: str) -> Loop:
    """Read, where FFmpeg does not load, a container that only FFmpeg knows."""
    path = bench.folder / f"clip{suffix}"
    # The first box of an MPEG-4 file.
    path.write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + bytes(4096))
    with _no_torchcodec():
        return _read_file(bench, path)


def _headerless(bench: Bench, dtype: torch.dtype) -> Loop:
    """Read samples without a header, under the name of a WAV."""
    path = bench.folder / "clip.wav"
    path.write_bytes((32_767 * bench.waveform).to(dtype).numpy().tobytes())
    return _read_file(bench, path)


def _file_of(bench: Bench, samples: Callable[[Tensor], Tensor]) -> Loop:
    path = bench.folder / "clip.wav"
    soundfile.write(path, samples(bench.waveform)[0].numpy(), VOCOS.sample_rate, subtype="FLOAT")
    return _read_file(bench, path)


def _with_nan(waveform: Tensor) -> Tensor:
    broken = waveform.clone()
    broken[..., 1000] = math.nan
    return broken


def _elsewhere(bench: Bench, stage: str) -> Loop:
    """Leave one tensor on another device than the model."""
    pipeline = bench.expected.pipeline
    if stage == "mel":
        return bench.decode(lambda mel: pipeline.mel2waveform(mel.to("meta")))
    return bench.extract(lambda waveform: pipeline.waveform2mel(waveform.to("meta")))


def _missing_device(bench: Bench, device: str) -> Loop:
    config = bench.expected.pipeline.config
    return bench.decode(MelPipeline(config, vocoder="embedded", device=device).mel2waveform)


def _half_input(bench: Bench, dtype: torch.dtype) -> Loop:
    pipeline = bench.expected.pipeline
    return bench.decode(lambda mel: pipeline.mel2waveform(mel.to(dtype)))


def _environment_fault(
    name: str, row: int, tier: Any, source: str, inject: Any, severities: Severities
) -> Fault:
    return Fault(
        name=name,
        row=row,
        tier=tier,
        stage="environment",
        source=source,
        inject=inject,
        severities=severities,
        caught_by=("preflight",),
    )


FILE_FAULTS: tuple[Fault, ...] = (
    _environment_fault("no-ffmpeg", 7, "A", "F5-TTS #1234", _no_decoder, [("m4a", ".m4a")]),
    _environment_fault(
        "prefixed-weights",
        22,
        "B",
        "rfwave #10",
        _checkpoint,
        [
            ("compiled", _prefixed("_orig_mod.")),
            ("data-parallel", _prefixed("module.")),
            ("generator", _prefixed("generator.")),
        ],
    ),
    _environment_fault(
        "missing-weights",
        22,
        "B",
        "F5-TTS #1292",
        _checkpoint,
        [("one-key", _without("head.out.bias")), ("backbone", _without("backbone"))],
    ),
    _environment_fault(
        "damaged-checkpoint",
        23,
        "B",
        "coqui #2422",
        _weights_file,
        [("lfs-pointer", _pointer), ("cut-short", _cut), ("html-page", _page)],
    ),
    _environment_fault(
        "pickled-code",
        23,
        "B",
        "ultimatevocalremovergui #2290",
        _pickled_code,
        [("whole-model", None)],
    ),
    _environment_fault(
        "averaged-weights", 31, "B", "F5-TTS #293", _checkpoint, [("ema", _prefixed("ema_model."))]
    ),
    _environment_fault(
        "half-input",
        24,
        "B",
        "F5-TTS #345",
        _half_input,
        [("float16", torch.float16), ("bfloat16", torch.bfloat16)],
    ),
    _environment_fault("nan-weights", 25, "B", "F5-TTS #578", _checkpoint, [("one", _diverged)]),
    _environment_fault("nan-in-file", 25, "B", "AGAIN-VC #5", _file_of, [("one", _with_nan)]),
    _environment_fault(
        "filters-of-another-mel", 1, "A", "F5-TTS #141", _checkpoint, [("flipped", _other_filters)]
    ),
    _environment_fault(
        "head-padding-in-config",
        48,
        "C",
        "vocos #18",
        _configuration,
        [("same", ("head", "padding", "same"))],
    ),
    _environment_fault(
        "short-clip",
        54,
        "C",
        "whisper.cpp #3925",
        _file_of,
        [
            ("400", lambda waveform: waveform[..., :400]),
            ("512", lambda waveform: waveform[..., :512]),
        ],
    ),
    _environment_fault(
        "other-device",
        55,
        "C",
        "ChatTTS #741",
        _elsewhere,
        [("mel", "mel"), ("waveform", "waveform")],
    ),
    _environment_fault(
        "missing-device", 55, "C", "pytorch #30865", _missing_device, [("cuda-99", "cuda:99")]
    ),
    _environment_fault(
        "newer-config",
        56,
        "C",
        "hifi-gan #176",
        _configuration,
        [("unknown-argument", ("head", "clip_magnitude", 100))],
    ),
    _environment_fault(
        "unreadable-audio",
        59,
        "C",
        "vits2 #17",
        _headerless,
        [("int16", torch.int16), ("int32", torch.int32)],
    ),
)
"""Faults of the environment."""
