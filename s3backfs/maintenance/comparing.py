"""What differs between two backups, at the cost of what differs.

Only where a hard-linked file has changed, all names of the newer backup are walked through to find
those that lead to it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.backup.paths import Manifest, content_id, join_path, metadata_id
from s3backfs.errors import ConfigurationError
from s3backfs.format.root import Root
from s3backfs.manifest.diff import diff
from s3backfs.manifest.entry import Entry, extra_of, is_link_name
from s3backfs.manifest.keys import (
    LINK_PREFIX,
    directory_prefix,
    is_link_key,
    key_components,
    key_range,
    path_key,
    subtree_range,
)
from s3backfs.repository.repository import Repository


class Change(StrEnum):
    """How a path differs."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Changed:
    """A path that differs; entries of hard links are those of the files behind them."""

    path: bytes
    change: Change
    before: Entry | None
    after: Entry | None


class Comparison:
    """The differences of two backups at and below a path."""

    def __init__(
        self, repository: Repository, old: Root, new: Root, path: tuple[bytes, ...] = ()
    ) -> None:
        self._nodes = RepositoryNodes(repository)
        self._old_root, self._new_root = old, new
        self._old, self._new = Manifest.of(repository, old), Manifest.of(repository, new)
        self._path = path
        self._own_key = path_key(path)
        self._lo, self._hi = subtree_range(directory_prefix(path))
        self._changed_links: set[bytes] = set()

    async def changes(self) -> AsyncGenerator[Changed]:
        """Yield what differs, names of changed hard-linked files last.

        Raises:
            ConfigurationError: neither backup has the path.
            IntegrityError: a node is damaged.
        """
        await self._check_path()
        rows = diff(self._nodes.entries, self._old_root.top, self._new_root.top)
        async with aclosing(rows) as differences:
            async for key, before, after in differences:
                if is_link_key(key):
                    self._note_link(key, before, after)
                elif self._is_below(key):
                    found = await self._changed(key, before, after)
                    if found is not None:
                        yield found
        async with aclosing(self._linked_changes()) as linked:
            async for found in linked:
                yield found

    async def _check_path(self) -> None:
        if not self._path:
            return
        if await self._old.tree.find(self._own_key) or await self._new.tree.find(self._own_key):
            return
        shown = join_path(self._path).decode("utf-8", "backslashreplace")
        raise ConfigurationError(f"neither backup has {shown!r}")

    def _is_below(self, key: bytes) -> bool:
        return key == self._own_key or self._lo <= key < self._hi

    def _note_link(self, key: bytes, before: Entry | None, after: Entry | None) -> None:
        """Remember a file whose names may all have stayed as they are."""
        if before is not None and after is not None and _change(before, after) is not None:
            self._changed_links.add(key.removeprefix(LINK_PREFIX))

    async def _changed(
        self, key: bytes, before: Entry | None, after: Entry | None
    ) -> Changed | None:
        old, new = await self._old.resolved(before), await self._new.resolved(after)
        change = _change(old, new)
        if change is None:
            return None
        return Changed(join_path(key_components(key)), change, old, new)

    async def _linked_changes(self) -> AsyncGenerator[Changed]:
        """Names that are the same in both backups, of files that are not."""
        if not self._changed_links:
            return
        for lo, hi in (key_range(self._own_key), (self._lo, self._hi)):
            async with aclosing(self._new.tree.items(lo, hi)) as items:
                async for key, after in items:
                    found = await self._linked_change(key, after)
                    if found is not None:
                        yield found

    async def _linked_change(self, key: bytes, after: Entry) -> Changed | None:
        """How a name differs that both backups have, of a file that has changed."""
        link_id = extra_of(after).link_id
        if not is_link_name(after) or link_id not in self._changed_links:
            return None
        before = await self._old.tree.find(key)
        if before is None or extra_of(before).link_id != link_id:
            return None
        return await self._changed(key, before, after)


def _change(before: Entry | None, after: Entry | None) -> Change | None:
    """How two states of a path differ; times of change and numbers of inodes do not count."""
    if before is None or after is None:
        return Change.ADDED if before is None else Change.REMOVED
    if content_id(before) != content_id(after):
        return Change.CONTENT
    return None if metadata_id(before) == metadata_id(after) else Change.METADATA
