"""A run's report as Markdown, for the summary of a CI job or a comment on a pull request."""

from __future__ import annotations

import html
import re

from melcheck.files import plain_text
from melcheck.report.model import METRICS, CaseResult, RunReport, shown, shown_delta
from melcheck.report.table import part_text
from melcheck.report.text import (
    BESIDE,
    STATES,
    change_word,
    columns_text,
    comparison_text,
    failed_tests,
    finished_text,
    gates_text,
    headline,
    judged_rows,
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
        *(f"Gates of {_text(rule)}." for rule in report.rules),
        *_problems(report),
        *_failed_tests(report),
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
    lines = []
    for each in found[:_MOST_PROBLEMS]:
        cases = [f"**{_text(title)}**: {_text(reason)}" for _, title, reason in each.cases]
        if len(cases) == 1:
            lines.append(f"- {cases[0]}")
            lines += [f"  Likely cause: {_text(each.cause)}"] if each.cause else []
            continue
        lines.append(f"- **{len(cases)} cases**, likely cause: {_text(each.cause)}")
        lines += [f"  - {case}" for case in cases[:_MOST_PROBLEMS]]
        if len(cases) > _MOST_PROBLEMS:
            lines.append(f"  - ... and {len(cases) - _MOST_PROBLEMS} more")
    if len(found) > _MOST_PROBLEMS:
        lines.append(f"- ... and {len(found) - _MOST_PROBLEMS} more")
    return ["### What failed", "\n".join(lines)]


def _failed_tests(report: RunReport) -> list[str]:
    parts = []
    for title, tests in failed_tests(report).items():
        rows = [f"| {_text(t.name)} | {_text(t.path)} | {_text(t.message)} |" for t in tests]
        if len(rows) > _MOST_PROBLEMS:
            rows[_MOST_PROBLEMS:] = [f"| ... and {len(rows) - _MOST_PROBLEMS} more | | |"]
        head = ["| what | file | what was found |", "| --- | --- | --- |"]
        parts += [f"### {title}", "\n".join([*head, *rows])]
    return parts


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
    rows = judged_rows(report)
    devices = len({case.device for case, _ in rows}) > 1
    head = ["clip", "vocoder", *(["device"] if devices else []), "state"]
    head += [
        f"{metric.label} {_text(limits.get(name, ''))}".strip() for name, metric in METRICS.items()
    ]
    rule = ["---"] * (len(head) - len(METRICS)) + ["---:"] * len(METRICS)
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, rule)]
    for case, baseline in rows[:_MOST_ROWS]:
        lines.append("| " + " | ".join(_cells(case, baseline, devices=devices)) + " |")
    if len(rows) > _MOST_ROWS:
        lines.append(f"\n... and {len(rows) - _MOST_ROWS} more, less urgent.")
    return "\n".join(lines)


def _cells(case: CaseResult, baseline: CaseResult | None, *, devices: bool) -> list[str]:
    state = STATES[case.outcome]
    about = (case.path, part_text(case.audio), *case.notes)
    changes = case.changes
    word = ", ".join(part for part in (f"{state.glyph} {state.word}", change_word(case)) if part)
    cells = [
        _text(case.clip) + "".join(f"<br><sub>{_text(each)}</sub>" for each in about if each),
        _text(case.vocoder),
        *([_text(case.device)] if devices else []),
        word,
    ]
    for name in METRICS:
        if name not in case.metrics:
            cells.append("")
            continue
        text = shown(name, case.metrics[name], beside=case.limits.get(name))
        text = f"**{text}** ✕" if name in case.missed else text
        if baseline is not None and name in BESIDE and name in baseline.metrics:
            text += f" ≈ {shown(name, baseline.metrics[name])}"
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
