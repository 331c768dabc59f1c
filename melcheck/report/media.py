"""What a case of a report looks and sounds like, small enough for a page that carries it all.

A mel is drawn as it is, one pixel a cell, in a PNG with a palette: a browser scales it, and axes
are drawn around it. Sound is FLAC of 16 bit, mono, at the mel's rate, which loses nothing to the
ear and which every browser plays; `lossy` gives a smaller MP3.

Which pictures and which sound a page carries, so that it can be mailed and opens at once.

Everything is lossless as long as the page stays below its limit. Above it, what vocoders made
becomes MP3, then the originals; and then the clips that need the least attention go without.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Mapping
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
"""For pictures and sound in base64; the text of 200 clips takes another 3 MB."""


@dataclass(frozen=True, slots=True)
class ClipMedia:
    """What a page shows of one clip.

    Attributes:
        cases: Pictures and sound of each case.
        original: What went in, heard once for all of them; None for a clip without any.
    """

    cases: Mapping[Key, CaseMedia]
    original: Sound | None

    @property
    def size(self) -> int:
        """Bytes on the page."""
        total = 0 if self.original is None else len(self.original.data)
        for media in self.cases.values():
            pictures = (media.original, media.reconstructed, media.difference)
            total += sum(map(len, pictures)) + len(media.reconstructed_sound.data)
        return total


def fit(
    clips: Mapping[str, Iterable[CaseResult]],
    media: Mapping[Key, CaseMedia],
    *,
    limit: int = PAGE_BYTES,
) -> dict[str, ClipMedia]:
    """Return what to show of each clip, within `limit` bytes in all.

    Args:
        clips: The cases of each clip, the clips that matter most first.
        media: Pictures and sound of cases; those of some may be absent.
        limit: Bytes in base64.
    """
    shown = {}
    for clip, cases in clips.items():
        found = {case.key: media[case.key] for case in cases if case.key in media}
        first = next(iter(found.values()), None)
        shown[clip] = ClipMedia(found, None if first is None else first.original_sound)
    shrinking: tuple[Callable[[ClipMedia], ClipMedia], ...] = (_lossy_results, _lossy_original)
    for shrink in shrinking:
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
        key: dataclasses.replace(media, reconstructed_sound=lossy(media.reconstructed_sound))
        for key, media in clip.cases.items()
    }
    return ClipMedia(cases, clip.original)


def _lossy_original(clip: ClipMedia) -> ClipMedia:
    return ClipMedia(clip.cases, None if clip.original is None else lossy(clip.original))


DIFFERENCE_LIMIT = 2.0
"""Nats at the ends of the difference's scale, the same in all pictures, which can be compared.

Ten times the gate on the mean; what lies beyond takes the colour of the end.
"""

# A step of 0.15 nats in a mel that spans 19, of 0.03 in a difference. More levels show nothing more
# and take more bytes.
_LEVELS = 127
_UNCOUNTED = _LEVELS  # the palette's last entry: a cell that is not finite or does not count
_GREY = (150, 150, 150)

# Variable rate at its best quality: about 85 kbit/s for speech at 24 kHz.
_MP3_COMPRESSION = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A player's file.

    Attributes:
        kind: Its media type, "audio/flac" or "audio/mpeg".
        data: The file in base64.
        gain: What the samples were multiplied by to fit full scale; 1 where they fitted.
        finite: Whether every sample was a number; others are played as 0.
    """

    kind: str
    data: str
    gain: float
    finite: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseMedia:
    """Pictures and sound of one case, the files in base64.

    Attributes:
        frames: Width of the pictures.
        bands: Their height.
        original: PNG of the mel that went in.
        reconstructed: PNG of the mel that came back, on the same scale.
        difference: PNG of original minus reconstructed.
        mel_low: Lower end of the mels' scale, nats.
        mel_high: Upper end, nats.
        original_sound: What went in.
        reconstructed_sound: What came back.
    """

    frames: int
    bands: int
    original: str
    reconstructed: str
    difference: str
    mel_low: float
    mel_high: float
    original_sound: Sound
    reconstructed_sound: Sound


def case_media(trip: RoundTrip) -> CaseMedia:
    """Return the pictures and the sound of the first item of a round trip."""
    original, reconstructed = (
        mel[0].detach().double().cpu().numpy() for mel in (trip.mel, trip.reconstructed_mel)
    )
    counted = trip.frame_mask[0].cpu().numpy()
    # One scale for both: what the eye compares must mean the same on each side.
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
        original_sound=_flac(trip.waveform[0, : trip.valid_samples[0]], rate),
        reconstructed_sound=_flac(trip.reconstructed_waveform[0, : trip.valid_samples[0]], rate),
    )


def lossy(sound: Sound) -> Sound:
    """Return a sound as MP3 of variable rate, less than half the size of its FLAC.

    An encoder's delay of about 50 ms stands in the file's header, by which players cut it off.
    """
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound.data)), dtype="float32")
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
    return Sound(
        kind="audio/mpeg", data=_base64(file.getvalue()), gain=sound.gain, finite=sound.finite
    )


def colour_stops(name: str, count: int = 17) -> tuple[tuple[float, str], ...]:
    """Return `count` colours of a colour map as (share of the way, "#rrggbb")."""
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
    # A picture begins at its top, a mel with its lowest band.
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


def _flac(waveform: Tensor, rate: int) -> Sound:
    finite = bool(torch.isfinite(waveform).all())
    samples = torch.nan_to_num(waveform.detach().float().cpu(), nan=0.0, posinf=0.0, neginf=0.0)
    # Integers taken for full scale would be played as noise at full volume.
    peak = float(samples.abs().max())
    gain = 1.0 if peak <= 1.0 else 1.0 / peak
    file = io.BytesIO()
    soundfile.write(file, (samples * gain).numpy(), rate, format="FLAC", subtype="PCM_16")
    return Sound(kind="audio/flac", data=_base64(file.getvalue()), gain=gain, finite=finite)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
