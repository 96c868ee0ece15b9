"""Bytes of files: holes, mappings, appends, unlinked files, and what programs may ask for."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest

from tests.mount.conftest import Shared

pytestmark = pytest.mark.mount

GIB = 1 << 30
FICLONE = 0x40049409

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


def test_a_huge_sparse_file_costs_nothing(shared: Shared, backup: Path) -> None:
    """Holes take no blocks and read as zeros, here and on another machine."""
    path = backup / "sparse"
    with path.open("wb") as file:
        file.truncate(100 * GIB)
        file.seek(50 * GIB)
        file.write(b"middle")
    status = path.stat()
    assert (status.st_size, status.st_blocks) == (100 * GIB, 1)
    shared.mount.machine.run("sync", str(shared.mount.path))
    with (
        shared.other.mounted("--read-only") as mount,
        (mount.path / backup.name / "sparse").open("rb") as file,
    ):
        assert os.fstat(file.fileno()).st_blocks == 1
        assert os.pread(file.fileno(), 8, 50 * GIB - 1) == b"\0middle\0"
        assert os.pread(file.fileno(), 10, 100 * GIB - 4) == bytes(4)


def test_the_largest_size(backup: Path) -> None:
    """A file may have 2**63 - 1 bytes, even if there are two; the backup is sealed and read."""
    for name in ("first", "second"):
        (backup / name).touch()
        os.truncate(backup / name, 2**63 - 1)
        assert (backup / name).stat().st_size == 2**63 - 1
    fsync_directory(backup)


def test_totals_survive_unlinked_files_that_shrink(shared: Shared, backup: Path) -> None:
    """A file that is unlinked and then cut off leaves a backup that another machine reads."""
    with (backup / "file").open("w+b") as file:
        file.write(bytes(range(256)) * 4096)
        file.flush()
        (backup / "file").unlink()
        file.truncate(0)
    (backup / "kept").touch()
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        assert os.listdir(mount.path / backup.name) == ["kept"]


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("size", [1, 600, 5000, 1 << 20])
def test_blocks_are_never_0_where_data_is(backup: Path, size: int) -> None:
    """st_blocks counts what is still being written, or tar --sparse would lose it."""
    path = backup / "file"
    with path.open("wb", buffering=0) as file:
        file.write(os.urandom(size))
        assert os.fstat(file.fileno()).st_blocks == -(-size // 512)
    assert path.stat().st_blocks == -(-size // 512)
    fsync_directory(backup)
    assert path.stat().st_blocks == -(-size // 512)


def test_a_run_of_zeros_becomes_a_hole(backup: Path) -> None:
    """Zeros that were written take no blocks once they are stored."""
    path = backup / "zeros"
    path.write_bytes(bytes(32 << 20))
    fsync_directory(backup)
    assert path.stat().st_blocks == 0
    assert path.read_bytes() == bytes(32 << 20)


def test_truncation_leaves_zeros_behind(backup: Path) -> None:
    """What was cut off does not come back when the file grows again."""
    path = backup / "file"
    path.write_bytes(b"x" * 300_000)
    os.truncate(path, 100_001)
    os.truncate(path, 300_000)
    assert path.read_bytes() == b"x" * 100_001 + bytes(199_999)


def test_seeking_for_holes_finds_only_the_end(backup: Path) -> None:
    """lseek takes all of a file for data: the first hole is its end."""
    path = backup / "file"
    with path.open("w+b") as file:
        file.truncate(1 << 30)
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 1 << 30
        assert os.lseek(file.fileno(), 4096, os.SEEK_DATA) == 4096
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.lseek(file.fileno(), 1 << 30, os.SEEK_DATA)


def test_fallocate_is_not_supported_and_its_fallback_works(backup: Path) -> None:
    """fallocate answers EOPNOTSUPP; posix_fallocate then makes the file as long as asked for."""
    with (backup / "file").open("w+b") as file:
        assert libc.fallocate(file.fileno(), 0, 0, 4096) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        os.posix_fallocate(file.fileno(), 0, 100_000)
        assert os.fstat(file.fileno()).st_size == 100_000


def test_copy_file_range_copies_through_memory(backup: Path) -> None:
    """The kernel copies by reading and writing where copy_file_range is not offered."""
    (backup / "first").write_bytes(b"some content")
    with (backup / "first").open("rb") as source, (backup / "second").open("w+b") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 12, 5) == 7
        assert os.pread(target.fileno(), 20, 0) == b"content"


def test_ioctls_and_clones_are_refused(backup: Path) -> None:
    """ioctl is not offered: a clone of a range is EOPNOTSUPP, and cp --reflink=auto copies."""
    (backup / "first").write_bytes(b"some content")
    with (backup / "first").open("rb") as source, (backup / "second").open("w+b") as target:
        numbers = target.fileno(), source.fileno()
        with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
            fcntl.ioctl(numbers[0], FICLONE, numbers[1])
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.open(backup, os.O_TMPFILE | os.O_RDWR)


# -- appending, mapping ------------------------------------------------------------------------


def test_append_follows_the_flag_as_it_is_now(backup: Path) -> None:
    """A handle whose O_APPEND was taken away writes where it is told to."""
    path = backup / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"0123456789")
    os.write(descriptor, b"ab")
    fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    os.pwrite(descriptor, b"XY", 2)
    os.close(descriptor)
    assert path.read_bytes() == b"01XY456789ab"


def test_a_shared_mapping_of_an_appending_handle(backup: Path) -> None:
    """Pages of a shared mapping are written in their place, though the handle appends."""
    path = backup / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"a" * 8192)
    with mmap.mmap(descriptor, 8192) as mapped:
        mapped[4096:4100] = b"XXXX"
        mapped.flush()
    os.close(descriptor)
    assert path.read_bytes() == b"a" * 4096 + b"XXXX" + b"a" * 4092


def test_mappings_and_writes_see_each_other(backup: Path) -> None:
    """What a shared mapping changes is read, what is written shows in it; private ones keep out."""
    path = backup / "file"
    path.write_bytes(b"x" * 10_000)
    with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5000:5004] = b"ABCD"
        assert os.pread(file.fileno(), 6, 4999) == b"xABCDx"
        os.pwrite(file.fileno(), b"QQ", 100)
        assert mapped[99:103] == b"xQQx"
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            private[0:2] = b"ZZ"
        assert mapped[0:2] == b"xx"


def test_no_shared_mapping_while_a_file_is_only_written(backup: Path) -> None:
    """While its first handle is write-only, a file can be mapped privately, not shared: ENODEV."""
    path = backup / "file"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"x" * 10_000)
    with path.open("r+b") as file:
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            mmap.mmap(file.fileno(), 0)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as private:
            assert private[:3] == b"xxx"
    os.close(descriptor)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        assert mapped[:3] == b"xxx"


def test_readers_see_what_a_write_only_handle_writes(backup: Path) -> None:
    """A reader that was there before a writer, or came after it, sees each write at once."""
    path = backup / "file"
    path.write_bytes(b"old" * 5000)
    with path.open("rb", buffering=0) as early:
        assert early.read(6) == b"oldold"
        with path.open("r+b", buffering=0) as writer, path.open("rb", buffering=0) as late:
            writer.write(b"new")
            assert os.pread(early.fileno(), 6, 0) == b"newold"
            assert os.pread(late.fileno(), 6, 0) == b"newold"
    writer_only = os.open(path, os.O_WRONLY)
    with path.open("rb", buffering=0) as late:
        os.pwrite(writer_only, b"NEW", 0)
        assert late.read(6) == b"NEWold"
    os.close(writer_only)
    assert path.read_bytes()[:6] == b"NEWold"


def test_an_unlinked_file_lives_while_it_is_open(backup: Path) -> None:
    """A file without a name can be read, written and fstat'ed until it is closed."""
    path = backup / "file"
    with path.open("w+b", buffering=0) as file:
        file.write(b"before ")
        path.unlink()
        fsync_directory(backup)
        file.write(b"after")
        assert os.pread(file.fileno(), 20, 0) == b"before after"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert os.listdir(backup) == []


def test_an_open_file_follows_its_renames(backup: Path) -> None:
    """A file that is renamed, or whose directory is, goes on being written under its new name."""
    (backup / "dir").mkdir()
    with (backup / "dir" / "file").open("wb", buffering=0) as file:
        file.write(b"one ")
        (backup / "dir" / "file").rename(backup / "dir" / "other")
        file.write(b"two ")
        (backup / "dir").rename(backup / "moved")
        fsync_directory(backup)
        file.write(b"three")
    assert (backup / "moved" / "other").read_bytes() == b"one two three"


def test_many_small_overwrites_stay_small(backup: Path) -> None:
    """Thousands of writes all over a file leave few extents and the right bytes."""
    path, expected = backup / "file", bytearray(1 << 20)
    with path.open("wb", buffering=0) as file:
        file.write(expected)
        for number in range(4000):
            offset = number * 7919 * 131 % ((1 << 20) - 100)
            os.pwrite(file.fileno(), number.to_bytes(4, "big"), offset)
            expected[offset : offset + 4] = number.to_bytes(4, "big")
            if number % 1500 == 0:
                os.fsync(file.fileno())
    assert path.read_bytes() == expected
