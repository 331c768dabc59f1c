"""A campaign against what comes from outside: files, names, servers, code of the user's.

    python -m tests.fuzz --minutes 10
    python -m tests.fuzz --minutes 10 --seed 7 --kind mels audio

hypothesis makes valid inputs and damages them, with knowledge of their structure. Each must be
read, or refused by an error of melcheck's, within 5 s of processor time and 2 GiB of memory. A
round of one kind runs in a process of its own, so that a crash is seen. Its seed is printed, and
makes the same inputs again with `--seed` and that one `--kind`. What went wrong is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml
from huggingface_hub import constants
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from vocos import Vocos

from melcheck.audio import AudioError, load_audio
from melcheck.clip_lists import list_clips, with_files
from melcheck.clips import ClipError, load_manifest
from melcheck.config import MelCheckConfig
from melcheck.files import failed_allocation, file_name, one_line, plain_text
from melcheck.frontends import adapt_frontend
from melcheck.mel_files import MelFileError, read_mel
from melcheck.recipes import log_mel
from melcheck.report.json_format import ReportError, read_report, report_json
from melcheck.user_code import CallableError
from melcheck.vocoders.hub import hub_files
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import VocoderError
from tests import hostile
from tests.report import report_samples
from tests.vocoders import hub_server

SECONDS = 5.0
"""Processor time that one input may take."""

MEMORY_BYTES = 2**31
"""Memory that one input may take: twice what a file of weights may hold."""

# Inputs of a round, in a campaign of a minute and more, and in a shorter one.
_EXAMPLES, _FEW_EXAMPLES = 60, 20
_WALL_SECONDS = 600

Outcome = str
Draw = Callable[..., Any]


class TooSlow(BaseException):
    """An input took more processor time than it may."""


# Damage.

_NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 16, 127, 128, 255, 256, 65_535, 2**31 - 1, 2**32 - 1])
_WORDS = st.sampled_from(
    [
        *("-1", "0", "1e300", "nan", "0x" + "f" * 50, "9" * 40, "[]", "{}", "''", "null", "true"),
        *("'\\x1b[2J'", "!!python/name:os.system", "*a", "&a [*a]", "<<: {a: 1}", "\u202e"),
        *("2001-99-99", "[" * 300, "a: b: c", "0o7", "1_0", ".inf", "~", "'::error::x'", "../x"),
    ]
)


@st.composite
def damaged(draw: Draw, whole: bytes) -> bytes:
    """Return bytes with up to eight edits."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 8))):
        if not data:
            break
        where = draw(st.integers(0, len(data) - 1) | st.integers(0, min(200, len(data) - 1)))
        edit = draw(st.integers(0, 6))
        if edit == 0:
            data[where] ^= 1 << draw(st.integers(0, 7))
        elif edit == 1:
            data[where] = draw(st.integers(0, 255))
        elif edit == 2:
            del data[where:]
        elif edit == 3:
            del data[where : where + draw(st.integers(1, 64))]
        elif edit == 4:
            data[where:where] = draw(st.binary(max_size=16))
        elif edit == 5:
            order = draw(st.sampled_from(["<I", ">I", "<H", ">H", "<Q"]))
            width = struct.calcsize(order)
            number = draw(_NUMBERS) & (256**width - 1)
            data[where : where + width] = struct.pack(order, number)
        else:
            other = draw(st.integers(0, len(data) - 1))
            data[where:where] = data[other : other + 256]
    return bytes(data)


def edited_zip(draw: Draw, whole: bytes) -> bytes:
    """Return a zip file one of whose members is damaged, and its checksum right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old:
        names = old.namelist()
        chosen = draw(st.sampled_from(names))
        with zipfile.ZipFile(buffer, "w", draw(st.sampled_from([0, 8]))) as new:
            for name in names:
                content = old.read(name)
                new.writestr(name, draw(damaged(content)) if name == chosen else content)
    return buffer.getvalue()


@st.composite
def edited_text(draw: Draw, whole: str) -> bytes:
    """Return text in which some values, after a colon, are others."""
    lines = whole.splitlines()
    for _ in range(draw(st.integers(0, 4))):
        index = draw(st.integers(0, len(lines) - 1))
        key, colon, _ = lines[index].partition(":")
        lines[index] = f"{key}{colon} {draw(_WORDS)}"
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return draw(damaged(text)) if draw(st.booleans()) else text


# Kinds: what is made, and what is done with it.


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        made: Strategy of (name, content).
        use: Reads one; the path of a folder of its own comes first.
        errors: What it may be refused with.
    """

    made: st.SearchStrategy[tuple[str, Any]]
    use: Callable[[Path, str, Any], object]
    errors: tuple[type[BaseException], ...]


@functools.cache
def mel_bases() -> dict[str, list[bytes]]:
    """Return valid files of mels by suffix."""
    mel = log_mel(torch.randn(1, 8_000, generator=torch.Generator().manual_seed(0)))[0]
    arrays = {"mel": mel.numpy(), "f0": mel[0].numpy()}
    packed, plain = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, **arrays)
    np.savez(plain, **arrays)
    return {
        ".npy": [hostile.array_bytes(mel.numpy()), hostile.array_bytes(mel.half().numpy().T)],
        ".npz": [packed.getvalue(), plain.getvalue()],
        ".pt": [
            hostile.saved(content, legacy=legacy)
            for content in (mel, {"mel": mel.T, "step": 3, "name": "a"}, [mel, mel[:2]])
            for legacy in (False, True)
        ],
        ".safetensors": [save_safetensors({"mel": mel.contiguous(), "x": mel[0].clone()})],
    }


@st.composite
def mels(draw: Draw) -> tuple[str, bytes]:
    """Make a file of a mel, damaged."""
    bases = mel_bases()
    suffix = draw(st.sampled_from([*bases, ".pth"]))
    base = draw(st.sampled_from(bases[suffix.replace("pth", "pt")]))
    how = draw(st.integers(0, 3))
    if how == 0 and base.startswith(b"PK"):
        base = edited_zip(draw, base)
    elif how == 1 and suffix == ".npy":
        shape = draw(st.lists(st.integers(-2, 2**40), max_size=4))
        kind = draw(st.sampled_from(["<f4", ">f8", "<f16", "|O", "<c8", "|V0", "<U9", "f,f"]))
        base = hostile.npy(hostile.header(tuple(shape), kind=kind), base[128:])
    elif how == 2:
        kinds = (hostile.npy_files, hostile.torch_files, hostile.safetensors_files)
        files = {name: data for each in kinds for name, data in each().items() if len(data) < 2**20}
        base = files[draw(st.sampled_from(sorted(files)))]
    return f"mel{suffix}", draw(damaged(base))


@functools.cache
def vocoder_files() -> dict[str, bytes]:
    """Return the files of a small vocoder."""
    config = hub_server.OFFICIAL_CONFIG
    for large, tiny in {
        b"im: 512": b"im: 8",
        b": 1536": b": 16",
        b"layers: 8": b"layers: 1",
    }.items():
        config = config.replace(large, tiny)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        (Path(folder) / "config.yaml").write_bytes(config)
        state = Vocos.from_hparams(f"{folder}/config.yaml").state_dict()
    packed = save_safetensors({key: value.contiguous() for key, value in state.items()})
    return {
        "config.yaml": config,
        "model.safetensors": packed,
        "pytorch_model.bin": hostile.saved(state),
    }


@st.composite
def checkpoints(draw: Draw) -> tuple[str, dict[str, bytes]]:
    """Make the two files of a vocoder, one of them damaged."""
    files = vocoder_files()
    weights = draw(st.sampled_from(["model.safetensors", "pytorch_model.bin"]))
    chosen = {"config.yaml": files["config.yaml"], weights: files[weights]}
    if draw(st.booleans()):
        chosen["config.yaml"] = draw(edited_text(files["config.yaml"].decode()))
    elif weights.endswith(".bin") and draw(st.booleans()):
        chosen[weights] = edited_zip(draw, files[weights])
    else:
        chosen[weights] = draw(damaged(files[weights]))
    return weights, chosen


@functools.cache
def audio_bases() -> dict[str, bytes]:
    """Return valid audio files by name."""
    generator = np.random.default_rng(0)
    found = {}
    for suffix, subtypes in {
        "wav": ("PCM_16", "FLOAT", "PCM_24", "ULAW"),
        "flac": ("PCM_16", "PCM_24"),
        "ogg": ("VORBIS", "OPUS"),
        "mp3": ("MPEG_LAYER_III",),
        "aiff": ("PCM_16",),
        "w64": ("PCM_16",),
        "caf": ("PCM_16",),
    }.items():
        for subtype in subtypes:
            buffer = io.BytesIO()
            samples = 0.1 * generator.standard_normal((12_000, 1 + (subtype == "PCM_24")))
            soundfile.write(buffer, samples, 24_000, format=suffix.upper(), subtype=subtype)
            found[f"{subtype}.{suffix}"] = buffer.getvalue()
    return found


@st.composite
def audio(draw: Draw) -> tuple[str, bytes]:
    """Make an audio file, damaged."""
    bases = audio_bases()
    name = draw(st.sampled_from(sorted(bases)))
    suffix = draw(st.sampled_from([name, name, name, "renamed.wav", "renamed.mp3", "renamed.flac"]))
    return suffix, draw(damaged(bases[name]))


@functools.cache
def manifest_text() -> str:
    """Return a valid manifest."""
    entry = {
        "name": "clip",
        "file": "clip.wav",
        "kind": "speech",
        "sha256": "0" * 64,
        "source": "here",
        "licence": "CC0-1.0",
    }
    return yaml.safe_dump({"clips": [entry, {**entry, "name": "other"}]})


@functools.cache
def report_text() -> str:
    """Return a valid report, a value on each line."""
    report, _ = report_samples.run("clip")
    return json.dumps(json.loads(report_json(report)), indent=0)


@functools.cache
def list_texts() -> dict[str, str]:
    """Return lists of clips, a value on each line behind a colon, by name."""
    rows = [
        {"audio_filepath": "clip.wav", "offset": 0.1, "duration": 0.2, "id": "a/b"},
        {"audio_filepath": "../clip.wav", "text": "x", "id": "../../c"},
    ]
    return {
        "list.jsonl": "\n".join(map(json.dumps, rows)),
        "list.csv": "path,start,duration\nclip.wav,0.1,0.2\nother.wav,0,1\n",
        "list.txt": "clip|a text: with a colon\nother.wav|b\n",
    }


@st.composite
def documents(draw: Draw) -> tuple[str, bytes]:
    """Make a manifest or a report, damaged."""
    texts = {"clips.yaml": manifest_text(), "report.json": report_text(), **list_texts()}
    name = draw(st.sampled_from(sorted(texts)))
    text = texts[name]
    if draw(st.integers(0, 9)) == 0:
        depth = draw(st.integers(1, 30_000))
        return name, draw(st.sampled_from([b"[", b'{"a":', b"- ", b"a: {"])) * depth
    return name, draw(edited_text(text))


_NAMES = st.text(
    st.characters() | st.sampled_from("\x1b\x00\n\r\u202e\u2028:/\\.#%{}<>&"), max_size=300
)

_VALUES: dict[str, Callable[[torch.Tensor], Any]] = {
    "mel": lambda mel: mel,
    "numpy": lambda mel: mel.numpy(),
    "frames first": lambda mel: mel.mT,
    "none": lambda _: None,
    "text": lambda _: "mel",
    "tuple": lambda mel: (mel, 3),
    "dictionary": lambda mel: {"mel": mel, 3: None},
    "complex": lambda mel: mel.to(torch.complex64),
    "meta": lambda mel: mel.to("meta"),
    "sparse": lambda mel: mel.to_sparse(),
    "longdouble": lambda mel: mel.numpy().astype(np.longdouble),
    "objects": lambda mel: mel.numpy().astype(object),
    "empty": lambda mel: mel[..., :0],
    "infinite": lambda mel: mel / 0,
    "itself": lambda mel: mel.expand(2, *mel.shape[1:]),
    "generator": lambda mel: (row for row in mel),
}


@st.composite
def objects(draw: Draw) -> tuple[str, Any]:
    """Make a front end that returns, raises or changes something."""
    name = draw(st.sampled_from(sorted(_VALUES)))
    error = draw(
        st.sampled_from([None, None, ValueError, SystemExit, GeneratorExit, KeyError, TypeError])
    )
    text = draw(_NAMES)
    change = draw(st.sampled_from([None, "dtype", "recursion", "autocast", "patch"]))
    shape = draw(st.none() | st.lists(st.integers(0, 200), max_size=4))

    def front(waveform: Any) -> Any:
        if change == "dtype":
            torch.set_default_dtype(torch.float64)
        elif change == "recursion":
            sys.setrecursionlimit(5_000)
        elif change == "autocast":
            torch.autocast("cpu").__enter__()
        elif change == "patch":
            torch.istft = None  # type: ignore[assignment]
        if error is not None:
            raise error(text)
        mel = log_mel(torch.as_tensor(waveform, dtype=torch.float32))
        return _VALUES[name](mel if shape is None else torch.zeros(shape))

    return name, front


@st.composite
def servers(draw: Draw) -> tuple[str, dict[str, Any]]:
    """Make a hub that misbehaves."""
    headers = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80)
    paths = st.sampled_from(["../" * 3 + "OUT", "/OUT", "..", "a/b", "~", "con", "x" * 300])
    faults = {
        "etag": headers | paths,
        "claimed_commit": headers | paths,
        "status": st.sampled_from([200, 204, 301, 404, 416, 429, 500, 503]),
        "transfer": st.sampled_from(["short", "broken", "endless", "gzip"]),
        "retry_after": st.integers(0, 10**6),
        "is_hub": st.just(False),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(faults)), max_size=2))
    return "hub", {name: draw(faults[name]) for name in sorted(chosen)}


def use_mel(folder: Path, name: str, content: bytes) -> object:
    """Read a mel."""
    (folder / name).write_bytes(content)
    return read_mel(folder / name, finite=False)


def use_checkpoint(folder: Path, name: str, content: dict[str, bytes]) -> object:
    """Load a vocoder, and decode a little."""
    for file, data in content.items():
        (folder / file).write_bytes(data)
    vocoder = load_vocoder(folder)
    return vocoder.decode(torch.zeros(1, vocoder.recipe.n_mels, 8))


def use_audio(folder: Path, name: str, content: bytes) -> object:
    """Read a part of an audio file, and all of it."""
    path = folder / name
    path.write_bytes(content)
    with contextlib.suppress(AudioError):
        load_audio(MelCheckConfig(path, 24_000, 0.2))
    return load_audio(MelCheckConfig(path, 24_000, None))


def use_document(folder: Path, name: str, content: bytes) -> object:
    """Read a manifest, a report or a list of clips."""
    (folder / name).write_bytes(content)
    if name.startswith("list"):
        (folder / "clip.wav").write_bytes(audio_bases()["PCM_16.wav"])
        clips = list_clips([folder / name])
        found = with_files(clips, folder / "own")
        outside = [path for path in folder.iterdir() if path.name not in (name, "clip.wav", "own")]
        assert not outside, "it wrote outside"
        return found
    return (load_manifest if name.endswith("yaml") else read_report)(folder / name)


def use_name(folder: Path, name: str, content: str) -> object:
    """Make a name plain, in each way that there is."""
    plain = file_name(content)
    assert len(plain.encode()) <= 120, "a name of a file is short"
    assert "/" not in plain, "a name of a file is one name"
    assert plain_text(content).replace("\n", "").replace("\u3000", "").isprintable() or any(
        letter.isspace() for letter in content
    ), "plain text is printable"
    assert one_line(folder / content.replace("\0", "")).isprintable(), "a path is one line"
    (folder / plain).write_bytes(b"")
    return plain


def use_object(folder: Path, name: str, content: Any) -> object:
    """Adapt a front end."""
    return adapt_frontend(content, name="mytts:mel")


def use_server(folder: Path, name: str, content: dict[str, Any]) -> object:
    """Read a vocoder from a hub; what it writes must lie in its cache."""
    cache = folder / "cache"
    constants.HF_HUB_CACHE = str(cache)
    constants.HF_HUB_DOWNLOAD_TIMEOUT = constants.HF_HUB_ETAG_TIMEOUT = 2
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with hub_server.serve("someone/vocos", "1" * 40) as server:
        server.files = {
            name: vocoder_files()[name] for name in ("config.yaml", "model.safetensors")
        }
        for key, value in content.items():
            setattr(server, key, value)
        constants.ENDPOINT = server.url
        constants.HUGGINGFACE_CO_URL_TEMPLATE = (
            server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        try:
            return hub_files("someone/vocos")
        finally:
            outside = [path for path in folder.rglob("*") if path.is_file()]
            assert all(path.is_relative_to(cache) for path in outside), "it wrote outside"


KINDS = {
    "mels": Kind(mels(), use_mel, (MelFileError,)),
    "checkpoints": Kind(checkpoints(), use_checkpoint, (VocoderError,)),
    "audio": Kind(audio(), use_audio, (AudioError,)),
    "documents": Kind(
        documents(), use_document, (ClipError, ReportError, ValueError, FileNotFoundError)
    ),
    "names": Kind(st.tuples(st.just("name"), _NAMES), use_name, ()),
    "objects": Kind(objects(), use_object, (CallableError,)),
    "hub": Kind(servers(), use_server, (VocoderError,)),
}


# Running.


def judged(kind: Kind, folder: Path, name: str, content: Any) -> Outcome:
    """Use one input, and return how that ended: "read", "refused", or what was wrong."""

    def too_slow(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        kind.use(folder, name, content)
    except kind.errors as error:
        text = str(error)
        # Of a list of clips, up to sixteen rows are named.
        return "refused" if len(text) < 8_000 else f"refused in {len(text)} characters"
    except TooSlow:
        return f"took more than {SECONDS:g} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if failed_allocation(error):
            return f"asked for more than {MEMORY_BYTES / 2**30:g} GiB"
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read"


def run_round(name: str, number: int, examples: int, kept: Path) -> Counter[Outcome]:
    """Make and use the inputs of one round."""
    kind, outcomes = KINDS[name], Counter[Outcome]()

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.made)
    def one(made: tuple[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            outcome = judged(kind, Path(folder), *made)
        outcomes[outcome] += 1
        if outcome not in ("read", "refused"):
            kept.mkdir(parents=True, exist_ok=True)
            digits = f"{name}-{number}-{sum(outcomes.values())}"
            (kept / digits).write_bytes(
                made[1] if isinstance(made[1], bytes) else repr(made).encode("utf-8", "replace")
            )

    one()
    return outcomes


def in_a_child(name: str, number: int, examples: int, kept: Path) -> Counter[Outcome]:
    """Run a round in a process of its own, whose crash is an outcome."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)  # decoders have notes of their own
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.alarm(_WALL_SECONDS)
            outcomes = run_round(name, number, examples, kept)
            os.write(writing, json.dumps(outcomes).encode())
            status = 0
        except BaseException as error:
            os.write(writing, json.dumps({f"the round ended by {error!r:.200}": 1}).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Counter({f"crash: {signal.Signals(os.WTERMSIG(status)).name}": 1})
    return Counter(json.loads(data))


def campaign(
    seconds: float, first_seed: int, kinds: list[str], kept: Path
) -> Iterator[tuple[str, int, Counter[Outcome]]]:
    """Yield rounds of each kind in turn until the time is over; each kind has one at least."""
    for bases in (mel_bases, vocoder_files, audio_bases, manifest_text, report_text):
        bases()
    for files in (hostile.npy_files, hostile.torch_files, hostile.safetensors_files):
        files()
    examples = _EXAMPLES if seconds >= 60 else _FEW_EXAMPLES
    end, number = time.monotonic() + seconds, first_seed
    while True:
        for name in kinds:
            if number > first_seed + len(kinds) - 1 and time.monotonic() > end:
                return
            yield name, number, in_a_child(name, number, examples, kept)
            number += 1


def main(argv: list[str] | None = None) -> int:
    """Run a campaign, print its counts by kind, and return 1 where anything was wrong."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, help="of the first round (default: any)")
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--kept", type=Path, help="folder for inputs that went wrong")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    first = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    kept = options.kept or Path(tempfile.gettempdir()) / "melcheck-fuzz"
    print(f"first seed {first}", flush=True)
    totals: dict[str, Counter[Outcome]] = {name: Counter() for name in options.kind}
    for name, number, outcomes in campaign(60 * options.minutes, first, options.kind, kept):
        totals[name] += outcomes
        wrong = {each: count for each, count in outcomes.items() if each not in ("read", "refused")}
        if wrong:
            print(f"{name}, seed {number}: {plain_text(str(wrong))}", flush=True)
    for name, outcomes in totals.items():
        wrong_count = sum(outcomes.values()) - outcomes["read"] - outcomes["refused"]
        print(
            f"{name}: {sum(outcomes.values()):,} inputs, {outcomes['read']:,} read, "
            f"{outcomes['refused']:,} refused, {wrong_count:,} wrong"
        )
    if any(set(outcomes) - {"read", "refused"} for outcomes in totals.values()):
        print(f"inputs that went wrong are in {kept}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
