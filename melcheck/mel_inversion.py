"""A mel turned back into a spectrum without any training: what a small network can be spared.

Phases begin as those of steady tones at the mel's peaks. Then two sets are projected on in turn:
the spectra that a sound has, and those that have this mel.

Shapes: mels `[batch, frames, n_mels]`, spectra `[batch, frames, n_fft // 2 + 1]`, sounds
`[batch, (frames - 1) * hop_length]`.

References:
    D. Griffin and J. Lim, "Signal estimation from modified short-time Fourier transform", IEEE
    Trans. ASSP 32(2), 1984, https://doi.org/10.1109/TASSP.1984.1164317: the first projection.
    N. Perraudin, P. Balazs and P. Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013,
    https://doi.org/10.1109/WASPAA.2013.6701851: the momentum.
    D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000: the
    multiplicative update, by which magnitudes come nearer to a mel and stay positive.
    M. Puckette, "Phase-locked vocoder", WASPAA 1995, https://doi.org/10.1109/ASPAA.1995.482995:
    bins that follow their peak.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from melcheck.overlap import analyse, overlap_add, synthesise
from melcheck.recipes import MelRecipe, filterbank

__all__ = ["MelInversion"]

# Measured on LJ Speech, six projections, no network: MAE 0.101 with 0.9 or 1.1, 0.110 with 1.3,
# 0.111 with 0.5.
_PROJECTION_MOMENTUM = 0.9
# Rounding must not decide where a peak is, since sums over time never forget it. Neighbours closer
# than this, in nats, are equally high: a tone between two bins has its frequency from both. Where
# three log-magnitudes bend less than this (a tone under a Hann window has -1.39) there is no peak:
# above the centre of the last band, for one, all bins are alike.
_EQUAL = 1e-4
_LEAST_BEND = 0.02
_AT_THE_FLOOR = 1e-3  # nats above the floor; stored in 16 bits, -16.118 is -16.125
# Below any magnitude that sound in [-1, 1] has: it only keeps divisions finite.
_TINY = 1e-7


class MelInversion(nn.Module):
    """Finds a spectrum that nearly is one of a sound, and nearly has a given log-mel.

    Args:
        sample_rate: Of the mel, in Hz.
        n_fft: Of the STFT; the window is a periodic Hann of this length, the frames are centred.
        hop_length: A divisor of `n_fft`, at most half of it.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        num_projections: On each of the two sets.

    Raises:
        ValueError: A hop that does not divide the window.
    """

    window: Tensor
    filters: Tensor
    spread: Tensor

    def __init__(
        self, *, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, num_projections: int
    ) -> None:
        if n_fft % hop_length or n_fft < 2 * hop_length:
            raise ValueError(
                f"hop_length must divide n_fft at least twice, got {hop_length} and {n_fft}."
            )
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.num_projections = num_projections
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
        # A bin's first magnitude is the mean of its bands' mean magnitudes, by the filters' weight.
        # The first and the last bin belong to no band: they take half of their neighbour.
        spread = filters / filters.sum(dim=1, keepdim=True).clamp(min=_TINY) / filters.sum(dim=0)
        spread[0], spread[-1] = spread[1] / 2, spread[-2] / 2
        # None of it is stored with the weights: the recipe says it all.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("spread", spread, persistent=False)

    @torch.no_grad()
    def forward(self, mel: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return magnitudes and phases for a log-mel; no gradient passes through.

        A projection is to sound and back to the STFT, whose phases are kept, and whose magnitudes
        are multiplied by what their bands lack. The edges of a sound are mirrored, as the
        extractor mirrors them, which takes more than `n_fft // 2` samples: for a shorter one the
        first guess is returned.

        Args:
            mel: `[batch, frames, n_mels]`.
            start: As for `advancing_phase`.

        Returns:
            Magnitudes, and the phases as complex numbers of magnitude 1 (0 where there is none).
        """
        bands = torch.exp(mel)
        magnitude = self.magnitude(mel)
        direction = torch.polar(torch.ones_like(magnitude), self.advancing_phase(magnitude, start))
        if (mel.shape[1] - 1) * self.hop_length <= self.n_fft // 2:
            return magnitude, direction
        window, edge = self.window, self.n_fft // 2
        share = self.audible(mel) / self._weight(mel.shape[1])
        # Every turn uses the same arrays: fresh ones cost as much as the arithmetic.
        frames = magnitude.new_empty(*magnitude.shape[:2], len(window))
        pair = torch.empty_like(direction), torch.empty_like(direction)
        for turn in range(self.num_projections):
            previous, consistent = pair[(turn + 1) % 2], pair[turn % 2]
            torch.fft.irfft(direction.mul_(magnitude), len(window), out=frames)
            sound = overlap_add(frames.mul_(window), self.hop_length)[:, edge:-edge].mul_(share)
            torch.mul(
                self._mirrored(sound).unfold(-1, len(window), self.hop_length), window, out=frames
            )
            torch.fft.rfft(frames, out=consistent)
            torch.mul(consistent.real, consistent.real, out=magnitude)
            magnitude.addcmul_(consistent.imag, consistent.imag).sqrt_().add_(_TINY)
            magnitude.mul_(self._lacking(bands, magnitude))
            ahead = consistent
            if turn:
                ahead = torch.lerp(
                    torch.view_as_real(previous),
                    torch.view_as_real(consistent),
                    1 + _PROJECTION_MOMENTUM,
                    out=torch.view_as_real(direction),
                )
                ahead = torch.view_as_complex(ahead)
            torch.sgn(ahead, out=direction)
        return magnitude, direction

    def _lacking(self, bands: Tensor, magnitude: Tensor) -> Tensor:
        """Return the factors by which bins come nearer to having these bands.

        The mel is S F for magnitudes S and filters F. The update S <- S * (F r) / (F 1), with r the
        ratio of the wanted bands to those of S, lowers the divergence of the two at every turn and
        keeps S positive. Bins outside of every filter have nothing to be corrected by.
        """
        filters = self.filters
        reach = filters.sum(dim=1)
        ratio = bands / (magnitude @ filters + _TINY)
        return (ratio @ filters.T) / reach.clamp(min=_TINY) + (reach < _TINY)

    def magnitude(self, mel: Tensor) -> Tensor:
        """Return smooth positive magnitudes that come close to having this log-mel.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, frames, n_fft // 2 + 1]`
        """
        bands = torch.exp(mel)
        magnitude = bands @ self.spread.T + _TINY
        return magnitude * self._lacking(bands, magnitude)

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
        return frequency.gather(-1, nearest) * (self.hop_length / self.n_fft), nearest

    def audible(self, mel: Tensor) -> Tensor:
        """Return which samples may sound: 0 where the mel says that there is digital silence.

        A frame whose bands are all at the floor has nothing in its window, so that every sample
        which it reaches is 0, whatever the neighbouring frames would spill into it.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, (frames - 1) * hop_length]`, of 0 and 1
        """
        silent = (mel <= self.log_floor + _AT_THE_FLOOR).all(dim=-1).to(mel.dtype)
        # Frame t reaches the hops from t - reach to t + reach - 1, counted by where they begin.
        reach = self.n_fft // 2 // self.hop_length
        padded = nn.functional.pad(silent[:, None], (reach - 1, reach))
        hops = nn.functional.max_pool1d(padded, 2 * reach, stride=1)[:, 0, : mel.shape[1] - 1]
        return (1 - hops).repeat_interleave(self.hop_length, dim=-1)

    def to_sound(self, spectrum: Tensor) -> Tensor:
        """Invert the STFT by weighted overlap-add: the least-squares sound (Griffin and Lim).

        Shape:
            `[batch, frames, n_fft // 2 + 1]` -> `[batch, (frames - 1) * hop_length]`
        """
        return self._overlapped(spectrum) / self._weight(spectrum.shape[1])

    def to_spectrum(self, sound: Tensor) -> Tensor:
        """Transform sound as the mel's extractor does: centred frames, mirrored edges.

        Shape:
            `[batch, samples]` -> `[batch, 1 + samples // hop_length, n_fft // 2 + 1]`
        """
        return analyse(self._mirrored(sound), self.window, self.hop_length)

    def _overlapped(self, spectrum: Tensor) -> Tensor:
        edge = self.n_fft // 2
        return synthesise(spectrum, self.window, self.hop_length)[:, edge:-edge]

    def _weight(self, num_frames: int) -> Tensor:
        # Where windows overlap in full, the sum of their squares is constant up to rounding; at the
        # two edges it is not.
        edge = self.n_fft // 2
        squares = self.window.square().expand(1, num_frames, self.n_fft)
        return overlap_add(squares, self.hop_length)[:, edge:-edge]

    def _mirrored(self, sound: Tensor) -> Tensor:
        edge = self.n_fft // 2
        return nn.functional.pad(sound[:, None], (edge, edge), mode="reflect")[:, 0]
