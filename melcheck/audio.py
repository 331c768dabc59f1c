"""Reading an audio file as a waveform: decode, mix to mono, resample, cut to length.

A waveform is `[1, samples]`, float32, full scale +-1. TorchCodec decodes where FFmpeg's shared
libraries load, soundfile where they do not; `decoder_name` says which. MP3 is left to soundfile
everywhere: at 24 kHz FFmpeg 5.1.9 differs by up to 0.09 from mpg123, which libsndfile uses, and
from libmad, and those two agree within 1.3e-6. Resampling is `torchaudio.functional.resample`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import re
import stat
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor

from melcheck.audio_notes import (
    MISCOUNTED_BYTES,
    decoder_notes,
    file_notes,
    mended,
    samples_chunk,
)
from melcheck.config import MelCheckConfig
from melcheck.files import failed_allocation, one_line, os_reason

# Samples that a lossy format may hold less than its header promises: encoder delay and padding
# amount to at most a few frames of 1152 samples. WAV and FLAC must be complete.
_LOSSY_SLACK_SAMPLES = 4 * 1152

SAME_LENGTH_SECONDS = 0.01
"""Resampling and the header of a lossy file may round a length by less than this."""

SILENT_PEAK = 1e-4
"""A waveform whose peak is below this is silent: -80 dB of full scale."""

_EXACT_SUFFIXES = frozenset({".wav", ".flac"})

# A lossy frame needs those before it: of an MP3 up to 511 bytes of them, 0.5 s at 8 kbit/s.
_LOSSY_PREROLL_SECONDS = 1.0
_EXACT_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF"})
_EXACT_SUBTYPES = ("PCM_", "FLOAT", "DOUBLE", "ALAC")
_EXACT_CODECS = frozenset({"flac", "alac"})

# torchaudio.functional.resample's defaults, from which the reach of its kernel follows.
LOWPASS_FILTER_WIDTH = 6
ROLLOFF = 0.99
# Elements of the polyphase kernel above which a rate is refused. The worst rate just below it,
# 767,976 Hz to 24,000, was measured at 0.8 GB and 2.6 s.
_MAX_KERNEL_ELEMENTS = 2**25

_PIECE_SAMPLES = 2**24

# Sampling rates of audio, Hz. A header that says 1 Hz would ask for hours of samples.
_RATES = (1_000, 768_000)

_SOUNDFILE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".opus"})
_FORMATS_HINT = " With FFmpeg installed, TorchCodec reads more formats than soundfile."

# libsndfile's number of samples where the header gives none (SF_COUNT_MAX), and its error code for
# an MP3 without a frame in it, whose text is about a missing file instead.
UNKNOWN_LENGTH = 2**63 - 1
_SNDFILE_NO_MP3_FRAME = 7

# Where in TorchCodec's source an error of FFmpeg was noticed, with which its message begins.
_SOURCE_PLACE = re.compile(r"^[^\n]*?\.(?:cpp|h):\d+, ")

# What is found under the name of a WAV, by the bytes at its start.
_OF_FFMPEG = ("MP4 (M4A, AAC)", "WebM or Matroska", "WMA (ASF)", "AMR", "AAC (ADTS)", "Flash video")
_MARKS = (
    (4, b"ftyp", _OF_FFMPEG[0]),
    (0, b"\x1a\x45\xdf\xa3", _OF_FFMPEG[1]),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _OF_FFMPEG[2]),
    (0, b"#!AMR", _OF_FFMPEG[3]),
    (0, b"\xff\xf1", _OF_FFMPEG[4]),
    (0, b"\xff\xf9", _OF_FFMPEG[4]),
    (0, b"FLV\x01", _OF_FFMPEG[5]),
)
_LONGEST_MARK = 12


class AudioError(ValueError):
    """An audio file that cannot be used; the message names the file and the fix."""


@dataclass(frozen=True, slots=True)
class LoadedAudio:
    """A waveform and where it came from.

    Attributes:
        waveform: `[1, samples]`, float32, full scale +-1, at `sample_rate`.
        sample_rate: Hz of `waveform`.
        valid_samples: How many samples, from the start, come from the file; the rest is padding.
        source_sample_rate: Hz of the file.
        source_channels: Channels of the file, of which `waveform` is the mean.
        source_seconds: Length of the whole file; NaN where its header does not say.
        decoder: What decoded it, as `decoder_name` gives it.
        notes: What the file shows of damage that its decoder passes over, in sentences.
        begin_seconds: Where in the file `waveform` begins.
        codec: The lossy codec of the file, such as "MP3"; "" for samples that are stored exactly.
    """

    waveform: Tensor
    sample_rate: int
    valid_samples: int
    source_sample_rate: int
    source_channels: int
    source_seconds: float
    decoder: str
    notes: tuple[str, ...] = ()
    begin_seconds: float = 0.0
    codec: str = ""

    @property
    def is_part(self) -> bool:
        """Whether the file is longer than what was taken of it."""
        taken = self.valid_samples / self.sample_rate
        return self.source_seconds > taken + SAME_LENGTH_SECONDS


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """The decoded samples of a file, before mixing and resampling.

    Attributes:
        samples: `[channels, samples]`, float32, full scale +-1.
        sample_rate: Hz of `samples`.
        source_seconds: Length of the whole file; NaN where its header does not say.
        decoder: What decoded it, as `decoder_name` gives it.
        notes: As in `LoadedAudio`.
        begin_seconds: Where in the file the wanted part begins.
        skipped: Samples at the wanted rate that precede it, since resampling reaches back.
        codec: The lossy codec of the file; "" for samples that are stored exactly.
    """

    samples: Tensor
    sample_rate: int
    source_seconds: float
    decoder: str
    notes: tuple[str, ...] = ()
    begin_seconds: float = 0.0
    skipped: int = 0
    codec: str = ""


@dataclass(frozen=True, slots=True)
class SourcePart:
    """Which samples of a file the configured part depends on.

    Attributes:
        begin: The first of them.
        count: How many; None for all that follow.
        begin_seconds: Where the part itself begins.
        skipped: Samples at the wanted rate before the part.
    """

    begin: int
    count: int | None
    begin_seconds: float
    skipped: int


def load_audio(config: MelCheckConfig, *, min_samples: int = 1) -> LoadedAudio:
    """Read a part of an audio file as a mono waveform at the wanted rate.

    Only what `config.offset` and `config.target_duration` need is decoded, plus the reach of the
    resampler's kernel, so that the result is that of reading the whole file and cutting it.

    Args:
        config: The file, the rate in Hz, the duration in seconds, and whether to pad.
        min_samples: The fewest samples of signal, at `config.target_sr`, that are accepted:
            `MelRecipe.min_samples` for audio from which a mel is extracted.

    Returns:
        The waveform, `[1, samples]`: exactly `config.target_samples` when the file is that long or
        `config.pad_short` is set, else all that the file has.

    Raises:
        FileNotFoundError: There is no such file.
        AudioError: A folder, a file that cannot be read or decoded, one with fewer than
            `min_samples` samples, one with NaN or infinite samples, or a truncated one: a WAV or
            AIFF wherever it was cut, a FLAC or MP3 cut before the end of what is decoded. An OGG
            that was cut counts as a shorter clip, with a note.
    """
    return prepared(decode_audio(config), config, min_samples=min_samples)


def prepared(decoded: DecodedAudio, config: MelCheckConfig, *, min_samples: int = 1) -> LoadedAudio:
    """Return decoded audio as `load_audio` does: the stages that follow decoding.

    Raises:
        AudioError: It has fewer than `min_samples` samples.
    """
    waveform = resample(mix(decoded), config).samples
    target_samples = config.target_samples
    valid_samples = waveform.shape[-1]
    check_length(config, valid_samples, min_samples)
    if config.pad_short and target_samples is not None and valid_samples < target_samples:
        waveform = torch.nn.functional.pad(waveform, (0, target_samples - valid_samples))
    return LoadedAudio(
        waveform=waveform.contiguous(),
        sample_rate=config.target_sr,
        valid_samples=valid_samples,
        source_sample_rate=decoded.sample_rate,
        source_channels=decoded.samples.shape[0],
        source_seconds=decoded.source_seconds,
        decoder=decoded.decoder,
        notes=decoded.notes,
        begin_seconds=decoded.begin_seconds,
        codec=decoded.codec,
    )


def decode_audio(
    config: MelCheckConfig, *, with_soundfile: bool = False, finite: bool = True
) -> DecodedAudio:
    """Decode as much of a file as the part at the wanted rate depends on: the first stage.

    Args:
        config: The file, the rate in Hz and the duration in seconds.
        with_soundfile: Whether soundfile decodes it, even where `decoder_name` says TorchCodec.
        finite: Whether NaN and infinity are errors. Else the caller looks for them: `check_finite`.

    Raises:
        FileNotFoundError: There is no such file.
        AudioError: It cannot be used: see `load_audio`.
    """
    path = config.audio_path
    mp3 = _is_mp3(checked_head(path))
    found: dict[str, None] = {}
    # What is called so libsndfile takes for one, whatever it holds.
    tried = mp3 or path.suffix.lower() == ".mp3"
    with decoder_notes(found) if tried else contextlib.nullcontext():
        name = soundfile_name() if mp3 or with_soundfile else decoder_name()
        decoded = _decode(path, config, name)
    if decoded.samples.shape[-1] == 0:
        raise no_samples(path)
    if finite:
        earlier = round(decoded.begin_seconds * decoded.sample_rate)
        check_finite(path, decoded.samples, decoded.sample_rate, earlier=earlier)
    end = last_second(config, decoded.begin_seconds)
    notes = file_notes(path, rate=decoded.sample_rate, seconds=end)
    return dataclasses.replace(decoded, notes=(*mended(found), *notes))


def mix(decoded: DecodedAudio) -> DecodedAudio:
    """Return the mean of the channels, `[1, samples]`: the second stage."""
    return dataclasses.replace(decoded, samples=decoded.samples.mean(dim=0, keepdim=True))


def resample(decoded: DecodedAudio, config: MelCheckConfig) -> DecodedAudio:
    """Return samples at `config.target_sr`, `config.target_samples` at most: the third stage."""
    samples = decoded.samples
    if decoded.sample_rate != config.target_sr:
        samples = _resampler(decoded.sample_rate, config.target_sr)(samples)
    samples = samples[:, decoded.skipped :][:, : config.target_samples]
    return dataclasses.replace(decoded, samples=samples, sample_rate=config.target_sr, skipped=0)


@functools.lru_cache(maxsize=4)
def _resampler(source_rate: int, target_rate: int) -> Callable[[Tensor], Tensor]:
    # Its kernel takes longer to compute than a few seconds to resample. In float32, as
    # `torchaudio.functional.resample` computes it for a float32 waveform.
    with torch.inference_mode(False):  # the kernel outlives the caller's block
        resampler: Callable[[Tensor], Tensor] = torchaudio.transforms.Resample(
            source_rate,
            target_rate,
            lowpass_filter_width=LOWPASS_FILTER_WIDTH,
            rolloff=ROLLOFF,
            dtype=torch.float32,
        )
    return resampler


def decoder_name() -> str:
    """Return the decoder of all but MP3: "torchcodec 0.17.0, FFmpeg 5" or "soundfile ...".

    TorchCodec counts as usable when it decodes a short WAV held in memory: being importable says
    nothing, since it looks for FFmpeg's libraries only when it first decodes.
    """
    return _torchcodec_name() or soundfile_name()


@functools.cache
def _torchcodec_name() -> str | None:
    try:
        # At import or at first use, one that is for another torch, or that finds no FFmpeg, ends
        # with whatever it comes upon first.
        import torchcodec
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(_probe_wav()).get_all_samples()
    except Exception:
        return None
    ffmpeg = getattr(torchcodec, "ffmpeg_major_version", None)
    return f"torchcodec {torchcodec.__version__}, FFmpeg {ffmpeg or 'of unknown version'}"


def soundfile_name() -> str:
    """Return the decoder of MP3, and of all where TorchCodec does not load."""
    import soundfile

    return f"soundfile {soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}"


def _error(path: Path, message: str) -> AudioError:
    return AudioError(f"{one_line(path)}: {message}")


def check_length(config: MelCheckConfig, samples: int, min_samples: int) -> None:
    """Raise on a clip of fewer than `min_samples` samples."""
    if samples < min_samples:
        raise _error(
            config.audio_path,
            f"the clip must have at least {min_samples} samples at {config.target_sr} Hz, "
            f"got {samples}: shorter ones cannot be used. Use a longer clip.",
        )


def no_samples(path: Path) -> AudioError:
    """Return the error of a file without samples."""
    return _error(
        path,
        "the file holds no samples: it is empty, truncated or a recording that "
        "was never finished. Use a clip that has samples.",
    )


def _probe_wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(1600))
    return buffer.getvalue()


def _is_mp3(head: bytes) -> bool:
    # An ID3 tag, or a frame: 11 bits set, two of version, and 01 for Layer III.
    return head[:3] == b"ID3" or (head[0] == 0xFF and len(head) > 1 and head[1] & 0xE6 == 0xE2)


def checked_head(path: Path) -> bytes:
    """Return the first 12 bytes of a file; raise where its header promises more than it holds."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise _error(path, "expected an audio file, got a folder. Name a file in it.")
        if not stat.S_ISREG(mode):
            raise _error(
                path,
                "expected an audio file, got a pipe or a device. Save the audio to a file first.",
            )
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        raise FileNotFoundError(f"{one_line(path)}: no such file. Check the path.") from None
    except OSError as error:
        raise _error(
            path,
            f"the file cannot be read ({os_reason(error)}). Check the path and its permissions.",
        ) from None
    if not head:
        raise _error(path, "the file is empty (0 bytes). Copy or download it again.")
    chunk = samples_chunk(path, head)
    if chunk is not None:
        promised, held = chunk
        if promised == 0:
            raise no_samples(path)
        if held == 0 or promised - held > MISCOUNTED_BYTES:
            raise _error(
                path,
                f"the file is truncated: its header promises {promised:,} "
                f"bytes of samples, it holds {held:,}. Copy or download it again.",
            )
    return head


def _decode(path: Path, config: MelCheckConfig, decoder: str) -> DecodedAudio:
    with_torchcodec = decoder.startswith("torchcodec")
    decode = _decode_torchcodec if with_torchcodec else _decode_soundfile
    try:
        samples, rate, seconds, part, codec = decode(path, config)
        return DecodedAudio(
            samples,
            rate,
            seconds,
            decoder,
            begin_seconds=part.begin_seconds,
            skipped=part.skipped,
            codec=codec,
        )
    except AudioError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        if failed_allocation(error):
            raise
        other_format = path.suffix.lower() not in _SOUNDFILE_SUFFIXES
        hint = "" if with_torchcodec or not other_format else _FORMATS_HINT
        raise undecodable(path, decoder, error, hint) from None


def undecodable(path: Path, decoder: str, error: Exception, hint: str = "") -> AudioError:
    """Return the error of a file that its decoder could not read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
    kind = _other_container(path)
    fix = (
        f"It is {kind}, whatever its name: convert it to WAV or FLAC"
        f"{' (ffmpeg -i FILE clip.flac)' if kind in _OF_FFMPEG else ''}."
        if kind
        else "Check that the file is complete and of the format that its name gives, or convert it "
        "to WAV or FLAC."
    )
    return _error(path, f"cannot be decoded as audio ({decoder}: {reason}). {fix}{hint}")


def _other_container(path: Path) -> str:
    """Return what the first bytes of a file say that it is, where soundfile reads no such thing."""
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST_MARK)
    except OSError:
        return ""
    found = (kind for place, mark, kind in _MARKS if head[place : place + len(mark)] == mark)
    return next(found, "")


_Decoded = tuple[Tensor, int, float, SourcePart, str]


def _decode_torchcodec(path: Path, config: MelCheckConfig) -> _Decoded:
    from torchcodec.decoders import AudioDecoder

    # An absolute path: FFmpeg takes what precedes a colon in a relative one for a protocol.
    source = str(path.absolute())
    try:
        decoder = AudioDecoder(source)
        metadata = decoder.metadata
        rate = metadata.sample_rate
        if rate is None:
            raise _error(path, "the file does not give its sampling rate. Convert it to WAV.")
        check_rates(path, rate, config.target_sr)
        length = metadata.duration_seconds_from_header
        part = source_part(path, rate, config, None if length is None else round(length * rate))
        if part.count is None:
            samples = decoder.get_all_samples().data[:, part.begin :]
        else:
            # A lossy stream begins late, by its encoder's delay: 1105 samples in an MP3.
            end = part.begin + part.count
            stop_seconds = (end + _slack_samples(path)) / rate
            samples = decoder.get_samples_played_in_range(0.0, stop_seconds).data
            samples = samples[:, part.begin : end]
    except RuntimeError as error:
        # Its text begins with a place in its own source, and repeats the path.
        text = _SOURCE_PLACE.sub("", str(error).replace(source, ""))
        raise RuntimeError(" ".join(text.split())) from None
    # FFmpeg guesses the length of a bare MPEG stream from its bit rate, and can be far off. An MP3
    # header that gives the length gives the encoder's delay too.
    codec, delay_seconds = metadata.codec or "", metadata.begin_stream_seconds_from_header
    header_seconds = metadata.duration_seconds_from_header
    guessed = codec.startswith(("mp", "aac")) and not delay_seconds
    if header_seconds is not None and not guessed:
        promised = max(0, round(header_seconds * rate) - part.begin)
        check_complete(path, samples.shape[-1], promised, part.count)
    seconds = math.nan if header_seconds is None or guessed else header_seconds
    exact = codec.startswith("pcm") or codec in _EXACT_CODECS
    return samples, rate, seconds, part, "" if exact else codec


def _decode_soundfile(path: Path, config: MelCheckConfig) -> _Decoded:
    import soundfile

    promised = 0
    try:
        with soundfile.SoundFile(path) as file:
            promised = file.frames
            check_rates(path, file.samplerate, config.target_sr)
            part = source_part_of(path, file, config)
            if part.count is None and promised == UNKNOWN_LENGTH:
                raise unknown_length(path)
            if part.begin:
                file.seek(part.begin)
            frames = read_samples(file, part.count)
            # soundfile gives [samples, channels].
            seconds = math.nan if promised == UNKNOWN_LENGTH else promised / file.samplerate
            codec = file.subtype if file.format in _EXACT_FORMATS else file.format
            exact = codec.startswith(_EXACT_SUBTYPES)
            samples = torch.from_numpy(frames.T.copy())
            decoded = samples, file.samplerate, seconds, part, "" if exact else codec
    except soundfile.LibsndfileError as error:
        if promised == UNKNOWN_LENGTH:
            raise unknown_length(path) from None
        raise RuntimeError(soundfile_reason(error)) from None
    check_complete(path, len(frames), promised - part.begin, part.count)
    return decoded


def read_samples(file: Any, wanted: int | None) -> np.ndarray[Any, Any]:
    """Return samples of an open `soundfile.SoundFile`, `[samples, channels]`, float32.

    A header may promise what no memory holds: what is there is asked for piece by piece.

    Args:
        file: The file; reading begins where it stands.
        wanted: How many at most; None for all.
    """
    piece = max(1, _PIECE_SAMPLES // file.channels)
    pieces: list[np.ndarray[Any, Any]] = []
    left = math.inf if wanted is None else wanted
    while left > 0:
        asked = int(min(piece, left))
        pieces.append(file.read(asked, dtype="float32", always_2d=True))
        left -= asked
        if len(pieces[-1]) < asked:
            break
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def source_part_of(path: Path, file: Any, config: MelCheckConfig) -> SourcePart:
    """Return which samples of an open `soundfile.SoundFile` the configured part depends on."""
    length = None if file.frames == UNKNOWN_LENGTH else file.frames
    preroll = 0.0 if file.format in _EXACT_FORMATS else _LOSSY_PREROLL_SECONDS
    return source_part(path, file.samplerate, config, length, preroll_seconds=preroll)


def source_part(
    path: Path,
    source_rate: int,
    config: MelCheckConfig,
    length: int | None,
    *,
    preroll_seconds: float = 0.0,
) -> SourcePart:
    """Return which samples of a file the configured part depends on.

    Args:
        path: The file, for messages.
        source_rate: Its rate, Hz.
        config: The rate that is wanted, the offset and the duration.
        length: Samples of the file; None where its header does not say.
        preroll_seconds: How much earlier to begin, for a decoder that seeks.

    Raises:
        AudioError: The middle of a file of unknown length, or an offset beyond the end.
    """
    begin = _first_sample(path, source_rate, config, length)
    # Resampling starts anew at each period of the two rates, with what its kernel reaches before.
    divisor = math.gcd(source_rate, config.target_sr)
    period, outputs = source_rate // divisor, config.target_sr // divisor
    reach = _kernel_reach(source_rate, config.target_sr)
    reach = math.ceil((reach + preroll_seconds * source_rate) / period)
    periods = max(0, begin // outputs - reach)
    skipped = begin - periods * outputs
    count = None
    if config.target_samples is not None:
        count = math.ceil((skipped + config.target_samples) * source_rate / config.target_sr)
        count += _kernel_reach(source_rate, config.target_sr)
    return SourcePart(periods * period, count, begin / config.target_sr, skipped)


def _first_sample(path: Path, source_rate: int, config: MelCheckConfig, length: int | None) -> int:
    """Return where the part begins, in samples at the wanted rate."""
    if config.offset == 0:
        return 0
    if length is None:
        if config.offset == "middle":
            raise _error(
                path,
                "its header does not give its length, so its middle is not known. Name an "
                "offset in seconds, or convert it to WAV.",
            )
        return round(config.offset * config.target_sr)
    samples = length * config.target_sr // source_rate
    if config.target_samples is None:
        begin = 0 if config.offset == "middle" else round(config.offset * config.target_sr)
        if begin >= samples:
            raise _error(
                path,
                f"it ends at {length / source_rate:.2f} s, before the offset of {config.offset:g} "
                "s. Name a smaller offset, or a duration: then the last seconds are taken.",
            )
        return begin
    latest = max(0, samples - config.target_samples)
    if config.offset == "middle":
        return latest // 2
    return min(round(config.offset * config.target_sr), latest)


def last_second(config: MelCheckConfig, begin_seconds: float) -> float | None:
    """Return where in a file the part that begins there ends; None for the end of the file."""
    return None if config.target_duration is None else begin_seconds + config.target_duration


def soundfile_reason(error: Any) -> str:
    """Return libsndfile's reason; its own text repeats the path, which may hold a line break."""
    no_frame = error.code == _SNDFILE_NO_MP3_FRAME
    reason: str = "No MPEG frame found." if no_frame else error.error_string
    return reason.removeprefix("Error : ")


def unknown_length(path: Path) -> AudioError:
    """Return the error of a file whose header gives no length, and whose end was met."""
    return _error(
        path,
        "its header does not give its length, as when it was written to a pipe, and it ends "
        "before target_duration or is damaged. Convert it to WAV, or install FFmpeg.",
    )


def _kernel_reach(source_rate: int, target_rate: int) -> int:
    # The windowed sinc has LOWPASS_FILTER_WIDTH zero crossings on each side, at the rate
    # ROLLOFF * min(rates): so many source samples past the cut still reach the last one kept.
    if source_rate == target_rate:
        return 0
    crossings_per_second = ROLLOFF * min(source_rate, target_rate)
    return math.ceil(LOWPASS_FILTER_WIDTH * source_rate / crossings_per_second) + 1


def check_complete(path: Path, got: int, promised: int, wanted: int | None) -> None:
    """Raise on fewer samples than are wanted and the header promises."""
    expected = promised if wanted is None else min(wanted, promised)
    slack = _slack_samples(path)
    if got < expected - slack:
        # Where a bare MPEG stream gives no length, mpg123 guesses it from the first frames.
        fix = "Copy or download it again" + (", or convert it to WAV." if slack else ".")
        raise _error(
            path,
            f"the file is truncated: {expected:,} samples expected from its header, "
            f"{got:,} decoded. {fix}",
        )


def _slack_samples(path: Path) -> int:
    return 0 if path.suffix.lower() in _EXACT_SUFFIXES else _LOSSY_SLACK_SAMPLES


def check_finite(path: Path, samples: Tensor, sample_rate: int, *, earlier: int = 0) -> None:
    """Raise on NaN or infinity in `[channels, samples]`, which follow `earlier` others."""
    broken = ~torch.isfinite(samples).all(dim=0)
    if broken.any():
        first = earlier + int(broken.int().argmax())
        raise _error(
            path,
            f"{int(broken.sum()):,} samples are NaN or infinite, the first at "
            f"{first / sample_rate:.3f} s. Repair what wrote the file.",
        )


def check_rates(path: Path, source_rate: int, target_rate: int) -> None:
    """Raise on a rate of no audio, and on two whose resampling would take seconds and gigabytes."""
    divisor = max(1, math.gcd(source_rate, target_rate))
    phases, stride = target_rate // divisor, source_rate // divisor
    if source_rate < _RATES[0]:
        raise _error(
            path,
            f"its header gives a sampling rate of {source_rate:,} Hz, and at least {_RATES[0]:,} "
            "is read. If the header is wrong, convert the file with the right rate.",
        )
    if (
        source_rate != target_rate
        and phases * (stride + 2 * _kernel_reach(source_rate, target_rate)) > _MAX_KERNEL_ELEMENTS
    ):
        raise _error(
            path,
            f"{source_rate} Hz shares too small a divisor with {target_rate} Hz to be "
            "resampled exactly. If the header is right, convert the file to a common rate first.",
        )
    if source_rate > _RATES[1]:
        raise _error(
            path,
            f"its header gives a sampling rate of {source_rate:,} Hz, and at most {_RATES[1]:,} "
            "is read. If the header is wrong, convert the file with the right rate.",
        )
