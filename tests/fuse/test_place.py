"""What lies at the mount point, by the kernel's table of mounts."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from s3backfs.fuse.place import is_on_top, topmost_device

TABLE = (
    b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    b"43 27 0:40 / /mnt/a rw,nosuid - fuse.s3backfs s3://b/p rw\n"
    b"44 27 0:41 / /mnt/with\\040space\\134 rw - fuse.s3backfs s3://b/p rw\n"
    b"45 43 0:42 / /mnt/a rw - tmpfs cover rw\n"
)


def test_the_last_mount_of_a_path_is_on_top() -> None:
    """Of several mounts at one path the last covers the others; escaped bytes are understood."""
    assert topmost_device(TABLE, Path("/mnt/a")) == os.makedev(0, 42)
    assert topmost_device(TABLE, Path("/mnt/with space\\")) == os.makedev(0, 41)
    assert topmost_device(TABLE, Path("/mnt")) is None


def test_the_real_table() -> None:
    """The root directory's device is the one that stat(2) shows."""
    assert is_on_top(Path("/proc"), os.stat("/proc").st_dev)
    assert not is_on_top(Path("/proc"), os.stat("/sys").st_dev)


@given(st.binary(max_size=200))
def test_any_line(line: bytes) -> None:
    """No other line of the table keeps a mount from being found."""
    table = line.replace(b"\n", b"") + b" x\n" + TABLE
    assert topmost_device(table, Path("/mnt/a")) == os.makedev(0, 42)
