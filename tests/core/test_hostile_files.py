"""Files that ask for more than they hold are refused in one sentence, and get no memory for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from melcheck.mel_files import MelFileError, read_mel
from melcheck.vocoders import weights
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError
from tests import hostile

REPOSITORY = Path(__file__).parents[2]
CONFIG = Path(weights.__file__).parents[1] / "data" / "embedded" / "config.yaml"

FILES = {
    ".npy": hostile.npy_files,
    ".npz": hostile.npz_files,
    ".pt": hostile.torch_files,
    ".safetensors": hostile.safetensors_files,
}
CASES = [
    pytest.param(suffix, name, id=f"{name}{suffix}")
    for suffix, files in FILES.items()
    for name in files()
]


@pytest.mark.parametrize(("suffix", "name"), CASES)
def test_a_hostile_file_is_no_mel(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"mel{suffix}"
    path.write_bytes(FILES[suffix]()[name])
    with pytest.raises(MelFileError) as caught:
        read_mel(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ")
    assert told.isprintable()
    assert len(told) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("suffix", "name"),
    [case for case in CASES if case.values[0] in (".pt", ".safetensors")],
)
def test_a_hostile_file_is_no_vocoder(tmp_path: Path, suffix: str, name: str) -> None:
    file = tmp_path / {".pt": "pytorch_model.bin"}.get(suffix, "model.safetensors")
    file.write_bytes(FILES[suffix]()[name])
    (tmp_path / "config.yaml").write_bytes(CONFIG.read_bytes())
    with pytest.raises(VocoderError) as caught:
        load_vocoder(tmp_path)
    assert str(caught.value).startswith(f"{file} ")


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        (".npy", "asks-for-4-tb"),
        (".npz", "bomb"),
        (".pt", "deflated-bomb"),
        (".pt", "many-lists"),
    ],
)
def test_the_limit_is_in_the_message(tmp_path: Path, suffix: str, name: str) -> None:
    path = tmp_path / f"mel{suffix}"
    path.write_bytes(FILES[suffix]()[name])
    with pytest.raises(MelFileError, match=r"takes [\d,]+ bytes, and at most [\d,]+ are read"):
        read_mel(path)


_READ_ALL = """
import resource, sys
from pathlib import Path
from melcheck.mel_files import MelFileError, read_mel
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_mel(path)
    except MelFileError:
        continue
    raise SystemExit(path.name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
def test_no_hostile_file_takes_more_than_256_mib(tmp_path: Path) -> None:
    for suffix, files in FILES.items():
        for name, data in files().items():
            (tmp_path / f"{name}{suffix}").write_bytes(data)
    result = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_no_mel(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mel.npy"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(MelFileError, match=r"mel.npy: it cannot be read"):
        read_mel(path)


def edited(tmp_path: Path, old: str, new: str) -> Path:
    """Write the embedded vocoder with another configuration."""
    text = CONFIG.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "config.yaml").write_text(text.replace(old, new), encoding="utf-8")
    data = (CONFIG.parent / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("n_fft: 1024", "n_fft: 0x" + "f" * 5_000, "n_fft must be an even whole number"),
        ("n_fft: 1024", "n_fft: 1023", "n_fft must be an even whole number"),
        ("hop_length: 256", "hop_length: 1", "at most 2,000 frames per second, got 1 at 24000"),
        ("n_fft: 1024", "n_fft: 1e400", "n_fft must be an even whole number"),
        ("n_fft: 1024", "<<: {n_fft: 1024}", "is not plain YAML: `<<` merges mappings"),
        ("n_fft: 1024", "n_fft: " + "9" * 5_000, "is not plain YAML"),
    ],
    ids=["hexadecimal", "odd", "hop", "infinite", "merge", "decimal"],
)
def test_a_hostile_configuration_names_its_setting(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    with pytest.raises(VocoderError, match=says) as caught:
        load_vocoder(edited(tmp_path, old, new))
    assert len(str(caught.value)) < 1_000


def test_merges_that_grow_are_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 {k: v}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 20)
    )
    (edited(tmp_path, "n_fft: 1024", "n_fft: 1024") / "config.yaml").write_text(bomb)
    with pytest.raises(VocoderError, match="merges mappings"):
        load_vocoder(tmp_path)


def test_weights_that_are_infinite_once_cast_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = edited(tmp_path, "n_fft: 1024", "n_fft: 1024")
    state: dict[str, Any] = load_file(folder / "model.safetensors")
    key = "head.out.bias"
    state[key] = state[key].double()
    state[key][0] = 1e300
    save_file(state, folder / "model.safetensors")
    with pytest.raises(VocoderError, match=rf"NaN or infinity in 1 tensors \({key}\)"):
        load_vocoder(folder)
