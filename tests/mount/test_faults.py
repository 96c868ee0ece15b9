"""What programs see on a real mount when S3 misbehaves, and what is stored in the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s3backfs.mount import TASKS_MAX_COUNT
from tests.mount.trees import differences, make_tree, rsync
from tests.mounts import Machine, Mount
from tests.proxy import FaultName, Incoming, Proxy
from tests.servers import Server

pytestmark = pytest.mark.mount

PASSING: list[FaultName] = [
    "500",
    "503",
    "429",
    "reset before",
    "reset during",
    "answer lost",
    "truncated",
    "error in 200",
    "late",
    "slow",
]
OUTAGE_S = float(os.environ.get("FAULT_OUTAGE_S", "5"))
PATIENCE_S = 60.0


def make_source(top: Path) -> None:
    make_tree(top)
    (top / "very large").write_bytes(os.urandom(20 << 20))


def test_what_passes_is_not_noticed(
    behind: Machine, other: Machine, proxy: Proxy, tmp_path: Path
) -> None:
    """With every fourth request failing in some way a tree is written, read, and right."""
    source = tmp_path / "source"
    make_source(source)
    randomness = random.Random(1)

    def script(_: Incoming) -> FaultName | None:
        return randomness.choice(PASSING) if randomness.random() < 0.25 else None

    with behind.mounted() as mount:
        proxy.script = script
        rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/")
        behind.run("sync", str(mount.path))
        assert differences(source, mount.path / "monday") == ""
    with behind.mounted() as mount:
        assert differences(source, mount.path / "monday") == ""
    with other.mounted() as mount:
        assert differences(source, mount.path / "monday") == ""
    assert proxy.counts["answer lost"] > 0


@pytest.mark.parametrize("fault", ["error in 200", "answer lost", "reset before"])
def test_a_failed_complete(fault: FaultName, behind: Machine, other: Machine, proxy: Proxy) -> None:
    """However the completion of an upload fails, the pack is there in the end."""
    data = os.urandom(30 << 20)
    left = [2]

    def script(incoming: Incoming) -> FaultName | None:
        if not incoming.is_complete or not left[0]:
            return None
        left[0] -= 1
        return fault

    with behind.mounted() as mount:
        proxy.script = script
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "large").write_bytes(data)
    assert proxy.counts[fault]
    with other.mounted() as mount:
        assert (mount.path / "monday" / "large").read_bytes() == data


@pytest.mark.parametrize("fault", ["error in 200", "answer lost", "unsaid"])
def test_a_failed_copy(fault: FaultName, behind: Machine, other: Machine, proxy: Proxy) -> None:
    """A backup is forgotten only when its root stands in the trash: a good status is no proof."""
    with behind.mounted() as mount:
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(b"data")
    left = [1]

    def script(incoming: Incoming) -> FaultName | None:
        if not incoming.is_copy or not left[0]:
            return None
        left[0] -= 1
        return fault

    with behind.mounted("-o", "allow-forget") as mount:
        proxy.script = script
        (mount.path / "monday" / "file").unlink()
        if fault == "unsaid":
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                (mount.path / "monday").rmdir()
        else:
            (mount.path / "monday").rmdir()
    assert proxy.counts[fault]
    proxy.script = lambda _: None
    with other.mounted("-o", "ro") as mount:
        assert os.listdir(mount.path) == (["monday"] if fault == "unsaid" else [])
    trash = [key for key in keys_of(proxy.server, other) if "/trash/" in key]
    assert bool(trash) == (fault != "unsaid")


def keys_of(server: Server, machine: Machine) -> list[str]:
    """All keys of the bucket that a machine's repository is in."""
    client = server.client()
    bucket = machine.url.removeprefix("s3://").partition("/")[0]
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    client.close()
    return keys


def test_writers_wait_while_s3_is_away(behind: Machine, other: Machine, proxy: Proxy) -> None:
    """An outage delays fsync, and nothing is reported as durable before it is."""
    with behind.mounted() as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        proxy.script = lambda _: "reset before"
        begun_s = time.monotonic()
        (backup / "file").write_bytes(b"data" * 1000)
        sync = subprocess.Popen(["sync", str(backup / "file")])
        with pytest.raises(subprocess.TimeoutExpired):
            sync.wait(OUTAGE_S)
        proxy.script = lambda _: None
        assert sync.wait(60) == 0
        assert time.monotonic() - begun_s >= OUTAGE_S
        with other.mounted("-o", "ro") as second:
            assert (second.path / "monday" / "file").read_bytes() == b"data" * 1000


@pytest.mark.parametrize(("fault", "expected"), [("403", errno.EACCES), ("no bucket", errno.EIO)])
def test_a_refusal_reaches_the_writer(
    fault: FaultName, expected: int, behind: Machine, other: Machine, proxy: Proxy
) -> None:
    """A refusal for good is what fsync says; what is there stays readable; umount says so too."""
    with behind.mounted() as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        (backup / "before").write_bytes(b"before")
        behind.run("sync", str(mount.path))
        proxy.script = lambda incoming: fault if incoming.method != "GET" else None
        with open(backup / "after", "wb", buffering=0) as file:
            file.write(b"after")
            with pytest.raises(OSError, match=os.strerror(expected)):
                os.fsync(file.fileno())
        assert (backup / "before").read_bytes() == b"before"
        assert (backup / "after").read_bytes() == b"after"
        assert mount.umount(check=False).returncode != 0
        with other.mounted("-o", "ro") as second:
            assert os.listdir(second.path / "monday") == ["before"]
        proxy.script = lambda _: None
        mount.umount(check=False)
    with other.mounted() as mount:
        assert sorted(os.listdir(mount.path / "monday")) == ["after", "before"]


def test_the_last_line_says_that_something_is_missing(behind: Machine, proxy: Proxy) -> None:
    """A mount that could not store all does not log in the end that it has finished."""
    with behind.mounted() as mount:
        (mount.path / "monday").mkdir()
        proxy.script = lambda incoming: "403" if incoming.method in ("PUT", "POST") else None
        (mount.path / "monday" / "file").write_bytes(b"data" * 1000)
        mount.terminate()
    lines = behind.log().splitlines()
    assert any("backup monday is not complete in S3: " in line for line in lines)
    assert "ended, but not all is complete: " in lines[-1]
    assert not any("finished: " in line for line in lines)


def test_a_refusal_that_ends(behind: Machine, other: Machine, proxy: Proxy) -> None:
    """What could not be stored while S3 refused is stored when it no longer does."""
    data = os.urandom(3 << 20)
    with behind.mounted() as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        proxy.script = lambda incoming: "403" if incoming.method in ("PUT", "POST") else None
        (backup / "file").write_bytes(data)
        assert behind.run("sync", str(mount.path), check=False).returncode != 0
        proxy.script = lambda _: None
        behind.run("sync", str(mount.path))
        with other.mounted("-o", "ro") as second:
            assert (second.path / "monday" / "file").read_bytes() == data


@pytest.mark.skipif("FAULTS_LONG" not in os.environ, reason="takes a minute; set FAULTS_LONG=1")
def test_a_stalled_answer_ends(behind: Machine, other: Machine, proxy: Proxy) -> None:
    """A request that is never answered is given up and sent again."""
    stalled = [1]

    def script(incoming: Incoming) -> FaultName | None:
        if incoming.method != "PUT" or "/data/" not in incoming.path or not stalled[0]:
            return None
        stalled[0] -= 1
        return "stalled"

    with behind.mounted() as mount:
        proxy.script = script
        (mount.path / "monday").mkdir()
        (mount.path / "monday" / "file").write_bytes(b"data" * 1000)
        behind.run("sync", str(mount.path))
    assert proxy.counts["stalled"] == 1
    with other.mounted() as mount:
        assert (mount.path / "monday" / "file").read_bytes() == b"data" * 1000


MEMORY_BYTES = 64 << 20
LARGE_BYTES = int(os.environ.get("FAULTS_LARGE_MIB", "56")) << 20


def peak_bytes(mount: Mount) -> int:
    """The most memory that the process of a mount has had, since this was asked for last."""
    process = Path(f"/proc/{mount.pid()}")
    status = (process / "status").read_text()
    # Only root may; what opening a key took stands in the first peak otherwise.
    with contextlib.suppress(OSError):
        (process / "clear_refs").write_text("5")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def rest_bytes(mount: Mount) -> int:
    """How much memory a mount has that does nothing."""
    peak_bytes(mount)
    return peak_bytes(mount)


def test_memory_is_bounded_while_s3_is_bad(behind: Machine, other: Machine, proxy: Proxy) -> None:
    """A network that is slow, jittery, away and lossy costs time: no byte, and no more memory.

    Parts arrive out of order; a large file is written over an outage, and read in drops.
    """
    data = os.urandom(LARGE_BYTES)
    randomness = random.Random(1)
    bad: list[FaultName] = ["jitter", "jitter", "slow", "drops", "truncated"]

    def script(_: Incoming) -> FaultName | None:
        return randomness.choice(bad) if randomness.random() < 0.5 else None

    with behind.mounted("--memory", str(MEMORY_BYTES)) as mount:
        (mount.path / "monday").mkdir()
        before_bytes = rest_bytes(mount)
        proxy.script = lambda incoming: "reset before" if incoming.method != "GET" else "jitter"
        with ThreadPoolExecutor(1) as threads:
            writing = threads.submit((mount.path / "monday" / "large").write_bytes, data)
            await_full(mount)
            assert not writing.done()
            proxy.script = script
            assert writing.result(60) == LARGE_BYTES
        behind.run("sync", str(mount.path))
        assert peak_bytes(mount) - before_bytes < MEMORY_BYTES * 3 // 2
        proxy.script = lambda _: None
    assert proxy.counts["drops"]
    assert proxy.counts["jitter"]
    with behind.mounted("-o", "ro", "--memory", str(MEMORY_BYTES)) as mount:
        before_bytes = rest_bytes(mount)
        proxy.script = script
        assert (mount.path / "monday" / "large").read_bytes() == data
        assert peak_bytes(mount) - before_bytes < MEMORY_BYTES * 3 // 2
    with other.mounted("-o", "ro") as mount:
        assert (mount.path / "monday" / "large").read_bytes() == data


def await_full(mount: Mount) -> None:
    """Wait until the buffers of a mount take nothing more."""
    previous = -1
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        status = json.loads((mount.path / ".s3backfs" / "status.json").read_text())
        now = int(status["in_flight_bytes"])
        if now == previous and now > MEMORY_BYTES // 4:
            return
        previous = now
        time.sleep(0.3)
    raise AssertionError(f"{previous} bytes in flight")


def test_others_are_served_while_readers_wait(
    machine: Machine, behind: Machine, proxy: Proxy
) -> None:
    """Forty reads that the store does not answer keep nobody from listing."""
    contents = {f"{number:02}": os.urandom(200_000) for number in range(40)}
    with machine.mounted() as mount:
        (mount.path / "night").mkdir()
        for name, content in contents.items():
            (mount.path / "night" / name).write_bytes(content)
    proxy.script = lambda incoming: "stalled" if "/data/" in incoming.path else None
    with behind.mounted() as mount, ThreadPoolExecutor(len(contents)) as readers:
        night = mount.path / "night"
        # So many requests that every task of the request loop has been started.
        for _ in range(TASKS_MAX_COUNT + 100):
            os.listxattr(night / "00")
        reads = {name: readers.submit((night / name).read_bytes) for name in contents}
        try:
            await_count(proxy, "stalled", 1)
            listing = subprocess.run(["ls", "-l", night], capture_output=True, timeout=60)
            assert listing.returncode == 0
            assert len(listing.stdout.splitlines()) == 1 + len(contents)
            (mount.path / "another").mkdir()
            assert not any(read.done() for read in reads.values())
        finally:
            proxy.script = lambda _: None
            proxy.released.set()
        assert {name: read.result(60) for name, read in reads.items()} == contents


def await_count(proxy: Proxy, fault: FaultName, count: int) -> None:
    """Wait until so many requests met with a fault."""
    deadline_s = time.monotonic() + 60
    while proxy.counts[fault] < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def listed_roots(proxy: Proxy) -> Callable[[], int]:
    """Break every connection from now on; the answer counts the looks for backups that it broke."""
    count = [0]

    def script(incoming: Incoming) -> FaultName:
        count[0] += incoming.method == "GET" and "prefix=some%2Fprefix%2Fbackups" in incoming.path
        return "reset before"

    proxy.script = script
    return lambda: count[0]


def test_what_is_known_is_there_while_s3_is_away(
    behind: Machine, other: Machine, proxy: Proxy
) -> None:
    """Sealed backups that were read once are listed and read without S3; news wait for it."""
    with behind.mounted() as mount:
        (mount.path / "monday" / "docs").mkdir(parents=True)
        for number in range(5):
            (mount.path / "monday" / "docs" / f"{number}").write_bytes(b"%d" % number * 4000)
        behind.run("seal", str(mount.path / "monday"))
    with behind.mounted() as mount, ThreadPoolExecutor() as pool:
        names = [str(number) for number in range(5)]
        docs = mount.path / "monday" / "docs"

        def look() -> tuple[list[str], list[str], list[bytes]]:
            found = sorted(os.listdir(docs))
            data = [(docs / name).read_bytes() for name in found]
            return os.listdir(mount.path), found, data

        assert look() == (["monday"], names, [name.encode() * 4000 for name in names])
        broken = listed_roots(proxy)
        try:
            # Until the kernel has asked the mount, and the mount S3, whether it is still there.
            while broken() < 2:
                time.sleep(0.05)
                done = pool.submit(look).result(PATIENCE_S)
                assert done == (["monday"], names, [name.encode() * 4000 for name in names])
            with other.mounted() as second:
                (second.path / "tuesday").mkdir()
            assert pool.submit(os.listdir, mount.path).result(PATIENCE_S) == ["monday"]
            unknown = pool.submit(os.listdir, mount.path / "tuesday")
            proxy.script = lambda _: None
            assert unknown.result(PATIENCE_S) == []
            while sorted(pool.submit(os.listdir, mount.path).result(PATIENCE_S)) == ["monday"]:
                time.sleep(0.05)
        finally:
            # What hangs would hang for a day.
            proxy.script = lambda _: None
        assert sorted(os.listdir(mount.path)) == ["monday", "tuesday"]
