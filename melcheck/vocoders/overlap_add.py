"""The STFT and its inverse as a pair of adjoints: windowed frames to spectra, spectra to sound.

`analyse` cuts a signal into windowed frames and transforms them; `synthesise` transforms back,
windows, and adds the frames where they overlap. Up to constants each is the adjoint of the other,
so each one's gradient is computed by the other's forward pass: a real FFT of half the size of the
complex one that torch would use, and no scatter. Neither divides by the sum of the windows.

Conventions: signals are `[batch, samples]`, spectra `[batch, frames, n_fft // 2 + 1]`, so that each
frame is contiguous for the FFT. `n_fft` is the window's length, and the hop divides it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def analyse(signal: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Transform every whole frame of a signal; nothing is padded.

    Shape:
        `[batch, samples]` -> `[batch, 1 + (samples - n_fft) // hop_length, n_fft // 2 + 1]`
    """
    spectrum: Tensor = _Analyse.apply(signal, window, hop_length)  # type: ignore[no-untyped-call]
    return spectrum


def synthesise(spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Transform back, window and overlap-add.

    Shape:
        `[batch, frames, n_fft // 2 + 1]` -> `[batch, (frames - 1) * hop_length + n_fft]`
    """
    signal: Tensor = _Synthesise.apply(spectrum, window, hop_length)  # type: ignore[no-untyped-call]
    return signal


def overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Add frames one hop apart.

    A frame is a few blocks of one hop, and block k of frame t belongs to block t + k of the signal:
    a few sums of whole arrays.

    Shape:
        `[batch, frames, length]` -> `[batch, (frames - 1) * hop_length + length]`
    """
    batch, num_frames, length = frames.shape
    num_blocks = length // hop_length
    blocks = frames.reshape(batch, num_frames, num_blocks, hop_length)
    signal = frames.new_zeros(batch, num_frames + num_blocks - 1, hop_length)
    for k in range(num_blocks):
        signal[:, k : k + num_frames] += blocks[:, :, k]
    return signal.reshape(batch, -1)


class OverlapAdd:
    """Adds frames one hop apart, as often as needed, in the same arrays.

    Block k of frame t belongs to block t + k of the signal. In an array of frames with enough empty
    ones before and after, the blocks that meet in one place lie a constant distance apart: a view
    shows them beside each other, and one sum adds them.

    Args:
        spectrum: Whose frames are to be added, `[batch, frames, bins]`, complex.
        n_fft: Length of a frame.
        hop_length: A divisor of it.

    Attributes:
        frames: `[batch, frames, n_fft]`, to be filled before each call of `added`.
    """

    def __init__(self, spectrum: Tensor, n_fft: int, hop_length: int) -> None:
        batch, num_frames, _ = spectrum.shape
        blocks = n_fft // hop_length
        around = spectrum.real.new_zeros(batch, num_frames + 2 * (blocks - 1), n_fft)
        self.frames = around[:, blocks - 1 : blocks - 1 + num_frames]
        length = num_frames + blocks - 1
        self._meeting = around.as_strided(
            (batch, length, blocks, hop_length),
            (around.stride(0), n_fft, n_fft - hop_length, 1),
            (blocks - 1) * hop_length,
        )
        self._sum = around.new_empty(batch, length, hop_length)

    def added(self) -> Tensor:
        """Return `[batch, (frames - 1) * hop_length + n_fft]`, which the next call overwrites."""
        return torch.sum(self._meeting, dim=2, out=self._sum).view(len(self._sum), -1)


class _Analyse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, signal: Tensor, window: Tensor, hop_length: int) -> Tensor:
        ctx.save_for_backward(window)
        ctx.hop_length = hop_length
        ctx.unread = (signal.shape[-1] - len(window)) % hop_length
        spectrum: Tensor = torch.fft.rfft(signal.unfold(-1, len(window), hop_length) * window)
        return spectrum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # X_k = sum_n x_n exp(-i a k n), so dL/dx_n = sum_k Re(G_k exp(i a k n)) over the bins that
        # exist. irfft sums the same with every bin but the first and the last taken twice, over n.
        (window,) = ctx.saved_tensors
        n_fft = len(window)
        halved = gradients[0] * (n_fft / 2)
        halved[..., 0] *= 2
        halved[..., -1] *= 2
        frames = torch.fft.irfft(halved, n_fft) * window
        gradient = overlap_add(frames, ctx.hop_length)
        return torch.nn.functional.pad(gradient, (0, ctx.unread)), None, None


class _Synthesise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
        ctx.save_for_backward(window)
        ctx.hop_length = hop_length
        return overlap_add(torch.fft.irfft(spectrum, len(window)).mul_(window), hop_length)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # The same two facts the other way round: irfft divides by n and takes inner bins twice.
        (window,) = ctx.saved_tensors
        n_fft = len(window)
        frames = gradients[0].unfold(-1, n_fft, ctx.hop_length) * window
        gradient = torch.fft.rfft(frames) * (2 / n_fft)
        gradient[..., 0] *= 0.5
        gradient[..., -1] *= 0.5
        return gradient, None, None
