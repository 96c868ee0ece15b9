"""The search tree of a backup's entries, and of a large file's extents.

The same items always give the same nodes, whoever wrote them and in whatever steps: where a level
is cut depends on its keys and values alone, the height is the least at which one node is left.
Source: docs/format.md, "Trees".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Top
from s3backfs.manifest.cursor import Cursor, Hashes, Nodes, NodeStore
from s3backfs.manifest.entry import Entry, Extent
from s3backfs.manifest.layouts import INNER, Child
from s3backfs.manifest.node import ENTRIES, EXTENTS, MAX_HEIGHT, EncodedNode, Node, encode_node
from s3backfs.manifest.rewrite import Replace, Rewritten, iterate, rewrite_level

__all__ = [
    "Cursor",
    "Hashes",
    "NodeStore",
    "Nodes",
    "Replace",
    "SequentialFinder",
    "Top",
    "Tree",
    "entry_nodes",
    "extent_nodes",
]

V = TypeVar("V")


def entry_nodes(store: NodeStore, hashes: Hashes) -> Nodes[Entry]:
    """Return what trees of entries need."""
    return Nodes(ENTRIES, store, hashes)


def extent_nodes(store: NodeStore, hashes: Hashes) -> Nodes[Extent]:
    """Return what trees of extents need; their tops are always stored."""
    return Nodes(EXTENTS, store, hashes, inline_top_max_bytes=0)


class Tree(Generic[V]):
    """One state of a tree; `top` is None where it is empty. Never changes."""

    __slots__ = ("_nodes", "_top_node", "top")

    def __init__(self, top: Top | None, nodes: Nodes[V]) -> None:
        self.top = top
        self._nodes = nodes
        self._top_node: Node[Any] | None = None

    @property
    def entry_count(self) -> int:
        """Number of items."""
        return 0 if self.top is None else self.top.entry_count

    async def top_id(self) -> bytes | None:
        """Return the logical id of the top node: equal for equal content."""
        if self.top is None:
            return None
        if self.top.ref is not None:
            return self.top.ref.id
        return self._encoded(await self._load_top(self.top)).id

    async def find(self, key: bytes) -> V | None:
        """Return the value of a key.

        Raises:
            IntegrityError: a node is damaged.
        """
        leaf = await self.leaf(key)
        return None if leaf is None else leaf.find(key)

    async def leaf(self, key: bytes) -> Node[V] | None:
        """Return the leaf that a key is in if it is anywhere; None where the tree is empty.

        Raises:
            IntegrityError: a node is damaged.
        """
        leaf = self._nodes.recent.of(self, key)
        if leaf is not None:
            return leaf
        cursor = await self.cursor(0)
        if cursor is None:
            return None
        await cursor.seek(key)
        cursor.expect()
        leaf = await cursor.load()
        self._nodes.recent.note(self, leaf)
        return leaf

    async def pages(
        self,
        lo: bytes = b"",
        hi: bytes | None = None,
        passed: list[IntegrityError] | None = None,
    ) -> AsyncGenerator[Sequence[tuple[bytes, V]]]:
        """Yield the items in [lo, hi) in order, those of one leaf at a time.

        To go on behind a key, begin at that key + NUL. With `passed` the walk goes around damaged
        nodes and puts their errors there.
        """
        cursor = await self.cursor(0)
        if cursor is None or (hi is not None and hi <= lo):
            return
        is_first = True
        while True:
            try:
                if is_first:
                    is_first = False
                    await cursor.seek(lo)
                elif not await cursor.next():
                    return
                cursor.expect()
                node = await cursor.load()
            except IntegrityError as error:
                if passed is None:
                    raise
                passed.append(error)
                if hi is not None and cursor.last_key >= hi:
                    return
                continue
            first = bisect_left(node.keys, lo)
            last = len(node) if hi is None else bisect_left(node.keys, hi)
            if first < last:
                yield list(zip(node.keys[first:last], node.values(first, last), strict=True))
            if last < len(node):
                return

    async def items(
        self,
        lo: bytes = b"",
        hi: bytes | None = None,
        passed: list[IntegrityError] | None = None,
    ) -> AsyncGenerator[tuple[bytes, V]]:
        """Yield the items in [lo, hi) in order, see `pages`."""
        async with aclosing(self.pages(lo, hi, passed)) as pages:
            async for page in pages:
                for item in page:
                    yield item

    async def update(self, edits: AsyncIterable[Replace[V]] | Iterable[Replace[V]]) -> Top | None:
        """Return the top of the tree that has the edits in it; this one stays as it is.

        Edits are sorted and disjoint; they and their rows are read as they are needed. Nodes that
        no edit touches are neither read nor stored again.

        Raises:
            ValueError: edits or rows are not in order, or content has no place yet.
            IntegrityError: a node is damaged, or a row breaks the rules of the format.
        """
        layout: Any = self._nodes.family.leaf
        level_edits: AsyncIterable[Replace[Any]] | Iterable[Replace[Any]] = edits
        for height in range(MAX_HEIGHT + 1):
            cursor = await self.cursor(height)
            async with aclosing(iterate(level_edits)) as stream:
                done = await rewrite_level(self._nodes, layout, height, cursor, stream)
            if not done.edits:
                return self.top
            if done.is_whole and (done.only is not None or not done.edits[0].rows):
                return await self._finished(done)
            layout, level_edits = INNER, done.edits
        raise ValueError("a tree has grown higher than the format allows")

    async def cursor(self, height: int) -> Cursor[V] | None:
        """Return a cursor over a level, to be placed by `seek`; None if there is no such level."""
        if self.top is None or self.top.height < height:
            return None
        return Cursor(self._nodes, self.top, await self._load_top(self.top), height)

    async def _load_top(self, top: Top) -> Node[Any]:
        if self._top_node is None:
            self._top_node = await self._nodes.load_top(top)
        return self._top_node

    async def _finished(self, done: Rewritten) -> Top | None:
        """Make the top of the only node that is left; one without a fork is left out."""
        if done.only is None:
            return None
        node: Node[Any] = self._nodes.decode(done.only.data)
        encoded: EncodedNode = done.only
        child: Child | None = None
        while node.height and len(node) == 1:
            child = node.value(0)
            node = await self._nodes.load(child, node.height - 1)
        if child is not None:
            encoded = self._encoded(node)
        return await self._made_top(encoded, child)

    async def _made_top(self, node: EncodedNode, child: Child | None) -> Top:
        if len(node.data) <= self._nodes.inline_top_max_bytes:
            return Top(node.height, None, node.data, node.entry_count)
        base, store = self.top.ref if self.top is not None else None, self._nodes.store
        if child is not None:
            ref = child.ref
        elif base is not None and base.id == node.id and await store.may_stand(node, base):
            ref = base
        else:
            ref = await store.store_node(node, base)
        return Top(node.height, ref, None, node.entry_count)

    def _encoded(self, node: Node[Any]) -> EncodedNode:
        layout: Any = INNER if node.height else self._nodes.family.leaf
        values = node.values(0, len(node))
        logical_id = self._nodes.hashes.logical_id
        return encode_node(
            self._nodes.family.kind, node.height, layout, node.keys, values, logical_id
        )


class SequentialFinder(Generic[V]):
    """Finds many keys that come in order, most of them in the leaf of the one before."""

    __slots__ = ("_leaf", "_tree")

    def __init__(self, tree: Tree[V]) -> None:
        self._tree = tree
        self._leaf: Node[V] | None = None

    async def find(self, key: bytes) -> V | None:
        """Return the value of a key.

        Raises:
            IntegrityError: a node is damaged.
        """
        leaf = self._leaf
        if leaf is None or not leaf.spans(key):
            leaf = await self._tree.leaf(key)
        self._leaf = leaf
        return None if leaf is None else leaf.find(key)
