"""Running totals of what a mount has written; plain numbers, read by `status`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Bytes by what became of them.

    `written` came through the file system, `deduplicated` were there already, `stored` are the
    frames that were made of the rest, `durable` those of them in packs that are stored for good.
    """

    written_bytes: int = 0
    deduplicated_bytes: int = 0
    stored_bytes: int = 0
    durable_bytes: int = 0
    packs_count: int = 0
    _told_bytes: int = 0

    def take_stored(self) -> int:
        """The stored bytes that were not asked for before."""
        new_bytes, self._told_bytes = self.stored_bytes - self._told_bytes, self.stored_bytes
        return new_bytes
