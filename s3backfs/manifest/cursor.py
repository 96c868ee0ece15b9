"""Walking one level of a stored tree from left to right."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref, Top
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import EncodedNode, Family, Node, decode_node
from s3backfs.manifest.runs import MAX_RUN_WEIGHT

V = TypeVar("V")
T = TypeVar("T")

INLINE_TOP_MAX_BYTES = 64 * 1024


NODES_AHEAD = 24
"""So many nodes of a level a walk announces."""


class NodeStore(Protocol):
    """Where nodes are kept."""

    async def load_node(self, ref: Ref, decode: Callable[[bytes], T]) -> T:
        """Read a node and decode it; the decoded one may come from a cache."""

    def is_at_hand(self, ref: Ref) -> bool:
        """Whether a node is in memory."""

    def expect_nodes(self, refs: Sequence[Ref]) -> None:
        """Hear which nodes a walk will load soon."""

    async def may_stand(self, node: EncodedNode, place: Ref) -> bool:
        """Say whether an equal node that was stored before leads to all that this one leads to."""

    async def store_node(self, node: EncodedNode, base: Ref | None) -> Ref:
        """Keep a node, perhaps as a patch of `base`, and say where; an equal one may be found."""


class Hashes(Protocol):
    """The keyed hashes that shape a tree."""

    def cut_hash(self, level: int, key: bytes) -> int:
        """32 bits of keyed hash of a key at a level."""

    def logical_id(self, preimage: bytes) -> bytes:
        """16 bytes of keyed hash."""


class RecentLeaf(Generic[V]):
    """The leaf that something was found in last, of all trees of a kind.

    Who looks names up goes from one to the next: most are in the same leaf.
    """

    __slots__ = ("_leaf", "_tree")

    def __init__(self) -> None:
        self._tree: object = None
        self._leaf: Node[V] | None = None

    def of(self, tree: object, key: bytes) -> Node[V] | None:
        """That leaf, if it is of this tree and holds the key if the tree does."""
        leaf = self._leaf if tree is self._tree else None
        return leaf if leaf is not None and leaf.spans(key) else None

    def note(self, tree: object, leaf: Node[V]) -> None:
        """Remember a leaf instead."""
        self._tree, self._leaf = tree, leaf


@dataclass(frozen=True, slots=True)
class Nodes(Generic[V]):
    """All that a tree of one kind needs to read and write its nodes."""

    family: Family[V]
    store: NodeStore
    hashes: Hashes
    inline_top_max_bytes: int = INLINE_TOP_MAX_BYTES
    """0 where the top must have a place of its own."""
    max_run_weight: int = MAX_RUN_WEIGHT
    recent: RecentLeaf[V] = field(default_factory=lambda: RecentLeaf[V]())

    def decode(self, data: bytes) -> Node[V] | Node[Child]:
        return decode_node(self.family, data)

    async def load(self, child: Child, height: int) -> Node[Any]:
        """Read a node that must be at this height.

        Raises:
            IntegrityError: another node is there than its parent says.
        """
        node = await self.store.load_node(child.ref, self.decode)
        if node.height != height or node.entry_count != child.entry_count:
            raise IntegrityError("a node does not fit its place in the tree")
        return node

    async def load_top(self, top: Top) -> Node[Any]:
        """Read the top node of a tree, see `load`."""
        if top.ref is not None:
            return await self.load(Child(top.ref, top.entry_count), top.height)
        node = self.decode(top.inline or b"")
        if node.height != top.height or node.entry_count != top.entry_count:
            raise IntegrityError("the top node does not fit its root")
        return node


class Cursor(Generic[V]):
    """Stands on one node of the level at `height` and reads it only when asked to.

    A new cursor stands nowhere until `seek`. Where the way down is damaged it stands on the node
    that could not be read, and can step on from there.
    """

    def __init__(self, nodes: Nodes[V], top: Top, top_node: Node[Any], height: int) -> None:
        self._nodes = nodes
        self._top = top
        self._top_node = top_node
        self._height = height
        self._path: list[tuple[Node[Child], int]] = []
        self._loaded: Node[Any] | None = None

    @property
    def last_key(self) -> bytes:
        """The last key of the node."""
        if not self._path:
            return self._top_node.keys[-1]
        node, number = self._path[-1]
        return node.keys[number]

    @property
    def ref(self) -> Ref | None:
        """The node's place; None for an inline top."""
        if not self._path:
            return self._top.ref
        node, number = self._path[-1]
        return node.value(number).ref

    async def load(self) -> Node[Any]:
        """Read the node.

        Raises:
            IntegrityError: it does not fit its place in the tree.
        """
        if not self._path:
            return self._top_node
        if self._loaded is None:
            node, number = self._path[-1]
            found = await self._nodes.load(node.value(number), self._height)
            if found.keys[-1] != node.keys[number]:
                raise IntegrityError("a node ends with another key than its parent says")
            self._loaded = found
        return self._loaded

    def expect(self) -> None:
        """Tell the store which nodes a walk will read after this one.

        Also where somebody wants less: who reads one directory reads others near it, and they
        come along by the same GET.
        """
        if not self._path or self._loaded is not None:
            return
        node, number = self._path[-1]
        if self._nodes.store.is_at_hand(node.value(number).ref):
            # Nothing is read now, and what is read next announces the nodes behind it.
            return
        following = node.values(number + 1, min(len(node), number + 1 + NODES_AHEAD))
        self._nodes.store.expect_nodes([child.ref for child in following])

    async def seek(self, key: bytes) -> None:
        """Go to the node that holds `key` or would; the last one if the key is behind all."""
        await self._descend([], lambda node: min(bisect_left(node.keys, key), len(node) - 1))

    async def next(self) -> bool:
        """Go one node to the right; False if there is none."""
        return await self._step(1)

    async def previous(self) -> bool:
        """Go one node to the left; False if there is none."""
        return await self._step(-1)

    async def _step(self, step: int) -> bool:
        for depth in range(len(self._path) - 1, -1, -1):
            node, number = self._path[depth]
            if 0 <= number + step < len(node):
                path = [*self._path[:depth], (node, number + step)]
                await self._descend(path, lambda node: 0 if step > 0 else len(node) - 1)
                return True
        return False

    async def _descend(
        self, path: list[tuple[Node[Child], int]], choose: Callable[[Node[Child]], int]
    ) -> None:
        """Lengthen a path down to the node above the level.

        Where one on the way cannot be read the path ends there, and a step goes around it.
        """
        last_before = self._path[-1:]
        self._path = path
        while len(path) < self._top.height - self._height:
            node = self._top_node
            if path:
                above, number = path[-1]
                node = await self._nodes.load(above.value(number), self._top.height - len(path))
            inner = cast("Node[Child]", node)
            path.append((inner, choose(inner)))
        if path[-1:] != last_before:
            self._loaded = None
