"""Which backups and paths need what is lost: a second walk, of what is damaged only.

A subtree that was found sound is not entered again, whichever backup leads to it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.roots import HeldRoot
from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref, Top
from s3backfs.maintenance.findings import Affected
from s3backfs.maintenance.references import References
from s3backfs.manifest.entry import Entry, Extent, extra_of
from s3backfs.manifest.keys import is_link_key, key_components
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import Node
from s3backfs.manifest.tree import Nodes

PATHS_MAX_COUNT = 1000


class AffectedWalk:
    """Finds what leads to lost frames; `sound` remembers the nodes below which nothing is lost."""

    def __init__(
        self, nodes: RepositoryNodes, lost: Collection[tuple[bytes, int]], sound: References
    ) -> None:
        self._nodes = nodes
        self._lost = lost
        self._sound = sound

    async def run(self, held: HeldRoot) -> Affected:
        """List what of a backup cannot be read.

        Raises:
            StoreError: the store would not give something.
        """
        affected = Affected(held.root.name, held.key)
        if held.root.top is not None:
            await self._node(self._nodes.entries, held.root.top, b"", None, affected)
        return affected

    async def _node(
        self, nodes: Nodes[Any], top: Top, first_key: bytes, last_key: bytes | None, into: Affected
    ) -> bool:
        """Look below a node; True where nothing is lost there."""
        if top.ref is not None and self._sound.has_node(top.ref):
            return True
        try:
            node = await nodes.load_top(top)
        except IntegrityError:
            _note_range(into, first_key, last_key, top.entry_count)
            return False
        is_sound = await (self._inner if node.height else self._leaf)(nodes, node, first_key, into)
        if is_sound and top.ref is not None:
            self._sound.add(top.ref)
        return is_sound

    async def _inner(
        self, nodes: Nodes[Any], node: Node[Child], first_key: bytes, into: Affected
    ) -> bool:
        is_sound = True
        for key, child in zip(node.keys, node.values(0, len(node)), strict=True):
            top = Top(node.height - 1, child.ref, None, child.entry_count)
            is_sound = await self._node(nodes, top, first_key, key, into) and is_sound
            first_key = key
        return is_sound

    async def _leaf(
        self, nodes: Nodes[Any], node: Node[Any], first_key: bytes, into: Affected
    ) -> bool:
        is_sound = True
        for key, value in zip(node.keys, node.values(0, len(node)), strict=True):
            if isinstance(value, Extent):
                is_sound = is_sound and not self._is_lost([value.content])
            elif not await self._is_entry_sound(value):
                is_sound = False
                _note_path(into, printable_key(key))
        return is_sound

    async def _is_entry_sound(self, entry: Entry) -> bool:
        extra = extra_of(entry)
        if self._is_lost([*(extent.content for extent in entry.extents), extra.xattr_ref]):
            return False
        if extra.extent_tree is None:
            return True
        tree = extra.extent_tree
        top = Top(tree.height, tree.top, None, tree.count)
        return await self._node(self._nodes.extents, top, b"", None, Affected(b"", ""))

    def _is_lost(self, contents: Iterable[object]) -> bool:
        return any(
            isinstance(content, Ref) and (content.pack_id, content.pack_offset) in self._lost
            for content in contents
        )


def _note_path(into: Affected, path: str) -> None:
    into.paths_count += 1
    if len(into.paths) < PATHS_MAX_COUNT:
        into.paths.append(path)


def _note_range(into: Affected, first_key: bytes, last_key: bytes | None, count: int) -> None:
    """Note names that are not known themselves; only their neighbours are."""
    first = f"behind {printable_key(first_key)}" if first_key else "from the first name"
    last = f"up to {printable_key(last_key)}" if last_key else "to the end"
    into.paths_count += count - 1
    _note_path(into, f"({count} names {first} {last})")


def printable_key(key: bytes) -> str:
    """Write the path of a key; a link record is named by its id."""
    if is_link_key(key):
        return f"(the file behind hard link {key[2:].hex()})"
    return os.fsdecode(b"/".join(key_components(key))) or "."
