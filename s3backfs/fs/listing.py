"""Reading a directory: a cursor that stays right while names come and go.

Names that differ from the last checkpoint's tree come first, from a snapshot taken at the start;
then the tree's own names, in order, less those that were given already or are gone by now.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from s3backfs.backup.node import Node
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import directory_range, split_key


@dataclass(frozen=True, slots=True)
class Listed:
    """One name, the attributes to show, and the cookie of what comes behind it."""

    name: bytes
    node: Node
    entry: Entry
    next_cookie: int


@dataclass(slots=True)
class Cursor:
    """One open directory. `position` is the cookie of the next name that `_names` yields."""

    node: Node
    position: int = 0
    _generation: int = 0
    _names: AsyncGenerator[tuple[bytes, Entry | None]] | None = None
    _waiting: Listed | None = field(default=None)

    async def next(self, cookie: int) -> Listed | None:
        """The name at a cookie, None at the end; the kernel may ask for the same one again."""
        waiting = self._waiting
        if waiting is not None and waiting.next_cookie == cookie + 1:
            return waiting
        if self._names is None or cookie < self.position:
            self._names, self.position = _names(self.node), 0
            self._generation = self.node.backup.generation
        self._waiting = None
        while True:
            listed = await self._advance()
            if listed is None or listed.next_cookie == cookie + 1:
                self._waiting = listed
                return listed

    async def aclose(self) -> None:
        """End the walk through the tree."""
        if self._names is not None:
            await self._names.aclose()

    def accept(self) -> None:
        """The kernel has taken the last name."""
        self._waiting = None

    async def _advance(self) -> Listed | None:
        assert self._names is not None
        async for name, stored in self._names:
            self.position += 1
            # What an older tree says of a name may be over; then the present one is asked.
            is_current = self._generation == self.node.backup.generation
            found = await _attributes(self.node, name, stored if is_current else None)
            if found is not None:
                return Listed(name, found[0], found[1], self.position)
        return None


async def _names(directory: Node) -> AsyncGenerator[tuple[bytes, Entry | None]]:
    """Names, with the entry of those that the tree holds."""
    live = directory.directory
    assert live is not None
    given = live.overlay_names() if live.base is not None else set(live.children)
    for name in sorted(given):
        yield name, None
    if live.base is None:
        return
    async with aclosing(directory.backup.items(*directory_range(live.base))) as items:
        async for key, entry in items:
            _, name = split_key(key)
            if name not in given:
                yield name, entry


async def _attributes(
    directory: Node, name: bytes, stored: Entry | None
) -> tuple[Node, Entry] | None:
    """The node and attributes of a listed name; None if it is gone."""
    names = directory.backup.names
    live = directory.directory
    assert live is not None
    child = live.children.get(name, directory)
    if child is directory:
        child = await _load(directory, name, stored)
    if child is None:
        return None
    entry = child.entry or await names.entry(child)
    return None if entry is None else (child, entry)


async def _load(directory: Node, name: bytes, stored: Entry | None) -> Node | None:
    """Make the node of a name that only the tree holds, without asking the tree again."""
    names = directory.backup.names
    if stored is None or (stored.extra and stored.extra.link_id):
        return await names.child(directory, name)
    return names.adopt(directory, name, stored, None)
