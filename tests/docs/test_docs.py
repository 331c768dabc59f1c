"""What the documents and the workflows say exists: options, keys, fixtures, tests, files, steps."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

import melcheck.pytest_plugin.fixtures
import melcheck.suite
from melcheck.pytest_plugin.options import OPTIONS
from melcheck.vocoders.weights import OFFICIAL_REVISION

REPOSITORY = Path(__file__).parents[2]
PLUGIN = (REPOSITORY / "docs" / "plugin.md").read_text(encoding="utf-8")
CI = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
USERS = REPOSITORY / "tests" / "tiny_tts" / ".github" / "workflows" / "melcheck.yml"
OURS = REPOSITORY / ".github" / "workflows" / "ci.yml"
HOOKS = REPOSITORY / ".pre-commit-hooks.yaml"
FIXTURES = [name for name in vars(melcheck.pytest_plugin.fixtures) if name.startswith("mel_")]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_has_its_row_with_its_key(option: Any) -> None:
    given = f"| `{option.flag}{' ' if option.metavar else '`'}"
    [row] = [line for line in PLUGIN.splitlines() if line.startswith(given)]
    key = f"`{option.key}`{' (list)' if option.many else ''}" if option.keyed else "none"
    assert f" | {key} |" in row


@pytest.mark.parametrize("name", FIXTURES)
def test_every_fixture_has_its_row(name: str) -> None:
    rows = [line for line in PLUGIN.splitlines() if line.startswith("| `mel_")]
    assert sum(f"`{name}`" in row.split(" | ")[0] for row in rows) == 1


@pytest.mark.parametrize("word", sorted(set(re.findall(r"--mel-[a-z-]+", PLUGIN + CI))))
def test_no_option_is_made_up(word: str) -> None:
    assert word in {flag for option in OPTIONS for flag in (option.flag, *option.spellings)}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PLUGIN))))
def test_every_test_that_is_named_is_in_the_suite(name: str) -> None:
    assert name in melcheck.suite.__all__


def test_the_suite_brings_every_test_of_its_file() -> None:
    tests = {name for name in vars(melcheck.suite) if name.startswith("test_")}
    assert tests == set(melcheck.suite.__all__)


DOCUMENTS = [*sorted((REPOSITORY / "docs").glob("*.md")), *sorted(REPOSITORY.glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_local_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_index_lists_every_document() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    links = {(REPOSITORY / "docs" / link).resolve() for link in re.findall(r"\(([^)]+)\)", index)}
    assert {path.resolve() for path in DOCUMENTS} - links == {REPOSITORY / "docs" / "index.md"}


ARCHITECTURE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_of_the_architecture_names_what_exists() -> None:
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))", ARCHITECTURE)
    packages = [REPOSITORY, REPOSITORY / "melcheck", *(REPOSITORY / "melcheck").iterdir()]
    packages += [
        REPOSITORY / "melcheck" / "diagnosis" / "recipe_search",
        REPOSITORY / "tests" / "faults",
    ]
    missing = [name for name in named if not any((place / name).exists() for place in packages)]
    assert named
    assert missing == []


def test_every_module_and_package_stands_in_the_architecture() -> None:
    rooms = {path.name for path in (REPOSITORY / "melcheck").glob("*.py")} - {"__main__.py"}
    rooms |= {f"{path.parent.name}/" for path in (REPOSITORY / "melcheck").glob("*/__init__.py")}
    rooms -= {"_version.py"}
    assert {room for room in rooms if room not in ARCHITECTURE} == set()


@pytest.mark.parametrize(
    "package", sorted((REPOSITORY / "melcheck").rglob("*/__init__.py")), ids=lambda p: p.parent.name
)
def test_a_package_lists_its_modules(package: Path) -> None:
    text = package.read_text(encoding="utf-8")
    modules = {path.stem for path in package.parent.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in package.parent.glob("*/__init__.py")}
    listed = {line.split()[0].rstrip("/") for line in text.splitlines() if line.strip()}
    assert modules - listed == set()


def test_the_workflow_that_is_shown_is_the_one_that_is_kept() -> None:
    shown = re.search(r"^```yaml\n(.*?)^```", CI, flags=re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == USERS.read_text(encoding="utf-8")


def steps(path: Path) -> list[dict[str, Any]]:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML 1.1 takes the key `on` for true.
    assert set(workflow) == {"name", True, "permissions", "jobs"}
    assert workflow["permissions"] == {"contents": "read"}
    [job] = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    found: list[dict[str, Any]] = job["steps"]
    return found


@pytest.mark.parametrize("path", [USERS, OURS], ids=["users", "ours"])
def test_a_workflow_has_the_steps_of_a_gate(path: Path) -> None:
    uses = [step["uses"] for step in steps(path) if "uses" in step]
    actions = [action.partition("@")[0].removeprefix("actions/") for action in uses]
    assert actions == ["checkout", "setup-python", "cache", "upload-artifact"]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in uses)


@pytest.mark.parametrize("path", [USERS, OURS], ids=["users", "ours"])
def test_the_weights_are_cached_under_their_revision(path: Path) -> None:
    [cache] = [step["with"] for step in steps(path) if "cache@" in step.get("uses", "")]
    assert cache["key"].endswith(OFFICIAL_REVISION)
    assert cache["path"] == "~/.cache/huggingface"


@pytest.mark.parametrize("path", [USERS, OURS], ids=["users", "ours"])
def test_artifacts_of_a_failed_run_are_kept(path: Path) -> None:
    [upload] = [step for step in steps(path) if "upload-artifact@" in step.get("uses", "")]
    assert upload["if"] == "always()"
    assert upload["with"]["path"] == "mel-artifacts"


def gate(command: str, config: pytest.Config) -> list[str]:
    """Parse a command of pytest with the options that there are, and return what is left over."""
    words = shlex.split(command)
    options = words[words.index("pytest") + 1 :]
    parsed, unknown = config._parser.parse_known_and_unknown_args(options)
    assert parsed.markexpr == "sanity"
    return [word for word in unknown if word.startswith("-")]


def test_the_command_of_the_users_workflow_can_be_given(pytestconfig: pytest.Config) -> None:
    [command] = [step["run"] for step in steps(USERS) if step.get("name") == "Gate"]
    assert command.startswith("pytest ")
    assert gate(command, pytestconfig) == []


def test_our_workflow_runs_what_ci_runs() -> None:
    commands = [step["run"] for step in steps(OURS) if "run" in step]
    assert commands == ["bash .ci/run"]
    assert (REPOSITORY / ".ci" / "run").is_file()


def rows() -> list[str]:
    """Return the names of the rows of `noxfile.py`, without importing it: nox need not be there."""
    tree = ast.parse((REPOSITORY / "noxfile.py").read_text(encoding="utf-8"))
    [table] = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROWS"
    ]
    assert isinstance(table, ast.Dict)
    return [ast.literal_eval(key) for key in table.keys if key is not None]


def test_every_row_of_the_matrix_is_run_and_has_its_line() -> None:
    matrix = yaml.safe_load((OURS.parent / "matrix.yml").read_text(encoding="utf-8"))
    assert matrix["jobs"]["rows"]["strategy"]["matrix"]["row"] == rows()
    told = (REPOSITORY / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert [row for row in rows() if f"| {row} |" not in told] == []


def test_the_rows_that_ci_runs_are_rows() -> None:
    [loop] = re.findall(r"^for row in (.+); do$", (REPOSITORY / ".ci" / "run").read_text(), re.M)
    assert set(shlex.split(loop)) <= set(rows())
    assert len(shlex.split(loop)) >= 2


def test_the_hook_can_be_run(pytestconfig: pytest.Config) -> None:
    [hook] = yaml.safe_load(HOOKS.read_text(encoding="utf-8"))
    assert {"id", "name", "entry", "language"} <= set(hook)
    assert hook["language"] == "system"
    assert hook["pass_filenames"] is False
    assert hook["entry"].startswith("python -m pytest ")
    assert "--pyargs melcheck.suite" in hook["entry"]
    assert gate(hook["entry"], pytestconfig) == []
    assert f"- id: {hook['id']}" in CI
