"""The gates that look at mels and at what is decoded of them: front end, vocoder, goldens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from melcheck.diagnosis.contradictions import log_ceiling
from melcheck.diagnosis.recipe_search.mel_values import STORAGE_ROUNDINGS, storage_of, storage_step
from melcheck.goldens import ENCODED_TOLERANCES, RECONSTRUCTED_TOLERANCES, mel_statistics
from melcheck.metrics import compare
from melcheck.recipes import MelRecipe
from melcheck.sanity import judge
from tests.faults.loops import Run, refusing

__all__ = [
    "batch_gate",
    "decode_gate",
    "extract_gate",
    "finite_gate",
    "golden_encoded_gate",
    "golden_reconstructed_gate",
    "range_gate",
    "repeat_gate",
    "sanity_gate",
    "shape_gate",
]

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

# How much worse than in a healthy loop a missed metric must be: a clip that passes narrowly would
# miss its threshold for being resampled otherwise (MAE +0.07, correlation -0.004), and a quiet one
# for being stored in 16 bits (SNR -7 dB). The thresholds as they are written stand in `pytest -m
# sanity`, on the exact recordings.
SANITY_MARGINS: Mapping[str, float] = MappingProxyType(
    {"mae": 0.1, "pearson": 0.02, "snr_db": 8.0, "reference_floor_share": 0.1}
)


def shape_gate(run: Run) -> str | None:
    """Hold mel and result to the shapes that the recipe promises."""
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


def finite_gate(run: Run) -> str | None:
    """Look for NaN and infinity at every stage."""
    for name in ("waveform", "mel", "decoded"):
        broken = int((~torch.isfinite(getattr(run, name))).sum())
        if broken:
            return f"{broken} values of the {name} are NaN or infinite"
    return None


def range_gate(run: Run) -> str | None:
    """Look for cells below the floor, or above what full scale can reach."""
    recipe = run.expected.recipe
    slack = RANGE_SLACK + _storage_rounding(run.mel) * abs(recipe.log_floor)
    low, high = recipe.log_floor - slack, log_ceiling(recipe) + slack
    lowest, highest = run.mel.min().item(), run.mel.max().item()
    if low <= lowest and highest <= high:
        return None
    return f"a mel lies in [{low:.2f}, {high:.2f}], this one in [{lowest:.2f}, {highest:.2f}]"


def extract_gate(run: Run) -> str | None:
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
    return f"{share:.1%} of the cells are not the recipe's, the worst by {worst:.3g} tolerances"


def _storage_rounding(mel: Tensor) -> float:
    # A mel that any narrower type holds without loss was stored in it: half a unit in its last
    # place is not the front end's fault.
    return STORAGE_ROUNDINGS * storage_step(storage_of(mel))


def golden_encoded_gate(run: Run) -> str | None:
    """Compare the mel's statistics with those on record."""
    golden = run.expected.encoded
    if golden is None or run.mel.shape != run.expected.mel.shape:
        return None
    return _deviation(golden, run.mel[0], run.expected.recipe, ENCODED_TOLERANCES)


def golden_reconstructed_gate(run: Run) -> str | None:
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


def decode_gate(run: Run) -> str | None:
    """Compare what the vocoder makes of an identical mel with what is expected."""
    expected, vocoded = run.expected.decoded, run.vocoded
    if vocoded.shape != expected.shape:
        return f"the vocoder must give {list(expected.shape)}, got {list(vocoded.shape)}"
    error = (vocoded - expected).abs().max().item()
    if error <= DECODE_SAMPLES:
        return None
    return f"a sample is off by {error:.3g}, at most {DECODE_SAMPLES:g} expected"


def repeat_gate(run: Run) -> str | None:
    """Run front end and vocoder again on the same input."""
    healthy = run.expected.loop
    if run.loop.extract != healthy.extract:
        again = run.again(run.loop.extract, run.expected.waveform)
        if not _same(run.extracted, again):
            return "the front end gives another mel of the same samples"
    if run.loop.decode != healthy.decode:
        again = run.again(run.loop.decode, run.expected.mel)
        if not _same(run.vocoded, again):
            return "the vocoder gives other samples for the same mel"
    return None


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())


def batch_gate(run: Run) -> str | None:
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


def sanity_gate(run: Run) -> str | None:
    """Hold the result to the thresholds, as far as a healthy loop keeps them."""
    # As the suite's own gate does, in memory: what a file adds is another gate's.
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
