"""A tree goes in on one machine and comes out on another."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mounts import Machine

pytestmark = pytest.mark.mount


def rsync(*arguments: str) -> str:
    done = subprocess.run(
        ["rsync", *arguments], check=True, capture_output=True, text=True, timeout=90
    )
    return done.stdout


def differences(left: Path, right: Path) -> str:
    """What rsync would change to make `right` like `left`: every byte and attribute counts."""
    return rsync(
        "-naHAX",
        "--numeric-ids",
        "--checksum",
        "--delete",
        "--itemize-changes",
        f"{left}/",
        f"{right}/",
    )


def make_tree(top: Path) -> None:
    """Some of everything that a file system can hold."""
    top.mkdir()
    (top / "empty").touch()
    (top / "tiny").write_bytes(b"tiny\n")
    (top / "small").write_bytes(os.urandom(5_000))
    (top / "large").write_bytes(os.urandom(3 << 20) + bytes(9 << 20) + os.urandom(1 << 20))
    (top / "dir" / "deep" / "deeper").mkdir(parents=True)
    (top / "dir" / "linked").write_bytes(b"linked" * 400)
    os.link(top / "dir" / "linked", top / "dir" / "deep" / "second name")
    os.symlink("../somewhere/else", top / "dir" / "link")
    os.symlink("x" * 3000, top / "dir" / "long link")
    os.mkfifo(top / "dir" / "fifo")
    os.mknod(top / "dir" / "device", 0o600 | 0o020000, os.makedev(1, 3))
    (top / os.fsdecode(b"not \xff utf8")).write_bytes(b"name")
    (top / ("n" * 255)).write_bytes(b"long name")
    os.setxattr(top / "tiny", "user.small", b"value")
    os.setxattr(top / "small", "user.large", os.urandom(3000))
    os.chmod(top / "small", 0o4711)
    os.chown(top / "tiny", 1234, 2345)
    subprocess.run(["setfacl", "-m", "u:1:rwx,g:2:r", str(top / "small")], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", str(top / "dir")], check=True)
    os.utime(top / "tiny", ns=(1, 1_234_567_890_123_456_789))
    os.utime(top / "dir", ns=(1, 987_654_321_000_000_007))


def test_every_byte_and_attribute_comes_back(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """What rsync -aHAX wrote on one machine is read unchanged on another one."""
    source = tmp_path / "source"
    make_tree(source)
    with machine.mounted() as mount:
        rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/")
        assert differences(source, mount.path / "monday") == ""
    with other.mounted() as mount:
        assert differences(source, mount.path / "monday") == ""
        restored = tmp_path / "restored"
        rsync("-aHAX", "--numeric-ids", f"{mount.path}/monday/", f"{restored}/")
        assert differences(source, restored) == ""


def test_a_second_backup_links_to_the_first(
    machine: Machine, other: Machine, tmp_path: Path
) -> None:
    """rsync --link-dest moves no data, and both backups are whole on another machine."""
    source = tmp_path / "source"
    make_tree(source)
    with machine.mounted() as mount:
        rsync("-aHAX", "--numeric-ids", f"{source}/", f"{mount.path}/monday/")
    old = tmp_path / "old"
    rsync("-aHAX", "--numeric-ids", f"{source}/", f"{old}/")
    (source / "tiny").write_bytes(b"changed")
    (source / "new").write_bytes(b"new")
    with machine.mounted() as mount:
        rsync(
            "-aHAX",
            "--numeric-ids",
            "--link-dest=../monday",
            f"{source}/",
            f"{mount.path}/tuesday/",
        )
    with other.mounted() as mount:
        assert differences(source, mount.path / "tuesday") == ""
        assert differences(old, mount.path / "monday") == ""


def test_a_killed_mount_goes_on_from_its_last_checkpoint(machine: Machine, tmp_path: Path) -> None:
    """After kill -9 what was synced is there, and the same machine goes on writing it."""
    with machine.mounted() as mount:
        backup = mount.path / "monday"
        backup.mkdir()
        (backup / "first").write_bytes(b"first" * 1000)
        machine.run("sync", str(mount.path))
        (backup / "second").write_bytes(b"second")
        mount.kill()
    with machine.mounted() as mount:
        backup = mount.path / "monday"
        assert (backup / "first").read_bytes() == b"first" * 1000
        (backup / "third").write_bytes(b"third")
    with machine.mounted() as mount:
        assert (mount.path / "monday" / "third").read_bytes() == b"third"
        with pytest.raises(OSError, match="Read-only file system"):
            (mount.path / "monday" / "fourth").touch()
