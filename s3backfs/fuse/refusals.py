"""Which requests leave a backup without something that a program wanted in it."""

from __future__ import annotations

import os
from typing import Any

from s3backfs.backup.node import Node
from s3backfs.fs.filesystem import FileSystem
from s3backfs.fs.tags import is_tag_xattr

_CHANGES_AT = {
    "mknod": 1,
    "mkdir": 1,
    "symlink": 1,
    "create": 1,
    "unlink": 1,
    "rmdir": 1,
    "rename": 1,
    "link": 2,
    "setattr": 1,
    "setxattr": 1,
    "removexattr": 1,
}
"""Where among the arguments of a handler, counted with `self`, the inode is that it changes."""


def note_refused(
    filesystem: FileSystem, request: str, arguments: tuple[Any, ...], error: Exception
) -> None:
    """Remember of an open backup that a change to it was answered with an error.

    A failed fsync is none: what it was to store stays in memory, and the next one tells.
    """
    node = _changed_node(filesystem, request, arguments)
    if node is not None and node.backup.is_own_open:
        node.backup.note_refused(error)


def _changed_node(filesystem: FileSystem, request: str, arguments: tuple[Any, ...]) -> Node | None:
    """The node that a request was to change; None for reading, tags and the mount's root."""
    if request in ("write", "flush"):
        return filesystem.files.node(arguments[1])
    nodes = filesystem.live.by_number
    if request == "open":
        is_reading = arguments[2] & os.O_ACCMODE == os.O_RDONLY and not arguments[2] & os.O_TRUNC
        return None if is_reading else nodes.get(arguments[1])
    if request not in _CHANGES_AT:
        return None
    node = nodes.get(arguments[_CHANGES_AT[request]])
    if node is not None and "xattr" in request and is_tag_xattr(node, arguments[2]):
        return None
    return node
