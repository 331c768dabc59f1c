"""Where the training begins: a network that is nearly linear, and fitted by least squares.

A log-mel ranges over 19 nats, and the network has to hand its level on to a fiftieth of a nat.
LayerNorm divides each frame by its own deviation, so that this level survives in ratios alone, and
begun at random it takes tens of thousands of steps to learn a division. Instead:

- The embedding is a random projection of the centred mel that is small beside a constant vector.
  Each frame's deviation is then the constant's, nearly, and LayerNorm nearly linear.
- Each later LayerNorm is scaled so that what it hands on has mean 0 and deviation 1.
- The head's magnitudes are the least-squares fit of the original's to the features.

On 64 crops that were not fitted, this has a log-mel error of 0.19 nats before the first step and of
0.10 after 400; begun at random, the same network had 0.66 after 600, and 0.37 after 10,000.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vocos import Vocos

from melcheck.recipes import VOCOS
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from training.crops import Crops

# Of the projection beside the constant; and of the taps beside the middle one.
_PROJECTED = 0.1
_NEIGHBOURS = 0.01
_MEASURED_BATCHES = 8
_FITTED_BATCHES = 60
_BATCH = 8
# Crops of these numbers are met at no step.
_FIRST_BATCH = 1_000_000
_RIDGE = 1e-6
# Bins of this magnitude lie below the floor of every band.
_SILENT_BIN = 3e-8


@torch.no_grad()
def begin(model: Vocos, crops: Crops) -> None:
    """Set the weights of an untrained model, in place, from what it will be trained on."""
    head, backbone = model.head, model.backbone
    if not isinstance(head, ConsistentISTFTHead):
        raise TypeError(f"head must be a ConsistentISTFTHead, got {type(head).__name__}.")
    batches = [
        head.phase_retrieval.to_spectrum(crops.batch(_FIRST_BATCH + number, _BATCH)).abs()
        for number in range(_FITTED_BATCHES)
    ]
    mels = [_log_mel(bins, head.phase_retrieval.filters) for bins in batches]
    _embed(backbone.embed, torch.cat(mels[:_MEASURED_BATCHES]))
    for norm in (*(block.norm for block in backbone.convnext), backbone.final_layer_norm):
        _whiten(norm, backbone, mels[:_MEASURED_BATCHES])
    features = torch.cat([backbone(mel.transpose(1, 2)).flatten(0, 1) for mel in mels]).double()
    wanted = torch.cat([torch.log(bins + _SILENT_BIN).flatten(0, 1) for bins in batches]).double()
    weight, bias = _least_squares(features, wanted)
    head.out.weight.copy_(weight)
    head.out.bias.copy_(bias)


def _log_mel(bins: Tensor, filters: Tensor) -> Tensor:
    return torch.log((bins @ filters).clamp(min=VOCOS.floor))


def _embed(embed: nn.Conv1d, mel: Tensor) -> None:
    taps = embed.kernel_size[0]
    middle = torch.randn(embed.out_channels, embed.in_channels)
    middle *= _PROJECTED / (mel.std() * embed.in_channels**0.5)
    embed.weight *= _NEIGHBOURS
    embed.weight[:, :, taps // 2] += middle
    constant = torch.randn(embed.out_channels)
    assert embed.bias is not None
    embed.bias.copy_(constant - embed.weight.sum(dim=-1) @ mel.mean(dim=(0, 1)))


def _whiten(norm: nn.LayerNorm, backbone: nn.Module, mels: list[Tensor]) -> None:
    seen: list[Tensor] = []
    handle = norm.register_forward_hook(lambda *call: seen.append(call[2].flatten(0, -2)))
    for mel in mels:
        backbone(mel.transpose(1, 2))
    handle.remove()
    handed_on = torch.cat(seen)
    norm.weight.copy_(1 / handed_on.std(dim=0))
    norm.bias.copy_(-handed_on.mean(dim=0) / handed_on.std(dim=0))


def _least_squares(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight `[out, in]` and bias `[out]` of the best linear map."""
    with_one = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    gram = with_one.T @ with_one
    gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, with_one.T @ wanted)
    return solution[:-1].T, solution[-1]
