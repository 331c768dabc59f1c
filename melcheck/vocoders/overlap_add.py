"""Windowed frames of a signal and their spectra, and back by overlap-add.

Conventions: signals are `[batch, samples]`, spectra `[batch, frames, n_fft // 2 + 1]`, so that each
frame is contiguous for the FFT. `n_fft` is the window's length, and the hop divides it. Nothing is
padded, and nothing is divided by the sum of the windows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def analyse(signal: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Transform every whole frame of a signal.

    Shape:
        `[batch, samples]` -> `[batch, 1 + (samples - n_fft) // hop_length, n_fft // 2 + 1]`
    """
    spectrum: Tensor = torch.fft.rfft(signal.unfold(-1, len(window), hop_length) * window)
    return spectrum


def synthesise(spectrum: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Transform back, window and overlap-add.

    Shape:
        `[batch, frames, n_fft // 2 + 1]` -> `[batch, (frames - 1) * hop_length + n_fft]`
    """
    return overlap_add(torch.fft.irfft(spectrum, len(window)).mul_(window), hop_length)


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
