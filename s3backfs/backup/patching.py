"""Leaves of a new backup as patches of the leaves that the backup linked from has at the same keys.

Scattered small changes touch nearly every leaf; what a patch stores is the changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import S3backfsError
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.node import EncodedNode
from s3backfs.manifest.tree import Nodes, Tree, entry_nodes

T = TypeVar("T")


class PatchingNodes:
    """Stores nodes like `RepositoryNodes`; leaves that replace none are patched against others'."""

    def __init__(self, nodes: RepositoryNodes, bases: Iterable[Tree[Entry]]) -> None:
        self._nodes = nodes
        self._bases = list(bases)
        self.entries: Nodes[Entry] = entry_nodes(self, nodes.repository.keyring)

    async def load_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        """Read a node, see `RepositoryNodes`."""
        return await self._nodes.load_node(ref, decode)

    def is_at_hand(self, ref: Ref) -> bool:
        """Whether a node is in memory."""
        return self._nodes.is_at_hand(ref)

    def expect_nodes(self, refs: Sequence[Ref]) -> None:
        """Hear which nodes a walk will load soon."""
        self._nodes.expect_nodes(refs)

    async def may_stand(self, node: EncodedNode, place: Ref) -> bool:
        """Whether an equal node may stand for one, see `RepositoryNodes`."""
        return await self._nodes.may_stand(node, place)

    async def store_node(self, node: EncodedNode, base: Ref | None) -> Ref:
        """Store a node, see `RepositoryNodes`."""
        if base is None and node.height == 0:
            base = await self._leaf_at(self.entries.decode(node.data).keys[-1])
        return await self._nodes.store_node(node, base)

    async def _leaf_at(self, key: bytes) -> Ref | None:
        """The leaf in which one of the bases has a key, or would."""
        for tree in self._bases:
            try:
                cursor = await tree.cursor(0)
                if cursor is not None:
                    await cursor.seek(key)
                    return cursor.ref
            except S3backfsError:
                # An unreadable base costs the patch only.
                continue
        return None
