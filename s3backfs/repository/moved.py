"""Where the contents of compacted packs went.

Source: docs/format.md, "Moved tables".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from s3backfs.errors import IntegrityError, ObjectMissingError
from s3backfs.format.keys import Keyring
from s3backfs.format.lease import Moved, MovedRange, decode_moved
from s3backfs.format.refs import Ref
from s3backfs.repository.cache import ByteLru
from s3backfs.store.base import Store

MAX_HOPS = 8
TABLES_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A range of a content, found elsewhere; `offset` counts in the chunk of `target`."""

    target: Ref
    offset: int
    length: int


def plan_moved(
    ranges: Sequence[MovedRange], pack_offset: int, offset: int, length: int
) -> list[Part] | None:
    """Find a range of the chunk at `pack_offset` in a table; None if not all of it was moved.

    `ranges` are sorted and do not overlap.
    """
    parts: list[Part] = []
    end = offset + length
    number = bisect_right(ranges, (pack_offset, offset), key=lambda at: (at.pack_offset, at.offset))
    for moved in ranges[max(0, number - 1) :]:
        if moved.pack_offset > pack_offset or offset >= end:
            break
        inner = offset - moved.offset
        if moved.pack_offset < pack_offset or inner >= moved.length:
            continue
        if inner < 0:
            return None
        taken = min(end - offset, moved.length - inner)
        parts.append(Part(moved.target, moved.target.slice_offset + inner, taken))
        offset += taken
    return parts if offset >= end else None


class MovedTables:
    """Reads moved tables, authenticated and bound to their packs, and keeps them."""

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store = store
        self._keyring = keyring
        self._tables: ByteLru[bytes, Moved] = ByteLru(TABLES_BYTES)

    def known(self, pack_id: bytes) -> Moved | None:
        """The table of a pack as it was read before."""
        return self._tables.get(pack_id)

    async def load(self, pack_id: bytes) -> Moved | None:
        """Read the table of a pack anew; None if it has none.

        Raises:
            IntegrityError: it is damaged, or of another pack or repository.
        """
        key = f"moved/{pack_id.hex()}"
        try:
            fetched = await self._store.get(key)
        except ObjectMissingError:
            self._tables.pop(pack_id)
            return None
        moved = decode_moved(self._keyring, key, fetched.data)
        if (moved.repository_id, moved.pack_id) != (self._keyring.repository_id, pack_id):
            raise IntegrityError("the table is of another pack or repository", key=key)
        self._tables.put(pack_id, moved, len(fetched.data))
        return moved
