"""The plugin's options, each with its ini key: declared once, read in one way.

Every option `--mel-NAME` has the key `mel_NAME`, for `[tool.pytest.ini_options]` in
`pyproject.toml` or any other of pytest's files. The command line beats the key. A path on the
command line is relative to the folder that pytest was started in, one under a key to the root of
the repository.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from melcheck.files import plain_text

_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
_KEY = re.compile(r"^\s*mel_\w+\s*=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        name: NAME as in `--mel-NAME`, with dashes.
        metavar: Placeholder of its value in the help.
        help: One sentence.
        many: Whether it may be given more than once, or hold a list under its key.
        spread: Whether it takes several values at once on the command line.
    """

    name: str
    metavar: str
    help: str
    many: bool = False
    spread: bool = False

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--mel-{self.name}"

    @property
    def key(self) -> str:
        """The ini key."""
        return _key(self.name)


def _key(name: str) -> str:
    return f"mel_{name.replace('-', '_')}"


OPTIONS = (
    Option(
        "audio",
        "PATH",
        "audio files, folders, and lists of clips (.csv, .jsonl, .parquet, .tar, ...) to check",
        many=True,
        spread=True,
    ),
    Option(
        "manifest",
        "FILE",
        "list of the clips to check, instead of --mel-audio; as YAML with their hashes",
    ),
    Option("column", "NAME", "column or key of a list that names the audio (the usual ones)"),
    Option(
        "vocoder",
        "NAME",
        "embedded, official, griffin-lim, a directory, a hub id, or package.module:attribute; "
        "repeatable; must be available (default: embedded, and official where its weights are in "
        "the cache)",
        many=True,
    ),
    Option(
        "loader",
        "MODULE:NAME",
        "your own loader, package.module:attribute: a path to a waveform, or (waveform, rate); it "
        "must give the file's samples, and reads the clips of the round trip",
    ),
    Option(
        "frontend",
        "MODULE:NAME",
        "your own mel function, package.module:attribute, which must extract the vocoder's mel; it "
        "replaces the vocoder's own in the round trip",
    ),
    Option(
        "vocoder-reference",
        "NAME",
        "the checkpoint that your vocoder claims to be, named as for --mel-vocoder: both must "
        "decode a mel to the same waveform",
    ),
    Option(
        "saver",
        "MODULE:NAME",
        "your own saver, package.module:attribute: (path, waveform, rate) to a file, which must "
        "hold what was decoded",
    ),
    Option(
        "cache",
        "DIR",
        "folder of stored mels (.npy, .npz, .pt, .safetensors) to compare with fresh ones",
    ),
    Option(
        "cache-pattern",
        "PATTERN",
        "names of the mels in the cache, as '{speaker}-mel-{stem}.npy' (their stems)",
    ),
    Option(
        "device",
        "DEVICE",
        "cpu or cuda; repeatable; must be available (default: cpu, and cuda where there is one)",
        many=True,
    ),
    Option(
        "require",
        "NAMES",
        "official,cuda: fail, instead of skipping, where one of these is not available",
        many=True,
    ),
    Option("artifacts", "DIR", "folder for pictures and audio (default: mel-artifacts)"),
    Option(
        "report",
        "PATH",
        "write a report of the run to PATH, which ends in .html, .md or .json; repeatable",
        many=True,
    ),
    Option(
        "baseline",
        "FILE",
        "a report.json of an earlier run: a case that is worse than there fails",
    ),
    Option(
        "goldens",
        "DIR",
        "folder of goldens for your own clips; the first run writes them and fails",
    ),
    Option("bench", "SIZE", "how much the benchmarks measure: short, or full (short)"),
    Option("duration", "SECONDS", "seconds to check of each clip, from its start, or all (3)"),
    Option("sample-rate", "HZ", "rate to read audio at; must be that of the vocoder (its own)"),
)
"""All options, in the order of the help."""


def add_options(parser: pytest.Parser) -> None:
    """Add every option and its ini key."""
    group = parser.getgroup("melcheck", "melcheck: audio -> mel -> audio")
    for option in OPTIONS:
        shared: dict[str, Any] = {"metavar": option.metavar, "help": option.help}
        if option.spread:
            group.addoption(option.flag, nargs="+", action="extend", **shared)
        else:
            action = "append" if option.many else "store"
            group.addoption(option.flag, action=action, **shared)
        if option.many:
            parser.addini(option.key, option.help, type="linelist")
        else:
            parser.addini(option.key, option.help, type="string")


def texts(config: pytest.Config, name: str) -> list[str]:
    """Return the values of an option, or else those of its ini key; empty for nothing.

    Raises:
        pytest.UsageError: An empty value on the command line, which for a path would mean the
            whole folder that pytest was started in.
    """
    given = config.getoption(_key(name))
    values = [given] if isinstance(given, str) else list(given or ())
    if not all(map(str.strip, values)):
        told = f"melcheck: --mel-{name} must not be empty. Leave it out instead."
        raise pytest.UsageError(plain_text(told))
    if not values:
        found = config.getini(_key(name)) or []
        values = [found] if isinstance(found, str) else [str(value) for value in found]
    return values


def from_command_line(config: pytest.Config, name: str) -> bool:
    """Return whether an option was given on the command line."""
    return bool(config.getoption(_key(name)))


def paths(config: pytest.Config, name: str) -> list[Path]:
    """Return the values of an option as paths, relative to the folder that they belong to."""
    given = from_command_line(config, name)
    folder = config.invocation_params.dir if given else config.rootpath
    return [folder / text for text in texts(config, name)]


def overlooked_configuration(config: pytest.Config) -> Path | None:
    """Return the file whose keys pytest should have read here and did not; None for none.

    pytest looks for its configuration beside every path on its command line, before it knows the
    options of plugins: `--mel-audio /elsewhere` makes it look there, and not here.
    """
    here = config.invocation_params.dir
    read = config.inipath
    if config.getoption("inifilename", None) or (read is not None and read.is_relative_to(here)):
        return None
    for folder in (here, *here.parents):
        for path in (folder / name for name in _FILES):
            if _has_keys(path):
                return None if read is not None and read.samefile(path) else path
    return None


def _has_keys(path: Path) -> bool:
    try:
        return bool(_KEY.search(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False
