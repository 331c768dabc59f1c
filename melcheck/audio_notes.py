"""What a file of audio shows of damage that its decoder passes over in silence.

Lost pages of an Ogg stream, frames that an MP3 decoder had to mend, a FLAC whose header contradicts
its frames or its checksum, a WAV that promises a few samples too many. Each becomes a sentence
beside the figures of the clip: the audio is read, but it may not be what was recorded.

References:
    RFC 3533 (Ogg), section 6; RFC 9639 (FLAC), sections 8.2 and 9.1. libmpg123 writes its notes to
    the file descriptor of stderr.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import sys
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from melcheck.files import plain_text, read_bytes

# Files up to this size are looked through.
_MAX_BYTES = 2**28
# Of a FLAC that is longer than what is checked, at most so much is decoded for its checksum.
_MAX_SECONDS = 60.0

_STDERR = 2
_OPUS_RATE = 48_000
_LAST_PAGE = 0x04
_QUOTED = 80
_lock = threading.Lock()

_MPG123 = ("Note: ", "Warning: ", "[src/libmpg123")
_MENDED = ("error:", "Illegal Audio-MPEG-Header", "Warning:")

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

# Sampling rates by their code in a frame of FLAC; others stand elsewhere in it.
_FLAC_RATES = {
    1: 88_200,
    2: 176_400,
    3: 192_000,
    4: 8_000,
    5: 16_000,
    6: 22_050,
    7: 24_000,
    8: 32_000,
    9: 44_100,
    10: 48_000,
    11: 96_000,
}
_FLAC_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}


@contextlib.contextmanager
def decoder_notes(found: dict[str, None]) -> Iterator[None]:
    """Keep what libmpg123 writes to stderr meanwhile; all else is written there afterwards.

    Args:
        found: Gets the lines about damage, once each.
    """
    with _lock:
        try:
            kept, file = os.dup(_STDERR), tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        except OSError:  # stderr is closed, or there is no temporary folder
            yield
            return
        with file:
            _flush()
            os.dup2(file.fileno(), _STDERR)
            try:
                yield
            finally:
                _flush()
                os.dup2(kept, _STDERR)
                os.close(kept)
                file.seek(0)
                for line in file.read().splitlines(keepends=True):
                    text = line.decode("utf-8", "replace").rstrip()
                    if not text.startswith(_MPG123):
                        os.write(_STDERR, line)
                    elif any(sign in text for sign in _MENDED):
                        found.setdefault(text)


def sound_info(path: Path) -> Any:
    """Return `soundfile.info` of a file, and keep from stderr what libmpg123 says as it opens one.

    Raises:
        soundfile.LibsndfileError: It cannot be read.
    """
    import soundfile

    with decoder_notes({}):
        return soundfile.info(path)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()


def mended(found: dict[str, None]) -> tuple[str, ...]:
    """Return the sentence on what `decoder_notes` kept; none for nothing."""
    if not found:
        return ()
    first = next(iter(found)).rpartition("error: ")[2]
    return (
        f"its decoder had to mend {len(found)} damaged places ({plain_text(first[:_QUOTED])}): the "
        "audio is not what was recorded",
    )


def file_notes(path: Path, *, rate: int, seconds: float | None) -> tuple[str, ...]:
    """Return what the bytes of a file show that its decoder does not say, in sentences.

    Args:
        path: An audio file that was decoded.
        rate: Its sampling rate as the decoder gives it, Hz.
        seconds: How much of it is checked, from its start; None for all.
    """
    try:
        with path.open("rb") as file:
            head = file.read(12)
        kind = head[:4]
        if kind not in (b"OggS", b"fLaC"):
            return _miscounted(path, head)
        data = read_bytes(path, max_bytes=_MAX_BYTES)
    except OSError:
        return ()
    return (_ogg if kind == b"OggS" else _flac)(path, data, rate, seconds)


# Containers that are a list of chunks: byte order of the lengths, name of the chunk of samples.
_CONTAINERS = {
    b"RIFF": ("<", b"data"),
    b"RF64": ("<", b"data"),
    b"BW64": ("<", b"data"),
    b"FORM": (">", b"SSND"),
}
# A writer that streams cannot know the length and leaves a value from here up, which promises
# nothing. In RF64 a length of all ones means that the chunk `ds64` has it, in 64 bits.
_STREAMING_LENGTH = 0x7FFF_F000
_LENGTH_IN_DS64 = 0xFFFF_FFFF
_STREAMING_LENGTH_64 = 2**63 - 1

MISCOUNTED_BYTES = 44
"""A writer that counts its header among the samples promises so many bytes too many."""


def samples_chunk(path: Path, head: bytes) -> tuple[int, int] | None:
    """Return how many bytes of samples a WAV or AIFF promises, and how many it can hold of them.

    Args:
        path: The file.
        head: Its first 12 bytes.

    Returns:
        Both numbers; None for another format, without a chunk of samples, and where a stream could
        not know its length.
    """
    # A chunk is four letters, a length, that many bytes, padded to an even number. Decoders do not
    # report a chunk of samples that is cut short.
    if head[:4] not in _CONTAINERS or head[8:] not in (b"WAVE", b"AIFF", b"AIFC"):
        return None
    byte_order, wanted = _CONTAINERS[head[:4]]
    size = path.stat().st_size
    streaming, long_length = _STREAMING_LENGTH, None
    with path.open("rb") as file:
        position = 12
        while position + 8 <= size:
            file.seek(position)
            name, length = struct.unpack(f"{byte_order}4sI", file.read(8))
            position += 8
            if name == b"ds64" and length >= 16:
                # The length of the file, then that of the samples.
                long_length = int.from_bytes(file.read(16)[8:], "little")
            if name == wanted:
                if length == _LENGTH_IN_DS64 and long_length is not None:
                    streaming, length = _STREAMING_LENGTH_64, long_length
                return (length, min(length, size - position)) if length < streaming else None
            position += length + length % 2
    return None


def _miscounted(path: Path, head: bytes) -> tuple[str, ...]:
    promised, held = samples_chunk(path, head) or (0, 0)
    if held == promised:
        return ()
    return (
        f"its header promises {promised:,} bytes of samples, it holds {held:,}: what wrote the "
        "file counts its samples wrong",
    )


def _ogg(path: Path, data: bytes, rate: int, seconds: float | None) -> tuple[str, ...]:
    # A page: "OggS", version, flags, position in samples (8 bytes), number of the stream and of
    # the page (4 each), checksum, number of segments, their lengths, and so many bytes.
    del path
    rate = _OPUS_RATE if b"OpusHead" in data[:100] else rate
    lost = damaged = 0
    numbers: dict[bytes, int] = {}
    flags = position = 0
    while position < len(data):
        if data[position : position + 4] != b"OggS" or position + 27 > len(data):
            damaged += 1
            position = data.find(b"OggS", position + 1)
            if position < 0:
                break
            continue
        table = position + 27
        begin = table + data[position + 26]
        end = begin + sum(data[table:begin])
        page = data[position:end]
        checksum = int.from_bytes(page[22:26], "little")
        if end > len(data) or _ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum:
            damaged += 1
            position = data.find(b"OggS", position + 1)
            if position < 0:
                break
            continue
        flags, stream, number = page[5], page[14:18], int.from_bytes(page[18:22], "little")
        lost += max(0, number - numbers.get(stream, number - 1) - 1)
        numbers[stream] = number
        at = int.from_bytes(page[6:14], "little", signed=True)
        position = end
        if seconds is not None and at >= seconds * rate:
            flags = _LAST_PAGE
            break
    notes = []
    if lost or damaged:
        notes.append(
            f"{lost} pages of its Ogg stream are missing and {damaged} are damaged in the part "
            "that is checked: what was recorded there is lost"
        )
    elif not flags & _LAST_PAGE:
        notes.append("its last page does not end the stream: the file may be cut")
    return tuple(notes)


def _ogg_checksum(page: bytes) -> int:
    # zlib has the same polynomial with the bits of each byte, and of the result, reversed, and
    # inverts at both ends.
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{value:032b}"[::-1], 2)


def _flac(path: Path, data: bytes, rate: int, seconds: float | None) -> tuple[str, ...]:
    # The first block of metadata: sizes of blocks and frames (10 bytes), then 20 bits of rate, 3
    # of channels less one, 5 of bits less one, 36 of samples, and the MD5 of all samples.
    fields = int.from_bytes(data[18:26], "big")
    bits, channels = (fields >> 36 & 31) + 1, (fields >> 41 & 7) + 1
    samples, digest = fields & (2**36 - 1), data[26:42]
    position, last = 4, False
    while not last and position + 4 <= len(data):
        last = bool(data[position] & 0x80)
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    notes = []
    frame = data[position : position + 4]
    if len(frame) == 4 and frame[0] == 0xFF and frame[1] & 0xFC == 0xF8:
        framed = {
            "rate": (_FLAC_RATES.get(frame[2] & 15), rate, "Hz"),
            "channels": (frame[3] >> 4 if frame[3] >> 4 < 8 else 1, channels - 1, ""),
            "bits": (_FLAC_BITS.get(frame[3] >> 1 & 7), bits, "bits"),
        }
        for what, (found, said, _) in framed.items():
            if found is not None and found != said:
                more = 1 if what == "channels" else 0
                notes.append(
                    f"its header gives {said + more} as its {what}, and its frames {found + more}: "
                    "the header was changed"
                )
    checked = min(samples / max(1, rate), 1e9)
    whole = seconds is None or checked <= max(seconds, _MAX_SECONDS)
    if not notes and any(digest) and whole and _flac_digest(path, bits) not in (digest, b""):
        notes.append(
            "its samples do not have the checksum (MD5) of its header: one of the two was changed"
        )
    return tuple(notes)


def _flac_digest(path: Path, bits: int) -> bytes:
    """Return the MD5 of all samples, interleaved; nothing where they end early."""
    import soundfile

    width = (bits + 7) // 8
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with soundfile.SoundFile(path) as file:
            left = file.frames
            while left > 0:
                block: np.ndarray[Any, Any] = file.read(min(left, 2**20), dtype="int32")
                if not len(block):
                    return b""
                left -= len(block)
                words = (block >> (32 - bits)).astype("<i4").reshape(-1, 1).view(np.uint8)
                digest.update(np.ascontiguousarray(words[:, :width]).tobytes())
    except (RuntimeError, OSError):
        return b""
    return digest.digest()
