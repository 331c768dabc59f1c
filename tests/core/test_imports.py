"""The floors of the house: an import points only to a lower line of `FLOORS`."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "melcheck"

# From the ground up. Entries of one line do not import each other, but what stands in one package
# may. `docs/architecture.md` draws the same picture.
FLOORS = """
_version environment files config recipes process_state probe_clips
remote
columnar
metrics manifests
audio_notes clips clip_condition profiles sanity tensor_files user_code
accepted audio mel_files plots
vocoders
frontends file_stages pipeline goldens clip_lists
artifacts
diagnosis.causes
diagnosis.result
diagnosis.recipe_search diagnosis.waveform_tests
diagnosis
speed
plan
caches
benchmark report
audit
cli pytest_plugin
suite
__init__ __main__
"""
FLOOR = {room: number for number, line in enumerate(FLOORS.split("\n")) for room in line.split()}


def room_of(module: str) -> str:
    """Return the entry of `FLOORS` that a module belongs to: the longest that begins its path."""
    parts = module.split(".")
    names = (".".join(parts[1:end]) for end in range(len(parts), 1, -1))
    return next((name for name in names if name in FLOOR), "__init__")


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def module_path(module: str) -> Path:
    return PACKAGE.parent / (module.replace(".", "/") + ".py")


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def test_every_import_points_down() -> None:
    wrong = []
    for module, path in MODULES.items():
        for imported in imports_of(path) & MODULES.keys() - {"melcheck"}:
            here, there = room_of(module), room_of(imported)
            if here != there and FLOOR[here] <= FLOOR[there]:
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {
        module: imports_of(path) & MODULES.keys() - {module} for module, path in MODULES.items()
    }
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"a circle runs through {sorted(left)}"


def test_the_package_imports_nothing_that_stays_outside_of_the_wheel() -> None:
    outside = {"tests", "training", "benchmarks", "conftest"}
    wrong = {
        module: sorted(names)
        for module, path in MODULES.items()
        if (names := {name for name in imports_of(path) if name.split(".")[0] in outside})
    }
    assert not wrong
