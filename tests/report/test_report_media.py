"""Pictures and audio of a report hold what they should, and fit on a page."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from melcheck.pipeline import RoundTrip
from melcheck.report.media import (
    PAGE_BYTES,
    CaseMedia,
    Player,
    case_media,
    colour_stops,
    fit_page,
    lossy,
)
from melcheck.report.model import CaseResult, Key
from tests.report import report_samples


@pytest.fixture(scope="module")
def trip() -> RoundTrip:
    return report_samples.trip(0)


def picture(data: str) -> NDArray[np.int64]:
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    return np.asarray(image).astype(np.int64)


def decoded(player: Player) -> NDArray[np.float32]:
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(player.data)), dtype="float32")
    assert rate == 24_000
    return np.asarray(samples)


def altered(trip: RoundTrip, mel: torch.Tensor) -> RoundTrip:
    return dataclasses.replace(trip, reconstructed_mel=mel)


def test_a_picture_has_a_pixel_for_each_bin_and_low_bands_below(trip: RoundTrip) -> None:
    mel = torch.full_like(trip.mel, -10.0)
    mel[:, :20] = 0.0
    pixels = picture(case_media(dataclasses.replace(trip, mel=mel, reconstructed_mel=mel)).original)
    assert pixels.shape == (100, 282, 3)
    assert (pixels[80:].sum(axis=-1) > 600).all(), "loud is bright"
    assert (pixels[:80].sum(axis=-1) < 20).all(), "quiet is dark"


def test_both_mels_share_a_scale(trip: RoundTrip) -> None:
    media = case_media(altered(trip, trip.mel.clone().clamp(max=-6.0)))
    assert media.mel_high == pytest.approx(trip.mel.max().item())
    quiet = (trip.mel < -6.0)[0].flip(0).numpy()
    both = picture(media.original)[quiet], picture(media.reconstructed)[quiet]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize(
    ("shift", "channel"), [pytest.param(-1.0, 0, id="lost"), pytest.param(1.0, 2, id="added")]
)
def test_what_was_lost_is_red_and_what_was_added_is_blue(
    trip: RoundTrip, shift: float, channel: int
) -> None:
    pixels = picture(case_media(altered(trip, trip.mel + shift)).difference)
    assert (pixels.argmax(axis=-1) == channel).all()


def test_no_difference_is_nearly_white(trip: RoundTrip) -> None:
    pixels = picture(case_media(altered(trip, trip.mel)).difference)
    assert (pixels > 240).all()


def test_what_is_no_number_or_does_not_count_is_grey(trip: RoundTrip) -> None:
    mel = trip.mel.clone()
    mel[0, 10, 20] = torch.nan
    part = dataclasses.replace(altered(trip, mel), valid_samples=(36_000,))
    pixels = picture(case_media(part).difference)
    grey = (pixels == 150).all(axis=-1)
    assert grey[89, 20]
    assert grey[:, 141:].all()
    assert grey[:, :141].sum() == 1


def test_a_player_has_the_original_audio(trip: RoundTrip) -> None:
    player = case_media(trip).original_audio
    assert (player.kind, player.gain, player.finite) == ("audio/flac", 1.0, True)
    expected = trip.waveform[0].clamp(-1, 1).numpy()
    np.testing.assert_allclose(decoded(player), expected, rtol=0, atol=1.5 / 32768)


def test_a_waveform_beyond_full_scale_is_made_quieter_and_says_so(trip: RoundTrip) -> None:
    loud = dataclasses.replace(trip, waveform=32768 * trip.waveform)
    player = case_media(loud).original_audio
    assert player.gain == pytest.approx(1 / loud.waveform.abs().max().item())
    assert np.abs(decoded(player)).max() <= 1.0


def test_a_sample_that_is_no_number_is_silent_and_said(trip: RoundTrip) -> None:
    waveform = trip.reconstructed_waveform.clone()
    waveform[0, 100] = torch.inf
    media = case_media(dataclasses.replace(trip, reconstructed_waveform=waveform))
    assert not media.reconstructed_audio.finite
    assert decoded(media.reconstructed_audio)[100] == 0


def test_an_mp3_is_smaller_and_as_long(trip: RoundTrip) -> None:
    player = case_media(trip).original_audio
    small = lossy(player)
    assert small.kind == "audio/mpeg"
    assert len(small.data) < 0.7 * len(player.data)
    assert len(decoded(small)) == len(decoded(player))


def test_a_scale_runs_from_blue_over_white_to_red() -> None:
    colours = [colour for _, colour in colour_stops("RdBu_r", 3)]
    assert colours == ["#053061", "#f7f6f6", "#67001f"]


# What fits on a page.


def cases(count: int, media: CaseMedia) -> tuple[dict[str, list[CaseResult]], dict[Key, CaseMedia]]:
    by_clip = {
        f"clip {number}": [
            CaseResult(clip=f"clip {number}", vocoder=vocoder, device="cpu", outcome="passed")
            for vocoder in ("embedded", "griffin-lim")
        ]
        for number in range(count)
    }
    return by_clip, {case.key: media for each in by_clip.values() for case in each}


def kinds(count: int, media: CaseMedia, limit: int) -> list[tuple[str, str]]:
    shown = fit_page(*cases(count, media), limit=limit).values()
    assert sum(each.size for each in shown) <= limit
    return [
        (each.original.kind, next(iter(each.cases.values())).reconstructed_audio.kind)
        for each in shown
        if each.original is not None
    ]


@pytest.fixture(scope="module")
def whole(trip: RoundTrip) -> CaseMedia:
    return case_media(trip)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        pytest.param(1.0, ("audio/flac", "audio/flac"), id="all-lossless"),
        pytest.param(0.9, ("audio/flac", "audio/mpeg"), id="results-lossy"),
        pytest.param(0.55, ("audio/mpeg", "audio/mpeg"), id="all-lossy"),
    ],
)
def test_audio_becomes_lossy_when_a_page_grows(
    whole: CaseMedia, share: float, expected: tuple[str, str]
) -> None:
    by_clip, media = cases(3, whole)
    full = sum(each.size for each in fit_page(by_clip, media).values())
    assert kinds(3, whole, int(share * full)) == [expected] * 3


def test_the_clips_that_matter_least_go_without(whole: CaseMedia) -> None:
    by_clip, media = cases(4, whole)
    smallest = sum(each.size for each in fit_page(by_clip, media, limit=1).values())
    assert smallest == 0
    lossy_size = fit_page(by_clip, media, limit=int(0.55 * 4 * _size(whole)))["clip 0"].size
    shown = fit_page(by_clip, media, limit=2 * lossy_size)
    assert [clip for clip, each in shown.items() if each.original is not None] == [
        "clip 0",
        "clip 1",
    ]


def _size(media: CaseMedia) -> int:
    by_clip, found = cases(1, media)
    return fit_page(by_clip, found)["clip 0"].size


def test_the_limit_leaves_room_for_the_text_of_200_clips() -> None:
    assert PAGE_BYTES <= 60e6 - 200 * 30e3
