"""Pictures of a round trip: both mels side by side, what was lost and added, where the error is.

Figures are built without pyplot, so that nothing is global, no window opens and threads do not
meet. Time runs in seconds, frequency in Hz: each mel band is labelled with the frequency at which
its filter peaks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from melcheck.recipes import MelRecipe, band_centres_hz

__all__ = ["difference_figure", "mel_figure"]

MEL_COLOURS = "magma"
DIFFERENCE_COLOURS = "RdBu_r"

_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 11000)
_DPI = 100


def mel_figure(
    reference: Tensor, estimate: Tensor, recipe: MelRecipe, *, title: str = ""
) -> Figure:
    """Draw two mels side by side on one colour scale.

    Args:
        reference: The original, `[n_mels, frames]`, nats.
        estimate: The reconstruction, of the same shape.
        recipe: Gives the axes their seconds and Hz.
        title: Put above both.

    Raises:
        ValueError: Mels that are not both `[n_mels, frames]` with the recipe's bands.
    """
    original, reconstructed = _checked(reference, estimate, recipe)
    figure = Figure(figsize=(12.0, 4.2), dpi=_DPI)
    FigureCanvasAgg(figure)
    # One scale for both: what the eye compares must mean the same on each side.
    finite = np.concatenate([original[np.isfinite(original)], reconstructed.ravel()])
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-1.0, 0.0)
    norm = Normalize(low, high if high > low else low + 1.0)
    left = figure.add_axes((0.075, 0.13, 0.395, 0.71))
    right = figure.add_axes((0.492, 0.13, 0.395, 0.71))
    for axes, mel, name in ((left, original, "Original"), (right, reconstructed, "Reconstructed")):
        image = _draw_mel(axes, mel, recipe, MEL_COLOURS, norm)
        axes.set_title(name, fontsize=11)
    right.tick_params(labelleft=False)
    left.set_ylabel("Frequency (Hz)")
    bar = figure.colorbar(image, cax=figure.add_axes((0.905, 0.13, 0.014, 0.71)))
    bar.set_label("log-mel (nats)" if recipe.log_base == "e" else "log10-mel")
    _set_title(figure, title)
    return figure


def difference_figure(
    reference: Tensor,
    estimate: Tensor,
    recipe: MelRecipe,
    *,
    frame_mask: Sequence[bool] | None = None,
    limit: float | None = None,
    title: str = "",
) -> Figure:
    """Draw original minus reconstructed, with the error of each band and each frame beside it.

    The map is symmetric about zero: red where energy was lost, blue where energy was added, white
    where nothing changed.

    Args:
        reference: The original, `[n_mels, frames]`, nats.
        estimate: The reconstruction, of the same shape.
        recipe: Gives the axes their seconds and Hz.
        frame_mask: Which of the frames count; the others are left grey.
        limit: The colour scale runs from -limit to limit, nats; None takes the largest difference.
            Give one to compare pictures with each other.
        title: Put above all.

    Raises:
        ValueError: Mels that are not both `[n_mels, frames]` with the recipe's bands, a mask of
            another length, or a limit that is not positive and finite.
    """
    original, reconstructed = _checked(reference, estimate, recipe)
    difference = original - reconstructed
    frames = difference.shape[1]
    if frame_mask is not None:
        if len(frame_mask) != frames:
            raise ValueError(
                f"frame_mask must hold {frames} values, one a frame, got {len(frame_mask)}."
            )
        difference[:, ~np.asarray(frame_mask, dtype=bool)] = np.nan
    if limit is not None and not (math.isfinite(limit) and limit > 0):
        raise ValueError(
            f"limit must be positive and finite (nats), got {limit}. "
            "None takes the largest difference."
        )
    finite = np.abs(difference[np.isfinite(difference)])
    if limit is None:
        limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0

    figure = Figure(figsize=(12.0, 5.4), dpi=_DPI)
    FigureCanvasAgg(figure)
    main = figure.add_axes((0.075, 0.335, 0.69, 0.515))
    by_frame = figure.add_axes((0.075, 0.10, 0.69, 0.17))
    by_band = figure.add_axes((0.862, 0.335, 0.122, 0.515))

    image = _draw_mel(main, difference, recipe, DIFFERENCE_COLOURS, TwoSlopeNorm(0, -limit, limit))
    main.set_facecolor("0.8")
    main.set_title("Original - Reconstructed: red = energy lost, blue = energy added", fontsize=11)
    main.set_ylabel("Frequency (Hz)")
    main.set_xlabel("")
    main.tick_params(labelbottom=False)
    bar = figure.colorbar(image, cax=figure.add_axes((0.775, 0.335, 0.012, 0.515)))
    bar.set_label("difference (nats)")

    error = np.abs(difference)
    counted = np.isfinite(error)
    seconds = np.arange(frames) / recipe.frames_per_second
    by_frame.plot(seconds, _mean_over(error, counted, axis=0), color="0.2", linewidth=1.0)
    by_frame.set_xlim(*main.get_xlim())
    by_frame.set_ylim(bottom=0.0)
    by_frame.set_xlabel("Time (s)")
    by_frame.set_ylabel("MAE of frame\n(nats)", fontsize=9)
    by_frame.grid(visible=True, color="0.9")

    bands = np.arange(recipe.n_mels)
    by_band.plot(_mean_over(error, counted, axis=1), bands, color="0.2", linewidth=1.0)
    _set_frequency_axis(by_band, recipe)
    by_band.tick_params(labelleft=False)
    by_band.set_xlim(left=0.0)
    by_band.set_xlabel("MAE of band (nats)", fontsize=9)
    by_band.grid(visible=True, color="0.9")
    _set_title(figure, title)
    return figure


def _checked(
    reference: Tensor, estimate: Tensor, recipe: MelRecipe
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if (
        reference.dim() != 2
        or reference.shape != estimate.shape
        or reference.shape[0] != recipe.n_mels
    ):
        raise ValueError(
            f"reference and estimate must both be [{recipe.n_mels}, frames], "
            f"got {list(reference.shape)} and {list(estimate.shape)}. Pass one item of a batch."
        )
    original, reconstructed = (mel.detach().double().cpu().numpy() for mel in (reference, estimate))
    return original, reconstructed


def _draw_mel(
    axes: Axes,
    values: NDArray[np.float64],
    recipe: MelRecipe,
    colours: str,
    norm: Normalize,
) -> AxesImage:
    # Frame t is drawn centred on its time, half a hop to each side.
    half = 0.5 / recipe.frames_per_second
    end = values.shape[1] / recipe.frames_per_second - half
    image = axes.imshow(
        values,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        norm=norm,
        extent=(-half, end, -0.5, recipe.n_mels - 0.5),
    )
    _set_frequency_axis(axes, recipe)
    axes.set_xlabel("Time (s)")
    return image


def _set_frequency_axis(axes: Axes, recipe: MelRecipe) -> None:
    centres = band_centres_hz(recipe)
    ticks = [hz for hz in _TICKS_HZ if centres[0] <= hz <= centres[-1]]
    axes.set_yticks(np.interp(ticks, centres, range(len(centres))), [f"{hz:,}" for hz in ticks])
    axes.set_ylim(-0.5, recipe.n_mels - 0.5)


def _mean_over(
    error: NDArray[np.float64], counted: NDArray[np.bool_], *, axis: int
) -> NDArray[np.float64]:
    number = counted.sum(axis=axis)
    total = np.where(counted, error, 0.0).sum(axis=axis)
    return np.where(number > 0, total / np.maximum(number, 1), math.nan)


def _set_title(figure: Figure, title: str) -> None:
    # A clip's name may hold a dollar sign, which would start a formula.
    figure.suptitle(_drawable(title).replace("$", r"\$"), fontsize=12, y=0.985)


def _drawable(text: str) -> str:
    """Write the characters that no configured font has as escapes, so that the name stays whole.

    Matplotlib's own font has no Japanese, for one: each letter would be drawn as the same empty
    box, with a warning. `rcParams["font.family"]` is where to name fonts that have it.
    """
    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    known = {"\n"}.union(*(map(chr, font.get_charmap()) for font in fonts))
    return "".join(
        letter if letter in known else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
