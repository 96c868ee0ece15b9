"""What one name of a backup holds.

Values only: an entry is never changed in place, `msgspec.structs.replace` makes the next one.
How entries lie in a node is the business of `nodes.py`.
Source: docs/format.md, "Entries".
"""

from __future__ import annotations

import stat
from typing import TypeAlias

import msgspec
from msgspec.structs import replace

from s3backfs.format.refs import Ref
from s3backfs.repository.piece import Piece

INLINE_MAX_BYTES = 512
"""Content, or xattrs, up to this size lie in the entry itself (a symlink's target always does)."""

EXTENTS_MAX_INLINE = 128
"""A file with more extents than this has them in an extent tree."""

MAX_FILE_BYTES = 2**63 - 1

Content: TypeAlias = Ref | Piece


class Extent(msgspec.Struct, frozen=True, gc=False):
    """The bytes of a file from `file_offset` on are those of `content` from `content_offset` on.

    A content of None is a hole. Holes stand only in overlays and in read plans: in an entry, what
    no extent covers is a hole.
    """

    file_offset: int
    length: int
    content: Ref | Piece | None
    content_offset: int

    @property
    def end(self) -> int:
        return self.file_offset + self.length


class ExtentTree(msgspec.Struct, frozen=True, gc=False):
    """The extents of a file that has too many of them for its entry.

    `allocated_bytes` is the sum of their lengths.
    """

    top: Ref
    height: int
    count: int
    allocated_bytes: int


class External(msgspec.Struct, frozen=True, gc=False):
    """Content that is an object version of another bucket. Reserved."""

    bucket: str
    key: str
    version_id: str


class Extra(msgspec.Struct, frozen=True, gc=False):
    """What few entries have.

    `ino` 0 stands for the hash of the path. An entry with a `link_id` is either a name of a
    hard-linked file, whose attributes are in the link record, or that record itself, in which
    `nlink` counts the names.
    """

    ino: int = 0
    rdev: int = 0
    xattrs: dict[bytes, bytes] = {}
    xattr_ref: Ref | Piece | None = None
    link_id: bytes | None = None
    nlink: int = 0
    extent_tree: ExtentTree | None = None
    external: External | None = None
    tags: dict[str, str] = {}


NO_EXTRA = Extra()


class Entry(msgspec.Struct, frozen=True, gc=False):
    """Type, mode, owner, times, and content: `inline`, or `extents`, or `extra.extent_tree`.

    `mode` has the type bits of stat(2). The target of a symbolic link is its `inline`. `extents`
    are sorted, do not overlap and end at `size` at the latest.
    """

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    size: int = 0
    inline: bytes | None = None
    extents: tuple[Extent, ...] = ()
    extra: Extra | None = None


def is_directory(entry: Entry) -> bool:
    return stat.S_ISDIR(entry.mode)


def is_file(entry: Entry) -> bool:
    return stat.S_ISREG(entry.mode)


def is_symlink(entry: Entry) -> bool:
    return stat.S_ISLNK(entry.mode)


def is_device(entry: Entry) -> bool:
    return stat.S_ISBLK(entry.mode) or stat.S_ISCHR(entry.mode)


def is_link_name(entry: Entry) -> bool:
    """Tell whether the entry only points at a link record (the record itself has `nlink`)."""
    extra = entry.extra
    return extra is not None and extra.link_id is not None and extra.nlink == 0


def extra_of(entry: Entry) -> Extra:
    return entry.extra or NO_EXTRA


def with_extra(entry: Entry, extra: Extra) -> Entry:
    """Replace the extra; an empty one is dropped, so that equal entries have equal bytes."""
    if entry.extra is None and extra == NO_EXTRA:
        return entry
    return replace(entry, extra=None if extra == NO_EXTRA else extra)


def allocated_bytes(entry: Entry) -> int:
    """Count the bytes that are not holes; where extents lie over a tree, at least so many."""
    if entry.inline is not None:
        return len(entry.inline)
    tree = extra_of(entry).extent_tree
    counted = sum(extent.length for extent in entry.extents if extent.content is not None)
    if tree is None:
        return counted
    return min(entry.size, tree.allocated_bytes + counted) if counted else tree.allocated_bytes


def block_count(entry: Entry) -> int:
    """Count blocks of 512 bytes, as `st_blocks` does."""
    return -(-allocated_bytes(entry) // 512)


def settled_ref(content: Content | None) -> Ref:
    """Return where content lies.

    Raises:
        ValueError: it has no place yet, or it is a hole.
    """
    if isinstance(content, Ref):
        return content
    if content is None or content.ref is None:
        raise ValueError("content has no place in a pack yet")
    return content.ref


def is_settled(entry: Entry) -> bool:
    """Tell whether all content of the entry has its place in a pack."""
    contents: list[Content | None] = [extent.content for extent in entry.extents]
    if (xattr_ref := extra_of(entry).xattr_ref) is not None:
        contents.append(xattr_ref)
    return all(not isinstance(content, Piece) or content.ref is not None for content in contents)


def settled(entry: Entry) -> Entry:
    """Replace every piece by the place its bytes were given.

    Raises:
        ValueError: a piece has no place yet.
    """
    if any(not isinstance(extent.content, Ref) for extent in entry.extents):
        entry = replace(entry, extents=tuple(map(settled_extent, entry.extents)))
    extra = entry.extra
    if extra is not None and isinstance(extra.xattr_ref, Piece):
        entry = replace(entry, extra=replace(extra, xattr_ref=settled_ref(extra.xattr_ref)))
    return entry


def settled_extent(extent: Extent) -> Extent:
    """Replace a piece by its place, see `settled`; a hole stays one."""
    if extent.content is None or isinstance(extent.content, Ref):
        return extent
    return replace(extent, content=settled_ref(extent.content))
