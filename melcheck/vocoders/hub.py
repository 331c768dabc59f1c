"""Read a vocoder's files at one commit from the Hugging Face cache, downloaded at most once.

A server is not trusted: what it names (commit, ETag) must be plain before it becomes part of a
path, a body must arrive within a number of bytes and a time, and is verified in memory. Only what
passed is written, and only below the folder of its repository. A wrong file that was in the cache
before is left there and named: it is the user's.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, `HF_HUB_ETAG_TIMEOUT` and
`HF_HUB_DOWNLOAD_TIMEOUT` mean what they always do; huggingface_hub reads them once, when it is
first imported. Nothing here imports torch, so that `official_in_cache` costs little at start-up.

References:
    The layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
    tqdm,
)

from melcheck.files import plain_text, replacing
from melcheck.vocoders.weights import (
    CONFIG_FILE,
    MAX_BYTES,
    OFFICIAL_BYTES,
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    OFFICIAL_SHA256,
    WEIGHTS_FILES,
    ReadFile,
    VocoderError,
    VocoderFiles,
    VocoderUnavailable,
    checked_bytes,
    read_file,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = 12

_URL = re.compile(r"https?://[!-~]+")
# What a server may call a version of a file, which becomes the name of a file in the cache: the
# real hub sends a hash of 40 or 64 digits.
_ETAG = re.compile(r"\w[\w-]{0,127}", re.ASCII)
# A branch or a tag, of which the parts become folders.
_REVISION = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*", re.ASCII)

# A body may fall behind this rate by HF_HUB_DOWNLOAD_TIMEOUT: the official weights get 9 minutes.
_BYTES_PER_SECOND = 100_000
_MAX_BYTES: Final[Mapping[str, int]] = {CONFIG_FILE: 65_536}
# Read beyond the size that is pinned, so that a page of a login in its place is recognised.
_BEYOND = 65_536
_BLOCK = 65_536

_Result = TypeVar("_Result")


def hub_files(repo_id: str, *, revision: str | None = None, download: bool = True) -> VocoderFiles:
    """Read a vocoder from the Hugging Face cache, downloading first what the cache lacks.

    A revision that is a full commit hash and lies in the cache is read without any request. A
    branch or tag (`main` when `revision` is None) is resolved to a commit by one request, or, when
    offline, by what the cache remembers. The official revision is checked against its pinned hashes
    under whatever name it is asked for.

    Args:
        repo_id: `owner/name`.
        revision: A branch, a tag, or a full commit hash.
        download: False reads the cache only, like `HF_HUB_OFFLINE=1`.

    Raises:
        VocoderUnavailable: The files are not in the cache and the hub does not hand them out.
        VocoderError: A file is not what it should be. One that was just downloaded is removed from
            the cache again, so that the next call downloads it afresh.
    """
    online = download and not constants.HF_HUB_OFFLINE
    revision = commit = revision or constants.DEFAULT_REVISION
    if not _REVISION.fullmatch(revision):
        raise ValueError(
            f"revision must be a branch, a tag or a full commit hash, got {revision!r}. Check its "
            "spelling."
        )
    if not _COMMIT.fullmatch(revision):
        if online:
            commit = _version_on_hub(repo_id, revision, CONFIG_FILE)[0]
        elif path := _cached(repo_id, revision, CONFIG_FILE):
            commit = path.parent.name  # snapshots/<commit>/config.yaml
    official = (repo_id, commit) == (OFFICIAL_REPO, OFFICIAL_REVISION)

    def read(name: str) -> ReadFile:
        pins = (OFFICIAL_SHA256[name], OFFICIAL_BYTES[name]) if official else (None, None)
        path = _cached(repo_id, commit, name)
        if path is not None:
            return read_file(path, remedy=_removal(path), pinned=pins[0], num_bytes=pins[1])
        if not online:
            raise VocoderUnavailable(
                f"{name} of {repo_id} at {commit} is not in the cache {constants.HF_HUB_CACHE}, "
                "and downloading is off (download=False or HF_HUB_OFFLINE).\n"
                f"{_how_to_get(repo_id, commit)}"
            )
        # Asked for by its branch, the config leaves a note in the cache of what the branch means.
        return _download(repo_id, revision if name == CONFIG_FILE else commit, commit, name, pins)

    config = read(CONFIG_FILE)
    names = [name for name in OFFICIAL_SHA256 if name != CONFIG_FILE] if official else WEIGHTS_FILES
    # What the cache holds comes first; then the first that the hub has.
    *others, last = sorted(names, key=lambda name: _cached(repo_id, commit, name) is None)
    for name in others:
        try:
            weights = read(name)
            break
        except VocoderUnavailable as error:
            if online and not isinstance(error.__cause__, EntryNotFoundError):
                raise
    else:
        weights = read(last)
    return VocoderFiles(f"{repo_id}@{commit[:_SHORT_COMMIT]}", commit, config, weights)


def official_in_cache() -> bool:
    """Return whether both official files lie in the Hugging Face cache at the pinned revision.

    It looks at names only: no request, no hashing, no torch. `hub_files` checks the content.
    """
    return all(_cached(OFFICIAL_REPO, OFFICIAL_REVISION, name) for name in OFFICIAL_SHA256)


def _cached(repo_id: str, revision: str, name: str) -> Path | None:
    try:
        # Besides a path and None there is a marker for "known not to exist".
        found = try_to_load_from_cache(repo_id, name, revision=revision)
    except (OSError, UnicodeError):  # a file where a folder belongs, or the reverse
        return None
    return Path(found) if isinstance(found, str) else None


def _version_on_hub(repo_id: str, revision: str, name: str) -> tuple[str, str, int | None]:
    """Return the commit, ETag and size that the hub has for a file: one request, not repeated."""
    url = hf_hub_url(repo_id, name, revision=revision)
    if not _URL.fullmatch(url):
        raise ValueError(
            f"HF_ENDPOINT must be the address of a hub, such as https://huggingface.co, got "
            f"{_endpoint()!r}. Correct it."
        )
    try:
        found = _within(constants.HF_HUB_ETAG_TIMEOUT, lambda: get_hf_file_metadata(url))
    except Exception as error:  # transport has error types of its own
        raise _unavailable(error, repo_id, revision, name) from error
    commit, etag = found.commit_hash, found.etag
    if not commit or not etag:
        raise VocoderUnavailable(
            f"{_endpoint()} does not answer as a Hugging Face hub (no commit or no ETag for "
            f"{repo_id}).\nCheck HF_ENDPOINT and your proxy. {_how_to_get(repo_id, revision)}"
        )
    # Both become parts of paths.
    for what, value, form in (("commit", commit, _COMMIT), ("ETag", etag, _ETAG)):
        if not form.fullmatch(value):
            raise VocoderError(
                f"{_endpoint()} must name the {what} of {name} of {repo_id} by a hash, got "
                f"{plain_text(value[:80])!r}.\nNothing was written. Check HF_ENDPOINT: that is no "
                "Hugging Face hub to trust."
            )
    if _COMMIT.fullmatch(revision) and commit != revision:
        raise VocoderError(
            f"{_endpoint()} must serve {repo_id} at {revision}, got {commit}.\n"
            "It does not honour revisions: check HF_ENDPOINT."
        )
    return commit, etag, found.size


def _download(
    repo_id: str, revision: str, commit: str, name: str, pins: tuple[str | None, int | None]
) -> ReadFile:
    """Fetch a file, verify it, and only then write it into the cache."""
    found, etag, size = _version_on_hub(repo_id, revision, name)
    if found != commit:
        raise VocoderError(
            f"{repo_id} must stay at {commit}, got {found} for {name}.\n"
            f"{revision} moved while it was read: load again."
        )
    repository = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    blob = repository / "blobs" / etag
    entry = repository / "snapshots" / commit / name
    with _writing(repository):  # before anything is downloaded
        for folder in (blob.parent, entry.parent):
            folder.mkdir(parents=True, exist_ok=True)
            if not folder.resolve().is_relative_to(repository.resolve()):
                raise NotADirectoryError(0, f"{folder} leads out of it, to {folder.resolve()}")
    data = _fetch(repo_id, commit, name, size=size, pinned=pins[1])
    remedy = (
        f"Nothing of it was kept: load once more. If that repeats, "
        f"{_endpoint()} serves the wrong file: check HF_ENDPOINT and your proxy."
    )
    sha256 = checked_bytes(
        data, f"{repo_id}: {name}", remedy=remedy, pinned=pins[0], num_bytes=pins[1]
    )
    with _writing(repository):
        with replacing(blob, follow=False) as temporary:
            temporary.write_bytes(data)
        with replacing(entry, follow=False) as temporary:
            _link(Path("..", "..", "blobs", etag), temporary, data)
        if revision != commit:
            reference = repository / "refs" / revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            with replacing(reference, follow=False) as temporary:
                temporary.write_text(commit, encoding="utf-8")
    return ReadFile(entry, data, sha256, _removal(entry))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VocoderUnavailable(
            f"The cache {folder} cannot be written: {error.strerror}.\n"
            "Set HF_HOME to a folder that can be, or make room there."
        ) from None


def _link(target: Path, path: Path, data: bytes) -> None:
    path.unlink()
    try:
        path.symlink_to(target)
    except OSError:  # as on Windows without the right to make links
        path.write_bytes(data)


def _fetch(repo_id: str, commit: str, name: str, *, size: int | None, pinned: int | None) -> bytes:
    """Return the body of a file, within a number of bytes and a time."""
    limit = _MAX_BYTES.get(name, MAX_BYTES) if pinned is None else pinned
    allowed = limit if pinned is None else limit + _BEYOND
    patience = constants.HF_HUB_DOWNLOAD_TIMEOUT
    total = patience + limit / _BYTES_PER_SECOND
    begin, body = time.monotonic(), bytearray()

    def work() -> None:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        url = hf_hub_url(repo_id, name, revision=commit)
        with _opened(url, headers) as (announced, blocks):
            if announced > allowed:
                raise _TooLarge(f"{announced:,} bytes are announced")
            with tqdm(  # type: ignore[no-untyped-call]
                total=announced or None, unit="B", unit_scale=True, desc=name, disable=None
            ) as bar:
                for block in blocks:
                    body.extend(block)
                    bar.update(len(block))
                    if len(body) > allowed:
                        raise _TooLarge(f"more than {allowed:,} bytes came")
                    if time.monotonic() - begin > patience + len(body) / _BYTES_PER_SECOND:
                        raise TimeoutError
        expected = announced if size is None else size
        if expected and len(body) != expected:
            raise EOFError(f"{len(body):,} of {expected:,} bytes came")

    try:
        _within(total, work)
    except HfHubHTTPError as error:
        raise _unavailable(error, repo_id, commit, name) from error
    except Exception as error:  # transport has error types of its own
        if isinstance(error, TimeoutError):
            reason = f"{len(body):,} bytes came in {time.monotonic() - begin:.0f} s"
        elif isinstance(error, (_TooLarge, EOFError)):
            reason = str(error)
        else:
            reason = _first_line(error)
        raise VocoderError(
            f"{name} of {repo_id} did not arrive whole from {_endpoint()}: {reason}; at most "
            f"{limit:,} bytes may come, in at most {total:.0f} s (HF_HUB_DOWNLOAD_TIMEOUT and "
            f"{_BYTES_PER_SECOND // 1000} kB/s).\nNothing of it was kept: load again."
        ) from error
    return bytes(body)


class _TooLarge(Exception):  # noqa: N818 - never leaves this module
    pass


@contextmanager
def _opened(url: str, headers: Mapping[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Yield how many bytes are announced, 0 for unknown, and the blocks as they come."""
    session: Any = get_session()
    patience = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(session.stream):  # httpx; of requests, before huggingface_hub 1.0, it is a setting
        opened = session.stream("GET", url, headers=headers, timeout=patience)
    else:
        opened = session.get(url, headers=headers, timeout=patience, stream=True)
    with opened as response:
        hf_raise_for_status(response)
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise _TooLarge(f"it came compressed, as {encoding[:20]}, which hides its size")
        announced = response.headers.get("Content-Length", "")
        # As they arrive: a size would make the library wait until a block of it is full.
        blocks = (
            response.iter_raw()
            if hasattr(response, "iter_raw")
            else iter(lambda: getattr(response.raw, "read1", response.raw.read)(_BLOCK), b"")
        )
        yield int(announced) if announced.isdecimal() else 0, blocks


def _within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Return what a call returns, or raise TimeoutError after some seconds, whatever it waits for.

    The time-outs of an HTTP library hold for each wait, so that a server which sends one byte at
    a time is never met by them.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="melcheck download")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def _endpoint() -> str:
    return plain_text(constants.ENDPOINT)


def _unavailable(error: Exception, repo_id: str, revision: str, name: str) -> VocoderUnavailable:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RevisionNotFoundError):
        problem = f"{repo_id} has no revision {revision}"
        remedy = "Name a branch, a tag or a full commit hash that it has."
    elif isinstance(error, EntryNotFoundError):
        problem = f"{repo_id} has no file {name} at {revision}"
        remedy = f"A vocoder needs {CONFIG_FILE} and {' or '.join(WEIGHTS_FILES)}."
    elif status in (401, 403):
        problem = f"{repo_id} is private, gated or absent: HTTP {status}"
        remedy = "Log in with `hf auth login`, or set HF_TOKEN, for an account with access."
    elif status == 404:
        problem = f"There is no repository {repo_id}: HTTP 404"
        remedy = "Check its spelling; a local directory must exist."
    elif status == 429:
        wait = plain_text(str(error.response.headers.get("Retry-After", "some"))[:20])  # type: ignore[attr-defined]
        problem = f"The hub refuses further requests for {name} of {repo_id}: HTTP 429"
        remedy = f"It asks to wait {wait} seconds: try again after that, or log in."
    elif status is not None:
        problem = f"The hub failed on {name} of {repo_id}: HTTP {status}"
        remedy = f"Try later. {_how_to_get(repo_id, revision)}"
    else:
        problem = f"The hub cannot be reached for {repo_id}: {_first_line(error)}"
        remedy = _how_to_get(repo_id, revision)
    return VocoderUnavailable(f"{problem} (from {_endpoint()}).\n{remedy}")


def _how_to_get(repo_id: str, revision: str) -> str:
    return (
        f"Get it where there is a network with `hf download {repo_id} --revision {revision}`, "
        "and copy the cache (HF_HOME) here; or set HF_ENDPOINT to a mirror."
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _links(path: Path) -> list[Path]:
    # A cache entry is a chain: snapshots/<commit>/<name> -> blobs/<etag> -> (for Xet) a store
    # shared by repositories. An entry left in that chain would be linked again, not downloaded.
    chain = [path]
    while chain[-1].is_symlink():
        target = Path(os.path.normpath(os.path.join(chain[-1].parent, os.readlink(chain[-1]))))
        if target in chain:
            break
        chain.append(target)
    return chain


def _removal(path: Path) -> str:
    command = shlex.join(["rm", *map(str, _links(path))])
    return f"Remove it from the cache with `{command}`, and load again."
