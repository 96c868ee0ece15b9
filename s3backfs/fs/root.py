"""The root of the mount: one directory per backup, and what may be done to them there."""

from __future__ import annotations

import errno
import logging
import stat
from collections.abc import AsyncIterator

from s3backfs.backup.backup import Backup, printable
from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError
from s3backfs.fs.caller import Caller
from s3backfs.fs.namespace import RENAME_NOREPLACE, make_top
from s3backfs.manifest.entry import Entry
from s3backfs.manifest.keys import NAME_MAX_BYTES

log = logging.getLogger(__name__)

CONTROL_NAME = b".s3backfs"


class RootDirectory:
    """Names at the root are backups; everything else is refused with a hint."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def lookup(self, name: bytes) -> Node:
        """Find a backup's top directory.

        Raises:
            FileSystemError: ENOENT, ENAMETOOLONG.
            S3backfsError: its root is damaged.
        """
        if len(name) > NAME_MAX_BYTES:
            raise FileSystemError(errno.ENAMETOOLONG)
        backup = self._catalogue.backups.get(name)
        if backup is None or not backup.is_own_open:
            # Whether there is what nobody knows of only the store can say.
            is_known = backup is not None or name in self._catalogue.damaged
            await (self._catalogue.glance() if is_known else self._catalogue.refresh())
            backup = self._catalogue.backups.get(name)
        if backup is None:
            if name in self._catalogue.damaged:
                raise self._catalogue.damaged[name]
            raise FileSystemError(errno.ENOENT)
        return backup.names.top

    async def names(self) -> AsyncIterator[bytes]:
        """Every backup's name, sorted, also of those that cannot be read."""
        await self._catalogue.glance()
        for name in sorted({*self._catalogue.backups, *self._catalogue.damaged}):
            yield name

    async def make(self, name: bytes, mode: int, caller: Caller) -> Node:
        """Begin a backup; only directories can stand at the root.

        Raises:
            FileSystemError: EPERM for what is no directory, EEXIST, EROFS, ENAMETOOLONG.
        """
        if not stat.S_ISDIR(mode):
            log.warning(
                "%s: only backups stand at the root of the mount; make a directory first "
                "(mkdir) and copy into it",
                printable(name),
            )
            raise FileSystemError(errno.EPERM)
        if name == CONTROL_NAME:
            raise FileSystemError(errno.EEXIST)
        backup = await self._catalogue.create(name)
        make_top(backup, mode, caller)
        return backup.names.top

    async def remove(self, name: bytes) -> Node:
        """Drop one's own open backup, if it is empty; forget a sealed one, if that is allowed.

        Raises:
            FileSystemError: ENOTEMPTY, EROFS or EPERM for what may not go, ENOENT.
        """
        top = await self.lookup(name)
        backup = top.backup
        if backup.may_be_hidden:
            await self._catalogue.forget(backup)
            return top
        if backup.is_sealed:
            raise FileSystemError(errno.EROFS)
        if not backup.is_own_open:
            raise FileSystemError(errno.EPERM)
        await self._await_entry(top)
        if not await backup.is_empty(top):
            raise FileSystemError(errno.ENOTEMPTY)
        await self._catalogue.drop(backup)
        return top

    async def rename(self, name: bytes, new_name: bytes, flags: int) -> None:
        """Rename a backup.

        Raises:
            FileSystemError: EEXIST, EINVAL for an exchange, EPERM for another writer's backup.
        """
        if flags & ~RENAME_NOREPLACE:
            raise FileSystemError(errno.EINVAL)
        if new_name == CONTROL_NAME:
            raise FileSystemError(errno.EEXIST)
        top = await self.lookup(name)
        await self._replace_empty(new_name)
        await self._catalogue.rename(top.backup, new_name)

    async def _replace_empty(self, name: bytes) -> None:
        """As rename(2) does with directories, let an empty backup of one's own give way."""
        other = self._catalogue.backups.get(name)
        if other is None:
            return
        if not other.is_own_open:
            raise FileSystemError(errno.EEXIST)
        if not await other.is_empty(other.names.top):
            raise FileSystemError(errno.ENOTEMPTY)
        await self._catalogue.drop(other)

    async def _await_entry(self, top: Node) -> Entry | None:
        return top.entry or await top.backup.names.entry(top)

    def find(self, name: bytes) -> Backup | None:
        """A backup that is known by name."""
        return self._catalogue.backups.get(name)
