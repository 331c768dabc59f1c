"""Find phases for given magnitudes by alternating projections, without training.

Most arrays `[frames, bins]` of magnitudes and phases are the STFT of no waveform: overlapping
windows share samples, so that inverting such an array changes its magnitudes, and with them the
mel. Phases begin as those of evenly spread tones; then the spectrum is projected in turn on two
sets: the STFTs of waveforms, and the spectra with the given bands. A band is what a mel holds; the
bins within it may move.

A mel resolves single harmonics at low frequencies alone, where a band is hardly wider than a bin.
There phases have to be right, and there most projections are spent: the lowest eighth of the bins,
inverted with a window of an eighth of the length, is the same waveform at an eighth of the rate, at
an eighth of the cost. Then come a quarter, and the whole.

Shapes: spectra `[batch, frames, n_fft // 2 + 1]`, bands `[batch, frames, n_mels]`, waveforms
`[batch, (frames - 1) * hop_length]`.

References:
    D. Griffin and J. Lim, "Signal estimation from modified short-time Fourier transform", IEEE
    Trans. ASSP 32(2), 1984, https://doi.org/10.1109/TASSP.1984.1164317: the first projection.
    N. Perraudin, P. Balazs and P. Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013,
    https://doi.org/10.1109/WASPAA.2013.6701851: the momentum.
    D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000: the
    multiplicative update, by which magnitudes approach given bands and stay positive.
    M. R. Schroeder, "Synthesis of low-peak-factor signals and binary sequences with low
    autocorrelation", IEEE Trans. Information Theory 16(1), 1970: phases that grow with the square.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from melcheck.recipes import MelRecipe, filterbank
from melcheck.vocoders.overlap_add import OverlapAdd, analyse, overlap_add, synthesise

# Best of 0.9, 1.1 and 1.2 by MAE, and of the powers 1, 1.3 and 1.6 by SNR, on eight clips.
MOMENTUM = 1.1
CORRECTION = 1.3
# Growth of the delay from bin to bin, in units of n_fft samples: 6 ms in all for 1024. Bins that
# all begin in one place make a click of each onset.
_DISPERSION = 3e-4
# A frame whose every band is within this of the floor, in nats, is digital silence: a network does
# not hit the floor exactly, and noise of 16 bits lies 8 nats above it.
_AT_THE_FLOOR = 1.0
# Below any magnitude of a waveform in [-1, 1]: it only keeps divisions finite.
TINY = 1e-7
# How many times lower the rates are at which is projected.
_DIVISORS = (8, 4, 1)
# Of the bins at a lower rate, the highest share a lobe with bins that are not there.
_EDGE = 10


class Projections(nn.Module):
    """Projects the lowest bins of a spectrum on the two sets, at a rate that holds just these.

    Args:
        recipe: Recipe of the mel whose bands the magnitudes shall have.
        divisor: How many times lower the rate is.

    Raises:
        ValueError: A divisor that does not divide the window and the hop.
    """

    window: Tensor
    filters: Tensor
    back: Tensor
    uncovered: Tensor
    tiny: Tensor
    bands: Tensor

    def __init__(self, recipe: MelRecipe, divisor: int) -> None:
        super().__init__()
        if recipe.n_fft % divisor or recipe.hop_length % divisor:
            raise ValueError(
                f"n_fft and hop_length must be multiples of {divisor}, got {recipe.n_fft} and "
                f"{recipe.hop_length}. Ask for no projections at that rate."
            )
        self.divisor = divisor
        self.n_fft = recipe.n_fft // divisor
        self.hop_length = recipe.hop_length // divisor
        self.bins = self.n_fft // 2 + 1
        self.kept = self.bins if divisor == 1 else self.bins - max(2, self.bins // _EDGE)
        every = filterbank(recipe)
        # Bands that reach beyond these bins belong to a higher rate.
        within = every[: self.bins - 1].sum(dim=0) >= every.sum(dim=0) * (1 - 1e-6)
        whole = torch.full_like(within, True)
        self.register_buffer("bands", (within if divisor > 1 else whole).nonzero()[:, 0], False)
        filters = every[: self.bins, self.bands].contiguous()
        reach = filters.sum(dim=1)
        self.register_buffer("window", torch.hann_window(self.n_fft), False)
        self.register_buffer("filters", filters, False)
        self.register_buffer(
            "back", (filters / reach.clamp(min=TINY)[:, None]).T.contiguous(), False
        )
        self.register_buffer("uncovered", (reach < TINY).to(reach.dtype), False)
        self.register_buffer("tiny", torch.tensor(TINY), False)

    def share(self, audible: Tensor) -> Tensor:
        """Return what each overlap-added sample is multiplied by: 1 / window's weight, or 0.

        Args:
            audible: `[batch, samples]` at the full rate, of 0 and 1.

        Returns:
            `[batch, samples / divisor]`.
        """
        audible = audible[..., :: self.divisor]
        # Where windows overlap in full, the sum of their squares is constant up to rounding; at the
        # two edges it is not.
        frames = audible.shape[-1] // self.hop_length + 1
        edge = self.n_fft // 2
        squares = self.window.square().expand(1, frames, self.n_fft)
        return audible / overlap_add(squares, self.hop_length)[:, edge:-edge]

    def factors(self, bands: Tensor, magnitude: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Return the factors by which bins come nearer to having these bands.

        The bands are S F for magnitudes S and filters F. The update S <- S * (F r) / (F 1), with r
        the ratio of the wanted bands to those of S, lowers the divergence of the two at every turn
        and keeps S positive; a power of r above 1 goes further at each. Bins outside of every
        filter have nothing to be corrected by.
        """
        its_own = torch.addmm(self.tiny, magnitude.flatten(0, 1), self.filters)
        ratio = (bands.flatten(0, 1) / its_own) ** CORRECTION
        factors = torch.addmm(
            self.uncovered, ratio, self.back, out=None if out is None else out.view(-1, self.bins)
        )
        return factors.view(magnitude.shape)

    @torch.no_grad()
    def project_(self, bands: Tensor, spectrum: Tensor, audible: Tensor, turns: int) -> None:
        """Project a spectrum's lowest bins, in place.

        Each turn inverts the spectrum and takes the STFT again: its phases are kept, and its
        magnitudes are multiplied by what their bands lack. The waveform is mirrored at its edges,
        as the extractor mirrors it.

        Args:
            bands: `[batch, frames, n_mels]`, all bands that the magnitudes shall have.
            spectrum: `[batch, frames, n_fft // 2 + 1]`, complex, of the full rate.
            audible: `[batch, samples]` at the full rate, of 0 and 1.
            turns: Number of projections.
        """
        window, edge = self.window, self.n_fft // 2
        share, wanted = self.share(audible), bands[..., self.bands]
        lowest = spectrum if self.divisor == 1 else spectrum[..., : self.bins].clone()
        # Every turn uses the same arrays: fresh ones cost as much as the arithmetic.
        overlapping = OverlapAdd(lowest, self.n_fft, self.hop_length)
        frames = overlapping.frames
        pair = torch.empty_like(lowest), torch.empty_like(lowest)
        # Views of the same numbers as pairs of real ones: `torch.abs` of complex ones, like
        # `torch.sgn`, takes twice the time.
        lowest_pairs = torch.view_as_real(lowest)
        pairs = [torch.view_as_real(each) for each in pair]
        size = torch.empty(lowest.shape, dtype=lowest_pairs.dtype, device=lowest.device)
        scratch = torch.empty_like(size)
        for turn in range(turns):
            now, before = turn % 2, (turn + 1) % 2
            torch.fft.irfft(lowest, self.n_fft, out=frames)
            frames.mul_(window)
            waveform = overlapping.added()[:, edge:-edge].mul_(share)
            cut = mirrored(waveform, edge).unfold(-1, self.n_fft, self.hop_length)
            torch.fft.rfft(torch.mul(cut, window, out=frames), out=pair[now])
            lacking = self.factors(wanted, magnitudes(pairs[now], out=size), out=scratch)
            if turn:
                size.mul_(lacking)
                torch.lerp(pairs[before], pairs[now], 1 + MOMENTUM, out=lowest_pairs)
                lowest.mul_(size.div_(magnitudes(lowest_pairs, out=scratch)))
            else:
                torch.mul(pair[now], lacking, out=lowest)
        if lowest is not spectrum:
            spectrum[..., : self.kept] = lowest[..., : self.kept]


def magnitudes(pairs: Tensor, *, out: Tensor) -> Tensor:
    """Write the magnitudes of real and imaginary parts `[..., 2]` over `out`: no less than TINY."""
    real, imaginary = pairs.unbind(-1)
    return torch.mul(real, real, out=out).addcmul_(imaginary, imaginary).sqrt_().add_(TINY)


def mirrored(waveform: Tensor, edge: int) -> Tensor:
    """Mirror the first and the last `edge` samples of `[batch, samples]` outwards."""
    return nn.functional.pad(waveform[:, None], (edge, edge), mode="reflect")[:, 0]


class PhaseRetrieval(nn.Module):
    """Finds phases for magnitudes, and magnitudes with the same bands that go with them.

    Args:
        sample_rate: Rate of the mel, in Hz.
        n_fft: Length of the STFT and of its periodic Hann window; the frames are centred.
        hop_length: A divisor of `n_fft`, at most half of it.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        turns: Numbers of projections at an eighth of the rate, at a quarter, and at the whole.

    Raises:
        ValueError: A hop that does not divide the window, or sizes that a lower rate does not have.
    """

    window: Tensor
    filters: Tensor
    across: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int,
        turns: tuple[int, int, int],
    ) -> None:
        if n_fft % hop_length or n_fft < 2 * hop_length:
            raise ValueError(
                f"hop_length must divide n_fft at least twice, got {hop_length} and {n_fft}."
            )
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        recipe = MelRecipe(
            sample_rate=sample_rate,
            n_fft=n_fft,
            win_length=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_max=sample_rate / 2,
        )
        self.log_floor = recipe.log_floor
        used = [(divisor, count) for divisor, count in zip(_DIVISORS, turns, strict=True) if count]
        self._turns = [count for _, count in used]
        self.rates = nn.ModuleList(Projections(recipe, divisor) for divisor, _ in used)
        # None of it is stored with the weights: it follows from the recipe.
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", filterbank(recipe), persistent=False)
        # Half a turn a bin, and a delay that grows in proportion, whose phase is its integral.
        bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
        across = torch.polar(torch.ones_like(bins), torch.pi * (bins + _DISPERSION * bins**2))
        self.register_buffer("across", across.to(torch.complex64), persistent=False)

    @property
    def stages(self) -> list[tuple[Projections, int]]:
        """The rates that are used, in order, with their numbers of projections."""
        return list(zip(cast("Iterable[Projections]", self.rates), self._turns, strict=True))

    @torch.no_grad()
    def project_(self, bands: Tensor, spectrum: Tensor, audible: Tensor) -> Tensor:
        """Change a spectrum, in place, to one with given bands that nearly is a waveform's STFT.

        No gradient passes through. A waveform is mirrored at its edges, which takes more than
        `n_fft // 2` samples: what is shorter is left as it is.

        Args:
            bands: `[batch, frames, n_mels]`, those of the spectrum's magnitudes.
            spectrum: `[batch, frames, n_fft // 2 + 1]`, complex.
            audible: `[batch, samples]`, 0 in digital silence, else 1.

        Returns:
            The spectrum.
        """
        if (spectrum.shape[1] - 1) * self.hop_length > self.n_fft // 2:
            for projections, turns in self.stages:
                projections.project_(bands, spectrum, audible, turns)
        return spectrum

    @torch.no_grad()
    def advancing(self, num_frames: int, first_frame: int = 0) -> Tensor:
        """Return the phases that projections begin with: those of steady tones, evenly spread.

        A tone of f bins turns by f hop / n_fft in a hop, at all bins of its lobe alike. With one in
        the middle of every n_fft / hop bins, neighbours differ by a whole turn: all bins turn by
        (1 - hop / n_fft) / 2. A symmetric window makes neighbours in a lobe half a turn apart; and
        the higher a bin is the later it begins, or every onset would be a click.

        They depend on no prediction: phases that follow the peaks of the magnitudes are 0.4 dB
        nearer, but a peak that comes or goes by rounding changes the waveform from there on.

        Args:
            num_frames: Number of frames.
            first_frame: Number of the first one, in a waveform that began earlier.

        Returns:
            `[frames, bins]`, complex numbers of magnitude 1.
        """
        frames = torch.arange(first_frame, first_frame + num_frames, device=self.across.device)
        # Whole turns are dropped before rounding, so that a long waveform keeps its precision.
        turned = torch.remainder(frames.double() * (1 - self.hop_length / self.n_fft) / 2, 1.0)
        phase = (2 * torch.pi * turned).to(self.window.dtype)[:, None]
        return torch.polar(torch.ones_like(phase), phase) * self.across

    @torch.no_grad()
    def audible(self, bands: Tensor) -> Tensor:
        """Return 0 for the samples of digital silence, by their bands, and 1 for the others.

        A frame whose bands are all at the floor has nothing in its window, so that every sample
        which it reaches is 0, whatever the neighbouring frames would spill into it.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, (frames - 1) * hop_length]`, of 0 and 1
        """
        silent = (bands <= math.exp(self.log_floor + _AT_THE_FLOOR)).all(dim=-1).to(bands.dtype)
        # Frame t reaches the hops from t - reach to t + reach - 1, counted by where they begin.
        reach = self.n_fft // 2 // self.hop_length
        padded = nn.functional.pad(silent[:, None], (reach - 1, reach))
        hops = nn.functional.max_pool1d(padded, 2 * reach, stride=1)[:, 0, : bands.shape[1] - 1]
        return (1 - hops).repeat_interleave(self.hop_length, dim=-1)

    def to_waveform(self, spectrum: Tensor) -> Tensor:
        """Invert the STFT by weighted overlap-add, the least-squares inverse (Griffin and Lim).

        Shape:
            `[batch, frames, n_fft // 2 + 1]` -> `[batch, (frames - 1) * hop_length]`
        """
        edge = self.n_fft // 2
        squares = self.window.square().expand(1, spectrum.shape[1], self.n_fft)
        weight = overlap_add(squares, self.hop_length)[:, edge:-edge]
        return synthesise(spectrum, self.window, self.hop_length)[:, edge:-edge] / weight

    def to_spectrum(self, waveform: Tensor) -> Tensor:
        """Transform a waveform as the mel's extractor does: centred frames, mirrored edges.

        Shape:
            `[batch, samples]` -> `[batch, 1 + samples // hop_length, n_fft // 2 + 1]`
        """
        return analyse(mirrored(waveform, self.n_fft // 2), self.window, self.hop_length)
