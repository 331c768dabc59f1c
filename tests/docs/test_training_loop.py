"""The examples of docs/training-loop.md run as they are written, and stop at a bad batch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "training-loop.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
[SHOWN] = re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
PLAIN, LIGHTNING, ACCELERATE, TENSORS, TENSORBOARD, WANDB = BLOCKS
GOOD, BAD = "padding_value=melcheck.VOCOS.log_floor", "padding_value=0.0"


def dataset() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(samples, generator=generator) for samples in (24_000, 12_000, 18_000)]


def run(*blocks: str, **names: Any) -> dict[str, Any]:
    scope: dict[str, Any] = {"dataset": dataset(), "step": 0, **names}
    for block in blocks:
        exec(compile(block, "docs/training-loop.md", "exec"), scope)
    return scope


def with_bad_padding(block: str) -> str:
    assert block.count(GOOD) == 1
    return block.replace(GOOD, BAD)


def without_loop(block: str) -> str:
    """Return the plain example up to its loop, which another one replaces."""
    return block.partition("for step, ")[0]


def test_a_plain_loop_trains_and_stops_at_a_bad_batch() -> None:
    assert run(PLAIN)["batch"].passed
    with pytest.raises(SystemExit) as stopped:
        run(with_bad_padding(PLAIN))
    assert " ".join(SHOWN.split()) == str(stopped.value)


# What Lightning and torch say to each other of names that will change.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("package", "block"), [("lightning", LIGHTNING), ("accelerate", ACCELERATE)]
)
def test_a_trainer_of_others_trains_and_stops_at_a_bad_batch(package: str, block: str) -> None:
    pytest.importorskip(package, reason=f"the example needs {package}: pip install {package}")
    run(without_loop(PLAIN), block)
    with pytest.raises(SystemExit, match=r"step 0.*: failed: padded-frames: "):
        run(with_bad_padding(without_loop(PLAIN)), block)


class Writer:
    """What TensorBoard's writer is asked for."""

    def __init__(self) -> None:
        self.logged: dict[tuple[str, int], Any] = {}

    def add_scalars(self, name: str, values: dict[str, float], step: int) -> None:
        self.logged[name, step] = values

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        self.logged[name, step] = figure


def test_mels_and_round_trips_of_tensors_go_into_a_logger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer = Writer()
    run(PLAIN, TENSORS, TENSORBOARD, writer=writer)
    assert "MAE of the model's mels: " in capsys.readouterr().out
    assert {"mae", "snr_db", "pearson"} < writer.logged["melcheck", 0].keys()
    assert isinstance(writer.logged["melcheck/difference", 0], Figure)
    assert len(TENSORBOARD.splitlines()) == len(WANDB.rpartition("\n\n")[2].splitlines()) == 3


def test_tensorboard_takes_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the example needs it: pip install tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        run(PLAIN, TENSORS, TENSORBOARD, writer=writer)
    assert sum(path.stat().st_size for path in tmp_path.rglob("events.*")) > 10_000


def test_weights_and_biases_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the example needs it: pip install wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    with wandb.init(mode="offline", dir=os.fspath(tmp_path), project="melcheck") as logger:
        run(PLAIN, TENSORS, WANDB, run=logger)
    assert list(tmp_path.rglob("media/images/difference*.png"))
