"""`melcheck ...` on the command line: options in, one answer and an exit code out.

    0    passed
    1    a gate failed
    2    wrong usage, or input that cannot be read
    3    the environment lacks something: weights, a device, a package, memory
    70   a fault in melcheck itself
    130  interrupted (Ctrl-C)
    141  the reader of the output has closed the pipe

With `--json` stdout holds one JSON object and nothing else, also after an error of codes 2, 3 and
70: `melcheck` (version), `command`, `passed`, and the keys of the command, or `error`. A verdict
whose files could not be written has both, and code 3.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from melcheck._version import __version__
from melcheck.cli.output import Answer, MissingError, Terminal, end_stdout, stdout_to_stderr
from melcheck.environment import (
    PackageNeededError,
    UnfitEnvironmentError,
    missing_package,
    require_torch,
)
from melcheck.files import error_text, failed_allocation, os_reason, plain_text
from melcheck.vocoders.weights import VocoderError, VocoderUnavailable

COMMANDS = (
    "check",
    "audit",
    "compare",
    "diagnose",
    "handshake",
    "stages",
    "bench",
    "info",
    "fetch",
)
_WITHOUT_TORCH = ("info", "fetch")

HELP = """\
melcheck: will the mel that you train on survive the vocoder?

  melcheck check data/samples         audio -> mel -> audio -> mel: a verdict
  melcheck audit train.csv --output DIR   a corpus: which clips fail, how sure?
  melcheck handshake mytts.audio:mel  is your front end's mel the vocoder's?
  melcheck handshake --loader mytts.data:load    and your loader, saver, ...?
  melcheck stages official mytts:decode --audio a.wav   where do they differ?
  melcheck diagnose --audio a.wav --mel a.npy    which recipe made this mel?
  melcheck compare a.npy b.npy --plot d.png      two mels: metrics, map
  melcheck bench                      how fast is it, and how near the limit?
  melcheck fetch                      official weights (54 MB) into the cache
  melcheck info                       versions, decoder, devices, weights

`check` runs copy synthesis with the small vocoder inside the package, and with
the official one where its weights are in the cache. --vocoder takes embedded,
official, griffin-lim, a folder or a hub id; --frontend mytts.audio:mel takes
your own mel function; --report r.html writes a page; pictures go to
mel-artifacts/. --quick gives only verdicts, faster, on many clips.
The gate, on log-mels: MAE < 0.2 nats, correlation > 0.99, SNR > 20 dB.

melcheck COMMAND --help has all options. --json prints one JSON object instead.
Exit code: 0 passed, 1 a gate failed, 2 wrong usage or unreadable input, 3 the
environment lacks something (weights, a device).
In a test suite: pytest -m sanity --mel-audio data/samples
"""

_FAILED, _USAGE, _MISSING, _FAULT, _INTERRUPTED, _CLOSED_PIPE = 1, 2, 3, 70, 130, 141
_TRACEBACK = "MELCHECK_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `melcheck`; None takes those of the process.

    Returns:
        The exit code, as in the module's list.
    """
    terminal = Terminal()
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv), terminal)
        if argv is None:  # this process ends
            end_stdout()
        return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:  # of writing the answer; a command's own were reported
        # Python would complain again when it flushes stdout at its end.
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            return _CLOSED_PIPE
        terminal.note(f"melcheck: the output cannot be written: {os_reason(error)}.")
        return _MISSING


def _run(argv: list[str], terminal: Terminal) -> int:
    if argv and argv[0] in ("-h", "--help"):
        terminal.print(HELP.rstrip("\n"))
        return 0
    if not argv:
        terminal.note(HELP.rstrip("\n"))
        return _USAGE
    try:
        options = _parser().parse_args(argv)
    except SystemExit as end:  # argparse has said what is wrong, or has printed help
        if sys.stdout is not None:  # closed by the caller
            sys.stdout.flush()
        return int(end.code or 0)
    try:
        answer = _answer(options, terminal)
    # A `sys.exit(0)` in code that melcheck calls must not end the run as passed.
    except (Exception, SystemExit) as error:
        code, message = _explain(error)
        terminal.note(f"melcheck {options.command}: {message}")
        if options.json:
            failure = {"exit_code": code, "message": message}
            terminal.print_json(_document(options.command, passed=False, error=failure))
        return code
    more: dict[str, object] = {}
    if answer.unwritten:
        more["error"] = {"exit_code": _MISSING, "message": "\n".join(answer.unwritten)}
    if options.json:
        document = _document(options.command, passed=answer.passed, **answer.data, **more)
        terminal.print_json(document)
    else:
        if answer.coloured:
            terminal.print(answer.coloured, coloured=terminal.colour)
        terminal.print(answer.text)
    for line in answer.unwritten:
        terminal.note(f"melcheck {options.command}: {line}")
    if answer.unwritten:
        return _MISSING
    return 0 if answer.passed else _FAILED


class _Parser(argparse.ArgumentParser):
    """argparse, which repeats the words of the command line as they are."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(plain_text(message), file)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("melcheck", usage="melcheck COMMAND ...", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"melcheck {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog="melcheck"
    )
    for name in COMMANDS:
        module = importlib.import_module(f"melcheck.cli.{name}")
        command = commands.add_parser(
            name,
            description=module.__doc__,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_options(command)
        command.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _answer(options: argparse.Namespace, terminal: Terminal) -> Answer:
    if options.command not in _WITHOUT_TORCH:
        require_torch()
    with stdout_to_stderr():  # what it calls, and what that starts, may print
        command = importlib.import_module(f"melcheck.cli.{options.command}")
        answer: Answer = command.run(options, terminal)
    return answer


def _document(command: str, *, passed: bool, **more: object) -> dict[str, object]:
    return {"melcheck": __version__, "command": command, "passed": passed, **more}


def _explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message of an error."""
    reason = error_text(error)
    if isinstance(error, (MissingError, UnfitEnvironmentError)):
        return _MISSING, reason
    if isinstance(error, ImportError):
        if isinstance(error, PackageNeededError):
            return _MISSING, reason
        return _MISSING, missing_package(error)
    if wanted := failed_allocation(error):
        return _MISSING, f"{wanted}. Check less at once, as with --duration 3."
    if isinstance(error, VocoderUnavailable):
        return _MISSING, reason
    if isinstance(error, (ValueError, OSError, VocoderError)):
        return _USAGE, reason
    if os.environ.get(_TRACEBACK):
        text = "".join(traceback.format_exception(error))
        print(plain_text(text), file=sys.stderr)  # noqa: T201 - asked for
    return _FAULT, (
        f"{type(error).__name__}: {reason}\n"
        f"That is a fault in melcheck, not in your input: {_TRACEBACK}=1 shows where."
    )


def _discard_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
