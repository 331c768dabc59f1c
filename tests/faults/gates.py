"""Every gate that melcheck has, run on one clip and one loop: which of them fire, and why.

A gate compares what a loop did with what a healthy one does (`tests.faults.loops`), and knows
nothing of any particular fault.

    preflight             a loader or a check of tensors refuses to go on
    load                  the loader's waveform is the file's
    shape                 tensors have the shapes that the recipe promises
    finite                no NaN, nothing infinite
    range                 no mel below the recipe's floor or above what full scale can reach
    extract               on identical samples, the front end gives the recipe's mel
    golden-encoded        the mel's statistics are those on record
    decode                on an identical mel, the vocoder gives the expected samples
    repeat                the same input gives the same output twice
    batch                 a mel decoded in a batch sounds as it does alone
    save                  what is saved is what was decoded, at the right rate
    full-scale            nothing is clipped, neither on the way in nor on the way out
    clicks                no jump between neighbouring samples that a healthy loop does not have
    level                 the result is as loud as a healthy loop's
    distance              the result's spectra are as near to the input's as a healthy loop's
    sanity                the thresholds of `melcheck.sanity`
    golden-reconstructed  the statistics of the result's mel are those on record

Tolerances were measured on what must raise no alarm: the ladder of `tests/faults/test_benign.py` on
the twelve fixture clips and eight readings of LJ Speech, with the embedded vocoder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.faults.gates_audio import (
    clicks_gate,
    distance_gate,
    full_scale_gate,
    level_gate,
    load_gate,
    save_gate,
)
from tests.faults.gates_mel import (
    batch_gate,
    decode_gate,
    extract_gate,
    finite_gate,
    golden_encoded_gate,
    golden_reconstructed_gate,
    range_gate,
    repeat_gate,
    sanity_gate,
    shape_gate,
)
from tests.faults.loops import Expectation, Loop, Refusal, Run

__all__ = ["FRONT_GATES", "GATES", "inspect"]

FRONT_GATES = ("load", "range", "extract", "golden-encoded")
"""The gates that look at nothing after the mel, so that nothing need be decoded for them."""


def inspect(
    loop: Loop, expected: Expectation, folder: Path, *, gates: Collection[str] | None = None
) -> dict[str, str]:
    """Run gates on a loop.

    Args:
        loop: What to judge.
        expected: What a healthy loop does with the same file.
        folder: An existing folder that may be written to.
        gates: Names of the gates to run; None for all.

    Returns:
        What each gate that fires has found, by the gate's name, in the order of `GATES`. A stage
        that refuses its input with one of melcheck's errors fires "preflight", and gates that
        need what it would have given stay silent.
    """
    run = Run(loop, expected, folder)
    found: dict[str, str] = {}
    for name, gate in GATES.items():
        if gates is not None and name not in gates:
            continue
        try:
            finding = gate(run)
        except Refusal as refusal:
            found.setdefault("preflight", str(refusal))
            continue
        if finding is not None:
            found.setdefault(name, finding)
    return {name: found[name] for name in GATES if name in found}


def _preflight(run: Run) -> str | None:
    # Whatever refuses on the way to the result says so; nothing else can be asked before it.
    _ = run.output
    return None


GATES: Mapping[str, Callable[[Run], str | None]] = MappingProxyType(
    {
        "preflight": _preflight,
        "load": load_gate,
        "shape": shape_gate,
        "finite": finite_gate,
        "range": range_gate,
        "extract": extract_gate,
        "golden-encoded": golden_encoded_gate,
        "decode": decode_gate,
        "repeat": repeat_gate,
        "batch": batch_gate,
        "save": save_gate,
        "full-scale": full_scale_gate,
        "clicks": clicks_gate,
        "level": level_gate,
        "distance": distance_gate,
        "sanity": sanity_gate,
        "golden-reconstructed": golden_reconstructed_gate,
    }
)
"""Every gate by its name, in the order in which a loop runs."""
