"""What a fault is, what the healthy loop makes of a clip, and one run of a damaged loop.

A `LoopUnderTest` is a loader, a front end, a vocoder and a saver, any of which may be melcheck's
own. An `Expectation` is what melcheck's own stages make of a clip. A `Fault` damages one stage: its
injection takes an `InjectionTarget` and one severity and really changes samples, tensors, weights
or files. A `LoopRun` runs the damaged loop as far as the gates ask. Waveforms are `[1, samples]`,
mels `[1, n_mels, frames]`.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from vocos import Vocos

from melcheck.clips import Clip
from melcheck.files import file_name
from melcheck.metrics import MelMetrics, compare, multi_resolution_stft_distance
from melcheck.pipeline import MelPipeline
from melcheck.recipes import MelRecipe, log_mel
from melcheck.vocoders.vocos import VocosVocoder
from melcheck.vocoders.weights import VocoderError

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoopUnderTest:
    """What a project does between an audio file and the file of its result.

    Attributes:
        load: File -> `[1, samples]`.
        extract: `[1, samples]` -> `[1, n_mels, frames]`.
        decode: `[1, n_mels, frames]` -> `[1, samples]`.
        save: Writes `[1, samples]` to a path that ends in ".wav".
        decode_batch: Mels of different lengths -> a waveform for each; None decodes one by one.
    """

    load: Callable[[Path], Tensor]
    extract: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    save: Callable[[Path, Tensor], None]
    decode_batch: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expectation:
    """What a healthy loop does with one file.

    Attributes:
        path: The file.
        gated: Whether the sanity thresholds apply to it.
        pipeline: melcheck's own loop.
        recipe: What the front end is expected to follow.
        loop: Healthy loop; a stage that is one of these is not compared with itself.
        waveform: Samples of the file, `[1, samples]`.
        mel: Log-mel of `waveform`.
        decoded: Waveform that the vocoder makes of `mel`.
        decoded_mel: Log-mel of `decoded`.
        metrics: Metrics of `decoded_mel` against `mel`.
        distance: `multi_resolution_stft_distance` of `waveform` and `decoded`.
        encoded: Golden statistics of `mel`; None where none apply.
        reconstructed: Golden statistics of `decoded_mel`; None where none apply.
    """

    path: Path
    gated: bool
    pipeline: MelPipeline
    recipe: MelRecipe
    loop: LoopUnderTest
    waveform: Tensor
    mel: Tensor
    decoded: Tensor
    decoded_mel: Tensor
    metrics: MelMetrics
    distance: float
    encoded: Mapping[str, Sequence[float]] | None = None
    reconstructed: Mapping[str, Sequence[float]] | None = None


def healthy_loop(pipeline: MelPipeline, *, recipe: MelRecipe | None = None) -> LoopUnderTest:
    """Return melcheck's own stages as a loop; it saves float32, which loses nothing.

    Args:
        pipeline: Whose stages they are.
        recipe: What the front end follows; None for the vocoder's own extractor.
    """
    config = pipeline.config

    def load(path: Path) -> Tensor:
        changed = dataclasses.replace(config, audio_path=path)
        return MelPipeline(changed, vocoder=pipeline.vocoder).load_audio()

    def extract(waveform: Tensor) -> Tensor:
        return log_mel(waveform, recipe or pipeline.recipe)

    def save(path: Path, waveform: Tensor) -> None:
        import soundfile

        samples = waveform[0].cpu().numpy()
        soundfile.write(path, samples, pipeline.recipe.sample_rate, subtype="FLOAT")

    return LoopUnderTest(
        load=load,
        extract=pipeline.waveform2mel if recipe is None else extract,
        decode=pipeline.mel2waveform,
        save=save,
    )


def expect(
    clip: Clip,
    pipeline: MelPipeline,
    *,
    waveform: Tensor | None = None,
    recipe: MelRecipe | None = None,
    goldens: Path | None = None,
) -> Expectation:
    """Return what the healthy loop makes of a clip, to which a damaged loop is compared.

    Args:
        clip: The clip.
        pipeline: Reads and decodes it.
        waveform: Replacement of the clip's own, `[1, samples]`: a window of it, or a changed copy.
        recipe: What the front end is expected to follow, such as a profile with a higher floor;
            None for the vocoder's recipe.
        goldens: Folder of the clip's goldens; None for a clip that has none.

    Raises:
        ValueError: Goldens together with a waveform or a recipe, or goldens that are absent.
        AudioError: The clip cannot be read.
    """
    if goldens is not None and (waveform is not None or recipe is not None):
        raise ValueError(
            f"goldens must be None with a waveform or a recipe of one's own, got {goldens}. "
            "A golden is bound to the recording and the recipe that it was taken of."
        )
    loop = healthy_loop(pipeline, recipe=recipe)
    if waveform is None:
        waveform = loop.load(clip.path)
    mel = loop.extract(waveform)
    decoded = loop.decode(mel)
    recipe = recipe or pipeline.recipe
    decoded_mel = loop.extract(decoded)
    name = file_name(pipeline.vocoder.info.name)
    return Expectation(
        path=clip.path,
        gated=clip.gated,
        pipeline=pipeline,
        recipe=recipe,
        loop=loop,
        waveform=waveform,
        mel=mel,
        decoded=decoded,
        decoded_mel=decoded_mel,
        metrics=compare(mel, decoded_mel, log_floor=recipe.log_floor)[0],
        distance=float(multi_resolution_stft_distance(waveform, decoded)[0]),
        encoded=None if goldens is None else read_golden(goldens / f"{clip.name}.encoded.csv"),
        reconstructed=None if goldens is None else read_golden(goldens / f"{clip.name}.{name}.csv"),
    )


def read_golden(path: Path) -> dict[str, list[float]]:
    """Return the statistics that a golden's CSV file holds, as `mel_statistics` gives them.

    Raises:
        ValueError: The file is absent or holds no statistics.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(f"{path}: the golden cannot be read ({error.strerror}).") from None
    if not rows:
        raise ValueError(f"{path}: the golden holds no statistics. Regenerate it.")
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0] if name}


class Refusal(Exception):  # noqa: N818 - a result of the loop, not an error of the bench
    """A stage refused its input."""


class LoopRun:
    """What one loop does with one clip; each stage runs when it is first asked for."""

    def __init__(self, loop: LoopUnderTest, expected: Expectation, folder: Path) -> None:
        self.loop = loop
        self.expected = expected
        self.folder = folder
        self._results: dict[str, object] = {}

    @property
    def waveform(self) -> Tensor:
        """What the loop reads."""
        if self.loop.load == self.expected.loop.load:
            return self.expected.waveform
        return self._once("waveform", lambda: self.loop.load(self.expected.path))

    @property
    def extracted(self) -> Tensor:
        """The front end's mel of the expected waveform."""
        if self.loop.extract == self.expected.loop.extract:
            return self.expected.mel
        return self._once("extracted", lambda: self.loop.extract(self.expected.waveform))

    @property
    def mel(self) -> Tensor:
        """The front end's mel of what the loop reads."""
        waveform = self.waveform
        if waveform is self.expected.waveform:
            return self.extracted
        return self._once("mel", lambda: self.loop.extract(waveform))

    @property
    def vocoded(self) -> Tensor:
        """What the loop's vocoder makes of the expected mel."""
        if self.loop.decode == self.expected.loop.decode:
            return self.expected.decoded
        return self._once("vocoded", lambda: self.loop.decode(self.expected.mel))

    @property
    def decoded(self) -> Tensor:
        """What the loop's vocoder makes of the loop's mel."""
        mel = self.mel
        if mel is self.expected.mel:
            return self.vocoded
        return self._once("decoded", lambda: self.loop.decode(mel))

    @property
    def output(self) -> tuple[Tensor, int]:
        """What a reader finds in the saved file: `[1, samples]`, and the rate in Hz."""
        decoded = self.decoded
        if self.loop.save == self.expected.loop.save:
            return decoded, self.expected.recipe.sample_rate
        return self._once("output", lambda: self._saved(decoded))

    @property
    def decoded_mel(self) -> Tensor | None:
        """The recipe's mel of what was decoded; None if that is not of the expected length."""
        decoded = self.decoded
        if decoded.shape != self.expected.decoded.shape or not torch.isfinite(decoded).all():
            return None
        if decoded is self.expected.decoded:
            return self.expected.decoded_mel
        return self._once("decoded_mel", lambda: self.expected.loop.extract(decoded))

    @property
    def read_mel(self) -> Tensor | None:
        """The recipe's mel of what the loop reads; None if that is not of the expected length."""
        waveform = self.waveform
        if waveform is self.expected.waveform:
            return self.expected.mel
        if waveform.shape != self.expected.waveform.shape:
            return None
        return self._once("read_mel", lambda: self.expected.loop.extract(waveform))

    def again(self, stage: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        """Run a stage that has run before."""
        return refusing(lambda: stage(given))

    def _saved(self, waveform: Tensor) -> tuple[Tensor, int]:
        import soundfile

        path = self.folder / "output.wav"
        self.loop.save(path, waveform)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), int(rate)

    def _once(self, name: str, stage: Callable[[], _Result]) -> _Result:
        if name not in self._results:
            try:
                self._results[name] = refusing(stage)
            except Refusal as refusal:
                self._results[name] = refusal
        result = self._results[name]
        if isinstance(result, Refusal):
            raise result
        return cast("_Result", result)


def refusing(stage: Callable[[], _Result]) -> _Result:
    """Run a stage; an error with which melcheck refuses its input becomes a `Refusal`."""
    try:
        return stage()
    except (ValueError, VocoderError) as error:  # an AudioError is a ValueError
        raise Refusal(str(error)) from None


PreparedAudio = Literal["recorded", "pause", "hiss", "silent edges", "square"]
"""How a clip is prepared before a fault is tried on it.

"recorded": not at all. "pause": 300 ms of exact zeros in its middle. "hiss": noise at -40 dB of
full scale added, so that neither its edges nor its pauses are silent. "silent edges": exact zeros
for one transform at both ends. "square": cut to as many frames as there are bands.
"""

FaultStage = Literal["audio", "front end", "vocoder", "output", "environment"]


@dataclass(frozen=True, slots=True, eq=False)
class InjectionTarget:
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

    def with_input(self, change: Callable[[Tensor], Tensor]) -> LoopUnderTest:
        """Return the healthy loop with its loader's waveform changed, once for all reads."""
        waveform = change(self.waveform)
        return dataclasses.replace(self.expected.loop, load=lambda _: waveform)

    def with_front_end(self, stage: Callable[[Tensor], Tensor]) -> LoopUnderTest:
        """Return the healthy loop with a different front end."""
        return dataclasses.replace(self.expected.loop, extract=stage)

    def with_mel(self, change: Callable[[Tensor], Tensor]) -> LoopUnderTest:
        """Return the healthy loop with its front end's mel changed."""
        return self.with_front_end(lambda waveform: change(log_mel(waveform)))

    def with_decoder(self, stage: Callable[[Tensor], Tensor]) -> LoopUnderTest:
        """Return the healthy loop with a different vocoder."""
        return dataclasses.replace(self.expected.loop, decode=stage)

    def with_model(self, model: Vocos) -> LoopUnderTest:
        """Return the healthy loop with a different model, whose shapes are checked as usual."""
        pipeline = copy.copy(self.expected.pipeline)
        vocoder = pipeline.vocoder
        pipeline.vocoder = VocosVocoder(vocoder.info, vocoder.recipe, vocoder.device, model)
        return self.with_decoder(pipeline.mel2waveform)

    def with_saver(self, stage: Callable[[Path, Tensor], None]) -> LoopUnderTest:
        """Return the healthy loop with a different saver."""
        return dataclasses.replace(self.expected.loop, save=stage)


Injection = Callable[[InjectionTarget, Any], LoopUnderTest]
Severities = Mapping[str, Any]

# The tiers of the collected cases: what bites constantly, what is common, what is occasional.
_LAST_ROW_OF_TIER_A, _LAST_ROW_OF_TIER_B = 13, 32

# The gates that see most faults of a stage. Where a golden applies and the mel keeps its shape, it
# fires beside the comparison of floats.
_USUAL_GATES: Mapping[FaultStage, tuple[str, ...]] = MappingProxyType(
    {
        "audio": ("load", "golden-encoded", "golden-reconstructed"),
        "front end": ("extract", "golden-encoded", "golden-reconstructed"),
        "vocoder": ("decode", "golden-reconstructed"),
        "output": ("save",),
        "environment": ("preflight",),
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
        caught_by: Gates of `tests.faults.gates` that must each catch every severity on every clip.
        cause: Code of the cause that diagnosis must name first: from the mel for what comes before
            the vocoder, from the waveform for what comes after; None where these show too little.
        audio: How the clip is prepared.
        reaches_reference: Whether it damages melcheck's own reference in the same way, as a change
            in a library that both use would; only a golden can show it then.
        invisible: Reason why no mel can show it; "" for what a gate must catch.
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
    reaches_reference: bool
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
    reaches_reference: bool = False,
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
        reaches_reference=reaches_reference,
        invisible=invisible,
    )
