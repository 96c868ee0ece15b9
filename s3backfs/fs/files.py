"""Open files: handles, and the content behind them."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass

import trio

from s3backfs.backup.node import Node
from s3backfs.errors import FileSystemError, S3backfsError
from s3backfs.fs.content import FileContent
from s3backfs.fs.lengths import check_size
from s3backfs.fs.privileges import drop_privileges
from s3backfs.repository.repository import Repository


@dataclass(slots=True)
class FileHandle:
    """One open file.

    `generation` is the one of the backup's tree that the content comes from, `seen_failure` the
    last failure of its backup that it was told of. `is_synchronous` is what O_SYNC and O_DSYNC say.
    """

    node: Node
    content: FileContent
    is_writer: bool
    is_write_only: bool
    generation: int
    seen_failure: S3backfsError | None = None
    is_synchronous: bool = False


class Files:
    """Every open file of the mount; `is_synchronous` opens each as if with O_SYNC."""

    def __init__(self, repository: Repository, *, is_synchronous: bool = False) -> None:
        self._repository = repository
        self._is_synchronous = is_synchronous
        self._handles: dict[int, FileHandle] = {}
        self._next = 1

    def handle(self, number: int) -> FileHandle:
        """The open file of a handle.

        Raises:
            FileSystemError: EBADF.
        """
        handle = self._handles.get(number)
        if handle is None:
            raise FileSystemError(errno.EBADF)
        return handle

    def node(self, number: int) -> Node | None:
        """The node behind a handle, if it is still open."""
        handle = self._handles.get(number)
        return None if handle is None else handle.node

    def open_for_writing(self) -> list[Node]:
        """The nodes that somebody may still write to."""
        return [handle.node for handle in self._handles.values() if handle.is_writer]

    def open_nodes(self) -> list[Node]:
        """The nodes of all open files."""
        return [handle.node for handle in self._handles.values()]

    async def content(self, node: Node) -> FileContent:
        """The node's content object, made anew if nobody has it open."""
        entry = await node.backup.names.present_entry(node)
        if node.content is None:
            node.content = FileContent(node, entry)
        assert isinstance(node.content, FileContent)
        return node.content

    async def open(self, node: Node, flags: int, *, is_privileged: bool = False) -> int:
        """Open a file and return its handle; O_TRUNC of who is not privileged clears setuid.

        Raises:
            FileSystemError: EROFS, EISDIR, ESTALE.
        """
        is_writer = flags & os.O_ACCMODE != os.O_RDONLY
        if node.is_directory:
            raise FileSystemError(errno.EISDIR)
        if is_writer or flags & os.O_TRUNC:
            await node.backup.writable()
        # Counted at once: while opens is above 0 the node stays in memory.
        node.opens += 1
        try:
            content = await self.content(node)
            if flags & os.O_TRUNC:
                await self._truncate_open(node, content)
                if not is_privileged:
                    drop_privileges(node)
        except BaseException:
            node.opens -= 1
            raise
        number, self._next = self._next, self._next + 1
        self._handles[number] = FileHandle(
            node,
            content,
            is_writer,
            flags & os.O_ACCMODE == os.O_WRONLY,
            node.backup.generation,
            node.backup.failure,
            # O_SYNC has the bit of O_DSYNC.
            self._is_synchronous or bool(flags & os.O_DSYNC),
        )
        return number

    async def _truncate_open(self, node: Node, content: FileContent) -> None:
        entry = node.entry
        assert entry is not None
        if entry.size:
            await content.truncate(0, entry.size)
        node.clone_of = None
        now_ns = time.time_ns()
        node.backup.names.replace(node, size=0, mtime_ns=now_ns, ctime_ns=now_ns)

    async def read(self, handle: FileHandle, offset: int, length: int) -> bytes | memoryview:
        """Read from an open file."""
        node = handle.node
        entry = node.entry
        if entry is None:
            entry = await node.backup.names.present_entry(node)
        backup = node.backup
        if handle.generation != backup.generation and not backup.is_own:
            # Another machine has stored its backup anew: size and content must fit together.
            node.content = handle.content = FileContent(node, entry)
            handle.generation = backup.generation
        return await handle.content.read(offset, length, entry.size)

    async def write(self, handle: FileHandle, offset: int, data: bytes) -> int:
        """Write to an open file; returns when the bytes are taken over, not when stored.

        With O_SYNC and O_DSYNC it returns when they are stored: through the page cache the kernel
        sees to that with an fsync after its writes, past it nobody else does.
        The kernel knows the size, and has moved an appending write to the end already. Pages of
        a shared mapping come through the same handles and must land where they are.

        Raises:
            S3backfsError: what made the backup fail, once for each handle.
        """
        node = handle.node
        await handle.content.make_room()
        await node.backup.writable()
        self._tell_failure(handle)
        if handle.content.is_direct:
            drop_privileges(node)
        entry = node.entry
        assert entry is not None
        end = offset + len(data)
        check_size(end)
        now_ns = time.time_ns()
        node.backup.names.replace(node, size=max(entry.size, end), mtime_ns=now_ns, ctime_ns=now_ns)
        node.wrote = True
        node.clone_of = None
        self._repository.writer.progress.written_bytes += len(data)
        await handle.content.write(offset, data)
        if handle.is_synchronous and handle.content.is_direct:
            await self.fsync(handle)
        return len(data)

    def _tell_failure(self, handle: FileHandle) -> None:
        failure = handle.node.backup.failure
        if failure is not None and failure is not handle.seen_failure:
            handle.seen_failure = failure
            raise failure

    async def flush(self, handle: FileHandle) -> None:
        """What close(2) waits for: it reports what went wrong so far."""
        if handle.is_writer:
            self._tell_failure(handle)

    async def fsync(self, handle: FileHandle) -> None:
        """Make the whole backup durable up to now."""
        backup = handle.node.backup
        if not backup.is_own:
            return
        try:
            await backup.checkpoint()
        finally:
            # Whether it was raised just now or is over: this handle was told.
            handle.seen_failure = backup.failure

    async def release(self, number: int) -> None:
        """Forget a handle; the last one of a node settles its content."""
        handle = self._handles.pop(number, None)
        if handle is None:
            return
        node = handle.node
        node.opens -= 1
        if node.opens == 0:
            await self.close_content(node)

    async def close_content(self, node: Node) -> None:
        """Settle what nobody has open, and let go of it."""
        content = node.content
        if content is None:
            return
        try:
            if not content.settle_at_once():
                with trio.CancelScope(shield=True):
                    await content.settle()
        finally:
            # A checkpoint may have let go of it, and another content may be at work by now.
            if node.content is content and node.opens == 0 and not content.is_dirty:
                node.content = None
                node.backup.names.release(node)
