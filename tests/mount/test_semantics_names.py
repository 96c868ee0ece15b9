"""Names: renaming, linking, long and strange names, large directories, and their errors."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.trees import run

pytestmark = pytest.mark.mount

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def error_of(call: Callable[..., object], *arguments: object) -> str:
    """The name of the error that a call ends with."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the code is what is returned
        call(*arguments)
    return errno.errorcode[caught.value.errno or 0]


# -- renaming ----------------------------------------------------------------------------------


def test_rename_replaces_files_and_empty_directories(backup: Path) -> None:
    """rename takes the place of a file by a file, and of an empty directory by a directory."""
    (backup / "a").write_text("a")
    (backup / "b").write_text("b")
    (backup / "full" / "x").mkdir(parents=True)
    (backup / "empty").mkdir()
    os.rename(backup / "a", backup / "b")
    assert (backup / "b").read_text() == "a"
    os.rename(backup / "full", backup / "empty")
    assert os.listdir(backup / "empty") == ["x"]
    assert sorted(os.listdir(backup)) == ["b", "empty"]
    assert os.stat(backup).st_nlink == 3


def test_rename_refuses_what_posix_refuses(backup: Path) -> None:
    """A full directory, a directory by a file, a file by a directory, and oneself below oneself."""
    (backup / "file").touch()
    (backup / "dir" / "x").mkdir(parents=True)
    (backup / "other").mkdir()
    assert error_of(os.rename, backup / "other", backup / "dir") == "ENOTEMPTY"
    assert error_of(os.rename, backup / "file", backup / "dir") == "EISDIR"
    assert error_of(os.rename, backup / "dir", backup / "file") == "ENOTDIR"
    assert error_of(os.rename, backup / "dir", backup / "dir" / "x" / "y") == "EINVAL"
    assert error_of(os.rename, backup / "none", backup / "file") == "ENOENT"


def make_deep(top: Path, name: str, depth: int) -> int:
    """Make directories with the longest names below each other; give the last one, opened."""
    (top / name).mkdir()
    descriptor = os.open(top / name, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("n" * 255, dir_fd=descriptor)
        below = os.open("n" * 255, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    return descriptor


def test_a_directory_is_not_moved_too_deep(backup: Path) -> None:
    """A move that would make a path longer than 8 KiB is ENAMETOOLONG, and changes nothing."""
    os.close(make_deep(backup, "moved", 20))
    target = make_deep(backup, "target", 20)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
            os.rename(backup / "moved", "moved", dst_dir_fd=target)
        os.mkdir("small", dir_fd=target)
    finally:
        os.fsync(target)
        os.close(target)
    assert (backup / "moved").is_dir()


def test_rename_of_one_file_onto_itself_does_nothing(backup: Path) -> None:
    """Two names of one inode both stay when one is renamed onto the other."""
    (backup / "a").touch()
    os.link(backup / "a", backup / "b")
    os.rename(backup / "a", backup / "b")
    assert sorted(os.listdir(backup)) == ["a", "b"]


def test_rename_noreplace(backup: Path) -> None:
    """RENAME_NOREPLACE is EEXIST where there is something, and renames where there is nothing."""
    (backup / "a").touch()
    (backup / "b").touch()
    assert error_of(renameat2, backup / "a", backup / "b", NOREPLACE) == "EEXIST"
    renameat2(backup / "a", backup / "c", NOREPLACE)
    assert sorted(os.listdir(backup)) == ["b", "c"]


def test_rename_exchange(backup: Path) -> None:
    """RENAME_EXCHANGE swaps a file and a directory, with all that is below, and counts links."""
    (backup / "left").mkdir()
    (backup / "left" / "file").write_text("text")
    (backup / "right" / "dir" / "below").mkdir(parents=True)
    renameat2(backup / "left" / "file", backup / "right" / "dir", EXCHANGE)
    assert (backup / "right" / "dir").read_text() == "text"
    assert (backup / "left" / "file" / "below").is_dir()
    assert [os.stat(backup / name).st_nlink for name in ("left", "right")] == [3, 2]
    assert error_of(renameat2, backup / "left", backup / "none", EXCHANGE) == "ENOENT"


def test_rename_whiteout_is_not_offered(backup: Path) -> None:
    """RENAME_WHITEOUT is EINVAL."""
    (backup / "a").touch()
    assert error_of(renameat2, backup / "a", backup / "b", WHITEOUT) == "EINVAL"


def test_a_moved_tree_keeps_numbers_and_content(shared: Shared, backup: Path) -> None:
    """A directory of stored names moves as it is, also on another machine."""
    (backup / "old" / "deep").mkdir(parents=True)
    for number in range(500):
        (backup / "old" / "deep" / f"{number}").write_text(str(number))
    sync(shared)
    before = {name: os.stat(backup / "old" / "deep" / name).st_ino for name in ("1", "499")}
    (backup / "new").mkdir()
    os.rename(backup / "old" / "deep", backup / "new" / "place")
    (backup / "new" / "place" / "7").unlink()
    sync(shared)
    with shared.other.mounted("--read-only") as mount:
        place = mount.path / backup.name / "new" / "place"
        assert {name: os.stat(place / name).st_ino for name in before} == before
        assert sorted(os.listdir(place), key=int) == [str(n) for n in range(500) if n != 7]
        assert (place / "123").read_text() == "123"


def sync(shared: Shared) -> None:
    shared.mount.machine.run("sync", str(shared.mount.path))


# -- links -------------------------------------------------------------------------------------


def test_hard_links_count_and_share(shared: Shared, backup: Path) -> None:
    """Names of one file share number, content, attributes and count, also on another machine."""
    (backup / "dir").mkdir()
    (backup / "a").write_text("first")
    os.link(backup / "a", backup / "dir" / "b")
    os.link(backup / "dir" / "b", backup / "c")
    (backup / "c").write_text("second")
    os.chmod(backup / "a", 0o600)
    (backup / "a").unlink()
    sync(shared)
    with shared.other.mounted("--read-only") as mount:
        for top in (backup, mount.path / backup.name):
            left, right = os.stat(top / "dir" / "b"), os.stat(top / "c")
            assert left.st_ino == right.st_ino
            assert (left.st_nlink, stat.S_IMODE(left.st_mode)) == (2, 0o600)
            assert (top / "dir" / "b").read_text() == "second"


def test_link_refuses_what_posix_refuses(backup: Path) -> None:
    """A directory has no second name, and no name is given twice."""
    (backup / "dir").mkdir()
    (backup / "file").touch()
    assert error_of(os.link, backup / "dir", backup / "x") == "EPERM"
    assert error_of(os.link, backup / "file", backup / "dir") == "EEXIST"
    assert error_of(os.link, backup / "none", backup / "x") == "ENOENT"


def test_symbolic_links_may_be_hard_linked(backup: Path) -> None:
    """A symbolic link can have two names, as on other file systems of Linux."""
    os.symlink("target", backup / "a")
    os.link(backup / "a", backup / "b", follow_symlinks=False)
    assert os.readlink(backup / "b") == "target"
    assert os.lstat(backup / "a").st_nlink == 2


def test_directories_count_their_subdirectories(backup: Path) -> None:
    """st_nlink of a directory is 2 and one more for each directory in it."""
    for name in "abc":
        (backup / name).mkdir()
    assert os.stat(backup).st_nlink == 5
    (backup / "a").rmdir()
    os.rename(backup / "b", backup / "c" / "b")
    assert (os.stat(backup).st_nlink, os.stat(backup / "c").st_nlink) == (3, 3)


# -- errors ------------------------------------------------------------------------------------


def test_errors_of_names(backup: Path) -> None:
    """Each refusal has the error that local file systems give."""
    (backup / "dir" / "x").mkdir(parents=True)
    (backup / "file").touch()
    os.symlink("loop", backup / "loop")
    exclusive = os.O_CREAT | os.O_EXCL
    assert error_of(os.rmdir, backup / "dir") == "ENOTEMPTY"
    assert error_of(os.rmdir, backup / "file") == "ENOTDIR"
    assert error_of(os.unlink, backup / "dir") == "EISDIR"
    assert error_of(os.mkdir, backup / "dir") == "EEXIST"
    assert error_of(os.open, backup / "file", exclusive) == "EEXIST"
    assert error_of(os.open, backup / "dir", os.O_WRONLY) == "EISDIR"
    assert error_of(os.open, backup / "none", os.O_RDONLY) == "ENOENT"
    assert error_of(os.open, backup / "file" / "x", os.O_RDONLY) == "ENOTDIR"
    assert error_of(os.open, backup / "loop", os.O_RDONLY) == "ELOOP"
    assert error_of(os.truncate, backup / "dir", 0) == "EISDIR"
    assert error_of(os.readlink, backup / "file") == "EINVAL"
    assert error_of(os.mkdir, backup / ("n" * 256)) == "ENAMETOOLONG"
    assert error_of(os.stat, backup / ("n" * 256)) == "ENAMETOOLONG"
    assert error_of(os.rename, backup / "file", backup / ("n" * 256)) == "ENAMETOOLONG"


def test_a_removed_directory_takes_no_names(backup: Path) -> None:
    """In a directory that is open and gone nothing can be made."""
    (backup / "dir").mkdir()
    descriptor = os.open(backup / "dir", os.O_RDONLY)
    (backup / "dir").rmdir()
    assert error_of(lambda: os.mkdir("x", dir_fd=descriptor)) == "ENOENT"
    assert os.fstat(descriptor).st_nlink == 0
    assert os.listdir(descriptor) == []
    os.close(descriptor)


# -- strange names, long paths, large directories ----------------------------------------------


def test_names_are_bytes(shared: Shared, backup: Path) -> None:
    """Names of 255 bytes, of no known encoding, with newlines and backslashes come back."""
    names = {
        os.fsdecode(name)
        for name in (
            b"\xff\xfe",
            b"a\nb",
            b"\\",
            b" ",
            b"-rf",
            b"\xc3\xa4" * 127,
            b"n" * 255,
            b"\x01",
        )
    }
    for name in names:
        (backup / name).touch()
    sync(shared)
    with shared.other.mounted("--read-only") as mount:
        assert set(os.listdir(backup)) == set(os.listdir(mount.path / backup.name)) == names


def test_paths_of_path_max(shared: Shared, backup: Path) -> None:
    """A path of 4095 bytes below the mount can be made, stored and read."""
    descriptor = os.open(backup, os.O_RDONLY)
    names = ["d" * 254] * 15
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    sync(shared)
    with shared.other.mounted("--read-only") as mount:
        found = run("find", mount.path / backup.name, "-name", "file").decode().strip()
    assert found.endswith("/".join([*names, "file"]))


@pytest.fixture
def many(backup: Path) -> Path:
    directory = backup / "many"
    directory.mkdir()
    for number in range(20_000):
        os.mknod(directory / f"{number:05}")
    return directory


def test_a_directory_of_many_names(shared: Shared, many: Path) -> None:
    """20,000 names are listed once each: fresh, stored, and with changes over stored ones."""
    wanted = [f"{number:05}" for number in range(20_000)]
    assert sorted(os.listdir(many)) == wanted
    sync(shared)
    assert sorted(os.listdir(many)) == wanted
    for number in range(0, 20_000, 100):
        (many / f"{number:05}").unlink()
        (many / f"{number:05}-new").touch()
    changed = sorted(
        {name for name in wanted if int(name) % 100} | {p + "-new" for p in wanted[::100]}
    )
    assert sorted(os.listdir(many)) == changed
    assert len(os.listdir(many)) == 20_000


@pytest.mark.parametrize("is_stored", [False, True])
def test_listing_while_names_go(shared: Shared, backup: Path, is_stored: bool) -> None:
    """A name that stays is listed once, though others before and behind it go meanwhile."""
    directory = backup / "dir"
    directory.mkdir()
    names = [f"{number:04}" for number in range(3000)]
    for name in names:
        os.mknod(directory / name)
    if is_stored:
        sync(shared)
    seen, gone = [], set()
    with os.scandir(directory) as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) % 50 == 0:
                for name in {seen[-1], seen[-20], names[(int(seen[-1]) + 700) % 3000]} - gone:
                    (directory / name).unlink()
                    gone.add(name)
    assert len(seen) == len(set(seen))
    assert set(names) - gone <= set(seen)
    assert sorted(os.listdir(directory)) == sorted(set(names) - gone)


def test_rewinding_a_listing(backup: Path) -> None:
    """A directory that is read from its start again shows names that came since."""
    for number in range(100):
        (backup / f"{number:03}").touch()
    descriptor = os.open(backup, os.O_RDONLY)
    assert len(os.listdir(descriptor)) == 100
    (backup / "new").touch()
    (backup / "050").unlink()
    names = os.listdir(descriptor)
    os.close(descriptor)
    assert len(names) == 100
    assert "new" in names
    assert "050" not in names
