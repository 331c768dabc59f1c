"""Many clips at once give the figures of each clip alone, in order, broken files among them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from melcheck.audio import LoadedAudio, load_audio
from melcheck.benchmark.cases import bench_vocoder
from melcheck.cli.check_clips import check_clips
from melcheck.clips import find_clips
from melcheck.config import MelCheckConfig
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.recipes import VOCOS
from melcheck.speed.many_clips import FileTrip, check_many, trips_of_files
from melcheck.vocoders.base import Vocoder
from melcheck.vocoders.load import load_vocoder

_SECONDS = 0.4
# One length is taken by most clips; others by one each, and one file is shorter than a mel.
_LENGTHS = (1.0, 0.4, 0.31, 0.4, 0.5, 0.36, 0.4, 2.0, 0.4)
# Matrix products of a batch may sum in another order. The embedded vocoder's head magnifies that,
# so that the mels of what it decodes are checked: largest mean difference, nats, with torch's
# kernels for AVX2 and none, 1 and 4 threads, 3.3e-5; of its samples 2.3e-4. A head that does not:
# 1.1e-7 of samples, 7.2e-6 in AVX-512 (`tests/speed/test_long_audio.py`). Times three.
# With AVX2 3e-4, and 3.1e-5 of the MAE. Times three.
_MAGNIFIED_MEL_MEAN_ATOL = 1e-3
_SAMPLE_ATOL = 2.2e-5


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    return load_vocoder("embedded")


@pytest.fixture(scope="module")
def plain() -> MelPipeline:
    """A Vocos of random weights whose head is Vocos' own."""
    config = MelCheckConfig("no-file.wav", target_duration=_SECONDS)
    return MelPipeline(config, vocoder=bench_vocoder("random-official", "cpu"))


@pytest.fixture(scope="module")
def pipeline(vocoder: Vocoder) -> MelPipeline:
    return MelPipeline(MelCheckConfig("no-file.wav", target_duration=_SECONDS), vocoder=vocoder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index, seconds in enumerate(_LENGTHS):
        noise = 0.1 * torch.randn(round(seconds * 44_100), generator=generator)
        paths.append(folder / f"{index}.wav")
        soundfile.write(paths[-1], noise.numpy(), 44_100)
    return paths


@pytest.fixture(scope="module")
def alone(files: list[Path], vocoder: Vocoder) -> list[RoundTrip]:
    return [
        MelPipeline(MelCheckConfig(path, target_duration=_SECONDS), vocoder=vocoder).round_trip()
        for path in files
    ]


@pytest.fixture
def threads() -> Iterator[None]:
    """Torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _trip(found: FileTrip) -> RoundTrip:
    assert found.error == ""
    assert found.trip is not None
    return found.trip


@pytest.mark.parametrize(("workers", "batch_size"), [(2, 1), (1, 3), (2, 16)])
def test_each_clip_is_what_it_is_alone(
    files: list[Path],
    pipeline: MelPipeline,
    alone: list[RoundTrip],
    workers: int,
    batch_size: int,
) -> None:
    found = list(check_many(files, pipeline, workers=workers, batch_size=batch_size))
    assert [each.path for each in found] == files
    for each, expected in zip(found, alone, strict=True):
        trip = _trip(each)
        assert torch.equal(trip.waveform, expected.waveform)
        assert trip.valid_samples == expected.valid_samples
        torch.testing.assert_close(trip.mel, expected.mel, rtol=0, atol=1e-5)
        again = trip.reconstructed_mel - expected.reconstructed_mel
        assert again.abs().mean() < _MAGNIFIED_MEL_MEAN_ATOL
        assert each.metrics is not None
        assert each.metrics.mae == pytest.approx(expected.metrics()[0].mae, rel=0, abs=1e-4)
        assert trip.audio is not None
        assert expected.audio is not None
        assert trip.audio.source_seconds == expected.audio.source_seconds


def test_without_a_head_that_magnifies_rounding_the_samples_are_the_same(
    files: list[Path], plain: MelPipeline
) -> None:
    for each in check_many(files[:4], plain, workers=2, batch_size=3):
        decoded = _trip(each).reconstructed_waveform
        expected = plain.round_trip(_trip(each).waveform).reconstructed_waveform
        torch.testing.assert_close(decoded, expected, rtol=0, atol=_SAMPLE_ATOL)


def test_a_batch_holds_clips_of_one_length(
    files: list[Path], pipeline: MelPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    round_trip = MelPipeline.round_trip

    def spy(self: MelPipeline, waveform: Tensor, **kwargs: list[int]) -> RoundTrip:
        shapes.append(tuple(waveform.shape))
        return round_trip(self, waveform, **kwargs)

    monkeypatch.setattr(MelPipeline, "round_trip", spy)
    list(check_many(files, pipeline, workers=1, batch_size=16))
    assert sorted(shapes) == [(1, 7_440), (1, 8_640), (7, 9_600)]


def test_a_bad_file_says_so_in_its_place(
    files: list[Path], pipeline: MelPipeline, tmp_path: Path
) -> None:
    text, short = tmp_path / "text.wav", tmp_path / "short.wav"
    text.write_text("no sound")
    soundfile.write(short, torch.zeros(700).numpy(), 24_000)
    paths = [files[0], text, tmp_path / "absent.wav", files[1], short, files[3]]
    found = list(check_many(paths, pipeline, workers=2, batch_size=2))
    assert [bool(each.error) for each in found] == [False, True, True, False, True, False]
    assert "cannot be decoded as audio" in found[1].error
    assert "no such file" in found[2].error
    assert "at least 768 samples at 24000 Hz, got 700" in found[4].error
    assert all(each.trip is None and each.metrics is None for each in found if each.error)


def test_a_clip_that_fails_takes_no_other_of_its_batch_along(
    files: list[Path],
    pipeline: MelPipeline,
    alone: list[RoundTrip],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = alone[3].waveform
    encode = MelPipeline.waveform2mel

    def broken(self: MelPipeline, waveform: Tensor) -> Tensor:
        if any(torch.equal(item[None], bad) for item in waveform):
            raise ValueError("this clip fails")
        return encode(self, waveform)

    monkeypatch.setattr(MelPipeline, "waveform2mel", broken)
    errors = [each.error for each in check_many(files, pipeline, workers=1, batch_size=16)]
    assert errors == ["", "", "", "this clip fails", *[""] * 5]


@pytest.mark.parametrize("workers", [1, 2], ids="{} workers".format)
def test_the_clips_in_memory_are_bounded(
    pipeline: MelPipeline, files: list[Path], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    loaded = 0

    def counting(config: MelCheckConfig, **options: int) -> LoadedAudio:
        nonlocal loaded
        loaded += 1
        return load_audio(config, **options)

    monkeypatch.setattr("melcheck.speed.many_clips.load_audio", counting)
    ahead = [
        loaded - given for given, _ in enumerate(check_many(files * 4, pipeline, workers=workers))
    ]
    # Three rounds of two clips a worker: read, computed, handed out.
    assert max(ahead) <= 6 * workers


def test_files_are_read_while_a_clip_is_computed(
    pipeline: MelPipeline, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_next = threading.Event()
    computing = threading.Event()

    def load(config: MelCheckConfig, **options: int) -> LoadedAudio:
        if config.audio_path == files[-1]:
            assert computing.wait(30)
            read_next.set()
        return load_audio(config, **options)

    encode = MelPipeline.waveform2mel

    def slow(self: MelPipeline, waveform: Tensor) -> Tensor:
        computing.set()
        assert read_next.wait(30)  # comes only if the last file is read beside this
        return encode(self, waveform)

    monkeypatch.setattr("melcheck.speed.many_clips.load_audio", load)
    monkeypatch.setattr(MelPipeline, "waveform2mel", slow)
    paths = [*files[:4], files[-1]]
    assert [each.error for each in check_many(paths, pipeline, workers=1)] == [""] * 5


@pytest.mark.parametrize("taken", [1, None], ids=["stopped early", "to the end"])
def test_torchs_threads_are_as_before(
    pipeline: MelPipeline, files: list[Path], taken: int | None, threads: None
) -> None:
    torch.set_num_threads(2)
    running = threading.active_count()
    clips = check_many(files, pipeline)
    for number, _ in enumerate(clips, start=1):
        if number == taken:
            clips.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 2
    assert threading.active_count() == running


def test_several_vocoders_share_a_files_reading(
    pipeline: MelPipeline, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def noting(config: MelCheckConfig, **options: int) -> LoadedAudio:
        read.append(config.audio_path)
        return load_audio(config, **options)

    monkeypatch.setattr("melcheck.speed.many_clips.load_audio", noting)
    other = MelPipeline(pipeline.config, vocoder="griffin-lim")
    found = list(trips_of_files(files[:3], [pipeline, other]))
    names = [[_trip(each).vocoder.name for each in trips] for trips in found]
    assert names == [["embedded", "griffin-lim"]] * 3
    assert read == files[:3]


def test_a_users_vocoder_is_called_from_one_thread_at_a_time(
    vocoder: Vocoder, files: list[Path], threads: None
) -> None:
    callers = set()

    class Other:
        info, recipe, device = vocoder.info, VOCOS, torch.device("cpu")
        encode = staticmethod(vocoder.encode)

        def decode(self, mel: Tensor) -> Tensor:
            callers.add(threading.get_ident())
            return vocoder.decode(mel)

    torch.set_num_threads(2)
    config = MelCheckConfig("no-file.wav", target_duration=_SECONDS)
    list(check_many(files, MelPipeline(config, vocoder=Other())))
    assert callers == {threading.get_ident()}


def test_no_file_is_no_result(pipeline: MelPipeline) -> None:
    assert list(check_many([], pipeline)) == []


@pytest.mark.parametrize("option", ["workers", "batch_size"])
def test_less_than_one_is_refused(pipeline: MelPipeline, option: str) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        list(check_many([], pipeline, **{option: 0}))  # type: ignore[arg-type]


def test_pipelines_that_read_differently_are_refused(pipeline: MelPipeline) -> None:
    other = MelPipeline(MelCheckConfig("no-file.wav", target_duration=1.0), vocoder="griffin-lim")
    with pytest.raises(ValueError, match="must read files in the same way"):
        list(trips_of_files([], [pipeline, other]))


def test_checks_of_clips_are_those_of_each_alone(
    files: list[Path], pipeline: MelPipeline, alone: list[RoundTrip]
) -> None:
    checks = list(check_clips(find_clips(files), {"embedded": pipeline.vocoder}, pipeline.config))
    assert [check.clip.path for check in checks] == files
    for check, expected in zip(checks, alone, strict=True):
        assert check.trip is not None
        assert check.trip.metrics()[0].mae == pytest.approx(expected.metrics()[0].mae, abs=1e-4)
        assert check.baseline is not None
        assert check.baseline.vocoder.name == "griffin-lim"
