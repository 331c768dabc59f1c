"""Long audio in chunks gives the figures of the whole, in bounded memory, or an error.

The vocoders are the embedded one, Griffin-Lim, and two with random weights: one of the official
configuration, one with the head that sums phases up from the first frame.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

from melcheck.audio import AudioError, load_audio, soundfile_name
from melcheck.config import MelCheckConfig
from melcheck.metrics import (
    STFT_WINDOW_LENGTHS,
    MelMetrics,
    compare,
    frame_mae,
    multi_resolution_stft_distance,
)
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.recipes import VOCOS
from melcheck.sanity import judge
from melcheck.speed import audio_blocks as reading
from melcheck.speed.audio_blocks import audio_blocks, is_long, resample_blocks, start_of
from melcheck.speed.chunked_decoding import context_frames
from melcheck.speed.long_audio import (
    RunningDistance,
    RunningMetrics,
    SeamError,
    long_round_trip,
    round_trip_chunks,
    round_trip_of_file,
)
from melcheck.speed.many_clips import check_many
from melcheck.vocoders.base import Vocoder, VocoderInfo
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder

_FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
_SPEECH = ("kokoro-kumo-en.wav", "austen-0870.flac")
_SECONDS = 6.0
_TENSORS = ("waveform", "mel", "reconstructed_waveform", "reconstructed_mel")

# Matrix products of another number of frames may sum in another order. Largest difference of joined
# chunks from the whole over these chunks and torch's kernels for AVX-512, AVX2 and none, 1 and 4
# threads: 7.2e-6 of decoded samples, 1.9e-5 nats in the mean of their mels. The embedded vocoder's
# head magnifies the rounding of the backbone (features: 1.3e-4, samples: 3.6e-3, in AVX2), so that
# only the mels are checked: 6.0e-5 nats in the mean, with AVX2 3e-4. Griffin-Lim's iterations, too,
# make up to 1e-3 of it in samples, and 7.4e-4 nats (AVX2, 4 threads). The first mel, likewise: one
# last bit of a float32, 4.8e-7. Times three.
_ENCODED_ATOL = 1.5e-6
_SAMPLE_ATOL = 2.2e-5
_MEL_MEAN_ATOL = 6e-5
_MAGNIFIED_MEL_MEAN_ATOL = 1e-3
_GRIFFIN_LIM_MEL_MEAN_ATOL = 2.2e-3


def _vocos(backbone: VocosBackbone, head: ISTFTHead) -> VocosVocoder:
    extractor = MelSpectrogramFeatures(24_000, 1024, 256, 100, "center")
    model = Vocos(extractor, backbone, head).eval().requires_grad_(False)
    info = VocoderInfo("random", "this test", None, None, None, 0)
    return VocosVocoder(info, VOCOS, torch.device("cpu"), model)


@functools.cache
def vocoder(name: str) -> Vocoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "official configuration":
            return _vocos(VocosBackbone(100, 512, 1536, 8), ISTFTHead(512, 1024, 256, "center"))
        if name == "consistent":
            head = ConsistentISTFTHead(32, 1024, 256, "center", 24_000, 100, 1, 1, 2, 1)
            return _vocos(VocosBackbone(100, 32, 64, 2), head)
    return load_vocoder(name)


VOCODERS = ("embedded", "official configuration", "consistent", "griffin-lim")


@functools.cache
def speech() -> Tensor:
    clips = [
        load_audio(MelCheckConfig(_FIXTURES / name, target_duration=None)).waveform
        for name in _SPEECH
    ]
    # Neither a whole number of hops nor of chunks.
    return torch.cat(clips, dim=-1)[:, : round(_SECONDS * 24_000) + 77]


@pytest.fixture(scope="module", autouse=True)
def speech_file(tmp_path_factory: pytest.TempPathFactory) -> None:
    global _FILE
    _FILE = tmp_path_factory.mktemp("speech") / "speech.wav"
    soundfile.write(_FILE, speech()[0].numpy(), 24_000, subtype="FLOAT")


_FILE = Path("no-file.wav")


def pipeline(name: str) -> MelPipeline:
    return MelPipeline(MelCheckConfig(_FILE, target_duration=None), vocoder=vocoder(name))


def in_chunks(
    loop: MelPipeline, chunk_seconds: float = 1.0, context: int | None = None
) -> RoundTrip:
    frames = context_frames(loop.vocoder) if context is None else context
    return long_round_trip(loop, chunk_seconds=chunk_seconds, context=frames)


@functools.cache
def whole(name: str) -> RoundTrip:
    return pipeline(name).round_trip(speech())


@functools.cache
def chunked(name: str, chunk_seconds: float) -> list[RoundTrip]:
    context = context_frames(vocoder(name))
    return list(round_trip_chunks(pipeline(name), chunk_seconds=chunk_seconds, context=context))


def joined(chunks: list[RoundTrip], tensor: str) -> Tensor:
    return torch.cat([getattr(chunk, tensor) for chunk in chunks], dim=-1)


# Chunks are the whole.


# 30 s hold all of it.
@pytest.mark.parametrize(
    ("name", "seconds"),
    [(name, 1.0) for name in VOCODERS]
    + [("embedded", 2.37), ("official configuration", 5.9), ("griffin-lim", 30.0)],
)
def test_chunks_joined_are_the_whole(name: str, seconds: float) -> None:
    expected, chunks = whole(name), chunked(name, seconds)
    assert torch.equal(joined(chunks, "waveform"), expected.waveform)
    torch.testing.assert_close(joined(chunks, "mel"), expected.mel, rtol=0, atol=_ENCODED_ATOL)
    decoded = joined(chunks, "reconstructed_waveform")
    assert decoded.shape == expected.reconstructed_waveform.shape
    allowed = _GRIFFIN_LIM_MEL_MEAN_ATOL if name == "griffin-lim" else _MEL_MEAN_ATOL
    if vocoder(name).magnifies_rounding:
        allowed = _MAGNIFIED_MEL_MEAN_ATOL
    elif name != "griffin-lim":
        torch.testing.assert_close(
            decoded, expected.reconstructed_waveform, rtol=0, atol=_SAMPLE_ATOL
        )
    # The mean: the logarithm of a bin far below its frame's peak magnifies the rounding there.
    again = joined(chunks, "reconstructed_mel")
    assert again.shape == expected.reconstructed_mel.shape
    assert (again - expected.reconstructed_mel).abs().mean() < allowed


@pytest.mark.parametrize(
    ("name", "frames"),
    [("embedded", 80), ("official configuration", 29), ("consistent", 26), ("griffin-lim", 98)],
)
def test_context_follows_from_the_model(name: str, frames: int) -> None:
    # (1 + blocks) * 3 for the kernels of 7, 2 for the overlap, 3 for each projection at any rate.
    assert context_frames(vocoder(name)) == frames


def test_a_rest_within_the_context_joins_the_last_chunk() -> None:
    lengths = [chunk.mel.shape[-1] for chunk in chunked("embedded", 1.95)]
    assert lengths == [183, 183, 197]


@pytest.mark.parametrize("samples", [768, 1_024, 24_192])
def test_a_short_clip_is_one_chunk(samples: int) -> None:
    config = MelCheckConfig(_FILE, target_duration=samples / 24_000)
    loop = MelPipeline(config, vocoder=vocoder("embedded"))
    [chunk] = round_trip_chunks(loop, chunk_seconds=2.0, context=74)
    expected = loop.round_trip()
    assert all(torch.equal(getattr(chunk, each), getattr(expected, each)) for each in _TENSORS)


# A long file is checked in chunks.


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MelCheckConfig:
    """A file of 6 s, at another rate than the mel's, where 2 s are long."""
    monkeypatch.setattr(reading, "LONG_SECONDS", 2.0)
    monkeypatch.setattr("melcheck.speed.long_audio._CHUNK_SECONDS", 1.0)
    monkeypatch.setattr("melcheck.audio.decoder_name", soundfile_name)
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech()[0].numpy(), 44_100, subtype="FLOAT")
    return MelCheckConfig(path, target_duration=None)


@pytest.mark.parametrize(
    ("limit", "duration", "long"),
    [
        (2.0, None, True),
        (2.0, 2.5, True),
        (2.0, 2.0, False),
        (3.3, None, False),
        (3.2, None, True),
        (3.2, 1e6, True),
    ],
)
def test_a_file_is_long_where_more_than_the_limit_is_checked(
    recording: MelCheckConfig,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    duration: float | None,
    long: bool,
) -> None:
    assert soundfile.info(recording.audio_path).duration == pytest.approx(3.267, abs=1e-3)
    monkeypatch.setattr(reading, "LONG_SECONDS", limit)
    config = dataclasses.replace(recording, target_duration=duration)
    assert is_long(config) is long
    assert start_of(config).target_duration == min(
        limit, math.inf if duration is None else duration
    )


@pytest.mark.parametrize("content", [None, b"no sound"], ids=["absent", "text"])
def test_what_cannot_be_read_is_not_long(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "clip.wav").write_bytes(content)
    assert not is_long(MelCheckConfig(tmp_path / "clip.wav", target_duration=None))


def test_a_long_file_has_the_figures_of_the_whole(recording: MelCheckConfig) -> None:
    loop = MelPipeline(recording, vocoder=vocoder("official configuration"))
    [found] = check_many([recording.audio_path], loop)
    assert found.trip is not None
    assert found.metrics is not None
    expected = loop.round_trip()
    [metrics] = expected.metrics()
    for name in ("mae", "mse", "max_abs_diff", "snr_db", "pearson", "centred_snr_db"):
        assert getattr(found.metrics, name) == pytest.approx(getattr(metrics, name), rel=1e-4), name
    distance = found.trip.waveform_distance().item()
    assert distance == pytest.approx(expected.waveform_distance().item(), rel=1e-4)
    assert judge(found.metrics).passed == judge(metrics).passed
    assert found.trip.checked_seconds == expected.checked_seconds
    assert not found.trip.is_part


def test_a_long_file_shows_its_worst_part(recording: MelCheckConfig) -> None:
    trip = round_trip_of_file(MelPipeline(recording, vocoder=vocoder("embedded")))
    assert trip.whole is not None
    begin = trip.whole.begin_seconds
    assert begin % 1 == pytest.approx(0, abs=0.02)  # chunks of 94 frames are 1.003 s
    assert trip.part == f"{begin:.1f} to {begin + trip.waveform.shape[-1] / 24_000:.1f} s of 3.3 s"
    first = round(begin * 24_000)
    own = load_audio(recording).waveform[:, first : first + trip.waveform.shape[-1]]
    torch.testing.assert_close(trip.waveform, own, rtol=0, atol=1e-6)
    assert judge(trip.metrics()[0], notes=trip.notes).notes == (
        "figures of the whole file, computed in chunks; pictures, audio and likely cause of its "
        f"worst part, {trip.part}",
    )
    worst = (trip.mel - trip.reconstructed_mel).abs().mean().item()
    assert worst > trip.metrics()[0].mae
    assert trip.audio is not None
    assert trip.audio.source_sample_rate == 44_100


def test_a_vocoder_of_unknown_reach_computes_the_whole(recording: MelCheckConfig) -> None:
    class Other:
        info, recipe = vocoder("official configuration").info, VOCOS
        device = torch.device("cpu")
        encode = staticmethod(vocoder("official configuration").encode)
        decode = staticmethod(vocoder("official configuration").decode)

    other = MelPipeline(recording, vocoder=Other())  # type: ignore[arg-type]
    assert round_trip_of_file(other).whole is None
    with pytest.raises(ValueError, match="context must be given in frames"):
        in_chunks(other)


def test_a_nan_of_the_vocoder_is_an_error(
    recording: MelCheckConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_head = VocosVocoder.run_head
    monkeypatch.setattr(
        VocosVocoder, "run_head", lambda self, x, **more: run_head(self, x, **more) / 0
    )
    monkeypatch.setattr(VocosVocoder, "decode", lambda self, x: self.run_head(self.run_backbone(x)))
    [found] = check_many(
        [recording.audio_path], MelPipeline(recording, vocoder=vocoder("embedded"))
    )
    assert found.error == "the decoded waveform holds NaN or infinity"


# What is wrong is seen.


# At the seams of chunks of 1 s, the samples of the official configuration differ by 9.9e-8 at most
# (0.015 with trained weights and 5 frames of context). The mels of the embedded vocoder's differ by
# 8.2e-4 nats in the mean at most, with 5 frames by 0.23; those of the other such head by 0, 0.023.
@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("official configuration", 0),
        ("embedded", 0),
        ("embedded", 5),
        ("consistent", 0),
        ("consistent", 5),
    ],
)
def test_too_little_context_is_an_error(name: str, context: int) -> None:
    with pytest.raises(SeamError, match=r"same decoded audio .* needs more context"):
        in_chunks(pipeline(name), context=context)


def test_phases_that_are_not_carried_along_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    run_head = VocosVocoder.run_head
    monkeypatch.setattr(
        VocosVocoder, "run_head", lambda self, features, **_: run_head(self, features)
    )
    with pytest.raises(SeamError, match="same decoded audio"):
        in_chunks(pipeline("consistent"))


def test_a_front_end_that_looks_at_the_whole_clip_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode = VocosVocoder.encode
    monkeypatch.setattr(VocosVocoder, "encode", lambda self, x: encode(self, x / x.abs().max()))
    with pytest.raises(SeamError, match=r"same mels .* the whole clip\. Check a shorter"):
        in_chunks(pipeline("embedded"))


# Reading.


def _written(path: Path, rate: int, channels: int, seconds: float = 3.0) -> Path:
    generator = torch.Generator().manual_seed(rate)
    samples = 0.1 * torch.randn(round(seconds * rate) + 5, channels, generator=generator)
    soundfile.write(path, samples.numpy(), rate)
    return path


@pytest.mark.parametrize(
    ("rate", "channels", "duration"),
    [
        (8_000, 1, None),
        (22_050, 2, 1.7),
        (24_000, 2, None),
        (24_000, 1, 1.7),
        (44_100, 1, 100.0),
        (48_000, 2, 1.7),
    ],
)
def test_blocks_of_a_file_are_its_waveform(
    tmp_path: Path, rate: int, channels: int, duration: float | None
) -> None:
    config = MelCheckConfig(
        _written(tmp_path / "noise.wav", rate, channels), target_duration=duration
    )
    blocks = list(audio_blocks(config, block_seconds=0.31))
    assert len(blocks) > 3
    # A convolution of another length may round otherwise: 0 was measured.
    torch.testing.assert_close(
        torch.cat(blocks, dim=-1), load_audio(config).waveform, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("name", ["kokoro-mp3.mp3", "guitar-stereo.flac"])
def test_blocks_of_a_compressed_file_are_its_waveform(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melcheck.audio.decoder_name", soundfile_name)
    config = MelCheckConfig(_FIXTURES / name, target_duration=None)
    joined_blocks = torch.cat(list(audio_blocks(config, block_seconds=0.4)), dim=-1)
    torch.testing.assert_close(joined_blocks, load_audio(config).waveform, rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [1, 7, 100, 5_000])
def test_resampling_takes_blocks_of_any_size(block: int) -> None:
    noise = torch.randn(1, 2_003, generator=torch.Generator().manual_seed(0))
    expected = torchaudio.functional.resample(noise, 44_100, 24_000)
    found = torch.cat(list(resample_blocks(noise.split(block, dim=-1), 44_100, 24_000)), dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def _broken_file(path: Path, rate: int = 24_000, **changes: float) -> Path:
    samples = torch.zeros(3 * rate)
    for second in changes.values():
        samples[round(second * rate)] = math.nan
    soundfile.write(path, samples.numpy(), rate, subtype="FLOAT")
    return path


def test_a_nan_is_found_where_it_is(tmp_path: Path) -> None:
    config = MelCheckConfig(_broken_file(tmp_path / "nan.wav", at=2.5), target_duration=None)
    with pytest.raises(AudioError, match=r"NaN or infinite, the first at 2\.500 s"):
        list(audio_blocks(config, block_seconds=0.4))


def test_a_file_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    path = _written(tmp_path / "cut.flac", 24_000, 1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    config = MelCheckConfig(path, target_duration=None)
    with pytest.raises(AudioError, match=r"cut\.flac: (the file is truncated|cannot be decoded)"):
        list(audio_blocks(config))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda path: path.write_text("no sound"), "cannot be decoded as audio"),
        (lambda path: soundfile.write(path, torch.zeros(0).numpy(), 24_000), "holds no samples"),
        (
            lambda path: soundfile.write(path, torch.zeros(300).numpy(), 24_000),
            "at least 768 samples at 24000 Hz, got 300",
        ),
    ],
    ids=["empty", "text", "no samples", "too short"],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "clip.wav"
    write(path)
    config = MelCheckConfig(path, target_duration=None)
    with pytest.raises(AudioError, match=rf"clip\.wav: .*{message}"):
        in_chunks(MelPipeline(config, vocoder=vocoder("embedded")))


# Metrics in pieces.


def _assert_same(found: MelMetrics, expected: MelMetrics, rtol: float) -> None:
    for field in dataclasses.fields(MelMetrics):
        one = torch.tensor(getattr(found, field.name), dtype=torch.float64)
        other = torch.tensor(getattr(expected, field.name), dtype=torch.float64)
        torch.testing.assert_close(
            one, other, rtol=rtol, atol=0, equal_nan=True, msg=lambda m, f=field: f"{f.name}: {m}"
        )


def _running(reference: Tensor, estimate: Tensor, piece: int = 13) -> MelMetrics:
    metrics = RunningMetrics(log_floor=VOCOS.log_floor)
    pieces = zip(reference.split(piece, -1), estimate.split(piece, -1), strict=True)
    for one, other in pieces:
        metrics.update(one, other)
    return metrics.result(frame_mae=tuple(frame_mae(reference, estimate).tolist()))


def _mels(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mel = -6.0 + 2.5 * torch.randn(100, 200, generator=generator)
    other = mel + 0.1 * torch.randn(100, 200, generator=generator)
    floor = torch.full_like(mel, VOCOS.log_floor)
    return {
        "noise": (mel, other),
        "offset": (mel + 1e4, other + 1e4),
        "identical": (mel, mel),
        "constant reference": (floor, other),
        "constant estimate": (mel, floor),
        "constant, identical": (floor, floor),
        "a NaN": (mel, other.index_fill(1, torch.tensor([150]), math.nan)),
        "zeros": (torch.zeros_like(mel), other),
        "partly at the floor": (mel.clamp(min=-7.0).where(mel > -7.0, floor), other),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "noise",
        "offset",
        "identical",
        "constant reference",
        "constant estimate",
        "constant, identical",
        "a NaN",
        "zeros",
        "partly at the floor",
    ],
)
def test_metrics_in_pieces_are_those_of_the_whole(kind: str) -> None:
    reference, estimate = _mels(kind)
    [expected] = compare(reference[None], estimate[None], log_floor=VOCOS.log_floor)
    _assert_same(_running(reference, estimate), expected, rtol=1e-9)


@pytest.mark.parametrize("samples", [400, 1_000, 20_011])
def test_the_distance_in_pieces_is_that_of_the_whole(samples: int) -> None:
    reference = speech()[0, 24_000 : 24_000 + samples]
    estimate = 0.9 * speech()[0, 24_100 : 24_000 + samples]  # shorter, as what is decoded
    common = len(estimate)
    fitting = [length for length in STFT_WINDOW_LENGTHS if length <= common]
    expected = multi_resolution_stft_distance(
        reference[None], estimate[None], window_lengths=fitting
    )
    running = RunningDistance()
    for one, other in zip(reference.split(777), estimate.split(777), strict=False):
        running.update(one, other)
    assert running.result() == pytest.approx(expected.item(), rel=1e-5)


def test_a_distance_of_less_than_a_window_is_nan() -> None:
    running = RunningDistance()
    running.update(torch.ones(255), torch.ones(255))
    assert math.isnan(running.result())


def test_metrics_in_pieces_refuse_what_does_not_fit() -> None:
    metrics = RunningMetrics(log_floor=VOCOS.log_floor)
    with pytest.raises(ValueError, match="at least one frame must count"):
        metrics.result()
    with pytest.raises(ValueError, match="must both be"):
        metrics.update(torch.zeros(100, 3), torch.zeros(100, 4))


# Memory.

_PEAK = """
import re, sys, torch
from pathlib import Path
from vocos import Vocos
from vocos.feature_extractors import MelSpectrogramFeatures
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone
from melcheck.config import MelCheckConfig
from melcheck.speed.long_audio import long_round_trip
from melcheck.pipeline import MelPipeline
from melcheck.recipes import VOCOS
from melcheck.vocoders.base import VocoderInfo
from melcheck.vocoders.vocos import VocosVocoder
torch.set_num_threads(1)
extractor = MelSpectrogramFeatures(24_000, 1024, 256, 100, "center")
backbone, head = VocosBackbone(100, 16, 32, 1), ISTFTHead(16, 1024, 256, "center")
model = Vocos(extractor, backbone, head).eval().requires_grad_(False)
info = VocoderInfo("random", "this test", None, None, None, 0)
vocoder = VocosVocoder(info, VOCOS, torch.device("cpu"), model)

def peak():
    return re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]

def pipeline(path):
    return MelPipeline(MelCheckConfig(path, target_duration=None), vocoder=vocoder)

short, long = map(pipeline, sys.argv[1:])
print(long_round_trip(short, context=5).checked_seconds, peak())
print(long_round_trip(long, context=5).checked_seconds, peak())
print(long.round_trip().checked_seconds, peak())
"""


@pytest.fixture
def lengths(tmp_path: Path) -> tuple[Path, Path]:
    """Noise of 30 s and of 150 s, which is resampled."""
    paths = tmp_path / "30.wav", tmp_path / "150.wav"
    second = 0.1 * torch.randn(12_000, generator=torch.Generator().manual_seed(0))
    for path, seconds in zip(paths, (30, 150), strict=True):
        soundfile.write(path, second.repeat(seconds).numpy(), 12_000)
    return paths


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_five_times_the_audio_needs_no_more_memory(lengths: tuple[Path, Path]) -> None:
    # One process, as importing torch takes longest: a peak never falls, so their order matters.
    command = [sys.executable, "-c", _PEAK, *map(str, lengths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (short, at_first), (long, chunks), (as_long, whole) = [
        map(float, line.split()) for line in done.stdout.splitlines()
    ]
    assert (short, long, as_long) == (30, 150, 150)
    # Measured: 1.03 in chunks, 1.67 as a whole.
    assert chunks < 1.1 * at_first
    # The comparison detects memory that grows.
    assert whole > 1.3 * at_first
