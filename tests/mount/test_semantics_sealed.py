"""Sealed backups, the root of the mount and .s3backfs: what may not be changed there."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.test_semantics_names import EXCHANGE, error_of, renameat2
from tests.mount.trees import needs, run

pytestmark = pytest.mark.mount

MUTATIONS: dict[str, Callable[[Path], object]] = {
    "write": lambda top: (top / "file").open("r+b"),
    "append": lambda top: os.open(top / "file", os.O_WRONLY | os.O_APPEND),
    "truncating open": lambda top: os.open(top / "file", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda top: os.truncate(top / "file", 1),
    "create": lambda top: (top / "new").touch(),
    "exclusive create": lambda top: (top / "new").open("xb"),
    "create below": lambda top: (top / "dir" / "new").touch(),
    "mkdir": lambda top: (top / "new").mkdir(),
    "mknod": lambda top: os.mknod(top / "new"),
    "mkfifo": lambda top: os.mkfifo(top / "new"),
    "symlink": lambda top: os.symlink("x", top / "new"),
    "link": lambda top: os.link(top / "file", top / "new"),
    "unlink": lambda top: (top / "file").unlink(),
    "rmdir": lambda top: (top / "dir" / "empty").rmdir(),
    "rename": lambda top: (top / "file").rename(top / "new"),
    "rename over": lambda top: (top / "file").rename(top / "link"),
    "exchange": lambda top: renameat2(top / "file", top / "dir", EXCHANGE),
    "chmod": lambda top: (top / "file").chmod(0o600),
    "chown": lambda top: os.chown(top / "file", 1, 1),
    "chown of a link": lambda top: os.lchown(top / "link", 1, 1),
    "utimens": lambda top: os.utime(top / "file", ns=(1, 1)),
    "utimens now": lambda top: os.utime(top / "file"),
    "setxattr": lambda top: os.setxattr(top / "file", "user.name", b"other"),
    "removexattr": lambda top: os.removexattr(top / "file", "user.name"),
    "setfacl": lambda top: os.setxattr(
        top / "file", "system.posix_acl_access", bytes.fromhex("02000000") + bytes(0)
    ),
    "chmod of the top": lambda top: top.chmod(0o700),
    "setxattr of the top": lambda top: os.setxattr(top, "user.name", b"x"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_sealed_backup_cannot_be_changed(sealed: Path, mutation: str) -> None:
    """Every mutation is EROFS."""
    assert error_of(MUTATIONS[mutation], sealed) == "EROFS"


def test_linking_into_a_sealed_backup(sealed: Path, backup: Path) -> None:
    """A link into a sealed backup is EROFS, out of it a clone."""
    (backup / "file").touch()
    assert error_of(os.link, backup / "file", sealed / "new") == "EROFS"
    os.link(sealed / "file", backup / "clone")
    assert (backup / "clone").read_bytes() == b"content"
    assert os.stat(backup / "clone").st_nlink == 1
    assert os.stat(backup / "clone").st_ctime_ns == os.stat(sealed / "file").st_ctime_ns
    assert os.stat(sealed / "file").st_nlink == 2


def test_moving_between_backups(sealed: Path, backup: Path) -> None:
    """rename from one backup to another is EXDEV."""
    (backup / "file").touch()
    assert error_of(os.rename, backup / "file", sealed / "new") == "EXDEV"
    assert error_of(os.rename, sealed / "file", backup / "new") == "EXDEV"


def test_access_says_what_the_mode_says(sealed: Path) -> None:
    """access(W_OK) of root succeeds where every write is EROFS."""
    assert os.access(sealed / "file", os.W_OK)
    assert os.access(sealed, os.W_OK)
    assert error_of(os.open, sealed / "file", os.O_WRONLY) == "EROFS"


def test_reading_changes_nothing(sealed: Path) -> None:
    """Reading leaves atime, and everything else, as it was."""
    before = os.stat(sealed / "file")
    assert (sealed / "file").read_bytes() == b"content"
    os.listdir(sealed)
    after = os.stat(sealed / "file")
    assert before == after


def test_a_sealed_file_can_be_mapped_locked_and_synced(sealed: Path) -> None:
    """Readers may map a file, lock it, and call fsync."""
    with (sealed / "file").open("rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == b"content"
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_SH)
        os.fsync(file.fileno())


def test_a_file_open_for_writing_keeps_its_backup_from_being_sealed(
    shared: Shared, backup: Path
) -> None:
    """Sealing is refused while somebody may still write."""
    with (backup / "file").open("wb"):
        done = shared.mount.machine.run("seal", str(backup), check=False)
        assert done.returncode
        assert "open for writing" in done.stderr
    shared.seal(backup)
    assert error_of((backup / "file").open, "wb") == "EROFS"


def test_a_sealed_backup_can_be_renamed(shared: Shared, backup: Path) -> None:
    """mv gives a sealed backup another name, and it stays sealed."""
    (backup / "file").write_bytes(b"content")
    shared.seal(backup)
    renamed = backup.with_name("renamed-" + backup.name)
    os.rename(backup, renamed)
    assert not backup.exists()
    assert (renamed / "file").read_bytes() == b"content"
    assert error_of((renamed / "file").unlink) == "EROFS"


# -- the root of the mount ---------------------------------------------------------------------


def test_only_directories_stand_at_the_root(shared: Shared, backup: Path) -> None:
    """At the root a file, link, fifo or hard link is EPERM, and attributes cannot be changed."""
    root = shared.mount.path
    (backup / "file").touch()
    assert error_of((root / "file").touch) == "EPERM"
    assert error_of(os.symlink, "x", root / "link") == "EPERM"
    assert error_of(os.mkfifo, root / "fifo") == "EPERM"
    assert error_of(os.link, backup / "file", root / "file") == "EPERM"
    assert error_of(os.chmod, root, 0o700) == "EPERM"
    assert error_of(os.setxattr, root, "user.name", b"x") == "EPERM"
    assert error_of(os.getxattr, root, "user.name") == "ENODATA"
    assert os.listxattr(root) == []


def test_names_at_the_root(shared: Shared, backup: Path, sealed: Path) -> None:
    """A backup's name is taken once; files do not move to the root, nor backups below it."""
    root = shared.mount.path
    (backup / "file").touch()
    (backup / "dir").mkdir()
    assert error_of(backup.mkdir) == "EEXIST"
    assert error_of(sealed.mkdir) == "EEXIST"
    assert error_of(os.rename, backup / "dir", root / "moved") == "EXDEV"
    assert error_of(os.rename, sealed, backup / "dir" / "moved") == "EXDEV"
    assert error_of(os.rename, backup, sealed) == "EEXIST"
    assert error_of(renameat2, backup, sealed, EXCHANGE) == "EINVAL"
    assert error_of(os.mkdir, root / ("n" * 141)) == "ENAMETOOLONG"


def test_removing_backups(shared: Shared, backup: Path, sealed: Path) -> None:
    """rmdir takes an open backup that is empty; a full one is ENOTEMPTY, a sealed one stays."""
    (backup / "file").touch()
    assert error_of(backup.rmdir) == "ENOTEMPTY"
    assert error_of(backup.unlink) == "EISDIR"
    assert error_of(sealed.rmdir) in ("EROFS", "ENOTEMPTY")
    (backup / "file").unlink()
    backup.rmdir()
    assert not backup.exists()
    backup.mkdir()
    assert os.listdir(backup) == []


def test_an_empty_backup_gives_way_to_another(shared: Shared, backup: Path) -> None:
    """rename of a backup onto an empty open one takes its place, as with directories."""
    other = shared.new_backup()
    (backup / "file").touch()
    os.rename(backup, other)
    assert os.listdir(other) == ["file"]


def test_the_root_lists_backups(shared: Shared, backup: Path, sealed: Path) -> None:
    """Each backup is a directory at the root, with the type and number that stat shows."""
    with os.scandir(shared.mount.path) as entries:
        found = {entry.name: entry for entry in entries}
        assert {backup.name, sealed.name} <= set(found)
        assert found[backup.name].is_dir()
        assert found[backup.name].inode() == os.stat(backup).st_ino
    assert os.stat(shared.mount.path).st_ino == 1


# -- .s3backfs ---------------------------------------------------------------------------------


def test_control_files(shared: Shared) -> None:
    """.s3backfs is not listed, its status.json is whole JSON, and nothing in it can be changed."""
    control = shared.mount.path / ".s3backfs"
    assert ".s3backfs" not in os.listdir(shared.mount.path)
    assert os.listdir(control) == ["status.json", "versions"]
    status = json.loads((control / "status.json").read_bytes())
    assert status["state"] == "mounted"
    assert error_of((control / "status.json").open, "r+b") in ("EROFS", "EPERM", "EACCES")
    assert error_of((control / "new").touch) == "EPERM"
    assert error_of(os.mkdir, control / "new") == "EPERM"
    assert error_of((control / "status.json").unlink) == "EPERM"
    assert error_of(os.chmod, control / "status.json", 0o600) == "EPERM"
    assert error_of(os.rename, control / "status.json", control / "other") == "EPERM"
    assert error_of(os.mkdir, control) == "EEXIST"


@needs("rsync")
def test_tools_that_copy_the_mount_leave_the_control_files(
    shared: Shared, tmp_path: Path, sealed: Path
) -> None:
    """cp -a of one backup, or a listing of all, never meets .s3backfs."""
    run("cp", "-a", sealed, tmp_path / "copy")
    assert run("ls", "-A", shared.mount.path).decode().count(".s3backfs") == 0
    assert sorted(os.listdir(tmp_path / "copy")) == sorted(os.listdir(sealed))


# -- read-only mounts --------------------------------------------------------------------------


def test_a_read_only_mount_changes_nothing(shared: Shared, backup: Path, sealed: Path) -> None:
    """On a read-only mount nothing can be made, at the root or in a backup that is open."""
    (backup / "file").touch()
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        assert error_of(os.mkdir, mount.path / uuid.uuid4().hex) == "EROFS"
        assert error_of((mount.path / backup.name / "new").touch) == "EROFS"
        assert error_of((mount.path / backup.name / "file").unlink) == "EROFS"
        assert error_of(os.rename, mount.path / sealed.name, mount.path / "x") == "EROFS"


def test_another_writers_open_backup_cannot_be_written(shared: Shared, backup: Path) -> None:
    """A second machine reads an open backup of the first, and cannot change it."""
    (backup / "file").write_bytes(b"content")
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--keep-open") as mount:
        there = mount.path / backup.name
        assert (there / "file").read_bytes() == b"content"
        assert error_of((there / "file").open, "r+b") == "EROFS"
        assert error_of((there / "new").touch) == "EROFS"
        assert error_of(os.rmdir, there) in ("EPERM", "EROFS", "ENOTEMPTY")
