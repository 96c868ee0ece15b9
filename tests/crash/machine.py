"""A machine without a kernel: the file system's parts over any store, driven by paths."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from s3backfs.backup.catalogue import Catalogue
from s3backfs.backup.live import LiveNodes
from s3backfs.backup.node import Node
from s3backfs.backup.nodes import RepositoryNodes
from s3backfs.errors import IntegrityError
from s3backfs.fs import attributes, joining, namespace
from s3backfs.fs.attributes import Changes
from s3backfs.fs.caller import Caller
from s3backfs.fs.control_files import ControlFiles
from s3backfs.fs.files import Files
from s3backfs.fs.filesystem import FileSystem
from s3backfs.fs.listing import Cursor
from s3backfs.fs.root import RootDirectory
from s3backfs.manifest.entry import Entry, extra_of
from s3backfs.repository.leases import LEASE_S, boot_time_s
from s3backfs.repository.opening import OpenedRepository
from s3backfs.repository.repository import Repository, RepositoryOptions, open_for_mount
from s3backfs.store.base import Store

MIB = 1 << 20
CALLER = Caller(os.getuid(), os.getgid())


@dataclass(frozen=True)
class Machine:
    """A mounted repository; names at the root are the first component of a path."""

    fs: FileSystem

    @property
    def repository(self) -> Repository:
        return self.fs.repository

    @property
    def catalogue(self) -> Catalogue:
        return self.fs.catalogue

    @asynccontextmanager
    async def at(self, *path: bytes) -> AsyncIterator[Node]:
        """Hold the node of a path as the kernel does."""
        held: list[Node] = []
        try:
            node = await self.fs.root.lookup(path[0])
            for name in path[1:]:
                node.lookups += 1
                held.append(node)
                node = await namespace.lookup(node, name)
            node.lookups += 1
            held.append(node)
            await node.backup.names.entry(node)
            yield node
        finally:
            for node in reversed(held):
                node.lookups -= 1
                node.backup.names.release(node)

    async def make_backup(self, name: bytes) -> None:
        await self.fs.root.make(name, 0o40755, CALLER)

    async def make(self, *path: bytes, mode: int, target: bytes | None = None) -> None:
        async with self.at(*path[:-1]) as parent:
            await namespace.make(parent, path[-1], mode, CALLER, target=target)

    async def open(self, *path: bytes, flags: int = os.O_RDWR) -> int:
        async with self.at(*path) as node:
            return await self.fs.files.open(node, flags)

    async def write(self, *path: bytes, offset: int, data: bytes) -> None:
        """Open, write, close."""
        handle = await self.open(*path)
        try:
            await self.fs.files.write(self.fs.files.handle(handle), offset, data)
            await self.fs.files.flush(self.fs.files.handle(handle))
        finally:
            await self.fs.files.release(handle)

    async def write_file(self, *path: bytes, data: bytes) -> None:
        await self.make(*path, mode=0o100644)
        if data:
            await self.write(*path, offset=0, data=data)

    async def truncate(self, *path: bytes, size: int) -> None:
        async with self.at(*path) as node:
            await attributes.set_attributes(node, Changes(size=size), self.fs.files)

    async def chmod(self, *path: bytes, mode: int) -> None:
        async with self.at(*path) as node:
            await attributes.set_attributes(node, Changes(mode=mode), self.fs.files)

    async def set_xattr(self, *path: bytes, name: bytes, value: bytes) -> None:
        async with self.at(*path) as node:
            await attributes.set_xattr(node, name, value)

    async def remove(self, *path: bytes, is_directory: bool = False) -> None:
        async with self.at(*path[:-1]) as parent:
            drop = namespace.rmdir if is_directory else namespace.unlink
            node = await drop(parent, path[-1])
            node.backup.names.release(node)

    async def rename(self, path: tuple[bytes, ...], new_path: tuple[bytes, ...]) -> None:
        async with self.at(*path[:-1]) as parent, self.at(*new_path[:-1]) as new_parent:
            await namespace.rename(parent, path[-1], new_parent, new_path[-1], 0)

    async def link(self, path: tuple[bytes, ...], new_path: tuple[bytes, ...]) -> None:
        async with self.at(*path) as node, self.at(*new_path[:-1]) as new_parent:
            await namespace.link(node, new_parent, new_path[-1])

    async def sync(self, name: bytes) -> None:
        """Do what fsync of a directory does."""
        async with self.at(name) as node:
            await node.backup.checkpoint()

    async def read(self, *path: bytes) -> bytes:
        async with self.at(*path) as node:
            return await self._read_node(node)

    async def _read_node(self, node: Node) -> bytes:
        files = self.fs.files
        handle = await files.open(node, os.O_RDONLY)
        try:
            entry = node.entry
            assert entry is not None
            parts = []
            for offset in range(0, entry.size, MIB):
                parts.append(bytes(await files.read(files.handle(handle), offset, MIB)))
            data = b"".join(parts)
            assert len(data) == entry.size
            return data
        finally:
            await files.release(handle)

    # -- looking at everything ---------------------------------------------------------------

    async def names(self) -> list[bytes]:
        return [name async for name in self.fs.root.names()]

    async def picture(self, name: bytes) -> Picture:
        """Walk one backup and read every byte."""
        found: Picture = {}
        numbers: dict[int, int] = {}
        async with self.at(name) as top:
            await self._walk(top, (), found, numbers)
        return found

    async def contents(self, name: bytes) -> dict[bytes, bytes | None]:
        """Read the files at the top of a backup; None stands for one that is damaged."""
        async with self.at(name) as top:
            names = []
            for child, node in await self._children(top):
                names.append(child)
                node.lookups -= 1
                node.backup.names.release(node)
        found: dict[bytes, bytes | None] = dict.fromkeys(names)
        for child in names:
            with suppress(IntegrityError):
                found[child] = await self.read(name, child)
        return found

    async def _walk(
        self, directory: Node, path: tuple[bytes, ...], found: Picture, numbers: dict[int, int]
    ) -> None:
        for name, node in await self._children(directory):
            entry = await node.backup.names.entry(node)
            assert entry is not None
            here = (*path, name)
            found[here] = await self._seen(node, entry, numbers)
            if node.is_directory:
                await self._walk(node, here, found, numbers)
            node.lookups -= 1
            node.backup.names.release(node)

    async def _children(self, directory: Node) -> list[tuple[bytes, Node]]:
        children = []
        async with aclosing(Cursor(directory)) as cursor:
            cookie = 0
            while (listed := await cursor.next(cookie)) is not None:
                cookie = listed.next_cookie
                assert listed.node is not None
                listed.node.lookups += 1
                children.append((listed.name, listed.node))
        return sorted(children, key=lambda child: child[0])

    async def _seen(self, node: Node, entry: Entry, numbers: dict[int, int]) -> Seen:
        content = b""
        if entry.mode & 0o170000 == 0o100000:
            content = await self._read_node(node)
        elif entry.mode & 0o170000 == 0o120000:
            content = entry.inline or b""
        xattrs = tuple(sorted(extra_of(entry).xattrs.items()))
        links = 1 if node.is_directory else joining.link_count(node, entry)
        group = numbers.setdefault(node.number, len(numbers)) if links > 1 else -1
        return Seen(entry.mode, content, xattrs, group, links)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk sees of one name; hard links of one file share a group."""

    mode: int
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    group: int
    links: int


Picture = dict[tuple[bytes, ...], Seen]


@asynccontextmanager
async def booted(
    store: Store,
    opened: OpenedRepository,
    home: Path,
    *,
    is_read_only: bool = False,
    memory_bytes: int = 64 * MIB,
    take_over: bool = False,
    lease_s: float = LEASE_S,
    clock: Callable[[], float] = boot_time_s,
) -> AsyncIterator[Machine]:
    """Mount without a kernel; leaving the context is a crash."""
    options = RepositoryOptions(
        state_dir=home / "state",
        cache_dir=home / "cache",
        cache_bytes=MIB,
        memory_bytes=memory_bytes,
        is_read_only=is_read_only,
        level=1,
        lease_s=lease_s,
        clock=clock,
    )
    async with open_for_mount(store, opened, options) as repository:
        live = LiveNodes(repository.keyring)
        nodes = RepositoryNodes(repository)
        catalogue = Catalogue(nodes, live, is_read_only=is_read_only)
        await catalogue.refresh(is_forced=True)
        await catalogue.take_over_own(is_forced=take_over)
        files = Files(repository)
        yield Machine(
            FileSystem(
                repository=repository,
                live=live,
                catalogue=catalogue,
                files=files,
                root=RootDirectory(catalogue),
                control=ControlFiles(lambda: b""),
                is_read_only=is_read_only,
            )
        )
