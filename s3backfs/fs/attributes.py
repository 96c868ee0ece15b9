"""Attributes of inodes in an open backup: mode, owner, times, size, extended attributes."""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable
from typing import Any

import msgspec

from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError
from s3backfs.fs import acl, tags
from s3backfs.fs.files import Files
from s3backfs.fs.lengths import check_size
from s3backfs.manifest.entry import Entry, extra_of, with_extra

XATTR_MAX_BYTES = 64 * 1024
XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.")
XATTRS_MAX_BYTES = 1024 * 1024
"""All extended attributes of one inode together."""


class Changes(msgspec.Struct, frozen=True):
    """What setattr asks for; None leaves a value as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    mtime_ns: int | None = None


async def set_attributes(node: Node, changes: Changes, files: Files) -> Entry:
    """Change attributes, and the size of a file.

    Raises:
        FileSystemError: EROFS, EINVAL, EFBIG, EISDIR.
    """
    entry = await _changeable(node)
    if changes.size is not None and changes.size != entry.size:
        await _resize(node, changes.size, files)
        entry = await _changeable(node)
    wanted = _wanted(entry, changes)
    is_same = all(getattr(entry, name) == value for name, value in wanted.items())
    # A clone of another backup's entry stays equal to it, its ctime included.
    if is_same and (node.clone_of is not None or not wanted):
        return entry
    if "mode" in wanted:
        entry = _with_acl_for_mode(entry, wanted["mode"])
    if "size" in wanted:
        wanted["mtime_ns"] = wanted.get("mtime_ns", time.time_ns())
    node.entry = entry
    return node.backup.names.replace(node, ctime_ns=time.time_ns(), **wanted)


def _wanted(entry: Entry, changes: Changes) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if changes.mode is not None:
        wanted["mode"] = stat.S_IFMT(entry.mode) | stat.S_IMODE(changes.mode)
    for name in ("uid", "gid", "mtime_ns", "size"):
        value = getattr(changes, name)
        if value is not None:
            wanted[name] = value
    return wanted


async def _resize(node: Node, size: int, files: Files) -> None:
    if node.is_directory:
        raise FileSystemError(errno.EISDIR)
    check_size(size)
    # Counted as open: a close that is still settling must not let go of the content.
    node.opens += 1
    try:
        content = await files.content(node)
        assert node.entry is not None
        await content.truncate(size, node.entry.size)
        node.clone_of = None
        now_ns = time.time_ns()
        node.backup.names.replace(node, size=size, mtime_ns=now_ns, ctime_ns=now_ns)
    finally:
        node.opens -= 1
    if not node.opens:
        await files.close_content(node)


def _with_acl_for_mode(entry: Entry, mode: int) -> Entry:
    extra = extra_of(entry)
    value = extra.xattrs.get(acl.ACCESS)
    if value is None:
        return entry
    xattrs = {**extra.xattrs, acl.ACCESS: acl.after_chmod(value, mode)}
    return with_extra(entry, msgspec.structs.replace(extra, xattrs=xattrs, xattr_ref=None))


# -- extended attributes ---------------------------------------------------------------------


async def set_xattr(
    node: Node, name: bytes, value: bytes, *, is_member: Callable[[int], bool] | None = None
) -> None:
    """Set one extended attribute; an access list that the mode can hold goes into the mode.

    `is_member` tells whether who asks may keep setgid of a group.

    Raises:
        FileSystemError: EROFS, E2BIG, ENOSPC, EINVAL, EOPNOTSUPP.
    """
    _check_xattr_name(name)
    if tags.is_tag_xattr(node, name):
        await tags.set_tag_xattr(node, name, value)
        return
    entry = await _changeable(node)
    xattrs = extra_of(entry).xattrs
    if name in (acl.ACCESS, acl.DEFAULT):
        _set_acl(node, entry, name, value)
        if name == acl.ACCESS and is_member is not None:
            _drop_setgid_of_others(node, is_member)
        return
    if xattrs.get(name) == value:
        return
    if len(value) > XATTR_MAX_BYTES:
        raise FileSystemError(errno.E2BIG)
    changed = {**xattrs, name: value}
    if sum(len(key) + len(data) for key, data in changed.items()) > XATTRS_MAX_BYTES:
        raise FileSystemError(errno.ENOSPC)
    _replace_xattrs(node, changed)


def _set_acl(node: Node, entry: Entry, name: bytes, value: bytes) -> None:
    if name == acl.ACCESS and name not in extra_of(entry).xattrs:
        only_mode = acl.minimal_mode(value, entry.mode)
        if only_mode is not None:
            if only_mode != entry.mode:
                node.backup.names.replace(node, mode=only_mode, ctime_ns=time.time_ns())
            return
    entries = acl.decode(value)
    xattrs = dict(extra_of(entry).xattrs)
    xattrs.pop(name, None)
    mode = entry.mode
    if name == acl.DEFAULT:
        if not node.is_directory:
            raise FileSystemError(errno.EACCES)
        if entries:
            xattrs[name] = value
    elif entries:
        mode, kept = acl.folded(entries, mode)
        if kept is not None:
            xattrs[name] = value
    if xattrs == extra_of(entry).xattrs and mode == entry.mode:
        return
    _replace_xattrs(node, xattrs, mode=mode)


def _drop_setgid_of_others(node: Node, is_member: Callable[[int], bool]) -> None:
    """Who changes a mode by a list loses setgid of a group that is not theirs, as by chmod."""
    entry = node.entry
    assert entry is not None
    if entry.mode & stat.S_ISGID and not is_member(entry.gid):
        node.backup.names.replace(node, mode=entry.mode & ~stat.S_ISGID)


async def remove_xattr(node: Node, name: bytes) -> None:
    """Remove one extended attribute.

    Raises:
        FileSystemError: EROFS, EOPNOTSUPP, ENODATA.
    """
    _check_xattr_name(name)
    if tags.is_tag_xattr(node, name):
        await tags.remove_tag_xattr(node, name)
        return
    xattrs = dict(extra_of(await _changeable(node)).xattrs)
    if xattrs.pop(name, None) is None:
        if name in (acl.ACCESS, acl.DEFAULT):
            # The mode is the list then, and no list at all is what was asked for.
            return
        raise FileSystemError(errno.ENODATA)
    _replace_xattrs(node, xattrs)


async def get_xattr(node: Node, name: bytes) -> bytes:
    """Read one extended attribute.

    Raises:
        FileSystemError: EOPNOTSUPP, ENODATA.
    """
    _check_xattr_name(name)
    if tags.is_tag_xattr(node, name):
        return await tags.get_tag_xattr(node, name)
    entry = await node.backup.names.present_entry(node)
    value = extra_of(entry).xattrs.get(name) if entry.extra is not None else None
    if value is None:
        raise FileSystemError(errno.ENODATA)
    return value


async def list_xattrs(node: Node) -> list[bytes]:
    """Name the extended attributes."""
    return sorted(extra_of(await node.backup.names.present_entry(node)).xattrs)


def _replace_xattrs(node: Node, xattrs: dict[bytes, bytes], **changes: Any) -> None:
    assert node.entry is not None
    extra = msgspec.structs.replace(extra_of(node.entry), xattrs=xattrs, xattr_ref=None)
    node.entry = with_extra(node.entry, extra)
    node.backup.names.replace(node, ctime_ns=time.time_ns(), **changes)


def _check_xattr_name(name: bytes) -> None:
    if name not in (acl.ACCESS, acl.DEFAULT) and not name.startswith(XATTR_NAMESPACES):
        raise FileSystemError(errno.EOPNOTSUPP)


async def _changeable(node: Node) -> Entry:
    """The node's attributes, when changes are allowed; nothing may be awaited before the change."""
    while True:
        if node.entry is None:
            await node.backup.names.present_entry(node)
        await node.backup.writable()
        # While this waited, a checkpoint may have let go of the attributes.
        if node.entry is not None:
            return node.entry
