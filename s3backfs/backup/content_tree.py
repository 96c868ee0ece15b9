"""The extent tree of a file that has too many extents for its entry."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.manifest.entry import (
    EXTENTS_MAX_INLINE,
    Entry,
    Extent,
    ExtentTree,
    extra_of,
    settled_extent,
    with_extra,
)
from s3backfs.manifest.extents import ExtentMap, overlaid
from s3backfs.manifest.keys import extent_key
from s3backfs.manifest.tree import Replace, Top, Tree


class ExtentReader:
    """Finds the stored extents of one file."""

    def __init__(self, nodes: RepositoryNodes, tree: ExtentTree) -> None:
        self._tree = Tree(top_of(tree), nodes.extents)

    async def touching(self, lo: int, hi: int) -> Sequence[Extent]:
        """The extents that have a byte in [lo, hi)."""
        first = await self._last_until(extent_key(lo))
        found = [extent async for _, extent in self._tree.items(first, extent_key(hi))]
        return [extent for extent in found if extent.end > lo]

    async def _last_until(self, key: bytes) -> bytes:
        """The key of the last extent that begins there or before: only this one may reach over."""
        cursor = await self._tree.cursor(0)
        if cursor is None:
            return key
        await cursor.seek(key)
        node = await cursor.load()
        number = bisect_right(node.keys, key)
        if number == 0 and await cursor.previous():
            node = await cursor.load()
            number = len(node)
        return node.keys[number - 1] if number else key


def top_of(tree: ExtentTree) -> Top:
    """The top of a stored extent tree."""
    return Top(tree.height, tree.top, None, tree.count)


async def merge_extents(
    nodes: RepositoryNodes, tree: ExtentTree | None, overlay: Iterable[Extent]
) -> ExtentTree | None:
    """Lay settled extents over a stored tree; None if nothing but holes is left."""
    over = ExtentMap(map(settled_extent, overlay), is_overlay=True)
    old = Tree(top_of(tree) if tree else None, nodes.extents)
    merge = _Merge(over, ExtentReader(nodes, tree) if tree else None)
    top = await old.update(merge.edits())
    if top is None or top.ref is None:
        return None
    allocated = (tree.allocated_bytes if tree else 0) + merge.added_bytes
    return ExtentTree(top.ref, top.height, top.entry_count, allocated)


async def with_merged_extents(nodes: RepositoryNodes, entry: Entry) -> Entry:
    """Move the extents of an entry into its tree, if they are many or it has one."""
    extra = extra_of(entry)
    if not entry.extents or (len(entry.extents) <= EXTENTS_MAX_INLINE and not extra.extent_tree):
        return entry
    tree = await merge_extents(nodes, extra.extent_tree, entry.extents)
    extra = msgspec.structs.replace(extra, extent_tree=tree)
    return with_extra(msgspec.structs.replace(entry, extents=()), extra)


class _Merge:
    """Makes edits of the tree from an overlay, and counts the bytes they add."""

    def __init__(self, over: ExtentMap, reader: ExtentReader | None) -> None:
        self._over = over
        self._reader = reader
        self.added_bytes = 0

    async def edits(self) -> AsyncIterator[Replace[Extent]]:
        """One edit for each stretch of the file whose stored extents change."""
        lo = hi = 0
        below: dict[int, Extent] = {}
        for window in self._over.windows():
            touched = (
                await self._reader.touching(window.file_offset, window.end) if self._reader else ()
            )
            starts_at = min([window.file_offset, *(extent.file_offset for extent in touched[:1])])
            if starts_at >= hi and hi:
                yield self._replace(lo, hi, below)
                lo, below = starts_at, {}
            lo = starts_at if not hi else lo
            hi = max([window.end, hi, *(extent.end for extent in touched[-1:])])
            below.update((extent.file_offset, extent) for extent in touched)
        if hi:
            yield self._replace(lo, hi, below)

    def _replace(self, lo: int, hi: int, below: dict[int, Extent]) -> Replace[Extent]:
        over = ExtentMap(self._over.overlapping(lo, hi), is_overlay=True)
        merged = overlaid(over, below.values())
        self.added_bytes += sum(extent.length for extent in merged)
        self.added_bytes -= sum(extent.length for extent in below.values())
        rows = [(extent_key(extent.file_offset), extent) for extent in merged]
        return Replace(extent_key(lo), extent_key(hi), rows)
