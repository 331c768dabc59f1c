"""A Hugging Face hub on the loopback interface: the requests of `hf_hub_download`, and no more.

It answers HEAD and GET of `/{owner}/{name}/resolve/{revision}/{file}` with the headers that the
real hub sends for a file stored without Xet, reports errors with the hub's `X-Error-Code`, and can
be told to misbehave. Every request is recorded.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import huggingface_hub
import pytest

OFFICIAL_CONFIG = b"""\
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args:
    sample_rate: 24000
    n_fft: 1024
    hop_length: 256
    n_mels: 100
    padding: center

backbone:
  class_path: vocos.models.VocosBackbone
  init_args:
    input_channels: 100
    dim: 512
    intermediate_dim: 1536
    num_layers: 8

head:
  class_path: vocos.heads.ISTFTHead
  init_args:
    dim: 512
    n_fft: 1024
    hop_length: 256
    padding: center
"""
"""The official config.yaml; a test holds it to its pinned hash."""

# An endless body ends here if the client takes it all.
_ENDLESS_BYTES = 2**26

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


def need_constants() -> None:
    """Skip where huggingface_hub cannot be sent to this server within the process."""
    if not hasattr(huggingface_hub, "close_session"):
        pytest.skip("huggingface_hub before 1.0 copies its constants when it is imported")


@dataclass
class HubServer:
    """What the hub holds, and how it misbehaves.

    Attributes:
        url: Its endpoint.
        repo: The one repository, `owner/name`.
        commit: The hash of its one commit, on the branch `main`.
        files: Contents by name.
        status: If set, the HTTP status of every answer.
        transfer: "whole"; "short" sends half as if that were all; "broken" hangs up halfway;
            "slow" sends a byte at a time, "slow headers" those too; "endless" does not stop;
            "gzip" sends what unpacks to a thousand times as much.
        claimed_commit: If set, the commit that answers name instead of the true one.
        etag: If set, the ETag of every answer, without its quotes.
        retry_after: If set, how many seconds a refusal asks to wait.
        is_hub: False leaves out the headers that make a web server a hub.
        requests: "METHOD path" of each request for a file, in order.
        sent: Bytes of an endless body that were sent.
    """

    url: str
    repo: str
    commit: str
    files: dict[str, bytes] = field(default_factory=dict)
    status: int | None = None
    transfer: Literal["whole", "short", "broken", "slow", "slow headers", "endless", "gzip"] = (
        "whole"
    )
    claimed_commit: str | None = None
    etag: str | None = None
    retry_after: int | None = None
    is_hub: bool = True
    requests: list[str] = field(default_factory=list)
    sent: int = 0


@contextmanager
def serve(repo: str, commit: str) -> Iterator[HubServer]:
    """Run a hub with one repository for the length of a `with` block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = HubServer(f"http://127.0.0.1:{server.server_port}", repo, commit)
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@functools.lru_cache(maxsize=8)
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0, so that each connection carries one."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        """Keep quiet: the tests look at `HubServer.requests`."""

    def _answer(self, *, body: bool) -> None:
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        match = _RESOLVE.fullmatch(self.path)
        if match is None:  # huggingface_hub also asks for a list of agents, once a day
            self._refuse(404)
            return
        hub.requests.append(f"{self.command} {self.path}")
        if hub.status is not None:
            self._refuse(hub.status, "GatedRepo" if hub.status == 401 else None)
        elif match["repo"] != hub.repo:
            self._refuse(404, "RepoNotFound")
        elif match["revision"] not in ("main", hub.commit):
            self._refuse(404, "RevisionNotFound")
        elif match["name"] not in hub.files:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(hub, hub.files[match["name"]], body=body)

    def _refuse(self, status: int, error_code: str | None = None) -> None:
        self.send_response(status)
        if error_code is not None:
            self.send_header("X-Error-Code", error_code)
        hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        if hub.retry_after is not None:
            self.send_header("Retry-After", str(hub.retry_after))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, hub: HubServer, data: bytes, *, body: bool) -> None:
        half = data[: len(data) // 2]
        if body and hub.transfer == "broken" and "Range" in self.headers:
            return  # hang up on each attempt to resume
        announced = half if body and hub.transfer == "short" else data
        if hub.transfer == "slow headers":
            self._trickle(b"HTTP/1.0 200 OK\r\nX-Wait: " + b"x" * 1000)
            return
        if body and hub.transfer == "gzip":
            announced = data = gzip.compress(bytes(1000 * len(data)))
        self.send_response(200)
        if hub.is_hub:
            self.send_header(
                "X-Repo-Commit", hub.commit if hub.claimed_commit is None else hub.claimed_commit
            )
            self.send_header("ETag", f'"{_sha256(data) if hub.etag is None else hub.etag}"')
        if body and hub.transfer == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if not body or hub.transfer != "endless":
            self.send_header("Content-Length", str(len(announced)))
        self.end_headers()
        if not body:
            return
        if hub.transfer == "slow":
            self._trickle(data)
        elif hub.transfer == "endless":
            with contextlib.suppress(OSError):  # until the client has had enough
                while hub.sent < _ENDLESS_BYTES:
                    self.wfile.write(data)
                    hub.sent += len(data)
        else:
            self.wfile.write(data if hub.transfer in ("whole", "gzip") else half)

    def _trickle(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
