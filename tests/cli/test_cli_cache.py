"""`melcheck check --cache` and `melcheck compare DIR DIR`: stored mels on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from melcheck import MelCheckConfig, log_mel
from melcheck.audio import load_audio
from melcheck.cli.main import main

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
CLIP = AUDIO / "kokoro-kumo-en.wav"
WAVEFORM = load_audio(MelCheckConfig(CLIP, 24_000, None)).waveform[0]
MEL = log_mel(WAVEFORM).numpy()
CHECK = ("check", "clips", "--vocoder", "griffin-lim", "--no-artifacts", "--cache", "mels")

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clips `emma/1.wav` and `emma/2.wav`, and none of their mels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips" / "emma").mkdir(parents=True)
    for name in ("1", "2"):
        shutil.copy(CLIP, tmp_path / "clips" / "emma" / f"{name}.wav")
    return tmp_path


def store(folder: str, **mels: np.ndarray) -> None:
    Path(folder).mkdir(exist_ok=True)
    for name, mel in mels.items():
        np.save(Path(folder) / f"{name}.npy", mel)


def test_fresh_mels_pass(capsys: Captured) -> None:
    store("mels", **{"1": MEL, "2": MEL.astype("float16")})
    assert main([*CHECK]) == 0
    assert "2 of 2 clips have fresh stored mels" in capsys.readouterr().out


def test_a_mel_that_is_missing_stale_or_damaged_fails_its_clip(capsys: Captured) -> None:
    store("mels", **{"1": MEL.T})
    assert main([*CHECK, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["cache"]
    assert {problem["code"] for problem in found["problems"]} == {"axes-transposed", "missing"}
    Path("mels/2.npy").write_bytes(b"\x93NUMPY")
    assert main([*CHECK, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    codes = {problem["code"] for problem in document["cache"]["problems"]}
    assert codes == {"axes-transposed", "unreadable"}
    kinds = {failed["kind"] for failed in document["report"]["failed_tests"]}
    assert kinds == {"stored mel"}


def test_a_cause_that_mels_share_is_printed_once(capsys: Captured) -> None:
    store("mels", **{"1": MEL.T, "2": MEL.T})
    assert main([*CHECK]) == 1
    output = capsys.readouterr().out
    assert output.count("axes-transposed: ") == 1
    assert "and 1 more of this cause: " in output


def test_a_pattern_names_the_mels(capsys: Captured) -> None:
    store("mels", **{"emma-mel-1": MEL, "emma-mel-2": MEL})
    assert main([*CHECK]) == 2
    assert "--cache-pattern '{speaker}-mel-{stem}.npy'" in " ".join(capsys.readouterr().err.split())
    assert main([*CHECK, "--cache-pattern", "{speaker}-mel-{stem}.npy"]) == 0


def test_a_pattern_without_a_cache_is_wrong_usage(capsys: Captured) -> None:
    assert main(["check", "clips", "--cache-pattern", "{stem}.npy"]) == 2
    assert "give --cache DIR" in capsys.readouterr().err


def compared(capsys: Captured, *options: str) -> tuple[int, dict[str, dict[str, object]]]:
    code = main(["compare", "a", "b", *options, "--json"])
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    return code, {pair["name"]: pair for pair in pairs}


def test_two_folders_are_compared_by_relative_paths(capsys: Captured) -> None:
    store("a", x=MEL, y=MEL, z=MEL)
    store("b", x=MEL, y=MEL + 0.01, z=MEL.T)
    code, pairs = compared(capsys)
    assert code == 0
    assert pairs["x"]["mae"] == pairs["z"]["mae"] == 0.0
    assert pairs["y"]["mae"] == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize(
    ("mel", "told"),
    [
        (None, "there is none in b"),
        (MEL[:, :-1], "the shapes differ"),
        (MEL + 0.5, "mae 0.5 must be below 0.2"),
        (MEL * np.nan, "values are NaN or infinite"),
    ],
    ids=["missing", "shorter", "shifted", "nan"],
)
def test_a_pair_that_fails_is_named_and_the_others_are_judged(
    capsys: Captured, mel: np.ndarray | None, told: str
) -> None:
    store("a", good=MEL, bad=MEL)
    store("b", good=MEL, **({} if mel is None else {"bad": mel}))
    code, pairs = compared(capsys)
    assert code == 1
    assert told in str(pairs["bad"]["reason"])
    assert pairs["good"]["passed"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a", "x.npy"], "a is a folder, and the other is not"),
        (["a", "b", "--plot", "p.png"], "--plot draws two files"),
        (["a", "c"], "have no mel of one name: the first are x and y"),
    ],
    ids=["a-file", "plot", "nothing-in-common"],
)
def test_folders_that_cannot_be_compared_are_wrong_usage(
    capsys: Captured, words: list[str], told: str
) -> None:
    store("a", x=MEL)
    store("b", x=MEL)
    store("c", y=MEL)
    np.save("x.npy", MEL)
    assert main(["compare", *words]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
