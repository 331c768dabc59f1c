"""Which audio files a run checks: a manifest with provenance, or files and folders of the user's.

A manifest is a YAML file with a list `clips`, each entry with `name`, `file` (relative to the
folder `audio` beside the manifest), `kind`, `sha256`, `source` and `licence`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from melcheck.files import file_name, load_yaml, os_reason, read_bytes, refuse, sha256_file, short
from melcheck.manifests import AUDIO_SUFFIXES as AUDIO_SUFFIXES
from melcheck.manifests import ManifestItem, read_manifest

_MAX_MANIFEST_BYTES = 2**24
_MAX_NUMBER_BITS = 256  # of a name that is a number, or a hash that was written without quotes
_KINDS = ("speech", "music", "percussion", "sparse")


class ClipError(ValueError):
    """A path or a manifest that does not lead to clips; the message names it and the fix."""


@dataclass(frozen=True, slots=True)
class Clip:
    """An audio file.

    Attributes:
        name: Unique in a run; part of test ids and of artifact paths: in a manifest the name of
            the entry, else the path below the folder that was given, without suffix ("emma/1").
        path: The file.
        kind: "speech", "music", "percussion" or "sparse" in a manifest; "user" for a file that the
            user named.
        sha256: Hash of the file that the manifest promises; None for a user's file.
        item: Row of a list that names it; None for a file that was named itself.
        problem: Why there is no file to read; "" where there is one.
    """

    name: str
    path: Path
    kind: str
    sha256: str | None = None
    item: ManifestItem | None = None
    problem: str = ""

    @property
    def source(self) -> Path:
        """The file of the user's that holds its audio: a recording or an archive for a part."""
        return self.path if self.item is None else self.item.path

    @property
    def gated(self) -> bool:
        """Whether the sanity thresholds apply: to speech, and to every clip of the user's."""
        return self.kind in ("speech", "user")


def find_clips(paths: Iterable[Path]) -> tuple[Clip, ...]:
    """Return the audio files among `paths` and, recursively, in the folders among them.

    Files keep the order of `paths`, and are sorted inside a folder; one that is met twice counts
    once. A file is named by its path below the folder that was given, without suffix, so that its
    name does not depend on what else is there; one that was given itself by its stem. Equal names,
    also where capitals do not count, are told apart by their suffix, or by the folders above.
    Hidden files are passed over; a link that leads nowhere is not, so that it fails visibly.

    Raises:
        FileNotFoundError: The one path that leads to no clip does not exist.
        ClipError: The one path that leads to no clip is a folder without audio.
        ValueError: Several paths lead to no clip; all are named.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    problems: list[Exception] = []
    for path in paths:
        try:
            root = path if path.is_dir() else path.parent
            for file in _audio_files(path):
                files.setdefault(file.resolve(), (file, root))
        except (FileNotFoundError, ClipError) as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    refuse(map(str, problems))
    found = list(files.values())
    return tuple(
        Clip(name, file, "user") for name, (file, _) in zip(_names(found), found, strict=True)
    )


def sample_clips(clips: Sequence[Clip], count: int, *, seed: int = 0) -> tuple[Clip, ...]:
    """Return `count` of the clips, in their order; all where there are fewer.

    Which ones depends on the seed and on their names alone: a clip that comes or goes changes at
    most one of the others.
    """

    def rank(clip: Clip) -> str:
        return hashlib.sha256(f"{seed}\n{clip.name}".encode()).hexdigest()

    chosen = {clip.name for clip in sorted(clips, key=rank)[:count]}
    return tuple(clip for clip in clips if clip.name in chosen)


def _audio_files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder. Check the path.")
        return [path]
    found = [item.path for item in read_manifest(path)]
    if not found:
        known = ", ".join(sorted(AUDIO_SUFFIXES))
        raise ClipError(f"{path}: no audio in this folder. Looked for {known}.")
    return found


def load_manifest(path: Path) -> tuple[Clip, ...]:
    """Return the clips of a manifest, in its order.

    Raises:
        ClipError: A manifest that cannot be read, that is empty, or an entry that lacks a field,
            has a name that is no file name or is taken, is of an unknown kind, or names a file
            that is missing, outside the folder `audio` or has another hash.
    """
    try:
        document = load_yaml(read_bytes(path, max_bytes=_MAX_MANIFEST_BYTES))
    except (OSError, ValueError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise ClipError(
            f"{path}: the manifest cannot be read ({reason}). Write it as plain YAML."
        ) from None
    entries = document.get("clips") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ClipError(f"{path}: the manifest lists no clips. It must hold a list `clips`.")
    clips = tuple(_clip_of_entry(path, entry) for entry in entries)
    names = [clip.name.casefold() for clip in clips]
    for clip in clips:
        if names.count(clip.name.casefold()) > 1:
            raise ClipError(
                f"{path}: two clips are called {clip.name!r}. Names must be unique, also where "
                "capitals do not count."
            )
    return clips


def _clip_of_entry(manifest: Path, entry: object) -> Clip:
    if not isinstance(entry, Mapping):
        raise ClipError(
            f"{manifest}: each clip must be a mapping with a name and a file, got {short(entry)}. "
            "Begin the entry with '- name:'."
        )
    for key in ("name", "file", "kind", "sha256", "source", "licence"):
        value = entry.get(key)
        if not value or (isinstance(value, int) and value.bit_length() > _MAX_NUMBER_BITS):
            name = short(entry.get("name", "a clip")).strip("'")
            raise ClipError(f"{manifest}: {name} lacks {key!r}. Add it to the entry.")
    name, kind = str(entry["name"]), str(entry["kind"])
    if kind not in _KINDS:
        raise ClipError(f"{manifest}: {name} must be of a kind in {_KINDS}, got {kind!r}.")
    if name != file_name(name):
        raise ClipError(
            f"{manifest}: a name must do as a file name, got {name!r}. Use {file_name(name)!r}."
        )
    folder = manifest.parent / "audio"
    path = folder / str(entry["file"])
    # By its words only: a link inside the folder may lead to where a dataset is stored.
    if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder)):
        raise ClipError(
            f"{manifest}: the file of {name} must lie in the folder 'audio' beside the manifest, "
            f"got {entry['file']!r}. Copy it there."
        )
    if not path.is_file():
        raise ClipError(f"{path}: the manifest lists this clip, but there is no such file.")
    actual = sha256_file(path)
    if actual != str(entry["sha256"]).lower():
        raise ClipError(
            f"{path}: sha256 must be {entry['sha256']}, got {actual}. Restore the file, or record "
            "its new hash in the manifest and regenerate its goldens."
        )
    return Clip(name, path, kind, actual)


def _names(files: Sequence[tuple[Path, Path]]) -> list[str]:
    """Return a name for each file, given with the folder that its name is relative to."""
    ways = (
        lambda file, root: file.relative_to(root).with_suffix(""),
        lambda file, root: file.relative_to(root),
        lambda file, root: _below_parent(file, root).with_suffix(""),
        _below_parent,
        lambda file, _: Path(*file.absolute().parts[1:]),
        # What differs in nothing but capitals, or in what no file name may hold, gets a number.
        lambda file, root: file.relative_to(root).with_suffix(""),
    )
    names = [""] * len(files)
    for way in ways:
        counts = Counter(name.casefold() for name in names)
        for index, (file, root) in enumerate(files):
            if counts[names[index].casefold()] > 1 or not names[index]:
                names[index] = "/".join(file_name(part) for part in way(file, root).parts)
    taken: set[str] = set()
    for index, name in enumerate(names):
        unique, number = name, 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{name}-{number}"
        taken.add(unique.casefold())
        names[index] = unique
    return names


def _below_parent(file: Path, root: Path) -> Path:
    return Path(*file.absolute().parts[-1 - len(file.relative_to(root).parts) :])
