"""How the kernel is to cache an open file."""

from __future__ import annotations

from pyfuse3 import FileInfo

from s3backfs.backup.node import Node
from s3backfs.fs.files import FileHandle
from s3backfs.fs.privileges import has_privileges


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
        assert node.entry is not None
        content.is_direct = handle.is_write_only and not has_privileges(node.entry)
    keep_cache = node.backup.is_lasting and not content.is_direct and not node.wrote
    if node.opens == 1:
        node.wrote = False
    return FileInfo(fh=number, direct_io=content.is_direct, keep_cache=keep_cache)
