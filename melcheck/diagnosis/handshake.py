"""Does a front end extract the mels that a vocoder expects? Run probes through both and compare.

`handshake` takes the user's own function and calls it as it wants to be called
(`melcheck.frontends`), so that what is checked is what runs in training. Its verdict is that of
`melcheck.diagnosis.diagnose.diagnose` on each clip, and so are its causes:

    identical                  every mel is the expected one, up to rounding
    differs only at the floor  the vocoder can take the mels as they are
    compatible                 the same, for another difference that does not affect decoding
    incompatible               a clip has a fault, or nothing explains its mel
    failed                     no mel came back, or another one at the second call

Each clip goes through the front end twice: what it raises, what it returns instead of a mel, and
mels that differ from call to call are reported in one line each, without a diagnosis.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from melcheck.diagnosis.causes import PROFILE_PREFIX, Explanation
from melcheck.diagnosis.diagnose import OTHER_FILE, diagnose
from melcheck.diagnosis.recipe_search.audio_readings import as_clip
from melcheck.diagnosis.recipe_search.choice import SAME_MEL_NATS
from melcheck.diagnosis.recipe_search.mel_values import (
    STORAGE_ROUNDINGS,
    as_mel,
    as_tensor,
    beyond_rounding,
    kind_of,
    storage_of,
    storage_step,
)
from melcheck.diagnosis.result import Diagnosis
from melcheck.frontends import Frontend, adapt_frontend
from melcheck.probe_clips import Probe, probes
from melcheck.process_state import their_turn
from melcheck.recipes import BENIGN_FLOORS, VOCOS, MelRecipe, log_mel
from melcheck.user_code import THEIR_ERRORS, CallableError, first_line, float_tensor

# Beyond the rounding of a different library and of the type that is returned: float16 and bfloat16
# resolve 0.004 and 0.03 nats at -16, which does not affect decoding.
_DIFFERS_NATS = SAME_MEL_NATS

# Rounding that differs from call to call, as on several threads, moved 0.05 % of the cells, none by
# more than 0.005 nats.
_OTHER_SHARE = 0.01
_OTHER_NATS = 0.05
_RETURN_A_MEL = "Return a mel, [n_mels, frames] or [batch, n_mels, frames], floating point."


@dataclass(frozen=True, slots=True, eq=False)
class FrontendResult:
    """What the front end returned for one clip.

    Attributes:
        mel: Mel of two dimensions, axes as returned; None where it returned none.
        dimensions: Number of dimensions that were returned.
        error: What went wrong, in one line; "" for nothing.
        fix: What to do about it.
    """

    mel: Tensor | None
    dimensions: int
    error: str = ""
    fix: str = ""


def extract_twice(frontend: Callable[[Tensor], Any], clip: Probe) -> FrontendResult:
    """Return the mel of a clip if two calls agree on it, else what went wrong."""
    first = _extract_once(frontend, clip)
    if first.mel is None:
        return first
    again = _extract_once(frontend, clip)
    if again.mel is None:
        return again
    if first.mel.shape != again.mel.shape:
        how = f"{list(first.mel.shape)}, then {list(again.mel.shape)}"
    elif _same(first.mel, again.mel):
        return first
    else:
        apart = (first.mel - again.mel).abs().nan_to_num(0.0, posinf=0.0)
        how = f"up to {float(apart.max()):.3g} apart" if apart.any() else "NaN in different places"
    return FrontendResult(
        None,
        0,
        f"the front end is not deterministic: two calls with the same samples gave "
        f"different mels, {how}",
        "Put a module into evaluation mode, and leave out dither, random gain and cropping.",
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether two mels agree but for rounding."""
    # NaN, or the same infinity, in both is no difference here; `_where` reports it.
    agree = (one == other) | (one.isnan() & other.isnan())
    other_share = float((differs(one, other) & ~agree).float().mean())
    return other_share < _OTHER_SHARE and bool(
        (agree | ~differs(one, other, nats=_OTHER_NATS)).all()
    )


def _extract_once(frontend: Callable[[Tensor], Any], clip: Probe) -> FrontendResult:
    waveform = clip.waveform[None].clone()
    try:
        with their_turn({}):
            returned = frontend(waveform)
    except CallableError as error:
        return FrontendResult(None, 0, f"the front end returned no mel: {error}", _RETURN_A_MEL)
    # Whatever the user's own code raises is the finding.
    except THEIR_ERRORS as error:
        kind, _, reason = first_line(error).partition(": ")
        text = f"the front end raised {kind} on input {list(waveform.shape)}: {reason}"
        return FrontendResult(None, 0, text, "Call it with that input and see.")
    try:
        return _checked_mel(returned)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of what is no array, or of no values
        text = f"the front end returned {type(returned).__name__}, no mel: {first_line(error)}"
        return FrontendResult(None, 0, text, _RETURN_A_MEL)


def _checked_mel(returned: Any) -> FrontendResult:
    told = f"the front end returned {kind_of(returned)}, no mel"
    if not hasattr(returned, "__array__"):
        return FrontendResult(None, 0, told, "Return the mel alone, a tensor or a NumPy array.")
    shape = list(returned.shape) if hasattr(returned, "shape") else []
    try:
        # A copy: it may be a buffer that the next call fills again.
        mel = as_mel(returned, name="it").clone()
    except (TypeError, ValueError) as error:
        return FrontendResult(None, 0, f"the front end returned no mel: {error}", _RETURN_A_MEL)
    plain, found = float_tensor(returned) if isinstance(returned, Tensor) else (mel, "")
    if plain is None:  # which torch would convert, but has no operations for
        return FrontendResult(None, 0, f"the front end returned no mel: {found}", _RETURN_A_MEL)
    if 1 in mel.shape:
        return FrontendResult(
            None, 0, f"the front end returned {shape}, no mel: one band", _RETURN_A_MEL
        )
    return FrontendResult(mel, len(shape))


def differs(reference: Tensor, mel: Tensor, *, nats: float = _DIFFERS_NATS) -> Tensor:
    """Return which cells differ by more than `nats` and the rounding of storage; NaN does."""
    step = STORAGE_ROUNDINGS * storage_step(storage_of(mel))
    return ~((mel - reference).abs() <= nats + step * reference.abs())


def explain_front_end(name: str, found: Handshake) -> Explanation | None:
    """Return what is wrong with a front end; None where the vocoder can take its mel."""
    if found.compatible:
        return None
    cause, fix = found.cause()
    return Explanation("front-end", f"{name}: {cause}", found.verdict, fix)


HandshakeVerdict = Literal[
    "identical", "differs only at the floor", "compatible", "incompatible", "failed"
]

_EDGE_FRAMES = 2
_SPEECH = "speech"
# Factors of one gain agree within this.
_SAME_GAIN_NATS = 0.01
_SAME_PEAK = 0.01


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe showed.

    Attributes:
        probe: Its name.
        frames: Frames of the front end's mel; 0 where there is none.
        expected_frames: Frames of the reference.
        max_abs_diff: Largest difference over the common frames, nats; NaN where the shapes cannot
            be compared.
        where: Where it differs: "length", "floor", "edges", "bands 3-7", "everywhere".
        diagnosis: Diagnosis of this probe; None where it failed, or could not change the answer.
        error: What the front end raised or returned instead, in one line; "" for nothing.
        fix: What to do about that.
    """

    probe: str
    frames: int
    expected_frames: int
    max_abs_diff: float
    where: tuple[str, ...]
    diagnosis: Diagnosis | None
    error: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The verdict on a front end.

    Attributes:
        verdict: As in the module's table.
        results: One for each probe, in order.
        diagnosis: The diagnosis of the probe that names most, None where all failed.
        layout: Order of the front end's axes, as "[batch, n_mels, frames]".
        diagnosed: Name of the probe that `diagnosis` is about.
        notes: How the front end had to be called, in sentences.
    """

    verdict: HandshakeVerdict
    results: tuple[ProbeResult, ...]
    diagnosis: Diagnosis | None
    layout: str
    diagnosed: str = ""
    notes: tuple[str, ...] = ()

    @property
    def compatible(self) -> bool:
        """Whether the vocoder can take these mels as they are."""
        return self.verdict not in ("incompatible", "failed")

    def message(self) -> str:
        """Return the verdict in words, one line for each probe that differs."""
        lines = [f"{self.verdict} (the front end returns {self.layout})"]
        for result in self.results:
            if result.error:
                lines.append(f"{result.probe}: {result.error}")
            elif result.where:
                largest = result.max_abs_diff
                lines.append(
                    f"{result.probe}: {result.frames} frames, {result.expected_frames} expected; "
                    f"differs {_in_words(result.where)}"
                    + (f", by up to {largest:.4g} nats" if math.isfinite(largest) else "")
                )
        if self.verdict == "failed":
            lines.append(f"do this: {self.cause()[1]}")
        elif self.diagnosis is not None and self.verdict != "identical":
            about = f"diagnosis of {self.diagnosed}: " if self.diagnosed else ""
            lines.append(f"{about}{self.diagnosis.message()}")
        return "\n".join(lines)

    def cause(self) -> tuple[str, str]:
        """Return the likely cause, and the fix; empty where nothing differs."""
        if self.verdict == "failed":
            return next((result.error, result.fix) for result in self.results if result.error)
        found = self.diagnosis
        if found is None or self.verdict == "identical":
            return "", ""
        if not found.causes:
            near = found.nearest[0].text if found.nearest else "nothing known"
            return (
                f"unknown: no known recipe explains its mel; nearest is {near}",
                "Compare every number of the front end with the vocoder's recipe.",
            )
        return "; ".join(each.summary for each in found.causes), found.fix

    def __str__(self) -> str:
        return self.message()


def handshake(
    frontend: Callable[[Tensor], Any], *, expected: MelRecipe = VOCOS, speech: Sequence[Any] = ()
) -> Handshake:
    """Run probe clips through a front end and compare its mels with the reference.

    Each clip goes through it twice: a front end whose second mel differs fails, since a diagnosis
    would hold for that one call only.

    Args:
        frontend: A function, a class, a module or any callable that makes a mel of audio, called
            as `melcheck.frontends.adapt_frontend` finds out; or one that is adapted already.
        expected: The recipe of the vocoder.
        speech: More clips, `[samples]` or `[1, samples]`, tensors or NumPy arrays: real speech
            distinguishes causes that the probes do not.

    Returns:
        The verdict, where the mels differ, and the diagnosis.

    Raises:
        TypeError: The front end cannot be called, or speech is no array.
        ValueError: A clip of speech that is not one channel, has NaN, or is too short for a mel.
    """
    if not callable(frontend):
        raise TypeError(
            f"frontend must be callable, got {type(frontend).__name__}. Pass a function from "
            "[1, samples] to a mel; melcheck.frontends.load_frontend makes one of "
            '"package.module:attribute".'
        )
    # What is adapted has its bands first, whatever order the recipe has.
    expected = dataclasses.replace(expected, axes="bands_first")
    clips = list(probes(sample_rate=expected.sample_rate))
    clips += [_spoken(index, clip, expected) for index, clip in enumerate(speech, 1)]
    ready = frontend
    if not isinstance(frontend, Frontend):
        try:
            ready = adapt_frontend(frontend, name=_name(frontend), expected=expected)
        except CallableError as error:
            # What it does with a probe says more, where it can be called as it is.
            tried = extract_twice(frontend, clips[0])
            if tried.mel is None:
                told = (tried.error or str(error), tried.fix or _RETURN_A_MEL)
                result = ProbeResult(clips[0].name, 0, 0, torch.nan, (), None, *told)
                return Handshake("failed", (result,), None, "nothing usable")
    extracted = [extract_twice(ready, clip) for clip in clips]
    diagnoses = _diagnosed(clips, extracted, expected)
    frames_first = False
    notes: tuple[str, ...] = ()
    if isinstance(ready, Frontend):
        frames_first, notes = ready.frames_first, ready.notes
        if ready.other is not None:
            # Speech comes last, and shows most.
            clip = Probe(f"{clips[-1].name}, {ready.other_form}", clips[-1].waveform)
            other = [extract_twice(ready.other, clip)]
            found = _diagnosed([clip], other, expected)
            # What nothing explains is code that was not written for this form.
            if found[0] is not None and found[0].kind != "unknown":
                clips, extracted = [*clips, clip], extracted + other
                diagnoses += found
    results = []
    for clip, returned, diagnosis in zip(clips, extracted, diagnoses, strict=True):
        reference = log_mel(clip.waveform, expected)
        wanted = reference.shape[-1]
        if returned.mel is None:
            told = (returned.error, returned.fix)
            results.append(ProbeResult(clip.name, 0, wanted, torch.nan, (), None, *told))
            continue
        where, largest = _where(reference, returned.mel, expected)
        frames = returned.mel.shape[-1]
        results.append(ProbeResult(clip.name, frames, wanted, largest, where, diagnosis))
    dimensions = max(returned.dimensions for returned in extracted)
    layout = "frames, n_mels]" if frames_first else "n_mels, frames]"
    diagnosis, diagnosed = _most_telling(results, clips)
    return Handshake(
        verdict=_verdict(results),
        results=tuple(results),
        diagnosis=diagnosis,
        layout=f"[batch, {layout}" if dimensions > 2 else f"[{layout}",
        diagnosed=diagnosed,
        notes=notes,
    )


def _name(frontend: object) -> str:
    return getattr(frontend, "__qualname__", type(frontend).__name__)


def _own(diagnosis: Diagnosis) -> Diagnosis:
    """Return a diagnosis without the question whether the mel is another file's."""
    notes = tuple(note for note in diagnosis.notes if note != OTHER_FILE)
    return dataclasses.replace(diagnosis, notes=notes)


def _spoken(index: int, clip: object, expected: MelRecipe) -> Probe:
    """Return a clip of speech as a probe; one that cannot be used is named by its number."""
    name = f"{_SPEECH} {index}"
    try:
        if not as_tensor(clip, "waveform").dim():
            raise ValueError("waveform must be [samples], got one number. Pass a list of clips.")
        waveform, channels = as_clip(clip)
        if channels is not None:
            raise ValueError(
                f"waveform must be [samples] or [1, samples], got {list(channels.shape)}. Mix the "
                "channels down as your training does: clip.mean(dim=0)."
            )
        expected.frames(len(waveform))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    return Probe(name, waveform)


def _diagnosed(
    clips: Sequence[Probe], extracted: Sequence[FrontendResult], expected: MelRecipe
) -> list[Diagnosis | None]:
    """Diagnose clips until no other can change the answer.

    Speech comes first: what explains its mel is the answer, but for a gain, which may differ from
    clip to clip. Else two diagnoses of a wrong mel that agree are enough, of speech and of a probe,
    so that those two are as different as possible.

    Returns:
        A diagnosis for each clip, None where there is no mel or no need.
    """
    found: list[Diagnosis | None] = [None] * len(clips)
    speech = [index for index, clip in enumerate(clips) if clip.name.startswith(_SPEECH)]
    order = [*speech[:1], *(index for index in range(len(clips)) if index not in speech[:1])]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for index in order:
        mel = extracted[index].mel
        if mel is None:
            continue
        diagnosis = _of_the_front_end(
            _own(diagnose(clips[index].waveform, mel, expected=expected)), expected
        )
        found[index] = diagnosis
        if diagnosis.kind not in ("fault", "unknown"):
            continue
        known = index in speech and diagnosis.kind == "fault" and diagnosis.explained
        if (known and "gain" not in diagnosis.codes) or (diagnosis.kind, diagnosis.codes) in seen:
            return found
        seen.add((diagnosis.kind, diagnosis.codes))
    return found


# What the search for a recipe calls the rate of a clip. Here the clips have the expected one, and a
# front end that is laid out for another takes them for its own.
_OTHER_RATE = re.compile(r"\d+ Hz samples taken for (\d+) Hz(?:, ratio [\d.]+)?")


def _of_the_front_end(found: Diagnosis, expected: MelRecipe) -> Diagnosis:
    """Return a diagnosis in which the rate of the clips, which is the expected one, is no fault."""
    named = tuple(each for each in found.causes if each.code != "sample-rate")
    if not any(each.code.startswith(PROFILE_PREFIX) for each in named):
        named = found.causes
    causes = tuple(
        dataclasses.replace(
            each,
            title="the front end is laid out for a different sampling rate",
            evidence=_OTHER_RATE.sub(r"\1 Hz", each.evidence),
            fix=f"Lay it out for {expected.sample_rate:,} Hz; or name the mel that you train for "
            "as the profile.",
        )
        if each.code == "sample-rate"
        else each
        for each in named
    )
    nearest = tuple(
        dataclasses.replace(each, text=_OTHER_RATE.sub(r"laid out for \1 Hz", each.text))
        for each in found.nearest
    )
    runner_up = _OTHER_RATE.sub(r"laid out for \1 Hz", found.evidence.runner_up)
    return dataclasses.replace(
        found,
        causes=causes,
        nearest=nearest,
        evidence=dataclasses.replace(found.evidence, runner_up=runner_up),
    )


def _in_words(where: tuple[str, ...]) -> str:
    if "everywhere" in where:
        where = tuple(place for place in where if place != "floor")
    places = {"floor": "at the floor", "edges": "at the edges", "everywhere": "everywhere"}
    return " and ".join(places.get(place, f"in {place}") for place in where)


def _where(reference: Tensor, mel: Tensor, expected: MelRecipe) -> tuple[tuple[str, ...], float]:
    """Return where a mel differs from its reference, and by how many nats at most."""
    found = []
    if mel.shape[0] != reference.shape[0]:
        return (f"number of bands: {mel.shape[0]}, {reference.shape[0]} expected",), math.nan
    if mel.shape[1] != reference.shape[1]:
        found.append("length")
    frames = min(mel.shape[1], reference.shape[1])
    reference, mel = reference[:, :frames], mel[:, :frames]
    low = _low(reference, expected) & _low(mel, expected)
    off = beyond_rounding(reference, mel, expected)
    largest = float((mel - reference).abs().max()) / expected.units_per_nat
    # The logarithm of zero is not a different floor: it makes a loss NaN.
    broken = ~torch.isfinite(mel)
    if broken.any():
        found.append(f"{int(broken.sum())} values that are NaN or infinite")
    at_floor = off & ~broken & low
    if at_floor.any():
        found.append("floor")
    off &= ~at_floor & ~broken
    columns, rows = off.any(dim=0).nonzero()[:, 0], off.any(dim=1).nonzero()[:, 0]
    if not len(columns):
        return tuple(found), largest
    edges = (columns < _EDGE_FRAMES) | (columns >= frames - _EDGE_FRAMES)
    if edges.all():
        found.append("edges")
    elif len(rows) < reference.shape[0] // 3:
        found.append(f"bands {int(rows[0])}-{int(rows[-1])}")
    else:
        found.append("everywhere")
    return tuple(found), largest


def _low(mel: Tensor, expected: MelRecipe) -> Tensor:
    highest = max(1.2 * BENIGN_FLOORS[1], 1.2 * expected.floor)
    limit = expected.normalised(expected.logarithm(highest))
    return mel <= limit


def _verdict(results: list[ProbeResult]) -> HandshakeVerdict:
    if any(result.error for result in results):
        return "failed"
    found = [result.diagnosis for result in results if result.diagnosis is not None]
    if any(each.kind in ("fault", "unknown") for each in found):
        return "incompatible"
    codes = {code for each in found for code in each.codes}
    if not codes:
        return "identical"
    return "differs only at the floor" if codes == {"floor"} else "compatible"


def _most_telling(
    results: list[ProbeResult], clips: Sequence[Probe]
) -> tuple[Diagnosis | None, str]:
    """Return the diagnosis that names most, one of speech first, and the clip that it is of."""
    order = ("identical", "benign", "unknown", "fault")
    found = [
        (order.index(each.diagnosis.kind), each.probe.startswith(_SPEECH), each.diagnosis, each)
        for each in results
        if each.diagnosis is not None
    ]
    if not found:
        return None, ""
    _, _, diagnosis, result = max(found, key=lambda entry: (*entry[:2], len(entry[2].causes)))
    return _one_level(diagnosis, results, clips), result.probe


def _one_level(
    diagnosis: Diagnosis, results: list[ProbeResult], clips: Sequence[Probe]
) -> Diagnosis:
    """Return a diagnosis whose gain, where it differs from clip to clip, is named as such."""
    gains = {}
    for clip, result in zip(clips, results, strict=True):
        for cause in () if result.diagnosis is None else result.diagnosis.causes:
            if cause.code == "gain" and cause.gain is not None:
                gains[clip.name] = (cause.gain, float(clip.waveform.abs().max()))
    factors = [gain for gain, _ in gains.values()]
    if len(factors) < 2 or math.log(max(factors) / min(factors)) < _SAME_GAIN_NATS:
        return diagnosis
    peaks = [gain * peak for gain, peak in gains.values()]
    level = f"a peak of {peaks[0]:.3g}" if max(peaks) / min(peaks) < 1 + _SAME_PEAK else "one level"
    each = ", ".join(f"{gain:.4g} on {name}" for name, (gain, _) in gains.items())
    text = f"each clip is brought to {level}: factor {each}"
    fix = "Leave the normalisation of the level out: the vocoder was trained on clips as they are."
    causes = tuple(
        dataclasses.replace(cause, evidence=text, fix=fix, alternatives=())
        if cause.code == "gain"
        else cause
        for cause in diagnosis.causes
    )
    return dataclasses.replace(diagnosis, causes=causes)
