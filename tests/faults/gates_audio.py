"""The gates that look at waveforms and files: what is read, saved, and heard in the end."""

from __future__ import annotations

import torch

from melcheck.metrics import multi_resolution_stft_distance
from tests.faults.loops import Run

__all__ = [
    "clicks_gate",
    "distance_gate",
    "full_scale_gate",
    "level_gate",
    "load_gate",
    "save_gate",
]

# Share by which the spectrum may differ, nats in loud cells, and constant offset. The worst of 200
# windows of the fixtures, each read in 16 bits, with dither, in float16, a sample late and through
# another resampler: 0.0052, 0.0057 and 1.4e-5. Dither reaches no cell above -3.5 by itself, so that
# windows of nearly nothing but digital silence have no loud cells. Resamplers differ by a nat and
# more in the topmost bands, which stay out.
LOAD_STRENGTH = 0.02
LOAD_LOG_ERROR = 0.02
LOAD_ACTIVE = -3.5
LOAD_BANDS = 95
# Mirrored edges magnify a shift by one sample; they stay out, too.
LOAD_EDGE_FRAMES = 2
LOAD_OFFSET = 2e-4

# Rounding to 16 bits is half a step of 1 / 32,768; dither adds one.
SAVE_SAMPLES = 2 / 32_768

# Samples in a row within 0.1 % of the peak. No clip has three; a vocoder may exceed full scale by
# itself, hence the ratio to a healthy peak.
CLIPPED_SHARE = 0.999
CLIPPED_RUN = 3
PEAK_RATIO = 1.25
CUT_OFF_RATIO = 2

# Largest jump against a healthy one: 1.13 on the ladder.
CLICK_RATIO = 2.0

# 1.6 dB on the ladder: the embedded vocoder answers to noise that it never learned.
LEVEL_DB = 3.0

# 0.035 on the ladder.
DISTANCE_MARGIN = 0.07


def load_gate(run: Run) -> str | None:
    """Compare what the loader gives with the file."""
    expected = run.expected.waveform
    if run.waveform.shape != expected.shape:
        return f"the file holds {list(expected.shape)}, the loader gives {list(run.waveform.shape)}"
    # Of the magnitudes, since an inverted waveform is no fault.
    offset = abs(run.waveform.double().mean().abs() - expected.double().mean().abs()).item()
    mel, read_mel = run.expected.mel, run.read_mel
    if mel.shape[1] != run.expected.recipe.n_mels or read_mel is None:
        return None
    # Resamplers differ in the topmost bands, and quiet cells hold the noise of 16 bits.
    edge = min(LOAD_EDGE_FRAMES, (mel.shape[-1] - 1) // 2)
    inner = slice(edge, mel.shape[-1] - edge)
    mel, read_mel = (each[:, :LOAD_BANDS, inner].double() for each in (mel, read_mel))
    either = torch.maximum(mel, read_mel) > LOAD_ACTIVE
    if not either.any():
        return None
    gap = (mel.exp() - read_mel.exp()).abs()[either].sum()
    strength = (gap / mel.exp()[either].sum()).item()
    active = mel > LOAD_ACTIVE
    log_error = (mel - read_mel).abs()[active].mean().item() if active.any() else 0.0
    for value, limit, what in (
        (offset, LOAD_OFFSET, "of constant offset"),
        (strength, LOAD_STRENGTH, "of the file's spectrum"),
        (log_error, LOAD_LOG_ERROR, "nats in its loud cells"),
    ):
        if not value <= limit:
            return f"differs from the file by {value:.3g} {what}, at most {limit:g} expected"
    return None


def save_gate(run: Run) -> str | None:
    """Compare what is in the saved file with what was decoded."""
    if run.loop.save == run.expected.loop.save:
        return None
    output, rate = run.output
    wanted = run.expected.recipe.sample_rate
    if rate != wanted:
        return f"the file says {rate} Hz, the samples are of {wanted} Hz"
    decoded = run.decoded
    if output.shape != decoded.shape:
        return f"{list(decoded.shape)} were decoded, {list(output.shape)} are in the file"
    # No file of integers holds more than full scale, which is another gate's.
    error = (output.clip(-1, 1) - decoded.clip(-1, 1)).abs().max().item()
    if error <= SAVE_SAMPLES:
        return None
    return f"a sample of the file is off by {error:.3g}, at most {SAVE_SAMPLES:g} expected"


def full_scale_gate(run: Run) -> str | None:
    """Look for samples beyond full scale, or cut off, on the way in and out."""
    healthy = run.expected.waveform, run.expected.decoded
    stages = ("input", run.waveform, healthy[0]), ("result", run.output[0], healthy[1])
    for name, waveform, reference in stages:
        peak = waveform.abs().max().item()
        # A vocoder may go beyond full scale by itself, which is not the loop's fault.
        if peak > max(1.0, PEAK_RATIO * reference.abs().max().item()):
            return f"the {name} reaches {peak:.3g}, full scale is 1"
        # Where it does, saving cuts a healthy result off, too: that much is not the loop's fault.
        healthy_flat = int((reference.abs() >= 1).sum())
        flat = waveform.abs() >= CLIPPED_SHARE * peak
        if (
            peak > 0
            and int(flat.sum()) > CUT_OFF_RATIO * healthy_flat
            and flat.unfold(-1, CLIPPED_RUN, 1).all(dim=-1).any()
        ):
            return f"the {name} stays at its peak of {peak:.3g} for {CLIPPED_RUN} samples or more"
    return None


def clicks_gate(run: Run) -> str | None:
    """Look for jumps that a healthy result does not have."""
    expected, (output, _) = run.expected.decoded, run.output
    if output.shape != expected.shape:
        return None
    jump, healthy = (wave.diff().abs().max().item() for wave in (output, expected))
    if jump <= CLICK_RATIO * healthy:
        return None
    return f"neighbouring samples differ by {jump:.3g}, by {healthy:.3g} in a healthy result"


def level_gate(run: Run) -> str | None:
    """Compare the loudness of the result with a healthy one's."""
    expected, (output, _) = run.expected.decoded, run.output
    if output.shape != expected.shape:
        return None
    ratio = output.double().square().mean() / expected.double().square().mean()
    level_db = 10 * ratio.log10().item()
    return None if abs(level_db) <= LEVEL_DB else f"{level_db:+.2f} dB against a healthy result"


def distance_gate(run: Run) -> str | None:
    """Compare how far the result's spectra are from the input's with a healthy one's."""
    output, _ = run.output
    if output.shape != run.expected.decoded.shape:
        return None
    if run.waveform.shape != run.expected.waveform.shape:
        return None
    distance = float(multi_resolution_stft_distance(run.waveform, output)[0])
    limit = run.expected.distance + DISTANCE_MARGIN
    return None if distance <= limit else f"{distance:.3f} from the input, at most {limit:.3f}"
