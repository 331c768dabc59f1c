"""Does a saver write what it is given? Write waveforms with it, read them back and compare.

The files are read by soundfile, as they are: the rate in the header, all channels, every sample.
A file of integers holds nothing beyond full scale, so that samples are compared within it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from melcheck.audio import AudioError, decode_audio
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.stage_handshake import (
    ClipResult,
    Pair,
    StageHandshake,
    raised,
    rounded_alike,
    stage_verdict,
)
from melcheck.diagnosis.waveform import SAME_SAMPLES
from melcheck.file_stages import Saver, adapt_saver
from melcheck.probe_clips import probe
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.user_code import CallableError, name_of

_SECONDS = 1.2

# Where what is scaled down to be within full scale ends at least.
_LEAST_PEAK = 0.9

# Their largest samples. A vocoder may exceed full scale by itself.
_PEAKS: Mapping[str, float] = MappingProxyType(
    {"quiet probe": 0.05, "probe near full scale": 0.98, "probe beyond full scale": 1.4}
)


def handshake_saver(
    saver: Saver | Callable[..., Any],
    *,
    expected: MelRecipe = VOCOS,
    waveforms: Mapping[str, Tensor] = MappingProxyType({}),
) -> StageHandshake:
    """Write probes, and waveforms, with a saver and compare the files with what was given.

    Args:
        saver: Takes (path, waveform, rate) and writes a file; or one that
            `melcheck.file_stages.load_saver` has adapted.
        expected: The recipe whose rate the waveforms have.
        waveforms: More of them by name, `[samples]`: what a vocoder has decoded.

    Returns:
        The verdict. The rounding of 16 bits, dither, and samples beyond full scale that are cut off
        are harmless, and noted.

    Raises:
        CallableError: It cannot be called, or writes no file at all.
    """
    rate = expected.sample_rate
    if not isinstance(saver, Saver):
        saver = adapt_saver(saver, name=name_of(saver), sample_rate=rate)
    clip = probe(round(_SECONDS * rate), sample_rate=rate)
    given = {name: clip * (peak / clip.abs().max()) for name, peak in _PEAKS.items()}
    given |= waveforms
    with tempfile.TemporaryDirectory() as folder:
        results = [
            _compared(saver, Path(folder) / f"{number}.wav", name, waveform, rate)
            for number, (name, waveform) in enumerate(given.items())
        ]
    return stage_verdict("saver", saver.name, "what it was given", results)


def _compared(
    saver: Saver, path: Path, name: str, waveform: Tensor, rate: int
) -> ClipResult | Pair:
    waveform = waveform.detach().cpu().float().reshape(-1)
    try:
        saver(path, waveform[None], rate)
        read = decode_audio(MelCheckConfig(path, rate, None), with_soundfile=True)
    except (CallableError, AudioError) as error:
        return raised(name, error)
    samples = read.samples[0] if len(read.samples) == 1 else read.samples
    if read.sample_rate == rate and samples.dim() == 1:
        # A file of integers holds nothing beyond full scale.
        alike = rounded_alike(name, "saver", waveform.clamp(-1, 1), samples.clamp(-1, 1))
        if alike is not None:
            return alike
        quieter = _below_full_scale(waveform, samples)
        if quieter is not None:
            return ClipResult(name, quieter, harmless=True)
    return Pair(name, waveform, samples, sample_rate=rate, estimate_rate=read.sample_rate)


def _below_full_scale(waveform: Tensor, samples: Tensor) -> Explanation | None:
    """Explain a waveform beyond full scale that was scaled down as a whole, to be within it."""
    peak, reached = float(waveform.abs().max()), float(samples.abs().max())
    if peak <= 1 or len(waveform) != len(samples) or not _LEAST_PEAK <= reached <= 1:
        return None
    gain = reached / peak
    if float((samples - gain * waveform).abs().max()) > SAME_SAMPLES:
        return None
    return explanation(
        "gain",
        f"a factor of {gain:.3g}",
        title="what is beyond full scale is scaled down as a whole",
        fix="Nothing to do: it would be cut off otherwise.",
    )
