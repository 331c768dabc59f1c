"""Run pytest in each of several repositories in one process, and print what each said as JSON.

`python gate_many.py '["option", ...]' REPOSITORY...`: a process for each would spend most of its
time importing torch. What a repository imported is forgotten before the next.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pytest


def main(options: list[str], repositories: list[Path]) -> None:
    """Print {name: [exit code, output]}, and which melcheck ran."""
    results = {}
    before = set(sys.modules), list(sys.path)
    for repository in repositories:
        os.chdir(repository)
        os.environ["GITHUB_WORKSPACE"] = str(repository)
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = pytest.main(options)
        results[repository.name] = [int(code), output.getvalue()]
        for name in set(sys.modules) - before[0]:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(str(repository)):
                del sys.modules[name]
        sys.path[:] = before[1]
    import melcheck

    print(json.dumps({"melcheck": melcheck.__file__, "results": results}))  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
