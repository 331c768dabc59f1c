"""The JSON of a run's report: a versioned format, written and read without loss.

A file is one object whose first keys say what it is (`"format": "melcheck report"`) and in which
version. Numbers that are not finite stand as the strings "nan", "inf" and "-inf", since JSON has
none. `report_schema` returns the JSON Schema (draft 2020-12) of the current version.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import types
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from melcheck.files import load_json, os_reason, plain, read_bytes
from melcheck.report.model import SCHEMA_VERSION, RunReport

FORMAT = "melcheck report"

# A case takes about 5 kB.
_MAX_BYTES = 2**28

_Data = TypeVar("_Data")


class ReportError(ValueError):
    """A file that is not a report that this version reads; the message names it and the fix."""


def report_json(report: RunReport) -> str:
    """Return a report as JSON, each of its keys and each case on a line of its own."""
    document = {"format": FORMAT, "schema_version": report.schema_version} | plain(report)
    document["vocoders"] = [
        {"label": label} | vocoder for label, vocoder in document["vocoders"].items()
    ]
    lines = []
    for key, value in document.items():
        text = _line(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"  {_line(item)}" for item in value) + "\n ]"
        lines.append(f"{_line(key)}: {text}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def read_report(path: Path) -> RunReport:
    """Return the report that a JSON file holds.

    Raises:
        ReportError: A file that cannot be read, is not a report, is damaged, or has a version that
            this melcheck does not know.
    """
    try:
        document = load_json(read_bytes(path, max_bytes=_MAX_BYTES))
    except OSError as error:
        raise ReportError(f"{path}: the report cannot be read ({os_reason(error)}).") from None
    except ValueError as error:
        raise ReportError(
            f"{path}: not a JSON file ({error}). Give a file that `--mel-report NAME.json` wrote."
        ) from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ReportError(
            f"{path}: not a melcheck report. Give a file that `--mel-report NAME.json` wrote."
        )
    version = document.get("schema_version")
    if type(version) is not int:
        raise ReportError(f"{path}: schema_version must be a whole number, got {version!r}.")
    if version != SCHEMA_VERSION:
        fix = "Update melcheck" if version > SCHEMA_VERSION else "Write the report again"
        raise ReportError(
            f"{path}: schema_version must be {SCHEMA_VERSION}, which this melcheck reads, got "
            f"{version}. {fix}."
        )
    vocoders = document.get("vocoders")
    if isinstance(vocoders, list) and all(
        isinstance(each, dict) and isinstance(each.get("label"), str) for each in vocoders
    ):
        document["vocoders"] = {each.pop("label"): each for each in vocoders}
    try:
        return cast("RunReport", _parse(RunReport, document, "the report"))
    except _Damaged as damage:
        raise ReportError(f"{path}: the report is damaged: {damage}. Write it again.") from None


def to_json(data: Any) -> str:
    """Return a dataclass of plain values as one line of JSON."""
    return _line(plain(data))


def from_json(kind: type[_Data], text: str) -> _Data:
    """Return the dataclass of type `kind` that `to_json` wrote."""
    return cast("_Data", _parse(kind, json.loads(text), kind.__name__))


@functools.cache
def report_schema() -> Mapping[str, Any]:
    """Return the JSON Schema of a report's file, which ships with the package."""
    text = (resources.files("melcheck") / "data" / "report.schema.json").read_text("utf-8")
    return cast("dict[str, Any]", json.loads(text))


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    pass


def _line(value: Any) -> str:
    # In ASCII: text of other code may hold what acts on a terminal that shows the file.
    return json.dumps(value, allow_nan=False)


def _parse(kind: Any, value: object, where: str) -> object:
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _parse_fields(kind, value, where)
    if origin in (Union, types.UnionType):  # of a type with None
        return None if value is None else _parse(inner[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_parse(inner[0], item, f"{where}[{n}]") for n, item in enumerate(value))
    if origin is collections.abc.Mapping and isinstance(value, dict):
        return {key: _parse(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal and value in inner:
        return value
    if kind is float and (value in ("nan", "inf", "-inf") or type(value) in (int, float)):
        return float(cast("float", value))
    if type(value) is kind:  # not isinstance: True is no int
        return value
    raise _Damaged(f"{where} is {value!r:.60}")


def _parse_fields(kind: Any, value: dict[str, object], where: str) -> object:
    hints = get_type_hints(kind)
    lacking, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
    if lacking or unknown:
        raise _Damaged(
            f"{where} {'lacks' if lacking else 'has an unknown'} {(lacking or unknown)[0]!r}"
        )
    return kind(
        **{name: _parse(hint, value[name], f"{where}.{name}") for name, hint in hints.items()}
    )
