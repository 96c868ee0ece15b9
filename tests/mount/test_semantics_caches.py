"""What the kernel keeps: asked while the process behind the mount stands still."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from s3backfs.fuse.read_ahead import READ_AHEAD_KIB
from tests.mount.conftest import Shared
from tests.mounts import Mount

pytestmark = pytest.mark.mount

PATIENCE_S = 3


@contextlib.contextmanager
def standing_still(mount: Mount) -> Iterator[None]:
    """Stop the process behind a mount."""
    pid = mount.pid()
    os.kill(pid, signal.SIGSTOP)
    # Whatever happens in between, it goes on.
    rescue = threading.Timer(4 * PATIENCE_S, os.kill, (pid, signal.SIGCONT))
    rescue.start()
    try:
        yield
    finally:
        rescue.cancel()
        os.kill(pid, signal.SIGCONT)


def answers(call: Callable[[], object]) -> bool:
    """Whether a call ends without the help of a process that stands still."""
    results: list[object] = []
    # A thread that waits for the file system ends when that goes on.
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return bool(results)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_the_kernel_keeps_what_is_sealed(shared: Shared, sealed: Path) -> None:
    """Names, missing names, attributes and bytes of a sealed backup are asked for once."""
    with opened(sealed) as top, opened(sealed / "file") as file:
        os.pread(file, 100, 0)
        # A read makes the kernel ask for the access time once more.
        os.stat(sealed / "file")
        assert not (sealed / "none").exists()
        with standing_still(shared.mount):
            assert answers(lambda: os.stat("file", dir_fd=top))
            assert answers(lambda: os.access("none", os.F_OK, dir_fd=top))
            assert answers(lambda: os.pread(file, 100, 0))


def test_the_kernel_keeps_what_this_mount_writes(shared: Shared, backup: Path) -> None:
    """Names, missing names, attributes and bytes of one's own open backup are kept too."""
    (backup / "file").write_bytes(b"content")
    with opened(backup) as top, opened(backup / "file") as file:
        os.pread(file, 100, 0)
        os.fsync(top)
        os.stat(backup / "file")
        assert not (backup / "none").exists()
        with standing_still(shared.mount):
            assert answers(lambda: os.stat("file", dir_fd=top))
            assert answers(lambda: os.pread(file, 100, 0))
            assert answers(lambda: os.access("none", os.F_OK, dir_fd=top))
        (backup / "none").touch()
        assert (backup / "none").exists()


def test_a_read_only_mount_is_not_asked_at_each_close(shared: Shared, sealed: Path) -> None:
    """Where nothing can go wrong with what was written, close(2) waits for an answer once."""
    with shared.other.mounted("--read-only") as mount:
        path = mount.path / sealed.name / "file"
        with opened(path) as first, opened(path) as second:
            os.close(os.dup(first))
            with standing_still(mount):
                assert answers(lambda: os.close(os.dup(second)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set it")
def test_the_kernel_reads_far_ahead(shared: Shared) -> None:
    """Root's mounts are read ahead of in the longest requests there are."""
    device = os.stat(shared.mount.path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert int(setting.read_text()) == READ_AHEAD_KIB


def test_another_writers_backup_is_seen_to_grow(shared: Shared, backup: Path) -> None:
    """What another machine stores in its open backup shows here within seconds."""
    (backup / "first").touch()
    (backup / "log").write_bytes(b"old" * 5000)
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        there = mount.path / backup.name
        assert sorted(os.listdir(there)) == ["first", "log"]
        reader = (there / "log").open("rb", buffering=0)
        assert reader.read() == b"old" * 5000
        (backup / "log").write_bytes(b"new" * 9000)
        (backup / "second").write_bytes(b"second")
        (backup / "first").write_bytes(b"changed")
        shared.mount.machine.run("sync", str(shared.mount.path))
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s and reader.seek(0, os.SEEK_END) == 15_000:
            os.stat(there / "log")
        with reader:
            assert os.pread(reader.fileno(), 30_000, 0) == b"new" * 9000
        assert sorted(os.listdir(there)) == ["first", "log", "second"]
        assert (there / "second").read_bytes() == b"second"
        assert (there / "first").read_bytes() == b"changed"


def test_an_open_file_is_read_on_when_its_writer_seals(shared: Shared, backup: Path) -> None:
    """Who has a file of another machine's backup open reads what was added before the seal, too."""
    content = os.urandom(100_000)
    (backup / "log").write_bytes(content[:50_000])
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        there = mount.path / backup.name
        with opened(there / "log") as reader:
            assert os.pread(reader, 200_000, 0) == content[:50_000]
            (backup / "log").write_bytes(content)
            shared.seal(backup)
            deadline_s = time.monotonic() + 30
            while time.monotonic() < deadline_s and os.fstat(reader).st_size == 50_000:
                os.stat(there / "log")
            assert os.pread(reader, 200_000, 0) == content


def test_what_was_reopened_elsewhere_is_another_directory(shared: Shared, backup: Path) -> None:
    """A reader of a sealed backup keeps what it has open, and sees all that is new at its path."""
    (backup / "dir").mkdir()
    (backup / "dir" / "longer").write_bytes(b"old")
    (backup / "dir" / "same").write_bytes(b"AAAA")
    (backup / "dir" / "changed").touch()
    shared.seal(backup)
    with shared.other.mounted("--read-only") as mount:
        there = mount.path / backup.name / "dir"
        assert (there / "same").read_bytes() == b"AAAA"
        assert os.stat(there / "longer").st_size == 3
        assert os.stat(there / "changed").st_size == 0
        assert not (there / "new").exists()
        with opened(there / "longer") as before:
            shared.mount.machine.run("reopen", str(backup))
            (backup / "dir" / "longer").write_bytes(b"much longer")
            (backup / "dir" / "same").write_bytes(b"BBBB")
            (backup / "dir" / "new").touch()
            (backup / "dir" / "changed").unlink()
            (backup / "dir" / "changed").mkdir()
            shared.seal(backup)
            deadline_s = time.monotonic() + 30
            while time.monotonic() < deadline_s and not (there / "new").exists():
                os.stat(mount.path / backup.name)
            assert (there / "new").exists()
            assert (there / "longer").read_bytes() == b"much longer"
            assert (there / "same").read_bytes() == b"BBBB"
            assert (there / "changed").is_dir()
            assert os.pread(before, 100, 0) == b"old"
