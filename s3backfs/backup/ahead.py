"""Reading ahead from file to file: who reads one small file in order will read the next."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from s3backfs.backup.node import Node
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry

if TYPE_CHECKING:
    from s3backfs.backup.backup import Backup

AHEAD_BYTES = 16 * 1024 * 1024
"""How much content of the following files is fetched before it is asked for."""

FILES_BEFORE = 2
"""So many files must be read in order before more of them are expected."""


class FilesAhead:
    """Knows which files of a backup were read last, and fetches what follows them.

    The files between `_begin` and `_end` (keys of the manifest) were fetched ahead already.
    """

    def __init__(self, backup: Backup) -> None:
        self._backup = backup
        self._last = b""
        self._in_order = 0
        self._begin = b""
        self._end = b""

    async def note_read(self, node: Node) -> None:
        """Tell that a small file is about to be read from its beginning."""
        key = self._stored_key(node)
        if key is None:
            return
        self._in_order = self._in_order + 1 if key > self._last else 0
        self._last = key
        if self._in_order < FILES_BEFORE or self._begin <= key < self._end:
            return
        await self._fetch_from(key)

    def _stored_key(self, node: Node) -> bytes | None:
        """The file's key in the tree, if it is there as it is."""
        parent = node.parent
        if parent is None or parent.directory is None or parent.directory.base is None:
            return None
        return self._backup.names.stored_key(node)

    async def _fetch_from(self, key: bytes) -> None:
        self._begin = key
        refs: list[Ref] = []
        frames: set[tuple[bytes, int]] = set()
        ahead_bytes = 0
        async with aclosing(self._backup.tree.pages(key)) as pages:
            async for page in pages:
                for self._end, entry in page:
                    for ref in _refs(entry):
                        refs.append(ref)
                        if (ref.pack_id, ref.pack_offset) not in frames:
                            frames.add((ref.pack_id, ref.pack_offset))
                            ahead_bytes += ref.chunk_length
                    if ahead_bytes >= AHEAD_BYTES:
                        break
                break
        self._backup.repository.prefetch(refs)


def _refs(entry: Entry) -> list[Ref]:
    return [extent.content for extent in entry.extents if isinstance(extent.content, Ref)]
