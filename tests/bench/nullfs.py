"""The null file system: names and attributes in memory, data thrown away, zeros read.

The floor of what a pyfuse3 file system costs, with the project's own request loop and the kernel
settings of its mounts. `python -m tests.bench.nullfs MOUNTPOINT` serves until unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    XAttrNameT,
)

from s3backfs.fuse.polling import poll_before_sleeping
from s3backfs.fuse.read_ahead import widen_read_ahead
from s3backfs.fuse.replies import FOREVER_S, IO_BLOCK_BYTES, MISSING

_TASKS_MAX_COUNT = 32


@dataclass(slots=True)
class _Inode:
    number: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    rdev: int = 0
    links: int = 1
    target: bytes = b""
    names: dict[bytes, _Inode] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class NullFs(pyfuse3.Operations):
    """The least that cp and rsync need."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self) -> None:
        super().__init__()
        root = _Inode(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755, 0, 0, time.time_ns())
        self._inodes = {root.number: root}
        self._next = root.number + 1

    def _reply(self, inode: _Inode) -> EntryAttributes:
        reply = EntryAttributes()
        reply.st_ino = inode.number
        reply.st_mode = inode.mode
        reply.st_nlink = inode.links
        reply.st_uid, reply.st_gid = inode.uid, inode.gid
        reply.st_size = inode.size
        reply.st_rdev = inode.rdev
        reply.st_blksize = IO_BLOCK_BYTES
        reply.st_blocks = -(-inode.size // 512)
        reply.st_mtime_ns = reply.st_atime_ns = reply.st_ctime_ns = inode.mtime_ns
        reply.attr_timeout = reply.entry_timeout = FOREVER_S
        return reply

    def _add(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> _Inode:
        names = self._inodes[parent].names
        if name in names:
            raise FUSEError(errno.EEXIST)
        made = _Inode(self._next, mode, ctx.uid, ctx.gid, time.time_ns())
        self._next += 1
        self._inodes[made.number] = names[name] = made
        return made

    async def lookup(
        self, parent_inode: InodeT, name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        found = self._inodes[parent_inode].names.get(name)
        return MISSING if found is None else self._reply(found)

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._reply(self._inodes[inode])

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changed = self._inodes[inode]
        if fields.update_mode:
            changed.mode = attr.st_mode
        if fields.update_uid:
            changed.uid = attr.st_uid
        if fields.update_gid:
            changed.gid = attr.st_gid
        if fields.update_size:
            changed.size = attr.st_size
        if fields.update_mtime:
            changed.mtime_ns = attr.st_mtime_ns
        return self._reply(changed)

    async def mkdir(
        self, parent_inode: InodeT, name: bytes, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._reply(self._add(parent_inode, name, mode | stat.S_IFDIR, ctx))

    async def mknod(
        self, parent_inode: InodeT, name: bytes, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        made = self._add(parent_inode, name, mode, ctx)
        made.rdev = rdev
        return self._reply(made)

    async def symlink(
        self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        made = self._add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        made.target, made.size = target, len(target)
        return self._reply(made)

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        return self._inodes[inode].target

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        linked = self._inodes[inode]
        self._inodes[new_parent_inode].names[new_name] = linked
        linked.links += 1
        return self._reply(linked)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        moved = self._inodes[parent_inode_old].names.pop(name_old)
        self._inodes[parent_inode_new].names[name_new] = moved

    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        del self._inodes[parent_inode].names[name]

    rmdir = unlink

    async def create(
        self, parent_inode: InodeT, name: bytes, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        made = self._add(parent_inode, name, mode, ctx)
        return self._opened(made.number, flags), self._reply(made)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._opened(inode, flags)

    def _opened(self, number: int, flags: int) -> FileInfo:
        is_direct = flags & os.O_ACCMODE == os.O_WRONLY
        return FileInfo(fh=FileHandleT(number), direct_io=is_direct, keep_cache=not is_direct)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        inode = self._inodes[fh]
        inode.size = max(inode.size, off + len(buf))
        return len(buf)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(max(0, min(size, self._inodes[fh].size - off)))

    async def flush(self, fh: FileHandleT) -> None:
        pass

    async def release(self, fh: FileHandleT) -> None:
        pass

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def releasedir(self, fh: FileHandleT) -> None:
        pass

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        names = list(self._inodes[fh].names.items())
        for place in range(start_id, len(names)):
            name, inode = names[place]
            if not pyfuse3.readdir_reply(token, name, self._reply(inode), place + 1):
                return

    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        self._inodes[inode].xattrs[name] = value

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        value = self._inodes[inode].xattrs.get(name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        if self._inodes[inode].xattrs.pop(name, None) is None:
            raise FUSEError(pyfuse3.ENOATTR)

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in self._inodes[inode].xattrs]


def main(mountpoint: str) -> None:
    """Serve until unmounted."""
    pyfuse3.init(NullFs(), mountpoint, {"default_permissions", "fsname=null"})
    try:
        trio.run(_serve, mountpoint)
    finally:
        pyfuse3.close(unmount=True)


async def _serve(mountpoint: str) -> None:
    poll_before_sleeping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_widen, mountpoint)
        await pyfuse3.main(max_tasks=_TASKS_MAX_COUNT)


async def _widen(mountpoint: str) -> None:
    widen_read_ahead((await trio.to_thread.run_sync(os.stat, mountpoint)).st_dev)


if __name__ == "__main__":
    main(sys.argv[1])
