"""Machines in trouble: no file descriptors, a full cache disk, little memory, stopped processes.

LOAD_LONG=1 runs all of it, and lets what is stopped stop for minutes.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.load.long import IS_LONG, only_long
from tests.mount.trees import differences, make_tree, rsync
from tests.mounts import Machine, Mount
from tests.servers import Server, rclone_server

pytestmark = pytest.mark.mount

AWAY_S = 200.0 if IS_LONG else 4.0
LEASE_S = 2.0
MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own: it is going to be stopped."""
    with rclone_server(tmp_path / "data") as running:
        yield running


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process, as a suspended machine does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def few_descriptors(pid: int, spare_count: int) -> Iterator[None]:
    """Let a process open only so many files more."""
    used_count = len(os.listdir(f"/proc/{pid}/fd"))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used_count + spare_count, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def tiny_disk(path: Path, size_bytes: int) -> Iterator[None]:
    """Hold a file system with little room."""
    path.mkdir(mode=0o700)
    options = f"size={size_bytes},mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def start(*command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a tool that need not end soon."""
    return subprocess.Popen(command, env=env)


def assert_no_traceback(machine: Machine) -> None:
    log = machine.log()
    assert "Traceback" not in log, log


@pytest.mark.parametrize("spare_count", [0, pytest.param(2, marks=only_long)])
@pytest.mark.timeout(600)
def test_no_file_descriptors(
    spare_count: int, machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """A mount that cannot open files waits, and all is well when it can again."""
    source = tmp_path / "source"
    make_tree(source)
    (source / "very large").write_bytes(os.urandom(60 * MIB))
    with machine.mounted("--idle-checkpoint", "200ms", "--max-checkpoint", "500ms") as mount:
        target = mount.path / "monday"
        target.mkdir()
        with few_descriptors(mount.pid(), spare_count):
            writer = start("rsync", "-aHAX", "--numeric-ids", f"{source}/", f"{target}/")
            sync = start("sync", target)
            command = start(
                sys.executable, "-m", "s3backfs.cli", "sync", mount.path, env=machine.variables()
            )
            with suppress(subprocess.TimeoutExpired):
                writer.wait(AWAY_S)
        assert [each.wait(100) for each in (writer, sync, command)] == [0, 0, 0]
        assert differences(source, target) == ""
    with other.mounted("-o", "ro") as mount:
        assert differences(source, mount.path / "monday") == ""
    assert_no_traceback(machine)


@only_long
@pytest.mark.parametrize("disk_bytes", [4096, 200_000, 2 * MIB])
def test_a_full_cache_disk(
    disk_bytes: int, machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """A cache that has no room costs speed, and nothing else."""
    source, cache = tmp_path / "source", tmp_path / "cache"
    make_tree(source)
    with tiny_disk(cache, disk_bytes):
        for name in ("monday", "tuesday"):
            with machine.mounted("--cache-dir", str(cache)) as mount:
                rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/{name}/")
                assert differences(source, mount.path / name) == ""
    with other.mounted("-o", "ro") as mount:
        assert differences(source, mount.path / "monday") == ""
        assert differences(source, mount.path / "tuesday") == ""
    assert_no_traceback(machine)


def own_group() -> Path | None:
    """The memory control group of this process, if groups may be made in it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, place = line.split(":", 2)
        if "memory" in kinds.split(","):
            path = Path(f"/sys/fs/cgroup/memory{place}")
            return path if os.access(path, os.W_OK) else None
    return None


@contextmanager
def little_memory(pid: int, limit_bytes: int) -> Iterator[Path]:
    """Put a process into a group with a limit of memory."""
    above = own_group()
    if above is None:
        pytest.skip("no memory control group can be made here (needs version 1, and root)")
    group = above / f"s3backfs-test-{pid}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        with suppress(OSError):
            (above / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@only_long
def test_little_memory(machine: Machine, other: Machine, tmp_path: Path) -> None:
    """With `--memory 64MiB` a mount writes and reads far more than its memory limit holds."""
    source = tmp_path / "source"
    make_tree(source)
    (source / "very large").write_bytes(os.urandom(300 * MIB if IS_LONG else 120 * MIB))
    with machine.mounted("--memory", "64MiB") as mount, little_memory(mount.pid(), 200 * MIB):
        rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/")
        machine.run("sync", str(mount.path))
        assert differences(source, mount.path / "monday") == ""
    with other.mounted("-o", "ro") as mount:
        assert differences(source, mount.path / "monday") == ""
    assert_no_traceback(machine)


def write_on(mount: Mount, name: str) -> None:
    """Write a file, and have it stored."""
    path = mount.path / "monday" / name
    path.write_bytes(name.encode() * 10_000)
    subprocess.run(["sync", path], check=True)


def write_durably(path: Path) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    try:
        os.write(descriptor, b"lost")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@only_long
@pytest.mark.timeout(600)
def test_a_mount_that_slept_longer_than_its_lease(machine: Machine, other: Machine) -> None:
    """A mount that was stopped goes on as if nothing had been, if nobody has taken over."""
    with machine.mounted("--lease", f"{LEASE_S}s") as mount:
        (mount.path / "monday").mkdir()
        write_on(mount, "before")
        (mount.path / "monday" / "unstored").write_bytes(b"unstored" * 100)
        with stopped(mount.pid()):
            time.sleep(AWAY_S)
        write_on(mount, "after")
    with other.mounted("-o", "ro") as mount:
        found = sorted(os.listdir(mount.path / "monday"))
        assert found == ["after", "before", "unstored"]
        assert (mount.path / "monday" / "unstored").read_bytes() == b"unstored" * 100
    assert_no_traceback(machine)


@pytest.mark.timeout(600)
def test_a_mount_that_slept_while_another_took_over(machine: Machine, other: Machine) -> None:
    """Who writes to the backup of a sleeper is its owner; the sleeper is told, and loses alone."""
    with machine.mounted("--lease", f"{LEASE_S}s") as mount:
        (mount.path / "monday").mkdir()
        write_on(mount, "before")
        (mount.path / "monday" / "unstored").write_bytes(b"unstored" * 100)
        with stopped(mount.pid()):
            time.sleep(AWAY_S)
            with other.mounted() as second:
                write_on(second, "winner")
                second.umount("--keep-open")
        with pytest.raises(OSError, match=r"Stale|Read-only|Input/output"):
            write_durably(mount.path / "monday" / "after")
        ended = mount.umount(check=False)
        assert ended.returncode != 0
        assert "taken over" in ended.stderr + machine.log()
        if mount.is_there():
            mount.kill()
    with other.mounted() as mount:
        assert sorted(os.listdir(mount.path / "monday")) == ["before", "winner"]
    assert_no_traceback(machine)


@only_long
@pytest.mark.timeout(900)
def test_a_stopped_server(machine: Machine, other: Machine, server: Server, tmp_path: Path) -> None:
    """While the server is stopped writers wait; afterwards all goes on, and nothing is lost."""
    source = tmp_path / "source"
    make_tree(source)
    (source / "very large").write_bytes(os.urandom(40 * MIB))
    with machine.mounted("--lease", f"{LEASE_S}s") as mount:
        (mount.path / "monday").mkdir()
        write_on(mount, "before")
        with server.paused():
            writer = subprocess.Popen(
                ["rsync", "-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/"]
            )
            time.sleep(AWAY_S)
            (mount.path / "monday" / "meanwhile").write_bytes(b"meanwhile")
        assert writer.wait(200) == 0
        machine.run("sync", str(mount.path))
        with other.mounted("-o", "ro") as second:
            found = set(os.listdir(second.path / "monday"))
            assert {"before", "meanwhile", "very large"} <= found
    with other.mounted("-o", "ro") as mount:
        rest = {line.split(" ", 1)[1] for line in
                differences(source, mount.path / "monday").splitlines()}  # fmt: skip
        assert rest <= {"before", "  before", "meanwhile", "  meanwhile", "./"}
    assert_no_traceback(machine)
