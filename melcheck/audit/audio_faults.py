"""What is wrong with the audio of a clip itself, by the samples of its file.

They are measured as they were decoded, before anything is mixed or resampled: `measure` takes them
in blocks, so that memory does not grow with the length of a file. `AudioFaults.found` says which of
the figures are faults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.audio import SILENT_PEAK
from melcheck.clip_condition import (
    LARGEST_DC,
    NARROW_SHARE,
    mean_spectrum,
    spectrum_reach_hz,
    stretches,
    top_runs,
    wrapped_samples,
)
from melcheck.diagnosis.causes import Explanation, explanation

# Clipping is heard from about a ten-thousandth of the samples on; in the fixtures there is none.
_CLIPPED_SHARE = 1e-4
_FEWEST_WRAPS = 2
_LONG_SILENCE_SECONDS = 0.5
_QUIET_DBFS = -40.0
# Samples beyond full scale by this factor are not loud, they are integers.
_INTEGER_PEAK = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFaults:
    """Figures of the audio of one clip; those of a row have the same names.

    Attributes:
        seconds: Length.
        sample_rate: Hz.
        bandwidth_hz: Highest frequency that the audio reaches; NaN where it is too quiet to tell.
        peak_dbfs: Largest magnitude, dB of full scale; -inf for zeros.
        level_dbfs: RMS level, dB of full scale.
        dc: Mean of the samples, full scale 1.
        clipped_share: Share of the samples that lie in runs at the largest magnitude.
        wrapped_samples: Jumps from one end of the integer range to the other.
        broken_samples: Samples that are NaN or infinite. The other figures take them for zeros.
        silent_start_seconds: Below -80 dB of full scale at the start.
        silent_middle_seconds: The longest inside.
        silent_end_seconds: At the end.
    """

    seconds: float
    sample_rate: int
    bandwidth_hz: float
    peak_dbfs: float
    level_dbfs: float
    dc: float
    clipped_share: float
    wrapped_samples: int
    broken_samples: int
    silent_start_seconds: float
    silent_middle_seconds: float
    silent_end_seconds: float

    def columns(self) -> dict[str, float | int]:
        """Return the figures that a row has."""
        names = (each.name for each in dataclasses.fields(self))
        return {
            name: getattr(self, name) for name in names if name not in ("seconds", "sample_rate")
        }

    def found(self) -> list[Explanation]:
        """Return what is wrong, the worst first; codes are those of `melcheck.diagnosis.causes`."""
        if self.broken_samples:
            return [explanation("non-finite", f"{self.broken_samples:,} samples of the file")]
        if self.silent_start_seconds >= self.seconds:
            return [explanation("silent-clip", "no sample is above -80 dB of full scale")]
        if self.peak_dbfs > 20 * math.log10(_INTEGER_PEAK):
            # The other limits are those of full scale 1.
            peak = 10 ** (self.peak_dbfs / 20)
            return [explanation("int16-scale", f"the clip's peak is {peak:,.0f}")]
        faults = []
        # Audio that was driven far beyond the top and clipped may fall nearly as far between two
        # samples, but there far more lie at the top.
        at_top = self.clipped_share * self.seconds * self.sample_rate
        if self.wrapped_samples >= _FEWEST_WRAPS and self.wrapped_samples > at_top:
            text = f"{self.wrapped_samples:,} jumps from one end of the range to the other"
            faults.append(explanation("int16-wrap", text))
        if self.clipped_share >= _CLIPPED_SHARE:
            text = f"{self.clipped_share:.2%} of its samples lie in runs at its peak"
            faults.append(
                explanation(
                    "clipping",
                    text,
                    title="the clip itself is clipped",
                    fix="Use the recording before it was clipped, or leave the clip out.",
                )
            )
        if abs(self.dc) >= LARGEST_DC:
            faults.append(explanation("dc-offset", f"the mean of its samples is {self.dc:.3f}"))
        # The upper half and more is empty: it was recorded or stored at a lower rate than its own.
        if self.bandwidth_hz < NARROW_SHARE * self.sample_rate / 2:
            text = (
                f"nothing is heard above {self.bandwidth_hz:,.0f} Hz of {self.sample_rate // 2:,}"
            )
            faults.append(explanation("band-limited", text))
        if self.peak_dbfs < _QUIET_DBFS:
            text = f"its peak is at {self.peak_dbfs:.1f} dBFS"
            title, fix = "the clip is quiet", "Raise its level, or leave the clip out."
            faults.append(explanation("level", text, title=title, fix=fix))
        for where in ("start", "middle", "end"):
            seconds = getattr(self, f"silent_{where}_seconds")
            if seconds >= _LONG_SILENCE_SECONDS:
                text = f"{seconds:.2f} s at its {where} are below -80 dB of full scale"
                faults.append(explanation("silence", text))
        return faults


def measure(blocks: Iterable[Tensor], sample_rate: int) -> AudioFaults:
    """Measure audio that comes in blocks.

    Clipping is looked for in each block by itself, and counts where the block's peak is that of the
    whole.

    Args:
        blocks: `[channels, samples]` each, float32, full scale 1, one after the other.
        sample_rate: Hz.
    """
    samples = values = broken = wraps = 0
    total = power = 0.0
    tops: list[tuple[float, int]] = []
    spectrum, frames = torch.zeros(()), 0
    silence = _Silence()
    before = torch.zeros(0, 0)
    for each in blocks:
        lost = int((~torch.isfinite(each)).sum())
        block = each.nan_to_num(0.0, posinf=0.0, neginf=0.0) if lost else each
        if not block.shape[-1]:
            continue
        broken += lost
        tops.append(top_runs(block))
        # A sum in float32 of millions of samples would lose digits.
        total += float(block.sum(dtype=torch.float64))
        power += float(torch.linalg.vector_norm(block, dtype=torch.float64)) ** 2
        # A jump between two blocks needs the two samples before.
        wraps += wrapped_samples(torch.cat([before, block], dim=-1) if len(before) else block)
        before = block[:, -2:]
        spectrum = spectrum + mean_spectrum(block) * block.shape[-1]
        silence.add((block.abs() < SILENT_PEAK).all(dim=0))
        samples += block.shape[-1]
        values += block.numel()
        frames += block.shape[-1]
    peak = max((top for top, _ in tops), default=0.0)
    clipped = sum(count for top, count in tops if top >= 0.999 * peak)
    start, middle, end = silence.found()
    return AudioFaults(
        seconds=samples / sample_rate,
        sample_rate=sample_rate,
        bandwidth_hz=spectrum_reach_hz(spectrum / frames, sample_rate) if frames else math.nan,
        peak_dbfs=_decibels(peak),
        level_dbfs=_decibels(math.sqrt(power / values)) if values else -math.inf,
        dc=total / values if values else math.nan,
        clipped_share=clipped / values if values else math.nan,
        wrapped_samples=wraps,
        broken_samples=broken,
        silent_start_seconds=start / sample_rate,
        silent_middle_seconds=middle / sample_rate,
        silent_end_seconds=end / sample_rate,
    )


class _Silence:
    """Where silence begins, lasts longest and ends, of blocks of flags."""

    def __init__(self) -> None:
        self._samples = self._start = self._longest = 0
        # Where the stretch began that reaches the end of what was added; None where none does.
        self._since: int | None = None

    def add(self, silent: Tensor) -> None:
        """Add the next block, `[samples]`, boolean."""
        begins, ends = (each + self._samples for each in stretches(silent))
        if self._since is not None:
            # It goes on, or has ended where this block begins.
            since = torch.tensor([self._since])
            if bool(silent[0]):
                begins = torch.cat([since, begins[1:]])
            else:
                begins = torch.cat([since, begins])
                ends = torch.cat([torch.tensor([self._samples]), ends])
        self._samples += silent.shape[0]
        self._since = None
        if bool(silent[-1]):
            self._since = int(begins[-1])
            begins, ends = begins[:-1], ends[:-1]
        if begins.numel() and not int(begins[0]):
            self._start = int(ends[0])
            begins, ends = begins[1:], ends[1:]
        if begins.numel():
            self._longest = max(self._longest, int((ends - begins).max()))

    def found(self) -> tuple[int, int, int]:
        """Return samples of silence at the start, inside at most, and at the end."""
        if self._since is None:
            return self._start, self._longest, 0
        last = self._samples - self._since
        return (self._start if self._since else last), self._longest, last


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
