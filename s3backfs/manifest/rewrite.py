"""Applying edits to one level of a tree.

Only runs that an edit touches are read and cut anew; what comes out are edits of the level above.
Where the old and the new nodes end a run at the same key they agree from there on, so the rewriter
stops and goes on at the next edit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from s3backfs.format.refs import Ref
from s3backfs.manifest.cursor import Cursor, Nodes
from s3backfs.manifest.layouts import Child, Layout
from s3backfs.manifest.node import EncodedNode, encode_node
from s3backfs.manifest.runs import is_cut, plan_split

V = TypeVar("V")
T = TypeVar("T")


class Replace(msgspec.Struct, Generic[V], frozen=True):
    """Put `rows` in the place of all keys in [lo, hi); a `hi` of None has no end.

    Rows are sorted and lie in the range.
    """

    lo: bytes
    hi: bytes | None
    rows: Iterable[tuple[bytes, V]] | AsyncIterable[tuple[bytes, V]] = ()


@dataclass(slots=True)
class Rewritten:
    """What became of a level.

    `is_whole` says that `edits` has every node of the level. If it is just one, it is `only`,
    and not stored yet.
    """

    edits: list[Replace[Child]] = field(default_factory=list)
    is_whole: bool = False
    only: EncodedNode | None = None


async def rewrite_level(
    nodes: Nodes[Any],
    layout: Layout[V],
    height: int,
    cursor: Cursor[Any] | None,
    edits: AsyncIterator[Replace[V]],
) -> Rewritten:
    """Apply sorted, disjoint edits to a level; without a cursor there is nothing there yet.

    Raises:
        ValueError: edits or rows are not in order.
        IntegrityError: a node is damaged, or a row breaks the rules of the format.
    """
    writer = _LevelWriter(nodes, layout, height, cursor)
    edit = await anext(edits, None)
    while edit is not None:
        edit = await writer.region(edit, edits)
    return writer.result


class _LevelWriter(Generic[V]):
    """Rewrites a level region by region; a region is some whole runs, old and new."""

    def __init__(
        self, nodes: Nodes[Any], layout: Layout[V], height: int, cursor: Cursor[Any] | None
    ) -> None:
        self._nodes = nodes
        self._height = height
        self._cursor = cursor
        self._is_at_end = cursor is None
        self._out = _RunWriter(nodes, layout, height)
        self._previous = b""
        self.result = Rewritten()

    async def region(
        self, edit: Replace[V] | None, edits: AsyncIterator[Replace[V]]
    ) -> Replace[V] | None:
        """Rewrite the runs from that of `edit` until old and new agree; return the next edit."""
        assert edit is not None
        before = await self._seek_run(edit.lo)
        after: bytes | None = None
        position = b""
        while True:
            after = await self._copy(position, None if edit is None else edit.lo)
            if after is not None or edit is None:
                break
            await self._feed(edit)
            position = await self._skip_to(edit.hi)
            edit = await anext(edits, None)
        await self._close(before, after)
        return edit

    async def _seek_run(self, key: bytes) -> bytes | None:
        """Go to the first node of the run that holds `key`; return the last key before it."""
        cursor = self._cursor
        if cursor is None:
            return None
        await cursor.seek(key)
        while await cursor.previous():
            if self._is_cut(cursor.last_key):
                before = cursor.last_key
                await cursor.next()
                return before
        return None

    def _is_cut(self, key: bytes) -> bool:
        return is_cut(self._nodes.hashes.cut_hash(self._height, key))

    async def _copy(self, position: bytes, limit: bytes | None) -> bytes | None:
        """Keep the old items from `position` up to `limit`.

        Returns the last key of an old run that is the end of a new run too, if one comes before
        the limit; nodes follow it.
        """
        while not self._is_at_end and self._cursor is not None:
            if limit is not None and limit <= position:
                return None
            node, last_key = await self._cursor.load(), self._cursor.last_key
            first = bisect_left(node.keys, position)
            last = len(node) if limit is None else bisect_left(node.keys, limit)
            self._out.note_old(last_key, self._cursor.ref)
            await self._out.keep(node.keys[first:last], node.values(first, last), last == len(node))
            if last < len(node):
                return None
            self._is_at_end = not await self._cursor.next()
            if self._out.is_empty and not self._is_at_end:
                return last_key
        return None

    async def _feed(self, edit: Replace[V]) -> None:
        if edit.lo < self._previous or (edit.hi is not None and edit.hi < edit.lo):
            raise ValueError("edits are not in order")
        self._previous = edit.lo
        if isinstance(edit.rows, AsyncIterable):
            async with aclosing(iterate(edit.rows)) as rows:
                async for key, value in rows:
                    await self._add(key, value, edit.hi)
        else:
            # Most edits are one row of a list: a generator would cost more than the row.
            for key, value in edit.rows:
                await self._add(key, value, edit.hi)
        self._previous = edit.hi or self._previous

    async def _add(self, key: bytes, value: V, end: bytes | None) -> None:
        if key < self._previous or (end is not None and key >= end):
            raise ValueError("a row is out of order, or outside of its edit")
        self._previous = key + b"\0"
        await self._out.add(key, value)

    async def _skip_to(self, hi: bytes | None) -> bytes:
        """Go on behind the old items that an edit replaced."""
        if hi is None:
            self._is_at_end = True
            return b""
        if self._cursor is not None and not self._is_at_end and self._cursor.last_key < hi:
            await self._cursor.seek(hi)
        return hi

    async def _close(self, before: bytes | None, after: bytes | None) -> None:
        lo = b"" if before is None else before + b"\0"
        is_whole = before is None and after is None
        children = await self._out.finish(keep_only=is_whole)
        self.result.is_whole = is_whole
        self.result.only = self._out.only
        hi = None if after is None else after + b"\0"
        self.result.edits.append(Replace(lo, hi, children))


async def iterate(items: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T]:
    """Yield from either kind of iterable; a generator is closed when this one is."""
    if not isinstance(items, AsyncIterable):
        for item in items:
            yield item
        return
    try:
        async for item in items:
            yield item
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


class _RunWriter(Generic[V]):
    """Collects the items of one run, and makes nodes of them when it ends."""

    def __init__(self, nodes: Nodes[Any], layout: Layout[V], height: int) -> None:
        self._nodes = nodes
        self._layout = layout
        self._height = height
        self._keys: list[bytes] = []
        self._values: list[V] = []
        self._children: list[tuple[bytes, Child]] = []
        self._old: list[tuple[bytes, Ref | None]] = []
        self._pending: tuple[bytes, EncodedNode] | None = None
        self.only: EncodedNode | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the last item was the end of a run."""
        return not self._keys

    def note_old(self, last_key: bytes, ref: Ref | None) -> None:
        """Remember an old node, that a new one may be a patch of it."""
        if not self._old or self._old[-1][0] != last_key:
            self._old.append((last_key, ref))

    async def keep(self, keys: list[bytes], values: list[V], has_last: bool) -> None:
        """Take over items of an old node; only its last key can be the end of a run."""
        self._keys += keys
        self._values += values
        if keys and has_last and self._is_cut(keys[-1]):
            await self._end_run()

    async def add(self, key: bytes, value: V) -> None:
        """Take a new item."""
        self._keys.append(key)
        self._values.append(value)
        if self._is_cut(key):
            await self._end_run()

    async def finish(self, *, keep_only: bool) -> list[tuple[bytes, Child]]:
        """End the region and return its nodes; with `keep_only` a single one is not stored."""
        if self._keys:
            await self._end_run()
        self.only = None
        if self._pending is not None:
            if keep_only and not self._children:
                self.only = self._pending[1]
            else:
                await self._store(*self._pending)
            self._pending = None
        children, self._children, self._old = self._children, [], []
        return children

    def _is_cut(self, key: bytes) -> bool:
        return is_cut(self._nodes.hashes.cut_hash(self._height, key))

    async def _end_run(self) -> None:
        keys, values = self._keys, self._values
        self._keys, self._values = [], []
        first = 0
        for end in self._ends(keys, values):
            await self._take(keys[first:end], values[first:end])
            first = end

    def _ends(self, keys: list[bytes], values: list[V]) -> list[int]:
        weights = list(map(self._layout.weigh, keys, values))
        if sum(weights) <= self._nodes.max_run_weight:
            return [len(keys)]
        hashes = [self._nodes.hashes.cut_hash(self._height, key) for key in keys]
        return plan_split(weights, hashes, self._nodes.max_run_weight)

    async def _take(self, keys: list[bytes], values: list[V]) -> None:
        """Encode a node; it is stored when the next one shows that it is not the only one."""
        hashes, kind = self._nodes.hashes, self._nodes.family.kind
        node = encode_node(kind, self._height, self._layout, keys, values, hashes.logical_id)
        if self._pending is not None:
            await self._store(*self._pending)
        self._pending = keys[-1], node

    async def _store(self, last_key: bytes, node: EncodedNode) -> None:
        base = self._base(last_key)
        store = self._nodes.store
        if base is not None and base.id == node.id and await store.may_stand(node, base):
            ref = base
        else:
            # What could not be read again must fail now, while its content is still at hand.
            self._nodes.decode(node.data)
            ref = await store.store_node(node, base)
        self._children.append((last_key, Child(ref, node.entry_count)))

    def _base(self, last_key: bytes) -> Ref | None:
        """Return the old node that ends at `last_key` or next behind it, else the last."""
        while len(self._old) > 1 and self._old[0][0] < last_key:
            del self._old[0]
        return self._old[0][1] if self._old else None
