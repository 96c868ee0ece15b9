"""Nodes of the two kinds of trees: as bytes, and decoded.

    node    [kind, height, packs, sources, body]
    id      keyed hash of "node" || [kind, height, ids of the sources the body uses, body]

The id is logical: places are not in it, so equal content gives equal ids wherever it lies.
Source: docs/format.md, "Nodes".
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, TypeVar

import msgspec

from s3backfs.errors import IntegrityError
from s3backfs.format.refs import Ref
from s3backfs.manifest.entry import Entry, Extent
from s3backfs.manifest.layouts import ENTRY_LEAF, EXTENT_LEAF, INNER, Child, Decoded, Layout
from s3backfs.manifest.sources import SourceTable, SourceWriter
from s3backfs.manifest.wire import LogicalWire, NodeWire, encoder, node_decoder

V = TypeVar("V")

MAX_HEIGHT = 32
"""No tree is higher; it bounds the walk down a forged one."""

MAX_NODE_BYTES = 8 * 1024 * 1024
"""No node is longer: decoded, rows take many times as much memory."""


class NodeKind(IntEnum):
    """Which tree a node is of."""

    ENTRIES = 1
    EXTENTS = 2


@dataclass(frozen=True, slots=True)
class Family(Generic[V]):
    """A kind of tree, and how its leaves are written."""

    kind: NodeKind
    leaf: Layout[V]


ENTRIES: Family[Entry] = Family(NodeKind.ENTRIES, ENTRY_LEAF)
EXTENTS: Family[Extent] = Family(NodeKind.EXTENTS, EXTENT_LEAF)


@dataclass(frozen=True, slots=True)
class EncodedNode:
    """A node ready to be stored."""

    kind: int
    height: int
    id: bytes
    data: bytes
    entry_count: int
    packs: tuple[bytes, ...] = ()
    """The packs that its sources lie in."""


class Node(Generic[V]):
    """A decoded node. Values are made when they are asked for."""

    __slots__ = ("_layout", "_rows", "_sources", "entry_count", "height", "keys", "kind")

    def __init__(
        self, wire: NodeWire, layout: Layout[V], decoded: Decoded, sources: SourceTable
    ) -> None:
        self.kind = wire.kind
        self.height = wire.height
        self.keys = decoded.keys
        self.entry_count = decoded.entry_count
        self._rows = decoded.rows
        self._layout = layout
        self._sources = sources

    def __len__(self) -> int:
        return len(self.keys)

    def value(self, number: int) -> V:
        """Return the value of one row."""
        return self._layout.value(self._rows[number], self._sources)

    def values(self, first: int, last: int) -> list[V]:
        """Return the values of the rows from `first` up to `last`."""
        make, sources = self._layout.value, self._sources
        return [make(row, sources) for row in self._rows[first:last]]

    def refs(self) -> list[Ref]:
        """Return every place that this node refers to: contents, nodes, bases of patches."""
        return [self._sources.ref(number) for number in range(len(self._sources))]

    def spans(self, key: bytes) -> bool:
        """Whether a key that is in the tree at all is in this leaf."""
        return self.keys[0] <= key <= self.keys[-1]

    def find(self, key: bytes) -> V | None:
        """Return the value of a key."""
        number = bisect_left(self.keys, key)
        if number == len(self.keys) or self.keys[number] != key:
            return None
        return self.value(number)


def encode_node(
    kind: NodeKind,
    height: int,
    layout: Layout[V],
    keys: Sequence[bytes],
    values: Sequence[V],
    logical_id: Callable[[bytes], bytes],
) -> EncodedNode:
    """Write sorted items as a node.

    Raises:
        ValueError: content has no place in a pack yet.
    """
    sources = SourceWriter()
    body = msgspec.Raw(encoder.encode(layout.encode(keys, values, sources)))
    packs, rows = sources.tables()
    preimage = encoder.encode(LogicalWire(kind, height, sources.ids(), body))
    return EncodedNode(
        kind=kind,
        height=height,
        id=logical_id(b"node" + preimage),
        data=encoder.encode(NodeWire(kind, height, packs, rows, body)),
        entry_count=_entry_count(values),
        packs=tuple(pack_id for pack_id, _ in packs),
    )


def _entry_count(values: Sequence[Any]) -> int:
    if isinstance(values[0], Child):
        return sum(child.entry_count for child in values)
    return len(values)


def decode_node(family: Family[V], data: bytes | memoryview) -> Node[V] | Node[Child]:
    """Read a node of a kind of tree.

    Raises:
        IntegrityError: these bytes are no such node, for whatever reason.
    """
    try:
        return _decode(family, data)
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError, OverflowError) as error:
        raise IntegrityError(f"this is no node of a manifest: {error}") from error


def _decode(family: Family[V], data: bytes | memoryview) -> Node[V] | Node[Child]:
    if len(data) > MAX_NODE_BYTES:
        raise IntegrityError("a node is longer than any can be")
    wire = node_decoder.decode(data)
    if wire.kind != family.kind or not 0 <= wire.height <= MAX_HEIGHT:
        raise IntegrityError("a node is of another kind than its place in the tree")
    sources = SourceTable(wire.packs, wire.sources)
    node: Node[V] | Node[Child]
    if wire.height:
        node = Node(wire, INNER, INNER.decode(wire.body, sources), sources)
    else:
        node = Node(wire, family.leaf, family.leaf.decode(wire.body, sources), sources)
    if not node.keys:
        raise IntegrityError("a node is empty")
    return node
