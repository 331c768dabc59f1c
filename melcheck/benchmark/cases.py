"""What the benchmark measures: stages, sizes, precisions and modes.

A case is one stage on one device at one size, precision and mode. `MODES` lists the ways to compute
it: a new way is one entry there. `pytest -m benchmark` and `melcheck bench` run the same cases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.recipes import VOCOS, MelRecipe
from melcheck.speed.optimised import Precision, check_precision, matmul_precision, optimise
from melcheck.vocoders.base import Vocoder, VocoderInfo, VocoderWrapper
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderUnavailable

Stage = Literal["encode", "decode", "round_trip"]
STAGES: tuple[Stage, ...] = ("encode", "decode", "round_trip")

RANDOM = "random-official"
"""The official configuration with random weights, which is as fast as with trained weights."""

_SEED = 0


@dataclass(frozen=True, slots=True)
class Size:
    """A batch of waveforms of one length.

    Attributes:
        batch: Number of waveforms.
        seconds: Duration of each waveform.
    """

    batch: int
    seconds: float

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio in the batch."""
        return self.batch * self.seconds

    def __str__(self) -> str:
        """Return it as in "16x3s"."""
        return f"{self.batch}x{self.seconds:g}s"


FULL_SIZES = tuple(
    sorted(
        (Size(batch, seconds) for seconds in (1.0, 3.0, 10.0, 30.0) for batch in (1, 16, 64)),
        key=lambda size: size.audio_seconds,
    )
)
"""In rising order, so that the time of the next size can be predicted."""

PAPER_SIZE = Size(16, 1.0)
"""The protocol of the table of speeds in the Vocos paper: 16 waveforms of one second."""

SHORT_SIZES = (Size(1, 1.0), Size(4, 1.0))
"""What the plain test run measures."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the benchmark.

    Attributes:
        stage: "encode", "decode" or "round_trip" (audio -> mel -> audio -> mel).
        device: Name of a torch device.
        size: Batch and duration.
        precision: Precision of the network; mels and waveforms are float32 throughout.
        mode: A key of `MODES`.
    """

    stage: Stage
    device: str
    size: Size
    precision: Precision
    mode: str

    def __str__(self) -> str:
        """Return its name, as in "decode-cpu-16x1s-fp32-eager"."""
        return f"{self.stage}-{self.device}-{self.size}-{self.precision}-{self.mode}"


def cases(
    devices: Sequence[str],
    sizes: Sequence[Size],
    *,
    precisions: Sequence[Precision] | None = None,
    modes: Sequence[str] | None = None,
) -> list[Case]:
    """Return all combinations, in the order of `sizes`.

    Args:
        devices: Names of torch devices.
        sizes: In rising order.
        precisions: Precisions of the network; None takes fp32, and on CUDA all four. The mel of
            `encode` is computed in fp32 whatever the network's precision, so `encode` is measured
            in fp32 alone.
        modes: Keys of `MODES`; None takes all.
    """
    return [
        Case(stage, device, size, precision, mode)
        for size in sizes
        for device in devices
        for precision in (precisions or precisions_of(device))
        for mode in (modes or MODES)
        for stage in STAGES
        if stage != "encode" or precision == "fp32"
    ]


def precisions_of(device: str) -> tuple[Precision, ...]:
    """Return the precisions that are measured on a device unless some are named."""
    return ("fp32", "tf32", "bf16", "fp16") if device.startswith("cuda") else ("fp32",)


@dataclass(frozen=True, slots=True, eq=False)
class _Eager(VocoderWrapper):
    """A Vocos as torch runs it, operator by operator, with its backbone in a lower precision."""

    inner: VocosVocoder
    precision: Precision

    def encode(self, waveform: Tensor) -> Tensor:
        return self.inner.encode(waveform)

    @torch.inference_mode()
    def decode(self, mel: Tensor) -> Tensor:
        model = self.inner.model
        if self.precision == "tf32":
            with matmul_precision("tf32"):
                return _waveform(model, model.backbone(mel))
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(mel.device.type, dtype=dtype):
            features = model.backbone(mel)
        # Phases need float32: bf16 has 8 bits for any number of turns.
        return _waveform(model, features.float())


def _waveform(model: Vocos, features: Tensor) -> Tensor:
    waveform: Tensor = model.head(features)
    return waveform


def _eager(vocoder: VocosVocoder, precision: Precision) -> Vocoder:
    return vocoder if precision == "fp32" else _Eager(vocoder, precision)


MODES: dict[str, Callable[[VocosVocoder, Precision], Vocoder]] = {
    "eager": _eager,
    "optimised": lambda vocoder, precision: optimise(vocoder, precision=precision),
}
"""Returns a vocoder that computes in a precision, by the name of the mode."""


def in_mode(vocoder: Vocoder, mode: str, precision: Precision) -> Vocoder:
    """Return a vocoder of the same weights that computes in a mode and precision.

    Raises:
        ValueError: A mode that is not in `MODES`.
        TypeError: Another mode or precision than eager fp32, of another vocoder than a Vocos.
        VocoderUnavailable: The device does not multiply in that precision.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be {' or '.join(map(repr, MODES))}, got {mode!r}.")
    if _is_plain(mode, precision):
        return vocoder
    if not isinstance(vocoder, VocosVocoder):
        raise TypeError(f"vocoder must be a Vocos, got {vocoder.info.name!r}: {_ONLY_VOCOS}.")
    return MODES[mode](vocoder, precision)


def unavailable(vocoder: Vocoder, case: Case) -> str | None:
    """Return why a vocoder cannot compute a case on its device, or None where it can."""
    if not _is_plain(case.mode, case.precision) and not isinstance(vocoder, VocosVocoder):
        return _ONLY_VOCOS
    try:
        check_precision(vocoder.device, case.precision)
    except VocoderUnavailable as error:
        return str(error)
    return None


_ONLY_VOCOS = "only a Vocos with its own mel has other modes and precisions than eager fp32"


def _is_plain(mode: str, precision: Precision) -> bool:
    return mode == "eager" and precision == "fp32"


def bench_vocoder(name: str, device: str, *, recipe: MelRecipe | None = None) -> Vocoder:
    """Load a vocoder to time; `RANDOM` is made here and needs no weights.

    Args:
        name: `RANDOM`, or as for `melcheck.vocoders.load.load_vocoder`.
        device: Where it runs.
        recipe: As for `load_vocoder`.

    Raises:
        ValueError: As for `melcheck.vocoders.load.load_vocoder`.
        VocoderError: Likewise.
    """
    if name == RANDOM:
        return _random_official(device)
    return load_vocoder(name, device=device, recipe=recipe)


def _random_official(device: str) -> VocosVocoder:
    # Refuses a device that this machine lacks, with the words of every other command.
    target = load_vocoder("griffin-lim", device=device).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = Vocos(
            MelSpectrogramFeatures(
                VOCOS.sample_rate, VOCOS.n_fft, VOCOS.hop_length, VOCOS.n_mels, VOCOS.padding
            ),
            VocosBackbone(
                input_channels=VOCOS.n_mels, dim=512, intermediate_dim=1536, num_layers=8
            ),
            ISTFTHead(512, VOCOS.n_fft, VOCOS.hop_length, VOCOS.padding),
        )
    info = VocoderInfo(
        name=RANDOM,
        source=f"the official configuration with random weights, seed {_SEED}",
        revision=None,
        weights_sha256=None,
        config_sha256=None,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    return VocosVocoder(info, VOCOS, target, model.eval().to(target))
