"""The metrics of a mel that is too long to hold: what `melcheck.metrics.compare` says, in passing.

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

import torch
from torch import Tensor

from melcheck.metrics import MelMetrics, band_mae, floor_share, frame_mae

__all__ = ["RunningMetrics"]


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
