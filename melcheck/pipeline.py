"""Copy synthesis, the loop that melcheck checks: audio -> mel -> audio -> mel, with one vocoder.

Shapes, for Vocos at 24 kHz and a clip of 3.0 s:

    waveform                 [batch, samples]                  [1, 72000]
    mel                      [batch, n_mels, frames]           [1, 100, 282]
    reconstructed_waveform   [batch, (frames - 1) * 256]       [1, 71936]
    reconstructed_mel        [batch, n_mels, frames]           [1, 100, 282]
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from melcheck.audio import SAME_LENGTH_SECONDS, LoadedAudio, load_audio
from melcheck.clip_condition import narrow_hz, silent_start_seconds
from melcheck.config import MelCheckConfig
from melcheck.metrics import (
    STFT_WINDOW_LENGTHS,
    MelMetrics,
    compare,
    multi_resolution_stft_distance,
)
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import Vocoder, VocoderInfo
from melcheck.vocoders.load import load_vocoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
# A file of LJ Speech, at 22,050 Hz, reaches 0.92 of what Vocos' mel does and lacks nothing.
_NARROW = 0.9
_LONG_SILENCE_SECONDS = 0.5
_SMALL_PART = 0.1


@dataclass(frozen=True, slots=True)
class WholeFile:
    """Figures of a file that is too long to hold, of which a `RoundTrip` has a part.

    Attributes:
        metrics: Metrics of the whole, but for `frame_mae`, which is that of the part.
        waveform_distance: Multi-resolution STFT distance of the whole.
        num_samples: Samples of the whole.
        begin_seconds: Where the part begins.
    """

    metrics: MelMetrics
    waveform_distance: float
    num_samples: int
    begin_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class RoundTrip:
    """The waveforms and mels of one round trip.

    Attributes:
        waveform: Original waveform, `[batch, samples]`.
        mel: Its log-mel, `[batch, n_mels, frames]`, with `frames = recipe.frames(samples)`.
        reconstructed_waveform: Decoded mel, `[batch, recipe.num_samples(frames)]`: up to
            `hop_length - 1` samples shorter than `waveform`, by design.
        reconstructed_mel: Log-mel of the reconstructed waveform, `[batch, n_mels, frames]`.
        valid_samples: Number of samples of each item that are signal; the rest is padding.
        recipe: Recipe of the mels.
        vocoder: Name, source and hashes of the vocoder that decoded.
        device: Device of the computation.
        audio: File that `waveform` was read from; None where it came from elsewhere.
        whole: Figures of the whole file, where that is too long and the tensors hold a part of it.
    """

    waveform: Tensor
    mel: Tensor
    reconstructed_waveform: Tensor
    reconstructed_mel: Tensor
    valid_samples: tuple[int, ...]
    recipe: MelRecipe
    vocoder: VocoderInfo
    device: torch.device
    audio: LoadedAudio | None = None
    whole: WholeFile | None = None

    @property
    def checked_seconds(self) -> float:
        """How much of the first item was measured."""
        samples = self.valid_samples[0] if self.whole is None else self.whole.num_samples
        return samples / self.recipe.sample_rate

    @property
    def is_part(self) -> bool:
        """Whether the file of the first item is longer than what was measured of it."""
        seconds = 0.0 if self.audio is None else self.audio.source_seconds
        return seconds > self.checked_seconds + SAME_LENGTH_SECONDS

    @property
    def part(self) -> str:
        """Which seconds of a long file the tensors hold, in words; "" where they hold all."""
        if self.whole is None:
            return ""
        begin = self.whole.begin_seconds + (self.audio.begin_seconds if self.audio else 0.0)
        end = begin + self.valid_samples[0] / self.recipe.sample_rate
        return f"{begin:.1f} to {end:.1f} s of {self.checked_seconds:.1f} s"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know, for `melcheck.sanity.judge`."""
        notes: list[str] = []
        if self.whole is not None:
            told = "figures of the whole file, computed in chunks; pictures, audio and likely cause"
            notes.append(f"{told} of its worst part, {self.part}")
        if self.audio is None:
            return tuple(notes)
        rate, reach = self.audio.source_sample_rate, self.recipe.f_max
        if rate / 2 < _NARROW * reach:
            notes.append(
                f"the file has {rate:,} Hz, so nothing above {rate / 2:,.0f} Hz; the mel reaches "
                f"{reach:,.0f} Hz"
            )
        elif limit := narrow_hz(self.recipe.in_nats(self.mel[0]).cpu(), self.recipe):
            notes.append(
                f"nothing above {limit:,.0f} Hz is heard in it; the mel reaches {reach:,.0f} Hz"
            )
        silent = silent_start_seconds(self.waveform[0], self.recipe.sample_rate)
        if self.whole is None and silent > _LONG_SILENCE_SECONDS:
            notes.append(f"the first {silent:.2f} s of what was looked at are silent")
        if self.is_part and self.checked_seconds < _SMALL_PART * self.audio.source_seconds:
            of = f"{self.checked_seconds:.1f} of {self.audio.source_seconds:.1f} s"
            notes.append(f"only {of} were looked at")
        return (*notes, *self.audio.notes)

    @property
    def frame_mask(self) -> Tensor:
        """Which frames count, `[batch, frames]`: as many as the signal alone would have.

        With `center` those are the frames whose centre lies no later than the signal's end. A
        recipe whose `tail` is not "keep" gives the shorter waveform that was decoded one frame
        less; the last one then has nothing to be compared with, and is left out.
        """
        counted = torch.tensor([self.recipe.frames(valid) for valid in self.valid_samples])
        frames = torch.arange(self._common_frames)
        return (frames < counted[:, None]).to(self.mel.device)

    def metrics(self) -> tuple[MelMetrics, ...]:
        """Measure the reconstructed mel of each item against the original; padding stays out.

        Both are taken in nats, whatever the recipe: dB, log10 and a normalisation are undone.
        """
        if self.whole is not None:
            return (self.whole.metrics,)
        return compare(*self.mels_in_nats(), log_floor=self.recipe.floor_nats, mask=self.frame_mask)

    def mels_in_nats(self) -> tuple[Tensor, Tensor]:
        """Return both mels in nats, `[batch, n_mels, frames]`, with the frames of `frame_mask`."""
        mels = (mel[..., : self._common_frames] for mel in (self.mel, self.reconstructed_mel))
        reference, estimate = map(self.recipe.in_nats, mels)
        return reference, estimate

    @property
    def _common_frames(self) -> int:
        # A recipe that cuts the end, or a front end that gives a frame less, does so twice.
        frames, again = self.mel.shape[-1], self.reconstructed_mel.shape[-1]
        shorter = frames < self.recipe.frames(self.waveform.shape[-1])
        cut = self.recipe.tail != "keep" or shorter
        return again if cut and again == frames - 1 else frames

    def figure(self, item: int = 0, *, title: str = "") -> Figure:
        """Draw what the loop lost and added in one item, for a logger or `savefig`.

        See `melcheck.plots.difference_figure`.
        """
        from melcheck.plots import difference_figure  # matplotlib is slow to import

        return difference_figure(
            self.mel[item],
            self.reconstructed_mel[item],
            self.recipe,
            frame_mask=self.frame_mask[item].tolist(),
            title=title,
        )

    def waveform_distance(self) -> Tensor:
        """Return the multi-resolution STFT distance of each item's waveforms, `[batch]`.

        Window lengths longer than an item are left out for it; without any, it is NaN.
        """
        if self.whole is not None:
            return torch.tensor([self.whole.waveform_distance], dtype=torch.float64)
        return torch.cat([self._item_distance(item) for item in range(len(self.waveform))])

    def _item_distance(self, item: int) -> Tensor:
        samples = min(self.valid_samples[item], self.reconstructed_waveform.shape[-1])
        fitting = [length for length in STFT_WINDOW_LENGTHS if length <= samples]
        if not fitting:
            return torch.full((1,), torch.nan, dtype=torch.float64, device=self.device)
        return multi_resolution_stft_distance(
            self.waveform[item : item + 1],
            self.reconstructed_waveform[item : item + 1],
            window_lengths=fitting,
            num_samples=[samples],
        )


class MelPipeline:
    """Runs copy synthesis through one vocoder, on a file or on waveforms.

    Args:
        config: The audio file and how to read it; None for waveforms alone.
        vocoder: A name that `melcheck.vocoders.load.load_vocoder` knows ("embedded", "official",
            "griffin-lim", a directory, a hub id), or a vocoder that is already loaded.
        device: Where to run, for a vocoder given by name: "cpu", "cuda", "cuda:1".
        load: What reads the configured file: takes the configuration and `min_samples`, as
            `melcheck.audio.load_audio` does.

    Attributes:
        load: As given.
        vocoder: The loaded vocoder.
        recipe: The recipe of the vocoder's mels.
        device: Where everything runs.

    Raises:
        ValueError: `config.target_sr` is not the recipe's rate.
        VocoderError: The vocoder cannot be loaded.

    Example:
        >>> pipeline = MelPipeline(vocoder="embedded")
        >>> mel = pipeline.waveform2mel(torch.zeros(1, 72_000))
        >>> list(mel.shape), list(pipeline.mel2waveform(mel).shape)
        ([1, 100, 282], [1, 71936])
    """

    def __init__(
        self,
        config: MelCheckConfig | None = None,
        *,
        vocoder: str | os.PathLike[str] | Vocoder = "embedded",
        device: str | torch.device = "cpu",
        load: Callable[..., LoadedAudio] = load_audio,
    ) -> None:
        if config is not None and not isinstance(config, MelCheckConfig):
            raise TypeError(f"config must be a MelCheckConfig, got {config!r}.")
        if isinstance(vocoder, (str, os.PathLike)):
            vocoder = load_vocoder(vocoder, device=device)
        if config is not None and config.target_sr != vocoder.recipe.sample_rate:
            raise ValueError(
                f"target_sr must be {vocoder.recipe.sample_rate} Hz, the rate of the vocoder "
                f"{vocoder.info.name!r}, got {config.target_sr}. A mel of another rate is not the "
                "mel that it was trained on."
            )
        self._config = config
        self.load = load
        self.vocoder: Vocoder = vocoder
        self.recipe = vocoder.recipe
        # A tensor says "cuda:0" where a vocoder may say "cuda", and to torch the two differ.
        self.device = torch.empty(0, device=vocoder.device).device

    @property
    def config(self) -> MelCheckConfig:
        """The audio file and how to read it.

        Raises:
            ValueError: The pipeline was made without one.
        """
        if self._config is None:
            raise ValueError(
                "this pipeline has no file to read. Give it a waveform, or make it with one: "
                "MelPipeline(MelCheckConfig(PATH))."
            )
        return self._config

    def load_audio(self) -> Tensor:
        """Read the configured file.

        Returns:
            `[1, samples]`, float32, on the pipeline's device.

        Raises:
            FileNotFoundError: There is no such file.
            AudioError: It cannot be used, or is too short to have a mel.
        """
        return self._load(self.recipe.min_samples).waveform

    def waveform2mel(self, waveform: Tensor) -> Tensor:
        """Extract the log-mel through the vocoder's own feature extractor.

        Args:
            waveform: `[batch, samples]`, float32, on the pipeline's device.

        Returns:
            `[batch, n_mels, frames]` in nats, `frames = recipe.frames(samples)`.

        Raises:
            ValueError: Another shape, dtype or device, or fewer than `recipe.min_samples` samples.
        """
        self._check_tensor("waveform", waveform, "[batch, samples]", 2)
        self.recipe.frames(waveform.shape[-1])  # raises on a waveform that is too short
        return self.vocoder.encode(waveform)

    def mel2waveform(self, mel: Tensor) -> Tensor:
        """Decode a log-mel to a waveform.

        Args:
            mel: `[batch, n_mels, frames]`, float32, nats, on the pipeline's device.

        Returns:
            `[batch, recipe.num_samples(frames)]`, full scale +-1. It carries no gradient: Vocos
            decodes under `torch.inference_mode`. To train through it, call
            `pipeline.vocoder.model.backbone` and `.head`.

        Raises:
            ValueError: Another shape, dtype or device, or a vocoder that returns another length.
        """
        bands = self.recipe.n_mels
        self._check_tensor("mel", mel, f"[batch, {bands}, frames]", 3)
        if mel.shape[1] != bands:
            hint = (
                "It looks like [batch, frames, n_mels]: use mel.transpose(1, 2)."
                if mel.shape[2] == bands
                else f"The recipe has {bands} bands."
            )
            raise ValueError(f"mel must be [batch, {bands}, frames], got {list(mel.shape)}. {hint}")
        waveform = self.vocoder.decode(mel)
        expected = [mel.shape[0], self.recipe.num_samples(mel.shape[2])]
        if list(waveform.shape) != expected:
            raise ValueError(
                f"the vocoder {self.vocoder.info.name!r} must return {expected} for a mel of "
                f"{list(mel.shape)}, got {list(waveform.shape)}. Its padding or hop is not that of "
                "its feature extractor."
            )
        return waveform

    def round_trip(
        self, waveform: Tensor | None = None, *, valid_samples: Sequence[int] | None = None
    ) -> RoundTrip:
        """Run copy synthesis: audio -> mel -> audio -> mel.

        Args:
            waveform: `[batch, samples]`, on the pipeline's device; None reads the configured file.
            valid_samples: For each item of `waveform`, how many samples are signal; None means
                all. Frames after them stay out of the metrics.

        Raises:
            FileNotFoundError: The configured file does not exist.
            AudioError: The configured file cannot be used.
            ValueError: A waveform of another shape, dtype, device or length, or `valid_samples`
                that do not fit it.
        """
        audio = None
        if waveform is None:
            if valid_samples is not None:
                raise ValueError("valid_samples must be None when no waveform is given.")
            audio = self._load(self.recipe.min_round_trip_samples)
            waveform, valid_samples = audio.waveform, [audio.valid_samples]
        mel = self.waveform2mel(waveform)
        batch, samples = waveform.shape
        shortest = self.recipe.min_round_trip_samples
        if samples < shortest:
            raise ValueError(
                f"a waveform must have at least {shortest} samples for a round trip, got "
                f"{samples}: what is decoded from less is too short for a mel. Use a longer clip."
            )
        valid = (samples,) * batch if valid_samples is None else tuple(valid_samples)
        if len(valid) != batch or not all(shortest <= count <= samples for count in valid):
            raise ValueError(
                f"valid_samples must hold {batch} numbers from {shortest} to {samples}, "
                f"got {list(valid)}."
            )
        decoded = self.mel2waveform(mel)
        return RoundTrip(
            waveform=waveform,
            mel=mel,
            reconstructed_waveform=decoded,
            reconstructed_mel=self.waveform2mel(decoded),
            valid_samples=valid,
            recipe=self.recipe,
            vocoder=self.vocoder.info,
            device=self.device,
            audio=audio,
        )

    def _load(self, min_samples: int) -> LoadedAudio:
        audio = self.load(self.config, min_samples=min_samples)
        return dataclasses.replace(audio, waveform=audio.waveform.to(self.device))

    def _check_tensor(self, name: str, value: Tensor, shape: str, dimensions: int) -> None:
        if value.dim() != dimensions:
            hint = " Add the batch dimension with unsqueeze(0)." if value.dim() < dimensions else ""
            raise ValueError(f"{name} must be {shape}, got {list(value.shape)}.{hint}")
        if value.dtype != torch.float32:
            raise ValueError(
                f"{name} must be float32, got {value.dtype}. Convert it with .float(); integer "
                "samples must also be divided by their full scale."
            )
        if value.device != self.device:
            raise ValueError(
                f"{name} must be on {self.device}, got {value.device}. Move it with .to()."
            )
