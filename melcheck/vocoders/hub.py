"""The Hugging Face hub and its cache: a vocoder's files at one commit, downloaded at most once.

A file that turns out wrong right after its download leaves the cache again, so that the next call
downloads it afresh. One that was in the cache before is left there and named: it is the user's.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they always do; huggingface_hub
reads them once, when it is first imported. Nothing here imports torch, so that `official_in_cache`
costs little where it is asked at start-up.

References:
    The layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path

from melcheck.vocoders.weights import (
    CONFIG_FILE,
    OFFICIAL_BYTES,
    OFFICIAL_REPO,
    OFFICIAL_REVISION,
    OFFICIAL_SHA256,
    WEIGHTS_FILES,
    ReadFile,
    VocoderError,
    VocoderFiles,
    VocoderUnavailable,
    read_file,
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = 12


def hub_files(repo_id: str, *, revision: str | None = None, download: bool = True) -> VocoderFiles:
    """Read a vocoder from the Hugging Face cache, downloading first what the cache lacks.

    A revision that is a full commit hash and lies in the cache is read without any request. A
    branch or tag (`main` when `revision` is None) is resolved to a commit by one request, or, when
    offline, by what the cache remembers. The official revision is held to its pinned hashes under
    whatever name it is asked for.

    Args:
        repo_id: `owner/name`.
        revision: A branch, a tag, or a full commit hash.
        download: False reads the cache only, like `HF_HUB_OFFLINE=1`.

    Raises:
        VocoderUnavailable: The files are not in the cache and the hub does not hand them out.
        VocoderError: A file is not what it should be. One that was just downloaded is removed from
            the cache again, so that the next call downloads it afresh.
    """
    from huggingface_hub import constants

    online = download and not constants.HF_HUB_OFFLINE
    revision = revision or constants.DEFAULT_REVISION
    commit = _resolve(repo_id, revision, online=online)
    official = (repo_id, commit) == (OFFICIAL_REPO, OFFICIAL_REVISION)
    names = tuple(OFFICIAL_SHA256) if official else (CONFIG_FILE, *WEIGHTS_FILES)
    cached = {name: path for name in names if (path := _cached(repo_id, commit, name))}

    def read(name: str) -> ReadFile:
        pinned = OFFICIAL_SHA256[name] if official else None
        num_bytes = OFFICIAL_BYTES[name] if official else None
        if name in cached:
            remedy = _removal(cached[name])
            return read_file(cached[name], remedy=remedy, pinned=pinned, num_bytes=num_bytes)
        if not online:
            raise _not_in_cache(repo_id, commit, name)
        # Asked for by its branch, the config leaves a note in the cache of what the branch means.
        path = _download(repo_id, revision if name == CONFIG_FILE else commit, name)
        if path.parent.name != commit:
            raise VocoderError(
                f"{repo_id} must stay at {commit}, got {path.parent.name} for {name}.\n"
                f"{revision} moved while it was read: load again."
            )
        remedy = (
            f"It was removed from the cache again: load once more. If that repeats, "
            f"{_endpoint()} serves the wrong file: check HF_ENDPOINT and your proxy."
        )
        try:
            fresh = read_file(path, remedy=remedy, pinned=pinned, num_bytes=num_bytes)
        except VocoderError:
            _evict(path)
            raise
        return dataclasses.replace(fresh, remedy=_removal(path))

    config = read(CONFIG_FILE)
    candidates = names[1:]
    weights_name = next((name for name in candidates if name in cached), None)
    if weights_name is None and online:
        weights_name = _first_on_hub(repo_id, commit, candidates)
    weights = read(weights_name or candidates[-1])
    return VocoderFiles(f"{repo_id}@{commit[:_SHORT_COMMIT]}", commit, config, weights)


def official_in_cache() -> bool:
    """Return whether both official files lie in the Hugging Face cache at the pinned revision.

    It looks at names only: no request, no hashing, no torch. `hub_files` checks the content.
    """
    return all(_cached(OFFICIAL_REPO, OFFICIAL_REVISION, name) for name in OFFICIAL_SHA256)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _cached(repo_id: str, revision: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    # Besides a path and None there is a marker for "known not to exist".
    found = try_to_load_from_cache(repo_id, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _resolve(repo_id: str, revision: str, *, online: bool) -> str:
    if _COMMIT.fullmatch(revision):
        return revision
    if online:
        return _commit_on_hub(repo_id, revision, CONFIG_FILE)
    path = _cached(repo_id, revision, CONFIG_FILE)
    if path is None:
        raise _not_in_cache(repo_id, revision, CONFIG_FILE)
    return path.parent.name  # snapshots/<commit>/config.yaml


def _first_on_hub(repo_id: str, commit: str, names: tuple[str, ...]) -> str:
    return next((name for name in names[:-1] if _on_hub(repo_id, commit, name)), names[-1])


def _on_hub(repo_id: str, commit: str, name: str) -> bool:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        _commit_on_hub(repo_id, commit, name)
    except VocoderUnavailable as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return False
        raise
    return True


def _commit_on_hub(repo_id: str, revision: str, name: str) -> str:
    # A single request, asked before hf_hub_download is: that one repeats a request that fails for
    # 20 s where a connection is refused, and for minutes where packets vanish.
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=revision)).commit_hash
    except _transport_errors() as error:
        raise _unavailable(error, repo_id, revision, name) from error
    if found is None:
        raise VocoderUnavailable(
            f"{_endpoint()} does not answer as a Hugging Face hub (no commit for {repo_id}).\n"
            f"Check HF_ENDPOINT and your proxy. {_how_to_get(repo_id, revision)}"
        )
    if _COMMIT.fullmatch(revision) and found != revision:
        raise VocoderError(
            f"{_endpoint()} must serve {repo_id} at {revision}, got {found}.\n"
            "It does not honour revisions: check HF_ENDPOINT."
        )
    return found


def _download(repo_id: str, revision: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    _commit_on_hub(repo_id, revision, name)
    try:
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except HfHubHTTPError as error:
        raise _unavailable(error, repo_id, revision, name) from error
    except Exception as error:  # transport, disk and Xet each have error types of their own
        raise VocoderError(
            f"{name} of {repo_id} did not arrive whole from {_endpoint()}: "
            f"{_first_line(error)}\nNothing of it was kept: load again."
        ) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    # huggingface_hub has changed its HTTP library twice; its errors module imports that library's
    # base class, and everything that is not one of those is an OSError.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return (HTTPError, OSError)


def _unavailable(error: Exception, repo_id: str, revision: str, name: str) -> VocoderUnavailable:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RevisionNotFoundError,
    )

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
    elif status is not None:
        problem = f"The hub failed on {name} of {repo_id}: HTTP {status}"
        remedy = f"Try later. {_how_to_get(repo_id, revision)}"
    else:
        problem = f"The hub cannot be reached for {repo_id}: {_first_line(error)}"
        remedy = _how_to_get(repo_id, revision)
    return VocoderUnavailable(f"{problem} (from {_endpoint()}).\n{remedy}")


def _not_in_cache(repo_id: str, revision: str, name: str) -> VocoderUnavailable:
    from huggingface_hub import constants

    return VocoderUnavailable(
        f"{name} of {repo_id} at {revision} is not in the cache {constants.HF_HUB_CACHE}, and "
        f"downloading is off (download=False or HF_HUB_OFFLINE).\n{_how_to_get(repo_id, revision)}"
    )


def _how_to_get(repo_id: str, revision: str) -> str:
    return (
        f"Get it where there is a network with `hf download {repo_id} --revision {revision}`, "
        "and copy the cache (HF_HOME) here; or set HF_ENDPOINT to a mirror."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _links(path: Path) -> list[Path]:
    # A cache entry is a chain: snapshots/<commit>/<name> -> blobs/<etag> -> (for Xet) a store
    # shared by repositories. An entry left in that chain would be linked again, not downloaded.
    chain = [path]
    while chain[-1].is_symlink():
        target = os.path.join(chain[-1].parent, os.readlink(chain[-1]))
        chain.append(Path(os.path.normpath(target)))
    return chain


def _removal(path: Path) -> str:
    command = shlex.join(["rm", *map(str, _links(path))])
    return f"Remove it from the cache with `{command}`, and load again."


def _evict(path: Path) -> None:
    cache = path.parents[3]  # <cache>/models--<owner>--<name>/snapshots/<commit>/<name>
    for entry in _links(path):
        if cache in entry.parents:
            entry.unlink(missing_ok=True)
