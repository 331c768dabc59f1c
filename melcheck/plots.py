"""Pictures of a round trip: both mels side by side, what was lost and added, where the error is.

Figures are built without pyplot, so that nothing is global, no window opens and threads do not
meet. Time runs in seconds, frequency in Hz: each mel band is labelled with the frequency at which
its filter peaks.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from melcheck.recipes import MelRecipe, band_centres_hz

MEL_COLOURS = "magma"
DIFFERENCE_COLOURS = "RdBu_r"

_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 11000)
_DPI = 100


def mel_figure(
    reference: Tensor, estimate: Tensor, recipe: MelRecipe, *, title: str = ""
) -> Figure:
    """Draw two mels side by side on one colour scale.

    Args:
        reference: The original, `[n_mels, frames]`, in the recipe's unit.
        estimate: The reconstruction, of the same shape.
        recipe: Gives the axes their seconds and Hz, the colours their unit.
        title: Put above both.

    Raises:
        ValueError: Mels that are not both `[n_mels, frames]` with the recipe's bands.
    """
    _check(reference, estimate, recipe)
    picture = MelPicture(recipe, reference.shape[1])
    picture.show(reference, estimate, title=title)
    return picture.figure


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
    where nothing changed. The lines leave out what is not finite. Mels in another unit than nats
    are converted.

    Args:
        reference: The original, `[n_mels, frames]`, as the recipe defines it.
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
    _check(reference, estimate, recipe)
    picture = DifferencePicture(recipe, reference.shape[1])
    picture.show(reference, estimate, frame_mask=frame_mask, limit=limit, title=title)
    return picture.figure


class MelPicture:
    """A figure for two mels of one shape, which can be shown others of that shape.

    Making axes and ticks takes longer than drawing a mel, so that many clips of one length are
    drawn quickest through one picture and `png`.

    Args:
        recipe: Gives the axes their seconds and Hz.
        frames: Number of frames of the mels.
    """

    def __init__(self, recipe: MelRecipe, frames: int) -> None:
        self._recipe = recipe
        self.figure = _figure(12.0, 4.2)
        self._norm = Normalize(0.0, 1.0)
        left = self.figure.add_axes((0.075, 0.13, 0.395, 0.69))
        right = self.figure.add_axes((0.492, 0.13, 0.395, 0.69))
        left.set_title("Original", fontsize=11)
        right.set_title("Reconstructed", fontsize=11)
        self._images = [
            _draw_mel(axes, frames, recipe, MEL_COLOURS, self._norm) for axes in (left, right)
        ]
        right.tick_params(labelleft=False)
        left.set_ylabel("Frequency (Hz)")
        scale = self.figure.add_axes((0.905, 0.13, 0.014, 0.69))
        bar = self.figure.colorbar(self._images[0], cax=scale, ticks=MaxNLocator(5))
        bar.set_label(_unit(recipe))
        self._title = _title(self.figure)
        self._canvas = _Canvas(self.figure, self._images, [scale, self._title])

    def show(self, reference: Tensor, estimate: Tensor, *, title: str = "") -> None:
        """Replace the two mels; arguments as for `mel_figure`."""
        original, reconstructed = _arrays(reference, estimate)
        # One scale for both: what the eye compares must mean the same on each side.
        values = np.concatenate([original.ravel(), reconstructed.ravel()])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (-1.0, 0.0)
        self._norm.vmin, self._norm.vmax = low, high if high > low else low + 1.0
        for image, mel in zip(self._images, (original, reconstructed), strict=True):
            image.set_data(mel)
        self._title.set_text(_drawable(title))

    def png(self) -> bytes:
        """Return what is shown as a PNG file."""
        return self._canvas.png()


class DifferencePicture:
    """A figure for the difference of two mels of one shape; see `MelPicture`.

    Args:
        recipe: Gives the axes their seconds and Hz.
        frames: Number of frames of the mels.
    """

    def __init__(self, recipe: MelRecipe, frames: int) -> None:
        self._frames = frames
        self._recipe = recipe
        self.figure = _figure(12.0, 5.4)
        main = self.figure.add_axes((0.075, 0.335, 0.69, 0.505))
        by_frame = self.figure.add_axes((0.075, 0.10, 0.69, 0.17))
        by_band = self.figure.add_axes((0.862, 0.335, 0.122, 0.505))
        self._by_frame, self._by_band = by_frame, by_band

        self._norm = TwoSlopeNorm(0.0, -1.0, 1.0)
        self._image = _draw_mel(main, frames, recipe, DIFFERENCE_COLOURS, self._norm)
        main.set_facecolor("0.8")
        main.set_title(
            "Original - Reconstructed: red = energy lost, blue = energy added", fontsize=11
        )
        main.set_ylabel("Frequency (Hz)")
        main.set_xlabel("")
        main.tick_params(labelbottom=False)
        scale = self.figure.add_axes((0.775, 0.335, 0.012, 0.505))
        bar = self.figure.colorbar(self._image, cax=scale, ticks=MaxNLocator(5))
        bar.set_label("difference (nats)")

        seconds = np.arange(frames) / recipe.frames_per_second
        [self._frame_line] = by_frame.plot(seconds, np.zeros(frames), color="0.2", linewidth=1.0)
        by_frame.set_xlim(*main.get_xlim())
        by_frame.set_xlabel("Time (s)")
        by_frame.set_ylabel("MAE of frame\n(nats)", fontsize=9)
        by_frame.yaxis.set_major_locator(MaxNLocator(3))
        by_frame.grid(visible=True, color="0.9")

        bands = np.arange(recipe.n_mels)
        [self._band_line] = by_band.plot(np.zeros(recipe.n_mels), bands, color="0.2", linewidth=1.0)
        _set_frequency_axis(by_band, recipe)
        by_band.tick_params(labelleft=False)
        by_band.set_xlabel("MAE of band (nats)", fontsize=9)
        by_band.xaxis.set_major_locator(MaxNLocator(3))
        by_band.grid(visible=True, color="0.9")
        self._title = _title(self.figure)
        self._canvas = _Canvas(self.figure, [self._image], [scale, by_frame, by_band, self._title])

    def show(
        self,
        reference: Tensor,
        estimate: Tensor,
        *,
        frame_mask: Sequence[bool] | None = None,
        limit: float | None = None,
        title: str = "",
    ) -> None:
        """Replace the two mels; arguments and errors as for `difference_figure`."""
        original, reconstructed = _arrays(*map(self._recipe.in_nats, (reference, estimate)))
        difference = original - reconstructed
        if frame_mask is not None:
            if len(frame_mask) != self._frames:
                raise ValueError(
                    f"frame_mask must hold {self._frames} values, one a frame, "
                    f"got {len(frame_mask)}."
                )
            difference[:, ~np.asarray(frame_mask, dtype=bool)] = np.nan
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise ValueError(
                f"limit must be positive and finite (nats), got {limit}. "
                "None takes the largest difference."
            )
        error = np.abs(difference)
        counted = np.isfinite(error)
        largest = float(error[counted].max()) if counted.any() else 0.0
        limit = limit or largest or 1.0
        self._norm.vmin, self._norm.vmax = -limit, limit
        self._image.set_data(difference)

        by_frame, by_band = (_mean_over(error, counted, axis=axis) for axis in (0, 1))
        self._frame_line.set_ydata(by_frame)
        self._by_frame.set_ylim(0.0, _upper(by_frame))
        self._band_line.set_xdata(by_band)
        self._by_band.set_xlim(0.0, _upper(by_band))
        self._title.set_text(_drawable(title))

    def png(self) -> bytes:
        """Return what is shown as a PNG file."""
        return self._canvas.png()


class _Canvas:
    """Draws a figure whose `changing` artists differ from one time to the next.

    All else is drawn once and kept as a background (matplotlib's "blitting"). Images lie under
    the frame of their axes, so that is drawn again above them.
    """

    def __init__(
        self, figure: Figure, images: Sequence[AxesImage], changing: Sequence[Artist]
    ) -> None:
        self._figure = figure
        self._canvas: Any = FigureCanvasAgg(figure)  # its methods have no annotations
        frames = [spine for image in images for spine in image.axes.spines.values()]
        self._changing = [*images, *frames, *changing]
        self._background: Any = None

    def png(self) -> bytes:
        figure, canvas = self._figure, self._canvas
        if self._background is None:
            # Hidden, not animated: matplotlib before 3.11 draws animated images all the same.
            for artist in self._changing:
                artist.set_visible(False)
            canvas.draw()
            self._background = canvas.copy_from_bbox(figure.bbox)
            for artist in self._changing:
                artist.set_visible(True)
        canvas.restore_region(self._background)
        for artist in self._changing:
            figure.draw_artist(artist)
        buffer = io.BytesIO()
        pixels = np.asarray(canvas.buffer_rgba())
        # The time goes into compression: level 1 costs a third more bytes than level 6.
        Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
        return buffer.getvalue()


def _unit(recipe: MelRecipe) -> str:
    if recipe.log_base is None:
        unit = "mel"
    elif recipe.log_base == "e":
        unit = "log-mel (nats)"
    else:
        unit = "log10-mel" if recipe.log_scale == 1.0 else "log-mel (dB)"
    return unit if (recipe.mean, recipe.std) == (0.0, 1.0) else f"{unit}, normalised"


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=_DPI)


def _title(figure: Figure) -> Text:
    # Without formulas: a clip's name may hold a dollar sign.
    return figure.suptitle(" ", fontsize=11, y=0.985, parse_math=False)


def _upper(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    highest = float(finite.max()) if finite.size else 0.0
    return 1.05 * highest if highest > 0 else 1.0


def _check(reference: Tensor, estimate: Tensor, recipe: MelRecipe) -> None:
    if (
        reference.dim() != 2
        or reference.shape != estimate.shape
        or reference.shape[0] != recipe.n_mels
        or reference.shape[1] < 1
    ):
        raise ValueError(
            f"reference and estimate must both be [{recipe.n_mels}, frames], "
            f"got {list(reference.shape)} and {list(estimate.shape)}. Pass one item of a batch."
        )


def _arrays(reference: Tensor, estimate: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    original, reconstructed = (mel.detach().double().cpu().numpy() for mel in (reference, estimate))
    return original, reconstructed


def _draw_mel(
    axes: Axes, frames: int, recipe: MelRecipe, colours: str, norm: Normalize
) -> AxesImage:
    # Frame t is drawn centred on its time, half a hop to each side.
    half = 0.5 / recipe.frames_per_second
    end = frames / recipe.frames_per_second - half
    image = axes.imshow(
        np.zeros((recipe.n_mels, frames)),
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
