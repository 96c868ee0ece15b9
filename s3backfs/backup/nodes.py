"""Where manifest nodes rest: the repository's reader and writer, as trees want them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.node import EncodedNode, NodeKind
from s3backfs.manifest.tree import Nodes, entry_nodes, extent_nodes
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

    def is_at_hand(self, ref: Ref) -> bool:
        """Whether a node is among the decoded ones."""
        return self.repository.reader.has_node(ref)

    def expect_nodes(self, refs: Sequence[Ref]) -> None:
        """Let nodes that will be read soon come along with those that are read now."""
        self.repository.reader.prefetch_nodes(refs)

    async def store_node(self, node: EncodedNode, base: Ref | None) -> Ref:
        """Store a node once, as a patch of `base` (or of its base) where that is smaller."""
        if base is not None:
            # Patches are one deep: what is itself a patch lends its own base.
            base = base.base or base
        choose = partial(self._place_of, node)
        return await self.repository.store_node(node.id, node.data, base, choose)

    async def may_stand(self, node: EncodedNode, place: Ref) -> bool:
        """Whether an equal node at a place leads to nothing that was lost and stored again since.

        Equal nodes may name different places of the same contents.
        """
        written = self.repository.writer.written
        if place.pack_id not in written and not written.isdisjoint(node.packs):
            # What was known before is referred to here at a place that is new: it was not there.
            return False
        return not self.repository.losses.version or await self._is_alike(node, place)

    async def _place_of(self, node: EncodedNode, places: Sequence[Ref]) -> Ref | None:
        for place in places:
            if len(places) > 1 and not await self._is_alike(node, place):
                continue
            if await self.may_stand(node, place):
                return place
        return None

    async def _is_alike(self, node: EncodedNode, place: Ref) -> bool:
        """Whether an equal node at a place can be read, and refers to the same places."""
        if self.repository.losses.is_suspect(place):
            return False
        family: Nodes[Any] = self.entries if node.kind == NodeKind.ENTRIES else self.extents
        try:
            stored = await self.load_node(place, family.decode)
        except IntegrityError:
            return False
        return set(stored.refs()) == set(family.decode(node.data).refs())
