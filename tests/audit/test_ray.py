"""The engine of Ray, on a cluster of three nodes that runs on this machine."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from melcheck.audit import ray_engine
from melcheck.audit.local import run_local
from melcheck.audit.model import AuditItem, AuditSettings, Row
from melcheck.audit.ray_engine import ClusterError, run_ray
from melcheck.audit.sources import items_of
from melcheck.environment import PackageNeededError
from melcheck.files import plain
from melcheck.manifests import ManifestItem
from tests.audit import row_makers
from tests.audit.row_makers import blocks_of, faulty, items_named, row_of

REPOSITORY = Path(__file__).parents[2]
SETTINGS = AuditSettings(vocoder=None)
CLIPS = tuple(
    REPOSITORY / "fixtures" / "audio" / name for name in ("austen-0870.flac", "kokoro-mp3.mp3")
)
WORKERS = 2
BLOCK = 8

# Of Ray's own sockets and processes.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Nodes:
    """A head that does no work, and two nodes of one processor each."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster()
        self.cluster.add_node(
            num_cpus=0,
            include_dashboard=False,
            gcs_server_port=free_port(),
            dashboard_agent_listen_port=free_port(),
            temp_dir=str(folder),
        )
        for _ in range(WORKERS):
            self.cluster.add_node(num_cpus=1)
        self.address = self.cluster.address

    def kill(self, node_id: str) -> None:
        """Kill a node."""
        [node] = [each for each in self.cluster.worker_nodes if each.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket of S3, mocked; "" without moto. Nodes are started beside it."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield ""
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield "s3://corpus"
    server.stop()


@pytest.fixture(scope="module")
def nodes(bucket: str) -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="needs Ray: pip install 'melcheck[ray]'")
    # A name that is short: sockets lie in the folder.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="mr-") as folder:
        # The nodes' workers import the row makers of these tests.
        patch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # There Ray notes its newest cluster, and expects the folder.
        patch.setenv("RAY_TMPDIR", folder)
        (Path(folder) / "ray").mkdir()
        started = Nodes(Path(folder))
        yield started
        started.cluster.shutdown()


def test_a_clip_that_ends_its_worker_is_unfinished_and_its_neighbours_are_not(nodes: Nodes) -> None:
    bad = {
        "kill-1": "its worker died",
        "hang-2": "it took longer than 10 s",
        "raise-3": "RuntimeError: no row",
        "memory-4": "MemoryError",
    }
    names = [f"clip-{number}" for number in range(40)]
    for place, name in enumerate(bad):
        names.insert((BLOCK + 1) * place, name)
    items = items_named(names)
    settings = dataclasses.replace(SETTINGS, limit_seconds=10.0)
    run = run_ray(
        blocks_of(items, BLOCK), settings, workers=WORKERS, address=nodes.address, make=faulty
    )
    rows = sorted((row for block in run for row in block), key=lambda row: row.index)
    assert [row.index for row in rows] == list(range(len(items)))
    unfinished = {row.name: row.reason for row in rows if row.outcome == "unfinished"}
    assert set(unfinished) == set(bad), unfinished
    assert all(reason in unfinished[name] for name, reason in bad.items()), unfinished
    for row, item in zip(rows, items, strict=True):
        assert row.name in bad or plain(row) == plain(row_of(item))


def test_a_long_clip_has_more_time(nodes: Nodes) -> None:
    items = [
        AuditItem(0, ManifestItem("late-1", Path("late-1.wav"), duration_seconds=600.0)),
        AuditItem(1, ManifestItem("late-2", Path("late-2.wav"))),
    ]
    settings = dataclasses.replace(SETTINGS, limit_seconds=1.0)
    run = run_ray(
        blocks_of(items, 1), settings, workers=WORKERS, address=nodes.address, make=faulty
    )
    reasons = {row.name: row.reason for rows in run for row in rows}
    assert reasons == {"late-1": "", "late-2": "late-2.wav: it took longer than 1 s"}


def test_what_a_killed_worker_leaves_goes_with_the_next(nodes: Nodes, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, cache=tmp_path)
    items = items_named(["kill-1", *(f"clip-{number}" for number in range(4))])
    make = row_makers.littering
    run = run_ray(blocks_of(items, 1), settings, workers=1, address=nodes.address, make=make)
    assert sum(map(len, run)) == len(items)
    left = [Path(path.read_text()) for path in tmp_path.glob("kill-1-*")]
    assert len(left) == 2
    assert not any(path.exists() for path in left)


def test_workers_that_all_end_before_they_work_end_the_run(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_LOST_AT_THE_START", 1)
    run = run_ray(
        [items_named(["a"])], SETTINGS, workers=1, address=nodes.address, make=row_makers.ending
    )
    with pytest.raises(ClusterError, match=r"ended before they were done, 1 in all"):
        list(run)


def test_what_no_worker_can_load_is_the_error_of_the_run(nodes: Nodes) -> None:
    settings = dataclasses.replace(SETTINGS, vocoder="sesame")
    run = run_ray(
        [items_named(["a"])], settings, workers=1, address=nodes.address, make=row_makers.refusing
    )
    with pytest.raises(ValueError, match=r"^--vocoder sesame: no such vocoder\.$"):
        list(run)


def test_nodes_without_melcheck_are_told_to_have_it(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that this process has and the nodes have not.
    monkeypatch.setitem(sys.modules, "melcheck_elsewhere", ray_engine)
    monkeypatch.setattr(ray_engine._Worker, "__module__", "melcheck_elsewhere")
    run = run_ray([items_named(["a"])], SETTINGS, workers=1, address=nodes.address)
    with pytest.raises(ClusterError, match=r"^the nodes of the cluster must have melcheck .* none"):
        list(run)


def test_a_bucket_of_s3_and_a_webdataset_give_the_rows_of_the_local_engine(
    nodes: Nodes, bucket: str, tmp_path: Path
) -> None:
    if not bucket:
        pytest.skip("needs moto and s3fs: pip install 'moto[server]' 'melcheck[remote]'")
    fill(bucket)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for clip in CLIPS:
            archive.add(clip, arcname=clip.name)
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps({"audio_filepath": str(tmp_path / "absent.wav")}))
    sources = (f"{bucket}/clips", str(tmp_path / "shard.tar"), str(broken))
    items = [item for source in sources for item in items_of(source)]
    items = [dataclasses.replace(item, index=index) for index, item in enumerate(items)]
    blocks = blocks_of(items, 2)

    def table(run: Iterator[list[Row]]) -> list[Any]:
        return [plain(row) for row in sorted(itertools.chain(*run), key=lambda row: row.index)]

    local = table(run_local(blocks, SETTINGS, workers=1))
    assert [row["outcome"] for row in local] == ["checked"] * 2 * len(CLIPS) + ["unreadable"]
    assert table(run_ray(blocks, SETTINGS, workers=WORKERS, address=nodes.address)) == local


def fill(bucket: str) -> None:
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir(bucket)
    for clip in CLIPS:
        system.put_file(str(clip), f"{bucket}/clips/{clip.name}")


def test_a_worker_and_a_node_that_are_killed_in_the_middle_cost_no_row(nodes: Nodes) -> None:
    # As many as it takes until both are killed, since a new worker may need long, and some more.
    items = items_named([f"clip-{number}" for number in range(4000)])
    read = more = 0
    worker = node = ""

    def blocks() -> Iterator[Sequence[AuditItem]]:
        nonlocal read, more
        for block in blocks_of(items, 4):
            more += bool(worker and node)
            if more > 10:
                return
            read += len(block)
            yield block

    run = run_ray(blocks(), SETTINGS, workers=WORKERS, address=nodes.address, make=row_makers.slow)
    import ray

    done: list[Row] = []
    for rows in run:
        done += rows
        # A block with each worker, and what they have finished by now.
        assert read <= len(done) + 2 * 4 * WORKERS
        process, place = rows[0].decoder.split()
        if not worker:
            os.kill(int(process), signal.SIGKILL)
            worker = process
        # This process is connected to one of the nodes, and needs it.
        elif not node and place != ray.get_runtime_context().get_node_id():
            nodes.kill(place)
            node = place
    assert worker
    assert node
    assert sorted(row.index for row in done) == list(range(read))
    assert {row.outcome for row in done} == {"passed"}


def test_nothing_that_listens_is_one_sentence() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'melcheck[ray]'")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClusterError, match=f"^no Ray cluster answers at {address}: ") as caught:
        list(run_ray([], SETTINGS, workers=1, address=address))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["sesame", "sesame:", ":1"])
def test_what_is_no_address_is_named(address: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'melcheck[ray]'")
    with pytest.raises(ClusterError, match="an address must be HOST:PORT"):
        list(run_ray([], SETTINGS, workers=1, address=address))


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PackageNeededError, match=r"pip install 'melcheck\[ray\]'$"):
        list(run_ray([], SETTINGS, workers=1))


def test_ray_chooses_the_gpu() -> None:
    with pytest.raises(ValueError, match="the device must be cuda with Ray"):
        list(run_ray([], dataclasses.replace(SETTINGS, device="cuda:1"), workers=1))


class Resources:
    """A cluster that has nothing but its resources."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 64.0, "GPU": float(self.gpus)} if self.gpus else {"CPU": 64.0}


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(4, 1, 0.25), (8, 8, 1.0), (4, 8, 1.0), (12, 8, 0.5), (4, 0, 1)]
)
def test_workers_that_outnumber_the_gpus_share_them(workers: int, gpus: int, share: float) -> None:
    assert ray_engine._gpus_each(Resources(gpus), workers, is_ours=False) == share


def test_a_machine_without_a_gpu_is_told_so() -> None:
    with pytest.raises(ClusterError, match="Ray finds no GPU here"):
        ray_engine._gpus_each(Resources(0), 2, is_ours=True)


SCRIPT = """
from melcheck.audit.model import AuditSettings
from melcheck.audit.ray_engine import run_ray
from tests.audit.row_makers import blocks_of, faulty, items_named

items = items_named(["clip-0", "exit-1", "clip-2"])
rows = run_ray(blocks_of(items, 2), AuditSettings(vocoder=None), workers=2, make=faulty)
outcomes = {row.name: row.outcome for block in rows for row in block}
assert outcomes == {"clip-0": "passed", "exit-1": "unfinished", "clip-2": "passed"}, outcomes
import ray
assert not ray.is_initialized()
"""


def test_a_cluster_of_this_machine_begins_and_ends_without_a_word() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'melcheck[ray]'")
    paths = (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("", "", 0)
