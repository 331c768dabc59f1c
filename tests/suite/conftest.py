"""The goldens that this repository keeps: Vocos' mels, and those after the embedded vocoder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melcheck.pytest_plugin.goldens import Golden

OURS = Path(__file__).parents[2] / "fixtures" / "goldens"


@pytest.fixture
def mel_golden(mel_golden: Golden) -> Any:
    """The goldens of this run; here those of other vocoders and recipes need not be on record."""

    def check(name: str, **recorded: Any) -> None:
        kept = name.endswith((".encoded", ".embedded")) or mel_golden.folder != OURS
        on_record = (mel_golden.folder / f"{name}.csv").is_file()
        if not (kept or on_record or mel_golden.regenerating):
            pytest.skip(f"no golden {name} on record: --force-regen records one")
        mel_golden.check(name, **recorded)

    return SimpleNamespace(check=check)
