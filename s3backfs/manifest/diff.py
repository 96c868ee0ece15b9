"""What differs between two trees, at the cost of what differs.

Nodes with one logical id hold the same items and are passed over unread; places are not compared,
so that a chunk that was moved makes no difference.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeAlias, TypeVar, cast

import msgspec

from s3backfs.format.refs import Ref, Top
from s3backfs.manifest.cursor import Nodes
from s3backfs.manifest.entry import Entry, Extent
from s3backfs.manifest.layouts import Child
from s3backfs.manifest.node import Node

V = TypeVar("V")

Difference: TypeAlias = tuple[bytes, V | None, V | None]
"""Key, old value, new value; None where there is none."""


async def diff(nodes: Nodes[V], old: Top | None, new: Top | None) -> AsyncGenerator[Difference[V]]:
    """Yield the keys whose values differ, in order.

    Raises:
        IntegrityError: a node is damaged.
    """
    left, right = _Walk(nodes), _Walk(nodes)
    if old is not None and new is not None and old.ref and new.ref and old.ref.id == new.ref.id:
        return
    await left.begin(old)
    await right.begin(new)
    while left.is_open or right.is_open:
        if _pass_equal(left, right):
            continue
        if not await _opened_rows(left, right):
            continue
        key = min(walk.key for walk in (left, right) if walk.is_open)
        before, after = left.take(key), right.take(key)
        if before is None or after is None or not is_same(before, after):
            yield key, before, after


def _pass_equal(left: _Walk[V], right: _Walk[V]) -> bool:
    """Step over a node that stands at the front of both."""
    if left.is_open and right.is_open and left.height is not None and left.id == right.id:
        left.drop()
        right.drop()
        return True
    return False


async def _opened_rows(left: _Walk[V], right: _Walk[V]) -> bool:
    """Open the higher of two nodes at the front, or both; True if there is none to open."""
    heights = [walk.height for walk in (left, right) if walk.is_open and walk.height is not None]
    for walk in (left, right):
        if walk.is_open and walk.height is not None and walk.height == max(heights):
            await walk.open()
    return not heights


class _Walk(Generic[V]):
    """The rest of a tree, as unopened nodes and rows; the front is the end of the stack."""

    def __init__(self, nodes: Nodes[V]) -> None:
        self._nodes = nodes
        self._stack: list[tuple[bytes, int | None, Any]] = []

    async def begin(self, top: Top | None) -> None:
        if top is not None:
            self._push(await self._nodes.load_top(top))

    @property
    def is_open(self) -> bool:
        return bool(self._stack)

    @property
    def height(self) -> int | None:
        """Height of the node at the front; None for a row."""
        return self._stack[-1][1]

    @property
    def key(self) -> bytes:
        return self._stack[-1][0]

    @property
    def id(self) -> bytes | None:
        """Logical id of the node at the front."""
        _, height, value = self._stack[-1]
        return None if height is None else cast("Child", value).ref.id

    def drop(self) -> None:
        self._stack.pop()

    def take(self, key: bytes) -> V | None:
        """Take the row at the front if it has this key."""
        if not self._stack or self._stack[-1][0] != key:
            return None
        return cast("V", self._stack.pop()[2])

    async def open(self) -> None:
        _, height, child = self._stack.pop()
        self._push(await self._nodes.load(child, height or 0))

    def _push(self, node: Node[Any]) -> None:
        height = node.height - 1 if node.height else None
        values = node.values(0, len(node))
        rows = zip(reversed(node.keys), reversed(values), strict=True)
        self._stack += [(key, height, value) for key, value in rows]


def is_same(left: object, right: object) -> bool:
    """Tell whether two entries (or extents) say the same, wherever their chunks lie."""
    return left == right or _without_places(left) == _without_places(right)


def _without_places(value: object) -> object:
    if isinstance(value, Ref):
        return value.id
    if isinstance(value, Entry):
        extents = [_without_places(extent) for extent in value.extents]
        extra = value.extra and msgspec.structs.replace(value.extra, xattr_ref=None)
        tree = extra and extra.extent_tree
        ids = [value.extra and _without_places(value.extra.xattr_ref), tree and tree.top.id]
        if extra is not None:
            extra = msgspec.structs.replace(extra, extent_tree=None)
        return msgspec.structs.replace(value, extents=(), extra=None), extents, extra, ids
    if isinstance(value, Extent):
        return value.file_offset, value.length, _without_places(value.content), value.content_offset
    return value
