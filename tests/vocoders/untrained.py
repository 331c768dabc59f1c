"""Vocoders with random weights: how they compute does not depend on what they learned."""

from __future__ import annotations

import torch
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.recipes import VOCOS
from melcheck.vocoders.base import VocoderInfo
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder
from training.fit import CONFIG

_STFT = (VOCOS.n_fft, VOCOS.hop_length, "center")


def official(seed: int = 0) -> VocosVocoder:
    """A vocoder of the official configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _vocoder(VocosBackbone(VOCOS.n_mels, 512, 1536, 8), ISTFTHead(512, *_STFT))


def small(seed: int = 0) -> VocosVocoder:
    """A plain Vocos of the size that trains on a CPU, whose layers all count.

    Its magnitudes and phases vary as much as those of a trained one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = VocosBackbone(VOCOS.n_mels, 128, 384, 4, layer_scale_init_value=1.0)
        head = ISTFTHead(128, *_STFT)
        torch.nn.init.normal_(head.out.weight, std=0.2)
        return _vocoder(backbone, head)


def consistent(seed: int = 0) -> VocosVocoder:
    """A vocoder of the configuration that `training` fits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _vocoder(
            VocosBackbone(**CONFIG["backbone"]["init_args"]),
            ConsistentISTFTHead(**CONFIG["head"]["init_args"]),
        )


def _vocoder(backbone: VocosBackbone, head: ISTFTHead) -> VocosVocoder:
    extractor = MelSpectrogramFeatures(
        VOCOS.sample_rate, VOCOS.n_fft, VOCOS.hop_length, VOCOS.n_mels, "center"
    )
    model = Vocos(extractor, backbone, head).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    info = VocoderInfo("untrained", "random weights", None, None, None, parameters)
    return VocosVocoder(info, VOCOS, torch.device("cpu"), model)
