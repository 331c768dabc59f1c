"""The pictures show what the numbers say: colours, signs, axes, and nothing that raises."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from melcheck.metrics import band_mae, frame_mae
from melcheck.plots import DifferencePicture, MelPicture, difference_figure, mel_figure
from melcheck.recipes import VOCOS, MelRecipe, band_centres_hz, log_mel

_ROOT = Path(__file__).parents[2]
_FRAMES = 30


def _mels(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = -6.0 + 3.0 * torch.randn(100, _FRAMES, generator=generator)
    return reference, reference + 0.3 * torch.randn(100, _FRAMES, generator=generator)


def _mask() -> list[bool]:
    return [frame < 20 for frame in range(_FRAMES)]


def _image(axes: Axes) -> AxesImage:
    (image,) = axes.get_images()
    return image


def _values(axes: Axes) -> Any:
    """Return what is drawn, `[n_mels, frames]`, with NaN where nothing is."""
    return np.ma.filled(np.ma.asarray(_image(axes).get_array(), dtype=float), np.nan)


def _rgb(axes: Axes, band: int, frame: int) -> tuple[float, float, float]:
    image = _image(axes)
    red, green, blue, _ = image.cmap(image.norm(_values(axes)[band, frame]))
    return red, green, blue


def _draw(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=25)  # small, since most of the time goes into pixels
    return buffer.getvalue()


# The difference map.


def test_the_map_is_original_minus_reconstructed() -> None:
    reference, estimate = _mels()
    drawn = _values(difference_figure(reference, estimate, VOCOS).axes[0])
    np.testing.assert_array_equal(drawn, reference.double().numpy() - estimate.double().numpy())


def test_the_map_is_drawn_in_red_and_blue() -> None:
    assert _image(difference_figure(*_mels(), VOCOS).axes[0]).cmap.name == "RdBu_r"


def test_the_largest_difference_sets_both_ends() -> None:
    reference, _ = _mels()
    estimate = reference.clone()
    estimate[3, 4] -= 2.5
    estimate[5, 6] += 1.0
    largest = (reference - estimate).abs().max().item()
    assert _image(difference_figure(reference, estimate, VOCOS).axes[0]).get_clim() == (
        -largest,
        largest,
    )


def test_a_limit_sets_both_ends() -> None:
    assert _image(difference_figure(*_mels(), VOCOS, limit=0.7).axes[0]).get_clim() == (-0.7, 0.7)


@pytest.mark.parametrize("limit", [None, 0.7], ids=["own-limit", "given-limit"])
def test_zero_is_the_middle_of_the_scale(limit: float | None) -> None:
    assert _image(difference_figure(*_mels(), VOCOS, limit=limit).axes[0]).norm(0.0) == 0.5


@pytest.mark.parametrize("limit", [None, 0.5, 10.0], ids=str)
def test_lost_energy_is_red(limit: float | None) -> None:
    reference, _ = _mels()
    estimate = reference.clone()
    estimate[3, 4] -= 2.0
    red, _, blue = _rgb(difference_figure(reference, estimate, VOCOS, limit=limit).axes[0], 3, 4)
    assert red > blue


@pytest.mark.parametrize("limit", [None, 0.5, 10.0], ids=str)
def test_added_energy_is_blue(limit: float | None) -> None:
    reference, _ = _mels()
    estimate = reference.clone()
    estimate[3, 4] += 2.0
    red, _, blue = _rgb(difference_figure(reference, estimate, VOCOS, limit=limit).axes[0], 3, 4)
    assert blue > red


def test_what_did_not_change_is_white() -> None:
    reference, _ = _mels()
    assert min(_rgb(difference_figure(reference, reference, VOCOS).axes[0], 3, 4)) > 0.95


def test_frames_that_do_not_count_hold_no_colour() -> None:
    drawn = _values(difference_figure(*_mels(), VOCOS, frame_mask=_mask()).axes[0])
    assert np.isnan(drawn).all(axis=0).tolist() == [not counts for counts in _mask()]


def test_frames_that_do_not_count_are_grey_in_the_picture() -> None:
    figure = difference_figure(*_mels(), VOCOS, frame_mask=_mask())
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    across, up = figure.axes[0].transData.transform((25 / VOCOS.frames_per_second, 50))
    # Grey 0.8 of 255.
    assert pixels[round(pixels.shape[0] - up), round(across), :3].tolist() == [204, 204, 204]


def test_frames_that_do_not_count_set_no_limit() -> None:
    reference, estimate = _mels()
    estimate[:, 20:] += 100.0
    _, high = _image(
        difference_figure(reference, estimate, VOCOS, frame_mask=_mask()).axes[0]
    ).get_clim()
    assert high < 5


# The profiles beside it.


@pytest.mark.parametrize("masked", [False, True], ids=["all-frames", "masked"])
def test_the_line_below_is_the_mae_of_each_frame(masked: bool) -> None:
    mask = _mask() if masked else None
    _, by_frame, _, _ = difference_figure(*_mels(), VOCOS, frame_mask=mask).axes
    expected = frame_mae(*_mels(), mask=None if mask is None else torch.tensor(mask))
    # Sums of float64: no difference was measured.
    np.testing.assert_allclose(
        by_frame.lines[0].get_ydata(), expected.numpy(), rtol=0, atol=1e-13, equal_nan=True
    )


@pytest.mark.parametrize("masked", [False, True], ids=["all-frames", "masked"])
def test_the_line_beside_is_the_mae_of_each_band(masked: bool) -> None:
    mask = _mask() if masked else None
    _, _, by_band, _ = difference_figure(*_mels(), VOCOS, frame_mask=mask).axes
    expected = band_mae(*_mels(), mask=None if mask is None else torch.tensor(mask))
    # Sums of float64: no difference was measured.
    np.testing.assert_allclose(by_band.lines[0].get_xdata(), expected.numpy(), rtol=0, atol=1e-13)


def test_the_line_below_shares_the_seconds_of_the_map() -> None:
    main, by_frame, _, _ = difference_figure(*_mels(), VOCOS).axes
    assert by_frame.get_xlim() == main.get_xlim()
    np.testing.assert_array_equal(
        by_frame.lines[0].get_xdata(), np.arange(_FRAMES) / VOCOS.frames_per_second
    )


def test_the_line_beside_shares_the_bands_of_the_map() -> None:
    main, _, by_band, _ = difference_figure(*_mels(), VOCOS).axes
    assert by_band.get_ylim() == main.get_ylim()
    np.testing.assert_array_equal(by_band.lines[0].get_ydata(), np.arange(100))


# Both mels side by side.


def test_both_mels_are_drawn_as_they_are() -> None:
    reference, estimate = _mels()
    left, right, _ = mel_figure(reference, estimate, VOCOS).axes
    np.testing.assert_array_equal(_values(left), reference.double().numpy())
    np.testing.assert_array_equal(_values(right), estimate.double().numpy())


def test_both_mels_share_one_scale() -> None:
    left, right, _ = mel_figure(*_mels(), VOCOS).axes
    assert _image(left).norm is _image(right).norm


def test_the_shared_scale_spans_both_mels() -> None:
    reference, estimate = _mels()
    estimate[0, 0], reference[0, 0] = 9.0, -30.0
    assert _image(mel_figure(reference, estimate, VOCOS).axes[0]).get_clim() == (-30.0, 9.0)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf], ids=str)
def test_a_cell_that_is_not_finite_sets_no_scale(broken: float) -> None:
    reference, estimate = _mels()
    reference[3, 4] = estimate[5, 6] = broken
    assert np.isfinite(_image(mel_figure(reference, estimate, VOCOS).axes[0]).get_clim()).all()


@pytest.mark.parametrize(
    ("recipe", "unit"),
    [
        pytest.param(VOCOS, "log-mel (nats)", id="natural"),
        pytest.param(MelRecipe(log_base="10"), "log10-mel", id="decimal"),
    ],
)
def test_the_scale_names_its_unit(recipe: MelRecipe, unit: str) -> None:
    assert mel_figure(*_mels(), recipe).axes[2].get_ylabel() == unit


# Axes.


@pytest.mark.parametrize("draw", [mel_figure, difference_figure])
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(VOCOS, id="vocos"), pytest.param(MelRecipe(hop_length=300), id="hop-300")],
)
def test_frame_t_is_drawn_at_t_hops(draw: Any, recipe: MelRecipe) -> None:
    left, right, bottom, top = _image(draw(*_mels(), recipe).axes[0]).get_extent()
    # Each of the 30 cells is a hop wide, the first centred on zero seconds.
    hop_seconds = recipe.hop_length / recipe.sample_rate
    # Seconds in float64: no difference was measured.
    assert (left, right) == pytest.approx(
        (-0.5 * hop_seconds, (_FRAMES - 0.5) * hop_seconds), rel=0, abs=1e-12
    )
    assert (bottom, top) == (-0.5, 99.5)


def test_a_click_is_drawn_at_its_second() -> None:
    waveform = torch.zeros(1, 24_000)
    waveform[0, 12_000] = 0.5
    mel = log_mel(waveform)[0]
    image = _image(mel_figure(mel, mel, VOCOS).axes[0])
    left, right, _, _ = image.get_extent()
    loudest = mel.sum(dim=0).argmax().item()
    seconds = left + (loudest + 0.5) * (right - left) / mel.shape[1]
    # Half a hop is 5.3 ms: 1.3 ms was measured.
    assert seconds == pytest.approx(0.5, rel=0, abs=0.0054)


@pytest.mark.parametrize("draw", [mel_figure, difference_figure])
def test_low_bands_are_at_the_bottom(draw: Any) -> None:
    axes = draw(*_mels(), VOCOS).axes[0]
    assert (_image(axes).origin, axes.get_ylim()) == ("lower", (-0.5, 99.5))


@pytest.mark.parametrize("draw", [mel_figure, difference_figure])
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(VOCOS, id="vocos"),
        pytest.param(MelRecipe(mel_scale="slaney", norm="slaney", f_max=8_000.0), id="slaney"),
    ],
)
def test_a_frequency_is_written_between_the_bands_around_it(draw: Any, recipe: MelRecipe) -> None:
    axes = draw(*_mels(), recipe).axes[0]
    written = [float(label.get_text().replace(",", "")) for label in axes.get_yticklabels()]
    centres = band_centres_hz(recipe)
    between = [
        centres[math.floor(band)] <= hz <= centres[math.ceil(band)]
        for band, hz in zip(axes.get_yticks(), written, strict=True)
    ]
    assert between == [True] * len(written)
    assert len(written) >= 6


@pytest.mark.parametrize(
    ("place", "label"),
    [(0, "Frequency (Hz)"), (1, "Time (s)"), (2, "MAE of band (nats)")],
    ids=["map", "frames", "bands"],
)
def test_axes_name_their_units(place: int, label: str) -> None:
    axes = difference_figure(*_mels(), VOCOS).axes[place]
    assert label in (axes.get_xlabel(), axes.get_ylabel())


# What must not raise: warnings are errors here.


@pytest.mark.parametrize(
    ("title", "drawn"),
    [
        pytest.param("", "", id="none"),
        pytest.param("price $5", "price $5", id="dollar"),
        pytest.param("$x^2$", "$x^2$", id="formula"),
        pytest.param("<b>&", "<b>&", id="markup"),
        pytest.param("two\nlines", "two\nlines", id="newline"),
        pytest.param("a\\b{%s}", "a\\b{%s}", id="backslash"),
        pytest.param("Grüße", "Grüße", id="german"),
        pytest.param("雨.wav", r"\u96e8.wav", id="japanese"),
        pytest.param("🎵", r"\U0001f3b5", id="emoji"),
        pytest.param("tab\there", r"tab\there", id="tab"),
        pytest.param("\udcff.wav", r"\udcff.wav", id="undecodable-file-name"),
        pytest.param("x" * 300, "x" * 300, id="long"),
    ],
)
def test_any_title_is_drawn_whole(title: str, drawn: str) -> None:
    figure = mel_figure(*_mels(), VOCOS, title=title)
    assert _draw(figure).startswith(b"\x89PNG")
    assert figure.get_suptitle() == drawn


def test_both_figures_write_a_title_alike() -> None:
    title = "$5\n雨"
    both = [draw(*_mels(), VOCOS, title=title) for draw in (mel_figure, difference_figure)]
    assert both[0].get_suptitle() == both[1].get_suptitle()


@pytest.mark.parametrize("draw", [mel_figure, difference_figure])
@pytest.mark.parametrize(
    ("reference", "estimate"),
    [
        pytest.param(*_mels()[:1] * 2, id="identical"),
        pytest.param(torch.full((100, 8), -16.0), torch.full((100, 8), -16.0), id="silence"),
        pytest.param(torch.zeros(100, 8), torch.full((100, 8), 1e-30), id="tiny-difference"),
        pytest.param(torch.zeros(100, 8), torch.full((100, 8), math.nan), id="nan"),
        pytest.param(torch.zeros(100, 8), torch.full((100, 8), -math.inf), id="infinite"),
        pytest.param(torch.zeros(100, 1), torch.ones(100, 1), id="one-frame"),
        pytest.param(torch.zeros(100, 8).half(), torch.ones(100, 8).half(), id="half"),
        pytest.param(
            torch.zeros(100, 8, requires_grad=True), torch.ones(100, 8), id="with-gradient"
        ),
    ],
)
def test_any_mel_of_the_recipe_is_drawn(draw: Any, reference: Tensor, estimate: Tensor) -> None:
    assert _draw(draw(reference, estimate, VOCOS)).startswith(b"\x89PNG")


def test_a_map_of_no_frame_that_counts_is_drawn() -> None:
    figure = difference_figure(*_mels(), VOCOS, frame_mask=[False] * _FRAMES)
    assert _draw(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", [mel_figure, difference_figure])
def test_the_mels_are_left_as_they_were(draw: Any) -> None:
    reference, estimate = (mel.double() for mel in _mels())
    before = reference.clone(), estimate.clone()
    draw(
        reference, estimate, VOCOS, **({"frame_mask": _mask()} if draw is difference_figure else {})
    )
    assert torch.equal(reference, before[0])
    assert torch.equal(estimate, before[1])


def test_the_same_mels_give_the_same_picture() -> None:
    first, second = (_draw(difference_figure(*_mels(), VOCOS)) for _ in range(2))
    assert first == second


# What must raise.


@pytest.mark.parametrize("draw", [mel_figure, difference_figure])
@pytest.mark.parametrize(
    ("reference", "estimate"),
    [
        pytest.param((1, 100, 8), (1, 100, 8), id="a-batch"),
        pytest.param((100, 8), (100, 9), id="frames-differ"),
        pytest.param((80, 8), (80, 8), id="bands-of-another-recipe"),
        pytest.param((8, 100), (8, 100), id="transposed"),
    ],
)
def test_mels_that_do_not_fit_are_refused(
    draw: Any, reference: tuple[int, ...], estimate: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must both be \[100, frames\], got \[.*one item"):
        draw(torch.zeros(reference), torch.zeros(estimate), VOCOS)


@pytest.mark.parametrize("values", [29, 31, 0])
def test_a_mask_of_another_length_is_refused(values: int) -> None:
    with pytest.raises(ValueError, match=f"frame_mask must hold 30 values.*got {values}"):
        difference_figure(*_mels(), VOCOS, frame_mask=[True] * values)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_that_spans_no_scale_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=f"limit must be positive and finite.*got {limit}"):
        difference_figure(*_mels(), VOCOS, limit=limit)


# What must stay outside.


def test_drawing_leaves_pyplot_alone() -> None:
    program = (
        "import sys, torch; from melcheck.plots import *; from melcheck.recipes import VOCOS;"
        "mel = torch.zeros(100, 8);"
        "mel_figure(mel, mel, VOCOS, title='a'); difference_figure(mel, mel, VOCOS);"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_a_letter_is_drawn_if_any_configured_font_has_it() -> None:
    with matplotlib.rc_context({"font.family": ["DejaVu Sans Mono", "DejaVu Sans"]}):
        figure = mel_figure(*_mels(), VOCOS, title="שלום 雨")
        _draw(figure)
    # Of the two fonts only the second has Hebrew, and neither has Japanese.
    assert figure.get_suptitle() == r"שלום \u96e8"


def test_a_picture_that_is_shown_other_mels_equals_a_new_one() -> None:
    first, second = _mels(), _mels(seed=1)
    again, new = (MelPicture(VOCOS, first[0].shape[1]) for _ in range(2))
    again.show(*first, title="first")
    again.png()
    again.show(*second, title="second")
    new.show(*second, title="second")
    assert again.png() == new.png()


def test_a_difference_that_is_shown_other_mels_equals_a_new_one() -> None:
    first, second = _mels(), _mels(seed=1)
    again, new = (DifferencePicture(VOCOS, first[0].shape[1]) for _ in range(2))
    again.show(*first, title="first")
    again.png()
    again.show(*second, frame_mask=_mask(), title="second")
    new.show(*second, frame_mask=_mask(), title="second")
    assert again.png() == new.png()
