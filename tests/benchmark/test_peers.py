"""Other packages are timed beside melcheck only where they compute the same."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from benchmarks import peers as bench_peers
from benchmarks.peers import PEERS, main, measure_peers
from melcheck.benchmark.cases import MODES, Case, Size, bench_vocoder
from melcheck.benchmark.measure import make_inputs
from melcheck.vocoders.vocos import VocosVocoder
from tests.vocoders import untrained


@pytest.fixture(scope="module")
def vocoder() -> VocosVocoder:
    return bench_vocoder("embedded", "cpu")


@pytest.fixture(autouse=True)
def small_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melcheck.benchmark.measure._ROTATED_BYTES", {"cpu": 2**18})


def a_case(**other: Any) -> Case:
    return Case(
        **(
            {
                "stage": "decode",
                "device": "cpu",
                "size": Size(1, 0.5),
                "precision": "fp32",
                "mode": "eager",
            }
            | other
        )
    )


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_peers_that_are_there_compute_what_we_compute(stage: Any) -> None:
    # A plain Vocos, as peers know it: the embedded one's head is nobody else's.
    vocoder = untrained.small()
    case = a_case(stage=stage)
    times, absent = measure_peers(vocoder, case, make_inputs(vocoder, case), seconds=0.1)
    names = [peer.case.mode.removeprefix("peers/") for peer in times]
    assert names[0] == "eager"
    packages = {"librosa": ["librosa"], "onnxruntime": ["onnx", "onnxruntime"]}
    here = {
        name
        for name, stages in PEERS.items()
        if stage in stages and all(map(importlib.util.find_spec, packages.get(name, [])))
    }
    assert here <= set(names)
    assert set(names) | set(absent) == {*MODES, *(n for n, s in PEERS.items() if stage in s)}


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_peers.importlib.util, "find_spec", lambda name: None)
    case = a_case(stage="encode")
    times, absent = measure_peers(vocoder, case, make_inputs(vocoder, case), seconds=0.0)
    assert absent == {"librosa": "the package librosa is not installed: pip install -e '.[peers]'"}
    assert [peer.case.mode for peer in times] == [f"peers/{name}" for name in (*MODES, "vocos")]


def test_a_peer_that_computes_something_else_is_not_timed(
    vocoder: VocosVocoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(vocoder: VocosVocoder) -> Callable[[Tensor], Tensor]:
        return lambda mel: 1.01 * vocoder.decode(mel)

    monkeypatch.setitem(bench_peers.PEERS, "vocos", {"decode": wrong})
    monkeypatch.delitem(bench_peers.PEERS, "onnxruntime")
    case = a_case()
    times, absent = measure_peers(vocoder, case, make_inputs(vocoder, case), seconds=0.0)
    assert "its result differs from ours by 1.0e-02" in absent["vocos"]
    assert "peers/vocos" not in [peer.case.mode for peer in times]


def test_the_command_prints_a_table_and_writes_it_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_peers, "PAPER_SIZE", Size(1, 0.5))
    for name in ("librosa", "onnxruntime"):
        monkeypatch.delitem(bench_peers.PEERS, name)
    main(["--vocoder", "embedded", "--seconds", "0", "--json", str(tmp_path / "peers.json")])
    found = json.loads((tmp_path / "peers.json").read_text())
    ours = [f"peers/{name}" for name in (*MODES, "vocos")]
    assert [peer["mode"] for peer in found["peers"]] == [*ours, *ours, "peers/griffin-lim"]
    assert "griffin-lim  decode" in capsys.readouterr().out


def test_only_a_vocos_has_peers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--vocoder", "griffin-lim"])
    assert "--vocoder must be a Vocos, got 'griffin-lim'" in capsys.readouterr().err
