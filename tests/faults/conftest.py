"""The fixtures of a run of the suite in this process."""

from __future__ import annotations

from tests.faults.suite_run import mel_clip, mel_device, mel_griffin_lim, mel_vocoder, suite_run

__all__ = ["mel_clip", "mel_device", "mel_griffin_lim", "mel_vocoder", "suite_run"]
