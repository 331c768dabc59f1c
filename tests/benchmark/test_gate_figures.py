"""The gate is compared with a script that makes the same round trips of the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import bare_loop, gate
from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline

AUDIO = gate.CLONE / "fixtures" / "audio"


def test_the_script_makes_the_round_trips_of_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, list[torch.Tensor]] = {}

    def noted(name: str) -> SimpleNamespace:
        vocoder, calls = MelPipeline(vocoder=name).vocoder, made.setdefault(name, [])

        def encode(waveform: torch.Tensor) -> torch.Tensor:
            calls.append(vocoder.encode(waveform))
            return calls[-1]

        return SimpleNamespace(encode=encode, decode=vocoder.decode)

    monkeypatch.setattr(bare_loop, "load_vocoder", noted)
    clip = AUDIO / "kokoro-short.flac"
    bare_loop.loop([str(clip)])
    assert list(made) == ["embedded", "griffin-lim"]
    for name, mels in made.items():
        trip = MelPipeline(MelCheckConfig(clip), vocoder=name).round_trip()
        for mel, expected in zip(mels, (trip.mel, trip.reconstructed_mel), strict=True):
            assert torch.equal(mel, expected)


def test_the_script_reads_the_clips_of_the_gate(tmp_path: Path) -> None:
    found = gate.commands([gate.CLONE], tmp_path)
    command, _ = found["script"]
    clips = [Path(part) for part in command if Path(part).parent == AUDIO]
    assert len(clips) == len(set(clips)) == 9
    assert all(load_audio(MelCheckConfig(clip)).waveform.numel() for clip in clips)


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(gate.subprocess.CalledProcessError):
        gate.processor_seconds(["false"], tmp_path, {"PATH": "/bin:/usr/bin"})


def test_each_gate_stands_beside_the_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def spent(command: Sequence[str], place: Path, environment: Any) -> float:
        return 2.0 if "benchmarks.bare_loop" in command else 3.0 if place == gate.CLONE else 5.0

    monkeypatch.setattr(gate, "processor_seconds", spent)
    gate.main(["--rounds", "8", "--other", str(tmp_path)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    ratios = [row[-4] for row in rows if row[-2:-1] == ["to"]]
    assert ratios == ["1.00", "1.50", "2.50"]
