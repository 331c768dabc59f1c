"""Pictures and audio of a case, and which of them fit on a page that can be mailed.

A mel is drawn with one pixel for each time-frequency bin, in a PNG with a palette; the browser
scales it and the page draws the axes. Audio is mono FLAC of 16 bit at the mel's sample rate.

While the page stays below its limit everything is lossless. Above it, reconstructions become MP3,
then the originals; then the least urgent clips are left out.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from melcheck.pipeline import RoundTrip
from melcheck.plots import DIFFERENCE_COLOURS, MEL_COLOURS
from melcheck.report.model import CaseResult, Key

PAGE_BYTES = 52_000_000
"""Limit of pictures and audio in base64; the text of 200 clips takes another 3 MB."""


@dataclass(frozen=True, slots=True)
class ClipMedia:
    """Media of one clip on the page.

    Attributes:
        cases: Pictures and audio of each case.
        original: Original audio, shared by the cases; None for a clip without media.
    """

    cases: Mapping[Key, CaseMedia]
    original: Player | None

    @property
    def size(self) -> int:
        """Bytes on the page."""
        total = 0 if self.original is None else len(self.original.data)
        for media in self.cases.values():
            pictures = (media.original, media.reconstructed, media.difference)
            total += sum(map(len, pictures)) + len(media.reconstructed_audio.data)
        return total


def fit_page(
    clips: Mapping[str, Iterable[CaseResult]],
    media: Mapping[Key, CaseMedia],
    *,
    limit: int = PAGE_BYTES,
) -> dict[str, ClipMedia]:
    """Return the media of each clip, within `limit` bytes in total.

    Args:
        clips: Cases of each clip, the most urgent clip first.
        media: Pictures and audio of cases; some cases may have none.
        limit: Bytes in base64.
    """
    shown = {}
    for clip, cases in clips.items():
        found = {case.key: media[case.key] for case in cases if case.key in media}
        first = next(iter(found.values()), None)
        shown[clip] = ClipMedia(found, None if first is None else first.original_audio)
    for shrink in (_lossy_results, _lossy_original):
        if sum(each.size for each in shown.values()) > limit:
            shown = {clip: shrink(each) for clip, each in shown.items()}
    left = limit
    for clip, each in shown.items():
        if each.size > left:
            shown[clip] = ClipMedia({}, None)
        left -= shown[clip].size
    return shown


def _lossy_results(clip: ClipMedia) -> ClipMedia:
    cases = {
        key: dataclasses.replace(media, reconstructed_audio=lossy(media.reconstructed_audio))
        for key, media in clip.cases.items()
    }
    return ClipMedia(cases, clip.original)


def _lossy_original(clip: ClipMedia) -> ClipMedia:
    return ClipMedia(clip.cases, None if clip.original is None else lossy(clip.original))


DIFFERENCE_LIMIT = 2.0
"""Nats at both ends of the difference's colour scale: ten times the gate on the mean.

It is the same in all pictures; larger differences take the colour of the end.
"""

# A step of 0.15 nats in a mel that spans 19, of 0.03 in a difference; more levels only take bytes.
_LEVELS = 127
_UNCOUNTED = _LEVELS  # the palette's last entry: not finite, or padding
_GREY = (150, 150, 150)

# Variable rate at its best quality: about 85 kbit/s for speech at 24 kHz.
_MP3_COMPRESSION = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """The audio file of a player on the page.

    Attributes:
        kind: Media type, "audio/flac" or "audio/mpeg".
        data: File in base64.
        gain: Factor that brought the samples within full scale; 1 where they were.
        finite: Whether every sample was finite; others are played as 0.
    """

    kind: str
    data: str
    gain: float
    finite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMedia:
    """Pictures and audio of one case, the files in base64.

    Attributes:
        frames: Width of the pictures, pixels.
        bands: Height of the pictures, pixels.
        original: PNG of the original mel.
        reconstructed: PNG of the reconstructed mel, on the same colour scale.
        difference: PNG of original minus reconstructed.
        mel_low: Lower end of the mels' colour scale, nats.
        mel_high: Upper end, nats.
        original_audio: Original waveform.
        reconstructed_audio: Decoded waveform.
    """

    frames: int
    bands: int
    original: str
    reconstructed: str
    difference: str
    mel_low: float
    mel_high: float
    original_audio: Player
    reconstructed_audio: Player


def case_media(trip: RoundTrip) -> CaseMedia:
    """Return the pictures and audio of the first item of a round trip."""
    original, reconstructed = (
        mel[0].detach().double().cpu().numpy() for mel in trip.mels_in_nats()
    )
    counted = trip.frame_mask[0].cpu().numpy()
    # One colour scale for both mels, so that they can be compared.
    values = np.concatenate([original.ravel(), reconstructed.ravel()])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (-1.0, 0.0)
    high = high if high > low else low + 1.0
    difference = np.where(counted, original - reconstructed, np.nan)
    limit = DIFFERENCE_LIMIT
    bands, frames = original.shape
    rate = trip.recipe.sample_rate
    return CaseMedia(
        frames=frames,
        bands=bands,
        original=_png(original, low, high, MEL_COLOURS),
        reconstructed=_png(reconstructed, low, high, MEL_COLOURS),
        difference=_png(difference, -limit, limit, DIFFERENCE_COLOURS),
        mel_low=low,
        mel_high=high,
        original_audio=flac_player(trip.waveform[0, : trip.valid_samples[0]], rate),
        reconstructed_audio=flac_player(
            trip.reconstructed_waveform[0, : trip.valid_samples[0]], rate
        ),
    )


def lossy(player: Player) -> Player:
    """Return the same audio as MP3 of variable rate, less than half the size of its FLAC.

    The file's header states the encoder's delay of about 50 ms, so that players remove it.
    """
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(player.data)), dtype="float32")
    file = io.BytesIO()
    soundfile.write(
        file,
        samples,
        rate,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="VARIABLE",
        compression_level=_MP3_COMPRESSION,
    )
    return dataclasses.replace(player, kind="audio/mpeg", data=_base64(file.getvalue()))


def colour_stops(name: str, count: int = 17) -> tuple[tuple[float, str], ...]:
    """Return `count` colours of a colour map as (position from 0 to 1, "#rrggbb")."""
    shares = np.linspace(0.0, 1.0, count)
    return tuple(
        (float(share), "#{:02x}{:02x}{:02x}".format(*_rgb(colour)))
        for share, colour in zip(shares, colormaps[name](shares), strict=True)
    )


def _png(values: NDArray[np.float64], low: float, high: float, colours: str) -> str:
    share = np.clip((np.nan_to_num(values) - low) / (high - low), 0.0, 1.0)
    pixels = np.rint(share * (_LEVELS - 1)).astype(np.uint8)
    pixels[~np.isfinite(values)] = _UNCOUNTED
    bands, frames = pixels.shape
    # Rows of a picture run from the top, bands of a mel from the bottom.
    image = Image.frombytes("P", (frames, bands), pixels[::-1].tobytes())
    image.putpalette(_palette(colours))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return _base64(file.getvalue())


@functools.cache
def _palette(colours: str) -> bytes:
    entries = [_rgb(colour) for colour in colormaps[colours](np.linspace(0.0, 1.0, _LEVELS))]
    return bytes(part for entry in (*entries, _GREY) for part in entry)


def _rgb(colour: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(part)) for part in colour[:3])
    return red, green, blue


def flac_player(waveform: Tensor, rate: int) -> Player:
    """Return a player of a waveform, `[samples]`, at a rate in Hz."""
    finite = bool(torch.isfinite(waveform).all())
    samples = torch.nan_to_num(waveform.detach().float().cpu(), nan=0.0, posinf=0.0, neginf=0.0)
    # Samples in integer units would be played as noise at full volume.
    peak = float(samples.abs().max())
    gain = 1.0 if peak <= 1.0 else 1.0 / peak
    file = io.BytesIO()
    soundfile.write(file, (samples * gain).numpy(), rate, format="FLAC", subtype="PCM_16")
    return Player(kind="audio/flac", data=_base64(file.getvalue()), gain=gain, finite=finite)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
