"""The official vocoder, and any other, from a real HTTP server that speaks the hub's protocol.

The server's official repository holds its true config and other weights, whose pins are moved to
what is served where a test needs them accepted; the pin of the config never is. But for one test
they are a few bytes: none but `build_vocos`, which other tests cover, asks what is in them.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from vocos import Vocos

from melcheck.vocoders import hub as melcheck_hub
from melcheck.vocoders.base import VocoderInfo
from melcheck.vocoders.hub import hub_files, official_in_cache
from melcheck.vocoders.load import load_vocoder
from melcheck.vocoders.weights import (
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    OFFICIAL_SHA256,
    VocoderError,
    VocoderUnavailable,
)
from tests.vocoders import hub_server

_ROOT = Path(__file__).parents[2]

_WEIGHTS = "pytorch_model.bin"
_OTHER_REPO = "someone/vocos"
_OTHER_COMMIT = "1234567890" * 4


_BYTES = b"weights, as far as their hash goes; " * 10
_TINY = {"dim: 512": "dim: 8", "intermediate_dim: 1536": "intermediate_dim: 16"}


def _random_weights(config: bytes, folder: Path) -> bytes:
    """Random weights of a configuration, saved as the authors of Vocos saved theirs."""
    path = folder / "config-of-random-weights.yaml"
    path.write_bytes(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vocos.from_hparams(str(path))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A Vocos that is quickly loaded."""
    text = hub_server.OFFICIAL_CONFIG.decode()
    for official, small in {**_TINY, "num_layers: 8": "num_layers: 1"}.items():
        text = text.replace(official, small)
    weights = _random_weights(text.encode(), tmp_path_factory.mktemp("tiny"))
    return {"config.yaml": text.encode(), _WEIGHTS: weights}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """huggingface_hub with an empty cache and no patience.

    It reads its environment once, when imported: in this process its constants are set instead.
    """
    hub_server.need_constants()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Of huggingface_hub 2; an earlier one has no such file.
    agents = str(cache.parent / "agents.json")
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", agents, raising=False)
    no_wait = types.SimpleNamespace(sleep=id)
    monkeypatch.setattr("huggingface_hub.utils._http.time", no_wait)
    monkeypatch.setattr("huggingface_hub.file_download.time", no_wait)
    yield monkeypatch
    huggingface_hub.close_session()


def _connect(client: pytest.MonkeyPatch, url: str) -> None:
    client.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    client.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def official(client: pytest.MonkeyPatch) -> Iterator[hub_server.HubServer]:
    """The official repository with its true config, and weights that lack the pinned hash."""
    with hub_server.serve(OFFICIAL_REPO, OFFICIAL_REVISION) as server:
        server.files = {"config.yaml": hub_server.OFFICIAL_CONFIG, _WEIGHTS: _BYTES}
        client.setattr(melcheck_hub, "OFFICIAL_BYTES", _sizes(_BYTES))
        _connect(client, server.url)
        yield server


@pytest.fixture
def pinned(client: pytest.MonkeyPatch, official: hub_server.HubServer) -> hub_server.HubServer:
    """The official repository, with the pin of the weights moved to what it serves."""
    client.setattr(melcheck_hub, "OFFICIAL_SHA256", _pins(_BYTES))
    return official


@pytest.fixture
def other(client: pytest.MonkeyPatch, tiny: dict[str, bytes]) -> Iterator[hub_server.HubServer]:
    """A repository without pins."""
    with hub_server.serve(_OTHER_REPO, _OTHER_COMMIT) as server:
        server.files = dict(tiny)
        _connect(client, server.url)
        yield server


def _pins(weights: bytes) -> dict[str, str]:
    return {**OFFICIAL_SHA256, _WEIGHTS: hashlib.sha256(weights).hexdigest()}


def _sizes(weights: bytes) -> dict[str, int]:
    return {"config.yaml": len(hub_server.OFFICIAL_CONFIG), _WEIGHTS: len(weights)}


def _contents(cache: Path) -> set[str]:
    """Names of the files, or links, that a later call could take: snapshots and blobs."""
    entries = (path.relative_to(cache).parts for path in cache.rglob("*") if not path.is_dir())
    return {"/".join(parts[1:]) for parts in entries if {"snapshots", "blobs"} & set(parts)}


def _read(*, download: bool = True) -> str:
    return hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION, download=download).source


# What works.


def test_the_servers_config_is_the_official_one() -> None:
    digest = hashlib.sha256(hub_server.OFFICIAL_CONFIG).hexdigest()
    assert digest == OFFICIAL_SHA256["config.yaml"]


def test_a_cold_download_is_the_official_vocoder(
    official: hub_server.HubServer, client: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = _random_weights(hub_server.OFFICIAL_CONFIG, tmp_path)
    official.files[_WEIGHTS] = weights
    client.setattr(melcheck_hub, "OFFICIAL_SHA256", _pins(weights))
    client.setattr(melcheck_hub, "OFFICIAL_BYTES", _sizes(weights))
    vocoder = load_vocoder("official")
    assert vocoder.info == VocoderInfo(
        name="official",
        source="charactr/vocos-mel-24khz@0feb3fdd929b",
        revision=OFFICIAL_REVISION,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        config_sha256=OFFICIAL_SHA256["config.yaml"],
        num_parameters=13_531_650,
    )
    mel = vocoder.encode(torch.zeros(1, 72_000))
    assert vocoder.decode(mel).shape == (1, 71_936)


@pytest.mark.parametrize("how", ["online", "HF_HUB_OFFLINE", "download=False"])
def test_a_warm_cache_asks_the_hub_nothing(
    pinned: hub_server.HubServer, client: pytest.MonkeyPatch, how: str
) -> None:
    _read()
    pinned.requests.clear()
    client.setattr(constants, "HF_HUB_OFFLINE", how == "HF_HUB_OFFLINE")
    _read(download=how != "download=False")
    assert pinned.requests == []


def test_each_file_is_downloaded_once(pinned: hub_server.HubServer) -> None:
    hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    gets = [request.rsplit("/", 1)[1] for request in pinned.requests if request[:3] == "GET"]
    assert gets == ["config.yaml", _WEIGHTS]


@pytest.mark.usefixtures("pinned")
def test_official_is_in_cache_after_its_download() -> None:
    before = official_in_cache()
    hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    assert (before, official_in_cache()) == (False, True)


def test_config_alone_is_not_official_in_cache(pinned: hub_server.HubServer) -> None:
    del pinned.files[_WEIGHTS]
    with pytest.raises(VocoderUnavailable):
        hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    assert not official_in_cache()


@pytest.mark.parametrize("revision", ["", "@main", f"@{_OTHER_COMMIT}"], ids=str)
@pytest.mark.usefixtures("other")
def test_a_name_with_or_without_a_revision_resolves_to_its_commit(revision: str) -> None:
    info = load_vocoder(f"{_OTHER_REPO}{revision}").info
    assert (info.source, info.revision) == (f"{_OTHER_REPO}@{_OTHER_COMMIT[:12]}", _OTHER_COMMIT)


@pytest.mark.usefixtures("other")
def test_a_branch_resolves_offline_to_the_cached_commit(client: pytest.MonkeyPatch) -> None:
    hub_files(_OTHER_REPO)
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_files(_OTHER_REPO).revision == _OTHER_COMMIT


def test_safetensors_are_preferred_on_the_hub(other: hub_server.HubServer) -> None:
    other.files["model.safetensors"] = b"any"
    assert hub_files(_OTHER_REPO).weights.path.name == "model.safetensors"


@pytest.mark.usefixtures("official")
def test_the_official_commit_is_pinned_under_its_hub_id_too() -> None:
    with pytest.raises(VocoderError, match=f"must have sha256 {OFFICIAL_SHA256[_WEIGHTS]}"):
        hub_files(OFFICIAL_REPO)


# In processes of their own, where huggingface_hub reads the environment itself.

_DRIVER = """
import sys
from melcheck.vocoders import hub
hub.OFFICIAL_SHA256, hub.OFFICIAL_BYTES = {pins!r}, {sizes!r}
from melcheck.vocoders.weights import VocoderError
try:
    {call}
except VocoderError as error:
    print(type(error).__name__, error)
"""
_READ = f"print(hub.hub_files({OFFICIAL_REPO!r}, revision={OFFICIAL_REVISION!r}).source)"


def _run(hub: hub_server.HubServer, home: Path, call: str, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    variables |= {
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(_ROOT),
        **environment,
    }
    weights = hub.files[_WEIGHTS]
    code = _DRIVER.format(pins=_pins(weights), sizes=_sizes(weights), call=call)
    result = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("offline", ["0", "1"], ids=["online", "offline"])
def test_a_process_downloads_through_its_environment_and_the_next_makes_no_request(
    official: hub_server.HubServer, cache: Path, offline: str
) -> None:
    first = _run(official, cache.parent, _READ)
    assert (first, len(official.requests)) == ("charactr/vocos-mel-24khz@0feb3fdd929b\n", 4)
    official.requests.clear()
    second = _run(official, cache.parent, _READ, HF_HUB_OFFLINE=offline)
    assert (second, official.requests) == (first, [])


def test_an_offline_process_without_cache_says_how_to_get_it(
    official: hub_server.HubServer, cache: Path
) -> None:
    output = _run(official, cache.parent, _READ, HF_HUB_OFFLINE="1")
    assert output.startswith("VocoderUnavailable config.yaml of charactr/vocos-mel-24khz")


def test_asking_for_the_official_cache_imports_no_torch(
    official: hub_server.HubServer, cache: Path
) -> None:
    call = "print(hub.official_in_cache(), 'torch' in sys.modules)"
    assert _run(official, cache.parent, call) == "False False\n"


# What cannot be had: a caller may skip.


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "download=False"])
@pytest.mark.usefixtures("pinned")
def test_empty_cache_without_network_is_unavailable(client: pytest.MonkeyPatch, how: str) -> None:
    client.setattr(constants, "HF_HUB_OFFLINE", how == "HF_HUB_OFFLINE")
    with pytest.raises(VocoderUnavailable, match=r"not in the cache(?s:.*)hf download charactr"):
        _read(download=how == "HF_HUB_OFFLINE")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"private, gated or absent: HTTP 401(?s:.*)hf auth login"),
        (403, r"private, gated or absent: HTTP 403(?s:.*)HF_TOKEN"),
        (404, r"no repository charactr/vocos-mel-24khz(?s:.*)Check its spelling"),
        (500, r"failed on config.yaml(?s:.*)HTTP 500(?s:.*)Try later"),
        (503, r"failed on config.yaml(?s:.*)HTTP 503(?s:.*)Try later"),
    ],
)
def test_a_refusing_hub_makes_it_unavailable_at_once(
    pinned: hub_server.HubServer, status: int, message: str
) -> None:
    pinned.status = status
    with pytest.raises(VocoderUnavailable, match=message):
        _read()
    assert len(pinned.requests) == 1  # it is not asked again


def test_a_closed_port_makes_it_unavailable(client: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _connect(client, f"http://127.0.0.1:{port}")
    with pytest.raises(VocoderUnavailable, match=rf"cannot be reached(?s:.*)127.0.0.1:{port}"):
        _read()


@pytest.mark.usefixtures("other")
def test_an_unknown_repository_makes_it_unavailable() -> None:
    with pytest.raises(VocoderUnavailable, match="no repository someone/else"):
        hub_files("someone/else")


@pytest.mark.parametrize("revision", ["v9", "0" * 40], ids=["tag", "commit"])
@pytest.mark.usefixtures("other")
def test_an_unknown_revision_makes_it_unavailable(revision: str) -> None:
    with pytest.raises(VocoderUnavailable, match=f"someone/vocos has no revision {revision}"):
        hub_files(_OTHER_REPO, revision=revision)


@pytest.mark.parametrize("name", ["config.yaml", _WEIGHTS])
def test_an_absent_file_makes_it_unavailable(other: hub_server.HubServer, name: str) -> None:
    del other.files[name]
    with pytest.raises(VocoderUnavailable, match=f"someone/vocos has no file {name}"):
        hub_files(_OTHER_REPO)


def test_a_web_server_that_is_no_hub_makes_it_unavailable(pinned: hub_server.HubServer) -> None:
    pinned.is_hub = False
    with pytest.raises(VocoderUnavailable, match="does not answer as a Hugging Face hub"):
        _read()


# What is wrong: a failure, and nothing poisoned stays behind.


@pytest.mark.usefixtures("official")
def test_other_weights_do_not_pass_for_the_official_ones() -> None:
    message = f"must have sha256 {OFFICIAL_SHA256[_WEIGHTS]}"
    with pytest.raises(VocoderError, match=message) as caught:
        _read()
    assert not isinstance(caught.value, VocoderUnavailable)  # which a caller may skip


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:97ec\nsize 54365991\n"
_IMPOSTORS = {
    "empty": b"",
    "LFS pointer": _POINTER,
    "login page": b"\n<!DOCTYPE html><html>Log in</html>",
}
_DAMAGE = {
    "another file": "must have sha256 [0-9a-f]{64}, got [0-9a-f]{64}",
    "cut short": r"is cut short: [\d,]+ of [\d,]+ bytes",
    "empty": "is empty",
    "LFS pointer": f"is a Git LFS pointer of {len(_POINTER)} bytes",
    "login page": "is an HTML page",
}


def _damaged(data: bytes, damage: str) -> bytes:
    if damage == "another file":
        return b"x" * (len(data) + 10_000)
    return data[: len(data) // 2] if damage == "cut short" else _IMPOSTORS[damage]


@pytest.mark.parametrize("damage", _DAMAGE)
@pytest.mark.parametrize("name", ["config.yaml", _WEIGHTS])
def test_a_damaged_download_is_refused_by_name_and_leaves_the_cache(
    pinned: hub_server.HubServer, cache: Path, name: str, damage: str
) -> None:
    good = pinned.files[name]
    pinned.files[name] = _damaged(good, damage)
    with pytest.raises(VocoderError, match=rf"{name} {_DAMAGE[damage]}(?s:.*)HF_ENDPOINT"):
        _read()
    kept = [] if name == "config.yaml" else ["config.yaml"]
    assert [entry.rsplit("/")[-1] for entry in _contents(cache) if "snapshots" in entry] == kept
    blobs = {entry for entry in _contents(cache) if entry.startswith("blobs/")}
    assert blobs == {f"blobs/{OFFICIAL_SHA256[each]}" for each in kept}
    pinned.files[name] = good
    assert _read() == "charactr/vocos-mel-24khz@0feb3fdd929b"


@pytest.mark.parametrize("transfer", ["short", "broken"])
def test_a_transfer_cut_short_names_the_file_leaves_nothing_and_can_be_repeated(
    pinned: hub_server.HubServer, cache: Path, transfer: Literal["short", "broken"]
) -> None:
    pinned.transfer = transfer
    message = r"config.yaml of charactr/vocos-mel-24khz did not arrive whole(?s:.*)load again"
    with pytest.raises(VocoderError, match=message):
        _read()
    assert _contents(cache) == set()
    pinned.transfer = "whole"
    assert _read() == "charactr/vocos-mel-24khz@0feb3fdd929b"


def test_another_commit_than_the_one_asked_for_is_refused(other: hub_server.HubServer) -> None:
    other.claimed_commit = "f" * 40
    with pytest.raises(VocoderError, match=f"must serve someone/vocos at {_OTHER_COMMIT}"):
        hub_files(_OTHER_REPO, revision=_OTHER_COMMIT)


# What a server says becomes no path, and what it sends has an end.

_PATHS = [
    "../" * 8 + "OUTSIDE",
    "/OUTSIDE",
    "a/b",
    "..",
    ".",
    "",
    "x" * 300,
    "a\tb",
    "~",
    "a.b/../c",
]


@pytest.mark.parametrize("named", ["etag", "claimed_commit"])
@pytest.mark.parametrize("path", _PATHS, ids=lambda path: ascii(path[:12]))
def test_a_path_in_place_of_a_hash_is_refused_and_nothing_is_written(
    other: hub_server.HubServer, tmp_path: Path, named: str, path: str
) -> None:
    setattr(other, named, path.replace("/OUTSIDE", f"{tmp_path}/OUTSIDE"))
    with pytest.raises(VocoderError):
        hub_files(_OTHER_REPO)
    served = other.files["config.yaml"]
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in found if path.read_bytes() == served] == []


@pytest.mark.parametrize("folder", ["blobs", f"snapshots/{_OTHER_COMMIT}"])
def test_a_folder_of_the_cache_that_leads_out_of_it_is_not_written_to(
    other: hub_server.HubServer, cache: Path, tmp_path: Path, folder: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = cache / "models--someone--vocos" / folder
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(VocoderUnavailable, match=r"cannot be written(?s:.*)Set HF_HOME"):
        hub_files(_OTHER_REPO)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("revision", ["../main", "/main", "a/../b", "a b", "a\nb", "-x"])
@pytest.mark.usefixtures("other")
def test_a_revision_that_is_no_name_of_a_branch_is_refused(revision: str) -> None:
    with pytest.raises(ValueError, match="revision must be a branch"):
        hub_files(_OTHER_REPO, revision=revision)


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        ("slow", r"bytes came in \d+ s; at most 65,536 bytes may come, in at most \d+ s"),
        ("endless", "more than 65,536 bytes came; at most 65,536 bytes"),
        ("gzip", "it came compressed, as gzip(?s:.*)at most 65,536 bytes"),
        ("slow headers", "no answer within 0.5 s"),
    ],
)
def test_a_body_has_an_end_in_bytes_and_in_time(
    other: hub_server.HubServer,
    client: pytest.MonkeyPatch,
    cache: Path,
    transfer: Literal["slow", "slow headers", "endless", "gzip"],
    message: str,
) -> None:
    client.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    client.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    other.transfer = transfer
    with pytest.raises(VocoderError, match=message):
        hub_files(_OTHER_REPO)
    assert _contents(cache) == set()
    assert other.sent < hub_server._ENDLESS_BYTES


def test_more_than_the_pinned_size_is_not_read(pinned: hub_server.HubServer) -> None:
    pinned.files["config.yaml"] += bytes(2**20)
    with pytest.raises(VocoderError, match=r"1,049,037 bytes are announced; at most 461 bytes"):
        _read()


def test_a_hub_that_asks_to_wait_is_not_waited_for(pinned: hub_server.HubServer) -> None:
    pinned.status, pinned.retry_after = 429, 3600
    with pytest.raises(VocoderUnavailable, match=r"HTTP 429(?s:.*)wait 3600 seconds"):
        _read()
    assert len(pinned.requests) == 1


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1\x1b[2J", "http://a b", "file:///etc"])
def test_an_endpoint_that_is_no_address_is_refused(
    client: pytest.MonkeyPatch, endpoint: str
) -> None:
    _connect(client, endpoint)
    with pytest.raises(ValueError, match="HF_ENDPOINT must be the address") as caught:
        _read()
    assert str(caught.value).isprintable()


# What lies in the cache may be anything.


def _entry(cache: Path) -> Path:
    folder = cache / "models--someone--vocos" / "snapshots" / _OTHER_COMMIT
    folder.mkdir(parents=True)
    return folder / "config.yaml"


@pytest.mark.parametrize("kind", ["circle", "pipe", "device", "folder"])
def test_what_is_no_file_in_the_cache_is_no_vocoder(
    client: pytest.MonkeyPatch, cache: Path, kind: str
) -> None:
    client.setattr(constants, "HF_HUB_OFFLINE", True)
    entry = _entry(cache)
    if kind == "circle":
        entry.symlink_to(entry.name)
    elif kind == "pipe":
        os.mkfifo(entry)
    elif kind == "device":
        entry.symlink_to("/dev/zero")
    else:
        entry.mkdir()
    with pytest.raises(VocoderError, match="not in the cache"):
        hub_files(_OTHER_REPO, revision=_OTHER_COMMIT)


@pytest.mark.parametrize("folder", ["snapshots", "refs", "blobs", ""])
def test_a_file_where_the_cache_needs_a_folder_is_named(
    other: hub_server.HubServer, cache: Path, folder: str
) -> None:
    place = cache / "models--someone--vocos" / folder
    place.parent.mkdir(parents=True)
    place.write_text("")
    assert not official_in_cache()
    with pytest.raises(VocoderUnavailable, match=r"cannot be written(?s:.*)Set HF_HOME"):
        hub_files(_OTHER_REPO)


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_downloaded(
    other: hub_server.HubServer, client: pytest.MonkeyPatch
) -> None:
    client.setattr(constants, "HF_HUB_CACHE", "/proc/melcheck")
    with pytest.raises(VocoderUnavailable, match=r"cannot be written(?s:.*)Set HF_HOME"):
        hub_files(_OTHER_REPO)
    assert [request for request in other.requests if request.startswith("GET")] == []


def _corrupt(path: Path) -> None:
    blob = path.resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


@pytest.mark.usefixtures("pinned")
def test_a_flipped_bit_in_the_cache_is_refused_and_the_command_in_the_message_repairs_it() -> None:
    files = hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    _corrupt(files.weights.path)
    with pytest.raises(VocoderError, match=r"pytorch_model.bin must have sha256") as caught:
        _read()
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    again = hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    assert again.weights.sha256 == files.weights.sha256


def test_the_command_in_the_message_repairs_weights_without_a_pin(
    other: hub_server.HubServer,
) -> None:
    good = other.files[_WEIGHTS]
    other.files[_WEIGHTS] = good[: len(good) // 2]
    with pytest.raises(VocoderError, match="is cut short or damaged") as caught:
        load_vocoder(_OTHER_REPO)
    other.files[_WEIGHTS] = good
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    assert load_vocoder(_OTHER_REPO).info.source == f"{_OTHER_REPO}@{_OTHER_COMMIT[:12]}"


class _Payload:
    """Unpickles into a call that leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.witness),)


def test_code_in_a_pickle_from_the_hub_does_not_run(
    other: hub_server.HubServer, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    torch.save({"backbone.embed.weight": _Payload(tmp_path / "witness")}, buffer)
    other.files[_WEIGHTS] = buffer.getvalue()
    with pytest.raises(VocoderError, match="was not executed"):
        load_vocoder(_OTHER_REPO)
    assert not (tmp_path / "witness").exists()
