"""Reading ahead from file to file: who reads one small file in order will read the next."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from s3backfs.backup.node import Node
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import entry_key, split_key, subtree_range

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup

FIRST_ZONE_BYTES = 512 * 1024
"""How much of other files is fetched in one go at least, as it lies in the packs."""

UNREAD_FACTOR = 8
"""So many times what was read may have been fetched and not be read yet: what lies near each other
in a pack comes by one GET, and who stops reading has not paid for much more than he read."""

FILES_BEFORE = 2
"""So many files must be read near each other before more of them are expected."""

ZONES_MAX_COUNT = 256


@dataclass(slots=True)
class _Zone:
    """The files with keys in [begin, end), which were fetched, and how many of them were read."""

    begin: bytes
    end: bytes
    bytes_count: int = 0
    files_count: int = 0
    read_count: int = 0

    @property
    def read_bytes(self) -> int:
        """About how many of its bytes were read; others may be behind several names."""
        return self.bytes_count * min(self.read_count, self.files_count) // max(self.files_count, 1)


class FilesAhead:
    """Knows which small files of a backup were read last, and fetches those around and behind them.

    A restore reads all of a directory and of what is below it, but in any order: cp sorts by
    inode number. In the order of the manifest's keys a directory with all below it lies side by
    side. So what is fetched, as much as a zone may hold, is the rest of the smallest directory
    that all files read so far are in, at any depth, from the one on that is being read; and when
    a file is read that is in no zone, another zone. The more was read, the larger they are.
    """

    def __init__(self, backup: Backup) -> None:
        self._backup = backup
        self._last_prefix: bytes | None = None
        self._scope = b""
        self._near_count = 0
        self._zones: list[_Zone] = []
        self._read_bytes = 0
        """Of the zones that were given up."""
        self._late_count = 0

    async def note_read(self, node: Node) -> None:
        """Tell that a file is about to be read from its beginning; never fails."""
        key = self._stored_key(node)
        if key is None:
            return
        prefix, _ = split_key(key)
        self._note_place(prefix)
        zone = next((zone for zone in self._zones if zone.begin <= key < zone.end), None)
        if zone is not None:
            zone.read_count += 1
            if self._is_at_hand(node):
                return
            self._give_up(zone)
        # While a look does not come to an end, as without S3, nobody begins another one.
        if self._near_count >= FILES_BEFORE and not self._late_count:
            await self._look_ahead(prefix)

    def _note_place(self, prefix: bytes) -> None:
        last_prefix, self._last_prefix = self._last_prefix, prefix
        is_near = last_prefix is not None and _are_near(prefix, last_prefix)
        self._near_count = self._near_count + 1 if is_near else 0
        if last_prefix is None:
            self._scope = prefix
        while not prefix.startswith(self._scope):
            self._scope = _parent(self._scope)

    async def _look_ahead(self, prefix: bytes) -> None:
        is_late = False

        async def look() -> None:
            try:
                await self._fetch(prefix)
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

    async def _fetch(self, prefix: bytes) -> None:
        """Fetch what is in no zone: from `prefix` to the end of the scope, then from its begin."""
        (first, last), middle = subtree_range(self._scope), entry_key(prefix, b"")
        left_bytes = self._zone_bytes()
        for begin, end in self._gaps(middle, last) + self._gaps(first, middle):
            if left_bytes <= 0:
                return
            left_bytes -= await self._fetch_zone(begin, end, left_bytes)

    def _is_at_hand(self, node: Node) -> bool:
        """Whether what was fetched of a file is still there, or will come along."""
        reader = self._backup.repository.reader
        return node.entry is None or all(reader.is_expected(ref) for ref in _refs(node.entry))

    def _give_up(self, zone: _Zone) -> None:
        self._zones.remove(zone)
        self._read_bytes += zone.read_bytes

    def _zone_bytes(self) -> int:
        """How much may be fetched now."""
        while len(self._zones) > ZONES_MAX_COUNT:
            self._give_up(self._zones[0])
        read_bytes = sum(zone.read_bytes for zone in self._zones)
        unread_bytes = sum(zone.bytes_count for zone in self._zones) - read_bytes
        wanted_bytes = UNREAD_FACTOR * (self._read_bytes + read_bytes) - unread_bytes
        most_bytes = self._backup.repository.reader.spare_bytes // 4
        return min(max(wanted_bytes, FIRST_ZONE_BYTES), most_bytes)

    def _gaps(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """What of [begin, end) is in no zone."""
        gaps = []
        for zone in sorted(self._zones, key=_begin):
            if begin < zone.begin < end:
                gaps.append((begin, zone.begin))
            if zone.begin < end:
                begin = max(begin, zone.end)
        return gaps + [(begin, end)] * (begin < end)

    async def _fetch_zone(self, begin: bytes, end: bytes, limit_bytes: int) -> int:
        """Fetch the files in [begin, end) as far as the limit; return their bytes."""
        # In place before the await: several files may be opened at once.
        zone = _Zone(begin, end)
        self._zones.append(zone)
        refs: list[Ref] = []
        frames: set[tuple[bytes, int]] = set()
        # What is damaged concerns those who ask for it.
        async with aclosing(self._backup.tree.items(begin, end, passed=[])) as items:
            async for key, entry in items:
                found = _refs(entry)
                new = {_place(ref): ref.frame_length for ref in found if _place(ref) not in frames}
                if new and zone.bytes_count >= limit_bytes:
                    zone.end = key
                    break
                refs += found
                frames |= new.keys()
                zone.bytes_count += sum(new.values())
        zone.files_count = len(refs)
        self._backup.repository.prefetch(refs)
        return zone.bytes_count


def _begin(zone: _Zone) -> bytes:
    return zone.begin


def _are_near(left: bytes, right: bytes) -> bool:
    """Whether one of two directories is below the other one's parent."""
    return left.startswith(_parent(right)) or right.startswith(_parent(left))


def _parent(prefix: bytes) -> bytes:
    """The prefix of a directory's parent; of the top directory its own."""
    return prefix[: prefix[:-1].rfind(b"\0") + 1]


def _place(ref: Ref) -> tuple[bytes, int]:
    return ref.pack_id, ref.pack_offset


def _refs(entry: Entry) -> list[Ref]:
    """The first contents of a file; a long one is read ahead of when it is read itself."""
    contents = [extent.content for extent in entry.extents[:2]]
    return [content for content in contents if isinstance(content, Ref)]
