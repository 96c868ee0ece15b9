"""Keys of the manifest stay within their bound, whatever is moved."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

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


async def outcomes(kernel: Kernel, *works: Callable[[], Awaitable[object]]) -> list[int]:
    """Begin several changes while none is allowed, then let them all go on; give their errors."""
    found: list[int] = []

    async def run(work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except FileSystemError as error:
            found.append(error.errno_code)

    backup = kernel.backup(b"one")
    backup.freeze()
    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(run, work)
        await trio.testing.wait_all_tasks_blocked()
        backup.thaw()
    return found


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
@pytest.mark.parametrize("attempt", range(6))
def test_a_name_made_while_its_directory_moves(tmp_path: Path, flags: int, attempt: int) -> None:
    """Of two changes that together make too long a key the later one is refused."""

    @in_world()
    async def walk(world: World, kernel: Kernel) -> None:
        target = await make_deep(kernel, b"target", 16)
        deep = (*await make_deep(kernel, b"moved", 15), NAME)
        new = (*target, b"moved")
        if flags:
            await kernel.make(new, DIRECTORY)
        await kernel.backup(b"one").checkpoint()
        make = partial(kernel.make, deep, DIRECTORY)
        move = partial(kernel.rename, (b"one", b"moved"), new, flags)
        assert await outcomes(kernel, make, move) == [errno.ENAMETOOLONG]
        await kernel.backup(b"one").checkpoint()

    walk(tmp_path)


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE])
@pytest.mark.parametrize("attempt", range(6))
def test_a_deep_directory_comes_in_while_another_moves(
    tmp_path: Path, flags: int, attempt: int
) -> None:
    """Of two moves that together make too long a key the later one is refused."""

    @in_world()
    async def walk(world: World, kernel: Kernel) -> None:
        target = await make_deep(kernel, b"target", 17)
        deep = await make_deep(kernel, b"deep", 16)
        await kernel.make((b"one", b"moved"), DIRECTORY)
        new = (*target, b"moved")
        if flags:
            await kernel.make(new, DIRECTORY)
        come = partial(kernel.rename, deep[:2], (b"one", b"moved", b"deep"))
        move = partial(kernel.rename, (b"one", b"moved"), new, flags)
        assert await outcomes(kernel, come, move) == [errno.ENAMETOOLONG]
        await kernel.backup(b"one").checkpoint()

    walk(tmp_path)
