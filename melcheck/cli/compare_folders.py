"""`melcheck compare DIR DIR`: two folders of mels, file by file, by their relative paths.

A file may have a different suffix in the second folder. A mel that one of them lacks, that cannot
be read, or whose shape differs fails like one that is too far from its reference.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.cli.arguments import upright
from melcheck.cli.output import Answer, Terminal, UsageError
from melcheck.files import MAX_LISTED, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from melcheck.metrics import MelMetrics
    from melcheck.recipes import MelRecipe

_FIGURES = (("mae", "MAE", 3, max), ("snr_db", "SNR", 1, min), ("pearson", "corr", 4, min))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two files of one name: their metrics, or why there are none."""

    name: str
    metrics: MelMetrics | None = None
    reason: str = ""
    code: str = ""


def compare_folders(
    reference: Path,
    estimate: Path,
    *,
    recipe: MelRecipe,
    array: str | None,
    terminal: Terminal,
) -> Answer:
    """Measure every mel of a folder against that of its name in another.

    Raises:
        UsageError: No name is in both.
        ValueError: A folder holds no mel.
    """
    from melcheck.mel_files import find_mels

    ours, theirs = (
        {path.relative_to(folder).with_suffix("").as_posix(): path for path in find_mels(folder)}
        for folder in (reference, estimate)
    )
    if not ours.keys() & theirs.keys():
        raise UsageError(
            f"{reference} and {estimate} have no mel of one name: the first are "
            f"{next(iter(ours))} and {next(iter(theirs))}. Name two folders of the same clips."
        )
    names = sorted(ours.keys() | theirs.keys())
    pairs = []
    for name in terminal.progress("comparing", names, len(names)):
        lacking = [f for f, mels in ((reference, ours), (estimate, theirs)) if name not in mels]
        if lacking:
            pairs.append(_Pair(name, reason=f"there is none in {lacking[0]}", code="missing"))
        else:
            pairs.append(_compared(name, ours[name], theirs[name], recipe, array))
    failed = [pair for pair in pairs if pair.reason]
    text = [
        f"A: {reference}, B: {estimate}, {len(names)} mels",
        "",
        *_table([pair for pair in pairs if pair.metrics is not None], terminal),
        *_failures(failed),
        f"{len(pairs) - len(failed)} of {len(pairs)} mels passed",
    ]
    return Answer(
        passed=not failed,
        text="\n".join(text),
        data={
            "mels": len(pairs),
            "mels_passed": len(pairs) - len(failed),
            "pairs": [
                {
                    "name": pair.name,
                    "passed": not pair.reason,
                    "reason": pair.reason,
                    **{key: getattr(pair.metrics, key, None) for key, *_ in _FIGURES},
                }
                for pair in pairs
            ],
        },
    )


def _compared(
    name: str, reference: Path, estimate: Path, recipe: MelRecipe, array: str | None
) -> _Pair:
    from melcheck.metrics import compare
    from melcheck.sanity import judge

    try:
        mels = [_upright(path, recipe, array) for path in (reference, estimate)]
    except (ValueError, OSError) as error:
        return _Pair(name, reason=str(error), code="unreadable")
    shapes = [list(mel.shape) for mel in mels]
    if shapes[0] != shapes[1]:
        told = f"the shapes differ, {shapes[0]} and {shapes[1]}: two clips, or two recipes"
        return _Pair(name, reason=told, code="shape")
    metrics = compare(mels[0][None], mels[1][None], recipe=recipe)[0]
    verdict = judge(metrics)
    return _Pair(name, metrics, verdict.reason if not verdict.passed else "", "gate")


def _upright(path: Path, recipe: MelRecipe, array: str | None) -> Tensor:
    from melcheck.mel_files import read_mel

    mel = read_mel(path, array=array).mel
    return mel if upright(path, list(mel.shape), recipe) else mel.T.contiguous()


def _table(measured: list[_Pair], terminal: Terminal) -> list[str]:
    if not measured:
        return []
    rows = []
    for key, title, digits, worst_of in _FIGURES:
        values = [float(getattr(pair.metrics, key)) for pair in measured]
        worst = worst_of(values)
        rows.append(
            (
                title,
                f"{statistics.median(values):.{digits}f}",
                f"{worst:.{digits}f}",
                measured[values.index(worst)].name,
            )
        )
    return [terminal.table(("metric", "median", "worst", "mel"), rows), ""]


def _failures(failed: list[_Pair]) -> list[str]:
    """Return the failures, those of one kind together."""
    lines = []
    for code in dict.fromkeys(pair.code for pair in failed):
        first, *others = [pair for pair in failed if pair.code == code]
        lines.append(f"failed: {one_line(Path(first.name))}: {first.reason}")
        if others:
            listed = ", ".join(one_line(Path(pair.name)) for pair in others[:MAX_LISTED])
            more = len(others) - MAX_LISTED
            rest = f" and {more} more" if more > 0 else ""
            lines.append(f"  and {len(others)} more of this kind: {listed}{rest}")
    return lines
