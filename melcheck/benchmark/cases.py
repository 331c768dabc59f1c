"""What the benchmark measures: stages, sizes, precisions and modes, and what there is time for.

A case is one stage on one device at one size, precision and mode. `MODES` is the list of the ways
to compute it: a new one is one entry there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.benchmark.roofline import STAGES, Stage
from melcheck.recipes import VOCOS
from melcheck.speed.optimised import Precision, matmul_precision, optimise
from melcheck.vocoders.base import Vocoder, VocoderInfo, VocoderWrapper
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.vocos import VocosVocoder

RANDOM = "random-official"
"""The official configuration with random weights: as fast as with trained ones."""

_SEED = 0


@dataclass(frozen=True, slots=True)
class Size:
    """A batch of sounds of one length.

    Attributes:
        batch: Number of sounds.
        seconds: Of each.
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
"""From little to much, so that each tells how long the next takes."""

PAPER_SIZE = Size(16, 1.0)
"""The protocol of the table of speeds in the Vocos paper: 16 sounds of one second."""

SHORT_SIZES = (Size(1, 1.0), Size(4, 1.0))


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the sweep.

    Attributes:
        stage: "encode", "decode" or "round_trip" (audio -> mel -> audio -> mel).
        device: Name of a torch device.
        size: Batch and duration.
        precision: Of the network; mels and sound are float32 throughout.
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
    """Return every combination that means something, little sizes first.

    Args:
        devices: Names of torch devices.
        sizes: From little to much.
        precisions: Of the network; None takes fp32, and on CUDA all. The mel of `encode` is
            computed in fp32 whatever the network's precision, so it is measured in that alone.
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
    """Return what the sweep covers on a device."""
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
                return _sound(model, model.backbone(mel))
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        with torch.autocast(mel.device.type, dtype=dtype):
            features = model.backbone(mel)
        # Phases need float32: bf16 has 8 bits for any number of turns.
        return _sound(model, features.float())


def _sound(model: Vocos, features: Tensor) -> Tensor:
    waveform: Tensor = model.head(features)
    return waveform


def _eager(vocoder: VocosVocoder, precision: Precision) -> Vocoder:
    return vocoder if precision == "fp32" else _Eager(vocoder, precision)


MODES: dict[str, Callable[[VocosVocoder, Precision], Vocoder]] = {
    "eager": _eager,
    "optimised": lambda vocoder, precision: optimise(vocoder, precision=precision),
}
"""How a vocoder is made to run in a precision, by the name of the way."""


def in_mode(vocoder: VocosVocoder, mode: str, precision: Precision) -> Vocoder:
    """Return a vocoder of the same weights that computes in a mode and precision.

    Raises:
        ValueError: A mode that is not in `MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be {' or '.join(map(repr, MODES))}, got {mode!r}.")
    return MODES[mode](vocoder, precision)


def bench_vocoder(name: str, device: str, *, download: bool = True) -> VocosVocoder:
    """Load a Vocos to time; `RANDOM` is made here and needs no weights.

    Raises:
        ValueError: A vocoder that is no Vocos, whose work cannot be counted.
        VocoderError: As for `melcheck.vocoders.load.load_vocoder`.
    """
    if name == RANDOM:
        return _random_official(device)
    vocoder = load_vocoder(name, device=device, download=download)
    if not isinstance(vocoder, VocosVocoder):
        raise ValueError(
            f"vocoder must be a Vocos, whose operations can be counted, got {name!r}. Name "
            f"embedded, official, {RANDOM}, a folder or a hub id; --peers sets griffin-lim beside."
        )
    return vocoder


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
