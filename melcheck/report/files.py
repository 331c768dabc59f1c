"""Write a run's report in the format that the file's suffix names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from melcheck.files import check_writable, replacing
from melcheck.report.json_format import report_json
from melcheck.report.model import RunReport

if TYPE_CHECKING:
    from melcheck.report.media import CaseMedia
    from melcheck.report.model import Key


REPORT_SUFFIXES = (".html", ".md", ".json")
"""Suffixes that a report's file may have."""


def check_report_path(path: Path) -> None:
    """Raise, before the run starts, if no report can be written to a path.

    Raises:
        ValueError: A suffix that is not in `REPORT_SUFFIXES`, or a folder.
        OSError: The folder cannot be created or written.
    """
    if path.suffix not in REPORT_SUFFIXES:
        raise ValueError(
            f"a report must end in {', '.join(REPORT_SUFFIXES)}, got {str(path)!r}. The suffix "
            "chooses the format."
        )
    if path.is_dir():
        raise ValueError(f"a report must be a file, but {path} is a folder. Name a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_writable(path)


def write_report(
    report: RunReport, path: Path, media: Mapping[Key, CaseMedia] | None = None
) -> None:
    """Write a report atomically.

    Args:
        report: Data of the run.
        path: File that ends in ".html", ".md" or ".json"; its folder is created if necessary.
        media: Pictures and audio of the cases, for a page; see `melcheck.report.media`.

    Raises:
        ValueError: A suffix that is not in `REPORT_SUFFIXES`.
        OSError: The file cannot be written.
    """
    if path.suffix == ".json":
        text = report_json(report)
    elif path.suffix == ".md":
        from melcheck.report.markdown import report_markdown

        text = report_markdown(report)
    elif path.suffix == ".html":
        from melcheck.report.html import report_html

        text = report_html(report, media)
    else:
        raise ValueError(f"a report must end in {', '.join(REPORT_SUFFIXES)}, got {str(path)!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def append_job_summary(report: RunReport, path: Path) -> None:
    """Append the report as Markdown to the file of a CI job's summary.

    Raises:
        OSError: The file cannot be written.
    """
    from melcheck.report.markdown import report_markdown

    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{report_markdown(report)}\n")
