"""How far the kernel reads ahead of who reads a file in order.

FUSE starts with 128 KiB, whatever is asked for when it is mounted, so a long file comes in small
requests, and hardly any of it while its reader is at work.
Source: Linux, Documentation/ABI/testing/sysfs-class-bdi.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

READ_AHEAD_KIB = 2048
"""Two of the longest requests: one is answered while the other is copied."""


def widen_read_ahead(device: int) -> None:
    """Let the kernel read further ahead in the mount with this device number; root alone can."""
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        path.write_text(f"{READ_AHEAD_KIB}\n")
