"""What the handshakes of a loader, a vocoder and a saver have in common: one verdict, one cause.

Each runs the user's stage and the reference stage on the same input and names what turned one
waveform into the other (`melcheck.diagnosis.waveform`), in the words of that stage. What does not
affect training or listening (another resampler, the rounding of 16 bits) is harmless, and is said.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from melcheck.diagnosis.causes import Explanation, explanation
from melcheck.diagnosis.waveform import SAME_SAMPLES, explain_waveform
from melcheck.diagnosis.waveform_tests.direct import left, rounded
from melcheck.files import MAX_LISTED

Stage = Literal["loader", "vocoder", "saver"]
Kind = Literal["identical", "benign", "fault"]

# float16 leaves 1.4e-4 of the level, bfloat16 1e-3.
_ROUNDED_SHARE = 3e-4

# What two programs round differently: float32 on the way in, one step of 16 bits on the way out,
# whose full scale is 32,767 or 32,768. A vocoder has bounds of its own.
_SAME: Mapping[Stage, float] = MappingProxyType(
    {"loader": 1e-6, "saver": 1.01 / 32_768, "vocoder": 0.0}
)

_NO_CAUSE = "unknown"
_AGREEING = 2

# What a cause is called, and what to do, where a stage differs from what `CAUSES` says.
_WORDS: Mapping[tuple[Stage, str], tuple[str, str]] = MappingProxyType(
    {
        ("loader", "rounding"): (
            "the samples have fewer bits than the file's",
            "Decode to float32, and leave out every conversion between.",
        ),
        ("saver", "rounding"): (
            "the samples have fewer bits than 16",
            "Write 16 bits or more: subtype='PCM_16', 'PCM_24' or 'FLOAT'.",
        ),
        ("loader", "header-rate"): (
            "the rate that is returned is not the rate of the samples",
            "Return the rate of the waveform that is returned, not the file's or a default.",
        ),
        ("loader", "seams"): (
            "the waveform was joined of parts that do not meet",
            "Read and resample a file in one piece, or carry the resampler's state along.",
        ),
        ("loader", "shifted"): (
            "the waveform is early or late against the file",
            "Cut the delay of a codec (MP3: 528, 1105 or more samples), and do not trim here.",
        ),
        ("saver", "shifted"): (
            "the file is early or late against the waveform",
            "Write all samples, and none before them.",
        ),
        ("loader", "tail"): ("only the end is wrong", "Look for a fade, padding or trimming."),
        ("saver", "tail"): ("only the end is wrong", "Look for a fade, padding or trimming."),
        ("loader", "places"): ("only some places are wrong", "Look for samples that are lost."),
        ("saver", "places"): ("only some places are wrong", "Look for samples that are lost."),
        ("loader", "silent-output"): ("the waveform is silent", "Look at what is returned."),
        ("saver", "silent-output"): (
            "the file is silent",
            "Write float32 within +-1, or scale to the integers of the file once.",
        ),
        ("saver", "int16-scale"): (
            "the samples were scaled for integers, and the file holds something else",
            "Give float32 within +-1 to a writer of floats, or int16 to one of integers.",
        ),
        ("saver", "gain"): (
            "the file is louder or quieter than the waveform",
            "Leave normalisation out of the saver, or undo it.",
        ),
        ("saver", "band-limited"): (
            "the file has lost its highest frequencies",
            "Write at the waveform's rate, to a format that loses nothing.",
        ),
        ("saver", "sample-rate"): (
            "the samples in the file have a different rate",
            "Write the samples as they are, with their own rate in the header.",
        ),
        ("vocoder", "places"): (
            "only some places are wrong",
            "Look for chunks that are decoded without the context that a frame depends on.",
        ),
        ("vocoder", "unknown"): (
            "no known cause explains the difference",
            "`melcheck stages REFERENCE VOCODER --audio CLIP` names the first stage that differs.",
        ),
        ("vocoder", "sample-rate"): (
            "the waveform has a different sampling rate than the reference's",
            "Return the samples at the rate of the recipe.",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What one clip showed.

    Attributes:
        clip: Its name.
        cause: What differs; None for nothing.
        harmless: Whether that affects neither training nor listening.
    """

    clip: str
    cause: Explanation | None = None
    harmless: bool = False


@dataclass(frozen=True, slots=True)
class StageHandshake:
    """The verdict on one stage of the user's.

    Attributes:
        stage: "loader", "vocoder" or "saver".
        name: Name of the user's code.
        reference: What it was compared with.
        results: One for each clip, in order.
    """

    stage: Stage
    name: str
    reference: str
    results: tuple[ClipResult, ...]

    @property
    def faults(self) -> tuple[ClipResult, ...]:
        """The clips that show a fault."""
        return tuple(each for each in self.results if each.cause and not each.harmless)

    @property
    def kind(self) -> Kind:
        """The verdict: "fault", "benign" where what differs is harmless, else "identical"."""
        if self.faults:
            return "fault"
        return "benign" if any(each.cause for each in self.results) else "identical"

    @property
    def passed(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    @property
    def cause(self) -> Explanation | None:
        """The cause of the fault that most clips show, a known one before an unknown one.

        Without a fault it is what differs harmlessly; None where nothing differs.
        """
        shown = self.faults or self.results
        causes = [each.cause for each in shown if each.cause is not None]
        counts = Counter(cause.code for cause in causes)
        return max(
            causes,
            key=lambda cause: (cause.code != _NO_CAUSE, counts[cause.code]),
            default=None,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs harmlessly, each cause once, with the clips that show it."""
        return _once(each for each in self.results if each.harmless)

    def message(self) -> str:
        """Return the verdict, the likely cause, the fix and each clip that differs, in lines."""
        against = f"{self.stage} {self.name} against {self.reference}: {self.kind}"
        if self.kind == "identical":
            return f"{against}, on {len(self.results)} clips"
        if self.faults and self.cause is not None:
            against += f", {len(self.faults)} of {len(self.results)} clips are wrong"
            likely = [f"likely cause: {self.cause.summary}"]
            if self.cause.alternatives:
                likely.append(f"looks the same: {', '.join(self.cause.alternatives)}")
            likely.append(f"do this: {self.cause.fix}")
            code = self.cause.code
            same = [each.clip for each in self.faults if each.cause and each.cause.code == code]
            others = _once(each for each in self.faults if each.clip not in same)
            seen = [f"seen on: {_listed(same)}", *(f"beside: {other}" for other in others)]
            return "\n".join([against, *likely, *seen, *self._harmless()])
        return "\n".join([against, *self._harmless()])

    def explained(self) -> Explanation | None:
        """Return the cause of a fault with the stage and the name of the code in its title."""
        if self.passed or self.cause is None:
            return None
        title = f"{self.stage} {self.name}: {self.cause.title}"
        return dataclasses.replace(self.cause, title=title)

    def _harmless(self) -> list[str]:
        return [f"harmless: {note}" for note in self.notes]

    def __str__(self) -> str:
        return self.message()


def _once(results: Iterable[ClipResult]) -> tuple[str, ...]:
    """Return each cause once, as its first clip shows it, and the clips that show it."""
    by_code: dict[str, tuple[Explanation, list[str]]] = {}
    for each in results:
        if each.cause is not None:
            by_code.setdefault(each.cause.code, (each.cause, []))[1].append(each.clip)
    return tuple(f"{cause.summary}: {_listed(clips)}" for cause, clips in by_code.values())


def _listed(clips: list[str]) -> str:
    more = f" and {len(clips) - MAX_LISTED} more" if len(clips) > MAX_LISTED else ""
    return ", ".join(clips[:MAX_LISTED]) + more


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two waveforms of one clip that differ, of which the cause is not yet known.

    Attributes:
        clip: Name of the clip.
        reference: What the waveform should be, `[samples]`.
        estimate: What the user's stage made, `[samples]` or `[channels, samples]`.
        sample_rate: Hz of the reference.
        estimate_rate: Hz that the estimate claims; None for the same.
        channels: As in `melcheck.diagnosis.waveform.explain_waveform`.
    """

    clip: str
    reference: Tensor
    estimate: Tensor
    sample_rate: int
    estimate_rate: int | None = None
    channels: Tensor | None = None


def stage_verdict(
    stage: Stage, name: str, reference: str, found: Iterable[ClipResult | Pair]
) -> StageHandshake:
    """Return the verdict on a stage; pairs are explained until two have the same known cause.

    What no cause explains takes longest, and a third clip would not change the verdict.
    """
    results: list[ClipResult] = []
    seen: Counter[str] = Counter()
    for each in found:
        if isinstance(each, Pair):
            agreed = next((code for code, times in seen.items() if times >= _AGREEING), "")
            result = _like_the_others(each, agreed) if agreed else _explained(stage, each)
        else:
            result = each
        if result.cause is not None and not result.harmless and result.cause.code != _NO_CAUSE:
            seen[result.cause.code] += 1
        results.append(result)
    return StageHandshake(stage, name, reference, tuple(results))


def _like_the_others(pair: Pair, code: str) -> ClipResult:
    return ClipResult(pair.clip, explanation(code, "it differs, too; not looked into further"))


def _explained(stage: Stage, pair: Pair) -> ClipResult:
    found = explain_waveform(
        pair.reference,
        pair.estimate,
        sample_rate=pair.sample_rate,
        estimate_rate=pair.estimate_rate,
        channels=pair.channels,
        tolerance=0.0,
    )
    # Two waveforms that are the same to the bit are no pair.
    return ClipResult(pair.clip, said(stage, found or explanation(_NO_CAUSE, "it differs")))


def said(stage: Stage, found: Explanation) -> Explanation:
    """Return a cause in the words of a stage; only a vocoder has weights."""
    if found.code == "weights" and stage != "vocoder":
        found = explanation(_NO_CAUSE, found.evidence)
    title, fix = _WORDS.get((stage, found.code), (found.title, found.fix))
    return dataclasses.replace(found, title=title, fix=fix)


def rounded_alike(
    clip: str, stage: Stage, reference: Tensor, estimate: Tensor
) -> ClipResult | None:
    """Return the result of two waveforms that differ by no more than rounding; None for others."""
    if reference.shape != estimate.shape or not bool(torch.isfinite(estimate).all()):
        return None
    largest = float((estimate - reference).abs().max())
    if largest <= _SAME[stage]:
        return ClipResult(clip)
    if largest <= SAME_SAMPLES:
        found = explanation(
            "rounding",
            f"a sample is off by {largest:.1e} at most",
            title="the samples are rounded to 16 bits, cut off or dithered",
            fix="Nothing to do.",
        )
        return ClipResult(clip, found, harmless=True)
    if left(reference.double(), estimate.double()) <= _ROUNDED_SHARE:
        shorter = rounded(reference, estimate)
        if shorter is not None:
            return ClipResult(clip, said(stage, shorter), harmless=True)
    return None


def raised(clip: str, error: BaseException, *, harmless: bool = False) -> ClipResult:
    """Return that the user's code raised, or returned nothing of use, on a clip.

    That is harmless where it refuses a format that it need not know.
    """
    title, fix = ("it refuses this format", "Nothing to do.") if harmless else (None, None)
    cause = explanation("raises", str(error), title=title, fix=fix)
    return ClipResult(clip, cause, harmless=harmless)


def changing(clip: str, stage: Stage, first: Tensor, again: Tensor) -> ClipResult | None:
    """Return that two results of one input differ; None where they are the same.

    Dither of 16 bits is harmless before and after the vocoder; a vocoder on the CPU gives the same
    bits twice.
    """
    if first.shape != again.shape:
        text = f"{list(first.shape)}, then {list(again.shape)}"
        return ClipResult(clip, explanation("not-repeatable", text))
    if torch.equal(first.nan_to_num(), again.nan_to_num()):
        return None
    largest = float((first - again).abs().max())
    harmless = stage != "vocoder" and largest <= SAME_SAMPLES
    text = f"a sample differs by {largest:.1e}" + (", as by dither" if harmless else "")
    return ClipResult(clip, explanation("not-repeatable", text), harmless=harmless)
