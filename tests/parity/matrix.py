"""Every way to compute the loop against plain float32 on the CPU, one clip at a time.

A `Variant` is one such way, with the deviations that it may have. They are those of rounding: an
error in the computation itself is larger by orders of magnitude. `measure` runs a variant, `Parity`
says whether it stayed within them, and `VARIANTS` lists all.

A vocoder whose head retrieves phases (`VocosVocoder.magnifies_rounding`) has tolerances of its own.
Its projections magnify what rounding leaves, which would hide small changes of the backbone, so
that the stages are compared as well, on one clip.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from melcheck.diagnosis.stages import (
    STAGE_TOLERANCES,
    Bisection,
    StageTolerance,
    bisect_stages,
    mel_deviation,
    vocoder_stages,
)
from melcheck.speed.chunked_decoding import context_frames
from melcheck.speed.optimised import PRECISIONS, Precision, check_precision, optimise
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable
from tests.parity.deviations import (
    BF16_STAGES,
    CONSISTENT_BF16_STAGES,
    CONSISTENT_ROUNDING_STAGES,
    CONSISTENT_STAGES,
    waveform_deviation,
)
from tests.parity.variants import (
    in_a_batch,
    in_a_padded_batch,
    in_chunks,
    in_float64,
    on_device,
    with_threads,
)


@dataclass(frozen=True, slots=True)
class Deviations:
    """How far a variant is from the plain loop, or may be; the largest of several clips.

    Attributes:
        encoded_max_nats: Largest deviation of the first mel in a bin off the floor.
        mel_max_nats: Largest deviation of the second mel, of what was decoded, in such a bin.
        mel_mean_nats: Mean deviation of the second mel over those bins.
        waveform_max: Largest deviation of a sample of the decoded waveform, full scale 1.
        waveform_db: Energy of the deviation of the decoded waveform against the signal's.
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
        name: Unique name, which is also the test's.
        make: Function from the plain vocoder to the one that computes so.
        plain: Largest deviations of a Vocos.
        consistent: Largest deviations of one whose head retrieves phases.
        device: Name of the hardware that it takes, as for `--mel-device`.
        absent: Reason why a vocoder cannot run so on this machine; "" where it can.
        cut: Whether the frames next to the end differ by design and stay out.
        repeats: Number of runs on the first clip; each must give the same bits.
        stages: Largest deviations of a Vocos' stages, where they are not float32's.
        consistent_stages: Those of one whose head retrieves phases.
    """

    name: str
    make: Callable[[VocosVocoder], Vocoder]
    plain: Deviations
    consistent: Deviations
    device: str = "cpu"
    absent: Callable[[VocosVocoder], str] = lambda _: ""
    cut: bool = False
    repeats: int = 2
    stages: Mapping[str, StageTolerance] = dataclasses.field(
        default_factory=lambda: STAGE_TOLERANCES
    )
    consistent_stages: Mapping[str, StageTolerance] = dataclasses.field(
        default_factory=lambda: CONSISTENT_STAGES
    )

    def tolerances(self, vocoder: VocosVocoder) -> Deviations:
        """Return the largest deviations that this vocoder may have."""
        return self.consistent if vocoder.magnifies_rounding else self.plain

    def stage_tolerances(self, vocoder: VocosVocoder) -> dict[str, StageTolerance]:
        """Return the largest deviation of each stage that this vocoder may have."""
        return {
            **STAGE_TOLERANCES,
            **(self.consistent_stages if vocoder.magnifies_rounding else self.stages),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Trip:
    """What one computation of the loop made of a clip: two mels, and the waveform between them."""

    encoded: Tensor
    waveform: Tensor
    mel: Tensor


@dataclass(frozen=True, slots=True)
class Parity:
    """What was measured of a variant.

    Attributes:
        found: Largest deviations of all clips.
        allowed: Tolerances.
        worst: Clip, counted from 0, that has each of the largest deviations.
        repeated: Whether each repetition gave the same bits.
        stage: Deviation of the first stage that diverges on the first clip; "" for none, and where
            frames are cut.
    """

    found: Deviations
    allowed: Deviations
    worst: Mapping[str, int]
    repeated: bool
    stage: str = ""

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, in words; empty where all is well."""
        beyond = [
            f"{name} is {getattr(self.found, name):.3g}, allowed {getattr(self.allowed, name):.3g} "
            f"(clip {self.worst[name]})"
            for name in self.beyond
        ]
        repeated = () if self.repeated else ("a second run gave different bits",)
        return (*beyond, *repeated, *filter(None, [self.stage]))

    @property
    def beyond(self) -> tuple[str, ...]:
        """The deviations that are beyond their tolerances; NaN is."""
        return tuple(
            name
            for name, value in dataclasses.asdict(self.found).items()
            if not value <= getattr(self.allowed, name)
        )


def go_round(vocoder: Vocoder, waveform: Tensor) -> Trip:
    """Run one round trip of a clip, `[1, samples]`."""
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

    On the first its stages are compared too.

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
    diverging = None if variant.cut else _compare(candidate, variant, vocoder, waveforms[0]).first
    stage = "" if diverging is None else str(diverging)
    return Parity(found, variant.tolerances(vocoder), worst, repeated, stage)


def locate(variant: Variant, vocoder: VocosVocoder, waveform: Tensor) -> Bisection:
    """Find the first stage of a variant that diverges on a clip, `[1, samples]`."""
    return _compare(variant.make(vocoder), variant, vocoder, waveform)


def _compare(
    candidate: Vocoder, variant: Variant, vocoder: VocosVocoder, waveform: Tensor
) -> Bisection:
    return bisect_stages(
        vocoder_stages(vocoder),
        vocoder_stages(candidate),
        waveform,
        recipe=vocoder.recipe,
        tolerances=variant.stage_tolerances(vocoder),
    )


def describe(
    parity: Parity, variant: Variant, vocoder: VocosVocoder, waveforms: Sequence[Tensor]
) -> str:
    """Say what is beyond its tolerance, and in which stage the worst clip first diverges.

    Where frames are cut, every stage differs at the edge, and none is named.
    """
    failures = f"{variant.name}: {'; '.join(parity.failures)}"
    if variant.cut:
        return failures
    clip = parity.worst[parity.beyond[0]] if parity.beyond else 0
    stage = locate(variant, vocoder, waveforms[clip])
    return f"{failures}\n{stage}"


def _deviations(
    variant: Variant, vocoder: VocosVocoder, reference: Trip, encoded: Tensor, decoded: Tensor
) -> Deviations:
    frames, hop_length = reference.mel.shape[-1], vocoder.recipe.hop_length
    if variant.cut:
        frames -= context_frames(vocoder) + math.ceil(vocoder.recipe.n_fft / 2 / hop_length)
    samples = vocoder.recipe.num_samples(frames)
    floor = vocoder.recipe.log_floor
    first = mel_deviation(reference.encoded[..., :frames], encoded[..., :frames], log_floor=floor)
    again = vocoder.encode(decoded)[..., :frames]
    second = mel_deviation(reference.mel[..., :frames], again, log_floor=floor)
    wave = waveform_deviation(reference.waveform[..., :samples], decoded[..., :samples])
    return Deviations(first.max_nats, second.max_nats, second.mean_nats, wave.max_abs, wave.db)


def _without_bf16(vocoder: VocosVocoder) -> str:
    try:
        check_precision(vocoder.device, "bf16")
    except VocoderUnavailable as error:
        return str(error).splitlines()[0]
    return ""


def _without_cuda(_vocoder: VocosVocoder) -> str:
    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no CUDA device"


def _on_cuda(optimised: Precision | None) -> Variant:
    # Not measured on a device. In float32, the bound that float64 gives; below that bf16's, which
    # has the fewest bits of the three.
    low = optimised in ("tf32", "bf16", "fp16")
    return Variant(
        name="cuda" if optimised is None else f"cuda-{optimised}",
        make=functools.partial(on_device, device="cuda", optimised=optimised),
        plain=_CUDA_LOW if low else _ROUNDING,
        consistent=_CONSISTENT_ROUNDING,
        device="cuda",
        absent=_without_cuda,
        stages=BF16_STAGES if low else STAGE_TOLERANCES,
        consistent_stages=CONSISTENT_BF16_STAGES if low else CONSISTENT_ROUNDING_STAGES,
    )


# Measured on 1.5 s of five or six fixture clips (voices, digital silence, drums, a cowbell, a
# guitar) with AVX-512, with AVX2 (1 and 4 threads, and 2 with MKL_CBWR=COMPATIBLE) and with SSE4
# (1 thread): `plain` with a trained Vocos of 2.8 M parameters and random weights of the official
# configuration, `consistent` with the embedded vocoder and random weights in its configuration.
# The tolerance is three times the largest, ten decibels more for energy.
_IDENTICAL = Deviations(0.0, 0.0, 0.0, 0.0, -math.inf)

# The same operations on the same numbers in other orders of summation: threads, batches, padded
# batches, chunks, optimised. Measured 9.5e-7, 6.2e-3, 4.9e-5, 5.4e-6, -107 dB.
_REORDERED = Deviations(3e-6, 2e-2, 1.5e-4, 2e-5, -97.0)

# Measured 9.5e-7, 0.37, 7.5e-4. The waveform is not compared: its phases are those of a pulse train
# that has turned through all frames before, and rounding turns it.
_CONSISTENT_REORDERED = Deviations(3e-6, 1.1, 2.3e-3, math.inf, math.inf)

# What float64 changes bounds what any other order of summation can. Measured 5.8e-3 (the encoder,
# where a guitar's highest bands lie 100 dB below its lowest), 4.3e-3, 4.5e-5, 3.7e-6, -110 dB: the
# decoder no more than above.
_ROUNDING = dataclasses.replace(_REORDERED, encoded_max_nats=2e-2)

# Measured 5.8e-3, 0.29, 3.8e-4; the decoder no more than above.
_CONSISTENT_ROUNDING = Deviations(2e-2, 1.1, 2.3e-3, math.inf, math.inf)

# Eight bits of mantissa in the backbone. Measured 9.5e-7, 0.50, 2.8e-3, 2.5e-2, -35 dB.
_BF16 = Deviations(3e-6, 1.5, 9e-3, 8e-2, -25.0)

# Measured 9.5e-7, 2.9, 7.4e-2, with a different waveform.
_CONSISTENT_BF16 = Deviations(3e-6, 8.7, 0.22, math.inf, math.inf)

_CUDA_LOW = dataclasses.replace(_BF16, encoded_max_nats=2e-2)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        name="repeated",
        make=lambda vocoder: vocoder,
        plain=_IDENTICAL,
        consistent=_IDENTICAL,
        repeats=4,
    ),
    Variant(
        name="float64",
        make=in_float64,
        plain=_ROUNDING,
        consistent=_CONSISTENT_ROUNDING,
        consistent_stages=CONSISTENT_ROUNDING_STAGES,
    ),
    *(
        Variant(
            name=f"threads-{count}",
            make=functools.partial(with_threads, threads=count),
            plain=_REORDERED,
            consistent=_CONSISTENT_REORDERED,
        )
        for count in (1, 4)
    ),
    Variant(
        name="batch-of-4",
        make=functools.partial(in_a_batch, batch=4),
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
    ),
    Variant(
        name="padded-batch",
        make=functools.partial(in_a_padded_batch, extra_seconds=0.7),
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
        cut=True,
    ),
    Variant(
        name="chunks",
        make=functools.partial(in_chunks, frames=40),
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
    ),
    Variant(
        name="optimised-fp32",
        make=optimise,
        plain=_REORDERED,
        consistent=_CONSISTENT_REORDERED,
    ),
    Variant(
        name="optimised-bf16",
        make=functools.partial(optimise, precision="bf16"),
        plain=_BF16,
        consistent=_CONSISTENT_BF16,
        absent=_without_bf16,
        stages=BF16_STAGES,
        consistent_stages=CONSISTENT_BF16_STAGES,
    ),
    *(_on_cuda(optimised) for optimised in (None, *PRECISIONS)),
)
"""All ways to compute the loop that a user can select, or that a run may come to on its own."""
