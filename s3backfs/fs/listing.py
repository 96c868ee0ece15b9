"""Reading a directory: a cursor that stays right while names come and go.

Names that differ from the last checkpoint's tree come first, from a snapshot taken at the start;
then the tree's own names, in order, less those that were given already or are gone by now:
first those that are no directories. Damaged nodes are passed by, and their error comes last.
"""

from __future__ import annotations

import logging
import stat
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass, field

from s3backfs.backup.backup import printable
from s3backfs.backup.node import Node
from s3backfs.errors import IntegrityError, S3backfsError
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import directory_range, split_key

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """One name, the attributes to show, and the cookie of what comes behind it.

    Of attributes that are damaged only `mode` is known, and that perhaps not.
    """

    name: bytes
    node: Node | None
    entry: Entry | None
    mode: int
    next_cookie: int


RECENT_COUNT = 1024
"""So many names stay at hand: the kernel may ask again for what it had no room for."""


@dataclass(slots=True)
class Cursor:
    """One open directory.

    Cookies number the names that `_names` yields, those that are gone by now included.
    `position` is the cookie behind the last of them. What has ended the walk is told to everyone
    who asks for more.
    """

    node: Node
    position: int = 0
    _generation: int = 0
    _names: AsyncGenerator[tuple[bytes, Entry | None]] | None = None
    _failure: S3backfsError | None = None
    _recent: deque[tuple[bytes, Entry | None]] = field(
        default_factory=lambda: deque(maxlen=RECENT_COUNT)
    )

    async def next(self, cookie: int) -> Listed | None:
        """The first name behind a cookie that is still there, None at the end.

        Raises:
            IntegrityError: some names could not be read, and all others were given.
            S3backfsError: the store did not give what comes next.
        """
        # At cookie 0 the directory is read from its start: names that came since are shown.
        if cookie == 0 or self._names is None or cookie < self.position - len(self._recent):
            await self._restart()
        while (named := await self._behind(cookie)) is not None:
            cookie += 1
            # What an older tree says of a name may be over; then the present one is asked.
            is_current = self._generation == self.node.backup.generation
            name, stored = named[0], named[1] if is_current else None
            try:
                found = await _attributes(self.node, name, stored)
            except IntegrityError as error:
                # The name is there: left out it would look deleted.
                log.error("%s cannot be read: %s", printable(name), error)
                return Listed(name, None, None, stored.mode if stored else stat.S_IFREG, cookie)
            if found is not None:
                return Listed(name, found[0], found[1], found[1].mode, cookie)
        return None

    async def _restart(self) -> None:
        await self.aclose()
        self._names, self.position, self._failure = _names(self.node), 0, None
        self._generation = self.node.backup.generation
        self._recent.clear()

    async def _behind(self, cookie: int) -> tuple[bytes, Entry | None] | None:
        assert self._names is not None
        while self.position <= cookie:
            if self._failure is not None:
                raise copy(self._failure)
            try:
                named = await anext(self._names, None)
            except S3backfsError as error:
                self._failure = error
                raise
            if named is None:
                return None
            self._recent.append(named)
            self.position += 1
        return self._recent[cookie - self.position]

    async def aclose(self) -> None:
        """End the walk through the tree."""
        if self._names is not None:
            await self._names.aclose()


async def _names(directory: Node) -> AsyncGenerator[tuple[bytes, Entry | None]]:
    """Names, with the entry of those that the tree holds."""
    live = directory.directory
    assert live is not None
    given = live.overlay_names() if live.base is not None else set(live.children)
    for name in sorted(given):
        yield name, None
    if live.base is None:
        return
    # Directories come last: who walks the tree then reads files in the order of the keys.
    found_directory = False
    passed: list[IntegrityError] = []
    async for name, entry in _stored(directory, live.base, passed):
        if stat.S_ISDIR(entry.mode):
            found_directory = True
        elif name not in given:
            yield name, entry
    if found_directory:
        async for name, entry in _stored(directory, live.base, passed):
            if stat.S_ISDIR(entry.mode) and name not in given:
                yield name, entry
    if passed:
        raise passed[0]


async def _stored(
    directory: Node, base: bytes, passed: list[IntegrityError]
) -> AsyncGenerator[tuple[bytes, Entry]]:
    """The names that the tree holds, as far as they can be read."""
    async with aclosing(directory.backup.items(*directory_range(base), passed)) as items:
        async for key, entry in items:
            _, name = split_key(key)
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
