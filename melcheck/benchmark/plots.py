"""Draw a run: throughput against batch and duration, and the fraction of the attainable.

Each panel is a stage. The eager mode is dashed where there is another. Both axes of throughput are
logarithmic, so that twice as fast is the same step everywhere; the fraction is linear from 0, with
the machine's limit at 1, and is drawn where it is known.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from melcheck.benchmark.cases import STAGES
from melcheck.benchmark.measure import Measurement

_DPI = 100
_COLOURS = "viridis"
_EAGER = "eager"
_MARGIN = 1.6  # so that a tick of 1, 2 or 5 is always within


def draw_run(measurements: Sequence[Measurement]) -> dict[str, Figure]:
    """Return the pictures of a run by the name of their file.

    Raises:
        ValueError: Nothing was measured.
    """
    if not measurements:
        raise ValueError("measurements must hold at least one, got none.")
    figures = {}
    for vocoder, device in dict.fromkeys((m.vocoder, m.case.device) for m in measurements):
        own = [m for m in measurements if (m.vocoder, m.case.device) == (vocoder, device)]
        place = f"{_safe(vocoder)}-{_safe(device)}"
        for precision in dict.fromkeys(m.case.precision for m in own):
            some = [m for m in own if m.case.precision == precision]
            figures[f"throughput-{place}-{precision}.png"] = throughput_figure(
                some, title=f"{vocoder} on {own[0].device_name}, {precision}"
            )
        known = [m for m in own if m.fraction is not None]
        if known:
            figures[f"fraction-{place}.png"] = fraction_figure(
                known, title=f"{vocoder} on {own[0].device_name}"
            )
    return figures


def throughput_figure(measurements: Sequence[Measurement], *, title: str = "") -> Figure:
    """Draw x real time against batch (above) and against duration (below)."""
    stages = _stages(measurements)
    figure = Figure(figsize=(2 + 3.6 * len(stages), 7.4), dpi=_DPI)
    rows = figure.subplots(2, len(stages), squeeze=False)
    for column, stage in enumerate(stages):
        own = [m for m in measurements if m.case.stage == stage]
        rates = [m.x_real_time for m in own]
        above, below = rows[0][column], rows[1][column]
        above.set_title(stage.replace("_", " "), fontsize=11)
        _lines(above, own, x=_batch, by=_duration, unit="{:g} s")
        _lines(below, own, x=_duration, by=_batch, unit="batch {:g}")
        above.set_xlabel("batch (waveforms)")
        below.set_xlabel("duration of a waveform (s)")
        for axes in (above, below):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_ylim(min(rates) / _MARGIN, max(rates) * _MARGIN)
            axes.tick_params(axis="y", labelsize=8)
    for row in rows:
        row[0].set_ylabel("x real time (median)")
        _legend(row[-1])
    return _finish(figure, title)


def fraction_figure(measurements: Sequence[Measurement], *, title: str = "") -> Figure:
    """Draw the fraction of the attainable, which must be known, against the audio in a batch."""
    stages = _stages(measurements)
    fractions = {m: m.fraction or 0.0 for m in measurements}
    figure = Figure(figsize=(2 + 3.6 * len(stages), 4.2), dpi=_DPI)
    [row] = figure.subplots(1, len(stages), squeeze=False, sharey=True)
    kinds = list(dict.fromkeys((m.case.precision, m.case.mode) for m in measurements))
    colours = colormaps["tab10"]
    for axes, stage in zip(row, stages, strict=True):
        axes.set_title(stage.replace("_", " "), fontsize=11)
        own = [m for m in measurements if m.case.stage == stage]
        for number, kind in enumerate(kinds):
            some = [m for m in own if (m.case.precision, m.case.mode) == kind]
            axes.plot(
                [m.case.size.audio_seconds for m in some],
                [fractions[m] for m in some],
                "o",
                color=colours(number % 10),
                label=" ".join(kind),
                markersize=5,
            )
        axes.axhline(1.0, color="0.4", linewidth=1.0, linestyle=":")
        _logarithmic(axes, sorted({m.case.size.audio_seconds for m in own}))
        axes.set_xlabel("audio in the batch (s)")
        axes.grid(visible=True, color="0.92")
    highest = max(fractions.values())
    row[0].set_ylim(0.0, max(1.05, 1.05 * highest))
    row[0].set_ylabel("attainable time / measured time")
    _legend(row[-1])
    return _finish(figure, title)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _stages(measurements: Sequence[Measurement]) -> list[str]:
    return [stage for stage in STAGES if any(m.case.stage == stage for m in measurements)]


def _batch(measurement: Measurement) -> float:
    return measurement.case.size.batch


def _duration(measurement: Measurement) -> float:
    return measurement.case.size.seconds


def _lines(
    axes: Axes,
    measurements: Sequence[Measurement],
    *,
    x: Callable[[Measurement], float],
    by: Callable[[Measurement], float],
    unit: str,
) -> None:
    modes = list(dict.fromkeys(m.case.mode for m in measurements))
    groups = sorted({by(m) for m in measurements})
    colours = colormaps[_COLOURS]
    for mode in modes:
        dashed = mode == _EAGER and len(modes) > 1
        for number, group in enumerate(groups):
            own = sorted((m for m in measurements if m.case.mode == mode and by(m) == group), key=x)
            axes.plot(
                [x(m) for m in own],
                [m.x_real_time for m in own],
                marker="o",
                markersize=4,
                linestyle="--" if dashed else "-",
                color=colours(0.85 * number / max(1, len(groups) - 1)),
                label=unit.format(group) + (f", {mode}" if len(modes) > 1 else ""),
            )
    _logarithmic(axes, sorted({x(m) for m in measurements}))
    axes.grid(visible=True, color="0.92")


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Scale the x axis, with ticks where something was measured and their labels do not meet."""
    axes.set_xscale("log")
    shown: list[float] = []
    for value in values:
        if not shown or value / shown[-1] > 1.8:
            shown.append(value)
    axes.set_xticks(shown, [f"{value:g}" for value in shown], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=8, frameon=False)


def _finish(figure: Figure, title: str) -> Figure:
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.set_layout_engine("constrained")
    return figure


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)
