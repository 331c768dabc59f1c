"""How fast the loop is, and how near the machine's limit: `pytest -m benchmark`.

`--mel-bench full` is the sweep over all sizes: under 8 minutes on 2 cores, and a case that does not
fit is skipped with the reason. `--benchmark-autosave` keeps a run, and `--benchmark-compare` sets
the next one beside it.
"""

from __future__ import annotations

from melcheck.suite import test_speed_of_the_loop

__all__ = ["test_speed_of_the_loop"]
