"""What the entries of one path say, compared and named, wherever their bytes lie."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.format.refs import Ref
from s3backfs.format.root import Root
from s3backfs.manifest.entry import Entry, Extent, extra_of, is_link_name
from s3backfs.manifest.keys import link_key
from s3backfs.manifest.tree import Tree
from s3backfs.repository.repository import Repository

ContentId: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The tree of one backup, whose hard links are followed."""

    tree: Tree[Entry]

    @classmethod
    def of(cls, repository: Repository, root: Root) -> Manifest:
        """The manifest that a root leads to."""
        return cls(Tree(root.top, RepositoryNodes(repository).entries))

    async def find(self, key: bytes) -> Entry | None:
        """The entry at a key, or the file behind it where that is a hard link."""
        return await self.resolved(await self.tree.find(key))

    async def resolved(self, entry: Entry | None) -> Entry | None:
        """The link record that an entry points to; any other entry as it is."""
        if entry is None or not is_link_name(entry):
            return entry
        return await self.tree.find(link_key(extra_of(entry).link_id or b"")) or entry


def content_id(entry: Entry) -> ContentId:
    """Equal for files, links and devices that hold the same, stored the same way."""
    extra = extra_of(entry)
    tree = extra.extent_tree
    return (
        stat.S_IFMT(entry.mode),
        0 if stat.S_ISDIR(entry.mode) else entry.size,
        entry.inline,
        tuple(_extent_id(extent) for extent in entry.extents),
        None if tree is None else tree.top.id,
        extra.rdev,
    )


def _extent_id(extent: Extent) -> tuple[object, ...]:
    content = extent.content
    content_ref = content.id if isinstance(content, Ref) else None
    return extent.file_offset, extent.length, content_ref, extent.content_offset


def metadata_id(entry: Entry) -> tuple[object, ...]:
    """Equal for entries with the same mode, owner, mtime and extended attributes."""
    extra = extra_of(entry)
    xattr_ref = extra.xattr_ref.id if isinstance(extra.xattr_ref, Ref) else None
    return entry.mode, entry.uid, entry.gid, entry.mtime_ns, extra.xattrs, xattr_ref


def split_path(path: bytes) -> tuple[bytes, ...]:
    """The components of a path inside a backup; empty for its top."""
    return tuple(part for part in path.split(b"/") if part not in (b"", b"."))


def join_path(components: Sequence[bytes]) -> bytes:
    """A path inside a backup as people write it; `.` for its top."""
    return b"/".join(components) or b"."
