"""Names inside an open backup: making, removing, renaming and linking them.

The kernel holds a directory's lock while it changes names in it, so no two changes of one
directory run at once; lookups do. Permissions were checked by the kernel.
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Sequence

import msgspec

from s3backfs.backup.backup import Backup
from s3backfs.backup.keeping import may_refer
from s3backfs.backup.names import new_link_id
from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError
from s3backfs.fs import acl
from s3backfs.fs.caller import Caller
from s3backfs.fs.joining import find_joined
from s3backfs.fs.lengths import Move, check_directory, check_name
from s3backfs.manifest import keys
from s3backfs.manifest.entry import Entry, Extra, extra_of, with_extra
from s3backfs.manifest.keys import entry_key, link_key

NAME_MAX_BYTES = keys.NAME_MAX_BYTES

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


async def find(parent: Node, name: bytes) -> Node | None:
    """Find a name and its attributes; None where it is not there.

    Raises:
        FileSystemError: ENOTDIR, ENAMETOOLONG.
    """
    check_directory(parent)
    if len(name) > NAME_MAX_BYTES:
        raise FileSystemError(errno.ENAMETOOLONG)
    names = parent.backup.names
    node = await names.child(parent, name)
    if node is None or (node.entry is None and await names.entry(node) is None):
        return None
    return node


async def lookup(parent: Node, name: bytes) -> Node:
    """Find a name and its attributes.

    Raises:
        FileSystemError: ENOENT, ENOTDIR, ENAMETOOLONG.
    """
    node = await find(parent, name)
    if node is None:
        raise FileSystemError(errno.ENOENT)
    return node


async def make(
    parent: Node,
    name: bytes,
    mode: int,
    caller: Caller,
    *,
    rdev: int = 0,
    target: bytes | None = None,
) -> Node:
    """Make a file, directory, symbolic link, fifo, socket or device.

    Raises:
        FileSystemError: EEXIST, EROFS, ENOENT, ENAMETOOLONG.
    """
    await _check_free(parent, name)
    birth_name = await parent.backup.names.birth_name(parent, name)
    await _prepare(parent)
    # It may have been moved deeper meanwhile, or removed.
    check_name(parent, name)
    above = _present(parent)
    now_ns = time.time_ns()
    gid = caller.gid
    if above.mode & stat.S_ISGID:
        gid = above.gid
        mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
    mode, xattrs = acl.inherited(extra_of(above).xattrs, mode)
    extra = Extra(rdev=rdev, xattrs=xattrs)
    entry = Entry(
        mode=mode,
        uid=caller.uid,
        gid=gid,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        size=len(target) if target is not None else 0,
        inline=target,
    )
    node = parent.backup.names.create(parent, name, with_extra(entry, extra), birth_name)
    _note_names_changed(parent, now_ns, subdirectories=int(stat.S_ISDIR(mode)))
    return node


def make_top(backup: Backup, mode: int, caller: Caller) -> None:
    """Give a new backup's top directory its attributes."""
    now_ns = time.time_ns()
    backup.names.top.entry = Entry(
        mode=mode, uid=caller.uid, gid=caller.gid, mtime_ns=now_ns, ctime_ns=now_ns
    )
    backup.names.touch(backup.names.top)


async def unlink(parent: Node, name: bytes) -> Node:
    """Remove a name that is no directory; the inode stays while it is open.

    Raises:
        FileSystemError: ENOENT, EISDIR, EROFS.
    """
    node = await lookup(parent, name)
    if node.is_directory:
        raise FileSystemError(errno.EISDIR)
    if parent.backup.may_be_hidden:
        parent.backup.names.detach(parent, name, node)
        return node
    await _prepare(parent, node)
    now_ns = time.time_ns()
    _drop_name(parent, name, node, now_ns)
    _note_names_changed(parent, now_ns)
    return node


async def rmdir(parent: Node, name: bytes) -> Node:
    """Remove an empty directory.

    Raises:
        FileSystemError: ENOENT, ENOTDIR, ENOTEMPTY, EROFS.
    """
    node = await lookup(parent, name)
    check_directory(node)
    if not parent.backup.may_be_hidden:
        await parent.backup.writable()
    if not await parent.backup.is_empty(node):
        raise FileSystemError(errno.ENOTEMPTY)
    if parent.backup.may_be_hidden:
        parent.backup.names.detach(parent, name, node)
        return node
    await _prepare(parent, node)
    now_ns = time.time_ns()
    _drop_name(parent, name, node, now_ns)
    _note_names_changed(parent, now_ns, subdirectories=-1)
    return node


async def rename(parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> None:
    """Move a name, over another one or in exchange with it.

    Raises:
        FileSystemError: ENOENT, EEXIST, EXDEV, ENOTEMPTY, EISDIR, ENOTDIR, EROFS, EINVAL.
    """
    if parent.backup is not new_parent.backup:
        raise FileSystemError(errno.EXDEV)
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
        raise FileSystemError(errno.EINVAL)
    check_name(new_parent, new_name)
    node = await lookup(parent, name)
    names = parent.backup.names
    other = await names.child(new_parent, new_name)
    if flags & RENAME_EXCHANGE:
        if other is None:
            raise FileSystemError(errno.ENOENT)
        with Move(other, parent, name) as back, Move(node, new_parent, new_name) as forth:
            await _prepare_moves([back, forth], parent, new_parent, node, other)
            check_name(parent, name)
            check_name(new_parent, new_name)
            if other is not node:
                _exchange(parent, name, node, new_parent, new_name, other)
        return
    await parent.backup.writable()
    if other is not None and flags & RENAME_NOREPLACE:
        raise FileSystemError(errno.EEXIST)
    if other is node:
        return
    if other is not None:
        await _check_replaceable(node, other)
    with Move(node, new_parent, new_name) as move:
        others = [] if other is None else [other]
        await _prepare_moves([move], parent, new_parent, node, *others)
        check_name(new_parent, new_name)
        _move(parent, name, node, new_parent, new_name, other)


async def link(node: Node, new_parent: Node, new_name: bytes) -> Node:
    """Give an inode one more name, or clone it into another backup.

    Raises:
        FileSystemError: EPERM for a directory, EEXIST, EROFS, ENOENT, EMLINK.
    """
    if node.is_directory:
        raise FileSystemError(errno.EPERM)
    await _check_free(new_parent, new_name)
    if node.content is not None and node.backup is not new_parent.backup:
        await node.content.settle()
    if node.backup is not new_parent.backup:
        return await _clone(node, new_parent, new_name)
    await _prepare(node, new_parent)
    if node.link_id is None:
        await _make_group(node)
    elif node.link_id not in node.backup.names.links:
        raise FileSystemError(errno.ENOENT)
    await _prepare(node, new_parent)
    check_name(new_parent, new_name)
    _add_name(node, new_parent, new_name)
    return node


# -- parts -----------------------------------------------------------------------------------


async def _check_free(parent: Node, name: bytes) -> None:
    check_name(parent, name)
    if await parent.backup.names.child(parent, name) is not None:
        raise FileSystemError(errno.EEXIST)


async def _prepare(*nodes: Node) -> None:
    """Wait until changes are allowed and the nodes' attributes are in memory, both at once.

    Nothing may be awaited between this and the change: while a checkpoint lands, attributes
    leave memory, and while they are loaded, the backup may be sealed.
    """
    while True:
        for node in nodes:
            if node.entry is None:
                await node.backup.names.present_entry(node)
        await nodes[0].backup.writable()
        if all(node.entry is not None for node in nodes):
            return


async def _prepare_moves(moves: Sequence[Move], *nodes: Node) -> None:
    """Prepare, and make sure at that same moment that no key gets too long.

    Raises:
        FileSystemError: ENAMETOOLONG.
    """
    while True:
        for move in moves:
            await move.measure()
        await _prepare(*nodes)
        if not any(move.is_stale for move in moves):
            break
    for move in moves:
        move.check()


def _present(node: Node) -> Entry:
    assert node.entry is not None
    return node.entry


def _note_names_changed(directory: Node, now_ns: int, *, subdirectories: int = 0) -> None:
    """Set a directory's times, and count its child directories, after a change of its names."""
    names = directory.backup.names
    entry = names.replace(directory, mtime_ns=now_ns, ctime_ns=now_ns)
    if subdirectories:
        count = max(2, (extra_of(entry).nlink or 2) + subdirectories)
        extra = msgspec.structs.replace(extra_of(entry), nlink=count if count > 2 else 0)
        directory.entry = with_extra(entry, extra)


def _drop_name(parent: Node, name: bytes, node: Node, now_ns: int) -> None:
    """Take one name of a node away, and its link record with the last one."""
    names = parent.backup.names
    names.detach(parent, name, node)
    assert node.entry is not None
    if node.directory is not None:
        # Who has it open finds it empty, even if its path is used anew.
        node.directory.clear()
    if node.link_id is None:
        node.entry = msgspec.structs.replace(node.entry, ctime_ns=now_ns)
        parent.backup.tally.add(node.entry, -1)
        names.note_gone(node)
        return
    _count_links(node, -1, now_ns)
    if extra_of(node.entry).nlink == 0:
        names.drop_link_group(node)
        parent.backup.tally.add(node.entry, -1)
        names.note_gone(node)
    else:
        names.note_left(parent, name, node)
        parent.backup.tally.hard_links -= 1


def _count_links(node: Node, change: int, now_ns: int) -> None:
    assert node.entry is not None
    extra = extra_of(node.entry)
    extra = msgspec.structs.replace(extra, nlink=extra.nlink + change)
    node.entry = with_extra(msgspec.structs.replace(node.entry, ctime_ns=now_ns), extra)
    node.backup.names.touch(node)


async def _check_replaceable(node: Node, other: Node) -> None:
    if node.is_directory and not other.is_directory:
        raise FileSystemError(errno.ENOTDIR)
    if other.is_directory and not node.is_directory:
        raise FileSystemError(errno.EISDIR)
    if other.is_directory and not await other.backup.is_empty(other):
        raise FileSystemError(errno.ENOTEMPTY)


def _move(
    parent: Node, name: bytes, node: Node, new_parent: Node, new_name: bytes, other: Node | None
) -> None:
    """Carry a rename out; nothing in here awaits."""
    names = parent.backup.names
    now_ns = time.time_ns()
    replaced = 0
    if other is not None:
        replaced = int(other.is_directory)
        _drop_name(new_parent, new_name, other, now_ns)
        names.release(other)
    _note_moved(parent, name, node, new_parent, new_name)
    names.detach(parent, name, node)
    names.attach(new_parent, new_name, node)
    names.replace(node, ctime_ns=now_ns)
    moved = int(node.is_directory)
    _note_names_changed(parent, now_ns, subdirectories=-moved)
    _note_names_changed(new_parent, now_ns, subdirectories=moved - replaced)


def _note_moved(parent: Node, name: bytes, node: Node, new_parent: Node, new_name: bytes) -> None:
    names = node.backup.names
    names.note_left(parent, name, node)
    names.note_came(new_parent, new_name, node)


def _exchange(
    parent: Node, name: bytes, node: Node, new_parent: Node, new_name: bytes, other: Node
) -> None:
    names = parent.backup.names
    now_ns = time.time_ns()
    _note_moved(parent, name, node, new_parent, new_name)
    _note_moved(new_parent, new_name, other, parent, name)
    names.detach(parent, name, node)
    names.detach(new_parent, new_name, other)
    names.attach(new_parent, new_name, node)
    names.attach(parent, name, other)
    for moved in (node, other):
        names.replace(moved, ctime_ns=now_ns)
    change = int(other.is_directory) - int(node.is_directory)
    _note_names_changed(parent, now_ns, subdirectories=change)
    _note_names_changed(new_parent, now_ns, subdirectories=-change)


def _add_name(node: Node, new_parent: Node, new_name: bytes) -> None:
    now_ns = time.time_ns()
    node.backup.tally.hard_links += 1
    _count_links(node, 1, now_ns)
    node.backup.names.attach(new_parent, new_name, node)
    _note_names_changed(new_parent, now_ns)


async def _make_group(node: Node) -> None:
    """Turn an inode with one name into a link group with a record of its own."""
    names = node.backup.names
    attempt = 0
    while True:
        if node.parent is None:
            raise FileSystemError(errno.ENOENT)
        key = entry_key(node.parent.prefix(), node.name)
        link_id = new_link_id(node.number, node.backup.repository.keyring.link_id(key, attempt))
        attempt += 1
        if link_id not in names.links and not await node.backup.find(link_key(link_id)):
            break
    if node.link_id is None and node.parent is not None:
        names.make_link_group(node, link_id)
        assert node.entry is not None
        extra = msgspec.structs.replace(extra_of(node.entry), nlink=1)
        node.entry = with_extra(node.entry, extra)


async def _clone(node: Node, new_parent: Node, new_name: bytes) -> Node:
    """Take an entry of another backup over: no data moves, and its source does not change.

    The other names of the source's link group join the same new inode when they come.
    """
    target: Backup = new_parent.backup
    source = await node.backup.names.present_entry(node)
    target.note_base(node.backup)
    is_linked = node.link_id is not None and extra_of(source).nlink > 1
    group = (node.backup.id, node.link_id) if node.link_id is not None and is_linked else None
    if group and (joined := await find_joined(target, group, source)) is not None:
        await link(joined, new_parent, new_name)
        if extra_of(_present(joined)).nlink >= extra_of(source).nlink:
            target.forget_clone(group)
        return joined
    source = await _lasting_entry(node, new_parent)
    check_name(new_parent, new_name)
    extra = msgspec.structs.replace(extra_of(source), ino=0, link_id=None, nlink=0)
    entry = with_extra(source, extra)
    clone = target.names.create(new_parent, new_name, entry, new_name)
    clone.clone_of = source
    if group:
        target.keep_clone(group, clone)
    _note_names_changed(new_parent, time.time_ns())
    return clone


async def _lasting_entry(node: Node, new_parent: Node) -> Entry:
    """The entry of a node, at a moment at which `new_parent` may take it over; no await follows.

    Raises:
        FileSystemError: EXDEV where what it refers to may be gone soon; rsync copies then.
    """
    backup, condemned = node.backup, node.backup.repository.condemned
    while True:
        state = backup.generation, condemned.version
        entry = await backup.names.present_entry(node)
        is_kept = await may_refer(backup.nodes, entry)
        await _prepare(new_parent)
        if backup.is_removed or not is_kept:
            raise FileSystemError(errno.EXDEV)
        if state == (backup.generation, condemned.version):
            return entry
