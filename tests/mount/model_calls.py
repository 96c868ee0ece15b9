"""The system calls of the walks, each as a function of a world and plain arguments."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USERS = ((0, 0, ()), (1234, 2345, (2346,)), (1235, 2346, ()), (1236, 2347, (2345, 777)))
"""User, group and further groups of those who act."""

ACL_NAMES = ("system.posix_acl_access", "system.posix_acl_default")
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2

NOT_OPEN = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


@dataclass
class World:
    """A tree, and the files that are open and mapped in it by the number of their slot."""

    top: Path
    slots: dict[int, int] = field(default_factory=dict)
    maps: dict[int, mmap.mmap] = field(default_factory=dict)

    def path(self, name: str) -> bytes:
        return os.fsencode(self.top / name)

    def descriptor(self, slot: int) -> int:
        """The descriptor in a slot; what is not open is EBADF."""
        return self.slots.get(slot, NOT_OPEN)

    def unmap(self, slot: int) -> None:
        """End the mapping in a slot, if there is one."""
        mapped = self.maps.pop(slot, None)
        if mapped is not None:
            mapped.close()

    def close_all(self) -> None:
        for slot in list(self.maps):
            self.unmap(slot)
        for descriptor in self.slots.values():
            os.close(descriptor)
        self.slots.clear()


@contextlib.contextmanager
def acting_as(who: int, umask: int) -> Iterator[None]:
    """Be one of the users for a moment."""
    uid, gid, groups = USERS[who]
    before = os.umask(umask)
    mine = os.getgroups()
    try:
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(mine)
        os.umask(before)


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returned, or the name of its error."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def content_of(seed: int, length: int) -> bytes:
    """Bytes that a seed stands for; every fourth seed is zeros."""
    return bytes(length) if seed % 4 == 0 else random.Random(seed).randbytes(length)


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


# -- handles -----------------------------------------------------------------------------------


def _refuse_device(path: bytes) -> None:
    """Fail as a mount without devices does: nothing here may open real ones, or keep fifos."""
    with contextlib.suppress(OSError):
        if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO):
            return
        path = b""
    if not path:
        raise OSError(errno.EACCES, "a device")


def open_file(world: World, name: str, flags: int, mode: int, slot: int) -> None:
    _refuse_device(world.path(name))
    descriptor = os.open(world.path(name), flags, mode)
    if slot in world.slots:
        os.close(world.slots.pop(slot))
    world.slots[slot] = descriptor


def close(world: World, slot: int) -> None:
    os.close(world.descriptor(slot))
    del world.slots[slot]


def pread(world: World, slot: int, offset: int, length: int) -> bytes:
    return os.pread(world.descriptor(slot), length, offset)


def pwrite(world: World, slot: int, offset: int, length: int, seed: int) -> int:
    return os.pwrite(world.descriptor(slot), content_of(seed, length), offset)


def write(world: World, slot: int, length: int, seed: int) -> tuple[int, int]:
    """Write where the handle stands; the answer names where it stands then."""
    descriptor = world.descriptor(slot)
    written = os.write(descriptor, content_of(seed, length))
    return written, os.lseek(descriptor, 0, os.SEEK_CUR)


def seek(world: World, slot: int, offset: int, whence: int) -> int:
    descriptor = world.descriptor(slot)
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    return os.lseek(descriptor, offset, whence) if is_file else 0


def ftruncate(world: World, slot: int, size: int) -> None:
    os.ftruncate(world.descriptor(slot), size)


def _mappable_bytes(descriptor: int) -> int:
    """The size of a file, and 0 for all else: directories have sizes of their own everywhere."""
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def map_shared(world: World, slot: int, offset: int, length: int, seed: int) -> bytes:
    """Write into a shared mapping; the answer is what was there."""
    descriptor = world.descriptor(slot)
    size = _mappable_bytes(descriptor)
    if offset >= size:
        return b""
    with mmap.mmap(descriptor, size) as mapped:
        before = mapped[offset : offset + length]
        mapped[offset : offset + len(before)] = content_of(seed, len(before))
        mapped.flush()
    return before


def map_read(world: World, slot: int, offset: int, length: int) -> bytes:
    descriptor = world.descriptor(slot)
    size = _mappable_bytes(descriptor)
    if offset >= size:
        return b""
    with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        return mapped[offset : offset + length]


def map_keep(world: World, slot: int) -> None:
    """Map a file shared, for as long as the slot takes no other mapping."""
    descriptor = world.descriptor(slot)
    size = _mappable_bytes(descriptor)
    if size:
        mapped = mmap.mmap(descriptor, size)
        world.unmap(slot)
        world.maps[slot] = mapped


def map_poke(world: World, slot: int, offset: int, length: int, seed: int) -> bytes | None:
    """Write into a mapping, within its file as it is now; the answer is what was there."""
    mapped = world.maps.get(slot)
    if mapped is None:
        return None
    end = min(offset + length, len(mapped), mapped.size())
    before = mapped[offset:end]
    if before:
        mapped[offset:end] = content_of(seed, len(before))
        mapped.flush()
    return before


def append_flag(world: World, slot: int, is_on: bool) -> None:
    descriptor = world.descriptor(slot)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    wanted = flags | os.O_APPEND if is_on else flags & ~os.O_APPEND
    fcntl.fcntl(descriptor, fcntl.F_SETFL, wanted)


def fsync(world: World, slot: int) -> None:
    os.fsync(world.descriptor(slot))


def fchmod(world: World, slot: int, mode: int) -> None:
    os.fchmod(world.descriptor(slot), mode)


def fchown(world: World, slot: int, uid: int, gid: int) -> None:
    os.fchown(world.descriptor(slot), uid, gid)


def fsetxattr(world: World, slot: int, name: str, length: int, seed: int, flags: int) -> None:
    os.setxattr(world.descriptor(slot), name, content_of(seed, length), flags)


def fstat(world: World, slot: int) -> tuple[int, ...]:
    """Attributes of an open file but for its mode, which `Walk.even_out` looks after."""
    descriptor = world.descriptor(slot)
    status = os.fstat(descriptor)
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return status.st_uid, status.st_gid, status.st_nlink, size


# -- names -------------------------------------------------------------------------------------


def rename(world: World, old: str, new: str, flags: int) -> None:
    paths = world.path(old), world.path(new)
    _check(libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags))


def link(world: World, old: str, new: str) -> None:
    os.link(world.path(old), world.path(new), follow_symlinks=False)


def symlink(world: World, target: str, name: str) -> None:
    os.symlink(target, world.path(name))


def readlink(world: World, name: str) -> bytes:
    return os.readlink(world.path(name))


def unlink(world: World, name: str) -> None:
    os.unlink(world.path(name))


def mkdir(world: World, name: str, mode: int) -> None:
    os.mkdir(world.path(name), mode)


def rmdir(world: World, name: str) -> None:
    os.rmdir(world.path(name))


def mknod(world: World, name: str, mode: int, device: int) -> None:
    os.mknod(world.path(name), mode, device)


def listdir(world: World, name: str) -> list[bytes]:
    return sorted(os.listdir(world.path(name)))


# -- attributes --------------------------------------------------------------------------------


def access(world: World, name: str, mode: int) -> bool:
    return os.access(world.path(name), mode, effective_ids=True)


def truncate(world: World, name: str, size: int) -> None:
    os.truncate(world.path(name), size)


def chmod(world: World, name: str, mode: int) -> None:
    os.chmod(world.path(name), mode)


def chown(world: World, name: str, uid: int, gid: int) -> None:
    os.chown(world.path(name), uid, gid, follow_symlinks=False)


def utimens(world: World, name: str, times: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Set times as (seconds, nanoseconds), UTIME_NOW and UTIME_OMIT included."""
    pair = (_Timespec * 2)(*(_Timespec(*time) for time in times))
    _check(libc.utimensat(_AT_FDCWD, world.path(name), pair, _AT_SYMLINK_NOFOLLOW))


def setxattr(world: World, name: str, key: str, length: int, seed: int, flags: int) -> None:
    value = content_of(seed, length)
    os.setxattr(world.path(name), key, value, flags, follow_symlinks=False)


def getxattr(world: World, name: str, key: str) -> bytes:
    return os.getxattr(world.path(name), key, follow_symlinks=False)


def removexattr(world: World, name: str, key: str) -> None:
    os.removexattr(world.path(name), key, follow_symlinks=False)


def listxattr(world: World, name: str) -> list[str]:
    return sorted(os.listxattr(world.path(name), follow_symlinks=False))


def setacl(world: World, name: str, key: str, lines: tuple[tuple[int, int, int], ...]) -> None:
    """Set an access list from its lines of (tag, permissions, id)."""
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *line) for line in lines)
    os.setxattr(world.path(name), key, value, follow_symlinks=False)


CALLS: dict[str, Callable[..., Any]] = {
    call.__name__: call
    for call in (
        *(open_file, close, pread, pwrite, write, seek, ftruncate, map_shared, map_read),
        *(map_keep, map_poke),
        *(append_flag, fsync, fchmod, fchown, fsetxattr, fstat),
        *(rename, link, symlink, readlink, unlink, mkdir, rmdir, mknod, listdir),
        *(access, truncate, chmod, chown, utimens),
        *(setxattr, getxattr, removexattr, listxattr, setacl),
    )
}

KINDS = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
