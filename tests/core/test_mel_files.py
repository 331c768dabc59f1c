"""Mels are read from disk as they are; what is none is told, and no code of a file runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from melcheck.mel_files import MEL_SUFFIXES, MelFileError, find_mels, read_mel
from melcheck.probe_clips import probe
from melcheck.recipes import log_mel

MEL = log_mel(probe(36_000)).contiguous()


def save(path: Path, mel: Any) -> Path:
    """Write a tensor, or a dictionary of tensors, by the suffix of its path."""
    arrays = {name: value.numpy() for name, value in mel.items()} if isinstance(mel, dict) else {}
    if path.suffix == ".npy":
        np.save(path, mel.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **(arrays or {"arr_0": mel.numpy()}))
    elif path.suffix == ".safetensors":
        save_file(mel if arrays else {"mel": mel.contiguous()}, path)
    else:
        torch.save(mel, path)
    return path


@pytest.mark.parametrize("suffix", MEL_SUFFIXES)
def test_each_format_gives_the_mel_that_was_written(tmp_path: Path, suffix: str) -> None:
    stored = read_mel(save(tmp_path / f"a{suffix}", MEL))
    assert torch.equal(stored.mel, MEL)
    assert (stored.dtype, stored.shape, stored.broken) == ("float32", (100, 141), 0)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".npy", torch.float16),
        (".npy", torch.float64),
        (".pt", torch.bfloat16),
        (".safetensors", torch.bfloat16),
    ],
)
def test_other_floats_become_float32_and_are_told(
    tmp_path: Path, suffix: str, dtype: torch.dtype
) -> None:
    stored = read_mel(save(tmp_path / f"a{suffix}", MEL.to(dtype)))
    assert torch.equal(stored.mel, MEL.to(dtype).float())
    assert stored.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("shape", [(1, 100, 141), (1, 1, 100, 141)], ids=str)
def test_leading_axes_of_one_are_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = read_mel(save(tmp_path / "a.npy", MEL.reshape(shape)))
    assert list(stored.mel.shape) == [100, 141]
    assert stored.shape == shape


def test_big_endian_and_column_order_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(MEL.numpy().astype(">f4")))
    assert torch.equal(read_mel(tmp_path / "a.npy").mel, MEL)


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_the_array_called_mel_is_taken_among_others(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", {"energy": 2 * MEL, "mel": MEL})
    assert read_mel(path).array == "mel"
    assert torch.equal(read_mel(path).mel, MEL)
    assert torch.equal(read_mel(path, array="energy").mel, 2 * MEL)


class Opens:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pth"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    path, mark = tmp_path / f"a{suffix}", tmp_path / "was-run"
    if suffix == ".npz":
        np.savez(path, mel=np.array([Opens(mark)], dtype=object), allow_pickle=True)
    elif suffix == ".npy":
        np.save(path, np.array([Opens(mark)], dtype=object), allow_pickle=True)
    else:
        torch.save({"mel": MEL, "more": Opens(mark)}, path)
    with pytest.raises(MelFileError, match="holds Python objects"):
        read_mel(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(Opens(tmp_path / "was-run")))
    with pytest.raises(MelFileError, match="holds Python objects"):
        read_mel(path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("suffix", MEL_SUFFIXES)
@pytest.mark.parametrize("bytes_left", [0, 60, 3_000])
def test_half_a_file_is_refused(tmp_path: Path, suffix: str, bytes_left: int) -> None:
    path = save(tmp_path / f"a{suffix}", MEL)
    path.write_bytes(path.read_bytes()[:bytes_left])
    says = "truncated or damaged" if bytes_left else "the file is empty"
    with pytest.raises(MelFileError, match=says) as caught:
        read_mel(path)
    assert "\n" not in str(caught.value)


def broken(mel: Tensor) -> Tensor:
    mel = mel.clone()
    mel[3, 4], mel[5, 6] = torch.nan, torch.inf
    return mel


@pytest.mark.parametrize(
    ("mel", "says"),
    [
        pytest.param(MEL.long(), "must be floating point, got int64", id="integers"),
        pytest.param(MEL.to(torch.complex64), "got complex64", id="complex"),
        pytest.param(MEL[:, :0], "the mel is empty", id="no-frames"),
        pytest.param(MEL[0], r"up to leading axes of size 1, got \[141\]", id="vector"),
        pytest.param(torch.stack([MEL, MEL]), r"got \[2, 100, 141\]", id="batch"),
        pytest.param(broken(MEL), "2 of 14100 values are NaN or infinite", id="nan"),
    ],
)
def test_what_is_no_mel_is_told(tmp_path: Path, mel: Tensor, says: str) -> None:
    with pytest.raises(MelFileError, match=says):
        read_mel(save(tmp_path / "a.npy", mel))


def test_text_is_no_mel(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([["a", "b"]]))
    with pytest.raises(MelFileError, match="a NumPy array of <U1"):
        read_mel(tmp_path / "a.npy")


def test_broken_cells_are_counted_where_they_are_wanted(tmp_path: Path) -> None:
    stored = read_mel(save(tmp_path / "a.npy", broken(MEL)), finite=False)
    assert stored.broken == 2
    assert "2 values NaN or infinite" in str(stored)


@pytest.mark.parametrize(
    ("content", "array", "says"),
    [
        ({"a": MEL, "b": MEL}, None, r"several arrays, 'a' \[100, 141\], 'b' \[100, 141\]"),
        ({"a": MEL}, "b", r"no array 'b'. It holds 'a' \[100, 141\]"),
        ({"a": MEL[0]}, None, "no array of two axes"),
        (MEL, "mel", "one array without a name, not 'mel'"),
    ],
    ids=["several", "another-name", "vectors", "no-name"],
)
def test_which_array_is_meant_must_be_clear(
    tmp_path: Path, content: Any, array: str | None, says: str
) -> None:
    with pytest.raises(MelFileError, match=says):
        read_mel(save(tmp_path / "a.pt", content), array=array)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(MelFileError, match=r"must end in .npy, .npz, .pt, .pth, .safetensors"):
        read_mel(tmp_path / "a.h5")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_mel(tmp_path / "a.npy")


def test_a_folder_is_searched_to_its_depths(tmp_path: Path) -> None:
    (tmp_path / "b" / ".hidden").mkdir(parents=True)
    for name in ("b/z.pt", "a.npy", "b/.hidden/c.npy", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert find_mels(tmp_path) == (tmp_path / "a.npy", tmp_path / "b" / "z.pt")


def test_a_folder_without_mels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MelFileError, match="no mels in this folder"):
        find_mels(tmp_path)
    with pytest.raises(NotADirectoryError, match="no such folder"):
        find_mels(tmp_path / "nowhere")


def with_attribute(mel: Tensor) -> Tensor:
    mel = mel.clone()
    mel.rate = 24_000  # type: ignore[attr-defined]
    return mel


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(torch.nn.Parameter(MEL), id="parameter"),
        pytest.param(with_attribute(MEL), id="attribute"),
        pytest.param(MEL.T.contiguous().T, id="strided"),
        pytest.param(torch.cat([MEL, MEL])[100:], id="offset"),
        pytest.param([MEL, "a", 3, None, b"c", 0.5, True], id="list"),
        pytest.param(
            {"mel": MEL, "on": MEL.device, "of": MEL.dtype, "shape": MEL.shape}, id="dictionary"
        ),
    ],
)
def test_what_torch_writes_is_read(tmp_path: Path, content: Any, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_mel(path).mel, MEL)
