"""Which inode further names of a link group of another backup join.

The first name that is taken over makes an inode; the others belong to it while it shows the same.
"""

from __future__ import annotations

import msgspec

from s3backfs.backup.backup import Backup
from s3backfs.backup.node import Node
from s3backfs.manifest.entry import Entry, Extent, extra_of, settled_extent, with_extra
from s3backfs.repository.piece import Piece


def link_count(node: Node, entry: Entry) -> int:
    """What `st_nlink` shows."""
    if node.is_directory:
        is_gone = node.parent is None and node is not node.backup.names.top
        return 0 if is_gone else extra_of(entry).nlink or 2
    if node.link_id is not None:
        return extra_of(entry).nlink
    return 1 if node.parent is not None else 0


async def find_joined(target: Backup, group: tuple[bytes, bytes], source: Entry) -> Node | None:
    """The clone that stands for a link group, if it still shows what the source shows."""
    clone = target.clones.get(group)
    if clone is None:
        return None
    entry = await target.names.entry(clone)
    if entry is not None and link_count(clone, entry) and _is_alike(entry, source):
        return clone
    target.forget_clone(group)
    return None


def _is_alike(clone: Entry, source: Entry) -> bool:
    """Whether two inodes show the same, but for numbers, links and ctime."""
    ours, theirs = (
        with_extra(
            msgspec.structs.replace(
                entry, ctime_ns=0, extents=tuple(map(_placed_extent, entry.extents))
            ),
            msgspec.structs.replace(extra_of(entry), ino=0, link_id=None, nlink=0, xattr_ref=None),
        )
        for entry in (clone, source)
    )
    return ours == theirs


def _placed_extent(extent: Extent) -> Extent:
    """An extent with the place of its bytes, where they have one."""
    has_place = isinstance(extent.content, Piece) and extent.content.ref is not None
    return settled_extent(extent) if has_place else extent
