"""Open directories, as the kernel reads them: names together with their attributes."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, ReaddirToken, RequestContext

from s3backfs.backup.backup import printable
from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError, S3backfsError
from s3backfs.fs import control_files
from s3backfs.fs.filesystem import FileSystem
from s3backfs.fs.listing import Cursor, Listed
from s3backfs.fs.versions import VERSIONS_NAME, VersionLink
from s3backfs.fuse import replies
from s3backfs.fuse.version_inodes import VERSIONS_NUMBER, VersionInodes

log = logging.getLogger(__name__)

_DOTS = (b".", b"..")


@dataclass(slots=True)
class _Handle:
    """One open directory; `names` is a snapshot where it is the root's or .s3backfs'.

    It is taken when the directory is read from its start; that of versions, when it is opened.
    """

    number: int
    cursor: Cursor | None
    names: list[bytes]
    versions: list[VersionLink] | None = None


class Directories:
    """Every open directory of the mount.

    Cookies 1 and 2 stand behind `.` and `..`; a directory's own names follow.
    """

    def __init__(self, filesystem: FileSystem, versions: VersionInodes) -> None:
        self._fs = filesystem
        self._versions = versions
        self._handles: dict[int, _Handle] = {}
        self._next = 1
        self._owner = (os.getuid(), os.getgid())

    async def open(self, number: int, context: RequestContext) -> int:
        """Open a directory and return its handle."""
        cursor, versions = None, None
        if number in self._versions:
            versions = await self._versions.list(number, context)
        elif number not in (pyfuse3.ROOT_INODE, control_files.DIRECTORY_NUMBER):
            cursor = Cursor(self._directory(number))
            cursor.node.opens += 1
        handle, self._next = self._next, self._next + 1
        self._handles[handle] = _Handle(number, cursor, [], versions)
        return handle

    def _directory(self, number: int) -> Node:
        node = self._fs.live.by_number.get(number)
        if node is None:
            raise FUSEError(errno.ESTALE)
        if not node.is_directory:
            raise FUSEError(errno.ENOTDIR)
        return node

    def node(self, handle: int) -> Node | None:
        """The directory inside a backup that a handle stands for."""
        cursor = self._handles[handle].cursor
        return cursor.node if cursor else None

    async def release(self, handle: int) -> None:
        """Close a directory."""
        closed = self._handles.pop(handle)
        if closed.cursor is not None:
            node = closed.cursor.node
            await closed.cursor.aclose()
            node.opens -= 1
            node.backup.names.release(node)

    async def read(self, handle: int, cookie: int, token: ReaddirToken) -> None:
        """Fill one reply, beginning behind `cookie`."""
        directory = self._handles[handle]
        if cookie == 0 and directory.number == pyfuse3.ROOT_INODE:
            directory.names = [name async for name in self._fs.root.names()]
        elif cookie == 0 and directory.cursor is None:
            directory.names = [control_files.STATUS_NAME, VERSIONS_NAME]
        while cookie < len(_DOTS):
            if not self._reply_dot(directory, cookie, token):
                return
            cookie += 1
        if directory.cursor is not None:
            await self._read_names(directory.cursor, cookie, token)
        elif directory.versions is not None:
            self._read_versions(directory, cookie, token)
        else:
            await self._read_fixed(directory, cookie, token)

    def _reply_dot(self, directory: _Handle, cookie: int, token: ReaddirToken) -> bool:
        number = directory.number
        if directory.cursor is not None and cookie == 1:
            parent = directory.cursor.node.parent
            number = parent.number if parent else pyfuse3.ROOT_INODE
        # The kernel takes no attributes and counts no lookup for these two names.
        reply = replies.control_attributes(control_files.DIRECTORY_NUMBER, *self._owner)
        reply.st_ino = number
        return pyfuse3.readdir_reply(token, _DOTS[cookie], reply, cookie + 1)

    async def _read_names(self, cursor: Cursor, cookie: int, token: ReaddirToken) -> None:
        first_cookie = cookie
        while (
            listed := await self._listed(cursor, cookie, is_first=cookie == first_cookie)
        ) is not None:
            node, entry = listed.node, listed.entry
            if node is None or entry is None:
                reply = replies.unreadable_attributes(listed.name, listed.mode)
            else:
                reply = replies.attributes(node, entry)
            cookie = listed.next_cookie + len(_DOTS)
            if not pyfuse3.readdir_reply(token, listed.name, reply, cookie):
                return
            if node is not None:
                node.lookups += 1

    async def _listed(self, cursor: Cursor, cookie: int, *, is_first: bool) -> Listed | None:
        """The next name for a reply; an error waits until nothing stands before it in the reply."""
        try:
            return await cursor.next(cookie - len(_DOTS))
        except S3backfsError as error:
            if is_first:
                path = printable(b"/".join([cursor.node.backup.name, *cursor.node.components()]))
                log.error("names of %s are missing: %s", path, error)
                raise
            return None

    def _read_versions(self, directory: _Handle, cookie: int, token: ReaddirToken) -> None:
        for link in (directory.versions or [])[cookie - len(_DOTS) :]:
            cookie += 1
            if not self._versions.reply(directory.number, link, cookie, token):
                return

    async def _read_fixed(self, directory: _Handle, cookie: int, token: ReaddirToken) -> None:
        is_root = directory.number == pyfuse3.ROOT_INODE
        for name in directory.names[cookie - len(_DOTS) :]:
            cookie += 1
            reply = self._control_reply(name)
            node = None
            if is_root:
                try:
                    node = await self._top(name)
                except S3backfsError as error:
                    # Left out it would look deleted, and a mirror would delete it, too.
                    log.error("backup %s cannot be read: %s", printable(name), error)
                    reply = replies.unreadable_attributes(name)
                else:
                    if node is None or node.entry is None:
                        continue
                    reply = replies.attributes(node, node.entry)
            if not pyfuse3.readdir_reply(token, name, reply, cookie):
                return
            if node is not None:
                node.lookups += 1

    def _control_reply(self, name: bytes) -> EntryAttributes:
        if name == VERSIONS_NAME:
            return self._versions.attributes(VERSIONS_NUMBER)
        return replies.control_attributes(control_files.STATUS_NUMBER, *self._owner)

    async def _top(self, name: bytes) -> Node | None:
        """The top directory of a backup; None if it is gone meanwhile.

        Raises:
            S3backfsError: its root or the top of its tree cannot be read.
        """
        try:
            node = await self._fs.root.lookup(name)
        except FileSystemError:
            return None
        await node.backup.names.entry(node)
        return node
