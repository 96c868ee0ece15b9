"""How the kernel is to cache an open file."""

from __future__ import annotations

import stat

from pyfuse3 import FileInfo

from s3backfs.backup.node import Node
from s3backfs.fs.files import FileHandle
from s3backfs.manifest.entry import extra_of

_CAPABILITY = b"security.capability"


def open_info(node: Node, handle: FileHandle, number: int) -> FileInfo:
    """Choose between the page cache and direct requests.

    A file that is opened for writing alone is written past the page cache: small writes are six
    times faster, and no security.capability is asked for before each. That is safe while every
    handle of the file agrees: a cached handle that is there makes this one cached, a direct one
    makes this one direct. Files whose privileges a write must clear go through the cache, where
    the kernel sees to it. What another machine writes is read anew with each open.
    """
    content = handle.content
    if node.opens == 1:
        content.is_direct = handle.is_write_only and not _has_privileges(node)
    is_known = node.backup.is_sealed or node.backup.is_own
    keep_cache = is_known and not content.is_direct and not node.wrote
    if node.opens == 1:
        node.wrote = False
    return FileInfo(fh=number, direct_io=content.is_direct, keep_cache=keep_cache)


def _has_privileges(node: Node) -> bool:
    entry = node.entry
    assert entry is not None
    return bool(entry.mode & (stat.S_ISUID | stat.S_ISGID)) or (
        _CAPABILITY in extra_of(entry).xattrs
    )
