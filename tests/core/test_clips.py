"""Files, folders and manifests become clips with names that serve as test ids and as paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from melcheck.clips import (
    AUDIO_SUFFIXES,
    Clip,
    ClipError,
    find_clips,
    load_manifest,
    sample_clips,
)
from melcheck.files import file_name, sha256_file

_MANIFEST = Path(__file__).parents[2] / "fixtures" / "clips.yaml"


def _make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def _found(*paths: Path) -> list[str]:
    return [clip.path.name for clip in find_clips(paths)]


def _names(*paths: Path) -> list[str]:
    return [clip.name for clip in find_clips(paths)]


# Files and folders.


def test_a_file_is_a_clip_of_the_user(tmp_path: Path) -> None:
    _make(tmp_path, "take.wav")
    path = tmp_path / "take.wav"
    assert find_clips([path]) == (Clip("take", path, "user", None),)


def test_a_file_that_is_named_may_be_called_anything(tmp_path: Path) -> None:
    _make(tmp_path, "recording.dat")
    assert _found(tmp_path / "recording.dat") == ["recording.dat"]


def test_a_hidden_file_that_is_named_counts(tmp_path: Path) -> None:
    _make(tmp_path, ".hidden.wav")
    assert _found(tmp_path / ".hidden.wav") == [".hidden.wav"]


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES | {".WAV", ".Mp3"}))
def test_a_folder_gives_its_audio(tmp_path: Path, suffix: str) -> None:
    _make(tmp_path, f"clip{suffix}")
    assert _found(tmp_path) == [f"clip{suffix}"]


def test_a_folder_gives_nothing_but_audio(tmp_path: Path) -> None:
    _make(tmp_path, "a.wav", "a.txt", "wav", "a.wav.bak")
    assert _found(tmp_path) == ["a.wav"]


def test_a_folder_gives_what_lies_deep_in_it(tmp_path: Path) -> None:
    _make(tmp_path, "x/y/z/deep.flac", "top.wav")
    assert _found(tmp_path) == ["top.wav", "deep.flac"]


@pytest.mark.parametrize("hidden", [".a.wav", ".cache/a.wav", "x/.git/y/a.wav"])
def test_hidden_files_of_a_folder_are_passed_over(tmp_path: Path, hidden: str) -> None:
    _make(tmp_path, hidden, "b.wav")
    assert _found(tmp_path) == ["b.wav"]


def test_a_hidden_folder_that_is_named_counts(tmp_path: Path) -> None:
    _make(tmp_path, ".cache/a.wav")
    assert _found(tmp_path / ".cache") == ["a.wav"]


def test_a_folder_called_like_audio_is_no_clip(tmp_path: Path) -> None:
    _make(tmp_path, "album.wav/a.flac")
    assert _found(tmp_path) == ["a.flac"]


def test_a_link_that_leads_nowhere_stays_visible(tmp_path: Path) -> None:
    (tmp_path / "gone.wav").symlink_to("nowhere.wav")
    assert _found(tmp_path) == ["gone.wav"]


def test_files_of_a_folder_are_sorted(tmp_path: Path) -> None:
    _make(tmp_path, "c.wav", "a.wav", "b.flac")
    assert _found(tmp_path) == ["a.wav", "b.flac", "c.wav"]


def test_paths_keep_their_order(tmp_path: Path) -> None:
    _make(tmp_path, "z.wav", "folder/m.wav", "a.wav")
    paths = (tmp_path / "z.wav", tmp_path / "folder", tmp_path / "a.wav")
    assert _found(*paths) == ["z.wav", "m.wav", "a.wav"]


def test_a_file_that_is_met_twice_counts_once(tmp_path: Path) -> None:
    _make(tmp_path, "a.wav", "b.wav")
    assert _found(tmp_path / "b.wav", tmp_path) == ["b.wav", "a.wav"]


def test_a_clip_is_named_by_its_path_below_the_folder(tmp_path: Path) -> None:
    _make(tmp_path, "spk/emma/1.wav", "spk/emma/2.wav")
    alone = _names(tmp_path / "spk")
    assert alone == ["emma/1", "emma/2"]
    _make(tmp_path, "spk/adam/1.wav", "spk/1.wav")
    assert set(alone) < set(_names(tmp_path / "spk"))


@pytest.mark.parametrize(
    ("made", "given", "names"),
    [
        (["a.flac", "a.wav", "x/a.wav"], ["."], ["a.flac", "a.wav", "x/a"]),
        (["adam/1.wav", "emma/1.wav"], ["adam", "emma"], ["adam/1", "emma/1"]),
        (["adam/1.wav", "emma/1.wav"], ["adam/1.wav", "emma/1.wav"], ["adam/1", "emma/1"]),
        (["1/Take.wav", "2/take.wav"], ["."], ["1/Take", "2/take"]),
        (["a b.wav", "a-b.wav"], ["."], ["a-b", "a-b-2"]),
    ],
    ids=["suffix", "two-folders", "two-files", "capitals", "nothing-else"],
)
def test_equal_names_are_told_apart(
    tmp_path: Path, made: list[str], given: list[str], names: list[str]
) -> None:
    _make(tmp_path, *made)
    assert _names(*(tmp_path / name for name in given)) == names


def test_a_sample_keeps_its_clips_when_others_come_and_go(tmp_path: Path) -> None:
    _make(tmp_path, *(f"{number}.wav" for number in range(40)))
    clips = find_clips([tmp_path])
    chosen = sample_clips(clips, 10, seed=1)
    assert len(chosen) == 10
    assert list(chosen) == [clip for clip in clips if clip in chosen]
    assert chosen != sample_clips(clips, 10, seed=2)
    _make(tmp_path, "new.wav")
    assert len(set(chosen) - set(sample_clips(find_clips([tmp_path]), 10, seed=1))) <= 1
    assert sample_clips(clips, 100) == clips


@pytest.mark.parametrize(
    ("stem", "name"),
    [("my clip", "my-clip"), ("it's [new]", "it-s-new"), ("日本語", "日本語"), ("?!", "clip")],
    ids=["space", "punctuation", "japanese", "nothing-left"],
)
def test_an_odd_stem_gives_a_plain_name(tmp_path: Path, stem: str, name: str) -> None:
    _make(tmp_path, f"{stem}.wav")
    assert _names(tmp_path) == [name]


@pytest.mark.parametrize("names", [(), ("notes.txt",), (".hidden.wav",)], ids=repr)
def test_a_folder_without_audio_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    _make(tmp_path, *names)
    with pytest.raises(ClipError, match=r"no audio in this folder\. Looked for \.aac, .*\.wav\."):
        find_clips([tmp_path])


def test_a_folder_without_audio_is_refused_beside_a_good_file(tmp_path: Path) -> None:
    _make(tmp_path, "a.wav", "empty/notes.txt")
    with pytest.raises(ClipError, match="empty: no audio"):
        find_clips([tmp_path / "a.wav", tmp_path / "empty"])


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder\. Check the"):
        find_clips([tmp_path / "nowhere"])


def test_no_path_gives_no_clip() -> None:
    assert find_clips([]) == ()


@pytest.mark.parametrize(
    ("kind", "gated"),
    [("speech", True), ("user", True), ("music", False), ("percussion", False), ("sparse", False)],
)
def test_only_speech_and_what_a_user_brings_is_gated(kind: str, gated: bool) -> None:
    assert Clip("a", Path("a.wav"), kind).gated is gated


# Names.


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain_name-1.5", "plain_name-1.5"),
        ("a b\tc\nd", "a-b-c-d"),
        ("charactr/vocos@main", "charactr-vocos-main"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\clips\\a", "C-clips-a"),
        ("<b>\"a\"|'b'*?</b>", "b-a-b-b"),
        ("--version", "version"),
        ("ends in dots...", "ends-in-dots"),
        ("größe-émile-音声", "größe-émile-音声"),
        ("a\0b\udcffc", "a-b-c"),
    ],
)
def test_letters_stay_and_the_rest_becomes_a_dash(text: str, name: str) -> None:
    assert file_name(text) == name


@pytest.mark.parametrize("text", ["", ".", "..", "...", "---", "/", "???", " ", "\n"], ids=repr)
def test_nothing_left_gives_clip(text: str) -> None:
    assert file_name(text) == "clip"


@pytest.mark.parametrize("text", ["con", "NUL", "aux.wav", "Com1", "lpt9.tar.gz", "prn."])
def test_a_name_that_windows_keeps_gets_a_mark(text: str) -> None:
    assert file_name(text) == f"_{text.rstrip('.')}"


@pytest.mark.parametrize("text", ["console", "com", "com10", "auxiliary.wav", "nul-2", "_con"])
def test_a_name_that_only_begins_like_a_kept_one_stays(text: str) -> None:
    assert file_name(text) == text


_LONG = {"ascii": "a" * 500, "two-bytes": "é" * 300, "three": "声" * 200, "four": "𠮷" * 150}
long_texts = pytest.mark.parametrize("text", _LONG.values(), ids=list(_LONG))


@long_texts
def test_a_long_name_is_cut_in_bytes(text: str) -> None:
    assert 100 < len(file_name(text).encode()) <= 120


@long_texts
def test_long_names_that_begin_alike_stay_apart(text: str) -> None:
    assert file_name(f"{text}-embedded") != file_name(f"{text}-official")


def test_a_name_of_exactly_the_limit_is_not_cut() -> None:
    assert file_name("a" * 120) == "a" * 120


@pytest.mark.parametrize(
    "text", ["a b", "..", "con", "é" * 300, "a" * 110 + " ." * 30, "x" * 111 + ".-" + "y" * 20]
)
def test_a_name_is_its_own_name(text: str) -> None:
    assert file_name(file_name(text)) == file_name(text)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # The example of FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected


# Manifests.

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that writes a manifest of clips beside a folder with `a.wav` and `b.wav`."""
    _make(tmp_path / "audio", "a.wav", "b.wav")
    _make(tmp_path, "outside.wav")

    def write_entries(*entries: object) -> Path:
        return _text(tmp_path, yaml.safe_dump({"clips": list(entries)}))

    return write_entries


def _text(folder: Path, text: str) -> Path:
    path = folder / "clips.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _entry(file: str = "a.wav", **changes: object) -> dict[str, Any]:
    return {
        "name": Path(file).stem,
        "file": file,
        "kind": "speech",
        "sha256": hashlib.sha256(Path(file).name.encode()).hexdigest(),
        "source": "made here",
        "licence": "CC0-1.0",
        **changes,
    }


def test_the_manifest_of_this_repository_loads() -> None:
    assert {clip.name for clip in load_manifest(_MANIFEST)} >= {"kokoro-short", "guitar-stereo"}


def test_the_manifest_of_this_repository_lists_every_file() -> None:
    listed = {clip.path for clip in load_manifest(_MANIFEST)}
    assert listed == set((_MANIFEST.parent / "audio").iterdir())


def test_an_entry_becomes_a_clip(write: Write, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"a.wav").hexdigest()
    expected = Clip("a", tmp_path / "audio" / "a.wav", "speech", digest)
    assert load_manifest(write(_entry())) == (expected,)


def test_clips_keep_the_order_of_the_manifest(write: Write) -> None:
    clips = load_manifest(write(_entry("b.wav"), _entry("a.wav")))
    assert [clip.name for clip in clips] == ["b", "a"]


def test_a_hash_in_capitals_is_the_same_hash(write: Write) -> None:
    digest = hashlib.sha256(b"a.wav").hexdigest()
    assert load_manifest(write(_entry(sha256=digest.upper())))[0].sha256 == digest


def test_a_link_inside_the_folder_may_lead_elsewhere(write: Write, tmp_path: Path) -> None:
    (tmp_path / "audio" / "link.wav").symlink_to(tmp_path / "outside.wav")
    digest = hashlib.sha256(b"outside.wav").hexdigest()
    assert load_manifest(write(_entry("link.wav", sha256=digest)))[0].name == "link"


_BAD_ENTRIES = {
    "wrong-hash": (_entry(sha256="0" * 64), r"a\.wav: sha256 must be 0{64}, got [0-9a-f]{64}\. "),
    "missing-file": (_entry("c.wav"), r"c\.wav: .* there is no such file"),
    "folder": (_entry(file=".", name="a"), "there is no such file"),
    "unknown-kind": (_entry(kind="noise"), "a must be of a kind in .*, got 'noise'"),
    "users-kind": (_entry(kind="user"), "a must be of a kind in .*, got 'user'"),
    "above-the-folder": (_entry("../outside.wav"), "must lie in the folder 'audio'"),
    "far-above": (_entry("x/../../outside.wav"), "must lie in the folder 'audio'"),
    "absolute": (_entry("/etc/hostname"), "must lie in the folder 'audio'"),
    "name-with-slash": (_entry(name="a/b"), "must do as a file name, got 'a/b'. Use 'a-b'"),
    "name-of-dots": (_entry(name=".."), "must do as a file name"),
    "text": ("a.wav", "each clip must be a mapping .*, got 'a.wav'"),
    "list": (["a.wav"], "each clip must be a mapping"),
    "number": (7, "each clip must be a mapping"),
    "nothing": (None, "each clip must be a mapping"),
}


@pytest.mark.parametrize(("entry", "message"), _BAD_ENTRIES.values(), ids=list(_BAD_ENTRIES))
def test_a_bad_entry_is_refused(write: Write, entry: object, message: str) -> None:
    with pytest.raises(ClipError, match=message):
        load_manifest(write(entry))


@pytest.mark.parametrize("entry", [entry for entry, _ in _BAD_ENTRIES.values()], ids=_BAD_ENTRIES)
def test_a_bad_entry_behind_a_good_one_is_refused(write: Write, entry: object) -> None:
    with pytest.raises(ClipError):
        load_manifest(write(_entry("b.wav"), entry))


@pytest.mark.parametrize("key", ["name", "file", "kind", "sha256", "source", "licence"])
@pytest.mark.parametrize("value", [None, ""], ids=["none", "empty"])
def test_an_entry_without_a_field_is_refused(write: Write, key: str, value: object) -> None:
    with pytest.raises(ClipError, match=f"lacks '{key}'"):
        load_manifest(write({**_entry(), key: value}))


@pytest.mark.parametrize("name", ["a", "A"], ids=["same", "in-capitals"])
def test_two_clips_of_one_name_are_refused(write: Write, name: str) -> None:
    with pytest.raises(ClipError, match="two clips are called"):
        load_manifest(write(_entry("a.wav"), _entry("b.wav", name=name)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clips:",
        "clips: []",
        "clips: {}",
        "clips: {a: b}",
        "clips: a.wav",
        "clips: 7",
        "- a",
        "a",
    ],
    ids=repr,
)
def test_a_manifest_without_a_list_of_clips_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ClipError, match=r"clips\.yaml: the manifest lists no clips\. It must hold"):
        load_manifest(_text(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["clips: [", "clips: \t- a", "a: b: c", "clips: !!python/object:os.x {}"], ids=repr
)
def test_broken_yaml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ClipError, match=r"clips\.yaml: the manifest cannot be read"):
        load_manifest(_text(tmp_path, text))


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clips.yaml").write_bytes(b"clips: \xff\xfe\x00")
    with pytest.raises(ClipError, match="the manifest cannot be read"):
        load_manifest(tmp_path / "clips.yaml")


@pytest.mark.parametrize("name", ["nowhere.yaml", "."], ids=["missing", "folder"])
def test_a_manifest_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClipError, match="the manifest cannot be read"):
        load_manifest(tmp_path / name)
