"""Lists of file operations, carried out by s3backfs and by a plain directory alike.

The plain directory lies on tmpfs and says what is right. Operations choose what they work on by
numbers, so that every list of operations means something.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from s3backfs.backup.backup import Backup
from s3backfs.errors import FileSystemError, StoreError, UnavailableError
from s3backfs.fs.attributes import Changes
from s3backfs.fs.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from s3backfs.manifest.tree import Replace, Tree
from s3backfs.repository.opening import CreateOptions, OpenedRepository, create_repository
from s3backfs.store.around import Request, WrappedStore
from s3backfs.store.memory import MemoryStore
from tests.fs.kernel import Kernel, PathParts, Seen, mounted, oracle_walk

T = TypeVar("T")

Operation = tuple[str, tuple[int, ...]]

NAMES = [b"a", b"b", b"c", b"d", b"e", b"a-b", b"\xff\x01", b"n" * 255, b".a.Xy12zW", b".b.Xy12zV"]
XATTR_NAMES = [b"user.a", b"user.b", b"user.long"]
EXPLICIT_NS = 900_000_000 * 10**9
"""Times before this were set by an operation, and must be the same on both sides."""

FLIGHT_MAX_BYTES = 8 << 20
"""So much may be written while the store does not answer; more would wait for memory."""

HANDED_OVER_BYTES = 1 << 16
"""Writes from this size on may make a file hand its buffer over."""

_libc = ctypes.CDLL(None, use_errno=True)


def rename_with_flags(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(-100, old, -100, new, flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Gate:
    """A policy that holds up the writes of one kind of object while it is closed.

    Broken, it lets all of them fail, those that wait too, until it is opened.
    """

    def __init__(self) -> None:
        self.prefix = ""
        self.is_broken = False
        self.reached = trio.Event()
        self._opened = trio.Event()

    def close(self, prefix: str) -> None:
        self.prefix, self.reached, self._opened = prefix, trio.Event(), trio.Event()

    def open(self) -> None:
        self.prefix, self.is_broken = "", False
        self._opened.set()

    def break_down(self) -> None:
        self.is_broken = True
        self._opened.set()

    async def __call__(self, request: Request, act: Callable[[], Awaitable[T]]) -> T:
        is_write = request.verb in ("put", "put_part", "complete")
        if self.prefix and is_write and request.key.startswith(self.prefix):
            self.reached.set()
            await self._opened.wait()
            if self.is_broken:
                raise UnavailableError("broken down", key=request.key)
        return await act()


@dataclass(slots=True)
class OpenFile:
    """One file that is open on both sides."""

    backup: bytes
    handle: int
    descriptor: int
    is_writer: bool
    is_append: bool


@dataclass(slots=True)
class Clone:
    """What a link to another backup has become, and how both looked then."""

    number: int
    looks: tuple[object, ...]


@dataclass(slots=True)
class Machine:
    """One example: a store, what is mounted of it now, and the plain directory beside it."""

    home: Path
    store: WrappedStore
    gate: Gate
    opened: OpenedRepository
    kernel: Kernel = field(init=False)
    nursery: trio.Nursery = field(init=False)
    backups: list[bytes] = field(default_factory=list)
    sealed: set[bytes] = field(default_factory=set)
    has_bases: set[bytes] = field(default_factory=set)
    files: list[OpenFile] = field(default_factory=list)
    clones: dict[tuple[bytes, int, bytes], Clone] = field(default_factory=dict)
    checkpoint_done: trio.Event | None = None
    is_racing: bool = False
    flight_fails: bool = False
    flight_failed: bool = False
    flight_backup: bytes = b""
    flight_bytes: int = 0
    clock: int = 0
    trace: list[str] = field(default_factory=list)

    # -- the two sides -----------------------------------------------------------------------

    @property
    def now(self) -> bytes:
        return os.fsencode(self.home / "now")

    def real(self, path: PathParts) -> bytes:
        return b"/".join([self.now, *path])

    def stored(self, backup: bytes) -> bytes:
        """Where the plain copy of a backup's last checkpoint lies."""
        return os.fsencode(self.home / "stored") + b"/" + backup

    async def both(
        self, ours: Callable[[], Awaitable[object]], real: Callable[[], object]
    ) -> int | None:
        """Do one thing on both sides; they must agree on what goes wrong."""
        expected = None
        try:
            real()
        except OSError as error:
            expected = error.errno
        if expected == errno.EINVAL:
            return expected  # The kernel refuses that before it asks a file system.
        found = None
        try:
            await ours()
        except FileSystemError as error:
            found = error.errno_code
        assert found == expected, f"errno {found} instead of {expected}"
        return expected

    def tick(self, real: bytes | int) -> None:
        """Give a file of the plain side a time that no other has: its clock is coarse."""
        self.clock += 1
        time_ns = 2_000_000_000 * 10**9 + self.clock
        os.utime(real, ns=(time_ns, time_ns))

    def save(self, backup: bytes, target: bytes | None = None) -> None:
        """Keep the plain side of a backup, as of its checkpoint."""
        target = target or self.stored(backup)
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", self.real((backup,)), target], check=True)

    def restore(self, backup: bytes) -> None:
        shutil.rmtree(self.real((backup,)))
        subprocess.run(["cp", "-a", self.stored(backup), self.real((backup,))], check=True)

    # -- choosing ----------------------------------------------------------------------------

    def open_backup(self, choice: int) -> bytes:
        found = [name for name in self.backups if name not in self.sealed]
        return found[choice % len(found)]

    def paths(self, backup: bytes, kind: Callable[[int], bool]) -> list[PathParts]:
        walk = oracle_walk(self.real((backup,)))
        return [(backup, *path) for path, real in walk if kind(os.lstat(real).st_mode)]

    def directory(self, choice: int, backup: bytes | None = None) -> PathParts:
        found = self.paths(backup or self.open_backup(choice % 3), stat.S_ISDIR)
        return found[choice % len(found)]

    def file(self, choice: int) -> PathParts | None:
        found = self.paths(self.open_backup(choice % 3), stat.S_ISREG)
        return found[choice % len(found)] if found else None

    def any(self, choice: int, backup: bytes | None = None) -> PathParts | None:
        found = self.paths(backup or self.open_backup(choice % 3), lambda _: True)[1:]
        return found[choice % len(found)] if found else None

    def place(self, choice: int, name: int, backup: bytes | None = None) -> PathParts:
        return (*self.directory(choice, backup), NAMES[name % len(NAMES)])

    # -- making and writing ------------------------------------------------------------------

    async def op_create(self, where: int, name: int, size: int, seed: int) -> None:
        path = self.place(where, name)
        data = content(size, seed)
        await self._room(size)

        def real() -> None:
            descriptor = os.open(self.real(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
            os.write(descriptor, data)
            os.close(descriptor)
            self.tick(self.real(path))

        async def ours() -> None:
            node = await self.kernel.make(path, stat.S_IFREG | 0o640)
            handle = await self.kernel.open(node, os.O_WRONLY)
            if data:
                await self.kernel.write(handle, 0, data)
            await self.kernel.release(handle)

        await self.both(ours, real)

    async def op_write(self, which: int, offset: int, size: int, seed: int) -> None:
        await self._write(which, offset, size or 1, seed, os.O_RDWR)

    async def op_append(self, which: int, size: int, seed: int) -> None:
        await self._write(which, 0, size or 1, seed, os.O_WRONLY | os.O_APPEND)

    async def op_overwrite(self, which: int, size: int, seed: int) -> None:
        await self._write(which, 0, size, seed, os.O_WRONLY | os.O_TRUNC)

    async def _write(self, which: int, offset: int, size: int, seed: int, flags: int) -> None:
        path = self.file(which)
        if path is None:
            return
        data = content(size, seed)
        await self._room(size)
        descriptor = os.open(self.real(path), flags)
        if data and flags & os.O_APPEND:
            os.write(descriptor, data)
        elif data:
            os.pwrite(descriptor, data, offset)
        os.close(descriptor)
        self.tick(self.real(path))
        handle = await self.kernel.open(await self.kernel.node(path), flags)
        if data:
            # The kernel hands large writes over in parts.
            step = 1 << 20
            for start in range(0, len(data), step):
                place = None if flags & os.O_APPEND else offset + start
                await self.kernel.write(handle, place, data[start : start + step])
        await self.kernel.release(handle)

    async def op_scatter(self, which: int, count: int, stride: int, seed: int) -> None:
        """Many small writes to one file."""
        path = self.file(which)
        if path is None:
            return
        await self._room(count * 1500)
        source = random.Random(seed)
        descriptor = os.open(self.real(path), os.O_WRONLY)
        handle = await self.kernel.open(await self.kernel.node(path), os.O_WRONLY)
        offsets = [number * stride for number in range(count)]
        if seed % 2:
            source.shuffle(offsets)
        for offset in offsets:
            data = content(source.randrange(1, min(stride, 3000) + 1), source.randrange(1 << 20))
            os.pwrite(descriptor, data, offset)
            await self.kernel.write(handle, offset, data)
        os.close(descriptor)
        self.tick(self.real(path))
        await self.kernel.release(handle)

    async def op_truncate(self, which: int, size: int) -> None:
        path = self.file(which)
        if path is None:
            return
        os.truncate(self.real(path), size)
        self.tick(self.real(path))
        await self.kernel.set(path, Changes(size=size))

    async def op_populate(self, where: int, count: int, size: int) -> None:
        """Many files in a directory of their own."""
        top = (*self.directory(where), b"many")
        await self.both(
            lambda: self.kernel.make(top, stat.S_IFDIR | 0o755),
            lambda: os.mkdir(self.real(top), 0o755),
        )
        if not stat.S_ISDIR(os.lstat(self.real(top)).st_mode):
            return
        for number in range(count):
            path = (*top, b"f%d" % number)
            if os.path.lexists(self.real(path)):
                continue
            data = content(size, number)
            descriptor = os.open(self.real(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            os.write(descriptor, data)
            os.close(descriptor)
            self.tick(self.real(path))
            node = await self.kernel.make(path, stat.S_IFREG | 0o600)
            if data:
                handle = await self.kernel.open(node, os.O_WRONLY)
                await self.kernel.write(handle, 0, data)
                await self.kernel.release(handle)

    async def op_mkdir(self, where: int, name: int) -> None:
        path = self.place(where, name)
        await self.both(
            lambda: self.kernel.make(path, stat.S_IFDIR | 0o750),
            lambda: os.mkdir(self.real(path), 0o750),
        )

    async def op_symlink(self, where: int, name: int, length: int) -> None:
        path, target = self.place(where, name), b"t" * max(1, length)
        await self.both(
            lambda: self.kernel.make(path, stat.S_IFLNK | 0o777, target=target),
            lambda: os.symlink(target, self.real(path)),
        )

    async def op_mknod(self, where: int, name: int, kind: int) -> None:
        path = self.place(where, name)
        mode = [stat.S_IFIFO, stat.S_IFSOCK][kind % 2] | 0o600
        await self.both(
            lambda: self.kernel.make(path, mode), lambda: os.mknod(self.real(path), mode)
        )

    # -- names -------------------------------------------------------------------------------

    async def op_unlink(self, which: int) -> None:
        path = self.any(which)
        if (path is not None and not os.path.isdir(self.real(path))) or (
            path is not None and os.path.islink(self.real(path))
        ):
            await self.both(lambda: self.kernel.unlink(path), lambda: os.unlink(self.real(path)))

    async def op_rmdir(self, which: int) -> None:
        path = self.any(which)
        if path is not None:
            await self.both(lambda: self.kernel.rmdir(path), lambda: os.rmdir(self.real(path)))

    async def op_remove_tree(self, where: int) -> None:
        path = self.directory(where)
        if len(path) == 1:
            return
        shutil.rmtree(self.real(path))
        await self._remove_tree(path)

    async def _remove_tree(self, path: PathParts) -> None:
        for name in await self.kernel.names(path):
            child = (*path, name)
            if (await self.kernel.node(child)).is_directory:
                await self._remove_tree(child)
            else:
                await self.kernel.unlink(child)
        await self.kernel.rmdir(path)

    async def op_rename(self, which: int, where: int, name: int, flags: int) -> None:
        path = self.any(which)
        if path is None:
            return
        new_path = self.place(where, name, path[0])
        if flags % 5 == 4:
            other = self.any(where, path[0])
            assert other is not None
            new_path = other
        chosen = [0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE][flags % 5]
        await self.both(
            lambda: self.kernel.rename(path, new_path, chosen),
            lambda: rename_with_flags(self.real(path), self.real(new_path), chosen),
        )

    async def op_move_directory(self, which: int, where: int, name: int) -> None:
        """Rename a directory, often a large one."""
        path = self.directory(which)
        if len(path) == 1:
            return
        new_path = self.place(where, name, path[0])
        await self.both(
            lambda: self.kernel.rename(path, new_path),
            lambda: rename_with_flags(self.real(path), self.real(new_path), 0),
        )

    async def op_link(self, which: int, where: int, name: int) -> None:
        path = self.any(which)
        if path is None or stat.S_ISDIR(os.lstat(self.real(path)).st_mode):
            return
        new_path = self.place(where, name, path[0])
        await self.both(
            lambda: self.kernel.link(path, new_path),
            lambda: os.link(self.real(path), self.real(new_path), follow_symlinks=False),
        )

    async def op_clone(self, source: int, which: int, where: int, name: int) -> None:
        """Link from another backup."""
        target = self.open_backup(where % 3)
        others = [backup for backup in self.backups if backup != target]
        if not others:
            return
        path = self.any(which, others[source % len(others)])
        if path is None or stat.S_ISDIR(os.lstat(self.real(path)).st_mode):
            return
        await self._clone(path, self.place(where, name, target))

    async def op_clone_all(self, source: int, where: int) -> None:
        """Link a whole backup into another one, as `cp -al` does."""
        target = self.open_backup(where % 3)
        others = [backup for backup in self.backups if backup != target]
        if not others:
            return
        top = others[source % len(others)]
        for path in sorted(self.paths(top, lambda _: True), key=len)[1:200]:
            new_path = (target, *path[1:])
            if stat.S_ISDIR(os.lstat(self.real(path)).st_mode):
                if not os.path.lexists(self.real(new_path)):
                    await self.both(
                        lambda made=new_path: self.kernel.make(made, stat.S_IFDIR | 0o755),
                        lambda made=new_path: os.mkdir(self.real(made), 0o755),
                    )
            elif os.path.isdir(self.real(new_path[:-1])):
                await self._clone(path, new_path)

    async def _clone(self, path: PathParts, new_path: PathParts) -> None:
        self.has_bases.add(new_path[0])
        if self.kernel.repository.writer.failure is not None:
            # A link reads what its source holds, and that must have a place.
            await self.kernel.backup(self.open_backup(0)).checkpoint()
            self.save(self.open_backup(0))
        await self.both(
            lambda: self.kernel.link(path, new_path), lambda: self._real_clone(path, new_path)
        )

    def _real_clone(self, path: PathParts, new_path: PathParts) -> None:
        """Copy with all attributes; names of one inode become names of one inode."""
        real, new_real = self.real(path), self.real(new_path)
        status = os.lstat(real)
        key = (path[0], status.st_ino, new_path[0])
        looks = _looks(real)
        joined = self.clones.get(key)
        if joined is not None and status.st_nlink > 1 and not os.path.lexists(new_real):
            for _, other in oracle_walk(self.real((new_path[0],))):
                if os.lstat(other).st_ino == joined.number and _looks(other) == looks:
                    os.link(other, new_real, follow_symlinks=False)
                    if os.lstat(other).st_nlink >= status.st_nlink:
                        # All names have come; who links them again makes another copy.
                        del self.clones[key]
                    return
        if os.path.lexists(new_real):
            raise FileExistsError(errno.EEXIST, "exists")
        subprocess.run(["cp", "-a", "-T", real, new_real], check=True)
        if status.st_nlink > 1:
            self.clones[key] = Clone(os.lstat(new_real).st_ino, looks)

    # -- attributes --------------------------------------------------------------------------

    async def op_chmod(self, which: int, mode: int) -> None:
        path = self.any(which)
        if path is None or os.path.islink(self.real(path)):
            return
        mode &= 0o7777
        os.chmod(self.real(path), mode)
        await self.kernel.set(path, Changes(mode=mode))

    async def op_chown(self, which: int, uid: int, gid: int) -> None:
        path = self.any(which)
        if path is None:
            return
        os.chown(self.real(path), uid, gid, follow_symlinks=False)
        status = os.lstat(self.real(path))
        # The kernel sends the mode along where it takes set-id bits away.
        mode = None if os.path.islink(self.real(path)) else stat.S_IMODE(status.st_mode)
        await self.kernel.set(path, Changes(uid=uid, gid=gid, mode=mode))

    async def op_utime(self, which: int, seconds: int) -> None:
        path = self.any(which)
        if path is None:
            return
        time_ns = seconds % 800_000_000 * 10**9 + seconds
        os.utime(self.real(path), ns=(time_ns, time_ns), follow_symlinks=False)
        await self.kernel.set(path, Changes(mtime_ns=time_ns))

    async def op_setxattr(self, which: int, name: int, length: int, seed: int) -> None:
        path = self.any(which)
        if path is None or not _may_have_xattrs(self.real(path)):
            return
        attribute, value = XATTR_NAMES[name % 3], content(length % 5000, seed)
        os.setxattr(self.real(path), attribute, value)
        await self.kernel.set_xattr(path, attribute, value)

    async def op_removexattr(self, which: int, name: int) -> None:
        path = self.any(which)
        if path is None or not _may_have_xattrs(self.real(path)):
            return
        attribute = XATTR_NAMES[name % 3]
        await self.both(
            lambda: self.kernel.remove_xattr(path, attribute),
            lambda: os.removexattr(self.real(path), attribute),
        )

    # -- open files --------------------------------------------------------------------------

    async def op_open(self, which: int, how: int) -> None:
        path = self.file(which)
        if path is None or len(self.files) >= 4:
            return
        flags = [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_TRUNC][how % 4]
        descriptor = os.open(self.real(path), flags)
        if flags & os.O_TRUNC:
            self.tick(self.real(path))
        handle = await self.kernel.open(await self.kernel.node(path), flags)
        is_writer, is_append = flags & os.O_ACCMODE != 0, bool(flags & os.O_APPEND)
        self.files.append(OpenFile(path[0], handle, descriptor, is_writer, is_append))

    async def op_write_open(self, which: int, offset: int, size: int, seed: int) -> None:
        writers = [file for file in self.files if file.is_writer]
        if not writers:
            return
        file = writers[which % len(writers)]
        data = content(size or 1, seed)
        await self._room(size)
        if file.is_append:
            os.write(file.descriptor, data)
        else:
            os.pwrite(file.descriptor, data, offset)
        self.tick(file.descriptor)
        await self.kernel.write(file.handle, None if file.is_append else offset, data)

    async def op_read_open(self, which: int, offset: int, length: int) -> None:
        if not self.files:
            return
        file = self.files[which % len(self.files)]
        found = await self.kernel.read(file.handle, offset, length)
        assert found == os.pread(file.descriptor, length, offset)

    async def op_close(self, which: int) -> None:
        if self.files:
            await self._close(self.files.pop(which % len(self.files)))

    async def _close(self, file: OpenFile) -> None:
        os.close(file.descriptor)
        with suppress(StoreError):
            await self.kernel.files.flush(self.kernel.files.handle(file.handle))
        await self.kernel.release(file.handle)

    async def close_all(self) -> None:
        while self.files:
            await self._close(self.files.pop())

    # -- reading -----------------------------------------------------------------------------

    async def op_read(self, which: int, offset: int, length: int) -> None:
        path = self.file(which)
        if path is None:
            return
        with open(self.real(path), "rb") as file:
            expected = os.pread(file.fileno(), length, offset)
        handle = await self.kernel.open(await self.kernel.node(path), os.O_RDONLY)
        assert await self.kernel.read(handle, offset, length) == expected
        await self.kernel.release(handle)

    async def op_list_while(self, where: int, take: int, *change: int) -> None:
        """List a directory while a name in it changes: what stays is listed exactly once."""
        path = self.directory(where)
        before = set(os.listdir(self.real(path)))
        found: list[bytes] = []
        async with self.kernel.listing(path) as names:
            async for name in names:
                found.append(name)
                if len(found) == take % (len(before) + 1) + 1:
                    kind, count = _CHANGES[change[0] % len(_CHANGES)]
                    await self.run_one(kind, change[1 : count + 1])
        if not os.path.isdir(self.real(path)):
            return
        staying = before & set(os.listdir(self.real(path)))
        assert len(found) == len(set(found)), "a name was listed twice"
        assert staying <= set(found), "a name that stayed was not listed"

    async def op_forget(self) -> None:
        self.kernel.forget()

    # -- backups and checkpoints -------------------------------------------------------------

    async def op_new_backup(self) -> None:
        if len(self.backups) >= 3:
            return
        await self.end_flight()
        name = b"backup %d" % len(self.backups)
        os.mkdir(self.real((name,)), 0o755)
        await self.kernel.make((name,), stat.S_IFDIR | 0o755)
        self.backups.append(name)
        self.save(name)

    async def op_checkpoint(self, which: int) -> None:
        await self.end_flight()
        name = self.open_backup(which)
        await self.kernel.backup(name).checkpoint()
        self.save(name)

    async def op_begin_race(self, which: int) -> None:
        """Let checkpoints run, one after the other, beside what follows."""
        await self.end_flight()
        self.flight_backup, self.flight_bytes = self.open_backup(which), 0
        self.checkpoint_done = done = trio.Event()
        self.is_racing = True

        async def run() -> None:
            while self.is_racing:
                await self.kernel.backup(self.flight_backup).checkpoint()
                await trio.lowlevel.checkpoint()
            done.set()

        self.nursery.start_soon(run)

    async def op_begin_checkpoint(self, which: int, where: int) -> None:
        """Let a checkpoint run until the store holds it up, and leave it there.

        In every other case it will fail when it goes on.
        """
        await self.end_flight()
        if self.kernel.repository.writer.failure is not None:
            # Else the gate would stop what failed before, and the checkpoint before its capture.
            await self.kernel.repository.writer.barrier()
        self.flight_fails = where % 6 > 2
        self.flight_backup, self.flight_bytes = self.open_backup(which), 0
        self.gate.close(["data/", "meta/", "open/"][where % 3])
        self.checkpoint_done = done = trio.Event()
        self.save(self.flight_backup, self._flight_copy)

        async def run() -> None:
            try:
                await self.kernel.backup(self.flight_backup).checkpoint()
            except StoreError:
                assert self.gate.is_broken
                self.flight_failed = True
            done.set()
            self.gate.reached.set()

        self.nursery.start_soon(run)
        await self.gate.reached.wait()

    @property
    def _flight_copy(self) -> bytes:
        return os.fsencode(self.home / "flight")

    async def end_flight(self) -> None:
        """Let the checkpoint under way come to its end."""
        if self.checkpoint_done is None:
            return
        if self.flight_fails:
            self.gate.break_down()
            await self.checkpoint_done.wait()
        self.gate.open()
        self.flight_fails = False
        was_racing, self.is_racing = self.is_racing, False
        await self.checkpoint_done.wait()
        self.checkpoint_done = None
        if was_racing:
            # What the last of them captured is not known; one more, with nothing beside it, is.
            await self.kernel.backup(self.flight_backup).checkpoint()
            self.save(self.flight_backup)
            return
        has_failed, self.flight_failed = self.flight_failed, False
        if has_failed:
            return
        stored = self.stored(self.flight_backup)
        shutil.rmtree(stored, ignore_errors=True)
        os.rename(self._flight_copy, stored)

    async def op_end_checkpoint(self) -> None:
        await self.end_flight()

    async def _room(self, size: int) -> None:
        """See to it that the store can take so many bytes: after a failure it takes none at first.

        What stays in a file's buffer is taken all the same.
        """
        self.flight_bytes += size
        if self.checkpoint_done is not None and self.flight_bytes > FLIGHT_MAX_BYTES:
            await self.end_flight()
        writer = self.kernel.repository.writer
        if writer.failure is not None and size >= HANDED_OVER_BYTES:
            await writer.barrier()

    async def op_seal(self, which: int) -> None:
        if len(self.backups) - len(self.sealed) < 2:
            return
        await self.end_flight()
        await self.close_all()
        name = self.open_backup(which)
        await self.kernel.catalogue.seal(self.kernel.backup(name))
        self.sealed.add(name)
        self.save(name)

    async def op_reopen(self, which: int) -> None:
        if not self.sealed:
            return
        await self.end_flight()
        name = sorted(self.sealed)[which % len(self.sealed)]
        await self.kernel.catalogue.reopen(self.kernel.backup(name))
        self.sealed.discard(name)

    # -- running -----------------------------------------------------------------------------

    async def run_one(self, name: str, arguments: Sequence[int]) -> None:
        self.trace.append(f"{name}{tuple(arguments)}")
        await getattr(self, "op_" + name)(*arguments)

    async def run(self, operations: Sequence[Operation]) -> None:
        """Carry operations out, over as many mounts as they ask for."""
        waiting = list(operations)
        is_after_crash = False
        seen: dict[PathParts, Seen] = {}
        while True:
            async with mounted(self.store, self.opened, self.home) as kernel:
                self.kernel = kernel
                if not self.backups:
                    await self.op_new_backup()
                await self.compare_all()
                self.compare_seen(seen, await self.walk_all())
                kernel.forget()
                async with trio.open_nursery() as self.nursery:
                    is_after_crash = await self._run_mount(waiting)
                    if not is_after_crash:
                        seen = await self._end_mount()
                    self.nursery.cancel_scope.cancel()
            if not waiting and not is_after_crash:
                return
            if is_after_crash:
                seen = {}
                self._crash()
            self.clones.clear()

    async def _run_mount(self, waiting: list[Operation]) -> bool:
        """Run until a remount or the end; True means that the mount just vanishes."""
        while waiting:
            name, arguments = waiting.pop(0)
            if name in ("remount", "crash"):
                self.trace.append(name)
                is_done = self.checkpoint_done is not None and self.checkpoint_done.is_set()
                if is_done or self.is_racing:
                    await self.end_flight()
                return name == "crash"
            await self.run_one(name, arguments)
        return False

    def _crash(self) -> None:
        self.gate.open()
        self.checkpoint_done, self.flight_fails = None, False
        for file in self.files:
            os.close(file.descriptor)
        self.files.clear()
        for name in self.backups:
            self.restore(name)

    async def _end_mount(self) -> dict[PathParts, Seen]:
        """Check everything, store everything, and check what is left in memory."""
        await self.end_flight()
        await self.compare_all()
        await self.close_all()
        for name in self.backups:
            await self.kernel.backup(name).checkpoint()
            self.save(name)
        assert self.kernel.repository.writer.budget.used_bytes == 0
        self.kernel.forget()
        self.check_leaks()
        seen = await self.walk_all()
        self.kernel.forget()
        self.check_leaks()
        for name in self.backups:
            self.check_statistics(self.kernel.backup(name))
            await check_tree(self.kernel.backup(name))
        return seen

    # -- what must hold ----------------------------------------------------------------------

    async def walk_all(self) -> dict[PathParts, Seen]:
        found: dict[PathParts, Seen] = {}
        for name in self.backups:
            found.update(await self.kernel.walk((name,)))
        return found

    async def compare_all(self) -> None:
        """Both sides must show the same."""
        for name in self.backups:
            found = await self.kernel.walk((name,))
            expected = {(name, *path): real for path, real in oracle_walk(self.real((name,)))}
            assert found.keys() == expected.keys()
            groups: dict[int, int] = {}
            for path, real in expected.items():
                _compare(path, found[path], real)
                number = os.lstat(real).st_ino
                assert groups.setdefault(number, found[path].number) == found[path].number, path
            assert len(groups) == len(set(groups.values())), "two inodes have one number"

    def compare_seen(self, before: dict[PathParts, Seen], after: dict[PathParts, Seen]) -> None:
        """What a mount showed at its end the next one shows, numbers and times included."""
        for path, seen in before.items():
            found = after[path]
            if path[0] in self.has_bases:
                # A clone takes its base's ctime at a checkpoint.
                assert found.ctime_ns <= seen.ctime_ns
                continue
            assert found == seen, (path, found, seen)

    def check_leaks(self) -> None:
        """Only the tops of backups, and clones that wait for other names, stay in memory."""
        kept = [
            node
            for node in self.kernel.live.by_number.values()
            if node is not node.backup.names.top and not node.pins
        ]
        waiting = [node for node in self.kernel.live.by_number.values() if node.pins]
        above = set()
        for node in waiting:
            for place, _ in node.places():
                above.update(_chain(place))
        assert not set(kept) - above, [(node.name, node.lookups, node.opens) for node in kept]

    def check_statistics(self, backup: Backup) -> None:
        statistics = backup.root.statistics
        inodes: dict[int, os.stat_result] = {}
        for _, real in oracle_walk(self.real((backup.name,))):
            status = os.lstat(real)
            inodes[status.st_ino] = status
        modes = [status.st_mode for status in inodes.values()]
        sizes = [status.st_size for status in inodes.values() if stat.S_ISREG(status.st_mode)]
        assert statistics.files == len(sizes)
        assert statistics.directories == sum(map(stat.S_ISDIR, modes))
        assert statistics.symlinks == sum(map(stat.S_ISLNK, modes))
        assert statistics.logical_bytes == sum(sizes)
        assert backup.tally.size_bytes == sum(sizes)


async def check_tree(backup: Backup) -> None:
    """The tree is the one that its items make when they are put into an empty one."""
    items = [item async for item in backup.tree.items()]
    fresh: Tree[object] = Tree(None, backup.nodes.entries)  # type: ignore[arg-type]
    top = await fresh.update([Replace(b"", None, items)])
    rebuilt = Tree(top, backup.nodes.entries)
    assert await rebuilt.top_id() == await backup.tree.top_id()


def _chain(node: object) -> Iterator[object]:
    while node is not None:
        yield node
        node = getattr(node, "parent", None)


def _may_have_xattrs(real: bytes) -> bool:
    mode = os.lstat(real).st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _xattrs(real: bytes) -> tuple[tuple[bytes, bytes], ...]:
    if not _may_have_xattrs(real):
        return ()
    names = sorted(map(os.fsencode, os.listxattr(real)))
    return tuple((name, os.getxattr(real, name)) for name in names)


def _real_content(real: bytes) -> bytes:
    mode = os.lstat(real).st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(real)
    return Path(os.fsdecode(real)).read_bytes() if stat.S_ISREG(mode) else b""


def _looks(real: bytes) -> tuple[object, ...]:
    status = os.lstat(real)
    return (
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        _xattrs(real),
        _real_content(real),
    )


def _compare(path: PathParts, found: Seen, real: bytes) -> None:
    status = os.lstat(real)
    assert found.mode == status.st_mode, (path, oct(found.mode), oct(status.st_mode))
    assert (found.uid, found.gid) == (status.st_uid, status.st_gid), path
    assert found.nlink == status.st_nlink, (path, found.nlink, status.st_nlink)
    if not stat.S_ISDIR(status.st_mode):
        assert found.size == status.st_size, (path, found.size, status.st_size)
    if min(found.mtime_ns, status.st_mtime_ns) < EXPLICIT_NS:
        assert found.mtime_ns == status.st_mtime_ns, path
    assert found.xattrs == _xattrs(real), path
    expected = _real_content(real)
    assert found.content == expected, (path, _first_difference(found.content, expected))


def _first_difference(left: bytes, right: bytes) -> str:
    pairs = zip(left, right, strict=False)
    offset = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
    return f"{len(left)} and {len(right)} bytes differ at {offset}"


def content(size: int, seed: int) -> bytes:
    """Bytes for a file: random, zeros, or both; equal seeds and sizes give equal bytes."""
    if seed % 5 == 0:
        return bytes(size)
    if seed % 5 == 1:
        return (b"%d text " % seed * (size // 4 + 1))[:size]
    if seed % 5 == 2:
        return (random.Random(seed).randbytes(size // 3) + bytes(size))[:size]
    return random.Random(seed).randbytes(size)


_CHANGES = [
    ("create", 4),
    ("unlink", 1),
    ("rename", 4),
    ("mkdir", 2),
    ("checkpoint", 1),
    ("end_checkpoint", 0),
    ("begin_checkpoint", 2),
    ("link", 3),
    ("forget", 0),
]
"""What may happen while a directory is listed, and how many numbers it takes."""


@contextmanager
def _scratch() -> Iterator[Path]:
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="s3backfs-test-", dir=where) as name:
        home = Path(name)
        (home / "now").mkdir()
        (home / "stored").mkdir()
        umask = os.umask(0)
        try:
            yield home
        finally:
            os.umask(umask)


def run_example(operations: Sequence[Operation], *, chunk_bytes: int) -> None:
    """Run one list of operations from an empty repository on."""

    async def run() -> None:
        options = CreateOptions(
            is_encrypted=False,
            compression_level=1,
            chunk_bytes=chunk_bytes,
            pack_bytes=1 << 20,
        )
        store = MemoryStore()
        gate = Gate()
        opened = await create_repository(store, options, None)
        with _scratch() as home:
            machine = Machine(home, WrappedStore(store, gate), gate, opened)
            try:
                await machine.run(operations)
            except BaseException as error:
                error.add_note("operations: " + "; ".join(machine.trace))
                raise
            finally:
                for file in machine.files:
                    os.close(file.descriptor)

    try:
        trio.run(run)
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(error: BaseException) -> BaseException:
    """The first error that a group of groups holds."""
    notes: list[str] = []
    while isinstance(error, BaseExceptionGroup):
        notes += getattr(error, "__notes__", [])
        error = error.exceptions[0]
    for note in notes:
        error.add_note(note)
    return error
