"""How many clips `melcheck audit --until decided` draws, and how often it is wrong: simulated.

`python -m benchmarks.until_decided` prints the table of docs/audit-verdict.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from melcheck.audit.intervals import UntilDecided, most_failures
from melcheck.cli.output import Terminal

Sides = Callable[[int, NDArray[np.int64]], NDArray[np.int8]]
"""What each number of failures among so many clips decides: see `UntilDecided.sides`."""

SHARES_PERCENT = (0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 1.01, 1.2, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What became of corpora of one share.

    Attributes:
        wrong: Share of the corpora that were decided wrongly.
        drawn: Clips that each needed, ascending.
    """

    wrong: float
    drawn: NDArray[np.int64]


def simulate(
    sides: Sides, *, limit: float, size: int, failures: int, corpora: int, seed: int
) -> Simulated:
    """Draw from corpora, without replacement, until each is decided.

    All are drawn from side by side: the next clip of a corpus fails with the share of failures
    among what is left of it.

    Args:
        sides: Decides, or not yet.
        limit: Largest share that may fail.
        size: Clips of a corpus.
        failures: How many of them fail.
        corpora: How many are drawn from.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    truth = 1 if failures > most_failures(limit, size) else -1
    found = np.zeros(corpora, dtype=np.int64)
    wrong, drawn = 0, []
    for clips in range(1, size + 1):
        left = size - clips + 1
        found += rng.random(len(found)) * left < failures - found
        by_count = sides(clips, np.arange(found.max() + 1))
        decided = by_count[found] != 0 if clips < size else np.ones(len(found), dtype=bool)
        if decided.any():
            # A corpus that is exhausted is known.
            wrong += int((by_count[found[decided]] == -truth).sum()) if clips < size else 0
            drawn += [clips] * int(decided.sum())
            found = found[~decided]
        if not len(found):
            break
    return Simulated(wrong / corpora, np.array(drawn))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=0.01, help="largest share that may fail")
    parser.add_argument("--size", type=int, default=100_000, help="clips of a corpus")
    parser.add_argument("--corpora", type=int, default=10_000, help="corpora of each share")
    options = parser.parse_args()
    until = UntilDecided(options.limit, options.size)
    terminal = Terminal()
    terminal.print(
        f"limit {100 * options.limit:g} %, {options.size:,} clips, {options.corpora:,} corpora"
    )
    terminal.print(
        "| share that fails | wrong | clips: median | mean | 95 % |\n|---|---|---|---|---|"
    )
    for number, share in enumerate(SHARES_PERCENT):
        count = round(share / 100 * options.size)
        result = simulate(
            until.sides,
            limit=options.limit,
            size=options.size,
            failures=count,
            corpora=options.corpora,
            seed=number,
        )
        median, high = (int(np.quantile(result.drawn, level)) for level in (0.5, 0.95))
        mean = result.drawn.mean()
        terminal.print(
            f"| {share:g} % | {100 * result.wrong:.2f} % | {median:,} | {mean:,.0f} | {high:,} |"
        )


if __name__ == "__main__":
    main()
