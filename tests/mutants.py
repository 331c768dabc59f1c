"""Break the core in small ways, and see whether the tests of each module notice.

    python -m tests.mutants --modules metrics pipeline --number 10 --seed 1

A mutant is one change of one module: a comparison, an operator, a number, a truth value or a `not`
becomes another, or a statement goes. It is tried in a copy of the repository in a temporary folder,
against the module's own test files. A mutant that all of them pass survives: either the change is
harmless, or a test is missing. The choice depends on the seed and on the text that is changed, not
on its line number, so that the same mutants are tried again after other lines have moved.

It takes minutes; pytest does not collect it. `OMP_NUM_THREADS=1` helps on a busy machine.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Imported once: each mutant is tried in a fork. Nothing of melcheck may be.
import matplotlib.figure  # noqa: F401
import pytest
import torchaudio  # noqa: F401
import vocos  # noqa: F401

REPOSITORY = Path(__file__).parents[1]

TESTS = {
    "config": ["core/test_config.py"],
    "recipes": ["core/test_recipes.py"],
    "audio": ["core/test_audio.py"],
    "metrics": ["core/test_metrics.py"],
    "sanity": ["core/test_verdict.py"],
    "pipeline": ["core/test_pipeline.py"],
    "goldens": ["suite/test_golden.py", "faults/test_goldens_can_fail.py"],
    "plots": ["core/test_plots.py"],
}

_COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One change: the characters from `start` to `end` of a module become `after`."""

    module: str
    line: int
    start: int
    end: int
    before: str
    after: str
    rank: str

    def __str__(self) -> str:
        before, after = (" ".join(text.split())[:90] for text in (self.before, self.after))
        return f"melcheck/{self.module}.py:{self.line}: {before}  ->  {after}"


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node may be replaced by."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            changed = copy.deepcopy(node)
            changed.ops[place] = _COMPARISONS[type(operator)]()
            yield changed
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in _OPERATORS:
        changed = copy.deepcopy(node)
        changed.op = _OPERATORS[type(node.op)]()
        yield changed
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)
    elif isinstance(node, (ast.Raise, ast.AugAssign)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()


def nodes(parent: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Yield nodes with the function that holds them, without annotations, decorators and texts."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr):
                continue
            if isinstance(node, ast.BinOp) and isinstance(node.left, ast.JoinedStr):
                continue
            yield node, function
            yield from nodes(node, getattr(node, "name", function))


def mutants(module: str, source: str, seed: int) -> list[Mutant]:
    """Return all mutants of a module in the order in which they are to be tried."""
    lines = source.splitlines(keepends=True)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]
    found: dict[str, Mutant] = {}
    for node, function in nodes(ast.parse(source)):
        for variant in variants(node):
            # Columns are counted in bytes.
            ends = [
                starts[line - 1] + len(lines[line - 1].encode()[:column].decode())
                for line, column in (
                    (node.lineno, node.col_offset),  # type: ignore[attr-defined]
                    (node.end_lineno, node.end_col_offset),  # type: ignore[attr-defined]
                )
            ]
            before, after = source[slice(*ends)], ast.unparse(variant)
            if not isinstance(node, (ast.stmt, ast.Constant)):
                after = f"({after})"
            line = node.lineno  # type: ignore[attr-defined]
            text = f"{seed} {module} {function} {lines[line - 1].strip()} {before} {after}"
            rank = hashlib.sha256(text.encode()).hexdigest()
            while rank in found:
                rank = hashlib.sha256(rank.encode()).hexdigest()
            found[rank] = Mutant(module, line, *ends, before, after, rank)
    return [found[rank] for rank in sorted(found)]


def passes(folder: Path, module: str, limit: float) -> bool:
    """Whether the tests of a module pass in a copy, within `limit` seconds."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path.insert(0, str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        files = [f"tests/{name}" for name in TESTS[module]]
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files]))
    stop = time.monotonic() + limit
    while time.monotonic() < stop:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def try_module(folder: Path, module: str, number: int, seed: int, limit: float) -> tuple[int, int]:
    """Try some mutants of a module; return how many were killed, of how many."""
    path = folder / "melcheck" / f"{module}.py"
    source = path.read_text(encoding="utf-8")
    if not passes(folder, module, 10 * limit):
        raise SystemExit(f"The tests of melcheck/{module}.py must pass without a mutant.")
    chosen = mutants(module, source, seed)[:number]
    killed = 0
    for mutant in chosen:
        changed = source[: mutant.start] + mutant.after + source[mutant.end :]
        path.write_text(changed, encoding="utf-8")
        # Python compares seconds: each mutant has its own, or the last one's bytecode would do.
        seconds = int(mutant.rank[:7], 16)
        os.utime(path, (seconds, seconds))
        survived = passes(folder, module, limit)
        killed += not survived
        print("survived" if survived else "killed  ", mutant, flush=True)
    path.write_text(source, encoding="utf-8")
    return killed, len(chosen)


def main() -> None:
    """Try the mutants that the command line asks for."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--modules", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--number", type=int, default=10, help="mutants of each module; 10")
    parser.add_argument("--seed", type=int, default=1, help="another one tries others; 1")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a mutant; 300")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("melcheck", "tests", "fixtures"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        shutil.copy(REPOSITORY / "pyproject.toml", folder)
        counts = []
        for module in options.modules:
            killed, tried = try_module(folder, module, options.number, options.seed, options.limit)
            print(f"{module}: {killed} of {tried} killed", flush=True)
            counts.append((killed, tried))
    killed, tried = map(sum, zip(*counts, strict=True))
    print(f"all: {killed} of {tried} killed")


if __name__ == "__main__":
    main()
