"""The door: every kernel request is one call inside; `answering.py` makes errors errnos.

Source: libfuse's fuse_lowlevel.h; pyfuse3's `Operations`.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Sequence
from typing import cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError, S3backfsError
from s3backfs.fs import attributes, control_files, namespace
from s3backfs.fs.attributes import Changes
from s3backfs.fs.caller import Caller
from s3backfs.fs.filesystem import FileSystem
from s3backfs.fs.root import CONTROL_NAME
from s3backfs.fs.tags import is_tag_xattr
from s3backfs.fs.versions import VERSIONS_NAME, VersionView
from s3backfs.fuse import replies
from s3backfs.fuse.answering import log_unreadable, request
from s3backfs.fuse.directories import Directories
from s3backfs.fuse.groups import is_member
from s3backfs.fuse.opening import open_info
from s3backfs.fuse.version_inodes import VERSIONS_NUMBER, VersionInodes

ROOT = pyfuse3.ROOT_INODE
_CONTROL_NUMBERS = (control_files.DIRECTORY_NUMBER, control_files.STATUS_NUMBER)


class Door(pyfuse3.Operations):
    """One method for each kind of request; every one is here and answers ENOSYS only by intent."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, filesystem: FileSystem) -> None:
        super().__init__()
        self._fs = filesystem
        self._nodes = filesystem.live.by_number
        self._versions = VersionInodes(VersionView(filesystem.catalogue))
        self._directories = Directories(filesystem, self._versions)
        self._control_handles = 1 << 62
        self._owner = (os.getuid(), os.getgid())

    # -- names -------------------------------------------------------------------------------

    def _node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            # At the root and in .s3backfs nothing can be changed in these ways.
            is_fixed = number in (ROOT, *_CONTROL_NUMBERS) or number in self._versions
            raise FUSEError(errno.EPERM if is_fixed else errno.ESTALE)
        return node

    def _counted(self, node: Node) -> EntryAttributes:
        """The answer to a request that makes the kernel know a node once more."""
        assert node.entry is not None
        node.lookups += 1
        return replies.attributes(node, node.entry)

    @request
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self._nodes.get(parent_inode)
        if parent is None:
            return await self._lookup_fixed(parent_inode, name, ctx)
        node = await namespace.find(parent, name)
        if node is not None:
            return self._counted(node)
        if parent.backup.is_lasting:
            return replies.MISSING
        raise FUSEError(errno.ENOENT)

    async def _lookup_fixed(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if parent == ROOT and name == CONTROL_NAME:
            return replies.control_attributes(control_files.DIRECTORY_NUMBER, *self._owner)
        if parent == ROOT:
            node = await self._fs.root.lookup(name)
            if await node.backup.names.entry(node) is None:
                raise FUSEError(errno.EIO)
            return self._counted(node)
        if parent == control_files.DIRECTORY_NUMBER:
            if name == control_files.STATUS_NAME:
                return replies.control_attributes(control_files.STATUS_NUMBER, *self._owner)
            if name == VERSIONS_NAME:
                return self._versions.attributes(VERSIONS_NUMBER)
            raise FUSEError(errno.ENOENT)
        if parent in self._versions:
            return await self._versions.lookup(parent, name, ctx)
        raise FUSEError(errno.ESTALE)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for number, count in inode_list:
            node = self._nodes.get(number)
            if node is None:
                if number in self._versions:
                    self._versions.forget(number, count)
                continue
            node.lookups -= count
            if node.lookups <= 0:
                node.backup.names.release(node)

    @request
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        if parent_inode == ROOT:
            return self._counted(await self._fs.root.make(name, mode, _caller(ctx)))
        parent = self._node(parent_inode)
        return self._counted(await namespace.make(parent, name, mode, _caller(ctx), rdev=rdev))

    @request
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        if parent_inode == ROOT:
            return self._counted(await self._fs.root.make(name, mode, _caller(ctx)))
        parent = self._node(parent_inode)
        return self._counted(await namespace.make(parent, name, mode, _caller(ctx)))

    @request
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        mode = stat.S_IFLNK | 0o777
        if parent_inode == ROOT:
            return self._counted(await self._fs.root.make(name, mode, _caller(ctx)))
        parent = self._node(parent_inode)
        return self._counted(await namespace.make(parent, name, mode, _caller(ctx), target=target))

    @request
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        if parent_inode == ROOT:
            node = await self._fs.root.make(name, mode | stat.S_IFREG, _caller(ctx))
        else:
            mode = stat.S_IMODE(mode) | stat.S_IFREG
            node = await namespace.make(self._node(parent_inode), name, mode, _caller(ctx))
        handle = await self._fs.files.open(node, flags & ~os.O_TRUNC)
        return open_info(node, self._fs.files.handle(handle), handle), self._counted(node)

    @request
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        parent = self._node(parent_inode)
        node = await namespace.unlink(parent, name)
        node.backup.names.release(node)

    @request
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if parent_inode == ROOT:
            await self._fs.root.remove(name)
            return
        node = await namespace.rmdir(self._node(parent_inode), name)
        node.backup.names.release(node)

    @request
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if parent_inode_old == ROOT and parent_inode_new == ROOT:
            await self._fs.root.rename(name_old, name_new, flags)
            return
        if ROOT in (parent_inode_old, parent_inode_new):
            raise FUSEError(errno.EXDEV)
        old, new = self._node(parent_inode_old), self._node(parent_inode_new)
        await namespace.rename(old, name_old, new, name_new, flags)

    @request
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node, parent = self._node(inode), self._node(new_parent_inode)
        return self._counted(await namespace.link(node, parent, new_name))

    @request
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        if inode in self._versions:
            return self._versions.target(inode)
        node = self._node(inode)
        entry = await node.backup.names.present_entry(node)
        if entry.inline is None or not stat.S_ISLNK(entry.mode):
            raise FUSEError(errno.EINVAL)
        return entry.inline

    # -- attributes --------------------------------------------------------------------------

    @request
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        if inode == ROOT:
            return self._root_attributes()
        if inode in _CONTROL_NUMBERS:
            return replies.control_attributes(inode, *self._owner)
        if inode in self._versions:
            return self._versions.attributes(inode)
        node = self._node(inode)
        return replies.attributes(node, await node.backup.names.present_entry(node))

    def _root_attributes(self) -> EntryAttributes:
        backups = self._fs.catalogue.backups
        newest_ns = max((backup.root.updated_ns for backup in backups.values()), default=0)
        return replies.root_attributes(*self._owner, len(backups), newest_ns)

    @request
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._node(inode)
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        entry = await attributes.set_attributes(node, changes, self._fs.files)
        return replies.attributes(node, entry)

    @request
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        node = self._node(inode)
        await self._check_tag(node, name, ctx)
        member_of = functools.partial(is_member, ctx)
        await attributes.set_xattr(node, name, value, is_member=member_of)

    @request
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        node = self._nodes.get(inode)
        if node is None:
            raise FUSEError(errno.ENODATA)
        return await attributes.get_xattr(node, name)

    @request
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        node = self._nodes.get(inode)
        if node is None:
            return []
        names = await attributes.list_xattrs(node)
        # Who may not read them does not see them: rsync would take the missing value for an error.
        return [name for name in names if ctx.uid == 0 or not name.startswith(b"trusted.")]

    @request
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self._check_tag(self._node(inode), name, ctx)
        await attributes.remove_xattr(self._node(inode), name)

    async def _check_tag(self, node: Node, name: bytes, ctx: RequestContext) -> None:
        """Who may write into a backup may not therefore unlock it."""
        if is_tag_xattr(node, name) and ctx.uid not in (0, self._owner[0]):
            entry = await node.backup.names.present_entry(node)
            if ctx.uid != entry.uid:
                raise FUSEError(errno.EPERM)

    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        # The kernel checks permissions itself; without default_permissions only root mounts.
        return True

    # -- files -------------------------------------------------------------------------------

    @request
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if inode in _CONTROL_NUMBERS:
            return self._open_control(inode, flags)
        node = self._node(inode)
        handle = await self._fs.files.open(node, flags, is_privileged=ctx.uid == 0)
        return open_info(node, self._fs.files.handle(handle), handle)

    def _open_control(self, number: int, flags: int) -> FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FUSEError(errno.EROFS)
        self._control_handles += 1
        self._fs.control.open(number, self._control_handles)
        return FileInfo(fh=self._control_handles, direct_io=True)

    @request
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        snapshot = self._fs.control.read(fh, off, size)
        if snapshot is not None:
            return snapshot
        files = self._fs.files
        handle = files.handle(fh)
        try:
            return cast(bytes, await files.read(handle, off, size))
        except S3backfsError as error:
            if not isinstance(error, FileSystemError):
                log_unreadable(handle.node, error)
                raise FUSEError(error.errno_code) from error
            raise

    @request
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        files = self._fs.files
        return await files.write(files.handle(fh), off, buf)

    @request
    async def flush(self, fh: FileHandleT) -> None:
        if self._fs.is_read_only:
            # Nothing can have gone wrong: the kernel need not ask at each close(2).
            raise FUSEError(errno.ENOSYS)
        if fh < 1 << 62:
            await self._fs.files.flush(self._fs.files.handle(fh))

    @request
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        if fh < 1 << 62:
            await self._fs.files.fsync(self._fs.files.handle(fh))

    @request
    async def release(self, fh: FileHandleT) -> None:
        if not self._fs.control.release(fh):
            await self._fs.files.release(fh)

    # -- directories -------------------------------------------------------------------------

    @request
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return await self._directories.open(inode, ctx)

    @request
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        await self._directories.read(fh, start_id, token)

    @request
    async def releasedir(self, fh: FileHandleT) -> None:
        await self._directories.release(fh)

    @request
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        node = self._directories.node(fh)
        backups = [node.backup] if node else self._fs.catalogue.own_open()
        for backup in backups:
            await backup.checkpoint()

    @request
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        roots = [backup.root for backup in self._fs.catalogue.backups.values()]
        return replies.space(roots)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)
