"""Fit the embedded vocoder's network: a minute on one core, without any recording.

    python -m training.fit RUN

writes `config.yaml` and `model.safetensors`, which `load_vocoder("RUN")` loads.

The head computes a waveform from the bands that the network predicts, so that the network has to
hand its input on, through a backbone of Vocos. Such a network need not be found by descent:

- Each block hands on its input, and adds a random projection of it that is large enough to matter:
  without any one block, or with other weights in it, the output is far off.
- Blocks and norms work where they are nearly linear. The embedding is a random projection of the
  centred mel that is small beside a constant vector, so that each frame's deviation, by which
  LayerNorm divides, is the constant's; a GELU is given what lies above 1.
- What is not linear, and what the weights lose in float16, is left to the last layer: least squares
  over crops of generated signals find the outputs that are nearest to the mel.
"""

# A script may print (T201).
# ruff: noqa: T201

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.models import VocosBackbone
from vocos.modules import ConvNeXtBlock

from melcheck.recipes import VOCOS, log_mel
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from training.crops import Crops

DIM = 160

CONFIG: dict[str, dict[str, Any]] = {
    "feature_extractor": {
        "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
        "init_args": {
            "sample_rate": VOCOS.sample_rate,
            "n_fft": VOCOS.n_fft,
            "hop_length": VOCOS.hop_length,
            "n_mels": VOCOS.n_mels,
            "padding": "center",
        },
    },
    "backbone": {
        "class_path": "vocos.models.VocosBackbone",
        "init_args": {
            "input_channels": VOCOS.n_mels,
            "dim": DIM,
            "intermediate_dim": 3 * DIM,
            "num_layers": 3,
        },
    },
    "head": {
        "class_path": "melcheck.vocoders.phase_head.ConsistentISTFTHead",
        "init_args": {
            "dim": DIM,
            "n_fft": VOCOS.n_fft,
            "hop_length": VOCOS.hop_length,
            "padding": "center",
            "sample_rate": VOCOS.sample_rate,
            "n_mels": VOCOS.n_mels,
            "num_projections": 2,
            "num_quarter_projections": 6,
            "num_eighth_projections": 12,
            "num_descent_steps": 2,
        },
    },
}

SEED = 7
BATCH = 8
BATCHES = 100
CROP_HOPS = 63

# Deviation of the projected mel, beside a constant vector of deviation 1. More of it is less
# linear; less of it drowns in the rounding of bfloat16.
_PROJECTED = 0.1
# Of the taps to each side beside the middle one, in the embedding and in the blocks' convolutions.
_NEIGHBOURS = 0.0005
_BLOCK_NEIGHBOURS = 0.002
# What enters a GELU: its mean, and the deviation about it.
_GELU_MEAN = 1.5
_GELU_DEVIATION = 0.3
# What a block adds, beside the deviation of what it is given.
_BLOCK_GAIN = 0.25
_RIDGE = 1e-6


def build() -> Vocos:
    """Return the model of `CONFIG`, with random weights."""
    return Vocos(
        MelSpectrogramFeatures(**CONFIG["feature_extractor"]["init_args"]),
        VocosBackbone(**CONFIG["backbone"]["init_args"]),
        ConsistentISTFTHead(**CONFIG["head"]["init_args"]),
    ).eval()


@torch.no_grad()
def fit(model: Vocos, mels: list[Tensor]) -> None:
    """Set the weights of a model, in place.

    Args:
        model: As `build` returns it.
        mels: Log-mels, each `[batch, n_mels, frames]`.
    """
    backbone = model.backbone
    _embed(backbone.embed, _frames(mels))
    for block in backbone.convnext:
        _add_projection(backbone, block, mels)
    _whiten(backbone, backbone.final_layer_norm, mels)
    _round_to_half(model)
    features = torch.cat([backbone(mel).flatten(0, 1) for mel in mels])
    weight, bias = _least_squares(features.double(), _frames(mels).double())
    model.head.out.weight.copy_(weight)
    model.head.out.bias.copy_(bias)
    _round_to_half(model)


def _frames(mels: list[Tensor]) -> Tensor:
    """Return all frames of mels, `[frames, n_mels]`."""
    return torch.cat([mel.transpose(1, 2).flatten(0, 1) for mel in mels])


def _embed(embed: nn.Conv1d, frames: Tensor) -> None:
    channels, middle = embed.in_channels, embed.kernel_size[0] // 2
    embed.weight.mul_(_NEIGHBOURS)
    projection = torch.randn(embed.out_channels, channels)
    embed.weight[:, :, middle] += projection * _PROJECTED / (frames.std() * channels**0.5)
    constant = torch.randn(embed.out_channels)
    assert embed.bias is not None
    embed.bias.copy_(constant - embed.weight.sum(dim=-1) @ frames.mean(dim=0))


def _add_projection(backbone: VocosBackbone, block: ConvNeXtBlock, mels: list[Tensor]) -> None:
    """Let a block add a nearly linear projection of what it is given."""
    block.dwconv.weight.mul_(_BLOCK_NEIGHBOURS)
    block.dwconv.weight[:, :, block.dwconv.kernel_size[0] // 2] += 1.0
    block.dwconv.bias.zero_()
    block.gamma.fill_(1.0)
    _whiten(backbone, block.norm, mels)
    nn.init.normal_(block.pwconv1.weight, std=_GELU_DEVIATION / block.pwconv1.in_features**0.5)
    nn.init.constant_(block.pwconv1.bias, _GELU_MEAN)
    nn.init.normal_(block.pwconv2.weight, std=block.pwconv2.in_features**-0.5)
    block.pwconv2.bias.zero_()
    given, added = _seen(backbone, block, mels)
    gain = _BLOCK_GAIN * given.std(dim=0).mean() / added.std(dim=0).mean()
    block.pwconv2.weight.mul_(gain)
    block.pwconv2.bias.copy_(-gain * added.mean(dim=0))


def _seen(
    backbone: VocosBackbone, block: ConvNeXtBlock, mels: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what a block is given and what it adds to it, both `[frames, dim]`."""
    given: list[Tensor] = []
    returned: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(inputs[0])
        returned.append(output)

    handle = block.register_forward_hook(note)
    for mel in mels:
        backbone(mel)
    handle.remove()
    before = _frames(given)
    return before, _frames(returned) - before


def _whiten(backbone: VocosBackbone, norm: nn.LayerNorm, mels: list[Tensor]) -> None:
    """Scale a norm so that what it hands on has mean 0 and deviation 1."""
    seen: list[Tensor] = []
    handle = norm.register_forward_hook(lambda *call: seen.append(call[2].flatten(0, -2)))
    for mel in mels:
        backbone(mel)
    handle.remove()
    deviation, mean = torch.std_mean(torch.cat(seen), dim=0)
    norm.bias.copy_((norm.bias - mean) / deviation)
    norm.weight.div_(deviation)


def _round_to_half(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


def _least_squares(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight `[out, in]` and bias `[out]` of the best linear map."""
    with_one = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    gram = with_one.T @ with_one
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, with_one.T @ wanted)
    return solution[:-1].T, solution[-1]


def export(model: nn.Module, run: Path) -> None:
    """Write `config.yaml` and `model.safetensors`: weights in fp16, window and filters in fp32."""
    parameters = dict(model.named_parameters())
    state = {
        name: (tensor.half() if name in parameters else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    run.mkdir(parents=True, exist_ok=True)
    save_file(state, run / "model.safetensors")
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: see the module."""
    parser = argparse.ArgumentParser(description="Fit the embedded vocoder's network.")
    parser.add_argument("run", type=Path, help="folder for config.yaml and model.safetensors")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    crops = Crops(crop_samples=CROP_HOPS * VOCOS.hop_length, seed=SEED)
    mels = [log_mel(crops.batch(number, BATCH), VOCOS) for number in range(BATCHES)]
    model = build()
    fit(model, mels)
    export(model, given.run)
    unseen = [log_mel(crops.batch(BATCHES + number, BATCH), VOCOS) for number in range(10)]
    with torch.inference_mode():
        predicted = [model.head.out(model.backbone(mel)) for mel in unseen]
    error = (torch.cat([each.flatten(0, 1) for each in predicted]) - _frames(unseen)).abs().mean()
    print(f"{given.run}: bands are predicted within {float(error):.3f} nats on crops not fitted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
