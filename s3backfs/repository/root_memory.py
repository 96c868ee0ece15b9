"""How far this machine has brought each open backup, so that an old root put back is noticed.

    <state>/<repository id>/open/<hash of the place>/<backup id>    epoch and sequence of a root

Best effort: what cannot be written is not remembered, and what nobody has stored to for long is
forgotten. What is remembered was stored before, so that a root that is read later is never older.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from s3backfs.repository.private_file import replace_private

log = logging.getLogger(__name__)

Age: TypeAlias = tuple[int, int]
"""(epoch, sequence) of a root; grows with every state of a backup."""

REMEMBERED_S = 90 * 86400.0


class RootMemory:
    """One small file for each open backup that this machine has stored."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def remember(self, backup_id: bytes, age: Age) -> None:
        """Note the root that was just stored, whatever was noted before."""
        path = self._directory / backup_id.hex()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_private(path, f"{age[0]} {age[1]}\n".encode())
        except OSError as error:
            log.debug("%s: %s", path, error)

    def forget(self, backup_id: bytes) -> None:
        """Drop what is known of a backup that is open no more."""
        with suppress(OSError):
            (self._directory / backup_id.hex()).unlink()

    def load(self) -> dict[bytes, Age]:
        """What is remembered, by the backups' ids."""
        known: dict[bytes, Age] = {}
        with suppress(OSError):
            for path in self._directory.iterdir():
                with suppress(OSError, ValueError):
                    if path.stat().st_mtime < time.time() - REMEMBERED_S:
                        path.unlink()
                        continue
                    epoch, sequence = path.read_text().split()
                    known[bytes.fromhex(path.name)] = int(epoch), int(sequence)
        return known
