"""Find a waveform that has a given log-mel, by alternating projections, without training.

Most arrays `[frames, bins]` of magnitudes and phases are the STFT of no waveform: overlapping
windows share samples, so that inverting such an array changes its magnitudes, and with them the
mel. A spectrum is therefore projected in turn on two sets: the STFTs of waveforms, and the spectra
with the given bands. A band is what a mel holds; the bins within it may move.

Four things make few projections do the work of many:

- The first phases are those of a pulse train at the pitch of each frame. The harmonics of a voice
  then begin in step, so that there is little to undo: fewer errors, and less of the rounding is
  magnified.
- Overlapping frames are added with weights that fall with a frame's level. A log-mel is an error in
  proportion: without weights, a loud frame overwrites the quiet one beside it.
- A mel resolves single harmonics at low frequencies alone, where a band is hardly wider than a bin.
  There phases have to be right, and there most projections are spent: the lowest eighth of the
  bins, inverted with a window of an eighth of the length, is the same waveform at an eighth of the
  rate, at an eighth of the cost. Then come a quarter, and the whole.
- The last steps descend the squared error of the log-mel itself.

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

import torch
from torch import Tensor, nn

from melcheck.recipes import MelRecipe, filter_groups, filterbank
from melcheck.vocoders.overlap_add import OverlapAdd, analyse, overlap_add

# How constants were chosen: by the SNR of ten clips of speech at -0.5 dBFS, which
# `python -m training.evaluate` measures. Between 0.9 and 1.1 the momentum gains 0.1 dB and doubles
# what becomes of rounding.
_MOMENTUM = 0.9
_CORRECTION = 1.3
# Of the weight of a frame: with 2, errors count in proportion to the level of the frame.
_WEIGHT_EXPONENT = 2.0
# Of the descent, whose error is cut at one nat: a bin far below its band would overshoot.
_DESCENT_MOMENTUM = 0.5
_LARGEST_ERROR = 1.0
# Updates that spread bands over bins: the bands are then met within 0.1 nats.
_SPREADING_TURNS = 2
# Of a voice.
_PITCH_HZ = (60.0, 420.0)
_HARMONICS_HZ = (45.0, 4_700.0)
# Growth of the delay from bin to bin, in units of n_fft samples: 6 ms in all for 1024. Bins that
# all begin in one place make a click of each onset.
_DISPERSION = 3e-4
# A frame whose every band is within this of the floor, in nats, is digital silence: a network does
# not hit the floor exactly, and noise of 16 bits lies 8 nats above it.
_AT_THE_FLOOR = 1.0
# Below any magnitude of a waveform in [-1, 1]: it only keeps divisions finite.
_TINY = 1e-7
# Frames whose autocorrelations are computed together: of more, each array would be so large that it
# is returned to the system, and its pages cost more than the transform.
_PITCH_FRAMES = 94
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
            "back", (filters / reach.clamp(min=_TINY)[:, None]).T.contiguous(), False
        )
        self.register_buffer("uncovered", (reach < _TINY).to(reach.dtype), False)
        self.register_buffer("tiny", torch.full((filters.shape[1],), _TINY), False)
        self.reordered = False
        # Blocks that hold all of the filters and of their transpose but zeros, once reordered.
        self.to_bands: tuple[tuple[slice, slice], ...] = ()
        self.to_bins: tuple[tuple[slice, slice], ...] = ()

    def reorder_(self) -> None:
        """See `PhaseRetrieval.reorder_`."""
        self.reordered = True
        # At a lower rate the products are so small that more calls cost more than they spare.
        if self.divisor == 1:
            self.to_bands, self.to_bins = filter_groups(self.filters), filter_groups(self.filters.T)

    def weighted_window(self, bands: Tensor) -> Tensor:
        """Return each frame's window, times a weight that falls with the frame's level.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, frames, n_fft]`
        """
        level = torch.log(bands[..., self.bands] + _TINY).mean(dim=-1, keepdim=True)
        return torch.exp(-_WEIGHT_EXPONENT * level) * self.window

    def share(self, weighted: Tensor, audible: Tensor) -> Tensor:
        """Return what each overlap-added sample is multiplied by: 1 / its windows' sum, or 0.

        The waveform x that is nearest to frames y of weights v, in the sum of v (window x - y)²
        over all frames, is the sum of v window y over the sum of v window².

        Args:
            weighted: Of `weighted_window`.
            audible: `[batch, samples]` at the full rate, of 0 and 1.

        Returns:
            `[batch, samples / divisor]`.
        """
        edge = self.n_fft // 2
        total = overlap_add(weighted * self.window, self.hop_length)[:, edge:-edge]
        return audible[..., :: self.divisor] / total

    def bands_of(self, magnitude: Tensor) -> Tensor:
        """Return the bands of magnitudes, above 0.

        Shape:
            `[batch, frames, n_fft // 2 + 1]` -> `[batch * frames, bands]`
        """
        magnitude, tiny, filters = magnitude.flatten(0, 1), self.tiny, self.filters
        if not self.to_bands:
            return torch.addmm(tiny, magnitude, filters)
        bands = magnitude.new_empty(len(magnitude), len(tiny))
        for bins, some in self.to_bands:
            part = filters[bins, some]
            torch.addmm(tiny[some], magnitude[:, bins], part, out=bands[:, some])
        return bands

    def over_bins(self, bands: Tensor, weights: Tensor) -> Tensor:
        """Return bands `[frames, bands]` times weights `[bands, bins]`, `[frames, bins]`."""
        if not self.to_bins:
            return bands @ weights
        result = bands.new_empty(len(bands), self.bins)
        for some, bins in self.to_bins:
            torch.mm(bands[:, some], weights[some, bins], out=result[:, bins])
        return result

    def factors(self, bands: Tensor, magnitude: Tensor) -> Tensor:
        """Return the factors by which bins come nearer to having these bands.

        The bands are S F for magnitudes S and filters F. The update S <- S * (F r) / (F 1), with r
        the ratio of the wanted bands to those of S, lowers the divergence of the two at every turn
        and keeps S positive; a power of r above 1 goes further at each. Bins outside of every
        filter have nothing to be corrected by.
        """
        ratio = bands.flatten(0, 1) / self.bands_of(magnitude)
        if self.reordered:
            ratio.log_().mul_(_CORRECTION).exp_()
        else:
            ratio.pow_(_CORRECTION)
        return self.over_bins(ratio, self.back).add_(self.uncovered).view(magnitude.shape)

    @torch.no_grad()
    def spread(self, bands: Tensor) -> Tensor:
        """Return magnitudes that nearly have these bands, even within each of them.

        Shape:
            `[batch, frames, n_mels]` -> `[batch, frames, n_fft // 2 + 1]`
        """
        level = bands / self.filters.sum(dim=0).clamp(min=_TINY)
        magnitude = self.over_bins(level.flatten(0, 1), self.back).view(*bands.shape[:2], -1)
        for _ in range(_SPREADING_TURNS):
            magnitude = magnitude * self.factors(bands, magnitude)
        return magnitude

    @torch.no_grad()
    def project_(self, bands: Tensor, spectrum: Tensor, audible: Tensor, turns: int) -> _Inverse:
        """Project a spectrum's lowest bins, in place.

        Each turn inverts the spectrum and takes the STFT again: its phases are kept, and its
        magnitudes are multiplied by what their bands lack. The waveform is mirrored at its edges,
        as the extractor mirrors it.

        Args:
            bands: `[batch, frames, n_mels]`, all bands that the magnitudes shall have.
            spectrum: `[batch, frames, n_fft // 2 + 1]`, complex, of the full rate.
            audible: `[batch, samples]` at the full rate, of 0 and 1.
            turns: Number of projections.

        Returns:
            What inverted, for `descend` with the same bands at the same rate.
        """
        wanted = bands[..., self.bands]
        lowest = spectrum if self.divisor == 1 else spectrum[..., : self.bins].clone()
        inverse = _Inverse(self, bands, lowest, audible)
        # Every turn uses the same arrays: fresh ones cost as much as the arithmetic.
        # Views of the same numbers as pairs of real ones: `torch.abs` of complex ones, like
        # `torch.sgn`, takes twice the time.
        lowest_pairs = torch.view_as_real(lowest)
        before = lowest_pairs
        size = torch.empty(lowest.shape, dtype=lowest_pairs.dtype, device=lowest.device)
        scratch = torch.empty_like(size)
        squares = torch.empty_like(lowest_pairs) if self.reordered else None
        for turn in range(turns):
            found = inverse.analysed(inverse.waveform(lowest))
            pairs = torch.view_as_real(found)
            lacking = self.factors(wanted, magnitudes(pairs, out=size, squares=squares))
            if turn:
                size.mul_(lacking)
                torch.lerp(before, pairs, 1 + _MOMENTUM, out=lowest_pairs)
                lowest.mul_(size.div_(magnitudes(lowest_pairs, out=scratch, squares=squares)))
            else:
                torch.mul(found, lacking, out=lowest)
            before = pairs
        if lowest is not spectrum:
            spectrum[..., : self.kept] = lowest[..., : self.kept]
        return inverse

    @torch.no_grad()
    def descend(
        self,
        bands: Tensor,
        spectrum: Tensor,
        audible: Tensor,
        steps: int,
        *,
        inverse: _Inverse | None = None,
    ) -> Tensor:
        """Invert a spectrum, and descend the squared error of the waveform's log-mel.

        With e the error of the logarithms of the bands S F, the derivative of the sum of e² / 2 by
        a bin's magnitude is F (e / (S F)). A bin is changed in proportion to that and to itself:
        by the share of its bands that it holds, times their errors.

        Args:
            bands: `[batch, frames, n_mels]`, wanted.
            spectrum: `[batch, frames, n_fft // 2 + 1]`, complex.
            audible: `[batch, samples]`, of 0 and 1.
            steps: Number of steps.
            inverse: Of `project_`, if this rate has projected the same bands.

        Returns:
            `[batch, samples]`.
        """
        wanted = torch.log(bands + _TINY).flatten(0, 1)
        inverse = inverse or _Inverse(self, bands, spectrum, audible)
        size = torch.empty(spectrum.shape, dtype=wanted.dtype, device=spectrum.device)
        squares = torch.empty_like(torch.view_as_real(spectrum)) if self.reordered else None
        waveform = inverse.waveform(spectrum).clone()
        before = waveform
        for step in range(steps):
            ahead = torch.lerp(before, waveform, 1 + _DESCENT_MOMENTUM) if step else waveform
            change = inverse.analysed(ahead)
            magnitudes(torch.view_as_real(change), out=size, squares=squares)
            its_own = self.bands_of(size)
            error = torch.log(its_own).sub_(wanted).clamp_(-_LARGEST_ERROR, _LARGEST_ERROR)
            gradient = self.over_bins(error.div_(its_own), self.filters.T)
            change.mul_(size.mul_(gradient.view(size.shape)))
            before, waveform = waveform, ahead - inverse.waveform(change)
        return waveform


class _Inverse:
    """From a spectrum to the waveform, by weighted overlap-add, and back, in the same arrays."""

    def __init__(self, rate: Projections, bands: Tensor, spectrum: Tensor, audible: Tensor) -> None:
        self.rate, self.window = rate, rate.window
        self.n_fft, self.hop_length, self.edge = rate.n_fft, rate.hop_length, rate.n_fft // 2
        self.weighted = rate.weighted_window(bands)
        self.share = rate.share(self.weighted, audible)
        self.overlapping = OverlapAdd(spectrum, rate.n_fft, rate.hop_length)

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Return the waveform that is nearest to a spectrum; the next call overwrites it."""
        # `out` would not spare an array: torch transforms into one of its own, and copies that.
        whole = torch.fft.irfft(spectrum, self.n_fft)
        torch.mul(whole, self.weighted, out=self.overlapping.frames)
        return self.overlapping.added()[:, self.edge : -self.edge].mul_(self.share)

    def analysed(self, waveform: Tensor) -> Tensor:
        """Return the spectrum of a waveform."""
        cut = mirrored(waveform, self.edge).unfold(-1, self.n_fft, self.hop_length)
        frames = torch.mul(cut, self.window, out=self.overlapping.frames)
        spectrum: Tensor = torch.fft.rfft(frames)
        return spectrum


def magnitudes(pairs: Tensor, *, out: Tensor, squares: Tensor | None = None) -> Tensor:
    """Write the magnitudes of real and imaginary parts `[..., 2]` over `out`: no less than 1e-7.

    With an array for their squares, these are computed as they lie in memory, which is faster, and
    rounds otherwise.
    """
    real, imaginary = pairs.unbind(-1)
    if squares is None:
        torch.mul(real, real, out=out).addcmul_(imaginary, imaginary)
    else:
        torch.add(*torch.square(pairs, out=squares).unbind(-1), out=out)
    return out.sqrt_().add_(_TINY)


def mirrored(waveform: Tensor, edge: int) -> Tensor:
    """Mirror the first and the last `edge` samples of `[batch, samples]` outwards."""
    return nn.functional.pad(waveform[:, None], (edge, edge), mode="reflect")[:, 0]


class PhaseRetrieval(nn.Module):
    """Finds a waveform for the bands of a mel.

    Args:
        sample_rate: Rate of the mel, in Hz.
        n_fft: Length of the STFT and of its periodic Hann window; the frames are centred.
        hop_length: A divisor of `n_fft`, at most half of it.
        n_mels: Bands of the mel, as `MelSpectrogramFeatures` lays them out.
        turns: Numbers of projections at an eighth of the rate, at a quarter, and at the whole.
        steps: Number of steps of descent at the whole rate after these.

    Raises:
        ValueError: A hop that does not divide the window, or sizes that a lower rate does not have.
    """

    across: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int,
        turns: tuple[int, int, int],
        steps: int,
    ) -> None:
        if n_fft % hop_length or n_fft < 2 * hop_length:
            raise ValueError(
                f"hop_length must divide n_fft at least twice, got {hop_length} and {n_fft}."
            )
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.sample_rate = sample_rate
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
        self.turns = tuple(count for _, count in used)
        self.steps = steps
        self.reordered = False
        self.whole = Projections(recipe, 1)
        self.rates = nn.ModuleList(
            self.whole if divisor == 1 else Projections(recipe, divisor) for divisor, _ in used
        )
        # None of it is stored with the weights: it follows from the recipe. A symmetric window
        # turns neighbouring bins by half a turn; a delay that grows in proportion to the bin adds
        # its integral.
        bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
        self.register_buffer("across", (bins + _DISPERSION * bins**2) / 2, persistent=False)

    def reorder_(self) -> None:
        """Compute the same from now on by operations that are faster on a processor.

        They round otherwise, and a result is equal up to what becomes of rounding.
        """
        self.reordered = True
        for projections in {self.whole, *self.rates}:
            assert isinstance(projections, Projections)
            projections.reorder_()

    @torch.no_grad()
    def forward(self, bands: Tensor, turned: Tensor | None = None) -> Tensor:
        """Return a waveform with given bands. No gradient passes through.

        A waveform is mirrored at its edges, which takes more than `n_fft // 2` samples: what is
        shorter keeps its first phases.

        Args:
            bands: `[batch, frames, n_mels]`, magnitudes.
            turned: For a part of a longer waveform, what `pulse_turns` gives for these frames of
                the whole.

        Returns:
            `[batch, (frames - 1) * hop_length]`.
        """
        audible = self.audible(bands)
        magnitude = self.whole.spread(bands)
        pitch_hz = self.pitch_hz(magnitude)
        turned = self.pulse_turns(pitch_hz) if turned is None else turned
        phases = self.first_phases(pitch_hz, turned)
        if self.reordered:
            spectrum = torch.complex(
                torch.cos(phases).mul_(magnitude), torch.sin(phases).mul_(magnitude)
            )
        else:
            spectrum = torch.polar(magnitude, phases)
        steps, inverse = self.steps, None
        if (spectrum.shape[1] - 1) * self.hop_length > self.n_fft // 2:
            for projections, turns in zip(self.rates, self.turns, strict=True):
                assert isinstance(projections, Projections)
                inverse = projections.project_(bands, spectrum, audible, turns)
        else:
            steps = 0
        if inverse is not None and inverse.rate is not self.whole:
            inverse = None
        return self.whole.descend(bands, spectrum, audible, steps, inverse=inverse)

    @property
    def transforms(self) -> int:
        """Number of times that a waveform is transformed and inverted: its reach in frames."""
        return sum(self.turns) + self.steps

    @torch.no_grad()
    def pitch_hz(self, magnitude: Tensor) -> Tensor:
        """Return the pitch of each frame in Hz; without one, any in the range of voices.

        The autocorrelation of a windowed frame is the inverse transform of its power. Its highest
        peak in the range is the period: the vertex of the parabola through three lags, half a
        sample apart. Whole steps would do as well, but rounding decides between two of them.

        Shape:
            `[batch, frames, n_fft // 2 + 1]` -> `[batch, frames]`, float64
        """
        low, high = (round(hz * self.n_fft / self.sample_rate) for hz in _HARMONICS_HZ)
        longest, shortest = (int(2 * self.sample_rate / hz) for hz in _PITCH_HZ)
        longest = min(longest, self.n_fft - 1)
        parts = []
        for block in torch.split(magnitude[..., :high], _PITCH_FRAMES, dim=-2):
            power = block.square()
            power[..., :low] = 0.0
            correlation = torch.fft.irfft(power, 2 * self.n_fft)
            # `argmax` takes three times as long.
            lag = correlation[..., shortest : longest + 1].max(dim=-1).indices + shortest
            around = lag[..., None] + torch.arange(-1, 2, device=lag.device)
            parts.append((lag, correlation.gather(-1, around).double()))
        lag = torch.cat([lag for lag, _ in parts], dim=-1)
        before, at, after = torch.cat([values for _, values in parts], dim=-2).unbind(-1)
        curvature = (before - 2 * at + after).clamp(max=-_TINY * _TINY)
        vertex = ((before - after) / (2 * curvature)).clamp(-0.5, 0.5)
        pitch_hz: Tensor = 2 * self.sample_rate / (lag + vertex)
        return pitch_hz

    def pulse_turns(self, pitch_hz: Tensor) -> Tensor:
        """Return how often a pulse train has turned at each frame, from 0 at the first.

        Shape:
            `[batch, frames]` -> `[batch, frames]`
        """
        turns = (pitch_hz[:, 1:] + pitch_hz[:, :-1]) / 2 * self.hop_length / self.sample_rate
        return nn.functional.pad(turns.cumsum(dim=-1), (1, 0))

    def first_phases(self, pitch_hz: Tensor, turned: Tensor) -> Tensor:
        """Return the phases that projections begin with: those of a pulse train at the pitch.

        The bins around harmonic k have k times the phase of the pulse train.

        Shape:
            `[batch, frames]` and `[batch, frames]` -> `[batch, frames, n_fft // 2 + 1]`, in radians
        """
        pitch_bins = pitch_hz * self.n_fft / self.sample_rate
        bins = torch.arange(self.n_fft // 2 + 1, device=pitch_hz.device)
        harmonic = torch.round(bins / pitch_bins[..., None]).clamp_(min=1)
        # Whole turns are dropped before rounding, so that a long waveform keeps its precision.
        phase = harmonic.mul_(turned[..., None]).add_(self.across).frac_()
        return phase.mul_(2 * torch.pi).to(self.whole.window.dtype)

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
        return (1 - hops)[..., None].expand(-1, -1, self.hop_length).flatten(1)

    def to_spectrum(self, waveform: Tensor) -> Tensor:
        """Transform a waveform as the mel's extractor does: centred frames, mirrored edges.

        Shape:
            `[batch, samples]` -> `[batch, 1 + samples // hop_length, n_fft // 2 + 1]`
        """
        return analyse(mirrored(waveform, self.n_fft // 2), self.whole.window, self.hop_length)
