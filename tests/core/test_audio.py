"""A file becomes `[1, samples]` at the wanted rate, whatever decodes it; what cannot says why.

Each test runs with both decoders. TorchCodec's cases are skipped where FFmpeg does not load.
"""

from __future__ import annotations

import os
import re
import struct
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from melcheck import audio
from melcheck.audio import AudioError, LoadedAudio, decoder_name, load_audio
from melcheck.config import MelCheckConfig

_FIXTURES = Path(__file__).parents[2] / "fixtures" / "audio"
_RATE = 24_000
_TARGET = 72_000

# One step of the format's width: libsndfile rounds down when it writes WAV. Float is exact.
_STEP = {"PCM_16": 2.0**-15, "PCM_24": 2.0**-23, "PCM_32": 2.0**-31, "FLOAT": 0.0}


@pytest.fixture(params=["soundfile", "torchcodec"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have `load_audio` use this decoder."""
    name: str = request.param
    if name == "torchcodec":
        _need_torchcodec()
    else:
        monkeypatch.setattr(audio, "decoder_name", audio.soundfile_name)
    return name


each_decoder = pytest.mark.usefixtures("decoder")


def _need_torchcodec() -> None:
    if audio._torchcodec_name() is None:
        pytest.skip("TorchCodec finds no FFmpeg libraries; install FFmpeg 4 to 8 to run this")


def _signal(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """Return partials below 3 kHz, each channel with its own, `[samples, channels]`, peak 0.5."""
    time = np.arange(round(seconds * rate))[:, None] / rate
    pitch = 110.0 * (1 + np.arange(channels))
    partials = sum(np.sin(2 * np.pi * pitch * k * time + k) / k for k in (1, 2, 3, 4))
    return 0.2 * partials


@dataclass(frozen=True)
class Format:
    """A container, what is in it, and how far its samples may be from what was written.

    FFmpeg misplaces the sound of an OGG of a single page by up to 448 samples (5.1.9), so that one
    has to be long.
    """

    suffix: str
    subtype: str
    atol: float
    seconds: float = 1.0


_FORMATS = {
    "wav-pcm16": Format(".wav", "PCM_16", _STEP["PCM_16"]),
    "wav-pcm24": Format(".wav", "PCM_24", _STEP["PCM_24"]),
    "wav-pcm32": Format(".wav", "PCM_32", _STEP["PCM_32"]),
    "wav-float": Format(".wav", "FLOAT", _STEP["FLOAT"]),
    "flac-pcm16": Format(".flac", "PCM_16", _STEP["PCM_16"]),
    "flac-pcm24": Format(".flac", "PCM_24", _STEP["PCM_24"]),
    "aiff-pcm16": Format(".aiff", "PCM_16", _STEP["PCM_16"]),
    # Measured on this signal: 0.012 for Vorbis and 0.027 for MP3, at libsndfile's default quality.
    "ogg-vorbis": Format(".ogg", "VORBIS", 2.5e-2, seconds=8.0),
    "mp3": Format(".mp3", "MPEG_LAYER_III", 5e-2),
}
formats = pytest.mark.parametrize("kind", _FORMATS.values(), ids=list(_FORMATS))
_LOSSLESS = [name for name, kind in _FORMATS.items() if kind.atol <= _STEP["PCM_16"]]
_LOSSY = [name for name in _FORMATS if name not in _LOSSLESS]


def _write(path: Path, samples: np.ndarray, rate: int = _RATE, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def _write_as(folder: Path, kind: Format, samples: np.ndarray, rate: int = _RATE) -> Path:
    return _write(folder / f"clip{kind.suffix}", samples, rate, kind.subtype)


def _load(path: Path, seconds: float | None = 3.0, **options: bool) -> LoadedAudio:
    return load_audio(MelCheckConfig(path, _RATE, seconds, **options))


# What a file becomes.


@each_decoder
@formats
def test_samples_are_those_that_were_written(tmp_path: Path, kind: Format) -> None:
    samples = _signal(kind.seconds, _RATE)
    loaded = _load(_write_as(tmp_path, kind, samples), None).waveform
    expected = torch.from_numpy(samples.T).float()
    # The format's own error, and float32 rounding: 3e-8 at 0.5.
    torch.testing.assert_close(loaded, expected, rtol=0, atol=kind.atol + 3e-8)


@each_decoder
@formats
def test_result_is_one_channel_of_float32(tmp_path: Path, kind: Format) -> None:
    path = _write_as(tmp_path, kind, _signal(kind.seconds, _RATE, channels=2))
    waveform = _load(path, 1.0).waveform
    assert (list(waveform.shape), waveform.dtype) == ([1, _RATE], torch.float32)


@each_decoder
@pytest.mark.parametrize("channels", [1, 2, 6], ids=["mono", "stereo", "5.1"])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    samples = _signal(1.0, _RATE, channels).astype(np.float32)
    loaded = _load(_write(tmp_path / "clip.wav", samples, subtype="FLOAT"))
    expected = torch.from_numpy(samples.astype(np.float64).mean(axis=1))[None].float()
    assert loaded.source_channels == channels
    # Averaging six float32 numbers: 3e-8 was measured.
    torch.testing.assert_close(loaded.waveform, expected, rtol=0, atol=1e-7)


@each_decoder
@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_a_longer_file_gives_exactly_the_target(tmp_path: Path, rate: int) -> None:
    loaded = _load(_write(tmp_path / "clip.flac", _signal(3.5, rate), rate))
    assert (loaded.waveform.shape[-1], loaded.valid_samples) == (_TARGET, _TARGET)


@each_decoder
@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100])
def test_a_file_of_the_target_length_gives_the_target(tmp_path: Path, rate: int) -> None:
    loaded = _load(_write(tmp_path / "clip.wav", _signal(3.0, rate), rate))
    assert loaded.waveform.shape[-1] == _TARGET


@each_decoder
@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_resampling_keeps_the_sound(tmp_path: Path, rate: int) -> None:
    loaded = _load(_write(tmp_path / "clip.wav", _signal(1.0, rate), rate, "FLOAT"))
    expected = torch.from_numpy(_signal(1.0, _RATE).T).float()
    inner = slice(500, -500)  # at the ends the kernel sees zeros
    # Partials below 450 Hz lie in the kernel's passband: 2.4e-4 was measured, from 22,050 Hz.
    torch.testing.assert_close(loaded.waveform[:, inner], expected[:, inner], rtol=0, atol=5e-4)


@each_decoder
def test_rate_and_channels_of_the_file_are_told() -> None:
    loaded = _load(_FIXTURES / "guitar-stereo.flac")
    told = (loaded.source_sample_rate, loaded.source_channels, loaded.sample_rate)
    assert told == (44_100, 2, _RATE)


def test_result_names_its_decoder(decoder: str) -> None:
    assert _load(_FIXTURES / "kokoro-short.flac").decoder.startswith(decoder)


@each_decoder
def test_a_shorter_file_keeps_its_length() -> None:
    loaded = _load(_FIXTURES / "kokoro-short.flac")
    assert (loaded.waveform.shape[-1], loaded.valid_samples) == (19_378, 19_378)


@each_decoder
def test_padding_reaches_the_target() -> None:
    assert _load(_FIXTURES / "kokoro-short.flac", pad_short=True).waveform.shape[-1] == _TARGET


@each_decoder
def test_padding_is_not_counted_as_signal() -> None:
    assert _load(_FIXTURES / "kokoro-short.flac", pad_short=True).valid_samples == 19_378


@each_decoder
def test_padding_is_zeros_behind_the_signal() -> None:
    plain = _load(_FIXTURES / "kokoro-short.flac").waveform
    padded = _load(_FIXTURES / "kokoro-short.flac", pad_short=True).waveform
    zeros = torch.zeros(1, _TARGET - plain.shape[-1])
    assert torch.equal(padded, torch.cat([plain, zeros], dim=-1))


@each_decoder
def test_a_longer_file_is_not_padded() -> None:
    loaded = _load(_FIXTURES / "kokoro-kumo-en.wav", pad_short=True)
    assert loaded.valid_samples == _TARGET


@each_decoder
def test_no_duration_reads_the_whole_file() -> None:
    assert _load(_FIXTURES / "kokoro-kumo-en.wav", None).waveform.shape[-1] == 82_452


@each_decoder
def test_values_beyond_full_scale_are_kept(tmp_path: Path) -> None:
    samples = 8.0 * _signal(0.5, _RATE)
    loaded = _load(_write(tmp_path / "clip.wav", samples, subtype="FLOAT")).waveform
    assert loaded.abs().max().item() == np.float32(np.abs(samples).max())


@each_decoder
def test_reading_twice_gives_the_same_bits() -> None:
    first, second = (_load(_FIXTURES / "guitar-stereo.flac").waveform for _ in range(2))
    assert torch.equal(first, second)


@each_decoder
def test_a_format_does_not_depend_on_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp3"
    path.write_bytes((_FIXTURES / "kokoro-short.flac").read_bytes())
    expected = _load(_FIXTURES / "kokoro-short.flac").waveform
    assert torch.equal(_load(path).waveform, expected)


_ODD_NAMES = {
    "spaces": "my clip 1.wav",
    "quotes": 'it\'s "new".wav',
    "line-break": "two\nlines.wav",
    "japanese": "日本語の音声.wav",
    "combining": "cafe\u0301.wav",
    "colon": "take:2.wav",
    "percent": "50%d.wav",
    "dash": "-i.wav",
    "hash": "a#b?c.wav",
}
odd_names = pytest.mark.parametrize("name", _ODD_NAMES.values(), ids=list(_ODD_NAMES))


@each_decoder
@odd_names
def test_any_file_name_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)  # a relative name, where a colon might pass for a protocol
    _write(Path("plain.wav"), _signal(0.1, _RATE)).rename(name)
    assert _load(Path(name)).valid_samples == 2_400


@each_decoder
@formats
def test_a_sound_file_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: Format
) -> None:
    _load(_write_as(tmp_path, kind, _signal(4.0, _RATE)))
    assert capfd.readouterr() == ("", "")


# Reading a part.


@each_decoder
@pytest.mark.parametrize(
    ("suffix", "rate"),
    [
        *((".wav", rate) for rate in (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)),
        *((suffix, rate) for suffix in (".flac", ".ogg", ".mp3") for rate in (24_000, 44_100)),
    ],
)
def test_part_equals_the_same_part_of_the_whole(tmp_path: Path, rate: int, suffix: str) -> None:
    path = _write(tmp_path / f"clip{suffix}", _noise(4.0, rate), rate)
    whole = _load(path, None).waveform[:, : _TARGET // 3]
    # Convolving another length may sum in another order: 9e-8 was measured, from 16 kHz.
    torch.testing.assert_close(_load(path, 1.0).waveform, whole, rtol=0, atol=2e-7)


@each_decoder
@pytest.mark.parametrize("seconds", [0.001, 0.0213, 0.5, 1.2345, 3.9])
def test_part_equals_the_whole_at_any_cut(tmp_path: Path, seconds: float) -> None:
    path = _write(tmp_path / "clip.wav", _signal(4.0, 44_100), 44_100, "FLOAT")
    part = _load(path, seconds).waveform
    whole = _load(path, None).waveform[:, : part.shape[-1]]
    torch.testing.assert_close(part, whole, rtol=0, atol=2e-7)  # as above


@each_decoder
@pytest.mark.parametrize("rate", [16_000, _RATE, 44_100])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg"])
@pytest.mark.parametrize(
    ("offset", "begins"), [(1.2345, 1.2345), ("middle", 1.5), (60.0, 3.0)], ids=str
)
def test_a_part_that_begins_later_is_that_of_the_whole(
    tmp_path: Path, rate: int, suffix: str, offset: Any, begins: float
) -> None:
    path = _write(tmp_path / f"a{suffix}", _signal(5.0, rate, 2), rate)
    whole = load_audio(MelCheckConfig(path, _RATE, None)).waveform
    part = load_audio(MelCheckConfig(path, _RATE, 2.0, offset=offset))
    assert part.begin_seconds == pytest.approx(begins, abs=1e-3)
    first = round(part.begin_seconds * _RATE)
    # Float rounding of libmpg123, which joins its frames anew after a seek.
    torch.testing.assert_close(
        part.waveform, whole[:, first : first + 2 * _RATE], rtol=0, atol=1e-6
    )


def test_an_offset_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav", _signal(1.0, _RATE))
    with pytest.raises(AudioError, match=r"ends at 1\.00 s, before the offset of 2 s"):
        load_audio(MelCheckConfig(path, _RATE, None, offset=2.0))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_without_the_kernels_reach_the_last_samples_would_differ(rate: int) -> None:
    samples = torch.from_numpy(_signal(2.0, rate).T).float()
    whole = torchaudio.functional.resample(samples, rate, _RATE)[:, :_RATE]
    short = torchaudio.functional.resample(samples[:, :rate], rate, _RATE)[:, :_RATE]
    assert (whole - short).abs().max().item() > 1e-3


@each_decoder
@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_damage_behind_the_part_is_not_met(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"clip{suffix}", _noise(8.0, _RATE))
    expected = _load(path, 1.0).waveform
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert torch.equal(_load(path, 1.0).waveform, expected)


def test_soundfile_is_asked_for_the_part_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    read = soundfile.SoundFile.read

    def spy(file: soundfile.SoundFile, frames: int, **options: object) -> np.ndarray:
        asked.append(frames)
        return read(file, frames, **options)

    monkeypatch.setattr(audio, "decoder_name", audio.soundfile_name)
    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    _load(_write(tmp_path / "clip.wav", _signal(4.0, 48_000), 48_000), 1.0)
    # One second, and the reach of a kernel of six crossings at 0.99 * 24 kHz.
    assert asked == [48_000 + 14]


def test_torchcodec_is_asked_for_the_part_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _need_torchcodec()
    from torchcodec.decoders import AudioDecoder

    asked: list[float] = []
    read = AudioDecoder.get_samples_played_in_range

    def spy(self: AudioDecoder, start: float, stop: float) -> object:
        asked.append(stop)
        return read(self, start, stop)

    monkeypatch.setattr(AudioDecoder, "get_samples_played_in_range", spy)
    _load(_write(tmp_path / "clip.wav", _signal(4.0, 48_000), 48_000), 1.0)
    assert [round(stop * 48_000) for stop in asked] == [48_000 + 14]


def _noise(seconds: float, rate: int) -> np.ndarray:
    """Return noise that no codec can make small, `[samples]`."""
    return 0.1 * np.random.default_rng(0).standard_normal(round(seconds * rate))


# The two decoders.


@pytest.mark.parametrize("name", sorted(path.name for path in _FIXTURES.glob("*.[fw]*")))
def test_decoders_agree_bit_for_bit_on_lossless_fixtures(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reference, estimate = _by_both(monkeypatch, _FIXTURES / name)
    assert torch.equal(reference, estimate)


@pytest.mark.parametrize("name", _LOSSLESS)
def test_decoders_agree_bit_for_bit_on_lossless_formats(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    path = _write_as(tmp_path, _FORMATS[name], _signal(1.5, 44_100, channels=2), 44_100)
    reference, estimate = _by_both(monkeypatch, path)
    assert torch.equal(reference, estimate)


@pytest.mark.parametrize("name", _LOSSY)
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.5, None], ids=["part", "whole"])
def test_decoders_agree_on_lossy_formats(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, rate: int, seconds: float | None
) -> None:
    path = _write_as(tmp_path, _FORMATS[name], _noise(4.0, rate), rate)
    reference, estimate = _by_both(monkeypatch, path, seconds)
    # Two implementations of the same inverse transform in float32: 4e-7 was measured.
    torch.testing.assert_close(estimate, reference, rtol=0, atol=2e-6)


def test_an_mp3_is_left_to_soundfile(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that a 24 kHz MP3, whose samples depend on FFmpeg's version, has the same mel everywhere.
    monkeypatch.setattr(audio, "decoder_name", lambda: "torchcodec 0, FFmpeg 0")
    assert _load(_FIXTURES / "kokoro-mp3.mp3").decoder == audio.soundfile_name()


def _by_both(
    monkeypatch: pytest.MonkeyPatch, path: Path, seconds: float | None = 3.0
) -> tuple[Tensor, Tensor]:
    _need_torchcodec()
    estimate = _load(path, seconds).waveform
    monkeypatch.setattr(audio, "decoder_name", audio.soundfile_name)
    return _load(path, seconds).waveform, estimate


def test_decoder_name_gives_versions() -> None:
    assert decoder_name().startswith(("torchcodec 0.", "soundfile 0."))


def test_torchcodec_comes_first_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_torchcodec_name", lambda: "torchcodec 1.2, FFmpeg 3")
    assert decoder_name() == "torchcodec 1.2, FFmpeg 3"


def test_soundfile_serves_where_torchcodec_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_torchcodec_name", lambda: None)
    assert decoder_name() == f"soundfile {soundfile.__version__}, libsndfile " + (
        soundfile.__libsndfile_version__
    )


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError, AttributeError])
def test_a_torchcodec_that_cannot_decode_is_not_used(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def broken(source: bytes) -> object:
        raise error(f"no FFmpeg for {len(source)} bytes")

    # The installed one may be for another torch, and then cannot be imported itself.
    decoders = types.SimpleNamespace(AudioDecoder=broken)
    monkeypatch.setitem(sys.modules, "torchcodec", types.SimpleNamespace(decoders=decoders))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    assert audio._torchcodec_name.__wrapped__() is None


# WAV headers that are unusual and right.


def _chunk(name: bytes, content: bytes, length: int | None = None) -> bytes:
    length = len(content) if length is None else length
    return struct.pack("<4sI", name, length) + content + bytes(len(content) % 2)


def _riff(*chunks: bytes, length: int | None = None, name: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return struct.pack("<4sI", name, len(body) if length is None else length) + body


def _fmt(rate: int = _RATE, channels: int = 1) -> bytes:
    width = 2 * channels
    return _chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, rate * width, width, 16))


def _extensible_fmt() -> bytes:
    pcm = bytes.fromhex("0100000000001000800000aa00389b71")
    plain = struct.pack("<HHIIHH", 0xFFFE, 1, _RATE, 2 * _RATE, 2, 16)
    return _chunk(b"fmt ", plain + struct.pack("<HHI", 22, 16, 4) + pcm)


def _ds64(length: int) -> bytes:
    return _chunk(
        b"ds64", struct.pack("<QQQI", min(length + 80, 2**64 - 1), length, length // 2, 0)
    )


_PCM = np.round(8_000 * _signal(0.2, _RATE)[:, 0]).astype("<i2").tobytes()
_LIST = _chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 5) + b"Lavf\0\0")
_ODD = _chunk(b"note", b"odd")
_DATA = _chunk(b"data", _PCM)
_RF64_DATA = _chunk(b"data", _PCM, 0xFFFF_FFFF)


def _streamed(length: int) -> bytes:
    data = _chunk(b"data", _PCM, length)
    return _riff(_fmt(), _LIST, data, length=min(length + 36, 0xFFFF_FFFF))


_WAVS = {
    "list-chunk": _riff(_fmt(), _LIST, _DATA),
    "odd-chunk": _riff(_fmt(), _ODD, _DATA),
    "chunk-behind-the-samples": _riff(_fmt(), _DATA, _LIST),
    "extensible": _riff(_extensible_fmt(), _DATA),
    "rf64": _riff(_ds64(len(_PCM)), _fmt(), _RF64_DATA, length=0xFFFF_FFFF, name=b"RF64"),
    "streamed-ffffffff": _streamed(0xFFFF_FFFF),
    "streamed-ffffffdb": _streamed(0xFFFF_FFDB),
    "streamed-80000000": _streamed(0x8000_0000),
    "streamed-7fffffff": _streamed(0x7FFF_FFFF),
    "streamed-7ffff000": _streamed(0x7FFF_F000),
}


@each_decoder
@pytest.mark.parametrize("content", _WAVS.values(), ids=list(_WAVS))
def test_wav_of_an_unusual_header_is_read_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    expected = torch.from_numpy(np.frombuffer(_PCM, "<i2") / 2.0**15).float()[None]
    assert torch.equal(_load(path).waveform, expected)


# What is refused.

_MISSING = "no such file"
_TRUNCATED = "the file is truncated: its header promises"
_NOT_AUDIO = "cannot be decoded as audio"
_NO_SAMPLES = "the file holds no samples"

_TEXT = b"This is no sound at all.\n" * 40
_WHOLE = _riff(_fmt(), _DATA)
_LISTED = _riff(_fmt(), _LIST, _DATA)
_PROMISED = _chunk(b"data", _PCM, len(_PCM) + 2_000)


def _lossless_part(share: float) -> bytes:
    content = (_FIXTURES / "kokoro-short.flac").read_bytes()
    return content[: round(share * len(content))]


def _mp3_part(share: float) -> bytes:
    content = (_FIXTURES / "kokoro-mp3.mp3").read_bytes()
    return content[: round(share * len(content))]


def _flac_of_length(num_samples: int) -> bytes:
    # The number of samples is the last 36 bits of the eight bytes from 18 on.
    content = bytearray((_FIXTURES / "kokoro-short.flac").read_bytes())
    fields = int.from_bytes(content[18:26], "big") >> 36 << 36
    content[18:26] = (fields | num_samples).to_bytes(8, "big")
    return bytes(content)


_BAD_FILES = {
    "empty": ("a.wav", b"", "the file is empty"),
    "text-as-wav": ("a.wav", _TEXT, _NOT_AUDIO),
    "text-as-flac": ("a.flac", _TEXT, _NOT_AUDIO),
    "text-as-mp3": ("a.mp3", _TEXT, _NOT_AUDIO),
    "text-as-ogg": ("a.ogg", _TEXT, _NOT_AUDIO),
    "text-without-suffix": ("a", _TEXT, _NOT_AUDIO),
    "one-byte": ("a.wav", b"R", _NOT_AUDIO),
    "zeros-as-mp3": ("a.mp3", bytes(4_000), _NOT_AUDIO),
    "wav-cut-in-its-magic": ("a.wav", _WHOLE[:7], _NOT_AUDIO),
    "wav-cut-behind-its-magic": ("a.wav", _WHOLE[:12], _NOT_AUDIO),
    "wav-cut-in-its-format": ("a.wav", _WHOLE[:30], _NOT_AUDIO),
    "wav-cut-behind-its-format": ("a.wav", _WHOLE[:36], _NOT_AUDIO),
    "wav-cut-in-its-list": ("a.wav", _LISTED[:50], _NOT_AUDIO),
    "wav-cut-before-its-samples": ("a.wav", _WHOLE[:44], _TRUNCATED),
    "wav-cut-in-its-samples": ("a.wav", _WHOLE[:999], _TRUNCATED),
    "wav-short-of-45-bytes": ("a.wav", _WHOLE[:-45], _TRUNCATED),
    "wav-with-list-cut": ("a.wav", _LISTED[:-100], _TRUNCATED),
    "wav-with-odd-chunk-cut": ("a.wav", _riff(_fmt(), _ODD, _DATA)[:-100], _TRUNCATED),
    "wav-extensible-cut": ("a.wav", _riff(_extensible_fmt(), _DATA)[:-100], _TRUNCATED),
    "wav-of-another-suffix-cut": ("a.bin", _WHOLE[:-100], _TRUNCATED),
    "rf64-cut": ("a.wav", _WAVS["rf64"][:-100], _TRUNCATED),
    "wav-with-samples-of-length-0": ("a.wav", _streamed(0), _NO_SAMPLES),
    "wav-without-samples": ("a.wav", _riff(_fmt(), _chunk(b"data", b"")), _NO_SAMPLES),
    "wav-of-rate-0": ("a.wav", _riff(_fmt(rate=0), _DATA), _NOT_AUDIO),
    "wav-without-channels": ("a.wav", _riff(_fmt(channels=0), _DATA), _NOT_AUDIO),
    "wav-of-a-prime-rate": ("a.wav", _riff(_fmt(rate=1_000_003), _DATA), "too small a divisor"),
    "flac-cut-in-its-header": ("a.flac", _lossless_part(0.001), _NOT_AUDIO),
    "flac-cut-early": ("a.flac", _lossless_part(0.1), "truncated|cannot be decoded"),
    "flac-cut-late": ("a.flac", _lossless_part(0.9), "truncated|cannot be decoded"),
    "flac-promising-a-terabyte": ("a.flac", _flac_of_length(2**36 - 1), "truncated|cannot be"),
    "mp3-cut-in-its-first-frame": ("a.mp3", _mp3_part(0.002), _NOT_AUDIO),
    "mp3-cut-early": ("a.mp3", _mp3_part(0.2), "the file is truncated"),
    "mp3-cut-late": ("a.mp3", _mp3_part(0.9), "the file is truncated"),
}


@each_decoder
@pytest.mark.parametrize(("name", "content", "message"), _BAD_FILES.values(), ids=list(_BAD_FILES))
def test_bad_file_is_refused_in_a_line_with_its_name_and_the_fix(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AudioError, match=message) as caught:
        _load(path, None)
    first, *others = str(caught.value).split("\n")
    assert (first[: len(f"{path}: ")], others) == (f"{path}: ", [])
    assert re.search(r"\. (Copy|Check|Use|If|Convert) [^\n]+\.$", first)


# What a header promises, to the byte.

_LONG = 0xFFFF_FFFF  # in RF64: the length is in the chunk `ds64`


def _wav(*chunks: bytes, name: bytes = b"RIFF") -> bytes:
    return _riff(_fmt(), *chunks, name=name)


def _rf64(length: int, data_length: int = _LONG, *, ds64_bytes: int = 28) -> bytes:
    content = _ds64(length)[8 : 8 + ds64_bytes]
    return _riff(
        _chunk(b"ds64", content), _fmt(), _chunk(b"data", b"12345678", data_length), name=b"RF64"
    )


_COMPLETE = {
    "as-many-bytes": _wav(_chunk(b"data", b"12345678", 8)),
    "more-bytes": _wav(_chunk(b"data", b"12345678", 7)),
    # What counts its own header among the samples.
    "44-bytes-short": _wav(_chunk(b"data", b"12345678", 52)),
    "streamed": _wav(_chunk(b"data", b"12345678", 0x7FFF_F000)),
    "behind-an-odd-chunk": _wav(_ODD, _chunk(b"data", b"12345678", 8)),
    "no-chunk-of-samples": _wav(),
    "seven-bytes-of-a-chunk": _wav() + b"data\1\0\0",
    "rf64": _rf64(8),
    "rf64-of-fewer-bytes": _rf64(7),
    "rf64-streamed": _rf64(2**63 - 1),
    "rf64-beyond-streamed": _rf64(2**64 - 1),
    "rf64-whose-chunk-gives-the-length": _rf64(9, 8),
    "rf64-streamed-without-ds64": _wav(_chunk(b"data", b"12345678", _LONG), name=b"RF64"),
    "rf64-of-a-ds64-that-is-too-short": _rf64(9, ds64_bytes=15),
}


@pytest.mark.parametrize("content", _COMPLETE.values(), ids=list(_COMPLETE))
def test_a_file_with_what_its_header_promises_is_complete(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    assert audio.checked_head(tmp_path / "a.wav") == content[:12]


_INCOMPLETE: dict[str, tuple[bytes, int, int]] = {
    "45-bytes-short": (_wav(_chunk(b"data", b"12345678", 53)), 53, 8),
    "no-byte": (_wav(_chunk(b"data", b"", 1)), 1, 0),
    "longest": (_wav(_chunk(b"data", b"12345678", 0x7FFF_EFFF)), 0x7FFF_EFFF, 8),
    "behind-an-odd-chunk": (_wav(_ODD, _chunk(b"data", b"12345678", 53)), 53, 8),
    "rf64": (_rf64(53), 53, 8),
    "rf64-of-a-short-ds64": (_rf64(53, ds64_bytes=16), 53, 8),
    "rf64-longer-than-32-bits": (_rf64(2**40), 2**40, 8),
    "rf64-longest": (_rf64(2**63 - 2), 2**63 - 2, 8),
    "rf64-whose-chunk-gives-the-length": (_rf64(8, 53), 53, 8),
}


@pytest.mark.parametrize(
    ("content", "promised", "held"), _INCOMPLETE.values(), ids=list(_INCOMPLETE)
)
def test_a_file_with_less_than_its_header_promises_is_truncated(
    tmp_path: Path, content: bytes, promised: int, held: int
) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    expected = f"promises {promised:,} bytes of samples, it holds {held:,}. Copy or download"
    with pytest.raises(AudioError, match=re.escape(expected)):
        audio.checked_head(tmp_path / "a.wav")


def test_an_rf64_without_samples_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(_rf64(0))
    with pytest.raises(AudioError, match=_NO_SAMPLES):
        audio.checked_head(tmp_path / "a.wav")


# A file of a lossy codec may hold four frames of 1,152 samples less than it promises.
@pytest.mark.parametrize(
    ("name", "fewest", "promised", "wanted"),
    [
        ("a.wav", 10, 10, None),
        ("a.FLAC", 10, 10, None),
        ("a.wav", 7, 10, 7),
        ("a.wav", 10, 10, 12),
        ("a.mp3", 5_392, 10_000, None),
        ("a.ogg", 392, 10_000, 5_000),
    ],
)
def test_decoded_samples_are_complete_to_the_last(
    name: str, fewest: int, promised: int, wanted: int | None
) -> None:
    audio.check_complete(Path(name), fewest, promised, wanted)
    expected = promised if wanted is None else min(promised, wanted)
    fix = "Copy or download it again"
    fix += "." if expected == fewest else ", or convert it to WAV."
    told = f"{expected:,} samples expected from its header, {fewest - 1:,} decoded. {fix}"
    with pytest.raises(AudioError, match=f"{re.escape(told)}$"):
        audio.check_complete(Path(name), fewest - 1, promised, wanted)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"ID3", True),
        (b"\xff\xfb", True),
        (b"\xff\xf2", True),
        (b"\xff\xe3", True),
        (b"\xff\xf1", False),  # AAC: layer 00
        (b"\xff\xfd", False),  # Layer II
        (b"\xff", False),
        (b"RIFF", False),
    ],
)
def test_an_mp3_is_known_by_its_first_bytes(head: bytes, expected: bool) -> None:
    assert audio._is_mp3(head) is expected


@pytest.mark.parametrize(("seconds", "part"), [(1.01, False), (1.0101, True), (np.nan, False)])
def test_a_clip_is_a_part_of_a_file_that_is_longer(seconds: float, part: bool) -> None:
    loaded = LoadedAudio(torch.zeros(1, _RATE), _RATE, _RATE, _RATE, 1, seconds, "a decoder")
    assert loaded.is_part is part


@each_decoder
@pytest.mark.parametrize("suffix", [".aiff", ".aifc"])
def test_a_truncated_aiff_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    soundfile.write(path, _signal(1.0, _RATE), _RATE, format="AIFF")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(AudioError, match=_TRUNCATED):
        _load(path)


@pytest.mark.parametrize("seconds", [2.0, None], ids=["part", "whole"])
def test_a_flac_of_unknown_length_is_read_or_refused_in_words(
    decoder: str, tmp_path: Path, seconds: float | None
) -> None:
    path = tmp_path / "piped.flac"
    path.write_bytes(_flac_of_length(0))
    if decoder == "torchcodec":
        assert _load(path, seconds).valid_samples == 19_378
    else:
        with pytest.raises(AudioError, match="does not give its length"):
            _load(path, seconds)


@each_decoder
def test_a_flac_of_unknown_length_gives_a_part(tmp_path: Path) -> None:
    path = tmp_path / "piped.flac"
    path.write_bytes(_flac_of_length(0))
    expected = _load(_FIXTURES / "kokoro-short.flac", 0.5).waveform
    assert torch.equal(_load(path, 0.5).waveform, expected)


@each_decoder
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf")], ids=["nan", "inf", "minus-inf"]
)
def test_a_sample_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    samples = _signal(0.5, _RATE).astype(np.float32)
    samples[2_400] = value
    path = _write(tmp_path / "clip.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"1 samples are NaN or infinite, the first at 0\.100 s"):
        _load(path)


@each_decoder
def test_a_broken_sample_in_one_channel_is_refused(tmp_path: Path) -> None:
    samples = _signal(0.5, _RATE, channels=2).astype(np.float32)
    samples[7, 1] = np.nan
    with pytest.raises(AudioError, match="NaN or infinite"):
        _load(_write(tmp_path / "clip.wav", samples, subtype="FLOAT"))


@each_decoder
def test_a_broken_sample_behind_the_part_does_not_matter(tmp_path: Path) -> None:
    samples = _signal(2.0, _RATE).astype(np.float32)
    samples[-1] = np.nan
    loaded = _load(_write(tmp_path / "clip.wav", samples, subtype="FLOAT"), 1.0)
    assert loaded.valid_samples == _RATE


@each_decoder
def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav: no such file\. Check the path\."):
        _load(tmp_path / "nowhere.wav")


@each_decoder
def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    link = tmp_path / "link.wav"
    link.symlink_to("nowhere.wav")
    with pytest.raises(FileNotFoundError, match=_MISSING):
        _load(link)


@each_decoder
def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"got a folder\. Name a file in it\."):
        _load(tmp_path)


@each_decoder
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"got a pipe or a device\. Save the audio to a file"):
        _load(tmp_path / "pipe.wav")


@each_decoder
def test_a_file_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "clip.wav", _signal(0.1, _RATE))

    def refuse(self: Path, mode: str) -> object:
        raise PermissionError(13, "Permission denied", str(self), mode)

    # A real mode would not do: root reads everything.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"cannot be read \(Permission denied\)\. Check the path"):
        _load(path)


@each_decoder
@pytest.mark.parametrize(
    "name", ["clip.wav/inner.wav", "x" * 300 + ".wav", "loop.wav"], ids=["in-file", "long", "loop"]
)
def test_an_impossible_path_is_refused(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "clip.wav", _signal(0.1, _RATE))
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    with pytest.raises(AudioError, match="the file cannot be read"):
        _load(tmp_path / name)


@each_decoder
def test_three_samples_have_no_mel(tmp_path: Path) -> None:
    path = _write(tmp_path / "clip.wav", _signal(3 / _RATE, _RATE))
    with pytest.raises(AudioError, match=r"at least 513 samples at 24000 Hz, got 3: .* Use a long"):
        load_audio(MelCheckConfig(path), min_samples=513)


@each_decoder
def test_three_samples_are_audio(tmp_path: Path) -> None:
    assert _load(_write(tmp_path / "clip.wav", _signal(3 / _RATE, _RATE))).valid_samples == 3


@each_decoder
def test_padding_does_not_make_a_clip_long_enough(tmp_path: Path) -> None:
    path = _write(tmp_path / "clip.wav", _signal(3 / _RATE, _RATE))
    with pytest.raises(AudioError, match="at least 513 samples"):
        load_audio(MelCheckConfig(path, pad_short=True), min_samples=513)


@each_decoder
def test_the_fewest_samples_of_use_are_accepted(tmp_path: Path) -> None:
    path = _write(tmp_path / "clip.wav", _signal(513 / _RATE, _RATE))
    assert load_audio(MelCheckConfig(path), min_samples=513).valid_samples == 513


@each_decoder
@odd_names
def test_refusal_of_an_odd_name_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_TEXT)
    with pytest.raises(AudioError) as caught:
        _load(tmp_path / name)
    assert str(caught.value).isprintable()


@each_decoder
def test_a_name_that_is_no_utf8_is_refused_in_words_that_print(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.wav")
    with pytest.raises(FileNotFoundError) as caught:
        _load(path)
    assert str(caught.value).isprintable()


def test_a_format_beyond_soundfile_asks_for_ffmpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "decoder_name", audio.soundfile_name)
    (tmp_path / "clip.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" * 4)
    with pytest.raises(AudioError, match="With FFmpeg installed, TorchCodec reads more formats"):
        _load(tmp_path / "clip.m4a")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x1cftypM4A \0\0\2\0", r"MP4 \(M4A, AAC\)"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81", "WebM or Matroska"),
        (b"#!AMR\n", "AMR"),
    ],
)
def test_a_container_under_another_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, kind: str
) -> None:
    monkeypatch.setattr(audio, "decoder_name", audio.soundfile_name)  # FFmpeg reads AMR
    (tmp_path / "a.wav").write_bytes(head + bytes(4_096))
    with pytest.raises(AudioError, match=f"It is {kind}, whatever its name: convert it"):
        _load(tmp_path / "a.wav")


_GUARDED: dict[str, tuple[int, bool]] = {
    "44100": (44_100, True),
    "11127": (11_127, True),
    "192000": (192_000, True),
    "23999": (23_999, False),
    "1000003": (1_000_003, False),
}


@pytest.mark.parametrize("limit", [13_840, 13_839])
def test_a_kernel_of_the_largest_size_is_accepted(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    # 80 phases of 147 samples and twice the reach: six crossings at 0.99 * 24 kHz, and one sample.
    assert 80 * (147 + 2 * 13) == 13_840
    monkeypatch.setattr(audio, "_MAX_KERNEL_ELEMENTS", limit)
    if limit == 13_840:
        audio.check_rates(Path("clip.wav"), 44_100, _RATE)
        return
    with pytest.raises(AudioError, match="44100 Hz shares too small a divisor with 24000 Hz"):
        audio.check_rates(Path("clip.wav"), 44_100, _RATE)


@pytest.mark.parametrize(("rate", "accepted"), _GUARDED.values(), ids=list(_GUARDED))
def test_only_rates_with_a_huge_kernel_are_refused(rate: int, accepted: bool) -> None:
    def check() -> bool:
        try:
            audio.check_rates(Path("clip.wav"), rate, _RATE)
        except AudioError:
            return False
        return True

    assert check() is accepted
