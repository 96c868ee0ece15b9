"""What this machine remembers of a repository: its identity, and who writes from here.

    <state>/<repository id>/mode             the encryption mode when it was first opened
    <state>/<repository id>/writers/<id>     one file for each writer id, locked while it is alive

A writer id whose file is not locked belongs to a process that is gone; its open backups may be
gone on with.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from s3backfs.errors import RepositoryError
from s3backfs.format.refs import ID_BYTES


class WriterIdentity:
    """The writer id of one mount, and those of dead ones of this machine; held until closed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "writers"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files: dict[bytes, int] = {}
        for path in sorted(self._directory.iterdir()):
            self._try_to_hold(path)
        if not self._files:
            self._try_to_hold(self._directory / secrets.token_hex(ID_BYTES))
        self.writer_id = min(self._files)

    def _try_to_hold(self, path: Path) -> None:
        try:
            writer_id = bytes.fromhex(path.name)
        except ValueError:
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return
        self._files[writer_id] = descriptor

    def is_own(self, writer_id: bytes) -> bool:
        """Whether a writer is this mount, or a dead one of this machine."""
        return writer_id in self._files

    def close(self) -> None:
        """Let the next mount have the ids."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


def check_pin(directory: Path, mode: str) -> None:
    """Compare a repository's encryption mode with what this machine saw first, and remember it.

    Raises:
        RepositoryError: the mode has changed, which no command of s3backfs does.
    """
    path = directory / "mode"
    try:
        pinned = path.read_text().strip()
    except FileNotFoundError:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(mode + "\n")
        return
    if pinned != mode:
        raise RepositoryError(
            f"this repository was {pinned} when it was last opened here and is {mode} now; "
            f"if that is what you want, remove {path}"
        )
