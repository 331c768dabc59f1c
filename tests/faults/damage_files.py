"""Damage to files, checkpoints, devices and libraries, which the loader must refuse.

Each refusal is an error that names the file and the fix.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from melcheck.recipes import VOCOS
from tests.faults.model import InjectionTarget, Project

_EMBEDDED = Path(audio.__file__).parent / "data" / "embedded"
_CONFIG, _WEIGHTS, _PICKLE = "config.yaml", "model.safetensors", "pytorch_model.bin"


def _loaded(target: InjectionTarget, folder: Path) -> Project:
    return dataclasses.replace(target.project, vocoder=str(folder))


def checkpoint(
    target: InjectionTarget, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> Project:
    """Load the embedded vocoder from a folder, with its tensors changed."""
    shutil.copy(_EMBEDDED / _CONFIG, target.folder)
    save_file(change(load_file(_EMBEDDED / _WEIGHTS)), target.folder / _WEIGHTS)
    return _loaded(target, target.folder)


def weights_file(target: InjectionTarget, content: Callable[[bytes], bytes]) -> Project:
    """Load the embedded vocoder from a folder, with the bytes of its weights changed."""
    shutil.copy(_EMBEDDED / _CONFIG, target.folder)
    data = (_EMBEDDED / _WEIGHTS).read_bytes()
    (target.folder / _WEIGHTS).write_bytes(content(data))
    return _loaded(target, target.folder)


def configuration(target: InjectionTarget, change: tuple[str, str, Any]) -> Project:
    """Load the embedded vocoder with one argument of its configuration changed."""
    section, name, value = change
    config = yaml.safe_load((_EMBEDDED / _CONFIG).read_text())
    config[section]["init_args"][name] = value
    (target.folder / _CONFIG).write_text(yaml.safe_dump(config))
    shutil.copy(_EMBEDDED / _WEIGHTS, target.folder)
    return _loaded(target, target.folder)


def pickled_code(target: InjectionTarget, _: None) -> Project:
    """Load a checkpoint that is a whole pickled object."""
    shutil.copy(_EMBEDDED / _CONFIG, target.folder)
    # A whole object instead of its tensors: what torch.save(model) writes.
    torch.save(torch.nn.Linear(2, 2), target.folder / _PICKLE)
    return _loaded(target, target.folder)


def lfs_pointer(data: bytes) -> bytes:
    """Return what git leaves of a large file that was not fetched."""
    return (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\n"
        b"size " + str(len(data)).encode() + b"\n"
    )


def cut_short(data: bytes) -> bytes:
    """Return the first half, as after an interrupted download."""
    return data[: len(data) // 2]


def html_page(_: bytes) -> bytes:
    """Return the page that a server sends in place of the file."""
    return b"<!DOCTYPE html><html><body>Sign in to download</body></html>"


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Put a prefix before every name, as a wrapper of the model does."""
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Leave out the tensors of one part."""
    return lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(part)}


def one_nan(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a NaN into the weights, as after a diverged training."""
    tensors["head.out.weight"][0, 0] = math.nan
    return tensors


def flipped_filters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reverse the filters that a checkpoint carries."""
    name = next(name for name in tensors if name.endswith("mel_scale.fb"))
    return {**tensors, name: tensors[name].flip(0).contiguous()}


@contextlib.contextmanager
def _no_torchcodec() -> Iterator[None]:
    # None in sys.modules makes `import` fail, as an installation without FFmpeg does.
    audio._torchcodec_name.cache_clear()
    with mock.patch.dict(sys.modules, {"torchcodec": None, "torchcodec.decoders": None}):
        yield
    audio._torchcodec_name.cache_clear()


def no_decoder(target: InjectionTarget, suffix: str) -> Project:
    """Read, where FFmpeg does not load, a container that only FFmpeg knows."""
    path = target.folder / f"clip{suffix}"
    # The first box of an MPEG-4 file.
    path.write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42" + bytes(4096))
    return dataclasses.replace(target.project, clip=path, environment=_no_torchcodec)


def headerless(target: InjectionTarget, dtype: torch.dtype) -> Project:
    """Read samples without a header, under the name of a WAV."""
    path = target.folder / "clip.wav"
    path.write_bytes((32_767 * target.waveform).to(dtype).numpy().tobytes())
    return dataclasses.replace(target.project, clip=path)


def file_of(target: InjectionTarget, samples: Callable[[Tensor], Tensor]) -> Project:
    """Read a file of changed samples."""
    path = target.folder / "clip.wav"
    soundfile.write(path, samples(target.waveform)[0].numpy(), VOCOS.sample_rate, subtype="FLOAT")
    return dataclasses.replace(target.project, clip=path)


def first_samples(count: int) -> Callable[[Tensor], Tensor]:
    """Keep the first samples alone."""
    return lambda waveform: waveform[..., :count]


def with_nan(waveform: Tensor) -> Tensor:
    """Put a NaN into the samples."""
    broken = waveform.clone()
    broken[..., 1000] = math.nan
    return broken


def other_device(target: InjectionTarget, stage: str) -> Project:
    """Leave one tensor on another device than the model."""
    pipeline = target.pipeline
    if stage == "mel":
        return target.with_decoder(lambda mel: pipeline.mel2waveform(mel.to("meta")))
    return target.with_front_end(lambda waveform: pipeline.waveform2mel(waveform.to("meta")))


def missing_device(target: InjectionTarget, device: str) -> Project:
    """Load onto a device that the machine does not have."""
    return dataclasses.replace(target.project, device=device)


def half_input(target: InjectionTarget, dtype: torch.dtype) -> Project:
    """Give the vocoder a mel of a narrower type."""
    pipeline = target.pipeline
    return target.with_decoder(lambda mel: pipeline.mel2waveform(mel.to(dtype)))
