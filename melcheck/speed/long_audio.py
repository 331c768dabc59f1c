"""The round trip of a file that is too long to hold, in chunks: memory does not grow with it.

A chunk is some frames of the mel. It is encoded, decoded and encoded again together with as many
frames on each side as the vocoder looks (`melcheck.speed.chunked_decoding`) and the STFT reaches;
those are cut off. The chunks, one after the other, are what `MelPipeline.round_trip` computes of
the whole: the mel to the bit, the decoded waveform up to rounding, since matrix products of another
size may sum in another order (`tests/speed/test_long_audio.py` has the figures).

Neighbouring chunks both compute the frames and samples at their seam. Where the two disagree, the
vocoder looks farther than assumed or the front end looks at the whole clip, which is an error.

Metrics are sums over the chunks, in float64, about the mean of the first chunk. Peak memory of an
hour, official configuration, was 1.05 times that of 30 s.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from melcheck.audio import LoadedAudio, last_second, load_audio, soundfile_name, source_part
from melcheck.audio_notes import file_notes, mended, sound_info
from melcheck.metrics import (
    STFT_WINDOW_LENGTHS,
    MelMetrics,
    band_mae,
    distance_of_sums,
    floor_share,
    stft_sums,
)
from melcheck.pipeline import MelPipeline, RoundTrip, WholeFile
from melcheck.speed.audio_blocks import Stretch, audio_blocks, is_long
from melcheck.speed.chunked_decoding import chunk_decoder, context_frames
from melcheck.vocoders.base import magnifies_rounding

# Larger chunks leave the freed heap in pieces; what is computed twice at the edges of these is 6 %
# with the embedded vocoder, 8 % with the official configuration.
_CHUNK_SECONDS = 10.0

# What neighbouring chunks may differ by where they overlap: mels in the mean (nats), decoded
# samples at most (full scale), or, with a head that magnifies rounding, their mels in the mean.
# `tests/speed/test_long_audio.py` has what was measured.
_MEL_SEAM = 5e-3
_SAMPLE_SEAM = 5e-3
_DECODED_MEL_SEAM = 1e-2


class SeamError(ValueError):
    """Two neighbouring chunks disagree where they overlap: the whole would differ from both."""


def round_trip_of_file(pipeline: MelPipeline) -> RoundTrip:
    """Return the round trip of the configured file: in chunks where it is long, else as a whole.

    The file is also computed as a whole where a loader of the user's reads it, and where it is
    unknown how far the vocoder looks, as for code of the user's.

    Raises:
        FileNotFoundError: The configured file does not exist.
        AudioError: It cannot be used.
        ValueError: As for `MelPipeline.round_trip` and `long_round_trip`.
    """
    if pipeline.load is not load_audio or not is_long(pipeline.config):
        return pipeline.round_trip()
    try:
        context = context_frames(pipeline.vocoder)
    except ValueError:
        return pipeline.round_trip()
    return long_round_trip(pipeline, chunk_seconds=_CHUNK_SECONDS, context=context)


def long_round_trip(
    pipeline: MelPipeline, *, context: int, chunk_seconds: float = _CHUNK_SECONDS
) -> RoundTrip:
    """Measure the configured file in chunks.

    Args:
        pipeline: The vocoder, and the file, which is read in blocks.
        context: Frames on each side that decoding a chunk takes along.
        chunk_seconds: How much is computed at a time, at least a frame.

    Returns:
        The round trip of the chunk with the largest error, by itself, whose `metrics` and
        `waveform_distance` are those of the whole.

    Raises:
        FileNotFoundError: The configured file does not exist.
        AudioError: It cannot be used.
        SeamError: Chunks disagree where they overlap.
        ValueError: The vocoder returns another length than the recipe gives.
    """
    running = RunningMetrics(log_floor=pipeline.recipe.floor_nats)
    distance = RunningDistance()
    samples, largest, worst = 0, -1.0, torch.zeros(1, 0)
    begin = 0
    found: dict[str, None] = {}
    for chunk in round_trip_chunks(
        pipeline, context=context, chunk_seconds=chunk_seconds, found=found
    ):
        mel, again = chunk.mels_in_nats()
        running.update(mel[0], again[0])
        distance.update(chunk.waveform[0], chunk.reconstructed_waveform[0])
        error = (mel - again).abs().mean().item()
        if math.isnan(error) or error > largest:  # after a NaN, no other error is larger
            largest, begin, worst = error, samples, chunk.waveform
        samples += chunk.waveform.shape[-1]
        del chunk, mel, again  # before the next is computed
    part = pipeline.round_trip(worst)
    metrics = running.result(frame_mae=part.metrics()[0].frame_mae)
    whole = WholeFile(metrics, distance.result(), samples, begin / pipeline.recipe.sample_rate)
    return dataclasses.replace(part, whole=whole, audio=_source(pipeline, worst, found))


def round_trip_chunks(
    pipeline: MelPipeline,
    *,
    context: int,
    chunk_seconds: float,
    found: dict[str, None] | None = None,
) -> Iterator[RoundTrip]:
    """Compute the configured file chunk by chunk; arguments and errors of `long_round_trip`.

    Yields:
        What `MelPipeline.round_trip` would give of each stretch within the whole. The tensors of a
        chunk follow those of the one before without gap or overlap, so that all waveforms but the
        last have a hop for each frame. All chunks have as many frames, but for the last, which
        takes along a rest that lies within the context.
    """
    recipe, hop = pipeline.recipe, pipeline.recipe.hop_length
    chunk_frames = round(chunk_seconds * recipe.frames_per_second)
    # Frames at an edge that see the padding instead of the neighbouring chunk.
    margin = recipe.pad_samples // hop + 1
    reach = context + margin
    decode = chunk_decoder(pipeline.vocoder)
    shortest = recipe.min_round_trip_samples
    waveform = Stretch(audio_blocks(pipeline.config, min_samples=shortest, found=found))
    seam = _Seam(pipeline)
    first, total = 0, None
    while total is None or first < total:
        last = first + chunk_frames
        waveform.read_to((last + reach + margin) * hop)
        if waveform.ended:
            total = recipe.frames(waveform.end)
            last = total if last + reach >= total else last
        begin, end = max(0, first - reach), last if last == total else last + reach

        mel_from = max(0, begin - margin)
        encoded = pipeline.waveform2mel(
            waveform.between(mel_from * hop, (end + margin) * hop).to(pipeline.device)
        )
        mel = encoded[..., begin - mel_from : end - mel_from]
        decoded = decode(mel, begin)
        expected = [1, recipe.num_samples(end - begin)]
        if list(decoded.shape) != expected:
            raise ValueError(
                f"the vocoder {pipeline.vocoder.info.name!r} must return {expected} for a mel of "
                f"{list(mel.shape)}, got {list(decoded.shape)}."
            )

        back_from = max(0, first - margin)
        back_to = None if last == total else (last + margin - begin) * hop
        back = decoded[:, (back_from - begin) * hop : back_to]
        again = pipeline.waveform2mel(back)[..., first - back_from :][..., : last - first]
        seam.check(mel, begin, back, back_from)

        stop = None if last == total else last * hop
        own = waveform.between(first * hop, stop).to(pipeline.device)
        yield RoundTrip(
            waveform=own,
            mel=mel[..., first - begin : last - begin],
            reconstructed_waveform=decoded[:, (first - begin) * hop :][
                :, : None if last == total else (last - first) * hop
            ],
            reconstructed_mel=again,
            valid_samples=(own.shape[-1],),
            recipe=recipe,
            vocoder=pipeline.vocoder.info,
            device=pipeline.device,
        )
        del encoded, decoded, back, mel, again, own
        first = last
        waveform.forget(max(0, first - reach - margin) * hop)


class RunningMetrics:
    """Metrics of a mel against its reference, of which only a piece is there at a time.

    Args:
        log_floor: The smallest value of the recipe's log-mel (`MelRecipe.log_floor`), nats.
    """

    def __init__(self, *, log_floor: float) -> None:
        self._frames = 0
        self._log_floor = log_floor
        self._band_sums = torch.zeros(())
        # Of r, e and |r - e|.
        self._highest = torch.full((3,), -math.inf, dtype=torch.float64)
        self._lowest = torch.full((3,), math.inf, dtype=torch.float64)
        # Sums about a value near the mean lose no digits: var x = mean x^2 - (mean x)^2.
        self._shift = torch.zeros(())
        self._sums = torch.zeros(9, dtype=torch.float64)

    def update(self, reference: Tensor, estimate: Tensor) -> None:
        """Add the next piece: log-mels of one shape, `[n_mels, frames]`, nats, at least a frame."""
        frames = reference.shape[-1]
        bands = band_mae(reference, estimate).cpu() * frames  # raises on shapes that do not fit
        self._band_sums = self._band_sums + bands if self._frames else bands
        pair = torch.stack([reference, estimate]).double().flatten(1)
        error = pair[0] - pair[1]
        if not self._frames:
            self._shift = pair[0].mean()
        x, y = pair - self._shift
        at_floor = [
            floor_share(mel, log_floor=self._log_floor) * len(error)
            for mel in (reference, estimate)
        ]
        products = [error.square(), pair[0].square(), x, y, x.square(), y.square(), x * y]
        self._sums += torch.stack([*(each.sum() for each in products), *at_floor]).cpu()
        # Of torch: Python's max would let a NaN through.
        extremes = torch.cat([pair, error.abs()[None]])
        self._highest = torch.maximum(self._highest, extremes.amax(dim=-1).cpu())
        self._lowest = torch.minimum(self._lowest, extremes.amin(dim=-1).cpu())
        self._frames += frames

    def result(self, *, frame_mae: tuple[float, ...] = ()) -> MelMetrics:
        """Return the metrics of all pieces, with the error of frames that is given.

        Raises:
            ValueError: There was no piece.
        """
        if not self._frames:
            raise ValueError("at least one frame must count, got none.")
        means = self._sums / (self._frames * len(self._band_sums))
        mse, power, x, y, xx, yy, xy, reference_floor, estimate_floor = means.tolist()
        band_means = self._band_sums / self._frames
        constant = (self._highest == self._lowest)[:2].tolist()
        spread = (xx - x * x, yy - y * y)
        pearson = math.nan
        if self._highest[2] == 0:
            pearson = 1.0
        elif not any(constant) and not math.isnan(mse):
            pearson = max(-1.0, min(1.0, (xy - x * y) / math.sqrt(spread[0] * spread[1])))
        return MelMetrics(
            mae=band_means.mean().item(),
            mse=mse,
            max_abs_diff=self._highest[2].item(),
            snr_db=_ratio_db(power, mse),
            pearson=pearson,
            centred_snr_db=_ratio_db(0.0 if constant[0] else spread[0], mse),
            reference_floor_share=reference_floor,
            estimate_floor_share=estimate_floor,
            band_mae=tuple(band_means.tolist()),
            frame_mae=frame_mae,
        )


class RunningDistance:
    """Multi-resolution STFT distance of two waveforms that come in pieces."""

    def __init__(self) -> None:
        self._held = {length: torch.zeros(2, 0) for length in STFT_WINDOW_LENGTHS}
        self._sums = {length: torch.zeros(4, dtype=torch.float64) for length in STFT_WINDOW_LENGTHS}

    def update(self, reference: Tensor, estimate: Tensor) -> None:
        """Add the next piece, `[samples]` each; the longer is cut, as only the last may differ."""
        common = min(len(reference), len(estimate))
        pair = torch.stack([reference[:common], estimate[:common]]).cpu()
        for length, before in self._held.items():
            held = torch.cat([before, pair], dim=-1)
            hop = length // 4
            frames = max(0, (held.shape[-1] - length) // hop + 1)
            if frames:
                reference, estimate = held[:, : length + (frames - 1) * hop]
                self._sums[length] += stft_sums(reference, estimate, length)
            self._held[length] = held[:, frames * hop :].clone()

    def result(self) -> float:
        """Return the distance; window lengths that did not fit are left out, NaN without any."""
        fitting = [sums for sums in self._sums.values() if sums[3]]
        return distance_of_sums(torch.stack(fitting)).item() if fitting else math.nan


class _Seam:
    """Compares the right end of a chunk with the left end of the next."""

    def __init__(self, pipeline: MelPipeline) -> None:
        self._pipeline = pipeline
        self._mel = self._back = torch.zeros(0)
        self._begin = self._back_from = -1

    def check(self, mel: Tensor, begin: int, back: Tensor, back_from: int) -> None:
        """Compare with the chunk before, if there is one.

        Raises:
            SeamError: The two differ where they overlap.
        """
        if self._begin >= 0:
            hop = self._pipeline.recipe.hop_length
            mels = self._mel[..., begin - self._begin :]
            mel_gap = (mels - mel[..., : mels.shape[-1]]).abs().mean().item()
            before = self._back[:, (back_from - self._back_from) * hop :]
            decoded_gap, allowed = self._decoded_gap(before, back[:, : before.shape[-1]])
            for what, gap, limit, fix in (
                ("mels", mel_gap, _MEL_SEAM, "the front end depends on the whole clip"),
                ("decoded audio", decoded_gap, allowed, "the vocoder needs more context"),
            ):
                if gap > limit:  # a NaN is left to the metrics
                    raise SeamError(
                        f"neighbouring chunks must have the same {what} where they overlap, got a "
                        f"difference of {gap:.3g} at frame {begin}: {fix}. Check a shorter part, "
                        "which is computed as a whole."
                    )
        self._mel, self._begin = mel, begin
        self._back, self._back_from = back, back_from

    def _decoded_gap(self, before: Tensor, now: Tensor) -> tuple[float, float]:
        """Return how far two decodings of one stretch differ, and how far they may."""
        if not magnifies_rounding(self._pipeline.vocoder):
            return (before - now).abs().max().item(), _SAMPLE_SEAM
        mels = [self._pipeline.waveform2mel(each) for each in (before, now)]
        return (mels[0] - mels[1]).abs().mean().item(), _DECODED_MEL_SEAM


def _source(pipeline: MelPipeline, waveform: Tensor, found: dict[str, None]) -> LoadedAudio:
    config = pipeline.config
    info = sound_info(config.audio_path)
    part = source_part(config.audio_path, info.samplerate, config, info.frames)
    end = last_second(config, part.begin_seconds)
    notes = file_notes(config.audio_path, rate=info.samplerate, seconds=end)
    return LoadedAudio(
        waveform=waveform,
        sample_rate=pipeline.recipe.sample_rate,
        valid_samples=waveform.shape[-1],
        source_sample_rate=info.samplerate,
        source_channels=info.channels,
        source_seconds=info.duration,
        decoder=soundfile_name(),
        notes=(*mended(found), *notes),
        begin_seconds=part.begin_seconds,
    )


def _ratio_db(signal: float, noise: float) -> float:
    # No noise at all is +inf, whatever the signal; a NaN stays one.
    if noise == 0:
        return math.inf
    if signal == 0 and not math.isnan(noise):
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))
