"""`.s3backfs/` at the root of the mount: reachable, not listed, read-only."""

from __future__ import annotations

import errno
from collections.abc import Callable

from s3backfs.errors import FileSystemError

DIRECTORY_NUMBER = 2
STATUS_NUMBER = 3
STATUS_NAME = b"status.json"


class ControlFiles:
    """Files whose content is made when they are opened, and stays as it was until closed."""

    def __init__(self, make_status: Callable[[], bytes]) -> None:
        self._make_status = make_status
        self._snapshots: dict[int, bytes] = {}

    def open(self, number: int, handle: int) -> None:
        """Take a snapshot for a handle.

        Raises:
            FileSystemError: EISDIR.
        """
        if number != STATUS_NUMBER:
            raise FileSystemError(errno.EISDIR)
        self._snapshots[handle] = self._make_status()

    def read(self, handle: int, offset: int, length: int) -> bytes | None:
        """A range of a snapshot; None for a handle that is no control file."""
        snapshot = self._snapshots.get(handle)
        return None if snapshot is None else snapshot[offset : offset + length]

    def release(self, handle: int) -> bool:
        """Drop a snapshot; whether there was one."""
        return self._snapshots.pop(handle, None) is not None
