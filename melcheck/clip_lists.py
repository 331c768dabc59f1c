"""The clips of a run, from files, folders and the lists of `melcheck.manifests`.

A clip that is part of a recording, or lies inside a list, becomes a file of its own before it is
checked: the encoded audio as it is, a part as a WAV of 32-bit floats at its own rate. Everything
after that reads files.
"""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from melcheck.audio import UNKNOWN_LENGTH, decode_audio, read_samples
from melcheck.clips import Clip, find_clips
from melcheck.config import DEFAULT_SAMPLE_RATE, MelCheckConfig
from melcheck.files import error_text, file_name, one_line, refuse
from melcheck.manifests import ManifestError, ManifestItem, is_manifest, read_manifest
from melcheck.remote import copy_of

# How the formats begin that a column of bytes without names may hold.
_MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"FORM": ".aiff", b"ID3": ".mp3"}

# By how much the duration of a row may exceed the recording: manifests round it.
_ROUNDED_SECONDS = 0.1


def list_clips(paths: Iterable[Path], *, column: str | None = None) -> tuple[Clip, ...]:
    """Return the clips of files, folders and lists; files and folders first.

    Args:
        paths: What `melcheck.clips.find_clips` takes, and lists of clips.
        column: Which column or key of a list names the audio; None takes the usual ones.

    Raises:
        FileNotFoundError: A path that does not exist.
        ValueError: A path that leads to no clip, or rows that cannot be used; all are named.
        PackageNeededError: A list whose format needs a package that is not installed.
    """
    paths = list(paths)
    lists = [path for path in paths if is_manifest(path)]
    others = [path for path in paths if path not in lists]
    clips = list(find_clips(others)) if others or not lists else []
    problems: list[Exception] = []
    items: list[ManifestItem] = []
    for path in lists:
        listed = list(read_manifest(path, column=column, bad_row=problems.append))
        if not problems and not any(map(_is_there, listed)):
            problems.append(_nothing(path, listed))
        items += listed
    if len(problems) == 1:
        raise problems[0]
    refuse(map(str, problems))
    met = {clip.path.resolve() for clip in clips}
    taken = {clip.name.casefold() for clip in clips}
    for item in items:
        if item.is_file and item.path.resolve() in met:
            continue
        met |= {item.path.resolve()} if item.is_file else set()
        clips.append(Clip(_unique(item.name, taken), item.path, "user", item=item))
    return tuple(clips)


def _is_there(item: ManifestItem) -> bool:
    return _is_file(item.path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _nothing(path: Path, items: list[ManifestItem]) -> ManifestError:
    if not items:
        return ManifestError(f"{one_line(path)}: it names no clip. Write one clip a line.")
    return ManifestError(
        f"{items[0].place}: none of the {len(items)} files of this list is there, the first is "
        f"expected at {one_line(items[0].path)}. Write paths relative to the list, or absolute "
        "ones."
    )


def _unique(name: str, taken: set[str]) -> str:
    base = "/".join(file_name(part) for part in name.split("/") if part) or "clip"
    unique, number = base, 1
    while unique.casefold() in taken:
        number += 1
        unique = f"{base}-{number}"
    taken.add(unique.casefold())
    return unique


def file_clips(clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    """Return clips that are files; parts of other files are written to a folder of the run."""
    if all(clip.item is None for clip in clips):
        return clips
    folder = Path(tempfile.mkdtemp(prefix="melcheck-clips-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return with_files(clips, folder)


def with_files(clips: Iterable[Clip], folder: Path) -> tuple[Clip, ...]:
    """Return clips each of which is a file; what is part of another file is written to a folder.

    A clip that is missing or cannot be written has its `problem`, and a path without a file.
    """
    found = []
    for number, clip in enumerate(clips):
        item = clip.item
        if item is None or (item.is_file and _is_there(item)):
            found.append(clip)
            continue
        *above, stem = clip.name.split("/")
        own = folder.joinpath(str(number), *above)
        path, problem = clip.path, ""
        try:
            if not item.is_file:
                path = own / stem
                own.mkdir(parents=True)
            path = item_file(item, own, stem)
        except (ValueError, OSError) as error:
            problem = at_its_place(item, error)
        found.append(dataclasses.replace(clip, path=path, problem=problem))
    return tuple(found)


def at_its_place(item: ManifestItem, error: BaseException) -> str:
    """Return an error of an item for people, with the place in the list that names it."""
    return f"{item.place}: {error_text(error)}" if item.place else error_text(error)


def local_path(item: ManifestItem) -> Path:
    """Return the file of an item, or a copy of one that has to be fetched.

    Raises:
        PackageNeededError: fsspec is not installed.
        OSError: It cannot be fetched.
    """
    return copy_of(item.address) if item.address and item.contained is None else item.path


def shown(item: ManifestItem) -> str:
    """Return how messages name the file of an item."""
    return item.address or one_line(item.path)


def item_file(item: ManifestItem, folder: Path, stem: str, *, content: bytes | None = None) -> Path:
    """Return a file that holds the audio of an item, and nothing else.

    Args:
        item: Of a list.
        folder: Where what is part of another file is written.
        stem: What it is called there.
        content: The encoded audio of an item inside of a list; None reads it.

    Raises:
        ValueError: It cannot be decoded, or ends before the part that is meant.
        OSError: It does not exist, or cannot be read or written.
    """
    path = local_path(item)
    if item.contained is None and not _is_file(path):
        raise FileNotFoundError(
            f"{one_line(path)}: no such file. Correct the path, or remove the row."
        )
    if item.contained is not None:
        content = item.contained.read() if content is None else content
        known = (suffix for magic, suffix in _MAGIC.items() if content.startswith(magic))
        suffix = item.contained.suffix or next(known, "")
        path = folder / f"{stem}{suffix}"
        path.write_bytes(content)
    return path if item.whole else _part(item, path, folder / f"{stem}.part.wav")


def _part(item: ManifestItem, source: Path, destination: Path) -> Path:
    import soundfile

    begin, duration = item.offset_seconds, item.duration_seconds
    try:
        with soundfile.SoundFile(source) as file:
            rate, frames = file.samplerate, file.frames
            if frames != UNKNOWN_LENGTH:
                file.seek(min(round(begin * rate), frames))
            count = (
                None
                if duration is None
                else max(1, round((begin + duration) * rate) - round(begin * rate))
            )
            samples = read_samples(file, count)
    except soundfile.LibsndfileError:
        # The start of a format that soundfile does not know, or its error.
        end = None if duration is None else begin + duration
        decoded = decode_audio(MelCheckConfig(source, DEFAULT_SAMPLE_RATE, end))
        rate = decoded.sample_rate
        first, last = round(begin * rate), None if end is None else round(end * rate)
        samples = decoded.samples[:, first:last].T.contiguous().numpy()
    got = len(samples) / rate
    if not got or (duration is not None and got < duration - _ROUNDED_SECONDS):
        wanted = "" if duration is None else f" to {begin + duration:.3f}"
        raise ValueError(
            f"{shown(item)} ends at {begin + got:.3f} s, and {begin:.3f}{wanted} s are "
            "meant. Correct offset and duration."
        )
    soundfile.write(destination, samples, rate, subtype="FLOAT", format="WAV")
    return destination
