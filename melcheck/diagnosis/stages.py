"""The loop stage by stage, and the first stage in which two loops differ.

Stages are a mapping from names to functions, in the order in which they run; each takes what the
one before returned. A stage is replaced as in any mapping: `{**stages, "resample": mine}`.

    load        file -> `[channels, samples]` at the file's rate
    mix         -> `[1, samples]`
    resample    -> `[1, samples]` at the recipe's rate, cut to length
    encode      -> `[1, n_mels, frames]`
    backbone    -> `[1, frames, channels]`          }  `decode` for a vocoder that
    head        -> `[1, samples]`                   }  shows no stages of its own
    re-encode   -> `[1, n_mels, frames]`

`read` stands for the first three, where a loader of the user's does not show them.

An error that enters early goes through everything that follows, so the first stage beyond its own
tolerance is where to look. Each stage also runs on the reference's input, where it can only round.
Deviations are those of differences, `(reference, estimate)`, compared in float64 on the CPU: full
scale up to `resample`, nats off the floor for mels, units of the reference's root mean square
after. Different shapes, NaN and infinity give infinity, which no tolerance accepts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from melcheck.audio import DecodedAudio, LoadedAudio, decode_audio, mix, resample
from melcheck.config import MelCheckConfig
from melcheck.metrics import FLOOR_TOLERANCE
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import Vocoder, magnifies_rounding


@dataclass(frozen=True, slots=True)
class StageTolerance:
    """The largest deviations of one stage.

    Attributes:
        own: Deviation on the reference's input, where it can only round.
        carried: Deviation on what the candidate's earlier stages gave it.
    """

    own: float
    carried: float


# About three times the largest measured: `tests/parity/deviations.py` says on what.
STAGE_TOLERANCES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        "load": StageTolerance(0.0, 0.0),
        "mix": StageTolerance(1e-7, 1e-7),
        "resample": StageTolerance(1e-6, 1e-6),
        "read": StageTolerance(1e-6, 1e-6),
        "encode": StageTolerance(2e-2, 2e-2),
        "backbone": StageTolerance(3e-4, 2.5e-2),
        "head": StageTolerance(6e-5, 2e-2),
        "decode": StageTolerance(2e-4, 2e-2),
        "re-encode": StageTolerance(2e-2, 4e-2),
    }
)
"""What each stage may deviate by in float32."""

# Likewise, with other orders of summation. Measured, own and carried: backbone 1.5e-4 both (a batch
# of four with AVX2), head 5.6e-4 and 1.6e-2, decode 1.9e-3 (chunks, MKL_CBWR), re-encode 9.5e-7 and
# 7.9e-2: projections magnify rounding.
RETRIEVED_STAGE_TOLERANCES: Mapping[str, StageTolerance] = MappingProxyType(
    {
        **STAGE_TOLERANCES,
        "backbone": StageTolerance(4.5e-4, 4.5e-4),
        "head": StageTolerance(1.7e-3, 5e-2),
        "decode": StageTolerance(5.7e-3, 5e-2),
        "re-encode": StageTolerance(2e-2, 0.24),
    }
)
"""The same with a head that retrieves phases."""


def stage_tolerances(vocoder: Vocoder) -> Mapping[str, StageTolerance]:
    """Return what each stage of a loop with this vocoder may deviate by."""
    return RETRIEVED_STAGE_TOLERANCES if magnifies_rounding(vocoder) else STAGE_TOLERANCES


@dataclass(frozen=True, slots=True)
class MelDeviation:
    """How far two log-mels differ, over the cells in which at least one is off the floor.

    Attributes:
        max_nats: The largest absolute difference; 0 where both are at the floor throughout.
        mean_nats: The mean absolute difference.
    """

    max_nats: float
    mean_nats: float


def mel_deviation(reference: Tensor, estimate: Tensor, *, log_floor: float) -> MelDeviation:
    """Compare two log-mels of any one shape, nats; `log_floor` is that of their recipe."""
    pair = comparable(reference, estimate)
    if pair is None:
        return MelDeviation(math.inf, math.inf)
    counted = torch.maximum(*pair) > log_floor + FLOOR_TOLERANCE
    differences = (pair[0] - pair[1]).abs()[counted]
    if not differences.numel():
        return MelDeviation(0.0, 0.0)
    return MelDeviation(differences.max().item(), differences.mean().item())


def relative_deviation(reference: Tensor, estimate: Tensor) -> float:
    """Return the largest absolute difference, in units of the reference's root mean square."""
    largest = _largest_difference(reference, estimate)
    if largest in (0.0, math.inf):
        return largest
    scale = reference.detach().cpu().double().square().mean().sqrt().item()
    return largest / scale if scale else math.inf


def _largest_difference(reference: Tensor, estimate: Tensor) -> float:
    pair = comparable(reference, estimate)
    return math.inf if pair is None else (pair[0] - pair[1]).abs().max().item()


def comparable(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return both in float64 on the CPU; None for other shapes, NaN, infinity or nothing."""
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
        cumulative: Deviation on what the candidate's own earlier stages gave it.
        isolated: Deviation on what the reference's earlier stages gave it.
        tolerance: The largest deviations that are accepted.
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
        """Say which stage deviates, by how much, and whether it only magnifies its input."""
        text = (
            f"{self.stage} deviates by {self.cumulative:.2g} (tolerance "
            f"{self.tolerance.carried:.2g}), by {self.isolated:.2g} alone on the reference's input "
            f"(tolerance {self.tolerance.own:.2g})"
        )
        if self.error:
            return f"{text}: {self.error}"
        if self.diverges and not self.errs:
            return f"{text}: it magnifies the deviation of its input"
        return text


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


def audio_stages(config: MelCheckConfig) -> Stages:
    """Return load, mix and resample, as `melcheck.audio.load_audio` runs them, but for padding."""

    def load(path: Any) -> DecodedAudio:
        return decode_audio(MelCheckConfig(path, config.target_sr, config.target_duration))

    return {"load": load, "mix": mix, "resample": lambda audio: resample(audio, config)}


def read_stage(config: MelCheckConfig, load: Callable[..., LoadedAudio]) -> Stages:
    """Return one stage that reads a file with a loader, `read`, in place of the audio stages."""

    def read(path: Any) -> Tensor:
        return load(dataclasses.replace(config, audio_path=path)).waveform

    return {"read": read}


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


def bisect_stages(
    reference: Stages,
    candidate: Stages,
    given: Any,
    *,
    recipe: MelRecipe,
    tolerances: Mapping[str, StageTolerance] = STAGE_TOLERANCES,
) -> Bisection:
    """Find the first stage in which a candidate differs from the reference.

    Args:
        reference: What is right.
        candidate: What is measured. Where only one of the two shows backbone and head, they are
            compared at their waveforms.
        given: What the first stage takes: a path for `load`, `[1, samples]` for `encode`.
        recipe: Recipe of the mels; cells at its floor are left out.
        tolerances: For each stage.

    Raises:
        ValueError: The two have different stages or none, or a stage has no tolerance.
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
            found.append(StageDeviation(name, math.inf, math.inf, tolerances[name], reason))
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
            return math.inf
        expected, found = expected.samples, found.samples
    if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
        return math.inf
    if name in ("encode", "re-encode"):
        return mel_deviation(expected, found, log_floor=log_floor).max_nats
    if name in ("backbone", "head", "decode"):
        return relative_deviation(expected, found)
    return _largest_difference(expected, found)
