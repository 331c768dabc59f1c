"""Rows have the figures of `melcheck check`, know what is known, and survive every clip."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import melcheck.audit.rows as rows_module
from melcheck.audio import load_audio
from melcheck.audit.causes import code_of, meaning
from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.rows import ClipRows, make_row_maker
from melcheck.config import MelCheckConfig
from melcheck.diagnosis.causes import explanation
from melcheck.files import sha256_file
from melcheck.manifests import ManifestItem, read_manifest
from melcheck.pipeline import MelPipeline
from melcheck.plan import decodes
from melcheck.profiles import PROFILES
from melcheck.recipes import VOCOS, log_mel
from melcheck.sanity import judge, threshold_rule
from melcheck.speed.stft_distance import stft_distance

AUDIO = Path(__file__).parents[2] / "fixtures" / "audio"
CLIP = AUDIO / "kokoro-short.flac"
SAMPLES, RATE = soundfile.read(CLIP, dtype="float32")
WITHOUT = AuditSettings(vocoder=None)


def items_of(source: Path) -> list[AuditItem]:
    return [AuditItem(index, each) for index, each in enumerate(read_manifest(source))]


@pytest.fixture(scope="module")
def embedded() -> ClipRows:
    return make_row_maker(AuditSettings())


@pytest.fixture(scope="module")
def audio_alone() -> ClipRows:
    return make_row_maker(WITHOUT)


def test_a_row_has_the_figures_of_a_round_trip(embedded: ClipRows) -> None:
    path = AUDIO / "austen-0930.flac"
    [row] = embedded([AuditItem(7, ManifestItem("a", path), group="emma")])
    trip = MelPipeline(MelCheckConfig(path, target_duration=None), vocoder="embedded").round_trip()
    metrics = trip.metrics()[0]
    for name in ("mae", "mse", "snr_db", "centred_snr_db", "pearson"):
        # Optimised layers round differently, and the head magnifies that.
        assert getattr(row, name) == pytest.approx(getattr(metrics, name), rel=1e-3), name
    assert row.reference_floor_share == pytest.approx(metrics.reference_floor_share, abs=1e-4)
    assert row.stft_distance == pytest.approx(float(trip.waveform_distance()), rel=1e-2)
    assert (row.index, row.name, row.group, row.outcome) == (7, "a", "emma", "passed")
    assert row.arithmetic == "fp32"
    assert (row.sample_rate, row.channels, row.reason) == (16_000, 1, "")
    assert row.duration_seconds == pytest.approx(52_640 / 16_000)
    assert row.notes == judge(metrics, notes=trip.notes).notes
    assert row.audio_sha256 == sha256_file(path)
    assert row.decoder


@pytest.mark.parametrize("samples", [200, 300, 5_000, 72_000])
def test_the_distance_is_that_of_the_metrics(samples: int) -> None:
    trip = MelPipeline(vocoder="griffin-lim").round_trip(
        torch.from_numpy(np.resize(SAMPLES, max(samples, 3_000)))[None]
    )
    trip = dataclasses.replace(
        trip,
        waveform=trip.waveform[:, :samples],
        reconstructed_waveform=trip.reconstructed_waveform[:, :samples],
        valid_samples=(samples,),
    )
    found = stft_distance(trip.waveform[0], trip.reconstructed_waveform[0])
    assert found == pytest.approx(float(trip.waveform_distance()), rel=1e-5, nan_ok=True)


def test_an_audit_without_a_vocoder_reads_the_audio(audio_alone: ClipRows) -> None:
    [row] = audio_alone([AuditItem(0, ManifestItem("a", CLIP))])
    assert (row.outcome, row.reason, row.cause) == ("checked", "", "")
    assert math.isnan(row.mae)
    assert row.arithmetic == ""
    assert row.bandwidth_hz > 11_000
    assert row.key


def test_a_part_and_audio_in_a_list_are_the_clip(tmp_path: Path, audio_alone: ClipRows) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (4 * RATE, 2))
    soundfile.write(tmp_path / "long.flac", noise, RATE)
    whole, _ = soundfile.read(tmp_path / "long.flac", dtype="float32")
    soundfile.write(tmp_path / "part.wav", whole[RATE : 3 * RATE], RATE, subtype="FLOAT")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "part.wav", "emma/1.wav")
    row = {"audio_filepath": "long.flac", "offset": 1.0, "duration": 2.0}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    [part] = audio_alone(items_of(tmp_path / "x.jsonl"))
    [inside] = audio_alone(items_of(tmp_path / "x.tar"))
    [alone] = audio_alone([AuditItem(0, ManifestItem("a", tmp_path / "part.wav"))])
    assert {part.outcome, inside.outcome, alone.outcome} == {"checked"}
    for name in ("level_dbfs", "peak_dbfs", "dc", "channels", "duration_seconds"):
        assert getattr(part, name) == getattr(inside, name) == getattr(alone, name), name
    assert part.offset_seconds == 1.0
    assert part.audio_sha256 == sha256_file(tmp_path / "long.flac")
    assert inside.audio_sha256 == alone.audio_sha256
    assert part.place.endswith("x.jsonl, line 1")


def test_what_is_known_is_not_decoded(
    tmp_path: Path, audio_alone: ClipRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES, RATE)
    item = AuditItem(3, ManifestItem("a", path))
    [first] = audio_alone([item])
    again = dataclasses.replace(item, known_key=first.key)
    with monkeypatch.context() as patched:
        patched.delattr(rows_module, "decode_audio")
        [known] = audio_alone([again])
    assert (known.outcome, known.index, known.key) == ("known", 3, first.key)
    soundfile.write(path, SAMPLES[: RATE // 2], RATE)
    [changed] = audio_alone([again])
    assert changed.outcome == "checked"
    assert changed.key != first.key


@pytest.mark.parametrize(
    "other",
    [
        {"vocoder": "griffin-lim"},
        {"duration_seconds": 1.0},
        {"profile": "another"},
        {"rules": (threshold_rule("snr_db=10"),)},
        {"rules": (threshold_rule("a*: mae=0.5"),)},
    ],
    ids=str,
)
def test_a_key_depends_on_what_is_measured(other: dict[str, object]) -> None:
    def key(settings: AuditSettings, item: ManifestItem, audio: str = "0") -> str:
        return make_row_maker(settings).key_of(audio, item)

    item = ManifestItem("a", CLIP)
    expected = key(WITHOUT, item)
    assert key(dataclasses.replace(WITHOUT, limit_seconds=1.0), item) == expected
    assert key(WITHOUT, item, audio="1") != expected
    assert key(WITHOUT, dataclasses.replace(item, offset_seconds=1.0)) != expected
    if "profile" in other:
        other = {"profile": _another_profile()}
    assert key(dataclasses.replace(WITHOUT, **other), item) != expected  # type: ignore[arg-type]


def _another_profile() -> str:
    return next(name for name, each in PROFILES.items() if not decodes(VOCOS, each.recipe))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "no such file. Correct the path, or remove the row."),
    "empty": (lambda path: path.touch(), "the file is empty (0 bytes)"),
    "no-audio": (lambda path: path.write_bytes(b"text" * 99), "cannot be decoded as audio"),
    "folder": (lambda path: path.mkdir(), "no such file"),
    "cut": (lambda path: path.write_bytes(_wav()[:-999]), "the file is truncated"),
    "nan": (lambda path: path.write_bytes(_wav(math.nan)), "1 samples are NaN or infinite"),
    "short": (lambda path: soundfile.write(path, SAMPLES[:300], RATE), "must have at least"),
}


def _wav(first: float = 0.0) -> bytes:
    samples = SAMPLES.copy()
    samples[0] = first
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize(("make", "told"), BROKEN.values(), ids=BROKEN)
def test_a_clip_that_cannot_be_read_has_its_row(
    tmp_path: Path, embedded: ClipRows, make: Callable[[Path], object], told: str
) -> None:
    path = tmp_path / "a.wav"
    make(path)
    good = AuditItem(1, ManifestItem("good", CLIP))
    bad, row = embedded([AuditItem(0, ManifestItem("a", path, "x.csv, line 1")), good])
    assert (bad.outcome, row.outcome) == ("unreadable", "passed")
    assert bad.reason.startswith(f"x.csv, line 1: {path}: ")
    assert told in bad.reason
    assert bad.broken_samples == ("NaN" in told)


def test_a_loss_of_memory_is_told(audio_alone: ClipRows, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*args: object, **kwargs: object) -> object:
        raise MemoryError("Unable to allocate 80 GiB")

    monkeypatch.setattr(rows_module, "decode_audio", greedy)
    [row] = audio_alone([AuditItem(0, ManifestItem("a", CLIP))])
    assert (row.outcome, row.key) == ("unfinished", "")
    assert row.reason.startswith("out of memory: 80 GiB were asked for")


def test_a_failure_has_its_gate_and_cause(tmp_path: Path) -> None:
    maker = make_row_maker(AuditSettings(rules=(threshold_rule("strict*: snr_db=60"),)))
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    strict, silent, other = maker(
        [
            AuditItem(0, ManifestItem("strict/a", CLIP)),
            AuditItem(1, ManifestItem("silent", tmp_path / "silent.wav")),
            AuditItem(2, ManifestItem("b", CLIP)),
        ]
    )
    assert (strict.outcome, silent.outcome, other.outcome) == ("failed", "failed", "passed")
    assert "snr_db" in strict.reason
    assert "must be above 60 (default 20)" in strict.reason
    assert silent.cause == "silent-clip"
    assert strict.cause in ("short", "level", "clip", "vocoder", "places")


@pytest.mark.parametrize(
    ("found", "code"), [("clip", "dc-offset"), ("level", "level")], ids=["nothing", "a-cause"]
)
def test_a_fault_of_the_file_is_the_cause_where_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, code: str
) -> None:
    soundfile.write(tmp_path / "a.wav", 0.3 * SAMPLES[:12_000] + 0.05, RATE)
    told = explanation(found, "no more is known")
    monkeypatch.setattr(rows_module, "explain_round_trip", lambda *_, **__: told)
    rules = (threshold_rule("snr_db=60"),)
    [row] = make_row_maker(AuditSettings(rules=rules))(items_of(tmp_path))
    assert (row.outcome, row.cause, code_of(row)) == ("failed", code, code)
    assert meaning(code).title in row.reason


def test_near_a_limit_the_plain_layers_decide(embedded: ClipRows) -> None:
    [row] = embedded([AuditItem(0, ManifestItem("a", CLIP))])
    trip = MelPipeline(MelCheckConfig(CLIP, target_duration=None), vocoder="embedded").round_trip()
    plain = trip.metrics()[0].snr_db
    # A limit between both would flip the verdict.
    limit = math.nextafter(plain, -math.inf)
    maker = make_row_maker(AuditSettings(rules=(threshold_rule(f"snr_db={limit!r}"),)))
    [near] = maker([AuditItem(0, ManifestItem("a", CLIP))])
    assert near.snr_db == plain
    assert (near.outcome, near.arithmetic) == ("passed", "plain")
    assert row.snr_db == pytest.approx(plain, rel=1e-3)


def test_a_part_of_each_clip_is_measured(embedded: ClipRows) -> None:
    path = AUDIO / "austen-0930.flac"
    [row] = make_row_maker(AuditSettings(duration_seconds=0.5))(
        [AuditItem(0, ManifestItem("a", path))]
    )
    assert row.duration_seconds == pytest.approx(0.5, abs=1e-3)
    [whole] = embedded([AuditItem(0, ManifestItem("a", path))])
    assert row.key != whole.key


def test_a_long_clip_is_computed_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.resize(SAMPLES, 14 * RATE), RATE)
    item = AuditItem(0, ManifestItem("a", path))
    [expected] = make_row_maker(AuditSettings())([item])
    monkeypatch.setattr("melcheck.speed.audio_blocks.LONG_SECONDS", 10.0)
    [row] = make_row_maker(AuditSettings())([item])
    assert row.outcome == expected.outcome == "passed"
    assert row.arithmetic == "plain"
    assert row.mae == pytest.approx(expected.mae, rel=1e-2)
    assert row.level_dbfs == pytest.approx(expected.level_dbfs)
    assert any("computed in chunks" in note for note in row.notes)


@pytest.mark.parametrize("vocoder", [None, "griffin-lim"])
def test_a_long_clip_with_broken_samples_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocoder: str | None
) -> None:
    samples = np.resize(SAMPLES, 2 * RATE)
    samples[RATE] = math.nan
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    monkeypatch.setattr("melcheck.speed.audio_blocks.LONG_SECONDS", 1.0)
    maker = make_row_maker(AuditSettings(vocoder=vocoder))
    [row] = maker([AuditItem(0, ManifestItem("a", tmp_path / "long.wav"))])
    assert (row.outcome, row.broken_samples, code_of(row)) == ("unreadable", 1, "broken")
    assert "samples are NaN or infinite" in row.reason


# The user's code.


def double_mel(waveform: Tensor) -> Tensor:
    """A front end whose mel is twice as loud as the vocoder's."""
    return log_mel(2 * waveform, VOCOS)


def own_mel(waveform: Tensor) -> Tensor:
    return log_mel(waveform, VOCOS)


def picky_mel(waveform: Tensor) -> Tensor:
    # The probes of other lengths are fine.
    if waveform.shape[-1] == 12_345:
        raise ValueError("not this one")
    return log_mel(waveform, VOCOS)


def settings_of(front_end: str, **others: object) -> AuditSettings:
    name = f"tests.audit.test_rows:{front_end}"
    return AuditSettings(vocoder="griffin-lim", frontend=name, **others)  # type: ignore[arg-type]


def test_code_that_raises_has_its_row(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES[:12_345], RATE)
    soundfile.write(tmp_path / "b.wav", SAMPLES[:12_000], RATE)
    bad, good = make_row_maker(settings_of("picky_mel"))(items_of(tmp_path))
    assert bad.outcome == "unreadable"
    assert "tests.audit.test_rows:picky_mel" in bad.reason
    assert "not this one" in bad.reason
    # The file is no worse for it, and the next run tries again.
    assert (code_of(bad), bad.key) == ("raised", "")
    assert good.outcome in ("passed", "failed")
    assert not math.isnan(good.mae)


def test_a_wrong_front_end_is_the_cause(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES[:12_000], RATE)
    rules = (threshold_rule("snr_db=60"),)
    [row] = make_row_maker(settings_of("double_mel", rules=rules))(items_of(tmp_path))
    assert (row.outcome, row.cause) == ("failed", "front-end")


# The cache.


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A folder `wavs` of clips, beside the cache `mels`."""
    for folder in ("wavs", "mels"):
        (tmp_path / folder).mkdir()
    for name, first in (("a", 0), ("b", 5_000)):
        path = tmp_path / "wavs" / f"{name}.wav"
        soundfile.write(path, SAMPLES[first : first + 10_000], RATE)
        waveform = load_audio(MelCheckConfig(path, target_duration=None)).waveform
        np.save(tmp_path / "mels" / f"{name}.npy", log_mel(waveform, VOCOS)[0].numpy())
    return tmp_path


def cache_rows(
    folder: Path, *, vocoder: str | None = None, pattern: str | None = None, frontend: str = ""
) -> list[Row]:
    settings = AuditSettings(
        vocoder=vocoder,
        cache=folder / "mels",
        cache_pattern=pattern,
        frontend=f"tests.audit.test_rows:{frontend}" if frontend else None,
    )
    return make_row_maker(settings)(items_of(folder / "wavs"))


@pytest.mark.parametrize("vocoder", [None, "embedded"])
@pytest.mark.parametrize("pattern", [None, "{stem}.npy"])
@pytest.mark.parametrize("frontend", ["", "own_mel"])
def test_stored_mels_are_fresh_stale_or_missing(
    cached: Path, vocoder: str | None, pattern: str | None, frontend: str
) -> None:
    if vocoder is not None and (pattern is None or frontend):
        pytest.skip("one of them shows it")
    before = cache_rows(cached, vocoder=vocoder, pattern=pattern, frontend=frontend)
    assert [row.cache for row in before] == ["fresh", "fresh"]
    mel = np.load(cached / "mels" / "a.npy")
    np.save(cached / "mels" / "a.npy", mel[:, 3:])
    (cached / "mels" / "b.npy").rename(cached / "mels" / "c.npy")
    stale, missing = cache_rows(cached, vocoder=vocoder, pattern=pattern, frontend=frontend)
    assert (stale.outcome, stale.cache, stale.cache_cause) == ("failed", "stale", "frame-shift")
    assert (missing.outcome, missing.cache) == ("failed", "missing")
    assert "no mel called b" in missing.reason
    assert (stale.key != before[0].key, missing.key != before[1].key) == (True, True)


def test_a_stored_mel_that_cannot_be_read_is_stale(cached: Path) -> None:
    (cached / "mels" / "a.npy").write_bytes(b"nothing")
    bad, good = cache_rows(cached)
    assert (bad.outcome, bad.cache, bad.cache_cause) == ("failed", "stale", "unreadable")
    assert good.cache == "fresh"


def test_settings_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    for settings, told in (
        (AuditSettings(vocoder="no-such-vocoder"), "name must be"),
        (AuditSettings(frontend="no_such_module:mel"), "no_such_module"),
        (AuditSettings(cache=tmp_path, cache_pattern="{x}.npy"), "--cache-pattern"),
        (AuditSettings(profile=_another_profile()), "--profile"),
    ):
        with pytest.raises(ValueError, match=told):
            make_row_maker(settings)
    with pytest.raises(OSError, match="no such folder"):
        make_row_maker(AuditSettings(cache=tmp_path / "absent"))


def test_batches_of_one_length_give_the_rows_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = make_row_maker(AuditSettings())
    items = [
        AuditItem(index, ManifestItem(str(index), AUDIO / name))
        for index, name in enumerate(("kokoro-short.flac", "nothing.wav", "kokoro-short.flac"))
    ]
    expected = maker(items)
    steps: list[list[int]] = []
    monkeypatch.setattr(maker, "_batch", 2)
    streamed = list(maker.stream(items, started=lambda indices: steps.append(list(indices))))
    found = sorted((row for rows in streamed for row in rows), key=lambda row: row.index)
    assert [0, 2] in steps
    for one, other in zip(found, expected, strict=True):
        assert one.outcome == other.outcome
        assert one.mae == pytest.approx(other.mae, rel=1e-3, nan_ok=True)
