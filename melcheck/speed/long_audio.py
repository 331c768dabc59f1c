"""Long audio round the loop, in memory that its length does not change: hours in chunks.

A chunk is some frames of the mel. It is encoded, decoded and encoded again together with as many
frames on each side as the vocoder looks (`melcheck.speed.chunked_decoding`) and the STFT reaches;
those are cut off. The chunks, one after the other, are what `MelPipeline.round_trip` makes of the
whole. The mel is equal to the bit; what is decoded, up to rounding: matrix products may sum in
another order where they are of another size. On the CPU that moved samples by 7.2e-6 at most in
chunks of 1 to 6 s, and the mel of them by 2e-5 nats in the mean; in chunks of 30 s, of 90 s of
speech, nothing.

Peak memory of the process, embedded vocoder, one thread, metrics included, 44.1 kHz on disk: 589
MiB for 30 s and 596 MiB for an hour, of which 543 are there before the first sample.

That is not taken on trust. Neighbouring chunks both compute the frames and samples at their seam,
and where the two disagree the vocoder looks farther than was thought, or the front end looks at the
whole clip: an error, not a figure.

What does grow with the audio is the error of each frame in the metrics: 14 MB for an hour.

The metrics of a mel that is too long to hold: what `melcheck.metrics.compare` says, in passing.

Pieces of the reference and of the estimate come one after the other, and only sums are kept, in
float64. Means and products of deviations are merged as T. F. Chan, G. H. Golub and R. J. LeVeque
do, so that a mean of -6 nats costs no digits, and equal the whole's to about 1e-12.

References:
    T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance: analysis
    and recommendations", The American Statistician 37(3), 1983, https://doi.org/10.2307/2683386.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.metrics import MelMetrics, band_mae, floor_share, frame_mae
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.recipes import MelRecipe
from melcheck.speed.audio_blocks import Stretch, audio_blocks
from melcheck.speed.chunked_decoding import chunk_decoder, context_frames
from melcheck.vocoders.base import VocoderInfo


class RunningMetrics:
    """Metrics of a mel against its reference, of which only a piece is there at a time.

    Args:
        log_floor: The smallest value of the recipe's log-mel (`MelRecipe.log_floor`), nats.

    Attributes:
        frames: How many have come.
    """

    def __init__(self, *, log_floor: float) -> None:
        self.frames = 0
        self._log_floor = log_floor
        self._frame_mae = array("d")
        # Summed over cells: |r - e|, (r - e)^2, r^2, cells at the floor of r and of e.
        self._sums = torch.zeros(5, dtype=torch.float64)
        self._band_sums = torch.zeros(0, dtype=torch.float64)
        # Of r and e: the mean, and the sums of products of deviations from it.
        self._mean = torch.zeros(2, dtype=torch.float64)
        self._deviations = torch.zeros(2, 2, dtype=torch.float64)
        # Of r, e and |r - e|.
        self._highest = torch.full((3,), -math.inf, dtype=torch.float64)
        self._lowest = torch.full((3,), math.inf, dtype=torch.float64)

    def update(self, reference: Tensor, estimate: Tensor) -> None:
        """Take the next piece in.

        Args:
            reference: Log-mel `[n_mels, frames]`, nats, at least one frame.
            estimate: The same shape.

        Raises:
            ValueError: Shapes that differ, or other bands than before.
        """
        bands = band_mae(reference, estimate)  # raises on shapes that do not fit
        if self.frames and bands.shape != self._band_sums.shape:
            raise ValueError(
                f"reference must have {len(self._band_sums)} bands as before, got {len(bands)}."
            )
        frames = reference.shape[-1]
        pair = torch.stack([reference, estimate]).double().flatten(1)
        error = (pair[0] - pair[1]).abs()
        shares = [floor_share(mel, log_floor=self._log_floor) for mel in (reference, estimate)]
        sums = [error.sum(), error.square().sum(), pair[0].square().sum()]
        sums += [share * len(error) for share in shares]
        self._sums += torch.stack(sums).cpu()

        self._merge_deviations(pair, before=self.frames * reference.shape[0])
        extremes = torch.cat([pair, error[None]])
        # Of torch: Python's max would let a NaN through.
        self._highest = torch.maximum(self._highest, extremes.amax(dim=-1).cpu())
        self._lowest = torch.minimum(self._lowest, extremes.amin(dim=-1).cpu())

        band_sums = bands.cpu() * frames
        self._band_sums = self._band_sums + band_sums if self.frames else band_sums
        self._frame_mae.extend(frame_mae(reference, estimate).tolist())
        self.frames += frames

    def result(self) -> MelMetrics:
        """Return the metrics of all that came.

        Raises:
            ValueError: Nothing came.
        """
        if not self.frames:
            raise ValueError("at least one frame must count, got none.")
        cells = self.frames * len(self._band_sums)
        mae, mse, power, *shares = (self._sums / cells).tolist()
        spread = self._deviations / cells
        constant = (self._highest == self._lowest)[:2].tolist()
        centred = _ratio_db(spread[0, 0].item(), mse)
        return MelMetrics(
            mae=mae,
            mse=mse,
            max_abs_diff=self._highest[2].item(),
            snr_db=_ratio_db(power, mse),
            pearson=self._pearson(spread, any(constant)),
            # The mean of equal numbers may miss them by a rounding error, which is no signal.
            centred_snr_db=-math.inf if constant[0] and math.isfinite(centred) else centred,
            reference_floor_share=shares[0],
            estimate_floor_share=shares[1],
            band_mae=tuple((self._band_sums / self.frames).tolist()),
            frame_mae=tuple(self._frame_mae),
        )

    def _merge_deviations(self, pair: Tensor, *, before: int) -> None:
        count = pair.shape[-1]
        mean = pair.mean(dim=-1)
        centred = pair - mean[:, None]
        deviations = (centred @ centred.T).cpu()
        step = mean.cpu() - self._mean
        self._deviations += deviations + torch.outer(step, step) * (before * count) / (
            before + count
        )
        self._mean += step * count / (before + count)

    def _pearson(self, spread: Tensor, constant: bool) -> float:
        if self._highest[2].item() == 0:
            return 1.0
        if constant:
            return math.nan
        deviation = spread.diagonal().sqrt()
        return (spread[0, 1] / (deviation[0] * deviation[1])).clamp(-1.0, 1.0).item()


def _ratio_db(signal: float, noise: float) -> float:
    # No noise at all is +inf, whatever the signal; a NaN stays one.
    if noise == 0:
        return math.inf
    if signal == 0 and not math.isnan(noise):
        return -math.inf
    return 10.0 * (math.log10(signal) - math.log10(noise))


# Chunks of 30 s leave a freed heap in pieces: for ten minutes 1.12 times the peak of half a minute,
# with chunks of 10 s 1.00 times. What is computed twice at their edges is 6 % with the embedded
# vocoder, 8 % with the official configuration.
_CHUNK_SECONDS = 10.0

# What neighbours may differ by where they overlap: of samples the most, of full scale; of mels the
# mean, nats. On the CPU the first is 2e-6 with a plain Vocos, up to 9.5e-4 with the embedded one,
# whose projections magnify rounding, and the second 0; 5 frames of context instead of the 29 that
# the official configuration needs were off by 0.015.
_SEAM_TOLERANCE = 5e-3


class SeamError(ValueError):
    """Two neighbouring chunks disagree where they overlap: the whole would be yet another."""


@dataclass(frozen=True, slots=True, eq=False)
class LongChunk:
    """A stretch of a round trip.

    Attributes:
        first_frame: Where its mel begins in the whole.
        trip: What `MelPipeline.round_trip` would say of this stretch within the whole. Its tensors
            follow those of the chunk before without gap or overlap. So its waveforms have a hop for
            each frame, where a clip of its own has a hop less.
        mel_seam: Mean absolute difference from the chunk before, where both have the mel; nats.
        waveform_seam: Largest difference from the chunk before, where both have decoded samples.
    """

    first_frame: int
    trip: RoundTrip
    mel_seam: float
    waveform_seam: float


@dataclass(frozen=True, slots=True)
class LongRoundTrip:
    """What is known of a long clip that went round the loop.

    Attributes:
        metrics: As `RoundTrip.metrics` has them, of the whole.
        frames: Of the mel.
        samples: Of the waveform that went in.
        seconds: The same in seconds.
        chunks: How many it was cut into.
        context: Frames on each side of a chunk that decoding looked at.
        mel_seam: The largest `LongChunk.mel_seam`, nats.
        waveform_seam: The largest `LongChunk.waveform_seam`.
        recipe: What the mels mean.
        vocoder: Which vocoder decoded.
    """

    metrics: MelMetrics
    frames: int
    samples: int
    seconds: float
    chunks: int
    context: int
    mel_seam: float
    waveform_seam: float
    recipe: MelRecipe
    vocoder: VocoderInfo


def long_round_trip(
    pipeline: MelPipeline,
    blocks: Iterable[Tensor] | None = None,
    *,
    chunk_seconds: float = _CHUNK_SECONDS,
    context: int | None = None,
    on_chunk: Callable[[LongChunk], object] | None = None,
) -> LongRoundTrip:
    """Take a long clip round the loop and measure it.

    Args:
        pipeline: The vocoder, and the file, which is read in blocks. Its `target_duration` of None
            means all of it.
        blocks: The waveform instead of the file: `[1, samples]` each, float32, at the recipe's
            rate, one after the other.
        chunk_seconds: How much is computed at a time. Memory grows with it.
        context: Frames on each side that decoding takes along; None for what the vocoder looks at.
        on_chunk: Receives each chunk, to draw it or write it.

    Raises:
        FileNotFoundError: The configured file does not exist.
        AudioError: It cannot be used.
        SeamError: Chunks disagree where they overlap.
        ValueError: A waveform of another shape, dtype or rate, or one that is too short; chunks
            shorter than a frame; no `context` for a vocoder of which it cannot be told.
    """
    context = context_frames(pipeline.vocoder) if context is None else context
    running = RunningMetrics(log_floor=pipeline.recipe.log_floor)
    chunks = samples = 0
    mel_seam = waveform_seam = 0.0
    for chunk in round_trip_chunks(pipeline, blocks, chunk_seconds=chunk_seconds, context=context):
        running.update(chunk.trip.mel[0], chunk.trip.reconstructed_mel[0])
        samples += chunk.trip.waveform.shape[-1]
        chunks += 1
        mel_seam = max(mel_seam, chunk.mel_seam)
        waveform_seam = max(waveform_seam, chunk.waveform_seam)
        if on_chunk is not None:
            on_chunk(chunk)
        del chunk  # before the next is computed
    return LongRoundTrip(
        metrics=running.result(),
        frames=running.frames,
        samples=samples,
        seconds=samples / pipeline.recipe.sample_rate,
        chunks=chunks,
        context=context,
        mel_seam=mel_seam,
        waveform_seam=waveform_seam,
        recipe=pipeline.recipe,
        vocoder=pipeline.vocoder.info,
    )


def round_trip_chunks(
    pipeline: MelPipeline,
    blocks: Iterable[Tensor] | None = None,
    *,
    chunk_seconds: float = _CHUNK_SECONDS,
    context: int | None = None,
) -> Iterator[LongChunk]:
    """Take a long clip round the loop chunk by chunk; arguments and errors of `long_round_trip`.

    Yields:
        The chunks, in order. All have as many frames, but for the last, which takes a rest that
        lies within the context along.
    """
    recipe, hop = pipeline.recipe, pipeline.recipe.hop_length
    chunk_frames = _chunk_frames(chunk_seconds, recipe)
    context = context_frames(pipeline.vocoder) if context is None else context
    if context < 0:
        raise ValueError(f"context must be a number of frames from 0 up, got {context}.")
    if blocks is None:
        blocks = audio_blocks(pipeline.config, min_samples=recipe.min_round_trip_samples)
    # Frames at an edge that see the padding instead of the neighbouring chunk.
    margin = recipe.pad_samples // hop + 1
    reach = context + margin
    decode = chunk_decoder(pipeline.vocoder)
    waveform = Stretch(blocks)
    seam = _Seam(recipe)
    first, total = 0, None
    while total is None or first < total:
        last = first + chunk_frames
        waveform.read_to((last + reach + margin) * hop)
        if waveform.ended:
            total = _total_frames(waveform.end, recipe)
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
        seams = seam.compare(mel, begin, back, back_from)

        stop = None if last == total else last * hop
        own = waveform.between(first * hop, stop).to(pipeline.device)
        trip = RoundTrip(
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
        del encoded, decoded, back
        yield LongChunk(first, trip, *seams)
        del trip, mel, again, own
        first = last
        waveform.forget(max(0, first - reach - margin) * hop)


def _chunk_frames(chunk_seconds: float, recipe: MelRecipe) -> int:
    frames = chunk_seconds * recipe.frames_per_second
    if not 1 <= frames < math.inf:
        raise ValueError(
            f"chunk_seconds must be finite and at least {1 / recipe.frames_per_second:.3g}, a "
            f"frame, got {chunk_seconds}."
        )
    return round(frames)


def _total_frames(samples: int, recipe: MelRecipe) -> int:
    shortest = recipe.min_round_trip_samples
    if samples < shortest:
        raise ValueError(
            f"a waveform must have at least {shortest} samples to go round, got {samples}: "
            "what is decoded from less is too short to have a mel. Use a longer clip."
        )
    return recipe.frames(samples)


class _Seam:
    """Holds the right end of a chunk against the left end of the next."""

    def __init__(self, recipe: MelRecipe) -> None:
        self._hop = recipe.hop_length
        self._mel = self._back = torch.zeros(0)
        self._begin = self._back_from = -1

    def compare(self, mel: Tensor, begin: int, back: Tensor, back_from: int) -> tuple[float, float]:
        """Return how far mels and decoded samples are from the chunk before, 0 for the first.

        Raises:
            SeamError: They are too far.
        """
        differences = (0.0, 0.0)
        if self._begin >= 0:
            before = self._mel[..., begin - self._begin :]
            sound = self._back[:, (back_from - self._back_from) * self._hop :]
            differences = (
                (before - mel[..., : before.shape[-1]]).abs().mean().item(),
                (sound - back[:, : sound.shape[-1]]).abs().max().item(),
            )
            for what, difference, cause in (
                ("mels", differences[0], "The front end must look at single frames alone"),
                ("waveforms", differences[1], "Give more context"),
            ):
                if difference > _SEAM_TOLERANCE:  # a NaN is left to the metrics
                    raise SeamError(
                        f"neighbouring chunks must have the same {what} where they overlap, got a "
                        f"difference of {difference:.3g} at frame {begin}. {cause}."
                    )
        self._mel, self._begin = mel, begin
        self._back, self._back_from = back, back_from
        return differences
