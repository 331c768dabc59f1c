"""The loop stage by stage, and the first stage in which two loops part.

Stages are a mapping from names to functions, in the order in which they run; each takes what the
one before returned. A stage is replaced as in any mapping: `{**stages, "resample": mine}`.

    load        file -> `[channels, samples]` at the file's rate
    mix         -> `[1, samples]`
    resample    -> `[1, samples]` at the recipe's rate, cut to length
    encode      -> `[1, n_mels, frames]`
    backbone    -> `[1, frames, channels]`          }  `decode` for a vocoder that
    head        -> `[1, samples]`                   }  shows no stages of its own
    re-encode   -> `[1, n_mels, frames]`

A deviation that enters early goes through everything that follows, so the first stage beyond its
own tolerance is where to look. Each is also given the reference's input: there it can only round,
and may deviate by far less. So an error is told from the rounding of what came before, and a stage
that errs from one that magnifies what came in.

How far each stage of the loop may be from plain float32 on the CPU.

In full scale up to `resample`, nats off the floor for mels, and units of the reference's root mean
square for features and sound. `melcheck.diagnosis.stages` lists the stages.

How far apart two computations of the same thing are: of a mel, of a waveform, of features.

What is compared here agrees but for rounding, or should: the measures are those of differences, not
of quality. Always `(reference, estimate)`; both may lie on different devices and have different
precisions, and are compared in float64 on the CPU. Other shapes, NaN or infinity in one of the two
give infinity, which no tolerance accepts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from melcheck.audio import DecodedAudio, decode_audio, mix, resample
from melcheck.config import MelCheckConfig
from melcheck.metrics import FLOOR_TOLERANCE
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import Vocoder


@dataclass(frozen=True, slots=True)
class StageTolerance:
    """The largest deviations of one stage.

    In full scale up to `resample`, nats off the floor for mels, and units of the reference's root
    mean square for features and sound.

    Attributes:
        own: On the reference's input, where it can only round.
        carried: On what the candidate's earlier stages gave it.
    """

    own: float
    carried: float


# Measured in float32 against float64 on 1.5 s of six fixture clips (two voices, one with digital
# silence, drums, a sparse cowbell, a guitar) with the first embedded vocoder, a plain Vocos of
# 2.8 M parameters, and a random one of the official size, which bounds what another order of
# summation can do; given here is about three times the largest. Own: encode 5.8e-3 (the guitar,
# whose highest bands are all rounding), backbone 8.2e-5, head 2.0e-5, decode 5.4e-5. Carried:
# backbone 8.0e-3, head 5.0e-3, re-encode 1.2e-2. Mixing is one sum of two samples, resampling one
# of up to 100, and decoders of lossless files agree to the bit.
STAGE_TOLERANCES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "load": StageTolerance(0.0, 0.0),
        "mix": StageTolerance(1e-7, 1e-7),
        "resample": StageTolerance(1e-6, 1e-6),
        "encode": StageTolerance(2e-2, 2e-2),
        "backbone": StageTolerance(3e-4, 2.5e-2),
        "head": StageTolerance(6e-5, 2e-2),
        "decode": StageTolerance(2e-4, 2e-2),
        "re-encode": StageTolerance(2e-2, 4e-2),
    }
)
"""What each stage may deviate by in float32."""

# On the first two of those clips, with the embedded vocoder and with random weights in its
# configuration. Measured with other orders of summation, own and carried: backbone 2.2e-5 both,
# head 5.6e-4 and 1.6e-2, re-encode 9.5e-7 and 7.9e-2: projections magnify rounding.
CONSISTENT_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(7e-5, 7e-5),
        "head": StageTolerance(1.7e-3, 5e-2),
        "decode": StageTolerance(1.7e-3, 5e-2),
        "re-encode": StageTolerance(2e-2, 0.24),
    }
)
"""Where it differs with a consistent head."""

# Measured against float64: backbone 2.3e-5 and 6.0e-4, head 2.6e-3 and 1.9e-2, re-encode 3.9e-3 and
# 4.6e-2.
CONSISTENT_ROUNDING_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(7e-5, 2e-3),
        "head": StageTolerance(8e-3, 6e-2),
        "decode": StageTolerance(8e-3, 6e-2),
        "re-encode": StageTolerance(2e-2, 0.15),
    }
)
"""The same, where no operation need round as on the CPU."""

# Measured with the first embedded vocoder: backbone 0.23, head 2.0e-5 and 0.25, re-encode 0.5.
BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(0.7, 0.7),
        "head": StageTolerance(6e-5, 0.75),
        "decode": StageTolerance(0.75, 0.75),
        "re-encode": StageTolerance(2e-2, 1.5),
    }
)
"""What stages may deviate by with a backbone that multiplies in bf16."""

# Measured: backbone 2.1e-2, head 0 and 1.8, re-encode 9.5e-7 and 2.4: another sound.
CONSISTENT_BF16_STAGES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "backbone": StageTolerance(6.5e-2, 6.5e-2),
        "head": StageTolerance(1.7e-3, 5.4),
        "decode": StageTolerance(5.4, 5.4),
        "re-encode": StageTolerance(2e-2, 7.2),
    }
)
"""The same, with a consistent head."""


@dataclass(frozen=True, slots=True)
class MelDeviation:
    """Of two log-mels, over the cells in which at least one of them is off the floor.

    Attributes:
        max_nats: The largest absolute difference; 0 where both are at the floor throughout.
        mean_nats: The mean absolute difference.
    """

    max_nats: float
    mean_nats: float


@dataclass(frozen=True, slots=True)
class WaveformDeviation:
    """Of two waveforms.

    Attributes:
        max_abs: The largest absolute difference, full scale 1.
        db: Energy of the difference against that of the reference, dB; -inf for identical ones.
    """

    max_abs: float
    db: float


def mel_deviation(reference: Tensor, estimate: Tensor, *, log_floor: float) -> MelDeviation:
    """Compare two log-mels of any one shape, nats; `log_floor` is that of their recipe."""
    pair = _comparable(reference, estimate)
    if pair is None:
        return MelDeviation(math.inf, math.inf)
    counted = torch.maximum(*pair) > log_floor + FLOOR_TOLERANCE
    differences = (pair[0] - pair[1]).abs()[counted]
    if not differences.numel():
        return MelDeviation(0.0, 0.0)
    return MelDeviation(differences.max().item(), differences.mean().item())


def waveform_deviation(reference: Tensor, estimate: Tensor) -> WaveformDeviation:
    """Compare two waveforms of any one shape, full scale 1."""
    pair = _comparable(reference, estimate)
    if pair is None:
        return WaveformDeviation(math.inf, math.inf)
    error, signal = (pair[0] - pair[1]), pair[0].norm().item()
    if not error.any():
        return WaveformDeviation(0.0, -math.inf)
    db = 20 * math.log10(error.norm().item() / signal) if signal else math.inf
    return WaveformDeviation(error.abs().max().item(), db)


def relative_deviation(reference: Tensor, estimate: Tensor) -> float:
    """Return the largest absolute difference, in units of the reference's root mean square."""
    pair = _comparable(reference, estimate)
    if pair is None:
        return math.inf
    largest = (pair[0] - pair[1]).abs().max().item()
    scale = pair[0].square().mean().sqrt().item()
    if largest == 0.0:
        return 0.0
    return largest / scale if scale else math.inf


def _comparable(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor] | None:
    if reference.shape != estimate.shape or not reference.numel():
        return None
    first, second = (tensor.detach().cpu().double() for tensor in (reference, estimate))
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        return None
    return first, second


Stages = Mapping[str, Callable[[Any], Any]]
"""What runs, by name, in order."""


@runtime_checkable
class StagedVocoder(Vocoder, Protocol):
    """A vocoder that shows both halves of `decode(mel)`: `run_head(run_backbone(mel))`."""

    def run_backbone(self, mel: Tensor) -> Tensor:
        """Return what the backbone makes of a log-mel.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, channels]`
        """
        ...

    def run_head(self, features: Tensor) -> Tensor:
        """Return what the head makes of features.

        Shape:
            `[batch, frames, channels]` -> `[batch, recipe.num_samples(frames)]`
        """
        ...


@dataclass(frozen=True, slots=True)
class StageDeviation:
    """How far one stage of the candidate is from the reference's.

    Attributes:
        stage: Its name.
        cumulative: With what the candidate's own earlier stages gave it.
        isolated: With what the reference's earlier stages gave it.
        tolerance: The largest of each that is accepted.
        error: What the stage raised, if it did; both deviations are infinite then.
    """

    stage: str
    cumulative: float
    isolated: float
    tolerance: StageTolerance
    error: str = ""

    @property
    def errs(self) -> bool:
        """Whether it is beyond its tolerance on the reference's input; NaN is."""
        return not self.isolated <= self.tolerance.own

    @property
    def diverges(self) -> bool:
        """Whether it is beyond either of its tolerances; NaN is."""
        return self.errs or not self.cumulative <= self.tolerance.carried

    def __str__(self) -> str:
        """Say which stage, by how much, and whether it is its own doing."""
        told = (
            f"{self.stage} deviates by {self.cumulative:.2g} (tolerance "
            f"{self.tolerance.carried:.2g}), by {self.isolated:.2g} alone on the reference's input "
            f"(tolerance {self.tolerance.own:.2g})"
        )
        if self.error:
            return f"{told}: {self.error}"
        if self.diverges and not self.errs:
            return f"{told}: it magnifies what came in"
        return told


@dataclass(frozen=True, slots=True)
class Bisection:
    """What a comparison stage by stage found.

    Attributes:
        stages: Each stage that ran, in order; none after one that raised.
    """

    stages: tuple[StageDeviation, ...]

    @property
    def first(self) -> StageDeviation | None:
        """The first stage beyond its tolerance; None where all agree."""
        return next((stage for stage in self.stages if stage.diverges), None)

    def __str__(self) -> str:
        """Name the first stage that diverges, or say that none does."""
        if self.first is None:
            return f"no stage diverges: {', '.join(stage.stage for stage in self.stages)} agree"
        return f"first to diverge: {self.first}"


def audio_stages(config: MelCheckConfig, *, with_soundfile: bool = False) -> Stages:
    """Return load, mix and resample, as `melcheck.audio.load_audio` runs them, but for padding.

    Args:
        config: How the file is read; its path is replaced by the one that the stages are given.
        with_soundfile: Whether soundfile decodes, even where TorchCodec would.
    """

    def load(path: Any) -> DecodedAudio:
        moved = MelCheckConfig(path, config.target_sr, config.target_duration)
        return decode_audio(moved, with_soundfile=with_soundfile)

    return {"load": load, "mix": mix, "resample": lambda audio: resample(audio, config)}


def vocoder_stages(vocoder: Vocoder) -> Stages:
    """Return encode, backbone, head and re-encode; `decode` for the two where they are not shown.

    What comes from `resample` is put on the vocoder's device.
    """

    def encode(given: DecodedAudio | Tensor) -> Tensor:
        waveform = given.samples if isinstance(given, DecodedAudio) else given
        return vocoder.encode(waveform.to(vocoder.device))

    decode: Stages = {"decode": vocoder.decode}
    if isinstance(vocoder, StagedVocoder):
        decode = {"backbone": vocoder.run_backbone, "head": vocoder.run_head}
    return {"encode": encode, **decode, "re-encode": vocoder.encode}


def loop_stages(config: MelCheckConfig, vocoder: Vocoder) -> Stages:
    """Return all stages, from the file to the second mel."""
    return {**audio_stages(config), **vocoder_stages(vocoder)}


def run_stages(stages: Stages, given: Any) -> dict[str, Any]:
    """Run stages one after the other on what the first one takes, and keep what each returns."""
    kept = {}
    for name, stage in stages.items():
        given = kept[name] = stage(given)
    return kept


def bisect_stages(
    reference: Stages,
    candidate: Stages,
    given: Any,
    *,
    recipe: MelRecipe,
    tolerances: Mapping[str, StageTolerance] = STAGE_TOLERANCES,
) -> Bisection:
    """Find the first stage of a candidate that leaves the reference.

    Args:
        reference: What is right.
        candidate: What is measured. Where one of the two shows backbone and head and the other
            does not, they are compared at their waveforms.
        given: What the first stage takes: a path for `load`, `[1, samples]` for `encode`.
        recipe: Of the mels; its floor says which cells count.
        tolerances: For each stage.

    Raises:
        ValueError: Other stages in one than in the other, none, or one without tolerance.
    """
    steps = _steps(reference, candidate)
    missing = [name for name in steps if name not in tolerances]
    if missing:
        raise ValueError(f"tolerances must cover every stage, got none for {missing}.")
    expected = own = given
    found: list[StageDeviation] = []
    for name, (right, tried) in steps.items():
        before, expected = expected, right(expected)
        try:
            own, alone = tried(own), tried(before)
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            infinite = float("inf")
            found.append(StageDeviation(name, infinite, infinite, tolerances[name], reason))
            break
        found.append(
            StageDeviation(
                name,
                _deviation(name, expected, own, recipe.log_floor),
                _deviation(name, expected, alone, recipe.log_floor),
                tolerances[name],
            )
        )
    return Bisection(tuple(found))


_Step = Callable[[Any], Any]


def _steps(reference: Stages, candidate: Stages) -> dict[str, tuple[_Step, _Step]]:
    """Return the functions of both for each stage that both show.

    A backbone and a head beside a `decode` are one `decode` together.
    """
    inner = {"backbone", "head"}
    if ("decode" in reference) != ("decode" in candidate):
        reference, candidate = (
            _whole(stages) if inner <= set(stages) else stages for stages in (reference, candidate)
        )
    if not reference or list(reference) != list(candidate):
        raise ValueError(
            f"candidate must have the stages of the reference, {', '.join(reference) or 'none'}, "
            f"got {', '.join(candidate) or 'none'}. Begin both at the same one."
        )
    return {name: (reference[name], candidate[name]) for name in reference}


def _whole(stages: Stages) -> Stages:
    backbone, head = stages["backbone"], stages["head"]
    merged: dict[str, _Step] = {}
    for name, stage in stages.items():
        if name == "head":
            merged["decode"] = lambda mel: head(backbone(mel))
        elif name != "backbone":
            merged[name] = stage
    return merged


def _deviation(name: str, expected: Any, found: Any, log_floor: float) -> float:
    if isinstance(expected, DecodedAudio) and isinstance(found, DecodedAudio):
        if expected.sample_rate != found.sample_rate:
            return float("inf")
        expected, found = expected.samples, found.samples
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return float("inf")
    if name in ("encode", "re-encode"):
        return mel_deviation(expected, found, log_floor=log_floor).max_nats
    if name in ("backbone", "head", "decode"):
        return relative_deviation(expected, found)
    return _largest(expected, found)


def _largest(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    difference = (expected.detach().cpu().double() - found.detach().cpu().double()).abs()
    largest: float = torch.nan_to_num(difference, nan=float("inf")).max().item()
    return largest
