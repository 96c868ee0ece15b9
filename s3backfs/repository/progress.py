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
    _told: tuple[int, int, int] = (0, 0, 0)

    def take_new(self) -> tuple[int, int, int]:
        """The written, deduplicated and stored bytes that were not asked for before."""
        told, self._told = (
            self._told,
            (
                self.written_bytes,
                self.deduplicated_bytes,
                self.stored_bytes,
            ),
        )
        return (
            self._told[0] - told[0],
            self._told[1] - told[1],
            self._told[2] - told[2],
        )
