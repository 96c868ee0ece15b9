"""A kernel for tests: it looks names up, counts what it knows and forgets, as real ones do."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from s3backfs.backup.backup import Backup
from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.node import Node
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import FileSystemError, StoreError
from s3backfs.fs import attributes, joining, namespace
from s3backfs.fs.attributes import Changes
from s3backfs.fs.caller import Caller
from s3backfs.fs.files import Files
from s3backfs.fs.listing import Cursor
from s3backfs.fs.root import RootDirectory
from s3backfs.manifest.entry import Entry
from s3backfs.repository.opening import OpenedRepository
from s3backfs.repository.repository import Repository, RepositoryOptions, open_for_mount
from s3backfs.store.base import Store

MEMORY_BYTES = 64 << 20
CALLER = Caller(os.getuid(), os.getgid())

PathParts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What stat(2), readlink(2), listxattr(2) and reading show of one name."""

    number: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    rdev: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    content: bytes


class Kernel:
    """Drives one mounted file system by paths; the first name of a path is the backup."""

    def __init__(self, repository: Repository, catalogue: Catalogue, live: LiveNodes) -> None:
        self.repository = repository
        self.catalogue = catalogue
        self.live = live
        self.files = Files(repository)
        self.root = RootDirectory(catalogue)
        self._known: dict[Node, int] = {}

    # -- what it knows -----------------------------------------------------------------------

    def _count(self, node: Node) -> Node:
        node.lookups += 1
        self._known[node] = self._known.get(node, 0) + 1
        return node

    def forget(self) -> None:
        """Drop every name it knows, the deepest first."""
        known, self._known = self._known, {}
        for node, count in reversed(known.items()):
            node.lookups -= count
            if node.lookups <= 0:
                node.backup.names.release(node)

    async def node(self, path: PathParts) -> Node:
        """Walk down a path."""
        node = self._count(await self.root.lookup(path[0]))
        for name in path[1:]:
            node = self._count(await namespace.lookup(node, name))
        return node

    async def _above(self, path: PathParts) -> tuple[Node, bytes]:
        return await self.node(path[:-1]), path[-1]

    def backup(self, name: bytes) -> Backup:
        found = self.root.find(name)
        assert found is not None
        return found

    # -- names -------------------------------------------------------------------------------

    async def make(
        self, path: PathParts, mode: int, *, rdev: int = 0, target: bytes | None = None
    ) -> Node:
        if len(path) == 1:
            return self._count(await self.root.make(path[0], mode, CALLER))
        parent, name = await self._above(path)
        made = await namespace.make(parent, name, mode, CALLER, rdev=rdev, target=target)
        return self._count(made)

    async def unlink(self, path: PathParts) -> None:
        await self.node(path)
        node = await namespace.unlink(*await self._above(path))
        node.backup.names.release(node)

    async def rmdir(self, path: PathParts) -> None:
        await self.node(path)
        node = await namespace.rmdir(*await self._above(path))
        node.backup.names.release(node)

    async def rename(self, path: PathParts, new_path: PathParts, flags: int = 0) -> None:
        await self.node(path)
        parent, name = await self._above(path)
        new_parent, new_name = await self._above(new_path)
        if not flags and path[: len(new_path)] == new_path and path != new_path:
            # The kernel looks at this before it asks a file system.
            raise FileSystemError(errno.ENOTEMPTY)
        await namespace.rename(parent, name, new_parent, new_name, flags)

    async def link(self, path: PathParts, new_path: PathParts) -> None:
        node = await self.node(path)
        self._count(await namespace.link(node, *await self._above(new_path)))

    # -- attributes --------------------------------------------------------------------------

    async def set(self, path: PathParts, changes: Changes) -> None:
        node = await self.node(path)
        # The size is set all the same; what waits to be stored is stored by the next checkpoint.
        with suppress(StoreError):
            await attributes.set_attributes(node, changes, self.files)

    async def set_xattr(self, path: PathParts, name: bytes, value: bytes) -> None:
        await attributes.set_xattr(await self.node(path), name, value)

    async def remove_xattr(self, path: PathParts, name: bytes) -> None:
        await attributes.remove_xattr(await self.node(path), name)

    async def seen(self, node: Node) -> Seen:
        """Everything that a node shows."""
        entry = node.entry or await node.backup.names.entry(node)
        assert entry is not None
        extra_xattrs = [
            (name, await attributes.get_xattr(node, name))
            for name in await attributes.list_xattrs(node)
        ]
        return Seen(
            number=node.number,
            mode=entry.mode,
            nlink=joining.link_count(node, entry),
            uid=entry.uid,
            gid=entry.gid,
            size=entry.size,
            mtime_ns=entry.mtime_ns,
            ctime_ns=entry.ctime_ns,
            rdev=entry.extra.rdev if entry.extra else 0,
            xattrs=tuple(extra_xattrs),
            content=await self._content(node, entry),
        )

    async def _content(self, node: Node, entry: Entry) -> bytes:
        if stat.S_ISLNK(entry.mode):
            return entry.inline or b""
        if not stat.S_ISREG(entry.mode):
            return b""
        handle = await self.open(node, os.O_RDONLY)
        try:
            return await self.read(handle, 0, entry.size + 10)
        finally:
            await self.release(handle)

    # -- files -------------------------------------------------------------------------------

    async def open(self, node: Node, flags: int) -> int:
        return await self.files.open(node, flags)

    async def release(self, handle: int) -> None:
        """Close a file; nobody hears of an error here."""
        with suppress(StoreError):
            await self.files.release(handle)

    async def read(self, handle: int, offset: int, length: int) -> bytes:
        return bytes(await self.files.read(self.files.handle(handle), offset, length))

    async def write(self, handle: int, offset: int | None, data: bytes) -> None:
        """Write at an offset, or at the end of the file as the kernel knows it."""
        file = self.files.handle(handle)
        if offset is None:
            assert file.node.entry is not None
            offset = file.node.entry.size
        try:
            await self.files.write(file, offset, data)
        except StoreError:
            # A handle is told once of what went wrong before; then the file takes bytes again.
            await self.files.write(file, offset, data)

    # -- directories -------------------------------------------------------------------------

    @asynccontextmanager
    async def listing(self, path: PathParts) -> AsyncIterator[AsyncIterator[bytes]]:
        """An open directory, whose names come one by one."""
        cursor = Cursor(await self.node(path))
        cursor.node.opens += 1
        try:
            yield self._names(cursor)
        finally:
            await cursor.aclose()
            cursor.node.opens -= 1
            cursor.node.backup.names.release(cursor.node)

    async def _names(self, cursor: Cursor) -> AsyncIterator[bytes]:
        cookie = 0
        while (listed := await cursor.next(cookie)) is not None:
            cookie = listed.next_cookie
            self._count(listed.node)
            yield listed.name

    async def names(self, path: PathParts) -> list[bytes]:
        async with self.listing(path) as names:
            return [name async for name in names]

    async def walk(self, path: PathParts) -> dict[PathParts, Seen]:
        """Everything at and below a path."""
        found: dict[PathParts, Seen] = {}
        waiting = [path]
        while waiting:
            current = waiting.pop()
            node = await self.node(current)
            found[current] = await self.seen(node)
            if node.is_directory:
                names = await self.names(current)
                assert len(names) == len(set(names)), f"a name is listed twice in {current}"
                waiting.extend((*current, name) for name in names)
        return found


@asynccontextmanager
async def mounted(store: Store, opened: OpenedRepository, home: Path) -> AsyncIterator[Kernel]:
    """Hold a file system without a kernel; at the end nothing is made durable, as in a crash."""
    options = RepositoryOptions(
        state_dir=home / "state",
        cache_dir=home / "cache",
        cache_bytes=1 << 20,
        memory_bytes=MEMORY_BYTES,
        is_read_only=False,
        level=1,
    )
    async with open_for_mount(store, opened, options) as repository:
        live = LiveNodes(repository.keyring)
        catalogue = Catalogue(RepositoryNodes(repository), live, is_read_only=False)
        await catalogue.refresh(is_forced=True)
        await catalogue.take_over_own(is_forced=False)
        yield Kernel(repository, catalogue, live)


def oracle_walk(top: bytes) -> Iterator[tuple[PathParts, bytes]]:
    """Every path below a real directory, with its real path."""
    waiting: list[PathParts] = [()]
    while waiting:
        current = waiting.pop()
        real = b"/".join([top, *current])
        yield current, real
        if stat.S_ISDIR(os.lstat(real).st_mode):
            waiting.extend((*current, name) for name in sorted(os.listdir(real), reverse=True))
