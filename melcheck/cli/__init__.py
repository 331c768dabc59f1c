"""The commands of `melcheck`, one module each: its options, one call into the library, its answer.

A module has `add_options(parser)` and `run(options, terminal) -> Answer`. It prints nothing and
imports nothing heavy before `run`, so that `melcheck --help` answers at once.
"""

from __future__ import annotations
