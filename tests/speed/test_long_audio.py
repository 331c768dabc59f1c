"""Long audio in chunks is the whole, in memory that its length does not change, and says when not.

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
from melcheck.metrics import MelMetrics, compare
from melcheck.pipeline import MelPipeline, RoundTrip
from melcheck.recipes import VOCOS
from melcheck.speed.audio_blocks import audio_blocks, resample_blocks
from melcheck.speed.chunked_decoding import context_frames
from melcheck.speed.long_audio import (
    LongChunk,
    LongRoundTrip,
    RunningMetrics,
    SeamError,
    long_round_trip,
    round_trip_chunks,
)
from melcheck.vocoders.base import Vocoder, VocoderInfo
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.phase_head import ConsistentISTFTHead
from melcheck.vocoders.vocos import VocosVocoder

_FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
_SPEECH = ("kokoro-kumo-en.wav", "austen-0870.flac")
_SECONDS = 6.0
_TENSORS = ("waveform", "mel", "reconstructed_waveform", "reconstructed_mel")

# Matrix products of another number of frames may round otherwise. Measured over these vocoders and
# chunks: decoded samples within 7.2e-6, the mel of them within 1.9e-5 nats in the mean; with the
# embedded vocoder, whose projections magnify rounding, 9.5e-4 and 3e-5.
_SAMPLE_ATOL = {"embedded": 3e-3}
_MEL_MEAN_ATOL = {"embedded": 2e-4}


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
            head = ConsistentISTFTHead(32, 1024, 256, "center", 24_000, 100, 1, 1, 2)
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


def pipeline(name: str) -> MelPipeline:
    return MelPipeline(MelCheckConfig("no-file.wav", target_duration=None), vocoder=vocoder(name))


@functools.cache
def whole(name: str) -> RoundTrip:
    return pipeline(name).round_trip(speech())


def chunked(
    name: str, chunk_seconds: float, context: int | None = None
) -> tuple[LongRoundTrip, list[LongChunk]]:
    chunks: list[LongChunk] = []
    blocks = speech().split(10_007, dim=-1)
    result = long_round_trip(
        pipeline(name), blocks, chunk_seconds=chunk_seconds, context=context, on_chunk=chunks.append
    )
    return result, chunks


def joined(chunks: list[LongChunk], tensor: str) -> Tensor:
    return torch.cat([getattr(chunk.trip, tensor) for chunk in chunks], dim=-1)


# Chunks are the whole.


@pytest.mark.parametrize("seconds", [1.0, 2.37, 5.9, 30.0], ids="chunks of {} s".format)
@pytest.mark.parametrize("name", VOCODERS)
def test_chunks_joined_are_the_whole(name: str, seconds: float) -> None:
    expected = whole(name)
    _, chunks = chunked(name, seconds)
    assert torch.equal(joined(chunks, "waveform"), expected.waveform)
    assert torch.equal(joined(chunks, "mel"), expected.mel)
    torch.testing.assert_close(
        joined(chunks, "reconstructed_waveform"),
        expected.reconstructed_waveform,
        rtol=0,
        atol=_SAMPLE_ATOL.get(name, 2e-5),
    )
    # The mean: the logarithm of a cell far below its frame's peak magnifies the rounding there.
    again = joined(chunks, "reconstructed_mel")
    assert again.shape == expected.reconstructed_mel.shape
    assert (again - expected.reconstructed_mel).abs().mean() < _MEL_MEAN_ATOL.get(name, 5e-5)


@pytest.mark.parametrize(
    ("name", "frames"),
    [("embedded", 74), ("official configuration", 29), ("consistent", 23), ("griffin-lim", 98)],
)
def test_context_follows_from_the_model(name: str, frames: int) -> None:
    # (1 + blocks) * 3 for the kernels of 7, 2 for the overlap, 3 for each projection at any rate.
    assert context_frames(vocoder(name)) == frames


def test_a_rest_within_the_context_joins_the_last_chunk() -> None:
    _, chunks = chunked("embedded", 1.95)
    lengths = [chunk.trip.mel.shape[-1] for chunk in chunks]
    assert lengths == [183, 183, 197]
    assert [chunk.first_frame for chunk in chunks] == [0, 183, 366]


@pytest.mark.parametrize("samples", [768, 1_024, 24_000, 24_191, 24_192])
def test_a_short_clip_is_one_chunk(samples: int) -> None:
    clip = speech()[:, :samples]
    [chunk] = round_trip_chunks(pipeline("embedded"), [clip], chunk_seconds=2.0)
    expected = pipeline("embedded").round_trip(clip)
    assert all(torch.equal(getattr(chunk.trip, each), getattr(expected, each)) for each in _TENSORS)


def test_a_file_is_read_in_blocks(tmp_path: Path) -> None:
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech()[0].numpy(), 24_000, subtype="FLOAT")
    config = MelCheckConfig(path, target_duration=None)
    from_file = long_round_trip(MelPipeline(config, vocoder=vocoder("embedded")))
    assert from_file == long_round_trip(pipeline("embedded"), [speech()])


# What is wrong is seen.


@pytest.mark.parametrize("context", [0, 3, 5], ids="{} frames".format)
@pytest.mark.parametrize("name", ["embedded", "consistent"])
def test_too_little_context_is_an_error(name: str, context: int) -> None:
    with pytest.raises(SeamError, match=r"same waveforms .* Give more context"):
        chunked(name, 1.0, context)


def test_phases_that_are_not_carried_along_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    run_head = VocosVocoder.run_head
    monkeypatch.setattr(
        VocosVocoder, "run_head", lambda self, features, **_: run_head(self, features)
    )
    with pytest.raises(SeamError, match="same waveforms"):
        chunked("consistent", 1.0)


def test_a_front_end_that_looks_at_the_whole_clip_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode = VocosVocoder.encode
    monkeypatch.setattr(VocosVocoder, "encode", lambda self, x: encode(self, x / x.abs().max()))
    with pytest.raises(SeamError, match="same mels"):
        chunked("embedded", 1.0)


def test_a_vocoder_of_unknown_reach_needs_a_context() -> None:
    class Other:
        info, recipe = vocoder("official configuration").info, VOCOS
        device = torch.device("cpu")
        encode = staticmethod(vocoder("official configuration").encode)
        decode = staticmethod(vocoder("official configuration").decode)

    other = MelPipeline(MelCheckConfig("no-file.wav"), vocoder=Other())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="context must be given in frames"):
        long_round_trip(other, [speech()])
    assert long_round_trip(other, [speech()], chunk_seconds=2.0, context=29).chunks == 3


@pytest.mark.parametrize(
    ("blocks", "options", "message"),
    [
        ([torch.zeros(1, 767)], {}, "at least 768 samples to go round, got 767"),
        ([], {}, "at least 768 samples to go round, got 0"),
        ([torch.zeros(2, 24_000)], {}, r"must be \[1, samples\], float32"),
        ([torch.zeros(24_000)], {}, r"must be \[1, samples\], float32"),
        ([torch.zeros(1, 24_000).double()], {}, r"must be \[1, samples\], float32"),
        ([torch.zeros(1, 24_000)], {"chunk_seconds": 0.0}, "chunk_seconds must be finite"),
        ([torch.zeros(1, 24_000)], {"chunk_seconds": math.nan}, "chunk_seconds must be finite"),
        ([torch.zeros(1, 24_000)], {"context": -1}, "context must be a number of frames from 0"),
    ],
)
def test_what_cannot_be_used_is_refused(
    blocks: list[Tensor], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        long_round_trip(pipeline("embedded"), blocks, **options)  # type: ignore[arg-type]


# Reading.


def _written(path: Path, rate: int, channels: int, seconds: float = 3.0) -> Path:
    generator = torch.Generator().manual_seed(rate)
    samples = 0.1 * torch.randn(round(seconds * rate) + 5, channels, generator=generator)
    soundfile.write(path, samples.numpy(), rate)
    return path


@pytest.mark.parametrize("duration", [None, 1.7, 100.0], ids="{} s".format)
@pytest.mark.parametrize("channels", [1, 2], ids="{} channels".format)
@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000], ids="{} Hz".format)
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
def test_a_file_that_cannot_be_used_is_told(
    tmp_path: Path, write: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "clip.wav"
    write(path)
    config = MelCheckConfig(path, target_duration=None)
    with pytest.raises(AudioError, match=rf"clip\.wav: .*{message}"):
        long_round_trip(MelPipeline(config, vocoder=vocoder("embedded")))


def test_a_block_is_not_padded() -> None:
    with pytest.raises(ValueError, match="pad_short must be False"):
        next(audio_blocks(MelCheckConfig(_FIXTURES / _SPEECH[0], pad_short=True)))


# Metrics in passing.


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
    return metrics.result()


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
def test_metrics_in_passing_are_those_of_the_whole(kind: str) -> None:
    reference, estimate = _mels(kind)
    [expected] = compare(reference[None], estimate[None], log_floor=VOCOS.log_floor)
    _assert_same(_running(reference, estimate), expected, rtol=1e-9)


def test_metrics_of_chunks_are_those_of_the_whole() -> None:
    result, chunks = chunked("embedded", 2.37)
    [expected] = compare(
        joined(chunks, "mel"), joined(chunks, "reconstructed_mel"), log_floor=VOCOS.log_floor
    )
    _assert_same(result.metrics, expected, rtol=1e-9)


def test_metrics_in_passing_refuse_what_does_not_fit() -> None:
    metrics = RunningMetrics(log_floor=VOCOS.log_floor)
    with pytest.raises(ValueError, match="at least one frame must count"):
        metrics.result()
    metrics.update(torch.zeros(100, 3), torch.zeros(100, 3))
    with pytest.raises(ValueError, match="must have 100 bands as before, got 80"):
        metrics.update(torch.zeros(80, 3), torch.zeros(80, 3))


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
from melcheck.vocoders.base import VocoderInfo, VocosVocoder
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
print(long_round_trip(short).frames, peak())
print(long_round_trip(long).frames, peak())
print(long.round_trip().mel.shape[-1], peak())
"""


@pytest.fixture
def lengths(tmp_path: Path) -> tuple[Path, Path]:
    """Noise of 30 s and of 5 minutes, which is resampled."""
    paths = tmp_path / "30.wav", tmp_path / "300.wav"
    second = 0.1 * torch.randn(12_000, generator=torch.Generator().manual_seed(0))
    for path, seconds in zip(paths, (30, 300), strict=True):
        soundfile.write(path, second.repeat(seconds).numpy(), 12_000)
    return paths


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_five_minutes_need_the_memory_of_half_a_minute(lengths: tuple[Path, Path]) -> None:
    # One process, as importing torch takes longest: a peak never falls, so their order matters.
    command = [sys.executable, "-c", _PEAK, *map(str, lengths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (short, at_first), (long, chunks), (as_long, whole) = [
        map(int, line.split()) for line in done.stdout.splitlines()
    ]
    assert (short, long, as_long) == (2_813, 28_126, 28_126)
    # 1.00 was measured with the embedded vocoder. The error of each frame takes 1 MB of this.
    assert chunks < 1.1 * at_first
    # The yardstick sees what is not constant.
    assert whole > 1.3 * at_first
