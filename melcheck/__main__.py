"""`python -m melcheck`, where the script `melcheck` is not on the path."""

from __future__ import annotations

import sys

from melcheck.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
