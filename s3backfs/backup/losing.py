"""Which packs a backup needs that are lost, and storing again what is still in memory of them.

This runs only where this mount has met a loss, or the backup's root speaks of one.
Source: docs/design.md, "Packs that are lost while a backup is open".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref, Top
from s3backfs.manifest.entry import Entry, Extent, extra_of, settled
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import Node
from s3backfs.manifest.tree import Nodes, Replace, Tree
from s3backfs.repository.packing import pack_id_of
from s3backfs.repository.piece import Piece

MENDED_MAX_COUNT = 10_000
"""So many entries at most are held in memory to be mended by one checkpoint."""


@dataclass(slots=True)
class Found:
    """What a tree needs and has not: packs, and the entries (in order) whose contents lie there."""

    packs: set[bytes] = field(default_factory=set)
    entries: list[tuple[bytes, Entry]] = field(default_factory=list)


class LossFinder:
    """Looks through one backup's tree; subtrees that were found whole are not entered again.

    Unless something in a pack that the tree refers to has become suspect since.
    """

    def __init__(self, nodes: RepositoryNodes) -> None:
        self._nodes = nodes
        self._losses = nodes.repository.losses
        self._whole: set[tuple[bytes, int]] = set()
        self._packs: set[bytes] = set()
        self.version = 0
        """That of the losses when it looked last."""
        self.packs_version = 0

    @property
    def has_news(self) -> bool:
        """Whether something was found to be lost since the last look."""
        return self._losses.version != self.version

    async def look(self, top: Top | None) -> Found:
        """Find what is lost.

        Raises:
            StoreError: the store would not say.
        """
        # Of now: what others meet meanwhile may lie in what was looked at already.
        version, packs_version = self._losses.version, self._losses.packs_version
        if self.has_news and not self._packs.isdisjoint(self._losses.suspect_packs()):
            self._whole.clear()
        found = Found()
        if top is not None and version:
            await self._enter(self._nodes.entries, top, found)
        self.version, self.packs_version = version, packs_version
        return found

    async def _enter(self, nodes: Nodes[Any], top: Top, found: Found) -> bool:
        """Look through a subtree, and say whether it is whole."""
        place = (top.ref.pack_id, top.ref.pack_offset) if top.ref else None
        if place in self._whole:
            return True
        if place is not None:
            self._packs.add(place[0])
        try:
            node = await nodes.load_top(top)
        except IntegrityError as error:
            lost_id = pack_id_of(error.key) or (top.ref.pack_id if top.ref else None)
            found.packs.update([lost_id] if lost_id else [])
            return False
        is_whole = await self._look_at(nodes, node, found)
        if is_whole and place is not None:
            self._whole.add(place)
        return is_whole

    async def _look_at(self, nodes: Nodes[Any], node: Node[Any], found: Found) -> bool:
        """Look at what a node refers to, then below it."""
        refs = node.refs()
        self._packs.update(ref.pack_id for ref in refs)
        lost = await self._lost(refs)
        found.packs |= {ref.pack_id for ref in lost}
        values = node.values(0, len(node))
        if node.height:
            children: list[Child] = values
            self._nodes.expect_nodes([child.ref for child in children])
            below = [
                await self._enter(nodes, _top(node.height - 1, child), found) for child in children
            ]
            return not lost and all(below)
        if lost and nodes is self._nodes.entries:
            room = MENDED_MAX_COUNT - len(found.entries)
            rows = zip(node.keys, values, strict=True)
            found.entries += [row for row in rows if not lost.isdisjoint(_refs(row[1]))][:room]
        trees = [extra_of(value).extent_tree for value in values if isinstance(value, Entry)]
        tops = [Top(tree.height, tree.top, None, tree.count) for tree in trees if tree]
        below = [await self._enter(self._nodes.extents, top, found) for top in tops]
        return not lost and all(below)

    async def _lost(self, refs: Iterable[Ref]) -> set[Ref]:
        suspects = [ref for ref in refs if self._is_suspect(ref)]
        return {ref for ref in suspects if await self._losses.is_lost(ref)}

    def _is_suspect(self, ref: Ref) -> bool:
        base = ref.base
        return self._losses.is_suspect(ref) or (base is not None and self._losses.is_suspect(base))


def _top(height: int, child: Child) -> Top:
    return Top(height, child.ref, None, child.entry_count)


def _refs(entry: Entry) -> list[Ref]:
    contents = [extent.content for extent in entry.extents]
    return [content for content in contents if isinstance(content, Ref)]


async def store_again(nodes: RepositoryNodes, top: Top | None, found: Found) -> Top | None:
    """Store what is in memory of lost contents, and return the tree that refers to it there.

    Not durable yet: that is what `Writer.barrier` waits for.

    Raises:
        S3backfsError: it could not be stored.
    """
    mender = _Mender(nodes)
    changed = [(key, await mender.mended(entry)) for key, entry in found.entries]
    edits = [(key, entry) for key, entry in changed if entry is not None]
    if not edits:
        return top
    await nodes.repository.writer.drain()
    rows = [Replace(key, key + b"\0", [(key, settled(entry))]) for key, entry in edits]
    return await Tree(top, nodes.entries).update(rows)


class _Mender:
    """Gives contents that are in memory new places; each of them once."""

    def __init__(self, nodes: RepositoryNodes) -> None:
        self._repository = nodes.repository
        self._pieces: dict[Ref, Piece] = {}

    async def mended(self, entry: Entry) -> Entry | None:
        """The entry with new contents for those that can be stored again; None where none can."""
        extents = [await self._mended_extent(extent) for extent in entry.extents]
        if all(new is old for new, old in zip(extents, entry.extents, strict=True)):
            return None
        return msgspec.structs.replace(entry, extents=tuple(extents))

    async def _mended_extent(self, extent: Extent) -> Extent:
        content = extent.content
        if not isinstance(content, Ref) or not self._repository.losses.is_suspect(content):
            return extent
        piece = self._pieces.get(content)
        if piece is None:
            data = self._repository.reader.peek(content)
            if data is None or not await self._repository.losses.is_lost(content):
                return extent
            piece = self._pieces[content] = await self._repository.writer.add(data)
        return msgspec.structs.replace(extent, content=piece)
