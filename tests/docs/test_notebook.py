"""The notebook as it is committed: executed in order, of the weights of this version, and portable.

That it still runs is for `pytest --nbmake notebooks`, in CI.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from melcheck.vocoders.weights import EMBEDDED_SHA256

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "audio_to_mel_to_audio.ipynb"
MAX_BYTES = 1_500_000
FIGURES = 7
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
OUTPUTS = [output for cell in CODE for output in cell["outputs"]]
EXECUTE = (
    "Execute it: jupyter nbconvert --to notebook --execute --inplace "
    "--ExecutePreprocessor.record_timing=False notebooks/audio_to_mel_to_audio.ipynb"
)


def printed() -> str:
    return "".join(part for output in OUTPUTS for part in output.get("text", ()))


def test_every_cell_was_executed_in_order() -> None:
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)], EXECUTE


def test_its_outputs_are_of_the_weights_of_this_version() -> None:
    assert EMBEDDED_SHA256["model.safetensors"][:12] in printed(), EXECUTE


def test_its_figures_are_stored_as_pictures() -> None:
    assert sum("image/png" in output.get("data", ()) for output in OUTPUTS) == FIGURES


def test_nothing_in_it_needs_a_live_kernel_or_failed() -> None:
    assert {output["output_type"] for output in OUTPUTS} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    kinds = {kind for output in OUTPUTS for kind in output.get("data", ())}
    assert kinds <= {"image/png", "text/plain"}
    assert {output.get("name", "stdout") for output in OUTPUTS} == {"stdout"}


def test_it_is_small() -> None:
    assert NOTEBOOK.stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    "pattern", [r"(?<![\w./])/(?:home|root|tmp|usr|work|Users)\b", r"[A-Z]:\\", r"\bat 0x[0-9a-f]+"]
)
def test_it_shows_nothing_of_the_machine_that_ran_it(pattern: str) -> None:
    shown = printed() + json.dumps([output.get("data", {}).get("text/plain") for output in OUTPUTS])
    assert re.search(pattern, shown) is None


def test_it_carries_no_times() -> None:
    assert all("execution" not in cell["metadata"] for cell in CODE), EXECUTE


def test_it_says_how_to_execute_it() -> None:
    prose = re.sub(r"\s*\\\n\s*", " ", "".join(CELLS[0]["source"]))
    assert EXECUTE.removeprefix("Execute it: ") in prose
