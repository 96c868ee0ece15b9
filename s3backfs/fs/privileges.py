"""Setuid, setgid and capabilities of files: what a write takes away."""

from __future__ import annotations

import stat

import msgspec

from s3backfs.backup.node import Node
from s3backfs.manifest.entry import Entry, extra_of, with_extra

CAPABILITY = b"security.capability"
_SET_IDS = stat.S_ISUID | stat.S_ISGID
_RUNS_AS_GROUP = stat.S_ISGID | stat.S_IXGRP


def has_privileges(entry: Entry) -> bool:
    """Whether running the file gives more than its caller has."""
    return bool(entry.mode & _SET_IDS) or CAPABILITY in extra_of(entry).xattrs


def drop_privileges(node: Node) -> None:
    """Take privileges away as the kernel does, by the same rule, where it leaves that to us.

    That is O_TRUNC, and writes past the page cache after privileges were given. Who writes is
    not known then, so root's writes count too.
    """
    entry = node.entry
    assert entry is not None
    if not has_privileges(entry):
        return
    xattrs = {key: value for key, value in extra_of(entry).xattrs.items() if key != CAPABILITY}
    if len(xattrs) < len(extra_of(entry).xattrs):
        extra = msgspec.structs.replace(extra_of(entry), xattrs=xattrs, xattr_ref=None)
        node.entry = with_extra(entry, extra)
    dropped = _SET_IDS if entry.mode & _RUNS_AS_GROUP == _RUNS_AS_GROUP else stat.S_ISUID
    node.backup.names.replace(node, mode=entry.mode & ~dropped)
