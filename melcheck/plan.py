"""What a run checks: every clip with every vocoder on every device.

pytest and the command line share this one plan. Each turns its options into the plain values of a
`Plan`, and `load_plan` loads what they name, so that what cannot be used is reported before the
first check, in the spelling of the option.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from melcheck.accepted import AcceptedMiss, key_of
from melcheck.audio import LoadedAudio, load_audio
from melcheck.audio_notes import sound_info
from melcheck.clip_lists import file_clips
from melcheck.clips import Clip
from melcheck.config import DEFAULT_DURATION_SECONDS, DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import Handshake, explain_front_end, handshake
from melcheck.diagnosis.loader import handshake_loader
from melcheck.diagnosis.round_trip import explain_round_trip
from melcheck.diagnosis.saver import handshake_saver
from melcheck.diagnosis.stage_handshake import StageHandshake
from melcheck.diagnosis.stored_mels import (
    Matches,
    check_pattern,
    match_by_pattern,
    match_mels,
    name_of_mel,
)
from melcheck.diagnosis.vocoder import handshake_vocoder
from melcheck.file_stages import Loader, Saver, load_loader, load_saver
from melcheck.files import MAX_LISTED, error_text, one_line, refuse, sha256_file
from melcheck.frontends import Frontend, VocoderWithFrontend, load_frontend
from melcheck.mel_files import find_mels
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.profiles import profile
from melcheck.recipes import BENIGN_FLOORS, VOCOS, MelRecipe, log_mel
from melcheck.sanity import Gate, ThresholdRule, Thresholds, Verdict, judge, thresholds_of
from melcheck.speed.audio_blocks import check_readable, start_of
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.griffin_lim import BASELINE
from melcheck.vocoders.load import is_ours, load_vocoder
from melcheck.vocoders.weights import VocoderError, VocoderUnavailable

_SPEECH_CLIPS = 3
_LISTED_VALUES = 3
_MOST_FORMATS = 8
# So much of each is decoded by a vocoder and its reference.
_DECODED_SECONDS = 10.0

DEFAULT_KEEP_RUNS = 5
"""Of how many runs the folder for pictures keeps what they wrote."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What a run checks.

    Attributes:
        clips: The audio files.
        vocoders: Names for `melcheck.vocoders.load.load_vocoder`.
        devices: Names of torch devices.
        required: Vocoders and devices that must be available; others are skipped where they are
            not. Only what is required may be downloaded.
        profile: Name of the recipe that the run expects; None for that of each vocoder.
        sample_rate: Hz that audio is read at; None takes the rate of each vocoder's recipe.
        duration_seconds: Seconds of each clip; None takes all of it.
        offset: Where they begin: seconds from the start, or "middle".
        rules: Limits that the project sets itself.
        accepted: Misses that the project has accepted.
        artifacts: Folder that pictures are written to; None for none.
        keep_runs: Of how many runs pictures are kept there.
        goldens: Folder that goldens are kept in; None where there is none.
        recipe: The mel that is expected: of the profile, else of the first vocoder that is
            available, else of Vocos.
        loader: The user's loader; None takes melcheck's own.
        frontend: The user's front end; None takes each vocoder's own extractor.
        vocoder_reference: Name of the checkpoint that the user's vocoders claim to be; None for no
            comparison.
        saver: The user's saver; None for none.
        stored: The mels of a cache, by clip; None where no cache was named.
        cache_pattern: How the mels of the cache are called; None where their stems decide.
        remarks: Notes for the end of the run that are known beforehand.
    """

    clips: tuple[Clip, ...]
    vocoders: tuple[str, ...]
    devices: tuple[str, ...]
    required: frozenset[str] = frozenset()
    profile: str | None = None
    sample_rate: int | None = None
    duration_seconds: float | None = DEFAULT_DURATION_SECONDS
    offset: float | Literal["middle"] = 0.0
    rules: tuple[ThresholdRule, ...] = ()
    accepted: tuple[AcceptedMiss, ...] = ()
    artifacts: Path | None = None
    keep_runs: int = DEFAULT_KEEP_RUNS
    goldens: Path | None = None
    recipe: MelRecipe = VOCOS
    loader: Loader | None = None
    frontend: Frontend | None = None
    vocoder_reference: str | None = None
    saver: Saver | None = None
    stored: Matches | None = None
    cache_pattern: str | None = None
    remarks: tuple[str, ...] = ()
    _loaded: dict[tuple[str, str], Vocoder | VocoderError] = dataclasses.field(default_factory=dict)
    _handshakes: dict[MelRecipe, Handshake] = dataclasses.field(default_factory=dict)
    _stages: dict[tuple[object, ...], StageHandshake] = dataclasses.field(default_factory=dict)
    _spoken: dict[tuple[object, ...], dict[str, Tensor]] = dataclasses.field(default_factory=dict)

    def config(self, clip: Clip, recipe: MelRecipe | None = None) -> MelCheckConfig:
        """Return the configuration that reads a clip of this plan for mels of a recipe."""
        rate = DEFAULT_SAMPLE_RATE if recipe is None else recipe.sample_rate
        return MelCheckConfig(
            clip.path, self.sample_rate or rate, self.duration_seconds, offset=self.offset
        )

    def vocoder(self, name: str, device: str) -> Vocoder:
        """Return a vocoder, loaded once; one that failed fails again without a new try.

        Raises:
            VocoderError: It cannot be loaded, or (`VocoderUnavailable`) is not available.
        """
        key = (name, device)
        if key not in self._loaded:
            try:
                download = name in self.required
                self._loaded[key] = load_vocoder(
                    name, device=device, download=download, recipe=profile_recipe(self.profile)
                )
            except VocoderError as error:
                self._loaded[key] = error
        found = self._loaded[key]
        if isinstance(found, VocoderError):
            raise found
        return found

    def baseline(self, recipe: MelRecipe, device: str) -> Vocoder:
        """Return Griffin-Lim for the mels of a recipe, made once."""
        key = (f"{BASELINE}:{recipe.digest()}", device)
        if key not in self._loaded:
            self._loaded[key] = load_vocoder(BASELINE, device=device, recipe=recipe)
        found = self._loaded[key]
        assert not isinstance(found, VocoderError)
        return found

    def with_frontend(self, vocoder: Vocoder) -> Vocoder:
        """Return a vocoder whose mels the user's front end extracts, where there is one."""
        return vocoder if self.frontend is None else VocoderWithFrontend(self.frontend, vocoder)

    def has(self, option: str) -> bool:
        """Return whether the plan has what a test needs: a stage of the user's, or stored mels.

        Args:
            option: "loader", "frontend", "vocoder-reference", "saver" or "cache", as the marker
                `mel_needs` takes it.

        Raises:
            KeyError: Any other.
        """
        given = {
            "loader": self.loader,
            "frontend": self.frontend,
            "vocoder-reference": self.vocoder_reference,
            "saver": self.saver,
            "cache": self.stored,
        }
        return given[option] is not None

    @property
    def load(self) -> Callable[..., LoadedAudio]:
        """What reads a clip for the round trip: the user's loader, where there is one."""
        return load_audio if self.loader is None else self.loader.load_audio

    def recipes(self) -> dict[MelRecipe, str]:
        """Return the recipes of the available vocoders, each with the first that has it."""
        recipes: dict[MelRecipe, str] = {}
        for name in self.vocoders:
            try:
                recipes.setdefault(self.vocoder(name, self.devices[0]).recipe, name)
            except VocoderUnavailable:
                continue  # skipped, or failed where it is required, with the reason
        return recipes

    def check_clips(self, clips: Iterable[Clip], *, strict: bool = False, hint: str = "") -> None:
        """Refuse a run of which no clip can be used, or, where it is strict, not every one.

        Else a clip that cannot be used is a case that fails. A manifest's are compared with their
        hashes instead.

        Args:
            clips: Those of the plan, as an iterator that shows progress may give them.
            strict: Whether each is read now; otherwise reading stops at the first that can be used.
            hint: What to add where a clip is a Python file.

        Raises:
            ValueError: All clips cannot be used, or `strict` and some cannot; each is named.
        """
        recipes = list(self.recipes()) or [VOCOS]
        problems: list[str] = []
        code: list[str] = []
        usable = False
        for clip in clips:
            is_code = clip.path.suffix == ".py"
            if usable and not strict and not is_code:
                continue
            problem = ""
            for recipe in recipes if clip.kind == "user" else ():
                try:
                    if clip.problem:
                        raise ValueError(clip.problem)
                    own = self.config(clip, recipe)
                    check_readable(own, min_samples=recipe.min_round_trip_samples)
                except (ValueError, OSError) as error:
                    problem = f"{error_text(error)}{hint if is_code else ''}"
                    break
            usable |= not problem
            problems += [problem] if problem else []
            code += [problem] if problem and is_code else []
        # Behind an option that takes several paths, tests may stand for clips by mistake.
        refuse(problems if strict or not usable else code)

    def thresholds(self, clip: Clip) -> Thresholds:
        """Return the limits that hold for a clip."""
        return thresholds_of(clip.name, self.rules)

    def gates(self) -> tuple[Gate, ...]:
        """Return the gates of clips that no pattern of the project's names."""
        return thresholds_of("", [rule for rule in self.rules if rule.pattern == "*"]).gates()

    def own_rules(self) -> tuple[str, ...]:
        """Return the limits that the project sets for clips of some names, in words."""
        return tuple(str(rule) for rule in self.rules if rule.pattern != "*")

    def judge(self, clip: Clip, vocoder: str, trip: RoundTrip, audio_sha256: str = "") -> Judged:
        """Return what the gates say of a round trip, and whether the project has accepted it.

        Args:
            clip: The clip.
            vocoder: Label of the vocoder.
            trip: Its round trip.
            audio_sha256: Hash of the file, where that is known already.
        """
        verdict = judge(trip.metrics()[0], self.thresholds(clip), notes=trip.notes)
        if not bool(torch.isfinite(trip.reconstructed_waveform).all()):
            return Judged(verdict, None, "the decoded waveform holds NaN or infinity")
        begin = 0.0 if trip.audio is None else trip.audio.begin_seconds
        front_end = "" if self.frontend is None else self.frontend.name
        key = key_of(clip.name, vocoder, front_end, trip.checked_seconds, begin)
        known = next((each for each in self.accepted if each.key == key), None)
        if known is None:
            return Judged(verdict, None, "")
        problem = known.problem(verdict, audio_sha256 or sha256_file(clip.path))
        if not problem:
            note = f"accepted on {known.date}: {known.reason}"
            verdict = dataclasses.replace(verdict, notes=(*verdict.notes, note))
        return Judged(verdict, known, problem)

    def handshake(self, recipe: MelRecipe) -> Handshake:
        """Compare the front end with a recipe, once, on probes and the first clips of speech.

        Raises:
            ValueError: There is no front end, or a clip cannot be used.
        """
        if self.frontend is None:
            raise ValueError("a handshake needs a front end, and this plan has none.")
        recipe = profile_recipe(self.profile) or recipe
        if recipe not in self._handshakes:
            self._handshakes[recipe] = handshake(
                self.frontend, expected=recipe, speech=self._speech(recipe)
            )
        return self._handshakes[recipe]

    def loader_handshake(self, recipe: MelRecipe) -> StageHandshake:
        """Compare the loader with the files, once: probes, and a clip of each format.

        Raises:
            ValueError: There is no loader.
        """
        if self.loader is None:
            raise ValueError("a handshake needs a loader, and this plan has none.")
        key = ("loader", recipe)
        if key not in self._stages:
            clips = [clip.path for clip in _one_of_each_format(self.clips)]
            self._stages[key] = handshake_loader(self.loader, expected=recipe, clips=clips)
        return self._stages[key]

    def vocoder_handshake(self, vocoder: Vocoder, device: str) -> StageHandshake:
        """Compare a vocoder with the reference, once, on probes and the first clips of speech.

        Raises:
            ValueError: There is no reference, or it decodes the mels of another recipe.
            VocoderError: The reference cannot be loaded.
        """
        if self.vocoder_reference is None:
            raise ValueError("a handshake needs a reference, and this plan has none.")
        key = ("vocoder", vocoder.info, device)
        if key not in self._stages:
            self._stages[key] = handshake_vocoder(
                vocoder,
                reference=self.vocoder(self.vocoder_reference, device),
                waveforms=self._starts(vocoder.recipe),
            )
        return self._stages[key]

    def saver_handshake(self, vocoder: Vocoder) -> StageHandshake:
        """Compare what the saver writes with what was decoded, once for each vocoder.

        Raises:
            ValueError: There is no saver.
        """
        if self.saver is None:
            raise ValueError("a handshake needs a saver, and this plan has none.")
        key = ("saver", vocoder.info, vocoder.device)
        if key not in self._stages:
            decoded = {}
            for name, waveform in self._starts(vocoder.recipe).items():
                mel = log_mel(waveform[None], vocoder.recipe).to(vocoder.device)
                decoded[name] = vocoder.decode(mel)[0]
            self._stages[key] = handshake_saver(
                self.saver, expected=vocoder.recipe, waveforms=decoded
            )
        return self._stages[key]

    def _speech(self, recipe: MelRecipe) -> list[Tensor]:
        return list(self._named_speech(recipe).values())

    def _named_speech(self, recipe: MelRecipe) -> dict[str, Tensor]:
        """Return the first clips, read once for all handshakes."""
        gated = [clip for clip in self.clips if clip.gated][:_SPEECH_CLIPS]
        configs = tuple((clip.name, start_of(self.config(clip, recipe))) for clip in gated)
        if (recipe, configs) not in self._spoken:
            found = self._spoken[recipe, configs] = {}
            for name, config in configs:
                # One that cannot be used is a case that fails.
                with contextlib.suppress(ValueError, OSError):
                    audio = load_audio(config, min_samples=recipe.min_samples)
                    found[name] = audio.waveform[0]
        return self._spoken[recipe, configs]

    def _starts(self, recipe: MelRecipe) -> dict[str, Tensor]:
        samples = round(_DECODED_SECONDS * recipe.sample_rate)
        return {name: clip[:samples] for name, clip in self._named_speech(recipe).items()}

    def stage_fault(self, pipeline: MelPipeline) -> Explanation | None:
        """Return the fault of the first stage that differs from its reference; None for none.

        The loader comes first, then the front end, then the pipeline's vocoder: an error that
        enters early goes through everything that follows.
        """
        vocoder = pipeline.vocoder
        if isinstance(vocoder, VocoderWithFrontend):
            vocoder = vocoder.inner
        if self.loader is not None:
            found = self.loader_handshake(vocoder.recipe).explained()
            if found is not None:
                return found
        found = self.front_end_fault(vocoder.recipe)
        if found is not None or not self.has_reference(vocoder.info.name):
            return found
        return self.vocoder_handshake(vocoder, str(pipeline.device)).explained()

    def has_reference(self, name: str) -> bool:
        """Return whether a vocoder is compared with the reference: one of the user's is."""
        reference = self.vocoder_reference
        return reference is not None and name != reference and not is_ours(name)

    def front_end_fault(self, recipe: MelRecipe) -> Explanation | None:
        """Return why the front end does not extract a recipe's mel; None where it does."""
        if self.frontend is None:
            return None
        return explain_front_end(self.frontend.name, self.handshake(recipe))

    def explain(
        self, clip: Clip, trip: RoundTrip, pipeline: MelPipeline, baseline: RoundTrip | None
    ) -> Explanation:
        """Return the likely cause of a bad round trip: the fault of a stage first.

        Args:
            clip: The clip.
            trip: Its round trip.
            pipeline: What made that.
            baseline: Griffin-Lim's round trip of the same clip; None without.
        """
        return self.stage_fault(pipeline) or explain_round_trip(
            trip,
            pipeline.waveform2mel,
            decode=pipeline.mel2waveform,
            thresholds=self.thresholds(clip),
            baseline_mae=None if baseline is None else baseline.metrics()[0].mae,
        )

    def label(self, vocoder: str) -> str:
        """Return a short name for a vocoder: of a path or hub id its last part, if that is unique.

        It is part of test ids, artifact paths and the table.

        Example:
            >>> names = ("embedded", "models/v1/", "a/vocos", "b/vocos")
            >>> plan = Plan(clips=(), vocoders=names, devices=("cpu",))
            >>> [plan.label(name) for name in names]
            ['embedded', 'v1', 'a/vocos', 'b/vocos']
        """
        labels = [_last_part(name) for name in self.vocoders]
        label = _last_part(vocoder)
        return label if labels.count(label) <= 1 else vocoder

    def described(self) -> list[str]:
        """Return what will be checked and what will not, in a few lines."""
        vocoders = " and ".join(self.label(name) for name in self.vocoders)
        lines = [
            f"{len(self.clips)} clips, {self.part()}, {vocoders} on {' and '.join(self.devices)}"
        ]
        if self.profile is not None:
            untrained = f", decoded by {BASELINE} alone, which has no training"
            alone = self.vocoders == (BASELINE,)
            lines.append(f"expected mel: {self.profile}{untrained if alone else ''}")
        for stage, code in self._code().items():
            where = "" if code.place is None else f" ({code.place[0]}:{code.place[1]})"
            lines.append(f"{stage} {code.name}{where}")
        if self.frontend is None:
            lines.append("front end: none, your own code is not checked")
        if self.vocoder_reference is not None:
            lines.append(f"vocoders compared with {self.vocoder_reference}")
        if self.stored is None:
            lines.append("stored mels: none, your cache is not checked")
        else:
            count = sum(map(len, self.stored.mels.values()))
            lines.append(f"{count} stored mels of {len(self.stored.mels)} clips")
        if self.rules:
            lines.append(f"thresholds of this project: {'; '.join(map(str, self.rules))}")
        if self.accepted:
            lines.append(f"accepted misses: {len(self.accepted)}")
        return lines

    def _code(self) -> dict[str, Loader | Frontend | Saver]:
        """Return the user's code by its stage, in the order of the loop; vocoders stand apart."""
        stages = {"loader": self.loader, "front end": self.frontend, "saver": self.saver}
        return {stage: code for stage, code in stages.items() if code is not None}

    def part(self) -> str:
        """Return which part of each clip is checked, in words."""
        if self.duration_seconds is None:
            return "all of each" if self.offset in (0.0, "middle") else f"each from {self.offset} s"
        begin = {0.0: "the first", "middle": "the middle"}.get(self.offset)
        if begin is None:
            return f"{self.duration_seconds:g} s of each from {self.offset:g} s"
        return f"{begin} {self.duration_seconds:g} s of each"

    def notes(self) -> list[str]:
        """Return what was adapted in the user's code, and what was left out."""
        notes = [note for code in self._code().values() for note in code.notes]
        for loaded in self._loaded.values():
            notes += getattr(loaded, "notes", ())
        if self.stored is not None and self.stored.without_audio:
            lost = self.stored.without_audio
            listed = ", ".join(one_line(path) for path in lost[:MAX_LISTED])
            more = f" and {len(lost) - MAX_LISTED} more" if len(lost) > MAX_LISTED else ""
            notes.append(f"{len(lost)} stored mels belong to no clip of this run: {listed}{more}")
        for rule in self.rules:
            if not any(rule.applies(clip.name) for clip in self.clips):
                notes.append(f"thresholds of {rule}: no clip of this run has such a name")
        return [*notes, *self.remarks]


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one round trip.

    Attributes:
        verdict: The gates.
        known: The entry with which the project has accepted a miss; None without.
        problem: What is wrong beside the gates: samples that are not finite, or why the entry no
            longer holds; "" for nothing.
    """

    verdict: Verdict
    known: AcceptedMiss | None
    problem: str

    @property
    def outcome(self) -> Literal["passed", "failed", "known miss"]:
        """The outcome of the case."""
        if self.problem:
            return "failed"
        if self.known is not None:
            return "known miss"
        return "passed" if self.verdict.passed else "failed"


def profile_recipe(name: str | None) -> MelRecipe | None:
    """Return the recipe of a profile; None for None.

    Raises:
        ValueError: There is none of this name.
    """
    return None if name is None else profile(name)


def default_vocoders(name: str | None, *, official: bool) -> tuple[str, ...]:
    """Return the vocoders of a run that names none: those that decode the mel of its profile.

    Args:
        name: The profile; None for that of Vocos.
        official: Whether the official weights count.
    """
    recipe = profile_recipe(name)
    if recipe is None or decodes(VOCOS, recipe):
        return ("embedded", *(["official"] if official else []))
    return (BASELINE,)


def check_decodes(vocoder: str, own: MelRecipe, name: str, option: str) -> None:
    """Refuse a vocoder that does not decode the mel of a profile.

    Args:
        vocoder: The vocoder, as the message names it.
        own: Its recipe.
        name: The profile.
        option: The option that named that.

    Raises:
        ValueError: Its recipe is another, but for floor and last frame.
    """
    expected = profile(name)
    if not decodes(own, expected):
        raise ValueError(
            f"{vocoder} must decode the mel of {option} {name}, got one that "
            f"{_differing(own, expected)}. Name your vocoder of that mel, as "
            f"package.module:attribute, or {BASELINE}, which follows any recipe."
        )


def decodes(own: MelRecipe, mel: MelRecipe) -> bool:
    """Return whether a vocoder of one recipe takes mels of another: but for floor and last frame.

    Floors between 1e-5 and 1e-9 are in use before the same vocoder.
    """
    low, high = BENIGN_FLOORS
    same = dataclasses.replace(mel, floor=own.floor, floor_mode=own.floor_mode, tail=own.tail)
    return same == own and (mel.floor == own.floor or low <= mel.floor <= high)


def load_plan(
    plan: Plan,
    *,
    loader: str | None = None,
    frontend: str | None = None,
    saver: str | None = None,
    cache: Path | None = None,
    prefix: str = "--",
) -> Plan:
    """Return a plan with its vocoders, the user's stages and mels loaded, and its clips as files.

    Args:
        plan: The plan.
        loader: "package.module:attribute" of the user's loader; None without one.
        frontend: The same of the front end.
        saver: The same of the saver.
        cache: Folder of stored mels; None without one.
        prefix: How the options begin, for messages: "--" or "--mel-".

    Raises:
        ValueError: A vocoder, rate, stage or cache that cannot be used.
        OSError: A cache that does not exist.
    """
    plan = dataclasses.replace(plan, clips=file_clips(plan.clips))
    if cache is not None:
        plan = dataclasses.replace(plan, stored=_stored(cache, plan, prefix))
    expected = profile_recipe(plan.profile)
    for name in plan.vocoders:
        try:
            own = plan.vocoder(name, plan.devices[0]).recipe
        except VocoderUnavailable:
            continue
        except (VocoderError, ValueError) as error:
            raise ValueError(f"{prefix}vocoder {name}: {error}") from None
        if plan.profile is not None:
            check_decodes(f"{prefix}vocoder {name}", own, plan.profile, f"{prefix}profile")
        rate = own.sample_rate
        if plan.sample_rate not in (None, rate):
            raise ValueError(
                f"{prefix}sample-rate must be {rate}, the rate of the mels of {name!r}, got "
                f"{plan.sample_rate}. Audio of any other rate is resampled to it."
            )
    recipe = expected or next(iter(plan.recipes()), VOCOS)
    if plan.vocoder_reference is not None:
        _check_reference(plan, plan.vocoder_reference, prefix)
    return dataclasses.replace(
        plan,
        recipe=recipe,
        loader=None if loader is None else load_loader(loader, sample_rate=recipe.sample_rate),
        # One front end cannot extract the mels of two recipes.
        frontend=None if frontend is None else load_frontend(frontend, expected=recipe),
        saver=None if saver is None else load_saver(saver, sample_rate=recipe.sample_rate),
    )


def _check_reference(plan: Plan, reference: str, prefix: str) -> None:
    try:
        expected = plan.vocoder(reference, plan.devices[0]).recipe
    except (VocoderError, ValueError) as error:
        raise ValueError(f"{prefix}vocoder-reference {reference}: {error}") from None
    compared = [name for name in plan.vocoders if plan.has_reference(name)]
    if not compared:
        raise ValueError(
            f"{prefix}vocoder-reference must stand beside a vocoder of your own, got "
            f"{' and '.join(plan.vocoders)}. Name it with {prefix}vocoder."
        )
    for name in compared:
        # None where it is not available, which is reported by itself.
        recipe = next(iter(dataclasses.replace(plan, vocoders=(name,)).recipes()), None)
        if recipe not in (None, expected):
            raise ValueError(
                f"{prefix}vocoder-reference must decode the mels of {name!r}, got {reference!r}, "
                "whose recipe is a different one. Name its own checkpoint."
            )


def _one_of_each_format(clips: Iterable[Clip]) -> list[Clip]:
    """Return the first clip of each container, rate, number of channels and kind of samples."""
    import soundfile

    found: dict[object, Clip] = {}
    for clip in clips:
        kind: object = clip.path.suffix.lower()
        try:
            info = sound_info(clip.path)
        except (soundfile.LibsndfileError, OSError):
            pass  # what TorchCodec alone reads is known by its name
        else:
            kind = (kind, info.samplerate, info.channels, info.subtype)
        found.setdefault(kind, clip)
    return list(found.values())[:_MOST_FORMATS]


def _stored(folder: Path, plan: Plan, prefix: str) -> Matches:
    pattern, clips = plan.cache_pattern, plan.clips
    if pattern is not None:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"{prefix}cache-pattern {error}") from None
    files = find_mels(folder)
    if pattern is None:
        matches, wanted = match_mels(files, clips), f"{clips[0].path.stem}{files[0].suffix}"
    else:
        matches = match_by_pattern(folder, files, clips, pattern)
        wanted = name_of_mel(pattern, clips[0])
    if not matches.mels:
        raise ValueError(
            f"{prefix}cache {folder}: none of its {len(files)} mels has the name of a clip. A "
            f"mel of {clips[0].path.name} is called {wanted}, and there is "
            f"{one_line(files[0].relative_to(folder))}. Give the pattern of the names: "
            f"{prefix}cache-pattern '{{speaker}}-mel-{{stem}}.npy'."
        )
    return matches


def _differing(own: MelRecipe, expected: MelRecipe) -> str:
    pairs = zip(own.text().split(), expected.text().split(), strict=True)
    listed = [f"{mine} instead of {theirs}" for mine, theirs in pairs if mine != theirs]
    more = f" and {len(listed) - _LISTED_VALUES} more" if len(listed) > _LISTED_VALUES else ""
    return f"has {', '.join(listed[:_LISTED_VALUES])}{more}"


def _last_part(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name
