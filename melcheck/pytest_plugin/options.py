"""The plugin's options, each with its ini key: declared once, read in one way.

Every option `--mel-NAME` has the key `mel_NAME`, for `[tool.pytest.ini_options]` in
`pyproject.toml` or any other of pytest's files. The command line beats the key. A path on the
command line is relative to the folder that pytest was started in, one under a key to the root of
the repository.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from melcheck.files import plain_text

_FILES = ("pytest.toml", ".pytest.toml", "pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
# How much of a misspelt key is right: "mel_adio" has 0.93, "mel-audio" and "melaudio" more.
_NEAR = 0.8
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
        switch: Whether it takes no value.
        keyed: Whether it has an ini key; an option of a single run has none.
        spellings: Other spellings of the option on the command line.
    """

    name: str
    metavar: str
    help: str
    many: bool = False
    spread: bool = False
    switch: bool = False
    keyed: bool = True
    spellings: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--mel-{self.name}"

    @property
    def key(self) -> str:
        """The ini key; "" where it has none."""
        return _key(self.name) if self.keyed else ""


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
    Option("duration", "SECONDS", "seconds to check of each clip, or all (3)"),
    Option("sample-rate", "HZ", "rate to read audio at; must be that of the vocoder (its own)"),
    Option(
        "profile",
        "NAME",
        "recipe of the expected mel: vocos, f5-tts, hifigan-22k, ...; an unknown name lists all "
        "(that of the vocoder)",
    ),
    Option("offset", "PLACE", "where the checked part begins: start, middle, or seconds (start)"),
    Option("sample", "COUNT", "check so many of the clips, chosen by their names and --mel-seed"),
    Option("seed", "NUMBER", "which clips --mel-sample chooses (0)"),
    Option(
        "thresholds",
        "METRIC=NUMBER",
        'a threshold of this project, as "snr_db=18", or for clips of some names, as '
        '"noisy/*: snr_db=15, mae=0.3"; shown beside the default wherever it decides; repeatable',
        many=True,
        spellings=("--mel-threshold",),
    ),
    Option(
        "accepted",
        "FILE",
        "file of the misses that this project has accepted (mel-accepted.yaml)",
    ),
    Option(
        "accept",
        "",
        "write the cases that miss a gate now to the file of --mel-accepted; the run still fails, "
        "the next one takes them for known misses until they get worse or pass",
        switch=True,
        keyed=False,
    ),
    Option(
        "strict-input",
        "",
        "refuse a run, before its first test, in which a clip cannot be read; otherwise that case "
        "fails and the others are judged",
        switch=True,
    ),
    Option("keep-runs", "COUNT", "of how many runs the folder for pictures keeps theirs (5)"),
)
"""All options, in the order of the help."""


def add_options(parser: pytest.Parser) -> None:
    """Add every option and its ini key."""
    group = parser.getgroup("melcheck", "melcheck: audio -> mel -> audio")
    for option in OPTIONS:
        shared: dict[str, Any] = {"help": option.help, "dest": _key(option.name)}
        flags = (option.flag, *option.spellings)
        if option.switch:
            group.addoption(*flags, action="store_true", default=None, **shared)
        elif option.spread:
            group.addoption(*flags, nargs="+", action="extend", metavar=option.metavar, **shared)
        else:
            action = "append" if option.many else "store"
            group.addoption(*flags, action=action, metavar=option.metavar, **shared)
        if option.keyed:
            kind: Any = "linelist" if option.many else "bool" if option.switch else "string"
            parser.addini(option.key, option.help, type=kind)


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


def switched_on(config: pytest.Config, name: str) -> bool:
    """Return whether an option without a value, or its ini key, is set."""
    [option] = [each for each in OPTIONS if each.name == name]
    return bool(config.getoption(_key(name)) or (option.keyed and config.getini(option.key)))


def check_keys(config: pytest.Config) -> None:
    """Refuse an ini key that is meant for the plugin and is none of its keys.

    Raises:
        ValueError: There is one; the message has the nearest.
    """
    known = [option.key for option in OPTIONS if option.keyed]
    # pytest 9 deprecates the only public list of the keys that a file has.
    given = list(config._inicfg if hasattr(config, "_inicfg") else config.inicfg)
    given += [each.partition("=")[0] for each in config.getoption("override_ini") or ()]
    wrong = []
    for key in given:
        plain = key.strip().lower().replace("-", "_")
        near = difflib.get_close_matches(plain, known, n=1, cutoff=_NEAR)
        if key not in known and (plain.startswith("mel_") or near):
            near = near or difflib.get_close_matches(plain, known, n=1, cutoff=0.0)
            wrong.append(f"{key} is no key of melcheck. Did you mean {near[0]}?")
    if wrong:
        where = "" if config.inipath is None else f"{config.inipath}: "
        raise ValueError(where + "\n".join(wrong))


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
