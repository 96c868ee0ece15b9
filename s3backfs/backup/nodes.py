"""Where manifest nodes rest: the repository's reader and writer, as trees want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from s3backfs.format.refs import Ref
from s3backfs.manifest.node import EncodedNode
from s3backfs.manifest.tree import entry_nodes, extent_nodes
from s3backfs.repository.repository import Repository

T = TypeVar("T")


class RepositoryNodes:
    """Loads and stores the nodes of every manifest of a repository."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.entries = entry_nodes(self, repository.keyring)
        self.extents = extent_nodes(self, repository.keyring)

    async def load_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        """Read a node through the cache of decoded nodes.

        Raises:
            IntegrityError: it is damaged.
        """
        return await self.repository.reader.read_node(ref, decode)

    def expect_nodes(self, refs: Sequence[Ref]) -> None:
        """Let nodes that will be read soon come along with those that are read now."""
        self.repository.reader.prefetch_nodes(refs)

    async def store_node(self, node: EncodedNode, base: Ref | None) -> Ref:
        """Store a node once, as a patch of `base` (or of its base) where that is smaller."""
        if base is not None:
            # Patches are one deep: what is itself a patch lends its own base.
            base = base.base or base
        return await self.repository.store_node(node.id, node.data, base)
