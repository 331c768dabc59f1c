"""What docs/cli.md says of the command line is so.

The outputs in it are run again. Figures are left out of the comparison: they belong to the weights
and the machine, and other tests hold them.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from melcheck import MelCheckConfig, MelPipeline, MelRecipe, log_mel
from melcheck.benchmark.cases import Size
from melcheck.cli.main import COMMANDS, HELP, main

REPOSITORY = Path(__file__).parents[2]
DOCS = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
COMMON = {"melcheck", "command", "passed"}
# The decoder is that of the machine.
LEFT_OUT = re.compile(r"^decoder: .*$", flags=re.MULTILINE)
NUMBER = re.compile(r"\b[0-9a-f]{12}\b|[-+]?\d[\d.,]*(?:e-?\d+)?%?|[─-]{3,}")

Captured = pytest.CaptureFixture[str]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, flags=re.MULTILINE | re.DOTALL)


def section(command: str) -> str:
    return re.split(r"^## ", DOCS.partition(f"## `melcheck {command}")[2], flags=re.MULTILINE)[0]


def words(text: str) -> list[str]:
    return NUMBER.sub("#", LEFT_OUT.sub("", text)).split()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("melcheck.benchmark.measure._SHORT_CASE_SECONDS", 0.0)
    # As many rows as are shown, of sounds that take less time.
    monkeypatch.setattr("melcheck.benchmark.cases.SHORT_SIZES", (Size(1, 0.25), Size(4, 0.25)))
    monkeypatch.setattr("melcheck.benchmark.measure._ROTATED_BYTES", {"cpu": 2**18})
    monkeypatch.setattr("melcheck.benchmark.roofline._FIRST_REPEATS", 1)
    monkeypatch.setattr("melcheck.benchmark.roofline._REPEATS", 1)
    monkeypatch.setattr("melcheck.benchmark.roofline._COPIED_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "mytts", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fixtures").symlink_to(REPOSITORY / "fixtures")
    [frontend] = blocks("python")
    (tmp_path / "mytts.py").write_text(frontend)
    clip = MelCheckConfig("fixtures/audio/kokoro-kumo-en.wav", target_duration=None)
    waveform = MelPipeline(clip).load_audio()[0]
    np.save("a.npy", log_mel(waveform).numpy())
    for folder in ("clips", "mels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "clips" / "kumo.wav").symlink_to(REPOSITORY / clip.audio_path)
    np.save("mels/kumo.npy", log_mel(waveform).T.numpy())
    for folder, noise in (("mels-old", 0.0), ("mels-new", 0.02)):
        (tmp_path / folder / "emma").mkdir(parents=True)
        for name in ("1", "2"):
            np.save(f"{folder}/emma/{name}.npy", log_mel(waveform).numpy() + noise * int(name))
    np.save("b.npy", log_mel(waveform, MelRecipe(mel_scale="slaney")).numpy())
    return tmp_path


def test_the_help_is_that_of_the_command() -> None:
    assert blocks("text") == [HELP]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.splitlines()[0])
def test_an_example_prints_what_is_shown(block: str, capsys: Captured) -> None:
    command, _, shown = block.partition("\n")
    main(shlex.split(command.removeprefix("$ melcheck ")))
    assert words(capsys.readouterr().out) == words(shown)


ARGUMENTS = {
    "check": ["fixtures/audio/kokoro-short.flac", "--vocoder", "griffin-lim", "--no-artifacts"],
    "audit": ["clips", "--output", "audited", "--vocoder", "none", "--workers", "1"],
    "compare": ["a.npy", "b.npy"],
    "diagnose": ["--audio", "fixtures/audio/kokoro-kumo-en.wav", "--mel", "a.npy"],
    "handshake": ["mytts:mel"],
    "stages": ["embedded", "griffin-lim", "--audio", "fixtures/audio/kokoro-short.flac"],
    "info": [],
    "bench": ["--vocoder", "embedded"],
}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("command", ARGUMENTS)
def test_the_keys_of_the_json_are_those_listed(command: str, capsys: Captured) -> None:
    main([command, *ARGUMENTS[command], "--json"])
    document = json.loads(capsys.readouterr().out)
    listed = set(re.findall(r"^\| `(\w+)` \|", section(command), flags=re.MULTILINE))
    assert set(document) - COMMON == listed - {"identity"}


@pytest.mark.usefixtures("project")
def test_a_bare_mel_has_an_identity_in_place_of_a_diagnosis(capsys: Captured) -> None:
    main(["diagnose", "--mel", "a.npy", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert "identity" in document
    assert "diagnosis" not in document


def test_every_command_has_a_section() -> None:
    assert [name for name in COMMANDS if not section(name)] == []


def options_of(command: str, capsys: Captured) -> set[str]:
    main([command, "--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_named_that_the_command_lacks(command: str, capsys: Captured) -> None:
    told = set(re.findall(r"(?<!-)--(?!mel-)[a-z-]+[a-z]", section(command)))
    assert told <= options_of(command, capsys)
