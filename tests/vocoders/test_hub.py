"""The official vocoder, and any other, from a real HTTP server that speaks the hub's protocol.

The server holds random weights of the official size. They cannot have the pinned hash, so the pin
of the weights is replaced where a test needs them accepted; the pin of the config never is.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from vocos import Vocos

from melcheck.vocoders import hub as melcheck_hub
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


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Random weights of the official configuration, saved as its authors saved theirs."""
    config = tmp_path_factory.mktemp("official") / "config.yaml"
    config.write_bytes(hub_server.OFFICIAL_CONFIG)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Vocos.from_hparams(str(config))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hf" / "hub"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[pytest.MonkeyPatch]:
    """huggingface_hub with an empty cache and no patience.

    It reads its environment once, when imported: in this process its constants are set instead.
    """
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(cache.parent / "agents.json"))
    no_wait = types.SimpleNamespace(sleep=id)
    monkeypatch.setattr("huggingface_hub.utils._http.time", no_wait)
    monkeypatch.setattr("huggingface_hub.file_download.time", no_wait)
    yield monkeypatch
    huggingface_hub.close_session()
    shutil.rmtree(cache.parent, ignore_errors=True)  # 54 MB a test


def _connect(client: pytest.MonkeyPatch, url: str) -> None:
    client.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    client.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def official(client: pytest.MonkeyPatch, random_weights: bytes) -> Iterator[hub_server.HubServer]:
    """The official repository with its true config, and weights that lack the pinned hash."""
    with hub_server.serve(OFFICIAL_REPO, OFFICIAL_REVISION) as server:
        server.files = {"config.yaml": hub_server.OFFICIAL_CONFIG, _WEIGHTS: random_weights}
        _connect(client, server.url)
        yield server


@pytest.fixture
def pinned(client: pytest.MonkeyPatch, official: hub_server.HubServer) -> hub_server.HubServer:
    """The official repository, with the pin of the weights moved to what it serves."""
    client.setattr(melcheck_hub, "OFFICIAL_SHA256", _pins(official.files[_WEIGHTS]))
    return official


@pytest.fixture
def other(client: pytest.MonkeyPatch, random_weights: bytes) -> Iterator[hub_server.HubServer]:
    """A repository without pins."""
    with hub_server.serve(_OTHER_REPO, _OTHER_COMMIT) as server:
        server.files = {"config.yaml": hub_server.OFFICIAL_CONFIG, _WEIGHTS: random_weights}
        _connect(client, server.url)
        yield server


def _pins(weights: bytes) -> dict[str, str]:
    return {**OFFICIAL_SHA256, _WEIGHTS: hashlib.sha256(weights).hexdigest()}


def _contents(cache: Path) -> set[str]:
    """Names of the files, or links, that a later call could take: snapshots and blobs."""
    entries = (path.relative_to(cache).parts for path in cache.rglob("*") if not path.is_dir())
    return {"/".join(parts[1:]) for parts in entries if {"snapshots", "blobs"} & set(parts)}


def _load(name: str = "official", **kwargs: str | bool) -> str:
    return load_vocoder(name, **kwargs).info.source  # type: ignore[arg-type]


# What works.


def test_the_servers_config_is_the_official_one() -> None:
    digest = hashlib.sha256(hub_server.OFFICIAL_CONFIG).hexdigest()
    assert digest == OFFICIAL_SHA256["config.yaml"]


@pytest.mark.usefixtures("pinned")
def test_cold_download_gives_the_official_shapes() -> None:
    vocoder = load_vocoder("official")
    mel = vocoder.encode(torch.zeros(1, 72_000))
    assert vocoder.decode(mel).shape == (1, 71_936)


def test_cold_download_reports_what_was_loaded(pinned: hub_server.HubServer) -> None:
    info = load_vocoder("official").info
    assert (info.name, info.source, info.revision, info.config_sha256, info.weights_sha256) == (
        "official",
        "charactr/vocos-mel-24khz@0feb3fdd929b",
        OFFICIAL_REVISION,
        OFFICIAL_SHA256["config.yaml"],
        hashlib.sha256(pinned.files[_WEIGHTS]).hexdigest(),
    )


@pytest.mark.usefixtures("pinned")
def test_official_has_13_5_million_parameters() -> None:
    assert load_vocoder("official").info.num_parameters == 13_531_650


def test_warm_cache_asks_the_hub_nothing(pinned: hub_server.HubServer) -> None:
    hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    pinned.requests.clear()
    hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
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


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "download=False"])
def test_warm_cache_loads_without_network(
    pinned: hub_server.HubServer, client: pytest.MonkeyPatch, how: str
) -> None:
    hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    pinned.requests.clear()
    client.setattr(constants, "HF_HUB_OFFLINE", how == "HF_HUB_OFFLINE")
    hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION, download=how == "HF_HUB_OFFLINE")
    assert pinned.requests == []


@pytest.mark.usefixtures("other")
def test_a_branch_resolves_to_its_commit() -> None:
    info = load_vocoder(_OTHER_REPO).info
    assert (info.source, info.revision) == (f"{_OTHER_REPO}@{_OTHER_COMMIT[:12]}", _OTHER_COMMIT)


@pytest.mark.parametrize("revision", ["main", _OTHER_COMMIT], ids=["branch", "commit"])
@pytest.mark.usefixtures("other")
def test_a_revision_may_follow_the_name(revision: str) -> None:
    assert load_vocoder(f"{_OTHER_REPO}@{revision}").info.revision == _OTHER_COMMIT


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
hub.OFFICIAL_SHA256 = {pins!r}
from melcheck.vocoders.weights import VocoderError
try:
    {call}
except VocoderError as error:
    print(type(error).__name__, error)
"""
_LOAD = (
    "from melcheck.vocoders.load import load_vocoder; print(load_vocoder('official').info.source)"
)
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
    code = _DRIVER.format(pins=_pins(hub.files[_WEIGHTS]), call=call)
    result = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_process_downloads_through_its_environment(
    official: hub_server.HubServer, cache: Path
) -> None:
    assert _run(official, cache.parent, _LOAD) == "charactr/vocos-mel-24khz@0feb3fdd929b\n"


@pytest.mark.parametrize(
    ("call", "offline"), [(_READ, "0"), (_LOAD, "1")], ids=["online", "offline"]
)
def test_a_second_process_makes_no_request(
    official: hub_server.HubServer, cache: Path, call: str, offline: str
) -> None:
    _run(official, cache.parent, _READ)
    official.requests.clear()
    second = _run(official, cache.parent, call, HF_HUB_OFFLINE=offline)
    assert (second, official.requests) == ("charactr/vocos-mel-24khz@0feb3fdd929b\n", [])


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
        _load(download=how == "HF_HUB_OFFLINE")


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
def test_a_refusing_hub_makes_it_unavailable(
    pinned: hub_server.HubServer, status: int, message: str
) -> None:
    pinned.status = status
    with pytest.raises(VocoderUnavailable, match=message):
        _load()


def test_a_refusing_hub_is_asked_once(pinned: hub_server.HubServer) -> None:
    pinned.status = 500
    with pytest.raises(VocoderUnavailable):
        _load()
    assert len(pinned.requests) == 1


def test_a_closed_port_makes_it_unavailable(client: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _connect(client, f"http://127.0.0.1:{port}")
    with pytest.raises(VocoderUnavailable, match=rf"cannot be reached(?s:.*)127.0.0.1:{port}"):
        _load()


@pytest.mark.usefixtures("other")
def test_an_unknown_repository_makes_it_unavailable() -> None:
    with pytest.raises(VocoderUnavailable, match="no repository someone/else"):
        _load("someone/else")


@pytest.mark.parametrize("revision", ["v9", "0" * 40], ids=["tag", "commit"])
@pytest.mark.usefixtures("other")
def test_an_unknown_revision_makes_it_unavailable(revision: str) -> None:
    with pytest.raises(VocoderUnavailable, match=f"someone/vocos has no revision {revision}"):
        _load(_OTHER_REPO, revision=revision)


@pytest.mark.parametrize("name", ["config.yaml", _WEIGHTS])
def test_an_absent_file_makes_it_unavailable(other: hub_server.HubServer, name: str) -> None:
    del other.files[name]
    with pytest.raises(VocoderUnavailable, match=f"someone/vocos has no file {name}"):
        _load(_OTHER_REPO)


def test_a_web_server_that_is_no_hub_makes_it_unavailable(pinned: hub_server.HubServer) -> None:
    pinned.is_hub = False
    with pytest.raises(VocoderUnavailable, match="does not answer as a Hugging Face hub"):
        _load()


# What is wrong: a failure, and nothing poisoned stays behind.


@pytest.mark.usefixtures("official")
def test_random_weights_do_not_pass_for_the_official_ones() -> None:
    with pytest.raises(VocoderError, match=f"must have sha256 {OFFICIAL_SHA256[_WEIGHTS]}"):
        _load()


@pytest.mark.usefixtures("official")
def test_a_wrong_hash_is_not_taken_for_unavailable() -> None:
    with pytest.raises(VocoderError) as caught:
        _load()
    assert not isinstance(caught.value, VocoderUnavailable)


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
def test_a_damaged_file_is_refused_by_name(
    pinned: hub_server.HubServer, name: str, damage: str
) -> None:
    pinned.files[name] = _damaged(pinned.files[name], damage)
    with pytest.raises(VocoderError, match=rf"{name} {_DAMAGE[damage]}(?s:.*)HF_ENDPOINT"):
        _load()


@pytest.mark.parametrize("name", ["config.yaml", _WEIGHTS])
def test_a_damaged_download_leaves_the_cache(
    pinned: hub_server.HubServer, cache: Path, name: str
) -> None:
    pinned.files[name] = b"something else"
    with pytest.raises(VocoderError):
        _load()
    assert not [entry for entry in _contents(cache) if entry.endswith(name)]


def test_a_damaged_download_leaves_no_blob(pinned: hub_server.HubServer, cache: Path) -> None:
    pinned.files[_WEIGHTS] = b"something else"
    with pytest.raises(VocoderError):
        _load()
    blobs = {entry for entry in _contents(cache) if entry.startswith("blobs/")}
    assert blobs == {f"blobs/{OFFICIAL_SHA256['config.yaml']}"}


@pytest.mark.parametrize("name", ["config.yaml", _WEIGHTS])
def test_a_repaired_hub_serves_the_next_call(pinned: hub_server.HubServer, name: str) -> None:
    good = pinned.files[name]
    pinned.files[name] = b"something else"
    with pytest.raises(VocoderError):
        _load()
    pinned.files[name] = good
    assert _load() == "charactr/vocos-mel-24khz@0feb3fdd929b"


@pytest.mark.parametrize("transfer", ["short", "broken"])
def test_a_transfer_cut_short_is_an_error_that_names_the_file(
    pinned: hub_server.HubServer, transfer: str
) -> None:
    pinned.transfer = transfer
    message = r"config.yaml of charactr/vocos-mel-24khz did not arrive whole(?s:.*)load again"
    with pytest.raises(VocoderError, match=message):
        _load()


@pytest.mark.parametrize("transfer", ["short", "broken"])
def test_a_transfer_cut_short_leaves_nothing(
    pinned: hub_server.HubServer, cache: Path, transfer: str
) -> None:
    pinned.transfer = transfer
    with pytest.raises(VocoderError):
        _load()
    assert _contents(cache) == set()


def test_a_transfer_cut_short_can_be_repeated(pinned: hub_server.HubServer) -> None:
    pinned.transfer = "broken"
    with pytest.raises(VocoderError):
        _load()
    pinned.transfer = "whole"
    assert hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION).revision == OFFICIAL_REVISION


def test_another_commit_than_the_one_asked_for_is_refused(other: hub_server.HubServer) -> None:
    other.claimed_commit = "f" * 40
    with pytest.raises(VocoderError, match=f"must serve someone/vocos at {_OTHER_COMMIT}"):
        _load(_OTHER_REPO, revision=_OTHER_COMMIT)


def _corrupt(path: Path) -> None:
    blob = path.resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)


@pytest.mark.usefixtures("pinned")
def test_a_flipped_bit_in_the_cache_is_refused() -> None:
    files = hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    _corrupt(files.weights.path)
    with pytest.raises(VocoderError, match=r"pytorch_model.bin must have sha256"):
        _load()


@pytest.mark.usefixtures("pinned")
def test_the_command_in_the_message_repairs_the_cache() -> None:
    files = hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    _corrupt(files.weights.path)
    with pytest.raises(VocoderError) as caught:
        hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    again = hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    assert again.weights.sha256 == files.weights.sha256


def test_the_command_in_the_message_repairs_weights_without_a_pin(
    other: hub_server.HubServer,
) -> None:
    good = other.files[_WEIGHTS]
    other.files[_WEIGHTS] = good[: len(good) // 2]
    with pytest.raises(VocoderError, match="is cut short or damaged") as caught:
        _load(_OTHER_REPO)
    other.files[_WEIGHTS] = good
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    assert _load(_OTHER_REPO) == f"{_OTHER_REPO}@{_OTHER_COMMIT[:12]}"


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
        _load(_OTHER_REPO)
    assert not (tmp_path / "witness").exists()
