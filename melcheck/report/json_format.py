"""The JSON of a run's report: a versioned format, written and read without loss.

A file is one object whose first keys say what it is (`"format": "melcheck report"`) and in which
version. Numbers that are not finite stand as the strings "nan", "inf" and "-inf", since JSON has
none. `report_schema` returns the JSON Schema (draft 2020-12) of the current version.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from melcheck.report.model import SCHEMA_VERSION, RunReport

FORMAT = "melcheck report"

_Data = TypeVar("_Data")


class ReportError(ValueError):
    """A file that is not a report that this version reads; the message names it and the fix."""


def report_json(report: RunReport) -> str:
    """Return a report as JSON, each key of it and each case on a line of its own."""
    document = {"format": FORMAT, "schema_version": report.schema_version}
    document |= _plain(report)
    lines = []
    for key, value in document.items():
        if isinstance(value, list) and value:
            items = ",\n".join(f"  {_line(item)}" for item in value)
            lines.append(f"{_line(key)}: [\n{items}\n ]")
        else:
            lines.append(f"{_line(key)}: {_line(value)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def read_report(path: Path) -> RunReport:
    """Return the report that a JSON file holds.

    Raises:
        ReportError: A file that cannot be read, is no report, is damaged, or is of a version that
            this melcheck does not know.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: the report cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise ReportError(
            f"{path}: this is no JSON ({error}). Name a file that `--mel-report NAME.json` wrote."
        ) from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ReportError(
            f"{path}: this is no melcheck report. Name a file that `--mel-report NAME.json` wrote."
        )
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ReportError(f"{path}: schema_version must be a whole number, got {version!r}.")
    if version != SCHEMA_VERSION:
        fix = "Update melcheck" if version > SCHEMA_VERSION else "Write the report anew"
        raise ReportError(
            f"{path}: schema_version must be {SCHEMA_VERSION}, the one that this melcheck reads, "
            f"got {version}. {fix}."
        )
    try:
        return cast("RunReport", _parse(RunReport, document, "the report"))
    except _Damaged as damage:
        raise ReportError(f"{path}: the report is damaged: {damage}. Write it anew.") from None


def to_json(data: Any) -> str:
    """Return a dataclass of plain values as one line of JSON."""
    return _line(_plain(data))


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
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        # A file name may hold bytes that are no text in any encoding.
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _parse(kind: Any, value: object, where: str) -> object:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, value, where)
    if origin in (Union, types.UnionType):
        inner = next(each for each in get_args(kind) if each is not type(None))
        return None if value is None else _parse(inner, value, where)
    if origin is tuple and isinstance(value, list):
        item_kind = get_args(kind)[0]
        return tuple(_parse(item_kind, item, f"{where}[{n}]") for n, item in enumerate(value))
    if origin is not None and _is_mapping(origin) and isinstance(value, dict):
        item_kind = get_args(kind)[1]
        return {key: _parse(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal and value in get_args(kind):
        return value
    if kind is float and (value in ("nan", "inf", "-inf") or _is_number(value)):
        return float(cast("float", value))
    if kind in (str, bool) and isinstance(value, kind):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Damaged(f"{where} is {value!r:.60}")


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parse_fields(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise _Damaged(f"{where} is {value!r:.60}")
    hints = get_type_hints(kind)
    lacking, unknown = sorted(hints.keys() - value.keys()), sorted(value.keys() - hints.keys())
    if lacking or unknown:
        raise _Damaged(
            f"{where} {'lacks' if lacking else 'has an unknown'} {(lacking or unknown)[0]!r}"
        )
    return kind(
        **{name: _parse(hint, value[name], f"{where}.{name}") for name, hint in hints.items()}
    )
