"""Does a loader give the samples of a file? Compare it with melcheck's own on files of all formats.

The reference is what `melcheck.audio` reads: the mean of the channels, at the file's rate or the
recipe's, whichever the loader says that it returns. Resampling without a filter and samples of a
rate that was ignored are recomputed from the file; everything else is named from the waveform.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor

from melcheck.audio import DecodedAudio, decode_audio, mix, resample
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.recipe_search.audio_readings import RATES
from melcheck.diagnosis.stage_handshake import (
    ClipResult,
    Pair,
    StageHandshake,
    changing,
    raised,
    rounded_alike,
    said,
    stage_verdict,
)
from melcheck.diagnosis.waveform_tests.direct import EXPLAINED, left
from melcheck.file_stages import Loader, adapt_loader
from melcheck.probe_clips import probe_files
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import CallableError, name_of

# So much of a longer file is compared; its length is compared in any case.
_COMPARED_SECONDS = 10.0
_LENGTH_SECONDS = 0.1
_LOSSY = (".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm")

# Resamplers agree below this share of what the lower rate can hold: soxr, scipy's two and
# torchaudio's with another kernel differ there by 0.6 % of a probe's level at most, and by 0.1 % of
# a recording's; packets that are resampled one by one by 0.5 % and more. Decoders of lossy files
# differ by more, and by their dither. A resampler keeps a constant, which is little of the level.
_COMMON_BAND = 0.7
_RESAMPLED_SHARE = 0.007
_LOSSY_SHARE = 0.05
_SAME_OFFSET = 2e-4
# Resamplers round the last sample up or down.
_SLACK_SAMPLES = 2

# A hypothesis that is recomputed leaves little, and much less than the file as it should be.
_RECOMPUTED_SHARE = 0.03


def handshake_loader(
    loader: Loader | Callable[..., Any],
    *,
    expected: MelRecipe = VOCOS,
    clips: Sequence[Path] = (),
) -> StageHandshake:
    """Read probe files, and clips, with a loader and compare its samples with the files'.

    Args:
        loader: Takes a path and returns a waveform, or (waveform, rate); or one that
            `melcheck.file_stages.load_loader` has adapted.
        expected: The recipe whose rate a waveform has that comes without one.
        clips: Files of one's own.

    Returns:
        The verdict. A different resampler, dither of 16 bits and probe files of formats that the
        loader refuses are harmless, and noted.

    Raises:
        CallableError: It cannot be called, or returns no waveform at all.
        FileNotFoundError: A clip that does not exist.
        AudioError: A clip that cannot be read by melcheck.
    """
    rate = expected.sample_rate
    ready = (
        loader
        if isinstance(loader, Loader)
        else adapt_loader(loader, name=name_of(loader), sample_rate=rate)
    )
    with tempfile.TemporaryDirectory() as folder:
        probes = probe_files(Path(folder), sample_rate=rate)
        results = [
            _compared(ready, path, expected, may_refuse=index > 0)
            for index, path in enumerate(probes)
        ]
    results += [_compared(ready, Path(path), expected, may_refuse=False) for path in clips]
    return stage_verdict("loader", ready.name, "the files' samples", results)


def _compared(
    loader: Loader, path: Path, recipe: MelRecipe, *, may_refuse: bool
) -> ClipResult | Pair:
    name = path.name
    try:
        given, returned_rate = loader(path)
        again, _ = loader(path)
    except CallableError as error:
        return raised(name, error, harmless=may_refuse)
    unlike = changing(name, "loader", given, again)
    if unlike is not None:
        return unlike
    claimed = recipe.sample_rate if returned_rate is None else returned_rate
    file = _File.read(path, recipe.sample_rate)
    if len(given) > 1:
        text = f"{len(given)} channels where one is expected"
        return ClipResult(name, said("loader", explanation("channels", text)))
    flat = given[0]
    for rate in dict.fromkeys((claimed, recipe.sample_rate, file.rate, *RATES)):
        like = file.alike(flat, rate)
        if like is None:
            continue
        if rate != claimed and returned_rate is not None:
            text = f"{claimed} Hz beside samples of {rate} Hz"
            return ClipResult(name, said("loader", explanation("header-rate", text)))
        if rate != claimed:
            text = f"{rate} Hz samples taken for {claimed} Hz"
            return ClipResult(name, said("loader", explanation("sample-rate", text)))
        if rate not in (recipe.sample_rate, file.rate):
            text = f"{rate} Hz, which is neither the file's rate nor the recipe's"
            return ClipResult(name, said("loader", explanation("sample-rate", text)))
        return like
    wanted = claimed if claimed in (recipe.sample_rate, file.rate) else recipe.sample_rate
    cause = file.recomputed(flat, wanted) or file.whole_length(flat, claimed)
    if cause is not None:
        return ClipResult(name, said("loader", cause))
    expected, channels = file.at(wanted), file.channels_at(wanted)
    return Pair(
        name,
        expected,
        flat[: len(expected)] if file.is_part else flat,
        sample_rate=wanted,
        estimate_rate=claimed,
        channels=channels if len(channels) > 1 else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A file as it is, of which at most `_COMPARED_SECONDS` are compared.

    Attributes:
        path: The file.
        decoded: Its channels at its own rate.
    """

    path: Path
    decoded: DecodedAudio

    @classmethod
    def read(cls, path: Path, rate: int) -> _File:
        return cls(path, decode_audio(MelCheckConfig(path, rate, _COMPARED_SECONDS)))

    @property
    def rate(self) -> int:
        return self.decoded.sample_rate

    @property
    def is_part(self) -> bool:
        return self.decoded.source_seconds > _COMPARED_SECONDS

    def at(self, rate: int) -> Tensor:
        """Return the mean of the channels at a rate, `[samples]`."""
        config = MelCheckConfig(self.path, rate, _COMPARED_SECONDS)
        return resample(mix(self.decoded), config).samples[0]

    def channels_at(self, rate: int) -> Tensor:
        """Return the channels at a rate, `[channels, samples]`."""
        return resample(self.decoded, MelCheckConfig(self.path, rate, _COMPARED_SECONDS)).samples

    def alike(self, given: Tensor, rate: int) -> ClipResult | None:
        """Return the result of samples that are the file's at a rate, up to what is harmless."""
        expected = self.at(rate)
        if self.is_part:
            if self.whole_length(given, rate) is not None:
                return None
            given = given[: len(expected)]
        if abs(len(expected) - len(given)) > _SLACK_SAMPLES:
            return None
        samples = min(len(expected), len(given))
        expected, given = expected[:samples], given[:samples]
        same = rounded_alike(self.path.name, "loader", expected, given)
        if same is not None:
            return same
        if rounded_alike(self.path.name, "loader", expected, -given) is not None:
            # No mel shows it, and no one hears it.
            inverted = explanation("polarity", "a factor of -1")
            return ClipResult(self.path.name, inverted, harmless=True)
        cause = self._harmless(expected.double(), given.double(), rate)
        if cause is None:
            return None
        return ClipResult(self.path.name, said("loader", cause), harmless=True)

    def _harmless(self, expected: Tensor, given: Tensor, rate: int) -> Explanation | None:
        """Explain what another resampler or decoder changes, or a delay of one sample."""
        offset = abs(float(expected.mean() - given.mean()))
        # A comparison, so that NaN is no explanation.
        if not offset <= _SAME_OFFSET:
            return None
        lossy = self.path.suffix.lower() in _LOSSY
        pair = torch.stack([expected, given])
        if rate != self.rate or lossy:
            spectra = torch.fft.rfft(pair)
            kept = _COMMON_BAND * min(self.rate, rate) / rate
            spectra[:, int(kept * spectra.shape[-1]) :] = 0
            pair = torch.fft.irfft(spectra, pair.shape[-1])
            rest = left(*pair)
            if rest <= (_LOSSY_SHARE if lossy else _RESAMPLED_SHARE):
                text = f"below the highest frequencies it differs by {rest:.2%} of the level"
                return explanation("resampler", text)
        for late, word in ((1, "late"), (-1, "early")):
            if left(pair[0][1:-1], pair[1].roll(-late)[1:-1]) <= _RESAMPLED_SHARE:
                return explanation("shifted", f"one sample {word}")
        return None

    def recomputed(self, given: Tensor, rate: int) -> Explanation | None:
        """Recompute from the file: channels in turn, rates on the way, crude resampling."""
        channels, source = self.decoded.samples, self.decoded.samples.mean(dim=0)
        if len(channels) > 1 and _is(channels.T.reshape(-1), given):
            return explanation(
                "channels",
                f"the samples of {len(channels)} channels in turn",
                title="several channels were read as one",
            )
        expected = self.at(rate)
        right = left(expected, given)
        for other in RATES:
            if other >= min(self.rate, rate) or len(given) != len(expected):
                continue
            there = torchaudio.functional.resample(expected, rate, other)
            back = torchaudio.functional.resample(there, other, rate)
            if left(back, given) < min(_RECOMPUTED_SHARE, right / 2):
                return explanation("band-limited", f"resampled to {other} Hz on the way")
        if self.rate == rate:
            return None
        if right > EXPLAINED and _is(source, given):
            text = f"the file's {self.rate} Hz samples taken for {rate} Hz"
            return explanation("sample-rate", text)
        for how, crude in _crude(source, self.rate, rate).items():
            near = abs(len(crude) - len(given)) <= _SLACK_SAMPLES
            if near and left(crude, given) < min(_RECOMPUTED_SHARE, right / 2):
                return explanation("aliasing", f"{how}, from {self.rate} Hz to {rate} Hz")
        return None

    def whole_length(self, given: Tensor, rate: int) -> Explanation | None:
        """Compare the length of a file of which only the start is compared."""
        whole = self.decoded.source_seconds
        if not self.is_part or abs(len(given) / rate - whole) <= _LENGTH_SECONDS:
            return None
        return explanation(
            "length",
            f"{len(given) / rate:.2f} s of the file's {whole:.2f} s",
            title="the waveform is longer or shorter than the file",
            fix="Look for trimming, cropping or padding in the loader.",
        )


def _is(source: Tensor, given: Tensor) -> bool:
    """Return whether the given samples are the first of the source, or all and then nothing."""
    samples = min(len(source), len(given))
    kept = given[:samples]
    if not bool(kept.any()) or bool(given[samples:].any()) or samples < len(source) // 4:
        return False
    return left(source[:samples], kept) < EXPLAINED


def _crude(source: Tensor, source_rate: int, rate: int) -> dict[str, Tensor]:
    """Return what resampling without a filter makes of samples: lines, steps, slices."""
    samples = round(len(source) * rate / source_rate)
    at = torch.arange(samples, dtype=torch.float64) * source_rate / rate
    low = at.floor().long().clamp(max=len(source) - 1)
    high = (low + 1).clamp(max=len(source) - 1)
    part = (at - low).to(source.dtype)
    interpolate = torch.nn.functional.interpolate
    found = {
        "a line between samples": (1 - part) * source[low] + part * source[high],
        "the sample before": source[low],
        "the nearest sample": source[at.round().long().clamp(max=len(source) - 1)],
    }
    for mode in ("linear", "nearest"):
        found[f"interpolate(mode={mode!r})"] = interpolate(
            source[None, None], size=samples, mode=mode
        )[0, 0]
    return found
