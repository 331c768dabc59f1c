"""Every way to compute the loop against plain float32 on the CPU, one clip at a time.

A `Variant` is one such way, with the deviations that it may have. They are those of rounding: an
error in the computation itself is larger by orders of magnitude. `measure` runs a variant, and
`Parity` says whether it kept to them; `VARIANTS` lists all.

A guided head (`melcheck.guided_vocos`) has tolerances of its own. It picks the peaks of a spectrum
and sums their phases over time, so that a last bit can make it take another, equally good phase:
its waveform is not determined by its weights up to rounding, while its mel on average is.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from melcheck.deviations import mel_deviation, waveform_deviation
from melcheck.fast import optimise
from melcheck.guided_vocos import GuidedISTFTHead
from melcheck.stages import (
    STAGE_TOLERANCES,
    Bisection,
    StageTolerance,
    bisect_stages,
    vocoder_stages,
)
from melcheck.variants import (
    context_frames,
    in_a_batch,
    in_a_padded_batch,
    in_chunks,
    in_float64,
    on_device,
    with_threads,
)
from melcheck.vocoders import Vocoder, VocoderUnavailable, VocosVocoder

__all__ = [
    "VARIANTS",
    "Deviations",
    "Parity",
    "Trip",
    "Variant",
    "describe",
    "go_round",
    "locate",
    "measure",
]

# As `_GUIDED_ROUNDING`; sound in units of its root mean square, of which 1.3 was 13.
_GUIDED_STAGES = MappingProxyType(
    {
        "head": StageTolerance(40.0, 40.0),
        "decode": StageTolerance(40.0, 40.0),
        "re-encode": StageTolerance(2e-2, 6.0),
    }
)


@dataclass(frozen=True, slots=True)
class Deviations:
    """How far a variant is from the plain loop, or may be; the largest of several clips.

    Attributes:
        encoded_max_nats: Of the first mel, its largest cell off the floor.
        mel_max_nats: Of the second mel, of what was decoded, its largest cell off the floor.
        mel_mean_nats: Of the second mel, the mean over all cells off the floor.
        waveform_max: Of the decoded waveform, its largest sample, full scale 1.
        waveform_db: Of the decoded waveform, energy against the signal's.
    """

    encoded_max_nats: float
    mel_max_nats: float
    mel_mean_nats: float
    waveform_max: float
    waveform_db: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """One way to compute the loop.

    Attributes:
        name: Unique, as the tests are called.
        make: The plain vocoder -> the one that computes so.
        plain: The largest deviations of a Vocos.
        guided: Those of one with a guided head.
        device: What `--mel-device` calls the hardware that it takes.
        absent: Why a vocoder cannot run so on this machine; "" where it can.
        cut: Whether the frames next to the end differ by design and stay out.
        repeats: How often it runs on the first clip; each time it must give the same bits.
        stages: The largest deviation of each stage, where it differs from float32's.
    """

    name: str
    make: Callable[[VocosVocoder], Vocoder]
    plain: Deviations
    guided: Deviations
    device: str = "cpu"
    absent: Callable[[VocosVocoder], str] = lambda _: ""
    cut: bool = False
    repeats: int = 2
    stages: Mapping[str, StageTolerance] = dataclasses.field(default_factory=dict)

    def tolerances(self, vocoder: VocosVocoder) -> Deviations:
        """Return the largest deviations that this vocoder may have."""
        return self.guided if _is_guided(vocoder) else self.plain

    def stage_tolerances(self, vocoder: VocosVocoder) -> dict[str, StageTolerance]:
        """Return the largest deviation of each stage that this vocoder may have."""
        guided = _GUIDED_STAGES if _is_guided(vocoder) else {}
        return {**STAGE_TOLERANCES, **self.stages, **guided}


@dataclass(frozen=True, slots=True, eq=False)
class Trip:
    """What one computation of the loop made of a clip: two mels, and the sound between them."""

    encoded: Tensor
    waveform: Tensor
    mel: Tensor


@dataclass(frozen=True, slots=True)
class Parity:
    """What was measured of a variant.

    Attributes:
        found: The largest deviations of all clips.
        allowed: The tolerances.
        worst: For each deviation, the clip (counted from 0) that has it.
        repeated: Whether each repetition gave the same bits.
    """

    found: Deviations
    allowed: Deviations
    worst: Mapping[str, int]
    repeated: bool

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words; empty where all is well."""
        told = [
            f"{name} is {getattr(self.found, name):.3g}, allowed {getattr(self.allowed, name):.3g} "
            f"(clip {self.worst[name]})"
            for name in self.beyond
        ]
        return (*told, *(() if self.repeated else ("another run gave other bits",)))

    @property
    def beyond(self) -> tuple[str, ...]:
        """The deviations that are beyond their tolerances; NaN is."""
        return tuple(
            name
            for name, value in dataclasses.asdict(self.found).items()
            if not value <= getattr(self.allowed, name)
        )


def go_round(vocoder: Vocoder, waveform: Tensor) -> Trip:
    """Take a clip, `[1, samples]`, once round."""
    encoded = vocoder.encode(waveform)
    decoded = vocoder.decode(encoded)
    return Trip(encoded, decoded, vocoder.encode(decoded))


def measure(
    variant: Variant,
    vocoder: VocosVocoder,
    waveforms: Sequence[Tensor],
    *,
    references: Sequence[Trip] | None = None,
) -> Parity:
    """Run a variant on every clip, and on the first as often as it must repeat itself.

    It encodes the clip, and decodes the plain mel of it; the plain encoder takes the mel of that.
    So rounding of the one does not hide an error of the other: the log-mel of a loud clip rounds to
    6e-3 nats, which moves a decoded waveform by a thousand times its own rounding.

    Args:
        variant: Must not be absent on this machine.
        vocoder: The plain one, float32 on the CPU.
        waveforms: `[1, samples]` each.
        references: What the plain one makes of them, if known.

    Raises:
        ValueError: No clip.
    """
    if not waveforms:
        raise ValueError("waveforms must hold at least one clip, got none.")
    candidate = variant.make(vocoder)
    plain = references or [go_round(vocoder, waveform) for waveform in waveforms]
    pairs = [
        (candidate.encode(waveform), candidate.decode(reference.encoded))
        for waveform, reference in zip(waveforms, plain, strict=True)
    ]
    repeated = all(
        torch.equal(candidate.encode(waveforms[0]), pairs[0][0])
        and torch.equal(candidate.decode(plain[0].encoded), pairs[0][1])
        for _ in range(variant.repeats - 1)
    )
    each = [
        _deviations(variant, vocoder, reference, *pair)
        for reference, pair in zip(plain, pairs, strict=True)
    ]
    worst: dict[str, int] = {}
    largest: dict[str, float] = {}
    for field in dataclasses.fields(Deviations):
        values = [getattr(deviations, field.name) for deviations in each]
        worst[field.name] = values.index(max(values))
        largest[field.name] = max(values)
    found = Deviations(**largest)
    return Parity(found, variant.tolerances(vocoder), worst, repeated)


def locate(variant: Variant, vocoder: VocosVocoder, waveform: Tensor) -> Bisection:
    """Find the first stage of a variant that diverges on a clip, `[1, samples]`."""
    return bisect_stages(
        vocoder_stages(vocoder),
        vocoder_stages(variant.make(vocoder)),
        waveform,
        recipe=vocoder.recipe,
        tolerances=variant.stage_tolerances(vocoder),
    )


def describe(
    parity: Parity, variant: Variant, vocoder: VocosVocoder, waveforms: Sequence[Tensor]
) -> str:
    """Say what is beyond its tolerance, and in which stage the worst clip first diverges."""
    clip = parity.worst[parity.beyond[0]] if parity.beyond else 0
    stage = locate(variant, vocoder, waveforms[clip])
    return f"{variant.name}: {'; '.join(parity.failures)}\n{stage}"


def _is_guided(vocoder: VocosVocoder) -> bool:
    return isinstance(vocoder.model.head, GuidedISTFTHead)


def _deviations(
    variant: Variant, vocoder: VocosVocoder, reference: Trip, encoded: Tensor, decoded: Tensor
) -> Deviations:
    frames = reference.mel.shape[-1]
    if variant.cut:
        frames -= context_frames(vocoder)
    samples = vocoder.recipe.num_samples(frames)
    floor = vocoder.recipe.log_floor
    first = mel_deviation(reference.encoded[..., :frames], encoded[..., :frames], log_floor=floor)
    again = vocoder.encode(decoded)[..., :frames]
    second = mel_deviation(reference.mel[..., :frames], again, log_floor=floor)
    sound = waveform_deviation(reference.waveform[..., :samples], decoded[..., :samples])
    return Deviations(first.max_nats, second.max_nats, second.mean_nats, sound.max_abs, sound.db)


def _without_whole_phases(vocoder: VocosVocoder) -> str:
    # Measured on the six clips: 3.9 dB. Each seam is a jump in phase.
    if not _is_guided(vocoder):
        return ""
    return "a guided head counts phases from its first frame: in chunks it makes another sound"


def _without_bf16(vocoder: VocosVocoder) -> str:
    try:
        optimise(vocoder, precision="bf16")
    except VocoderUnavailable as error:
        return str(error).splitlines()[0]
    return ""


def _without_cuda(_vocoder: VocosVocoder) -> str:
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no CUDA device"


# Measured on 1.5 s of six fixture clips (two voices, one with digital silence, drums, a sparse
# cowbell, a guitar) with the first embedded vocoder and, for two seeds each, random weights of the
# official and of a guided configuration, on an x86 processor with AVX-512. The tolerance is three
# times the largest of them, ten decibels more for energy. `pytest -m parity` prints what it finds
# beside them.
_IDENTICAL = Deviations(0.0, 0.0, 0.0, 0.0, -math.inf)

# What float64 changes bounds what any other order of summation can. Measured 5.8e-3 (the encoder,
# where a guitar's highest bands lie 100 dB below its lowest), 4.3e-3, 4.5e-5, 3.7e-6, -110 dB.
_ROUNDING = Deviations(2e-2, 2e-2, 1.5e-4, 2e-5, -97.0)
# Measured 5.8e-3, 1.8, 3e-2, 1.3, -12 dB, the last four on the cowbell, after digital silence.
_GUIDED_ROUNDING = Deviations(2e-2, 6.0, 0.1, 4.0, -2.0)

# The same operations on the same numbers, summed in another order here and there. Measured, the
# largest of 1, 2 and 4 threads, batches, padded batches, chunks and optimised: 9.5e-7, 6.2e-3,
# 4.8e-5, 5.4e-6, -107 dB.
_REORDERED = Deviations(3e-6, 2e-2, 1.5e-4, 2e-5, -97.0)
# Measured 9.5e-7, 0.94, 2.4e-3, 0.19, -22 dB, with four threads on the drums and the pause.
_GUIDED_REORDERED = Deviations(3e-6, 3.0, 7e-3, 0.6, -12.0)

# Eight bits of mantissa in the backbone. Measured 9.5e-7, 0.5, 2.8e-3, 2.5e-2, -35 dB; features
# 0.23 of their RMS at most. Random guided weights, whose first details are small, deviate less.
_BF16 = Deviations(3e-6, 1.5, 1e-2, 8e-2, -25.0)
_GUIDED_BF16 = Deviations(3e-6, 3.0, 1e-2, 0.6, -12.0)
_BF16_STAGES = MappingProxyType(
    {
        "backbone": StageTolerance(0.7, 0.7),
        "head": StageTolerance(6e-5, 0.75),
        "decode": StageTolerance(0.75, 0.75),
        "re-encode": StageTolerance(2e-2, 1.5),
    }
)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="repeated",
        make=lambda vocoder: vocoder,
        plain=_IDENTICAL,
        guided=_IDENTICAL,
        repeats=4,
    ),
    Variant(name="float64", make=in_float64, plain=_ROUNDING, guided=_GUIDED_ROUNDING),
    *(
        Variant(
            name=f"threads-{count}",
            make=functools.partial(with_threads, threads=count),
            plain=_REORDERED,
            guided=_GUIDED_REORDERED,
        )
        for count in (1, 2, 4)
    ),
    Variant(
        name="batch-of-4",
        make=functools.partial(in_a_batch, batch=4),
        plain=_REORDERED,
        guided=_GUIDED_REORDERED,
    ),
    Variant(
        name="padded-batch",
        make=functools.partial(in_a_padded_batch, extra_seconds=0.7),
        plain=_REORDERED,
        guided=_GUIDED_REORDERED,
        cut=True,
    ),
    Variant(
        name="chunks",
        make=functools.partial(in_chunks, frames=40),
        plain=_REORDERED,
        guided=_GUIDED_ROUNDING,
        absent=_without_whole_phases,
    ),
    Variant(
        name="optimised-fp32",
        make=optimise,
        plain=_REORDERED,
        guided=_GUIDED_REORDERED,
    ),
    Variant(
        name="optimised-bf16",
        make=functools.partial(optimise, precision="bf16"),
        plain=_BF16,
        guided=_GUIDED_BF16,
        absent=_without_bf16,
        stages=_BF16_STAGES,
    ),
    # Not measured on a device: the bound that float64 gives.
    Variant(
        name="cuda",
        make=functools.partial(on_device, device="cuda"),
        plain=_ROUNDING,
        guided=_GUIDED_ROUNDING,
        device="cuda",
        absent=_without_cuda,
    ),
)
"""All ways to compute the loop that a user can select, or that a run may come to on its own."""
