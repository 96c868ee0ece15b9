"""The groups of the process behind a request, beyond the one that the kernel names."""

from __future__ import annotations

from pathlib import Path

from pyfuse3 import RequestContext


def is_member(context: RequestContext, gid: int) -> bool:
    """Whether who asks is root or in a group.

    Source: proc(5), `Groups` of /proc/PID/status.
    """
    if context.uid == 0 or context.gid == gid:
        return True
    try:
        lines = Path(f"/proc/{context.pid}/status").read_text().splitlines()
    except OSError:
        # A process of another namespace, or gone.
        return False
    groups = next((line for line in lines if line.startswith("Groups:")), "")
    return str(gid) in groups.split()[1:]
