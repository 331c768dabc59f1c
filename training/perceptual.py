"""Perceptual quality of a reconstruction by two standard measures: PESQ and STOI.

    pesq_wb  ITU-T P.862.2, wideband        -0.5..4.64   higher is better   4.64 if identical
    stoi     short-time intelligibility        0..1      higher             1

Both compare waveforms `[samples]`, reference first, at 16 kHz: what lies above 8 kHz is not heard.
They come from the packages of `melcheck[perceptual]`, which the gates do not need.

References:
    ITU-T Recommendation P.862.2, 2007, https://www.itu.int/rec/T-REC-P.862.2; package `pesq`.
    C. Taal, R. Hendriks, R. Heusdens, J. Jensen, "An algorithm for intelligibility prediction of
    time-frequency weighted noisy speech", IEEE TASLP 19(7), 2011,
    https://doi.org/10.1109/TASL.2011.2114881; package `pystoi`.
"""

from __future__ import annotations

import math

from torch import Tensor
from torchaudio.functional import resample

_RATE = 16_000
_INSTALL = "Install the packages of the extra: pip install 'melcheck[perceptual]'."


def pesq_wb(reference: Tensor, estimate: Tensor, *, sample_rate: int) -> float:
    """Return the wideband PESQ of an estimate.

    Args:
        reference: `[samples]`, in [-1, 1].
        estimate: `[samples]`, as long as the reference.
        sample_rate: Rate of both, in Hz.

    Returns:
        From about 1 (bad) to 4.64 (identical); NaN where it finds no utterance, as in silence.

    Raises:
        ImportError: The package `pesq` is not installed.
        ValueError: Shapes that differ, or are not of one dimension.
    """
    try:
        from pesq import PesqError, pesq
    except ImportError:
        raise ImportError(f"PESQ needs the package pesq. {_INSTALL}") from None
    before, after = _at_16_khz(reference, estimate, sample_rate)
    # The package divides by the larger of the two peaks.
    if not (reference.any() or estimate.any()):
        return math.nan
    score = float(pesq(_RATE, before, after, "wb", on_error=PesqError.RETURN_VALUES))
    return score if score > 0 else math.nan


def stoi(reference: Tensor, estimate: Tensor, *, sample_rate: int) -> float:
    """Return the short-time objective intelligibility of an estimate, up to 1.

    Args and errors are those of `pesq_wb`, with the package `pystoi`.
    """
    try:
        from pystoi import stoi as measure
    except ImportError:
        raise ImportError(f"STOI needs the package pystoi. {_INSTALL}") from None
    before, after = _at_16_khz(reference, estimate, sample_rate)
    return float(measure(before, after, _RATE))


def _at_16_khz(reference: Tensor, estimate: Tensor, sample_rate: int) -> tuple[object, object]:
    if reference.ndim != 1 or reference.shape != estimate.shape:
        raise ValueError(
            f"reference and estimate must be [samples] of one length, got "
            f"{list(reference.shape)} and {list(estimate.shape)}. Cut the longer one."
        )
    before, after = (
        resample(waveform, sample_rate, _RATE).double().cpu().numpy()
        for waveform in (reference, estimate)
    )
    return before, after
