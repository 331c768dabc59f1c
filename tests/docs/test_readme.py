"""What the README says is so."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_example_prints_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    [example], [shown] = blocks("python"), blocks("text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    assert printed.getvalue() == shown


def test_what_finds_causes_can_be_called_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from melcheck import log_mel

    [example] = blocks("py")
    waveform = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    names = {"waveform": waveform, "mel": log_mel(waveform), "my_front_end": log_mel}
    exec(compile(example, "README.md", "exec"), names | {"written": waveform, "read": -waveform})
    printed = capsys.readouterr().out
    assert printed.startswith("identical")
    assert "every sample has the opposite sign" in printed


@pytest.mark.parametrize("command", blocks("bash")[:2])
def test_ci_runs_the_two_commands_word_for_word(command: str) -> None:
    assert command in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_each_local_link_leads_somewhere(link: str) -> None:
    assert (REPOSITORY / link).exists()


def test_it_stays_within_150_lines_of_100_columns() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 100
