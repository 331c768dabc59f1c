"""A run's report as Markdown, for the summary of a CI job or a comment on a pull request."""

from __future__ import annotations

import html
import re

from melcheck.files import plain_text
from melcheck.report.model import METRICS, CaseResult, RunReport, shown, shown_delta
from melcheck.report.text import (
    STATES,
    change_word,
    columns_text,
    comparison_text,
    finished_text,
    gates_text,
    headline,
    limit_text,
    problems,
    skip_reasons,
)

# The summary of a GitHub job holds 1 MiB; a row takes about 200 bytes.
_MOST_ROWS = 1000
_MOST_PROBLEMS = 100
_SPECIAL = re.compile(r"([\\`*_\[\]|~@])")


def report_markdown(report: RunReport) -> str:
    """Return the report: verdict, failures, a table of all cases, provenance."""
    state = STATES["passed" if report.verdict == "passed" else "failed"]
    counts = " · ".join(f"{report.counts[name]} {name}" for name in STATES if name in report.counts)
    parts = [
        f"## {state.glyph} melcheck: {report.verdict}",
        headline(report) + (f" **{counts}**" if counts else ""),
        f"Gates: {_text(gates_text(report.thresholds))}. "
        f"{finished_text(report.environment.finished)}.",
        *_problems(report),
        *_comparison(report),
        _table(report),
        *(_text(reason) for reason in skip_reasons(report)),
        *_provenance(report),
    ]
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    # Escaped, so that no name is read as HTML or Markdown.
    shown = plain_text(" ".join(text.split()))
    return _SPECIAL.sub(r"\\\1", html.escape(shown, quote=False))


def _problems(report: RunReport) -> list[str]:
    found = problems(report)
    if not found:
        return []
    lines = [
        f"- **{_text(each.title)}**: {_text(each.reason)}"
        + (f"  \n  Likely cause: {_text(each.cause)}" if each.cause else "")
        for each in found[:_MOST_PROBLEMS]
    ]
    if len(found) > _MOST_PROBLEMS:
        lines.append(f"- ... and {len(found) - _MOST_PROBLEMS} more")
    return ["### What failed", "\n".join(lines)]


def _comparison(report: RunReport) -> list[str]:
    text, lists = comparison_text(report)
    if not text:
        return []
    parts = ["### Against the baseline", _text(text)]
    for title, lines in lists.items():
        parts += [f"**{title}**", "\n".join(f"- {_text(line)}" for line in lines)]
    return parts


def _table(report: RunReport) -> str:
    if not report.cases:
        return "No cases."
    limits = {gate.metric: limit_text(gate) for gate in report.thresholds}
    devices = len({case.device for case in report.cases}) > 1
    head = ["clip", "vocoder", *(["device"] if devices else []), "state"]
    head += [
        f"{metric.label} {_text(limits.get(name, ''))}".strip() for name, metric in METRICS.items()
    ]
    rule = ["---"] * (len(head) - len(METRICS)) + ["---:"] * len(METRICS)
    rows = sorted(report.cases, key=lambda case: STATES[case.outcome].rank)
    left_out = set(map(id, rows[_MOST_ROWS:]))
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule)]
    for case in report.cases:
        if id(case) not in left_out:
            lines.append("| " + " | ".join(_cells(case, devices=devices)) + " |")
    if left_out:
        lines.append(f"\n... and {len(left_out)} more, less urgent.")
    return "\n".join(lines)


def _cells(case: CaseResult, *, devices: bool) -> list[str]:
    state = STATES[case.outcome]
    changes = case.changes
    word = ", ".join(part for part in (f"{state.glyph} {state.word}", change_word(case)) if part)
    cells = [
        _text(case.clip),
        _text(case.vocoder),
        *([_text(case.device)] if devices else []),
        word,
    ]
    for name in METRICS:
        if name not in case.metrics:
            cells.append("")
            continue
        text = shown(name, case.metrics[name])
        text = f"**{text}** ✕" if name in case.missed else text
        if name in changes:
            delta = shown_delta(name, changes[name].delta)
            text += f" ({f'**{delta}**' if changes[name].trend == 'worse' else delta})"
        cells.append(text)
    return cells


def _provenance(report: RunReport) -> list[str]:
    made = report.environment
    lines = [
        f"- vocoder {_text(label)}: {_text(vocoder.source)}, weights sha256 "
        f"{(vocoder.weights_sha256 or 'none')[:12]}"
        for label, vocoder in report.vocoders.items()
    ]
    lines += [f"- mel recipe {recipe.digest}: {_text(recipe.text)}" for recipe in report.recipes]
    lines += [f"- {_text(name)}: {_text(device)}" for name, device in made.devices.items()]
    lines += [
        f"- {', '.join(f'{name} {version}' for name, version in made.versions.items())}",
        f"- {_text(made.command)}",
    ]
    return [
        "<details><summary>Provenance, and meaning of the columns</summary>",
        _text(columns_text()),
        "\n".join(lines),
        "</details>",
    ]
