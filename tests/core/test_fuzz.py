"""The campaign against what comes from outside, for 20 s; `python -m tests.fuzz` runs it longer."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import fuzz

REPOSITORY = Path(__file__).parents[2]


def test_nothing_from_outside_is_met_with_more_than_a_refusal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--minutes", "0.33", "--kept", str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.match(r"first seed \d+\n", result.stdout)
    counts = re.findall(r"^(\w+): [\d,]+ inputs, .* 0 wrong$", result.stdout, re.MULTILINE)
    assert counts == list(fuzz.KINDS)


def test_a_campaign_sees_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which an input can be wrong, once."""

    def crash() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hang() -> None:
        while True:
            pass

    def grab() -> None:
        bytearray(2 * fuzz.MEMORY_BYTES)

    def fail() -> None:
        raise KeyError("bands")

    said = {}
    for action in (crash, hang, grab, fail):
        kind = fuzz.Kind(
            fuzz.st.tuples(fuzz.st.just("name"), fuzz.st.just(b"")),
            lambda *_, action=action: action(),
            (),
        )
        monkeypatch.setitem(fuzz.KINDS, "wrong", kind)
        [said[action.__name__]] = fuzz.in_a_child("wrong", 0, 1, tmp_path)
    assert said == {
        "crash": "crash: SIGKILL",
        "hang": "took more than 5 s",
        "grab": "asked for more than 2 GiB",
        "fail": "builtins.KeyError: 'bands'",
    }
