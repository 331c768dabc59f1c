"""What one filter, one curve or a gain that moves makes of a waveform, fitted by least squares.

Wrong weights do none of these: no fit removes much of their error.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from melcheck.diagnosis.causes import Explanation, explanation

# A fit is named where it leaves at most so much of the error, and of the estimate. Filters, curves
# and moving gains leave 0.06 and less; of wrong weights and fewer bits a fit leaves 0.51 and more.
_REMAINING_SHARE = 0.1

# A filter has so many taps for the samples that it is fitted to.
_SAMPLES_PER_TAP = 8
_MOST_TAPS = 32_768
# Taps before the present sample, of filters with a linear phase.
_EARLY_TAPS = 256
# Steps of conjugate gradients, enough even where the highest bands are empty, and the share of the
# right side at which they end before; and the largest spread of a spectrum that is divided by.
_STEPS = 300
_LEFT = 1e-10
_SPECTRAL_FLOOR = 1e-6
# White noise added to the autocorrelation, as a share: bands that are empty stay solvable.
_RIDGE = 1e-9

# A pre-emphasis in use lies between these: 0.85 to 0.97, and 1 for a difference.
_PRE_EMPHASIS = (0.5, 1.01)

# Knots of a curve: so many for each halving of the level, so many halvings below the peak.
_KNOTS_PER_OCTAVE = 4
_OCTAVES = 10
# A curve is reported by its factors four octaves below the peak, and at the peak.
_QUIET_KNOT = 4 * _KNOTS_PER_OCTAVE

BLOCK_SAMPLES = 256
"""Samples that are judged together."""


def fitted(wanted: Tensor, given: Tensor) -> Explanation | None:
    """Explain a filter, a curve or a gain that moves."""
    bound = _bound(wanted, given)
    if not bound > 0:
        return None
    return (
        _pre_emphasis(wanted, given, bound)
        or _curve(wanted, given, bound)
        or _moving_gain(wanted, given, bound)
        or _filter(wanted, given)
    )


def _bound(wanted: Tensor, given: Tensor) -> float:
    return _REMAINING_SHARE * min(_rms(given - wanted), _rms(given - given.mean()))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _pre_emphasis(wanted: Tensor, given: Tensor, bound: float) -> Explanation | None:
    """Fit given[n] = g (wanted[n] - a wanted[n-1])."""
    columns = torch.stack([wanted[1:], -wanted[:-1]], dim=1)
    gain, product = torch.linalg.lstsq(columns, given[1:, None], driver="gelsd").solution[:, 0]
    if _rms(given[1:] - columns @ torch.stack([gain, product])) > bound or not float(gain):
        return None
    factor = float(product / gain)
    low, high = _PRE_EMPHASIS
    if not low <= factor <= high:
        return None
    return explanation("pre-emphasis", f"each sample less {factor:.3f} of the one before")


def _curve(wanted: Tensor, given: Tensor, bound: float) -> Explanation | None:
    """Fit a line from knot to knot, the same for every sample; knots lie closer where it is quiet.

    With t in [0, 1) the place of a sample between knots k and k + 1, the fit is
    (1 - t) c_k + t c_(k+1), so that its normal equations have three diagonals.
    """
    steps = torch.arange(-_KNOTS_PER_OCTAVE * _OCTAVES, 1, dtype=wanted.dtype)
    side = wanted.abs().max() * 2 ** (steps / _KNOTS_PER_OCTAVE)
    knots = torch.cat([-side.flip(0), torch.zeros(1, dtype=side.dtype), side])
    if not float(side[0]) > 0 or len(wanted) < _SAMPLES_PER_TAP * len(knots):
        return None
    left = (torch.searchsorted(knots, wanted, right=True) - 1).clamp(0, len(knots) - 2)
    place = (wanted - knots[left]) / (knots[left + 1] - knots[left])
    normal = torch.zeros(len(knots), len(knots), dtype=wanted.dtype)
    target = torch.zeros(len(knots), dtype=wanted.dtype)
    for row, share in ((left, 1 - place), (left + 1, place)):
        target.index_add_(0, row, share * given)
        for column, other in ((left, 1 - place), (left + 1, place)):
            normal.index_put_((row, column), share * other, accumulate=True)
    # A knot without samples nearby is of no consequence.
    normal.diagonal().add_(1e-12 * float(normal.diagonal().max()))
    values = torch.linalg.solve(normal, target)
    if _rms(given - (1 - place) * values[left] - place * values[left + 1]) > bound:
        return None
    # Of the side that reaches the peak.
    peak = len(knots) - 1 if float(wanted.max()) == float(knots[-1]) else 0
    quiet, loud = (
        f"{float(values[knot] / knots[knot]):.3g} at {float(knots[knot]):.2g}"
        for knot in (abs(peak - _QUIET_KNOT), peak)
    )
    return explanation("curve", f"a factor of {quiet}, and of {loud}")


def _moving_gain(wanted: Tensor, given: Tensor, bound: float) -> Explanation | None:
    """Fit one gain for each block."""
    samples = len(wanted) // BLOCK_SAMPLES * BLOCK_SAMPLES
    if not samples:
        return None
    x, y = (each[:samples].view(-1, BLOCK_SAMPLES) for each in (wanted, given))
    energy = x.square().sum(dim=1)
    gains = (x * y).sum(dim=1) / energy.clamp(min=1e-30)
    if _rms(y - gains[:, None] * x) > bound:
        return None
    # Where it is silent, a gain says nothing.
    heard = gains[energy >= energy.mean()]
    return explanation(
        "gain",
        f"a factor of {float(heard.min()):.3g} to {float(heard.max()):.3g}, by place",
        title="the waveform is louder or quieter by a factor that moves",
        fix="Look for a compressor, a limiter or a normalisation that works piece by piece.",
    )


def _filter(wanted: Tensor, given: Tensor) -> Explanation | None:
    share = filtered_share(wanted, given)
    if share > _REMAINING_SHARE:
        return None
    return explanation("filtered", f"one of {_taps(wanted):,} taps leaves {share:.1%} of the error")


def filtered_share(wanted: Tensor, given: Tensor) -> float:
    """Return what a filter leaves of the error, or of the estimate where there is less of that.

    It is fitted to the first half and judged by the second: so many taps follow whatever is slow in
    the half that they are fitted to, but not in another.
    """
    half, taps = len(wanted) // 2, _taps(wanted)
    if taps < 1 or not float(wanted[:half].square().sum()) > 0:
        return math.inf
    rest = (_through_a_filter(wanted, given, half, taps) - given)[half:]
    bound = _bound(wanted[half:], given[half:])
    return _REMAINING_SHARE * _rms(rest) / bound if bound > 0 else math.inf


def _taps(waveform: Tensor) -> int:
    return min(_MOST_TAPS, len(waveform) // 2 // _SAMPLES_PER_TAP)


def _through_a_filter(source: Tensor, target: Tensor, fitted_samples: int, taps: int) -> Tensor:
    """Return the source through the filter that brings its first samples nearest to the target.

    The filter h solves R h = c, R the Toeplitz matrix of the source's autocorrelation and c the
    cross-correlation. Products with R are products of spectra; conjugate gradients need no more,
    and the circulant matrix of the same row, inverted, lets them converge in few steps.
    """
    from scipy.sparse.linalg import LinearOperator, cg  # half a second, only after a failure

    early = min(_EARLY_TAPS, taps // 4)
    length = 2 ** math.ceil(math.log2(len(source) + taps))
    spectrum = torch.fft.rfft(source[:fitted_samples], length)
    correlation = torch.fft.irfft(spectrum.abs().square(), length)[:taps]
    correlation[0] *= 1 + _RIDGE
    cross = torch.fft.irfft(
        torch.fft.rfft(target[:fitted_samples], length) * spectrum.conj(), length
    )
    row = torch.cat([correlation, correlation.new_zeros(1), correlation[1:].flip(0)])
    power = torch.fft.rfft(row)
    inverse = 1 / power.real.clamp(min=_SPECTRAL_FLOOR * float(power.real.max()))

    def product(factor: Tensor) -> Any:
        def times(vector: np.ndarray) -> np.ndarray:
            spectrum = torch.fft.rfft(torch.from_numpy(vector), len(row))
            found: Tensor = torch.fft.irfft(factor * spectrum, len(row))
            return found[:taps].numpy()

        return LinearOperator((taps, taps), matvec=times, dtype=np.float64)

    target_row = cross.roll(early)[:taps].numpy()
    solved, _ = cg(product(power), target_row, rtol=_LEFT, maxiter=_STEPS, M=product(inverse))
    weights = torch.from_numpy(solved)
    spectrum = torch.fft.rfft(source, length)
    through: Tensor = torch.fft.irfft(spectrum * torch.fft.rfft(weights, length), length)
    return through.roll(-early)[: len(source)]
