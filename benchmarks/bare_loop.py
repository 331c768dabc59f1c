"""The loop of the gate and nothing more, which `benchmarks.gate` compares the gate with.

    python -m benchmarks.bare_loop CLIP...

Reads, encodes, decodes and encodes again, as the gate does: the first seconds of each clip, by the
embedded vocoder and by Griffin-Lim. It measures nothing, prints nothing and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.vocoders.load import load_vocoder


def loop(paths: Sequence[str]) -> None:
    """Make the round trips of clips, which are read once."""
    vocoders = [load_vocoder(name) for name in ("embedded", "griffin-lim")]
    for path in paths:
        waveform = load_audio(MelCheckConfig(Path(path))).waveform
        for vocoder in vocoders:
            vocoder.encode(vocoder.decode(vocoder.encode(waveform)))


if __name__ == "__main__":
    loop(sys.argv[1:])
