"""What a fault is, and the bench on which it is done to a healthy loop.

An injection takes a `Bench` and one severity and returns a `Loop` of which one stage is damaged:
the samples, tensors, weights or files are really changed. Nothing tells a gate what to find.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from vocos import Vocos

from melcheck.recipes import VOCOS, log_mel
from melcheck.vocoders.base import VocosVocoder
from tests.faults.loops import Expectation, Loop

__all__ = ["Bench", "Fault", "Injection", "Probe", "Severities", "recipe_change"]

Probe = Literal["recorded", "pause", "hiss", "silent edges", "square"]
"""On which audio a fault is tried.

"recorded": the clip as it is. "pause": with 300 ms of exact zeros in its middle. "hiss": with noise
at -40 dB of full scale, so that neither its edges nor its pauses are silent. "silent edges": with
exact zeros for one transform at both ends. "square": cut to as many frames as there are bands.
"""

Stage = Literal["audio", "front end", "vocoder", "output", "environment"]


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What an injection works with.

    Attributes:
        expected: What the healthy loop does with the clip.
        folder: An empty folder that may be written to.
    """

    expected: Expectation
    folder: Path

    @property
    def waveform(self) -> Tensor:
        """The clip, `[1, samples]`, 24,000 Hz."""
        return self.expected.waveform

    @property
    def model(self) -> Vocos:
        """A copy of the vocoder's model that may be changed."""
        vocoder = self.expected.pipeline.vocoder
        if not isinstance(vocoder, VocosVocoder):
            raise TypeError(f"vocoder must be a Vocos, got {vocoder.info.name!r}.")
        return copy.deepcopy(vocoder.model)

    def read(self, change: Callable[[Tensor], Tensor]) -> Loop:
        """Return the healthy loop with what its loader gives changed; once, as a file would be."""
        read = change(self.waveform)
        return dataclasses.replace(self.expected.loop, load=lambda _: read)

    def extract(self, stage: Callable[[Tensor], Tensor]) -> Loop:
        """Return the healthy loop with another front end."""
        return dataclasses.replace(self.expected.loop, extract=stage)

    def change_mel(self, change: Callable[[Tensor], Tensor]) -> Loop:
        """Return the healthy loop with its front end's mel changed."""
        return self.extract(lambda waveform: change(log_mel(waveform)))

    def decode(self, stage: Callable[[Tensor], Tensor]) -> Loop:
        """Return the healthy loop with another vocoder."""
        return dataclasses.replace(self.expected.loop, decode=stage)

    def decode_with(self, model: Vocos) -> Loop:
        """Return the healthy loop with another model, held to shapes as the healthy one is."""
        pipeline = copy.copy(self.expected.pipeline)
        vocoder = pipeline.vocoder
        pipeline.vocoder = VocosVocoder(vocoder.info, vocoder.recipe, vocoder.device, model)
        return self.decode(pipeline.mel2waveform)

    def save(self, stage: Callable[[Path, Tensor], None]) -> Loop:
        """Return the healthy loop with another writer."""
        return dataclasses.replace(self.expected.loop, save=stage)


Injection = Callable[[Bench, Any], Loop]
Severities = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault that really happens, and what must notice it.

    Attributes:
        name: kebab-case, unique.
        row: Its number among the collected cases; several faults may share one.
        tier: "A" bites constantly, "B" is common, "C" is occasional but expensive.
        stage: Where it acts.
        source: A public report or source that shows it, as "project #number".
        inject: Does it.
        severities: Labels and parameters of `inject`, in order.
        caught_by: Gates of `tests.faults.gates` that must each catch every severity on every clip.
        cause: The code that forensics must name first: from the mel for what comes before the
            vocoder, from the waveform for what comes after; None where these say too little.
        probe: On which audio it is tried.
        reaches_reference: Whether it damages melcheck's own reference in the same way, as a change
            in a library that both use would; only what is on record can tell then.
        visible: False for what no mel can show.
        reason: Why it is invisible.
    """

    name: str
    row: int
    tier: Literal["A", "B", "C"]
    stage: Stage
    source: str
    inject: Injection
    severities: Severities
    caught_by: tuple[str, ...] = ()
    cause: str | None = None
    probe: Probe = "recorded"
    reaches_reference: bool = False
    visible: bool = True
    reason: str = ""


def recipe_change(bench: Bench, changes: dict[str, Any]) -> Loop:
    """Extract with another recipe than the expected one, the injection of most mel faults."""
    recipe = dataclasses.replace(VOCOS, **changes)
    return bench.extract(lambda waveform: log_mel(waveform, recipe))
