"""Taking a mount out of the tree, and letting umount(8) wait for what is left to store.

umount(8) asks statfs for the type of what it unmounts, hears "fuse", and never looks for a
helper of fuse.s3backfs. Only for a mount with a note in /run/mount/utab it reads the whole type and
runs /sbin/umount.fuse.s3backfs, if there is one, whose exit code is then its own. So such a note is
made. What a mount process unmounts itself goes round the helper (`-i`), which would ask it in turn.
"""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)

HELPER = Path("/sbin/umount.fuse.s3backfs")
"""Where `contrib/umount.fuse.s3backfs` is installed by whoever wants it."""

_BARE_ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
"""What the tools need to know: no credentials are handed on."""


def note_helper(url: str, mountpoint: Path) -> None:
    """Have umount(8) run the helper for a mount, if it is installed and we are root."""
    if not _has_helper():
        return
    # A mount that is only pretended: all it does is to write the note.
    pretend = ["mount", "-f", "-i", "-t", "fuse.s3backfs", "-o", "uhelper=fuse.s3backfs"]
    done = _run([*pretend, "--", url, os.fspath(mountpoint)])
    if done.returncode:
        log.info("umount(8) will not wait: %s", done.stderr.decode(errors="replace").strip())


def run_unmount(mountpoint: Path, *, lazily: bool) -> subprocess.CompletedProcess[bytes]:
    """Unmount what lies at a path, by the tool that this user may use."""
    if os.geteuid() == 0:
        flags = [*(["-i"] if _has_helper() else []), *(["-l"] if lazily else [])]
        return _run(["umount", *flags, "--", os.fspath(mountpoint)])
    flags = ["-u", "-z"] if lazily else ["-u"]
    return _run(["fusermount3", *flags, "--", os.fspath(mountpoint)])


def _has_helper() -> bool:
    return os.geteuid() == 0 and os.access(HELPER, os.X_OK)


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False, env=_BARE_ENVIRONMENT)
