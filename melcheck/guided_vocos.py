"""The two parts of the embedded vocoder that Vocos does not have: its head sees the mel.

Vocos predicts magnitude and phase of every STFT cell from features alone, and sounds what comes
out. A vocoder of a fifth of its size loses most of the mel in two places: its magnitudes do not add
up to the bands that it was given, and its phases are inconsistent (overlapping windows share
samples, so most arrays `[bins, frames]` are the STFT of no sound; inverting one changes the
magnitudes). Both can be computed rather than learned:

- The backbone hands the mel on, and the head begins with magnitudes that have this mel. What the
  network predicts is multiplied to them: the fine structure that bands do not show.
- Before it sounds, the head repairs the phases by the step that Griffin and Lim iterate: to sound,
  back to the STFT, keep its phase and return to the predicted magnitude. Each step carries some
  momentum, whose size is trained.

All is trained through: the gradient passes the steps. The steps never touch a magnitude, so that
damage to the weights still shows in the mel.

References:
    H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814: the classes extended here.
    D. Griffin and J. Lim, "Signal estimation from modified short-time Fourier transform", IEEE
    Trans. ASSP 32(2), 1984, https://doi.org/10.1109/TASSP.1984.1164317: the step.
    N. Perraudin, P. Balazs and P. Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013,
    https://doi.org/10.1109/WASPAA.2013.6701851: the momentum.
    D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000: the
    multiplicative update, by which magnitudes stay positive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.overlap import analyse, overlap_add, synthesise, with_phase_of
from melcheck.recipes import MelRecipe, filterbank

__all__ = ["GuidedBackbone", "GuidedISTFTHead"]

# As in ISTFTHead, where it keeps an untrained model from overflowing.
_MAX_MAGNITUDE = 1e2
_INITIAL_MOMENTUM = 0.8
# A small first prediction: training begins at Griffin and Lim's result, not at noise.
_INITIAL_STD = 2e-3
# Powers of the updates of the first magnitudes towards the mel: two, the first over-relaxed.
# Measured on five LJ Speech clips without a network, eight steps: MAE 0.137 with powers (1, 1),
# 0.127 with (2, 1), 0.126 with four of power 1.
_UPDATE_POWERS = (2, 1)
# Rounding must not decide where a peak is, since sums over time never forget it. Neighbours closer
# # than this, in nats, are equally high: a tone between two bins has its frequency from both. Where
# three log-magnitudes bend less than this (a tone under a Hann window has -1.39) there is no peak:
# above the centre of the last band, for one, all bins are alike.
_EQUAL = 1e-4
_LEAST_BEND = 0.02
_AT_THE_FLOOR = 1e-3  # nats above the floor; stored in 16 bits, -16.118 is -16.125
# Below any magnitude that sound in [-1, 1] has: it only keeps divisions finite.
_TINY = 1e-7


class GuidedBackbone(VocosBackbone):  # type: ignore[misc]  # vocos is untyped
    """A `VocosBackbone` that hands its input on beside its features."""

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Compute the features of a log-mel.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, dim + n_mels]`
        """
        features: Tensor = super().forward(x, **kwargs)
        return torch.cat([features, x.transpose(1, 2)], dim=-1)


class GuidedISTFTHead(ISTFTHead):  # type: ignore[misc]  # vocos is untyped
    """An `ISTFTHead` that starts from the mel and makes its phases consistent.

    All of `ISTFTHead`'s weights and buffers keep their names; `momentum` is added.

    Args:
        dim: Size of the features, without the mel.
        n_fft: Of the STFT; the window is a periodic Hann of this length.
        hop_length: A divisor of `n_fft`, at most half of it.
        padding: "center" is the only one that the steps are written for.
        sample_rate: Of the mel, in Hz.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        num_steps: Of consistency.

    Raises:
        ValueError: Another padding, or a hop that does not divide the window.
    """

    def __init__(
        self,
        dim: int,
        n_fft: int,
        hop_length: int,
        padding: str,
        sample_rate: int,
        n_mels: int,
        num_steps: int,
    ) -> None:
        if padding != "center":
            raise ValueError(f"padding must be 'center', got {padding!r}. Use vocos' ISTFTHead.")
        if n_fft % hop_length or n_fft < 2 * hop_length:
            raise ValueError(
                f"hop_length must divide n_fft at least twice, got {hop_length} and {n_fft}."
            )
        super().__init__(dim, n_fft, hop_length, padding)
        nn.init.trunc_normal_(self.out.weight, std=_INITIAL_STD)
        nn.init.zeros_(self.out.bias)
        self.dim = dim
        self.hop_length = hop_length
        self.num_steps = num_steps
        # The first step has no earlier one to take momentum from.
        self.momentum = nn.Parameter(torch.full((max(num_steps - 1, 0),), _INITIAL_MOMENTUM))
        recipe = MelRecipe(
            sample_rate=sample_rate,
            n_fft=n_fft,
            win_length=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_max=sample_rate / 2,
        )
        self.log_floor = recipe.log_floor
        filters = filterbank(recipe)
        self.register_buffer("filters", filters, persistent=False)
        # A bin's first magnitude is the mean of its bands' mean magnitudes, by the filters' weight.
        # The first and the last bin belong to no band: they take half of their neighbour.
        spread = filters / filters.sum(dim=1, keepdim=True).clamp(min=_TINY) / filters.sum(dim=0)
        spread[0], spread[-1] = spread[1] / 2, spread[-2] / 2
        self.register_buffer("spread", spread, persistent=False)

    def forward(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Turn features and mel into sound; `start` as for `advancing_phase`.

        Shape:
            `[batch, frames, dim + n_mels]` -> `[batch, (frames - 1) * hop_length]`
        """
        return self.to_sound(self.final_spectrum(x, start)) * self.audible(x[..., self.dim :])

    def final_spectrum(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the complex spectrum after all steps, `[batch, frames, n_fft // 2 + 1]`."""
        magnitude, spectrum = self.spectrum(x, start)
        audible = self.audible(x[..., self.dim :])
        if not torch.is_grad_enabled():
            return self._refine_in_place(magnitude, spectrum, audible)
        return self.refine(magnitude, spectrum, audible)[0]

    def audible(self, mel: Tensor) -> Tensor:
        """Return which samples may sound: 0 where the mel says that there is digital silence.

        A frame whose bands are all at the floor has nothing in its window, so that every sample
        which it reaches is 0, whatever the neighbouring frames would spill into it.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, (frames - 1) * hop_length]`, of 0 and 1
        """
        silent = (mel <= self.log_floor + _AT_THE_FLOOR).all(dim=-1).to(mel.dtype)
        # Frame t reaches the hops from t - reach to t + reach - 1, counted by where they begin.
        reach = self.istft.n_fft // 2 // self.hop_length
        padded = nn.functional.pad(silent[:, None], (reach - 1, reach))
        hops = nn.functional.max_pool1d(padded, 2 * reach, stride=1)[:, 0, : mel.shape[1] - 1]
        return (1 - hops).repeat_interleave(self.hop_length, dim=-1)

    def spectrum(self, x: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return magnitude and complex spectrum before any step, both `[batch, frames, bins]`."""
        features, mel = x[..., : self.dim], x[..., self.dim :]
        log_detail, phase = self.out(features).chunk(2, dim=-1)
        smooth = self.magnitude(mel)
        magnitude = torch.clip(smooth * torch.exp(log_detail), max=_MAX_MAGNITUDE)
        return magnitude, torch.polar(magnitude, phase + self.advancing_phase(smooth, start))

    @torch.no_grad()
    def advancing_phase(self, magnitude: Tensor, start: Tensor | None = None) -> Tensor:
        """Return phases that advance from frame to frame as steady tones at the peaks would.

        A tone of f bins turns by 2 pi f hop / n_fft in a hop, at all bins of its lobe alike, and a
        symmetric window makes neighbours in the lobe half a turn apart. So each bin follows the
        nearest local maximum, whose f comes from the parabola through three log-magnitudes; turns
        are summed over time at the peak, and its lobe takes them from there (phase locking). Half a
        turn a bin is counted from bin 0, so that a peak which moves by a bin takes its phase along.

        Args:
            magnitude: `[batch, frames, bins]`.
            start: `[batch, bins]`, float64: the turns up to the first frame, of a sound that began
                earlier; None where it begins here.

        Returns:
            `[batch, frames, bins]`, in radians.
        """
        turns, nearest = self.turns(magnitude)
        total = nn.functional.pad(turns[:, 1:].double().cumsum(dim=1), (0, 0, 1, 0))
        if start is not None:
            total = total + start[:, None]
        # Whole turns are dropped before rounding, so that a long sound keeps its precision.
        total = torch.remainder(total, 1.0).to(magnitude.dtype)
        bins = torch.arange(magnitude.shape[-1], device=magnitude.device)
        return 2 * torch.pi * total.gather(-1, nearest) + torch.pi * bins

    @torch.no_grad()
    def turns(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Return by what each bin turns up to each frame, and the peak that it follows.

        Shape:
            `[batch, frames, bins]` -> twice the same: turns of that one hop, and bins
        """
        bins = torch.arange(magnitude.shape[-1], device=magnitude.device)
        level = torch.log(magnitude)
        low, middle, high = level[..., :-2], level[..., 1:-1], level[..., 2:]
        bend = low - 2 * middle + high
        highest = middle > torch.maximum(low, high) - _EQUAL
        peak = nn.functional.pad(highest & (bend < -_LEAST_BEND), (1, 1))
        offset = (0.5 * (low - high) / bend.clamp(max=-_LEAST_BEND)).clamp(-0.5, 0.5)
        frequency = bins + nn.functional.pad(offset, (1, 1))
        last = len(bins) - 1
        below = torch.where(peak, bins, -last).cummax(dim=-1).values
        above = torch.where(peak, bins, 2 * last).flip(-1).cummin(dim=-1).values.flip(-1)
        nearest = torch.where(bins - below <= above - bins, below, above).clamp(0, last)
        return frequency.gather(-1, nearest) * (self.hop_length / self.istft.n_fft), nearest

    def magnitude(self, mel: Tensor) -> Tensor:
        """Return smooth positive magnitudes that come close to having this log-mel.

        mel = S F for magnitudes S and filters F. The update S <- S * (F r) / (F 1), with r the
        ratio of the wanted bands to those of S, lowers the divergence of the two at every turn and
        keeps S positive; its square, a longer step the same way, gets there sooner.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, frames, n_fft // 2 + 1]`
        """
        filters: Tensor = self.filters
        bands = torch.exp(mel)
        spread: Tensor = self.spread
        magnitude: Tensor = bands @ spread.T + _TINY
        reach = filters.sum(dim=1).clamp(min=_TINY)
        # Bins outside of every filter have nothing to be corrected by.
        unheard = (filters.sum(dim=1) < _TINY).to(mel.dtype)
        for power in _UPDATE_POWERS:
            ratio = bands / (magnitude @ filters + _TINY)
            update = (ratio @ filters.T) / reach + unheard
            magnitude = magnitude * update**power
        return magnitude

    def refine(
        self, magnitude: Tensor, spectrum: Tensor, audible: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Make the steps from a spectrum, its magnitude, and what `audible` says.

        Returns:
            The spectrum after the last step, and the STFT that the given one has after a single
            projection; None where no step was made. The edges are mirrored for the steps, as the
            extractor mirrors them, which takes more than `n_fft // 2` samples: a shorter sound is
            decoded without steps.
        """
        first = previous = None
        if not self._can_mirror(spectrum):
            return spectrum, None
        share = audible / self._weight(spectrum.shape[1])
        for step in range(self.num_steps):
            consistent = ahead = self.to_spectrum(self._overlapped(spectrum) * share)
            if previous is None:
                first = consistent
            else:
                ahead = _beyond(previous, consistent, self.momentum[step - 1])
            previous = consistent
            spectrum = with_phase_of(ahead, magnitude)
        return spectrum, first

    def _refine_in_place(self, magnitude: Tensor, spectrum: Tensor, audible: Tensor) -> Tensor:
        """Make the steps of `refine` in `spectrum` itself and in arrays that every step uses again.

        Half of the time of a step is otherwise the kernel's, which hands out fresh pages.
        """
        if not self._can_mirror(spectrum):
            return spectrum
        window: Tensor = self.istft.window
        edge = len(window) // 2
        share = audible / self._weight(spectrum.shape[1])
        frames = magnitude.new_empty(*spectrum.shape[:2], len(window))
        pair = torch.empty_like(spectrum), torch.empty_like(spectrum)
        for step in range(self.num_steps):
            previous, consistent = pair[(step + 1) % 2], pair[step % 2]
            torch.fft.irfft(spectrum, len(window), out=frames)
            sound = overlap_add(frames.mul_(window), self.hop_length)[:, edge:-edge].mul_(share)
            torch.mul(
                self._mirrored(sound).unfold(-1, len(window), self.hop_length), window, out=frames
            )
            torch.fft.rfft(frames, out=consistent)
            ahead = consistent
            if step:
                momentum = self.momentum[step - 1]
                ahead = _beyond(previous, consistent, momentum, out=spectrum)
            torch.sgn(ahead, out=spectrum).mul_(magnitude)
        return spectrum

    def _can_mirror(self, spectrum: Tensor) -> bool:
        edge: int = self.istft.n_fft // 2
        return (spectrum.shape[1] - 1) * self.hop_length > edge

    def to_sound(self, spectrum: Tensor) -> Tensor:
        """Invert the STFT by weighted overlap-add: the least-squares sound (Griffin and Lim).

        Shape:
            `[batch, frames, n_fft // 2 + 1]` -> `[batch, (frames - 1) * hop_length]`
        """
        return self._overlapped(spectrum) / self._weight(spectrum.shape[1])

    def _overlapped(self, spectrum: Tensor) -> Tensor:
        window: Tensor = self.istft.window
        edge = len(window) // 2
        return synthesise(spectrum, window, self.hop_length)[:, edge:-edge]

    def _weight(self, num_frames: int) -> Tensor:
        # Where windows overlap in full, the sum of their squares is constant up to rounding; at the
        # two edges it is not.
        window: Tensor = self.istft.window
        edge = len(window) // 2
        squares = window.square().expand(1, num_frames, len(window))
        return overlap_add(squares, self.hop_length)[:, edge:-edge]

    def to_spectrum(self, sound: Tensor) -> Tensor:
        """Transform sound as the mel's extractor does: centred frames, mirrored edges.

        Shape:
            `[batch, samples]` -> `[batch, 1 + samples // hop_length, n_fft // 2 + 1]`
        """
        window: Tensor = self.istft.window
        return analyse(self._mirrored(sound), window, self.hop_length)

    def _mirrored(self, sound: Tensor) -> Tensor:
        edge = self.istft.n_fft // 2
        return nn.functional.pad(sound[:, None], (edge, edge), mode="reflect")[:, 0]


def _beyond(
    previous: Tensor, current: Tensor, momentum: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """Return `current + momentum * (current - previous)`, in one pass over both."""
    pairs = torch.view_as_real(previous), torch.view_as_real(current)
    target = None if out is None else torch.view_as_real(out)
    return torch.view_as_complex(torch.lerp(*pairs, 1 + momentum, out=target))
