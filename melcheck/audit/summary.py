"""The verdict on a corpus in words and tables, for a terminal and for the page."""

from __future__ import annotations

import math
import textwrap

from melcheck.audit.causes import FAILED
from melcheck.audit.intervals import Estimate
from melcheck.audit.verdict import (
    FEW_CLIPS,
    GROUP_LEVELS,
    LEVELS,
    CauseCount,
    CorpusVerdict,
    GroupVerdict,
)
from melcheck.files import plain_text
from melcheck.report.model import METRICS, Metric
from melcheck.report.text_table import text_table

# Columns of an audit that are no metrics of a report.
_OWN = {
    "duration_seconds": Metric("duration", "s", 1, "", "length of what was measured"),
    "level_dbfs": Metric("level", "dBFS", 1, "", "RMS level of the audio"),
    "bandwidth_hz": Metric("bandwidth", "Hz", 0, "", "highest frequency that the audio reaches"),
}

_CAUSES = 8
_GROUPS = 10


def column(name: str) -> Metric:
    """Return how a column of the table is labelled and shown."""
    return _OWN.get(name) or METRICS[name]


def number(name: str, value: float) -> str:
    """Return a value of a column with the digits of that, without its unit except for %.

    Example:
        >>> number("mae", 0.15), number("bandwidth_hz", 11025.0)
        ('0.150', '11,025')
        >>> number("reference_floor_share", 0.031)
        '3.1 %'
    """
    kind = column(name)
    if not math.isfinite(value):
        return str(value)
    if kind.unit == "%":
        return f"{percent(value)} %"
    return f"{value:,.{kind.digits}f}"


def percent(share: float, *, beside: float | None = None) -> str:
    """Return a share in percent, without its sign: two digits that count, near 100 % as near 0.

    Args:
        share: From 0 to 1.
        beside: A share from which it must be told apart.

    Example:
        >>> percent(0.008), percent(0.0126), percent(0.25), percent(0.9998), percent(1.0)
        ('0.8', '1.3', '25', '99.98', '100')
        >>> percent(0.00999), percent(0.00999, beside=0.01)
        ('1', '0.999')
    """
    small = 100 * min(share, 1 - share)
    digits = 0 if small <= 0 else max(0, 1 - math.floor(math.log10(small)))
    while True:
        text = f"{100 * share:.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        same = beside is not None and share != beside and float(text) == 100 * beside
        if not same or digits >= _MOST_DIGITS:
            return text
        digits += 1


_MOST_DIGITS = 12


def headline(verdict: CorpusVerdict) -> str:
    """Return which share of the corpus fails, and how sure that is, in one sentence."""
    value, low, high = verdict.share.value, verdict.share.low, verdict.share.high
    corpus = f"{verdict.corpus_size:,}"
    if verdict.whole:
        clips = "1 clip was" if verdict.clips == 1 else f"{corpus} clips were"
        counted = "1 clip" if verdict.failures == 1 else f"{verdict.failures:,} clips"
        if not verdict.failures:
            return f"All {clips} measured, and none fails."
        return f"All {clips} measured: {percent(value)} % fail ({counted})."
    limit = verdict.limit
    ends = f"{percent(low, beside=limit)} to {percent(high, beside=limit)} %"
    return (
        f"{percent(value)} % of clips fail ({ends}, {percent(verdict.confidence)} %), by "
        f"{verdict.drawn:,} of {corpus} clips drawn at random."
    )


def decision_text(verdict: CorpusVerdict) -> str:
    """Return on which side of the limit the corpus lies, in a sentence; "" without a limit."""
    if verdict.limit is None:
        return ""
    limit = f"{percent(verdict.limit)} %"
    if verdict.decision == "below":
        return f"At most {limit} may fail: the corpus passes."
    if verdict.decision == "above":
        return f"At most {limit} may fail: the corpus does not pass."
    return f"At most {limit} may fail: not decided by so few clips. Draw more."


def length_text(seconds: float) -> str:
    """Return a length of audio in words.

    Example:
        >>> length_text(90.0), length_text(5.4e6)
        ('1.5 minutes', '1,500.0 hours')
    """
    hours = seconds / 3600
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def span(name: str, estimate: Estimate) -> str:
    """Return the interval of a column's quantile; "" where it is exact."""
    if estimate.exact or math.isnan(estimate.value):
        return ""
    if math.isinf(estimate.low) and math.isinf(estimate.high):
        return "too few clips"
    if math.isinf(estimate.low):
        return f"up to {number(name, estimate.high)}"
    if math.isinf(estimate.high):
        return f"{number(name, estimate.low)} or more"
    return f"{number(name, estimate.low).removesuffix(' %')} to {number(name, estimate.high)}"


def share_text(group: GroupVerdict) -> str:
    """Return the share of a group that fails, with its interval where it was drawn from."""
    share = group.share
    if share.exact:
        return f"{percent(share.value)} %"
    return f"{percent(share.value)} % ({percent(share.low)} to {percent(share.high)})"


def outcome_counts(verdict: CorpusVerdict) -> dict[str, int]:
    """Return the clips by outcome, those that fail first."""
    return dict(sorted(verdict.outcomes.items(), key=lambda each: (each[0] not in FAILED, each[0])))


def units_text(verdict: CorpusVerdict) -> str:
    """Return the units of the metrics that have one, in a sentence."""
    by_unit: dict[str, list[str]] = {}
    for name in verdict.quantiles:
        kind = column(name)
        if kind.unit not in ("", "%"):
            by_unit.setdefault(kind.unit, []).append(kind.label)
    told = (f"{' and '.join(labels)} in {unit}" for unit, labels in by_unit.items())
    return f"{', '.join(told)}." if by_unit else ""


def quantile_note(verdict: CorpusVerdict) -> str:
    """Return what the quantiles' intervals are; "" where there are none."""
    if verdict.whole:
        return ""
    held = "; they take no account of when drawing stopped" if verdict.sequential else ""
    return f"Intervals ({percent(verdict.confidence)} %) are each by itself{held}."


def group_note(verdict: CorpusVerdict) -> str:
    """Return how to read the table of groups, in sentences."""
    few = sum(group.few for group in verdict.groups)
    told = [
        "Marked (!): fails more often than all clips do, by more than chance among "
        f"{len(verdict.groups):,} groups (5 % of the marked ones may be there by chance). Without "
        "a mark a high share may be chance."
    ]
    if few:
        told.append(f"{few:,} groups have fewer than {FEW_CLIPS} clips: these say little.")
    if not verdict.whole:
        told.append("Each interval is of its group by itself.")
    if "mae" in verdict.quantiles:
        told.append("MAE is the vocoder's own error: training with it cannot come below.")
    return " ".join(told)


def cause_line(cause: CauseCount) -> str:
    """Return how many clips have a cause, and what it means.

    Examples: "12 fail", "12 of 40 fail", "40 pass all the same".
    """
    if cause.failures == cause.clips:
        return f"{cause.failures:,} {'fails' if cause.failures == 1 else 'fail'}"
    if not cause.failures:
        return f"{cause.clips:,} {'passes' if cause.clips == 1 else 'pass'} all the same"
    return f"{cause.failures:,} of {cause.clips:,} fail"


def error_headers(verdict: CorpusVerdict) -> list[str]:
    """Return the headers of the error of groups; none without a vocoder."""
    return (
        [f"MAE {percent(level)} %" for level in GROUP_LEVELS] if "mae" in verdict.quantiles else []
    )


def group_errors(verdict: CorpusVerdict, group: GroupVerdict) -> list[str]:
    """Return the quantiles of a group's error; none without a vocoder."""
    return [number("mae", each.value) for each in group.mae] if "mae" in verdict.quantiles else []


def group_name(name: str) -> str:
    """Return the name of a group as it is shown."""
    return name or "(none)"


def summary_lines(verdict: CorpusVerdict, *, width: int) -> list[str]:
    """Return the verdict in lines of a terminal, without colour.

    Args:
        verdict: The verdict.
        width: Columns that a line may take, but for names that are longer.
    """
    lines = [headline(verdict)]
    if decision := decision_text(verdict):
        lines.append(decision)
    outcomes = ", ".join(f"{count:,} {name}" for name, count in outcome_counts(verdict).items())
    lines.append(f"{length_text(verdict.seconds)} measured: {outcomes}")
    if verdict.caches:
        caches = ", ".join(f"{count:,} {name}" for name, count in verdict.caches.items())
        lines.append(f"stored mels: {caches}")
    if verdict.quantiles:
        rows = []
        for name, found in verdict.quantiles.items():
            cells = ["\n".join(filter(None, (number(name, q.value), span(name, q)))) for q in found]
            rows.append([column(name).label, *cells])
        header = ["quantile", *(f"{percent(level)} %" for level in LEVELS)]
        lines += ["", *text_table(header, rows, width=width)]
        lines.append(" ".join(filter(None, (units_text(verdict), quantile_note(verdict)))))
    if verdict.causes:
        lines += ["", "What is wrong, and what to do:"]
        for cause in verdict.causes[:_CAUSES]:
            told = cause.explanation
            lines.append(f"  {cause_line(cause)}: {told.title}")
            lines += [f"    {told.fix}"] if told.fix else []
            lines.append(f"    for instance {', '.join(cause.examples)}")
        if (more := len(verdict.causes) - _CAUSES) > 0:
            lines.append(f"  and {more} more kinds, on the page")
    if verdict.groups:
        rows = [
            [
                f"{'! ' if group.stands_out else '  '}{group_name(group.name)}",
                f"{group.clips:,}",
                share_text(group),
                *group_errors(verdict, group),
            ]
            for group in verdict.groups[:_GROUPS]
        ]
        header = ["  group", "clips", "fail", *error_headers(verdict)]
        lines += ["", *text_table(header, rows, width=width)]
        if (more := len(verdict.groups) - _GROUPS) > 0:
            lines.append(f"and {more:,} more groups, on the page")
        lines.append(group_note(verdict))
    return [part for line in lines for part in _wrapped(plain_text(line), width)]


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=f"{indent}  " if indent else "",
        break_long_words=False,  # a path stays whole
        break_on_hyphens=False,
    )
