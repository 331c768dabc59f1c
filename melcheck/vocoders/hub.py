"""Read a vocoder's files at one commit from the Hugging Face cache, downloaded at most once.

A file that turns out wrong right after its download leaves the cache again, so that the next call
downloads it afresh. A wrong file that was in the cache before is left there and named: it is the
user's.

`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they always do; huggingface_hub
reads them once, when it is first imported. Nothing here imports torch, so that `official_in_cache`
costs little at start-up.

References:
    The layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)

# huggingface_hub has changed its HTTP library; its errors module imports that library's base class,
# and every error of transport that is not one of those is an OSError.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    RevisionNotFoundError,
)

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
    if not _COMMIT.fullmatch(revision):
        if online:
            commit = _commit_on_hub(repo_id, revision, CONFIG_FILE)
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
        path = _download(repo_id, revision if name == CONFIG_FILE else commit, name)
        if path.parent.name != commit:
            raise VocoderError(
                f"{repo_id} must stay at {commit}, got {path.parent.name} for {name}.\n"
                f"{revision} moved while it was read: load again."
            )
        remedy = (
            f"It was removed from the cache again: load once more. If that repeats, "
            f"{constants.ENDPOINT} serves the wrong file: check HF_ENDPOINT and your proxy."
        )
        try:
            fresh = read_file(path, remedy=remedy, pinned=pins[0], num_bytes=pins[1])
        except VocoderError:
            _evict(path)
            raise
        return dataclasses.replace(fresh, remedy=_removal(path))

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
    # Besides a path and None there is a marker for "known not to exist".
    found = try_to_load_from_cache(repo_id, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _commit_on_hub(repo_id: str, revision: str, name: str) -> str:
    # A single request, sent before hf_hub_download's: that one repeats a request that fails for
    # 20 s where a connection is refused, and for minutes where packets vanish.
    try:
        found = get_hf_file_metadata(hf_hub_url(repo_id, name, revision=revision)).commit_hash
    except (HTTPError, OSError) as error:
        raise _unavailable(error, repo_id, revision, name) from error
    if found is None:
        raise VocoderUnavailable(
            f"{constants.ENDPOINT} does not answer as a Hugging Face hub (no commit for "
            f"{repo_id}).\nCheck HF_ENDPOINT and your proxy. {_how_to_get(repo_id, revision)}"
        )
    if _COMMIT.fullmatch(revision) and found != revision:
        raise VocoderError(
            f"{constants.ENDPOINT} must serve {repo_id} at {revision}, got {found}.\n"
            "It does not honour revisions: check HF_ENDPOINT."
        )
    return found


def _download(repo_id: str, revision: str, name: str) -> Path:
    _commit_on_hub(repo_id, revision, name)
    try:
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except HfHubHTTPError as error:
        raise _unavailable(error, repo_id, revision, name) from error
    except Exception as error:  # transport, disk and Xet each have error types of their own
        raise VocoderError(
            f"{name} of {repo_id} did not arrive whole from {constants.ENDPOINT}: "
            f"{_first_line(error)}\nNothing of it was kept: load again."
        ) from error


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
    elif status is not None:
        problem = f"The hub failed on {name} of {repo_id}: HTTP {status}"
        remedy = f"Try later. {_how_to_get(repo_id, revision)}"
    else:
        problem = f"The hub cannot be reached for {repo_id}: {_first_line(error)}"
        remedy = _how_to_get(repo_id, revision)
    return VocoderUnavailable(f"{problem} (from {constants.ENDPOINT}).\n{remedy}")


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
