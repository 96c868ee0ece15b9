"""Modes, owners, times, extended attributes, access lists, capabilities, and who may do what."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Shared
from tests.mount.trees import needs, run

pytestmark = pytest.mark.mount

USER, OTHER_USER, GROUP = 1234, 1235, 2345

libc = ctypes.CDLL(None, use_errno=True)


def as_user(uid: int, script: str, *, gid: int = GROUP, umask: int = 0o022) -> str:
    """Run a line of shell as another user; the answer is what it printed on both outputs."""
    done = subprocess.run(
        ["sh", "-c", script],
        user=uid,
        group=gid,
        extra_groups=[],
        umask=umask,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip()


@pytest.fixture
def open_to_all(backup: Path) -> Path:
    """A directory that every user may write to."""
    (backup / "dir").mkdir()
    (backup / "dir").chmod(0o777)
    return backup / "dir"


def error_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(OSError) as caught:  # noqa: PT011  # the code is what is returned
        call(*arguments)
    return errno.errorcode[caught.value.errno or 0]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# -- permissions -------------------------------------------------------------------------------


def test_the_kernel_checks_permissions(open_to_all: Path) -> None:
    """Other users are kept to the mode bits, as on every file system."""
    (open_to_all / "secret").write_text("text")
    (open_to_all / "secret").chmod(0o600)
    assert "Permission denied" in as_user(USER, f"cat {open_to_all}/secret")
    assert "not permitted" in as_user(USER, f"chmod 777 {open_to_all}/secret")
    (open_to_all / "secret").chmod(0o604)
    assert as_user(USER, f"cat {open_to_all}/secret") == "text"


def test_new_files_belong_to_who_makes_them(open_to_all: Path) -> None:
    """Owner and group are those of the process, and the umask is taken off the mode."""
    as_user(USER, f"umask 027; touch {open_to_all}/file; mkdir {open_to_all}/sub")
    status = os.stat(open_to_all / "file")
    assert (status.st_uid, status.st_gid, mode_of(open_to_all / "file")) == (USER, GROUP, 0o640)
    assert mode_of(open_to_all / "sub") == 0o750


def test_sticky_directories_protect_names(open_to_all: Path) -> None:
    """In a sticky directory only the owner of a file removes or renames it."""
    open_to_all.chmod(0o1777)
    as_user(USER, f"touch {open_to_all}/file")
    assert "not permitted" in as_user(OTHER_USER, f"rm -f {open_to_all}/file")
    assert "not permitted" in as_user(OTHER_USER, f"mv {open_to_all}/file {open_to_all}/x")
    assert as_user(USER, f"rm {open_to_all}/file") == ""


def test_setgid_directories_hand_their_group_on(open_to_all: Path) -> None:
    """What is made in a setgid directory has its group, and directories are setgid too."""
    os.chown(open_to_all, 0, 777)
    open_to_all.chmod(0o2777)
    as_user(USER, f"touch {open_to_all}/file; mkdir {open_to_all}/sub; ln -s x {open_to_all}/link")
    assert {os.lstat(open_to_all / name).st_gid for name in ("file", "sub", "link")} == {777}
    assert mode_of(open_to_all / "sub") == 0o2755


@pytest.mark.parametrize("is_cached", [False, True])
def test_a_write_clears_setuid_and_setgid(open_to_all: Path, is_cached: bool) -> None:
    """A write of somebody who is not root takes setuid and setgid away."""
    path = open_to_all / "program"
    path.write_text("content")
    os.chown(path, USER, GROUP)
    path.chmod(0o6777)
    redirect = "1<>" if is_cached else ">>"
    assert as_user(OTHER_USER, f"echo x {redirect} {path}") == ""
    assert mode_of(path) == 0o777


def test_a_change_of_owner_clears_setuid_and_setgid(backup: Path) -> None:
    """chown takes setuid and setgid away, as Linux does for root too."""
    path = backup / "program"
    path.touch()
    path.chmod(0o6755)
    os.chown(path, USER, GROUP)
    assert mode_of(path) == 0o755


def test_truncation_clears_setuid(open_to_all: Path) -> None:
    """A truncation by somebody who is not root takes setuid away."""
    path = open_to_all / "program"
    path.write_text("content")
    path.chmod(0o4777)
    assert as_user(USER, f"truncate -s 3 {path}") == ""
    assert (mode_of(path), path.read_text()) == (0o777, "con")


@needs("setcap", "getcap")
def test_capabilities_are_kept_and_cleared_by_writes(shared: Shared, backup: Path) -> None:
    """security.capability is stored, copied, and gone after a write or a chown."""
    path = backup / "program"
    path.write_bytes(b"content")
    run("setcap", "cap_net_raw+ep", path)
    run("cp", "-a", path, backup / "copy")
    assert b"cap_net_raw" in run("getcap", backup / "copy")
    run("cp", "-a", path, backup / "owned")
    os.chown(backup / "owned", USER, GROUP)
    assert run("getcap", backup / "owned") == b""
    with path.open("ab") as file:
        file.write(b"more")
    assert run("getcap", path) == b""
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        assert b"cap_net_raw" in run("getcap", mount.path / backup.name / "copy")


# -- times -------------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(path: Path) -> Iterator[set[str]]:
    """Which times of a file a step has changed."""
    old, found = os.lstat(path), set[str]()
    before_ns = time.time_ns()
    yield found
    new = os.lstat(path)
    for name in ("mtime", "ctime"):
        value_ns = getattr(new, f"st_{name}_ns")
        if value_ns != getattr(old, f"st_{name}_ns"):
            assert value_ns >= before_ns - 20_000_000
            found.add(name)


def test_times_follow_posix(backup: Path) -> None:
    """Writes and truncations change mtime and ctime, attributes and links ctime, reads nothing."""
    path = backup / "file"
    path.write_bytes(b"content")
    steps: list[tuple[Callable[[], object], set[str]]] = [
        (lambda: path.write_bytes(b"again"), {"mtime", "ctime"}),
        (lambda: os.truncate(path, 2), {"mtime", "ctime"}),
        (lambda: path.chmod(0o600), {"ctime"}),
        (lambda: os.chown(path, 1, 1), {"ctime"}),
        (lambda: os.setxattr(path, "user.x", b"v"), {"ctime"}),
        (lambda: os.removexattr(path, "user.x"), {"ctime"}),
        (lambda: os.link(path, backup / "other"), {"ctime"}),
        (lambda: (backup / "other").unlink(), {"ctime"}),
        (path.read_bytes, set()),
    ]
    for step, wanted in steps:
        with changed(path) as times:
            step()
        assert times == wanted
    with changed(backup) as times:
        path.rename(backup / "renamed")
    assert times == {"mtime", "ctime"}


def test_names_change_the_times_of_their_directory(backup: Path) -> None:
    """Making, removing and linking change a directory's mtime and ctime; what is below does not."""
    (backup / "dir").mkdir()
    with changed(backup) as times:
        (backup / "file").touch()
    assert times == {"mtime", "ctime"}
    with changed(backup) as times:
        (backup / "dir" / "below").touch()
    assert times == set()
    with changed(backup) as times:
        (backup / "file").unlink()
    assert times == {"mtime", "ctime"}


def test_utimens(shared: Shared, backup: Path) -> None:
    """Times have nanoseconds, also before 1970; atime is not stored and shows mtime."""
    path = backup / "file"
    path.touch()
    os.symlink("x", backup / "link")
    for time_ns in (-1_234_567_891, 1, 4_000_000_000_123_456_789):
        os.utime(path, ns=(5, time_ns))
        os.utime(backup / "link", ns=(5, time_ns), follow_symlinks=False)
        assert os.stat(path).st_mtime_ns == time_ns
        assert os.lstat(backup / "link").st_mtime_ns == time_ns
    assert os.stat(path).st_atime_ns == os.stat(path).st_mtime_ns
    run("touch", "-a", "-d", "2001-01-01", path)
    assert os.stat(path).st_mtime_ns == 4_000_000_000_123_456_789
    os.utime(path, ns=(5, -1_234_567_891))
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        assert os.stat(mount.path / backup.name / "file").st_mtime_ns == -1_234_567_891


# -- extended attributes -----------------------------------------------------------------------


def test_extended_attributes(shared: Shared, backup: Path) -> None:
    """user, trusted and security attributes up to 64 KiB, empty ones too, come back."""
    path = backup / "file"
    path.touch()
    wanted = {
        "user.small": b"value",
        "user.empty": b"",
        "user.large": os.urandom(65536),
        "trusted.name": b"\0\xff",
        "security.name": b"label",
    }
    for name, value in wanted.items():
        os.setxattr(path, name, value)
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        for top in (backup, mount.path / backup.name):
            found = {name: os.getxattr(top / "file", name) for name in os.listxattr(top / "file")}
            assert found == wanted


def test_flags_and_errors_of_extended_attributes(backup: Path) -> None:
    """XATTR_CREATE and XATTR_REPLACE, ENODATA, ERANGE, E2BIG and EOPNOTSUPP."""
    path = backup / "file"
    path.touch()
    assert error_of(os.setxattr, path, "user.a", b"x", os.XATTR_REPLACE) == "ENODATA"
    os.setxattr(path, "user.a", b"x" * 100, os.XATTR_CREATE)
    assert error_of(os.setxattr, path, "user.a", b"x", os.XATTR_CREATE) == "EEXIST"
    assert error_of(os.getxattr, path, "user.none") == "ENODATA"
    assert error_of(os.removexattr, path, "user.none") == "ENODATA"
    assert error_of(os.setxattr, path, "user.b", bytes(65537)) == "E2BIG"
    assert error_of(os.setxattr, path, "user." + "n" * 251, b"x") == "ERANGE"
    assert error_of(os.setxattr, path, "strange.name", b"x") == "ENOTSUP"
    small = ctypes.create_string_buffer(10)
    name = os.fsencode(path)
    assert libc.getxattr(name, b"user.a", small, 10) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.getxattr(name, b"user.a", None, 0) == 100
    os.symlink("file", backup / "link")
    assert (
        error_of(lambda: os.setxattr(backup / "link", "user.a", b"x", follow_symlinks=False))
        == "EPERM"
    )
    os.setxattr(backup / "link", "trusted.a", b"x", follow_symlinks=False)


# -- access control lists ----------------------------------------------------------------------


def test_access_lists_are_obeyed(open_to_all: Path) -> None:
    """A user whom a list names gets what it says, up to the mask; chmod changes the mask."""
    path = open_to_all / "file"
    path.write_text("text")
    path.chmod(0o600)
    run("setfacl", "-m", f"u:{USER}:rw", path)
    assert as_user(USER, f"cat {path}") == "text"
    assert "denied" in as_user(OTHER_USER, f"cat {path}")
    assert mode_of(path) == 0o660
    path.chmod(0o600)
    assert "denied" in as_user(USER, f"cat {path}")
    path.chmod(0o660)
    assert as_user(USER, f"cat {path}") == "text"


def test_default_lists_are_inherited(shared: Shared, open_to_all: Path) -> None:
    """New files and directories take the default list, which directories hand on."""
    run("setfacl", "-d", "-m", f"u:{USER}:rwx,o::-", open_to_all)
    os.close(os.open(open_to_all / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    (open_to_all / "sub").mkdir()
    file_list = run("getfacl", "-cpn", open_to_all / "file").decode().split()
    assert f"user:{USER}:rwx" in file_list
    assert "other::---" in file_list
    assert (
        f"default:user:{USER}:rwx" in run("getfacl", "-cpn", open_to_all / "sub").decode().split()
    )
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        elsewhere = mount.path / open_to_all.relative_to(shared.mount.path) / "file"
        assert run("getfacl", "-cpn", elsewhere).decode().split() == file_list


def test_the_umask_counts_under_a_default_list(open_to_all: Path) -> None:
    """Unlike on ext4 the umask is taken off what a default list grants: it comes off first."""
    run("setfacl", "-d", "-m", f"u:{OTHER_USER}:rwx", open_to_all)
    as_user(USER, f"touch {open_to_all}/file", umask=0o077)
    listed = run("getfacl", "-cpn", open_to_all / "file").decode().split()
    assert f"user:{OTHER_USER}:rwx" in listed
    assert "mask::---" in listed


def test_a_list_that_says_what_the_mode_says_is_not_kept(backup: Path) -> None:
    """setfacl with owner, group and others only changes the mode, as on ext4."""
    path = backup / "file"
    path.touch()
    run("setfacl", "--set", "u::rw,g::r,o::-", path)
    assert mode_of(path) == 0o640
    assert os.listxattr(path) == []
    run("setfacl", "-m", f"u:{USER}:r", path)
    assert os.listxattr(path) == ["system.posix_acl_access"]
    run("setfacl", "-b", path)
    assert os.listxattr(path) == []


# -- numbers and totals ------------------------------------------------------------------------


def test_inode_numbers_are_stable(shared: Shared, backup: Path) -> None:
    """st_ino is the same after a rename, a checkpoint, and on another machine."""
    (backup / "dir").mkdir()
    (backup / "dir" / "file").write_bytes(b"x")
    os.link(backup / "dir" / "file", backup / "link")
    (backup / "old").touch()
    numbers = {name: os.stat(backup / name).st_ino for name in ("dir", "dir/file", "link", "old")}
    (backup / "old").rename(backup / "new")
    numbers["new"] = numbers.pop("old")
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        for top in (backup, mount.path / backup.name):
            assert {name: os.stat(top / name).st_ino for name in numbers} == numbers
    assert len(set(numbers.values())) == 3


def test_special_files(shared: Shared, backup: Path) -> None:
    """Devices, fifos and sockets keep type, number and mode."""
    os.mknod(backup / "char", 0o600 | stat.S_IFCHR, os.makedev(10, 300_000))
    os.mknod(backup / "block", 0o660 | stat.S_IFBLK, os.makedev(259, 5))
    os.mkfifo(backup / "fifo", 0o644)
    os.mknod(backup / "socket", 0o755 | stat.S_IFSOCK)
    shared.mount.machine.run("sync", str(shared.mount.path))
    with shared.other.mounted("--read-only") as mount:
        for name in ("char", "block", "fifo", "socket"):
            here, there = os.lstat(backup / name), os.lstat(mount.path / backup.name / name)
            assert (here.st_mode, here.st_rdev) == (there.st_mode, there.st_rdev)
    assert os.lstat(backup / "char").st_rdev == os.makedev(10, 300_000)


def test_statfs_is_sensible(shared: Shared, backup: Path) -> None:
    """df shows room for whatever comes, and names of 255 bytes."""
    status = os.statvfs(backup)
    assert status.f_bavail * status.f_frsize == 1 << 50
    assert status.f_namemax == 255
    assert status.f_ffree > 10**9
    run("df", "-h", shared.mount.path)
    run("df", "-i", backup)
