"""Run a loaded Vocos as a `Vocoder`.

References:
    H. Siuzdak, "Vocos", 2023, https://arxiv.org/abs/2306.00814.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from vocos import Vocos
from vocos.models import VocosBackbone

from melcheck.process_state import float32_precision, set_float32_precision
from melcheck.recipes import MelRecipe
from melcheck.vocoders.base import (
    VocoderInfo,
    check_mel,
    check_waveform,
    stft_context_frames,
)
from melcheck.vocoders.checkpoint import build_vocos
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.weights import VocoderFiles

# With `center`, one frame stands for no sample at all. Griffin-Lim transforms its own output again
# and again, so that must be long enough to be extracted: 513 samples, hence 4 frames.
VOCOS_MIN_FRAMES = 2


@dataclass(frozen=True, slots=True, eq=False)
class VocosVocoder:
    """A trained `vocos.Vocos`, kept in `model`. See `Vocoder`."""

    info: VocoderInfo
    recipe: MelRecipe
    device: torch.device
    model: Vocos

    @property
    def context_frames(self) -> int | None:
        """Frames to each side on which a decoded sample depends; None for a foreign backbone.

        convolutions         sum of dilation (kernel - 1) / 2   27 for eight blocks of kernel 7
        overlap of the STFT  ceil(n_fft / 2 / hop)              2 for 1024 / 256
        each projection      ceil(n_fft / hop) - 1              3 for 1024 / 256, at any rate

        A head that retrieves phases begins with those of a pulse train, which depend on all frames
        before: a chunk is told them, see `run_head`.
        """
        if not isinstance(self.model.backbone, VocosBackbone):
            return None
        layers = [layer for layer in self.model.backbone.modules() if isinstance(layer, nn.Conv1d)]
        reach = sum(layer.dilation[0] * (layer.kernel_size[0] - 1) // 2 for layer in layers)
        head = self.model.head
        projections = head.phase_retrieval.transforms if self.magnifies_rounding else 0
        return reach + stft_context_frames(self.recipe, round_trips=projections)

    @property
    def magnifies_rounding(self) -> bool:
        """Whether the head retrieves phases, which magnifies rounding."""
        return isinstance(self.model.head, ConsistentISTFTHead)

    def encode(self, waveform: Tensor) -> Tensor:
        """Return the log-mel of a waveform: see `Vocoder.encode`."""
        check_waveform(waveform, self.recipe)
        with full_float32:
            mel: Tensor = self.model.feature_extractor(waveform)
        return mel

    def decode(self, mel: Tensor) -> Tensor:
        """Return the waveform of a log-mel: see `Vocoder.decode`.

        Products and convolutions run in full float32 on CUDA too, where torch may allow TF32: its
        10 bits of mantissa move the reconstructed mel further than 1 % of noise in a layer's
        weights.
        """
        check_mel(mel, self.recipe, min_frames=VOCOS_MIN_FRAMES)
        with full_float32, torch.inference_mode():
            waveform: Tensor = self.model.decode(mel)
        return waveform

    @torch.inference_mode()
    def run_backbone(self, mel: Tensor) -> Tensor:
        """Return what the backbone hands to the head, the first half of `decode`.

        Shape:
            `[batch, n_mels, frames]` -> `[batch, frames, channels]`
        """
        with full_float32:
            features: Tensor = self.model.backbone(mel)
        return features

    @torch.inference_mode()
    def run_head(self, features: Tensor, *, turned: Tensor | None = None) -> Tensor:
        """Return the waveform that the head makes of features, the second half of `decode`.

        Args:
            features: Output of `run_backbone`.
            turned: For a chunk of a mel, what `pulse_turns` of the whole has for its frames; only
                for a head that retrieves phases.

        Shape:
            `[batch, frames, channels]` -> `[batch, recipe.num_samples(frames)]`
        """
        with full_float32:
            resumed = () if turned is None else (turned,)
            waveform: Tensor = self.model.head(features, *resumed)
        return waveform

    @torch.inference_mode()
    def pulse_turns(self, features: Tensor) -> Tensor:
        """Return how often the pulse train has turned that retrieved phases begin with.

        Shape:
            `[batch, frames, channels]` -> `[batch, frames]`, from 0 in the first
        """
        with full_float32:
            turns: Tensor = self.model.head.pulse_turns(features)
        return turns


class _FullFloat32:
    """Products and convolutions in full float32 while any thread is inside: the process's setting.

    `torch.backends.cudnn.flags` is not enough: where blocks of two threads overlap, the first to
    leave allows TF32 in the other, and the last to leave restores what the first had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = float32_precision()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = float32_precision()
                set_float32_precision(("highest", False))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                set_float32_precision(self._before)


full_float32 = _FullFloat32()
"""Context in which CUDA does not multiply float32 with TF32's 10 bits of mantissa."""


def vocos_vocoder(name: str, files: VocoderFiles, device: torch.device) -> VocosVocoder:
    """Build the Vocos of two verified files on a device; raises as `build_vocos` does."""
    model, recipe = build_vocos(files)
    info = VocoderInfo(
        name=name,
        source=files.source,
        revision=files.revision,
        weights_sha256=files.weights.sha256,
        config_sha256=files.config.sha256,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    return VocosVocoder(info, recipe, device, model.to(device))
