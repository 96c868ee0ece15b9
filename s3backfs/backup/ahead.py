"""Reading ahead from file to file: who reads one small file in order will read the next."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s3backfs.backup.node import Node
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import entry_key, split_key

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup

FIRST_ZONE_BYTES = 1024 * 1024
LONGEST_ZONE_BYTES = 64 * 1024 * 1024
"""How much content of the files that follow is looked at in one go: more and more while files are
read in order, so that what lies near each other in a pack comes by one GET."""

FILES_BEFORE = 2
"""So many files must be read near each other before more of them are expected."""

ZONES_MAX_COUNT = 16


@dataclass(slots=True)
class _Zone:
    """The files with keys from `begin` to `end`, which were fetched; how many are still unread."""

    begin: bytes
    end: bytes
    unread_count: int = 0


class FilesAhead:
    """Knows which small files of a backup were read last, and fetches those around and behind them.

    A restore reads a directory's files and what is below it at about the same time, but in any
    order: cp sorts by inode number. In the order of the manifest's keys both lie side by side, so
    a zone of files begins with the directory of the file that was read. Zones grow while most of
    the files that were fetched are read.
    """

    def __init__(self, backup: Backup) -> None:
        self._backup = backup
        self._last_prefix: bytes | None = None
        self._near_count = 0
        self._zone_bytes = FIRST_ZONE_BYTES
        self._zones: list[_Zone] = []
        self._late_count = 0

    async def note_read(self, node: Node) -> None:
        """Tell that a file is about to be read from its beginning; never fails."""
        key = self._stored_key(node)
        if key is None:
            return
        prefix, _ = split_key(key)
        is_near = self._last_prefix is not None and _are_near(prefix, self._last_prefix)
        self._near_count = self._near_count + 1 if is_near else 0
        self._last_prefix = prefix
        for zone in self._zones:
            if zone.begin <= key <= zone.end:
                zone.unread_count -= 1
                return
        # While a look does not come to an end, as without S3, nobody begins another one.
        if self._near_count >= FILES_BEFORE and not self._late_count:
            await self._look_ahead(prefix)

    async def _look_ahead(self, prefix: bytes) -> None:
        is_late = False

        async def look() -> None:
            try:
                await self._fetch_zone(prefix)
            finally:
                self._late_count -= is_late

        is_late = not await self._backup.repository.look_ahead(look)
        self._late_count += is_late

    def _stored_key(self, node: Node) -> bytes | None:
        """The file's key in the tree, if it is there as it is."""
        parent = node.parent
        if parent is None or parent.directory is None or parent.directory.base is None:
            return None
        return self._backup.names.stored_key(node)

    async def _fetch_zone(self, prefix: bytes) -> None:
        last_was_read = bool(self._zones) and self._zones[-1].unread_count <= 0
        grown = self._zone_bytes * 4 if last_was_read else self._zone_bytes // 2
        self._zone_bytes = max(FIRST_ZONE_BYTES, min(grown, LONGEST_ZONE_BYTES))
        begin = entry_key(prefix, b"")
        # In place before the await: several files may be opened at once.
        zone = _Zone(begin, begin)
        self._zones = [*self._zones[1 - ZONES_MAX_COUNT :], zone]
        refs: list[Ref] = []
        frames: set[tuple[bytes, int]] = set()
        zone_bytes = 0
        # What is damaged concerns those who ask for it.
        async with aclosing(self._backup.tree.items(begin, passed=[])) as items:
            async for zone.end, entry in items:
                for ref in _refs(entry):
                    refs.append(ref)
                    if (ref.pack_id, ref.pack_offset) not in frames:
                        frames.add((ref.pack_id, ref.pack_offset))
                        zone_bytes += ref.chunk_length
                if zone_bytes >= self._zone_bytes:
                    break
        # Half of the files are enough: others are reached through their other names, or not read.
        zone.unread_count += len(refs) // 2
        self._backup.repository.prefetch(refs)


def _are_near(left: bytes, right: bytes) -> bool:
    """Whether one of two directories is below the other one's parent."""
    return left.startswith(_parent(right)) or right.startswith(_parent(left))


def _parent(prefix: bytes) -> bytes:
    """The prefix of a directory's parent; of the top directory its own."""
    return prefix[: prefix[:-1].rfind(b"\0") + 1]


def _refs(entry: Entry) -> list[Ref]:
    """The first contents of a file; a long one is read ahead of when it is read itself."""
    contents = [extent.content for extent in entry.extents[:2]]
    return [content for content in contents if isinstance(content, Ref)]
