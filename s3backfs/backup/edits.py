"""From captured changes to edits of the manifest's tree, in the order of its keys."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from s3backfs.backup.capture import CapturedDirectory, CapturedNode
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import child_prefix, directory_range, entry_key, rekeyed, subtree_range
from s3backfs.manifest.tree import Replace

Items = Callable[[bytes, bytes], AsyncIterator[tuple[bytes, Entry]]]
"""The entries of the old tree from one key up to another."""

Finish = Callable[[bytes, CapturedNode | Entry], Awaitable[Entry]]
"""Make a captured value ready to be stored at a key."""

Rekey = Callable[[Entry, bytes, bytes], Entry]
"""Make an entry of the old tree ready for another key: (entry, old key, new key)."""

Rows = AsyncIterator[tuple[bytes, Entry]]


@dataclass(frozen=True, slots=True)
class _Moved:
    """A whole subtree of the old tree that stands at another prefix in the new one."""

    old_prefix: bytes
    new_prefix: bytes


class EditMaker:
    """Turns a capture into sorted, disjoint edits; subtrees stream, nothing is collected."""

    def __init__(self, items: Items, finish: Finish, rekey: Rekey) -> None:
        self._items = items
        self._finish = finish
        self._rekey = rekey

    async def edits(self, top: CapturedDirectory) -> AsyncIterator[Replace[Entry]]:
        """All edits that bring the changes below `top` into the old tree."""
        waiting: list[CapturedDirectory | Replace[Entry]] = [top]
        while waiting:
            current = waiting.pop()
            if isinstance(current, Replace):
                yield current
                continue
            for name in sorted(current.puts):
                key = entry_key(current.prefix, name)
                value = current.puts[name]
                rows = [] if value is None else [(key, await self._finish(key, value))]
                yield Replace(key, key + b"\0", rows)
            waiting.extend(self._below(current))

    def _below(self, current: CapturedDirectory) -> list[CapturedDirectory | Replace[Entry]]:
        """What follows a directory's own names, last first."""
        found: list[CapturedDirectory | Replace[Entry]] = []
        for name in sorted(current.gone | current.below.keys(), reverse=True):
            below = current.below.get(name)
            prefix = child_prefix(current.prefix, name)
            if name in current.gone or (below is not None and below.is_grafted):
                rows: Rows | list[tuple[bytes, Entry]] = self._rows(below) if below else []
                found.append(Replace(*subtree_range(prefix), rows))
            elif below is not None:
                found.append(below)
        return found

    async def _rows(self, top: CapturedDirectory) -> Rows:
        """Every entry below a directory that does not stand where its base stood."""
        waiting: list[CapturedDirectory | _Moved] = [top]
        while waiting:
            current = waiting.pop()
            if isinstance(current, _Moved):
                async for row in self._moved(current):
                    yield row
                continue
            below: dict[bytes, CapturedDirectory | _Moved] = dict(current.below)
            async for key, entry in self._names(current, below):
                yield key, entry
            waiting.extend(below[name] for name in sorted(below, reverse=True))

    async def _moved(self, moved: _Moved) -> Rows:
        async for old_key, entry in self._items(*subtree_range(moved.old_prefix)):
            key = rekeyed(old_key, moved.old_prefix, moved.new_prefix)
            yield key, self._rekey(entry, old_key, key)

    async def _names(
        self, current: CapturedDirectory, below: dict[bytes, CapturedDirectory | _Moved]
    ) -> Rows:
        """One directory's own names; child directories of the base are added to `below`."""
        changed = sorted(current.puts, reverse=True)
        async for old_key, entry in self._base_names(current):
            name = old_key[len(current.base or b"") + 1 :]
            while changed and changed[-1] < name:
                async for row in self._put(current, changed.pop()):
                    yield row
            if name in current.puts:
                continue
            if stat.S_ISDIR(entry.mode) and name not in below and current.base is not None:
                below[name] = _Moved(
                    child_prefix(current.base, name), child_prefix(current.prefix, name)
                )
            key = entry_key(current.prefix, name)
            yield key, self._rekey(entry, old_key, key)
        while changed:
            async for row in self._put(current, changed.pop()):
                yield row

    async def _base_names(self, current: CapturedDirectory) -> Rows:
        if current.base is None:
            return
        async for row in self._items(*directory_range(current.base)):
            yield row

    async def _put(self, current: CapturedDirectory, name: bytes) -> Rows:
        value = current.puts[name]
        if value is not None:
            key = entry_key(current.prefix, name)
            yield key, await self._finish(key, value)
