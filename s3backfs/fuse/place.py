"""What the kernel says lies at the mount point.

Unmounting goes by path, and a path can lead elsewhere meanwhile: to a mount made after ours was
taken away, to something mounted over it, or to the disk below. None of these may be unmounted.
"""

from __future__ import annotations

import os
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = {byte: b"\\%03o" % byte for byte in b" \t\n\\"}


def is_on_top(mountpoint: Path, device: int) -> bool:
    """Say whether the mount with this device number is what lies at the path now."""
    return topmost_device(_MOUNTINFO.read_bytes(), mountpoint) == device


def topmost_device(table: bytes, mountpoint: Path) -> int | None:
    """Find in a table of mounts the device of the last one at a path.

    Source: proc(5), /proc/PID/mountinfo.
    """
    place = b"".join(_ESCAPED.get(byte, bytes([byte])) for byte in os.fsencode(mountpoint))
    rows = (line.split(b" ") for line in table.splitlines())
    numbers = [row[2] for row in rows if len(row) > 4 and row[4] == place]
    if not numbers:
        return None
    major, _, minor = numbers[-1].partition(b":")
    return os.makedev(int(major), int(minor))
