"""Get the official weights into the Hugging Face cache, and verify what is there.

charactr/vocos-mel-24khz at its pinned revision, 54 MB; the sha256 of both files
is checked. Files in the cache are verified without any request. HF_HOME moves
the cache, HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 forbids the download.
"""

from __future__ import annotations

import argparse

from melcheck.cli.arguments import add_profile
from melcheck.cli.output import Answer, MissingError, Terminal


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the mel that the weights should decode: there is one set of official weights."""
    add_profile(parser)


def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """Download what the cache lacks, with huggingface_hub's own progress bars."""
    from melcheck.plan import check_decodes
    from melcheck.recipes import VOCOS
    from melcheck.vocoders.hub import hub_files, official_in_cache
    from melcheck.vocoders.weights import (
        OFFICIAL_BYTES,
        OFFICIAL_REPO,
        OFFICIAL_REVISION,
        VocoderError,
    )

    check_decodes("the official vocoder", VOCOS, options.profile, "--profile")
    cached = official_in_cache()
    if not cached and terminal.watched:
        size = sum(OFFICIAL_BYTES.values()) / 1e6
        terminal.note(f"downloading {OFFICIAL_REPO} ({size:.0f} MB)")
    try:
        files = hub_files(OFFICIAL_REPO, revision=OFFICIAL_REVISION)
    except VocoderError as error:
        raise MissingError(str(error)) from None
    entries = {file.path.name: file for file in (files.config, files.weights)}
    lines = [f"{files.source} {'was in the cache' if cached else 'downloaded'}, verified"]
    for name, file in entries.items():
        lines += [f"{name}: {len(file.data):,} bytes, sha256 {file.sha256}", f"  {file.path}"]
    return Answer(
        passed=True,
        text="\n".join(lines),
        data={
            "source": files.source,
            "revision": files.revision,
            "downloaded": not cached,
            "files": [
                {"path": file.path, "bytes": len(file.data), "sha256": file.sha256}
                for file in entries.values()
            ],
        },
    )
