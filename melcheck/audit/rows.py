"""Makes the rows of clips: what an audit finds out about each, whichever engine asks.

For each clip: read its bytes and hash them; where an earlier run has a row of the same key, stop
there. Else decode, measure the audio's own faults, run the round trip, judge it, explain a failure,
and compare the stored mel.

Clips of equal length run as a batch on a GPU. On a CPU, where batches gain nothing, each runs by
itself, so that its row does not depend on its neighbours but in its arithmetic. A Vocos runs in a
faster one; where that leaves a clip near a limit or beyond, the plain one decides, so that the
verdict is that of `melcheck check`: see `melcheck.audit.arithmetic`, also for how sure that is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from melcheck._version import __version__
from melcheck.audio import (
    AudioError,
    LoadedAudio,
    check_finite,
    decode_audio,
    load_audio,
    prepared,
    soundfile_name,
)
from melcheck.audio_notes import decoder_notes
from melcheck.audit.arithmetic import Arithmetic, FirstPass, first_pass
from melcheck.audit.audio_faults import AudioFaults, measure
from melcheck.audit.causes import RAISED, code_of, meaning
from melcheck.audit.model import SCHEMA_VERSION, AuditItem, AuditSettings, Row, row_of
from melcheck.clip_lists import at_its_place, item_file, local_path, shown
from melcheck.clips import Clip
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import Explanation
from melcheck.diagnosis.handshake import explain_front_end, handshake
from melcheck.diagnosis.round_trip import explain_round_trip
from melcheck.diagnosis.stored_mels import (
    FreshMel,
    check_pattern,
    compare_stored,
    fresh_mel,
    match_mels,
    name_of_mel,
    stems_of,
)
from melcheck.files import error_text, failed_allocation, one_line, plain_text, sha256_file
from melcheck.frontends import Frontend, VocoderWithFrontend, load_frontend
from melcheck.manifests import ManifestItem
from melcheck.mel_files import find_mels, read_mel
from melcheck.metrics import MelMetrics
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.plan import check_decodes, profile_recipe
from melcheck.recipes import VOCOS, MelRecipe
from melcheck.sanity import judge, thresholds_of
from melcheck.speed.audio_blocks import check_readable, is_long
from melcheck.speed.long_audio import RunningMetrics, round_trip_of_file
from melcheck.speed.stft_distance import stft_distance
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.load import load_vocoder

_CUDA_BATCH = 16
# Clips that wait for others of their length hold so many samples at most: ten minutes, three times.
_WAITING_SAMPLES = 2**25

# Of a clip that is too long to hold, so many samples a channel are looked at at once.
_BLOCK_SAMPLES = 2**20

# Parts of one recording follow each other, and it is hashed once for all of them.
_HASHED_FILES = 1024

# Faults of a file that explain a miss where no experiment of the diagnosis has found its cause.
_SPOILS = frozenset({"int16-wrap", "clipping", "dc-offset"})

Started = Callable[[Sequence[int]], object]


def _nobody(indices: Sequence[int]) -> None:
    del indices


def make_row_maker(settings: AuditSettings) -> ClipRows:
    """Load what the rows of an audit need, once.

    Raises:
        ValueError: A vocoder, profile, front end, cache or pattern that cannot be used.
        VocoderUnavailable: The weights or the device are not there.
        OSError: A cache that does not exist.
    """
    return ClipRows(settings)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A clip that was read, and waits for its round trip.

    Attributes:
        item: The clip.
        row: What is known of it so far.
        audio: What the vocoder gets.
        fresh: What is needed to compare its stored mels with: the whole clip; None without a cache.
        stored: The files of its stored mels.
    """

    item: AuditItem
    row: Row
    audio: LoadedAudio
    fresh: LoadedAudio | None
    stored: tuple[Path, ...]


@dataclass(slots=True)
class _Draft:
    """The row of a clip as far as it has come, which stands where the next step raises."""

    row: Row

    def put(self, **columns: Any) -> None:
        self.row = dataclasses.replace(self.row, **columns)


class ClipRows:
    """Makes the rows of clips: see `melcheck.audit.model.RowMaker`.

    Args:
        settings: What is measured, with which vocoder.
        vocoder: That vocoder, where it is loaded already.

    Attributes:
        settings: As given.
        recipe: The mel that is expected: of the profile, else of the vocoder, else of Vocos.
        vocoder: As it was loaded; None where audio and caches alone are measured.
    """

    def __init__(self, settings: AuditSettings, *, vocoder: Vocoder | None = None) -> None:
        self.settings = settings
        expected = profile_recipe(settings.profile)
        if vocoder is None and settings.vocoder is not None:
            vocoder = load_vocoder(settings.vocoder, device=settings.device, recipe=expected)
        if vocoder is not None and settings.profile is not None:
            name = f"--vocoder {settings.vocoder}"
            check_decodes(name, vocoder.recipe, settings.profile, "--profile")
        self.vocoder = vocoder
        own = VOCOS if self.vocoder is None else self.vocoder.recipe
        self.recipe: MelRecipe = expected or own
        self._frontend: Frontend | None = None
        if settings.frontend is not None:
            self._frontend = load_frontend(settings.frontend, expected=self.recipe)
        self._plain = None if vocoder is None else self._pipeline(vocoder)
        self._batch = 1
        if vocoder is not None:
            self._compute_first(first_pass(vocoder))
            # Of the user's code it is not known that a clip is the same in a batch.
            if vocoder.device.type != "cpu" and self._first.arithmetic != "plain":
                self._batch = _CUDA_BATCH
        self._mels = None if settings.cache is None else _StoredMels(settings)
        self._hashes: dict[tuple[Path, int, int], str] = {}
        self._identity = self._described()

    def __call__(self, items: Sequence[AuditItem]) -> list[Row]:
        """Return one row for each item, in order; never raises for a clip."""
        order = {each.index: place for place, each in enumerate(items)}
        rows = [row for some in self.stream(items) for row in some]
        return sorted(rows, key=lambda row: order[row.index])

    def stream(
        self, items: Sequence[AuditItem], *, started: Started = _nobody
    ) -> Iterator[list[Row]]:
        """Yield the rows of items as they are made, in any order.

        Args:
            items: The clips.
            started: Called with the indices of the clips that are worked on next, before each step,
                so that who waits knows which of them takes long.
        """
        waiting: dict[int, list[_Ready]] = {}
        for item in items:
            started([item.index])
            draft = _Draft(row_of(item, "unreadable"))
            found = _guarded(item, draft, functools.partial(self._read, item, draft))
            if isinstance(found, Row):
                yield [found]
                continue
            length = found.audio.waveform.shape[-1]
            alike = waiting.setdefault(length, [])
            alike.append(found)
            held = sum(length * len(others) for length, others in waiting.items())
            if len(alike) >= self._batch or held > _WAITING_SAMPLES:
                yield self._batched(waiting.pop(length), started)
        for alike in waiting.values():
            yield self._batched(alike, started)

    def key_of(self, audio_sha256: str, item: ManifestItem, mels: Sequence[Path] = ()) -> str:
        """Return what the row of a clip depends on, as 64 hexadecimal digits.

        Args:
            audio_sha256: Hash of the encoded audio.
            item: Which part of it is meant, and the name that limits of the project go by.
            mels: Its stored mels.
        """
        limits = dataclasses.astuple(thresholds_of(item.name, self.settings.rules))
        stored = [_hash_or_reason(path) for path in mels]
        part = [item.offset_seconds, item.duration_seconds]
        text = json.dumps([audio_sha256, part, limits, stored, self._identity])
        return hashlib.sha256(text.encode()).hexdigest()

    def _pipeline(self, vocoder: Vocoder) -> MelPipeline:
        if self._frontend is not None:
            vocoder = VocoderWithFrontend(self._frontend, vocoder)
        return MelPipeline(vocoder=vocoder)

    def _compute_first(self, first: FirstPass) -> None:
        self._first, self._fast = first, self._pipeline(first.vocoder)

    def _described(self) -> list[Any]:
        """Return what all rows depend on, as JSON can hold it."""
        vocoder, settings = self.vocoder, self.settings
        info = None if vocoder is None else vocoder.info
        code = [
            [place[0].name, _hash_or_reason(place[0])]
            for each in (self._frontend, vocoder)
            if (place := getattr(each, "place", None)) is not None
        ]
        return [
            SCHEMA_VERSION,
            __version__,
            self.recipe.text(),
            None if info is None else [info.weights_sha256 or info.name, info.config_sha256],
            settings.frontend,
            code,
            settings.device,
            settings.duration_seconds,
            settings.cache is not None,
        ]

    # Reading.

    def _read(self, item: AuditItem, draft: _Draft) -> Row | _Ready:
        """Read a clip as far as its round trip; return its row where that is all."""
        source = item.item
        content = None if source.contained is None else source.contained.read()
        stored = () if self._mels is None else self._mels.of(source)
        if content is not None:
            draft.put(audio_sha256=hashlib.sha256(content).hexdigest())
        else:
            with contextlib.suppress(OSError):  # reading it tells better what is wrong
                draft.put(audio_sha256=self._hash_of(local_path(source)))
        if draft.row.audio_sha256:
            draft.put(key=self.key_of(draft.row.audio_sha256, source, stored))
            if draft.row.key == item.known_key:
                return dataclasses.replace(draft.row, outcome="known")
        if source.is_file:
            return self._measured(item, draft, item_file(source, Path(), ""), stored)
        with tempfile.TemporaryDirectory(prefix="melcheck-clip-") as own:
            path = item_file(source, Path(own), "audio", content=content)
            try:
                return self._measured(item, draft, path, stored)
            except AudioError as error:
                # Of the user's file, and not of the one that was written meanwhile.
                text = str(error).replace(one_line(path), shown(source))
                raise AudioError(text) from error

    def _measured(
        self, item: AuditItem, draft: _Draft, path: Path, stored: tuple[Path, ...]
    ) -> Row | _Ready:
        config = MelCheckConfig(path, self.recipe.sample_rate, self.settings.duration_seconds)
        if is_long(config):
            return self._long(item, draft, config, stored)
        # A stored mel is that of the whole clip.
        whole = config if self._mels is None else dataclasses.replace(config, target_duration=None)
        decoded = decode_audio(whole, finite=False)
        faults = measure([decoded.samples], decoded.sample_rate)
        draft.put(decoder=decoded.decoder, notes=decoded.notes)
        _put_faults(draft, faults, channels=decoded.samples.shape[0])
        if faults.broken_samples:
            check_finite(path, decoded.samples, decoded.sample_rate)
        if self._plain is None and self._mels is None:
            return _checked(draft.row)
        plain, recipe = self._plain, self.recipe
        shortest = recipe.min_samples if plain is None else recipe.min_round_trip_samples
        fresh = prepared(decoded, whole, min_samples=shortest)
        audio = fresh
        if config.target_samples is not None:
            cut = fresh.waveform[:, : config.target_samples]
            audio = dataclasses.replace(fresh, waveform=cut, valid_samples=cut.shape[-1])
            draft.put(duration_seconds=cut.shape[-1] / audio.sample_rate)
        ready = _Ready(item, draft.row, audio, None if self._mels is None else fresh, stored)
        return ready if plain is not None else self._with_cache(_checked(draft.row), ready, None)

    def _long(
        self, item: AuditItem, draft: _Draft, config: MelCheckConfig, stored: tuple[Path, ...]
    ) -> Row:
        """Return the row of a clip that is too long to hold, computed in chunks."""
        import soundfile

        seconds = config.target_duration
        with decoder_notes({}), soundfile.SoundFile(config.audio_path) as file:
            rate, channels = file.samplerate, file.channels
            wanted = -1 if seconds is None else round(seconds * rate)
            blocks = file.blocks(_BLOCK_SAMPLES, frames=wanted, dtype="float32", always_2d=True)
            faults = measure((torch.from_numpy(each.T.copy()) for each in blocks), rate)
        draft.put(decoder=soundfile_name())
        _put_faults(draft, faults, channels=channels)
        if self._plain is None:
            check_readable(config, min_samples=1)  # raises on broken samples, or a cut
            row = _checked(draft.row)
        else:
            pipeline = MelPipeline(config, vocoder=self._plain.vocoder)
            trip = round_trip_of_file(pipeline)
            row = self._judged(draft.row, item, pipeline, trip, trip.metrics()[0])
            distance = float(trip.waveform_distance()[0])
            row = dataclasses.replace(row, stft_distance=distance, arithmetic="plain")
        if self._mels is None:
            return row
        audio = load_audio(dataclasses.replace(config, target_duration=None))
        return self._with_cache(row, _Ready(item, row, audio, audio, stored), None)

    def _hash_of(self, path: Path) -> str:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._hashes:
            if len(self._hashes) >= _HASHED_FILES:
                self._hashes.clear()
            self._hashes[key] = sha256_file(path)
        return self._hashes[key]

    # The round trip.

    def _batched(self, batch: Sequence[_Ready], started: Started) -> list[Row]:
        started([each.item.index for each in batch])
        if len(batch) > 1:
            # Where a batch fails, each clip tells by itself what is wrong with it.
            with contextlib.suppress(Exception):
                return self._trips(batch)
        rows = []
        for each in batch:
            started([each.item.index])
            draft = _Draft(each.row)
            trip = functools.partial(self._trip, each)
            rows.append(_guarded(each.item, draft, trip, cause=RAISED))
        return rows

    def _trip(self, ready: _Ready) -> Row:
        return self._trips([ready])[0]

    def _trips(self, batch: Sequence[_Ready]) -> list[Row]:
        first, fast, plain = self._first, self._fast, self._plain
        assert self.vocoder is not None
        assert plain is not None
        waveform = torch.cat([each.audio.waveform for each in batch]).to(fast.device)
        together = fast.round_trip(waveform)
        measured = together.metrics() if len(batch) > 1 else (_metrics(together),)
        rows = []
        for place, each in enumerate(batch):
            trip, metrics, pipeline = _item(together, place, each.audio), measured[place], fast
            arithmetic: Arithmetic = first.arithmetic
            limits = thresholds_of(each.item.item.name, self.settings.rules)
            if not first.suffices(metrics, limits, key=each.row.key):
                again = _item(plain.round_trip(trip.waveform), 0, each.audio)
                exact = again.metrics()[0]
                if not first.stands(metrics, exact, limits):
                    trip, metrics, pipeline, arithmetic = again, exact, plain, "plain"
            row = self._judged(each.row, each.item, pipeline, trip, metrics)
            distance = stft_distance(trip.waveform[0], trip.reconstructed_waveform[0])
            row = dataclasses.replace(row, stft_distance=distance, arithmetic=arithmetic)
            rows.append(self._with_cache(row, each, trip))
        if not first.is_of_use:
            self._compute_first(first_pass(self.vocoder, bf16=False))
        return rows

    def _judged(
        self,
        row: Row,
        item: AuditItem,
        pipeline: MelPipeline,
        trip: RoundTrip,
        metrics: MelMetrics,
    ) -> Row:
        """Return a row with its metrics, what the gates say of them, and why they were missed."""
        limits = thresholds_of(item.item.name, self.settings.rules)
        verdict = judge(metrics, limits, notes=trip.notes)
        finite = bool(torch.isfinite(trip.reconstructed_waveform).all())
        reasons = [str(each) for each in verdict.failures]
        if not finite:
            reasons.insert(0, "the decoded waveform holds NaN or infinity")
        row = dataclasses.replace(
            row,
            outcome="failed" if reasons else "passed",
            reason="; ".join(reasons),
            mae=metrics.mae,
            mse=metrics.mse,
            max_abs_diff=metrics.max_abs_diff,
            snr_db=metrics.snr_db,
            pearson=metrics.pearson,
            centred_snr_db=metrics.centred_snr_db,
            reference_floor_share=metrics.reference_floor_share,
            # The decoder passes over damage, the file and the gates have notes of their own.
            notes=tuple(dict.fromkeys((*verdict.notes, *row.notes))),
        )
        if not reasons:
            return row
        found = self._front_end_fault() or explain_round_trip(
            trip, pipeline.waveform2mel, decode=pipeline.mel2waveform, thresholds=limits
        )
        if found.code == "clip" and row.cause in _SPOILS:
            own = meaning(code_of(row))
            return dataclasses.replace(row, reason=f"{row.reason}; {own.title}. {own.fix}")
        return dataclasses.replace(row, cause=found.code, reason=f"{row.reason}; {found}")

    @functools.cached_property
    def _handshake_fault(self) -> Explanation | None:
        assert self._frontend is not None
        found = handshake(self._frontend, expected=self.recipe)
        return explain_front_end(self._frontend.name, found)

    def _front_end_fault(self) -> Explanation | None:
        return None if self._frontend is None else self._handshake_fault

    # The cache.

    def _with_cache(self, row: Row, ready: _Ready, trip: RoundTrip | None) -> Row:
        """Return a row with what became of the clip's stored mels; a stale or missing one fails."""
        if self._mels is None or ready.fresh is None:
            return row
        if not ready.stored:
            told = f"no mel called {self._mels.name_of(ready.item.item)} in the cache"
            return _stale(row, "missing", "missing", f"{told}. Extract it, or leave the clip out.")
        fresh = self._fresh(ready.fresh, trip)
        notes = []
        for path in ready.stored:
            try:
                stored = read_mel(path, finite=False)
            except (ValueError, OSError) as error:
                return _stale(row, "stale", "unreadable", error_text(error))
            found = compare_stored(stored, fresh)
            if not found.fresh:
                return _stale(row, "stale", found.code, f"{one_line(path)}: {found}")
            notes += [f"{one_line(path)}: {found}"] if found.note else []
        return dataclasses.replace(row, cache="fresh", notes=(*row.notes, *notes))

    def _fresh(self, audio: LoadedAudio, trip: RoundTrip | None) -> FreshMel:
        """Return the mel of today; that of the round trip, where it is of the whole clip."""
        waveform, own = audio.waveform[0], self._frontend
        same = trip is not None and trip.waveform.shape == audio.waveform.shape
        if own is None:
            if trip is not None and same and trip.recipe == self.recipe:
                return FreshMel(waveform, trip.mel[0].cpu(), self.recipe)
            return fresh_mel(waveform, None, self.recipe)
        if trip is not None and same:
            mel = trip.mel[0].cpu()
        else:
            mel = own.encode(waveform[None])[0].cpu()
        # The recipe is the front end's, whatever the clip.
        recipe = self.recipe if self._front_end_fault() is None else None
        return FreshMel(waveform, mel, recipe, own.name, own.frames_first)


class _StoredMels:
    """The files of a cache: by the pattern of their names, or found by their stems."""

    def __init__(self, settings: AuditSettings) -> None:
        assert settings.cache is not None
        self._folder, self._pattern = settings.cache, settings.cache_pattern
        self._by_stem: dict[str, list[Path]] = {}
        if self._pattern is not None:
            try:
                check_pattern(self._pattern)
            except ValueError as error:
                raise ValueError(f"--cache-pattern {error}") from None
            if not self._folder.is_dir():
                find_mels(self._folder)  # raises
            return
        for file in find_mels(self._folder):
            for stem in stems_of(file):
                self._by_stem.setdefault(stem, []).append(file)

    def of(self, item: ManifestItem) -> tuple[Path, ...]:
        """Return the stored mels of a clip; none where it has none."""
        clip = Clip(item.name, item.path, "user", item=item)
        if self._pattern is not None:
            path = self._folder / name_of_mel(self._pattern, clip)
            if path.is_file():
                return (path,)
            # A file system may keep another normal form of Unicode.
            others = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
            return tuple(dict.fromkeys(other for other in others if other.is_file()))[:1]
        stems = dict.fromkeys([*stems_of(item.path), *stems_of(Path(f"{item.name}.x"))])
        files = dict.fromkeys(file for stem in stems for file in self._by_stem.get(stem, ()))
        return match_mels(list(files), [clip]).mels.get(clip.name, ()) if files else ()

    def name_of(self, item: ManifestItem) -> str:
        """Return what the mel of a clip is called."""
        clip = Clip(item.name, item.path, "user", item=item)
        if self._pattern is not None:
            return one_line(Path(name_of_mel(self._pattern, clip)))
        return one_line(Path(clip.path.stem if item.is_file else item.name.rpartition("/")[2]))


_Step = TypeVar("_Step")


def _guarded(
    item: AuditItem, draft: _Draft, step: Callable[[], _Step], *, cause: str = ""
) -> Row | _Step:
    """Return what a step returns, or the row so far with what it raised, and the cause of that."""
    try:
        return step()
    except Exception as error:
        row = draft.row if not cause else dataclasses.replace(draft.row, cause=cause)
        return _broken(row, item.item, error)


def _broken(row: Row, item: ManifestItem, error: Exception) -> Row:
    """Return the row of a clip that could not be finished."""
    short_of_memory = failed_allocation(error)
    if short_of_memory:
        # Without its key: the next run tries again.
        return dataclasses.replace(row, key="", outcome="unfinished", reason=short_of_memory)
    # What people caused is told in words; anything else is a fault of melcheck's, and has a name.
    told = at_its_place(item, error)
    if row.cause == RAISED:
        row = dataclasses.replace(row, key="")  # it may be corrected where no hash is taken
    if not isinstance(error, (ValueError, OSError)):
        told = f"{type(error).__name__}: {told}"
    return dataclasses.replace(row, outcome="unreadable", reason=plain_text(told))


def _put_faults(draft: _Draft, faults: AudioFaults, *, channels: int) -> None:
    """Put the figures of the audio into a row, and its faults, of which the first is the cause."""
    found = faults.found()
    draft.put(
        sample_rate=faults.sample_rate,
        channels=channels,
        duration_seconds=faults.seconds,
        cause=found[0].code if found else "",
        notes=(*draft.row.notes, *map(str, found)),
        **faults.columns(),
    )


def _checked(row: Row) -> Row:
    """Return the row of a clip whose audio alone was looked at; silence is of no use."""
    if row.cause == "silent-clip":
        return dataclasses.replace(row, outcome="failed", reason="the clip is silent")
    return dataclasses.replace(row, outcome="checked")


def _stale(row: Row, cache: str, code: str, text: str) -> Row:
    """Return a row that its stored mel fails; what failed before remains the cause."""
    failed = row.outcome == "failed"
    return dataclasses.replace(
        row,
        outcome="failed",
        reason=f"{row.reason}; {text}" if failed else text,
        cause=row.cause if failed else code,
        cache=cache,
        cache_cause=code,
    )


def _metrics(trip: RoundTrip) -> MelMetrics:
    """Return the metrics of a round trip of one item, without those of each frame.

    They are `RoundTrip.metrics()` to the last digit, in half the time.
    """
    mask = trip.frame_mask[0]
    mel, again = (each[0] if bool(mask.all()) else each[0][:, mask] for each in trip.mels_in_nats())
    running = RunningMetrics(log_floor=trip.recipe.floor_nats)
    running.update(mel, again)
    return running.result()


def _item(trip: RoundTrip, place: int, audio: LoadedAudio) -> RoundTrip:
    one = slice(place, place + 1)

    def of(tensor: Tensor) -> Tensor:
        return tensor[one]

    return dataclasses.replace(
        trip,
        waveform=of(trip.waveform),
        mel=of(trip.mel),
        reconstructed_waveform=of(trip.reconstructed_waveform),
        reconstructed_mel=of(trip.reconstructed_mel),
        valid_samples=(trip.valid_samples[place],),
        audio=audio,
    )


def _hash_or_reason(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        return error_text(error)
