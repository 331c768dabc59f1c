"""What a small project is, and what a fault is that damages one of its stages.

A `Project` has a clip and four stages, each of which is melcheck's own where it is None. A `Fault`
damages one: its injection takes an `InjectionTarget` and one severity and really changes samples,
tensors, weights or files. What must notice it is the suite that a user runs
(`tests.faults.suite_run`). Waveforms are `[1, samples]`, mels `[1, n_mels, frames]`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor
from vocos import Vocos

from melcheck.audio import load_audio
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS, log_mel
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.vocos import VocosVocoder


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Project:
    """What a project has that melcheck checks; None for what is melcheck's own.

    Attributes:
        clip: Its audio file.
        load: Path -> waveform, or (waveform, rate).
        extract: `[1, samples]` -> `[1, n_mels, frames]`.
        decode: `[batch, n_mels, frames]` -> `[batch, samples]`.
        decode_batch: Mels `[n_mels, frames]` of different lengths -> a waveform for each.
        save: (path, waveform, rate) -> a file.
        stored: Folder of stored mels.
        vocoder: Name or directory of the vocoder, where `decode` is None.
        device: Where it runs.
        library: What the healthy vocoder has become by a change in a library that the reference
            uses, too; only goldens can show that.
        environment: What holds while the suite runs.
    """

    clip: Path
    load: Callable[[Any], Any] | None = None
    extract: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    decode_batch: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None
    save: Callable[[Any, Tensor, int], None] | None = None
    stored: Path | None = None
    vocoder: str = "embedded"
    device: str = "cpu"
    library: Vocoder | None = None
    environment: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


PreparedAudio = Literal["recorded", "pause", "hiss", "silent edges", "square"]
"""How a clip is prepared before a fault is tried on it.

"recorded": not at all. "pause": 300 ms of exact zeros in its middle. "hiss": noise at -40 dB of
full scale added, so that neither its edges nor its pauses are silent. "silent edges": exact zeros
for one transform at both ends. "square": cut to as many frames as there are bands.
"""

FaultStage = Literal["audio", "front end", "vocoder", "output", "environment"]


def read(path: Path) -> Tensor:
    """Return what melcheck reads of a file, as a healthy loader does: all of it, `[1, samples]`."""
    return load_audio(MelCheckConfig(path, VOCOS.sample_rate, None)).waveform


@dataclass(frozen=True, slots=True, eq=False)
class InjectionTarget:
    """What an injection works with.

    Attributes:
        clip: The file, as prepared.
        waveform: What is checked of it, `[1, samples]`, 24,000 Hz.
        vocoder: The healthy vocoder.
        folder: An empty folder that may be written to.
    """

    clip: Path
    waveform: Tensor
    vocoder: VocosVocoder
    folder: Path

    @property
    def project(self) -> Project:
        """A project whose stages are all melcheck's own."""
        return Project(clip=self.clip)

    @property
    def pipeline(self) -> MelPipeline:
        """The healthy loop."""
        return MelPipeline(MelCheckConfig(self.clip), vocoder=self.vocoder)

    @property
    def model(self) -> Vocos:
        """A copy of the vocoder's model that may be changed."""
        return copy.deepcopy(self.vocoder.model)

    def with_loader(self, load: Callable[[Any], Any], *, clip: Path | None = None) -> Project:
        """Return a project with a loader of its own, and another clip where one is named."""
        return Project(clip=clip or self.clip, load=load)

    def with_input(self, change: Callable[[Tensor], Tensor]) -> Project:
        """Return a project whose loader changes what a healthy one reads."""
        return self.with_loader(lambda path: change(read(Path(path))))

    def with_front_end(self, stage: Callable[[Tensor], Tensor]) -> Project:
        """Return a project with a front end of its own."""
        return dataclasses.replace(self.project, extract=stage)

    def with_mel(self, change: Callable[[Tensor], Tensor]) -> Project:
        """Return a project whose front end changes the mel of a healthy one."""
        return self.with_front_end(lambda waveform: change(log_mel(waveform)))

    def with_decoder(self, stage: Callable[[Tensor], Tensor]) -> Project:
        """Return a project with a vocoder of its own, which claims to be the healthy one."""
        return dataclasses.replace(self.project, decode=stage)

    def with_model(self, model: Vocos) -> Project:
        """Return a project with a different model."""
        return self.with_decoder(dataclasses.replace(self.vocoder, model=model).decode)

    def with_saver(self, stage: Callable[[Any, Tensor, int], None]) -> Project:
        """Return a project with a saver of its own."""
        return dataclasses.replace(self.project, save=stage)


Injection = Callable[[InjectionTarget, Any], Project]
Severities = Mapping[str, Any]

# The tiers of the collected cases: what bites constantly, what is common, what is occasional.
_LAST_ROW_OF_TIER_A, _LAST_ROW_OF_TIER_B = 13, 32

# The gate of `tests.faults.suite_run` that sees most faults of a stage: its handshake.
_USUAL_GATES: Mapping[FaultStage, tuple[str, ...]] = MappingProxyType(
    {
        "audio": ("loader",),
        "front end": ("front-end",),
        "vocoder": ("vocoder",),
        "output": ("saver",),
        "environment": ("start",),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault that really happens, and what must notice it.

    Attributes:
        stage: Stage on which it acts.
        name: Unique name, kebab-case.
        row: Number among the collected cases; several faults may share one.
        source: Public report or source that shows it, as "project #number".
        inject: Function that does it.
        severities: Parameters of `inject` by their labels.
        caught_by: Gates of `tests.faults.suite_run` that must each catch every severity.
        cause: Code of the cause that the first of these must name; None where what it sees shows
            too little.
        audio: How the clip is prepared.
        invisible: Reason why nothing can show it; "" for what a gate must catch.
    """

    stage: FaultStage
    name: str
    row: int
    source: str
    inject: Injection
    severities: Severities
    caught_by: tuple[str, ...]
    cause: str | None
    audio: PreparedAudio
    invisible: str

    @property
    def tier(self) -> str:
        """Rank of its row: "A" bites constantly, "B" is common, "C" is occasional but costly."""
        if self.row <= _LAST_ROW_OF_TIER_A:
            return "A"
        return "B" if self.row <= _LAST_ROW_OF_TIER_B else "C"


def fault(
    stage: FaultStage,
    name: str,
    row: int,
    source: str,
    inject: Injection,
    severities: Severities,
    *,
    caught_by: tuple[str, ...] | None = None,
    cause: str | None = None,
    audio: PreparedAudio = "recorded",
    invisible: str = "",
) -> Fault:
    """Return a `Fault`; `caught_by` is what usually sees one of its stage, () if invisible."""
    if caught_by is None:
        caught_by = () if invisible else _USUAL_GATES[stage]
    return Fault(
        stage=stage,
        name=name,
        row=row,
        source=source,
        inject=inject,
        severities=severities,
        caught_by=caught_by,
        cause=cause,
        audio=audio,
        invisible=invisible,
    )
