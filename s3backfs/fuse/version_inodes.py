"""The inodes below `.s3backfs/versions`: numbers for as long as the kernel knows them."""

from __future__ import annotations

import errno
import functools
import os
import stat
from dataclasses import dataclass

from pyfuse3 import EntryAttributes, FUSEError, ReaddirToken, RequestContext, readdir_reply

from s3backfs.fs.searching import Asker
from s3backfs.fs.versions import VersionLink, VersionView
from s3backfs.fuse import replies
from s3backfs.fuse.groups import is_member

VERSIONS_NUMBER = 4
FIRST_NUMBER = 1 << 40
"""Above what is fixed and below the first slot of a backup."""

Place = tuple[tuple[bytes, ...], VersionLink | None]
"""A path, and the link where it is a version of it."""


@dataclass(slots=True)
class _Inode:
    place: Place
    lookups: int = 0


class VersionInodes:
    """Answers for everything below `.s3backfs/versions`.

    Nothing is to be believed longer than a request takes: who asks decides what is there.
    """

    def __init__(self, view: VersionView) -> None:
        self._view = view
        self._next = FIRST_NUMBER
        self._owner = (os.getuid(), os.getgid())
        self._inodes: dict[int, _Inode] = {VERSIONS_NUMBER: _Inode(((), None), 1)}
        self._numbers: dict[Place, int] = {((), None): VERSIONS_NUMBER}

    def __contains__(self, number: int) -> bool:
        return number in self._inodes

    async def lookup(self, parent: int, name: bytes, context: RequestContext) -> EntryAttributes:
        """Find a version, or a path one name longer."""
        path, asker = self._path(parent), _asker(context)
        link = await self._view.version(path, name, asker)
        if link is not None:
            return self._counted((path, link))
        if not await self._view.is_there((*path, name), asker):
            raise FUSEError(errno.ENOENT)
        return self._counted(((*path, name), None))

    async def list(self, number: int, context: RequestContext) -> list[VersionLink]:
        """The versions of the path that a directory stands for."""
        return await self._view.versions(self._path(number), _asker(context))

    def reply(self, number: int, link: VersionLink, cookie: int, token: ReaddirToken) -> bool:
        """Give one version of a listing to the kernel; whether there was room."""
        place = (self._path(number), link)
        reply = self._reply(place)
        if not readdir_reply(token, link.name, reply, cookie):
            self._drop_unknown(place)
            return False
        self._inodes[self._numbers[place]].lookups += 1
        return True

    def attributes(self, number: int) -> EntryAttributes:
        """What stat(2) shows."""
        return self._reply(self._inodes[number].place)

    def target(self, number: int) -> bytes:
        """Where a link leads."""
        link = self._inodes[number].place[1]
        if link is None:
            raise FUSEError(errno.EINVAL)
        return link.target

    def forget(self, number: int, count: int) -> None:
        """Drop an inode that the kernel no longer knows."""
        inode = self._inodes[number]
        if number != VERSIONS_NUMBER:
            inode.lookups -= count
            self._drop_unknown(inode.place)

    def _drop_unknown(self, place: Place) -> None:
        number = self._numbers[place]
        if self._inodes[number].lookups <= 0:
            del self._inodes[number], self._numbers[place]

    def _path(self, number: int) -> tuple[bytes, ...]:
        path, link = self._inodes[number].place
        if link is not None:
            raise FUSEError(errno.ENOTDIR)
        return path

    def _counted(self, place: Place) -> EntryAttributes:
        reply = self._reply(place)
        self._inodes[self._numbers[place]].lookups += 1
        return reply

    def _reply(self, place: Place) -> EntryAttributes:
        if place not in self._numbers:
            self._numbers[place], self._next = self._next, self._next + 1
            self._inodes[self._numbers[place]] = _Inode(place)
        reply = replies.control_attributes(self._numbers[place], *self._owner)
        link = place[1]
        reply.st_mode = stat.S_IFDIR | 0o555 if link is None else stat.S_IFLNK | 0o777
        reply.st_nlink = 2 if link is None else 1
        if link is not None:
            reply.st_size = len(link.target)
            reply.st_atime_ns = reply.st_mtime_ns = reply.st_ctime_ns = link.mtime_ns
        reply.attr_timeout = reply.entry_timeout = 0.0
        return reply


def _asker(context: RequestContext) -> Asker:
    return Asker(context.uid, functools.partial(is_member, context))
