"""How far a mel is from its reference: one function a metric, and `compare` for all of them.

Conventions: always `(reference, estimate)`; a mel is `[..., n_mels, frames]` and a waveform
`[..., samples]`; leading dimensions are items and are never averaged over. Reductions run in
float64. `mask`, `[..., frames]` and boolean, keeps the frames that count (padding stays out).

    mae             mean |r - e|                          nats  lower is better   0 if identical
    mse             mean (r - e)^2                        nats2 lower             0
    max_abs_diff    max |r - e|                           nats  lower             0
    snr_db          10 log10(sum r^2 / sum (r - e)^2)     dB    higher            +inf
    centred_snr_db  the same after removing the mean of r dB    higher            +inf
    pearson         correlation of r and e over all cells -1..1 higher            1
    floor_share     share of cells at the recipe's floor  0..1  (describes one mel)
    band_mae        mae of each band, [..., n_mels]       nats  lower             0
    frame_mae       mae of each frame, [..., frames]      nats  lower             0
    multi_resolution_stft_distance   of two waveforms     -     lower             0

Edge cases, the same for all: a NaN in a cell that counts gives NaN, which no threshold accepts. No
cell that counts is an error. Identical input gives the last column even for a constant mel.
Against a constant reference that the estimate does not equal, correlation and centred SNR have no
meaning and are NaN and -inf.

References:
    The distance of spectra at several window lengths: R. Yamamoto, E. Song, J.-M. Kim, "Parallel
    WaveGAN", 2020, https://arxiv.org/abs/1910.11480, equations 4 to 7.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.recipes import VOCOS, MelRecipe

STFT_WINDOW_LENGTHS = (256, 512, 2048)
"""Samples. All other than the mel's own 1024, whose phase errors its own window cannot see."""

# A window hops by a quarter of its length.
_SHORTEST_WINDOW = 4

# Magnitudes are clipped to this before the logarithm. It is -80 dB of a full-scale sine in the
# shortest window (peak magnitude 64), so that rounding in silence is not taken for spectrum.
STFT_MAGNITUDE_FLOOR = 6.4e-3

# A log-mel within this of the floor is at it: float32 resolves 2e-6 at -16.
FLOOR_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class MelMetrics:
    """All metrics of one mel against its reference; see the module for units and direction.

    Attributes:
        mae: Mean absolute error, nats.
        mse: Mean squared error, nats squared.
        max_abs_diff: Largest absolute error, nats.
        snr_db: Signal-to-noise ratio, dB. Raw: lifted by the mean of the log-mel, about -6 nats.
        pearson: Correlation over all cells.
        centred_snr_db: Signal-to-noise ratio without the reference's mean, dB.
        reference_floor_share: Share of the reference's cells at the floor.
        estimate_floor_share: Share of the estimate's cells at the floor.
        band_mae: Mean absolute error of each band, lowest first, nats.
        frame_mae: Mean absolute error of each frame, NaN for one that does not count, nats.
    """

    mae: float
    mse: float
    max_abs_diff: float
    snr_db: float
    pearson: float
    centred_snr_db: float
    reference_floor_share: float
    estimate_floor_share: float
    band_mae: tuple[float, ...]
    frame_mae: tuple[float, ...]

    def scalars(self) -> dict[str, float]:
        """Return the metrics that are one number, by name, as a logger takes them."""
        return {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(self)
            if not isinstance(getattr(self, each.name), tuple)
        }


def compare(
    reference: Tensor,
    estimate: Tensor,
    *,
    recipe: MelRecipe = VOCOS,
    log_floor: float | None = None,
    mask: Tensor | None = None,
) -> tuple[MelMetrics, ...]:
    """Measure each mel of a batch against its reference.

    Args:
        reference: Log-mels `[batch, n_mels, frames]` of the recipe.
        estimate: Log-mels of the same shape.
        recipe: Their recipe: of decibels, decimal logarithms or a normalised mel the natural
            logarithm is measured, so that all figures are in nats.
        log_floor: For mels that are in nats already, whatever the recipe: their smallest value.
        mask: Frames that count, `[batch, frames]`, boolean; None counts all.

    Returns:
        One `MelMetrics` an item, in order.

    Raises:
        ValueError: Shapes that differ or are not of three dimensions, or an item without a frame
            that counts.

    Example:
        >>> mel = torch.zeros(1, 100, 8)
        >>> [metrics] = compare(mel, mel + 0.1)
        >>> round(metrics.mae, 3)
        0.1
    """
    if reference.dim() != 3:
        raise ValueError(
            f"reference must be [batch, n_mels, frames], got {list(reference.shape)}. "
            "Add a batch dimension with unsqueeze(0)."
        )
    if log_floor is None:
        reference, estimate = recipe.in_nats(reference), recipe.in_nats(estimate)
        log_floor = recipe.floor_nats
    named = {
        "mae": mae(reference, estimate, mask=mask),
        "mse": mse(reference, estimate, mask=mask),
        "max_abs_diff": max_abs_diff(reference, estimate, mask=mask),
        "snr_db": snr_db(reference, estimate, mask=mask),
        "pearson": pearson(reference, estimate, mask=mask),
        "centred_snr_db": centred_snr_db(reference, estimate, mask=mask),
        "reference_floor_share": floor_share(reference, log_floor=log_floor, mask=mask),
        "estimate_floor_share": floor_share(estimate, log_floor=log_floor, mask=mask),
    }
    bands = band_mae(reference, estimate, mask=mask).tolist()
    frames = frame_mae(reference, estimate, mask=mask).tolist()
    scalars = {name: value.tolist() for name, value in named.items()}
    return tuple(
        MelMetrics(
            **{name: values[item] for name, values in scalars.items()},
            band_mae=tuple(bands[item]),
            frame_mae=tuple(frames[item]),
        )
        for item in range(reference.shape[0])
    )


def mae(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute error of each mel.

    mae = mean |reference - estimate|

    Args:
        reference: `[..., n_mels, frames]`.
        estimate: The same shape.
        mask: `[..., frames]`, boolean; None counts all frames.

    Returns:
        `[...]`, in the mels' unit, from 0 (identical) up; lower is better.

    Raises:
        ValueError: Shapes that differ, or no frame that counts.

    Example:
        >>> mae(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]])).item()
        0.5
    """
    weights = _weights(reference, estimate, mask)
    return _mean((reference.double() - estimate.double()).abs(), weights)


def mse(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error of each mel, `[...]`; arguments and errors as for `mae`.

    mse = mean (reference - estimate)^2

    Example:
        >>> mse(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 1.0]])).item()
        4.5
    """
    weights = _weights(reference, estimate, mask)
    return _mean((reference.double() - estimate.double()).square(), weights)


def max_abs_diff(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the largest absolute error of each mel, `[...]`; arguments and errors as for `mae`.

    Example:
        >>> max_abs_diff(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 1.0]])).item()
        3.0
    """
    weights = _weights(reference, estimate, mask)
    error = (reference.double() - estimate.double()).abs()
    return _keep(error, weights).amax(dim=(-2, -1))


def snr_db(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the signal-to-noise ratio of each mel in dB; arguments and errors as for `mae`.

    snr_db = 10 log10(sum reference^2 / sum (reference - estimate)^2)

    The "signal" of a log-mel is mostly its mean, near -6 nats: a louder clip has a mean nearer to
    zero and, at the same error, a lower ratio. `centred_snr_db` is free of that.

    Returns:
        `[...]`, dB, higher is better; +inf for identical input, -inf for a reference of zeros.

    Example:
        >>> snr_db(torch.tensor([[10.0, 0.0]]), torch.tensor([[9.0, 0.0]])).item()
        20.0
    """
    weights = _weights(reference, estimate, mask)
    reference, estimate = reference.double(), estimate.double()
    return _ratio_db(reference, reference - estimate, weights)


def centred_snr_db(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the signal-to-noise ratio of each mel about the reference's mean, in dB.

    centred_snr_db = 10 log10(sum (reference - mean)^2 / sum (reference - estimate)^2)

    Arguments and errors as for `mae`.

    Returns:
        `[...]`, dB, higher is better; +inf for identical input, -inf for a constant reference.

    Example:
        >>> centred_snr_db(torch.tensor([[11.0, -9.0]]), torch.tensor([[10.0, -8.0]])).item()
        20.0
    """
    weights = _weights(reference, estimate, mask)
    reference, estimate = reference.double(), estimate.double()
    ratio = _ratio_db(_centre(reference, weights), reference - estimate, weights)
    # The mean of equal numbers may miss them by a rounding error, which is no signal.
    constant = _is_constant(reference, weights) & torch.isfinite(ratio)
    return torch.where(constant, -math.inf, ratio)


def pearson(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the correlation of each mel with its reference over all cells that count.

    pearson = sum (r - mean r)(e - mean e) / sqrt(sum (r - mean r)^2 sum (e - mean e)^2)

    It does not see a gain or an offset of the whole mel. Arguments and errors as for `mae`.

    Returns:
        `[...]`, from -1 to 1, higher is better; 1 for identical input; NaN where one of the two
        is constant and they differ.

    Example:
        >>> round(pearson(torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 9.0]])).item(), 12)
        1.0
    """
    weights = _weights(reference, estimate, mask)
    reference, estimate = reference.double(), estimate.double()
    centred_reference = _centre(reference, weights)
    centred_estimate = _centre(estimate, weights)
    covariance = _mean(centred_reference * centred_estimate, weights)
    reference_deviation = _mean(centred_reference.square(), weights).sqrt()
    estimate_deviation = _mean(centred_estimate.square(), weights).sqrt()
    correlation = covariance / (reference_deviation * estimate_deviation)
    undefined = _is_constant(reference, weights) | _is_constant(estimate, weights)
    correlation = torch.where(undefined, math.nan, correlation.clamp(-1.0, 1.0))
    identical = _keep((reference - estimate).abs(), weights).amax(dim=(-2, -1)) == 0
    return torch.where(identical, 1.0, correlation)


def floor_share(mel: Tensor, *, log_floor: float, mask: Tensor | None = None) -> Tensor:
    """Return the share of each mel's cells that lie at the floor of its recipe.

    Args:
        mel: `[..., n_mels, frames]`, nats.
        log_floor: The recipe's smallest value (`MelRecipe.log_floor`), nats.
        mask: `[..., frames]`, boolean; None counts all frames.

    Returns:
        `[...]`, from 0 to 1: 1 for silence. A mel with a NaN that counts gives NaN.
    """
    weights = _weights(mel, mel, mask)
    mel = mel.double()
    at_floor = (mel <= log_floor + FLOOR_TOLERANCE).double()
    return _mean(torch.where(mel.isnan(), math.nan, at_floor), weights)


def band_mae(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute error of each mel band, `[..., n_mels]`; otherwise as `mae`."""
    weights = _weights(reference, estimate, mask)
    error = _keep((reference.double() - estimate.double()).abs(), weights)
    return error.sum(dim=-1) / weights.sum(dim=-1)


def frame_mae(reference: Tensor, estimate: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return the mean absolute error of each frame, `[..., frames]`; otherwise as `mae`.

    A frame that does not count is NaN, not 0: nothing was measured there.
    """
    weights = _weights(reference, estimate, mask)
    error = (reference.double() - estimate.double()).abs().mean(dim=-2)
    return torch.where(weights.squeeze(-2).bool(), error, math.nan)


def multi_resolution_stft_distance(
    reference: Tensor,
    estimate: Tensor,
    *,
    window_lengths: Sequence[int] = STFT_WINDOW_LENGTHS,
    num_samples: Sequence[int] | None = None,
) -> Tensor:
    """Return how far two waveforms' spectra are at window lengths other than the mel's.

    For each window length w (Hann, hop w / 4), with magnitudes R and E:

        distance_w = ||R - E||_F / ||R||_F + mean |ln R - ln E|

    and the distance is the mean over the window lengths. It sees what a mel of window 1024 cannot:
    clicks between its frames, smeared onsets, pitch that drifts inside one window. It compares
    magnitudes, so a constant phase shift or a change of polarity costs nothing.

    Args:
        reference: `[batch, samples]`.
        estimate: `[batch, samples]`; the longer of the two is cut to the shorter, since decoding
            is shorter than its source by design.
        window_lengths: Samples.
        num_samples: How many samples of each item count; None counts all.

    Returns:
        `[batch]`, from 0 (identical) up; lower is better. Against silence the first term is +inf
        unless the estimate is silent too.

    Raises:
        ValueError: A shape that is not `[batch, samples]`, batches that differ, `num_samples` that
            are not one length an item, or fewer samples than the longest window.
    """
    if not window_lengths or min(window_lengths) < _SHORTEST_WINDOW:
        raise ValueError(
            f"window_lengths must hold lengths of at least {_SHORTEST_WINDOW} samples, "
            f"got {list(window_lengths)}."
        )
    if reference.dim() != 2 or estimate.dim() != 2 or len(reference) != len(estimate):
        raise ValueError(
            "reference and estimate must both be [batch, samples], "
            f"got {list(reference.shape)} and {list(estimate.shape)}."
        )
    common = min(reference.shape[-1], estimate.shape[-1])
    counted = [common] * len(reference) if num_samples is None else num_samples
    if len(counted) != len(reference) or min(counted, default=0) < 0:
        raise ValueError(
            f"num_samples must hold {len(reference)} lengths, one an item, got {list(counted)}."
        )
    items = [
        _stft_distance(
            reference[item, : min(common, counted[item])],
            estimate[item, : min(common, counted[item])],
            window_lengths,
        )
        for item in range(len(reference))
    ]
    return torch.stack(items)


def _stft_distance(reference: Tensor, estimate: Tensor, window_lengths: Sequence[int]) -> Tensor:
    longest = max(window_lengths)
    if len(reference) < longest:
        raise ValueError(
            f"the waveforms must have at least {longest} samples in common, got {len(reference)}. "
            "Use a longer clip, or shorter window_lengths."
        )
    return distance_of_sums(
        torch.stack([stft_sums(reference, estimate, length) for length in window_lengths])
    )


def stft_sums(reference: Tensor, estimate: Tensor, window_length: int) -> Tensor:
    """Return the sums of one window length's distance: they add up over consecutive pieces.

    Args:
        reference: `[samples]`, at least `window_length` of them.
        estimate: The same shape.
        window_length: Samples; the hop is a quarter of it.

    Returns:
        `[4]`, float64: over the bins of all frames, the sums of (R - E)^2, R^2 and |ln R - ln E|,
        and how many bins there are.
    """
    window = torch.hann_window(window_length, device=reference.device)
    magnitude, other = (
        torch.stft(
            waveform.float(),
            n_fft=window_length,
            hop_length=window_length // 4,
            window=window,
            center=False,
            return_complex=True,
        )
        .abs()
        .double()
        for waveform in (reference, estimate)
    )
    log_gap = (
        magnitude.clamp(min=STFT_MAGNITUDE_FLOOR).log()
        - other.clamp(min=STFT_MAGNITUDE_FLOOR).log()
    )
    count = torch.full((), magnitude.numel(), dtype=torch.float64, device=reference.device)
    gap = (magnitude - other).square().sum()
    return torch.stack([gap, magnitude.square().sum(), log_gap.abs().sum(), count])


def distance_of_sums(sums: Tensor) -> Tensor:
    """Return the distance that `stft_sums` of each window length, `[window lengths, 4]`, give."""
    gap, power, log_gap, count = sums.unbind(dim=-1)
    convergence = torch.where(gap == 0, gap, (gap / power).sqrt())
    return (convergence + log_gap / count).mean()


def _weights(reference: Tensor, estimate: Tensor, mask: Tensor | None) -> Tensor:
    """Return 1 for frames that count and 0 for the rest, as `[..., 1, frames]` in float64."""
    if reference.shape != estimate.shape or reference.dim() < 2:
        raise ValueError(
            "reference and estimate must both be [..., n_mels, frames], "
            f"got {list(reference.shape)} and {list(estimate.shape)}."
        )
    expected = (*reference.shape[:-2], reference.shape[-1])
    if mask is None:
        mask = torch.ones(expected, dtype=torch.bool, device=reference.device)
    if mask.shape != expected or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean and {list(expected)}, got {mask.dtype} {list(mask.shape)}."
        )
    if reference.numel() == 0 or not mask.any(dim=-1).all():
        raise ValueError("at least one frame of each item must count, got none.")
    return mask.double().unsqueeze(-2)


def _keep(values: Tensor, weights: Tensor) -> Tensor:
    # Not a product: 0 * NaN would let a NaN in the padding through.
    return torch.where(weights.bool(), values, 0.0)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    counted = weights.sum(dim=(-2, -1)) * values.shape[-2]
    return _keep(values, weights).sum(dim=(-2, -1)) / counted


def _centre(values: Tensor, weights: Tensor) -> Tensor:
    return values - _mean(values, weights)[..., None, None]


def _is_constant(values: Tensor, weights: Tensor) -> Tensor:
    kept = weights.bool()
    highest = torch.where(kept, values, -math.inf).amax(dim=(-2, -1))
    lowest = torch.where(kept, values, math.inf).amin(dim=(-2, -1))
    return highest == lowest


def _ratio_db(signal: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
    signal_power = _mean(signal.square(), weights)
    noise_power = _mean(noise.square(), weights)
    ratio = 10.0 * (signal_power.log10() - noise_power.log10())
    # No noise at all is +inf, whatever the signal; 0 / 0 would be NaN.
    return torch.where(noise_power == 0, math.inf, ratio)
