"""The gates of the project's own test bench: what each finds in one run of a loop on one clip.

A gate compares what a loop did with what a healthy one does (`tests.faults.model`), and knows
nothing of any particular fault.

    preflight             a loader or a check of tensors refuses its input
    load                  the loader's waveform is the file's
    shape                 tensors have the shapes that the recipe promises
    finite                no NaN, nothing infinite
    range                 no mel below the recipe's floor or above what full scale can reach
    extract               on identical samples, the front end gives the recipe's mel
    golden-encoded        the mel's statistics are those on record
    decode                on an identical mel, the vocoder gives the expected samples
    repeat                the same input gives the same output twice
    batch                 a mel decoded in a batch gives the samples that it gives alone
    save                  what is saved is what was decoded, at the right rate
    full-scale            no clipping, neither on the way in nor on the way out
    clicks                no jump between neighbouring samples that a healthy loop does not have
    level                 the result is as loud as a healthy loop's
    distance              the result's spectra are as near to the input's as a healthy loop's
    sanity                the thresholds of `melcheck.sanity`
    golden-reconstructed  the statistics of the result's mel are those on record

Tolerances were measured on what must raise no alarm: the ladder of `tests/faults/test_benign.py` on
the twelve fixture clips and eight readings of LJ Speech, with the embedded vocoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from melcheck.diagnosis.identify import log_ceiling
from melcheck.diagnosis.recipe_search.mel_values import STORAGE_ROUNDINGS, storage_of, storage_step
from melcheck.goldens import ENCODED_TOLERANCES, RECONSTRUCTED_TOLERANCES, mel_statistics
from melcheck.metrics import compare, multi_resolution_stft_distance
from melcheck.recipes import MelRecipe
from melcheck.sanity import judge
from tests.faults.model import Expectation, LoopRun, LoopUnderTest, Refusal, refusing

# Share by which the spectrum may differ, nats in loud bins, and constant offset: 0.0052, 0.0057 and
# 1.4e-5 at most on the windows of test_benign.py. Dither reaches no bin above -3.5 by itself.
# Resamplers differ by a nat and more in the topmost bands, which stay out.
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

# 1.6 dB on the ladder: noise, which the embedded vocoder was not trained on.
LEVEL_DB = 3.0

# 0.035 on the ladder.
DISTANCE_MARGIN = 0.07


def load_gate(run: LoopRun) -> str | None:
    """Compare what the loader gives with the file."""
    expected = run.expected.waveform
    if run.waveform.shape != expected.shape:
        return f"the file holds {list(expected.shape)}, the loader gives {list(run.waveform.shape)}"
    # Of the magnitudes, since an inverted waveform is no fault.
    offset = abs(run.waveform.double().mean().abs() - expected.double().mean().abs()).item()
    mel, read_mel = run.expected.mel, run.read_mel
    if mel.shape[1] != run.expected.recipe.n_mels or read_mel is None:
        return None
    # Resamplers differ in the topmost bands, and quiet bins hold the noise of 16 bits.
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
        (log_error, LOAD_LOG_ERROR, "nats in its loud bins"),
    ):
        if not value <= limit:
            return f"differs from the file by {value:.3g} {what}, at most {limit:g} expected"
    return None


def save_gate(run: LoopRun) -> str | None:
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
    # No file of integers holds more than full scale: that is for the gate "full-scale".
    error = (output.clip(-1, 1) - decoded.clip(-1, 1)).abs().max().item()
    if error <= SAVE_SAMPLES:
        return None
    return f"a sample of the file is off by {error:.3g}, at most {SAVE_SAMPLES:g} expected"


def full_scale_gate(run: LoopRun) -> str | None:
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


def clicks_gate(run: LoopRun) -> str | None:
    """Look for jumps that a healthy result does not have."""
    expected, (output, _) = run.expected.decoded, run.output
    if output.shape != expected.shape:
        return None
    jump, healthy = (wave.diff().abs().max().item() for wave in (output, expected))
    if jump <= CLICK_RATIO * healthy:
        return None
    return f"neighbouring samples differ by {jump:.3g}, by {healthy:.3g} in a healthy result"


def level_gate(run: LoopRun) -> str | None:
    """Compare the loudness of the result with a healthy one's."""
    expected, (output, _) = run.expected.decoded, run.output
    if output.shape != expected.shape:
        return None
    ratio = output.double().square().mean() / expected.double().square().mean()
    level_db = 10 * ratio.log10().item()
    return None if abs(level_db) <= LEVEL_DB else f"{level_db:+.2f} dB against a healthy result"


def distance_gate(run: LoopRun) -> str | None:
    """Compare how far the result's spectra are from the input's with a healthy one's."""
    output, _ = run.output
    if output.shape != run.expected.decoded.shape:
        return None
    if run.waveform.shape != run.expected.waveform.shape:
        return None
    distance = float(multi_resolution_stft_distance(run.waveform, output)[0])
    limit = run.expected.distance + DISTANCE_MARGIN
    return None if distance <= limit else f"{distance:.3f} from the input, at most {limit:.3f}"


# Of magnitudes. A front end in float64 differs by up to 5.3e-6 from one in float32; a floor of 1e-5
# in place of 1e-7 makes 9.9e-6.
EXTRACT_RELATIVE = 1e-4
EXTRACT_MAGNITUDE = 8e-6

# float32 resolves 2e-6 at the floor.
RANGE_SLACK = 1e-5

# Full scale is 1. Another batch size moves a sample by 2e-6, one to four threads move none.
DECODE_SAMPLES = 2e-5

# The shorter item of a batch has this share of the longer one's frames.
SHORTER_ITEM = 0.6

# How much worse than in a healthy loop a missed metric must be: a clip that passes narrowly misses
# its threshold after a different resampler (MAE +0.07, correlation -0.004), a quiet one in 16 bits
# (SNR -7 dB). `pytest -m sanity` has the thresholds as written, on the exact recordings.
SANITY_MARGINS: Mapping[str, float] = MappingProxyType(
    {"mae": 0.1, "pearson": 0.02, "snr_db": 8.0, "reference_floor_share": 0.1}
)


def shape_gate(run: LoopRun) -> str | None:
    """Compare the shapes of mel and result with those that the recipe promises."""
    recipe = run.expected.recipe
    frames = recipe.frames(run.expected.waveform.shape[-1])
    wanted = [1, recipe.n_mels, frames]
    if list(run.mel.shape) != wanted:
        return f"the mel must be {wanted}, got {list(run.mel.shape)}"
    output, _ = run.output
    samples = [1, recipe.num_samples(frames)]
    if list(output.shape) != samples:
        return f"the result must be {samples}, got {list(output.shape)}"
    return None


def finite_gate(run: LoopRun) -> str | None:
    """Look for NaN and infinity at every stage."""
    for name in ("waveform", "mel", "decoded"):
        broken = int((~torch.isfinite(getattr(run, name))).sum())
        if broken:
            return f"{broken} values of the {name} are NaN or infinite"
    return None


def range_gate(run: LoopRun) -> str | None:
    """Look for bins below the floor, or above what full scale can reach."""
    recipe = run.expected.recipe
    slack = RANGE_SLACK + _storage_rounding(run.mel) * abs(recipe.log_floor)
    low, high = recipe.log_floor - slack, log_ceiling(recipe) + slack
    lowest, highest = run.mel.min().item(), run.mel.max().item()
    if low <= lowest and highest <= high:
        return None
    return f"a mel lies in [{low:.2f}, {high:.2f}], this one in [{lowest:.2f}, {highest:.2f}]"


def extract_gate(run: LoopRun) -> str | None:
    """Compare the front end's mel of identical samples with the recipe's."""
    expected, mel = run.expected.mel.double(), run.extracted
    if mel.shape != expected.shape:
        return f"the recipe gives {list(expected.shape)}, the front end {list(mel.shape)}"
    # |exp m - exp e| is judged, not |m - e|: rounding in a transform is relative to the loudest
    # bin, and what lies far below it has no more digits. Storage in fewer bits is relative to m.
    rounding = _storage_rounding(mel) * expected.abs() + EXTRACT_RELATIVE
    allowed = expected.exp() * rounding.expm1() + EXTRACT_MAGNITUDE
    excess = (mel.double().exp() - expected.exp()).abs() / allowed
    worst = excess.max().item()
    if worst <= 1:
        return None
    share = (~(excess <= 1)).double().mean().item()
    return f"{share:.1%} of the bins are not the recipe's, the worst by {worst:.3g} tolerances"


def _storage_rounding(mel: Tensor) -> float:
    # A mel that any narrower type holds without loss was stored in it: half a unit in its last
    # place is not the front end's fault.
    return STORAGE_ROUNDINGS * storage_step(storage_of(mel))


def golden_encoded_gate(run: LoopRun) -> str | None:
    """Compare the mel's statistics with those on record."""
    golden = run.expected.encoded
    if golden is None or run.mel.shape != run.expected.mel.shape:
        return None
    return _deviation(golden, run.mel[0], run.expected.recipe, ENCODED_TOLERANCES)


def golden_reconstructed_gate(run: LoopRun) -> str | None:
    """Compare the statistics of the result's mel with those on record."""
    golden, mel = run.expected.reconstructed, run.decoded_mel
    if golden is None or mel is None:
        return None
    return _deviation(golden, mel[0], run.expected.recipe, RECONSTRUCTED_TOLERANCES)


def _deviation(
    golden: Mapping[str, Sequence[float]],
    mel: Tensor,
    recipe: MelRecipe,
    tolerances: Mapping[str, float],
) -> str | None:
    worst, finding = 1.0, None
    if not torch.isfinite(mel).all():
        return "the mel is not finite"
    for name, values in mel_statistics(mel, recipe).items():
        if len(values) != len(golden[name]):
            return f"{name} has {len(values)} values, {len(golden[name])} are on record"
        for place, (value, recorded) in enumerate(zip(values, golden[name], strict=True)):
            excess = abs(value - recorded) / tolerances[name]
            if not excess <= worst:
                worst = excess
                finding = f"{name}[{place}] is {value:.5g}, {recorded:.5g} is on record"
    return finding


def decode_gate(run: LoopRun) -> str | None:
    """Compare what the vocoder makes of an identical mel with what is expected."""
    expected, vocoded = run.expected.decoded, run.vocoded
    if vocoded.shape != expected.shape:
        return f"the vocoder must give {list(expected.shape)}, got {list(vocoded.shape)}"
    error = (vocoded - expected).abs().max().item()
    if error <= DECODE_SAMPLES:
        return None
    return f"a sample is off by {error:.3g}, at most {DECODE_SAMPLES:g} expected"


def repeat_gate(run: LoopRun) -> str | None:
    """Run front end and vocoder again on the same input."""
    healthy = run.expected.loop
    if run.loop.extract != healthy.extract:
        again = run.again(run.loop.extract, run.expected.waveform)
        if not _same(run.extracted, again):
            return "the front end gives a different mel of the same samples"
    if run.loop.decode != healthy.decode:
        again = run.again(run.loop.decode, run.expected.mel)
        if not _same(run.vocoded, again):
            return "the vocoder gives different samples for the same mel"
    return None


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())


def batch_gate(run: LoopRun) -> str | None:
    """Compare a mel decoded in a batch with the same one alone."""
    if run.loop.decode_batch is None:
        return None
    mel = run.expected.mel
    mels = [mel, mel[..., : math.ceil(mel.shape[-1] * SHORTER_ITEM)]]
    decode_batch = run.loop.decode_batch
    together = refusing(lambda: decode_batch(mels))
    for item, given in zip(mels, together, strict=True):
        alone = run.again(run.loop.decode, item)
        if given.shape != alone.shape:
            return f"alone it is {list(alone.shape)}, in a batch {list(given.shape)}"
        error = (given - alone).abs().max().item()
        if not error <= DECODE_SAMPLES:
            return f"a sample is off by {error:.3g} in a batch, at most {DECODE_SAMPLES:g} expected"
    return None


def sanity_gate(run: LoopRun) -> str | None:
    """Check the result against the thresholds, as far as a healthy loop keeps them."""
    # As the suite's own gate does, in memory: what saving adds is for the gate "save".
    read, decoded = run.read_mel, run.decoded_mel
    if not run.expected.gated or read is None or decoded is None:
        return None
    verdict = judge(compare(read, decoded, log_floor=run.expected.recipe.log_floor)[0])
    unreliable = {failure.metric for failure in judge(run.expected.metrics).failures}
    for failure in verdict.failures:
        if failure.metric in unreliable:
            continue
        healthy = getattr(run.expected.metrics, failure.metric)
        if not abs(failure.value - healthy) <= SANITY_MARGINS[failure.metric]:
            return f"{failure}; it is {healthy:.4g} in a healthy loop"
    return None


FRONT_GATES = ("load", "range", "extract", "golden-encoded")
"""The gates that look at nothing after the mel, so that nothing need be decoded for them."""


def inspect(
    loop: LoopUnderTest,
    expected: Expectation,
    folder: Path,
    *,
    gates: Collection[str] | None = None,
) -> dict[str, str]:
    """Run gates on a loop.

    Args:
        loop: What to judge.
        expected: What a healthy loop does with the same file.
        folder: An existing folder that may be written to.
        gates: Names of the gates to run; None for all.

    Returns:
        What each gate that fires has found, by the gate's name, in the order of `GATES`. A stage
        that refuses its input with one of melcheck's errors fires "preflight", and gates that
        need what it would have given stay silent.
    """
    run = LoopRun(loop, expected, folder)
    found: dict[str, str] = {}
    for name, gate in GATES.items():
        if gates is not None and name not in gates:
            continue
        try:
            finding = gate(run)
        except Refusal as refusal:
            found.setdefault("preflight", str(refusal))
            continue
        if finding is not None:
            found.setdefault(name, finding)
    return {name: found[name] for name in GATES if name in found}


def _preflight(run: LoopRun) -> str | None:
    # Whatever refuses on the way to the result says so; nothing else can be asked before it.
    _ = run.output
    return None


GATES: Mapping[str, Callable[[LoopRun], str | None]] = MappingProxyType(
    {
        "preflight": _preflight,
        "load": load_gate,
        "shape": shape_gate,
        "finite": finite_gate,
        "range": range_gate,
        "extract": extract_gate,
        "golden-encoded": golden_encoded_gate,
        "decode": decode_gate,
        "repeat": repeat_gate,
        "batch": batch_gate,
        "save": save_gate,
        "full-scale": full_scale_gate,
        "clicks": clicks_gate,
        "level": level_gate,
        "distance": distance_gate,
        "sanity": sanity_gate,
        "golden-reconstructed": golden_reconstructed_gate,
    }
)
"""Every gate by its name, in the order in which a loop runs."""
