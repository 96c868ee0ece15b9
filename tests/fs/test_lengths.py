"""Keys of the manifest stay within their bound, whatever is moved."""

from __future__ import annotations

import errno
import stat

import pytest

from s3backfs.errors import FileSystemError
from s3backfs.fs.namespace import RENAME_EXCHANGE
from tests.fs.kernel import Kernel, PathParts
from tests.fs.test_walks import World, in_world

FILE, DIRECTORY = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755
NAME = b"n" * 255


async def make_deep(kernel: Kernel, top: bytes, depth: int) -> PathParts:
    """Make directories with the longest names below each other; give the path of the last."""
    path: PathParts = (b"one", top)
    await kernel.make(path, DIRECTORY)
    for _ in range(depth):
        path = (*path, NAME)
        await kernel.make(path, DIRECTORY)
    return path


async def check_refused(kernel: Kernel, old: PathParts, new: PathParts, flags: int = 0) -> None:
    with pytest.raises(FileSystemError) as caught:
        await kernel.rename(old, new, flags)
    assert caught.value.errno_code == errno.ENAMETOOLONG


@in_world()
async def test_a_directory_that_would_get_too_deep_is_not_moved(
    world: World, kernel: Kernel
) -> None:
    """ENAMETOOLONG is the answer to a move that no checkpoint could store, in memory or not."""
    target = await make_deep(kernel, b"target", 20)
    await make_deep(kernel, b"moved", 20)
    await kernel.make((b"one", b"small"), DIRECTORY)
    new = (*target, b"moved")
    for _ in range(2):
        await check_refused(kernel, (b"one", b"moved"), new)
        await kernel.backup(b"one").checkpoint()
        kernel.forget()
        await check_refused(kernel, (b"one", b"moved"), new)
        kernel = await world.mount()
    await kernel.rename((b"one", b"small"), (*target, b"small"))
    await check_refused(kernel, (b"one", b"moved"), (*target, b"small"), RENAME_EXCHANGE)
    await kernel.backup(b"one").checkpoint()


@in_world()
async def test_the_longest_key_of_all_can_be_moved(world: World, kernel: Kernel) -> None:
    """A move up to the bound itself is allowed and stored; one byte more is refused."""
    target = await make_deep(kernel, b"target", 16)
    await make_deep(kernel, b"m", 15)
    room = 8192 - (len(b"target/") + 16 * 256) - 1 - 15 * 256
    await check_refused(kernel, (b"one", b"m"), (*target, b"x" * (room + 1)))
    await kernel.rename((b"one", b"m"), (*target, b"x" * room))
    await kernel.backup(b"one").checkpoint()
    kernel.forget()
    kernel = await world.mount()
    assert len(await kernel.walk((b"one",))) == 1 + 17 + 16
