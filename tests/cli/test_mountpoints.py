"""What the kernel's table of mounts says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3backfs.cli.mountpoints import (
    Mount,
    find_mount,
    is_dead,
    locate_backup,
    parse_mountinfo,
    prepare_mountpoint,
)
from s3backfs.control import canonical_mountpoint
from s3backfs.errors import ConfigurationError, MountpointError, NotMountedError

TABLE = (
    b"21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    b"40 21 0:35 / /mnt/a rw,nosuid - fuse.s3backfs s3://b/p rw,user_id=1000,group_id=1000\n"
    b"41 21 0:36 / /mnt/with\\040space\\134 rw shared:9 master:2 - fuse.s3backfs s3:\\040x rw\n"
    b"42 21 0:37 / /mnt/other rw - fuse.sshfs host: rw,user_id=7\n"
)


def test_table() -> None:
    """Only s3backfs mounts are found, with their user, and escaped bytes are restored."""
    assert parse_mountinfo(TABLE) == (
        Mount(Path("/mnt/a"), "s3://b/p", 1000),
        Mount(Path("/mnt/with space\\"), "s3: x", 0),
    )


@given(st.binary(max_size=200))
def test_any_table(text: bytes) -> None:
    """No table of mounts makes the reader fail."""
    parse_mountinfo(text + b"\n1 2 3 - fuse.s3backfs x y")


def test_backup_of_a_path() -> None:
    """MOUNTPOINT/NAME is a mount and one name of any bytes; anything deeper or above is refused."""
    mounts = parse_mountinfo(TABLE)
    mount, name = locate_backup(Path(os.fsdecode(b"/mnt/a/x\xff/")), mounts)
    assert (mount.owner_uid, name) == (1000, b"x\xff")
    for wrong in ("/mnt/a", "/mnt/a/x/y"):
        with pytest.raises(ConfigurationError, match="/mnt/a/NAME"):
            locate_backup(Path(wrong), mounts)
    with pytest.raises(NotMountedError):
        locate_backup(Path("/mnt/ab/x"), mounts)


def test_usable_mountpoint(tmp_path: Path) -> None:
    """A plain directory can be mounted on, and nothing had to be removed."""
    assert prepare_mountpoint(tmp_path) is False
    assert is_dead(tmp_path) is False


def test_unusable_mountpoints(tmp_path: Path) -> None:
    """What is missing or no directory is named."""
    (tmp_path / "file").touch()
    with pytest.raises(MountpointError, match="not a directory"):
        prepare_mountpoint(tmp_path / "file")
    with pytest.raises(MountpointError, match="mkdir"):
        prepare_mountpoint(tmp_path / "missing")


EMPTY_FILE_SYSTEM = """
import sys, pyfuse3, trio

class Empty(pyfuse3.Operations):
    async def getattr(self, inode, ctx=None):
        found = pyfuse3.EntryAttributes()
        found.st_ino, found.st_mode, found.attr_timeout = inode, 0o40755, 3600
        return found

pyfuse3.init(Empty(), sys.argv[1], {"fsname=nowhere", "subtype=s3backfs"})
print("mounted", flush=True)
trio.run(pyfuse3.main)
"""


@pytest.mark.mount
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
def test_dead_mount_is_removed(tmp_path: Path) -> None:
    """A live s3backfs mount is refused; once its process was killed, it is unmounted first.

    The kernel goes on answering stat(2) on a dead mount's root from its cache.
    """
    with subprocess.Popen(
        [sys.executable, "-c", EMPTY_FILE_SYSTEM, tmp_path], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            mount = find_mount(tmp_path)
            tmp_path.stat()
            with pytest.raises(MountpointError, match="nowhere is mounted"):
                prepare_mountpoint(tmp_path)
        finally:
            process.kill()
    assert mount == Mount(tmp_path, "nowhere", os.getuid())
    assert is_dead(tmp_path)
    assert prepare_mountpoint(tmp_path) is True
    assert find_mount(tmp_path) is None


def test_the_root_directory() -> None:
    """Nothing is mounted on /: nobody would see it, and to unmount it would take away all else."""
    for path in ("/", "//", "/tmp/.."):
        with pytest.raises(MountpointError, match="another directory"):
            prepare_mountpoint(canonical_mountpoint(Path(path)))
